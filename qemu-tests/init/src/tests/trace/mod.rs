// SPDX-License-Identifier: GPL-2.0-only
//! EL2's trace as the host's user sees it: the files in tracefs, and the records in them.

mod reasons;
mod remote;

use super::{Fail, Outcome, pin_to_cpu};
use crate::ktap::{Sub, note};
use remote::{EVENTS, Line, Remote, boot_time};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::mem::replace;
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
    ("guest-time", guest_time),
    ("overrun", overrun),
    ("reload", reload),
    ("reset", reset),
    ("hotplug", hotplug),
    ("stream", stream),
    ("reasons", reasons::reasons),
    ("registers", reasons::registers),
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

/// The records by CPU.
fn by_cpu(lines: &[Line]) -> BTreeMap<usize, Vec<Line>> {
    let mut cpus: BTreeMap<usize, Vec<Line>> = BTreeMap::new();
    for line in lines {
        cpus.entry(line.cpu).or_default().push(line.clone());
    }
    cpus
}

/// The times of a CPU must not fall, and must lie between `from` and now.
fn times(lines: &[Line], from: u64) -> Result<(), String> {
    let now = boot_time();
    for line in lines {
        demand(
            line.time + CLOCK_SLACK >= from && line.time <= now + CLOCK_SLACK,
            || format!("a time of {} us, between {from} and {now}: {line:?}", line.time),
        )?;
    }
    for lines in by_cpu(lines).values() {
        for pair in lines.windows(2) {
            demand(pair[0].time <= pair[1].time, || {
                format!("time falls: {:?}, {:?}", pair[0], pair[1])
            })?;
        }
    }
    Ok(())
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
    for (number, (event, fields)) in EVENTS.iter().enumerate() {
        let id = remote.read(&format!("events/hypervisor/{event}/id"))?;
        demand(id.trim() == number.to_string(), || {
            format!("{event} has id {}", id.trim())
        })?;
        let format = remote.read(&format!("events/hypervisor/{event}/format"))?;
        demand(format.contains(&format!("name: {event}\nID: {number}\n")), || {
            format!("{event}: {format}")
        })?;
        let found: Vec<&str> = format
            .lines()
            .filter_map(|line| line.strip_prefix("\tfield:"))
            .skip(1)
            .collect();
        let good = |(line, (field, rest)): (&&str, &(&str, &str))| {
            line.starts_with(&format!("{field};")) && line.ends_with(rest)
        };
        demand(
            found.len() == fields.len() && found.iter().zip(*fields).all(good),
            || format!("{event} has the fields {found:?}"),
        )?;
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
    times(&seen, from)?;
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
    // The first records are those of the call that switches on.
    let before = boot_time();
    remote.on(true)?;
    let from = boot_time();
    for id in 0..50 {
        remote.mark(id)?;
    }
    remote.on(false)?;
    let lines = remote.take(None)?;
    none_lost(&lines)?;
    times(&lines, before)?;
    let of_marks = |line: &&Line| line.event == "selftest";
    times(&lines.iter().filter(of_marks).cloned().collect::<Vec<_>>(), from)?;
    let cpus = by_cpu(&lines);
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

/// Runs a bare-metal guest, protected if so. Returns the number of the thread that ran its vCPU.
fn run_guest(protected: bool) -> Result<u64, String> {
    let mut command = Command::new("/bin/pvm-probe");
    command.args(["--payload", "/guest/payload", "--timeout", "100", "--cpus", "1"]);
    // Odd hypercalls where they are the guest's to make, and forbidden registers.
    if protected {
        command.args(["--param", "0=3", "--param", "1=1", "--protected"]);
    } else {
        command.args(["--param", "0=1", "--param", "1=0"]);
    }
    let mut guest = command
        .args(["--param", "2=1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("pvm-probe: {e}"))?;
    // Once it has said something its vCPU has a thread.
    let mut said = vec![0];
    let thread = guest
        .stdout
        .as_mut()
        .map_or(Ok(()), |out| out.read_exact(&mut said))
        .map_err(|e| format!("the guest says nothing: {e}"))
        .and_then(|()| vcpu_thread(guest.id()));
    let output = guest.wait_with_output().map_err(|e| format!("pvm-probe: {e}"))?;
    demand(output.status.success(), || {
        format!("the guest failed: {}", String::from_utf8_lossy(&output.stdout))
    })?;
    thread
}

/// The thread of a VMM that has the name of the first vCPU's.
fn vcpu_thread(pid: u32) -> Result<u64, String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| format!("threads: {e}"))?;
    tasks
        .flatten()
        .find(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == "vcpu0"))
        .and_then(|task| task.file_name().to_str()?.parse().ok())
        .ok_or_else(|| "the guest's vCPU has no thread".to_owned())
}

/// The kinds of guests that this host can run: protected ones and others.
fn kinds() -> &'static [bool] {
    if crate::system::cmdline_has("kvm-arm.mode=nvhe") {
        &[false]
    } else {
        &[true, false]
    }
}

/// Traces a guest from its first run to its last: the records, the vCPU's thread, and the time before the first record.
fn trace_guest(remote: &Remote, protected: bool) -> Result<(Vec<Line>, u64, u64), String> {
    remote.write("buffer_size_kb", "4096")?;
    remote.event("hyp_enter", true)?;
    remote.event("hyp_exit", true)?;
    let from = boot_time();
    remote.on(true)?;
    let thread = run_guest(protected)?;
    remote.on(false)?;
    let lines = remote.take(None)?;
    remote.clear()?;
    none_lost(&lines)?;
    Ok((lines, thread, from))
}

/// A guest's runs are there, with the thread that runs it.
fn guest(remote: &Remote) -> Result<(), String> {
    for protected in kinds() {
        let (lines, thread, _) = trace_guest(remote, *protected)?;
        for (cpu, lines) in &by_cpu(&lines) {
            alternate(lines).map_err(|why| format!("CPU {cpu}: {why}"))?;
        }
        let is = |line: &Line, what: &[&str]| what.contains(&line.short().as_str());
        let mut runs: Vec<u64> = lines
            .iter()
            .filter(|line| is(line, &["exit eret_guest", "enter guest_exit"]))
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
        demand(runs == [thread], || {
            format!("the guest ran as {runs:?}, and its vCPU's thread is {thread}")
        })?;
        // From the host into EL2 no vCPU runs yet, and none does any more on the way back.
        let of_host = lines
            .iter()
            .filter(|line| is(line, &["enter hvc", "exit eret_host"]));
        for line in of_host {
            demand(line.number("vcpu") == 0, || {
                format!("a vCPU of the host's: {line:?}")
            })?;
        }
    }
    Ok(())
}

/// While a guest runs, records have the host's time, whatever the guest's is.
fn guest_time(remote: &Remote) -> Result<(), String> {
    for protected in kinds() {
        let (lines, _, from) = trace_guest(remote, *protected)?;
        times(&lines, from)?;
    }
    Ok(())
}

/// Buffers that are full lose the oldest page of records, each time that they need one, and say how many.
///
/// The smallest ring has three pages, of which one is the reader's. Nobody reads here until the end, so that two take
/// records.
fn overrun(remote: &Remote) -> Result<(), String> {
    // A header of 16 bytes, and 24 for a record.
    let page = (rustix::param::page_size() as u64 - 16) / 24;
    pin_to_cpu(0)?;
    for total in [page + 30, 2 * page, 2 * page + 1, 4 * page + 20, 29 * page + 70] {
        // A record that comes long after the one before it is larger, so a machine that stood still is asked again.
        let mut tries = 1;
        while !overrun_by(remote, total, page)? {
            tries += 1;
            demand(tries <= 10, || "this machine stands still too often".to_owned())?;
        }
    }
    Ok(())
}

/// Writes records and looks what is left; `false` where one came late.
fn overrun_by(remote: &Remote, total: u64, page: u64) -> Result<bool, String> {
    /// Microseconds; 2^27 ns do not fit into a record's header.
    const LATE: u64 = 100_000;
    remote.event("selftest", true)?;
    remote.on(true)?;
    let mut last = boot_time();
    let mut late = false;
    for id in 0..total {
        remote.mark(id)?;
        late |= boot_time() - replace(&mut last, boot_time()) > LATE;
    }
    let lines = remote.take(Some(0))?;
    remote.clear()?;
    let ids = marks(&lines);
    let lost: u64 = lines.iter().map(|line| line.lost).sum();
    note(&format!("{total} written, {} read, {lost} lost", ids.len()));
    demand(ids.windows(2).all(|w| w[0] < w[1]), || format!("order: {ids:?}"))?;
    demand(ids.last() == Some(&(total - 1)), || {
        format!("the newest is {:?}", ids.last())
    })?;
    // What was lost is told where it is missing.
    let gaps: u64 = ids.windows(2).map(|w| w[1] - w[0] - 1).sum::<u64>() + ids.first().copied().unwrap_or(0);
    demand(gaps == lost && ids.len() as u64 + lost == total, || {
        format!("{total} written, {} read, {lost} lost, {gaps} missing", ids.len())
    })?;
    if late {
        return Ok(false);
    }
    let pages_lost = total.div_ceil(page).saturating_sub(2);
    demand(lost == pages_lost * page, || {
        format!("{lost} records were lost of {total}, not {pages_lost} pages of {page}")
    })?;
    Ok(true)
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
    let from = boot_time();
    remote.on(true)?;
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
    times(&lines, from)?;
    let cpus = by_cpu(&lines);
    for (cpu, lines) in &cpus {
        alternate(lines).map_err(|why| format!("CPU {cpu}: {why}"))?;
    }
    let words: Vec<String> = cpus.get(&1).into_iter().flatten().map(Line::short).collect();
    // CPU_OFF does not come back, and EL2 is entered anew.
    let whole = ["enter smc", "exit smc", "enter psci", "exit psci"];
    let back = words.windows(4).filter(|w| *w == whole).count();
    note(&format!("{} records; CPU 1 came back {back} times", lines.len()));
    // Only in protected mode EL2 has its hands in this.
    if crate::system::cmdline_has("kvm-arm.mode=nvhe") {
        return Ok(());
    }
    demand(back == 10, || format!("CPU 1 came back {back} times"))
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
    times(&lines, from)?;
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
