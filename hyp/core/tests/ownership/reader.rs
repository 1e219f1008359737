// SPDX-License-Identifier: GPL-2.0-only
//! Page tables as a walker sees them, without a way to change them.

use pkvm_core::machine::Machine;
use pkvm_pgtable::{Level, TableOps};
use pkvm_types::{Pfn, Phys};

use crate::sim::Sim;

/// Page tables, only to be read.
pub struct Reader<'a>(pub &'a Sim);

impl TableOps for Reader<'_> {
    fn read(&self, table: Phys, index: usize) -> u64 {
        self.0.read_word(table, index)
    }
    fn count(&self, table: Phys) -> u16 {
        self.0.record(Pfn::of(table)).unwrap().refcount()
    }
    fn available(&self) -> usize {
        0
    }
    fn write(&mut self, _: Phys, _: usize, _: u64) {
        unreachable!()
    }
    fn alloc_table(&mut self) -> Phys {
        unreachable!()
    }
    fn free_table(&mut self, _: Phys) {
        unreachable!()
    }
    fn get(&mut self, _: Phys, _: u16) {
        unreachable!()
    }
    fn put(&mut self, _: Phys) {
        unreachable!()
    }
    fn publish(&mut self) {
        unreachable!()
    }
    fn tlbi_leaf(&mut self, _: u64, _: Level) {
        unreachable!()
    }
    fn tlbi_table(&mut self, _: u64) {
        unreachable!()
    }
    fn tlbi_range(&mut self, _: u64, _: u64) {
        unreachable!()
    }
    fn tlbi_all(&mut self) {
        unreachable!()
    }
    fn tlbi_local(&mut self, _: u64, _: Option<Level>) {
        unreachable!()
    }
    fn clean_dcache(&mut self, _: Phys, _: u64) {
        unreachable!()
    }
    fn invalidate_icache(&mut self, _: Phys, _: u64) {
        unreachable!()
    }
}
