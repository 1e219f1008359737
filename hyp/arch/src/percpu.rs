// SPDX-License-Identifier: GPL-2.0-only
//! Per-CPU variables and the two constants that relate kernel, hypervisor and physical addresses.
//!
//! A per-CPU variable is a static of the section `.data..percpu`, and that static is only a template: each CPU has its
//! copy at the offset that its TPIDR_EL2 holds. Nobody uses the template's own address but to compute a copy's.
#![cfg_attr(
    target_os = "none",
    expect(unsafe_code, reason = "TPIDR_EL2 and address constants")
)]

use pkvm_types::{HypVa, Phys};

/// The distance in bytes from a per-CPU template to this CPU's copy.
#[inline(always)]
pub fn this_cpu_offset() -> u64 {
    #[cfg(target_os = "none")]
    {
        let offset: u64;
        // SAFETY: a register read. `pure`: EL2 code never moves to another CPU, and nothing there changes the
        // register after the CPU's initialisation.
        unsafe {
            core::arch::asm!("mrs {}, tpidr_el2", out(reg) offset, options(pure, nomem, nostack, preserves_flags));
        }
        offset
    }
    #[cfg(not(target_os = "none"))]
    crate::fake::this_cpu_offset()
}

/// This CPU's copy of the per-CPU variable whose template is at `template`.
#[inline(always)]
pub fn this_cpu_ptr<T>(template: *const T) -> *mut T {
    template.cast_mut().wrapping_byte_add(this_cpu_offset() as usize)
}

/// The copy that another CPU has, given the hypervisor address of the start of that CPU's area and of the start of
/// the template (`__per_cpu_start`).
pub fn copy_at<T>(template: *const T, template_start: HypVa, area_start: HypVa) -> *mut T {
    template
        .cast_mut()
        .wrapping_byte_add(area_start.raw().wrapping_sub(template_start.raw()) as usize)
}

/// The physical address of memory that EL2 sees in its linear map. `physvirt_offset` is the kernel's
/// `hyp_physvirt_offset`.
#[inline(always)]
pub const fn hyp_pa(va: HypVa, physvirt_offset: i64) -> Phys {
    Phys::new(va.raw().wrapping_add(physvirt_offset.cast_unsigned()))
}

/// Where EL2's linear map has the memory at `phys`. Whether anything is mapped there is for the caller to know.
#[inline(always)]
pub const fn hyp_va(phys: Phys, physvirt_offset: i64) -> HypVa {
    HypVa::new(phys.raw().wrapping_sub(physvirt_offset.cast_unsigned()))
}
