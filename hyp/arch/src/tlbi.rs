// SPDX-License-Identifier: GPL-2.0-only
//! TLB invalidation instructions and their operands. None of these waits: the caller puts the DSB that publishes its
//! table write before and the DSB that completes the invalidation after.
#![cfg_attr(
    target_os = "none",
    expect(unsafe_code, reason = "TLB invalidation instructions")
)]

use pkvm_kernel::layout;
use pkvm_types::{PAGE_SHIFT, PAGE_SIZE};

use crate::alt::has_cap;

macro_rules! tlbi {
    ($($(#[$doc:meta])* $name:ident = $op1:literal, $crm:literal, $op2:literal;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() {
            #[cfg(target_os = "none")]
            // SAFETY: dropping cached translations makes later accesses walk the tables again, no more.
            unsafe {
                core::arch::asm!(
                    concat!("sys #", $op1, ", c8, c", $crm, ", #", $op2),
                    options(nostack, preserves_flags),
                );
            }
            #[cfg(not(target_os = "none"))]
            crate::fake::log(crate::fake::Event::Tlbi(stringify!($name), 0));
        }
    )*};
}

macro_rules! tlbi_with_operand {
    ($($(#[$doc:meta])* $name:ident = $op1:literal, $crm:literal, $op2:literal;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(operand: u64) {
            #[cfg(target_os = "none")]
            // SAFETY: as for the operations without an operand.
            unsafe {
                core::arch::asm!(
                    concat!("sys #", $op1, ", c8, c", $crm, ", #", $op2, ", {}"),
                    in(reg) operand,
                    options(nostack, preserves_flags),
                );
            }
            #[cfg(not(target_os = "none"))]
            crate::fake::log(crate::fake::Event::Tlbi(stringify!($name), operand));
        }
    )*};
}

tlbi! {
    /// Everything of the EL1&0 regime, every VMID, stages 1 and 2, inner shareable.
    alle1is = 4, 3, 4;
    /// As [`alle1is`], this CPU only.
    alle1 = 4, 7, 4;
    /// Everything of the EL2 regime, inner shareable.
    alle2is = 4, 3, 0;
    /// Everything of the EL2 regime, this CPU only.
    alle2 = 4, 7, 0;
    /// Stages 1 and 2 of the current VMID, inner shareable.
    vmalls12e1is = 4, 3, 6;
    /// As [`vmalls12e1is`], this CPU only.
    vmalls12e1 = 4, 7, 6;
    /// Stage 1 of the current VMID, inner shareable.
    vmalle1is = 0, 3, 0;
    /// As [`vmalle1is`], this CPU only.
    vmalle1 = 0, 7, 0;
}

tlbi_with_operand! {
    /// Stage 2 of one IPA of the current VMID, inner shareable. Operand: [`by_address`].
    ipas2e1is = 4, 0, 1;
    /// As [`ipas2e1is`], this CPU only.
    ipas2e1 = 4, 4, 1;
    /// EL2 by address, inner shareable. Operand: [`by_address`].
    vae2is = 4, 3, 1;
    /// EL2 by address, last level only, inner shareable. Operand: [`by_address`].
    vale2is = 4, 3, 5;
    /// As [`vale2is`], this CPU only.
    vale2 = 4, 7, 5;
    /// Stage 2 of a range of IPAs of the current VMID, inner shareable; needs FEAT_TLBIRANGE. Operand: [`by_range`].
    ripas2e1is = 4, 0, 2;
}

/// The field of a TLBI operand that says which granule the hinted level belongs to.
const TTL_GRANULE: u64 = match PAGE_SHIFT {
    12 => 1,
    14 => 2,
    _ => 3,
};

/// The operand of an invalidation by address. `level` is the level of the leaf and only ever a hint: with a wrong one
/// the hardware may invalidate nothing, so `None` wherever the leaf is not certain.
pub fn by_address(address: u64, level: Option<u8>) -> u64 {
    let page = (address >> 12) & ((1 << 44) - 1);
    match level {
        // Level 0 is no hint but for the 52-bit formats, and -1 does not fit: neither is worth a hint.
        Some(level @ 1..=3) if has_cap::<{ layout::CAP_HAS_ARMv8_4_TTL as u16 }>() => {
            page | ((TTL_GRANULE << 2) | level as u64) << 44
        }
        _ => page,
    }
}

/// Most pages that one range operation can name.
pub const MAX_RANGE_PAGES: u64 = 32 << 16;

/// The operand of an invalidation by range of `(num + 1) << (5 * scale + 1)` pages from `address`, without a level.
fn by_range(address: u64, num: u64, scale: u64) -> u64 {
    // With 52-bit addresses of small granules the base is in units of 64 KiB.
    let shift = if has_cap::<{ layout::CAP_HAS_LPA2 as u16 }>() {
        16
    } else {
        PAGE_SHIFT
    };
    ((address >> shift) & ((1 << 37) - 1)) | num << 39 | scale << 44 | TTL_GRANULE << 46
}

/// Invalidates stage 2 of `pages` pages from IPA `start` of the current VMID on all CPUs, by ranges where the CPU can.
/// The leaves may be at any level. Beyond what ranges can name at once it invalidates the whole VMID.
pub fn stage2_range(start: u64, pages: u64) {
    let mut at = start & !(PAGE_SIZE - 1);
    let mut left = pages;
    if !has_cap::<{ layout::CAP_HAS_TLB_RANGE as u16 }>() {
        if left > MAX_PAGES_ONE_BY_ONE {
            vmalls12e1is();
            return;
        }
        for _ in 0..left {
            ipas2e1is(by_address(at, None));
            at = at.wrapping_add(PAGE_SIZE);
        }
        return;
    }
    if left > MAX_RANGE_PAGES {
        vmalls12e1is();
        return;
    }
    // A range is an even number of pages and, with LPA2, starts at a multiple of 64 KiB: single pages make up the
    // rest. Scales go down, so that the largest ranges start where the alignment is best left as it is.
    let lpa2 = has_cap::<{ layout::CAP_HAS_LPA2 as u16 }>();
    let mut scale = 3u64;
    while left > 0 {
        if left == 1 || (lpa2 && at & 0xffff != 0) {
            ipas2e1is(by_address(at, None));
            at = at.wrapping_add(PAGE_SIZE);
            left -= 1;
            continue;
        }
        let unit = 5 * scale + 1;
        // At most 32 of the unit: what is above belongs to a larger scale and was taken there.
        let units = (left >> unit).min(32);
        if units > 0 {
            ripas2e1is(by_range(at, units - 1, scale));
            let taken = units << unit;
            at = at.wrapping_add(taken << PAGE_SHIFT);
            left -= taken;
        }
        scale = scale.saturating_sub(1);
    }
}

/// Above this many single invalidations, dropping the whole VMID is cheaper (the kernel's `MAX_DVM_OPS`).
const MAX_PAGES_ONE_BY_ONE: u64 = pkvm_types::PTES_PER_TABLE;

/// Completes an inner-shareable invalidation that touches stage 1 of any regime, with the repetition that some CPUs
/// need before the completion holds.
pub fn sync_ish() {
    crate::barrier::dsb_ish();
    if has_cap::<{ layout::CAP_WORKAROUND_REPEAT_TLBI_SYNC as u16 }>() {
        vale2is(0);
        crate::barrier::dsb_ish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Event};
    use std::vec::Vec;

    /// The pages that the logged operations cover, in order.
    fn covered(log: &[Event]) -> Vec<u64> {
        let mut pages = Vec::new();
        for event in log {
            match *event {
                Event::Tlbi("ipas2e1is", operand) => pages.push((operand << 12) >> PAGE_SHIFT),
                Event::Tlbi("ripas2e1is", operand) => {
                    let (num, scale) = (operand >> 39 & 31, operand >> 44 & 3);
                    let base = operand & ((1 << 37) - 1);
                    pages.extend(base..base + ((num + 1) << (5 * scale + 1)));
                }
                other => panic!("{other:?}"),
            }
        }
        pages
    }

    #[test]
    fn ranges_cover_every_page_once() {
        for pages in [
            0,
            1,
            2,
            3,
            31,
            64,
            65,
            127,
            2049,
            65537,
            MAX_RANGE_PAGES - 1,
            MAX_RANGE_PAGES,
        ] {
            fake::reset();
            fake::set_cap(layout::CAP_HAS_TLB_RANGE as u16);
            stage2_range(0x1234_5000, pages);
            let got = covered(&fake::take_log());
            let first = 0x1234_5000 >> PAGE_SHIFT;
            assert!(got.iter().copied().eq(first..first + pages), "{pages}");
        }
    }

    #[test]
    fn a_range_beyond_the_limit_drops_the_vmid() {
        fake::reset();
        fake::set_cap(layout::CAP_HAS_TLB_RANGE as u16);
        stage2_range(0, MAX_RANGE_PAGES + 1);
        assert_eq!(fake::take_log(), [Event::Tlbi("vmalls12e1is", 0)]);
        fake::reset();
        stage2_range(0, u64::MAX);
        assert_eq!(fake::take_log(), [Event::Tlbi("vmalls12e1is", 0)]);
    }

    #[test]
    fn with_lpa2_ranges_start_at_64k() {
        fake::reset();
        fake::set_cap(layout::CAP_HAS_TLB_RANGE as u16);
        fake::set_cap(layout::CAP_HAS_LPA2 as u16);
        // From the last page before a multiple of 64 KiB: that one page, which is such a multiple itself where pages are as
        // large, and then two.
        let start = 0x2_0000 - PAGE_SIZE;
        stage2_range(start, 3);
        let single = |at: u64| Event::Tlbi("ipas2e1is", at >> 12);
        let pair = |at: u64| Event::Tlbi("ripas2e1is", at >> 16 | TTL_GRANULE << 46);
        let wanted = if PAGE_SHIFT < 16 {
            [single(start), pair(0x2_0000)]
        } else {
            [pair(start), single(0x3_0000)]
        };
        assert_eq!(fake::take_log(), wanted);
    }

    #[test]
    fn a_level_is_hinted_only_where_the_cpu_knows_hints() {
        fake::reset();
        assert_eq!(by_address(0x5000, Some(3)), 5);
        fake::set_cap(layout::CAP_HAS_ARMv8_4_TTL as u16);
        assert_eq!(by_address(0x5000, Some(3)), 5 | (TTL_GRANULE << 2 | 3) << 44);
        assert_eq!(by_address(0x5000, Some(0)), 5);
        assert_eq!(by_address(0x5000, None), 5);
    }
}
