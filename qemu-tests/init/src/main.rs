// SPDX-License-Identifier: GPL-2.0-only
//! PID 1 of the host under test. It mounts what tests need, runs the tests that the kernel command line names, each as
//! a child with a time limit, reports in KTAP and powers the machine off. Started again as `/init --test NAME` it is
//! one of the tests.
//!
//! The kernel hands over what follows `--` on its command line:
//!
//! * `run=A,B,...`: tests of `/tests` to run, in this order; without it all of them;
//! * `module=FILE`: a module to load first; may be given more than once;
//! * `hyp=c`: the C object is under test, whose recorded deviations are not failures;
//! * `shell`: no tests, but a shell of `/bin/busybox` on the console;
//! * `poweroff=no`: stay up after the tests.

mod hostile;
mod ktap;
mod supervise;
mod system;
mod tests;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    match words.get(1).map(String::as_str) {
        Some("--test") => {
            let Some(name) = words.get(2) else {
                eprintln!("--test needs a name");
                return ExitCode::from(2);
            };
            tests::run(name, &words[3..])
        }
        _ if words.first().is_some_and(|name| name == "/sbin/modprobe") => {
            tests::take_off_line();
            // There is no module.
            ExitCode::FAILURE
        }
        _ if std::process::id() == 1 => init(&words[1..]),
        _ => {
            eprintln!("usage: init --test NAME (or as PID 1 of a kernel)");
            ExitCode::from(2)
        }
    }
}

fn init(words: &[String]) -> ExitCode {
    let mut selected = None;
    let mut modules = Vec::new();
    let mut stay = false;
    for word in words {
        match word.split_once('=') {
            Some(("run", names)) => selected = Some(names.split(',').map(String::from).collect::<Vec<_>>()),
            Some(("module", file)) => modules.push(file.to_owned()),
            Some(("poweroff", "no")) => stay = true,
            // The rest is for the tests, which find it in /proc/cmdline.
            _ => {}
        }
    }
    if let Err(error) = system::mount_all() {
        eprintln!("init: {error}");
    }
    if words.iter().any(|word| word == "shell") {
        system::shell();
        return system::power_off();
    }
    let mut out = ktap::Ktap::open();
    let mut broken = Vec::new();
    for file in &modules {
        if let Err(error) = system::load_module(file) {
            broken.push(format!("cannot load {file}: {error}"));
        }
    }
    match supervise::table("/tests", selected.as_deref()) {
        Ok(tests) => {
            out.line("KTAP version 1");
            out.line(&format!("1..{}", tests.len()));
            for (index, test) in tests.iter().enumerate() {
                for reason in &broken {
                    out.line(&format!("# {reason}"));
                }
                supervise::run(test, index + 1, &mut out);
            }
        }
        Err(error) => out.line(&format!("Bail out! {error}")),
    }
    if stay {
        loop {
            std::thread::park();
        }
    }
    system::power_off()
}
