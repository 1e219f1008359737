// SPDX-License-Identifier: GPL-2.0-only
//! Random operations on EL2's table, against a flat map of pages and against hardware's reading of the words.

use super::*;
use crate::testing::{Fake, Shape, runner};
use crate::{Granule, Level, MemType};
use pkvm_types::{PageState, Perms};
use proptest::prelude::*;
use std::collections::BTreeMap;

struct Bench {
    s1: HypS1,
    fake: Fake,
    nvhe: bool,
    /// By page: the output address and what is allowed.
    model: BTreeMap<u64, (u64, HypAttrs)>,
}

fn bench(granule: Granule, bits: u32, lpa2: bool, format: HypFormat) -> Bench {
    let config = HypConfig::new(granule, bits, format, lpa2, true).unwrap();
    let start = config.geometry().start().raw().into();
    let shape = Shape {
        page: granule.shift(),
        bits,
        start,
        ds: lpa2,
    };
    let fake = Fake::new(shape, 1, config.geometry().output_bits(), 64);
    let s1 = HypS1::new(config, Phys::new(fake.root)).unwrap();
    Bench {
        s1,
        fake,
        nvhe: format == HypFormat::Nvhe,
        model: BTreeMap::new(),
    }
}

#[derive(Clone, Debug)]
enum Op {
    Map {
        perms: u64,
        memory: MemType,
        state: PageState,
        blocks: Blocks,
    },
    Unmap,
}

fn step() -> impl Strategy<Value = (Op, usize, u64, u64)> {
    let memory =
        prop_oneof![3 => Just(MemType::Normal), 1 => Just(MemType::Device), 1 => Just(MemType::NormalNc)];
    let blocks = prop_oneof![Just(Blocks::Allowed), Just(Blocks::PagesOnly)];
    let perms = prop_oneof![3 => Just(12u64), 1 => 0u64..16];
    let state = (0u8..2).prop_map(PageState::from_bits);
    let op = prop_oneof![
        (perms, memory, state, blocks).prop_map(|(perms, memory, state, blocks)| Op::Map {
            perms,
            memory,
            state,
            blocks
        }),
        Just(Op::Unmap),
    ];
    // A length of five stands for a block.
    (op, 0usize..3, 0u64..6, 1u64..6)
}

impl Bench {
    fn range(&self, corner: usize, page: u64, len: u64) -> (u64, u64) {
        let size = 1u64 << self.fake.checker.shape.page;
        let block = 1u64 << self.fake.checker.shape.span(2);
        let limit = 1u64 << self.fake.checker.shape.bits;
        let corner = [0, limit / 2, limit - 3 * block][corner];
        if len == 5 {
            (corner + page % 2 * block, block)
        } else {
            (corner + page * size, len * size)
        }
    }

    fn pages(&self, start: u64, len: u64) -> impl Iterator<Item = u64> + use<> {
        (start..start + len).step_by(1 << self.fake.checker.shape.page)
    }

    fn map(&mut self, start: u64, len: u64, attrs: HypAttrs, blocks: Blocks) {
        let s1 = self.s1;
        let va = HypVa::new(start);
        let pa = start ^ 1 << 36;
        let before = self.fake.snapshot();
        let plan = |fake: &Fake| s1.plan_map(fake, va, len, Phys::new(pa), attrs, blocks);
        let result = plan(&self.fake);
        if s1.config().check_attrs(attrs).is_err() {
            assert_eq!(result.err(), Some(Error::Invalid));
            return;
        }
        // Every page is free, or is there with the same address and attributes but for the state, and a block is not cut.
        let mut size = 0;
        let mut other = false;
        for ia in self.pages(start, len) {
            if let Some((_, old)) = self.model.get(&ia) {
                size = self.fake.walk(ia).unwrap().size;
                other |= HypAttrs {
                    state: attrs.state,
                    ..*old
                } != attrs;
            }
        }
        if other {
            assert_eq!(result.err(), Some(Error::Exists));
            assert_eq!(before, self.fake.snapshot());
            return;
        }
        match result {
            Ok(plan) => {
                let needed = plan.tables();
                let full = self.fake.capacity;
                for few in 0..needed {
                    self.fake.capacity = few;
                    assert_eq!(
                        s1.plan_map(&self.fake, va, len, Phys::new(pa), attrs, blocks)
                            .err(),
                        Some(Error::NoMemory)
                    );
                }
                self.fake.capacity = needed;
                let taken = self.fake.taken;
                let invalidations = self.fake.checker.invalidations;
                plan.commit(&s1, &mut self.fake);
                assert_eq!(self.fake.taken - taken, needed);
                assert_eq!(
                    self.fake.checker.invalidations, invalidations,
                    "mapping invalidates nothing"
                );
                self.fake.capacity = full - needed;
                for ia in self.pages(start, len) {
                    self.model.insert(ia, (ia ^ 1 << 36, attrs));
                }
            }
            Err(error) => {
                assert_eq!(error, Error::Exists);
                assert!(size > len || blocks == Blocks::PagesOnly, "refused for no reason");
                assert_eq!(before, self.fake.snapshot());
            }
        }
    }

    fn unmap(&mut self, start: u64, len: u64) {
        let s1 = self.s1;
        let before = self.fake.snapshot();
        let mut expected = Ok(());
        for ia in self.pages(start, len) {
            match self.fake.walk(ia) {
                None => expected = expected.and(Err(Error::NotFound)),
                Some(hit) if hit.base < start || hit.base + hit.size > start + len => {
                    expected = expected.and(Err(Error::TooBig));
                }
                Some(_) => {}
            }
        }
        assert_eq!(s1.unmap(&mut self.fake, HypVa::new(start), len), expected);
        match expected {
            Ok(()) => self.model.retain(|ia, _| *ia < start || *ia >= start + len),
            Err(_) => assert_eq!(before, self.fake.snapshot()),
        }
    }

    fn check_page(&self, ia: u64) {
        let found = self.s1.lookup(&self.fake, HypVa::new(ia)).unwrap();
        match (self.model.get(&ia), self.fake.walk(ia)) {
            (None, None) => assert_eq!(found.leaf, None),
            (Some((pa, attrs)), Some(hit)) => {
                assert_eq!(hit.pa, *pa);
                let leaf = found.leaf.unwrap();
                assert_eq!(leaf.phys.raw() + (ia - found.base.raw()), *pa);
                assert_eq!(leaf.perms, attrs.perms);
                assert_eq!((leaf.memory, leaf.state), (attrs.memory, attrs.state));
                assert_eq!(i32::from(found.level.raw()), hit.level);
                assert_ne!(hit.word & 1 << 10, 0, "an EL2 mapping without its access flag");
            }
            other => panic!("{ia:#x}: {other:x?}"),
        }
    }
}

fn run(mut bench: Bench, steps: &[(Op, usize, u64, u64)]) {
    for (op, corner, page, len) in steps {
        let (start, len) = bench.range(*corner, *page, *len);
        match *op {
            Op::Map {
                perms,
                memory,
                state,
                blocks,
            } => {
                // Without E2H the permission of EL0 means nothing and is not kept.
                let meant = if bench.nvhe {
                    Perms::RWX.without(Perms::UX)
                } else {
                    Perms::RWX
                };
                let perms = Perms::from_bits(perms & u64::from(meant.bits())).unwrap();
                bench.map(start, len, HypAttrs { perms, memory, state }, blocks);
            }
            Op::Unmap => bench.unmap(start, len),
        }
        bench.fake.check();
        let size = 1u64 << bench.fake.checker.shape.page;
        for ia in [start, start + len - size, start + len] {
            bench.check_page(ia);
        }
    }
    for ia in bench.model.keys() {
        bench.check_page(*ia);
    }
    let mut tables = 0;
    bench.s1.recount(&bench.fake, |table, used| {
        assert_eq!(crate::TableOps::count(&bench.fake, table), used + 1);
        tables += 1;
    });
    assert_eq!(tables, bench.fake.used() + 1, "recount missed a table");
}

macro_rules! model_tests {
    ($($name:ident: $granule:ident, $bits:literal, $lpa2:literal, $format:ident, $levels:literal, $cases:literal;)*) => {
        $(
            #[test]
            fn $name() {
                let make = || bench(Granule::$granule, $bits, $lpa2, HypFormat::$format);
                assert_eq!(make().s1.config().geometry().levels(), $levels);
                let mut runner = runner($cases);
                runner
                    .run(&prop::collection::vec(step(), 1..30), |steps| {
                        run(make(), &steps);
                        Ok(())
                    })
                    .unwrap();
            }
        )*
    };
}

model_tests! {
    nvhe_4k_39_bits: K4, 39, false, Nvhe, 3, 48;
    hvhe_4k_48_bits: K4, 48, false, Hvhe, 4, 48;
    hvhe_4k_52_bits: K4, 52, true, Hvhe, 5, 48;
    nvhe_16k_48_bits: K16, 48, false, Nvhe, 4, 8;
    hvhe_16k_52_bits: K16, 52, true, Hvhe, 4, 8;
    nvhe_64k_42_bits: K64, 42, false, Nvhe, 2, 3;
    hvhe_64k_52_bits: K64, 52, false, Hvhe, 3, 3;
}

#[test]
fn a_window_shows_one_thing_at_a_time_and_keeps_its_table() {
    let Bench { s1, mut fake, .. } = bench(Granule::K4, 48, false, HypFormat::Nvhe);
    let va = HypVa::new(0x7000_0000_0000);
    let mut slot = s1.make_slot(&mut fake, va, Level::LAST).unwrap();
    assert_eq!((fake.used(), slot.size()), (3, 0x1000));
    fake.pins.push(slot.position().0.raw());
    assert_eq!(s1.lookup(&fake, va).unwrap().leaf, None);

    slot.map(&mut fake, Phys::new(0x1234_5000), HypAttrs::normal(Perms::RW))
        .unwrap();
    fake.checker.quiet();
    assert_eq!(fake.walk(va.raw()).unwrap().pa, 0x1234_5000);
    let again = slot.map(&mut fake, Phys::new(0x9000), HypAttrs::normal(Perms::RW));
    assert_eq!(again, Err(Error::Busy));
    slot.unmap(&mut fake);
    fake.checker.quiet();
    assert_eq!(fake.walk(va.raw()), None);

    // A neighbour that comes and goes does not take the table away.
    let next = HypVa::new(va.raw() + 0x1000);
    s1.map(
        &mut fake,
        next,
        0x1000,
        Phys::new(0x8000),
        HypAttrs::normal(Perms::R),
        Blocks::PagesOnly,
    )
    .unwrap();
    s1.unmap(&mut fake, next, 0x1000).unwrap();
    fake.checker.quiet();
    assert_eq!(fake.used(), 3);
    slot.map(&mut fake, Phys::new(0x9000), HypAttrs::normal(Perms::RW))
        .unwrap();
    assert_eq!(fake.walk(va.raw()).unwrap().pa, 0x9000);
}

#[test]
fn a_block_window_needs_a_level_with_blocks_and_alignment() {
    let Bench { s1, mut fake, .. } = bench(Granule::K4, 48, false, HypFormat::Hvhe);
    let va = HypVa::new(0x4020_0000);
    let level = s1.config().block_level();
    let off = HypVa::new(va.raw() + 0x1000);
    assert_eq!(s1.make_slot(&mut fake, off, level).err(), Some(Error::Invalid));
    assert_eq!(
        s1.make_slot(&mut fake, va, Level::checked(0).unwrap()).err(),
        Some(Error::Invalid)
    );
    assert_eq!(
        s1.make_slot(&mut fake, va, Level::checked(-1).unwrap()).err(),
        Some(Error::Range)
    );
    for few in 0..2 {
        fake.capacity = few;
        assert_eq!(s1.make_slot(&mut fake, va, level).err(), Some(Error::NoMemory));
        assert_eq!(fake.used(), 0);
    }
    fake.capacity = 2;
    let mut slot = s1.make_slot(&mut fake, va, level).unwrap();
    assert_eq!(slot.size(), 2 << 20);
    assert_eq!(
        slot.word(Phys::new(0x1000), HypAttrs::normal(Perms::RW)),
        Err(Error::Invalid)
    );
    slot.map(&mut fake, Phys::new(0x60_0000), HypAttrs::normal(Perms::RW))
        .unwrap();
    let hit = fake.walk(va.raw() + 0x12345).unwrap();
    assert_eq!((hit.pa, hit.level), (0x61_2345, 2));
    slot.unmap(&mut fake);
    fake.checker.quiet();
    // What is in use cannot become a window.
    fake.capacity = 8;
    let used = HypVa::new(0x8000_0000);
    s1.map(
        &mut fake,
        used,
        0x1000,
        Phys::new(0x8000),
        HypAttrs::normal(Perms::R),
        Blocks::PagesOnly,
    )
    .unwrap();
    assert_eq!(s1.make_slot(&mut fake, used, level).err(), Some(Error::Exists));
    assert_eq!(
        s1.make_slot(&mut fake, used, Level::LAST).err(),
        Some(Error::Exists)
    );
}

#[test]
fn entries_tile_the_range() {
    let Bench { s1, mut fake, .. } = bench(Granule::K4, 48, false, HypFormat::Hvhe);
    let attrs = HypAttrs::normal(Perms::RW);
    s1.map(
        &mut fake,
        HypVa::new(0x3000),
        0x2000,
        Phys::new(0x9000),
        attrs,
        Blocks::Allowed,
    )
    .unwrap();
    let mut seen = Vec::new();
    s1.for_each(&fake, HypVa::new(0x2000), 0x4000, |found| {
        seen.push((found.base.raw(), found.leaf.map(|leaf| leaf.phys.raw())));
        Ok(())
    })
    .unwrap();
    assert_eq!(
        seen,
        [
            (0x2000, None),
            (0x3000, Some(0x9000)),
            (0x4000, Some(0xa000)),
            (0x5000, None)
        ]
    );
    assert_eq!(s1.lookup(&fake, HypVa::new(1 << 48)).err(), Some(Error::Range));
}
