// SPDX-License-Identifier: GPL-2.0-only
//! `scripts/run`: from nothing to a protected guest under the Rust EL2, told step by step.

use crate::args::Args;
use crate::kernel::{self, Kernel};
use crate::qemu;
use crate::setup;
use crate::ui;
use std::time::Instant;

/// The suite of the runner that holds the main job.
const SUITE: &str = "tour";
/// What a test of the suite shows, in the words of a summary.
const POINTS: &[(&str, &str)] = &[
    (
        "tour/protected-mode",
        "the host runs below EL2, and every CPU of it is protected",
    ),
    (
        "tour/linux",
        "an unmodified Linux runs protected: vCPUs, console, shell, and a disk through shared memory",
    ),
    (
        "tour/memory",
        "what a guest shares the host sees, what it keeps the host does not get, and all comes back zeroed",
    ),
    ("tour/beside", "a normal VM runs beside a protected one"),
];
/// What of the host kernel's log belongs to the story.
const HOST_WORDS: &[&str] = &[
    "Linux version",
    "Machine model",
    "EL2 object",
    "Brought up",
    "CPU features: detected: Protected KVM",
    "HYP mode",
    "VHE mode initialized",
    "mode initialized successfully",
    "IPA Size Limit",
    "kvm [1]: Hyp",
    "nVHE hyp",
    "Kernel panic",
    "reboot: Power down",
];

/// Runs the demonstration; true when all of it held.
///
/// # Errors
/// One line, when it could not even begin.
pub fn run(args: &Args) -> Result<bool, String> {
    let start = Instant::now();
    ui::headline("what is needed");
    setup::programs(args.gdb)?;
    qemu::check_models(&args.cpus)?;
    setup::rust_src()?;
    let busybox = setup::busybox()?;
    let (tree, version) = setup::linux(args.kdir.as_deref())?;
    let qemu = setup::qemu_version()
        .map(|v| v.map(|n| n.to_string()).join("."))
        .unwrap_or_default();
    ui::say(&format!("  Linux {version} in {}, QEMU {qemu}", tree.display()));

    ui::headline("build");
    let kernel = kernel::build(&tree, &version, args.hyp)?;
    qemu::build_runner()?;
    let cpu = args.cpus.first().map_or("max", String::as_str);
    let mut command = qemu::runner(&kernel, &busybox);
    command.args(["--cpu", cpu, "--smp", &args.smp.to_string()]);
    if args.gdb {
        explain_gdb(&kernel);
        command.arg("--gdb");
    }
    if args.shell {
        ui::headline(&format!(
            "a shell in the host, -cpu {cpu}, {} CPUs (leave it with: poweroff -f)",
            args.smp
        ));
        let status = command
            .arg("--shell")
            .status()
            .map_err(|e| format!("the test runner: {e}"))?;
        return Ok(status.success());
    }
    ui::step("build the VMM and the test programs", |now| {
        let mut build = qemu::runner(&kernel, &busybox);
        build.args(["--suite", SUITE, "--build-only"]);
        crate::sh::logged("test-programs", build, now)
    })?;

    ui::headline(&format!(
        "boot: QEMU -cpu {cpu}, {} CPUs, Linux {version} with the {} EL2",
        args.smp,
        args.hyp.name()
    ));
    let mut story = Story::default();
    let success = qemu::lines(
        {
            command.args(["--suite", SUITE, "--stream"]);
            command
        },
        |line| {
            for shown in story.line(line) {
                ui::say(&shown);
            }
        },
    )?;
    ui::headline("summary");
    for line in &story.results {
        ui::say(&format!("  {line}"));
    }
    let held = success && !story.results.is_empty() && story.failed == 0;
    ui::say(&format!(
        "\n{} Linux {version}, {} EL2, -cpu {cpu}, {} CPUs, in {}",
        if held {
            "All of it held:"
        } else {
            "NOT all of it held:"
        },
        args.hyp.name(),
        args.smp,
        ui::seconds(start.elapsed())
    ));
    if let Some(name) = &story.object {
        ui::say(&format!("The EL2 that ran: {name}"));
    }
    Ok(held)
}

/// Turns the runner's stream into lines for people.
#[derive(Default)]
struct Story {
    results: Vec<String>,
    failed: u32,
    object: Option<String>,
}

impl Story {
    fn line(&mut self, line: &str) -> Vec<String> {
        if let Some(console) = line.strip_prefix("  | ") {
            return self.console(console).into_iter().collect();
        }
        // The runner's own lines: a test's result, and what belongs to a failure.
        for word in ["ok ", "FAIL ", "skip "] {
            if line.starts_with(word) {
                self.failed += u32::from(word == "FAIL ");
                self.results.push(summary(word, line));
                return vec![format!("{line}\n")];
            }
        }
        if line.ends_with(" failed") && line.contains(" passed, ") {
            return Vec::new();
        }
        vec![line.to_owned()]
    }

    fn console(&mut self, console: &str) -> Option<String> {
        let text = strip_stamp(console);
        let body = text.trim_start();
        if let Some(remark) = body.strip_prefix("# ") {
            // The test of the mode repeats the host's own log.
            if ["kvm", "CPU"].iter().any(|word| remark.starts_with(word)) {
                return None;
            }
            // A guest's console comes as "name| words", the test's own words without.
            let spoken = remark.split_once("| ").filter(|(name, _)| !name.contains(' '));
            return Some(match spoken {
                Some((name, words)) => format!("  {name:>8} | {words}"),
                None => format!("      test : {remark}"),
            });
        }
        let nested = body.len() < text.len();
        if nested && let Some(name) = body.strip_prefix("ok ") {
            return Some(format!("        ok : {}", without_number(name)));
        }
        if nested && let Some(name) = body.strip_prefix("not ok ") {
            return Some(format!("      FAIL : {}", without_number(name)));
        }
        if let Some((_, object)) = body.split_once("EL2 object: ") {
            self.object = Some(object.to_owned());
        }
        HOST_WORDS
            .iter()
            .any(|word| body.contains(word))
            .then(|| format!("      host | {body}"))
    }
}

/// A runner's line (`ok CPU SUITE/TEST TIME`) as a point of the summary.
fn summary(word: &str, line: &str) -> String {
    let point = POINTS
        .iter()
        .find(|(test, _)| line.split_whitespace().any(|w| w == *test));
    match point {
        Some((_, text)) if word == "ok " => {
            let took = line.rsplit_once("  ").map_or("", |(_, took)| took.trim());
            format!("ok    {text} ({took})")
        }
        Some((_, text)) => format!("{word:<5} {text}: {line}"),
        None => line.to_owned(),
    }
}

fn without_number(text: &str) -> &str {
    text.split_once(' ').map_or(text, |(_, name)| name)
}

/// Takes the kernel's time stamp off a line of its console.
fn strip_stamp(line: &str) -> &str {
    line.strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
        .filter(|(stamp, _)| stamp.trim().parse::<f64>().is_ok())
        .map_or(line, |(_, text)| text)
}

fn explain_gdb(kernel: &Kernel) {
    let symbols = kernel.dir.join("vmlinux.unstripped");
    ui::headline("debugger");
    ui::say(&format!(
        "\
  QEMU waits on port 1234. In another terminal:

    gdb-multiarch -ex 'set architecture aarch64' -ex 'target remote :1234' {symbols}

  These are EL1's addresses. EL2 runs the same image at another: once the host has booted, stop it (Ctrl-C) and

    set language c
    set $off = $VBAR_EL2 - (unsigned long)&__kvm_nvhe___kvm_hyp_host_vector
    add-symbol-file {symbols} -o $off

  Rust functions then have Rust names (break pkvm_el2::...), assembler and data have the prefix __kvm_nvhe_.
  The offset is the same at every boot of the same CPU model (0x87fff80200000 on max, 0xffff80200000 on cortex-a57),
  so it can be given before EL2 exists to debug how EL2 starts.
",
        symbols = symbols.display()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_becomes_a_story() {
        let mut story = Story::default();
        let mut last = |line: &str| story.line(line).join("\n");
        assert_eq!(
            last("  | [    0.1] kvm: EL2 object: pkvm-rs 0.1.0"),
            "      host | kvm: EL2 object: pkvm-rs 0.1.0"
        );
        assert_eq!(last("  | [    1.0]     # pvm| GUEST up"), "       pvm | GUEST up");
        assert_eq!(
            last("  | [    1.0]     # [  0.10 s] it starts"),
            "      test : [  0.10 s] it starts"
        );
        assert_eq!(last("  | [    1.0]     ok 3 pvm runs"), "        ok : pvm runs");
        assert_eq!(last("  | [    1.0] random: crng init done"), "");
        assert_eq!(last("1 passed, 0 failed"), "");
        assert!(last("FAIL  max tour/linux").starts_with("FAIL"));
        assert_eq!(story.failed, 1);
        assert_eq!(story.object.as_deref(), Some("pkvm-rs 0.1.0"));
    }
}
