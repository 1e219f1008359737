// SPDX-License-Identifier: GPL-2.0-only
//! The record that EL2 keeps of every page of memory, and the lists of free table pages.
//!
//! This does the job of `nvhe/memory.h`, `nvhe/page_alloc.c` and the memcache helpers of `kvm_host.h`. There is no buddy
//! allocator: all that EL2 takes from a pool are single table pages, and the concatenated root of a stage 2 is a region of
//! its own. Nothing here trusts a frame number: the caller proves that a page is memory and is EL2's before it hands it in.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod memcache;
mod meta;
mod pool;
#[cfg(test)]
mod testing;

pub use memcache::Memcache;
pub use meta::PageMeta;
pub use pool::Pool;

use pkvm_types::Pfn;

/// Words of pages that EL2 owns and has mapped.
///
/// The methods take `&self` because the pages are not Rust memory to this crate; whoever holds the list that a page is on
/// is its only user.
pub trait PageWords {
    /// The 64-bit word `index` of `page`, read once.
    fn read_word(&self, page: Pfn, index: usize) -> u64;
    /// Stores the 64-bit word `index` of `page`.
    fn write_word(&self, page: Pfn, index: usize, word: u64);
    /// Fills `page` with zeroes.
    fn zero_page(&self, page: Pfn);
}
