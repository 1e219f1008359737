// SPDX-License-Identifier: GPL-2.0-only
//! The tests of virtual machines, run in the host. Each says what happens as it happens, in lines that a person can
//! follow, and gives its results as KTAP subtests.

mod fp;
mod guest;
mod keys;
mod linux;
mod memory;
mod power;
mod races;
mod stress;
mod traps;

use pkvm_vmm::args::Args;
use pkvm_vmm::report::Report;
use pkvm_vmm::{Error, Result, report, system};
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
usage: pvm-scenario TEST [options]

  linux        a protected Linux guest with 2 vCPUs, a console and a disk
  plain        a normal Linux guest, the same
  beside       a normal Linux guest next to a protected one
  memory       who can read a protected guest's memory: share, unshare, SIGSEGV, EFAULT, reclaim, zeroed at the end
  calls        the hypercalls of a protected guest, with good and bad arguments
  normal       the same memory operations on a normal VM, which keeps nothing from its host
  fork         the VMM forks while its guest runs
  lifecycles   many protected VMs one after another; no page may be lost
  fp           the FP and SVE registers of a guest and of a host process on the same CPU
  keys         the keys of pointer authentication of a guest and of the process that runs it
  traps        system registers and instructions that a protected guest may not use, or sees an own form of
  storm        a guest shares and unshares on two vCPUs while the host touches and takes its pages
  churn        the host discards, copies, ages, collapses and logs a normal guest's memory while it writes
  crowd        two protected Linux guests and a normal one at once
  kill         the VMM is killed while its guest runs
  hotplug      a CPU of the host goes off and on while a protected Linux guest runs
  idle         the host's CPUs lose their power whenever they are idle, while a protected Linux guest runs
  sleep        the host suspends to RAM while a protected Linux guest runs
  errors       what pvm-run says to wrong options

  --kernel FILE   the guests' kernel (default /guest/Image)
  --initrd FILE   their initramfs, with guest/init of this directory (default /guest/initrd)
  --run FILE      the program pvm-run (default: beside this one)
  --tmp DIR       where disks are made (default /tmp)
  --count N       how often: lifecycles (200), kill (4), hotplug (100), fork (4),
                  idle (100), sleep (2),
                  storm (500), churn (4)

Exit status: 0 all passed, 1 something failed, 2 a wrong option, 4 this machine cannot run it.
";

/// What tests need to know beside their subject.
pub struct Context {
    /// The guests' kernel.
    pub kernel: PathBuf,
    /// The guests' initramfs.
    pub initrd: PathBuf,
    /// The program pvm-run.
    pub run: PathBuf,
    /// Where files may be made.
    pub tmp: PathBuf,
    /// How often, where a test counts.
    pub count: Option<u64>,
}

type Test = fn(&Context, &mut Report) -> Result<()>;

const TESTS: &[(&str, Test)] = &[
    ("linux", linux::linux),
    ("plain", linux::plain),
    ("beside", linux::beside),
    ("memory", memory::memory),
    ("calls", memory::calls),
    ("normal", memory::normal),
    ("fork", stress::fork),
    ("lifecycles", stress::lifecycles),
    ("fp", fp::fp),
    ("keys", keys::keys),
    ("traps", traps::traps),
    ("storm", races::storm),
    ("churn", races::churn),
    ("crowd", linux::crowd),
    ("kill", stress::kill),
    ("hotplug", stress::hotplug),
    ("idle", power::idle),
    ("sleep", power::sleep),
    ("errors", linux::errors),
];

fn main() -> ExitCode {
    let mut args = Args::of_process();
    if args.flag("--help") || args.flag("-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let (test, context) = match options(args) {
        Ok(found) => found,
        Err(error) => {
            eprintln!("pvm-scenario: {error}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = std::fs::metadata("/dev/kvm") {
        println!("# /dev/kvm: {error}");
        return ExitCode::from(4);
    }
    let mut report = Report::new();
    if let Err(error) = test(&context, &mut report) {
        report.result("runs to its end", Err(error.to_string()));
    }
    if report.finish() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn options(mut args: Args) -> Result<(Test, Context)> {
    let name = args
        .word()
        .ok_or_else(|| Error::Setup("which test? (see --help)".into()))?;
    let (_, test) = TESTS
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| Error::Setup(format!("{name}: no such test (see --help)")))?;
    let beside = std::env::current_exe()
        .unwrap_or_default()
        .with_file_name("pvm-run");
    let context = Context {
        kernel: args
            .value("--kernel")?
            .unwrap_or_else(|| "/guest/Image".into())
            .into(),
        initrd: args
            .value("--initrd")?
            .unwrap_or_else(|| "/guest/initrd".into())
            .into(),
        run: args.value("--run")?.map_or(beside, Into::into),
        tmp: args.value("--tmp")?.unwrap_or_else(|| "/tmp".into()).into(),
        count: args.number("--count")?,
    };
    args.finish()?;
    Ok((*test, context))
}
