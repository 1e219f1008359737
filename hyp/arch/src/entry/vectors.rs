// SPDX-License-Identifier: GPL-2.0-only
//! The vectors for the time when a guest runs: the plain table, and three that first undo what the guest taught the
//! branch predictors. EL1 and the CPU decide which one a CPU uses.
//!
//! | table | before the branch to the plain one |
//! |---|---|
//! | `__kvm_hyp_vector` | |
//! | `__bp_harden_hyp_vecs` | a call to firmware (Spectre v2, or BHB) |
//! | + 0x800 | a loop of branches, or the CPU's instruction (BHB); absolute branch |
//! | + 0x1000 | the call to firmware; absolute branch |
//!
//! The tables with an absolute branch are mapped a second time at an address that tells nothing about where EL2 is
//! (Spectre v3a). The kernel's `kvm_patch_vector_branch()` writes that branch: it takes x0, and goes to the second eight
//! bytes of the plain entry ([`KVM_VECTOR_PREAMBLE`]), whose first eight the table in front has done in its place: an ESB,
//! and x0 and x1 on the stack.
//!
//! Exceptions of EL2's own come here too while a guest's turn is prepared. Two instructions may raise one: an AT, and the
//! ISB that lets an SError in (`guest`); they have a fixup. Everything else ends in a panic, a full stack too. So that
//! it is not met again by the store of x0 and x1, which would go on for ever, these entries look first, by adding
//! registers up: there is no place for a scratch one.
#![expect(unsafe_code, reason = "assembler")]

use pkvm_kernel::layout::*;

use super::guest;
use crate::alt::CALLBACK;
use crate::switch::ExitCode;

const _: () = assert!(
    KVM_VECTOR_PREAMBLE == 8,
    "the kernel branches behind two instructions of an entry"
);

/// ESR_EL2.EC of an HVC from AArch64 and from AArch32.
const EC_HVC64: u64 = 0x16;
const EC_HVC32: u64 = 0x12;
/// The calls to firmware that only a hypervisor that has not done them would have to do (Arm DEN0028, 7.5 to 7.7).
const ARCH_WORKAROUND_1: u64 = 0x8000_8000;
const ARCH_WORKAROUND_2: u64 = 0x8000_7fff;
const ARCH_WORKAROUND_3: u64 = 0x8000_3fff;
/// Bytes that an exception of EL2's own may need of the stack.
const ROOM: u64 = 256;

/// Sets the Z flag where less than ROOM is left of the stack. EL2's stacks are one page, above a page that is not mapped,
/// and lie so that one bit of SP tells which of the two it is. Changes no register but the flags.
#[rustfmt::skip]
macro_rules! look_for_room {
    () => {
        concat!(
            "add sp, sp, x0\n",
            "sub x0, sp, x0\n", // SP as it was; SP holds its sum with x0.
            "sub x0, x0, #{ROOM}\n",
            "tst x0, #{STACK_BIT}\n",
            "add x0, x0, #{ROOM}\n",
            "sub x0, sp, x0\n",
            "sub sp, sp, x0\n",
        )
    };
}

/// Refuses to assemble where what is between the labels 661 and 662 is shorter or longer than the preamble.
#[rustfmt::skip]
macro_rules! preamble_is_as_long_as_the_kernel_says {
    () => {
        ".org . - (662b - 661b) + {PREAMBLE}\n.org . - {PREAMBLE} + (662b - 661b)\n"
    };
}

/// An entry for exceptions of EL2's own. `target` finds x0 and x1 on the stack where that has room.
#[rustfmt::skip]
macro_rules! own_entry {
    ($target:literal) => {
        concat!(
            ".balign 128\n",
            "661:", esb!(),
            "b 663f\n",
            "662:", bti_j!(), // From a table in front.
            "b ", $target, "\n",
            "663:", look_for_room!(),
            "b.eq ", $target, "\n",
            "stp x0, x1, [sp, #-16]!\n",
            "b ", $target, "\n",
            preamble_is_as_long_as_the_kernel_says!(),
        )
    };
}

/// An entry for exceptions from the guest. `target` finds x0 and x1 on the stack.
#[rustfmt::skip]
macro_rules! guest_entry {
    ($target:literal) => {
        concat!(
            ".balign 128\n",
            "661:", esb!(),
            "stp x0, x1, [sp, #-16]!\n",
            "662:", bti_j!(), // From a table in front.
            "b ", $target, "\n",
            preamble_is_as_long_as_the_kernel_says!(),
        )
    };
}

/// Tells firmware to undo what the guest did to branch prediction, with x0 and x1 on the stack.
#[rustfmt::skip]
macro_rules! by_firmware {
    () => {
        concat!(
            "sub sp, sp, #32\n",
            "stp x2, x3, [sp]\n",
            "stp x0, x1, [sp, #16]\n",
            // Becomes the number of the third workaround where firmware has that.
            patched_by!("spectre_bhb_patch_wa3", "mov w0, #{ARCH_WORKAROUND_1}"),
            "smc #0\n",
            "ldp x2, x3, [sp], #16\n",
        )
    };
}

/// Fills the history of branches with others than the guest's, with x0 and x1 on the stack: by a loop, by the CPU's
/// instruction, or not at all, as EL1 patches it.
#[rustfmt::skip]
macro_rules! by_ourselves {
    () => {
        concat!(
            "stp x0, x1, [sp, #-16]!\n",
            ".if {MITIGATE_BHB}\n",
            patched_by!("spectre_bhb_patch_loop_mitigation_enable", "b 2f"), // A NOP with the mitigation on.
            patched_by!("spectre_bhb_patch_loop_iter", "mov x0, #32"),       // The number of rounds.
            "1: b . + 4\n",
            "subs x0, x0, #1\n",
            "b.ne 1b\n",
            speculation_barrier!(),
            "2:\n",
            patched_by!("spectre_bhb_patch_clearbhb", "hint #22\nisb"), // CLRBHB, or two NOPs.
            ".endif\n",
        )
    };
}

/// A table in front of the plain one. An exception of EL2's own needs no mitigation: EL2 taught itself.
#[rustfmt::skip]
macro_rules! table_in_front {
    ($mitigation:expr, $absolute:expr) => {
        concat!(
            "0:\n",
            ".rept 8\n",
            ".balign 128\n",
            "3: ", esb!(),
            look_for_room!(),
            "b.eq 4f\n",
            "stp x0, x1, [sp, #-16]!\n",
            "4:\n",
            $absolute, "b __kvm_hyp_vector + (3b - 0b) + {PREAMBLE}\n",
            ".endr\n",
            ".rept 8\n",
            ".balign 128\n",
            "3: ", esb!(),
            $mitigation, $absolute, "b __kvm_hyp_vector + (3b - 0b) + {PREAMBLE}\n",
            ".endr\n",
            ".org 0b + 2048\n", // No entry has run into the next.
        )
    };
}

/// A branch to the plain table's address, which EL1 writes where the CPU wants it.
#[rustfmt::skip]
macro_rules! absolute_branch {
    () => {
        patched_by!("kvm_patch_vector_branch", "nop\nnop\nnop\nnop")
    };
}

core::arch::global_asm!(
    ".pushsection .text.vectors, \"ax\"",
    ".balign 2048",
    ".globl __kvm_hyp_vector",
    ".type __kvm_hyp_vector, @function",
    "__kvm_hyp_vector:",
    // EL2 with SP_EL0, which it never uses.
    own_entry!("__guest_own_panic"),
    own_entry!("__guest_own_panic"),
    own_entry!("__guest_own_panic"),
    own_entry!("__guest_own_panic"),
    // EL2 with its own SP: synchronous, IRQ, FIQ, SError.
    own_entry!("__guest_own_sync"),
    own_entry!("__guest_own_interrupt"),
    own_entry!("__guest_own_interrupt"),
    own_entry!("__guest_own_serror"),
    // The guest in AArch64, and in AArch32.
    ".rept 2",
    guest_entry!("__guest_sync"),
    guest_entry!("__guest_irq"),
    guest_entry!("__guest_irq"),
    guest_entry!("__guest_serror"),
    ".endr",
    ".org __kvm_hyp_vector + 2048",
    ".size __kvm_hyp_vector, . - __kvm_hyp_vector",

    ".globl __bp_harden_hyp_vecs",
    ".type __bp_harden_hyp_vecs, @function",
    "__bp_harden_hyp_vecs:",
    table_in_front!(by_firmware!(), ""),
    table_in_front!(by_ourselves!(), absolute_branch!()),
    table_in_front!(by_firmware!(), absolute_branch!()),
    ".org __bp_harden_hyp_vecs + {TABLES_IN_FRONT}",
    ".size __bp_harden_hyp_vecs, . - __bp_harden_hyp_vecs",
    ".popsection",

    ".pushsection .text.entry, \"ax\"",
    ".balign 4",
    // From here on x0 and x1 of the guest are on the stack, and above them what __guest_enter() left.
    ".type __guest_sync, @function",
    "__guest_sync:",
    "mrs x0, esr_el2",
    "ubfx x0, x0, #26, #6",
    "cmp x0, #{EC_HVC64}",
    "ccmp x0, #{EC_HVC32}, #4, ne",
    "b.ne 1f",
    // Calls that ask for a workaround. Coming to EL2 at all has done what they ask for, so they cost as little as can be.
    "ldr x1, [sp]",
    "mov w0, #{ARCH_WORKAROUND_1}",
    "cmp w1, w0",
    "b.eq 2f",
    "mov w0, #{ARCH_WORKAROUND_2}",
    "cmp w1, w0",
    "b.eq 2f",
    "mov w0, #{ARCH_WORKAROUND_3}",
    "cmp w1, w0",
    "b.eq 2f",
    "1:",
    "mov x0, #{EXIT_TRAP}",
    "ldr x1, [sp, #16 + {FRAME_VCPU}]",
    "b __guest_exit",
    "2:",
    "mov x0, xzr", // SUCCESS. x1 may be lost, by the calling convention.
    "add sp, sp, #16",
    "eret",
    speculation_barrier!(),
    ".size __guest_sync, . - __guest_sync",

    ".type __guest_irq, @function",
    "__guest_irq:",
    "mov x0, #{EXIT_IRQ}",
    "ldr x1, [sp, #16 + {FRAME_VCPU}]",
    "b __guest_exit",
    ".size __guest_irq, . - __guest_irq",

    ".type __guest_serror, @function",
    "__guest_serror:",
    "mov x0, #{EXIT_SERROR}",
    "ldr x1, [sp, #16 + {FRAME_VCPU}]",
    "b __guest_exit",
    ".size __guest_serror, . - __guest_serror",

    // EL2's own, which pushed x0 and x1 if there was room for more than that.
    ".type __guest_own_panic, @function",
    "__guest_own_panic:",
    look_for_room!(),
    "b.eq __hyp_el2_exception",
    "b __guest_exit_panic",
    ".size __guest_own_panic, . - __guest_own_panic",

    ".type __guest_own_sync, @function",
    "__guest_own_sync:",
    look_for_room!(),
    "b.eq __hyp_el2_exception",
    // The guest's PSTATE was one that an ERET refuses: what the ERET raised is this exception, with all registers loaded.
    "mrs x0, spsr_el2",
    "tbz x0, #{SPSR_IL_BIT}, .Lguest_own_fixup",
    ".Lguest_own_illegal:",
    "mov x0, #{EXIT_ILLEGAL}",
    "ldr x1, [sp, #16 + {FRAME_VCPU}]",
    "b __guest_exit",
    ".size __guest_own_sync, . - __guest_own_sync",

    // After an ERET that the CPU refused, and that left interrupts unmasked, one that is pending comes before the
    // exception which the ERET raised. It stays pending, for the host.
    ".type __guest_own_interrupt, @function",
    "__guest_own_interrupt:",
    look_for_room!(),
    "b.eq __hyp_el2_exception",
    "mrs x0, spsr_el2",
    "tbnz x0, #{SPSR_IL_BIT}, .Lguest_own_illegal",
    "b __guest_exit_panic",
    ".size __guest_own_interrupt, . - __guest_own_interrupt",

    ".type __guest_own_serror, @function",
    "__guest_own_serror:",
    look_for_room!(),
    "b.eq __hyp_el2_exception",
    // In the same place an SError, which is taken and thus has to be told of. The guest meets its state on the next run.
    "mrs x0, spsr_el2",
    "tbz x0, #{SPSR_IL_BIT}, .Lguest_own_fixup",
    "mov x0, #{EXIT_SERROR}",
    "ldr x1, [sp, #16 + {FRAME_VCPU}]",
    "b __guest_exit",
    ".Lguest_own_fixup:",
    "stp x29, x30, [sp, #-160]!",
    "stp x2, x3, [sp, #16]",
    "stp x4, x5, [sp, #32]",
    "stp x6, x7, [sp, #48]",
    "stp x8, x9, [sp, #64]",
    "stp x10, x11, [sp, #80]",
    "stp x12, x13, [sp, #96]",
    "stp x14, x15, [sp, #112]",
    "stp x16, x17, [sp, #128]",
    "str x18, [sp, #144]",
    "mov x29, sp",
    "mrs x0, elr_el2",
    "bl hyp_fixup",
    "ldr x18, [sp, #144]",
    "ldp x16, x17, [sp, #128]",
    "ldp x14, x15, [sp, #112]",
    "ldp x12, x13, [sp, #96]",
    "ldp x10, x11, [sp, #80]",
    "ldp x8, x9, [sp, #64]",
    "ldp x6, x7, [sp, #48]",
    "ldp x4, x5, [sp, #32]",
    "ldp x2, x3, [sp, #16]",
    "ldp x29, x30, [sp], #160",
    "cbz x0, __guest_exit_panic",
    "msr elr_el2, x0",
    "ldp x0, x1, [sp], #16",
    "eret",
    speculation_barrier!(),
    ".size __guest_own_serror, . - __guest_own_serror",
    ".popsection",
    ARCH_WORKAROUND_1 = const ARCH_WORKAROUND_1,
    ARCH_WORKAROUND_2 = const ARCH_WORKAROUND_2,
    ARCH_WORKAROUND_3 = const ARCH_WORKAROUND_3,
    CALLBACK = const CALLBACK | CAP_ALWAYS_SYSTEM as u16,
    EC_HVC32 = const EC_HVC32,
    EC_HVC64 = const EC_HVC64,
    EXIT_ILLEGAL = const ExitCode::ILLEGAL.0,
    EXIT_IRQ = const ExitCode::IRQ.0,
    EXIT_SERROR = const ExitCode::SERROR.0,
    EXIT_TRAP = const ExitCode::TRAP.0,
    FRAME_VCPU = const guest::FRAME_VCPU,
    HAS_SB = const CAP_HAS_SB,
    MITIGATE_BHB = const CONFIG_MITIGATE_SPECTRE_BRANCH_HISTORY,
    PREAMBLE = const KVM_VECTOR_PREAMBLE,
    ROOM = const ROOM,
    SPSR_IL_BIT = const 20,
    STACK_BIT = const 1 << NVHE_STACK_SHIFT,
    TABLES_IN_FRONT = const BP_HARDEN_HYP_VECS_SIZE,
);

unsafe extern "C" {
    static __kvm_hyp_vector: u8;
    static __bp_harden_hyp_vecs: u8;
}

/// EL2's address of the plain vectors.
pub fn plain() -> u64 {
    (&raw const __kvm_hyp_vector) as u64
}

/// EL2's address of the tables in front of them.
pub fn hardened() -> u64 {
    (&raw const __bp_harden_hyp_vecs) as u64
}
