// SPDX-License-Identifier: GPL-2.0-only
//! A list of free table pages.

use crate::PageWords;
use pkvm_types::{Error, Pfn, PfnRange, Result};

/// The word of a free page that names the next one: its frame number plus one, or zero at the end.
const LINK: usize = 0;

/// Free pages that EL2 owns, kept in a list through their first words.
///
/// The pages' content is not secret from EL2 and of no use to it; a page is zeroed when it is taken, so that a table never
/// starts with a stale descriptor, and whoever gives a page to the host takes it from here first. The pool does not keep
/// reference counts: its user gives a page when the last reference to it went.
#[derive(Debug, Default)]
pub struct Pool {
    /// As the link word.
    head: u64,
    len: u64,
}

impl Pool {
    /// An empty pool.
    pub const fn new() -> Self {
        Self { head: 0, len: 0 }
    }

    /// The number of free pages.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no free page.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `count` pages can be taken. [`Error::NoMemory`] where not. The answer holds for as long as the caller
    /// keeps the pool borrowed or locked.
    pub const fn check(&self, count: u64) -> Result<()> {
        if self.len >= count {
            Ok(())
        } else {
            Err(Error::NoMemory)
        }
    }

    /// Takes a page and zeroes it, or `None` where the pool is empty.
    pub fn take(&mut self, words: &impl PageWords) -> Option<Pfn> {
        // Only `give` writes the head and the links, so the frame number is one that it was given.
        let page = Pfn::checked(self.head.checked_sub(1)?).ok()?;
        self.head = words.read_word(page, LINK);
        self.len = self.len.saturating_sub(1);
        words.zero_page(page);
        Some(page)
    }

    /// Adds a page that EL2 owns, that is on no other list and that nobody uses.
    pub fn give(&mut self, words: &impl PageWords, page: Pfn) {
        words.write_word(page, LINK, self.head);
        // A frame number is far below the largest word, and there are no more pages than frame numbers.
        self.head = page.raw() + 1;
        self.len += 1;
    }

    /// Adds every page of `range`, under the conditions of [`Pool::give`]. They are taken in ascending order.
    pub fn give_range(&mut self, words: &impl PageWords, range: PfnRange) {
        let first = range.start().raw();
        for number in (first..=range.last().raw()).rev() {
            if let Ok(page) = Pfn::checked(number) {
                self.give(words, page);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, pfn};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_range_comes_back_in_order_and_zeroed() {
        let memory = Memory::new(8);
        let mut pool = Pool::new();
        pool.give_range(&memory, PfnRange::checked(pfn(0), 8).unwrap());
        for n in 0..8 {
            memory.write_word(pfn(n), 5, 99);
        }
        for n in 0..8 {
            assert_eq!(pool.check(8 - n), Ok(()));
            assert_eq!(pool.check(9 - n), Err(Error::NoMemory));
            let page = pool.take(&memory).unwrap();
            assert_eq!(page, pfn(n));
            assert!(memory.is_zero(page));
        }
        assert_eq!(pool.take(&memory), None);
        assert!(pool.is_empty());
    }

    proptest! {
        #[test]
        fn a_pool_is_a_set_of_pages(steps in prop::collection::vec((any::<bool>(), 0u64..32), 0..200)) {
            let memory = Memory::new(32);
            let mut pool = Pool::new();
            let mut free = BTreeSet::new();
            for (give, number) in steps {
                if give && free.insert(number) {
                    memory.write_word(pfn(number), 1, u64::MAX);
                    pool.give(&memory, pfn(number));
                } else if !give {
                    match pool.take(&memory) {
                        Some(page) => {
                            prop_assert!(free.remove(&page.raw()), "a page was taken twice");
                            prop_assert!(memory.is_zero(page));
                        }
                        None => prop_assert!(free.is_empty()),
                    }
                }
                prop_assert_eq!(pool.len(), free.len() as u64);
            }
            while let Some(page) = pool.take(&memory) {
                prop_assert!(free.remove(&page.raw()));
            }
            prop_assert!(free.is_empty());
        }
    }
}
