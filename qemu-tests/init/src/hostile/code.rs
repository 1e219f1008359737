// SPDX-License-Identifier: GPL-2.0-only
//! Instructions that more than one test has EL1 run.

/// Reads ID_AA64PFR1_EL1 as the CPU has it into x0.
pub const READ_ID_AA64PFR1: [u32; 1] = [
    0xd538_0420, // mrs x0, ID_AA64PFR1_EL1
];

/// Reads SMCR_EL1 into x0. With SME in the CPU and not in the kernel, EL2 traps it and has no name for the exception.
pub const READ_SMCR: [u32; 7] = [
    0xd538_1041, // mrs x1, CPACR_EL1
    0xb268_0422, // orr x2, x1, #(3 << 24)
    0xd518_1042, // msr CPACR_EL1, x2
    0xd503_3fdf, // isb
    0xd538_12c0, // mrs x0, SMCR_EL1
    0xd518_1041, // msr CPACR_EL1, x1
    0xd503_3fdf, // isb
];
