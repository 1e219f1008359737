// SPDX-License-Identifier: GPL-2.0-only
//! EL2's trace as the host's user sees it: the files in tracefs, and the records in them.

mod remote;

use super::{Fail, Outcome, pin_to_cpu};
use crate::ktap::{Sub, note};
use remote::{EVENTS, Line, Remote, boot_time};
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How far EL2's clock may be off, in microseconds. The host measures the rate for a tenth of a second only.
const CLOCK_SLACK: u64 = 5_000;

type Part = fn(&Remote) -> Result<(), String>;

const PARTS: &[(&str, Part)] = &[
    ("files", files),
    ("selftest", selftest),
    ("pairs", pairs),
    ("guest", guest),
    ("overrun", overrun),
    ("reload", reload),
    ("reset", reset),
    ("hotplug", hotplug),
    ("stream", stream),
];

/// Runs the part that the first word names.
pub fn run(sub: &mut Sub, words: &[String]) -> Outcome {
    let name = words.first().ok_or_else(|| "no part named".to_owned())?;
    if let ("pipe", Some(path)) = (name.as_str(), words.get(1)) {
        return remote::copy(path).map_err(Fail::from);
    }
    let (_, part) = PARTS
        .iter()
        .find(|(n, _)| n == name)
        .ok_or_else(|| format!("no part {name}"))?;
    let remote = Remote::open()?;
    sub.result(name, part(&remote));
    Ok(())
}

/// Fails with `why` where `good` is false.
fn demand(good: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if good { Ok(()) } else { Err(why()) }
}

/// The records by CPU, whose times must not fall and must lie between `from` and now.
fn by_cpu(lines: &[Line], from: u64) -> Result<BTreeMap<usize, Vec<Line>>, String> {
    let now = boot_time();
    let mut cpus: BTreeMap<usize, Vec<Line>> = BTreeMap::new();
    for line in lines {
        demand(
            line.time + CLOCK_SLACK >= from && line.time <= now + CLOCK_SLACK,
            || format!("a time of {} us, between {from} and {now}: {line:?}", line.time),
        )?;
        let of_cpu = cpus.entry(line.cpu).or_default();
        if let Some(last) = of_cpu.last() {
            demand(last.time <= line.time, || {
                format!("time falls: {last:?}, {line:?}")
            })?;
        }
        of_cpu.push(line.clone());
    }
    Ok(cpus)
}

fn none_lost(lines: &[Line]) -> Result<(), String> {
    match lines.iter().find(|line| line.lost != 0) {
        None => Ok(()),
        Some(line) => Err(format!("{} records were lost before {line:?}", line.lost)),
    }
}

/// The numbers of `selftest` records.
fn marks(lines: &[Line]) -> Vec<u64> {
    lines
        .iter()
        .filter(|line| line.event == "selftest")
        .map(|line| line.number("id"))
        .collect()
}

/// The events are there, with the kernel's names, numbers and fields.
fn files(remote: &Remote) -> Result<(), String> {
    for (number, event) in EVENTS.iter().enumerate() {
        let id = remote.read(&format!("events/hypervisor/{event}/id"))?;
        demand(id.trim() == number.to_string(), || {
            format!("{event} has id {}", id.trim())
        })?;
        let format = remote.read(&format!("events/hypervisor/{event}/format"))?;
        demand(format.contains(&format!("name: {event}")), || {
            format!("{event}: {format}")
        })?;
    }
    demand(remote.read("trace_clock")?.trim() == "[boot]", || {
        "another clock".to_owned()
    })?;
    demand(!remote.is_loaded()?, || {
        "buffers are loaded before they are used".to_owned()
    })
}

/// What the host has EL2 write comes back, once by looking and once by taking it out.
fn selftest(remote: &Remote) -> Result<(), String> {
    pin_to_cpu(1)?;
    remote.on(true)?;
    remote.mark(99)?;
    demand(remote.peek(None)?.is_empty(), || {
        "an event that is off was written".to_owned()
    })?;
    remote.event("selftest", true)?;
    let from = boot_time();
    // The last number must not lose its high half.
    let ids: Vec<u64> = (1..=5).chain([0x1234_5678_9abc_def0]).collect();
    for id in &ids {
        remote.mark(*id)?;
    }
    let seen = remote.peek(None)?;
    by_cpu(&seen, from)?;
    demand(marks(&seen) == ids, || {
        format!("looking shows {:?}", marks(&seen))
    })?;
    demand(seen.iter().all(|line| line.cpu == 1), || {
        format!("another CPU: {seen:?}")
    })?;
    demand(remote.peek(Some(1))?.len() == ids.len(), || {
        "CPU 1 shows other records".to_owned()
    })?;
    demand(remote.peek(Some(0))?.is_empty(), || {
        "CPU 0 has records".to_owned()
    })?;
    let taken = remote.take(None)?;
    demand(taken == seen, || format!("taken {taken:?}, seen {seen:?}"))?;
    demand(remote.peek(None)?.is_empty(), || {
        "records were taken and are still there".to_owned()
    })?;
    remote.event("selftest", false)?;
    remote.mark(7)?;
    demand(remote.take(None)?.is_empty(), || {
        "an event that is off again was written".to_owned()
    })?;
    remote.on(false)?;
    demand(!remote.is_loaded()?, || "empty buffers stay loaded".to_owned())
}

/// EL2 is entered and left in turn, and a hypercall lies between.
fn pairs(remote: &Remote) -> Result<(), String> {
    pin_to_cpu(0)?;
    remote.write("buffer_size_kb", "512")?;
    remote.write("events/enable", "1")?;
    remote.on(true)?;
    let from = boot_time();
    for id in 0..50 {
        remote.mark(id)?;
    }
    remote.on(false)?;
    let lines = remote.take(None)?;
    none_lost(&lines)?;
    let cpus = by_cpu(&lines, from)?;
    for (cpu, lines) in &cpus {
        alternate(lines).map_err(|why| format!("CPU {cpu}: {why}"))?;
    }
    demand(marks(&lines) == (0..50).collect::<Vec<_>>(), || {
        format!("marks {:?}", marks(&lines))
    })?;
    let words: Vec<String> = cpus.get(&0).into_iter().flatten().map(Line::short).collect();
    let whole = ["enter hvc", "selftest", "exit eret_host"];
    let count = words.windows(3).filter(|w| *w == whole).count();
    demand(count == 50, || format!("{count} of 50 hypercalls are whole"))?;
    demand(
        lines
            .iter()
            .all(|line| line.event == "selftest" || line.number("vcpu") == 0),
        || "a vCPU runs where there is none".to_owned(),
    )
}

/// Each entry is followed by the exit that belongs to it. The first record may be any, as tracing began within EL2.
fn alternate(lines: &[Line]) -> Result<(), String> {
    let edges: Vec<&Line> = lines.iter().filter(|line| line.event != "selftest").collect();
    for pair in edges.windows(2) {
        demand(pair[0].event != pair[1].event, || {
            format!("{:?} is followed by {:?}", pair[0], pair[1])
        })?;
        let (first, second) = (pair[0].short(), pair[1].short());
        let good = match first.as_str() {
            "exit eret_guest" => second == "enter guest_exit",
            "enter psci" => second == "exit psci",
            // A call to firmware comes back as one, unless the CPU went off.
            "exit smc" => ["enter smc", "enter psci"].contains(&second.as_str()),
            "exit eret_host" | "exit psci" => {
                ["enter hvc", "enter smc", "enter sys", "enter host_abort"].contains(&second.as_str())
            }
            "enter guest_exit" => {
                ["exit eret_guest", "exit eret_host", "exit smc"].contains(&second.as_str())
            }
            _ => second.starts_with("exit "),
        };
        demand(good, || format!("{:?} is followed by {:?}", pair[0], pair[1]))?;
    }
    Ok(())
}

/// Runs a bare-metal guest, protected if so.
fn run_guest(protected: bool) -> Result<(), String> {
    let mut command = Command::new("/bin/pvm-probe");
    command.args(["--payload", "/guest/payload", "--timeout", "100", "--cpus", "1"]);
    command.args(["--param", "0=3", "--param", "2=1"]);
    if protected {
        command.args(["--param", "1=1", "--protected"]);
    } else {
        command.args(["--param", "1=0"]);
    }
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("pvm-probe: {e}"))?;
    demand(output.status.success(), || {
        format!("the guest failed: {}", String::from_utf8_lossy(&output.stdout))
    })
}

/// A guest's runs are there, with the thread that runs it, and with the host's time whatever the guest's is.
fn guest(remote: &Remote) -> Result<(), String> {
    let protected_host = !crate::system::cmdline_has("kvm-arm.mode=nvhe");
    for protected in [true, false] {
        if protected && !protected_host {
            continue;
        }
        remote.write("buffer_size_kb", "4096")?;
        remote.event("hyp_enter", true)?;
        remote.event("hyp_exit", true)?;
        remote.on(true)?;
        let from = boot_time();
        run_guest(protected)?;
        remote.on(false)?;
        let lines = remote.take(None)?;
        none_lost(&lines)?;
        let cpus = by_cpu(&lines, from)?;
        for (cpu, lines) in &cpus {
            alternate(lines).map_err(|why| format!("CPU {cpu}: {why}"))?;
        }
        let is_guest =
            |line: &&Line| ["exit eret_guest", "enter guest_exit"].contains(&line.short().as_str());
        let mut runs: Vec<u64> = lines
            .iter()
            .filter(is_guest)
            .map(|line| line.number("vcpu"))
            .collect();
        let count = runs.len();
        runs.sort_unstable();
        runs.dedup();
        note(&format!(
            "{} records, {count} of the guest's, vCPU {runs:?}",
            lines.len()
        ));
        demand(count > 20, || format!("{count} records of the guest"))?;
        demand(runs.len() == 1 && runs[0] > 1, || {
            format!("the guest ran as {runs:?}")
        })?;
        // From the host into EL2 no vCPU runs yet.
        let entries = lines.iter().filter(|line| line.short() == "enter hvc");
        demand(entries.clone().all(|line| line.number("vcpu") == 0), || {
            "hvc of a vCPU".to_owned()
        })?;
        remote.clear()?;
    }
    Ok(())
}

/// Buffers that are full lose the oldest records, and say how many.
fn overrun(remote: &Remote) -> Result<(), String> {
    pin_to_cpu(0)?;
    for total in [200, 340, 341, 700, 5000] {
        remote.event("selftest", true)?;
        remote.on(true)?;
        for id in 0..total {
            remote.mark(id)?;
        }
        let lines = remote.take(Some(0))?;
        let ids = marks(&lines);
        let lost: u64 = lines.iter().map(|line| line.lost).sum();
        note(&format!("{total} written, {} read, {lost} lost", ids.len()));
        demand(ids.windows(2).all(|w| w[0] < w[1]), || format!("order: {ids:?}"))?;
        demand(ids.last() == Some(&(total - 1)), || {
            format!("the newest is {:?}", ids.last())
        })?;
        // The oldest page is the reader's, and what was lost lies behind it.
        let gaps: u64 =
            ids.windows(2).map(|w| w[1] - w[0] - 1).sum::<u64>() + ids.first().copied().unwrap_or(0);
        demand(gaps == lost && ids.len() as u64 + lost == total, || {
            format!("{total} written, {} read, {lost} lost, {gaps} missing", ids.len())
        })?;
        // Room for three pages of 170 records.
        demand(total < 340 || lost + 2 * 170 <= total, || {
            "too few were lost".to_owned()
        })?;
        demand(ids.len() >= 170.min(total as usize), || {
            "too many were lost".to_owned()
        })?;
        remote.clear()?;
    }
    Ok(())
}

/// Buffers of many sizes come and go.
fn reload(remote: &Remote) -> Result<(), String> {
    pin_to_cpu(0)?;
    for round in 0..24_u64 {
        let size = [1, 7, 8, 64, 300, 8192][round as usize % 6];
        remote.write("buffer_size_kb", &size.to_string())?;
        remote.event("selftest", true)?;
        remote.on(true)?;
        demand(remote.is_loaded()?, || "on and not loaded".to_owned())?;
        demand(remote.write("buffer_size_kb", "9").is_err(), || {
            "the size changed".to_owned()
        })?;
        remote.mark(round)?;
        remote.on(false)?;
        // Off, a record is still there and keeps the buffers.
        demand(remote.is_loaded()?, || "unloaded with a record in it".to_owned())?;
        remote.mark(1000)?;
        let ids = marks(&remote.take(None)?);
        demand(ids == [round], || format!("round {round}, {size} KiB: {ids:?}"))?;
        demand(!remote.is_loaded()?, || format!("round {round}: not unloaded"))?;
    }
    Ok(())
}

/// Emptying one CPU's buffer leaves the other's, and writing goes on.
fn reset(remote: &Remote) -> Result<(), String> {
    remote.event("selftest", true)?;
    remote.on(true)?;
    let write = |cpu: usize, ids: std::ops::Range<u64>| {
        pin_to_cpu(cpu)?;
        ids.into_iter().try_for_each(|id| remote.mark(id))
    };
    write(0, 0..1000)?;
    write(1, 2000..2010)?;
    remote.write("per_cpu/cpu0/trace", "")?;
    let seen = marks(&remote.peek(None)?);
    demand(seen == (2000..2010).collect::<Vec<_>>(), || {
        format!("after CPU 0's reset: {seen:?}")
    })?;
    write(0, 3000..3005)?;
    let seen = marks(&remote.peek(Some(0))?);
    demand(seen == (3000..3005).collect::<Vec<_>>(), || {
        format!("CPU 0 then: {seen:?}")
    })?;
    // A reader who has a page half read is not told the rest of it.
    let mut pipe = remote.pipe(Some(1))?;
    pipe.drain(Duration::from_millis(300))?;
    write(1, 2010..2015)?;
    remote.write("trace", "")?;
    write(1, 2020..2022)?;
    let ids = marks(&pipe.drain(Duration::from_millis(500))?);
    drop(pipe);
    demand(ids.ends_with(&[2020, 2021]), || {
        format!("a reader across a reset got {ids:?}")
    })?;
    remote.write("trace", "")?;
    demand(remote.take(None)?.is_empty(), || {
        "records outlive a reset".to_owned()
    })?;
    remote.on(false)?;
    demand(!remote.is_loaded()?, || "not unloaded".to_owned())
}

/// CPU 1 goes and comes while its trace is read.
fn hotplug(remote: &Remote) -> Result<(), String> {
    const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";
    pin_to_cpu(0)?;
    remote.write("buffer_size_kb", "1024")?;
    remote.event("hyp_enter", true)?;
    remote.event("hyp_exit", true)?;
    remote.on(true)?;
    let from = boot_time();
    let mut pipe = remote.pipe(None)?;
    let mut lines = Vec::new();
    for round in 0..10 {
        for state in ["0", "1"] {
            fs::write(ONLINE, state).map_err(|e| format!("CPU 1 to {state}: {e}"))?;
        }
        if round % 3 == 0 {
            lines.extend(pipe.drain(Duration::from_millis(150))?);
        }
    }
    remote.on(false)?;
    lines.extend(pipe.drain(Duration::from_millis(500))?);
    drop(pipe);
    none_lost(&lines)?;
    let cpus = by_cpu(&lines, from)?;
    for (cpu, lines) in &cpus {
        alternate(lines).map_err(|why| format!("CPU {cpu}: {why}"))?;
    }
    let back = |cpu: usize| {
        let lines = cpus.get(&cpu).into_iter().flatten();
        lines.filter(|line| line.short() == "enter psci").count()
    };
    note(&format!(
        "{} records; CPU 1 came back {} times",
        lines.len(),
        back(1)
    ));
    // Only in protected mode EL2 has its hands in this.
    if crate::system::cmdline_has("kvm-arm.mode=nvhe") {
        return Ok(());
    }
    demand(back(1) == 10, || format!("CPU 1 came back {} times", back(1)))
}

/// One CPU writes as fast as it can while the other reads.
fn stream(remote: &Remote) -> Result<(), String> {
    const TOTAL: u64 = 20_000;
    remote.write("buffer_size_kb", "16")?;
    remote.event("selftest", true)?;
    remote.on(true)?;
    let from = boot_time();
    let mut pipe = remote.pipe(Some(0))?;
    let lines = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            pin_to_cpu(0)?;
            (0..TOTAL).try_for_each(|id| remote.mark(id))
        });
        let mut lines = Vec::new();
        while !writer.is_finished() {
            lines.extend(pipe.drain(Duration::from_millis(20))?);
        }
        writer.join().map_err(|_| "the writer died".to_owned())??;
        lines.extend(pipe.drain(Duration::from_millis(500))?);
        Ok::<_, String>(lines)
    })?;
    by_cpu(&lines, from)?;
    let ids = marks(&lines);
    let lost: u64 = lines.iter().map(|line| line.lost).sum();
    note(&format!("{TOTAL} written, {} read, {lost} lost", ids.len()));
    demand(ids.windows(2).all(|w| w[0] < w[1]), || {
        "records out of order or twice".to_owned()
    })?;
    demand(ids.last() == Some(&(TOTAL - 1)), || {
        format!("the last is {:?}", ids.last())
    })?;
    demand(ids.len() as u64 + lost == TOTAL, || {
        format!("{} read and {lost} lost", ids.len())
    })
}
