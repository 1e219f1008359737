// SPDX-License-Identifier: GPL-2.0-only
//! Self-hosted debug: the VMM debugs its guest, and a guest debugs itself.

use crate::Skip;
use crate::code::{Code, FREE, MMIO, Reg, class, regs};
use crate::machine::{Features, Machine, Stop, ioctl};
use crate::report::Report;
use kvm_bindings as kb;

/// Exception classes (Arm ARM, ESR_ELx).
const BREAKPOINT_LOWER: u64 = 0x30;
const BREAKPOINT_SAME: u64 = 0x31;
const STEP_LOWER: u64 = 0x32;
const WATCHPOINT_LOWER: u64 = 0x34;
const WATCHPOINT_SAME: u64 = 0x35;
const BRK: u64 = 0x3c;

/// Enabled, at EL1 and EL0, all four bytes of the instruction.
const BCR: u64 = 1 | 3 << 1 | 0xf << 5;
/// Enabled, at EL1 and EL0, loads and stores, all eight bytes.
const WCR: u64 = 1 | 3 << 1 | 3 << 3 | 0xff << 5;

/// A debug exit of a class, at `pc`.
fn expect(machine: &Machine, stop: Stop, wanted: u64, pc: u64) -> Result<(), String> {
    let at = machine.pc().map_err(|e| e.to_string())?;
    match stop {
        Stop::Debug(esr, _) if class(esr) == wanted && at == pc => Ok(()),
        other => Err(format!("{other:x?} at {at:#x}, not class {wanted:#x} at {pc:#x}")),
    }
}

fn guest_debug(machine: &Machine, control: u32, arch: &kb::kvm_guest_debug_arch) -> Result<(), Skip> {
    let debug = kb::kvm_guest_debug {
        control,
        pad: 0,
        arch: *arch,
    };
    Ok(machine
        .vcpu
        .set_guest_debug(&debug)
        .map_err(ioctl("KVM_SET_GUEST_DEBUG"))?)
}

/// All of it.
pub fn debug(report: &mut Report) -> Result<(), Skip> {
    vmm(report)?;
    own(report)
}

fn vmm(report: &mut Report) -> Result<(), Skip> {
    let mut code = Code::new();
    code.mov(1, FREE).mov(2, 7);
    let first = code.here();
    for _ in 0..8 {
        code.nop();
    }
    let store = code.here();
    code.str(2, 1, 0);
    let brk = code.here();
    code.word(0xd420_0000).pause(2).forever();
    let mut machine = Machine::new(Features::default(), &code)?;
    machine.set_core(256, first)?;
    machine.set_core(8, FREE)?;
    machine.set_core(16, 7)?;
    machine.set_core(8 * 19, MMIO)?;

    let step = kb::KVM_GUESTDBG_ENABLE | kb::KVM_GUESTDBG_SINGLESTEP;
    guest_debug(&machine, step, &kb::kvm_guest_debug_arch::default())?;
    let mut stepped = Ok(());
    for n in 1..=5 {
        let stop = machine.run();
        stepped = stepped.and(expect(&machine, stop, STEP_LOWER, first + 4 * n));
    }
    report.result("the VMM steps through five instructions", stepped);

    let hardware = kb::KVM_GUESTDBG_ENABLE | kb::KVM_GUESTDBG_USE_HW;
    let mut arch = kb::kvm_guest_debug_arch::default();
    arch.dbg_bvr[1] = first + 28;
    arch.dbg_bcr[1] = BCR;
    guest_debug(&machine, hardware, &arch)?;
    let stop = machine.run();
    report.result(
        "the VMM's hardware breakpoint stops the guest",
        expect(&machine, stop, BREAKPOINT_LOWER, first + 28),
    );

    let mut arch = kb::kvm_guest_debug_arch::default();
    arch.dbg_wvr[1] = FREE;
    arch.dbg_wcr[1] = WCR;
    guest_debug(&machine, hardware, &arch)?;
    let stop = machine.run();
    report.result(
        "the VMM's watchpoint stops the guest",
        expect(&machine, stop, WATCHPOINT_LOWER, store),
    );
    let far = if let Stop::Debug(_, far) = stop { far } else { 0 };
    report.equal("it tells the address", far, FREE);

    let software = kb::KVM_GUESTDBG_ENABLE | kb::KVM_GUESTDBG_USE_SW_BP;
    guest_debug(&machine, software, &kb::kvm_guest_debug_arch::default())?;
    let stop = machine.run();
    report.result("a BRK comes to the VMM", expect(&machine, stop, BRK, brk));

    guest_debug(&machine, 0, &kb::kvm_guest_debug_arch::default())?;
    machine.set_core(256, brk + 4)?;
    report.equal(
        "without a debugger the guest runs on",
        machine.run(),
        Stop::Paused(7),
    );
    Ok(())
}

fn dbg(crm: u32, op2: u32) -> Reg {
    [2, 0, 0, crm, op2]
}

fn own(report: &mut Report) -> Result<(), Skip> {
    // What the program has before it: OS lock off, monitor debug events on, also in the kernel; PSTATE.D clear.
    let prepared = || {
        let mut code = Code::new();
        code.mov(0, 0)
            .msr(regs::OSLAR_EL1, 0)
            .mov(0, 1 << 15 | 1 << 13)
            .msr(regs::MDSCR_EL1, 0)
            .isb();
        code
    };
    let mut code = prepared();
    // The breakpoint's address is that of the instruction after all of this: 16 further instructions.
    let target = code.here() + 4 * 14;
    code.mov(0, target)
        .msr(dbg(1, 4), 0)
        .mov(0, BCR)
        .msr(dbg(1, 5), 0)
        .isb()
        .pause(0)
        .unmask(8)
        .isb();
    assert_eq!(code.here(), target);
    code.nop().mov(0, 1).pause(0).forever();
    let mut machine = Machine::new(Features::default(), &code)?;
    // The pause in between takes the registers off the CPU and puts them back.
    machine.run_to_pause()?;
    let hit = match machine.run() {
        Stop::Exception(0x200, esr, elr) if class(esr) == BREAKPOINT_SAME && elr == target => Ok(()),
        other => Err(format!("{other:x?}, not a breakpoint at {target:#x}")),
    };
    report.result("a guest's own breakpoint works", hit);

    let mut code = prepared();
    code.mov(0, FREE)
        .msr(dbg(3, 6), 0)
        .mov(0, WCR)
        .msr(dbg(3, 7), 0)
        .isb()
        .pause(0)
        .unmask(8)
        .isb()
        .mov(1, FREE)
        .ldr(0, 1, 0)
        .pause(0)
        .forever();
    let mut machine = Machine::new(Features::default(), &code)?;
    machine.run_to_pause()?;
    let hit = match machine.run() {
        Stop::Exception(0x200, esr, _) if class(esr) == WATCHPOINT_SAME => Ok(()),
        other => Err(format!("{other:x?}, not a watchpoint")),
    };
    report.result("a guest's own watchpoint works", hit);

    // Beside a guest that uses its breakpoints, another finds its own registers and not those.
    let mut code = Code::new();
    code.mrs(0, dbg(3, 6))
        .report(0, 0)
        .mrs(0, dbg(3, 7))
        .report(1, 0)
        .pause(0);
    let mut other = Machine::new(Features::default(), &code)?;
    other.run_to_pause()?;
    report.equal(
        "another guest does not see them",
        (other.reports[0], other.reports[1] & 1),
        (0, 0),
    );
    Ok(())
}
