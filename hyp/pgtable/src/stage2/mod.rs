// SPDX-License-Identifier: GPL-2.0-only
//! Stage 2: the host's identity map and the guests' tables.

mod attrs;
mod config;
#[cfg(test)]
mod directed_tests;
mod entry;
mod map;
#[cfg(test)]
mod tests;
mod unmap;

pub use attrs::Age;
pub use config::{Stage2Config, Stage2Features};
pub use entry::{Entries, Entry, Found, Leaf};
pub use map::{MapRequest, Plan};

use crate::cursor::Cursor;
use crate::geometry::Kind;
use crate::ops::TableOps;
use pkvm_types::{Error, Ipa, Phys, Result};

/// One stage-2 table. It is only a name: whoever holds the table's lock may copy it, and its words are behind
/// [`TableOps`].
#[derive(Clone, Copy, Debug)]
pub struct Stage2 {
    config: Stage2Config,
    root: Phys,
}

impl Stage2 {
    /// The table whose root is the [`Stage2Config::root_pages`] zeroed pages at `root`, each with one reference and
    /// aligned together to their size. [`Error::Invalid`] where they are not aligned, or beyond what hardware can
    /// address.
    pub fn new(config: Stage2Config, root: Phys) -> Result<Self> {
        let geometry = config.geometry();
        let bytes = geometry.root_pages() << geometry.granule().shift();
        geometry.output_range(root, bytes)?;
        if root.raw() & (bytes - 1) != 0 {
            return Err(Error::Invalid);
        }
        Ok(Self { config, root })
    }

    /// How the table is built.
    pub const fn config(&self) -> &Stage2Config {
        &self.config
    }
    /// The first page of the root, as VTTBR_EL2 wants it.
    pub const fn root(&self) -> Phys {
        self.root
    }

    pub(crate) fn cursor(&self, ipa: u64) -> Cursor {
        Cursor::new(self.config.geometry(), self.root, ipa)
    }

    /// The entry where a walk of `ipa` ends. The address need not be page aligned. [`Error::Range`] where it is beyond the
    /// table.
    pub fn lookup(&self, ops: &impl TableOps, ipa: Ipa) -> Result<Found> {
        if ipa.raw() >= self.config.geometry().limit() {
            return Err(Error::Range);
        }
        let (cursor, word) = self.walk(ops, ipa.raw());
        Ok(self.found(&cursor, word))
    }

    /// Walks to the last descriptor for `ipa`, which is below the limit, and gives its word.
    pub(crate) fn walk(&self, ops: &impl TableOps, ipa: u64) -> (Cursor, u64) {
        let geometry = self.config.geometry();
        let mut cursor = self.cursor(ipa);
        loop {
            let word = cursor.read(ops);
            if geometry.kind(word, cursor.level()) != Kind::Table {
                return (cursor, word);
            }
            cursor.descend(Some(geometry.child(word)));
        }
    }

    pub(crate) fn found(&self, cursor: &Cursor, word: u64) -> Found {
        Found {
            entry: self.config.decode(word, cursor.level()),
            level: cursor.level(),
            base: Ipa::new(cursor.base()),
        }
    }

    /// The entries that the `len` bytes from `ipa` on meet, absent ones too, in ascending order. The first and the last
    /// may reach beyond the range. [`Error::Range`] beyond the table, [`Error::Invalid`] for a range that is empty or not
    /// of whole pages.
    pub fn entries<'a, O: TableOps>(&self, ops: &'a O, ipa: Ipa, len: u64) -> Result<Entries<'a, O>> {
        let end = self.config.geometry().range(ipa.raw(), len)?;
        Ok(Entries::new(*self, ops, ipa.raw(), end))
    }
}
