// SPDX-License-Identifier: GPL-2.0-only
//! What the user sees of a step: its name, a sign of life while it lasts, and how long it took.

use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A step shorter than this shows no time.
const SHORT: Duration = Duration::from_secs(2);
/// How often a long step says that it lives.
const PULSE: Duration = Duration::from_secs(20);

/// What a running step is at; shown with its sign of life.
#[derive(Clone, Default)]
pub struct Now(Arc<Mutex<String>>);

impl Now {
    /// Replaces the text.
    pub fn set(&self, text: impl Into<String>) {
        if let Ok(mut now) = self.0.lock() {
            *now = text.into();
        }
    }

    fn get(&self) -> String {
        self.0.lock().map(|now| now.clone()).unwrap_or_default()
    }
}

/// A line of plain text, written at once.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// A headline.
pub fn headline(text: &str) {
    say(&format!("\n== {text}"));
}

/// Seconds for people: `0.4 s`, `75 s`, `6 min 10 s`.
pub fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        s @ 10..120 => format!("{s} s"),
        s => format!("{} min {} s", s / 60, s % 60),
    }
}

/// Runs one step. Its line appears when it ends; when it lasts, an earlier one says that it has begun.
///
/// # Errors
/// Those of the step; its line then says that it failed.
pub fn step<T>(what: &str, work: impl FnOnce(&Now) -> Result<T, String>) -> Result<T, String> {
    let now = Now::default();
    let shown = now.clone();
    let title = what.to_owned();
    let (stop, stopped) = mpsc::channel::<()>();
    let start = Instant::now();
    let pulse = std::thread::spawn(move || {
        let mut wait = SHORT;
        while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            let at = shown.get();
            let at = if at.is_empty() { at } else { format!(" ({at})") };
            say(&format!("  ... {title}{at}, {}", seconds(start.elapsed())));
            wait = PULSE;
        }
    });
    let result = work(&now);
    drop(stop);
    let _ = pulse.join();
    let took = start.elapsed();
    let took = if took < SHORT {
        String::new()
    } else {
        format!("  [{}]", seconds(took))
    };
    match &result {
        Ok(_) => say(&format!("  ok  {what}{took}")),
        Err(_) => say(&format!("FAIL  {what}{took}")),
    }
    result
}
