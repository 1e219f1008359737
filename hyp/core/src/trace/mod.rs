// SPDX-License-Identifier: GPL-2.0-only
//! EL2's own trace: what the host may load as buffers, how records get into them, and the clock that stamps them. It
//! does the job of the kernel's `nvhe/trace.c`, `nvhe/clock.c` and `simple_ring_buffer.c`.
//!
//! The host allocates everything. The descriptor and the memory for EL2's own bookkeeping (the backing) change hands;
//! the pages that records are written to stay the host's and are only lent, since it reads them while EL2 writes. EL2
//! writes to lent pages and never reads from them: every index, link and count that it relies on is in the backing.
//!
//! A ring belongs to one CPU, and its lock is held to write a record, to swap the reader's page and to change the ring's
//! state. Nothing else is locked meanwhile, so a record can be written under any lock.

mod clock;
mod desc;
mod ring;
#[cfg(test)]
mod tests;

pub use clock::{Clock, ClockBank};
pub use desc::{Descriptor, Entries, Entry, Words, layout};
pub use ring::{BufferPage, Lender, MIN_PAGES, Record, Ring, SharedPages, meta};

/// Why EL2 was entered or left: `enum hyp_enter_exit_reason`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Reason {
    /// An SMC of the host's on the way in; a call to firmware on the way out.
    Smc = 0,
    /// A hypercall of the host.
    Hvc = 1,
    /// A trapped system register or instruction of the host.
    Sys = 2,
    /// A CPU came back from firmware, after CPU_ON or a suspend.
    Psci = 3,
    /// A stage-2 abort of the host.
    HostAbort = 4,
    /// A guest was left.
    GuestExit = 5,
    /// The host goes on.
    EretHost = 6,
    /// A guest is entered.
    EretGuest = 7,
    /// Anything else.
    Unknown = 8,
}

impl Record {
    /// A `hyp_enter` or `hyp_exit` with the number `event`: why, and the process whose vCPU runs, or 0.
    pub const fn enter_exit(event: u16, reason: Reason, pid: u32) -> Self {
        Self::one(event as u64 | (reason as u64) << 16 | (pid as u64) << 32)
    }

    /// A `selftest` with the number `event`.
    pub const fn selftest(event: u16, id: u64) -> Self {
        Self::two(event as u64, id)
    }
}
