// SPDX-License-Identifier: GPL-2.0-only
//! The memory of VMs: pages that the host gives to a protected one or lends to a normal one, what the host may change about
//! a lent page, and pages that a protected VM lends to the host.

use pkvm_pgtable::{Age, Entry, Level};
use pkvm_pool::Memcache;
use pkvm_types::{Error, Gfn, Ipa, PAGE_SIZE, PageState, Perms, Pfn, PfnRange, Result, block_pages};

use super::table::{GuestState, Transition};
use super::transfer::{GuestSide, Parts, check, prepare};
use super::{Guest, GuestKind, Host};
use crate::machine::Machine;

/// Whether asking for the access flag also clears it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Young {
    /// It is only read.
    Test,
    /// It is cleared.
    Clear,
}

/// A leaf of a VM's stage 2.
pub(super) struct GuestLeaf {
    pub pfn: Pfn,
    pub pages: u64,
    pub state: PageState,
}

/// The leaf at `gfn`: [`Error::Range`] beyond the address space, [`Error::Poisoned`] where the page was taken by force,
/// [`Error::NotFound`] where there is none.
pub(super) fn leaf<M: Machine>(m: &M, guest: &mut Guest, gfn: Gfn) -> Result<GuestLeaf> {
    let (s2, ops) = guest.split(m, None)?;
    let found = s2.lookup(&ops, gfn.ipa())?;
    match found.entry {
        Entry::Leaf(leaf) => {
            let pages = s2.config().level_pages(found.level);
            Ok(GuestLeaf {
                pfn: Pfn::of(leaf.phys),
                pages,
                state: leaf.state,
            })
        }
        Entry::Poisoned => Err(Error::Poisoned),
        _ => Err(Error::NotFound),
    }
}

/// The page at `gfn`: as [`leaf`], and [`Error::TooBig`] for a block.
pub(super) fn page<M: Machine>(m: &M, guest: &mut Guest, gfn: Gfn) -> Result<GuestLeaf> {
    let leaf = leaf(m, guest, gfn)?;
    if leaf.pages == 1 {
        Ok(leaf)
    } else {
        Err(Error::TooBig)
    }
}

/// Checks the size of a leaf that the host asks for, and its alignment: a page, or a block of the last level but one.
fn leaf_bytes(phys: u64, gfn: Gfn, pages: u64) -> Result<u64> {
    if pages == 1 {
        return Ok(PAGE_SIZE);
    }
    let bytes = block_pages().checked_mul(PAGE_SIZE).ok_or(Error::Invalid)?;
    let aligned = bytes
        .checked_sub(1)
        .is_some_and(|mask| (phys | gfn.ipa().raw()) & mask == 0);
    if pages == block_pages() && aligned {
        Ok(bytes)
    } else {
        Err(Error::Invalid)
    }
}

/// Permissions for a VM as the host passes them. [`Error::Invalid`] for any other bit, and for an execute permission at
/// one privilege alone where the CPUs cannot tell the two apart.
fn guest_perms<M: Machine>(m: &M, prot: u64) -> Result<Perms> {
    let perms = Perms::from_bits(prot).ok_or(Error::Invalid)?;
    if perms.intersects(Perms::X) && !perms.contains(Perms::X) && !m.features().xnx {
        return Err(Error::Invalid);
    }
    Ok(perms)
}

/// [`Error::Perm`] where anything but nothing is in the `bytes` from `gfn`; [`Error::Range`] beyond the address space.
fn expect_absent<M: Machine>(m: &M, guest: &mut Guest, gfn: Gfn, bytes: u64) -> Result<()> {
    let (s2, ops) = guest.split(m, None)?;
    for found in s2.entries(&ops, gfn.ipa(), bytes)? {
        if found.entry != Entry::Absent {
            return Err(Error::Perm);
        }
    }
    Ok(())
}

/// The memcache must hold what the deepest mapping can take, whatever this one takes.
fn expect_tables(guest: &Guest, memcache: &Memcache) -> Result<()> {
    if memcache.len() < u64::from(guest.config.min_pages()) {
        Err(Error::NoMemory)
    } else {
        Ok(())
    }
}

/// Gives a page of the host's to a protected VM at `gfn` (`__pkvm_host_donate_guest`, after the refill of `memcache`).
///
/// [`Error::Invalid`] for a normal VM; then as the host's page allows ([`Error::Perm`], [`Error::Invalid`]);
/// [`Error::Range`]; [`Error::Perm`] where something is at `gfn`; [`Error::NoMemory`] where `memcache` is too short.
pub fn host_donate_guest<M: Machine>(
    m: &M,
    host: &mut Host,
    guest: &mut Guest,
    memcache: &mut Memcache,
    pfn: Pfn,
    gfn: Gfn,
) -> Result<()> {
    guest.expect(GuestKind::Protected)?;
    let checked = check(m, Transition::HostDonateGuest, PfnRange::single(pfn))?;
    expect_absent(m, guest, gfn, PAGE_SIZE)?;
    expect_tables(guest, memcache)?;
    let side = GuestSide {
        guest,
        gfn,
        perms: Perms::RWX,
        memcache: Some(memcache),
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

/// Lends `pages` pages of the host's to a normal VM, as one leaf with the permissions `prot`
/// (`__pkvm_host_share_guest`, after the refill of `memcache`).
///
/// [`Error::Invalid`] for a protected VM, for bad permissions, sizes or alignments; as the memory map says;
/// [`Error::Range`]; [`Error::Perm`] where something is in the way or a page is not the host's to lend; [`Error::Busy`]
/// where one is lent too often; [`Error::NoMemory`] where `memcache` is too short.
#[expect(
    clippy::too_many_arguments,
    reason = "the hypercall's arguments and the components it needs"
)]
pub fn host_share_guest<M: Machine>(
    m: &M,
    host: &mut Host,
    guest: &mut Guest,
    memcache: &mut Memcache,
    pfn: Pfn,
    gfn: Gfn,
    pages: u64,
    prot: u64,
) -> Result<()> {
    guest.expect(GuestKind::Normal)?;
    let perms = guest_perms(m, prot)?;
    let range = PfnRange::checked(pfn, pages)?;
    m.memory().check_limit(range)?;
    let bytes = leaf_bytes(pfn.phys().raw(), gfn, pages)?;
    m.memory().check_memory(range)?;
    expect_absent(m, guest, gfn, bytes)?;
    let checked = check(m, Transition::HostShareGuest, range)?;
    expect_tables(guest, memcache)?;
    let side = GuestSide {
        guest,
        gfn,
        perms,
        memcache: Some(memcache),
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

/// Ends the loan of one leaf of `pages` pages to a normal VM (`__pkvm_host_unshare_guest`).
///
/// [`Error::Invalid`] for a protected VM or a bad size; [`Error::Range`]; [`Error::NotFound`] where nothing is mapped;
/// [`Error::TooBig`] where the leaf is of another size; [`Error::Perm`] where it is not a loan.
pub fn host_unshare_guest<M: Machine>(
    m: &M,
    host: &mut Host,
    guest: &mut Guest,
    gfn: Gfn,
    pages: u64,
) -> Result<()> {
    guest.expect(GuestKind::Normal)?;
    leaf_bytes(0, gfn, pages)?;
    let leaf = match leaf(m, guest, gfn) {
        Err(Error::Poisoned) => Err(Error::NotFound),
        other => other,
    }?;
    if leaf.pages != pages {
        return Err(Error::TooBig);
    }
    end_loan(m, host, guest, gfn, &leaf)
}

/// Ends the loan of `leaf`, which is what `gfn` maps.
pub(super) fn end_loan<M: Machine>(
    m: &M,
    host: &mut Host,
    guest: &mut Guest,
    gfn: Gfn,
    leaf: &GuestLeaf,
) -> Result<()> {
    expect_state(Transition::HostUnshareGuest, leaf)?;
    let checked = check(
        m,
        Transition::HostUnshareGuest,
        PfnRange::checked(leaf.pfn, leaf.pages)?,
    )?;
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

/// [`Error::Perm`] where `leaf` is not in the state from which `transition` starts.
pub(super) fn expect_state(transition: Transition, leaf: &GuestLeaf) -> Result<()> {
    let from = transition
        .row()
        .guest
        .and_then(|(from, _)| GuestState::leaf(from));
    if from == Some(leaf.state) {
        Ok(())
    } else {
        Err(Error::Perm)
    }
}

/// Adds permissions to a mapping of a normal VM (`__pkvm_host_relax_perms_guest`). Other CPUs may keep the narrower ones in
/// their TLBs.
///
/// [`Error::Invalid`] for a protected VM or bad permissions; [`Error::Range`]; [`Error::Again`] where nothing is mapped.
pub fn host_relax_perms_guest<M: Machine>(m: &M, guest: &mut Guest, gfn: Gfn, prot: u64) -> Result<()> {
    guest.expect(GuestKind::Normal)?;
    let perms = guest_perms(m, prot)?;
    let (s2, mut ops) = guest.split(m, None)?;
    s2.relax_perms(&mut ops, gfn.ipa(), perms).map(|_| ())
}

/// Takes the write permission from every leaf in the range (`__pkvm_host_wrprotect_guest`). TLBs are EL1's business.
///
/// [`Error::Invalid`] for a protected VM or a bad size; [`Error::Range`].
pub fn host_wrprotect_guest<M: Machine>(m: &M, guest: &mut Guest, gfn: Gfn, pages: u64) -> Result<()> {
    guest.expect(GuestKind::Normal)?;
    let bytes = leaf_bytes(0, gfn, pages)?;
    let (s2, mut ops) = guest.split(m, None)?;
    s2.wrprotect(&mut ops, gfn.ipa(), bytes)
}

/// Whether any leaf in the range was accessed since its access flag was last cleared
/// (`__pkvm_host_test_clear_young_guest`). TLBs are EL1's business.
///
/// [`Error::Invalid`] for a protected VM or a bad size; [`Error::Range`].
pub fn host_test_clear_young_guest<M: Machine>(
    m: &M,
    guest: &mut Guest,
    gfn: Gfn,
    pages: u64,
    young: Young,
) -> Result<bool> {
    guest.expect(GuestKind::Normal)?;
    let bytes = leaf_bytes(0, gfn, pages)?;
    let age = match young {
        Young::Test => Age::Test,
        Young::Clear => Age::Clear,
    };
    let (s2, mut ops) = guest.split(m, None)?;
    s2.age(&mut ops, gfn.ipa(), bytes, age)
}

/// Marks a leaf as accessed (`__pkvm_host_mkyoung_guest`). Nothing happens where there is none: the VM will fault again.
///
/// [`Error::Invalid`] for a protected VM.
pub fn host_mkyoung_guest<M: Machine>(m: &M, guest: &mut Guest, gfn: Gfn) -> Result<()> {
    guest.expect(GuestKind::Normal)?;
    let (s2, mut ops) = guest.split(m, None)?;
    // EL1 takes any failure for a broken hypervisor, and an absent leaf for nothing.
    let _ = s2.mkyoung(&mut ops, gfn.ipa());
    Ok(())
}

/// Invalidates what TLBs hold of a normal VM (`__pkvm_tlb_flush_vmid`); nothing for a protected one.
pub fn host_tlb_flush_vmid<M: Machine>(m: &M, guest: &Guest) {
    if guest.kind == GuestKind::Normal {
        m.tlbi_stage2_all(guest.regime);
    }
}

/// What a fault of a vCPU is about, for a host that found a mapping there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestFault {
    /// The page was taken by force.
    Poisoned,
    /// Nothing that concerns the host: another vCPU got the page meanwhile.
    Settled,
    /// The protected VM has no page there, and the address is not the first of a page: the host took the next page's
    /// mapping for it. Only where a page is larger than the 4 KiB that the hardware names.
    Misread,
}

/// Whether the page at `ipa` was taken by force (`__pkvm_vcpu_in_poison_fault`). The address is EL2's own reading of the
/// vCPU's last fault, never the host's: so the host learns only of accesses that it saw fault.
///
/// [`Error::Range`] beyond the address space. [`Error::Invalid`] where the walk ends above the last level, at a block or for
/// want of a table, unless the answer is [`GuestFault::Misread`].
pub fn in_poison_fault<M: Machine>(m: &M, guest: &mut Guest, ipa: Ipa) -> Result<GuestFault> {
    let within = guest.kind == GuestKind::Protected && !ipa.is_page_aligned();
    let (s2, ops) = guest.split(m, None)?;
    let found = s2.lookup(&ops, ipa.page())?;
    match found.entry {
        Entry::Absent if within => Ok(GuestFault::Misread),
        _ if found.level != Level::LAST => Err(Error::Invalid),
        Entry::Poisoned => Ok(GuestFault::Poisoned),
        _ => Ok(GuestFault::Settled),
    }
}

/// A protected VM lends its page at `gfn` to the host (`MEM_SHARE`).
///
/// [`Error::NotFound`] where it has none yet, else [`Error::Range`], [`Error::Poisoned`], [`Error::TooBig`], or
/// [`Error::Perm`] where it does not own the page alone.
pub fn guest_share_host<M: Machine>(m: &M, host: &mut Host, guest: &mut Guest, gfn: Gfn) -> Result<()> {
    change_loan(m, Transition::GuestShareHost, host, guest, gfn)
}

/// A protected VM takes back the page at `gfn` that it lends to the host (`MEM_UNSHARE`). No CPU of the host's can reach
/// it when this returns. Errors as for [`guest_share_host`], and [`Error::NoMemory`].
pub fn guest_unshare_host<M: Machine>(m: &M, host: &mut Host, guest: &mut Guest, gfn: Gfn) -> Result<()> {
    change_loan(m, Transition::GuestUnshareHost, host, guest, gfn)
}

fn change_loan<M: Machine>(
    m: &M,
    transition: Transition,
    host: &mut Host,
    guest: &mut Guest,
    gfn: Gfn,
) -> Result<()> {
    guest.expect(GuestKind::Protected)?;
    let leaf = page(m, guest, gfn)?;
    expect_state(transition, &leaf)?;
    let checked = check(m, transition, PfnRange::single(leaf.pfn))?;
    let side = GuestSide {
        guest,
        gfn,
        perms: Perms::RWX,
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
