// SPDX-License-Identifier: GPL-2.0-only
//! The runner of the QEMU tests, called and read.

use crate::args::Args;
use crate::counts::Counts;
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

/// Whether the runner has suites of these names, and they leave it anything to run on the CPU models.
///
/// # Errors
/// One line about the first that it has not, or that would not run.
pub fn check_suites(names: &[String], cpus: &[String], full: bool) -> Result<(), String> {
    if names.is_empty() {
        return Ok(());
    }
    build_runner()?;
    suites_in(&sh::output(sh::cmd(&program(), ["--list"]))?, names)?;
    let mut list = sh::cmd(&program(), ["--list"]);
    list.args(full.then_some("--full"));
    for name in names {
        list.args(["--suite", name]);
    }
    for cpu in cpus {
        list.args(["--cpu", cpu]);
    }
    sh::output(list).map(|_| ()).map_err(|why| {
        // Its own line begins with its name, as ours would with its path.
        why.rsplit_once("pkvm-runner: ")
            .map_or(why.clone(), |(_, line)| line.to_owned())
    })
}

/// As [`check_suites`] by what the runner lists: suites, each with its tests indented below.
fn suites_in(list: &str, names: &[String]) -> Result<(), String> {
    let mut suites: Vec<&str> = Vec::new();
    for line in list.lines().filter(|line| !line.starts_with(' ')) {
        // Machines of one suite need not stand together.
        match line.split_whitespace().next() {
            Some(suite) if !suites.contains(&suite) => suites.push(suite),
            _ => {}
        }
    }
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
/// how many tests passed, failed and were skipped.
///
/// # Errors
/// One line: the runner did not run.
pub fn suites(kernel: &Kernel, busybox: &Path, cpus: &[String], args: &Args) -> Result<Counts, String> {
    let mut command = runner(kernel, busybox);
    if args.full {
        command.arg("--full");
    }
    run_suites(command, cpus, &args.suites)
}

/// Runs suites on CPU models with a runner that has its other options, builds it first, and passes its lines on.
/// Returns how many tests passed, failed and were skipped.
///
/// # Errors
/// One line: the runner did not run.
pub fn run_suites(mut command: Command, cpus: &[String], names: &[String]) -> Result<Counts, String> {
    build_runner()?;
    for cpu in cpus {
        command.args(["--cpu", cpu]);
    }
    for name in names {
        command.args(["--suite", name]);
    }
    counted(command)
}

/// Calls the runner and passes its lines on. Returns how many tests passed, failed and were skipped, as its last lines
/// say.
///
/// # Errors
/// One line: it did not run, or not to its end, or ran nothing.
pub fn counted(command: Command) -> Result<Counts, String> {
    let (mut before, mut last) = (String::new(), String::new());
    let success = lines(command, |line| {
        ui::say(line);
        before = std::mem::replace(&mut last, line.to_owned());
    })?;
    match Counts::read(&before, &last) {
        Some(counts) if counts == Counts::default() => Err("the test runner ran no test".to_owned()),
        Some(counts) if counts.failed == 0 && !success => Ok(Counts { failed: 1, ..counts }),
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

#[cfg(test)]
mod tests {
    use super::{models_in, suites_in};

    #[test]
    fn suites_are_those_of_the_list() {
        let list = "boot         the host comes up\n  boot/smp\nmodes        a\n  modes/x\nfeatures     c\nmodes        b (--full)\n";
        let check = |name: &str| suites_in(list, &[name.to_owned()]);
        assert_eq!(check("boot"), Ok(()));
        assert_eq!(check("modes"), Ok(()));
        for wrong in ["bot", "boot/smp", ""] {
            assert!(
                check(wrong)
                    .unwrap_err()
                    .ends_with("there are boot, modes, features"),
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
}
