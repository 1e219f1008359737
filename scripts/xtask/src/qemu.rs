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

/// The runner for a kernel, still without what it shall run.
pub fn runner(kernel: &Kernel, busybox: &Path) -> Command {
    let mut command = Command::new(paths::root().join("target/release/pkvm-runner"));
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

/// As [`suites`] for the suites of `names`, with a kernel of their own for Linux guests.
///
/// # Errors
/// One line: the runner did not run.
pub fn suites_with(
    kernel: &Kernel,
    busybox: &Path,
    guest: Option<&Path>,
    cpus: &[String],
    names: &[String],
) -> Result<(u32, u32), String> {
    let mut command = runner(kernel, busybox);
    if let Some(guest) = guest {
        command.arg("--guest").arg(guest);
    }
    run_suites(command, cpus, names)
}

fn run_suites(mut command: Command, cpus: &[String], names: &[String]) -> Result<(u32, u32), String> {
    build_runner()?;
    for cpu in cpus {
        command.args(["--cpu", cpu]);
    }
    for name in names {
        command.args(["--suite", name]);
    }
    let mut last = String::new();
    let success = lines(command, |line| {
        ui::say(line);
        line.clone_into(&mut last);
    })?;
    match counts(&last) {
        Some((passed, 0)) if !success => Ok((passed, 1)),
        Some(counts) => Ok(counts),
        None => Err("the test runner gave no result".to_owned()),
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
    use super::counts;

    #[test]
    fn the_closing_line_is_read() {
        assert_eq!(counts("12 passed, 3 failed"), Some((12, 3)));
        assert_eq!(counts("ok 1 a"), None);
    }
}
