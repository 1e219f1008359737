// SPDX-License-Identifier: GPL-2.0-only
//! `scripts/test`: everything that must hold before a change lands, from the cheapest to the dearest. One line per test,
//! and the counts at the end.

use crate::args::Args;
use crate::check;
use crate::configs;
use crate::counts::Counts;
use crate::kernel::{self, Hyp};
use crate::paths;
use crate::qemu;
use crate::selftests;
use crate::setup::{self, EL2_TARGET};
use crate::sh::{self, cmd};
use crate::ui;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The CPU models that the QEMU tests run on: hVHE with and without the newest features, and nVHE.
pub const CPUS: [&str; 3] = ["max", "neoverse-n2", "cortex-a57"];
const LINUX_TARGET: &str = "aarch64-unknown-linux-gnu";

/// What came of all parts so far.
#[derive(Default)]
struct Tally(Counts);

impl Tally {
    /// Counts the tests of another part. One that ended early is one failed test.
    fn part(&mut self, name: &str, since: Instant, result: Result<Counts, String>) {
        match result {
            Ok(counts) => self.0 += counts,
            Err(why) => self.one(name, since, &Err(why)),
        }
    }

    /// Counts one test and prints its line.
    fn one(&mut self, name: &str, since: Instant, result: &Result<(), String>) {
        let took = ui::seconds(since.elapsed());
        match result {
            Ok(()) => {
                self.0 += Counts::PASSED;
                ui::say(&format!("ok    {name} [{took}]"));
            }
            Err(why) => {
                self.0 += Counts::FAILED;
                ui::say(&format!("FAIL  {name} [{took}] - {why}"));
            }
        }
    }
}

/// Runs all tests; true when none failed.
///
/// # Errors
/// One line, when the tests could not be run at all.
pub fn run(args: &Args) -> Result<bool, String> {
    let start = Instant::now();
    let mut tally = Tally::default();
    ui::headline("what the tests need");
    setup::programs(false)?;
    qemu::check_models(&args.cpus)?;
    setup::rust_src()?;
    qemu::check_suites(&args.suites, &models(args), args.full)?;

    ui::headline("sources");
    for dir in workspaces()? {
        let mut fmt = cargo(&dir, &["fmt", "--all", "--check"]);
        fmt.env_remove("RUSTC_BOOTSTRAP");
        timed(&mut tally, &format!("fmt/{}", label(&dir)), fmt);
    }
    clippy(&mut tally)?;

    ui::headline("unit tests on this machine");
    unit_tests(&mut tally, args);

    if args.quick {
        return Ok(close(&tally, start));
    }
    ui::headline("kernel");
    match sources(args) {
        Ok(sources) => machines(&mut tally, args, &sources),
        Err(why) => tally.one("kernel/sources", start, &Err(why)),
    }
    Ok(close(&tally, start))
}

/// What a kernel with its tests is made from.
struct Sources {
    busybox: PathBuf,
    tree: PathBuf,
    version: String,
}

fn sources(args: &Args) -> Result<Sources, String> {
    let busybox = setup::busybox()?;
    let (tree, version) = setup::linux(args.kdir.as_deref())?;
    Ok(Sources {
        busybox,
        tree,
        version,
    })
}

/// All that needs a kernel. What cannot go on is a failed test; the rest is tested all the same.
fn machines(tally: &mut Tally, args: &Args, sources: &Sources) {
    let Sources {
        busybox,
        tree,
        version,
    } = sources;
    let start = Instant::now();
    let kernel = match kernel::build(tree, version, args.hyp) {
        Ok(kernel) => kernel,
        // Without a kernel nothing is left to test, and that must not pass for success.
        Err(why) => return tally.one("kernel/build", start, &Err(why)),
    };
    tally.0 += Counts::PASSED;
    let all = args.suites.is_empty();
    if args.hyp == Hyp::Rust {
        ui::headline("the EL2 object");
        let checks = check::run(&kernel).map(|outcomes| {
            let (passed, failed) = check::report(&outcomes);
            Counts::of(passed, failed)
        });
        tally.part("object/checks", start, checks);
        if all {
            tally.0 += configs::quick(tree, version);
        }
    }

    ui::headline(&format!("QEMU, Linux {version} with the {} EL2", args.hyp.name()));
    // The small suites of the kernel's own tests need its programs.
    if all || args.suites.iter().any(|s| s.starts_with("selftests")) {
        let since = Instant::now();
        if let Err(why) = selftests::build(tree) {
            tally.one("selftests/build", since, &Err(why));
        }
    }
    let since = Instant::now();
    tally.part(
        "qemu/runner",
        since,
        qemu::suites(&kernel, busybox, &models(args), args),
    );
    // Who names suites wants those alone; who tests the C object has nothing to compare it with.
    if args.full && all && args.hyp == Hyp::Rust {
        tally.0 += configs::full(args, tree, version, busybox);
        let since = Instant::now();
        // The documentation is for those to write who ask for it.
        let table = paths::root().join("target/selftests.rst");
        let held = selftests::compare(args, tree, version, busybox, &table);
        tally.part("selftests/compare", since, held);
    }
}

/// The CPU models that the QEMU tests run on.
fn models(args: &Args) -> Vec<String> {
    if args.cpus.is_empty() {
        CPUS.map(String::from).to_vec()
    } else {
        args.cpus.clone()
    }
}

fn close(tally: &Tally, start: Instant) -> bool {
    ui::say(&format!("\nin {}", ui::seconds(start.elapsed())));
    tally.0.close()
}

/// Directories of the workspaces of this repository: the root, and those below qemu-tests that stand alone.
fn workspaces() -> Result<Vec<PathBuf>, String> {
    let mut dirs = vec![paths::root()];
    let tests = paths::root().join("qemu-tests");
    let mut own: Vec<PathBuf> = std::fs::read_dir(&tests)
        .map_err(|e| format!("{}: {e}", tests.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|dir| {
            std::fs::read_to_string(dir.join("Cargo.toml")).is_ok_and(|t| t.contains("[workspace]"))
        })
        .collect();
    own.sort();
    dirs.extend(own);
    Ok(dirs)
}

fn label(dir: &Path) -> String {
    match dir.strip_prefix(paths::root()) {
        Ok(path) if path.as_os_str().is_empty() => "workspace".to_owned(),
        Ok(path) => path.display().to_string(),
        Err(_) => dir.display().to_string(),
    }
}

/// Cargo as the scripts use it, free of what the cargo above us has set.
pub fn cargo(dir: &Path, words: &[&str]) -> Command {
    let mut cargo = cmd("cargo", words);
    cargo
        .current_dir(dir)
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("EL2_LAYOUT")
        .env_remove("PKVM_PAGE_SHIFT");
    cargo
}

fn timed(tally: &mut Tally, name: &str, command: Command) {
    let start = Instant::now();
    let result = sh::logged_with(&name.replace('/', "-"), command, |_| {});
    tally.one(name, start, &result);
}

fn clippy(tally: &mut Tally) -> Result<(), String> {
    for dir in workspaces()? {
        let mut words = vec!["clippy", "--quiet", "--all-targets"];
        if dir != paths::root() {
            words = vec!["clippy", "--quiet", "--release", "--target", target_of(&dir)];
            words.push(if target_of(&dir) == LINUX_TARGET {
                "-Zbuild-std=std,panic_abort"
            } else {
                "-Zbuild-std=core"
            });
        }
        words.extend(["--", "-Dwarnings"]);
        let mut command = cargo(&dir, &words);
        if dir == paths::root() {
            command.env_remove("RUSTC_BOOTSTRAP");
        } else {
            command.env("CARGO_TARGET_DIR", paths::root().join("qemu-tests/target"));
        }
        timed(tally, &format!("clippy/{}", label(&dir)), command);
    }
    let mut command = cargo(
        &paths::root(),
        &[
            "clippy",
            "--quiet",
            "--release",
            "-p",
            "pkvm-el2",
            "--target",
            EL2_TARGET,
            "-Zbuild-std=core",
            "--",
            "-Dwarnings",
        ],
    );
    command.env("CARGO_TARGET_DIR", paths::root().join("target/el2"));
    timed(tally, "clippy/hyp/el2", command);
    Ok(())
}

/// Guests and the monitor run on the bare machine, the rest under Linux.
fn target_of(dir: &Path) -> &'static str {
    if dir.ends_with("guest") || dir.ends_with("monitor") {
        EL2_TARGET
    } else {
        LINUX_TARGET
    }
}

/// Crates with tests to which it matters how large a page is: that of the kernel is a constant of theirs.
const PAGED: [&str; 4] = ["pkvm-types", "pkvm-pool", "pkvm-core", "pkvm-arch"];

fn unit_tests(tally: &mut Tally, args: &Args) {
    let mut command = cargo(&paths::root(), &["test", "--no-fail-fast"]);
    command.env_remove("RUSTC_BOOTSTRAP");
    run_unit_tests(tally, command, "unit");
    if !args.suites.is_empty() {
        // Who asks for a suite wants that, and soon.
        return;
    }
    for (name, shift) in [("16k", "14"), ("64k", "16")] {
        let mut command = cargo(&paths::root(), &["test", "--no-fail-fast"]);
        if !args.full {
            command.arg("--lib");
        }
        for krate in PAGED {
            command.args(["-p", krate]);
        }
        // Beside the usual build, which would otherwise be made anew after each of these.
        command
            .env_remove("RUSTC_BOOTSTRAP")
            .env("PKVM_PAGE_SHIFT", shift)
            .env("CARGO_TARGET_DIR", paths::root().join("target/pages"));
        run_unit_tests(tally, command, &format!("unit-{name}"));
    }
}

fn run_unit_tests(tally: &mut Tally, command: Command, group: &str) {
    let start = Instant::now();
    let mut counts = Counts::default();
    let mut suite = String::new();
    let ended = sh::logged_with(&format!("{group}-tests"), command, |line| {
        let text = line.trim();
        if let Some(name) = text
            .strip_prefix("Running ")
            .or_else(|| text.strip_prefix("Doc-tests "))
        {
            name.clone_into(&mut suite);
        } else if let Some((passed, failed)) = result_line(text) {
            counts += Counts::of(passed, failed);
            if passed + failed > 0 {
                let word = if failed == 0 { "ok   " } else { "FAIL " };
                let name = suite.split(" (").last().unwrap_or_default().trim_end_matches(')');
                let name = Path::new(name)
                    .file_name()
                    .map_or(name.into(), |n| n.to_string_lossy());
                // The part after the dash is a hash.
                let name = name.rsplit_once('-').map_or(&*name, |(stem, _)| stem);
                ui::say(&format!(
                    "{word} {group}/{name} - {passed} passed, {failed} failed"
                ));
            }
        } else if text.ends_with("... FAILED") {
            ui::say(&format!("FAIL  {text}"));
        }
    });
    tally.0 += counts;
    if ended.is_err() && counts.failed == 0 {
        tally.one(&format!("{group}/build"), start, &ended);
    }
}

/// `test result: ok. 3 passed; 0 failed; ...`
fn result_line(line: &str) -> Option<(u32, u32)> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut numbers = counts
        .split("; ")
        .map(|part| part.split(' ').next().unwrap_or_default().parse());
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::result_line;

    #[test]
    fn results_are_read() {
        let line = "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(result_line(line), Some((3, 1)));
        assert_eq!(result_line("test a ... ok"), None);
    }
}
