// SPDX-License-Identifier: GPL-2.0-only
//! The ID registers of a protected guest: no field above what EL2 lets through, what it does not know reads as zero,
//! and none can be written.

use crate::Report;
use crate::cpu::{read, reg, write};
use crate::start::Exception;

/// One field: shift, greatest value, and whether it is signed (0xf means not there).
type Field = (u32, u64, bool);

/// The registers with CRm and op2, and what each may hold; a field that is not named must be zero.
const CAPS: &[(&str, u32, u32, &[Field])] = &[
    (
        "ID_AA64PFR0_EL1",
        4,
        0,
        &[
            (0, 1, false),
            (4, 1, false),
            (8, 1, false),
            (12, 1, false),
            (16, 1, true),
            (20, 1, true),
            (24, 1, false),
            (28, 1, false),
            (48, 1, false),
            (56, 1, false),
            (60, 1, false),
        ],
    ),
    ("ID_AA64PFR1_EL1", 4, 1, &[(0, 1, false), (4, 2, false)]),
    ("ID_AA64PFR2_EL1", 4, 2, &[]),
    ("ID_AA64ZFR0_EL1", 4, 4, &[]),
    ("ID_AA64SMFR0_EL1", 4, 5, &[]),
    // DoubleLock and MTPMU say "not there" by 0xf.
    ("ID_AA64DFR0_EL1", 5, 0, &[(36, 0, true), (48, 0, true)]),
    ("ID_AA64DFR1_EL1", 5, 1, &[]),
    ("ID_AA64AFR0_EL1", 5, 4, &[]),
    (
        "ID_AA64ISAR1_EL1",
        6,
        1,
        &[
            (0, 2, false),
            (4, 5, false),
            (8, 5, false),
            (12, 1, false),
            (16, 1, false),
            (20, 3, false),
            (24, 1, false),
            (28, 1, false),
            (32, 1, false),
            (36, 1, false),
            (40, 2, false),
            (44, 2, false),
            (48, 1, false),
            (52, 1, false),
        ],
    ),
    (
        "ID_AA64ISAR2_EL1",
        6,
        2,
        &[(8, 1, false), (12, 5, false), (60, 1, false)],
    ),
    ("ID_AA64ISAR3_EL1", 6, 3, &[]),
    (
        "ID_AA64MMFR0_EL1",
        7,
        0,
        &[
            (0, 2, false),
            (4, 2, false),
            (8, 1, false),
            (12, 1, false),
            (16, 1, false),
            (20, 1, false),
            (24, 0, true),
            (28, 0, true),
            (44, 1, false),
        ],
    ),
    (
        "ID_AA64MMFR1_EL1",
        7,
        1,
        &[
            (0, 2, false),
            (4, 2, false),
            (12, 2, false),
            (20, 3, false),
            (24, 1, false),
            (36, 1, false),
            (56, 1, false),
        ],
    ),
    (
        "ID_AA64MMFR2_EL1",
        7,
        2,
        &[
            (0, 1, false),
            (4, 1, false),
            (12, 1, false),
            (32, 1, false),
            (36, 1, false),
            (48, 1, false),
            (52, 2, false),
            (60, 1, false),
        ],
    ),
    ("ID_AA64MMFR3_EL1", 7, 3, &[]),
    // E2H0 says "not there" by a negative value.
    ("ID_AA64MMFR4_EL1", 7, 4, &[(24, 0, true)]),
];

/// The test.
pub fn test(report: &mut Report) {
    if !report.protected {
        return;
    }
    for (name, crm, op2, fields) in CAPS {
        let Ok(value) = read(reg(3, 0, 0, *crm, *op2)) else {
            report.result(false, format_args!("{name} cannot be read"));
            continue;
        };
        let mut good = true;
        for shift in (0..64).step_by(4) {
            let field = (value >> shift) & 0xf;
            let allowed = match fields.iter().find(|(at, _, _)| *at == shift) {
                Some((_, _, true)) if field >= 8 => true,
                Some((_, max, _)) => field <= *max,
                None => field == 0,
            };
            if !allowed {
                good = false;
                report.note(format_args!(
                    "{name} is {value:#018x}: field {shift} is {field:#x}"
                ));
            }
        }
        report.result(good, format_args!("{name} holds nothing above the caps"));
    }
    // The AArch32 ones, and the encodings that are not allocated, are zero.
    let mut wrong = 0;
    for crm in 1..4 {
        for op2 in 0..8 {
            let value = read(reg(3, 0, 0, crm, op2));
            if !matches!(value, Ok(0)) {
                wrong += 1;
                report.note(format_args!(
                    "{} is {:#x}",
                    reg(3, 0, 0, crm, op2),
                    value.unwrap_or(u64::MAX)
                ));
            }
        }
    }
    report.result(wrong == 0, format_args!("the AArch32 ID registers are zero"));
    let mut wrong = 0;
    for crm in 1..8 {
        for op2 in 0..8 {
            let id = reg(3, 0, 0, crm, op2);
            if !write(id, 0).is_err_and(Exception::is_undefined) {
                wrong += 1;
                report.note(format_args!("{id} can be written"));
            }
        }
    }
    report.result(wrong == 0, format_args!("no ID register can be written"));
}
