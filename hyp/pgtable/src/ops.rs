// SPDX-License-Identifier: GPL-2.0-only
//! What a page table needs from its owner.

use crate::Level;
use pkvm_types::Phys;

/// Memory, references and maintenance of one page table.
///
/// There is one value for each page table, made from what the table's lock guards and borrowed for an operation. A table
/// page is named by its physical address and a word by its index. References: each table has one for itself and one
/// for each of its words that is not zero, so a count of one means an empty table.
///
/// Every `tlbi` method first makes earlier writes visible to the walkers of all CPUs (`DSB ISH`), then invalidates, and
/// does not return before the invalidation is complete on all CPUs of the inner shareable domain (`DSB ISH`, `ISB`).
/// At stage 2 an invalidation covers what stage 1 has combined with the entries as well.
pub trait TableOps {
    /// Loads descriptor `index` of `table`, once. Hardware may set the access flag at any time.
    fn read(&self, table: Phys, index: usize) -> u64;
    /// Stores descriptor `index` of `table` after all earlier stores (store-release), as one 64-bit store.
    fn write(&mut self, table: Phys, index: usize, word: u64);

    /// How many tables [`TableOps::alloc_table`] can give now.
    fn available(&self) -> usize;
    /// A zeroed table with one reference. It is called only as often as [`TableOps::available`] said within the same
    /// hold of the lock, so running out of memory here is a broken invariant, not an error.
    fn alloc_table(&mut self) -> Phys;
    /// Takes back an empty table, whose one reference goes with it. No walker can reach it any more.
    fn free_table(&mut self, table: Phys);
    /// Adds `count` references to `table`. There are never more than one and the number of its words.
    fn get(&mut self, table: Phys, count: u16);
    /// Drops a reference to `table`, never its last.
    fn put(&mut self, table: Phys);
    /// The references to `table`.
    fn count(&self, table: Phys) -> u16;

    /// Makes earlier writes visible to the walkers (`DSB ISHST`; with `ISB` for EL2's own table). No invalidation:
    /// it follows writes that made an invalid descriptor valid, or that only set bits which hardware ignores.
    fn publish(&mut self);

    /// Invalidates the leaf of `level` that covers `ia`.
    fn tlbi_leaf(&mut self, ia: u64, level: Level);
    /// Invalidates everything that walks of `ia` have left, intermediate entries too: an empty table was unlinked.
    fn tlbi_table(&mut self, ia: u64);
    /// Invalidates all leaves, of any level, of the `len` bytes from `ia` on.
    fn tlbi_range(&mut self, ia: u64, len: u64);
    /// Invalidates everything of this page table's regime and VMID.
    fn tlbi_all(&mut self);
    /// Invalidates on this CPU alone, at `level` where it is known. It completes in the same sense.
    fn tlbi_local(&mut self, ia: u64, level: Option<Level>);

    /// Cleans and invalidates the `len` bytes at `phys` to the point of coherency.
    fn clean_dcache(&mut self, phys: Phys, len: u64);
    /// Invalidates the instruction cache over the `len` bytes at `phys` to the point of unification.
    fn invalidate_icache(&mut self, phys: Phys, len: u64);
}
