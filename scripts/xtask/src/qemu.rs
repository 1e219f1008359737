// SPDX-License-Identifier: GPL-2.0-only
//! The runner of the QEMU tests, called and read.

use crate::args::Args;
use crate::kernel::Kernel;
use crate::paths;
use crate::selftests;
use crate::sh;
use crate::test::cargo;
use crate::ui;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Builds the runner.
///
/// # Errors
/// One line; the compiler's are shown before.
pub fn build_runner() -> Result<(), String> {
    let mut command = cargo(
        &paths::root(),
        &["build", "--quiet", "--release", "-p", "pkvm-runner"],
    );
    command.env_remove("RUSTC_BOOTSTRAP");
    ui::step("build the test runner", |now| sh::logged("runner", command, now))
}

/// Whether QEMU knows the CPU models; properties may follow after a comma.
///
/// # Errors
/// One line with the models that there are.
pub fn check_models(cpus: &[String]) -> Result<(), String> {
    if cpus.is_empty() {
        return Ok(());
    }
    models_in(
        &sh::output(sh::cmd("qemu-system-aarch64", ["-cpu", "help"]))?,
        cpus,
    )
}

/// As [`check_models`] by what QEMU lists: a headline, and a model in each line.
fn models_in(list: &str, cpus: &[String]) -> Result<(), String> {
    let models: Vec<&str> = list
        .lines()
        .filter(|line| line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    for cpu in cpus {
        let model = cpu.split(',').next().unwrap_or_default();
        if !models.contains(&model) {
            // The others of the list have no EL2, or no AArch64.
            let likely: Vec<&str> = models
                .iter()
                .copied()
                .filter(|name| {
                    ["max", "cortex-a", "neoverse", "a64fx"]
                        .iter()
                        .any(|p| name.starts_with(p))
                })
                .collect();
            return Err(format!(
                "--cpu {cpu}: QEMU has no such model; it has {}",
                likely.join(", ")
            ));
        }
    }
    Ok(())
}

/// Whether the runner has suites of these names.
///
/// # Errors
/// One line about the first that it has not.
pub fn check_suites(names: &[String]) -> Result<(), String> {
    if names.is_empty() {
        return Ok(());
    }
    build_runner()?;
    suites_in(&sh::output(sh::cmd(&program(), ["--list"]))?, names)
}

/// As [`check_suites`] by what the runner lists: suites, each with its tests indented below.
fn suites_in(list: &str, names: &[String]) -> Result<(), String> {
    let mut suites: Vec<&str> = list
        .lines()
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    suites.dedup();
    match names.iter().find(|name| !suites.contains(&name.as_str())) {
        Some(name) => Err(format!(
            "--suite {name}: there is no such suite; there are {}",
            suites.join(", ")
        )),
        None => Ok(()),
    }
}

fn program() -> String {
    let path = paths::root().join("target/release/pkvm-runner");
    path.to_string_lossy().into_owned()
}

/// The runner for a kernel, still without what it shall run.
pub fn runner(kernel: &Kernel, busybox: &Path) -> Command {
    let mut command = Command::new(program());
    command
        .current_dir(paths::root())
        .arg("--kernel")
        .arg(kernel.image())
        .arg("--kbuild")
        .arg(&kernel.dir)
        .args(["--hyp", kernel.hyp.word()])
        .env("PKVM_BUSYBOX", busybox);
    if let Ok(tree) = std::fs::read_link(kernel.dir.join("source")) {
        command.env("PKVM_SELFTESTS", selftests::programs(&tree));
    }
    command
}

/// Runs suites (all without a name, with `--full` the slow ones too) on CPU models and passes the runner's lines on. Returns
/// how many tests passed and failed.
///
/// # Errors
/// One line: the runner did not run.
pub fn suites(kernel: &Kernel, busybox: &Path, cpus: &[String], args: &Args) -> Result<(u32, u32), String> {
    let mut command = runner(kernel, busybox);
    if args.full {
        command.arg("--full");
    }
    run_suites(command, cpus, &args.suites)
}

/// Runs suites on CPU models with a runner that has its other options, builds it first, and passes its lines on.
/// Returns how many tests passed and failed.
///
/// # Errors
/// One line: the runner did not run.
pub fn run_suites(mut command: Command, cpus: &[String], names: &[String]) -> Result<(u32, u32), String> {
    build_runner()?;
    for cpu in cpus {
        command.args(["--cpu", cpu]);
    }
    for name in names {
        command.args(["--suite", name]);
    }
    counted(command)
}

/// Calls the runner and passes its lines on. Returns how many tests passed and failed, as its last line says.
///
/// # Errors
/// One line: it did not run, or not to its end.
pub fn counted(command: Command) -> Result<(u32, u32), String> {
    let mut last = String::new();
    let success = lines(command, |line| {
        ui::say(line);
        line.clone_into(&mut last);
    })?;
    match counts(&last) {
        Some((passed, 0)) if !success => Ok((passed, 1)),
        Some(counts) => Ok(counts),
        None => Err("the test runner gave no result (its last line says why)".to_owned()),
    }
}

/// Runs a command and offers each line of its standard output; returns whether it succeeded.
///
/// # Errors
/// One line: it does not start.
pub fn lines(mut command: Command, mut each: impl FnMut(&str)) -> Result<bool, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{name}: {e}"))?;
    if let Some(out) = child.stdout.take() {
        let mut reader = BufReader::new(out);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            each(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
            line.clear();
        }
    }
    child
        .wait()
        .map(|status| status.success())
        .map_err(|e| format!("{name}: {e}"))
}

/// `N passed, N failed`
fn counts(line: &str) -> Option<(u32, u32)> {
    let (passed, failed) = line.split_once(" passed, ")?;
    Some((
        passed.parse().ok()?,
        failed.strip_suffix(" failed")?.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::{counts, models_in, suites_in};

    #[test]
    fn suites_are_those_of_the_list() {
        let list = "boot         the host comes up\n  boot/smp\nmodes        a\n  modes/x\nmodes        b (--full)\n";
        let check = |name: &str| suites_in(list, &[name.to_owned()]);
        assert_eq!(check("boot"), Ok(()));
        assert_eq!(check("modes"), Ok(()));
        for wrong in ["bot", "boot/smp", ""] {
            assert!(
                check(wrong).unwrap_err().ends_with("there are boot, modes"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn models_may_have_properties() {
        let list = "Available CPUs:\n  cortex-a57\n  max\n  pxa250 (deprecated)\n";
        let check = |cpu: &str| models_in(list, &[cpu.to_owned()]);
        assert_eq!(check("max"), Ok(()));
        assert_eq!(check("max,lpa2=off"), Ok(()));
        assert_eq!(check("pxa250"), Ok(()));
        for wrong in ["cortex", "CPUs:", "", ",max"] {
            assert!(
                check(wrong).unwrap_err().ends_with("it has cortex-a57, max"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn the_closing_line_is_read() {
        assert_eq!(counts("12 passed, 3 failed"), Some((12, 3)));
        assert_eq!(counts("ok 1 a"), None);
    }
}
