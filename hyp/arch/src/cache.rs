// SPDX-License-Identifier: GPL-2.0-only
//! Cache maintenance by address range, as seen through EL2's own mappings.
#![cfg_attr(
    target_os = "none",
    expect(unsafe_code, reason = "cache maintenance instructions")
)]

use pkvm_types::HypVa;

#[cfg(not(target_os = "none"))]
use crate::fake::{self, Event};

/// CTR_EL0 as it holds for every CPU of the system. EL1 patches the value in, so that one CPU with smaller cache
/// lines is enough to shorten the step on all.
#[cfg(target_os = "none")]
#[inline(always)]
fn system_ctr() -> u64 {
    let ctr: u64;
    // SAFETY: four moves to one register. kvm_compute_final_ctr_el0() rewrites exactly this sequence.
    unsafe {
        core::arch::asm!(
            "661:",
            "movz {ctr}, #0",
            "movk {ctr}, #0, lsl #16",
            "movk {ctr}, #0, lsl #32",
            "movk {ctr}, #0, lsl #48",
            "662:",
            ".pushsection .altinstructions, \"a\"",
            ".word 661b - .",
            ".word {cb} - .",
            ".hword {cap}",
            ".byte 662b - 661b",
            ".byte 664f - 663f",
            ".popsection",
            "663:",
            "664:",
            ctr = out(reg) ctr,
            cb = sym kvm_compute_final_ctr_el0,
            cap = const crate::alt::CALLBACK | pkvm_kernel::layout::CAP_ALWAYS_SYSTEM as u16,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    ctr
}

#[cfg(target_os = "none")]
unsafe extern "C" {
    /// EL1's patcher of [`system_ctr`]; never called at EL2.
    fn kvm_compute_final_ctr_el0();
}

/// Calls `line` for the address of each cache line that [`start`, `start + bytes`) touches. `size_log2_words` is the
/// field of CTR_EL0 that gives the line size.
#[cfg(target_os = "none")]
#[inline(always)]
fn for_each_line(start: HypVa, bytes: u64, size_log2_words: u64, mut line: impl FnMut(u64)) {
    let step = 4u64 << (size_log2_words & 0xf);
    // A range that would wrap ends at the last line of the address space.
    let last = start.raw().saturating_add(bytes.saturating_sub(1));
    let mut at = start.raw() & !(step - 1);
    if bytes == 0 {
        return;
    }
    loop {
        line(at);
        match at.checked_add(step) {
            Some(next) if next <= last => at = next,
            _ => break,
        }
    }
}

/// Cleans and invalidates the data cache to the point of coherency for `bytes` from `start`, and completes it. The
/// range must be mapped readable at EL2.
pub fn dcache_clean_inval_poc(start: HypVa, bytes: u64) {
    #[cfg(target_os = "none")]
    {
        let clean = || {
            for_each_line(start, bytes, system_ctr() >> 16, |line| {
                // SAFETY: cleaning and invalidating a line leaves what memory holds as coherent observers see it.
                unsafe {
                    core::arch::asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags));
                }
            });
        };
        clean();
        if crate::alt::has_cap::<{ pkvm_kernel::layout::CAP_WORKAROUND_4311569 as u16 }>() {
            // Arm SI L1 erratum 4311569: only the second pass reaches devices that are not coherent.
            clean();
        }
        crate::barrier::dsb_sy();
    }
    #[cfg(not(target_os = "none"))]
    fake::log(Event::Cache("dc civac", start.raw(), bytes));
}

/// Makes instructions written to `bytes` from `start` visible to instruction fetch on every CPU: invalidates the
/// instruction cache to the point of unification, unless the hardware keeps it coherent (CTR_EL0.DIC).
pub fn icache_inval_pou(start: HypVa, bytes: u64) {
    #[cfg(target_os = "none")]
    {
        if !crate::alt::has_cap::<{ pkvm_kernel::layout::CAP_HAS_CACHE_DIC as u16 }>() {
            for_each_line(start, bytes, system_ctr(), |line| {
                // SAFETY: invalidating instruction cache lines only makes later fetches read memory.
                unsafe {
                    core::arch::asm!("ic ivau, {}", in(reg) line, options(nostack, preserves_flags));
                }
            });
            crate::barrier::dsb_ish();
        }
        crate::barrier::isb();
    }
    #[cfg(not(target_os = "none"))]
    fake::log(Event::Cache("ic ivau", start.raw(), bytes));
}

/// Invalidates the instruction caches of every CPU whole: for virtually indexed caches that can alias.
pub fn icache_inval_all_pou() {
    #[cfg(target_os = "none")]
    {
        // SAFETY: as above.
        unsafe {
            core::arch::asm!("ic ialluis", options(nostack, preserves_flags));
        }
        crate::barrier::dsb_ish();
        crate::barrier::isb();
    }
    #[cfg(not(target_os = "none"))]
    fake::log(Event::Cache("ic ialluis", 0, 0));
}

/// Invalidates this CPU's instruction cache whole. The caller completes it with a DSB.
#[inline(always)]
pub fn icache_inval_all_local() {
    #[cfg(target_os = "none")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("ic iallu", options(nostack, preserves_flags));
    }
    #[cfg(not(target_os = "none"))]
    fake::log(Event::Cache("ic iallu", 0, 0));
}
