// SPDX-License-Identifier: GPL-2.0-only
//! Invalidation that waits for the end of a range.

use crate::cursor::Cursor;
use crate::geometry::Level;
use crate::ops::TableOps;

/// Leaves that were made invalid and whose translations may still be in a TLB. Nothing valid takes their place, so the
/// invalidation can wait for the end of the range, where one covers them all.
#[derive(Default)]
pub(crate) struct Broken {
    /// The first leaf's address and level.
    first: Option<(u64, Level)>,
    end: u64,
    single: bool,
}

impl Broken {
    /// Adds the leaf at the cursor.
    pub(crate) fn add(&mut self, cursor: &Cursor) {
        self.single = self.first.is_none();
        if self.first.is_none() {
            self.first = Some((cursor.base(), cursor.level()));
        }
        self.end = cursor.end();
    }

    /// Invalidates what was added.
    pub(crate) fn invalidate(self, ops: &mut impl TableOps) {
        match self.first {
            None => {}
            Some((base, level)) if self.single => ops.tlbi_leaf(base, level),
            Some((base, _)) => ops.tlbi_range(base, self.end - base),
        }
    }
}
