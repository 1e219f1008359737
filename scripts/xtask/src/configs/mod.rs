// SPDX-License-Identifier: GPL-2.0-only
//! `scripts/configs`: builds kernels of many configurations with the Rust EL2, checks the EL2 object of each, and boots
//! it to a protected VM. What came out is kept beside each build, and becomes Documentation/configurations.rst.

mod build;
mod document;
mod result;
mod table;

use crate::args::Args;
use crate::check;
use crate::counts::Counts;
use crate::kernel::{self, Hyp, Kernel};
use crate::paths;
use crate::qemu;
use crate::setup;
use crate::sh;
use crate::ui;
use build::Goal;
use result::{Boot, Record, Seen};
use std::path::Path;
use std::time::Instant;
use table::{Base, CONFIGS, Config};

/// The suites that every configuration must pass: the host comes up protected, and runs a protected Linux.
const SUITES: [&str; 2] = ["boot", "tour"];
/// What `scripts/test` builds the EL2 object of on every run: the page size furthest from the usual, and what the usual
/// compiler adds to calls and returns.
const QUICK: [&str; 2] = ["64k", "hardened"];
/// Stands for a revision that nobody can tell.
const UNKNOWN: &str = "pkvm-rs of an unknown commit";

/// Runs the command; true when nothing failed.
///
/// # Errors
/// One line, when it could not even begin.
pub fn run(args: &Args) -> Result<bool, String> {
    let start = Instant::now();
    if args.list {
        for config in CONFIGS {
            ui::say(&format!("{:<12} {}", config.name, config.about));
        }
        return Ok(true);
    }
    if args.write && args.names.is_empty() {
        let (tree, version) = setup::linux(args.kdir.as_deref())?;
        return write(&tree, &version).map(|()| true);
    }
    let chosen = choose(&args.names)?;
    runs_on(&chosen, &args.cpus)?;
    ui::headline("what is needed");
    setup::programs(false)?;
    qemu::check_models(&args.cpus)?;
    setup::rust_src()?;
    let busybox = setup::busybox()?;
    let (tree, version) = setup::linux(args.kdir.as_deref())?;
    let mut tally = Counts::default();
    for config in chosen {
        tally += one(args, &tree, &version, config, &busybox);
    }
    if args.write {
        write(&tree, &version)?;
    }
    ui::say(&format!("\nin {}", ui::seconds(start.elapsed())));
    Ok(tally.close())
}

/// Writes the documentation's table from what the runs left.
fn write(tree: &Path, version: &str) -> Result<(), String> {
    let path = paths::root().join("Documentation/configurations.rst");
    sh::write(&path, &document::document(tree, version))?;
    ui::say(&format!("written: {}", path.display()));
    Ok(())
}

/// The part of it that `scripts/test` runs: EL2 objects of some configurations, without their kernels. Returns how many
/// checks passed and failed.
pub fn quick(tree: &Path, version: &str) -> Counts {
    let mut tally = Counts::default();
    for config in QUICK.iter().filter_map(|name| table::find(name)) {
        tally += object(tree, version, config, Hyp::Rust);
    }
    tally
}

/// All of it, for `scripts/test --full`.
pub fn full(args: &Args, tree: &Path, version: &str, busybox: &Path) -> Counts {
    let mut tally = Counts::default();
    for config in CONFIGS {
        tally += one(args, tree, version, config, busybox);
    }
    tally
}

/// What cannot go on is one failed test, whose line says why; other configurations still can.
fn failed(config: &Config, why: &str) -> Counts {
    ui::say(&format!("FAIL  config/{} - {why}", config.name));
    Counts::FAILED
}

fn choose(names: &[String]) -> Result<Vec<&'static Config>, String> {
    if names.is_empty() {
        return Ok(CONFIGS.iter().collect());
    }
    names
        .iter()
        .map(|name| {
            table::find(name).ok_or_else(|| format!("no configuration is called {name} (see --list)"))
        })
        .collect()
}

/// Whether each CPU model is one that some of the configurations run on: on another nothing would boot.
fn runs_on(chosen: &[&Config], cpus: &[String]) -> Result<(), String> {
    let mut models: Vec<&str> = chosen.iter().flat_map(|config| config.cpus).copied().collect();
    models.sort_unstable();
    models.dedup();
    match cpus.iter().find(|cpu| !models.contains(&cpu.as_str())) {
        Some(cpu) => Err(format!(
            "--cpu {cpu}: what is to be built runs on {}",
            models.join(" or ")
        )),
        None => Ok(()),
    }
}

/// Builds the EL2 object of a configuration and checks it; the C object has nothing to be checked for.
fn object(tree: &Path, version: &str, config: &Config, hyp: Hyp) -> Counts {
    ui::headline(&format!("{}: {}", config.name, config.about));
    match made(tree, version, config, hyp, Goal::Object) {
        Ok(_) if hyp == Hyp::C => Counts::PASSED,
        Ok((kernel, revision)) => check_object(config, &kernel, &revision),
        Err(why) => failed(config, &why),
    }
}

/// Builds a configuration. Returns also which EL2 that is. A build that fails is kept as such.
fn made(
    tree: &Path,
    version: &str,
    config: &Config,
    hyp: Hyp,
    goal: Goal,
) -> Result<(Kernel, String), String> {
    let wanted = build::revision(tree)?;
    let result = build::build(tree, version, config, hyp, goal);
    if hyp == Hyp::C {
        return result.map(|kernel| (kernel, wanted));
    }
    let dir = build::directory(tree, config, hyp);
    match result {
        Ok(kernel) => {
            let revision = match goal {
                Goal::Image => build::built(&dir),
                // The object itself has no name.
                Goal::Object => Some(build::revision(tree)?).filter(|now| *now == wanted),
            };
            if goal == Goal::Image {
                keep(&dir, config, |record| record.broken = None)?;
            }
            Ok((kernel, revision.unwrap_or_else(|| UNKNOWN.to_owned())))
        }
        Err(why) => {
            // Where there is no directory, nothing old is in it that could pass for this.
            if dir.is_dir() {
                keep(&dir, config, |record| record.fail(Seen::nothing(&why, &wanted)))?;
            }
            Err(why)
        }
    }
}

/// Checks the EL2 object of a build and keeps the outcome.
fn check_object(config: &Config, kernel: &Kernel, revision: &str) -> Counts {
    let (counts, seen) = match check::run(kernel) {
        Ok(outcomes) => {
            let (passed, failed) = check::report(&outcomes);
            let counts = Counts::of(passed, failed);
            (counts, Seen::now(counts, revision))
        }
        Err(why) => (failed(config, &why), Seen::nothing(&why, revision)),
    };
    kept(&kernel.dir, config, counts, |record| record.checks = Some(seen))
}

/// Changes what is known of a configuration, at once: what is seen is kept however the run ends.
fn keep(dir: &Path, config: &Config, change: impl FnOnce(&mut Record)) -> Result<(), String> {
    let mut record = Record::load(dir);
    change(&mut record);
    record.arrange(config);
    record.save(dir)
}

/// As [`keep`], for what was counted: that it cannot be kept is a failure more.
fn kept(dir: &Path, config: &Config, mut counts: Counts, change: impl FnOnce(&mut Record)) -> Counts {
    if let Err(why) = keep(dir, config, change) {
        counts += failed(config, &why);
    }
    counts
}

/// Builds, checks and boots a configuration.
fn one(args: &Args, tree: &Path, version: &str, config: &Config, busybox: &Path) -> Counts {
    if args.object {
        return object(tree, version, config, args.hyp);
    }
    ui::headline(&format!("{}: {}", config.name, config.about));
    let cpus = boots_on(config, &args.cpus);
    if cpus.is_empty() {
        ui::say(&format!(
            "skip  config/{} - runs on {}",
            config.name,
            config.cpus.join(" or ")
        ));
        return Counts::SKIPPED;
    }
    let (kernel, revision) = match made(tree, version, config, Hyp::Rust, Goal::Image) {
        Ok(made) => made,
        Err(why) => return failed(config, &why),
    };
    let mut tally = check_object(config, &kernel, &revision);
    let guest = match config.base {
        Base::Small => Ok(None),
        // Its drivers of a guest's devices are modules.
        Base::Debian => kernel::build(tree, version, Hyp::Rust)
            .map(|guest| Some(guest.image()))
            .map_err(|why| format!("no guest: {why}")),
    };
    for cpu in cpus {
        let suites = config.suites_on(cpu);
        let ran = guest
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|guest| boot(config, &kernel, busybox, guest.as_deref(), cpu, &suites));
        let (counts, seen) = match ran {
            // What ran has said itself which it is.
            Ok((counts, said)) => (counts, Seen::now(counts, said.as_ref().unwrap_or(&revision))),
            Err(why) => (
                failed(config, &format!("{cpu}: {why}")),
                Seen::nothing(&why, &revision),
            ),
        };
        tally += kept(&kernel.dir, config, counts, |record| {
            record.set(Boot {
                cpu: cpu.to_owned(),
                suites: suites.join(","),
                seen,
            });
        });
    }
    tally
}

/// The CPU models that a configuration boots on, of those that are asked for; all where none is.
fn boots_on(config: &Config, asked: &[String]) -> Vec<&'static str> {
    let wanted = |cpu: &&&str| asked.is_empty() || asked.iter().any(|a| a == **cpu);
    config.cpus.iter().filter(wanted).copied().collect()
}

/// Runs suites on a CPU model. Returns also which EL2 that was, as the console has it.
fn boot(
    config: &Config,
    kernel: &Kernel,
    busybox: &Path,
    guest: Option<&Path>,
    cpu: &str,
    suites: &[&str],
) -> Result<(Counts, Option<String>), String> {
    let mut runner = qemu::runner(kernel, busybox);
    // The consoles of one configuration do not take the place of another's.
    let logs = format!("target/qemu-logs/{}", config.name);
    let console = paths::root()
        .join(&logs)
        .join(format!("rust-{}-{cpu}.log", SUITES[0]));
    sh::remove(&console)?;
    runner.args(["--log-dir", &logs]);
    if let Some(guest) = guest {
        runner.arg("--guest").arg(guest);
    }
    if let Some((_, options)) = config.machine.iter().find(|(model, _)| *model == cpu) {
        runner.args(["--machine", options]);
    }
    let names: Vec<String> = suites.iter().map(|&name| name.to_owned()).collect();
    let counts = qemu::run_suites(runner, &[cpu.to_owned()], &names)?;
    Ok((counts, said(&std::fs::read(console).unwrap_or_default())))
}

/// The EL2 that a console names.
fn said(console: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(console);
    let (_, name) = text
        .lines()
        .find_map(|line| line.split_once("kvm: EL2 object: "))?;
    Some(name.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{boots_on, choose, runs_on, said};

    #[test]
    fn cpu_models_that_boot_nothing_are_refused() {
        let on = |name: &str, cpu: &str| runs_on(&choose(&[name.to_owned()]).unwrap(), &[cpu.to_owned()]);
        assert_eq!(on("64k", "cortex-a57"), Ok(()));
        assert_eq!(on("16k", "max,pauth-impdef=on,lpa2=off"), Ok(()));
        assert!(on("16k", "cortex-a57").unwrap_err().contains("max or"));
        assert_eq!(runs_on(&choose(&[]).unwrap(), &[]), Ok(()));
        assert!(choose(&["8k".to_owned()]).is_err());
    }

    #[test]
    fn a_configuration_without_a_machine_is_not_built() {
        let of = |cpu: &str| boots_on(choose(&["16k".to_owned()]).unwrap()[0], &[cpu.to_owned()]);
        assert!(of("cortex-a76").is_empty());
        assert_eq!(of("max"), ["max"]);
        assert_eq!(boots_on(choose(&["64k".to_owned()]).unwrap()[0], &[]).len(), 3);
    }

    #[test]
    fn the_console_names_the_object() {
        let console =
            b"# qemu\r\n[    1.0] kvm: EL2 object: pkvm-rs 0.1.0 (Rust, abc-dirty)\r\n[    1.1] x\r\n";
        assert_eq!(said(console).as_deref(), Some("pkvm-rs 0.1.0 (Rust, abc-dirty)"));
        assert_eq!(said(b""), None);
    }
}
