// SPDX-License-Identifier: GPL-2.0-only
//! Where things are in this machine: memory of each class that a hypercall must tell apart.

use super::Hostile;
use crate::tests::boot::kernel_log;

/// Physical addresses, each of a page, except the limit.
pub struct Map {
    /// EL2's own memory: a page of the region that the kernel reserved for it at boot.
    pub hyp: u64,
    /// The first page of EL2's text, which the host may read.
    pub hyp_text: u64,
    /// A page under no-map; the runner put it there.
    pub kept_out: Option<u64>,
    /// The console's registers.
    pub mmio: u64,
    /// The end of the last region of memory.
    pub memory_end: u64,
}

impl Map {
    /// Reads it from the kernel's log and pseudo files.
    ///
    /// # Errors
    /// Which of them is not there.
    pub fn read(hostile: &Hostile) -> Result<Self, String> {
        let log = kernel_log().map_err(|e| e.to_string())?;
        let hyp = log
            .iter()
            .find_map(|l| {
                l.split_once("MiB at 0x")
                    .filter(|_| l.contains("kvm ["))
                    .map(|(_, at)| at)
            })
            .and_then(|at| u64::from_str_radix(at.trim(), 16).ok())
            .ok_or("the log does not say where EL2's memory is")?;
        let symbols = std::fs::read_to_string("/proc/kallsyms").map_err(|e| e.to_string())?;
        let text = symbols
            .lines()
            .find_map(|l| l.strip_suffix(" __hyp_text_start")?.split(' ').next())
            .and_then(|at| u64::from_str_radix(at, 16).ok())
            .filter(|at| *at != 0)
            .ok_or("kallsyms does not say where EL2's text is")?;
        let page = !(hostile.fact("page_size") - 1);
        let iomem = std::fs::read_to_string("/proc/iomem").map_err(|e| e.to_string())?;
        let range = |line: &str| {
            let (span, _) = line.trim().split_once(" : ")?;
            let (start, end) = span.split_once('-')?;
            Some((
                u64::from_str_radix(start, 16).ok()?,
                u64::from_str_radix(end, 16).ok()?,
            ))
        };
        let mmio = iomem
            .lines()
            .find(|l| l.contains("pl011"))
            .and_then(range)
            .ok_or("/proc/iomem has no console")?
            .0;
        let memory_end = iomem
            .lines()
            .filter(|l| l.ends_with("System RAM"))
            .filter_map(range)
            .map(|(_, end)| end + 1)
            .max()
            .ok_or("/proc/iomem has no memory")?;
        let kept_out = std::fs::read_to_string("/proc/cmdline").ok().and_then(|line| {
            let at = line.split_whitespace().find_map(|w| w.strip_prefix("nomap=0x"))?;
            u64::from_str_radix(at, 16).ok()
        });
        Ok(Self {
            hyp: hyp & page,
            // The text begins in the page where the identity-mapped text ends; the next page is surely of it alone.
            hyp_text: (hostile.pa_of(text).map_err(|e| e.to_string())? & page) + !page + 1,
            kept_out,
            mmio: mmio & page,
            memory_end,
        })
    }
}
