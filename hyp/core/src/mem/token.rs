// SPDX-License-Identifier: GPL-2.0-only
//! Pages in flight, as values that cannot be copied. A page that EL2 owns is at rest in its record and tables, or in the
//! hand of exactly one piece of code as one of these. Losing a token leaks the page to EL2, which is safe; there is no
//! way to make one for a page that EL2 does not own.

use pkvm_types::{Error, HypVa, PTES_PER_TABLE, Pfn, PfnRange, Result};

use super::table::Standing;
use super::{Hyp, MemoryMap};
use crate::machine::{Machine, Reach};

/// Pages that EL2 owns and has mapped in its linear map, with any content.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "dropping the pages leaks them to EL2"]
pub struct HypPages {
    range: PfnRange,
}

/// A page that EL2 owns, zeroed but for a list link in its first word, and clean to the point of coherency: the only
/// form in which EL2 gives memory to the host.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "dropping the page leaks it to EL2"]
pub struct Scrubbed {
    pfn: Pfn,
}

/// Pages of the host's that are EL2's for a moment, so that nobody writes to them while EL2 reads. EL2 does not write
/// to them: they go back with what the host left there. Caches may hold words that the host wrote before through mappings
/// of different memory types, so that two reads of a word may still differ.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "dropping the pages leaks them to EL2"]
pub struct Lent {
    range: PfnRange,
}

/// Pages that the host lends to EL2, pinned: mapped in the linear map, and not to be unshared until [`unpin`].
///
/// [`unpin`]: super::unpin
#[derive(Debug, PartialEq, Eq)]
#[must_use = "dropping a pin without unpin() keeps the pages pinned for ever"]
pub struct Pinned {
    range: PfnRange,
}

static_assertions::assert_not_impl_any!(HypPages: Clone, Copy);
static_assertions::assert_not_impl_any!(Scrubbed: Clone, Copy);
static_assertions::assert_not_impl_any!(Lent: Clone, Copy);
static_assertions::assert_not_impl_any!(Pinned: Clone, Copy);

impl HypPages {
    /// For the transitions that have just made EL2 the owner.
    pub(super) const fn new(range: PfnRange) -> Self {
        Self { range }
    }

    /// Takes up pages that were at rest, as the memory of a VM structure or the pages of a list of EL2's own. The caller
    /// says that nothing else uses them. [`Error::Perm`] where a page is not EL2's or is hypervisor text, and
    /// [`Error::Busy`] where one is referenced, as a page table is.
    pub fn claim<M: Machine>(m: &M, _hyp: &mut Hyp, range: PfnRange) -> Result<Self> {
        m.memory().check_memory(range)?;
        for pfn in range.iter() {
            let record = m.record(pfn).ok_or(Error::Perm)?;
            if Standing::of(record) != Some(Standing::Hyp) || m.memory().is_hyp_text(pfn) {
                return Err(Error::Perm);
            }
            if record.refcount() != 0 {
                return Err(Error::Busy);
            }
        }
        Ok(Self { range })
    }

    /// The pages.
    pub const fn range(&self) -> PfnRange {
        self.range
    }

    /// Where EL2 sees the first byte.
    pub fn va<M: Machine>(&self, m: &M) -> HypVa {
        m.linear_va(self.range.start().phys())
    }

    /// Fills the pages with zeroes.
    pub fn zero<M: Machine>(&self, m: &M) {
        self.range.iter().for_each(|pfn| m.zero_page(pfn));
    }

    /// The first page, and the rest where there is one.
    pub fn split_first(self) -> (Self, Option<Self>) {
        let first = Self {
            range: PfnRange::single(self.range.start()),
        };
        let rest = self
            .range
            .start()
            .checked_add(1)
            .zip(self.range.count().checked_sub(1));
        let rest = rest.and_then(|(start, count)| PfnRange::checked(start, count).ok());
        (first, rest.map(|range| Self { range }))
    }

    /// Makes the first page fit for the host, with `link` in its first 8 bytes, and leaves the rest where there is one.
    pub fn scrub_first<M: Machine>(self, m: &M, link: u64) -> (Scrubbed, Option<Self>) {
        let (first, rest) = self.split_first();
        let pfn = first.range.start();
        m.scrub_page(pfn, Reach::Linear, link);
        (Scrubbed { pfn }, rest)
    }

    /// Puts the pages to rest: the caller has recorded where they are, and takes them up again with
    /// [`claim`](Self::claim).
    pub fn rest(self) -> PfnRange {
        self.range
    }
}

impl Scrubbed {
    /// The page.
    pub const fn pfn(&self) -> Pfn {
        self.pfn
    }
}

impl Lent {
    /// For the transition that has just made EL2 the owner.
    pub(super) const fn new(range: PfnRange) -> Self {
        Self { range }
    }

    /// The pages.
    pub const fn range(&self) -> PfnRange {
        self.range
    }

    /// Word `index` of the pages, `None` past their end.
    pub fn word<M: Machine>(&self, m: &M, index: u64) -> Option<u64> {
        let page = index / PTES_PER_TABLE;
        if page >= self.range.count() {
            return None;
        }
        let pfn = self.range.start().checked_add(page)?;
        let within = index % PTES_PER_TABLE;
        Some(m.read_word(pfn.phys(), within as usize))
    }
}

impl Pinned {
    /// For the function that has just taken the references.
    pub(super) const fn new(range: PfnRange) -> Self {
        Self { range }
    }

    /// The pages.
    pub const fn range(&self) -> PfnRange {
        self.range
    }

    /// Puts the pin to rest: the caller has recorded that it holds one reference on each page of the range.
    pub fn rest(self) -> PfnRange {
        self.range
    }

    /// Takes up a pin that was put to rest. [`Error::Perm`] where the pages are not lent to EL2, or not pinned.
    pub fn claim<M: Machine>(m: &M, _hyp: &mut Hyp, range: PfnRange) -> Result<Self> {
        let map: &MemoryMap = m.memory();
        map.check_memory(range)?;
        for pfn in range.iter() {
            let record = m.record(pfn).ok_or(Error::Perm)?;
            if Standing::of(record) != Some(Standing::HostHyp) || record.refcount() == 0 {
                return Err(Error::Perm);
            }
        }
        Ok(Self { range })
    }
}
