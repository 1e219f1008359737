// SPDX-License-Identifier: GPL-2.0-only
//! Entering a guest and coming back: the registers that are neither the compiled code's to touch nor EL1's.
//!
//! EL2's own registers wait on its stack meanwhile, below the frame of whoever entered the guest. An exception from the
//! guest finds the stack as the entry left it, so the vectors have the vCPU's address there, at SP.
//!
//! `kvm_hyp_ctxt` (a `struct kvm_cpu_context`) holds what of the host is on the CPU while EL2 runs but gives way to the
//! guest's: the keys of pointer authentication and the state of MTE. Its `__hyp_running_vcpu` tells whether these and
//! the general registers are the guest's at the moment: the vCPU from just before the first of them is loaded to just
//! after the last one is back, else null.
#![expect(unsafe_code, reason = "assembler")]

use pkvm_kernel::Vcpu;
use pkvm_kernel::layout::*;

use crate::switch::ExitCode;
use crate::sysreg::*;

/// Bytes of EL2's registers on the stack, and what is where in them.
pub(super) const FRAME: u64 = 128;
/// The vCPU's address and SP_EL0.
pub(super) const FRAME_VCPU: u64 = 0;
const FRAME_X18: u64 = 16;
/// x19 to x30, in order.
const FRAME_X19: u64 = 32;
/// Where the guest's exit returns to.
const FRAME_X30: u64 = FRAME_X19 + 8 * 11;

core::arch::global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".balign 4",
    // u64 __guest_enter(struct kvm_vcpu *vcpu)
    ".globl __guest_enter",
    ".type __guest_enter, @function",
    "__guest_enter:",
    "sub sp, sp, #{FRAME}",
    "mrs x1, sp_el0",
    "stp x0, x1, [sp, #{FRAME_VCPU}]",
    "str x18, [sp, #{FRAME_X18}]",
    "stp x19, x20, [sp, #{FRAME_X19}]",
    "stp x21, x22, [sp, #{FRAME_X19} + 16]",
    "stp x23, x24, [sp, #{FRAME_X19} + 32]",
    "stp x25, x26, [sp, #{FRAME_X19} + 48]",
    "stp x27, x28, [sp, #{FRAME_X19} + 64]",
    "stp x29, x30, [sp, #{FRAME_X19} + 80]",
    // All stores of EL2 and the host are made, and errors that they met are pending. Whatever is pending is not the
    // guest's, so it must not enter. Without the RAS extension such an error is fatal anyway.
    alternative!("nop\nnop", "dsb nshst\nisb", "HAS_RAS_EXTN"),
    "mrs x1, isr_el1",
    "cbz x1, 1f",
    "isb", // Callers leave it to the ERET to make register writes take effect.
    "add sp, sp, #{FRAME}", // No register has changed that the caller needs.
    "mov x0, #{EXIT_IRQ}",
    "ret",
    "1:",
    this_cpu!("x2", "kvm_hyp_ctxt", "x3"),
    "str x0, [x2, #{RUNNING_VCPU}]",
    "add x29, x0, #{VCPU_CTXT}",
    ".if {CONFIG_MTE}",
    alternative!("b 2f", "nop", "MTE"),
    "mrs x3, hcr_el2",
    "tbz x3, #{HCR_ATA_BIT}, 2f",
    mrs!("3", "RGSR_EL1"),
    mrs!("4", "GCR_EL1"),
    "str x3, [x2, #{RGSR}]",
    "str x4, [x2, #{GCR}]",
    "ldr x3, [x29, #{RGSR}]",
    "ldr x4, [x29, #{GCR}]",
    msr!("RGSR_EL1", "3"),
    msr!("GCR_EL1", "4"),
    "2:",
    ".endif",
    ".if {CONFIG_PTR_AUTH}",
    alternative!("b 3f", "nop", "HAS_ADDRESS_AUTH"),
    "mrs x3, hcr_el2",
    "tst x3, #{HCR_API_APK}",
    "b.eq 3f",
    // A kernel that uses no pointer authentication itself leaves its process's keys on the CPU, and in protected mode
    // nobody else saves them. EL2 of a kernel that uses it has its own here, which kvm_hyp_ctxt knows.
    ".if {PTR_AUTH_KERNEL} == 0",
    save_keys!("x2", "x3", "4", "5"),
    ".endif",
    load_keys!("x29", "x3", "4", "5"),
    "3:",
    ".endif",
    "ldr x0, [x29, #{SP_EL0}]",
    "msr sp_el0, x0",
    load_all!(),
    "eret",
    speculation_barrier!(),
    ".size __guest_enter, . - __guest_enter",

    // A panic of EL2, from vectors for guests: x0 and x1 are on the stack.
    ".globl __guest_exit_panic",
    ".type __guest_exit_panic, @function",
    "__guest_exit_panic:",
    this_cpu!("x0", "kvm_hyp_ctxt", "x1"),
    "ldr x0, [x0, #{RUNNING_VCPU}]",
    "cbz x0, __hyp_el2_exception",
    // The host's registers must be back for the host's own panic. The guest's as saved are of no use.
    address_of!("x0", "__hyp_el2_exception"),
    "str x0, [sp, #16 + {FRAME_X30}]",
    "ldr x1, [sp, #16 + {FRAME_VCPU}]",
    ".size __guest_exit_panic, . - __guest_exit_panic",

    // The end of a guest's turn, as the return from __guest_enter(). x0: exit code, x1: vCPU; the guest's x0 and x1 are
    // on the stack, and its other registers on the CPU.
    ".globl __guest_exit",
    ".type __guest_exit, @function",
    "__guest_exit:",
    // PSTATE.PAN, by number.
    alternative!("nop", ".inst 0xd500419f", "HAS_PAN"),
    "add x1, x1, #{VCPU_CTXT}",
    "stp x2, x3, [x1, #{REGS} + 8 * 2]",
    "ldp x2, x3, [sp], #16",
    "stp x2, x3, [x1, #{REGS}]",
    save_x4_to_x17!("x1"),
    save_x18_to_x30!("x1"),
    "ldr x2, [sp, #{FRAME_VCPU} + 8]",
    "mrs x3, sp_el0",
    "str x3, [x1, #{SP_EL0}]",
    "msr sp_el0, x2",
    this_cpu!("x2", "kvm_hyp_ctxt", "x3"),
    ".if {CONFIG_PTR_AUTH}",
    alternative!("b 1f", "nop", "HAS_ADDRESS_AUTH"),
    "mrs x3, hcr_el2",
    "tst x3, #{HCR_API_APK}",
    "b.eq 1f",
    save_keys!("x1", "x3", "4", "5"),
    load_keys!("x2", "x3", "4", "5"),
    "isb",
    "1:",
    ".endif",
    ".if {CONFIG_MTE}",
    alternative!("b 2f", "nop", "MTE"),
    "mrs x3, hcr_el2",
    "tbz x3, #{HCR_ATA_BIT}, 2f",
    mrs!("3", "RGSR_EL1"),
    mrs!("4", "GCR_EL1"),
    "str x3, [x1, #{RGSR}]",
    "str x4, [x1, #{GCR}]",
    "ldr x3, [x2, #{RGSR}]",
    "ldr x4, [x2, #{GCR}]",
    msr!("RGSR_EL1", "3"),
    msr!("GCR_EL1", "4"),
    "isb",
    "2:",
    ".endif",
    "ldp x29, x30, [sp, #{FRAME_X19} + 80]",
    "ldp x27, x28, [sp, #{FRAME_X19} + 64]",
    "ldp x25, x26, [sp, #{FRAME_X19} + 48]",
    "ldp x23, x24, [sp, #{FRAME_X19} + 32]",
    "ldp x21, x22, [sp, #{FRAME_X19} + 16]",
    "ldp x19, x20, [sp, #{FRAME_X19}]",
    "ldr x18, [sp, #{FRAME_X18}]",
    "add sp, sp, #{FRAME}",
    "str xzr, [x2, #{RUNNING_VCPU}]",
    // The guest's SErrors are the guest's: none may be left to hit the host. With the RAS extension the ESB in the vector
    // has collected what there was.
    alternative!("b .Lguest_serror_by_exception", "nop", "HAS_RAS_EXTN"),
    mrs!("2", "DISR_EL1"),
    "str x2, [x1, #{FAULT_DISR}]",
    "cbz x2, 3f",
    msr!("DISR_EL1", "31"),
    "orr x0, x0, #{SERROR_PENDING}",
    "3:",
    "ret",
    // Without it, an SError is unmasked for the length of one instruction, and if it comes the fixup counts it.
    ".Lguest_serror_by_exception:",
    "dsb sy", // All accesses of the guest are done,
    "isb",    // and ISR_EL1 is read after them.
    "mrs x2, isr_el1",
    "tbz x2, #{ISR_A_BIT}, 6f",
    // The exception overwrites the guest's own.
    "mrs x2, elr_el2",
    "mrs x3, esr_el2",
    "mrs x4, spsr_el2",
    "msr daifclr, #4",
    // It comes between the unmasking and the end of the ISB. Where exactly is the CPU's choice.
    "4: isb",
    "5: msr daifset, #4",
    "6: ret",
    "7: msr daifset, #4",
    "msr elr_el2, x2",
    "msr esr_el2, x3",
    "msr spsr_el2, x4",
    "orr x0, x0, #{SERROR_PENDING}",
    "ret",
    ".pushsection __kvm_ex_table, \"a\"",
    ".balign 8",
    ".long 4b - ., 7b - .",
    ".long 5b - ., 7b - .",
    ".popsection",
    ".size __guest_exit, . - __guest_exit",
    ".popsection",
    CONFIG_MTE = const CONFIG_MTE,
    CONFIG_PTR_AUTH = const CONFIG_PTR_AUTH,
    EXIT_IRQ = const ExitCode::IRQ.0,
    FAULT_DISR = const VCPU_FAULT_DISR_EL1 - VCPU_CTXT,
    FRAME = const FRAME,
    FRAME_VCPU = const FRAME_VCPU,
    FRAME_X18 = const FRAME_X18,
    FRAME_X19 = const FRAME_X19,
    FRAME_X30 = const FRAME_X30,
    GCR = const CTXT_SYS_REGS + 8 * SR_GCR_EL1,
    HAS_ADDRESS_AUTH = const CAP_HAS_ADDRESS_AUTH,
    HAS_PAN = const CAP_HAS_PAN,
    HAS_RAS_EXTN = const CAP_HAS_RAS_EXTN,
    HAS_SB = const CAP_HAS_SB,
    HCR_API_APK = const hcr::API | hcr::APK,
    HCR_ATA_BIT = const hcr::ATA.trailing_zeros(),
    ISR_A_BIT = const 8,
    KEYS = const super::KEYS,
    MTE = const CAP_MTE,
    PTR_AUTH_KERNEL = const CONFIG_PTR_AUTH_KERNEL,
    REGS = const CTXT_REGS,
    RGSR = const CTXT_SYS_REGS + 8 * SR_RGSR_EL1,
    RUNNING_VCPU = const CTXT_RUNNING_VCPU,
    SERROR_PENDING = const ExitCode::SERROR_PENDING,
    SP_EL0 = const CTXT_SP_EL0,
    VCPU_CTXT = const VCPU_CTXT,
    DISR_EL1 = const DISR_EL1,
    GCR_EL1 = const GCR_EL1,
    RGSR_EL1 = const RGSR_EL1,
    APIAKEYLO_EL1 = const APIAKEYLO_EL1,
    APIAKEYHI_EL1 = const APIAKEYHI_EL1,
    APIBKEYLO_EL1 = const APIBKEYLO_EL1,
    APIBKEYHI_EL1 = const APIBKEYHI_EL1,
    APDAKEYLO_EL1 = const APDAKEYLO_EL1,
    APDAKEYHI_EL1 = const APDAKEYHI_EL1,
    APDBKEYLO_EL1 = const APDBKEYLO_EL1,
    APDBKEYHI_EL1 = const APDBKEYHI_EL1,
    APGAKEYLO_EL1 = const APGAKEYLO_EL1,
    APGAKEYHI_EL1 = const APGAKEYHI_EL1,
);

/// Enters the guest. Returns at its exit with the exit code (see [`ExitCode`](crate::switch::ExitCode)): its general
/// registers are in its context then, ELR_EL2 and SPSR_EL2 tell where it was.
///
/// # Safety
/// The vCPU is mapped, all else that the guest runs under is loaded, and VBAR_EL2 has one of the tables of
/// [`vectors`](super::vectors).
#[inline(always)]
pub unsafe fn enter_guest(vcpu: Vcpu) -> u64 {
    unsafe extern "C" {
        fn __guest_enter(vcpu: *mut u8) -> u64;
    }
    // SAFETY: as the caller proves.
    unsafe { __guest_enter(vcpu.as_ptr()) }
}
