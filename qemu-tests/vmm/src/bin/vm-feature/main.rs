// SPDX-License-Identifier: GPL-2.0-only
//! The tests of CPU features in normal VMs, which run in every mode of the host. Each VM has one vCPU and a program of a
//! few instructions.

mod aarch32;
mod code;
mod debug;
mod events;
mod gicv2;
mod machine;
mod pmu;
mod state;
mod sve;
mod time;

use pkvm_vmm::report::{self, Report};
use std::process::ExitCode;

/// Why a test did not run.
pub struct Skip(pub String);

impl From<pkvm_vmm::Error> for Skip {
    /// An error is no skip: it is told apart by its prefix.
    fn from(error: pkvm_vmm::Error) -> Self {
        Self(format!("{ERROR}{error}"))
    }
}

const ERROR: &str = "error: ";

type Test = fn(&mut Report) -> Result<(), Skip>;

const TESTS: &[(&str, &str, Test)] = &[
    (
        "registers",
        "EL1's registers stay over exits, beside those of another VM",
        state::registers,
    ),
    (
        "traps",
        "what a VM was denied is undefined in it, by fine-grained traps and HCRX_EL2",
        state::traps,
    ),
    (
        "mops",
        "a copy instruction that the CPU refuses starts over",
        state::mops,
    ),
    ("sve", "SVE at every vector length", sve::sve),
    (
        "debug",
        "single step, breakpoints, watchpoints: the VMM's and the guest's own",
        debug::debug,
    ),
    ("pmu", "a guest counts its cycles", pmu::guest),
    (
        "pmu-host",
        "the host's counters stand still while a guest runs, where the host asked so",
        pmu::host,
    ),
    (
        "time",
        "counters with an offset, and the physical timer",
        time::time,
    ),
    ("pins", "interrupts by the vCPU's pins", events::pins),
    (
        "serror",
        "an SError that the VMM pends is taken once",
        events::serror,
    ),
    ("gicv2", "a guest's GICv2", gicv2::gicv2),
    ("aarch32", "a guest whose EL1 is AArch32", aarch32::aarch32),
];

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let Some((.., test)) = TESTS.iter().find(|(known, ..)| *known == name) else {
        println!("usage: vm-feature TEST\n");
        for (name, about, _) in TESTS {
            println!("  {name:<12} {about}");
        }
        println!(
            "\nExit status: 0 all passed, 1 something failed, 2 a wrong option, 4 this machine cannot run it."
        );
        return ExitCode::from(if name == "--help" { 0 } else { 2 });
    };
    let mut report = Report::new();
    if let Err(Skip(why)) = test(&mut report) {
        let Some(error) = why.strip_prefix(ERROR) else {
            println!("# {why}");
            return ExitCode::from(4);
        };
        report.result("runs to its end", Err(error.to_owned()));
    }
    if report.finish() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
