// SPDX-License-Identifier: GPL-2.0-only
//! CPUs that lose their registers and come back: idle, off and on, and the whole machine suspended to RAM. Afterwards EL2
//! must be as it was on every CPU, and a pVM's page still be kept from the host. The monitor at EL3 says what EL2's
//! registers hold, and counts what was really entered.

use super::{Fail, Outcome, pin_to_cpu};
use crate::hostile::monitor::{EL2, Event};
use crate::hostile::{FakeVm, Hostile, Kind, Monitor};
use crate::ktap::{Sub, note};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

type Act = fn(&Monitor<'_>) -> Result<(), String>;

const PARTS: &[(&str, Act)] = &[
    ("idle", idle),
    ("standby", standby),
    ("off-and-on", off_and_on),
    ("suspend", suspend),
];

const CPU: &str = "/sys/devices/system/cpu";

fn cpus() -> usize {
    (0..64)
        .take_while(|n| Path::new(&format!("{CPU}/cpu{n}")).exists())
        .count()
}

fn write(path: &str, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{path}: {e}"))
}

/// Leaves all CPUs one idle state, or all of them.
fn only_state(wanted: Option<usize>) -> Result<(), String> {
    for cpu in 0..cpus() {
        for state in 0.. {
            let file = format!("{CPU}/cpu{cpu}/cpuidle/state{state}/disable");
            if !Path::new(&file).exists() {
                break;
            }
            let disable = wanted.is_some_and(|w| w != state);
            write(&file, if disable { "1" } else { "0" })?;
        }
    }
    Ok(())
}

/// Lets all CPUs be idle in one state, often.
fn doze(monitor: &Monitor<'_>, state: usize, event: Event) -> Result<(), String> {
    const ROUNDS: u64 = 40;
    only_state(Some(state))?;
    let before = monitor.count(event)?;
    let start = Instant::now();
    while monitor.count(event)? < before + ROUNDS && start.elapsed() < Duration::from_secs(20) {
        for cpu in 0..cpus() {
            pin_to_cpu(cpu)?;
            std::thread::sleep(Duration::from_millis(3));
        }
    }
    only_state(None)?;
    let entered = monitor.count(event)? - before;
    note(&format!("the state was entered {entered} times"));
    if entered < ROUNDS {
        return Err("the kernel did not enter the state".to_owned());
    }
    Ok(())
}

/// `CPU_SUSPEND` with the loss of power.
fn idle(monitor: &Monitor<'_>) -> Result<(), String> {
    doze(monitor, 2, Event::PowerDown)
}

/// `CPU_SUSPEND` without.
fn standby(monitor: &Monitor<'_>) -> Result<(), String> {
    doze(monitor, 1, Event::Standby)
}

/// Every CPU but the first goes off and on.
fn off_and_on(monitor: &Monitor<'_>) -> Result<(), String> {
    const ROUNDS: u64 = 5;
    let before = [monitor.count(Event::CpuOff)?, monitor.count(Event::CpuOn)?];
    let mut wanted = 0;
    for _ in 0..ROUNDS {
        for cpu in 1..cpus() {
            let switch = format!("{CPU}/cpu{cpu}/online");
            write(&switch, "0")?;
            wanted += 1;
            // PSCI 0.1 has no AFFINITY_INFO, so the kernel does not wait for it.
            let start = Instant::now();
            while monitor.count(Event::CpuOff)? < before[0] + wanted
                && start.elapsed() < Duration::from_secs(5)
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            write(&switch, "1")?;
        }
    }
    let after = [monitor.count(Event::CpuOff)?, monitor.count(Event::CpuOn)?];
    let done = [after[0] - before[0], after[1] - before[1]];
    if done == [wanted; 2] {
        Ok(())
    } else {
        Err(format!("firmware saw {done:?} for {wanted} times off and on"))
    }
}

/// Suspends to RAM; an alarm of the real-time clock wakes the machine.
fn suspend(monitor: &Monitor<'_>) -> Result<(), String> {
    let before = monitor.count(Event::SystemSuspend)?;
    let modes = fs::read_to_string("/sys/power/mem_sleep").map_err(|e| format!("mem_sleep: {e}"))?;
    if !modes.contains("[deep]") {
        return Err(format!("/sys/power/mem_sleep: {}", modes.trim()));
    }
    for _ in 0..2 {
        // The kernel arms the real-time clock for the nearest alarm timer when it suspends.
        let timer = timerfd_create(TimerfdClockId::BoottimeAlarm, TimerfdFlags::empty())
            .map_err(|e| format!("an alarm timer: {e}"))?;
        let when = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: Timespec {
                tv_sec: 4,
                tv_nsec: 0,
            },
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &when).map_err(|e| format!("an alarm: {e}"))?;
        write("/sys/power/state", "mem")?;
    }
    match monitor.count(Event::SystemSuspend)? - before {
        2 => Ok(()),
        other => Err(format!("firmware suspended the system {other} times")),
    }
}

/// The registers of EL2 on every CPU.
fn registers(monitor: &Monitor<'_>) -> Result<Vec<Vec<u64>>, String> {
    (0..cpus())
        .map(|cpu| {
            pin_to_cpu(cpu)?;
            monitor.el2()
        })
        .collect()
}

/// Runs the part that the first word names, with a pVM that has a page.
pub fn run(sub: &mut Sub, words: &[String]) -> Outcome {
    const GFN: u64 = 0x40;
    let name = words.first().ok_or_else(|| "no part named".to_owned())?;
    let (_, act) = PARTS
        .iter()
        .find(|(n, _)| n == name)
        .ok_or_else(|| format!("no part {name}"))?;
    let h = Hostile::open().map_err(|e| format!("/dev/hostile: {e}"))?;
    let monitor = Monitor::find(&h).map_err(Fail::Skip)?;
    let vm = FakeVm::new(&h, Kind::Protected)?;
    pin_to_cpu(0)?;
    vm.load(0)?;
    let page = vm.donate(GFN)?;
    vm.put()?;
    let va = h.va_of(page)?;

    let before = registers(&monitor)?;
    pin_to_cpu(0)?;
    sub.result(name, act(&monitor));
    let after = registers(&monitor)?;
    let mut changed = Vec::new();
    for (cpu, (old, new)) in before.iter().zip(&after).enumerate() {
        for (n, reg) in EL2.iter().enumerate() {
            if old[n] != new[n] {
                changed.push(format!(
                    "CPU {cpu}: {reg}_EL2 was {:#x}, is {:#x}",
                    old[n], new[n]
                ));
            }
        }
    }
    sub.result(
        "EL2's registers are as before",
        if changed.is_empty() {
            Ok(())
        } else {
            Err(changed.join("\n"))
        },
    );

    let mut read = Ok(());
    for cpu in 0..cpus() {
        pin_to_cpu(cpu)?;
        if let Ok(word) = h.peek64(va) {
            read = Err(format!("CPU {cpu} read {word:#x}"));
        }
    }
    sub.result("the pVM's page is kept from the host on every CPU", read);

    // The guest has no memory at its first instruction, so it exits, or an interrupt comes first.
    let mut runs = Ok(());
    for cpu in 0..cpus() {
        pin_to_cpu(cpu)?;
        vm.load(0)?;
        let reply = vm.run(0)?;
        vm.put()?;
        if reply.x0() != 0 || !matches!(reply.x1(), 0 | 2) {
            runs = Err(format!("CPU {cpu}: {reply}"));
        }
    }
    sub.result("the pVM runs on every CPU", runs);
    vm.destroy(&[GFN], Kind::Protected)?;
    let word = h.peek64(va)?;
    sub.result(
        "the page comes back zeroed",
        if word == 0 {
            Ok(())
        } else {
            Err(format!("it holds {word:#x}"))
        },
    );
    Ok(())
}
