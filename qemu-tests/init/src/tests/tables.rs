// SPDX-License-Identifier: GPL-2.0-only
//! The dumps of guests' stage-2 tables in debugfs. They are EL1's view of tables that EL1 made: those of VMs that EL2
//! does not protect.

use super::{Fail, Outcome};
use crate::ktap::{Sub, note};
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROOT: &str = "/sys/kernel/debug/kvm";
const DUMP: &str = "stage2_page_tables";

/// The guest's memory: where `pvm-probe` puts it, and how much it gives.
const RAM: Range<u64> = 0x4000_0000..0x4100_0000;

/// A line of a dump; one without attributes stands for addresses that are not mapped.
#[derive(Debug)]
struct Mapping {
    ipa: Range<u64>,
    level: u64,
    attributes: String,
}

/// Reads `0x0000000040000000-0x0000000040004000          16K 3  R W px ux AF`.
fn mapping(line: &str) -> Option<Mapping> {
    let (range, rest) = line.trim().split_once(char::is_whitespace)?;
    let (start, end) = range.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let (start, end) = (hex(start)?, hex(end)?);
    let (size, rest) = rest.trim_start().split_once(char::is_whitespace)?;
    let unit = size.chars().last()?;
    let shift = match unit {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        _ => return None,
    };
    let size = size.trim_end_matches(unit).parse::<u64>().ok()? << shift;
    let (level, attributes) = rest
        .trim()
        .split_once(char::is_whitespace)
        .unwrap_or((rest.trim(), ""));
    (size == end.checked_sub(start)?).then_some(Mapping {
        ipa: start..end,
        level: level.parse().ok()?,
        attributes: attributes.to_owned(),
    })
}

/// Checks a dump of a running guest against the two files beside it.
fn check(dump: &str, bits: u64, levels: u64) -> Result<(), String> {
    let mut lines = dump.lines();
    let title = lines.next().unwrap_or_default();
    if title != "---[ Guest IPA ]---" {
        return Err(format!("the title is {title:?}"));
    }
    if !(32..=52).contains(&bits) || !(1..=5).contains(&levels) {
        return Err(format!("{bits} bits in {levels} levels"));
    }
    let mut end = 0;
    let mut code = false;
    for line in lines {
        let it = mapping(line).ok_or_else(|| format!("not a mapping: {line:?}"))?;
        if it.ipa.start != end || it.level > 3 || it.level + levels < 4 {
            return Err(format!("after {end:#x}, in {levels} levels: {it:x?}"));
        }
        end = it.ipa.end;
        let flags: Vec<&str> = it.attributes.split_whitespace().collect();
        if flags.is_empty() {
            continue;
        }
        let has = |wanted: &[&str]| wanted.iter().all(|flag| flags.contains(flag));
        let is_ram = RAM.contains(&it.ipa.start) && it.ipa.end <= RAM.end;
        if !is_ram || !has(&["R", "AF"]) || has(&["BLK"]) != (it.level < 3) {
            return Err(format!("nothing of the guest's memory: {it:x?}"));
        }
        // The guest began to run there, and has its data on the next pages.
        code |= it.ipa.contains(&RAM.start) && has(&["px", "ux"]);
    }
    if end != 1 << bits {
        return Err(format!("the end is {end:#x}, of {bits} bits"));
    }
    if code {
        Ok(())
    } else {
        Err(format!("the guest's code is not there: {dump:?}"))
    }
}

fn read(dir: &Path, name: &str) -> Result<String, String> {
    fs::read_to_string(dir.join(name)).map_err(|e| format!("{name}: {e}"))
}

fn number(dir: &Path, name: &str) -> Result<u64, String> {
    let text = read(dir, name)?;
    text.trim().parse().map_err(|_| format!("{name}: {text:?}"))
}

/// The directory of the VM that a process has.
fn directory(pid: u32) -> Option<PathBuf> {
    fs::read_dir(ROOT)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&format!("{pid}-")))
        })
}

/// A guest that prints more than its pipe takes, so that it waits in the middle of it until it is read.
fn start_guest() -> Result<Child, String> {
    let mut command = Command::new("/bin/pvm-probe");
    command.args(["--payload", "/guest/payload", "--timeout", "100", "--cpus", "1"]);
    command.args(["--param", "0=1", "--param", "1=0", "--param", "2=1"]);
    let guest = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("pvm-probe: {e}"))?;
    let pipe = guest.stdout.as_ref().ok_or("no pipe")?;
    rustix::pipe::fcntl_setpipe_size(pipe, 4096).map_err(|e| format!("the pipe: {e}"))?;
    Ok(guest)
}

/// Waits for the guest's first words, and dumps its tables.
fn of_guest(guest: &mut Child) -> Result<(), String> {
    let pipe = guest.stdout.as_mut().ok_or("no pipe")?;
    pipe.read_exact(&mut [0])
        .map_err(|e| format!("the guest says nothing: {e}"))?;
    let dir = directory(guest.id()).ok_or("the VM has no directory")?;
    let (bits, levels) = (number(&dir, "ipa_range")?, number(&dir, "stage2_levels")?);
    let dump = read(&dir, DUMP)?;
    note(&format!("{bits} bits, {levels} levels"));
    dump.lines().for_each(|line| note(line.trim_end()));
    check(&dump, bits, levels)?;
    let mut rest = String::new();
    let pipe = guest.stdout.as_mut().ok_or("no pipe")?;
    pipe.read_to_string(&mut rest)
        .map_err(|e| format!("the guest: {e}"))?;
    let status = guest.wait().map_err(|e| e.to_string())?;
    if !status.success() {
        return Err(format!("the guest failed: {rest}"));
    }
    let limit = Instant::now() + Duration::from_secs(10);
    while dir.exists() {
        if Instant::now() > limit {
            return Err("the VM is gone and its directory is there".to_owned());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Where EL2 protects, EL1 has no table to show, even of a normal VM. Only an empty VM may be asked: EL1 takes its record
/// of the guest's pages for a table.
fn of_empty() -> Result<(), String> {
    let vm = kvm_ioctls::Kvm::new()
        .and_then(|kvm| kvm.create_vm())
        .map_err(|e| e.to_string())?;
    let dir = Path::new(ROOT).join(format!("{}-{}", std::process::id(), vm.as_raw_fd()));
    match fs::read(dir.join(DUMP)) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::RANGE.raw_os_error()) => Ok(()),
        Err(error) => Err(format!("{DUMP}: {error}, not ERANGE")),
        Ok(dump) => Err(format!("a dump: {}", String::from_utf8_lossy(&dump))),
    }
}

/// The test.
pub fn run(sub: &mut Sub, _: &[String]) -> Outcome {
    if crate::system::cmdline_has("kvm-arm.mode=protected") {
        sub.result("EL1 has no table to show", of_empty());
        return Ok(());
    }
    if !fs::exists(ROOT)? {
        return Err(Fail::of_kernel("this kernel has no debugfs of KVM's"));
    }
    let mut guest = start_guest()?;
    let result = of_guest(&mut guest);
    let _ = guest.kill();
    let _ = guest.wait();
    sub.result("the tables of a guest that runs", result);
    Ok(())
}
