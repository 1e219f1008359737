// SPDX-License-Identifier: GPL-2.0-only
//! The lock order, written once.
//!
//! ```text
//! Root -> VmTable | FfaBuffers | Trace -> HostMmu -> HypMmu | VmMmu -> Fixblock | Pool
//! ```
//!
//! Every level may be skipped. Two levels in one column are never held together, nor is one level held twice. A
//! [`Leaf`](crate::Leaf) comes after all of them.

use core::marker::PhantomData;

mod sealed {
    pub trait Sealed {}
}

/// A place in the lock order.
pub trait Level: sealed::Sealed {}

/// Says that a lock of level `Inner` may be taken while one of this level is the innermost held.
///
/// The relation is strict and transitive, so no chain of `lock` calls can come back to a level it holds, and two CPUs
/// can never wait for each other.
pub trait Before<Inner: Level>: Level {}

macro_rules! levels {
    ($($(#[$doc:meta])* $level:ident => [$($inner:ident),*];)*) => {
        $(
            $(#[$doc])*
            pub enum $level {}
            impl sealed::Sealed for $level {}
            impl Level for $level {}
            $(impl Before<$inner> for $level {})*
        )*
    };
}

levels! {
    /// No lock is held.
    Root => [VmTable, FfaBuffers, Trace, HostMmu, HypMmu, VmMmu, Fixblock, Pool];
    /// The table of VMs, their life cycle and their reference counts.
    VmTable => [HostMmu, HypMmu, VmMmu, Fixblock, Pool];
    /// The FF-A proxy's buffers and its record of transfers.
    FfaBuffers => [HostMmu, HypMmu, VmMmu, Fixblock, Pool];
    /// The trace buffers and the trace clock.
    Trace => [HostMmu, HypMmu, VmMmu, Fixblock, Pool];
    /// The host's stage 2 and the host's side of the page records.
    HostMmu => [HypMmu, VmMmu, Fixblock, Pool];
    /// EL2's own stage 1 and EL2's side of the page records.
    HypMmu => [Fixblock, Pool];
    /// One VM's stage 2.
    VmMmu => [Fixblock, Pool];
    /// The one window through which a block of memory is mapped for a moment.
    Fixblock => [];
    /// A pool of table pages.
    Pool => [];
}

/// The right to take locks that come after `L`.
///
/// It is not `Send`, since a lock is held by a CPU, and neither `Copy` nor `Clone`: a lock borrows it mutably for as long as
/// it is held, so the token in hand always names the innermost lock.
pub struct Held<L: Level>(PhantomData<(*const (), L)>);

impl<L: Level> Held<L> {
    pub(crate) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl Held<Root> {
    /// Says that this CPU holds no lock.
    ///
    /// The order holds only where each entry to EL2 calls this once: the trap handler, the boot and resume entries, and
    /// nothing below them. A second token on one CPU makes a deadlock possible, but cannot break memory safety, which
    /// is why this is not unsafe. EL2 masks exceptions, so entries do not nest; the panic path takes no lock.
    #[must_use]
    pub const fn at_trap_entry() -> Self {
        Self::new()
    }
}
