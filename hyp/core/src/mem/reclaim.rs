// SPDX-License-Identifier: GPL-2.0-only
//! How memory comes back from VMs: by force from a running one, page after page from a dying one, and the page tables
//! at the end.

use pkvm_pgtable::Entry;
use pkvm_types::{Error, Gfn, Handle, Ipa, Owner, PageState, Perms, Pfn, PfnRange, Phys, Result};

use super::guest::{GuestLeaf, end_loan, expect_state, page};
use super::ops::{Stage2Ops, Words};
use super::table::{Standing, Transition};
use super::token::HypPages;
use super::transfer::{GuestSide, Parts, check, prepare};
use super::{Class, Guest, Host};
use crate::machine::Machine;

/// Which VM owns the page that a host access faulted on (first part of `__pkvm_force_reclaim_guest_page`). The host's
/// lock stays held until [`host_force_reclaim_guest`].
///
/// [`Error::Fault`] where `phys` is not memory; [`Error::Again`] where the host may access it by now; [`Error::Perm`] where
/// it is the hypervisor's.
pub fn owner_of_faulting_page<M: Machine>(m: &M, host: &mut Host, phys: Phys) -> Result<(Handle, Gfn)> {
    let pfn = Pfn::of(phys);
    if m.memory().class(pfn) == Class::Device {
        return Err(Error::Fault);
    }
    let record = m.record(pfn).ok_or(Error::Fault)?;
    match Standing::of(record) {
        Some(Standing::Guest) => {}
        Some(standing) if standing.host_may_access() => return Err(Error::Again),
        _ => return Err(Error::Perm),
    }
    let (s2, ops) = host.split(m);
    match s2.lookup(&ops, Ipa::new(pfn.phys().raw()))?.entry {
        Entry::Donated(Owner::Guest { handle, gfn }) => Ok((handle, gfn)),
        _ => Err(Error::Perm),
    }
}

/// Takes a page from a running protected VM because the host accessed it (second part of
/// `__pkvm_force_reclaim_guest_page`): the VM will find its frame poisoned, the host finds zeroes. `gfn` is what
/// [`owner_of_faulting_page`] said under the same hold of the host's lock.
///
/// [`Error::Perm`] where the VM's stage 2 does not agree that it owns that page alone, else as for the frame.
pub fn host_force_reclaim_guest<M: Machine>(
    m: &M,
    host: &mut Host,
    guest: &mut Guest,
    phys: Phys,
    gfn: Gfn,
) -> Result<()> {
    let leaf = page(m, guest, gfn)?;
    if leaf.pfn != Pfn::of(phys) {
        return Err(Error::Perm);
    }
    take_back(m, Transition::HostForceReclaim, host, guest, gfn, &leaf)
}

/// Takes back one page of a dying VM (`__pkvm_reclaim_dying_guest_page`). What the VM owned is zeroed; what it lent to the
/// host keeps its content. A frame that was poisoned before has nothing to give and succeeds.
///
/// [`Error::Range`], [`Error::NotFound`], [`Error::TooBig`] as for the frame; [`Error::Perm`] for a page the host lent.
pub fn host_reclaim_dying_guest<M: Machine>(
    m: &M,
    host: &mut Host,
    guest: &mut Guest,
    gfn: Gfn,
) -> Result<()> {
    let leaf = match page(m, guest, gfn) {
        Err(Error::Poisoned) => return Ok(()),
        other => other?,
    };
    let transition = match leaf.state {
        PageState::Owned => Transition::HostReclaimOwned,
        PageState::SharedOwned => Transition::HostReclaimShared,
        _ => return Err(Error::Perm),
    };
    take_back(m, transition, host, guest, gfn, &leaf)
}

fn take_back<M: Machine>(
    m: &M,
    transition: Transition,
    host: &mut Host,
    guest: &mut Guest,
    gfn: Gfn,
    leaf: &GuestLeaf,
) -> Result<()> {
    expect_state(transition, leaf)?;
    let checked = check(m, transition, PfnRange::single(leaf.pfn))?;
    let side = GuestSide {
        guest,
        gfn,
        perms: Perms::NONE,
        memcache: None,
    };
    prepare(
        m,
        checked,
        Parts {
            host,
            hyp: None,
            guest: Some(side),
        },
    )?
    .commit();
    Ok(())
}

/// Ends the stage 2 of a dying VM on which no vCPU is loaded (first part of `__pkvm_finalize_teardown_vm`): no TLB holds
/// anything of its VMID, what it borrowed is the host's alone again, and its tables are free pages of its pool.
///
/// [`Error::Busy`], with nothing changed, while it owns pages: only [`host_reclaim_dying_guest`] gives those back.
/// [`Error::Invalid`] when it was torn down before.
pub fn guest_teardown<M: Machine>(m: &M, host: &mut Host, guest: &mut Guest) -> Result<()> {
    let mut next = first_leaf(m, guest, Ipa::new(0))?;
    if let Some((_, leaf)) = &next
        && leaf.state != PageState::SharedBorrowed
    {
        return Err(Error::Busy);
    }
    while let Some((gfn, leaf)) = next {
        end_loan(m, host, guest, gfn, &leaf)?;
        next = first_leaf(m, guest, gfn.ipa())?;
    }
    let root_pages = guest.config.root_pages();
    let s2 = guest.s2.take().ok_or(Error::Invalid)?;
    let root = s2.destroy(&mut Stage2Ops::new(m, guest.regime, &mut guest.pool, None));
    let root = PfnRange::checked(Pfn::of(root), root_pages)?;
    for pfn in root.iter() {
        if let Some(record) = m.record(pfn) {
            record.set_refcount(0);
        }
    }
    guest.pool.give_range(&Words(m), root);
    Ok(())
}

/// The first leaf of a VM's stage 2 from `start` on, in the order of its addresses.
fn first_leaf<M: Machine>(m: &M, guest: &mut Guest, start: Ipa) -> Result<Option<(Gfn, GuestLeaf)>> {
    let (s2, ops) = guest.split(m, None)?;
    let len = s2
        .config()
        .geometry()
        .limit()
        .checked_sub(start.raw())
        .ok_or(Error::Range)?;
    for found in s2.entries(&ops, start, len)? {
        if let Entry::Leaf(leaf) = found.entry {
            let pages = s2.config().level_pages(found.level);
            let leaf = GuestLeaf {
                pfn: Pfn::of(leaf.phys),
                pages,
                state: leaf.state,
            };
            return Ok(Some((Gfn::of(found.base), leaf)));
        }
    }
    Ok(None)
}

/// Takes one table page of a VM that was torn down, `None` when there are no more (second part of
/// `__pkvm_finalize_teardown_vm`). Before that nothing is given.
pub fn guest_pop_table<M: Machine>(m: &M, guest: &mut Guest) -> Option<HypPages> {
    if guest.s2.is_some() {
        return None;
    }
    guest
        .pool
        .take(&Words(m))
        .map(|pfn| HypPages::new(PfnRange::single(pfn)))
}
