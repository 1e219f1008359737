// SPDX-License-Identifier: GPL-2.0-only
//! The registers of a protected VM, from inside and from the VMM.

use crate::{able, must, routines};
use kvm_bindings as kb;
use pkvm_vmm::Result;
use pkvm_vmm::bench::{Bench, Cpu, FREE_IPA, Stop};
use pkvm_vmm::monitor::ENTRY;
use pkvm_vmm::report::Report;
use pkvm_vmm::vm::{Kind, core_reg_id, sysreg_id};

/// What a guest's access to a register comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// An undefined instruction, for reading and writing.
    Undefined,
    /// It reads as zero, whatever was written.
    Zero,
    /// It can be read.
    Reads,
    /// It can be read, and a write is undefined.
    ReadOnly,
    /// A write does not trap; reads are undefined.
    WriteOnly,
}

/// Op0, op1, CRn, CRm, op2.
pub type Encoding = [u32; 5];

/// Registers of a pVM by group: name, op0, op1, CRn, CRm, op2, and what is wanted.
const TABLE: &[(&str, Encoding, Want)] = {
    use Want::{ReadOnly, Reads, Undefined, WriteOnly, Zero};
    &[
        // Self-hosted debug: one breakpoint and one watchpoint that do nothing.
        ("DBGBVR0_EL1", [2, 0, 0, 0, 4], Zero),
        ("DBGBCR0_EL1", [2, 0, 0, 0, 5], Zero),
        ("DBGWVR0_EL1", [2, 0, 0, 0, 6], Zero),
        ("DBGWCR0_EL1", [2, 0, 0, 0, 7], Zero),
        ("DBGBVR1_EL1", [2, 0, 0, 1, 4], Undefined),
        ("DBGBCR5_EL1", [2, 0, 0, 5, 5], Undefined),
        ("DBGWVR1_EL1", [2, 0, 0, 1, 6], Undefined),
        ("DBGWCR15_EL1", [2, 0, 0, 15, 7], Undefined),
        ("MDSCR_EL1", [2, 0, 0, 2, 2], Zero),
        ("MDCCINT_EL1", [2, 0, 0, 2, 0], Undefined),
        ("OSDTRRX_EL1", [2, 0, 0, 0, 2], Undefined),
        ("OSECCR_EL1", [2, 0, 0, 6, 2], Undefined),
        ("MDRAR_EL1", [2, 0, 1, 0, 0], Undefined),
        ("OSDLR_EL1", [2, 0, 1, 3, 4], Zero),
        ("DBGPRCR_EL1", [2, 0, 1, 4, 4], Undefined),
        ("DBGCLAIMSET_EL1", [2, 0, 7, 8, 6], Undefined),
        ("DBGAUTHSTATUS_EL1", [2, 0, 7, 14, 6], Undefined),
        ("MDCCSR_EL0", [2, 3, 0, 1, 0], Undefined),
        ("DBGDTR_EL0", [2, 3, 0, 4, 0], Undefined),
        // Trace.
        ("TRCPRGCTLR", [2, 1, 0, 1, 0], Undefined),
        ("TRCSTATR", [2, 1, 0, 3, 0], Undefined),
        ("TRFCR_EL1", [3, 0, 1, 2, 1], Undefined),
        ("TRBLIMITR_EL1", [3, 0, 9, 11, 0], Undefined),
        ("TRBIDR_EL1", [3, 0, 9, 11, 7], Undefined),
        ("BRBCR_EL1", [2, 1, 9, 0, 0], Undefined),
        // Statistical profiling.
        ("PMSCR_EL1", [3, 0, 9, 9, 0], Undefined),
        ("PMSIDR_EL1", [3, 0, 9, 9, 7], Undefined),
        ("PMBLIMITR_EL1", [3, 0, 9, 10, 0], Undefined),
        ("PMBIDR_EL1", [3, 0, 9, 10, 7], Undefined),
        // Performance monitors.
        ("PMINTENSET_EL1", [3, 0, 9, 14, 1], Undefined),
        ("PMINTENCLR_EL1", [3, 0, 9, 14, 2], Undefined),
        ("PMMIR_EL1", [3, 0, 9, 14, 6], Undefined),
        ("PMCR_EL0", [3, 3, 9, 12, 0], Undefined),
        ("PMCNTENSET_EL0", [3, 3, 9, 12, 1], Undefined),
        ("PMCNTENCLR_EL0", [3, 3, 9, 12, 2], Undefined),
        ("PMOVSCLR_EL0", [3, 3, 9, 12, 3], Undefined),
        ("PMSELR_EL0", [3, 3, 9, 12, 5], Undefined),
        ("PMCEID0_EL0", [3, 3, 9, 12, 6], Undefined),
        ("PMCEID1_EL0", [3, 3, 9, 12, 7], Undefined),
        ("PMCCNTR_EL0", [3, 3, 9, 13, 0], Undefined),
        ("PMXEVTYPER_EL0", [3, 3, 9, 13, 1], Undefined),
        ("PMXEVCNTR_EL0", [3, 3, 9, 13, 2], Undefined),
        ("PMUSERENR_EL0", [3, 3, 9, 14, 0], Undefined),
        ("PMOVSSET_EL0", [3, 3, 9, 14, 3], Undefined),
        ("PMEVCNTR0_EL0", [3, 3, 14, 8, 0], Undefined),
        ("PMEVTYPER30_EL0", [3, 3, 14, 15, 6], Undefined),
        ("PMCCFILTR_EL0", [3, 3, 14, 15, 7], Undefined),
        // Activity monitors.
        ("AMCR_EL0", [3, 3, 13, 2, 0], Undefined),
        ("AMCFGR_EL0", [3, 3, 13, 2, 1], Undefined),
        ("AMUSERENR_EL0", [3, 3, 13, 2, 3], Undefined),
        ("AMCNTENSET0_EL0", [3, 3, 13, 2, 5], Undefined),
        ("AMEVCNTR00_EL0", [3, 3, 13, 4, 0], Undefined),
        // Limited ordering, memory partitioning, tags.
        ("LORSA_EL1", [3, 0, 10, 4, 0], Undefined),
        ("LOREA_EL1", [3, 0, 10, 4, 1], Undefined),
        ("LORN_EL1", [3, 0, 10, 4, 2], Undefined),
        ("LORC_EL1", [3, 0, 10, 4, 3], Undefined),
        ("LORID_EL1", [3, 0, 10, 4, 7], Undefined),
        ("MPAM1_EL1", [3, 0, 10, 5, 0], Undefined),
        ("MPAM0_EL1", [3, 0, 10, 5, 1], Undefined),
        ("MPAMIDR_EL1", [3, 0, 10, 4, 4], Undefined),
        ("RGSR_EL1", [3, 0, 1, 0, 5], Undefined),
        ("GCR_EL1", [3, 0, 1, 0, 6], Undefined),
        ("TFSR_EL1", [3, 0, 5, 6, 0], Undefined),
        ("TFSRE0_EL1", [3, 0, 5, 6, 1], Undefined),
        ("GMID_EL1", [3, 1, 0, 0, 4], Undefined),
        // Vectors and matrices.
        ("ZCR_EL1", [3, 0, 1, 2, 0], Undefined),
        ("SMCR_EL1", [3, 0, 1, 2, 6], Undefined),
        ("SMPRI_EL1", [3, 0, 1, 2, 4], Undefined),
        ("SMIDR_EL1", [3, 1, 0, 0, 6], Undefined),
        ("SVCR", [3, 3, 4, 2, 2], Undefined),
        ("TPIDR2_EL0", [3, 3, 13, 0, 5], Undefined),
        // Newer translation controls.
        ("TCR2_EL1", [3, 0, 2, 0, 3], Undefined),
        ("PIR_EL1", [3, 0, 10, 2, 3], Undefined),
        ("PIRE0_EL1", [3, 0, 10, 2, 2], Undefined),
        ("POR_EL1", [3, 0, 10, 2, 4], Undefined),
        ("POR_EL0", [3, 3, 10, 2, 4], Undefined),
        ("SCXTNUM_EL1", [3, 0, 13, 0, 7], Undefined),
        ("SCXTNUM_EL0", [3, 3, 13, 0, 7], Undefined),
        ("ACCDATA_EL1", [3, 0, 13, 0, 5], Undefined),
        ("FPMR", [3, 3, 4, 4, 2], Undefined),
        // What the implementation defines.
        ("ACTLR_EL1", [3, 0, 1, 0, 1], Undefined),
        ("S3_0_C11_C0_0", [3, 0, 11, 0, 0], Undefined),
        ("S3_0_C15_C0_0", [3, 0, 15, 0, 0], Undefined),
        ("S3_0_C15_C15_7", [3, 0, 15, 15, 7], Undefined),
        ("S3_1_C11_C2_0", [3, 1, 11, 2, 0], Undefined),
        ("S3_1_C15_C2_0", [3, 1, 15, 2, 0], Undefined),
        ("S3_2_C15_C0_0", [3, 2, 15, 0, 0], Undefined),
        ("S3_3_C11_C0_0", [3, 3, 11, 0, 0], Undefined),
        ("S3_3_C15_C0_0", [3, 3, 15, 0, 0], Undefined),
        ("S3_7_C15_C0_0", [3, 7, 15, 0, 0], Undefined),
        // Higher exception levels.
        ("HCR_EL2", [3, 4, 1, 1, 0], Undefined),
        ("SCTLR_EL2", [3, 4, 1, 0, 0], Undefined),
        ("VTTBR_EL2", [3, 4, 2, 1, 0], Undefined),
        ("VBAR_EL2", [3, 4, 12, 0, 0], Undefined),
        ("ICH_HCR_EL2", [3, 4, 12, 11, 0], Undefined),
        ("ICH_LR0_EL2", [3, 4, 12, 12, 0], Undefined),
        ("CNTVOFF_EL2", [3, 4, 14, 0, 3], Undefined),
        ("CNTHCTL_EL2", [3, 4, 14, 1, 0], Undefined),
        ("SCTLR_EL12", [3, 5, 1, 0, 0], Undefined),
        ("CNTV_CTL_EL02", [3, 5, 14, 3, 1], Undefined),
        ("SCR_EL3", [3, 6, 1, 1, 0], Undefined),
        ("CNTPS_CTL_EL1", [3, 7, 14, 2, 1], Undefined),
        // Identification.
        ("MIDR_EL1", [3, 0, 0, 0, 0], ReadOnly),
        ("MPIDR_EL1", [3, 0, 0, 0, 5], ReadOnly),
        ("REVIDR_EL1", [3, 0, 0, 0, 6], ReadOnly),
        ("CCSIDR_EL1", [3, 1, 0, 0, 0], ReadOnly),
        ("CLIDR_EL1", [3, 1, 0, 0, 1], ReadOnly),
        ("AIDR_EL1", [3, 1, 0, 0, 7], ReadOnly),
        ("CSSELR_EL1", [3, 2, 0, 0, 0], Reads),
        ("CTR_EL0", [3, 3, 0, 0, 1], ReadOnly),
        ("DCZID_EL0", [3, 3, 0, 0, 7], ReadOnly),
        // The interrupt controller.
        ("ICC_PMR_EL1", [3, 0, 4, 6, 0], Reads),
        ("ICC_IAR1_EL1", [3, 0, 12, 12, 0], ReadOnly),
        ("ICC_HPPIR1_EL1", [3, 0, 12, 12, 2], ReadOnly),
        ("ICC_BPR1_EL1", [3, 0, 12, 12, 3], Reads),
        ("ICC_CTLR_EL1", [3, 0, 12, 12, 4], Reads),
        ("ICC_SRE_EL1", [3, 0, 12, 12, 5], Reads),
        ("ICC_IGRPEN1_EL1", [3, 0, 12, 12, 7], Reads),
        ("ICC_RPR_EL1", [3, 0, 12, 11, 3], ReadOnly),
        ("ICC_DIR_EL1", [3, 0, 12, 11, 1], WriteOnly),
        ("ICC_SGI1R_EL1", [3, 0, 12, 11, 5], WriteOnly),
        ("ICC_EOIR1_EL1", [3, 0, 12, 12, 1], WriteOnly),
        // The generic timer.
        ("CNTFRQ_EL0", [3, 3, 14, 0, 0], ReadOnly),
        ("CNTPCT_EL0", [3, 3, 14, 0, 1], ReadOnly),
        ("CNTVCT_EL0", [3, 3, 14, 0, 2], ReadOnly),
        ("CNTP_TVAL_EL0", [3, 3, 14, 2, 0], Reads),
        ("CNTP_CTL_EL0", [3, 3, 14, 2, 1], Reads),
        ("CNTP_CVAL_EL0", [3, 3, 14, 2, 2], Reads),
        ("CNTV_CTL_EL0", [3, 3, 14, 3, 1], Reads),
        ("CNTKCTL_EL1", [3, 0, 14, 1, 0], Reads),
        // Plain system registers.
        ("SCTLR_EL1", [3, 0, 1, 0, 0], Reads),
        ("TTBR0_EL1", [3, 0, 2, 0, 0], Reads),
        ("TCR_EL1", [3, 0, 2, 0, 2], Reads),
        ("CONTEXTIDR_EL1", [3, 0, 13, 0, 1], Reads),
        ("TPIDR_EL1", [3, 0, 13, 0, 4], Reads),
        ("PAR_EL1", [3, 0, 7, 4, 0], Reads),
    ]
};

/// The error records of RAS: none.
const RAS: &[(&str, Encoding)] = &[
    ("ERRSELR_EL1", [3, 0, 5, 3, 1]),
    ("ERXFR_EL1", [3, 0, 5, 4, 0]),
    ("ERXCTLR_EL1", [3, 0, 5, 4, 1]),
    ("ERXSTATUS_EL1", [3, 0, 5, 4, 2]),
    ("ERXADDR_EL1", [3, 0, 5, 4, 3]),
    ("ERXMISC0_EL1", [3, 0, 5, 5, 0]),
    ("ERXMISC1_EL1", [3, 0, 5, 5, 1]),
];

/// `MRS x0, register`.
pub fn mrs([op0, op1, crn, crm, op2]: Encoding) -> u32 {
    0xd520_0000 | op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5
}

/// `MSR register, x0`.
pub fn msr(register: Encoding) -> u32 {
    mrs(register) & !0x20_0000
}

/// The exception class of an instruction that trapped to the guest itself.
fn class<T>(answer: &std::result::Result<T, Stop>) -> Option<u64> {
    match answer {
        Err(Stop::Exception(e)) => Some(e.esr >> 26 & 0x3f),
        _ => None,
    }
}

/// "Unknown reason", as an undefined instruction gives; or, for registers of the ID space, class 0x18 by FEAT_IDST.
pub fn is_undefined<T>(answer: &std::result::Result<T, Stop>, register: Encoding) -> bool {
    let id = register[0] == 3 && register[2] == 0;
    match class(answer) {
        Some(0) => true,
        Some(0x18) => id,
        _ => false,
    }
}

/// Whether a register does what is wanted; what it did instead.
fn check(cpu: &mut Cpu, register: Encoding, want: Want) -> std::result::Result<(), String> {
    let read = cpu.execute(mrs(register), 1);
    let undefined_read = is_undefined(&read, register);
    let first = match want {
        Want::Undefined | Want::WriteOnly => undefined_read,
        Want::Zero => read == Ok(0),
        Want::Reads | Want::ReadOnly => read.is_ok(),
    };
    if !first {
        return Err(format!("a read: {read:x?}"));
    }
    let second = match want {
        Want::Undefined | Want::ReadOnly => {
            let written = cpu.execute(msr(register), 0);
            if !is_undefined(&written, register) {
                return Err(format!("a write: {written:x?}"));
            }
            None
        }
        Want::Zero => Some(u64::MAX),
        // A value that does no harm: what was read, or an interrupt that is not active.
        Want::Reads => Some(read.unwrap_or(0)),
        Want::WriteOnly => Some(if register == [3, 0, 12, 11, 5] { 0 } else { 1023 }),
    };
    if let Some(value) = second {
        let written = cpu.execute(msr(register), value);
        if written.is_err() {
            return Err(format!("a write: {written:x?}"));
        }
    }
    if want == Want::Zero {
        let again = cpu.execute(mrs(register), 1);
        if again != Ok(0) {
            return Err(format!("after a write of ones: {again:x?}"));
        }
    }
    Ok(())
}

/// Fields of ID registers that are signed, or where a greater number means less: CRm, op2, shift.
const SIGNED: &[(u32, u32, u32)] = &[
    (4, 0, 16),
    (4, 0, 20),
    (5, 0, 36),
    (5, 0, 48),
    (7, 0, 24),
    (7, 0, 28),
    (7, 0, 32),
    (7, 0, 36),
    (7, 0, 40),
    (7, 4, 24),
];

/// The whole table in a pVM, and its ID registers beside a normal VM's.
pub fn sysregs(report: &mut Report) -> Result<()> {
    let (_bench, _ram, mut cpus) = Bench::usual(Kind::Protected, 1, routines::code())?;
    let (_other, _own, mut normals) = Bench::usual(Kind::Normal, 1, routines::code())?;
    let (cpu, normal) = (&mut cpus[0], &mut normals[0]);
    // The guest's own CPACR_EL1 must not be what stops it.
    must("CPACR_EL1", cpu.execute(msr([3, 0, 1, 0, 2]), 0x333 << 16))?;
    for (name, register, want) in TABLE {
        report.result(&format!("{name}: {want:?}"), check(cpu, *register, *want));
    }
    for (name, register) in RAS {
        // A CPU without error records may have these undefined, whatever EL2 traps.
        let zero = check(cpu, *register, Want::Zero);
        let result = zero.or_else(|seen| check(cpu, *register, Want::Undefined).map_err(|_| seen));
        report.result(&format!("{name}: Zero or Undefined"), result);
    }
    report.equal(
        "ICC_SRE_EL1 says system registers and no bypass",
        cpu.execute(mrs([3, 0, 12, 12, 5]), 0),
        Ok(7),
    );
    for crm in 4..8 {
        for op2 in 0..8 {
            let register = [3, 0, 0, crm, op2];
            let name = format!("ID register 3,0,0,{crm},{op2}");
            let (mine, theirs) = (cpu.execute(mrs(register), 0), normal.execute(mrs(register), 0));
            let (Ok(mine), Ok(theirs)) = (&mine, &theirs) else {
                report.result(&name, Err(format!("{mine:x?} and {theirs:x?}")));
                continue;
            };
            let more: Vec<_> = (0..64)
                .step_by(4)
                .filter(|shift| !SIGNED.contains(&(crm, op2, *shift)))
                .filter(|shift| (mine >> shift & 0xf) > (theirs >> shift & 0xf))
                // "Not there" of MTE_frac and of DFR0's fields is a number above.
                .filter(|shift| mine >> shift & 0xf != 0xf)
                .collect();
            report.result(
                &format!("{name} holds no more than a normal VM's"),
                more.is_empty()
                    .then_some(())
                    .ok_or(format!("{mine:#x} beside {theirs:#x}: fields at {more:?}")),
            );
        }
    }
    // The normal VM's Undefined ones may be there; none may end it.
    for (name, register, _) in TABLE {
        let read = normal.execute(mrs(*register), 0);
        if !matches!(read, Ok(_) | Err(Stop::Exception(_))) {
            report.result(
                &format!("a normal VM's read of {name}"),
                Err(format!("{read:x?}")),
            );
        }
    }
    report.equal("the pVM still answers", cpu.load(FREE_IPA), Ok(0));
    report.equal("so does the normal one", normal.load(FREE_IPA), Ok(0));
    Ok(())
}

/// KVM_GET_ONE_REG and KVM_SET_ONE_REG.
pub fn one_reg(report: &mut Report) -> Result<()> {
    let (_bench, _ram, mut cpus) = Bench::usual(Kind::Protected, 1, routines::code())?;
    let cpu = &mut cpus[0];
    let x = |n: u64| core_reg_id(n * 8);
    let (pc, pstate) = (core_reg_id(256), core_reg_id(264));
    let pfr0 = sysreg_id(3, 0, 0, 4, 0);
    let number = |code: i32| Err(code);
    for (what, id, value) in [
        ("x5", x(5), 0x5555),
        ("PC", pc, ENTRY),
        ("SP_EL1", core_reg_id(272), 0x77),
    ] {
        report.equal(
            &format!("before the first run: {what} is set"),
            cpu.set_reg(id, value),
            Ok(()),
        );
        report.equal(
            &format!("before the first run: {what} is read back"),
            cpu.reg(id),
            Ok(value),
        );
    }
    report.equal(
        "PSTATE at EL2 is refused",
        cpu.set_reg(pstate, 0x3c9),
        number(libc::EINVAL),
    );
    report.equal(
        "PSTATE of AArch32 is refused",
        cpu.set_reg(pstate, 0x1d3),
        number(libc::EINVAL),
    );
    report.equal(
        "an unknown register",
        cpu.reg(sysreg_id(3, 6, 1, 1, 0)),
        Err(libc::ENOENT),
    );
    report.equal(
        "an unknown group",
        cpu.reg(kb::KVM_REG_ARM64 | kb::KVM_REG_SIZE_U64 | 0x00ff_0000),
        Err(libc::ENOENT),
    );
    report.equal(
        "MPIDR_EL1 is the vCPU's",
        cpu.reg(sysreg_id(3, 0, 0, 0, 5)).map(|v| v & 0xff_ffff),
        Ok(0),
    );
    let told = able("ID_AA64PFR0_EL1", cpu.reg(pfr0))?;
    // CSV2 and CSV3 may be lowered by the VMM; a pVM's register is not the VMM's.
    let lowered = told & !(0xff << 56);
    report.equal(
        "the VMM lowers ID_AA64PFR0_EL1 before the first run",
        cpu.set_reg(pfr0, lowered),
        Ok(()),
    );
    let seen = must("ID_AA64PFR0_EL1", cpu.execute(mrs([3, 0, 0, 4, 0]), 0))?;
    report.say(format_args!(
        "ID_AA64PFR0_EL1: {told:#x}, set to {lowered:#x}, the pVM sees {seen:#x}"
    ));
    report.result(
        "the pVM does not see AArch32 there",
        (seen & 0xff == 0x11).then_some(()).ok_or(format!("{seen:#x}")),
    );
    let again = cpu.set_reg(pfr0, told);
    report.result(
        "after the first run it is refused",
        matches!(again, Err(libc::EBUSY | libc::EINVAL))
            .then_some(())
            .ok_or(format!("{again:?}")),
    );
    report.equal("the same value is no change", cpu.set_reg(pfr0, lowered), Ok(()));
    report.equal(
        "the pVM's is as it was",
        cpu.execute(mrs([3, 0, 0, 4, 0]), 0),
        Ok(seen),
    );
    // EL1 keeps the registers of a pVM in this kernel, and so the VMM has them; it may not break anything with them.
    let at = able("PC", cpu.reg(pc))?;
    report.result(
        "the PC is where the guest is",
        (ENTRY..ENTRY + 0x4000)
            .contains(&at)
            .then_some(())
            .ok_or(format!("{at:#x}")),
    );
    report.equal(
        "PSTATE at EL2 is refused still",
        cpu.set_reg(pstate, 0x3c9),
        number(libc::EINVAL),
    );
    cpu.settle();
    report.equal("a PC where there is nothing", cpu.set_reg(pc, 0x40), Ok(()));
    report.equal("back to the monitor", cpu.restart(), Ok(()));
    report.equal("the guest goes on", cpu.load(FREE_IPA), Ok(0));
    let sctlr = sysreg_id(3, 0, 1, 0, 0);
    let old = able("SCTLR_EL1", cpu.reg(sctlr))?;
    report.equal(
        "the guest has the SCTLR_EL1 that the VMM reads",
        cpu.execute(mrs([3, 0, 1, 0, 0]), 0),
        Ok(old),
    );

    let mut list = kb::RegList::new(500).map_err(|e| pkvm_vmm::Error::setup("a list", format!("{e:?}")))?;
    let listed = cpu.fd().get_reg_list(&mut list).map_err(kvm_ioctls::Error::errno);
    report.equal("KVM_GET_REG_LIST", listed, Ok(()));
    let bad: Vec<_> = list
        .as_slice()
        .iter()
        .filter(|id| cpu.reg(**id).is_err_and(|e| e != libc::EMSGSIZE))
        .map(|id| format!("{id:#x}"))
        .collect();
    report.say(format_args!("{} registers are listed", list.as_slice().len()));
    report.equal("each can be read", bad, Vec::<String>::new());
    // The two that say what comes next are left alone; and the counters, at which this kernel warns of a pVM's offset.
    let keep = [
        pc,
        pstate,
        sysreg_id(3, 3, 14, 3, 2),
        sysreg_id(3, 3, 14, 0, 1),
        sysreg_id(3, 3, 14, 0, 2),
    ];
    let refused: Vec<_> = list
        .as_slice()
        .iter()
        .filter(|id| !keep.contains(id))
        .filter_map(|id| cpu.reg(*id).ok().map(|value| (*id, value)))
        .filter(|(id, value)| cpu.set_reg(*id, *value).is_err())
        .map(|(id, _)| format!("{id:#x}"))
        .collect();
    report.say(format_args!(
        "written back as they are; refused: {}",
        refused.join(" ")
    ));
    report.equal("the guest goes on", cpu.load(FREE_IPA), Ok(0));
    Ok(())
}
