// SPDX-License-Identifier: GPL-2.0-only
//! What a protected guest's accesses to system registers and its privileged instructions come to.

use crate::Context;
use crate::memory::{RAM, worked};
use crate::report::Report;
use pkvm_vmm::Result;
use pkvm_vmm::monitor::{Exception, Failure, Monitor};
use pkvm_vmm::vm::Kind;

/// A system register: its name, and op0, op1, CRn, CRm, op2 (Arm ARM, "op0==0b10/0b11" encodings).
type Register = (&'static str, [u32; 5]);

/// Registers that a protected guest finds zero, whatever it writes.
const RAZ_WI: &[Register] = &[
    ("DBGBVR0_EL1", [2, 0, 0, 0, 4]),
    ("DBGBCR0_EL1", [2, 0, 0, 0, 5]),
    ("DBGWVR0_EL1", [2, 0, 0, 0, 6]),
    ("DBGWCR0_EL1", [2, 0, 0, 0, 7]),
    ("MDSCR_EL1", [2, 0, 0, 2, 2]),
    ("OSDLR_EL1", [2, 0, 1, 3, 4]),
];

/// Registers that are undefined for a protected guest, though this CPU may have them.
const UNDEFINED: &[Register] = &[
    ("DBGBVR1_EL1", [2, 0, 0, 1, 4]),
    ("DBGWCR3_EL1", [2, 0, 0, 3, 7]),
    ("MDCCINT_EL1", [2, 0, 0, 2, 0]),
    ("TRCSTATR", [2, 1, 0, 3, 0]),
    ("ACTLR_EL1", [3, 0, 1, 0, 1]),
    ("ZCR_EL1", [3, 0, 1, 2, 0]),
    ("TCR2_EL1", [3, 0, 2, 0, 3]),
    ("PMSCR_EL1", [3, 0, 9, 9, 0]),
    ("PMBLIMITR_EL1", [3, 0, 9, 10, 0]),
    ("TRBLIMITR_EL1", [3, 0, 9, 11, 0]),
    ("PMINTENSET_EL1", [3, 0, 9, 14, 1]),
    ("LORC_EL1", [3, 0, 10, 4, 3]),
    ("MPAM1_EL1", [3, 0, 10, 5, 0]),
    ("an implementation-defined register", [3, 0, 11, 0, 0]),
    ("another implementation-defined register", [3, 0, 15, 2, 0]),
    ("SCXTNUM_EL1", [3, 0, 13, 0, 7]),
    ("PMCR_EL0", [3, 3, 9, 12, 0]),
    ("PMCCNTR_EL0", [3, 3, 9, 13, 0]),
    ("AMCR_EL0", [3, 3, 13, 2, 0]),
    ("HCR_EL2", [3, 4, 1, 1, 0]),
    ("VTTBR_EL2", [3, 4, 2, 1, 0]),
    ("SCR_EL3", [3, 6, 1, 1, 0]),
];

/// Fields of ID registers that a protected guest must find zero: register, bit, width, name.
const ABSENT: &[([u32; 5], u32, u32, &str)] = &[
    ([3, 0, 0, 4, 0], 32, 4, "ID_AA64PFR0_EL1.SVE"),
    ([3, 0, 0, 4, 0], 40, 4, "ID_AA64PFR0_EL1.MPAM"),
    ([3, 0, 0, 4, 0], 44, 4, "ID_AA64PFR0_EL1.AMU"),
    ([3, 0, 0, 4, 1], 8, 4, "ID_AA64PFR1_EL1.MTE"),
    ([3, 0, 0, 4, 1], 24, 4, "ID_AA64PFR1_EL1.SME"),
    ([3, 0, 0, 4, 4], 0, 32, "ID_AA64ZFR0_EL1, the lower half"),
    ([3, 0, 0, 5, 0], 4, 4, "ID_AA64DFR0_EL1.TraceVer"),
    ([3, 0, 0, 5, 0], 32, 4, "ID_AA64DFR0_EL1.PMSVer"),
    ([3, 0, 0, 5, 0], 44, 4, "ID_AA64DFR0_EL1.TraceBuffer"),
];

fn encode(base: u32, [op0, op1, crn, crm, op2]: [u32; 5]) -> u32 {
    base | op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5
}

/// `MRS x0, register`.
fn mrs(register: [u32; 5]) -> u32 {
    encode(0xd520_0000, register)
}

/// `MSR register, x0`.
fn msr(register: [u32; 5]) -> u32 {
    encode(0xd500_0000, register)
}

/// The exception class of a syndrome (Arm ARM, ESR_EL1).
fn class(esr: u64) -> u64 {
    esr >> 26 & 0x3f
}

/// "Unknown reason": what an undefined instruction gives.
fn undefined<T: std::fmt::Debug>(result: std::result::Result<T, Failure>) -> std::result::Result<(), String> {
    match result {
        Err(Failure::Exception(Exception { esr, .. })) if class(esr) == 0 => Ok(()),
        other => Err(format!("{other:x?} instead of an undefined instruction")),
    }
}

/// All of it, in one VM: no access may end the guest.
pub fn traps(_: &Context, report: &mut Report) -> Result<()> {
    let vm = Monitor::start(Kind::Protected, 1, RAM)?;
    // The guest's own CPACR_EL1 must not be what stops it: SVE and FP are on as far as it can tell.
    worked(vm.execute(msr([3, 0, 1, 0, 2]), 0x33 << 16))?;
    for (name, register) in RAZ_WI {
        let result = vm
            .execute(msr(*register), !0)
            .and_then(|_| vm.execute(mrs(*register), 1));
        report.equal(
            &format!("{name} reads as zero after a write of ones"),
            result,
            Ok(0),
        );
    }
    let locked = vm
        .execute(msr([2, 0, 1, 0, 4]), 1)
        .and_then(|_| vm.execute(mrs([2, 0, 1, 1, 4]), 1));
    report.equal(
        "OSLSR_EL1 reads as zero after a write to OSLAR_EL1",
        locked,
        Ok(0),
    );
    for (name, register) in UNDEFINED {
        let read = undefined(vm.execute(mrs(*register), 0));
        report.result(&format!("a read of {name} is undefined"), read);
        let written = undefined(vm.execute(msr(*register), 0));
        report.result(&format!("a write of {name} is undefined"), written);
    }
    for crm in 1..8 {
        let mut seen = Vec::new();
        for op2 in 0..8 {
            let register = [3, 0, 0, crm, op2];
            let value = vm.execute(mrs(register), 1);
            seen.push(
                value
                    .as_ref()
                    .map_or_else(ToString::to_string, |value| format!("{value:x}")),
            );
            if crm < 4 {
                report.equal(
                    &format!("ID register 3,0,0,{crm},{op2} of AArch32 is zero"),
                    value,
                    Ok(0),
                );
            }
            let written = undefined(vm.execute(msr(register), 0));
            report.result(
                &format!("a write of ID register 3,0,0,{crm},{op2} is undefined"),
                written,
            );
        }
        report.say(format_args!(
            "ID registers 3,0,0,{crm},0 to 7: {}",
            seen.join(" ")
        ));
    }
    for (register, bit, width, name) in ABSENT {
        let value = worked(vm.execute(mrs(*register), 0))?;
        report.equal(&format!("{name} is zero"), value >> bit & ((1 << width) - 1), 0);
    }
    report.equal(
        "ICC_SRE_EL1 says system registers, no bypass",
        vm.execute(mrs([3, 0, 12, 12, 5]), 0),
        Ok(7),
    );

    // ptrue p0.b; an SVE instruction whatever else is on.
    report.result(
        "an SVE instruction is undefined",
        undefined(vm.execute(0x2518_e3e0, 0)),
    );
    let smc = vm.execute(0xd400_0003, 0x8400_0000);
    report.say(format_args!("SMC #0 with PSCI_VERSION: {smc:x?}"));
    let alive = smc.map(drop).or_else(|failure| undefined::<()>(Err(failure)));
    report.result("SMC #0 does not end the guest", alive);
    for (what, instruction) in [("HVC #1", 0xd400_0022), ("HVC #0xffff", 0xd41f_ffe2)] {
        let answer = vm.execute(instruction, 0xc600_0063);
        report.say(format_args!("{what} with an unknown function: {answer:x?}"));
        report.result(
            &format!("{what} does not end the guest"),
            answer.map(drop).or_else(|f| undefined::<()>(Err(f))),
        );
    }
    // BRK #0 is the guest's own affair.
    let brk = vm.execute(0xd420_0000, 0);
    let own = matches!(&brk, Err(Failure::Exception(Exception { esr, .. })) if class(*esr) == 0x3c);
    report.result(
        "BRK goes to the guest",
        own.then_some(()).ok_or(format!("{brk:x?}")),
    );
    report.result(
        "the guest still answers",
        vm.load(pkvm_vmm::monitor::FREE)
            .map(drop)
            .map_err(|f| f.to_string()),
    );
    Ok(())
}
