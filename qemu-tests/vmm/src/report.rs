// SPDX-License-Identifier: GPL-2.0-only
//! The transcript: remarks with the time since the start, and KTAP result lines.

use std::fmt::Display;
use std::io::Write;
use std::time::Instant;

/// Counts results and writes lines.
pub struct Report {
    start: Instant,
    count: u32,
    failed: u32,
}

/// Writes one line at once, so that lines of several threads do not mix.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

impl Default for Report {
    fn default() -> Self {
        Self::new()
    }
}

impl Report {
    /// A report that starts now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            count: 0,
            failed: 0,
        }
    }

    /// A remark on what happens.
    pub fn say(&self, text: impl Display) {
        line(&format!(
            "# [{:6.2} s] {text}",
            self.start.elapsed().as_secs_f64()
        ));
    }

    /// The result of a check; `why` tells what was seen instead. Returns whether it passed.
    pub fn result(&mut self, name: &str, result: Result<(), String>) -> bool {
        self.count += 1;
        match &result {
            Ok(()) => line(&format!("ok {} {name}", self.count)),
            Err(why) => {
                self.failed += 1;
                line(&format!("# {name}: {why}"));
                line(&format!("not ok {} {name}", self.count));
            }
        }
        result.is_ok()
    }

    /// A check that two values are equal.
    pub fn equal<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, seen: T, wanted: T) -> bool {
        let result = if seen == wanted {
            Ok(())
        } else {
            Err(format!("{seen:x?} instead of {wanted:x?}"))
        };
        self.result(name, result)
    }

    /// Writes the plan; returns how many failed.
    pub fn finish(self) -> u32 {
        line(&format!("1..{}", self.count));
        self.failed
    }
}
