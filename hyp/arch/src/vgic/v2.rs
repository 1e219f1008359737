// SPDX-License-Identifier: GPL-2.0-only
//! The GICv2 CPU interface of a guest whose accesses must go through EL2, because the hardware's GICV region does not
//! fill whole pages. Not supported: such an access goes to EL1 as any other access to a device does, which fails
//! that guest and nobody else.

/// What became of a guest's data abort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was an access to the interface, done at EL2.
    Handled,
    /// Not for EL2.
    NotOurs,
    /// It was an access to the interface that the interface refuses; the guest gets an SError.
    Illegal,
}

/// Looks whether a guest's data abort is an access to the GICv2 CPU interface.
pub const fn perform_cpuif_access() -> Outcome {
    Outcome::NotOurs
}
