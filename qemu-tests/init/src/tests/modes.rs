// SPDX-License-Identifier: GPL-2.0-only
//! The modes that a kernel can be booted into, and what of EL2 the host finds in each.

use super::boot::kernel_log;
use super::guests::{hidden_memory, refused};
use super::{Fail, Outcome};
use crate::hostile::Hostile;
use crate::ktap::{Sub, note};
use std::path::Path;

/// A mode: its name, what KVM says of it, and whether there is a `/dev/kvm`.
const MODES: &[(&str, &str, bool)] = &[
    ("nvhe", "Hyp nVHE mode initialized successfully", true),
    ("hvhe", "Hyp hVHE mode initialized successfully", true),
    (
        "protected-nvhe",
        "Protected nVHE mode initialized successfully",
        true,
    ),
    (
        "protected-hvhe",
        "Protected hVHE mode initialized successfully",
        true,
    ),
    ("vhe", "VHE mode initialized successfully", true),
    ("none", "KVM disabled from command line", false),
    ("no-gicv2", "GICv2 not supported in protected mode", false),
];

/// The kernel is in the mode that the first word names, KVM is there or not, and nothing warned.
pub fn mode(_: &mut Sub, words: &[String]) -> Outcome {
    let name = words.first().ok_or_else(|| "no mode named".to_owned())?;
    let (_, wanted, has_kvm) = MODES
        .iter()
        .find(|(known, ..)| known == name)
        .ok_or_else(|| format!("no mode {name}"))?;
    let log = kernel_log()?;
    let said: Vec<_> = log.iter().filter(|l| l.starts_with("kvm [")).collect();
    for line in &said {
        note(line);
    }
    // "VHE mode" is part of what the other modes say.
    let matches = |line: &&&String| {
        line.split_once("]: ")
            .is_some_and(|(_, text)| text.starts_with(wanted))
    };
    if said.iter().find(matches).is_none() {
        return Err(Fail::Because(format!("KVM never said \"{wanted}\"")));
    }
    if Path::new("/dev/kvm").exists() != *has_kvm {
        let how = if *has_kvm { "missing" } else { "there" };
        return Err(Fail::Because(format!("/dev/kvm is {how}")));
    }
    match log.iter().find(|l| l.starts_with("WARNING: ")) {
        Some(first) => Err(Fail::Because(format!("the boot warned: {first}"))),
        None => Ok(()),
    }
}

/// Switches a CPU of the host on or off.
fn switch(cpu: usize, on: bool) -> Result<(), String> {
    let file = format!("/sys/devices/system/cpu/cpu{cpu}/online");
    std::fs::write(&file, if on { "1" } else { "0" }).map_err(|e| format!("{file}: {e}"))
}

/// A CPU goes off and on again a number of times; the kernel resets its EL2 and initialises it anew each time.
pub fn replug(_: &mut Sub, words: &[String]) -> Outcome {
    let rounds: u32 = words.first().and_then(|w| w.parse().ok()).unwrap_or(5);
    for _ in 0..rounds {
        switch(1, false)?;
        switch(1, true)?;
    }
    super::pin_to_cpu(1)?;
    note(&format!("CPU 1 went off and on {rounds} times"));
    Ok(())
}

/// A CPU that was off line when the host lost its privileges must not run the host without stage 2: either it does not
/// come up, or it is held out of EL2's memory as the others are.
pub fn late_cpu(_: &mut Sub, _: &[String]) -> Outcome {
    let h = Hostile::open().map_err(|e| format!("/dev/hostile: {e}"))?;
    super::pin_to_cpu(0)?;
    let page = hidden_memory(&h)?;
    if let Err(why) = switch(1, true) {
        note(&format!("CPU 1 does not come up: {why}"));
        return Ok(());
    }
    super::pin_to_cpu(1)?;
    refused(&h, page)
}

/// A CPU that went off line and came back has its stage 2 again.
pub fn replugged_cpu(_: &mut Sub, _: &[String]) -> Outcome {
    let h = Hostile::open().map_err(|e| format!("/dev/hostile: {e}"))?;
    super::pin_to_cpu(0)?;
    let page = hidden_memory(&h)?;
    for _ in 0..3 {
        switch(1, false)?;
        switch(1, true)?;
        super::pin_to_cpu(1)?;
        refused(&h, page)?;
        super::pin_to_cpu(0)?;
    }
    Ok(())
}
