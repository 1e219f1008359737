// SPDX-License-Identifier: GPL-2.0-only
//! The one page that runs with the MMU off and is mapped at its physical address: the vectors that the kernel installs
//! first, the ways in for firmware, the way back to the kernel's stub, and the change of EL2's own tables.
//!
//! With the MMU off nothing is trusted of memory but the parameters (`struct kvm_nvhe_init_params`), which whoever
//! writes them cleans to the point of coherency; constants are in the instructions. The text ends as early as it can:
//! with the MMU on it leaves for [`host`](super::host)'s half in EL2's own text, and what EL2 controls is set by
//! compiled code ([`setup`](super::setup)).
#![expect(unsafe_code, reason = "assembler")]

use pkvm_kernel::layout::*;
use pkvm_types::{HypVa, Phys};

use super::Start;
use crate::sysreg::*;

/// CurrentEL at EL2.
const AT_EL2: u64 = 2 << 2;
/// The bits of SCTLR_EL2 that enable the instruction keys: EnIA and EnIB.
const SCTLR_EN_INSTRUCTION_KEYS: u64 = 3 << 30;
/// SCTLR_EL2.EnDA.
const SCTLR_EN_DA: u64 = 1 << 27;
/// SCTLR_EL2.EnDB.
const SCTLR_EN_DB: u64 = 1 << 13;
/// SCTLR_EL2.BT.
const SCTLR_BT: u64 = 1 << 36;
/// SCTLR_EL2.M.
const SCTLR_M: u64 = 1 << 0;
/// The bit of a function id by which the kernel says that no SVE state is live (SMCCC 1.3).
const SMCCC_HINT: u64 = 1 << 16;
/// PSTATE of EL2h with all exceptions masked.
const EL2H_MASKED: u64 = 0x3c9;
/// The bits of TTBR0_EL2 that hold the address, for any size of physical addresses. A table's address has its bits 51 to
/// 48 in bits 5 to 2, which are zero in an address of fewer bits.
const TTBR_BADDR: u64 = ((1 << 46) - 1) << 2;

/// TTBR0_EL2 for the table at the first register, into the second.
#[rustfmt::skip]
macro_rules! ttbr_of {
    ($phys:literal, $ttbr:literal) => {
        concat!(
            "orr ", $ttbr, ", ", $phys, ", ", $phys, ", lsr #46\n",
            "and ", $ttbr, ", ", $ttbr, ", #{TTBR_BADDR}\n",
            // CnP: every CPU has the same tables.
            alternative!("nop", concat!("orr ", $ttbr, ", ", $ttbr, ", #1"), "HAS_CNP"),
        )
    };
}

core::arch::global_asm!(
    ".pushsection .idmap.text, \"ax\"",
    ".balign 2048",
    ".globl __kvm_hyp_init",
    ".type __kvm_hyp_init, @function",
    // The first vectors of a CPU whose EL2 is not there yet. The kernel calls them once, by HVC from AArch64; its EL2
    // raises no exception of its own.
    "__kvm_hyp_init:",
    ".rept 8",
    ".balign 128",
    "b .",
    ".endr",
    ".balign 128",
    "b .Linit_call",
    ".rept 7",
    ".balign 128",
    "b .",
    ".endr",
    ".size __kvm_hyp_init, . - __kvm_hyp_init",

    // x0: function, x1: parameters (physical). By the SMC calling convention x4 and up are the caller's.
    ".type __hyp_init_call, @function",
    "__hyp_init_call:",
    ".Linit_call:",
    "cmp x0, #{HVC_STUB_HCALL_NR}",
    "b.lo __hyp_stub_call",
    "bic x0, x0, #{SMCCC_HINT}",
    mov64!("x3", "HYP_INIT_FUNCTION"),
    "cmp x0, x3",
    "b.ne 1f",
    "mov x0, x1",
    "mov x3, #{START_INSTALLED}",
    "b .Linit_cpu",
    "1:",
    "mov x0, #-1", // NOT_SUPPORTED
    "eret",
    speculation_barrier!(),

    // Firmware's ways in. x0: parameters (physical).
    ".globl kvm_hyp_cpu_entry",
    ".type kvm_hyp_cpu_entry, @function",
    "kvm_hyp_cpu_entry:",
    "mov x3, #{START_CPU_ON}",
    "b .Linit_from_firmware",
    ".globl kvm_hyp_cpu_resume",
    ".type kvm_hyp_cpu_resume, @function",
    "kvm_hyp_cpu_resume:",
    "mov x3, #{START_RESUME}",
    ".Linit_from_firmware:",
    // A CPU that comes up at EL1 has nobody at EL2 to keep it in bounds, so it stays here.
    "mrs x1, CurrentEL",
    "cmp x1, #{AT_EL2}",
    "b.ne __hyp_park",
    "msr SPSel, #1",
    // HCR_EL2 has any value out of reset. That of the parameters says all there is to say about E2H.

    // x0: parameters (physical), x3: the start. Clobbers x1 and x2 alone.
    ".Linit_cpu:",
    mov64!("x1", "SCTLR_EL2_MMU_OFF"),
    "msr sctlr_el2, x1",
    "isb",
    // The host's stage 2 is in place before HCR_EL2 can turn it on.
    "ldr x1, [x0, #{VTCR}]",
    "msr vtcr_el2, x1",
    "ldr x1, [x0, #{VTTBR}]",
    "msr vttbr_el2, x1",
    "ldr x1, [x0, #{HCR_EL2}]",
    "dsb nsh", // Ampere erratum AC04_CPU_23, and the ISB with it.
    "msr hcr_el2, x1",
    "isb",
    "ldr x1, [x0, #{MAIR_EL2}]",
    "msr mair_el2, x1",
    "ldr x1, [x0, #{TCR_EL2}]",
    "msr tcr_el2, x1",
    "ldr x1, [x0, #{PGD_PA}]",
    ttbr_of!("x1", "x2"),
    "msr ttbr0_el2, x2",
    "ldr x1, [x0, #{TPIDR_EL2}]",
    "msr tpidr_el2, x1",
    "ldr x1, [x0, #{STACK_HYP_VA}]",
    "mov sp, x1",
    "isb",
    // Entries that the boot loader or an earlier life left.
    "tlbi alle2",
    "tlbi alle1",
    "dsb sy",
    mov64!("x1", "SCTLR_EL2_MMU_ON"),
    alternative!(
        "nop\nnop\nnop",
        "orr x1, x1, #{SCTLR_EN_INSTRUCTION_KEYS}\norr x1, x1, #{SCTLR_EN_DA}\norr x1, x1, #{SCTLR_EN_DB}",
        "HAS_ADDRESS_AUTH"
    ),
    ".if {BTI_KERNEL}",
    alternative!("nop", "orr x1, x1, #{SCTLR_BT}", "BTI"),
    ".endif",
    "msr sctlr_el2, x1",
    "isb",
    // What was fetched without the MMU came from the point of coherency, and the kernel patches to that of unification.
    "ic iallu",
    "dsb nsh",
    "isb",
    // Memory is what EL1 made of it now, these two addresses among it.
    "ldr x1, .Linit_vectors",
    "msr vbar_el2, x1",
    "ldr x1, .Linit_rest",
    "br x1",

    ".type __hyp_park, @function",
    "__hyp_park:",
    "wfe",
    "wfi",
    "b __hyp_park",

    // The kernel's calls to its stub, which in non-protected mode EL2 answers in its place. x0: function; x1 to x4:
    // arguments. The MMU is off, or on and this page mapped at its physical address.
    ".globl __hyp_stub_call",
    ".type __hyp_stub_call, @function",
    "__hyp_stub_call:",
    bti_j!(),
    "cmp x0, #{HVC_RESET_VECTORS}",
    "b.eq 1f",
    "cmp x0, #{HVC_SOFT_RESTART}",
    "b.ne 3f",
    // To x1 at EL2, with x2 to x4 as its first arguments.
    "msr elr_el2, x1",
    "mov x0, #{EL2H_MASKED}",
    "msr spsr_el2, x0",
    "mov x0, x2",
    "mov x1, x3",
    "mov x2, x4",
    "b 2f",
    "1:",
    "mov x0, xzr",
    "2:",
    mov64!("x5", "SCTLR_EL2_MMU_OFF"),
    "isb", // Falkor erratum E1041: no speculative fetch by the old translation.
    "msr sctlr_el2, x5",
    "isb",
    address_of!("x5", "__hyp_stub_vectors"),
    "msr vbar_el2, x5",
    "eret",
    speculation_barrier!(),
    "3:",
    mov64!("x0", "HVC_STUB_ERR"),
    "eret",
    speculation_barrier!(),

    // x0: the new table (physical), x1: the new stack, x2: where to go on, there. See switch_tables().
    ".globl __hyp_switch_tables",
    ".type __hyp_switch_tables, @function",
    "__hyp_switch_tables:",
    bti_j!(),
    "mrs x3, sctlr_el2",
    "bic x4, x3, #{SCTLR_M}",
    "isb", // As above.
    "msr sctlr_el2, x4",
    "isb",
    ttbr_of!("x0", "x5"),
    "msr ttbr0_el2, x5",
    "tlbi alle2",
    "dsb nsh",
    "isb",
    "mov sp, x1",
    "msr sctlr_el2, x3",
    "isb",
    "ic iallu", // As above.
    "dsb nsh",
    "isb",
    "mov x29, xzr",
    "mov x30, xzr",
    "ret x2", // Not a branch: compiled code may have a landing pad for calls only.

    // Addresses that EL1 turns into EL2's.
    ".balign 8",
    ".Linit_vectors:",
    ".quad __kvm_hyp_host_vector",
    ".Linit_rest:",
    ".quad __hyp_init_rest",
    ".popsection",
    AT_EL2 = const AT_EL2,
    BTI_KERNEL = const CONFIG_BTI_KERNEL,
    EL2H_MASKED = const EL2H_MASKED,
    BTI = const CAP_BTI,
    HAS_ADDRESS_AUTH = const CAP_HAS_ADDRESS_AUTH,
    HAS_CNP = const CAP_HAS_CNP,
    HAS_SB = const CAP_HAS_SB,
    HCR_EL2 = const INIT_PARAMS_HCR_EL2,
    HVC_RESET_VECTORS = const HVC_RESET_VECTORS,
    HVC_SOFT_RESTART = const HVC_SOFT_RESTART,
    HVC_STUB_ERR = const HVC_STUB_ERR,
    HVC_STUB_HCALL_NR = const HVC_STUB_HCALL_NR,
    HYP_INIT_FUNCTION = const HYP_INIT_FUNCTION,
    MAIR_EL2 = const INIT_PARAMS_MAIR_EL2,
    PGD_PA = const INIT_PARAMS_PGD_PA,
    SCTLR_BT = const SCTLR_BT,
    SCTLR_EL2_MMU_OFF = const SCTLR_EL2_MMU_OFF,
    SCTLR_EL2_MMU_ON = const SCTLR_EL2_MMU_ON,
    SCTLR_EN_DA = const SCTLR_EN_DA,
    SCTLR_EN_DB = const SCTLR_EN_DB,
    SCTLR_EN_INSTRUCTION_KEYS = const SCTLR_EN_INSTRUCTION_KEYS,
    SCTLR_M = const SCTLR_M,
    SMCCC_HINT = const SMCCC_HINT,
    STACK_HYP_VA = const INIT_PARAMS_STACK_HYP_VA,
    START_CPU_ON = const Start::CpuOn.raw(),
    START_INSTALLED = const Start::Installed.raw(),
    START_RESUME = const Start::Resume.raw(),
    TCR_EL2 = const INIT_PARAMS_TCR_EL2,
    TPIDR_EL2 = const INIT_PARAMS_TPIDR_EL2,
    TTBR_BADDR = const TTBR_BADDR,
    VTCR = const INIT_PARAMS_VTCR,
    VTTBR = const INIT_PARAMS_VTTBR,
);

// The rest of a CPU's start, in EL2's own text and on its stack. x0: parameters (physical), x3: the start.
core::arch::global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".balign 4",
    ".type __hyp_init_rest, @function",
    "__hyp_init_rest:",
    bti_j!(),
    "cbnz x3, 1f",
    // The kernel called, and gets back what the calling convention says: all from x4 up. Compiled code keeps x19 to x29.
    "stp x29, x30, [sp, #-144]!",
    "stp x4, x5, [sp, #16]",
    "stp x6, x7, [sp, #32]",
    "stp x8, x9, [sp, #48]",
    "stp x10, x11, [sp, #64]",
    "stp x12, x13, [sp, #80]",
    "stp x14, x15, [sp, #96]",
    "stp x16, x17, [sp, #112]",
    "str x18, [sp, #128]",
    "mov x0, x3",
    "bl hyp_init_cpu",
    "ldr x18, [sp, #128]",
    "ldp x16, x17, [sp, #112]",
    "ldp x14, x15, [sp, #96]",
    "ldp x12, x13, [sp, #80]",
    "ldp x10, x11, [sp, #64]",
    "ldp x8, x9, [sp, #48]",
    "ldp x6, x7, [sp, #32]",
    "ldp x4, x5, [sp, #16]",
    "ldp x29, x30, [sp], #144",
    "mov x0, xzr", // SUCCESS
    "mov x1, xzr",
    "mov x2, xzr",
    "mov x3, xzr",
    "eret",
    speculation_barrier!(),
    "1:",
    // Nobody waits. Firmware left some keys, and compiled code may sign with them: let them be EL2's.
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x19, x3",
    ".if {PTR_AUTH_KERNEL}",
    alternative!("b 2f", "nop", "HAS_ADDRESS_AUTH"),
    this_cpu!("x0", "kvm_hyp_ctxt", "x1"),
    load_keys!("x0", "x1", "2", "3"),
    "isb",
    "2:",
    ".endif",
    "mov x0, x19",
    "bl hyp_init_cpu",
    "mov x0, x19",
    "bl hyp_start_cpu",
    ".size __hyp_init_rest, . - __hyp_init_rest",
    ".popsection",
    HAS_ADDRESS_AUTH = const CAP_HAS_ADDRESS_AUTH,
    HAS_SB = const CAP_HAS_SB,
    PTR_AUTH_KERNEL = const CONFIG_PTR_AUTH_KERNEL,
    KEYS = const super::KEYS,
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
    /// Firmware's way in after CPU_ON, with the MMU off.
    fn kvm_hyp_cpu_entry();
    /// Firmware's way in after a suspend, with the MMU off.
    fn kvm_hyp_cpu_resume();
    fn __hyp_switch_tables();
}

/// EL2's linear address of the code where firmware must enter after CPU_ON, with the physical address of the CPU's
/// parameters in x0.
pub fn cpu_on_entry() -> HypVa {
    HypVa::new(kvm_hyp_cpu_entry as *const () as u64)
}

/// As [`cpu_on_entry`], after a suspend.
pub fn resume_entry() -> HypVa {
    HypVa::new(kvm_hyp_cpu_resume as *const () as u64)
}

/// EL2's linear address of the code that [`switch_tables`] runs.
pub fn switch_code() -> HypVa {
    HypVa::new(__hyp_switch_tables as *const () as u64)
}

/// Replaces EL2's tables and stack, and calls `then`.
///
/// # Safety
/// `code` is the physical address of [`switch_code`]. The tables at `root` map EL2 as the current ones do, this page at
/// its physical address among it, and below `stack` there is room for `then`.
pub unsafe fn switch_tables(code: Phys, root: Phys, stack: HypVa, then: extern "C" fn() -> !) -> ! {
    // SAFETY: as the caller proves. A plain branch, so that no check of a call's type looks for one in front of it.
    unsafe {
        core::arch::asm!(
            "br {code}",
            code = in(reg) code.raw(),
            in("x0") root.raw(),
            in("x1") stack.raw(),
            in("x2") then,
            options(noreturn),
        )
    }
}
