// SPDX-License-Identifier: GPL-2.0-only
//! Pieces of assembler text that the entry code is put together from. Each macro gives a string literal; names in braces
//! are operands of the block that uses it.
//!
//! Registers that assemblers know by name only with a later architecture enabled are given by the numbers of
//! [`crate::sysreg`]: see [`mrs`](macro@mrs).

/// `mrs x<rt>, <register>`, the register by the operand that holds its encoding.
macro_rules! mrs {
    ($rt:literal, $register:literal) => {
        concat!(".inst 0xd5200000 + {", $register, "} + ", $rt, "\n")
    };
}

/// `msr <register>, x<rt>`.
macro_rules! msr {
    ($register:literal, $rt:literal) => {
        concat!(".inst 0xd5000000 + {", $register, "} + ", $rt, "\n")
    };
}

/// `<register> = <64-bit constant>`, without a literal: those are in memory, which the MMU-off code does not trust.
macro_rules! mov64 {
    ($register:literal, $value:literal) => {
        concat!(
            "movz ", $register, ", #({", $value, "} & 0xffff)\n",
            "movk ", $register, ", #(({", $value, "} >> 16) & 0xffff), lsl #16\n",
            "movk ", $register, ", #(({", $value, "} >> 32) & 0xffff), lsl #32\n",
            "movk ", $register, ", #(({", $value, "} >> 48) & 0xffff), lsl #48\n",
        )
    };
}

/// `<register> = &<symbol>`, relative to the program counter.
macro_rules! address_of {
    ($register:literal, $symbol:literal) => {
        concat!(
            "adrp ", $register, ", ", $symbol, "\n", "add ", $register, ", ", $register, ", :lo12:", $symbol, "\n",
        )
    };
}

/// `<register> = ` this CPU's copy of the per-CPU variable. Clobbers the second register.
macro_rules! this_cpu {
    ($register:literal, $symbol:literal, $scratch:literal) => {
        concat!(
            "mrs ", $scratch, ", tpidr_el2\n",
            address_of!($register, $symbol),
            "add ", $register, ", ", $register, ", ", $scratch, "\n",
        )
    };
}

/// What one CPU capability chooses: the first text without it, the second with it, of equal length. The third is the
/// operand with the capability's number.
macro_rules! alternative {
    ($old:expr, $new:expr, $cap:literal) => {
        concat!(
            "661:\n",
            $old, "\n662:\n",
            ".pushsection .altinstructions, \"a\"\n",
            ".word 661b - ., 663f - .\n",
            ".hword {", $cap, "}\n",
            ".byte 662b - 661b, 664f - 663f\n",
            ".popsection\n",
            ".subsection 1\n",
            "663:\n",
            $new, "\n664:\n",
            ".org . - (664b - 663b) + (662b - 661b)\n",
            ".org . - (662b - 661b) + (664b - 663b)\n",
            ".previous\n",
        )
    };
}

/// Text that a function of EL1 rewrites when it patches the kernel. Uses the operand `CALLBACK`.
macro_rules! patched_by {
    ($function:literal, $text:expr) => {
        concat!(
            "661:\n",
            $text, "\n662:\n",
            ".pushsection .altinstructions, \"a\"\n",
            ".word 661b - ., ", $function, " - .\n",
            ".hword {CALLBACK}\n",
            ".byte 662b - 661b, 0\n",
            ".popsection\n",
        )
    };
}

/// Stops speculation past an ERET or a branch that speculation must not pass. Uses the operand `HAS_SB`.
macro_rules! speculation_barrier {
    () => {
        // SB, which the assembler knows by its number alone.
        alternative!("dsb nsh\nisb", ".inst 0xd50330ff\nnop", "HAS_SB")
    };
}

/// A landing pad for `br`; a NOP where the CPU has no BTI.
macro_rules! bti_j {
    () => {
        "hint #36\n"
    };
}

/// An error synchronisation barrier; a NOP where the CPU has no RAS extension.
macro_rules! esb {
    () => {
        "hint #16\n"
    };
}

/// Stores the registers from x4 to x17 to the context at `base`.
macro_rules! save_x4_to_x17 {
    ($base:literal) => {
        concat!(
            "stp x4, x5, [", $base, ", #{REGS} + 8 * 4]\n",
            "stp x6, x7, [", $base, ", #{REGS} + 8 * 6]\n",
            "stp x8, x9, [", $base, ", #{REGS} + 8 * 8]\n",
            "stp x10, x11, [", $base, ", #{REGS} + 8 * 10]\n",
            "stp x12, x13, [", $base, ", #{REGS} + 8 * 12]\n",
            "stp x14, x15, [", $base, ", #{REGS} + 8 * 14]\n",
            "stp x16, x17, [", $base, ", #{REGS} + 8 * 16]\n",
        )
    };
}

/// Stores the registers from x18 to x30 to the context at `base`. x18 is the platform's: the kernel keeps its shadow
/// stack there.
macro_rules! save_x18_to_x30 {
    ($base:literal) => {
        concat!(
            "stp x18, x19, [", $base, ", #{REGS} + 8 * 18]\n",
            "stp x20, x21, [", $base, ", #{REGS} + 8 * 20]\n",
            "stp x22, x23, [", $base, ", #{REGS} + 8 * 22]\n",
            "stp x24, x25, [", $base, ", #{REGS} + 8 * 24]\n",
            "stp x26, x27, [", $base, ", #{REGS} + 8 * 26]\n",
            "stp x28, x29, [", $base, ", #{REGS} + 8 * 28]\n",
            "str x30, [", $base, ", #{REGS} + 8 * 30]\n",
        )
    };
}

/// Loads x0 to x30 from the context at x29.
macro_rules! load_all {
    () => {
        concat!(
            "ldp x0, x1, [x29, #{REGS} + 8 * 0]\n",
            "ldp x2, x3, [x29, #{REGS} + 8 * 2]\n",
            "ldp x4, x5, [x29, #{REGS} + 8 * 4]\n",
            "ldp x6, x7, [x29, #{REGS} + 8 * 6]\n",
            "ldp x8, x9, [x29, #{REGS} + 8 * 8]\n",
            "ldp x10, x11, [x29, #{REGS} + 8 * 10]\n",
            "ldp x12, x13, [x29, #{REGS} + 8 * 12]\n",
            "ldp x14, x15, [x29, #{REGS} + 8 * 14]\n",
            "ldp x16, x17, [x29, #{REGS} + 8 * 16]\n",
            "ldp x18, x19, [x29, #{REGS} + 8 * 18]\n",
            "ldp x20, x21, [x29, #{REGS} + 8 * 20]\n",
            "ldp x22, x23, [x29, #{REGS} + 8 * 22]\n",
            "ldp x24, x25, [x29, #{REGS} + 8 * 24]\n",
            "ldp x26, x27, [x29, #{REGS} + 8 * 26]\n",
            "ldr x30, [x29, #{REGS} + 8 * 30]\n",
            "ldp x28, x29, [x29, #{REGS} + 8 * 28]\n",
        )
    };
}

/// Stores the five keys of pointer authentication to the context at `base`; x<lo> and x<hi>, which are adjacent, and
/// `at` are clobbered. Uses the operands `KEYS` and `AP*KEY*_EL1`.
macro_rules! save_keys {
    ($base:literal, $at:literal, $lo:literal, $hi:literal) => {
        concat!(
            "add ", $at, ", ", $base, ", #{KEYS}\n",
            save_keys!(@ $at, $lo, $hi, "APIAKEYLO_EL1", "APIAKEYHI_EL1", "0"),
            save_keys!(@ $at, $lo, $hi, "APIBKEYLO_EL1", "APIBKEYHI_EL1", "16"),
            save_keys!(@ $at, $lo, $hi, "APDAKEYLO_EL1", "APDAKEYHI_EL1", "32"),
            save_keys!(@ $at, $lo, $hi, "APDBKEYLO_EL1", "APDBKEYHI_EL1", "48"),
            save_keys!(@ $at, $lo, $hi, "APGAKEYLO_EL1", "APGAKEYHI_EL1", "64"),
        )
    };
    (@ $at:literal, $lo:literal, $hi:literal, $low:literal, $high:literal, $offset:literal) => {
        concat!(
            mrs!($lo, $low), mrs!($hi, $high),
            "stp x", $lo, ", x", $hi, ", [", $at, ", #", $offset, "]\n",
        )
    };
}

/// Loads the five keys of pointer authentication from the context at `base`; clobbers as [`save_keys`].
macro_rules! load_keys {
    ($base:literal, $at:literal, $lo:literal, $hi:literal) => {
        concat!(
            "add ", $at, ", ", $base, ", #{KEYS}\n",
            load_keys!(@ $at, $lo, $hi, "APIAKEYLO_EL1", "APIAKEYHI_EL1", "0"),
            load_keys!(@ $at, $lo, $hi, "APIBKEYLO_EL1", "APIBKEYHI_EL1", "16"),
            load_keys!(@ $at, $lo, $hi, "APDAKEYLO_EL1", "APDAKEYHI_EL1", "32"),
            load_keys!(@ $at, $lo, $hi, "APDBKEYLO_EL1", "APDBKEYHI_EL1", "48"),
            load_keys!(@ $at, $lo, $hi, "APGAKEYLO_EL1", "APGAKEYHI_EL1", "64"),
        )
    };
    (@ $at:literal, $lo:literal, $hi:literal, $low:literal, $high:literal, $offset:literal) => {
        concat!(
            "ldp x", $lo, ", x", $hi, ", [", $at, ", #", $offset, "]\n",
            msr!($low, $lo), msr!($high, $hi),
        )
    };
}
