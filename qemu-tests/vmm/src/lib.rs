// SPDX-License-Identifier: GPL-2.0-only
//! The core of a small VMM for arm64 KVM: enough to boot an unmodified Linux guest with several vCPUs, a console and a
//! disk, protected by pKVM or not, and to drive bare-metal guests step by step from a test.
//!
//! A protected VM's memory is private from its first run on: the host's user space gets SIGSEGV where it touches a page
//! that the guest has not shared, and its system calls EFAULT, or they take the page away from the guest for good. Hence
//! the two rules that shape this crate: everything is loaded before the first `KVM_RUN`, and after it the devices see no
//! memory but a pool that the guest shares (`memory::GuestRam::device_view`).

pub mod args;
#[cfg(target_arch = "aarch64")]
pub mod bench;
pub mod block;
pub mod bus;
pub mod error;
pub mod fdt;
#[cfg(target_arch = "aarch64")]
pub mod fpregs;
pub mod layout;
pub mod limits;
#[cfg(target_arch = "aarch64")]
pub mod linux;
pub mod mapping;
pub mod memory;
#[cfg(target_arch = "aarch64")]
pub mod monitor;
pub mod report;
pub mod serial;
pub mod system;
pub mod testdev;
pub mod touch;
pub mod virtio;
#[cfg(test)]
mod virtio_tests;
#[cfg(target_arch = "aarch64")]
pub mod vm;

pub use error::{Error, Result};
