// SPDX-License-Identifier: GPL-2.0-only
//! Ownership at the end of the boot: all memory is the host's but what EL2 has mapped, which becomes EL2's; and the check
//! that EL2's private address range maps nothing of the host's.

use pkvm_pgtable::Blocks;
use pkvm_types::{Error, HypVa, PAGE_SIZE, PageState, Perms, Pfn, PfnRange, Result, page_align};

use super::table::{Standing, Transition};
use super::transfer::{Parts, check, host_map, prepare};
use super::{Class, Host, Hyp};
use crate::machine::Machine;

/// Makes EL2 the owner of every page of memory that its linear map holds. Hypervisor text stays readable by the host,
/// which reports panics with it.
///
/// [`Error::Invalid`] where such a page is not ordinary memory, or is mapped by a block; [`Error::NoMemory`].
pub fn fix_boot_ownership<M: Machine>(m: &M, host: &mut Host, hyp: &mut Hyp) -> Result<()> {
    for region in m.memory().regions() {
        let (first, last) = (region.base.page(), region.last);
        let len = last
            .raw()
            .checked_sub(first.raw())
            .and_then(|len| len.checked_add(1))
            .and_then(page_align);
        let (s1, ops) = hyp.split(m);
        s1.for_each(
            &ops,
            m.linear_va(first),
            len.ok_or(Error::Invalid)?,
            |found| match found.leaf {
                None => Ok(()),
                Some(leaf) if found.level.is_last() && m.linear_va(leaf.phys) == found.base => {
                    own_boot_page(m, host, Pfn::of(leaf.phys))
                }
                Some(_) => Err(Error::Invalid),
            },
        )?;
    }
    Ok(())
}

/// Makes EL2 the owner of one page that it has mapped at boot: of its linear map, or a stack. Repeating it is harmless.
///
/// [`Error::Invalid`] where the page is not ordinary memory; [`Error::NoMemory`].
pub fn own_boot_page<M: Machine>(m: &M, host: &mut Host, pfn: Pfn) -> Result<()> {
    if m.memory().class(pfn) != Class::Memory {
        return Err(Error::Invalid);
    }
    let record = m.record(pfn).ok_or(Error::Invalid)?;
    if Standing::of(record) == Some(Standing::Hyp) {
        return Ok(());
    }
    if m.memory().is_hyp_text(pfn) {
        let request = host_map(pfn.phys(), PAGE_SIZE, Perms::R, Blocks::PagesOnly);
        host.retry_without_devices(m, |s2, ops| s2.map(ops, &request))?;
        Standing::Hyp.store(record);
        return Ok(());
    }
    let checked = check(m, Transition::BootOwn, PfnRange::single(pfn))?;
    prepare(
        m,
        checked,
        Parts {
            host,
            hyp: None,
            guest: None,
        },
    )?
    .commit();
    Ok(())
}

/// Whether every valid entry of EL2's stage 1 in the `len` bytes from `start` maps memory of EL2's.
/// [`Error::Perm`] where one does not. Run before the host may ask for device mappings there.
pub fn check_private_range<M: Machine>(m: &M, hyp: &mut Hyp, start: HypVa, len: u64) -> Result<()> {
    let (s1, ops) = hyp.split(m);
    let geometry = s1.config().geometry();
    s1.for_each(&ops, start, len, |found| {
        let Some(leaf) = found.leaf else { return Ok(()) };
        let pages = PfnRange::checked(Pfn::of(leaf.phys), geometry.size(found.level).div_ceil(PAGE_SIZE))?;
        if pages.iter().all(|pfn| is_hyp(m, pfn)) {
            Ok(())
        } else {
            Err(Error::Perm)
        }
    })
}

/// Whether EL2 may map `pages` in its private range for the host: a device, or memory of EL2's own.
/// [`Error::Perm`] where a page is memory of somebody else.
pub fn check_private_mapping<M: Machine>(m: &M, pages: PfnRange) -> Result<()> {
    m.memory().check_limit(pages)?;
    for pfn in pages.iter() {
        if m.memory().class(pfn) != Class::Device && !is_hyp(m, pfn) {
            return Err(Error::Perm);
        }
    }
    Ok(())
}

fn is_hyp<M: Machine>(m: &M, pfn: Pfn) -> bool {
    m.memory().class(pfn) == Class::Memory
        && m.record(pfn)
            .is_some_and(|record| record.hyp_state() == PageState::Owned)
}
