// SPDX-License-Identifier: GPL-2.0-only
//! The AArch64 mechanism under the hypervisor: system registers, barriers, TLB and cache maintenance, the kernel's
//! patched alternatives and static keys, per-CPU pointers and SMC calls.
//!
//! On the bare-metal target the items are instructions. On any other target they are fakes of the same signature over
//! the thread's [`fake`] state, so that unit tests run on the build machine.
#![no_std]

#[cfg(not(target_os = "none"))]
extern crate std;

pub mod alt;
pub mod barrier;
pub mod cache;
pub mod entry;
#[cfg(not(target_os = "none"))]
pub mod fake;
pub mod inject;
pub mod percpu;
pub mod smccc;
pub mod switch;
pub mod sysreg;
pub mod tlbi;
pub mod vgic;
