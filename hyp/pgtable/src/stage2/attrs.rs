// SPDX-License-Identifier: GPL-2.0-only
//! Changing what a mapping allows, and its access flag.
//!
//! Hardware may set the access flag while one of these rewrites the descriptor; then that update can be lost, and the next
//! access sets it again.

use super::entry::{S2AP_R, S2AP_W, XN_MASK};
use super::{Entry, Stage2, Stage2Config};
use crate::geometry::{Kind, Level, state_bits};
use crate::ops::TableOps;
use crate::{ACCESS_FLAG, STATE_MASK};
use pkvm_types::{Error, Ipa, PageState, Perms, Phys, Result};

/// What to do with the access flags of a range besides reading them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Age {
    /// Nothing.
    Test,
    /// Clear them.
    Clear,
}

impl Stage2 {
    /// Rewrites each leaf that meets the range by `change` and leaves everything else alone.
    fn update(
        &self,
        ops: &mut impl TableOps,
        ipa: Ipa,
        len: u64,
        mut change: impl FnMut(u64) -> u64,
    ) -> Result<()> {
        let geometry = self.config().geometry();
        let end = geometry.range(ipa.raw(), len)?;
        let mut cursor = self.cursor(ipa.raw());
        while cursor.ia() < end {
            let word = cursor.read(ops);
            match geometry.kind(word, cursor.level()) {
                Kind::Table => {
                    cursor.descend(Some(geometry.child(word)));
                    continue;
                }
                Kind::Leaf => {
                    let new = change(word);
                    if new != word {
                        cursor.write(ops, new);
                    }
                }
                Kind::Invalid => {}
            }
            cursor.step(cursor.end());
        }
        Ok(())
    }

    /// Takes write permission from every leaf that meets the range; a block loses it as a whole. TLBs may go on allowing
    /// writes until the caller's caller invalidates the VMID, which EL1 does once for many ranges. Errors as for
    /// [`Stage2::entries`].
    pub fn wrprotect(&self, ops: &mut impl TableOps, ipa: Ipa, len: u64) -> Result<()> {
        self.update(ops, ipa, len, |word| word & !S2AP_W)
    }

    /// Whether any leaf that meets the range is young, and, as asked, makes them all old. There is no TLB invalidation: EL1
    /// asks for it when it wants the answer to be exact. Errors as for [`Stage2::entries`].
    pub fn age(&self, ops: &mut impl TableOps, ipa: Ipa, len: u64, age: Age) -> Result<bool> {
        let mut young = false;
        self.update(ops, ipa, len, |word| {
            young |= word & ACCESS_FLAG != 0;
            match age {
                Age::Test => word,
                Age::Clear => word & !ACCESS_FLAG,
            }
        })?;
        Ok(young)
    }

    /// The last descriptor for `ipa`. [`Error::Range`] beyond the table.
    fn leaf(&self, ops: &impl TableOps, ipa: Ipa) -> Result<(crate::cursor::Cursor, u64)> {
        if ipa.raw() >= self.config().geometry().limit() {
            return Err(Error::Range);
        }
        Ok(self.walk(ops, ipa.raw()))
    }

    /// Marks the leaf at `ipa` young. [`Error::Again`] where there is none, [`Error::Range`] beyond the table.
    pub fn mkyoung(&self, ops: &mut impl TableOps, ipa: Ipa) -> Result<()> {
        let (cursor, word) = self.leaf(ops, ipa)?;
        if self.config().geometry().kind(word, cursor.level()) != Kind::Leaf {
            return Err(Error::Again);
        }
        if word & ACCESS_FLAG == 0 {
            cursor.write(ops, word | ACCESS_FLAG);
            ops.publish();
        }
        Ok(())
    }

    /// Adds `perms` to the leaf at `ipa` and gives its level. Where execution is asked for at all, it becomes exactly what is
    /// asked. This CPU's TLB is invalidated; others may go on refusing until they fault themselves.
    ///
    /// [`Error::Again`] where there is no leaf; this CPU's TLB is invalidated all the same, since a stale entry may be
    /// why it faulted. [`Error::Range`] beyond the table, [`Error::Invalid`] as for [`Stage2Config::check_perms`].
    pub fn relax_perms(&self, ops: &mut impl TableOps, ipa: Ipa, perms: Perms) -> Result<Level> {
        let xn = if perms.intersects(Perms::X) {
            Some(self.config().xn(perms)?)
        } else {
            None
        };
        let (cursor, old) = self.leaf(ops, ipa)?;
        let Entry::Leaf(leaf) = self.config().decode(old, cursor.level()) else {
            ops.tlbi_local(ipa.raw(), None);
            return Err(Error::Again);
        };
        let mut new = old;
        if let Some(xn) = xn {
            self.config().check_perms(perms, leaf.memory)?;
            new = new & !XN_MASK | xn;
        }
        if perms.contains(Perms::R) {
            new |= S2AP_R;
        }
        if perms.contains(Perms::W) {
            new |= S2AP_W;
        }
        if new != old {
            if !Stage2Config::executable(old) && self.config().invalidates_icache(new) {
                // Stale instructions must be gone before the guest may fetch the page.
                let size = self.config().geometry().size(cursor.level());
                ops.invalidate_icache(Phys::new(self.config().geometry().decode(new)), size);
            }
            cursor.write(ops, new);
        }
        ops.tlbi_local(cursor.base(), Some(cursor.level()));
        Ok(cursor.level())
    }

    /// Records `state` in the page leaf at `ipa`. Translation does not change. [`Error::Range`] beyond the table,
    /// [`Error::NotFound`] where no page is mapped, [`Error::TooBig`] for a block.
    pub fn set_state(&self, ops: &mut impl TableOps, ipa: Ipa, state: PageState) -> Result<()> {
        let (cursor, word) = self.leaf(ops, ipa)?;
        if self.config().geometry().kind(word, cursor.level()) != Kind::Leaf {
            return Err(Error::NotFound);
        }
        if !cursor.level().is_last() {
            return Err(Error::TooBig);
        }
        cursor.write(ops, word & !STATE_MASK | state_bits(state));
        Ok(())
    }
}
