// SPDX-License-Identifier: GPL-2.0-only
//! The command line.

use crate::selftests;
use crate::suites::Mode;
use std::path::PathBuf;
use std::time::Duration;

/// Shown by `--help` and after a mistake.
pub const USAGE: &str = "\
usage: pkvm-runner --kernel IMAGE [options]      boot suites of tests, one result line per test
       pkvm-runner --list                        name the suites and their tests; with --suite, --test, --cpu and --full
                                                 those that they leave, and it fails where they leave none
       pkvm-runner --judgements OUT.rst --c-results FILE [--rust-results FILE]
       pkvm-runner --pvm-table OUT.rst --c-results FILE [--rust-results FILE]
       pkvm-runner --selftests-table OUT.rst     compare what the log directory holds of the suite selftests-all;
                                                 --cpu and --mode say which machines decide the outcome (all)

  --kernel IMAGE     the kernel to boot, arch/arm64/boot/Image of a build
  --kbuild DIR       that build's directory, for the test module (default: taken from IMAGE)
  --guest IMAGE      the kernel of Linux guests (default: that of the host)
  --hyp c|rust       which EL2 the kernel holds: the C object's known deviations are not failures (default rust)
  --suite NAME       only this suite; may be given more than once
  --full             the slow suites and the further variations too
  --test PATTERN     only tests whose SUITE/NAME holds PATTERN; may be given more than once
  --cpu MODEL        QEMU's CPU model: max, neoverse-n2, cortex-a57, ... (default max); may be given more than once
  --mode MODE        kvm-arm.mode of the host in place of the suite's: protected, nvhe
  --machine OPTIONS  more options of QEMU's machine for all suites, as mte=on
  --smp N            CPUs of the machine (default 2)
  --mem MIB          its memory (default 1024)
  --timeout S        ends a boot after S seconds, whatever its tests ask for
  --log-dir DIR      where consoles and results are kept (default target/qemu-logs)
  --stream           show the consoles while they run
  --shell            no tests: a shell in the host, on this terminal
  --gdb              the machine waits for a debugger on port 1234, without a time limit
  --build-only       build the programs that the suites need and stop
  --no-build         use the test programs as they were last built
  --bin-dir DIR      take the test programs from DIR and build nothing

The environment's PKVM_BUSYBOX names a static arm64 busybox, which Linux guests and --shell need, and
PKVM_SELFTESTS the directory of the kernel's KVM selftests, which the suites of that name need.
";

/// Which object is behind the kernel's hypercalls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hyp {
    /// The kernel's own C object.
    C,
    /// This project's.
    Rust,
}

impl Hyp {
    /// The word for it on command lines and in file names.
    pub fn word(self) -> &'static str {
        match self {
            Self::C => "c",
            Self::Rust => "rust",
        }
    }
}

/// What the user asked for.
#[derive(Debug)]
pub struct Args {
    /// `--kernel`.
    pub kernel: Option<PathBuf>,
    /// `--kbuild`, or the build directory that holds the kernel image.
    pub kbuild: Option<PathBuf>,
    /// `--guest`.
    pub guest: Option<PathBuf>,
    /// `--hyp`.
    pub hyp: Hyp,
    /// `--full`.
    pub full: bool,
    /// `--suite`, in the order given.
    pub suites: Vec<String>,
    /// `--test`.
    pub tests: Vec<String>,
    /// `--cpu`, in the order given.
    pub cpus: Vec<String>,
    /// `--mode`.
    pub mode: Option<Mode>,
    /// `--machine`, separated by commas.
    pub machine: String,
    /// `--smp`.
    pub smp: Option<u32>,
    /// `--mem` in MiB.
    pub mem: u32,
    /// `--timeout`.
    pub timeout: Option<Duration>,
    /// `--log-dir`.
    pub log_dir: PathBuf,
    /// `--stream`.
    pub stream: bool,
    /// `--shell`.
    pub shell: bool,
    /// `--gdb`.
    pub gdb: bool,
    /// `--build-only`.
    pub build_only: bool,
    /// `--no-build`.
    pub no_build: bool,
    /// `--bin-dir`.
    pub bin_dir: Option<PathBuf>,
    /// `--list`.
    pub list: bool,
    /// `--judgements`.
    pub judgements: Option<PathBuf>,
    /// `--pvm-table`.
    pub pvm_table: Option<PathBuf>,
    /// `--selftests-table`.
    pub selftests_table: Option<PathBuf>,
    /// `--c-results`.
    pub c_results: Option<PathBuf>,
    /// `--rust-results`.
    pub rust_results: Option<PathBuf>,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            kernel: None,
            kbuild: None,
            guest: None,
            hyp: Hyp::Rust,
            full: false,
            suites: Vec::new(),
            tests: Vec::new(),
            cpus: Vec::new(),
            mode: None,
            machine: String::new(),
            smp: None,
            mem: 1024,
            timeout: None,
            log_dir: PathBuf::from("target/qemu-logs"),
            stream: false,
            shell: false,
            gdb: false,
            build_only: false,
            no_build: false,
            bin_dir: None,
            list: false,
            judgements: None,
            pvm_table: None,
            selftests_table: None,
            c_results: None,
            rust_results: None,
        }
    }
}

/// Reads the command line without the program's name. An error is one line for the user.
pub fn parse(words: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut args = Args::default();
    let mut words = words;
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--kernel" => args.kernel = Some(value()?.into()),
            "--kbuild" => args.kbuild = Some(value()?.into()),
            "--guest" => args.guest = Some(value()?.into()),
            "--hyp" => {
                args.hyp = match value()?.as_str() {
                    "c" => Hyp::C,
                    "rust" => Hyp::Rust,
                    other => return Err(format!("--hyp is c or rust, not {other}")),
                }
            }
            "--full" => args.full = true,
            "--suite" => args.suites.push(value()?),
            "--test" => args.tests.push(value()?),
            "--cpu" => args.cpus.push(value()?),
            "--mode" => {
                let text = value()?;
                args.mode = Some(
                    selftests::MODES
                        .into_iter()
                        .find(|m| m.name() == text)
                        .ok_or_else(|| format!("--mode is protected or nvhe, not {text}"))?,
                );
            }
            "--machine" => args.machine = crate::qemu::joined(&args.machine, &value()?),
            "--smp" => args.smp = Some(number(&word, &value()?)?),
            "--mem" => args.mem = number(&word, &value()?)?,
            "--timeout" => args.timeout = Some(Duration::from_secs(number(&word, &value()?)?.into())),
            "--log-dir" => args.log_dir = value()?.into(),
            "--bin-dir" => args.bin_dir = Some(value()?.into()),
            "--stream" => args.stream = true,
            "--shell" => args.shell = true,
            "--gdb" => args.gdb = true,
            "--build-only" => args.build_only = true,
            "--no-build" => args.no_build = true,
            "--list" => args.list = true,
            "--judgements" => args.judgements = Some(value()?.into()),
            "--pvm-table" => args.pvm_table = Some(value()?.into()),
            "--selftests-table" => args.selftests_table = Some(value()?.into()),
            "--c-results" => args.c_results = Some(value()?.into()),
            "--rust-results" => args.rust_results = Some(value()?.into()),
            other => return Err(format!("{other}: no such option")),
        }
    }
    // The table is of all machines where none is named, and so is the list.
    if args.cpus.is_empty() && args.selftests_table.is_none() && !args.list {
        args.cpus.push("max".to_owned());
    }
    if args.kbuild.is_none()
        && let Some(kernel) = &args.kernel
    {
        // DIR/arch/arm64/boot/Image was built in DIR.
        args.kbuild = kernel.ancestors().nth(4).map(PathBuf::from);
    }
    Ok(args)
}

fn number(option: &str, text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("{option}: {text} is not a positive number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Args, String> {
        parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn typical() {
        let a =
            of("--kernel /b/c/arch/arm64/boot/Image --cpu cortex-a57 --cpu max --smp 4 --timeout 9 --hyp c")
                .unwrap();
        assert_eq!(a.kbuild.unwrap(), PathBuf::from("/b/c"));
        assert_eq!(a.cpus, ["cortex-a57", "max"]);
        assert_eq!((a.smp, a.timeout), (Some(4), Some(Duration::from_secs(9))));
        assert_eq!(a.hyp, Hyp::C);
    }

    #[test]
    fn machine_options_add_up() {
        assert_eq!(
            of("--machine mte=on --machine iommu=none").unwrap().machine,
            "mte=on,iommu=none"
        );
        assert_eq!(of("").unwrap().machine, "");
    }

    #[test]
    fn a_table_is_of_all_machines_unless_some_are_named() {
        assert!(of("--selftests-table x").unwrap().cpus.is_empty());
        assert_eq!(of("--selftests-table x --cpu max").unwrap().cpus, ["max"]);
        assert_eq!(of("").unwrap().cpus, ["max"]);
    }

    #[test]
    fn mistakes_are_named() {
        assert!(of("--smp 0").unwrap_err().contains("--smp"));
        assert!(of("--suite").unwrap_err().contains("--suite"));
        assert!(of("--frob").unwrap_err().contains("--frob"));
        assert!(of("--hyp both").is_err());
    }
}
