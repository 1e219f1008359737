// SPDX-License-Identifier: GPL-2.0-only
//! Raw access to pages that EL2 owns, at their address in the linear map. Translation tables are read by hardware on
//! other CPUs at any time, so each word moves in one access.
#![expect(unsafe_code, reason = "the one place that dereferences a physical address")]

use core::sync::atomic::{AtomicU64, Ordering};

use pkvm_arch::percpu;
use pkvm_types::{HypVa, PAGE_SIZE, PTES_PER_TABLE, Phys};

use crate::statics;

/// EL2's linear address of `phys`.
#[inline(always)]
pub fn linear_va(phys: Phys) -> HypVa {
    percpu::hyp_va(phys, statics::hyp_physvirt_offset.get().cast_signed())
}

/// The physical address behind EL2's linear address `va`.
#[inline(always)]
pub fn linear_phys(va: HypVa) -> Phys {
    percpu::hyp_pa(va, statics::hyp_physvirt_offset.get().cast_signed())
}

#[inline(always)]
fn slot(table: Phys, index: usize) -> &'static AtomicU64 {
    debug_assert!(table.is_page_aligned() && (index as u64) < PTES_PER_TABLE);
    let va = linear_va(table).raw() + 8 * (index as u64 & (PTES_PER_TABLE - 1));
    // SAFETY: the callers below are reached only with tables and list pages that EL2 owns; such a page stays mapped in
    // the linear map while it is owned. The mask keeps the word within the page, and it is aligned.
    unsafe { &*(va as *const AtomicU64) }
}

/// Reads word `index` of the page at `table`, which EL2 owns.
#[inline(always)]
pub fn read(table: Phys, index: usize) -> u64 {
    slot(table, index).load(Ordering::Relaxed)
}

/// Writes word `index` of the page at `table`, which EL2 owns, after all that was written before it.
#[inline(always)]
pub fn write(table: Phys, index: usize, value: u64) {
    slot(table, index).store(value, Ordering::Release);
}

/// Fills the page at `page`, which EL2 owns, with zeroes.
pub fn zero_page(page: Phys) {
    zero(linear_va(page.page()), PAGE_SIZE);
}

/// Fills `bytes` at `va` with zeroes. The range must be mapped writable at EL2 and belong to EL2 alone.
pub fn zero(va: HypVa, bytes: u64) {
    // SAFETY: callers pass pages that EL2 owns, or a page through its fixmap slot, neither of which holds a Rust
    // object that anybody refers to.
    unsafe { core::ptr::write_bytes(va.raw() as *mut u8, 0, bytes as usize) };
}

/// Writes `value` to the first 8 bytes of the page at `va`, mapped as for [`zero`].
pub fn store(va: HypVa, value: u64) {
    // SAFETY: as for `zero`, and a page is aligned.
    unsafe { (va.raw() as *mut u64).write_volatile(value) };
}

/// Where word `index` is of a page that somebody else may write to meanwhile, so that there must be no reference to it.
fn shared_slot(page: Phys, index: usize) -> *mut u64 {
    debug_assert!(page.is_page_aligned() && (index as u64) < PTES_PER_TABLE);
    (linear_va(page).raw() + 8 * (index as u64 & (PTES_PER_TABLE - 1))) as *mut u64
}

/// Reads word `index` of a page that is mapped in the linear map, EL2's own or lent to EL2 and pinned, and that somebody
/// else may write to meanwhile.
pub fn read_shared(page: Phys, index: usize) -> u64 {
    // SAFETY: by the caller's choice of page the word is mapped, and aligned.
    unsafe { shared_slot(page, index).read_volatile() }
}

/// Writes it.
pub fn write_shared(page: Phys, index: usize, value: u64) {
    // SAFETY: as above; no Rust object is there.
    unsafe { shared_slot(page, index).write_volatile(value) };
}

/// Copies the first `bytes` of one such page to another, rounded up to whole words and at most a page. Each word is read
/// once.
pub fn copy_shared(from: Phys, to: Phys, bytes: u64) {
    for index in 0..bytes.div_ceil(8).min(PTES_PER_TABLE) as usize {
        write_shared(to, index, read_shared(from, index));
    }
}
