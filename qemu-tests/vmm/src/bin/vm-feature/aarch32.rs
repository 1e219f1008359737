// SPDX-License-Identifier: GPL-2.0-only
//! A guest whose EL1 is AArch32: interrupts, exceptions that KVM injects, skipped instructions, FP registers.
//!
//! The programs are A32 and T32 machine code, made by the few functions below (Arm ARM, F5). Register r7 holds the place
//! of reports, and r6 where an exception's handler is to go on; neither is banked.

use crate::Skip;
use crate::code::{ENTRY, FREE, MMIO, PAUSE, VECTORS};
use crate::machine::{Features, Gic, Machine, Stop, ioctl};
use crate::report::Report;
use kvm_bindings as kb;
use kvm_ioctls::Cap;

struct A32(Vec<u32>);

impl A32 {
    fn word(&mut self, word: u32) -> &mut Self {
        self.0.push(word);
        self
    }
    /// MOVW and MOVT.
    fn mov(&mut self, d: u32, value: u32) -> &mut Self {
        for (base, half) in [(0xe300_0000, value & 0xffff), (0xe340_0000, value >> 16)] {
            self.word(base | (half >> 12) << 16 | d << 12 | half & 0xfff);
        }
        self
    }
    /// STR rt, [rn, #offset].
    fn str(&mut self, t: u32, n: u32, offset: u32) -> &mut Self {
        self.word(0xe580_0000 | n << 16 | t << 12 | offset)
    }
    fn report(&mut self, word: u32, t: u32) -> &mut Self {
        self.str(t, 7, 8 * word)
    }
    fn pause(&mut self, t: u32) -> &mut Self {
        self.str(t, 7, PAUSE as u32)
    }
    /// MCR p15, op1, rt, crn, crm, op2.
    fn mcr(&mut self, t: u32, [op1, crn, crm, op2]: [u32; 4]) -> &mut Self {
        self.word(0xee00_0f10 | op1 << 21 | crn << 16 | t << 12 | op2 << 5 | crm)
    }
    /// MRC p15, op1, rt, crn, crm, op2.
    fn mrc(&mut self, t: u32, [op1, crn, crm, op2]: [u32; 4]) -> &mut Self {
        self.word(0xee10_0f10 | op1 << 21 | crn << 16 | t << 12 | op2 << 5 | crm)
    }
    /// B by this many instructions.
    fn branch(&mut self, by: i32) -> &mut Self {
        self.word(0xea00_0000 | (by - 2).cast_unsigned() & 0xff_ffff)
    }
    fn isb(&mut self) -> &mut Self {
        self.word(0xf57f_f06f)
    }
    fn here(&self) -> u32 {
        ENTRY as u32 + 4 * self.0.len() as u32
    }
    fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

const VBAR: [u32; 4] = [0, 12, 0, 0];
const DACR: [u32; 4] = [0, 3, 0, 0];
const PMCR: [u32; 4] = [0, 9, 12, 0];
const CPACR: [u32; 4] = [0, 1, 0, 2];
/// MRS r0, CPSR and MRS r1, SPSR.
const MRS_R0_CPSR: u32 = 0xe10f_0000;
const MRS_R1_SPSR: u32 = 0xe14f_1000;
/// MOV r0, lr.
const MOV_R0_LR: u32 = 0xe1a0_000e;
/// MOV pc, r6: on with the test.
const MOV_PC_R6: u32 = 0xe1a0_f006;
/// Vector by vector, in the order of the table.
const UNDEFINED: u64 = 1;
const PREFETCH: u64 = 3;
const DATA: u64 = 4;
const IRQ: u64 = 6;
const FIQ: u64 = 7;

/// Supervisor, undefined and abort mode.
const SVC: u64 = 0x13;

/// A table whose entries report their link register, SPSR and CPSR, and pause with their number; then the program goes on
/// where r6 says.
fn vectors() -> Vec<u8> {
    let mut page = vec![0; 0x800];
    for n in 0..8_u32 {
        let body = 0x100 + 0x40 * n;
        let mut entry = A32(Vec::new());
        entry.branch(body.cast_signed() / 4 - n.cast_signed());
        page[4 * n as usize..][..4].copy_from_slice(&entry.bytes());
        let mut code = A32(Vec::new());
        code.word(MOV_R0_LR)
            .word(MRS_R1_SPSR)
            .report(0, 0)
            .report(1, 1)
            .word(MRS_R0_CPSR)
            .report(2, 0)
            .mov(0, n)
            .pause(0)
            // CPS #SVC; MOV pc, r6.
            .word(0xf102_0013)
            .word(MOV_PC_R6);
        let bytes = code.bytes();
        page[body as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    page
}

/// A program that has its vectors set and r7 ready.
fn start() -> A32 {
    let mut code = A32(Vec::new());
    code.mov(7, MMIO as u32).mov(0, VECTORS as u32).mcr(0, VBAR).isb();
    code
}

fn machine(program: &[u8]) -> Result<Machine, Skip> {
    let features = Features {
        bits: 1 << kb::KVM_ARM_VCPU_EL1_32BIT,
        vq: 0,
    };
    Ok(Machine::with(
        features,
        Gic::None,
        &[],
        program,
        &vectors(),
        |_| Ok(()),
    )?)
}

/// All of it.
pub fn aarch32(report: &mut Report) -> Result<(), Skip> {
    let kvm = kvm_ioctls::Kvm::new().map_err(ioctl("/dev/kvm"))?;
    if !kvm.check_extension(Cap::ArmEl132bit) {
        return Err(Skip("no AArch32 at EL1 on this CPU".into()));
    }
    injected(report)?;
    interrupts(report)?;
    skipped(report)?;
    registers(report)
}

fn mode(machine: &Machine, word: usize) -> u64 {
    machine.reports[word] & 0x1f
}

fn injected(report: &mut Report) -> Result<(), Skip> {
    let mut code = start();
    code.word(MRS_R0_CPSR).report(2, 0).pause(0);
    // Where the handler is to go on: the instruction after the one that fails. MOVW and MOVT are two instructions.
    let after = code.here() + 12;
    code.mov(6, after);
    let undefined = code.here();
    code.mrc(0, PMCR);
    let nowhere = 0x0a00_0000;
    let after = code.here() + 20;
    code.mov(6, after).mov(1, nowhere);
    // MOV pc, r1: a fetch from no memory.
    code.word(0xe1a0_f001);
    code.mov(0, 0x77);
    let idle = code.here();
    code.mov(6, idle).pause(0).branch(-1);
    let mut machine = machine(&code.bytes())?;
    machine.run_to_pause()?;
    report.equal("the guest runs in supervisor mode", mode(&machine, 2), SVC);

    report.equal(
        "a register that it does not have is undefined",
        machine.run(),
        Stop::Paused(UNDEFINED),
    );
    report.equal(
        "with the next instruction in LR, in undefined mode",
        (machine.reports[0], mode(&machine, 2)),
        (u64::from(undefined) + 4, 0x1b),
    );
    report.equal(
        "a fetch from nowhere aborts",
        machine.run(),
        Stop::Paused(PREFETCH),
    );
    report.equal(
        "with its address and 4 in LR, in abort mode",
        (machine.reports[0], mode(&machine, 2)),
        (u64::from(nowhere) + 4, 0x17),
    );
    report.equal("the guest runs on", machine.run(), Stop::Paused(0x77));
    let mut events = kb::kvm_vcpu_events::default();
    events.exception.ext_dabt_pending = 1;
    machine
        .vcpu
        .set_vcpu_events(&events)
        .map_err(ioctl("KVM_SET_VCPU_EVENTS"))?;
    report.equal(
        "the VMM's external abort comes",
        machine.run(),
        Stop::Paused(DATA),
    );
    report.equal("in abort mode", mode(&machine, 2), 0x17);
    Ok(())
}

fn interrupts(report: &mut Report) -> Result<(), Skip> {
    let mut code = start();
    // The handlers come back to CPSIE aif, behind this pause with all masked: two MOVs of two words, and a store.
    let open = code.here() + 20;
    code.mov(6, open).mov(0, 0x76).pause(0);
    code.word(0xf108_01c0).mov(0, 0x77).pause(0).branch(-3);
    let mut machine = machine(&code.bytes())?;
    report.equal("the guest runs, all masked", machine.run(), Stop::Paused(0x76));
    let mut events = kb::kvm_vcpu_events::default();
    events.exception.serror_pending = 1;
    machine
        .vcpu
        .set_vcpu_events(&events)
        .map_err(ioctl("KVM_SET_VCPU_EVENTS"))?;
    report.equal(
        "an SError is an asynchronous abort",
        machine.run(),
        Stop::Paused(DATA),
    );
    report.equal("that comes once", machine.run(), Stop::Paused(0x77));
    for (name, fiq, vector) in [("IRQ", false, IRQ), ("FIQ", true, FIQ)] {
        machine.pin(fiq, true)?;
        report.equal(
            &format!("it takes an {name}"),
            machine.run(),
            Stop::Paused(vector),
        );
        report.equal("from supervisor mode", mode(&machine, 1), SVC);
        machine.pin(fiq, false)?;
        report.equal("and goes on", machine.run(), Stop::Paused(0x77));
    }
    Ok(())
}

/// A store that the VMM carries out is skipped in the middle of an IT block, which must go on with its next condition.
fn skipped(report: &mut Report) -> Result<(), Skip> {
    let mut code = start();
    let thumb = FREE as u32 + 1;
    code.mov(2, MMIO as u32)
        .mov(5, (MMIO + PAUSE) as u32)
        .mov(1, 0x1234)
        .mov(3, 0)
        .mov(4, thumb)
        // BX r4.
        .word(0xe12f_ff14);
    let t32: [u16; 9] = [
        0x4280, // CMP r0, r0
        0xbf06, // ITTE EQ
        0x6011, // STREQ r1, [r2]
        0x2301, // MOVEQ r3, #1
        0x2302, // MOVNE r3, #2
        0x6093, // STR r3, [r2, #8]
        0x602b, // STR r3, [r5]
        0xe7fe, // B .
        0xbf00, // NOP
    ];
    let bytes: Vec<u8> = t32.iter().flat_map(|half| half.to_le_bytes()).collect();
    let mut machine = machine(&code.bytes())?;
    machine.ram.load(FREE, &bytes)?;
    report.equal(
        "an IT block goes on after a skipped store",
        machine.run(),
        Stop::Paused(1),
    );
    report.equal("the store was made", machine.reports[0], 0x1234);
    report.equal("and the next", machine.reports[1], 1);
    Ok(())
}

/// FP registers, FPSCR and DACR over exits, beside another guest.
fn registers(report: &mut Report) -> Result<(), Skip> {
    const DOUBLES: u32 = 32;
    let program = |seed: u32| {
        let mut code = start();
        code.mrc(0, CPACR)
            // ORR r0, r0, #0xf00000.
            .word(0xe380_060f)
            .mcr(0, CPACR)
            .isb()
            // VMSR FPEXC, r0, with EN.
            .mov(0, 1 << 30)
            .word(0xeee8_0a10)
            // VMSR FPSCR, r0.
            .mov(0, 0x03c0_0000)
            .word(0xeee1_0a10)
            .mov(0, 0x5555_0001 + seed)
            .mcr(0, DACR);
        for n in 0..DOUBLES {
            // VMOV Dn, r0, r1.
            code.mov(0, seed + n)
                .mov(1, !(seed + n))
                .word(0xec41_0b10 | (n >> 4) << 5 | n & 15);
        }
        code.pause(0).mov(3, 0);
        for n in 0..DOUBLES {
            // VMOV r0, r1, Dn; MOV r2, expected; CMP r0, r2; ADDNE r3, r3, #1; and so for the other half.
            code.word(0xec51_0b10 | (n >> 4) << 5 | n & 15)
                .mov(2, seed + n)
                .word(0xe150_0002)
                .word(0x1283_3001)
                .mov(2, !(seed + n))
                .word(0xe151_0002)
                .word(0x1283_3001);
        }
        // VMRS r0, FPSCR.
        code.report(0, 3)
            .word(0xeef1_0a10)
            .report(1, 0)
            .mrc(0, DACR)
            .report(2, 0)
            .pause(0)
            .branch(0);
        code
    };
    let mut guests = Vec::new();
    for seed in [0x1000, 0x2000] {
        guests.push((seed, machine(&program(seed).bytes())?));
    }
    for _ in 0..2 {
        for (_, machine) in &mut guests {
            machine.run_to_pause()?;
        }
    }
    for (seed, machine) in &guests {
        report.equal(
            &format!("guest {seed:#x}'s 32 FP registers, FPSCR and DACR stay"),
            (machine.reports[0], machine.reports[1], machine.reports[2]),
            (0, 0x03c0_0000, u64::from(0x5555_0001 + seed)),
        );
    }
    Ok(())
}
