// SPDX-License-Identifier: GPL-2.0-only
//! What EL2 does when an access of the host's faults at stage 2: map lazily, let the host try again, or give the abort
//! to the host. There is no other outcome: nothing that the host accesses can stop EL2.

use pkvm_pgtable::{Blocks, Entry, Granule, Level, MapRequest, Stage2};
use pkvm_pool::PageMeta;
use pkvm_types::{
    Error, Ipa, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, PageState, Perms, Pfn, PfnRange, Phys, Result,
};

use super::map::{Class, Span};
use super::ops::Stage2Ops;
use super::transfer::{HOST_DEVICE, HOST_MEMORY, host_map};
use super::{Host, MemoryMap};
use crate::machine::Machine;

/// A stage-2 abort of the host's, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostAbort {
    /// The address, where it is known. It is not for an external abort on a table walk.
    pub ipa: Option<Phys>,
    /// The kind of fault.
    pub kind: AbortKind,
}

/// The kind of a stage-2 fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AbortKind {
    /// Nothing was mapped.
    Translation,
    /// Something was mapped that did not allow the access, which needs these permissions.
    Permission(Perms),
    /// Any other fault: access flag, address size, alignment, external.
    Other,
}

/// What to do about the abort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum AbortAction {
    /// Return to the host: the access will succeed or fault again for another reason.
    Retry,
    /// Inject the abort into the host's EL1.
    Inject,
}

/// Handles a stage-2 abort of the host's. Only what the host may access anyway is ever mapped here: the page records
/// decide, not the absence of an entry.
pub fn host_mem_abort<M: Machine>(m: &M, host: &mut Host, abort: HostAbort) -> AbortAction {
    match abort
        .ipa
        .ok_or(Error::Fault)
        .and_then(|ipa| resolve(m, host, ipa, abort.kind))
    {
        Ok(()) => AbortAction::Retry,
        Err(_) => AbortAction::Inject,
    }
}

fn resolve<M: Machine>(m: &M, host: &mut Host, ipa: Phys, kind: AbortKind) -> Result<()> {
    let pfn = Pfn::of(ipa);
    let (s2, ops) = host.split(m);
    let found = s2.lookup(&ops, Ipa::new(pfn.phys().raw()))?;
    match (found.entry, kind) {
        // A permission fault on a leaf that allows the access, or any other fault, raced with the CPU that mapped it.
        (Entry::Leaf(leaf), AbortKind::Permission(needed)) if !leaf.perms.contains(needed) => {
            Err(Error::Perm)
        }
        (Entry::Leaf(_), _) => Ok(()),
        (Entry::Absent, _) => {
            let request = default_map(m, s2, pfn, found.level)?;
            host.retry_without_devices(m, |s2, ops| s2.map(ops, &request))
        }
        _ => Err(Error::Perm),
    }
}

/// The largest default mapping around `pfn` where the tables have nothing from `level` down.
/// [`Error::Perm`] where the host may not access the page.
fn default_map<M: Machine>(m: &M, s2: &Stage2, pfn: Pfn, level: Level) -> Result<MapRequest> {
    let map = m.memory();
    let class = map.class(pfn);
    let perms = if class == Class::Device {
        HOST_DEVICE
    } else {
        HOST_MEMORY
    };
    let span = map.span(pfn.phys());
    let mut raw = level.raw();
    while let Some(level) = Level::checked(raw).filter(|level| !level.is_last()) {
        let bytes = s2.config().level_size(level);
        if has_blocks(s2.config().geometry().granule(), level)
            && let Some(pages) = around(pfn, bytes)
            && may_map(m, &span, class, pages)
        {
            return Ok(host_map(pages.start().phys(), bytes, perms, Blocks::Allowed));
        }
        raw = raw.saturating_add(1);
    }
    let page = PfnRange::single(pfn);
    if host_may_access(m, class, page) {
        Ok(host_map(pfn.phys(), PAGE_SIZE, perms, Blocks::PagesOnly))
    } else {
        Err(Error::Perm)
    }
}

/// Whether descriptors of `level` can map blocks that the walker makes.
fn has_blocks(granule: Granule, level: Level) -> bool {
    match granule {
        Granule::K4 => level.raw() >= 1,
        Granule::K16 | Granule::K64 => level.raw() >= 2,
    }
}

/// The frames of the aligned stretch of `bytes` around `pfn`.
fn around(pfn: Pfn, bytes: u64) -> Option<PfnRange> {
    let count = bytes >> PAGE_SHIFT;
    let start = pfn.raw() & !count.checked_sub(1)?;
    PfnRange::checked(Pfn::checked(start).ok()?, count).ok()
}

/// Whether one default mapping may cover all of `pages`: they are of one kind, and the host may access each.
fn may_map<M: Machine>(m: &M, span: &Span, class: Class, pages: PfnRange) -> bool {
    // A page that a region covers in part lies in no span as a whole, and so in no block.
    span.covers(pages)
        && span.access.is_none() == (class == Class::Device)
        && host_may_access(m, class, pages)
}

/// Whether the records of `pages` let the host access each of them; what is not memory has no records and no owner.
fn host_may_access<M: Machine>(m: &M, class: Class, pages: PfnRange) -> bool {
    let allowed = |records: &[PageMeta]| {
        records
            .iter()
            .all(|record| record.host_state() != PageState::NoPage)
    };
    class == Class::Device || m.records(pages).is_some_and(allowed)
}

impl Host {
    /// Runs an update of the host's stage 2, and once more without the maps of devices where tables are short: those
    /// come back when they are used, and only memory has a table reserved for each page.
    pub(super) fn retry_without_devices<M: Machine, T>(
        &mut self,
        m: &M,
        mut update: impl FnMut(&Stage2, &mut Stage2Ops<'_, M>) -> Result<T>,
    ) -> Result<T> {
        let (s2, mut ops) = self.split(m);
        match update(s2, &mut ops) {
            Err(Error::NoMemory) => {
                drop_devices(m.memory(), s2, &mut ops)?;
                update(s2, &mut ops)
            }
            other => other,
        }
    }
}

/// Unmaps every page that is not memory.
fn drop_devices<M: Machine>(map: &MemoryMap, s2: &Stage2, ops: &mut Stage2Ops<'_, M>) -> Result<()> {
    let limit = s2.config().geometry().limit();
    let mut at = Some(Phys::new(0));
    while let Some(start) = at.filter(|start| start.raw() < limit) {
        let span = map.span(start);
        at = span.last.checked_add(1);
        if span.access.is_some() {
            continue;
        }
        // Whole pages of the gap; one that it shares with a region is not memory either, but may wait.
        let first = pkvm_types::page_align(span.first.raw()).ok_or(Error::Range)?;
        let end = span.last.raw().saturating_add(1).min(limit) & PAGE_MASK;
        if let Some(len) = end.checked_sub(first).filter(|len| *len != 0) {
            s2.unmap(ops, Ipa::new(first), len)?;
        }
    }
    Ok(())
}
