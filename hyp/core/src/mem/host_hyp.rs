// SPDX-License-Identifier: GPL-2.0-only
//! What passes between host and hypervisor: pages lent and pinned, pages given, and the memcache that the host fills.

use pkvm_pgtable::Blocks;
use pkvm_pool::Memcache;
use pkvm_types::{Error, HypVa, PAGE_SIZE, Pfn, PfnRange, Phys, Result};

use super::ops::Words;
use super::table::{Standing, Transition};
use super::token::{HypPages, Lent, Pinned, Scrubbed};
use super::transfer::{LINEAR, Parts, check, prepare};
use super::{Host, Hyp};
use crate::machine::Machine;

/// A transition between host and hypervisor alone.
fn transfer<M: Machine>(
    m: &M,
    transition: Transition,
    host: &mut Host,
    hyp: &mut Hyp,
    pages: PfnRange,
) -> Result<()> {
    let checked = check(m, transition, pages)?;
    prepare(
        m,
        checked,
        Parts {
            host,
            hyp: Some(hyp),
            guest: None,
        },
    )?
    .commit();
    Ok(())
}

/// Lends a page of the host's to EL2 (`__pkvm_host_share_hyp`). EL2 does not map it before it is pinned.
///
/// [`Error::Perm`] or [`Error::Invalid`] where the page is not the host's own memory.
pub fn host_share_hyp<M: Machine>(m: &M, host: &mut Host, hyp: &mut Hyp, pfn: Pfn) -> Result<()> {
    transfer(m, Transition::HostShareHyp, host, hyp, PfnRange::single(pfn))
}

/// Ends that (`__pkvm_host_unshare_hyp`). [`Error::Busy`] while the page is pinned.
pub fn host_unshare_hyp<M: Machine>(m: &M, host: &mut Host, hyp: &mut Hyp, pfn: Pfn) -> Result<()> {
    transfer(m, Transition::HostUnshareHyp, host, hyp, PfnRange::single(pfn))
}

/// Gives pages of the host's to EL2. Their content is the host's still, and EL2 has them mapped.
///
/// [`Error::Invalid`] for a range beyond the address space or across a border of the memory map, [`Error::Perm`] where
/// a page is not the host's own, [`Error::NoMemory`] where tables are short.
pub fn host_donate_hyp<M: Machine>(
    m: &M,
    host: &mut Host,
    hyp: &mut Hyp,
    pages: PfnRange,
) -> Result<HypPages> {
    m.memory().check_limit(pages)?;
    transfer(m, Transition::HostDonateHyp, host, hyp, pages)?;
    Ok(HypPages::new(pages))
}

/// Gives a page of EL2's to the host: the only place where EL2 lets go of memory of its own.
///
/// [`Error::Perm`] or [`Error::Busy`], with the page given back, where it is not EL2's or is still in use.
pub fn hyp_donate_host<M: Machine>(
    m: &M,
    host: &mut Host,
    hyp: &mut Hyp,
    page: Scrubbed,
) -> Result<(), (Error, Scrubbed)> {
    match transfer(
        m,
        Transition::HypDonateHost,
        host,
        hyp,
        PfnRange::single(page.pfn()),
    ) {
        Ok(()) => Ok(()),
        Err(error) => Err((error, page)),
    }
}

/// Takes pages of the host's to read them. Errors as for [`host_donate_hyp`].
pub fn host_lend_hyp<M: Machine>(m: &M, host: &mut Host, hyp: &mut Hyp, pages: PfnRange) -> Result<Lent> {
    Ok(Lent::new(host_donate_hyp(m, host, hyp, pages)?.rest()))
}

/// Gives such pages back, as they are. [`Error::NoMemory`] where the host's tables are short; the pages stay EL2's then.
pub fn hyp_return_lent<M: Machine>(m: &M, host: &mut Host, hyp: &mut Hyp, lent: Lent) -> Result<()> {
    transfer(m, Transition::HypDonateHost, host, hyp, lent.range())
}

/// Pins pages that the host lends to EL2: none of them can be unshared, and EL2 has them mapped. All or none.
///
/// [`Error::Perm`] or [`Error::Invalid`] where a page is not lent to EL2, [`Error::Busy`] where one is pinned as often as
/// can be counted, [`Error::NoMemory`] where EL2 has no memory for tables.
pub fn pin<M: Machine>(m: &M, _host: &mut Host, hyp: &mut Hyp, pages: PfnRange) -> Result<Pinned> {
    m.memory().check_memory(pages)?;
    for pfn in pages.iter() {
        let record = m.record(pfn).ok_or(Error::Perm)?;
        if Standing::of(record) != Some(Standing::HostHyp) {
            return Err(Error::Perm);
        }
    }
    let (s1, mut ops) = hyp.split(m);
    let mut tables = 0usize;
    for pfn in pages.iter() {
        match m.record(pfn).map_or(u16::MAX, pkvm_pool::PageMeta::refcount) {
            u16::MAX => return Err(Error::Busy),
            0 => {
                let phys = pfn.phys();
                let plan = s1.plan_map(
                    &ops,
                    m.linear_va(phys),
                    PAGE_SIZE,
                    phys,
                    LINEAR,
                    Blocks::PagesOnly,
                )?;
                tables = tables.saturating_add(plan.tables());
            }
            _ => {}
        }
    }
    // Each plan was made as if it were alone. If their needs fit together as well, none of them can fail below.
    if tables > pkvm_pgtable::TableOps::available(&ops) {
        return Err(Error::NoMemory);
    }
    for pfn in pages.iter() {
        let phys = pfn.phys();
        if m.record(pfn).is_some_and(|record| record.inc_ref() == Ok(1)) {
            let mapped = s1.map(
                &mut ops,
                m.linear_va(phys),
                PAGE_SIZE,
                phys,
                LINEAR,
                Blocks::PagesOnly,
            );
            debug_assert_eq!(mapped, Ok(()));
        }
    }
    Ok(Pinned::new(pages))
}

/// Pins every page that the `len` bytes from `va` in EL2's linear map touch. Errors as for [`pin`], and
/// [`Error::Invalid`] for an empty or a wrapping range.
pub fn pin_va<M: Machine>(m: &M, host: &mut Host, hyp: &mut Hyp, va: HypVa, len: u64) -> Result<Pinned> {
    let first = m.linear_phys(va);
    let last = len
        .checked_sub(1)
        .and_then(|len| first.checked_add(len))
        .ok_or(Error::Invalid)?;
    let (first, last) = (Pfn::of(first), Pfn::of(last));
    let count = last
        .raw()
        .checked_sub(first.raw())
        .and_then(|count| count.checked_add(1))
        .ok_or(Error::Invalid)?;
    let pages = PfnRange::checked(first, count)?;
    m.memory().check_limit(pages)?;
    pin(m, host, hyp, pages)
}

/// Pins a page that nothing else has pinned; errors as for [`pin`], and [`Error::Busy`] for a page that is pinned. So one
/// page cannot serve two purposes, and a list that names a page twice is found out at the second.
pub fn pin_alone<M: Machine>(m: &M, host: &mut Host, hyp: &mut Hyp, pfn: Pfn) -> Result<Pinned> {
    if m.record(pfn).is_some_and(|record| record.refcount() != 0) {
        return Err(Error::Busy);
    }
    pin(m, host, hyp, PfnRange::single(pfn))
}

/// Drops a pin. A page without pins is not mapped at EL2 any more, and no TLB holds it.
pub fn unpin<M: Machine>(m: &M, _host: &mut Host, hyp: &mut Hyp, pinned: Pinned) {
    let (s1, mut ops) = hyp.split(m);
    for pfn in pinned.range().iter() {
        let Some(record) = m.record(pfn) else { continue };
        // Unmapped before the count says so: whoever sees zero may give the page away.
        if record.refcount() == 1 {
            let unmapped = s1.unmap(&mut ops, m.linear_va(pfn.phys()), PAGE_SIZE);
            debug_assert_eq!(unmapped, Ok(()));
        }
        let dropped = record.dec_ref();
        debug_assert!(dropped.is_ok());
    }
}

/// Lends a page of the host's to EL2 and pins it, for as long as EL2 needs it. Errors as for [`host_share_hyp`] and
/// [`pin`].
pub fn borrow_page<M: Machine>(m: &M, host: &mut Host, hyp: &mut Hyp, pfn: Pfn) -> Result<Pinned> {
    host_share_hyp(m, host, hyp, pfn)?;
    let pinned = pin(m, host, hyp, PfnRange::single(pfn));
    if pinned.is_err() {
        // It was lent a moment ago, so nobody else has pinned it.
        let returned = host_unshare_hyp(m, host, hyp, pfn);
        debug_assert_eq!(returned, Ok(()));
    }
    pinned
}

/// Ends what [`borrow_page`] began. A page that the host made EL2 pin for another purpose too stays lent for that one; the
/// host ends the loan itself when it is over.
pub fn return_page<M: Machine>(m: &M, host: &mut Host, hyp: &mut Hyp, page: Pinned) {
    let pfn = page.range().start();
    unpin(m, host, hyp, page);
    match host_unshare_hyp(m, host, hyp, pfn) {
        Ok(()) | Err(Error::Busy) => {}
        Err(_) => debug_assert!(false, "a pinned page lost its standing"),
    }
}

/// The list of pages that the host offers to a vCPU, in the words of its `struct kvm_hyp_memcache`, read once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostList {
    /// The address of the first page.
    pub head: u64,
    /// How many pages the host says there are.
    pub count: u64,
}

/// The most pages that a memcache of EL2's is filled to. Mapping a page takes at most four tables, and EL1 asks for as
/// many as that; the rest is room for EL1 to ask for more some day, and a bound for EL2.
pub const MEMCACHE_LIMIT: u64 = 16;

/// Moves pages from the host's list until `memcache` has as many as the list had, or [`MEMCACHE_LIMIT`]. On return `list`
/// is what the host must see, on errors too: pages that moved stay moved.
///
/// [`Error::NoMemory`] where the list ends or a page of it cannot be taken. A link is read after its page is EL2's.
pub fn refill_memcache<M: Machine>(
    m: &M,
    host: &mut Host,
    hyp: &mut Hyp,
    memcache: &mut Memcache,
    list: &mut HostList,
) -> Result<()> {
    let target = list.count.min(MEMCACHE_LIMIT);
    while memcache.len() < target {
        let rest = list.count.checked_sub(1).ok_or(Error::NoMemory)?;
        let page = PfnRange::single(Pfn::of(Phys::new(list.head)));
        let page = host_donate_hyp(m, host, hyp, page)
            .map_err(|_| Error::NoMemory)?
            .rest()
            .start();
        *list = HostList {
            head: m.read_word(page.phys(), 0),
            count: rest,
        };
        memcache.push(&Words(m), page);
    }
    Ok(())
}

/// Takes a page out of a list of EL2's own, `None` at its end.
pub fn memcache_pop<M: Machine>(m: &M, memcache: &mut Memcache) -> Option<HypPages> {
    memcache
        .pop(&Words(m))
        .map(|pfn| HypPages::new(PfnRange::single(pfn)))
}
