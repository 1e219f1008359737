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

/// The kernel has guests' accesses to both groups and to the common registers of the GIC's CPU interface trapped.
pub fn gic_traps(_: &mut Sub, _: &[String]) -> Outcome {
    let log = kernel_log()?;
    match log.iter().find(|l| l.contains("GICv3 sysreg trapping enabled")) {
        Some(line) if line.contains("[G0G1C]") => Ok(()),
        other => Err(Fail::Because(format!("the kernel said: {other:?}"))),
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

/// What `/sbin/modprobe` is here: takes CPU 1 off line while the kernel boots and waits for this to end. The kernel's log is
/// all that it can speak to.
pub fn take_off_line() {
    // Requests that come later are for nobody.
    if std::fs::File::create_new("/sbin/off-line").is_err() {
        return;
    }
    let what = match crate::system::mount_all().and_then(|()| switch(1, false)) {
        Ok(()) => OFF_LINE.to_owned(),
        Err(error) => format!("modprobe: {error}"),
    };
    // The test misses the line.
    let _ = std::fs::write("/dev/kmsg", what + "\n");
}

/// What it then says.
const OFF_LINE: &str = "modprobe: CPU 1 is off line";

/// J37: a CPU that KVM knows was off line when the host lost its privileges, and comes back. It must not run the host
/// without stage 2 either.
pub fn missed_cpu(_: &mut Sub, _: &[String]) -> Outcome {
    let log = kernel_log()?;
    let line = |words: &str| log.iter().position(|l| l.contains(words));
    let order = [
        line("VHE mode initialized successfully"),
        line(OFF_LINE),
        // What comes of a later level of initialisers than the end of the host's privileges.
        line("clk: Disabling unused clocks"),
    ];
    if !order.is_sorted() || order.contains(&None) {
        return Err(Fail::Because(format!(
            "no CPU went off line between KVM's start and the last initialisers: {order:?}"
        )));
    }
    let h = Hostile::open().map_err(|e| format!("/dev/hostile: {e}"))?;
    let page = hidden_memory(&h)?;
    switch(1, true)?;
    super::pin_to_cpu(1)?;
    refused(&h, page)?;
    // Off line again, it would have left this thread to the other one.
    match std::fs::read_to_string("/sys/devices/system/cpu/online")?.trim() {
        "0-1" => Ok(()),
        other => Err(Fail::Because(format!("the CPUs {other} are on line"))),
    }
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

/// What the stub answers to a call that it does not know: `HVC_STUB_ERR`.
const STUB_ERROR: u64 = 0xbad_ca11;
/// The stub's calls (asm/virt.h).
const SOFT_RESTART: u64 = 1;
const RESET_VECTORS: u64 = 2;

/// What EL2 of this CPU answers to a hypercall of KVM's that does nothing but flush.
fn answer(h: &Hostile) -> Result<u64, Fail> {
    Ok(h.call("__kvm_flush_vm_context", &[])?.regs[0])
}

/// Takes CPU 1 off line and on again, which initialises its EL2 anew.
fn renew(sub: &mut Sub, h: &Hostile) -> Result<(), Fail> {
    super::pin_to_cpu(0)?;
    switch(1, false)?;
    switch(1, true)?;
    super::pin_to_cpu(1)?;
    let again = answer(h)?;
    sub.result(
        "KVM has it again after a replug",
        if again == 0 {
            Ok(())
        } else {
            Err(format!("{again:#x}"))
        },
    );
    Ok(())
}

/// Where the host is trusted, EL2 can be handed back to the kernel's stub, as kexec and CPU hotplug do.
pub fn stub(sub: &mut Sub, _: &[String]) -> Outcome {
    let h = Hostile::open().map_err(|e| format!("/dev/hostile: {e}"))?;
    super::pin_to_cpu(1)?;
    let is = |value: u64, wanted: u64| {
        if value == wanted {
            Ok(())
        } else {
            Err(format!("{value:#x} instead of {wanted:#x}"))
        }
    };
    sub.result("KVM answers", is(answer(&h)?, 0));
    let mut regs = [0; 18];
    regs[0] = RESET_VECTORS;
    sub.result("EL2 goes back to the stub", is(h.hvc(-1, 0, regs)?.regs[0], 0));
    sub.result("the stub answers", is(answer(&h)?, STUB_ERROR));
    renew(sub, &h)?;

    // The new image at EL2, with the MMU off: back to EL1, to the address in x0, with x1 as it came.
    let image: [u32; 5] = [
        0xd51c_4020, // msr ELR_EL2, x0
        0xd280_78a2, // mov x2, #0x3c5
        0xd51c_4002, // msr SPSR_EL2, x2
        0xd503_3fdf, // isb
        0xd69f_03e0, // eret
    ];
    let (va, pa) = h.alloc(h.fact("page_size"))?;
    let bytes: Vec<u8> = image.iter().flat_map(|word| word.to_le_bytes()).collect();
    h.poke(va, &bytes)?;
    let code: [u32; 8] = [
        0xd53b_4225, // mrs x5, DAIF
        0xd503_4fdf, // msr DAIFSet, #15
        0x1000_0082, // adr x2, the last line but one
        0xd280_0843, // mov x3, #0x42
        0xd400_0002, // hvc #0
        0x1400_0000, // b .
        0xd51b_4225, // msr DAIF, x5
        0xd503_201f, // nop
    ];
    let after = h
        .exec(&code, [SOFT_RESTART, pa, 0, 0])?
        .ok_or_else(|| "undefined".to_owned())?;
    sub.result(
        "a soft restart runs the image with its argument",
        is(after[1], 0x42),
    );
    sub.result("and leaves the stub", is(answer(&h)?, STUB_ERROR));
    renew(sub, &h)
}
