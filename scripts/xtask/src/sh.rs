// SPDX-License-Identifier: GPL-2.0-only
//! Running other programs.

use crate::ui::Now;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How much of a failed program's output is shown.
const TAIL: usize = 20;

/// A command with its arguments.
pub fn cmd<S: AsRef<std::ffi::OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// What a command prints, without the newline at its end.
///
/// # Errors
/// One line: it does not start, or fails.
pub fn output(mut command: Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| format!("{name}: {e}"))?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr);
        return Err(format!(
            "{name}: {}",
            stderr.lines().last().unwrap_or("failed").trim()
        ));
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim_end().to_owned())
}

/// Removes a file, which need not be there.
///
/// # Errors
/// One line: it cannot be removed.
pub fn remove(path: &Path) -> Result<(), String> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {e}", path.display())),
        _ => Ok(()),
    }
}

/// Where logs are kept.
pub fn log_dir() -> PathBuf {
    crate::paths::root().join("target/xtask-logs")
}

/// Runs a command with its output in `target/xtask-logs/LOG.log`. Each line of it is offered to `each`.
///
/// # Errors
/// One line that names the log; the end of the log is shown before.
pub fn logged_with(log: &str, mut command: Command, mut each: impl FnMut(&str)) -> Result<(), String> {
    let path = log_dir().join(format!("{log}.log"));
    std::fs::create_dir_all(log_dir()).map_err(|e| format!("{}: {e}", log_dir().display()))?;
    let mut file = File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let _ = writeln!(file, "# {command:?}");
    let name = command.get_program().to_string_lossy().into_owned();
    // One pipe for both streams keeps their lines in order.
    let (reader, writer) = std::io::pipe().map_err(|e| e.to_string())?;
    let copy = writer.try_clone().map_err(|e| e.to_string())?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(copy)
        .spawn()
        .map_err(|e| format!("{name}: {e}"))?;
    // The command holds the write ends, which must close for the reader to see the end.
    drop(command);
    let mut tail = VecDeque::new();
    let mut errors = Vec::new();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let _ = file.write_all(&line);
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        each(&text);
        if errors.len() < TAIL && ["error:", "error["].iter().any(|word| text.contains(word)) {
            errors.push(text.clone());
        }
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(text);
    }
    let status = child.wait().map_err(|e| format!("{name}: {e}"))?;
    if status.success() {
        return Ok(());
    }
    // Lines that name an error say more than the end of a build that goes on around it.
    for line in if errors.is_empty() {
        Vec::from(tail)
    } else {
        errors
    } {
        eprintln!("      {line}");
    }
    Err(format!(
        "{name} failed ({status}); its output is in {}",
        path.display()
    ))
}

/// Runs a command with its output in a log, showing its last line as what the step is at.
///
/// # Errors
/// As [`logged_with`].
pub fn logged(log: &str, command: Command, now: &Now) -> Result<(), String> {
    let mut count = 0;
    logged_with(log, command, |line| {
        count += 1;
        now.set(format!(
            "line {count}: {}",
            line.trim().chars().take(60).collect::<String>()
        ));
    })
}

/// Whether a program is on PATH.
pub fn has(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Reads a text file.
///
/// # Errors
/// One line with its name.
pub fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Writes a file when its contents differ, so that its time stamp says when it changed.
///
/// # Errors
/// One line with its name.
pub fn write(path: &Path, text: &str) -> Result<(), String> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        mkdir(dir)?;
    }
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Makes a directory and those above it.
///
/// # Errors
/// One line with its name.
pub fn mkdir(path: &Path) -> Result<(), String> {
    std::fs::create_dir_all(path).map_err(|e| format!("{}: {e}", path.display()))
}
