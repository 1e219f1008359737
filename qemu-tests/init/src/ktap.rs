// SPDX-License-Identifier: GPL-2.0-only
//! Writes KTAP, one line at a time through `/dev/kmsg`: there a line cannot be torn by the kernel's own, and it carries
//! a time stamp.

use std::fs::{File, OpenOptions};
use std::io::Write;

/// Where result lines go.
pub struct Ktap {
    kmsg: Option<File>,
}

impl Ktap {
    /// Opens the kernel's log, or falls back on standard output.
    pub fn open() -> Self {
        Self {
            kmsg: OpenOptions::new().write(true).open("/dev/kmsg").ok(),
        }
    }

    /// Writes one line. A long one is cut, since the kernel refuses records above about a thousand bytes.
    pub fn line(&mut self, text: &str) {
        let mut end = text.len().min(900);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = &text[..end];
        match &mut self.kmsg {
            // <6> is KERN_INFO: below the console's level, so that it is shown.
            Some(kmsg) => {
                let _ = kmsg.write_all(format!("<6>{text}\n").as_bytes());
            }
            None => println!("{text}"),
        }
    }
}

/// What a test's child writes to its standard output: subtests and remarks, counted as they come.
#[derive(Default)]
pub struct Sub {
    count: u32,
    failed: u32,
}

impl Sub {
    /// The result of a subtest; `why` is shown when it failed.
    pub fn result(&mut self, name: &str, result: Result<(), String>) {
        self.count += 1;
        match result {
            Ok(()) => println!("ok {} {name}", self.count),
            Err(why) => {
                self.failed += 1;
                note(&format!("{name}: {why}"));
                println!("not ok {} {name}", self.count);
            }
        }
    }

    /// How many subtests failed, once the plan line is written.
    pub fn finish(self) -> u32 {
        println!("1..{}", self.count);
        self.failed
    }
}

/// A remark of a test.
pub fn note(text: &str) {
    for line in text.lines() {
        println!("# {line}");
    }
}
