// SPDX-License-Identifier: GPL-2.0-only
//! A place in a translation table, and how to move from it.

use crate::geometry::{Geometry, Level};
use crate::ops::TableOps;
use pkvm_types::Phys;

/// The tables on the way from the root to one descriptor. It holds no word: whoever moves it reads the word, acts, and says
/// where to go, so that no step relies on a descriptor that an earlier step has replaced.
pub(crate) struct Cursor {
    geometry: Geometry,
    root: Phys,
    ia: u64,
    level: Level,
    /// By [`Level::slot`]; `None` stands for a table that does not exist yet and reads as empty.
    tables: [Option<Phys>; 5],
}

impl Cursor {
    /// The descriptor of the root for `ia`, which is below the table's limit.
    pub(crate) fn new(geometry: &Geometry, root: Phys, ia: u64) -> Self {
        let mut cursor = Self {
            geometry: *geometry,
            root,
            ia,
            level: geometry.start(),
            tables: [None; 5],
        };
        cursor.enter_root();
        cursor
    }

    fn enter_root(&mut self) {
        self.tables[self.level.slot()] = Some(self.geometry.root_page(self.root, self.ia));
    }

    pub(crate) const fn ia(&self) -> u64 {
        self.ia
    }
    pub(crate) const fn level(&self) -> Level {
        self.level
    }
    /// The table that the cursor is in, `None` where it does not exist yet.
    pub(crate) const fn table(&self) -> Option<Phys> {
        self.tables[self.level.slot()]
    }
    pub(crate) const fn index(&self) -> usize {
        self.geometry.index(self.ia, self.level)
    }
    /// The first address that the descriptor covers.
    pub(crate) const fn base(&self) -> u64 {
        self.geometry.base(self.ia, self.level)
    }
    /// One past the last address that the descriptor covers.
    pub(crate) const fn end(&self) -> u64 {
        self.base() + self.geometry.size(self.level)
    }

    /// The word at the cursor; zero in a table that does not exist yet.
    pub(crate) fn read(&self, ops: &impl TableOps) -> u64 {
        match self.table() {
            Some(table) => ops.read(table, self.index()),
            None => 0,
        }
    }
    /// Stores the word at the cursor. In a table that does not exist yet there is nothing to store to.
    pub(crate) fn write(&self, ops: &mut impl TableOps, word: u64) {
        if let Some(table) = self.table() {
            ops.write(table, self.index(), word);
        }
    }
    /// Adds a reference to the table that the cursor is in.
    pub(crate) fn get(&self, ops: &mut impl TableOps) {
        if let Some(table) = self.table() {
            ops.get(table, 1);
        }
    }
    /// Drops a reference to the table that the cursor is in.
    pub(crate) fn put(&self, ops: &mut impl TableOps) {
        if let Some(table) = self.table() {
            ops.put(table);
        }
    }

    /// Goes down into `table`, to the descriptor for the same address. The cursor is not at the last level.
    pub(crate) fn descend(&mut self, table: Option<Phys>) {
        self.level = self.level.below();
        self.tables[self.level.slot()] = table;
    }

    /// Goes up one level, to the descriptor for the same address, and gives the table that it left. `None` at the root.
    pub(crate) fn ascend(&mut self) -> Option<Phys> {
        if self.level == self.geometry.start() {
            return None;
        }
        let left = self.table();
        self.level = self.level.above();
        left
    }

    /// Whether `ia`, where the cursor's descriptor ends, is past the table it is in.
    pub(crate) fn leaves_table(&self, ia: u64) -> bool {
        self.level > self.geometry.start() && self.geometry.base(ia, self.level.above()) == ia
    }

    /// Goes on to `ia`, where the descriptor ends, going up as far as the tables end there too.
    pub(crate) fn step(&mut self, ia: u64) {
        while self.leaves_table(ia) {
            self.level = self.level.above();
        }
        self.ia = ia;
        if self.level == self.geometry.start() {
            self.enter_root();
        }
    }
}
