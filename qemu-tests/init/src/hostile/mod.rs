// SPDX-License-Identifier: GPL-2.0-only
//! The hostile host: what user space needs to drive `/dev/hostile` (see qemu-tests/hostile/hostile.h), and VMs that
//! exist only by hypercalls, behind the back of the kernel's own KVM.

pub mod code;
pub mod device;
pub mod facts;
mod fetch;
pub mod monitor;
pub mod vm;

pub use device::{Hostile, Reply};
pub use monitor::Monitor;
pub use vm::{FakeVm, Kind};

/// The error numbers of hypercalls, as they come back in x1.
pub mod errno {
    /// No such state.
    pub const EPERM: i64 = -1;
    /// Nothing there.
    pub const ENOENT: i64 = -2;
    /// Sizes differ.
    pub const E2BIG: i64 = -7;
    /// Not now.
    pub const EAGAIN: i64 = -11;
    /// No memory, or memory that may not be given.
    pub const ENOMEM: i64 = -12;
    /// No memory at this address.
    pub const EFAULT: i64 = -14;
    /// In use.
    pub const EBUSY: i64 = -16;
    /// No device.
    pub const ENODEV: i64 = -19;
    /// Makes no sense.
    pub const EINVAL: i64 = -22;
    /// Beyond the address space.
    pub const ERANGE: i64 = -34;
    /// The page is poisoned.
    pub const EHWPOISON: i64 = -133;

    /// Its name, for reports.
    pub fn name(value: i64) -> Option<&'static str> {
        Some(match value {
            EPERM => "EPERM",
            ENOENT => "ENOENT",
            E2BIG => "E2BIG",
            EAGAIN => "EAGAIN",
            ENOMEM => "ENOMEM",
            EFAULT => "EFAULT",
            EBUSY => "EBUSY",
            ENODEV => "ENODEV",
            EINVAL => "EINVAL",
            ERANGE => "ERANGE",
            EHWPOISON => "EHWPOISON",
            _ => return None,
        })
    }
}
