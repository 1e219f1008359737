// SPDX-License-Identifier: GPL-2.0-only
//! A list of pages in the form that EL1 and EL2 share.

use crate::PageWords;
use pkvm_types::{Pfn, Phys};

/// The word of a page that holds the address of the next one.
const LINK: usize = 0;

/// Pages in a list, the first two fields of the kernel's `struct kvm_hyp_memcache`: the address of the head, each page
/// holding in its first word the head as it was before the page was pushed, and a count.
///
/// This value is always EL2's own copy. Where the list is in pages of the host's, its links are the host's words: `pop` on
/// it is for pages that EL2 owns, and the refill path donates a page before it reads the link in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memcache {
    head: Phys,
    len: u64,
}

impl Memcache {
    /// An empty list.
    pub const fn new() -> Self {
        Self {
            head: Phys::new(0),
            len: 0,
        }
    }

    /// A list as another one's words describe it. Low bits of `head` do not name a page; see [`Memcache::first`].
    pub const fn from_raw(head: Phys, len: u64) -> Self {
        Self { head, len }
    }

    /// The head as EL1 is to see it.
    pub const fn head(&self) -> Phys {
        self.head
    }

    /// The number of pages.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no page.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The page that [`Memcache::pop`] would give.
    pub const fn first(&self) -> Option<Pfn> {
        if self.len == 0 {
            None
        } else {
            Some(Pfn::of(self.head))
        }
    }

    /// Puts `page` at the head. EL2 still owns it, and nobody else uses it.
    pub fn push(&mut self, words: &impl PageWords, page: Pfn) {
        words.write_word(page, LINK, self.head.raw());
        self.head = page.phys();
        // No host word bounds the count, but each step adds a page of memory, of which there are fewer than 2^52.
        self.len = self.len.saturating_add(1);
    }

    /// Takes the page at the head, `None` where the list is empty. The page is not zeroed.
    pub fn pop(&mut self, words: &impl PageWords) -> Option<Pfn> {
        let page = self.first()?;
        self.advance(Phys::new(words.read_word(page, LINK)));
        Some(page)
    }

    /// Drops the head where the caller has read its link word itself.
    pub fn advance(&mut self, link: Phys) {
        self.len = self.len.saturating_sub(1);
        self.head = link;
    }
}

impl Default for Memcache {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, pfn};
    use pkvm_types::PAGE_SIZE;
    use proptest::prelude::*;

    #[test]
    fn a_head_with_low_bits_names_the_same_page() {
        let memory = Memory::new(4);
        let mut cache = Memcache::from_raw(Phys::new(2 * PAGE_SIZE + 8), 1);
        assert_eq!(cache.pop(&memory), Some(pfn(2)));
        assert_eq!(cache.pop(&memory), None);
    }

    #[test]
    fn the_link_is_the_first_word() {
        let memory = Memory::new(4);
        let mut cache = Memcache::new();
        cache.push(&memory, pfn(1));
        cache.push(&memory, pfn(3));
        assert_eq!(memory.read_word(pfn(3), 0), PAGE_SIZE);
        assert_eq!(memory.read_word(pfn(1), 0), 0);
        assert_eq!((cache.head(), cache.len()), (pfn(3).phys(), 2));
    }

    proptest! {
        #[test]
        fn a_memcache_is_a_stack(steps in prop::collection::vec(prop::option::of(0u64..32), 0..200)) {
            let memory = Memory::new(32);
            let mut cache = Memcache::new();
            let mut stack = Vec::new();
            for step in steps {
                match step {
                    Some(number) if !stack.contains(&number) => {
                        cache.push(&memory, pfn(number));
                        stack.push(number);
                    }
                    Some(_) => {}
                    None => prop_assert_eq!(cache.pop(&memory).map(Pfn::raw), stack.pop()),
                }
                prop_assert_eq!(cache.len(), stack.len() as u64);
            }
        }
    }
}
