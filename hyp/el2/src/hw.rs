// SPDX-License-Identifier: GPL-2.0-only
//! The real machine under the policy: [`Machine`] by the mechanism of `pkvm_arch`. Every method is reached with the
//! locks held that the trait names, with pages that the policy has found to be memory: nothing is checked again here.
#![expect(unsafe_code, reason = "page records are an array at a fixed address")]

use pkvm_arch::alt::has_cap;
use pkvm_arch::switch::stage2::{self, Stage2};
use pkvm_arch::{barrier, cache, smccc, tlbi};
use pkvm_core::machine::{Features, Machine, Reach, Shareability, Stage2Id, TlbLevel};
use pkvm_core::mem::MemoryMap;
use pkvm_core::trace::Reason;
use pkvm_kernel::layout::*;
use pkvm_pool::PageMeta;
use pkvm_types::{HypVa, Ipa, PAGE_SIZE, Pfn, PfnRange, Phys};

use crate::cell::BootCell;
use crate::state::{HOST_VTCR, MEMORY};
use crate::{mm, statics, trace, words};

/// The machine.
pub struct Hw;

/// The one value of [`Hw`].
pub static HW: Hw = Hw;

/// Where the page records begin: the record of frame 0. Only those of memory are mapped.
pub static RECORDS: BootCell<u64> = BootCell::new(0);

const _: () = assert!(
    HYP_PAGE_SIZE == size_of::<PageMeta>() as u64,
    "EL1 reserves memory for records of another size"
);

/// `ARM_SMCCC_CPU_WORKAROUND_4193714`.
const DVMSYNC_WORKAROUND: u64 = 0x8100_0010;

fn stage2_of(regime: Stage2Id) -> Stage2 {
    let bits = statics::kvm_arm_vmid_bits.get();
    Stage2::new(
        regime.root.raw(),
        u64::from(regime.vmid.raw()),
        bits,
        *HOST_VTCR.get(),
    )
}

fn level_of(level: TlbLevel) -> Option<u8> {
    match level {
        TlbLevel::Known(level) => Some(level),
        TlbLevel::Any => None,
    }
}

impl Machine for Hw {
    fn memory(&self) -> &MemoryMap {
        MEMORY.get()
    }
    fn features(&self) -> Features {
        Features {
            fwb: has_cap::<{ CAP_HAS_STAGE2_FWB as u16 }>(),
            dic: has_cap::<{ CAP_HAS_CACHE_DIC as u16 }>(),
            xnx: has_cap::<{ CAP_HAS_XNX as u16 }>(),
        }
    }
    fn linear_va(&self, phys: Phys) -> HypVa {
        words::linear_va(phys)
    }
    fn linear_phys(&self, va: HypVa) -> Phys {
        words::linear_phys(va)
    }
    fn records(&self, pages: PfnRange) -> Option<&[PageMeta]> {
        let span = MEMORY.get().span(pages.start().phys());
        if span.access.is_none() || !span.covers(pages) || *RECORDS.get() == 0 {
            return None;
        }
        let va = RECORDS
            .get()
            .wrapping_add(pages.start().raw().wrapping_mul(size_of::<PageMeta>() as u64));
        // SAFETY: boot mapped and zeroed a record for every page of the memory map, one after another, and all of these
        // lie in one region of it; all-zero bytes are a record, and atomics are all it holds.
        Some(unsafe { core::slice::from_raw_parts(va as *const PageMeta, pages.count() as usize) })
    }
    fn read_word(&self, table: Phys, index: usize) -> u64 {
        words::read(table, index)
    }
    fn write_word(&self, table: Phys, index: usize, value: u64) {
        words::write(table, index, value);
    }
    fn zero_page(&self, pfn: Pfn) {
        words::zero_page(pfn.phys());
    }
    fn scrub_page(&self, pfn: Pfn, reach: Reach, link: u64) {
        let scrub = |va: HypVa| {
            words::zero(va, PAGE_SIZE);
            words::store(va, link);
            cache::dcache_clean_inval_poc(va, PAGE_SIZE);
        };
        match reach {
            Reach::Linear => scrub(words::linear_va(pfn.phys())),
            Reach::Fixmap => mm::with_page(pfn.phys(), scrub),
        }
    }
    fn clean_dcache(&self, pages: PfnRange) {
        for pfn in pages.iter() {
            mm::with_page(pfn.phys(), |va| cache::dcache_clean_inval_poc(va, PAGE_SIZE));
        }
    }
    fn invalidate_icache(&self, pages: PfnRange) {
        if statics::icache_is_aliasing() {
            cache::icache_inval_all_pou();
            return;
        }
        for pfn in pages.iter() {
            mm::with_page(pfn.phys(), |va| cache::icache_inval_pou(va, PAGE_SIZE));
        }
    }
    fn publish_tables(&self) {
        barrier::dsb_ishst();
    }
    fn publish_hyp_tables(&self) {
        barrier::dsb_ishst();
        barrier::isb();
    }
    fn tlbi_stage2(&self, regime: Stage2Id, ipa: Ipa, level: TlbLevel, scope: Shareability) {
        let (target, level) = (stage2_of(regime), level_of(level));
        match scope {
            Shareability::Inner => stage2::flush_ipa(target, ipa.raw(), level),
            Shareability::Local => stage2::flush_ipa_this_cpu(target, ipa.raw(), level),
        }
    }
    fn tlbi_stage2_all(&self, regime: Stage2Id) {
        stage2::flush_vmid(stage2_of(regime));
    }
    fn tlbi_hyp(&self, va: HypVa, level: TlbLevel) {
        barrier::dsb_ishst();
        match level {
            TlbLevel::Known(level) => tlbi::vale2is(tlbi::by_address(va.raw(), Some(level))),
            TlbLevel::Any => tlbi::vae2is(tlbi::by_address(va.raw(), None)),
        }
        tlbi::sync_ish();
        barrier::isb();
    }
    fn tlbi_hyp_all(&self) {
        barrier::dsb_ishst();
        tlbi::alle2is();
        tlbi::sync_ish();
        barrier::isb();
    }
    fn dvmsync_workaround(&self) {
        if has_cap::<{ CAP_WORKAROUND_4193714 as u16 }>() {
            // Whether the firmware has the call was settled before the capability was set.
            trace::hyp_exit(Reason::Smc);
            let _ = smccc::call(DVMSYNC_WORKAROUND, &[]);
            trace::hyp_enter(Reason::Smc);
        }
    }
}
