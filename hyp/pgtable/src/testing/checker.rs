// SPDX-License-Identifier: GPL-2.0-only
//! An automaton over the writes and invalidations of one table. It assumes the worst TLB: one that holds every translation
//! it ever could, until an invalidation that must reach it.

use super::Shape;
use std::collections::HashMap;

/// A translation that a TLB may hold though the table no longer has it.
#[derive(Clone, Debug)]
struct Stale {
    base: u64,
    size: u64,
    level: i32,
    /// A table's page, or a leaf's output address.
    target: u64,
    table: bool,
}

/// The bits that may change in a live leaf without break-before-make: permissions, access flag, software's.
const IN_PLACE: u64 = 3 << 6 | 1 << 10 | 3 << 53 | 0xf << 55;

/// Whether the leaf `new` allows less than `old`: a permission, or use without an access flag fault.
const fn lost(old: u64, new: u64) -> bool {
    let cleared = (3 << 6 | 1 << 10) & old & !new;
    cleared != 0 || (old ^ new) & (3 << 53) != 0
}

pub struct Checker {
    pub shape: Shape,
    /// Tables that a walk can reach, with the first address and the level of their words.
    linked: HashMap<u64, (u64, i32)>,
    stale: Vec<Stale>,
    unpublished: bool,
    /// The table is being taken apart: nobody walks it any more.
    pub retired: bool,
    /// The operation may take permissions away and leave the invalidation to EL1.
    pub narrows: bool,
    /// Invalidations of any kind, to compare costs.
    pub invalidations: usize,
}

impl Checker {
    pub fn new(shape: Shape, root: u64, pages: u64) -> Self {
        let covered = shape.span(shape.start - 1).min(63);
        let linked = (0..pages)
            .map(|page| (root + (page << shape.page), (page << covered, shape.start)))
            .collect();
        Self {
            shape,
            linked,
            stale: Vec::new(),
            unpublished: false,
            retired: false,
            narrows: false,
            invalidations: 0,
        }
    }

    /// A word is stored. `load` gives the words of other tables, for what hangs below.
    pub fn write(&mut self, table: u64, index: usize, old: u64, new: u64, load: &dyn Fn(u64, usize) -> u64) {
        let Some(&(first, level)) = self.linked.get(&table) else {
            return;
        };
        if self.retired {
            return;
        }
        let size = 1u64 << self.shape.span(level);
        let base = first + index as u64 * size;
        let was_valid = Shape::is_table(old, level) || self.shape.is_leaf(old, level);
        let valid = Shape::is_table(new, level) || self.shape.is_leaf(new, level);
        if was_valid && valid {
            assert!(
                self.shape.is_leaf(old, level) && (old ^ new) & !IN_PLACE == 0,
                "{base:#x}: {old:#x} became {new:#x} without a break"
            );
            if !self.narrows && lost(old, new) {
                self.forget(base, level, old, load);
            }
            return;
        }
        if was_valid {
            self.forget(base, level, old, load);
        }
        if valid {
            for stale in &self.stale {
                let apart = stale.base + stale.size <= base || base + size <= stale.base;
                assert!(
                    apart,
                    "{new:#x} made at {base:#x} while a TLB may hold {stale:x?}"
                );
            }
            self.unpublished = true;
            if Shape::is_table(new, level) {
                let child = self.shape.address(new);
                assert!(
                    self.linked.insert(child, (base, level + 1)).is_none(),
                    "a table was linked twice"
                );
            }
        }
    }

    fn forget(&mut self, base: u64, level: i32, word: u64, load: &dyn Fn(u64, usize) -> u64) {
        let table = Shape::is_table(word, level);
        let size = 1u64 << self.shape.span(level);
        let target = self.shape.address(word);
        self.stale.push(Stale {
            base,
            size,
            level,
            target,
            table,
        });
        if table {
            self.linked.remove(&target);
            let below = 1u64 << self.shape.span(level + 1);
            for index in 0..1usize << (self.shape.page - 3) {
                let word = load(target, index);
                if Shape::is_table(word, level + 1) || self.shape.is_leaf(word, level + 1) {
                    self.forget(base + index as u64 * below, level + 1, word, load);
                }
            }
        }
    }

    pub fn tlbi_leaf(&mut self, ia: u64, level: i32) {
        self.invalidate(|stale| {
            !stale.table && stale.level == level && ia.wrapping_sub(stale.base) < stale.size
        });
    }
    pub fn tlbi_table(&mut self, ia: u64) {
        self.invalidate(|stale| ia.wrapping_sub(stale.base) < stale.size);
    }
    pub fn tlbi_range(&mut self, ia: u64, len: u64) {
        self.invalidate(|stale| !stale.table && stale.base < ia + len && ia < stale.base + stale.size);
    }
    pub fn tlbi_all(&mut self) {
        self.invalidate(|_| true);
    }
    fn invalidate(&mut self, reaches: impl Fn(&Stale) -> bool) {
        self.stale.retain(|stale| !reaches(stale));
        // Every invalidation begins with a barrier.
        self.unpublished = false;
        self.invalidations += 1;
    }
    pub fn publish(&mut self) {
        self.unpublished = false;
    }

    /// A page of memory is cleaned or its instructions are dropped: nobody may reach it meanwhile.
    pub fn maintain(&self, phys: u64, len: u64) {
        for stale in self.stale.iter().filter(|stale| !stale.table) {
            let apart = stale.target + stale.size <= phys || phys + len <= stale.target;
            assert!(apart, "{phys:#x} is maintained while a TLB may hold {stale:x?}");
        }
    }

    /// A table page goes back to its pool.
    pub fn free(&self, table: u64) {
        if self.retired {
            return;
        }
        assert!(!self.linked.contains_key(&table), "a live table was freed");
        assert!(
            !self
                .stale
                .iter()
                .any(|stale| stale.table && stale.target == table),
            "freed before invalidated"
        );
    }

    /// An operation is over.
    pub fn quiet(&self) {
        assert!(self.stale.is_empty(), "left in TLBs: {:x?}", self.stale);
        assert!(!self.unpublished, "a new descriptor was not published");
    }

    /// Every table that a walk can reach, but for the root's pages.
    pub fn tables(&self) -> impl Iterator<Item = u64> {
        self.linked
            .iter()
            .filter(|(_, (_, level))| *level > self.shape.start)
            .map(|(table, _)| *table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        page: 12,
        bits: 40,
        start: 1,
        ds: false,
    };
    const PAGE: u64 = 0x7ff;

    fn checker() -> Checker {
        let mut checker = Checker::new(SHAPE, 0x1000, 1);
        let none = |_: u64, _: usize| 0;
        checker.write(0x1000, 0, 0, 0x2003, &none);
        checker.write(0x2000, 0, 0, 0x3003, &none);
        checker.write(0x3000, 5, 0, 0x9000 | PAGE, &none);
        checker.publish();
        checker
    }

    fn fails(run: impl Fn(&mut Checker) + std::panic::RefUnwindSafe) -> bool {
        std::panic::catch_unwind(|| run(&mut checker())).is_err()
    }

    #[test]
    fn the_automaton_sees_what_it_is_for() {
        let none = |_: u64, _: usize| 0;
        assert!(
            fails(|c| c.write(0x3000, 5, 0x9000 | PAGE, 0xa000 | PAGE, &none)),
            "no break"
        );
        assert!(fails(|c| {
            c.write(0x3000, 5, 0x9000 | PAGE, 0, &none);
            c.write(0x3000, 5, 0, 0xa000 | PAGE, &none);
        }));
        assert!(fails(|c| {
            c.write(0x3000, 5, 0x9000 | PAGE, 0, &none);
            c.tlbi_leaf(0x5000, 2);
            c.quiet();
        }));
        assert!(fails(|c| {
            c.write(0x3000, 5, 0x9000 | PAGE, 0, &none);
            c.maintain(0x9000, 0x1000);
        }));
        assert!(fails(|c| {
            c.write(0x2000, 0, 0x3003, 0, &none);
            c.tlbi_leaf(0, 3);
            c.free(0x3000);
        }));
        assert!(fails(|c| {
            c.write(0x3000, 5, 0x9000 | PAGE, 0x9000 | PAGE & !(1 << 7), &none);
            c.quiet();
        }));
        assert!(fails(|c| {
            c.write(0x3000, 6, 0, 0xb000 | PAGE, &none);
            c.quiet();
        }));
        assert!(!fails(|c| {
            c.write(0x3000, 5, 0x9000 | PAGE, 0, &none);
            c.tlbi_leaf(0x5000, 3);
            c.write(0x3000, 5, 0, 0xa000 | PAGE, &none);
            c.publish();
            c.quiet();
        }));
    }
}
