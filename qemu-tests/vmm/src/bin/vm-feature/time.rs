// SPDX-License-Identifier: GPL-2.0-only
//! The counters with an offset, and the physical timer, which a guest never touches itself.

#![expect(unsafe_code, reason = "reads the host's counter")]

use crate::Skip;
use crate::code::{Code, regs};
use crate::machine::{Features, Machine, Stop};
use crate::report::Report;

fn host_counter() -> u64 {
    let value: u64;
    // SAFETY: reads a register that the kernel opens to processes.
    unsafe { std::arch::asm!("isb", "mrs {}, cntvct_el0", out(reg) value, options(nomem, nostack)) };
    value
}

/// Both counters, by all their names that the machine has.
pub fn time(report: &mut Report) -> Result<(), Skip> {
    let mut code = Code::new();
    code.mrs(0, regs::CNTVCT_EL0)
        .report(0, 0)
        .mrs(0, regs::CNTPCT_EL0)
        .report(1, 0)
        .mrs(0, [3, 0, 0, 7, 0])
        .report(2, 0)
        .pause(0)
        // CNTPCTSS_EL0 and CNTVCTSS_EL0 of FEAT_ECV.
        .mrs(0, [3, 3, 14, 0, 5])
        .report(3, 0)
        .mrs(0, [3, 3, 14, 0, 6])
        .report(4, 0)
        .pause(0);
    let mut plain = Machine::new(Features::default(), &code)?;
    let before = host_counter();
    plain.run_to_pause()?;
    let after = host_counter();
    report.result(
        "without an offset a guest's physical counter is the host's",
        (before..=after)
            .contains(&plain.reports[1])
            .then_some(())
            .ok_or(format!(
                "{:#x} is not in {before:#x} to {after:#x}",
                plain.reports[1]
            )),
    );

    let mut machine = Machine::new(Features::default(), &code)?;
    let offset = host_counter() - 0x10_0000;
    machine.set_counter_offset(offset)?;
    let before = host_counter() - offset;
    machine.run_to_pause()?;
    let after = host_counter() - offset;
    let within = |what: &str, value: u64| {
        (before..=after)
            .contains(&value)
            .then_some(())
            .ok_or(format!("{what} {value:#x} is not in {before:#x} to {after:#x}"))
    };
    report.result(
        "the virtual counter has the offset",
        within("CNTVCT_EL0", machine.reports[0]),
    );
    report.result(
        "the physical counter has the offset",
        within("CNTPCT_EL0", machine.reports[1]),
    );
    let ecv = machine.reports[2] >> 60 & 0xf;
    if ecv != 0 {
        machine.run_to_pause()?;
        let after = host_counter() - offset;
        for (name, value) in [
            ("CNTPCTSS_EL0", machine.reports[3]),
            ("CNTVCTSS_EL0", machine.reports[4]),
        ] {
            report.result(
                &format!("{name} has it too"),
                (before..=after)
                    .contains(&value)
                    .then_some(())
                    .ok_or(format!("{value:#x} is not in {before:#x} to {after:#x}")),
            );
        }
    } else {
        report.say("no self-synchronised counters in this guest");
    }

    let mut code = Code::new();
    code.mov(0, 1000)
        .msr(regs::CNTP_TVAL_EL0, 0)
        .mov(0, 1)
        .msr(regs::CNTP_CTL_EL0, 0)
        .isb();
    code.mrs(0, regs::CNTP_CTL_EL0);
    // Until ISTATUS (bit 2) is set.
    code.word(0x3617_ffe0)
        .mrs(0, regs::CNTP_CTL_EL0)
        .report(0, 0)
        .pause(0);
    let mut machine = Machine::new(Features::default(), &code)?;
    let stop = machine.run();
    let fired = match stop {
        Stop::Paused(_) if machine.reports[0] & 7 == 5 => Ok(()),
        other => Err(format!("{other:x?}, CNTP_CTL_EL0 {:#x}", machine.reports[0])),
    };
    report.result("the guest's physical timer expires", fired);
    Ok(())
}
