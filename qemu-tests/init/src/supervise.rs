// SPDX-License-Identifier: GPL-2.0-only
//! Runs one test as a child process: its output becomes nested KTAP, its time is limited, its status is the result.

use crate::ktap::Ktap;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// The exit status by which a test says that this machine cannot run it.
pub const SKIP: i32 = 4;

/// A line of the table of tests: name, seconds, program and arguments, separated by tabs.
pub struct Test {
    name: String,
    limit: Duration,
    argv: Vec<String>,
}

/// Reads the table, and picks the tests that `names` names, in that order.
///
/// # Errors
/// The file cannot be read, a line is malformed, or a name is not in it.
pub fn table(path: &str, names: Option<&[String]>) -> Result<Vec<Test>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    let mut tests = Vec::new();
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        let mut fields = line.split('\t').map(String::from);
        let (Some(name), Some(limit)) = (fields.next(), fields.next().and_then(|s| s.parse().ok())) else {
            return Err(format!("{path}: not a test: {line}"));
        };
        tests.push(Test {
            name,
            limit: Duration::from_secs(limit),
            argv: fields.collect(),
        });
    }
    let Some(names) = names else { return Ok(tests) };
    let mut picked = Vec::new();
    for name in names {
        let index = tests
            .iter()
            .position(|t| t.name == *name)
            .ok_or(format!("{path}: no test {name}"))?;
        picked.push(tests.swap_remove(index));
    }
    Ok(picked)
}

/// Runs a test and writes its result line, after whatever it said.
pub fn run(test: &Test, number: usize, out: &mut Ktap) {
    let line = match attempt(test, out) {
        Ok(Verdict::Passed) => format!("ok {number} {}", test.name),
        Ok(Verdict::Skipped(why)) => format!("ok {number} {} # SKIP {why}", test.name),
        Err(why) => {
            out.line(&format!("# {}: {why}", test.name));
            format!("not ok {number} {}", test.name)
        }
    };
    out.line(&line);
}

enum Verdict {
    Passed,
    Skipped(String),
}

fn attempt(test: &Test, out: &mut Ktap) -> Result<Verdict, String> {
    let (program, arguments) = test.argv.split_first().ok_or("no program")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Its own group, so that what it starts can be ended with it.
        .process_group(0)
        .spawn()
        .map_err(|e| format!("{program}: {e}"))?;
    let (send, lines) = mpsc::channel();
    for stream in [
        child.stdout.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
        child.stderr.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
    ]
    .into_iter()
    .flatten()
    {
        let send = send.clone();
        std::thread::spawn(move || pump(stream, &send));
    }
    drop(send);

    out.line("    KTAP version 1");
    let start = Instant::now();
    let mut last = String::new();
    loop {
        let left = test.limit.saturating_sub(start.elapsed());
        match lines.recv_timeout(left.min(Duration::from_millis(200))) {
            Ok(line) => {
                out.line(&format!("    {}", ktap_or_note(&line)));
                if !line.trim().is_empty() {
                    last = line;
                }
            }
            // Both pipes are closed: only the status is missing.
            Err(RecvTimeoutError::Disconnected) => {
                if left.is_zero() {
                    return Err(too_long(test, &mut child));
                }
                if child.try_wait().map_err(|e| e.to_string())?.is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(RecvTimeoutError::Timeout) => {
                if left.is_zero() {
                    return Err(too_long(test, &mut child));
                }
                // A grandchild may hold the pipe open after the test itself has ended.
                if child.try_wait().map_err(|e| e.to_string())?.is_some() {
                    break;
                }
            }
        }
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    // What it wrote last may still be on its way through the pipes; a grandchild that holds them open is not waited for.
    while let Ok(line) = lines.recv_timeout(Duration::from_secs(2)) {
        out.line(&format!("    {}", ktap_or_note(&line)));
        last = line;
    }
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(Verdict::Passed),
        (Some(SKIP), _) => Ok(Verdict::Skipped(last.trim_start_matches("# ").to_owned())),
        (Some(code), _) => Err(format!("exit status {code}")),
        (None, Some(signal)) => Err(format!("killed by signal {signal}")),
        (None, None) => Err("ended without a status".to_owned()),
    }
}

fn too_long(test: &Test, child: &mut std::process::Child) -> String {
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    // A child that is stuck in the kernel cannot be killed, and the wait for it must not hang the rest. The end of a
    // large VM takes its time.
    for _ in 0..600 {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return format!("no end within {} s", test.limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    format!("no end within {} s, and cannot be killed", test.limit.as_secs())
}

fn pump(stream: impl Read, out: &mpsc::Sender<String>) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
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

/// A test's own KTAP is passed on; anything else becomes a remark, so that it cannot be taken for a result.
fn ktap_or_note(line: &str) -> String {
    let text = line.trim_start();
    let numbered = |rest: &str| rest.split(' ').next().is_some_and(|n| n.parse::<u32>().is_ok());
    let is_ktap = text.strip_prefix("ok ").is_some_and(numbered)
        || text.strip_prefix("not ok ").is_some_and(numbered)
        || text.strip_prefix("1..").is_some_and(numbered)
        || text.starts_with("# ");
    if is_ktap {
        line.to_owned()
    } else {
        format!("# {line}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_words_become_remarks() {
        assert_eq!(ktap_or_note("ok 1 a"), "ok 1 a");
        assert_eq!(ktap_or_note("ok then"), "# ok then");
        assert_eq!(ktap_or_note("KTAP version 1"), "# KTAP version 1");
        assert_eq!(ktap_or_note("# a"), "# a");
    }
}
