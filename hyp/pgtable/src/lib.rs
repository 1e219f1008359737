// SPDX-License-Identifier: GPL-2.0-only
//! VMSAv8-64 translation tables: the stage 2 of the host and of every guest, and EL2's own stage 1.
//!
//! This does the job of `arch/arm64/kvm/hyp/pgtable.c`. It takes no lock: an operation borrows its [`TableOps`] mutably, and
//! whoever can make that borrow holds the lock of the page table. Table words are EL2's own and no input of anybody else,
//! but for the access flag, which hardware may set at any time; addresses, lengths and permissions may be the host's,
//! and every operation checks them all before it writes a word.
//!
//! Nothing here touches memory itself. Words, references, TLB and cache maintenance all go through [`TableOps`], so
//! the same code runs at EL2 and, over a map of fake tables with an event log, in the tests.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod broken;
mod cursor;
mod geometry;
mod hyp_s1;
mod ops;
mod stage2;
#[cfg(test)]
mod testing;
mod vtcr;

pub use geometry::{Geometry, Granule, Level, OutputFormat};
pub use hyp_s1::{HypAttrs, HypConfig, HypFormat, HypFound, HypLeaf, HypPlan, HypS1, Slot};
pub use ops::TableOps;
pub use stage2::{Age, Entries, Entry, Found, Leaf, MapRequest, Plan, Stage2, Stage2Config, Stage2Features};
pub use vtcr::{VtcrInputs, pa_bits};

/// The memory type of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum MemType {
    /// Normal, write-back cacheable.
    Normal,
    /// Normal, not cacheable.
    NormalNc,
    /// Device-nGnRE. Never executable.
    Device,
}

/// Whether a mapping may use blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Blocks {
    /// The largest leaf that alignment and length allow, at each point of the range.
    Allowed,
    /// Pages only, whatever the alignment.
    PagesOnly,
}

/// Bit 0: the descriptor is valid.
const VALID: u64 = 1;
/// Bit 1 of a valid descriptor: a table, or at the last level a page; clear for a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
/// Bits 55 and 56, left to software: the page state.
const STATE_SHIFT: u32 = 55;
const STATE_MASK: u64 = 0b11 << STATE_SHIFT;
/// The access flag, in both stages.
const ACCESS_FLAG: u64 = 1 << 10;
/// Inner shareable, in both stages; bits of the output address with LPA2.
const INNER_SHAREABLE: u64 = 0b11 << 8;
