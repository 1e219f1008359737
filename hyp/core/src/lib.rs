// SPDX-License-Identifier: GPL-2.0-only
//! See Cargo.toml.
#![no_std]
pub mod carve;
pub mod guest_hvc;
pub mod hcall;
pub mod host_trap;
pub mod idreg;
pub mod psci;
pub mod smc;
pub mod sysreg;
pub mod traps;
pub mod vm_table;
