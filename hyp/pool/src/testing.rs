// SPDX-License-Identifier: GPL-2.0-only
//! Pages for the tests: the frames from zero up.

use crate::PageWords;
use pkvm_types::{PTES_PER_TABLE, Pfn};
use std::cell::RefCell;

pub struct Memory(RefCell<Vec<Vec<u64>>>);

impl Memory {
    pub fn new(pages: usize) -> Self {
        // Frames start with junk, as memory does.
        Self(RefCell::new(vec![
            vec![
                0x5a5a_5a5a_5a5a_5a5a;
                PTES_PER_TABLE as usize
            ];
            pages
        ]))
    }

    pub fn is_zero(&self, page: Pfn) -> bool {
        self.0.borrow()[page.raw() as usize].iter().all(|word| *word == 0)
    }
}

impl PageWords for Memory {
    fn read_word(&self, page: Pfn, index: usize) -> u64 {
        self.0.borrow()[page.raw() as usize][index]
    }
    fn write_word(&self, page: Pfn, index: usize, word: u64) {
        self.0.borrow_mut()[page.raw() as usize][index] = word;
    }
    fn zero_page(&self, page: Pfn) {
        self.0.borrow_mut()[page.raw() as usize].fill(0);
    }
}

pub fn pfn(number: u64) -> Pfn {
    Pfn::checked(number).unwrap()
}
