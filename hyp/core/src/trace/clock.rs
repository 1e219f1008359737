// SPDX-License-Identifier: GPL-2.0-only
//! The clock of trace records: the counter, scaled to the host's boot time by numbers that the host sends now and then.
//! They are taken as they come, since a wrong time harms nobody but the reader of the trace; what matters is that
//! no number makes the arithmetic fail, and that a record never mixes the numbers of two updates.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU32, AtomicU64, fence};

/// How often a reader looks again when updates come in between.
const TRIES: u32 = 4;

/// The numbers of one update.
#[derive(Debug)]
pub struct ClockBank {
    /// The factor, and the shift above it.
    scale: AtomicU64,
    epoch_ns: AtomicU64,
    epoch_cyc: AtomicU64,
}

impl ClockBank {
    const fn new() -> Self {
        Self {
            scale: AtomicU64::new(0),
            epoch_ns: AtomicU64::new(0),
            epoch_cyc: AtomicU64::new(0),
        }
    }
}

/// A clock, whose bank is chosen by the parity of a count of updates. An update fills the other bank and then counts, so
/// that a reader which sees the count unchanged has read numbers that belong together.
#[derive(Debug)]
pub struct Clock {
    updates: AtomicU32,
    banks: [ClockBank; 2],
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// A clock that stands at zero.
    pub const fn new() -> Self {
        Self {
            updates: AtomicU32::new(0),
            banks: [ClockBank::new(), ClockBank::new()],
        }
    }

    const fn bank(&self, updates: u32) -> &ClockBank {
        let [even, odd] = &self.banks;
        if updates.is_multiple_of(2) { even } else { odd }
    }

    /// From now on the time is `epoch_ns` plus `(counter - epoch_cyc) * mult >> shift`. A factor of zero and a shift of 64
    /// and more are ignored. Callers hold the trace lock, so that there is one at a time.
    pub fn update(&self, mult: u32, shift: u32, epoch_ns: u64, epoch_cyc: u64) {
        if mult == 0 || shift >= u64::BITS {
            return;
        }
        let next = self.updates.load(Relaxed).wrapping_add(1);
        // Whoever reads what is stored below sees the last count at least, and so that its bank is in use no more.
        fence(Release);
        let bank = self.bank(next);
        bank.scale
            .store(u64::from(mult) | u64::from(shift) << 32, Relaxed);
        bank.epoch_ns.store(epoch_ns, Relaxed);
        bank.epoch_cyc.store(epoch_cyc, Relaxed);
        self.updates.store(next, Release);
    }

    /// The time in nanoseconds at which the counter reads `counter`, modulo 2^64. `None` where updates kept coming in
    /// between, which only a host does that wants to.
    pub fn at(&self, counter: u64) -> Option<u64> {
        for _ in 0..TRIES {
            let updates = self.updates.load(Acquire);
            let bank = self.bank(updates);
            let scale = bank.scale.load(Relaxed);
            let epoch_ns = bank.epoch_ns.load(Relaxed);
            let epoch_cyc = bank.epoch_cyc.load(Relaxed);
            fence(Acquire);
            if self.updates.load(Relaxed) == updates {
                return Some(scaled(counter.wrapping_sub(epoch_cyc), scale).wrapping_add(epoch_ns));
            }
        }
        None
    }
}

/// `cycles * mult >> shift`, of which the low 64 bits. The product of 64 by 32 bits always fits.
const fn scaled(cycles: u64, scale: u64) -> u64 {
    let product = (cycles as u128).wrapping_mul((scale & 0xffff_ffff) as u128);
    product.wrapping_shr((scale >> 32) as u32) as u64
}
