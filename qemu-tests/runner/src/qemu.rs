// SPDX-License-Identifier: GPL-2.0-only
//! One boot: starts QEMU, follows its console up to a time limit, and says how it ended.

use crate::firmware;
use crate::ktap::{self, Event, Outcome, Parser};
use crate::monitor;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// The emulator's name; QEMU 10.0.2 or later is expected.
pub const QEMU: &str = "qemu-system-aarch64";

/// The machine and what it boots.
pub struct Machine<'a> {
    /// The kernel image.
    pub kernel: &'a Path,
    /// The initramfs.
    pub initrd: &'a Path,
    /// QEMU's CPU model.
    pub cpu: &'a str,
    /// Properties of the model, separated by commas.
    pub cpu_properties: &'a str,
    /// Options of the machine beside the usual, separated by commas.
    pub options: &'a str,
    /// Number of CPUs.
    pub smp: u32,
    /// Memory in MiB.
    pub mem: u32,
    /// The kernel's command line.
    pub cmdline: String,
    /// A device tree to use in place of QEMU's own.
    pub dtb: Option<PathBuf>,
    /// What is in the secure flash, if the machine has a secure side; the command line is in the device tree then.
    pub flash: Option<PathBuf>,
    /// QEMU waits for a debugger on port 1234.
    pub gdb: bool,
}

/// A test's result, and how long it took by the clock on the wall.
pub struct Timed {
    /// The result.
    pub outcome: Outcome,
    /// From the end of the test before it, or from the start of the boot.
    pub took: Duration,
}

/// What came out of a boot.
pub struct Report {
    /// Whether init began with its tests.
    pub begun: bool,
    /// The tests that ended.
    pub results: Vec<Timed>,
    /// Why the machine ended early, in its own words, or None when it powered off by itself.
    pub death: Option<String>,
    /// The `#` lines of the test that was running when it died.
    pub last_words: Vec<String>,
    /// Lines of the console that name a fault of the kernel or of EL2 which did not end it.
    pub complaints: Vec<String>,
    /// Which EL2 ran, in the kernel's words.
    pub object: Option<String>,
}

/// The CPU with its properties, and what a model needs to be emulated in bearable time: QEMU's slow
/// pointer-authentication cipher is replaced.
fn cpu_option(model: &str, properties: &str) -> String {
    let fast = match model {
        "max" => "max,pauth-impdef=on",
        other => other,
    };
    joined(fast, properties)
}

/// The machine, with further options after the usual ones: QEMU takes the last of each.
fn machine_option(options: &str) -> String {
    joined("virt,virtualization=on,gic-version=3", options)
}

/// Two lists of options as one; either may be empty.
pub fn joined(first: &str, more: &str) -> String {
    let comma = if first.is_empty() || more.is_empty() {
        ""
    } else {
        ","
    };
    format!("{first}{comma}{more}")
}

fn load(qemu: &mut Command, file: &Path, at: u64) {
    let mut device = std::ffi::OsString::from("loader,file=");
    device.push(file);
    device.push(format!(",addr={at:#x},force-raw=on"));
    qemu.arg("-device").arg(device);
}

fn command(machine: &Machine<'_>) -> Command {
    let mut qemu = Command::new(QEMU);
    qemu.args(["-machine", &machine_option(machine.options)])
        .args(["-accel", "tcg,thread=multi"])
        .args(["-cpu", &cpu_option(machine.cpu, machine.cpu_properties)])
        .args(["-smp", &machine.smp.to_string()])
        .args(["-m", &machine.mem.to_string()])
        .args(["-display", "none", "-no-reboot", "-nic", "none"]);
    if let Some(flash) = &machine.flash {
        // With a kernel of its own to load QEMU would not start at EL3, or hand the kernel to its firmware by another
        // device. As plain data at fixed addresses everything is where the monitor expects it.
        qemu.arg("-bios").arg(flash);
        load(&mut qemu, machine.kernel, firmware::KERNEL);
        load(&mut qemu, machine.initrd, firmware::INITRD);
        if let Some(dtb) = &machine.dtb {
            load(&mut qemu, dtb, firmware::DTB);
        }
    } else {
        qemu.arg("-kernel")
            .arg(machine.kernel)
            .arg("-initrd")
            .arg(machine.initrd)
            .args(["-append", &machine.cmdline]);
        if let Some(dtb) = &machine.dtb {
            qemu.arg("-dtb").arg(dtb);
        }
    }
    if machine.gdb {
        qemu.args(["-gdb", "tcp:127.0.0.1:1234", "-S"]);
    }
    qemu
}

/// Boots the machine with its console on this terminal, until it powers off.
///
/// # Errors
/// One line: QEMU could not be started, or failed.
pub fn interact(machine: &Machine<'_>) -> Result<(), String> {
    let status = command(machine)
        .args(["-serial", "mon:stdio"])
        .status()
        .map_err(|e| format!("{QEMU}: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{QEMU}: {status}"))
    }
}

/// The device tree that QEMU would give this machine. Its `dtb` is not looked at.
///
/// # Errors
/// One line: QEMU could not be started, or did not write it.
pub fn default_dtb(machine: &Machine<'_>, out: &Path) -> Result<Vec<u8>, String> {
    let file = out.to_string_lossy().into_owned();
    let status = Command::new(QEMU)
        .args([
            "-machine",
            &format!("{},dumpdtb={file}", machine_option(machine.options)),
        ])
        .args(["-cpu", &cpu_option(machine.cpu, machine.cpu_properties)])
        .args(["-smp", &machine.smp.to_string(), "-m", &machine.mem.to_string()])
        .args([
            "-display", "none", "-monitor", "none", "-serial", "none", "-nic", "none",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|e| format!("{QEMU}: {e}"))?;
    if !status.success() {
        return Err(format!("{QEMU} did not give its device tree: {status}"));
    }
    std::fs::read(out).map_err(|e| format!("{file}: {e}"))
}

/// Kills QEMU however the boot ends.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots the machine, writes its console to `log`, and calls `each` when a test ends, with what is known of
/// [`Report::object`].
///
/// # Errors
/// One line: QEMU could not be started, or the log not written.
pub fn boot(
    machine: &Machine<'_>,
    limit: Duration,
    log: &Path,
    stream: bool,
    mut each: impl FnMut(&Timed, Option<&str>),
) -> Result<Report, String> {
    let mut file = File::create(log).map_err(|e| format!("{}: {e}", log.display()))?;
    let mut qemu = command(machine);
    writeln!(file, "# {qemu:?}").map_err(|e| e.to_string())?;
    // The path of a socket must be short, so it is not beside the log.
    let socket = std::env::temp_dir().join(format!("pkvm-runner-{}.qmp", std::process::id()));
    let mut qmp = std::ffi::OsString::from("unix:");
    qmp.push(&socket);
    qmp.push(",server=on,wait=off");
    qemu.arg("-qmp").arg(qmp);
    let mut child = Guard(
        qemu.args(["-monitor", "none", "-serial", "stdio"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{QEMU}: {e}"))?,
    );
    let (send, lines) = mpsc::channel();
    let out = child.0.stdout.take().expect("stdout is piped");
    let err = child.0.stderr.take().expect("stderr is piped");
    let copy = send.clone();
    std::thread::spawn(move || pump(out, &send));
    std::thread::spawn(move || pump(err, &copy));

    let start = Instant::now();
    let mut mark = start;
    let mut parser = Parser::default();
    let mut report = Report {
        begun: false,
        results: Vec::new(),
        death: None,
        last_words: Vec::new(),
        complaints: Vec::new(),
        object: None,
    };
    let mut down = false;
    loop {
        let left = limit.saturating_sub(start.elapsed());
        let line: String = match lines.recv_timeout(left) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let levels = monitor::levels(&socket).map_or(String::new(), |l| format!(", {l}"));
                report
                    .death
                    .get_or_insert_with(|| format!("no end within {} s{levels}", limit.as_secs()));
                break;
            }
        };
        let _ = writeln!(file, "{line}");
        if stream {
            println!("  | {line}");
        }
        let text = ktap::strip_stamp(&line);
        if let Some(what) = fatal(text) {
            report.death.get_or_insert(what);
        } else if let Some(what) = complaint(text) {
            report.complaints.push(what);
        }
        if let Some((_, object)) = text.split_once("kvm: EL2 object: ") {
            report.object = Some(object.to_owned());
        }
        down |= text.contains("reboot: Power down");
        // What a kernel does that knows no way to switch the machine off, as with PSCI 0.1.
        if text.contains("reboot: Power off not available") {
            down = true;
            break;
        }
        report.begun |= text.starts_with("KTAP version");
        if let Event::Ended(outcome) = parser.line(&line) {
            let timed = Timed {
                outcome,
                took: mark.elapsed(),
            };
            mark = Instant::now();
            each(&timed, report.object.as_deref());
            report.results.push(timed);
        }
    }
    if report.death.is_none() && !down {
        report.death = Some("the machine went away without powering off".to_owned());
    }
    let _ = std::fs::remove_file(&socket);
    report.last_words = parser.pending().to_vec();
    Ok(report)
}

fn pump(stream: impl std::io::Read, out: &mpsc::Sender<String>) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    // The console may carry any byte, so lines are read as bytes and made text with replacement.
    while let Ok(1..) = reader.read_until(b'\n', &mut line) {
        let text = String::from_utf8_lossy(&line)
            .trim_end_matches(['\r', '\n'])
            .to_owned();
        if out.send(text).is_err() {
            return;
        }
        line.clear();
    }
}

/// The line that says why a machine dies, if this is one. EL2's own report comes first and says more than the kernel's
/// panic after it.
fn fatal(text: &str) -> Option<String> {
    const MARKS: [&str; 5] = [
        "nVHE hyp BUG at",
        "nVHE hyp panic",
        "Kernel panic",
        "HYP panic",
        "monitor panic",
    ];
    // What stands before it says which task called, and changes from run to run.
    let at = MARKS.iter().filter_map(|m| text.find(m)).min()?;
    Some(text[at..].trim().to_owned())
}

/// The line with which a kernel reports a fault that it survives.
fn complaint(text: &str) -> Option<String> {
    const MARKS: [&str; 6] = [
        "WARNING: ",
        "Oops",
        "BUG: ",
        "Unable to handle kernel",
        "blocked for more than",
        "soft lockup",
    ];
    // A guest's console inside the host's is prefixed by its VMM, so only lines that begin with a mark are the host's.
    MARKS
        .iter()
        .any(|m| text.starts_with(m))
        .then(|| text.trim().to_owned())
}
