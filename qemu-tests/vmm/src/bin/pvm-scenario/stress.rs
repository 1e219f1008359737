// SPDX-License-Identifier: GPL-2.0-only
//! Many VMs, and VMMs that end or fork at a bad moment.

#![expect(
    unsafe_code,
    reason = "fork, which the standard library offers only together with exec"
)]

use crate::Context;
use crate::guest::{Guest, Options};
use crate::linux::LIMIT;
use crate::memory::{RAM, page_size, worked};
use crate::report::Report;
use crate::system;
use pkvm_vmm::bus::Outcome;
use pkvm_vmm::memory::RamConfig;
use pkvm_vmm::monitor::{FREE, Failure, Monitor};
use pkvm_vmm::touch;
use pkvm_vmm::vm::Kind;
use pkvm_vmm::{Error, Result};
use std::time::Instant;

/// Rounds that fill the kernel's caches before anything is counted.
const WARM_UP: u64 = 10;

/// Pages by which the memory without a use may differ.
const SLACK: u64 = 16;

/// Pages that such a VM fills. Each costs several TLB invalidations, which are dear under emulation.
const LIFE_PAGES: u64 = 16;

/// One protected VM from creation to destruction. What it does varies with its number.
pub fn life(number: u64) -> Result<()> {
    let page = page_size();
    let cpus = 1 + number % 2;
    let vm = Monitor::start(Kind::Protected, cpus as u32, RAM)?;
    let ram = vm.vm().ram().clone();
    worked(vm.fill(FREE, LIFE_PAGES, page, number))?;
    if cpus == 2 {
        let answer = worked(vm.cpu_on(1))?;
        if answer != 0 {
            return Err(Error::Setup(format!("CPU_ON answered {answer:#x}")));
        }
        worked(vm.hvc_on(1, pkvm_vmm::monitor::HVC_FEATURES, [0; 3]))?;
    }
    for index in 0..4 {
        let ipa = FREE + index * page;
        if worked(vm.share(ipa))? != 0 || touch::load(&ram, ipa) != Ok(number + index) {
            return Err(Error::Setup(format!("VM {number} could not share page {index}")));
        }
    }
    if number.is_multiple_of(3) && worked(vm.unshare(FREE))? != 0 {
        return Err(Error::Setup(format!("VM {number} could not take a page back")));
    }
    match number % 4 {
        // A page is taken by force; the VM ends while it still holds its poison.
        1 => drop(touch::remote_read(&ram, FREE + 10 * page, 8)?),
        // The guest runs into such a page.
        2 => {
            touch::remote_read(&ram, FREE + 10 * page, 8)?;
            let end = vm.load(FREE + 10 * page);
            let Err(Failure::Ended(Err(Error::Run {
                errno: libc::EFAULT, ..
            }))) = end
            else {
                return Err(Error::Setup(format!("VM {number}: {end:x?} instead of EFAULT")));
            };
        }
        // It powers off.
        3 => {
            let end = vm.power_off()?;
            if end != Outcome::PowerOff {
                return Err(Error::Setup(format!("VM {number} ended with {end:?}")));
            }
        }
        // It is destroyed while it waits.
        _ => {}
    }
    vm.destroy();
    let word = touch::load(&ram, FREE + 11 * page);
    if word != Ok(0) {
        return Err(Error::Setup(format!("VM {number} left {word:x?} in its memory")));
    }
    Ok(())
}

/// Compares the counts before and after `count` VMs: pins and stage-2 page tables must be the same. The memory that has
/// no name varies by a few pages, however many VMs there were.
pub fn compare(report: &mut Report, before: system::Memory, after: system::Memory, count: u64) {
    report.equal("every pin is dropped", after.pins, before.pins);
    report.equal("every stage-2 page table is freed", after.stage2, before.stage2);
    report.equal("no memory counts as locked", after.locked, before.locked);
    let page = page_size() / 1024;
    let lost = after.unnamed.saturating_sub(before.unnamed) / page;
    report.say(format_args!(
        "memory without a use: {} KiB before, {} KiB after {count} VMs",
        before.unnamed, after.unnamed
    ));
    let result = if lost <= SLACK {
        Ok(())
    } else {
        Err(format!("{lost} pages are missing after {count} VMs"))
    };
    report.result("no page is lost", result);
}

/// Many protected VMs, one after another.
pub fn lifecycles(context: &Context, report: &mut Report) -> Result<()> {
    let _hurry = system::Hurry::new();
    let count = context.count.unwrap_or(200);
    report.say(format_args!(
        "{WARM_UP} protected VMs live and die before the count starts"
    ));
    (0..WARM_UP).try_for_each(life)?;
    let before = system::settled();
    let start = Instant::now();
    for number in 0..count {
        life(number)?;
        if (number + 1) % 50 == 0 {
            report.say(format_args!("{} VMs have lived and died", number + 1));
        }
    }
    let each = start.elapsed().as_millis() / u128::from(count.max(1));
    report.say(format_args!(
        "{count} VMs in {:.1} s, {each} ms each",
        start.elapsed().as_secs_f64()
    ));
    report.result(&format!("{count} protected VMs live and die"), Ok(()));
    compare(report, before, system::settled(), count);
    Ok(())
}

/// Forks, lets the child end at once, and waits for it. Returns whether that worked.
pub fn fork_once() -> Result<bool> {
    // SAFETY: the child calls nothing but _exit, which is allowed after a fork of a process with threads.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(Error::setup("fork", std::io::Error::last_os_error())),
        0 => {
            // SAFETY: _exit has no conditions.
            unsafe { libc::_exit(0) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: the status is a local of the right type.
            let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
            Ok(waited == pid && status == 0)
        }
    }
}

/// Forks of a VMM. A fork copies pinned pages at once, so guest memory that a child inherits is taken from the guest.
pub fn fork(context: &Context, report: &mut Report) -> Result<()> {
    let _hurry = system::Hurry::new();
    let page = page_size();
    let words = 64;
    let before = system::settled();
    for inherit in [false, true] {
        for round in 0..context.count.unwrap_or(4) {
            let vm = Monitor::start(Kind::Protected, 1, RamConfig { inherit, ..RAM })?;
            worked(vm.fill(FREE, words, page, round))?;
            worked(vm.share(FREE)).map(drop)?;
            let forked = fork_once()?;
            let name = if inherit { "with" } else { "without" };
            report.result(
                &format!("round {round}: a fork {name} the guest's memory"),
                forked.then_some(()).ok_or("it failed".into()),
            );
            let count = vm.count(FREE, words, page, round);
            if inherit {
                let fault = Err(Failure::Ended(Err(Error::Run {
                    cpu: 0,
                    errno: libc::EFAULT,
                })));
                report.equal(
                    &format!("round {round}: it took the guest's pages, which ends the guest"),
                    count,
                    fault,
                );
            } else {
                report.equal(
                    &format!("round {round}: the guest does not notice"),
                    count,
                    Ok(words),
                );
            }
        }
    }
    compare(report, before, system::settled(), context.count.unwrap_or(4) * 2);
    Ok(())
}

/// The VMM is killed while its guest works.
pub fn kill(context: &Context, report: &mut Report) -> Result<()> {
    let _hurry = system::Hurry::new();
    let count = context.count.unwrap_or(4);
    let options = Options {
        name: "pvm",
        kind: Kind::Protected,
        cpus: 2,
        extra: "guest.rounds=1000",
    };
    let mut before = None;
    for round in 0..=count {
        let mut guest = Guest::boot(context, &options)?;
        // Another moment each time: from early boot to a busy disk.
        let marker = [
            "GUEST up",
            "GUEST vcpu 1",
            "GUEST disk says",
            "GUEST disk round 1:",
        ][(round % 4) as usize];
        let up = guest.await_line(marker, LIMIT);
        guest.kill()?;
        report.result(&format!("VMM {round} is killed after \"{marker}\""), up);
        drop(guest);
        // The first one only fills caches.
        if before.is_none() {
            before = Some(system::settled());
        }
    }
    if let Some(before) = before {
        compare(report, before, system::settled(), count);
    }
    report.say("a protected VM still works");
    report.result("a protected VM still works", life(0).map_err(|e| e.to_string()));
    Ok(())
}

/// The last CPU goes off and comes back, again and again, while a protected guest works.
pub fn hotplug(context: &Context, report: &mut Report) -> Result<()> {
    let count = context.count.unwrap_or(100);
    let present = std::fs::read_to_string("/sys/devices/system/cpu/present").unwrap_or_default();
    let last: u32 = present
        .trim()
        .rsplit(['-', ','])
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    if last == 0 {
        return Err(Error::Setup("this needs a second CPU".into()));
    }
    let switch = format!("/sys/devices/system/cpu/cpu{last}/online");
    let options = Options {
        name: "pvm",
        kind: Kind::Protected,
        cpus: 2,
        extra: "guest.rounds=1000",
    };
    let mut guest = Guest::boot(context, &options)?;
    report.result(
        "the guest is at work",
        guest.await_line("GUEST disk round 1:", LIMIT),
    );
    let mut cycles = Ok(());
    for cycle in 0..count {
        cycles = std::fs::write(&switch, "0")
            .and_then(|()| std::fs::write(&switch, "1"))
            .map_err(|e| format!("cycle {cycle}: {e}"));
        if cycles.is_err() {
            break;
        }
        if cycle % 25 == 24 {
            report.say(format_args!("CPU {last} has gone off and on {} times", cycle + 1));
        }
    }
    report.result(&format!("CPU {last} goes off and on {count} times"), cycles);
    // Lines from before the last cycle do not count.
    guest.forget();
    let alive = guest.await_line("written, flushed and read back", LIMIT);
    report.result("the guest is still at work", alive);
    guest.kill()
}
