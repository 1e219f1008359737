// SPDX-License-Identifier: GPL-2.0-only
//! What the page-table walkers need, built from the machine, the pool of a component and its page records. One value is
//! made for one operation, while the lock of the component is held.

use pkvm_pgtable::{Level, TableOps};
use pkvm_pool::{Memcache, PageWords, Pool};
use pkvm_types::{HypVa, Ipa, PAGE_SIZE, Pfn, PfnRange, Phys};

use crate::machine::{Machine, Shareability, Stage2Id, TlbLevel};

/// Pages that EL2 owns, as the lists of free pages see them.
pub(super) struct Words<'a, M>(pub &'a M);

impl<M: Machine> PageWords for Words<'_, M> {
    fn read_word(&self, page: Pfn, index: usize) -> u64 {
        self.0.read_word(page.phys(), index)
    }
    fn write_word(&self, page: Pfn, index: usize, word: u64) {
        self.0.write_word(page.phys(), index, word);
    }
    fn zero_page(&self, page: Pfn) {
        self.0.zero_page(page);
    }
}

/// Where tables come from and go to: the pool of the component, then, for a guest, the memcache of the vCPU that asks.
struct Tables<'a, M> {
    m: &'a M,
    pool: &'a mut Pool,
    memcache: Option<&'a mut Memcache>,
}

impl<M: Machine> Tables<'_, M> {
    fn available(&self) -> usize {
        let cached = self.memcache.as_ref().map_or(0, |cache| cache.len());
        usize::try_from(self.pool.len().saturating_add(cached)).unwrap_or(usize::MAX)
    }

    fn alloc(&mut self) -> Phys {
        let words = Words(self.m);
        let page = self.pool.take(&words).or_else(|| {
            let page = self.memcache.as_mut()?.pop(&words)?;
            self.m.zero_page(page);
            Some(page)
        });
        // The walker asks only for what `available` promised, within the same borrow.
        debug_assert!(page.is_some());
        let page = page.unwrap_or(Pfn::of(Phys::new(0)));
        if let Some(record) = self.m.record(page) {
            record.set_refcount(1);
        }
        page.phys()
    }

    fn free(&mut self, table: Phys) {
        let page = Pfn::of(table);
        if let Some(record) = self.m.record(page) {
            record.set_refcount(0);
        }
        self.pool.give(&Words(self.m), page);
    }

    fn get(&mut self, table: Phys, count: u16) {
        if let Some(record) = self.m.record(Pfn::of(table)) {
            // A table has fewer entries than the count can hold.
            record.set_refcount(record.refcount().saturating_add(count));
        }
    }

    fn put(&mut self, table: Phys) {
        let dropped = self.m.record(Pfn::of(table)).map(pkvm_pool::PageMeta::dec_ref);
        debug_assert!(matches!(dropped, Some(Ok(_))));
    }

    fn count(&self, table: Phys) -> u16 {
        self.m
            .record(Pfn::of(table))
            .map_or(0, pkvm_pool::PageMeta::refcount)
    }
}

/// The frames that the `len` bytes from `pa` touch.
fn frames(pa: Phys, len: u64) -> Option<PfnRange> {
    let last = len.checked_sub(1).and_then(|len| pa.checked_add(len))?;
    let first = Pfn::of(pa);
    let count = Pfn::of(last).raw().checked_sub(first.raw())?.checked_add(1)?;
    PfnRange::checked(first, count).ok()
}

fn hint(level: Level) -> TlbLevel {
    u8::try_from(level.raw()).map_or(TlbLevel::Any, TlbLevel::Known)
}

/// For the stage 2 of the host or of a guest.
pub(super) struct Stage2Ops<'a, M> {
    tables: Tables<'a, M>,
    regime: Stage2Id,
}

impl<'a, M> Stage2Ops<'a, M> {
    pub(super) fn new(
        m: &'a M,
        regime: Stage2Id,
        pool: &'a mut Pool,
        memcache: Option<&'a mut Memcache>,
    ) -> Self {
        Self {
            tables: Tables { m, pool, memcache },
            regime,
        }
    }
}

/// Beyond this many pages, TLBs lose the whole VMID rather than page after page.
const RANGE_PAGES: u64 = 64;

impl<M: Machine> TableOps for Stage2Ops<'_, M> {
    fn read(&self, table: Phys, index: usize) -> u64 {
        self.tables.m.read_word(table, index)
    }
    fn write(&mut self, table: Phys, index: usize, word: u64) {
        self.tables.m.write_word(table, index, word);
    }
    fn available(&self) -> usize {
        self.tables.available()
    }
    fn alloc_table(&mut self) -> Phys {
        self.tables.alloc()
    }
    fn free_table(&mut self, table: Phys) {
        self.tables.free(table);
    }
    fn get(&mut self, table: Phys, count: u16) {
        self.tables.get(table, count);
    }
    fn put(&mut self, table: Phys) {
        self.tables.put(table);
    }
    fn count(&self, table: Phys) -> u16 {
        self.tables.count(table)
    }
    fn publish(&mut self) {
        self.tables.m.publish_tables();
    }
    fn tlbi_leaf(&mut self, ia: u64, level: Level) {
        self.tables
            .m
            .tlbi_stage2(self.regime, Ipa::new(ia), hint(level), Shareability::Inner);
    }
    fn tlbi_table(&mut self, ia: u64) {
        self.tables
            .m
            .tlbi_stage2(self.regime, Ipa::new(ia), TlbLevel::Any, Shareability::Inner);
    }
    fn tlbi_range(&mut self, ia: u64, len: u64) {
        let Some(pages) = frames(Phys::new(ia), len).filter(|pages| pages.count() <= RANGE_PAGES) else {
            return self.tlbi_all();
        };
        for page in pages.iter() {
            let ipa = Ipa::new(page.phys().raw());
            self.tables
                .m
                .tlbi_stage2(self.regime, ipa, TlbLevel::Any, Shareability::Inner);
        }
    }
    fn tlbi_all(&mut self) {
        self.tables.m.tlbi_stage2_all(self.regime);
    }
    fn tlbi_local(&mut self, ia: u64, level: Option<Level>) {
        let level = level.map_or(TlbLevel::Any, hint);
        self.tables
            .m
            .tlbi_stage2(self.regime, Ipa::new(ia), level, Shareability::Local);
    }
    fn clean_dcache(&mut self, pa: Phys, len: u64) {
        if let Some(pages) = frames(pa, len) {
            self.tables.m.clean_dcache(pages);
        }
    }
    fn invalidate_icache(&mut self, pa: Phys, len: u64) {
        if let Some(pages) = frames(pa, len) {
            self.tables.m.invalidate_icache(pages);
        }
    }
}

/// For EL2's own stage 1.
pub(super) struct HypOps<'a, M> {
    tables: Tables<'a, M>,
}

impl<'a, M> HypOps<'a, M> {
    pub(super) fn new(m: &'a M, pool: &'a mut Pool) -> Self {
        Self {
            tables: Tables {
                m,
                pool,
                memcache: None,
            },
        }
    }
}

impl<M: Machine> TableOps for HypOps<'_, M> {
    fn read(&self, table: Phys, index: usize) -> u64 {
        self.tables.m.read_word(table, index)
    }
    fn write(&mut self, table: Phys, index: usize, word: u64) {
        self.tables.m.write_word(table, index, word);
    }
    fn available(&self) -> usize {
        self.tables.available()
    }
    fn alloc_table(&mut self) -> Phys {
        self.tables.alloc()
    }
    fn free_table(&mut self, table: Phys) {
        self.tables.free(table);
    }
    fn get(&mut self, table: Phys, count: u16) {
        self.tables.get(table, count);
    }
    fn put(&mut self, table: Phys) {
        self.tables.put(table);
    }
    fn count(&self, table: Phys) -> u16 {
        self.tables.count(table)
    }
    fn publish(&mut self) {
        self.tables.m.publish_hyp_tables();
    }
    fn tlbi_leaf(&mut self, ia: u64, level: Level) {
        self.tables.m.tlbi_hyp(HypVa::new(ia), hint(level));
    }
    fn tlbi_table(&mut self, ia: u64) {
        self.tables.m.tlbi_hyp(HypVa::new(ia), TlbLevel::Any);
    }
    fn tlbi_range(&mut self, ia: u64, len: u64) {
        let mut at = ia;
        let end = ia.saturating_add(len);
        while at < end {
            self.tables.m.tlbi_hyp(HypVa::new(at), TlbLevel::Any);
            at = at.saturating_add(PAGE_SIZE);
        }
    }
    fn tlbi_all(&mut self) {
        self.tables.m.tlbi_hyp_all();
    }
    fn tlbi_local(&mut self, ia: u64, level: Option<Level>) {
        // EL2's own mappings are the same on every CPU: there is no use for less.
        self.tables
            .m
            .tlbi_hyp(HypVa::new(ia), level.map_or(TlbLevel::Any, hint));
    }
    fn clean_dcache(&mut self, _pa: Phys, _len: u64) {}
    fn invalidate_icache(&mut self, _pa: Phys, _len: u64) {}
}
