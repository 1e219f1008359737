// SPDX-License-Identifier: GPL-2.0-only
//! The tests of protected VMs (`vmm/src/bin/pvm-selftest`): what each is about, what of it the C object does not do, and
//! the table of both objects in the documentation.

use crate::args::Hyp;
use crate::ktap::{Outcome, Status};
use crate::results::{self, Row};
use std::fmt::Write as _;
use std::path::Path;

/// A subtest that fails on the C object.
#[derive(Debug)]
pub struct Deviation {
    /// The subtest's name.
    pub subtest: &'static str,
    /// On these CPU models; empty: on all.
    pub cpus: &'static [&'static str],
}

/// One test.
#[derive(Debug)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// Seconds before init ends it.
    pub limit: u32,
    /// How init calls it.
    pub argv: &'static [&'static str],
    /// What it tries, for the table.
    pub about: &'static str,
    /// What fails on the C object, recorded from runs; there anything else fails the test.
    pub c_fails: &'static [Deviation],
    /// Words of the line with which the C object's machine ends, where it does. The test has a boot of its own then.
    pub c_ends: Option<&'static str>,
}

macro_rules! case {
    ($name:literal, $limit:literal, $about:literal $(, fails: [$(($subtest:literal, $cpus:expr)),* $(,)?])? $(, ends: $ends:literal)?) => {
        Case {
            name: $name,
            limit: $limit,
            argv: &["/bin/pvm-selftest", $name],
            about: $about,
            c_fails: &[$($(Deviation { subtest: $subtest, cpus: $cpus }),*)?],
            c_ends: case!(@ends $($ends)?),
        }
    };
    (@ends) => { None };
    (@ends $ends:literal) => { Some($ends) };
}

/// The tests, in the order in which they run.
pub const CASES: &[Case] = &[
    case!(
        "sharing",
        150,
        "MEM_SHARE and MEM_UNSHARE: twice, of private, untouched, absent and replaced pages, with every argument wrong"
    ),
    case!(
        "sharing-race",
        150,
        "two vCPUs share and take back one page while the host reads it"
    ),
    case!(
        "memslots",
        150,
        "slots read-only, with a dirty log, moved, deleted, resized, before and after the first run, beside a normal VM's"
    ),
    case!(
        "memlock",
        150,
        "RLIMIT_MEMLOCK without CAP_IPC_LOCK: each page counts, the limit holds, a raised one lets the guest go on"
    ),
    case!(
        "backing",
        150,
        "anonymous memory, memfd, tmpfs, a page-cache file, read-only memory and none behind a slot"
    ),
    case!(
        "remap",
        150,
        "MAP_FIXED, munmap, mremap, MADV_DONTNEED and other advice on memory that the guest has"
    ),
    case!(
        "two-owners",
        150,
        "one page in two slots of a pVM, in two pVMs, in a pVM and a normal VM, and after the end of each"
    ),
    case!(
        "poison",
        150,
        "the host's kernel reads and writes private pages: zeros, EFAULT for the guest for ever, all else unharmed"
    ),
    case!(
        "access",
        150,
        "system calls, process_vm_readv, ptrace, vmsplice, io_uring, O_DIRECT at a private page; read, write, holes and cuts of its file"
    ),
    case!(
        "sysregs",
        150,
        "every register that EL2 traps of a pVM, read and written, and its ID registers beside a normal VM's"
    ),
    case!(
        "one-reg",
        150,
        "KVM_GET_ONE_REG and KVM_SET_ONE_REG before and after the first run"
    ),
    case!(
        "caps",
        150,
        "the list of capabilities and ioctls, and vCPU features that a pVM does not get"
    ),
    case!(
        "psci",
        150,
        "CPU_ON with its context and entry state, AFFINITY_INFO, CPU_OFF, an entry without memory, SYSTEM_OFF and RESET"
    ),
    case!(
        "interrupts",
        150,
        "SGIs to oneself, another and both, more than there are list registers, PPIs, SPIs by KVM_IRQ_LINE and irqfd"
    ),
    case!(
        "timers",
        150,
        "the counters are the host's; both timers fire, at their time; WFI"
    ),
    case!(
        "serror",
        150,
        "a virtual SError comes once and is then no longer pending; the same of a normal VM",
        fails: [
            ("a pVM: the guest takes it once", &[]),
            ("a pVM: then it is no longer pending", &[]),
            ("a pVM: and comes no more", &[]),
            ("a normal VM: the guest takes it once", &[]),
            ("a normal VM: then it is no longer pending", &[]),
            ("a normal VM: and comes no more", &[]),
        ]
    ),
    case!(
        "fp-neighbours",
        150,
        "FP registers of two pVMs and a normal VM, FP and SVE registers of host processes, on one CPU"
    ),
    case!(
        "pauth",
        150,
        "pointer authentication keys of two pVMs, a normal VM and the host on one CPU"
    ),
    case!(
        "siblings",
        150,
        "two vCPUs use one ASID for different tables, alternating on one CPU; QEMU's TLB knows no VMIDs and is emptied at each \
         change of them, so that on it both objects pass"
    ),
    case!(
        "migration",
        150,
        "two vCPUs run on another CPU of the host each time: memory, registers, sharing"
    ),
    case!(
        "aarch32",
        150,
        "a guest that drops to AArch32 EL0 runs no more, even after KVM_ARM_VCPU_INIT",
        fails: [
            ("a vCPU that was seen in AArch32 state runs no more", &[]),
            ("nor after KVM_ARM_VCPU_INIT", &[]),
        ]
    ),
    case!(
        "debug",
        150,
        "KVM_SET_GUEST_DEBUG: single-step and a breakpoint work for the VMM and do not show in the guest's registers"
    ),
    case!(
        "reuse",
        150,
        "one pVM after another on the same memory finds nothing"
    ),
    case!(
        "teardown",
        150,
        "descriptors replaced and memory unmapped while vCPUs store to it"
    ),
    case!(
        "fork-exec",
        150,
        "KVM_RUN in a forked child, the end of a VM beside the child, exec of the VMM"
    ),
    case!(
        "killed",
        400,
        "SIGKILL of the VMM in each phase, from KVM_CREATE_VM to the end"
    ),
];

/// The case behind a test, if its suite holds these.
pub fn find(suite: &str, test: &str) -> Option<&'static Case> {
    if suite != "pvm" {
        return None;
    }
    CASES.iter().find(|case| case.name == test)
}

/// What a test that ended came to.
pub struct Verdict {
    /// Whether it passes for the object under test.
    pub good: bool,
    /// What it did, in one line.
    pub seen: String,
}

/// The names of the subtests that must fail on an object.
fn known<'a>(case: &'a Case, hyp: Hyp, cpu: &'a str) -> impl Iterator<Item = &'a str> {
    case.c_fails
        .iter()
        .filter(move |d| hyp == Hyp::C && (d.cpus.is_empty() || d.cpus.contains(&cpu)))
        .map(|d| d.subtest)
}

/// Judges a test that ended, and keeps what it did.
pub fn judge(dir: &Path, hyp: Hyp, cpu: &str, case: &Case, outcome: &Outcome) -> Verdict {
    let failed: Vec<&str> = outcome
        .children
        .iter()
        .filter(|child| child.status == Status::Failed)
        .map(|child| child.name.as_str())
        .collect();
    let count = outcome.children.len();
    let seen = match (outcome.status, failed.as_slice()) {
        (Status::Passed, _) => format!("{count} checks pass"),
        (Status::Skipped, _) => format!("skipped: {}", outcome.note),
        (Status::Failed, []) => outcome.diagnostics.last().cloned().unwrap_or_default(),
        (Status::Failed, names) => format!("{} of {count} checks fail: {}", names.len(), names.join("; ")),
    };
    let met = outcome.status == Status::Passed;
    record(dir, hyp, cpu, case, met, &seen);
    let wanted: Vec<&str> = known(case, hyp, cpu).collect();
    let as_recorded = !wanted.is_empty() && wanted == failed;
    Verdict {
        good: case_ends(case, hyp).is_none() && if wanted.is_empty() { met } else { as_recorded },
        seen: if as_recorded {
            format!("{seen} (as recorded of the C object)")
        } else {
            seen
        },
    }
}

/// Judges a test whose machine ended under it, and keeps how.
pub fn judge_end(dir: &Path, hyp: Hyp, cpu: &str, case: &Case, words: &str) -> Verdict {
    record(dir, hyp, cpu, case, false, words);
    let good = case_ends(case, hyp).is_some_and(|ends| ends.split('|').any(|end| words.contains(end)));
    Verdict {
        good,
        seen: if good {
            format!("{words} (as recorded of the C object)")
        } else {
            words.to_owned()
        },
    }
}

/// How the machine must end.
pub fn case_ends(case: &Case, hyp: Hyp) -> Option<&'static str> {
    case.c_ends.filter(|_| hyp == Hyp::C)
}

fn record(dir: &Path, hyp: Hyp, cpu: &str, case: &Case, met: bool, seen: &str) {
    let row = Row {
        name: case.name.to_owned(),
        cpu: cpu.to_owned(),
        met,
        seen: seen.to_owned(),
    };
    results::record(&dir.join(format!("pvm-{}.tsv", hyp.word())), row);
}

/// Writes the table of the documentation from the results of runs.
///
/// # Errors
/// The file cannot be written, or the C object's results are missing.
pub fn write_table(out: &Path, c: Option<&Path>, rust: Option<&Path>) -> Result<(), String> {
    let c = results::rows(c.ok_or("--pvm-table needs --c-results")?);
    let rust = rust.map(results::rows).unwrap_or_default();
    if c.is_empty() {
        return Err("the file of the C object's results holds none".to_owned());
    }
    let mut text = String::from(HEAD);
    for case in CASES {
        let _ = writeln!(text, "   * - {}", case.name);
        let _ = writeln!(text, "     - {}", case.about);
        results::cell(&mut text, &c, case.name);
        results::cell(&mut text, &rust, case.name);
    }
    std::fs::write(out, text).map_err(|e| format!("{}: {e}", out.display()))
}

const HEAD: &str = "\
.. SPDX-License-Identifier: GPL-2.0-only

======================
Tests of protected VMs
======================

..
   This file is written by ``pkvm-runner --pvm-table``; do not edit it.

The kernel's KVM selftests make no protected VM, so this project has tests of its own in their manner
(``pkvm-runner --suite pvm``): a program that makes VMs by ioctls, runs their vCPUs itself and looks at what the kernel,
the hypervisor and the guest say. Each ran first on the kernel's C object. Where that fails a check, the runner knows
the check by name and expects it to fail there, and nothing else.

.. list-table::
   :header-rows: 1
   :widths: 12 34 27 27

   * - Test
     - What it tries
     - C object
     - Rust object
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_count_on_the_c_object_alone() {
        let case = case!("x", 1, "x", fails: [("a", &[]), ("b", &["max"])]);
        let names = |hyp, cpu| known(&case, hyp, cpu).collect::<Vec<_>>();
        assert_eq!(names(Hyp::C, "max"), ["a", "b"]);
        assert_eq!(names(Hyp::C, "cortex-a57"), ["a"]);
        assert!(names(Hyp::Rust, "max").is_empty());
        assert_eq!(case.argv, ["/bin/pvm-selftest", "x"]);
    }
}
