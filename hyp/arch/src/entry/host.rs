// SPDX-License-Identifier: GPL-2.0-only
//! The vectors for the time when the host runs or EL2 itself does, and the host's registers.
//!
//! While the host runs, EL2's stack is empty. Its general registers rest in `kvm_host_data.host_ctxt` while EL2 runs;
//! ELR_EL2 and SPSR_EL2, SP_EL0 and all of its EL1 stay where they are. No register of FP is touched.
//!
//! An exception that EL2 takes from itself ends in a panic, always, so it need not find room on the stack that EL2 was
//! on: it moves to the CPU's overflow stack at once. That makes an overflow of EL2's stack, which is an exception on the
//! page below it, no case of its own.
//!
//! These vectors have no mitigations of Spectre: the host knows where EL2 is. They have no ESB either, which would take
//! an SError that is the host's own.
#![expect(unsafe_code, reason = "assembler")]

use pkvm_kernel::Context;
use pkvm_kernel::layout::*;

use crate::sysreg::*;

/// ESR_EL2.EC of an HVC from AArch64.
const EC_HVC64: u64 = 0x16;

core::arch::global_asm!(
    // All vector tables stand one after another, so that aligning them costs little.
    ".pushsection .text.vectors, \"ax\"",
    ".balign 2048",
    ".globl __kvm_hyp_host_vector",
    ".type __kvm_hyp_host_vector, @function",
    "__kvm_hyp_host_vector:",
    ".rept 8", // EL2 with SP_EL0, and with its own: EL2's defects.
    ".balign 128",
    "b __hyp_el2_exception",
    ".endr",
    ".rept 2", // The host, from AArch64 and from AArch32.
    ".balign 128",
    "stp x0, x1, [sp, #-16]!",
    // Calls to the stub are for a trusted host alone.
    alternative!("nop", "b __host_exit", "KVM_PROTECTED_MODE"),
    "mrs x0, esr_el2",
    "ubfx x0, x0, #26, #6",
    "cmp x0, #{EC_HVC64}",
    "b.ne __host_exit",
    "b __host_hvc",
    ".rept 3", // IRQ, FIQ, SError: the host's go to the host.
    ".balign 128",
    "b __host_unexpected",
    ".endr",
    ".endr",
    ".balign 128",
    ".size __kvm_hyp_host_vector, . - __kvm_hyp_host_vector",
    ".popsection",
    EC_HVC64 = const EC_HVC64,
    KVM_PROTECTED_MODE = const CAP_KVM_PROTECTED_MODE,
);

/// From the vectors' state (x0 and x1 on the stack) to all host registers in its context, whose address is in x29.
#[rustfmt::skip]
macro_rules! save_host {
    () => {
        concat!(
            this_cpu!("x0", "(kvm_host_data + {HOST_CTXT})", "x1"),
            "stp x2, x3, [x0, #{REGS} + 8 * 2]\n",
            "ldp x2, x3, [sp], #16\n",
            "stp x2, x3, [x0, #{REGS}]\n",
            save_x4_to_x17!("x0"),
            save_x18_to_x30!("x0"),
            "mov x29, x0\n",
        )
    };
}

core::arch::global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".balign 4",
    // A trap of the host.
    ".type __host_exit, @function",
    "__host_exit:",
    save_host!(),
    // The kernel's pointer authentication is no business of a hypervisor that it may not trust, nor EL2's of the kernel:
    // each has its keys.
    ".if {PTR_AUTH_KERNEL}",
    alternative!("b 1f", "nop", "HAS_ADDRESS_AUTH"),
    alternative!("b 1f", "nop", "KVM_PROTECTED_MODE"),
    save_keys!("x29", "x2", "4", "5"),
    this_cpu!("x3", "kvm_hyp_ctxt", "x2"),
    load_keys!("x3", "x2", "4", "5"),
    "isb",
    "1:",
    ".endif",
    "mov x0, x29",
    "bl handle_trap",
    "b .Lhost_load",
    ".size __host_exit, . - __host_exit",

    // To the host, with the registers of the context at x0, from anywhere on any of EL2's stacks.
    ".globl __host_enter",
    ".type __host_enter, @function",
    "__host_enter:",
    "mov x29, x0",
    this_cpu!("x1", "(kvm_init_params + {STACK_HYP_VA})", "x2"),
    "ldr x1, [x1]",
    "mov sp, x1",
    ".Lhost_load:",
    ".if {PTR_AUTH_KERNEL}",
    alternative!("b 1f", "nop", "HAS_ADDRESS_AUTH"),
    alternative!("b 1f", "nop", "KVM_PROTECTED_MODE"),
    load_keys!("x29", "x2", "4", "5"),
    "1:",
    ".endif",
    load_all!(),
    "eret",
    speculation_barrier!(),
    ".size __host_enter, . - __host_enter",

    // An HVC of a host that is trusted.
    ".type __host_hvc, @function",
    "__host_hvc:",
    "ldr x0, [sp]",
    "cmp x0, #{HVC_STUB_HCALL_NR}",
    "b.hs __host_exit",
    // On the page that may run without the MMU, by its physical address. x0 to x4 are the call's.
    "ldp x0, x1, [sp], #16",
    address_of!("x5", "__hyp_stub_call"),
    "adrp x6, hyp_physvirt_offset",
    "ldr x6, [x6, :lo12:hyp_physvirt_offset]",
    "add x5, x5, x6",
    "br x5",
    ".size __host_hvc, . - __host_hvc",

    // An exception that the host's EL1 should have had: EL2 did not ask for it.
    ".type __host_unexpected, @function",
    "__host_unexpected:",
    "stp x0, x1, [sp, #-16]!",
    save_host!(),
    "b __hyp_el2_exception",
    ".size __host_unexpected, . - __host_unexpected",

    // An exception of EL2's own that nothing can settle. x29 is as EL2 had it, for the backtrace.
    ".globl __hyp_el2_exception",
    ".type __hyp_el2_exception, @function",
    "__hyp_el2_exception:",
    this_cpu!("x0", "overflow_stack", "x1"),
    // On that stack already: the panic itself does not get through. There is nobody left to tell.
    "mov x1, sp",
    "sub x1, x1, x0",
    "cmp x1, #{OVERFLOW_STACK_SIZE}",
    "b.ls 1f",
    "add sp, x0, #{OVERFLOW_STACK_SIZE}",
    "b hyp_panic",
    "1:",
    "wfe",
    "wfi",
    "b 1b",
    ".size __hyp_el2_exception, . - __hyp_el2_exception",
    ".popsection",
    HOST_CTXT = const HOST_DATA_CTXT,
    HAS_ADDRESS_AUTH = const CAP_HAS_ADDRESS_AUTH,
    HAS_SB = const CAP_HAS_SB,
    HVC_STUB_HCALL_NR = const HVC_STUB_HCALL_NR,
    KEYS = const super::KEYS,
    KVM_PROTECTED_MODE = const CAP_KVM_PROTECTED_MODE,
    OVERFLOW_STACK_SIZE = const OVERFLOW_STACK_SIZE,
    PTR_AUTH_KERNEL = const CONFIG_PTR_AUTH_KERNEL,
    REGS = const CTXT_REGS,
    STACK_HYP_VA = const INIT_PARAMS_STACK_HYP_VA,
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

unsafe extern "C" {
    static __kvm_hyp_host_vector: u8;
    fn __host_enter(context: *mut u8) -> !;
}

/// EL2's address of the host's vectors.
pub fn host_vectors() -> pkvm_types::HypVa {
    pkvm_types::HypVa::new((&raw const __kvm_hyp_host_vector) as u64)
}

/// Returns to the host with the registers in its context, where ELR_EL2 and SPSR_EL2 say.
///
/// # Safety
/// `context` is this CPU's host context, the world below is the host's, and nothing of EL2 is left to do: its stack
/// is given up.
pub unsafe fn enter_host(context: Context) -> ! {
    // SAFETY: as the caller proves.
    unsafe { __host_enter(context.as_ptr()) }
}
