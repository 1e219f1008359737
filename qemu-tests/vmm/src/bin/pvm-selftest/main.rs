// SPDX-License-Identifier: GPL-2.0-only
//! Tests of protected VMs in the manner of the kernel's KVM selftests: each makes its VMs by ioctls, runs the vCPUs
//! itself and looks at what the kernel and the hypervisor answer. Results are KTAP subtests.

mod access;
mod caps;
mod events;
mod isolation;
mod life;
mod regs;
mod routines;
mod sharing;
mod slots;

use pkvm_vmm::args::Args;
use pkvm_vmm::report::Report;
use pkvm_vmm::touch::{SEGV_ACCERR, Segv};
use pkvm_vmm::{Error, Result};
use std::process::ExitCode;

type Test = fn(&mut Report) -> Result<()>;

/// Name, what it is about, and the test.
const TESTS: &[(&str, &str, Test)] = &[
    (
        "sharing",
        "what MEM_SHARE and MEM_UNSHARE do to guest and host",
        sharing::sharing,
    ),
    (
        "sharing-race",
        "two vCPUs share one page under the host's eyes",
        sharing::race,
    ),
    (
        "memslots",
        "slots moved, deleted, read-only or logged",
        slots::memslots,
    ),
    ("memlock", "RLIMIT_MEMLOCK", slots::memlock),
    ("backing", "which memory a guest can have", slots::backing),
    (
        "remap",
        "a VMM that maps, unmaps and moves its guest's memory",
        slots::remap,
    ),
    ("two-owners", "one page for two VMs", slots::two_owners),
    (
        "poison",
        "pages that the host's kernel takes from a guest",
        access::poison,
    ),
    (
        "access",
        "every way of user space to a guest's page",
        access::access,
    ),
    ("sysregs", "system registers, one by one", regs::sysregs),
    ("one-reg", "registers from the VMM", regs::one_reg),
    ("caps", "capabilities, ioctls and vCPU features", caps::caps),
    (
        "psci",
        "vCPUs brought up and down, and the ends of a VM",
        events::psci_calls,
    ),
    ("interrupts", "SGIs, PPIs, SPIs", events::interrupts),
    ("timers", "counters and timers", events::timers),
    ("serror", "virtual SErrors", events::serror),
    (
        "fp-neighbours",
        "FP registers of several VMs and the host on one CPU",
        isolation::fp,
    ),
    (
        "pauth",
        "pointer authentication keys of several VMs and the host on one CPU",
        isolation::pauth,
    ),
    (
        "siblings",
        "translations of two vCPUs with one ASID on one CPU",
        isolation::siblings,
    ),
    (
        "migration",
        "vCPUs that change their CPU before each run",
        isolation::migration,
    ),
    ("aarch32", "a guest that drops to AArch32", isolation::aarch32),
    (
        "debug",
        "single-step and breakpoints of the VMM",
        isolation::debug,
    ),
    ("reuse", "one VM after another on the same memory", life::reuse),
    ("teardown", "descriptors closed while vCPUs run", life::teardown),
    ("fork-exec", "a VMM that forks and executes", life::fork_exec),
    ("killed", "kill -9 in each phase of a VMM", life::killed),
];

fn main() -> ExitCode {
    let mut args = Args::of_process();
    let name = args.word();
    if name.as_deref() == Some("victim") {
        // A VMM that another test kills.
        return match life::victim(args.word().as_deref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("pvm-selftest: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let Some((_, _, test)) = name
        .as_deref()
        .and_then(|name| TESTS.iter().find(|(known, _, _)| *known == name))
    else {
        println!("usage: pvm-selftest TEST\n");
        for (name, about, _) in TESTS {
            println!("  {name:<18} {about}");
        }
        println!(
            "\nExit status: 0 all passed, 1 something failed, 2 a wrong option, 4 this machine cannot run it."
        );
        return ExitCode::from(2);
    };
    if let Err(error) = std::fs::metadata("/dev/kvm") {
        println!("# /dev/kvm: {error}");
        return ExitCode::from(4);
    }
    let mut report = Report::new();
    if let Err(error) = test(&mut report) {
        report.result("runs to its end", Err(error.to_string()));
    }
    if report.finish() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Bytes of a page.
fn page_size() -> usize {
    rustix::param::page_size()
}

/// Keeps this thread on one CPU of the host.
fn on_cpu(cpu: usize) -> std::result::Result<(), i32> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).map_err(rustix::io::Errno::raw_os_error)
}

/// SIGSEGV with the code that the kernel gives for stage 2, or what came instead.
fn refused<T: std::fmt::Debug>(touched: std::result::Result<T, Segv>) -> std::result::Result<(), String> {
    match touched {
        Err(segv) if segv.code == SEGV_ACCERR => Ok(()),
        other => Err(format!("{other:x?} instead of SIGSEGV with SEGV_ACCERR")),
    }
}

/// A command that must work for the test to go on.
fn must<T>(what: &str, result: std::result::Result<T, pkvm_vmm::bench::Stop>) -> Result<T> {
    result.map_err(|stop| Error::Setup(format!("{what}: {stop:x?}")))
}

/// An ioctl or system call that must work for the test to go on.
fn able<T>(what: &str, result: std::result::Result<T, i32>) -> Result<T> {
    result.map_err(|number| Error::setup(what, std::io::Error::from_raw_os_error(number)))
}
