// SPDX-License-Identifier: GPL-2.0-only
//! The work behind `scripts/run`, `scripts/test`, `scripts/configs` and `scripts/selftests`.
#![forbid(unsafe_code)]

mod apt;
mod args;
mod check;
mod configs;
mod counts;
mod kernel;
mod paths;
mod qemu;
mod run;
mod selftests;
mod setup;
mod sh;
mod test;
mod ui;

use args::Args;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND [options]
  setup           get the programs, rust-src, Linux and busybox that the rest needs
  build           build the kernel
  run             scripts/run
  test            scripts/test
  configs         scripts/configs
  selftests       scripts/selftests
  check-object    check the EL2 object of a kernel build";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let result = Args::parse(&command, words).and_then(|args| match command.as_str() {
        "setup" => setup_all(&args).map(|_| true),
        "build" => setup_all(&args)
            .and_then(|(tree, version)| kernel::build(&tree, &version, args.hyp))
            .map(|kernel| {
                ui::say(&kernel.image().display().to_string());
                true
            }),
        "run" => run::run(&args),
        "test" => test::run(&args),
        "configs" => configs::run(&args),
        "selftests" => selftests::run(&args),
        "check-object" => check_object(&args),
        _ => Err(USAGE.to_owned()),
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::from(2)
        }
    }
}

fn setup_all(args: &Args) -> Result<(std::path::PathBuf, String), String> {
    setup::programs(args.gdb)?;
    setup::rust_src()?;
    setup::busybox()?;
    setup::linux(args.kdir.as_deref())
}

/// Checks the build as it is, or that of another directory given as `KDIR=`, and prints a line per check.
fn check_object(args: &Args) -> Result<bool, String> {
    let dir = args
        .kdir
        .clone()
        .unwrap_or_else(|| paths::cache().join("build/rust"));
    let outcomes = check::run(&kernel::Kernel { dir, hyp: args.hyp })?;
    Ok(check::report(&outcomes).1 == 0)
}
