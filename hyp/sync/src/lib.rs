// SPDX-License-Identifier: GPL-2.0-only
//! Locks whose order is checked by the compiler, and cells that are set once at boot.
//!
//! This does the job of `nvhe/spinlock.h` and of the lock-order comments of `mem_protect.c`. Nothing here reads what the
//! host wrote. All waiting is spinning: EL2 runs with exceptions masked and never sleeps.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod level;
mod lock;
mod once;

pub use level::{
    Before, FfaBuffers, Fixblock, Held, HostMmu, HypMmu, Level, Pool, Root, Trace, VmMmu, VmTable,
};
pub use lock::{Guard, Leaf, Lock};
pub use once::Once;
