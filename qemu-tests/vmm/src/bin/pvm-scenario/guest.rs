// SPDX-License-Identifier: GPL-2.0-only
//! A Linux guest in a child process: `pvm-run`, with its console on pipes.

use crate::Context;
use crate::report::line;
use pkvm_vmm::vm::Kind;
use pkvm_vmm::{Error, Result};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Bytes of a guest's disk.
const DISK_SIZE: u64 = 4 << 20;
/// Where the guest writes its pattern, and how much of it.
const PATTERN_AT: u64 = 1 << 20;
const PATTERN_SIZE: usize = 1 << 20;

/// What to boot.
pub struct Options<'a> {
    /// What its lines are marked with.
    pub name: &'a str,
    /// Normal or protected.
    pub kind: Kind,
    /// How many vCPUs.
    pub cpus: u32,
    /// Words for the guest's init.
    pub extra: &'a str,
}

/// A running guest.
pub struct Guest {
    name: String,
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    disk: PathBuf,
    seed: String,
}

/// The command line of `pvm-run` for a guest.
fn command(context: &Context, options: &Options<'_>) -> Command {
    let mut command = Command::new(&context.run);
    command
        .arg("--kernel")
        .arg(&context.kernel)
        .arg("--initrd")
        .arg(&context.initrd);
    command.args(["--mem", "128M", "--cpus", &options.cpus.to_string()]);
    command
        .arg("--cmdline")
        .arg(format!("console=ttyS0 panic=-1 quiet {}", options.extra));
    if options.kind == Kind::Protected {
        command.arg("--protected");
    }
    command
}

impl Guest {
    /// Makes a disk and boots a guest on it.
    pub fn boot(context: &Context, options: &Options<'_>) -> Result<Self> {
        let disk = context
            .tmp
            .join(format!("disk-{}-{}", options.name, std::process::id()));
        let seed = seed(options.name)?;
        std::fs::File::create(&disk)
            .and_then(|file| {
                file.set_len(DISK_SIZE)
                    .and_then(|()| file.write_all_at(seed.as_bytes(), 0))
            })
            .map_err(|e| Error::setup(format_args!("disk {}", disk.display()), e))?;
        let mut child = command(context, options)
            .arg("--disk")
            .arg(&disk)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Error::setup(context.run.display(), e))?;
        let (send, lines) = channel();
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
        Ok(Self {
            name: options.name.to_owned(),
            child,
            lines,
            seen: Vec::new(),
            disk,
            seed,
        })
    }

    /// Waits for a line that contains `marker`.
    pub fn await_line(&mut self, marker: &str, limit: Duration) -> std::result::Result<(), String> {
        self.drain(Some(marker), limit)
    }

    /// Types `text` on the guest's console.
    pub fn type_in(&mut self, text: &str) -> std::result::Result<(), String> {
        let stdin = self.child.stdin.as_mut().ok_or("its console takes no input")?;
        stdin
            .write_all(text.as_bytes())
            .and_then(|()| stdin.flush())
            .map_err(|e| e.to_string())
    }

    /// Takes the lines that are there already, so that the next one waited for is a new one.
    pub fn forget(&mut self) {
        while let Ok(text) = self.lines.try_recv() {
            line(&format!("# {}| {text}", self.name));
            self.seen.push(text);
        }
    }

    /// Waits for the end of pvm-run.
    pub fn await_end(&mut self, limit: Duration) -> std::result::Result<ExitStatus, String> {
        self.drain(None, limit)?;
        self.child.wait().map_err(|e| e.to_string())
    }

    /// Takes lines until one contains `marker` or, without a marker, until both pipes are closed.
    fn drain(&mut self, marker: Option<&str>, limit: Duration) -> std::result::Result<(), String> {
        let until = Instant::now() + limit;
        loop {
            match self
                .lines
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(text) => {
                    line(&format!("# {}| {text}", self.name));
                    let found = marker.is_some_and(|marker| text.contains(marker));
                    self.seen.push(text);
                    if found {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Disconnected) if marker.is_none() => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err("the guest ended too early".into()),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("not within {} s", limit.as_secs()));
                }
            }
        }
    }

    /// Whether the guest has said `text`.
    pub fn said(&self, text: &str) -> std::result::Result<(), String> {
        self.seen
            .iter()
            .any(|l| l.contains(text))
            .then_some(())
            .ok_or_else(|| format!("the guest never said \"{text}\""))
    }

    /// Kills pvm-run as `kill -9` does, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .and_then(|()| self.child.wait().map(drop))
            .map_err(|e| Error::setup("kill pvm-run", e))
    }

    /// What the guest said about its disk, and the file itself, must be what `rounds` rounds leave.
    pub fn check_disk(&self, rounds: u32) -> std::result::Result<(), String> {
        self.said(&format!("GUEST disk says: {}", self.seed))?;
        self.said(&format!(
            "GUEST disk round {rounds}: 1 MiB written, flushed and read back"
        ))?;
        let mut on_disk = vec![0; PATTERN_SIZE];
        std::fs::File::open(&self.disk)
            .and_then(|file| file.read_exact_at(&mut on_disk, PATTERN_AT))
            .map_err(|e| e.to_string())?;
        let pattern = format!("{} round {rounds}\n", self.seed);
        let same = on_disk.iter().zip(pattern.bytes().cycle()).all(|(a, b)| *a == b);
        same.then_some(())
            .ok_or_else(|| "the host finds something else on the disk than the guest wrote".into())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.disk);
    }
}

/// Runs `pvm-run` with `words` alone, as `user` where one is given, and returns its status and what it wrote to standard error.
pub fn try_run(context: &Context, words: &[&str], user: Option<u32>) -> Result<(Option<i32>, String)> {
    let mut command = Command::new(&context.run);
    if let Some(user) = user {
        command.uid(user);
    }
    let output = command
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::setup(context.run.display(), e))?;
    Ok((
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

/// 32 characters that no other guest's disk starts with.
fn seed(name: &str) -> Result<String> {
    let mut raw = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut raw))
        .map_err(|e| Error::setup("/dev/urandom", e))?;
    Ok(format!(
        "{:<15.15}-{:016x}",
        format!("disk of {name}"),
        u64::from_le_bytes(raw)
    )
    .replace(' ', "_"))
}

/// The text without what a shell says to its terminal alone: control characters, and sequences that start with ESC [.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            // The sequence ends with a letter.
            chars.by_ref().find(char::is_ascii_alphabetic);
        } else if !c.is_control() || c == '\t' {
            out.push(c);
        }
    }
    out
}

fn pump(stream: impl Read, out: &Sender<String>) {
    for text in BufReader::new(stream)
        .split(b'\n')
        .map_while(std::result::Result::ok)
    {
        let text = plain(&String::from_utf8_lossy(&text));
        if !text.trim().is_empty() && out.send(text).is_err() {
            return;
        }
    }
}
