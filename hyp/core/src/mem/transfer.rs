// SPDX-License-Identifier: GPL-2.0-only
//! Executes a row of the transition table: check the pages, prepare, commit.
//!
//! The locks are held by the caller, who proves it with the exclusive borrows in [`Parts`]. What the pages' records say
//! is checked by [`check`]; [`prepare`] plans every page-table update, with the memory it takes, and refuses before
//! anything has changed; [`Prepared::commit`] cannot fail.

use pkvm_pgtable::{Blocks, HypAttrs, HypPlan, MapRequest, MemType, Plan};
use pkvm_pool::{Memcache, PageMeta};
use pkvm_types::{Error, Gfn, Ipa, Owner, PageState, Perms, PfnRange, Phys, Result, ShareReason};

use super::table::{Change, Effect, Pins, Row, Standing, Transition};
use super::{Guest, Host, Hyp};
use crate::machine::{Machine, Reach};

/// The permissions of memory in the host's stage 2.
pub(super) const HOST_MEMORY: Perms = Perms::RWX;
/// The permissions of what is not memory in the host's stage 2.
pub(super) const HOST_DEVICE: Perms = Perms::RW;

/// The components that take part, each with its lock held.
pub(super) struct Parts<'a> {
    pub host: &'a mut Host,
    pub hyp: Option<&'a mut Hyp>,
    pub guest: Option<GuestSide<'a>>,
}

/// The VM that takes part, and where.
pub(super) struct GuestSide<'a> {
    pub guest: &'a mut Guest,
    pub gfn: Gfn,
    pub perms: Perms,
    pub memcache: Option<&'a mut Memcache>,
}

/// Pages whose records allow a transition. The locks that make it stay true are held.
pub(super) struct Checked<'a> {
    row: &'static Row,
    pages: PfnRange,
    records: &'a [PageMeta],
}

/// A transition that can only succeed.
#[must_use = "a prepared transition may have taken an entry out of a table already"]
pub(super) struct Prepared<'a, M> {
    m: &'a M,
    row: &'static Row,
    pages: PfnRange,
    records: &'a [PageMeta],
    parts: Parts<'a>,
    host: Option<Plan>,
    hyp: Option<HypPlan>,
    guest: Option<Plan>,
}

/// Whether the records of `pages` allow `transition`. [`Error::Invalid`] or [`Error::Perm`] where they are not memory,
/// [`Error::Perm`] for a standing that the row does not start from, [`Error::Busy`] for a pinned page, or for one that
/// normal VMs map as often as can be counted.
pub(super) fn check<M: Machine>(m: &M, transition: Transition, pages: PfnRange) -> Result<Checked<'_>> {
    let row = transition.row();
    let map = m.memory();
    map.check_memory(pages)?;
    // Hypervisor text stands as EL2's, but the host has a mapping of it, and it never changes owner.
    if map.has_hyp_text(pages) {
        return Err(Error::Perm);
    }
    let records = m.records(pages).ok_or(Error::Perm)?;
    for record in records {
        if !Standing::of(record).is_some_and(|standing| row.starts_from(standing)) {
            return Err(Error::Perm);
        }
        if row.change == Change::AddGuest && record.share() == ShareReason::Guests(u32::MAX) {
            return Err(Error::Busy);
        }
    }
    if row.pins == Pins::Refuse && records.iter().any(|record| record.refcount() != 0) {
        return Err(Error::Busy);
    }
    Ok(Checked { row, pages, records })
}

/// Plans the transition's page-table updates. [`Error::NoMemory`] where tables are short, [`Error::Range`] for a guest
/// frame beyond the address space. Where the row begins by taking an entry out of a table, that is done here, after all
/// that can be refused: what follows can be nothing but the commit.
pub(super) fn prepare<'a, M: Machine>(
    m: &'a M,
    checked: Checked<'a>,
    mut parts: Parts<'a>,
) -> Result<Prepared<'a, M>> {
    let Checked { row, pages, records } = checked;
    let len = pages.bytes().ok_or(Error::Invalid)?;
    let phys = pages.start().phys();
    let host = if row.has(Effect::HostAnnotate) {
        let owner = match &parts.guest {
            Some(side) => Owner::Guest {
                handle: side.guest.handle(),
                gfn: side.gfn,
            },
            None => Owner::Hyp,
        };
        Some(parts.host.retry_without_devices(m, |s2, ops| {
            s2.plan_annotate(ops, Ipa::new(phys.raw()), len, owner)
        })?)
    } else if row.has(Effect::HostMap) {
        let request = host_map(phys, len, HOST_MEMORY, Blocks::PagesOnly);
        Some(
            parts
                .host
                .retry_without_devices(m, |s2, ops| s2.plan_map(ops, &request))?,
        )
    } else {
        None
    };
    let hyp = match &mut parts.hyp {
        Some(hyp) if row.has(Effect::HypMap) => {
            let (s1, ops) = hyp.split(m);
            Some(s1.plan_map(&ops, m.linear_va(phys), len, phys, LINEAR, Blocks::PagesOnly)?)
        }
        _ => None,
    };
    let guest = match (&mut parts.guest, row.guest) {
        (Some(side), Some((_, to))) if row.has(Effect::GuestMap) || row.has(Effect::GuestMark) => {
            let state = to.leaf().ok_or(Error::Invalid)?;
            let request = guest_map(side.gfn, phys, len, side.perms, state);
            let (s2, ops) = side.guest.split(m, side.memcache.as_deref_mut())?;
            Some(s2.plan_map(&ops, &request)?)
        }
        _ => None,
    };
    take_out(m, row, pages, len, &mut parts)?;
    Ok(Prepared {
        m,
        row,
        pages,
        records,
        parts,
        host,
        hyp,
        guest,
    })
}

/// EL2's mapping of a page in the linear map.
pub(super) const LINEAR: HypAttrs = HypAttrs {
    perms: Perms::RW,
    memory: MemType::Normal,
    state: PageState::Owned,
};

/// A mapping of the host's at the page's own address.
pub(super) fn host_map(phys: Phys, len: u64, perms: Perms, blocks: Blocks) -> MapRequest {
    let ipa = Ipa::new(phys.raw());
    MapRequest {
        ipa,
        len,
        phys,
        perms,
        memory: MemType::Normal,
        state: PageState::Owned,
        blocks,
    }
}

fn guest_map(gfn: Gfn, phys: Phys, len: u64, perms: Perms, state: PageState) -> MapRequest {
    let blocks = if len > pkvm_types::PAGE_SIZE {
        Blocks::Allowed
    } else {
        Blocks::PagesOnly
    };
    MapRequest {
        ipa: gfn.ipa(),
        len,
        phys,
        perms,
        memory: MemType::Normal,
        state,
        blocks,
    }
}

/// The first step of a row that takes an entry out of a table.
fn take_out<M: Machine>(m: &M, row: &Row, pages: PfnRange, len: u64, parts: &mut Parts<'_>) -> Result<()> {
    match (row.effects.first(), &mut parts.hyp, &mut parts.guest) {
        (Some(Effect::HypUnmap), Some(hyp), _) => {
            let (s1, mut ops) = hyp.split(m);
            s1.unmap(&mut ops, m.linear_va(pages.start().phys()), len)
        }
        (Some(Effect::GuestUnmap), _, Some(side)) => {
            let (s2, mut ops) = side.guest.split(m, None)?;
            s2.unmap(&mut ops, side.gfn.ipa(), len)
        }
        (Some(Effect::GuestPoison), _, Some(side)) => {
            let (s2, mut ops) = side.guest.split(m, None)?;
            s2.poison(&mut ops, side.gfn.ipa())
        }
        _ => Ok(()),
    }
}

impl<M: Machine> Prepared<'_, M> {
    /// Executes the steps of the row in their order.
    pub(super) fn commit(mut self) {
        for effect in self.row.effects {
            match effect {
                Effect::HostAnnotate | Effect::HostMap => {
                    if let Some(plan) = self.host.take() {
                        let (s2, mut ops) = self.parts.host.split(self.m);
                        plan.commit(s2, &mut ops);
                    }
                }
                Effect::DvmSync => self.m.dvmsync_workaround(),
                Effect::Records => self.change_records(),
                Effect::HypMap => self.map_hyp(),
                Effect::GuestMap | Effect::GuestMark => self.map_guest(),
                Effect::Zero => self
                    .pages
                    .iter()
                    .for_each(|pfn| self.m.scrub_page(pfn, Reach::Fixmap, 0)),
                // Done by `prepare`, at whose end nothing can be refused any more.
                Effect::HypUnmap | Effect::GuestUnmap | Effect::GuestPoison => {}
            }
        }
    }

    fn change_records(&self) {
        for record in self.records {
            match self.row.change {
                Change::To(standing) => standing.store(record),
                Change::AddGuest => {
                    if record.inc_guest_shares().is_ok() {
                        record.set_host_state(PageState::SharedOwned);
                    }
                }
                Change::DropGuest => {
                    if record.dec_guest_shares() == Ok(0) {
                        Standing::Host.store(record);
                    }
                }
            }
        }
    }

    fn map_hyp(&mut self) {
        if let (Some(plan), Some(hyp)) = (self.hyp.take(), &mut self.parts.hyp) {
            let (s1, mut ops) = hyp.split(self.m);
            plan.commit(s1, &mut ops);
        }
    }

    fn map_guest(&mut self) {
        if let (Some(plan), Some(side)) = (self.guest.take(), &mut self.parts.guest)
            && let Ok((s2, mut ops)) = side.guest.split(self.m, side.memcache.as_deref_mut())
        {
            plan.commit(s2, &mut ops);
        }
    }
}
