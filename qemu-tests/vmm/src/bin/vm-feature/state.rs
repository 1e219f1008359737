// SPDX-License-Identifier: GPL-2.0-only
//! The system registers of EL1, what a VM was denied, and the copy instructions.

use crate::Skip;
use crate::code;
use crate::code::{Code, FREE, Reg, class, field, regs};
use crate::machine::{Features, Gic, Machine, Stop, get_sysreg, set_sysreg};
use crate::report::Report;
use kvm_bindings as kb;
use kvm_ioctls::Cap;

const ID_AA64ISAR0: Reg = [3, 0, 0, 6, 0];
const ID_AA64ISAR2: Reg = [3, 0, 0, 6, 2];
const ID_AA64MMFR3: Reg = [3, 0, 0, 7, 3];
const ID_AA64PFR2: Reg = [3, 0, 0, 4, 2];

/// When a register is there: always, or with a field of the guest's ID register.
type When = Option<(Reg, u32)>;

/// Registers whose values a guest must find again, with the bits that are free, and what they need.
const KEPT: &[(&str, Reg, u64, When)] = &[
    ("TPIDR_EL0", [3, 3, 13, 0, 2], !0, None),
    ("TPIDRRO_EL0", [3, 3, 13, 0, 3], !0, None),
    ("TPIDR_EL1", [3, 0, 13, 0, 4], !0, None),
    ("CONTEXTIDR_EL1", [3, 0, 13, 0, 1], 0xffff_ffff, None),
    ("SP_EL0", [3, 0, 4, 1, 0], !0, None),
    ("ELR_EL1", regs::ELR_EL1, !0, None),
    ("SPSR_EL1", regs::SPSR_EL1, 0xf000_03c0, None),
    ("ESR_EL1", regs::ESR_EL1, 0xffff_ffff, None),
    ("FAR_EL1", regs::FAR_EL1, !0, None),
    ("MAIR_EL1", [3, 0, 10, 2, 0], !0, None),
    ("PAR_EL1", [3, 0, 7, 4, 0], 0xffff_ffff_f000, None),
    ("TTBR0_EL1", [3, 0, 2, 0, 0], 0xffff_ffff_f000, None),
    ("TTBR1_EL1", [3, 0, 2, 0, 1], 0xffff_ffff_f000, None),
    ("TCR_EL1", [3, 0, 2, 0, 2], 0x3f_003f, None),
    ("CPACR_EL1", regs::CPACR_EL1, 3 << 20, None),
    ("CNTKCTL_EL1", [3, 0, 14, 1, 0], 0xf0, None),
    ("CSSELR_EL1", [3, 2, 0, 0, 0], 0x2, None),
    ("DBGBVR0_EL1", [2, 0, 0, 0, 4], 0xffff_ffff_fffc, None),
    ("DBGWVR0_EL1", [2, 0, 0, 0, 6], 0xffff_ffff_fff8, None),
    ("TCR2_EL1", [3, 0, 2, 0, 3], 2, Some((ID_AA64MMFR3, 0))),
    ("SCTLR2_EL1", [3, 0, 1, 0, 3], 0, Some((ID_AA64MMFR3, 4))),
    ("PIR_EL1", [3, 0, 10, 2, 3], !0, Some((ID_AA64MMFR3, 8))),
    ("PIRE0_EL1", [3, 0, 10, 2, 2], !0, Some((ID_AA64MMFR3, 8))),
    ("POR_EL1", [3, 0, 10, 2, 4], !0, Some((ID_AA64MMFR3, 16))),
    ("POR_EL0", [3, 3, 10, 2, 4], !0, Some((ID_AA64MMFR3, 16))),
    ("FPMR", [3, 3, 4, 4, 2], 0x7f, Some((ID_AA64PFR2, 32))),
];

/// The pointer-authentication keys.
const KEYS: &[(&str, Reg)] = &[
    ("APIAKeyLo_EL1", [3, 0, 2, 1, 0]),
    ("APIAKeyHi_EL1", [3, 0, 2, 1, 1]),
    ("APIBKeyLo_EL1", [3, 0, 2, 1, 2]),
    ("APIBKeyHi_EL1", [3, 0, 2, 1, 3]),
    ("APDAKeyLo_EL1", [3, 0, 2, 2, 0]),
    ("APDAKeyHi_EL1", [3, 0, 2, 2, 1]),
    ("APDBKeyLo_EL1", [3, 0, 2, 2, 2]),
    ("APDBKeyHi_EL1", [3, 0, 2, 2, 3]),
    ("APGAKeyLo_EL1", [3, 0, 2, 3, 0]),
    ("APGAKeyHi_EL1", [3, 0, 2, 3, 1]),
];

/// A value that no other register of no other guest has.
fn pattern(guest: u64, n: usize) -> u64 {
    ((guest << 32) + n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Writes patterns, pauses, and then reports what it finds, again and again.
fn keeper(guest: u64, list: &[(&str, Reg, u64)]) -> Code {
    let mut code = Code::new();
    for (n, (_, reg, mask)) in list.iter().enumerate() {
        code.mov(0, pattern(guest, n) & mask).msr(*reg, 0);
    }
    code.isb().pause(0);
    let start = code.here();
    for (n, (_, reg, _)) in list.iter().enumerate() {
        code.mrs(0, *reg).report(n, 0);
    }
    code.pause(0);
    let back = (start.wrapping_sub(code.here())).cast_signed() / 4;
    code.branch(back as i32);
    code
}

/// Two VMs by turns on one CPU.
pub fn registers(report: &mut Report) -> Result<(), Skip> {
    let mut one = rustix::thread::CpuSet::new();
    one.set(0);
    rustix::thread::sched_setaffinity(None, &one).map_err(|e| Skip(e.to_string()))?;
    let mut features = Features::default();
    let probe = Machine::new(features, &Code::new())?;
    let mut list: Vec<(&str, Reg, u64)> = Vec::new();
    for (name, reg, mask, when) in KEPT {
        let there = match when {
            None => true,
            Some((id, shift)) => field(get_sysreg(&probe.vcpu, *id)?, *shift) != 0,
        };
        if there {
            list.push((name, *reg, *mask));
        } else {
            report.say(format_args!("this machine has no {name}"));
        }
    }
    if probe.vm.check_extension(Cap::ArmPtrAuthAddress) && probe.vm.check_extension(Cap::ArmPtrAuthGeneric) {
        features.bits |= 1 << kb::KVM_ARM_VCPU_PTRAUTH_ADDRESS | 1 << kb::KVM_ARM_VCPU_PTRAUTH_GENERIC;
        list.extend(KEYS.iter().map(|(name, reg)| (*name, *reg, !0)));
    } else {
        report.say("this machine has no pointer authentication");
    }
    drop(probe);
    let mut guests = [
        (1, Machine::new(features, &keeper(1, &list))?),
        (2, Machine::new(features, &keeper(2, &list))?),
    ];
    let mut wrong = vec![Vec::new(); list.len()];
    for round in 0..8 {
        for (guest, machine) in &mut guests {
            machine.run_to_pause()?;
            // The first pause comes after the writes.
            if round == 0 {
                continue;
            }
            for (n, (_, _, mask)) in list.iter().enumerate() {
                let (seen, wanted) = (machine.reports[n] & mask, pattern(*guest, n) & mask);
                if seen != wanted {
                    wrong[n].push(format!("{seen:#x} instead of {wanted:#x} in VM {guest}"));
                }
            }
        }
    }
    for ((name, ..), wrong) in list.iter().zip(wrong) {
        let result = wrong.first().map_or(Ok(()), |first| Err(first.clone()));
        report.result(&format!("{name} is kept"), result);
    }
    Ok(())
}

/// A machine whose ID register `reg` has `field` cleared.
fn without(reg: Reg, shift: u32, code: &Code) -> Result<Machine, Skip> {
    let denied = |vcpu: &kvm_ioctls::VcpuFd| {
        let value = get_sysreg(vcpu, reg)?;
        set_sysreg(vcpu, reg, value & !(0xf << shift))
    };
    Ok(Machine::with(
        Features::default(),
        Gic::None,
        &[],
        &code.bytes(),
        &code::vectors(&[]),
        denied,
    )?)
}

fn undefined(stop: Stop) -> Result<(), String> {
    match stop {
        Stop::Exception(0x200, esr, _) if class(esr) == 0 => Ok(()),
        other => Err(format!("{other:x?}, not an undefined instruction")),
    }
}

/// HWCAP2_ECV: a CPU that has the counters of Armv8.6 has its fine-grained traps too.
const HWCAP2_ECV: u64 = 1 << 19;

fn has_ecv() -> bool {
    rustix::param::linux_hwcap().1 as u64 & HWCAP2_ECV != 0
}

/// Instructions that the ID registers of a VM do not offer.
pub fn traps(report: &mut Report) -> Result<(), Skip> {
    // TLBI RVAE1IS, x0, of FEAT_TLBIRANGE: ID_AA64ISAR0_EL1.TLB.
    let mut code = Code::new();
    code.mov(0, 0).word(0xd508_8220).pause(0).forever();
    let mut machine = Machine::new(Features::default(), &code)?;
    if field(get_sysreg(&machine.vcpu, ID_AA64ISAR0)?, 56) == 2 && has_ecv() {
        report.equal(
            "a guest with range TLBI executes one",
            machine.run(),
            Stop::Paused(0),
        );
        let stop = without(ID_AA64ISAR0, 56, &code)?.run();
        report.result("in a guest without it is undefined (HFGITR_EL2)", undefined(stop));
    } else {
        report.say("no range TLBI, or no fine-grained traps");
    }
    // A copy of no bytes, of FEAT_MOPS: ID_AA64ISAR2_EL1.MOPS.
    let mut code = Code::new();
    code.mov(0, FREE)
        .mov(1, FREE)
        .mov(2, 0)
        .word(CPYFP)
        .word(CPYFM)
        .word(CPYFE);
    code.mov(0, 5).pause(0).forever();
    let mut machine = Machine::new(Features::default(), &code)?;
    if field(get_sysreg(&machine.vcpu, ID_AA64ISAR2)?, 16) == 0 {
        report.say("no copy instructions");
        return Ok(());
    }
    report.equal(
        "a guest with copy instructions executes them",
        machine.run(),
        Stop::Paused(5),
    );
    let stop = without(ID_AA64ISAR2, 16, &code)?.run();
    report.result(
        "in a guest without they are undefined (HCRX_EL2)",
        undefined(stop),
    );
    Ok(())
}

/// `CPYFP [x0]!, [x1]!, x2!`, the prologue; main part and epilogue follow.
const CPYFP: u32 = 0x1901_0440;
const CPYFM: u32 = 0x1941_0440;
const CPYFE: u32 = 0x1981_0440;

/// A copy that is entered at its main part with flags of the other algorithm, as after a move between different CPUs:
/// EL2 has it start over.
pub fn mops(report: &mut Report) -> Result<(), Skip> {
    const WORDS: u64 = 16;
    let (from, to) = (FREE, FREE + 0x400);
    let mut code = Code::new();
    code.mov(1, from);
    for n in 0..WORDS as u32 {
        code.mov(0, 0xc0de_0000 + u64::from(n)).str(0, 1, 8 * n);
    }
    code.mov(0, to).mov(1, from).mov(2, 8 * WORDS);
    // CMP xzr, xzr sets C, which says that the registers are as the other algorithm has them.
    code.word(0xeb1f_03ff)
        .branch(2)
        .word(CPYFP)
        .word(CPYFM)
        .word(CPYFE);
    code.report(32, 0).report(33, 1).report(34, 2).mov(3, to);
    for n in 0..WORDS as u32 {
        code.ldr(4, 3, 8 * n).report(n as usize, 4);
    }
    code.pause(3).forever();
    let mut machine = Machine::new(Features::default(), &code)?;
    if field(get_sysreg(&machine.vcpu, ID_AA64ISAR2)?, 16) == 0 {
        return Err(Skip("no copy instructions in this guest".into()));
    }
    let stop = machine.run();
    if !matches!(stop, Stop::Paused(_)) {
        report.result("the copy ends", Err(format!("{stop:x?}")));
        return Ok(());
    }
    let copied: Vec<u64> = machine.reports[..WORDS as usize].to_vec();
    let wanted: Vec<u64> = (0..WORDS).map(|n| 0xc0de_0000 + n).collect();
    report.equal("all is copied", copied, wanted);
    report.equal(
        "the registers are as after a copy",
        (machine.reports[32], machine.reports[33], machine.reports[34]),
        (to + 8 * WORDS, from + 8 * WORDS, 0),
    );
    Ok(())
}
