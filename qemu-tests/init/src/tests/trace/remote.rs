// SPDX-License-Identifier: GPL-2.0-only
//! The files of EL2's trace in tracefs, and the lines in them.

use crate::tests::Fail;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

const ROOT: &str = "/sys/kernel/tracing/remotes/hypervisor";

/// A field: type and name, size and sign as the file `format` says them. That file's offsets leave the gaps of the
/// structure out and are good for nothing.
type Field = (&'static str, &'static str);

/// What `hyp_enter` and `hyp_exit` hold.
const REASON_AND_VCPU: &[Field] = &[
    ("u8 reason", "size:1;\tsigned:0;"),
    ("pid_t vcpu", "size:4;\tsigned:1;"),
];

/// The events, in the order of their numbers, and their fields.
pub const EVENTS: [(&str, &[Field]); 3] = [
    ("hyp_enter", REASON_AND_VCPU),
    ("hyp_exit", REASON_AND_VCPU),
    ("selftest", &[("u64 id", "size:8;\tsigned:0;")]),
];

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The CPU that wrote it.
    pub cpu: usize,
    /// Its time in microseconds.
    pub time: u64,
    /// The event's name.
    pub event: String,
    /// What follows the name.
    pub fields: String,
    /// Records of this CPU that were lost before it.
    pub lost: u64,
}

impl Line {
    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .split_whitespace()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// The value of a field that is a number.
    pub fn number(&self, name: &str) -> u64 {
        self.field(name)
            .and_then(|text| text.parse().ok())
            .unwrap_or(u64::MAX)
    }

    /// `hyp_enter` or `hyp_exit` with its reason, or the event's name.
    pub fn short(&self) -> String {
        match (self.event.as_str(), self.field("reason")) {
            ("hyp_enter", Some(reason)) => format!("enter {reason}"),
            ("hyp_exit", Some(reason)) => format!("exit {reason}"),
            (event, _) => event.to_owned(),
        }
    }
}

/// EL2's trace, off and empty when this is made and when it goes.
pub struct Remote {
    root: &'static str,
}

impl Remote {
    /// Finds it. Its tests run only on a kernel that must have it; where the C object has none, there is nothing to
    /// compare with.
    pub fn open() -> Result<Self, Fail> {
        if !fs::exists(ROOT)? {
            return Err(Fail::of_kernel("this kernel has no trace of EL2"));
        }
        let remote = Self { root: ROOT };
        remote.clear()?;
        Ok(remote)
    }

    /// Stops, switches all events off, empties the buffers and so has them unloaded.
    pub fn clear(&self) -> Result<(), String> {
        self.write("tracing_on", "0")?;
        self.write("events/enable", "0")?;
        self.write("trace", "")?;
        self.write("buffer_size_kb", "7")
    }

    /// Writes to a file.
    pub fn write(&self, name: &str, text: &str) -> Result<(), String> {
        OpenOptions::new()
            .write(true)
            .open(format!("{}/{name}", self.root))
            .and_then(|mut file| file.write_all(format!("{text}\n").as_bytes()))
            .map_err(|e| format!("write {name}: {e}"))
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> Result<String, String> {
        fs::read_to_string(format!("{}/{name}", self.root)).map_err(|e| format!("read {name}: {e}"))
    }

    /// Switches an event.
    pub fn event(&self, name: &str, on: bool) -> Result<(), String> {
        self.write(
            &format!("events/hypervisor/{name}/enable"),
            if on { "1" } else { "0" },
        )
    }

    /// Starts or stops.
    pub fn on(&self, on: bool) -> Result<(), String> {
        self.write("tracing_on", if on { "1" } else { "0" })
    }

    /// Has EL2 write a `selftest` record.
    pub fn mark(&self, id: u64) -> Result<(), String> {
        self.write("write_event", &id.to_string())
    }

    /// What is in the buffers, without taking it out. With `cpu`, that CPU's.
    pub fn peek(&self, cpu: Option<usize>) -> Result<Vec<Line>, String> {
        lines(&self.read(&in_dir(cpu, "trace"))?)
    }

    /// Takes everything out of the buffers that is there.
    pub fn take(&self, cpu: Option<usize>) -> Result<Vec<Line>, String> {
        let mut pipe = self.pipe(cpu)?;
        pipe.drain(Duration::from_millis(400))
    }

    /// Opens the `trace_pipe` of a CPU, or of all.
    pub fn pipe(&self, cpu: Option<usize>) -> Result<Pipe, String> {
        Pipe::open(&format!("{}/{}", self.root, in_dir(cpu, "trace_pipe")))
    }

    /// Whether buffers are loaded at EL2.
    pub fn is_loaded(&self) -> Result<bool, String> {
        Ok(!self.read("buffer_size_kb")?.contains("unloaded"))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}

fn in_dir(cpu: Option<usize>, name: &str) -> String {
    match cpu {
        None => name.to_owned(),
        Some(cpu) => format!("per_cpu/cpu{cpu}/{name}"),
    }
}

/// A `trace_pipe` that a process of its own reads: the kernel waits for records whatever the file's flags say, and only a
/// signal ends that.
pub struct Pipe {
    reader: Child,
    blocks: Receiver<Vec<u8>>,
    text: String,
}

impl Pipe {
    /// Opens the file.
    fn open(path: &str) -> Result<Self, String> {
        let mut command = Command::new("/proc/self/exe");
        command.args(["--test", "trace", "pipe", path]);
        let mut reader = command
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("the reader of the pipe: {e}"))?;
        let mut out = reader.stdout.take().ok_or("the reader has no output")?;
        let (send, blocks) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut block = vec![0; 4096];
            while let Ok(count @ 1..) = out.read(&mut block) {
                if send.send(block[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            reader,
            blocks,
            text: String::new(),
        })
    }

    /// The records that come until none came for `quiet`.
    pub fn drain(&mut self, quiet: Duration) -> Result<Vec<Line>, String> {
        let limit = Instant::now() + Duration::from_mins(1);
        while let Ok(block) = self.blocks.recv_timeout(quiet) {
            self.text.push_str(&String::from_utf8_lossy(&block));
            if Instant::now() > limit {
                return Err("the pipe has no end".to_owned());
            }
        }
        let end = self.text.rfind('\n').map_or(0, |at| at + 1);
        let rest = self.text.split_off(end);
        lines(&std::mem::replace(&mut self.text, rest))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let _ = self.reader.kill();
        let _ = self.reader.wait();
    }
}

/// What the process that reads a pipe does.
pub fn copy(path: &str) -> std::io::Result<()> {
    std::io::copy(&mut File::open(path)?, &mut std::io::stdout()).map(drop)
}

/// Reads `[000]\t    1.000002: selftest id=3` and `CPU:0 [LOST 5 EVENTS]`.
pub fn lines(text: &str) -> Result<Vec<Line>, String> {
    let mut all = Vec::new();
    let mut lost = 0;
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let bad = || format!("not a record: {line:?}");
        if let Some(rest) = line.strip_prefix("CPU:") {
            let count = rest.split("[LOST ").nth(1).and_then(|r| r.split(' ').next());
            lost += count.and_then(|c| c.parse::<u64>().ok()).ok_or_else(bad)?;
            continue;
        }
        let (cpu, rest) = line
            .strip_prefix('[')
            .and_then(|r| r.split_once(']'))
            .ok_or_else(bad)?;
        let (time, rest) = rest.trim_start().split_once(": ").ok_or_else(bad)?;
        let (seconds, micros) = time.split_once('.').ok_or_else(bad)?;
        let (event, fields) = rest.split_once(' ').unwrap_or((rest, ""));
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| bad());
        all.push(Line {
            cpu: number(cpu)? as usize,
            time: number(seconds)? * 1_000_000 + number(micros)?,
            event: event.to_owned(),
            fields: fields.trim().to_owned(),
            lost: std::mem::take(&mut lost),
        });
    }
    Ok(all)
}

/// The clock of the trace, in microseconds.
pub fn boot_time() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1000
}
