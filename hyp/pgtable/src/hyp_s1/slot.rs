// SPDX-License-Identifier: GPL-2.0-only
//! Windows: leaf descriptors whose tables are there to stay, so that pages can be shown to EL2 for a moment.

use super::{HypAttrs, HypConfig, HypS1};
use crate::geometry::{Kind, Level};
use crate::ops::TableOps;
use pkvm_types::{Error, HypVa, Phys, Result};

/// A leaf descriptor of EL2's table that one user owns: a CPU's fixmap page, or the block window under its lock.
///
/// Neither `Copy` nor `Clone`, so that no two users can write one descriptor. Between uses the descriptor is invalid; the
/// table that holds it has a reference for it and is never freed.
#[derive(Debug)]
pub struct Slot {
    config: HypConfig,
    table: Phys,
    index: usize,
    level: Level,
    va: HypVa,
}

impl HypS1 {
    /// Makes `va` a window at `level`, [`Level::LAST`] or [`HypConfig::block_level`], taking the tables that are missing.
    ///
    /// [`Error::Range`] beyond the table, [`Error::Invalid`] where `va` is not aligned to the level or the level has no
    /// leaves, [`Error::Exists`] where something is mapped there or there are tables below, [`Error::NoMemory`] where
    /// tables are missing. The window must not be made twice.
    pub fn make_slot(&self, ops: &mut impl TableOps, va: HypVa, level: Level) -> Result<Slot> {
        let geometry = self.config.geometry();
        geometry.range(va.raw(), geometry.size(level))?;
        if !geometry.has_leaf(level) || level < geometry.start() || geometry.base(va.raw(), level) != va.raw()
        {
            return Err(Error::Invalid);
        }
        let mut cursor = self.cursor(va.raw());
        let mut missing = 0;
        while cursor.level() < level {
            let word = cursor.read(ops);
            match geometry.kind(word, cursor.level()) {
                Kind::Table => cursor.descend(Some(geometry.child(word))),
                _ if word != 0 => return Err(Error::Exists),
                _ => {
                    missing += 1;
                    cursor.descend(None);
                }
            }
        }
        if cursor.read(ops) != 0 {
            return Err(Error::Exists);
        }
        if missing > ops.available() {
            return Err(Error::NoMemory);
        }

        let mut cursor = self.cursor(va.raw());
        let mut table = self.root;
        while cursor.level() < level {
            let word = cursor.read(ops);
            table = if word == 0 {
                self.add_table(ops, &cursor)
            } else {
                geometry.child(word)
            };
            cursor.descend(Some(table));
        }
        cursor.get(ops);
        ops.publish();
        Ok(Slot {
            config: self.config,
            table,
            index: cursor.index(),
            level,
            va,
        })
    }
}

impl Slot {
    /// Where the window is in EL2's address space.
    pub const fn va(&self) -> HypVa {
        self.va
    }
    /// The bytes that it shows at once.
    pub const fn size(&self) -> u64 {
        self.config.level_size(self.level)
    }
    /// The level of its descriptor.
    pub const fn level(&self) -> Level {
        self.level
    }
    /// The table and the index of its descriptor.
    pub const fn position(&self) -> (Phys, usize) {
        (self.table, self.index)
    }

    /// The word that shows `phys`. [`Error::Invalid`] where it is not aligned to the window's size or the attributes are refused,
    /// [`Error::Range`] where the address does not fit.
    pub fn word(&self, phys: Phys, attrs: HypAttrs) -> Result<u64> {
        let geometry = self.config.geometry();
        geometry.output_range(phys, self.size())?;
        if !phys.is_aligned(self.size()) {
            return Err(Error::Invalid);
        }
        Ok(geometry.leaf_word(phys.raw(), self.config.attr_bits(attrs)?, self.level))
    }

    /// Shows `phys`. On return EL2 can use it. [`Error::Busy`] where the window shows something already, otherwise errors as for
    /// [`Slot::word`].
    pub fn map(&mut self, ops: &mut impl TableOps, phys: Phys, attrs: HypAttrs) -> Result<()> {
        let word = self.word(phys, attrs)?;
        if ops.read(self.table, self.index) != 0 {
            return Err(Error::Busy);
        }
        ops.write(self.table, self.index, word);
        ops.publish();
        Ok(())
    }

    /// Closes the window. On return no TLB of any CPU holds what it showed: a walker may merge neighbouring entries, so
    /// invalidating on this CPU alone would not do.
    pub fn unmap(&mut self, ops: &mut impl TableOps) {
        ops.write(self.table, self.index, 0);
        ops.tlbi_leaf(self.va.raw(), self.level);
    }
}
