// SPDX-License-Identifier: GPL-2.0-only
//! Boots a Linux guest, protected or not, with its console on this terminal.

use pkvm_vmm::args::Args;
use pkvm_vmm::bus::Outcome;
use pkvm_vmm::linux::{self, DEFAULT_POOL, LinuxConfig};
use pkvm_vmm::serial::Uart;
use pkvm_vmm::vm::{Kind, Stopper};
use pkvm_vmm::{Error, Result};
use rustix::termios::{OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcsetattr};
use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

const HELP: &str = "\
usage: pvm-run --kernel IMAGE [options]

  --kernel IMAGE    an arm64 Linux Image
  --initrd FILE     initramfs
  --disk FILE       virtio block device: the guest's /dev/vda
  --cpus N          vCPUs (default 1)
  --mem SIZE        memory, as 256M or 1G (default 256M)
  --protected       a protected VM: the host cannot read its memory
  --pool SIZE       memory that a protected guest shares for its devices (default 4M)
  --cmdline TEXT    kernel command line (default: console=ttyS0 panic=-1)

The guest's console is this terminal; Ctrl-] ends the VM. Exit status: 0 after the guest's power-off, 3 after its
reset (a panic, with panic=-1), 130 after Ctrl-], 1 after an error, which is one line.
";

/// Ctrl-].
const ESCAPE: u8 = 0x1d;

fn main() -> ExitCode {
    let mut args = Args::of_process();
    if args.flag("--help") || args.flag("-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match run(args) {
        Ok(Outcome::PowerOff | Outcome::Exit(0)) => ExitCode::SUCCESS,
        Ok(Outcome::Exit(_)) => ExitCode::from(1),
        Ok(Outcome::Reset) => ExitCode::from(3),
        Ok(Outcome::Stopped) => ExitCode::from(130),
        Err(error) => {
            eprintln!("pvm-run: {error}");
            ExitCode::from(1)
        }
    }
}

fn run(mut args: Args) -> Result<Outcome> {
    let kind = if args.flag("--protected") {
        Kind::Protected
    } else {
        Kind::Normal
    };
    let kernel = args
        .value("--kernel")?
        .ok_or_else(|| Error::Setup("--kernel IMAGE is missing (see --help)".into()))?;
    let cpus = args.number("--cpus")?.unwrap_or(1);
    let config = LinuxConfig {
        kernel: kernel.into(),
        initrd: args.value("--initrd")?.map(Into::into),
        disk: args.value("--disk")?.map(Into::into),
        cmdline: args
            .value("--cmdline")?
            .unwrap_or_else(|| "console=ttyS0 panic=-1".into()),
        kind,
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        ram: args.size("--mem")?.unwrap_or(256 << 20),
        pool: args.size("--pool")?.unwrap_or(DEFAULT_POOL),
    };
    args.finish()?;

    let (vm, uart) = linux::prepare(&config, Box::new(std::io::stdout()))?;
    let terminal = RawTerminal::enter();
    let running = vm.start()?;
    let stopper = running.stopper();
    std::thread::spawn(move || feed(&uart, &stopper));
    let end = running.wait();
    drop(terminal);
    running.destroy();
    end
}

/// Takes standard input to the guest until it ends. A terminal's Ctrl-] stops the VM.
fn feed(uart: &Arc<Uart>, stopper: &Stopper) {
    let terminal = isatty(std::io::stdin());
    let mut buffer = [0; 256];
    while let Ok(count @ 1..) = std::io::stdin().lock().read(&mut buffer) {
        let input = &buffer[..count];
        if terminal && input.contains(&ESCAPE) {
            stopper.stop();
            return;
        }
        let mut sent = 0;
        while sent < input.len() {
            let taken = uart.receive(&input[sent..]);
            sent += taken;
            if taken == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// The terminal without line editing, so that the guest's shell does its own. Restored when dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        // Messages of this program still want their line ends.
        raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
