// SPDX-License-Identifier: GPL-2.0-only
//! Table pages in a map.

use super::{Checker, Hit, Shape};
use crate::{Level, TableOps};
use pkvm_types::Phys;
use std::collections::HashMap;

struct Table {
    words: Vec<u64>,
    references: u16,
}

pub struct Fake {
    tables: HashMap<u64, Table>,
    free: Vec<u64>,
    pub root: u64,
    pub root_pages: u64,
    /// Tables that may still be taken.
    pub capacity: usize,
    /// Tables that were taken, ever.
    pub taken: usize,
    /// Tables that hold a window, once for each.
    pub pins: Vec<u64>,
    pub checker: Checker,
    pub local: Vec<(u64, Option<i8>)>,
    pub cleaned: Vec<(u64, u64)>,
    pub fetched: Vec<(u64, u64)>,
}

impl Fake {
    /// A root of `root_pages`, and up to `most` more tables at the far end of `phys_bits`.
    pub fn new(shape: Shape, root_pages: u64, phys_bits: u32, most: usize) -> Self {
        let root = 0x4000_0000;
        let page = 1u64 << shape.page;
        let mut fake = Self {
            tables: HashMap::new(),
            free: (1..=most as u64).map(|n| (1 << phys_bits) - n * page).collect(),
            root,
            root_pages,
            capacity: most,
            taken: 0,
            pins: Vec::new(),
            checker: Checker::new(shape, root, root_pages),
            local: Vec::new(),
            cleaned: Vec::new(),
            fetched: Vec::new(),
        };
        for n in 0..root_pages {
            fake.add(root + n * page);
        }
        fake
    }

    fn add(&mut self, table: u64) {
        let words = vec![0; 1 << (self.checker.shape.page - 3)];
        assert!(
            self.tables
                .insert(table, Table { words, references: 1 })
                .is_none()
        );
    }

    fn table(&self, table: Phys) -> &Table {
        self.tables
            .get(&table.raw())
            .unwrap_or_else(|| panic!("no table at {table:?}"))
    }
    fn table_mut(&mut self, table: Phys) -> &mut Table {
        self.tables
            .get_mut(&table.raw())
            .unwrap_or_else(|| panic!("no table at {table:?}"))
    }

    /// What hardware makes of `ia`.
    pub fn walk(&self, ia: u64) -> Option<Hit> {
        let page = 1u64 << self.checker.shape.page;
        let load =
            |address: u64| self.table(Phys::new(address & !(page - 1))).words[(address % page) as usize / 8];
        self.checker.shape.walk(load, self.root, ia)
    }

    /// Hardware uses the page at `ia` and sets its access flag.
    pub fn touch(&mut self, ia: u64) {
        let Some(hit) = self.walk(ia) else { return };
        let page = 1u64 << self.checker.shape.page;
        let table = self.table_mut(Phys::new(hit.at & !(page - 1)));
        table.words[(hit.at % page) as usize / 8] |= 1 << 10;
    }

    /// Every word, to compare before and after.
    pub fn snapshot(&self) -> Vec<(u64, Vec<u64>, u16)> {
        let mut all: Vec<_> = self
            .tables
            .iter()
            .map(|(table, t)| (*table, t.words.clone(), t.references))
            .collect();
        all.sort();
        all
    }

    /// How many tables there are besides the root.
    pub fn used(&self) -> usize {
        self.tables.len() - self.root_pages as usize
    }

    /// An operation is over: references, links and TLBs must agree with the words.
    pub fn check(&self) {
        self.checker.quiet();
        for (table, t) in &self.tables {
            let used = t.words.iter().filter(|word| **word != 0).count();
            let pins = self.pins.iter().filter(|pin| *pin == table).count();
            assert_eq!(
                usize::from(t.references),
                used + pins + 1,
                "references of {table:#x}"
            );
            assert!(
                t.words.iter().all(|word| *word != 1 << 60),
                "a lock was left behind"
            );
        }
        let mut linked = 0;
        for table in self.checker.tables() {
            assert!(self.tables[&table].references > 1, "an empty table was kept");
            linked += 1;
        }
        assert_eq!(linked, self.used(), "a table was lost");
    }
}

impl TableOps for Fake {
    fn read(&self, table: Phys, index: usize) -> u64 {
        self.table(table).words[index]
    }
    fn write(&mut self, table: Phys, index: usize, word: u64) {
        let old = self.read(table, index);
        let tables = &self.tables;
        let load = |table: u64, index: usize| tables[&table].words[index];
        self.checker.write(table.raw(), index, old, word, &load);
        self.table_mut(table).words[index] = word;
    }
    fn available(&self) -> usize {
        self.capacity
    }
    fn alloc_table(&mut self) -> Phys {
        self.capacity = self
            .capacity
            .checked_sub(1)
            .expect("more tables than were promised");
        self.taken += 1;
        let table = self.free.pop().unwrap();
        self.add(table);
        Phys::new(table)
    }
    fn free_table(&mut self, table: Phys) {
        let gone = self.tables.remove(&table.raw()).expect("freed twice");
        assert_eq!(gone.references, 1);
        assert!(gone.words.iter().all(|word| *word == 0));
        self.checker.free(table.raw());
        self.free.push(table.raw());
        self.capacity += 1;
    }
    fn get(&mut self, table: Phys, count: u16) {
        self.table_mut(table).references += count;
    }
    fn put(&mut self, table: Phys) {
        let references = &mut self.table_mut(table).references;
        *references -= 1;
        assert!(*references > 0);
    }
    fn count(&self, table: Phys) -> u16 {
        self.table(table).references
    }
    fn publish(&mut self) {
        self.checker.publish();
    }
    fn tlbi_leaf(&mut self, ia: u64, level: Level) {
        self.checker.tlbi_leaf(ia, level.raw().into());
    }
    fn tlbi_table(&mut self, ia: u64) {
        self.checker.tlbi_table(ia);
    }
    fn tlbi_range(&mut self, ia: u64, len: u64) {
        self.checker.tlbi_range(ia, len);
    }
    fn tlbi_all(&mut self) {
        self.checker.tlbi_all();
    }
    fn tlbi_local(&mut self, ia: u64, level: Option<Level>) {
        self.local.push((ia, level.map(Level::raw)));
    }
    fn clean_dcache(&mut self, phys: Phys, len: u64) {
        self.checker.maintain(phys.raw(), len);
        self.cleaned.push((phys.raw(), len));
    }
    fn invalidate_icache(&mut self, phys: Phys, len: u64) {
        self.checker.maintain(phys.raw(), len);
        self.fetched.push((phys.raw(), len));
    }
}
