// SPDX-License-Identifier: GPL-2.0-only
//! A bare-metal guest that does what Linux would not. The VMM's `pvm-probe` loads it and gives parameters:
//!
//! * PARAM 0: which test, 0 all; 1 registers, 2 ID registers, 3 hypercalls, 4 PSCI;
//! * PARAM 1: 1 in a protected VM;
//! * PARAM 2: the number of vCPUs.
//!
//! It prints KTAP and exits with the number of failures.
#![no_std]
#![no_main]

mod calls;
mod cpu;
mod idregs;
mod psci;
mod start;
mod sysregs;

use core::fmt::Write;

/// The results so far.
pub struct Report {
    /// The VM is protected.
    pub protected: bool,
    count: u32,
    failed: u32,
}

impl Report {
    /// A result line.
    pub fn result(&mut self, good: bool, name: core::fmt::Arguments<'_>) {
        self.count += 1;
        let word = if good { "ok" } else { "not ok" };
        self.failed += u32::from(!good);
        let mut out = cpu::Out::new();
        let _ = writeln!(out, "{word} {} {name}", self.count);
        out.flush();
    }

    /// A remark.
    pub fn note(&self, text: core::fmt::Arguments<'_>) {
        let mut out = cpu::Out::new();
        let _ = writeln!(out, "# {text}");
        out.flush();
    }
}

/// Where each vCPU arrives, on its own stack.
pub extern "C" fn main_on(index: usize) -> ! {
    if index != 0 {
        psci::secondary(index);
    }
    let mut report = Report {
        protected: cpu::param(1) == 1,
        count: 0,
        failed: 0,
    };
    let which = cpu::param(0);
    let tests: [fn(&mut Report); 4] = [sysregs::test, idregs::test, calls::test, psci::test];
    for (n, test) in tests.into_iter().enumerate() {
        if which == 0 || which == n as u64 + 1 {
            test(&mut report);
        }
    }
    cpu::exit(report.failed.into())
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let mut out = cpu::Out::new();
    let _ = writeln!(out, "# the guest's own error: {info}");
    out.flush();
    cpu::exit(200)
}
