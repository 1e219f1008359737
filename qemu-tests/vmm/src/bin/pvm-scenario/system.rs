// SPDX-License-Identifier: GPL-2.0-only
//! What the kernel counts, as far as a test of lost memory looks at it.

use std::time::Duration;

/// Counts of pages and pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Free memory, in KiB.
    pub free: u64,
    /// Page tables of stage 2, in KiB, those of pKVM's guests included.
    pub stage2: u64,
    /// Pins of user pages that have not been dropped.
    pub pins: u64,
    /// This process's locked memory, in KiB.
    pub locked: u64,
}

/// The number after `key` in a file of `key value` lines.
fn field(file: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let value = text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .trim_start_matches(':')
            .split_whitespace()
            .next()
    });
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Reads the counts as they are.
pub fn memory() -> Memory {
    let pins = field("/proc/vmstat", "nr_foll_pin_acquired")
        .wrapping_sub(field("/proc/vmstat", "nr_foll_pin_released"));
    Memory {
        free: field("/proc/meminfo", "MemFree"),
        stage2: field("/proc/meminfo", "SecPageTables"),
        pins,
        locked: field("/proc/self/status", "VmLck"),
    }
}

/// Lets the kernel finish what it does late, drops its caches and reads the counts.
pub fn settled() -> Memory {
    for _ in 0..3 {
        rustix::fs::sync();
        let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
        let _ = std::fs::write("/proc/sys/vm/stat_refresh", "1");
        std::thread::sleep(Duration::from_millis(100));
    }
    memory()
}
