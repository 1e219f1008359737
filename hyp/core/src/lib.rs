// SPDX-License-Identifier: GPL-2.0-only
//! The hypervisor's policy: what the host, a guest or firmware asks for, whether it may have it, and what that changes.
//! It does the deciding of the kernel's `nvhe/mem_protect.c`, `nvhe/pkvm.c`, `nvhe/hyp-main.c`, `nvhe/sys_regs.c`,
//! `nvhe/psci-relay.c` and `nvhe/ffa.c`.
//!
//! There is no unsafe code and no hardware here. What decides over memory works on [`machine::Machine`], the one trait
//! with the hardware in it; everything else is values in and values out. No lock is taken either: a function borrows
//! what it changes, and only who holds the lock can lend it.
//!
//! Every word that comes in may be an adversary's, so nothing here can panic: the lints below hold for the whole crate.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod carve;
pub mod ffa;
pub mod guest_hvc;
pub mod hcall;
pub mod host_trap;
pub mod idreg;
pub mod machine;
pub mod mem;
pub mod psci;
pub mod smc;
pub mod stacktrace;
pub mod sysreg;
pub mod trace;
pub mod traps;
pub mod vm_table;
