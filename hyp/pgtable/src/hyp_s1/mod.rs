// SPDX-License-Identifier: GPL-2.0-only
//! EL2's own stage 1.
//!
//! A mapping here is made once and taken away as it was made: nothing valid is ever replaced by something else that is
//! valid, so there is no break-before-make, and no block is split.

mod format;
mod slot;
#[cfg(test)]
mod tests;

pub use format::{HypAttrs, HypConfig, HypFormat, HypFound, HypLeaf};
pub use slot::Slot;

use crate::broken::Broken;
use crate::cursor::Cursor;
use crate::geometry::Kind;
use crate::ops::TableOps;
use crate::{Blocks, STATE_MASK};
use pkvm_types::{Error, HypVa, Phys, Result};

/// EL2's stage-1 table. It is only a name: whoever holds the table's lock may copy it, and its words are behind
/// [`TableOps`].
#[derive(Clone, Copy, Debug)]
pub struct HypS1 {
    config: HypConfig,
    root: Phys,
}

/// A mapping that is checked and can be made; see [`HypS1::plan_map`]. It holds as a stage-2 [`Plan`](crate::Plan) does.
#[must_use]
#[derive(Debug)]
pub struct HypPlan {
    start: u64,
    end: u64,
    phys: u64,
    attrs: u64,
    blocks: Blocks,
    tables: usize,
}

enum Step {
    Descend(Phys),
    Store(u64),
    Split,
}

impl HypPlan {
    /// How many tables the mapping will take.
    pub const fn tables(&self) -> usize {
        self.tables
    }

    fn decide(&self, config: &HypConfig, cursor: &Cursor, word: u64) -> Result<Step> {
        let geometry = config.geometry();
        let level = cursor.level();
        let kind = geometry.kind(word, level);
        if kind == Kind::Table {
            return Ok(Step::Descend(geometry.child(word)));
        }
        let phys = self.phys + (cursor.ia() - self.start);
        let size = geometry.size(level);
        let fits = level.is_last()
            || (self.blocks == Blocks::Allowed
                && geometry.has_leaf(level)
                && (cursor.ia() | phys) & (size - 1) == 0
                && size <= self.end - cursor.ia());
        if !fits {
            return if word == 0 {
                Ok(Step::Split)
            } else {
                Err(Error::Exists)
            };
        }
        let new = geometry.leaf_word(phys, self.attrs, level);
        // The state is software's; everything else of a mapping stays as it was made.
        if word != 0 && (word ^ new) & !STATE_MASK != 0 {
            return Err(Error::Exists);
        }
        Ok(Step::Store(new))
    }

    /// Makes the mapping. On return EL2 can use it.
    pub fn commit(self, table: &HypS1, ops: &mut impl TableOps) {
        let mut cursor = table.cursor(self.start);
        while cursor.ia() < self.end {
            let word = cursor.read(ops);
            match self.decide(&table.config, &cursor, word) {
                Ok(Step::Descend(child)) => cursor.descend(Some(child)),
                Ok(Step::Split) => {
                    let child = table.add_table(ops, &cursor);
                    cursor.descend(Some(child));
                }
                Ok(Step::Store(new)) => {
                    if word == 0 {
                        cursor.get(ops);
                    }
                    if word != new {
                        cursor.write(ops, new);
                    }
                    cursor.step(cursor.end());
                }
                // The plan has met every word that this meets, so there is no refusal here.
                Err(_) => cursor.step(cursor.end()),
            }
        }
        ops.publish();
    }
}

impl HypS1 {
    /// The table whose root is the zeroed page at `root`, which has one reference. [`Error::Invalid`] where it is not page
    /// aligned, [`Error::Range`] where it is beyond what hardware can address.
    pub fn new(config: HypConfig, root: Phys) -> Result<Self> {
        config
            .geometry()
            .output_range(root, config.geometry().granule().size())?;
        Ok(Self { config, root })
    }

    /// How the table is built.
    pub const fn config(&self) -> &HypConfig {
        &self.config
    }
    /// The root, as TTBR0_EL2 wants it.
    pub const fn root(&self) -> Phys {
        self.root
    }

    /// The table covers the low half of the address space of its width. The bits above are zero in every EL2 address.
    fn cursor(&self, va: u64) -> Cursor {
        Cursor::new(self.config.geometry(), self.root, va)
    }

    /// Links a new table where the cursor is, whose word is zero.
    fn add_table(&self, ops: &mut impl TableOps, cursor: &Cursor) -> Phys {
        let child = ops.alloc_table();
        cursor.get(ops);
        cursor.write(ops, self.config.geometry().table_word(child));
        child
    }

    /// What a walk of `va` ends with. [`Error::Range`] where it is beyond the table.
    pub fn lookup(&self, ops: &impl TableOps, va: HypVa) -> Result<HypFound> {
        let geometry = self.config.geometry();
        if va.raw() >= geometry.limit() {
            return Err(Error::Range);
        }
        let mut cursor = self.cursor(va.raw());
        loop {
            let word = cursor.read(ops);
            match geometry.kind(word, cursor.level()) {
                Kind::Table => cursor.descend(Some(geometry.child(word))),
                kind => {
                    return Ok(HypFound {
                        leaf: (kind == Kind::Leaf).then(|| self.config.decode(word)),
                        level: cursor.level(),
                        base: HypVa::new(cursor.base()),
                    });
                }
            }
        }
    }

    /// Checks that the `len` bytes from `va` on can be mapped to `phys`. A mapping that is there already may differ in its state
    /// alone.
    ///
    /// [`Error::Range`] where either range leaves its address space, [`Error::Invalid`] for ranges that are empty or not
    /// of whole pages and for attributes that [`HypConfig::check_attrs`] refuses, [`Error::Exists`] where something else
    /// is mapped, [`Error::NoMemory`] where tables are missing.
    pub fn plan_map(
        &self,
        ops: &impl TableOps,
        va: HypVa,
        len: u64,
        phys: Phys,
        attrs: HypAttrs,
        blocks: Blocks,
    ) -> Result<HypPlan> {
        let geometry = self.config.geometry();
        let end = geometry.range(va.raw(), len)?;
        geometry.output_range(phys, len)?;
        let attrs = self.config.attr_bits(attrs)?;
        let mut plan = HypPlan {
            start: va.raw(),
            end,
            phys: phys.raw(),
            attrs,
            blocks,
            tables: 0,
        };
        let mut cursor = self.cursor(plan.start);
        while cursor.ia() < end {
            let word = cursor.read(ops);
            match plan.decide(&self.config, &cursor, word)? {
                Step::Descend(child) => cursor.descend(Some(child)),
                Step::Split => {
                    plan.tables += 1;
                    cursor.descend(None);
                }
                Step::Store(_) => cursor.step(cursor.end()),
            }
        }
        if plan.tables > ops.available() {
            Err(Error::NoMemory)
        } else {
            Ok(plan)
        }
    }

    /// Makes a mapping, or changes nothing. Errors as for [`HypS1::plan_map`].
    pub fn map(
        &self,
        ops: &mut impl TableOps,
        va: HypVa,
        len: u64,
        phys: Phys,
        attrs: HypAttrs,
        blocks: Blocks,
    ) -> Result<()> {
        self.plan_map(ops, va, len, phys, attrs, blocks)?
            .commit(self, ops);
        Ok(())
    }

    /// Takes a mapping away, or changes nothing. Tables that become empty are given back. On return no TLB holds any of it. It
    /// takes no memory.
    ///
    /// [`Error::Range`] and [`Error::Invalid`] as for [`HypS1::plan_map`], [`Error::NotFound`] where a part of the range is
    /// not mapped, [`Error::TooBig`] where the range cuts a block.
    pub fn unmap(&self, ops: &mut impl TableOps, va: HypVa, len: u64) -> Result<()> {
        let geometry = self.config.geometry();
        let end = geometry.range(va.raw(), len)?;
        let mut cursor = self.cursor(va.raw());
        while cursor.ia() < end {
            let word = cursor.read(ops);
            match geometry.kind(word, cursor.level()) {
                Kind::Table => cursor.descend(Some(geometry.child(word))),
                Kind::Leaf if cursor.base() < va.raw() || cursor.end() > end => return Err(Error::TooBig),
                Kind::Leaf => cursor.step(cursor.end()),
                Kind::Invalid => return Err(Error::NotFound),
            }
        }

        let mut broken = Broken::default();
        let mut cursor = self.cursor(va.raw());
        loop {
            let word = cursor.read(ops);
            if geometry.kind(word, cursor.level()) == Kind::Table {
                cursor.descend(Some(geometry.child(word)));
                continue;
            }
            cursor.write(ops, 0);
            broken.add(&cursor);
            cursor.put(ops);
            let next = cursor.end();
            while next >= end || cursor.leaves_table(next) {
                let Some(child) = cursor.ascend() else { break };
                if ops.count(child) == 1 {
                    cursor.write(ops, 0);
                    cursor.put(ops);
                    ops.tlbi_table(cursor.ia());
                    ops.free_table(child);
                }
            }
            if next >= end {
                broken.invalidate(ops);
                return Ok(());
            }
            cursor.step(next);
        }
    }

    /// Names each table with the number of its words that are in use, the root first. Boot builds the table before there are
    /// page records; this is how the records learn their counts, which are one more each.
    pub fn recount(&self, ops: &impl TableOps, mut visit: impl FnMut(Phys, u16)) {
        let geometry = self.config.geometry();
        let mut cursor = self.cursor(0);
        let mut used = |table: Phys| {
            let words = (0..geometry.granule().entries()).filter(|index| ops.read(table, *index) != 0);
            visit(table, words.count() as u16);
        };
        used(self.root);
        while cursor.ia() < geometry.limit() {
            let word = cursor.read(ops);
            if geometry.kind(word, cursor.level()) == Kind::Table {
                let child = geometry.child(word);
                used(child);
                cursor.descend(Some(child));
            } else {
                cursor.step(cursor.end());
            }
        }
    }

    /// The entries that the `len` bytes from `va` on meet, unmapped ones too, in ascending order. Errors as for
    /// [`HypS1::plan_map`].
    pub fn for_each(
        &self,
        ops: &impl TableOps,
        va: HypVa,
        len: u64,
        mut visit: impl FnMut(HypFound) -> Result<()>,
    ) -> Result<()> {
        let geometry = self.config.geometry();
        let end = geometry.range(va.raw(), len)?;
        let mut cursor = self.cursor(va.raw());
        while cursor.ia() < end {
            let word = cursor.read(ops);
            let kind = geometry.kind(word, cursor.level());
            if kind == Kind::Table {
                cursor.descend(Some(geometry.child(word)));
                continue;
            }
            visit(HypFound {
                leaf: (kind == Kind::Leaf).then(|| self.config.decode(word)),
                level: cursor.level(),
                base: HypVa::new(cursor.base()),
            })?;
            cursor.step(cursor.end());
        }
        Ok(())
    }
}
