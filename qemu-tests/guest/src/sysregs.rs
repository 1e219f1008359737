// SPDX-License-Identifier: GPL-2.0-only
//! System registers: what a protected guest may not have is undefined, some read as zero, and no encoding at all takes
//! the machine down.

use crate::Report;
use crate::cpu::{Reg, instruction, read, reg, write};
use crate::start::Exception;

/// Registers that must be undefined in a pVM, whatever the CPU has.
const UNDEFINED: &[(&str, Reg)] = &[
    ("ACTLR_EL1", reg(3, 0, 1, 0, 1)),
    ("implementation defined, C11", reg(3, 0, 11, 0, 0)),
    ("implementation defined, C15", reg(3, 0, 15, 0, 0)),
    ("implementation defined, EL0", reg(3, 3, 15, 0, 0)),
    ("LORSA_EL1", reg(3, 0, 10, 4, 0)),
    ("LOREA_EL1", reg(3, 0, 10, 4, 1)),
    ("LORC_EL1", reg(3, 0, 10, 4, 3)),
    ("LORID_EL1", reg(3, 0, 10, 4, 7)),
    ("DBGBVR1_EL1", reg(2, 0, 0, 1, 4)),
    ("DBGBCR1_EL1", reg(2, 0, 0, 1, 5)),
    ("DBGWVR1_EL1", reg(2, 0, 0, 1, 6)),
    ("DBGWCR1_EL1", reg(2, 0, 0, 1, 7)),
    ("PMCR_EL0", reg(3, 3, 9, 12, 0)),
    ("PMCNTENSET_EL0", reg(3, 3, 9, 12, 1)),
    ("PMOVSCLR_EL0", reg(3, 3, 9, 12, 3)),
    ("PMSELR_EL0", reg(3, 3, 9, 12, 5)),
    ("PMCCNTR_EL0", reg(3, 3, 9, 13, 0)),
    ("PMUSERENR_EL0", reg(3, 3, 9, 14, 0)),
    ("PMINTENSET_EL1", reg(3, 0, 9, 14, 1)),
    ("PMEVCNTR0_EL0", reg(3, 3, 14, 8, 0)),
    ("ZCR_EL1", reg(3, 0, 1, 2, 0)),
    ("SMCR_EL1", reg(3, 0, 1, 2, 6)),
    ("SVCR", reg(3, 3, 4, 2, 2)),
    ("TRFCR_EL1", reg(3, 0, 1, 2, 1)),
    ("PMSCR_EL1", reg(3, 0, 9, 9, 0)),
    ("PMBLIMITR_EL1", reg(3, 0, 9, 10, 0)),
    ("TRBLIMITR_EL1", reg(3, 0, 9, 11, 0)),
    ("BRBCR_EL1", reg(2, 1, 9, 0, 0)),
    ("AMCR_EL0", reg(3, 3, 13, 2, 0)),
    ("AMUSERENR_EL0", reg(3, 3, 13, 2, 3)),
    ("RGSR_EL1", reg(3, 0, 1, 0, 5)),
    ("GCR_EL1", reg(3, 0, 1, 0, 6)),
    ("TFSR_EL1", reg(3, 0, 5, 6, 0)),
    ("MPAM1_EL1", reg(3, 0, 10, 5, 0)),
    ("HCR_EL2", reg(3, 4, 1, 1, 0)),
    ("SCTLR_EL2", reg(3, 4, 1, 0, 0)),
    ("VTTBR_EL2", reg(3, 4, 2, 1, 0)),
    ("VBAR_EL2", reg(3, 4, 12, 0, 0)),
    ("ICH_HCR_EL2", reg(3, 4, 12, 11, 0)),
    ("SCTLR_EL12", reg(3, 5, 1, 0, 0)),
    ("SCR_EL3", reg(3, 6, 1, 1, 0)),
];

/// Registers that read as zero in a pVM and ignore writes.
const ZERO: &[(&str, Reg)] = &[
    ("DBGBVR0_EL1", reg(2, 0, 0, 0, 4)),
    ("DBGBCR0_EL1", reg(2, 0, 0, 0, 5)),
    ("DBGWVR0_EL1", reg(2, 0, 0, 0, 6)),
    ("DBGWCR0_EL1", reg(2, 0, 0, 0, 7)),
    ("MDSCR_EL1", reg(2, 0, 0, 2, 2)),
];

/// CPACR_EL1 with the guest's own traps of FP, SVE and SME open, so that what is refused is refused by EL2.
const OPEN: u64 = 3 << 16 | 3 << 20 | 3 << 24;

/// The test.
pub fn test(report: &mut Report) {
    let opened = write(reg(3, 0, 1, 0, 2), OPEN).is_ok();
    report.result(opened, format_args!("CPACR_EL1 can be written"));
    if report.protected {
        for (name, reg) in UNDEFINED {
            match read(*reg) {
                Err(e) if e.is_undefined() => {}
                Err(e) => report.note(format_args!("{name} gave ESR {:#x} FAR {:#x}", e.esr, e.far)),
                Ok(value) => report.note(format_args!("{name} reads as {value:#x}")),
            }
            let bad_read = !read(*reg).is_err_and(Exception::is_undefined);
            let bad_write = !write(*reg, 0).is_err_and(Exception::is_undefined);
            if bad_read || bad_write {
                let how = if bad_read { "read" } else { "written" };
                report.result(false, format_args!("{name} {reg} can be {how}"));
            }
        }
        report.result(true, format_args!("{} registers are undefined", UNDEFINED.len()));
        let mut wrong = 0;
        for (name, reg) in ZERO {
            let written = write(*reg, u64::MAX).is_ok();
            let value = read(*reg);
            if !written || !matches!(value, Ok(0)) {
                wrong += 1;
                report.note(format_args!(
                    "{name} is {:#x} (written: {written})",
                    value.unwrap_or(u64::MAX)
                ));
            }
        }
        report.result(
            wrong == 0,
            format_args!("{} registers are zero and keep nothing", ZERO.len()),
        );
        let lock = read(reg(2, 0, 1, 1, 4));
        report.result(matches!(lock, Ok(0)), format_args!("OSLSR_EL1 is zero"));
        // Cache maintenance by set and way: dc isw, x0.
        let by_set = instruction(0xd508_7640).is_err_and(Exception::is_undefined);
        report.result(
            by_set,
            format_args!("cache maintenance by set and way is undefined"),
        );
        // cntb x0
        let sve = instruction(0x0420_e3e0).is_err_and(Exception::is_undefined);
        report.result(sve, format_args!("SVE is undefined"));
    }
    sweep(report);
}

/// Reads every encoding there is.
fn sweep(report: &mut Report) {
    let (mut values, mut undefined, mut other) = (0u32, 0u32, 0u32);
    for op0 in 2..4 {
        for n in 0..1u32 << 14 {
            let reg = reg(op0, n >> 11, (n >> 7) & 15, (n >> 3) & 15, n & 7);
            match read(reg) {
                Ok(_) => values += 1,
                Err(e) if e.is_undefined() => undefined += 1,
                // A register of the ID space that the CPU has not may say so in its own way (FEAT_IDST), and one of
                // FP, SVE or SME in theirs.
                Err(e) if matches!(e.esr >> 26, 0x07 | 0x18 | 0x19 | 0x1d) => undefined += 1,
                Err(e) => {
                    other += 1;
                    if other < 5 {
                        report.note(format_args!("{reg} gave ESR {:#x}", e.esr));
                    }
                }
            }
        }
    }
    report.note(format_args!("{values} encodings read, {undefined} undefined"));
    report.result(
        other == 0 && values > 100,
        format_args!("every encoding is read or undefined"),
    );
}
