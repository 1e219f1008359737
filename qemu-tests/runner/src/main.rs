// SPDX-License-Identifier: GPL-2.0-only
//! Boots suites of tests in QEMU and prints one line per test.
//!
//! A boot is a kernel, an initramfs that this program writes, and a CPU model. Init in it runs the tests and reports in
//! KTAP on the console; a test without a result, because the machine died or stopped, failed, and its line says how the
//! machine ended. The exit status is 0 only if no test failed.
#![forbid(unsafe_code)]

mod args;
mod artifacts;
mod cpio;
mod fdt;
mod firmware;
mod judgements;
mod ktap;
mod monitor;
mod pvm;
mod qemu;
mod results;
mod selftests;
mod suites;
mod symbols;
mod verdicts;

use args::{Args, Hyp};
use artifacts::Artifacts;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use suites::{Mode, Suite, Test};
use symbols::Symbols;

fn main() -> ExitCode {
    let words = std::env::args().skip(1);
    if std::env::args().any(|w| w == "--help" || w == "-h") {
        print!("{}", args::USAGE);
        return ExitCode::SUCCESS;
    }
    let result = args::parse(words).and_then(|args| {
        if args.list {
            return list(&args).map(|()| true);
        }
        if let Some(out) = &args.judgements {
            return judgements::write_table(out, args.c_results.as_deref(), args.rust_results.as_deref())
                .map(|()| true);
        }
        if let Some(out) = &args.pvm_table {
            return pvm::write_table(out, args.c_results.as_deref(), args.rust_results.as_deref())
                .map(|()| true);
        }
        if let Some(out) = &args.selftests_table {
            return selftests::table::write(out, &args.log_dir, &args.cpus, args.mode).map(|judged| {
                judged.tell();
                judged.good()
            });
        }
        run(&args)
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("pkvm-runner: {error}");
            ExitCode::from(2)
        }
    }
}

/// Names the suites, or those that the options leave.
fn list(args: &Args) -> Result<(), String> {
    let named = !args.suites.is_empty() || !args.tests.is_empty();
    let suites = if named {
        let chosen = choose(args)?;
        runs(args, &chosen)?;
        chosen
    } else {
        suites::all()
    };
    for suite in suites {
        let full = if suite.needs.full { " (--full)" } else { "" };
        println!("{:<12} {}{full}", suite.name, suite.about);
        for test in &suite.tests {
            println!("  {}/{}", suite.name, test.name);
        }
    }
    Ok(())
}

/// Counts, for the last line.
#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
}

fn run(args: &Args) -> Result<bool, String> {
    let kernel = args.kernel.as_deref().ok_or("--kernel is missing (see --help)")?;
    if !kernel.is_file() {
        return Err(format!("{}: no such kernel image", kernel.display()));
    }
    std::fs::create_dir_all(&args.log_dir).map_err(|e| format!("{}: {e}", args.log_dir.display()))?;
    let chosen = if args.shell {
        vec![suites::shell()]
    } else {
        let chosen = choose(args)?;
        runs(args, &chosen)?;
        chosen
    };
    if chosen.iter().any(|suite| suite.name == selftests::ALL) {
        Artifacts::all_selftests()?;
    }
    let artifacts = match &args.bin_dir {
        Some(dir) => Artifacts::at(dir.clone()),
        None => Artifacts::own(
            !args.no_build,
            &artifacts::Programs {
                vmm: chosen.iter().any(|s| s.needs.vmm || s.needs.selftest),
                payload: chosen.iter().any(|s| s.needs.payload),
                monitor: chosen
                    .iter()
                    .any(|s| s.tests.iter().any(|t| firmware::of(s.name, t.name).is_some())),
            },
        )?,
    };
    let symbols = Symbols::read(args.kbuild.as_deref());
    if args.build_only {
        if chosen.iter().any(|s| s.needs.hostile) {
            artifacts.module(args.kbuild.as_deref().ok_or("--kbuild is missing")?)?;
        }
        return Ok(true);
    }
    let mut tally = Tally::default();
    for suite in &chosen {
        for cpu in &args.cpus {
            if !suite.runs_on(cpu) {
                continue;
            }
            let session = Session {
                args,
                kernel,
                suite,
                cpu,
                mode: args.mode.unwrap_or(suite.needs.mode),
                artifacts: &artifacts,
                symbols: &symbols,
            };
            if suite.name == selftests::ALL {
                session.survive(Session::compare, &mut tally);
                continue;
            }
            let (alone, together): (Vec<Test>, Vec<Test>) = suite
                .tests
                .iter()
                .cloned()
                .partition(|test| is_alone(suite, test, args.hyp));
            let boots = std::iter::once(together).chain(alone.into_iter().map(|t| vec![t]));
            for tests in boots {
                session.survive(|s, tally| s.boot(&tests, tally), &mut tally);
            }
        }
    }
    if tally.skipped > 0 {
        println!("{} skipped", tally.skipped);
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(tally.failed == 0)
}

/// Whether a test has a boot of its own, because it may end the machine.
fn is_alone(suite: &Suite, test: &Test, hyp: Hyp) -> bool {
    let ends = pvm::find(suite.name, test.name).and_then(|case| pvm::case_ends(case, hyp));
    suite.alone || ends.is_some()
}

/// The suites that the options name, with the tests that they leave.
fn choose(args: &Args) -> Result<Vec<Suite>, String> {
    let all = suites::all();
    if let Some(unknown) = args
        .suites
        .iter()
        .find(|name| !all.iter().any(|s| s.name == **name))
    {
        return Err(format!("no suite is called {unknown} (see --list)"));
    }
    let mut chosen: Vec<Suite> = all
        .into_iter()
        .filter(|s| {
            (args.suites.is_empty() && !s.needs.on_request) || args.suites.iter().any(|n| n == s.name)
        })
        .filter(|s| args.full || !s.needs.full)
        .filter(|s| !args.suites.is_empty() || !s.needs.diagnostics)
        .collect();
    if !args.tests.is_empty() {
        for suite in &mut chosen {
            suite.tests.retain(|t| {
                let name = format!("{}/{}", suite.name, t.name);
                args.tests.iter().any(|pattern| name.contains(pattern.as_str()))
            });
        }
    }
    chosen.retain(|s| !s.tests.is_empty());
    if chosen.is_empty() {
        return Err("no test is left to run".to_owned());
    }
    Ok(chosen)
}

/// Whether the CPU models leave anything to run, of each suite where suites are named: what boots no machine would pass
/// for want of a test.
fn runs(args: &Args, chosen: &[Suite]) -> Result<(), String> {
    let able = |suite: &Suite| args.cpus.is_empty() || args.cpus.iter().any(|cpu| suite.runs_on(cpu));
    if args.suites.is_empty() {
        return if chosen.iter().any(able) {
            Ok(())
        } else {
            Err(format!("no suite runs on {}", args.cpus.join(" or ")))
        };
    }
    for name in &args.suites {
        // Machines of one suite may differ in their models.
        let machines = || chosen.iter().filter(|s| s.name == *name);
        if machines().next().is_none() {
            return Err(format!("no test of suite {name} is left to run (see --list)"));
        }
        if !machines().any(able) {
            let mut models: Vec<&str> = machines().flat_map(|s| s.needs.models).copied().collect();
            models.sort_unstable();
            models.dedup();
            return Err(format!(
                "suite {name} does not run on {}, only on {}",
                args.cpus.join(" or "),
                models.join(" or ")
            ));
        }
    }
    Ok(())
}

/// Where the machines with a no-map region have it: inside their memory, away from what QEMU loads at its start.
const NO_MAP: (u64, u64) = (0x5800_0000, 0x20_0000);

struct Session<'a> {
    args: &'a Args,
    kernel: &'a Path,
    suite: &'a Suite,
    cpu: &'a str,
    mode: Mode,
    artifacts: &'a Artifacts,
    symbols: &'a Symbols,
}

impl Session<'_> {
    /// Counts a machine that could not even be started as one failed test, so that the others still run.
    fn survive(&self, run: impl FnOnce(&Self, &mut Tally) -> Result<(), String>, tally: &mut Tally) {
        if let Err(why) = run(self, tally) {
            tally.failed += 1;
            self.print("FAIL", "start", "", &why);
        }
    }

    fn boot(&self, tests: &[Test], tally: &mut Tally) -> Result<(), String> {
        let tests: Vec<Test> = tests
            .iter()
            .filter(|t| self.can_show(t, tally))
            .cloned()
            .collect();
        if tests.is_empty() {
            return Ok(());
        }
        let stem = match tests.as_slice() {
            [one] if is_alone(self.suite, one, self.args.hyp) => {
                format!("{}-{}-{}", self.suite.name, one.name, self.cpu)
            }
            _ => format!("{}-{}", self.suite.name, self.cpu),
        };
        let variant = self.suite.needs.variant;
        let dash = if variant.is_empty() { "" } else { "-" };
        let stem = format!("{stem}{dash}{variant}");
        if let Some((report, log)) = self.start(&stem, &tests, |timed, log, _| {
            self.judge(&timed.outcome, timed.took, log, tally);
        })? {
            self.close(&tests, &report, &log, tally);
        }
        Ok(())
    }

    /// Boots the machine for tests, and calls `each` with every result, the console's file and the name of the EL2
    /// object. Returns nothing after a session with a user.
    fn start(
        &self,
        stem: &str,
        tests: &[Test],
        mut each: impl FnMut(&qemu::Timed, &Path, Option<&str>),
    ) -> Result<Option<(qemu::Report, PathBuf)>, String> {
        let stem = format!("{}-{stem}", self.args.hyp.word());
        let file = |suffix: &str| self.args.log_dir.join(format!("{stem}.{suffix}"));
        let initrd = file("cpio");
        std::fs::write(&initrd, self.initramfs(tests)?).map_err(|e| format!("{}: {e}", initrd.display()))?;
        let smp = match self.args.smp {
            _ if self.suite.needs.one_cpu => 1,
            Some(smp) => smp,
            None => 2,
        };
        let mem = tests
            .iter()
            .filter_map(|t| judgements::find(self.suite.name, t.name)?.big)
            .fold(self.args.mem.max(self.suite.needs.mem), |mem, (_, more)| {
                mem.max(more)
            });
        let firmware = tests.first().and_then(|t| firmware::of(self.suite.name, t.name));
        let options = if firmware.is_some() {
            firmware::MACHINE
        } else {
            self.suite.needs.machine
        };
        let options = qemu::joined(options, &self.args.machine);
        let mut machine = qemu::Machine {
            kernel: self.kernel,
            initrd: &initrd,
            cpu: self.cpu,
            cpu_properties: self.suite.needs.cpu,
            options: &options,
            smp,
            mem,
            cmdline: self.cmdline(tests),
            dtb: None,
            flash: None,
            gdb: self.args.gdb,
        };
        if self.suite.needs.no_map || self.suite.needs.odd_gicv || firmware.is_some() {
            let path = file("dtb");
            let mut tree = fdt::Tree::parse(&qemu::default_dtb(&machine, &path)?)?;
            if self.suite.needs.no_map {
                tree.add_no_map(NO_MAP.0, NO_MAP.1);
            }
            if let Some(firmware) = firmware {
                let initrd_len = std::fs::metadata(&initrd).map_or(0, |m| m.len());
                firmware::describe(firmware, &mut tree, &machine.cmdline, initrd_len);
            }
            let mut tree = tree.flatten();
            if self.suite.needs.odd_gicv {
                tree = fdt::odd_gicv(&tree)?;
            }
            std::fs::write(&path, tree).map_err(|e| format!("{}: {e}", path.display()))?;
            machine.dtb = Some(path);
        }
        if let Some(firmware) = firmware {
            let path = file("flash");
            let flash = firmware.flash(&self.artifacts.monitor()?, smp, mem)?;
            std::fs::write(&path, flash).map_err(|e| format!("{}: {e}", path.display()))?;
            machine.flash = Some(path);
        }
        if self.args.shell {
            return qemu::interact(&machine).map(|()| None);
        }
        let sum: u64 = tests.iter().map(|t| u64::from(t.limit)).sum();
        let limit = match self.args.timeout {
            _ if self.args.gdb => Duration::MAX,
            Some(limit) => limit,
            None if self.suite.alone => Duration::from_secs(30 + sum),
            None => Duration::from_secs(60 + sum),
        };
        let log = file("log");
        let report = qemu::boot(&machine, limit, &log, self.args.stream, |timed, object| {
            each(timed, &log, object);
        })?;
        let _ = std::fs::remove_file(&initrd);
        for path in [&machine.dtb, &machine.flash].into_iter().flatten() {
            let _ = std::fs::remove_file(path);
        }
        Ok(Some((report, log)))
    }

    /// Whether this CPU model can show what the test is about.
    fn can_show(&self, test: &Test, tally: &mut Tally) -> bool {
        let Some(case) = judgements::find(self.suite.name, test.name) else {
            return true;
        };
        let able = case.cpus.is_empty() || case.cpus.contains(&self.cpu);
        if !able {
            tally.skipped += 1;
            self.print(
                "skip",
                test.name,
                "",
                &format!("needs {}", case.cpus.join(" or ")),
            );
        }
        able
    }

    fn initramfs(&self, tests: &[Test]) -> Result<Vec<u8>, String> {
        let mut archive = cpio::Archive::default();
        for dir in ["/dev", "/proc", "/sys", "/tmp", "/bin", "/lib"] {
            archive.dir(dir);
        }
        archive.char_device("/dev/console", 5, 1);
        archive.char_device("/dev/kmsg", 1, 11);
        let init = self.artifacts.program("pkvm-init")?;
        archive.file("/init", 0o755, &init);
        if self.suite.needs.modprobe {
            // What starts without open files gets this one.
            archive.char_device("/dev/null", 1, 3);
            archive.dir("/sbin");
            archive.file("/sbin/modprobe", 0o755, &init);
        }
        let mut table = String::new();
        for test in tests {
            let argv: Vec<_> = test
                .argv
                .iter()
                .filter_map(|word| match *word {
                    "@MODE@" => Some(suites::mode_of(self.cpu)),
                    "@PROTECTED1@" => Some("--protected"),
                    "@PROTECTED0@" => None,
                    other => Some(other),
                })
                .collect();
            let _ = writeln!(table, "{}\t{}\t{}", test.name, test.limit, argv.join("\t"));
        }
        archive.file("/tests", 0o644, table.as_bytes());
        if self.suite.needs.hostile {
            let kbuild = self.args.kbuild.as_deref().ok_or("--kbuild is missing")?;
            archive.file("/lib/hostile.ko", 0o644, &self.artifacts.module(kbuild)?);
        }
        if self.suite.needs.vmm {
            for program in ["pvm-scenario", "pvm-run", "pvm-probe", "vm-feature"] {
                archive.file(
                    &format!("/bin/{program}"),
                    0o755,
                    &self.artifacts.program(program)?,
                );
            }
            archive.dir("/guest");
            let kernel = self.args.guest.as_deref().unwrap_or(self.kernel);
            let image = std::fs::read(kernel).map_err(|e| format!("{}: {e}", kernel.display()))?;
            archive.file("/guest/Image", 0o644, &image);
            archive.file("/guest/initrd", 0o644, &Artifacts::guest_initramfs()?);
        }
        if self.suite.needs.selftest {
            archive.file(
                "/bin/pvm-selftest",
                0o755,
                &self.artifacts.program("pvm-selftest")?,
            );
        }
        if self.suite.needs.kernel_tests {
            for dir in ["/selftests", "/selftests/arm64"] {
                archive.dir(dir);
            }
            for test in tests {
                archive.file(
                    &format!("{}/{}", selftests::DIR, test.name),
                    0o755,
                    &Artifacts::selftest(test.name)?,
                );
            }
            // One of them calls it.
            archive.file("/bin/sh", 0o755, &Artifacts::busybox()?);
        }
        if self.suite.needs.payload {
            archive.file("/guest/payload", 0o644, &self.artifacts.payload()?);
        }
        if self.args.shell {
            archive.file("/bin/busybox", 0o755, &Artifacts::busybox()?);
        }
        Ok(archive.finish())
    }

    fn cmdline(&self, tests: &[Test]) -> String {
        let mut line =
            String::from("console=ttyAMA0 panic=-1 loglevel=7 printk.devkmsg=on random.trust_bootloader=on ");
        line.push_str(self.mode.word());
        line.push_str(self.suite.needs.cmdline);
        for test in tests {
            line.push_str(firmware::kernel_words(self.suite.name, test.name));
        }
        line.push_str(" -- ");
        if self.args.shell {
            line.push_str("shell ");
        }
        if self.suite.needs.hostile {
            line.push_str("module=/lib/hostile.ko ");
        }
        if self.suite.needs.no_map {
            let _ = write!(line, "nomap={:#x} ", NO_MAP.0);
        }
        let _ = write!(line, "hyp={} run=", self.args.hyp.word());
        if self.suite.needs.kernel_tests {
            // Their names would not fit; init's table holds no other test.
            line.truncate(line.len() - "run=".len());
        } else {
            line.push_str(&tests.iter().map(|t| t.name).collect::<Vec<_>>().join(","));
        }
        line
    }
}

/// The files of a run that other parts name.
pub fn results_file(dir: &Path, hyp: Hyp) -> PathBuf {
    dir.join(format!("judgements-{}.tsv", hyp.word()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str) -> Result<(), String> {
        let args = args::parse(line.split_whitespace().map(String::from))?;
        runs(&args, &choose(&args)?)
    }

    #[test]
    fn a_suite_without_a_machine_is_refused() {
        assert_eq!(check("--suite boot --cpu cortex-a57"), Ok(()));
        // One of its machines is for all models.
        assert_eq!(check("--suite features --cpu cortex-a57"), Ok(()));
        let why = check("--suite selftests --cpu cortex-a57").unwrap_err();
        assert_eq!(why, "suite selftests does not run on cortex-a57, only on max");
        // Without a name all run that can.
        assert_eq!(check("--cpu cortex-a57"), Ok(()));
        assert_eq!(check("--suite selftests --cpu cortex-a57 --cpu max"), Ok(()));
    }
}
