// SPDX-License-Identifier: GPL-2.0-only
//! What the kernel counts, as far as a test of lost memory looks at it.

use std::time::Duration;

/// Counts of pages and pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Memory that is neither free nor in any use that the kernel names, in KiB: where lost pages would be.
    pub unnamed: u64,
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

/// Pages on the per-CPU free lists, huge pages among them, which MemFree leaves out.
fn on_cpu_lists() -> u64 {
    let zones = std::fs::read_to_string("/proc/zoneinfo").unwrap_or_default();
    zones
        .lines()
        .filter_map(|line| line.trim().strip_prefix("count:")?.trim().parse::<u64>().ok())
        .sum()
}

/// What is left of all memory without the free and the named, in KiB.
fn unnamed() -> u64 {
    const NAMED: [&str; 9] = [
        "MemFree",
        "Buffers",
        "Cached",
        "AnonPages",
        "Slab",
        "KernelStack",
        "PageTables",
        "SecPageTables",
        "VmallocUsed",
    ];
    let named: u64 = NAMED
        .iter()
        .map(|key| field("/proc/meminfo", &format!("{key}:")))
        .sum();
    let listed = on_cpu_lists() * rustix::param::page_size() as u64 / 1024;
    field("/proc/meminfo", "MemTotal").saturating_sub(named + listed)
}

/// Reads the counts as they are.
pub fn memory() -> Memory {
    let pins = field("/proc/vmstat", "nr_foll_pin_acquired")
        .wrapping_sub(field("/proc/vmstat", "nr_foll_pin_released"));
    Memory {
        unnamed: unnamed(),
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

/// While it lives, the kernel does not let RCU's grace periods take their time: the end of a VM waits for several, and a
/// test of many VMs would do little else.
pub struct Hurry(Option<String>);

const EXPEDITED: &str = "/sys/kernel/rcu_expedited";

impl Default for Hurry {
    fn default() -> Self {
        Self::new()
    }
}

impl Hurry {
    /// Starts to hurry, where the kernel lets one.
    pub fn new() -> Self {
        let before = std::fs::read_to_string(EXPEDITED).ok();
        let _ = std::fs::write(EXPEDITED, "1");
        Self(before)
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = std::fs::write(EXPEDITED, before.trim());
        }
    }
}
