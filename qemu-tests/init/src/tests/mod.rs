// SPDX-License-Identifier: GPL-2.0-only
//! The tests that run in the host, by name.

mod badinput;
pub mod boot;
mod ffa;
mod firmware;
mod guests;
mod judgements;
mod modes;
mod power;
mod tables;
mod trace;

pub use modes::take_off_line;

use crate::ktap::Sub;
use crate::supervise::SKIP;
use std::process::ExitCode;

/// Why a test did not pass.
pub enum Fail {
    /// It failed; one line says why.
    Because(String),
    /// This machine cannot run it; one line says why.
    Skip(String),
}

impl Fail {
    /// The kernel lacks what the suite's must have: no reason to skip but with the C object, where nothing is to be shown.
    pub fn of_kernel(lack: &str) -> Self {
        if crate::system::cmdline_has("hyp=c") {
            Self::Skip(lack.to_owned())
        } else {
            Self::Because(lack.to_owned())
        }
    }
}

impl From<String> for Fail {
    fn from(why: String) -> Self {
        Self::Because(why)
    }
}

impl From<std::io::Error> for Fail {
    fn from(why: std::io::Error) -> Self {
        Self::Because(why.to_string())
    }
}

/// What a test returns.
pub type Outcome = Result<(), Fail>;

/// A test: it reports its subtests to the [`Sub`], and gets the words after its name.
pub type Test = fn(&mut Sub, &[String]) -> Outcome;

const TESTS: &[(&str, Test)] = &[
    ("protected-mode", boot::protected_mode),
    ("smp", boot::smp),
    ("mode", modes::mode),
    ("replug", modes::replug),
    ("stub", modes::stub),
    ("late-cpu", modes::late_cpu),
    ("host-mte", guests::host_mte),
    ("gic-traps", modes::gic_traps),
    ("missed-cpu", modes::missed_cpu),
    ("replugged-cpu", modes::replugged_cpu),
    ("judgement", judgements::run),
    ("bad-input", badinput::run),
    ("trace", trace::run),
    ("page-tables", tables::run),
    ("panic", boot::panic),
    ("ffa", ffa::run),
    ("power", power::run),
    ("psci", firmware::psci),
];

/// Keeps this thread on one CPU, for what EL2 remembers per CPU.
pub fn pin_to_cpu(cpu: usize) -> Result<(), String> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).map_err(|e| format!("CPU {cpu}: {e}"))
}

/// Runs the test called `name` in this process.
pub fn run(name: &str, words: &[String]) -> ExitCode {
    let Some((_, test)) = TESTS.iter().find(|(known, _)| *known == name) else {
        println!("# no test is called {name}");
        return ExitCode::from(2);
    };
    let mut sub = Sub::default();
    let outcome = test(&mut sub, words);
    let failed = sub.finish();
    match outcome {
        Ok(()) if failed == 0 => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(Fail::Because(why)) => {
            println!("# {why}");
            ExitCode::FAILURE
        }
        Err(Fail::Skip(why)) => {
            println!("# {why}");
            ExitCode::from(u8::try_from(SKIP).unwrap_or(1))
        }
    }
}
