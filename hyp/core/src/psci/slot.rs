// SPDX-License-Identifier: GPL-2.0-only
//! How a CPU that starts or resumes finds out where the host wants it: a slot that is claimed, filled, taken and freed
//! without a lock.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What the slot needs of an atomic word, so that a model checker's can stand in for the processor's.
pub trait AtomicWord<T> {
    /// Reads the word.
    fn load(&self, order: Ordering) -> T;
    /// Writes the word.
    fn store(&self, value: T, order: Ordering);
    /// Writes `new` if the word is `old`, and says whether it was. `order` counts on success; on failure nothing is
    /// ordered.
    fn replace(&self, old: T, new: T, order: Ordering) -> bool;
}

macro_rules! atomic_word {
    ($atomic:ty, $word:ty) => {
        impl AtomicWord<$word> for $atomic {
            fn load(&self, order: Ordering) -> $word {
                <$atomic>::load(self, order)
            }
            fn store(&self, value: $word, order: Ordering) {
                <$atomic>::store(self, value, order);
            }
            fn replace(&self, old: $word, new: $word, order: Ordering) -> bool {
                self.compare_exchange(old, new, order, Ordering::Relaxed)
                    .is_ok()
            }
        }
    };
}
atomic_word!(AtomicU32, u32);
atomic_word!(AtomicU64, u64);
#[cfg(test)]
atomic_word!(loom::sync::atomic::AtomicU32, u32);
#[cfg(test)]
atomic_word!(loom::sync::atomic::AtomicU64, u64);

const FREE: u32 = 0;
const CLAIMED: u32 = 1;

/// Where the host wants a CPU to go on: one slot per CPU for CPU_ON and another for suspend.
///
/// For CPU_ON the caller claims the target's slot, fills it and calls firmware; the target takes the words and frees
/// the slot. While a start is under way a second one finds the slot claimed.
#[derive(Debug)]
pub struct BootArgs<Flag = AtomicU32, Word = AtomicU64> {
    claimed: Flag,
    pc: Word,
    r0: Word,
}

impl BootArgs {
    /// A free slot. All of its bytes are zero.
    pub const fn new() -> Self {
        Self {
            claimed: AtomicU32::new(FREE),
            pc: AtomicU64::new(0),
            r0: AtomicU64::new(0),
        }
    }
}

impl<Flag: AtomicWord<u32>, Word: AtomicWord<u64>> BootArgs<Flag, Word> {
    /// Claims the slot and fills it; `false` if it is claimed already.
    #[must_use]
    pub fn claim(&self, pc: u64, r0: u64) -> bool {
        // Acquire pairs with the release that freed the slot: the last target has read its words by now.
        let free = self.claimed.replace(FREE, CLAIMED, Ordering::Acquire);
        if free {
            self.store(pc, r0);
        }
        free
    }

    /// Frees a slot whose start failed.
    pub fn release(&self) {
        self.claimed.store(FREE, Ordering::Release);
    }

    /// On the CPU that was started: takes the entry point and context, and frees the slot.
    pub fn take(&self) -> (u64, u64) {
        let words = self.load();
        self.release();
        words
    }

    /// Fills the slot without a claim: only a CPU itself writes its suspend slot.
    pub fn store(&self, pc: u64, r0: u64) {
        self.pc.store(pc, Ordering::Relaxed);
        self.r0.store(r0, Ordering::Relaxed);
    }

    /// The entry point and context.
    pub fn load(&self) -> (u64, u64) {
        (self.pc.load(Ordering::Relaxed), self.r0.load(Ordering::Relaxed))
    }
}

impl Default for BootArgs {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    type Slot = BootArgs<loom::sync::atomic::AtomicU32, loom::sync::atomic::AtomicU64>;

    fn slot() -> Arc<Slot> {
        Arc::new(BootArgs {
            claimed: loom::sync::atomic::AtomicU32::new(FREE),
            pc: loom::sync::atomic::AtomicU64::new(0),
            r0: loom::sync::atomic::AtomicU64::new(0),
        })
    }

    /// CPU_ON of one target from one caller: the firmware's start of the target is the start of a thread, which sees
    /// what the caller wrote before.
    fn start(slot: &Arc<Slot>, word: u64) -> Option<thread::JoinHandle<()>> {
        slot.claim(word, word).then(|| {
            let slot = slot.clone();
            thread::spawn(move || {
                assert_eq!(
                    slot.take(),
                    (word, word),
                    "the words of the start that was accepted"
                );
            })
        })
    }

    #[test]
    fn a_target_gets_the_words_of_the_start_that_was_accepted_in_every_interleaving() {
        loom::model(|| {
            let slot = slot();
            let other = {
                let slot = slot.clone();
                thread::spawn(move || start(&slot, 2))
            };
            let mine = start(&slot, 1);
            let accepted = [mine, other.join().unwrap()].into_iter().flatten();
            let mut count = 0;
            for target in accepted {
                target.join().unwrap();
                count += 1;
            }
            assert!(
                count >= 1,
                "two starts may follow on each other, but not both fail"
            );
            assert!(slot.claim(3, 3), "the slot is free in the end");
        });
    }

    #[test]
    fn a_start_that_firmware_refuses_frees_the_slot_in_every_interleaving() {
        loom::model(|| {
            let slot = slot();
            let refused = {
                let slot = slot.clone();
                thread::spawn(move || {
                    if slot.claim(1, 1) {
                        slot.release();
                    }
                })
            };
            if let Some(target) = start(&slot, 2) {
                target.join().unwrap();
            }
            refused.join().unwrap();
            assert!(slot.claim(3, 3));
        });
    }
}
