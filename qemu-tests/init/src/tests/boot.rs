// SPDX-License-Identifier: GPL-2.0-only
//! The host came up as it should.

use super::{Fail, Outcome};
use crate::hostile::Hostile;
use crate::ktap::{Sub, note};
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

/// The kernel's log so far, one record a line, without the prefix of `/dev/kmsg`.
pub fn kernel_log() -> std::io::Result<Vec<String>> {
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let mut kmsg = OpenOptions::new()
        .read(true)
        .custom_flags(nonblock)
        .open("/dev/kmsg")?;
    let mut record = vec![0; 8192];
    let mut lines = Vec::new();
    // Each read gives one record; the error that ends the loop is EAGAIN at the end of the log.
    while let Ok(length @ 1..) = kmsg.read(&mut record) {
        let text = String::from_utf8_lossy(&record[..length]);
        if let Some((_, message)) = text.split_once(';') {
            lines.push(message.lines().next().unwrap_or("").to_owned());
        }
    }
    Ok(lines)
}

/// KVM says that it protects, and in the mode that this CPU calls for.
pub fn protected_mode(_: &mut Sub, words: &[String]) -> Outcome {
    let log = kernel_log()?;
    let wanted = match words.first() {
        Some(mode) => format!("Protected {mode} mode initialized successfully"),
        None => "mode initialized successfully".to_owned(),
    };
    for line in log.iter().filter(|l| l.starts_with("kvm [") || l.contains("EL2")) {
        note(line);
    }
    if !log.iter().any(|l| l.contains(&wanted) && l.contains("Protected")) {
        return Err(Fail::Because(format!("the kernel never said \"{wanted}\"")));
    }
    let warnings: Vec<_> = log.iter().filter(|l| l.starts_with("WARNING: ")).collect();
    match warnings.first() {
        Some(first) => Err(Fail::Because(format!("the boot warned: {first}"))),
        None => Ok(()),
    }
}

/// All CPUs that the firmware describes are on line.
pub fn smp(_: &mut Sub, _: &[String]) -> Outcome {
    let read = |name: &str| std::fs::read_to_string(format!("/sys/devices/system/cpu/{name}"));
    let (present, online) = (read("present")?, read("online")?);
    note(&format!("present {} online {}", present.trim(), online.trim()));
    if present != online {
        return Err(Fail::Because("some CPUs are off line".to_owned()));
    }
    Ok(())
}

/// Has EL2 panic in the way that the first word says: see `hyp/el2/src/provoke.rs`. It comes back only from an EL2 that
/// cannot be provoked.
pub fn panic(_: &mut Sub, words: &[String]) -> Outcome {
    if crate::system::cmdline_has("hyp=c") {
        return Err(Fail::Skip("nothing provokes the C object".to_owned()));
    }
    let way = words.first().and_then(|word| word.parse().ok());
    let way: u64 = way.ok_or_else(|| "which panic?".to_owned())?;
    let hostile = Hostile::open().map_err(|e| format!("/dev/hostile: {e}"))?;
    let reply = hostile.call("__tracing_write_event", &[way])?;
    Err(Fail::Because(format!("EL2 went on: {reply}")))
}
