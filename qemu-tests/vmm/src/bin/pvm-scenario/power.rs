// SPDX-License-Identifier: GPL-2.0-only
//! A protected Linux guest at work while the host's CPUs lose their registers: in an idle state that turns them off, and
//! in a suspend to RAM. Needs firmware that has these, and a real-time clock.

use crate::Context;
use crate::guest::{Guest, Options};
use crate::linux::LIMIT;
use crate::report::Report;
use pkvm_vmm::vm::Kind;
use pkvm_vmm::{Error, Result};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::path::Path;
use std::time::{Duration, Instant};

const CPU: &str = "/sys/devices/system/cpu";

fn at_work(context: &Context, report: &mut Report) -> Result<Guest> {
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
    Ok(guest)
}

fn still_at_work(mut guest: Guest, report: &mut Report) -> Result<()> {
    // Lines from before do not count.
    guest.forget();
    let alive = guest.await_line("written, flushed and read back", LIMIT);
    report.result("the guest is still at work", alive);
    guest.kill()
}

/// The files of one name of all CPUs' idle states, with the number of the state.
fn state_files(name: &str) -> Vec<(usize, String)> {
    let mut files = Vec::new();
    for cpu in 0..64 {
        for state in 0..8 {
            let file = format!("{CPU}/cpu{cpu}/cpuidle/state{state}/{name}");
            if Path::new(&file).exists() {
                files.push((state, file));
            }
        }
    }
    files
}

fn used(state: usize) -> u64 {
    let number = |file: &str| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    state_files("usage")
        .iter()
        .filter(|(n, _)| *n == state)
        .filter_map(|(_, file)| number(file))
        .sum()
}

/// The host's CPUs have only the deepest idle state left.
pub fn idle(context: &Context, report: &mut Report) -> Result<()> {
    let wanted = context.count.unwrap_or(100);
    let deepest = state_files("disable").iter().map(|(n, _)| *n).max().unwrap_or(0);
    if deepest < 2 {
        return Err(Error::Setup("this needs idle states of the firmware's".into()));
    }
    let guest = at_work(context, report)?;
    let before = used(deepest);
    let mut result = Ok(());
    for (state, file) in state_files("disable") {
        if state != deepest {
            result = result.and(std::fs::write(&file, "1").map_err(|e| format!("{file}: {e}")));
        }
    }
    let start = Instant::now();
    while used(deepest) - before < wanted && start.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(20));
    }
    for (_, file) in state_files("disable") {
        result = result.and(std::fs::write(&file, "0").map_err(|e| format!("{file}: {e}")));
    }
    let times = used(deepest) - before;
    if times < wanted {
        result = result.and(Err(format!("{times} times, not {wanted}")));
    }
    report.result(&format!("CPUs lose their power {wanted} times and more"), result);
    still_at_work(guest, report)
}

/// The host suspends to RAM, and an alarm wakes it.
pub fn sleep(context: &Context, report: &mut Report) -> Result<()> {
    let count = context.count.unwrap_or(2);
    let guest = at_work(context, report)?;
    let successes = || {
        let text = std::fs::read_to_string("/sys/power/suspend_stats/success").unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or(0)
    };
    let before = successes();
    let mut result = Ok(());
    for number in 1..=count {
        result = result.and_then(|()| suspend_once());
        report.say(format_args!("suspend {number}: {result:?}"));
    }
    let done = successes() - before;
    if result.is_ok() && done != count {
        result = Err(format!("the kernel counts {done}"));
    }
    report.result(&format!("the host suspends {count} times"), result);
    still_at_work(guest, report)
}

fn suspend_once() -> std::result::Result<(), String> {
    const SECONDS: i64 = 4;
    // The kernel arms the real-time clock for the nearest alarm timer when it suspends.
    let timer = timerfd_create(TimerfdClockId::BoottimeAlarm, TimerfdFlags::empty())
        .map_err(|e| format!("an alarm timer: {e}"))?;
    let when = Itimerspec {
        it_interval: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: Timespec {
            tv_sec: SECONDS,
            tv_nsec: 0,
        },
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &when).map_err(|e| format!("an alarm: {e}"))?;
    std::fs::write("/sys/power/state", "mem").map_err(|e| format!("/sys/power/state: {e}"))
}
