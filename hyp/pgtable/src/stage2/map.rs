// SPDX-License-Identifier: GPL-2.0-only
//! Mapping and annotating: check everything, then change the table without a way to fail.
//!
//! A plan and its commit go through the table with one and the same decision for each descriptor, so that what the plan
//! counted is what the commit takes. A block that is mapped in part is split with its neighbours kept: the new table is
//! filled before the block is broken, so that nobody faults on an address that the call did not name. Where a table
//! is in the way of a block, the range is mapped by pages in that table; no live table is ever replaced.

use super::entry::{LOCKED, donated_word};
use super::{Stage2, Stage2Config};
use crate::broken::Broken;
use crate::cursor::Cursor;
use crate::geometry::Kind;
use crate::ops::TableOps;
use crate::{Blocks, MemType, STATE_MASK};
use pkvm_types::{Error, Ipa, Owner, PageState, Perms, Phys, Result};

/// A mapping to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapRequest {
    /// The first address.
    pub ipa: Ipa,
    /// Bytes, whole pages.
    pub len: u64,
    /// What the first address maps to.
    pub phys: Phys,
    /// What is allowed.
    pub perms: Perms,
    /// The memory type; stage 1 decides instead where the table is so configured.
    pub memory: MemType,
    /// The state to record in each leaf.
    pub state: PageState,
    /// Whether blocks may be used.
    pub blocks: Blocks,
}

/// What each page of a range is to become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    /// A leaf with these attribute bits; the first page maps to `phys`.
    Leaf { phys: u64, attrs: u64, blocks: Blocks },
    /// This invalid word.
    Word(u64),
}

/// A change of a table that is checked and can be made.
///
/// It holds for as long as the caller keeps the lock of the table and takes no table page for anything else. Where two
/// plans draw on one pool, the second must be made with what the first leaves: see [`Plan::tables`].
#[must_use]
#[derive(Debug)]
pub struct Plan {
    start: u64,
    end: u64,
    target: Target,
    tables: usize,
}

/// What is to be done at one descriptor.
enum Step {
    /// Go down into this table.
    Descend(Phys),
    /// Store this word.
    Store(u64),
    /// Put a table here and go down into it.
    Split,
    /// It is so already.
    Keep,
}

impl Plan {
    /// How many tables the change will take.
    pub const fn tables(&self) -> usize {
        self.tables
    }

    /// Decides what to do with `word` at the cursor. [`Error::Busy`] for a word that no change may replace.
    fn decide(&self, config: &Stage2Config, cursor: &Cursor, word: u64) -> Result<Step> {
        let geometry = config.geometry();
        let level = cursor.level();
        let kind = geometry.kind(word, level);
        if kind == Kind::Table {
            return Ok(Step::Descend(geometry.child(word)));
        }
        if word == LOCKED || (kind == Kind::Invalid && word != 0 && !level.is_last()) {
            return Err(Error::Busy);
        }
        let new = match self.target {
            Target::Word(new) => level.is_last().then_some(new),
            Target::Leaf { phys, attrs, blocks } => {
                let phys = phys + (cursor.ia() - self.start);
                let size = geometry.size(level);
                let fits = level.is_last()
                    || (blocks == Blocks::Allowed
                        && geometry.has_leaf(level)
                        && (cursor.ia() | phys) & (size - 1) == 0
                        && size <= self.end - cursor.ia());
                if !fits
                    && blocks == Blocks::Allowed
                    && kind == Kind::Leaf
                    && geometry.attrs(word) == attrs
                    && geometry.decode(word) + (cursor.ia() - cursor.base()) == phys
                {
                    return Ok(Step::Keep);
                }
                fits.then(|| geometry.leaf_word(phys, attrs, level))
            }
        };
        Ok(match new {
            None => Step::Split,
            Some(new) if new == word => Step::Keep,
            Some(new) => Step::Store(new),
        })
    }

    /// Counts the tables that are missing, and refuses what must not be replaced.
    fn count(&mut self, stage2: &Stage2, ops: &impl TableOps) -> Result<()> {
        let mut cursor = stage2.cursor(self.start);
        while cursor.ia() < self.end {
            let word = cursor.read(ops);
            match self.decide(stage2.config(), &cursor, word)? {
                Step::Descend(child) => cursor.descend(Some(child)),
                Step::Split => {
                    self.tables += 1;
                    cursor.descend(None);
                }
                Step::Store(_) | Step::Keep => cursor.step(cursor.end()),
            }
        }
        if self.tables > ops.available() {
            Err(Error::NoMemory)
        } else {
            Ok(())
        }
    }

    /// Makes the change. On return no TLB holds a translation that the change took away.
    pub fn commit(self, stage2: &Stage2, ops: &mut impl TableOps) {
        let config = stage2.config();
        let mut broken = Broken::default();
        let mut cursor = stage2.cursor(self.start);
        while cursor.ia() < self.end {
            let word = cursor.read(ops);
            match self.decide(config, &cursor, word) {
                Ok(Step::Descend(child)) => cursor.descend(Some(child)),
                Ok(Step::Split) => {
                    let child = split(config, ops, &cursor, word);
                    cursor.descend(Some(child));
                }
                Ok(Step::Store(new)) => {
                    store(config, ops, &cursor, word, new, &mut broken);
                    cursor.step(cursor.end());
                }
                // The plan has met every word that this meets, so there is no refusal here.
                Ok(Step::Keep) | Err(_) => cursor.step(cursor.end()),
            }
        }
        broken.invalidate(ops);
        ops.publish();
    }
}

/// Replaces the entry `old` at the cursor by `new`, which is neither zero nor a table; `old` is not a table.
fn store(
    config: &Stage2Config,
    ops: &mut impl TableOps,
    cursor: &Cursor,
    old: u64,
    new: u64,
    broken: &mut Broken,
) {
    let geometry = config.geometry();
    let level = cursor.level();
    let was_leaf = geometry.kind(old, level) == Kind::Leaf;
    let is_leaf = geometry.kind(new, level) == Kind::Leaf;
    if old == 0 {
        cursor.get(ops);
    }
    if was_leaf && is_leaf && (old ^ new) & !STATE_MASK == 0 {
        // Hardware does not look at the state, so no translation changes.
        cursor.write(ops, new);
        return;
    }
    if was_leaf && !is_leaf {
        cursor.write(ops, new);
        broken.add(cursor);
        return;
    }
    if was_leaf {
        cursor.write(ops, LOCKED);
        ops.tlbi_leaf(cursor.base(), level);
    }
    if is_leaf {
        let phys = Phys::new(geometry.decode(new));
        let size = geometry.size(level);
        if config.cleans(new) {
            ops.clean_dcache(phys, size);
        }
        if config.invalidates_icache(new) {
            ops.invalidate_icache(phys, size);
        }
    }
    cursor.write(ops, new);
}

/// Puts a table where the cursor is, which says what the entry `old`, absent or a block, said.
fn split(config: &Stage2Config, ops: &mut impl TableOps, cursor: &Cursor, old: u64) -> Phys {
    let geometry = config.geometry();
    let level = cursor.level();
    let child = ops.alloc_table();
    if old == 0 {
        cursor.get(ops);
    } else {
        let below = level.below();
        let entries = geometry.granule().entries();
        let mut phys = geometry.decode(old);
        for index in 0..entries {
            ops.write(child, index, geometry.leaf_word(phys, geometry.attrs(old), below));
            phys += geometry.size(below);
        }
        ops.get(child, entries as u16);
        cursor.write(ops, LOCKED);
        ops.tlbi_leaf(cursor.base(), level);
    }
    cursor.write(ops, geometry.table_word(child));
    child
}

impl Stage2 {
    /// Checks that a mapping can be made, over whatever is there: nothing, an annotation, or another mapping. What may be
    /// replaced is the caller's decision, which it takes by [`Stage2::entries`].
    ///
    /// [`Error::Range`] where either range leaves its address space, [`Error::Invalid`] for ranges that are empty or not
    /// of whole pages and for permissions that [`Stage2Config::check_perms`] refuses, [`Error::NoMemory`] where tables
    /// are missing, [`Error::Busy`] for an entry that must not be replaced.
    pub fn plan_map(&self, ops: &impl TableOps, request: &MapRequest) -> Result<Plan> {
        let end = self.config().geometry().range(request.ipa.raw(), request.len)?;
        self.config().geometry().output_range(request.phys, request.len)?;
        let attrs = self
            .config()
            .attr_bits(request.perms, request.memory, request.state)?;
        let target = Target::Leaf {
            phys: request.phys.raw(),
            attrs,
            blocks: request.blocks,
        };
        let mut plan = Plan {
            start: request.ipa.raw(),
            end,
            target,
            tables: 0,
        };
        plan.count(self, ops)?;
        Ok(plan)
    }

    /// Checks that every page of a range can be marked as `owner`'s. Errors as for [`Stage2::plan_map`].
    pub fn plan_annotate(&self, ops: &impl TableOps, ipa: Ipa, len: u64, owner: Owner) -> Result<Plan> {
        let end = self.config().geometry().range(ipa.raw(), len)?;
        let mut plan = Plan {
            start: ipa.raw(),
            end,
            target: Target::Word(donated_word(owner)?),
            tables: 0,
        };
        plan.count(self, ops)?;
        Ok(plan)
    }

    /// Makes a mapping, or changes nothing. Errors as for [`Stage2::plan_map`].
    pub fn map(&self, ops: &mut impl TableOps, request: &MapRequest) -> Result<()> {
        self.plan_map(ops, request)?.commit(self, ops);
        Ok(())
    }

    /// Marks every page of a range as `owner`'s, or changes nothing. On return nobody can reach the pages through this
    /// table. Errors as for [`Stage2::plan_map`].
    pub fn annotate(&self, ops: &mut impl TableOps, ipa: Ipa, len: u64, owner: Owner) -> Result<()> {
        self.plan_annotate(ops, ipa, len, owner)?.commit(self, ops);
        Ok(())
    }
}
