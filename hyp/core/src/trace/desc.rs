// SPDX-License-Identifier: GPL-2.0-only
//! The descriptor of the trace buffers: `struct hyp_trace_desc`, and behind it one `struct ring_buffer_desc` per CPU.
//! The host wrote every word, so they may be anything, and may differ from one read to the next: the pages are EL2's
//! while they are read, but a cache may hold what the host wrote through a mapping of another memory type.

use pkvm_types::{Error, Result};

/// A descriptor's memory, as 64-bit words.
pub trait Words {
    /// Word `index`, `None` past the end.
    fn word(&self, index: u64) -> Option<u64>;
}

/// Where things are in a descriptor, in words of 8 bytes.
pub mod layout {
    /// In `struct hyp_trace_desc`: the kernel's address of the backing.
    pub const BACKING_START: u64 = 0;
    /// Its bytes.
    pub const BACKING_SIZE: u64 = 1;
    /// How many CPUs follow: an `int` in the low half.
    pub const NR_CPUS: u64 = 2;
    /// Where the CPUs' own descriptors begin. The word before is a length that EL1 keeps for itself.
    pub const FIRST: u64 = 4;
    /// In `struct ring_buffer_desc`, whose first word is the CPU, and its number of pages in the high half: the kernel's
    /// address of the meta page.
    pub const META: u64 = 1;
    /// Those of the other pages.
    pub const PAGES: u64 = 2;
}
use layout::*;

/// What the head of a descriptor says, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// The kernel's address of the backing.
    pub backing: u64,
    /// Its size in bytes.
    pub backing_bytes: u64,
    /// How many CPUs have a ring: those from 0 on.
    pub cpus: u32,
    /// Pages of all rings.
    pub pages: u64,
}

/// The ring of one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The CPU.
    pub cpu: u32,
    /// How many pages the ring has, without the meta page.
    pub pages: u32,
    /// The kernel's address of the meta page.
    pub meta: u64,
    /// Word index of the list of pages.
    list: u64,
}

impl Entry {
    /// The kernel's address of page `n`.
    pub fn page<W: Words>(&self, words: &W, n: u32) -> Option<u64> {
        if n >= self.pages {
            return None;
        }
        words.word(self.list.checked_add(u64::from(n))?)
    }
}

/// The entries of a descriptor, in the order of their CPUs.
#[derive(Debug)]
pub struct Entries<'a, W> {
    words: &'a W,
    cpus: u32,
    cpu: u32,
    at: u64,
    /// Pages that the entries to come may have at most.
    left: u64,
}

impl<W: Words> Entries<'_, W> {
    fn read(&mut self) -> Result<Entry> {
        let word = |index: Option<u64>| {
            index
                .and_then(|index| self.words.word(index))
                .ok_or(Error::Invalid)
        };
        let head = word(Some(self.at))?;
        let (cpu, pages) = (head as u32, (head >> 32) as u32);
        let meta = word(self.at.checked_add(META))?;
        let list = self.at.checked_add(PAGES).ok_or(Error::Invalid)?;
        let end = list.checked_add(u64::from(pages)).ok_or(Error::Invalid)?;
        if pages != 0 {
            // The last one lies within the descriptor, and so do all.
            word(end.checked_sub(1))?;
        }
        if cpu != self.cpu {
            return Err(Error::Invalid);
        }
        self.left = self.left.checked_sub(u64::from(pages)).ok_or(Error::Invalid)?;
        self.at = end;
        Ok(Entry {
            cpu,
            pages,
            meta,
            list,
        })
    }
}

impl<W: Words> Iterator for Entries<'_, W> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.cpu >= self.cpus {
            return None;
        }
        let entry = self.read();
        // Nothing can be found behind an entry that is none.
        self.cpu = if entry.is_ok() {
            self.cpu.wrapping_add(1)
        } else {
            self.cpus
        };
        Some(entry)
    }
}

impl Descriptor {
    /// Reads a descriptor whole, for a system of `cpus` CPUs. [`Error::Invalid`] where an entry does not lie within
    /// it, or is for another CPU than its place says, or there are more entries than CPUs.
    pub fn read<W: Words>(words: &W, cpus: u64) -> Result<Self> {
        let word = |index| words.word(index).ok_or(Error::Invalid);
        let nr_cpus = word(NR_CPUS)? as u32;
        if u64::from(nr_cpus) > cpus {
            return Err(Error::Invalid);
        }
        let mut read = Self {
            backing: word(BACKING_START)?,
            backing_bytes: word(BACKING_SIZE)?,
            cpus: nr_cpus,
            pages: 0,
        };
        for entry in read.walk(words, u64::MAX) {
            read.pages = read
                .pages
                .checked_add(u64::from(entry?.pages))
                .ok_or(Error::Invalid)?;
        }
        Ok(read)
    }

    /// The rings. [`Error::Invalid`] where they have more pages by now than [`read`](Self::read) found.
    pub fn entries<'a, W: Words>(&self, words: &'a W) -> Entries<'a, W> {
        self.walk(words, self.pages)
    }

    fn walk<'a, W: Words>(&self, words: &'a W, left: u64) -> Entries<'a, W> {
        Entries {
            words,
            cpus: self.cpus,
            cpu: 0,
            at: FIRST,
            left,
        }
    }
}
