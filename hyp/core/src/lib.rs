// SPDX-License-Identifier: GPL-2.0-only
//! See Cargo.toml.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod carve;
pub mod guest_hvc;
pub mod hcall;
pub mod host_trap;
pub mod idreg;
pub mod machine;
pub mod mem;
pub mod psci;
pub mod smc;
pub mod sysreg;
pub mod traps;
pub mod vm_table;
