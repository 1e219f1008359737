// SPDX-License-Identifier: GPL-2.0-only
//! The hardware that the policy needs, as one trait. EL2 implements it with a zero-sized type over the real machine;
//! the tests implement it with words in a vector and a log of events.
//!
//! Every method takes `&self`: the data they reach is guarded by the locks whose guarded values ([`Host`], [`Hyp`],
//! [`Guest`]) the policy borrows exclusively while it calls them. A method that names a page is only called for a page
//! that the memory map knows, and that the policy has shown to be reachable in the way the method says.
//!
//! [`Host`]: crate::mem::Host
//! [`Hyp`]: crate::mem::Hyp
//! [`Guest`]: crate::mem::Guest

use pkvm_pool::PageMeta;
use pkvm_types::{HypVa, Ipa, Pfn, PfnRange, Phys, Vmid};

use crate::mem::MemoryMap;

/// What the CPUs of this machine can do, as far as memory ownership depends on it. Fixed before the first call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// FEAT_S2FWB is in use: a guest's stage 2 makes its memory cacheable whatever its stage 1 says, so the host's
    /// lines need no cleaning before a guest sees the page.
    pub fwb: bool,
    /// `CTR_EL0.DIC`: instruction fetches see new data without invalidation of the instruction cache.
    pub dic: bool,
    /// FEAT_XNX: stage 2 tells execution at EL1 from execution at EL0.
    pub xnx: bool,
}

/// A stage-2 translation regime: what VTTBR_EL2 must hold for TLB maintenance to reach it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Stage2Id {
    /// The identifier that tags its TLB entries.
    pub vmid: Vmid,
    /// Its top-level table.
    pub root: Phys,
}

/// Where EL2 reaches the bytes of a page that it scrubs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Reach {
    /// At its address in the linear map, where it is mapped because EL2 owns it.
    Linear,
    /// Through this CPU's fixmap slot, since it is not mapped at EL2. Mapping and unmapping the slot, with TLB
    /// maintenance, is part of the operation.
    Fixmap,
}

/// The level of the descriptor that TLB maintenance is for, as a hint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum TlbLevel {
    /// A descriptor of this level; 3 is the last.
    Known(u8),
    /// The level is not certain: the hint is left out.
    Any,
}

/// Which CPUs a TLB invalidation must reach before it is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Shareability {
    /// All CPUs of the inner-shareable domain.
    Inner,
    /// Only this CPU.
    Local,
}

/// The machine below the policy.
pub trait Machine {
    /// The memory map of the boot, immutable since.
    fn memory(&self) -> &MemoryMap;

    /// What the CPUs can do.
    fn features(&self) -> Features;

    /// EL2's linear address of `phys`: `phys - hyp_physvirt_offset`. Says nothing of whether it is mapped.
    fn linear_va(&self, phys: Phys) -> HypVa;

    /// The physical address behind a linear address, the inverse of [`linear_va`](Self::linear_va); wraps.
    fn linear_phys(&self, va: HypVa) -> Phys;

    /// The records of `pages` in their order, or `None` unless they all lie in one region of the memory map.
    fn records(&self, pages: PfnRange) -> Option<&[PageMeta]>;

    /// The record of `pfn`, or `None` where there is none, as for a frame outside the memory map.
    fn record(&self, pfn: Pfn) -> Option<&PageMeta> {
        self.records(PfnRange::single(pfn))?.first()
    }

    /// Reads descriptor `index` of the table at `table`, which EL2 owns, as one 64-bit access.
    fn read_word(&self, table: Phys, index: usize) -> u64;

    /// Writes descriptor `index` of the table at `table`, which EL2 owns, as one 64-bit access with release order: a
    /// table walker that sees the new value sees what was written before it.
    fn write_word(&self, table: Phys, index: usize, value: u64);

    /// Fills a page that EL2 owns with zeroes, without cache maintenance.
    fn zero_page(&self, pfn: Pfn);

    /// Fills a page with zeroes but for `link` in its first 8 bytes, then cleans and invalidates its data-cache lines
    /// to the point of coherency, whatever FEAT_S2FWB says: the next owner may read it non-cacheable.
    fn scrub_page(&self, pfn: Pfn, reach: Reach, link: u64);

    /// Cleans the data-cache lines of `pages` to the point of coherency through transient EL2 mappings. Called only
    /// without [`Features::fwb`].
    fn clean_dcache(&self, pages: PfnRange);

    /// Invalidates the instruction cache for `pages` to the point of unification. Called only without
    /// [`Features::dic`].
    fn invalidate_icache(&self, pages: PfnRange);

    /// Makes descriptors that were written before visible to table walkers (`DSB ISHST`). Needed before a new mapping
    /// is relied upon; TLB invalidation includes it.
    fn publish_tables(&self);

    /// Invalidates what TLBs hold of `ipa` in `regime`, with the combined stage-1 entries, and waits until that is
    /// done. The new value of the descriptor was written before. With a level the intermediate entries may stay;
    /// [`TlbLevel::Any`] drops them too.
    fn tlbi_stage2(&self, regime: Stage2Id, ipa: Ipa, level: TlbLevel, scope: Shareability);

    /// Invalidates what TLBs hold of the whole of `regime`, stage 1 and 2, on all CPUs, and waits until that is done.
    fn tlbi_stage2_all(&self, regime: Stage2Id);

    /// Makes descriptors of EL2's own stage 1 that were written before visible (`DSB ISHST`, `ISB`).
    fn publish_hyp_tables(&self);

    /// Invalidates what TLBs hold of `va` in EL2's own regime, on all CPUs, and waits until that is done.
    fn tlbi_hyp(&self, va: HypVa, level: TlbLevel);

    /// Invalidates what TLBs hold of EL2's own regime, on all CPUs, and waits until that is done.
    fn tlbi_hyp_all(&self);

    /// The firmware call of erratum 4193714 where the CPUs need it: after the host lost a page and the TLB maintenance
    /// is done, before its new owner uses it. Nothing elsewhere.
    fn dvmsync_workaround(&self);
}
