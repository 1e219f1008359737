// SPDX-License-Identifier: GPL-2.0-only
//! What the VMM sends a vCPU beside an interrupt controller: its pins, SErrors, external aborts.

use crate::Skip;
use crate::code::{self, Code, Vector, regs};
use crate::machine::{Features, Gic, Machine, Stop, ioctl};
use crate::report::Report;
use kvm_bindings as kb;

/// The main program of these tests pauses with this, for ever.
const IDLE: u64 = 0x77;

fn idle(unmasked: u32) -> Code {
    let mut code = Code::new();
    code.mov(1, 0)
        .unmask(unmasked)
        .isb()
        .mov(2, IDLE)
        .pause(2)
        .branch(-1);
    code
}

fn machine(program: &Code, handlers: &[(Vector, &Code)]) -> Result<Machine, Skip> {
    Ok(Machine::with(
        Features::default(),
        Gic::None,
        &[],
        &program.bytes(),
        &code::vectors(handlers),
        |_| Ok(()),
    )?)
}

/// IRQ and FIQ (HCR_EL2.VI and VF).
pub fn pins(report: &mut Report) -> Result<(), Skip> {
    let handler = |value: u64| {
        let mut code = Code::default();
        code.mrs(0, regs::ISR_EL1)
            .report(0, 0)
            .mov(0, value)
            .pause(0)
            .eret();
        code
    };
    let (irq, fiq) = (handler(1), handler(2));
    let mut machine = machine(&idle(3), &[(Vector::Irq, &irq), (Vector::Fiq, &fiq)])?;
    report.equal("the guest runs", machine.run(), Stop::Paused(IDLE));
    for (name, is_fiq, value, isr) in [("IRQ", false, 1, 1 << 7), ("FIQ", true, 2, 1 << 6)] {
        machine.pin(is_fiq, true)?;
        report.equal(
            &format!("the guest takes an {name}"),
            machine.run(),
            Stop::Paused(value),
        );
        report.equal(&format!("ISR_EL1 tells the {name}"), machine.reports[0], isr);
        machine.pin(is_fiq, false)?;
        report.equal(&format!("no {name} is left"), machine.run(), Stop::Paused(IDLE));
    }
    Ok(())
}

fn pending(machine: &Machine) -> Result<u8, Skip> {
    let events = machine
        .vcpu
        .get_vcpu_events()
        .map_err(ioctl("KVM_GET_VCPU_EVENTS"))?;
    Ok(events.exception.serror_pending)
}

/// An SError is taken once, with its syndrome, whether or not it is masked when it is sent; an external abort at once.
pub fn serror(report: &mut Report) -> Result<(), Skip> {
    let mut handler = Code::default();
    handler
        .add(1, 1, 1)
        .report(0, 1)
        .mrs(0, regs::ESR_EL1)
        .report(1, 0)
        .eret();
    let mut program = Code::new();
    // Pauses once with SErrors masked, and then without.
    program
        .mov(1, 0)
        .mov(2, IDLE)
        .pause(2)
        .unmask(4)
        .isb()
        .pause(2)
        .branch(-1);
    let mut machine = machine(&program, &[(Vector::SError, &handler)])?;
    let with_esr = machine
        .kvm
        .check_extension_raw(u64::from(kb::KVM_CAP_ARM_INJECT_SERROR_ESR))
        > 0;
    let mut events = kb::kvm_vcpu_events::default();
    events.exception.serror_pending = 1;
    if with_esr {
        events.exception.serror_has_esr = 1;
        events.exception.serror_esr = 0x1234;
    } else {
        report.say("this machine gives SErrors no syndrome");
    }
    let send = |machine: &Machine| {
        machine
            .vcpu
            .set_vcpu_events(&events)
            .map_err(ioctl("KVM_SET_VCPU_EVENTS"))
    };
    report.equal(
        "the guest runs, SErrors masked",
        machine.run(),
        Stop::Paused(IDLE),
    );
    send(&machine)?;
    report.equal("the SError is pending", pending(&machine)?, 1);
    for _ in 0..4 {
        machine.run_to_pause()?;
    }
    report.equal("the guest took one SError in four runs", machine.reports[0], 1);
    report.equal("it is pending no more", pending(&machine)?, 0);
    report.equal("it was an SError", machine.reports[1] >> 26, 0x2f);
    if with_esr {
        report.equal(
            "its syndrome is the VMM's",
            machine.reports[1] & 0xff_ffff,
            0x1234,
        );
    }
    send(&machine)?;
    for _ in 0..4 {
        machine.run_to_pause()?;
    }
    report.equal("so with SErrors unmasked", machine.reports[0], 2);

    let mut events = kb::kvm_vcpu_events::default();
    events.exception.ext_dabt_pending = 1;
    machine
        .vcpu
        .set_vcpu_events(&events)
        .map_err(ioctl("KVM_SET_VCPU_EVENTS"))?;
    let taken = match machine.run() {
        Stop::Exception(0x200, esr, _) if esr >> 26 == 0x25 && esr & 0x3f == 0x10 => Ok(()),
        other => Err(format!("{other:x?}, not an external abort")),
    };
    report.result("an external abort is taken", taken);
    Ok(())
}
