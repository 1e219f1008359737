// SPDX-License-Identifier: GPL-2.0-only
//! The table allocator that serves while EL2 builds its own translation tables for the first time. There are no page
//! records yet, so it keeps no reference counts, and nobody translates through these tables yet, so there is no TLB to
//! maintain. [`pkvm_pgtable::HypS1::recount`] gives the records their counts afterwards.

use pkvm_arch::barrier;
use pkvm_pgtable::{Level, TableOps};
use pkvm_types::{Error, PAGE_SIZE, PfnRange, Phys, Result};

use crate::words;

/// Hands out the pages of a range one after another, and takes none back.
pub struct EarlyTables {
    next: Phys,
    left: usize,
    used: u64,
}

impl EarlyTables {
    /// An allocator over `pages`, which belong to EL2 and to nobody else.
    pub fn new(pages: PfnRange) -> Self {
        Self {
            next: pages.start().phys(),
            left: pages.count() as usize,
            used: 0,
        }
    }
    /// Pages handed out so far, from the start of the range.
    pub fn used(&self) -> u64 {
        self.used
    }
    /// A zeroed page.
    pub fn page(&mut self) -> Result<Phys> {
        if self.left == 0 {
            return Err(Error::NoMemory);
        }
        Ok(self.alloc_table())
    }
}

impl TableOps for EarlyTables {
    fn read(&self, table: Phys, index: usize) -> u64 {
        words::read(table, index)
    }
    fn write(&mut self, table: Phys, index: usize, word: u64) {
        words::write(table, index, word);
    }
    fn available(&self) -> usize {
        self.left
    }
    fn alloc_table(&mut self) -> Phys {
        let page = self.next;
        debug_assert!(self.left > 0);
        self.left = self.left.saturating_sub(1);
        self.used += 1;
        self.next = Phys::new(page.raw().wrapping_add(PAGE_SIZE));
        words::zero_page(page);
        page
    }
    fn free_table(&mut self, _table: Phys) {}
    fn get(&mut self, _table: Phys, _count: u16) {}
    fn put(&mut self, _table: Phys) {}
    fn count(&self, _table: Phys) -> u16 {
        // No table is ever found empty, so none is freed.
        2
    }
    fn publish(&mut self) {
        barrier::dsb_ishst();
    }
    fn tlbi_leaf(&mut self, _ia: u64, _level: Level) {}
    fn tlbi_table(&mut self, _ia: u64) {}
    fn tlbi_range(&mut self, _ia: u64, _len: u64) {}
    fn tlbi_all(&mut self) {}
    fn tlbi_local(&mut self, _ia: u64, _level: Option<Level>) {}
    fn clean_dcache(&mut self, _pa: Phys, _len: u64) {}
    fn invalidate_icache(&mut self, _pa: Phys, _len: u64) {}
}
