// SPDX-License-Identifier: GPL-2.0-only
//! `scripts/configs`: builds kernels of many configurations with the Rust EL2, checks the EL2 object of each, and boots
//! it to a protected VM. What came out is kept beside each build, and becomes Documentation/configurations.rst.

mod build;
mod document;
mod result;
mod table;

use crate::args::Args;
use crate::check;
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
    let mut tally = (0, 0);
    for config in chosen {
        add(&mut tally, one(args, &tree, &version, config, &busybox));
    }
    if args.write {
        write(&tree, &version)?;
    }
    ui::say(&format!("\nin {}", ui::seconds(start.elapsed())));
    ui::say(&format!("{} passed, {} failed", tally.0, tally.1));
    Ok(tally.1 == 0)
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
pub fn quick(tree: &Path, version: &str) -> (u32, u32) {
    let mut tally = (0, 0);
    for config in QUICK.iter().filter_map(|name| table::find(name)) {
        add(&mut tally, object(tree, version, config, Hyp::Rust));
    }
    tally
}

/// All of it, for `scripts/test --full`.
pub fn full(args: &Args, tree: &Path, version: &str, busybox: &Path) -> (u32, u32) {
    let mut tally = (0, 0);
    for config in CONFIGS {
        add(&mut tally, one(args, tree, version, config, busybox));
    }
    tally
}

fn add(tally: &mut (u32, u32), more: (u32, u32)) {
    tally.0 += more.0;
    tally.1 += more.1;
}

/// What cannot go on is one failed test, whose line says why; other configurations still can.
fn failed(config: &Config, why: &str) -> (u32, u32) {
    ui::say(&format!("FAIL  config/{} - {why}", config.name));
    (0, 1)
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
fn object(tree: &Path, version: &str, config: &Config, hyp: Hyp) -> (u32, u32) {
    ui::headline(&format!("{}: {}", config.name, config.about));
    let result = build::build(tree, version, config, hyp, Goal::Object).and_then(|kernel| {
        if hyp == Hyp::C {
            return Ok((1, 0));
        }
        check_object(tree, config, &kernel).map(|(checks, _)| checks)
    });
    result.unwrap_or_else(|why| failed(config, &why))
}

/// Checks the EL2 object of a build and keeps the outcome. Returns it, and which EL2 that was.
fn check_object(tree: &Path, config: &Config, kernel: &Kernel) -> Result<((u32, u32), String), String> {
    let revision = build::revision(tree)?;
    let checks = check::report(&check::run(kernel)?);
    keep(kernel, config, |record| {
        record.checks = Some(Seen::now(checks, &revision));
    })?;
    Ok((checks, revision))
}

/// Changes what is known of a configuration, at once: what is seen is kept however the run ends.
fn keep(kernel: &Kernel, config: &Config, change: impl FnOnce(&mut Record)) -> Result<(), String> {
    let mut record = Record::load(&kernel.dir);
    change(&mut record);
    record.arrange(config);
    record.save(&kernel.dir)
}

/// Builds, checks and boots a configuration.
fn one(args: &Args, tree: &Path, version: &str, config: &Config, busybox: &Path) -> (u32, u32) {
    if args.object {
        return object(tree, version, config, args.hyp);
    }
    ui::headline(&format!("{}: {}", config.name, config.about));
    let begun = build::build(tree, version, config, Hyp::Rust, Goal::Image)
        .and_then(|kernel| check_object(tree, config, &kernel).map(|(checks, name)| (kernel, checks, name)));
    let (kernel, mut tally, revision) = match begun {
        Ok(begun) => begun,
        Err(why) => return failed(config, &why),
    };
    let guest = match config.base {
        Base::Small => None,
        // Its drivers of a guest's devices are modules.
        Base::Debian => match kernel::build(tree, version, Hyp::Rust) {
            Ok(guest) => Some(guest.image()),
            Err(why) => {
                add(&mut tally, failed(config, &format!("no guest: {why}")));
                return tally;
            }
        },
    };
    for cpu in config.cpus {
        if !args.cpus.is_empty() && !args.cpus.iter().any(|c| c == cpu) {
            continue;
        }
        let suites = config.suites_on(cpu);
        let ran = boot(config, &kernel, busybox, guest.as_deref(), cpu, &suites);
        add(&mut tally, ran);
        let kept = keep(&kernel, config, |record| {
            record.set(Boot {
                cpu: (*cpu).to_owned(),
                suites: suites.join(","),
                seen: Seen::now(ran, &revision),
            });
        });
        if let Err(why) = kept {
            add(&mut tally, failed(config, &why));
        }
    }
    tally
}

/// Runs suites on a CPU model.
fn boot(
    config: &Config,
    kernel: &Kernel,
    busybox: &Path,
    guest: Option<&Path>,
    cpu: &str,
    suites: &[&str],
) -> (u32, u32) {
    let mut runner = qemu::runner(kernel, busybox);
    // The consoles of one configuration do not take the place of another's.
    runner.args(["--log-dir", &format!("target/qemu-logs/{}", config.name)]);
    if let Some(guest) = guest {
        runner.arg("--guest").arg(guest);
    }
    if let Some((_, options)) = config.machine.iter().find(|(model, _)| *model == cpu) {
        runner.args(["--machine", options]);
    }
    let names: Vec<String> = suites.iter().map(|&name| name.to_owned()).collect();
    qemu::run_suites(runner, &[cpu.to_owned()], &names)
        .unwrap_or_else(|why| failed(config, &format!("{cpu}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::{choose, runs_on};

    #[test]
    fn cpu_models_that_boot_nothing_are_refused() {
        let on = |name: &str, cpu: &str| runs_on(&choose(&[name.to_owned()]).unwrap(), &[cpu.to_owned()]);
        assert_eq!(on("64k", "cortex-a57"), Ok(()));
        assert_eq!(on("16k", "max,pauth-impdef=on,lpa2=off"), Ok(()));
        assert!(on("16k", "cortex-a57").unwrap_err().contains("max or"));
        assert_eq!(runs_on(&choose(&[]).unwrap(), &[]), Ok(()));
        assert!(choose(&["8k".to_owned()]).is_err());
    }
}
