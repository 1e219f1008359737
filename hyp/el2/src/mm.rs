// SPDX-License-Identifier: GPL-2.0-only
//! EL2's own address space beyond the linear map: the private range, from which stacks, vectors and devices get
//! addresses, and the fixmap slots through which EL2 looks at one page that it does not own. It does the job of the
//! kernel's `nvhe/mm.c`.
//!
//! The private range is part of [`crate::state::HYP`]. A fixmap window belongs to one CPU and needs no lock.

use pkvm_arch::{barrier, tlbi};
use pkvm_pgtable::HypAttrs;
use pkvm_types::{Error, HypVa, PAGE_SIZE, Perms, Phys, Result, page_align};

use crate::state::fixmap;
use crate::words;

/// A range of EL2 addresses that is handed out from the bottom up and never taken back.
pub struct PrivateVa {
    base: u64,
    next: u64,
    end: u64,
}

impl PrivateVa {
    /// A range without addresses.
    pub const fn new() -> Self {
        Self {
            base: 0,
            next: 0,
            end: 0,
        }
    }
    /// The range from `base` up to, and without, `end`.
    pub fn init(&mut self, base: HypVa, end: HypVa) {
        *self = Self {
            base: base.raw(),
            next: base.raw(),
            end: end.raw(),
        };
    }
    /// Where the range begins.
    pub fn base(&self) -> HypVa {
        HypVa::new(self.base)
    }
    /// Takes `bytes`, rounded up to pages, at a multiple of `align`, a power of two. [`Error::NoMemory`] where the
    /// range has no such piece left.
    pub fn take(&mut self, bytes: u64, align: u64) -> Result<HypVa> {
        let bytes = page_align(bytes)
            .filter(|bytes| *bytes != 0)
            .ok_or(Error::Invalid)?;
        let align = align.max(PAGE_SIZE);
        let start = self.next.checked_add(align - 1).ok_or(Error::NoMemory)? & !(align - 1);
        let next = start
            .checked_add(bytes)
            .filter(|next| *next <= self.end)
            .ok_or(Error::NoMemory)?;
        self.next = next;
        Ok(HypVa::new(start))
    }
}

/// Runs `f` with an EL2 address at which the page at `page` can be read and written. The page need not be EL2's; the
/// caller has made sure that EL2 may see it. `f` must not call this again.
pub fn with_page<R>(page: Phys, f: impl FnOnce(HypVa) -> R) -> R {
    let Some(slot) = fixmap() else { bug!() };
    let Ok(word) = slot.word(page, HypAttrs::normal(Perms::RW)) else {
        bug!()
    };
    let (table, index) = slot.position();
    words::write(table, index, word);
    barrier::dsb_ishst();
    // The walker might otherwise not see the store before the first access below.
    barrier::isb();
    let result = f(slot.va());
    words::write(table, index, 0);
    // Another CPU may have walked here by speculation; it must not combine the next page with this one, so the
    // invalidation goes to all CPUs although only this one uses the window.
    barrier::dsb_ishst();
    tlbi::vale2is(tlbi::by_address(
        slot.va().raw(),
        u8::try_from(slot.level().raw()).ok(),
    ));
    tlbi::sync_ish();
    barrier::isb();
    result
}
