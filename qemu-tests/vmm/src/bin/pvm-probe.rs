// SPDX-License-Identifier: GPL-2.0-only
//! Runs a bare-metal payload and says what it printed, reported and ended with.

use pkvm_vmm::args::{self, Args};
use pkvm_vmm::bus::Outcome;
use pkvm_vmm::layout::{RAM_BASE, TESTDEV_BASE, TESTDEV_SIZE};
use pkvm_vmm::memory::RamConfig;
use pkvm_vmm::testdev::{TestDevice, WORDS};
use pkvm_vmm::vm::{Kind, Vm, VmConfig};
use pkvm_vmm::{Error, Result};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

const HELP: &str = "\
usage: pvm-probe --payload FILE [options]

  --payload FILE    a flat binary: loaded, and entered on vCPU 0 at EL1 with the MMU off
  --load-at IPA     where (default 0x40000000, the start of RAM)
  --protected       a protected VM
  --cpus N          vCPUs (default 1); the payload starts the others by PSCI
  --mem SIZE        memory (default 16M)
  --pool SIZE       the end of memory becomes a region of its own of this size (default 0)
  --param N=VALUE   a word for the payload; may be repeated
  --timeout SECONDS ends the VM and fails (default 60)

The payload uses the test device at IPA 0x9030000 (see testdev.rs). Its output goes to standard output; each REPORT word
that is not zero follows as a line `report N 0xVALUE`. Exit status: the payload's EXIT value (255 for a larger one), 0
after a power-off, 3 after a reset, 124 after the time limit; 125 after an error, which is one line.
";

fn main() -> ExitCode {
    let mut args = Args::of_process();
    if args.flag("--help") || args.flag("-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match run(args) {
        Ok(Outcome::PowerOff) => ExitCode::SUCCESS,
        Ok(Outcome::Exit(status)) => ExitCode::from(u8::try_from(status).unwrap_or(255)),
        Ok(Outcome::Reset) => ExitCode::from(3),
        Ok(Outcome::Stopped) => {
            eprintln!("pvm-probe: the payload did not end in time");
            ExitCode::from(124)
        }
        Err(error) => {
            eprintln!("pvm-probe: {error}");
            ExitCode::from(125)
        }
    }
}

fn run(mut args: Args) -> Result<Outcome> {
    let kind = if args.flag("--protected") {
        Kind::Protected
    } else {
        Kind::Normal
    };
    let payload = args
        .value("--payload")?
        .ok_or_else(|| Error::Setup("--payload FILE is missing (see --help)".into()))?;
    let load_at = args.number("--load-at")?.unwrap_or(RAM_BASE);
    let cpus = u32::try_from(args.number("--cpus")?.unwrap_or(1)).unwrap_or(u32::MAX);
    let ram = RamConfig {
        size: args.size("--mem")?.unwrap_or(16 << 20),
        pool: args.size("--pool")?.unwrap_or(0),
        inherit: false,
    };
    let limit = Duration::from_secs(args.number("--timeout")?.unwrap_or(60));
    let mut params = [0; WORDS];
    while let Some(text) = args.value("--param")? {
        let bad = || Error::Setup(format!("--param {text}: wanted N=VALUE with N below {WORDS}"));
        let (index, value) = text.split_once('=').ok_or_else(bad)?;
        let index = args::number(index)
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(bad)?;
        *params.get_mut(index).ok_or_else(bad)? = args::number(value).ok_or_else(bad)?;
    }
    args.finish()?;
    let code = std::fs::read(&payload).map_err(|e| Error::setup(format_args!("payload {payload}"), e))?;

    let mut vm = Vm::new(VmConfig { kind, cpus, ram })?;
    vm.ram().load(load_at, &code)?;
    let (device, _channels) = TestDevice::new(cpus, params, Box::new(std::io::stdout()), vm.stop_flag());
    let device = Arc::new(device);
    vm.bus.add(TESTDEV_BASE, TESTDEV_SIZE, device.clone());
    vm.set_entry(load_at, 0)?;
    let running = vm.start()?;
    let end = running.wait_for(limit).unwrap_or(Ok(Outcome::Stopped));
    running.destroy();
    for (index, value) in device
        .reports()
        .iter()
        .enumerate()
        .filter(|(_, value)| **value != 0)
    {
        println!("report {index} {value:#x}");
    }
    end
}
