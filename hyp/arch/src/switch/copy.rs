// SPDX-License-Identifier: GPL-2.0-only
//! Copies of a vCPU's registers between EL2's structure and the host's. They are the larger part of what a protected
//! run costs, so they go by the CPU's copy instructions, or by pairs of words.
//!
//! One of the structures is the host's, which may write it meanwhile. Each byte is read once, so what arrives is one
//! that was there; no other promise is made, and the registers may be anything.
#![expect(unsafe_code, reason = "copies between kernel structures in assembler")]

use pkvm_kernel::layout::*;
use pkvm_kernel::{Context, DebugRegs};

/// Copies `bytes` bytes, a multiple of 8, between two structures of one type, from the same offset in each.
///
/// # Safety
/// Both structures have that many bytes from `offset`, which is a multiple of 8.
unsafe fn copy_words(from: *const u8, to: *mut u8, offset: u64, bytes: u64) {
    let (from, to) = (
        from.wrapping_add(offset as usize),
        to.wrapping_add(offset as usize),
    );
    #[cfg(target_os = "none")]
    if crate::alt::has_cap::<{ CAP_HAS_MOPS as u16 }>() {
        // SAFETY: as for the loop below.
        unsafe {
            core::arch::asm!(
                ".arch_extension mops",
                "cpyfp [{to}]!, [{from}]!, {bytes}!",
                "cpyfm [{to}]!, [{from}]!, {bytes}!",
                "cpyfe [{to}]!, [{from}]!, {bytes}!",
                from = inout(reg) from => _,
                to = inout(reg) to => _,
                bytes = inout(reg) bytes => _,
                options(nostack),
            );
        }
        return;
    }
    #[cfg(target_os = "none")]
    // SAFETY: as the caller proves. The compiler sees no access, only that memory changes, so that a write by the host
    // in between is no data race to it.
    unsafe {
        core::arch::asm!(
            "cbz {blocks}, 662f",
            "661: ldp {a}, {b}, [{from}]",
            "ldp {c}, {d}, [{from}, #16]",
            "stp {a}, {b}, [{to}]",
            "stp {c}, {d}, [{to}, #16]",
            "ldp {a}, {b}, [{from}, #32]",
            "ldp {c}, {d}, [{from}, #48]",
            "stp {a}, {b}, [{to}, #32]",
            "stp {c}, {d}, [{to}, #48]",
            "add {from}, {from}, #64",
            "add {to}, {to}, #64",
            "sub {blocks}, {blocks}, #1",
            "cbnz {blocks}, 661b",
            "662: cbz {words}, 664f",
            "663: ldr {a}, [{from}], #8",
            "str {a}, [{to}], #8",
            "sub {words}, {words}, #1",
            "cbnz {words}, 663b",
            "664:",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            blocks = inout(reg) bytes / 64 => _,
            words = inout(reg) bytes % 64 / 8 => _,
            a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
            options(nostack, preserves_flags),
        );
    }
    #[cfg(not(target_os = "none"))]
    for n in 0..bytes as usize / 8 {
        let (from, to) = (from.wrapping_add(8 * n), to.wrapping_add(8 * n));
        // SAFETY: as the caller proves; the structures are aligned to 8 bytes, and so is the offset.
        #[expect(clippy::cast_ptr_alignment, reason = "as above")]
        unsafe {
            to.cast::<u64>()
                .write_volatile(from.cast::<u64>().read_volatile());
        }
    }
}

/// Copies all of a context: general, FP and system registers.
pub fn whole_context(from: Context, to: Context) {
    // SAFETY: the whole of both structures, whose size is a multiple of 8.
    unsafe { copy_words(from.as_ptr(), to.as_ptr(), 0, CTXT_SIZE) };
}
const _: () =
    assert!(CTXT_SIZE.is_multiple_of(8) && CTXT_FP_REGS.is_multiple_of(8) && CTXT_SYS_REGS.is_multiple_of(8));

/// The timers' registers in a context. EL1 keeps these itself, in its own structure, while a vCPU is loaded.
const TIMERS: [u64; 5] = sorted([
    SR_CNTVOFF_EL2,
    SR_CNTV_CVAL_EL0,
    SR_CNTV_CTL_EL0,
    SR_CNTP_CVAL_EL0,
    SR_CNTP_CTL_EL0,
]);

const fn sorted(mut values: [u64; 5]) -> [u64; 5] {
    let mut done = 0;
    while done < values.len() {
        let mut at = done + 1;
        while at < values.len() {
            if values[at] < values[done] {
                (values[at], values[done]) = (values[done], values[at]);
            }
            at += 1;
        }
        done += 1;
    }
    values
}

/// Copies a context but for the timers' registers, and for the word that says which vCPU runs.
pub fn context_without_timers(from: Context, to: Context) {
    // What comes before the system registers, and the reserved first of them, which is no register.
    // SAFETY: all of these are blocks of words within the structure.
    unsafe { copy_words(from.as_ptr(), to.as_ptr(), 0, CTXT_SYS_REGS) };
    let mut start = 1;
    for end in TIMERS.into_iter().chain([NR_SYS_REGS]) {
        if end > start {
            // SAFETY: as above.
            unsafe {
                copy_words(
                    from.as_ptr(),
                    to.as_ptr(),
                    CTXT_SYS_REGS + 8 * start,
                    8 * (end - start),
                );
            };
        }
        start = end + 1;
    }
}

/// Copies a set of breakpoints and watchpoints.
pub fn debug_regs(from: DebugRegs, to: DebugRegs) {
    const { assert!(GUEST_DEBUG_SIZE.is_multiple_of(8)) };
    // SAFETY: the whole of both structures.
    unsafe { copy_words(from.as_ptr(), to.as_ptr(), 0, GUEST_DEBUG_SIZE) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::NonNull;
    use std::vec::Vec;

    fn filled(from: u64) -> Vec<u64> {
        (from..from + CTXT_SIZE / 8).collect()
    }
    fn context(memory: &mut [u64]) -> Context {
        // SAFETY: the buffer is a context long, and outlives the view.
        unsafe { Context::from_raw(NonNull::new(memory.as_mut_ptr().cast()).unwrap()) }
    }

    #[test]
    fn a_whole_context_is_copied_to_the_last_word() {
        let (mut from, mut to) = (filled(1000), filled(1_000_000));
        whole_context(context(&mut from), context(&mut to));
        assert_eq!(from, to);
    }

    #[test]
    fn timers_and_the_running_vcpu_stay() {
        let (mut from, mut to) = (filled(1000), filled(1_000_000));
        context_without_timers(context(&mut from), context(&mut to));
        for (word, value) in (0..).zip(&to) {
            let kept = word >= (CTXT_SYS_REGS / 8 + NR_SYS_REGS)
                || word == CTXT_SYS_REGS / 8
                || (word > CTXT_SYS_REGS / 8 && TIMERS.contains(&(word - CTXT_SYS_REGS / 8)));
            assert_eq!(
                *value,
                if kept { 1_000_000 + word } else { 1000 + word },
                "word {word}"
            );
        }
    }
}
