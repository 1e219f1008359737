// SPDX-License-Identifier: GPL-2.0-only
//! `scripts/configs`: builds kernels of many configurations with the Rust EL2, checks the EL2 object of each, and boots
//! it to a protected VM. What came out is kept beside each build, and becomes Documentation/configurations.rst.

mod build;
mod result;
mod table;

use crate::args::Args;
use crate::check;
use crate::kernel::{self, Hyp};
use crate::paths;
use crate::qemu;
use crate::setup;
use crate::sh;
use crate::ui;
use build::Goal;
use result::Record;
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
    ui::headline("what is needed");
    setup::programs(false)?;
    setup::rust_src()?;
    let busybox = setup::busybox()?;
    let (tree, version) = setup::linux(args.kdir.as_deref())?;
    let mut tally = (0, 0);
    for config in chosen {
        add(&mut tally, one(args, &tree, &version, config, &busybox)?);
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
    sh::write(&path, &result::document(tree, version))?;
    ui::say(&format!("written: {}", path.display()));
    Ok(())
}

/// The part of it that `scripts/test` runs: EL2 objects of some configurations, without their kernels. Returns how many
/// checks passed and failed.
///
/// # Errors
/// One line: something to build with is missing.
pub fn quick(tree: &Path, version: &str) -> Result<(u32, u32), String> {
    let mut tally = (0, 0);
    for config in QUICK.iter().filter_map(|name| table::find(name)) {
        add(&mut tally, object(tree, version, config, Hyp::Rust)?);
    }
    Ok(tally)
}

/// All of it, for `scripts/test --full`.
///
/// # Errors
/// One line: something to build or boot with is missing.
pub fn full(args: &Args, tree: &Path, version: &str, busybox: &Path) -> Result<(u32, u32), String> {
    let mut tally = (0, 0);
    for config in CONFIGS {
        add(&mut tally, one(args, tree, version, config, busybox)?);
    }
    Ok(tally)
}

fn add(tally: &mut (u32, u32), more: (u32, u32)) {
    tally.0 += more.0;
    tally.1 += more.1;
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

/// Builds the EL2 object of a configuration and checks it; the C object has nothing to be checked for.
fn object(tree: &Path, version: &str, config: &Config, hyp: Hyp) -> Result<(u32, u32), String> {
    ui::headline(&format!("{}: {}", config.name, config.about));
    match build::build(tree, version, config, hyp, Goal::Object) {
        Ok(_) if hyp == Hyp::C => Ok((1, 0)),
        Ok(kernel) => {
            let checks = check::report(&check::run(&kernel)?);
            if Record::load(&kernel.dir).is_none_or(|record| record.boots.is_empty()) {
                let boots = Vec::new();
                Record { checks, boots }.save(&kernel.dir)?;
            }
            Ok(checks)
        }
        Err(why) => {
            ui::say(&format!("FAIL  config/{} - {why}", config.name));
            Ok((0, 1))
        }
    }
}

/// Builds, checks and boots a configuration.
fn one(
    args: &Args,
    tree: &Path,
    version: &str,
    config: &Config,
    busybox: &Path,
) -> Result<(u32, u32), String> {
    if args.object {
        return object(tree, version, config, args.hyp);
    }
    ui::headline(&format!("{}: {}", config.name, config.about));
    let kernel = match build::build(tree, version, config, Hyp::Rust, Goal::Image) {
        Ok(kernel) => kernel,
        Err(why) => {
            // The others can still be built.
            ui::say(&format!("FAIL  config/{} - {why}", config.name));
            return Ok((0, 1));
        }
    };
    let mut tally = check::report(&check::run(&kernel)?);
    let mut record = Record {
        checks: tally,
        ..Record::default()
    };
    let guest = match config.base {
        Base::Small => None,
        // Its drivers of a guest's devices are modules.
        Base::Debian => Some(kernel::build(tree, version, Hyp::Rust)?.image()),
    };
    for cpu in config.cpus {
        if !args.cpus.is_empty() && !args.cpus.iter().any(|c| c == cpu) {
            continue;
        }
        let names: Vec<String> = if config.boot_only.contains(cpu) {
            vec![SUITES[0].to_owned()]
        } else {
            SUITES.map(str::to_owned).to_vec()
        };
        let ran = qemu::suites_with(&kernel, busybox, guest.as_deref(), &[(*cpu).to_owned()], &names)?;
        record.boots.push(((*cpu).to_owned(), ran));
        add(&mut tally, ran);
    }
    record.save(&kernel.dir)?;
    Ok(tally)
}
