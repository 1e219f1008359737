// SPDX-License-Identifier: GPL-2.0-only
//! Taking mappings away, and taking the whole table apart.

use super::Stage2;
use super::entry::{Entry, POISONED};
use crate::broken::Broken;
use crate::cursor::Cursor;
use crate::geometry::Kind;
use crate::ops::TableOps;
use pkvm_types::{Error, Ipa, Phys, Result};

impl Stage2 {
    /// Removes every entry that meets the range, annotations too. A block that meets it goes as a whole. Tables that become
    /// empty are given back. On return no TLB holds any of it, and pages that need it are cleaned from the data
    /// caches. It takes no memory. Errors as for [`Stage2::entries`].
    pub fn unmap(&self, ops: &mut impl TableOps, ipa: Ipa, len: u64) -> Result<()> {
        let config = self.config();
        let geometry = config.geometry();
        let end = geometry.range(ipa.raw(), len)?;
        let mut broken = Broken::default();
        let mut cursor = self.cursor(ipa.raw());
        loop {
            let word = cursor.read(ops);
            match geometry.kind(word, cursor.level()) {
                Kind::Table => {
                    cursor.descend(Some(geometry.child(word)));
                    continue;
                }
                Kind::Leaf => {
                    cursor.write(ops, 0);
                    cursor.put(ops);
                    if config.cleans(word) {
                        // The page may be cleaned only once nobody can write to it any more, at this address or at one
                        // before it in the range.
                        core::mem::take(&mut broken).invalidate(ops);
                        ops.tlbi_leaf(cursor.base(), cursor.level());
                        ops.clean_dcache(Phys::new(geometry.decode(word)), geometry.size(cursor.level()));
                    } else {
                        broken.add(&cursor);
                    }
                }
                Kind::Invalid if word != 0 => {
                    cursor.write(ops, 0);
                    cursor.put(ops);
                }
                Kind::Invalid => {}
            }
            let next = cursor.end();
            while next >= end || cursor.leaves_table(next) {
                let Some(child) = cursor.ascend() else { break };
                free_if_empty(ops, &cursor, child);
            }
            if next >= end {
                break;
            }
            cursor.step(next);
        }
        broken.invalidate(ops);
        Ok(())
    }

    /// Replaces the page at `ipa` by a mark that the host took it by force, and takes no memory for that. On return no TLB
    /// holds the page.
    ///
    /// [`Error::Range`] beyond the table, [`Error::NotFound`] where nothing is mapped, [`Error::TooBig`] for a block,
    /// [`Error::Poisoned`] where the mark is there already, [`Error::Perm`] for any other entry.
    pub fn poison(&self, ops: &mut impl TableOps, ipa: Ipa) -> Result<()> {
        if ipa.raw() >= self.config().geometry().limit() {
            return Err(Error::Range);
        }
        let (cursor, word) = self.walk(ops, ipa.raw());
        match self.config().decode(word, cursor.level()) {
            Entry::Leaf(_) if cursor.level().is_last() => {
                cursor.write(ops, POISONED);
                ops.tlbi_leaf(cursor.base(), cursor.level());
                Ok(())
            }
            Entry::Leaf(_) => Err(Error::TooBig),
            Entry::Absent => Err(Error::NotFound),
            Entry::Poisoned => Err(Error::Poisoned),
            _ => Err(Error::Perm),
        }
    }

    /// Takes the table apart. The caller makes sure that no CPU uses it any more or ever again; translations that TLBs still
    /// hold go first. Every table but the root is given back. The root, which is left zeroed with one reference for
    /// each of its pages, is the caller's again.
    pub fn destroy(self, ops: &mut impl TableOps) -> Phys {
        let geometry = *self.config().geometry();
        ops.tlbi_all();
        let mut cursor = self.cursor(0);
        loop {
            let word = cursor.read(ops);
            if geometry.kind(word, cursor.level()) == Kind::Table {
                cursor.descend(Some(geometry.child(word)));
                continue;
            }
            if word != 0 {
                cursor.write(ops, 0);
                cursor.put(ops);
            }
            let next = cursor.end();
            while next >= geometry.limit() || cursor.leaves_table(next) {
                let Some(child) = cursor.ascend() else { break };
                cursor.write(ops, 0);
                cursor.put(ops);
                ops.free_table(child);
            }
            if next >= geometry.limit() {
                return self.root();
            }
            cursor.step(next);
        }
    }
}

/// Unlinks and frees `child`, the table that the cursor's descriptor points to, where it has become empty.
fn free_if_empty(ops: &mut impl TableOps, cursor: &Cursor, child: Phys) {
    if ops.count(child) == 1 {
        cursor.write(ops, 0);
        cursor.put(ops);
        // Walkers may have the descriptor cached; only then is the page free.
        ops.tlbi_table(cursor.ia());
        ops.free_table(child);
    }
}
