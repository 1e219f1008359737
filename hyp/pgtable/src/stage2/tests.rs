// SPDX-License-Identifier: GPL-2.0-only
//! Random operations on a stage-2 table, against a flat map of pages and against hardware's reading of the words.

use super::*;
use crate::testing::{Fake, Hit, Shape, runner};
use crate::{Blocks, Granule, Level, MemType, VtcrInputs};
use pkvm_types::{Gfn, Handle, Owner, PageState, Perms};
use proptest::prelude::*;
use std::collections::BTreeMap;

const MOST: usize = 64;

pub(super) struct Bench {
    pub s2: Stage2,
    pub fake: Fake,
    model: BTreeMap<u64, Page>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Page {
    Map {
        pa: u64,
        perms: Perms,
        memory: MemType,
        state: PageState,
        young: bool,
    },
    Owned(Owner),
    Poison,
}

pub(super) fn bench(granule: Granule, parange: u64, wide: bool, features: Stage2Features) -> Bench {
    let lpa2 = wide && granule != Granule::K64;
    let inputs = VtcrInputs {
        granule,
        mmfr0: parange,
        mmfr1: 0,
        lpa2,
        pa52: wide,
        hardware_af: true,
    };
    let vtcr = inputs.vtcr(inputs.phys_shift());
    let config = Stage2Config::from_vtcr(vtcr, granule, features).unwrap();
    let fake = Fake::new(
        Shape::of_vtcr(vtcr),
        config.root_pages(),
        config.geometry().output_bits(),
        MOST,
    );
    let s2 = Stage2::new(config, Phys::new(fake.root)).unwrap();
    Bench {
        s2,
        fake,
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
        skew: u64,
    },
    Annotate(usize),
    Unmap,
    Poison,
    SetState(PageState),
    Wrprotect,
    Relax(u64),
    Age(Age),
    MkYoung,
    Touch,
}

/// A range by its place: one of three corners of the address space, a page there, a length.
#[derive(Clone, Debug)]
struct Spot {
    corner: usize,
    page: u64,
    len: Span,
}

#[derive(Clone, Debug)]
enum Span {
    Pages(u64),
    Blocks(u64),
}

fn state() -> impl Strategy<Value = PageState> {
    (0u8..3).prop_map(PageState::from_bits)
}

fn op() -> impl Strategy<Value = Op> {
    let memory =
        prop_oneof![4 => Just(MemType::Normal), 1 => Just(MemType::NormalNc), 1 => Just(MemType::Device)];
    let blocks = prop_oneof![3 => Just(Blocks::Allowed), 1 => Just(Blocks::PagesOnly)];
    // Mostly aligned alike, so that blocks happen.
    let skew = prop_oneof![3 => Just(0u64), 1 => 1u64..4];
    prop_oneof![
        6 => (0u64..16, memory, state(), blocks, skew)
            .prop_map(|(perms, memory, state, blocks, skew)| Op::Map { perms, memory, state, blocks, skew }),
        2 => (0usize..4).prop_map(Op::Annotate),
        3 => Just(Op::Unmap),
        1 => Just(Op::Poison),
        1 => state().prop_map(Op::SetState),
        1 => Just(Op::Wrprotect),
        2 => (0u64..16).prop_map(Op::Relax),
        1 => Just(Op::Age(Age::Test)),
        1 => Just(Op::Age(Age::Clear)),
        1 => Just(Op::MkYoung),
        1 => Just(Op::Touch),
    ]
}

fn spot() -> impl Strategy<Value = Spot> {
    let len = prop_oneof![4 => (1u64..5).prop_map(Span::Pages), 1 => (1u64..3).prop_map(Span::Blocks)];
    (0usize..3, 0u64..12, len).prop_map(|(corner, page, len)| Spot { corner, page, len })
}

impl Bench {
    fn page(&self) -> u64 {
        1 << self.fake.checker.shape.page
    }
    fn block(&self) -> u64 {
        1 << self.fake.checker.shape.span(2)
    }

    fn range(&self, spot: &Spot) -> (u64, u64) {
        let limit = 1u64 << self.s2.config().ipa_bits();
        // The middle corner lies across a block border, the last at the end of the table.
        let corner = [0, limit / 2 - 4 * self.page(), limit - 4 * self.block()][spot.corner];
        match spot.len {
            Span::Pages(pages) => (corner + spot.page * self.page(), pages * self.page()),
            Span::Blocks(blocks) => {
                let start = corner.next_multiple_of(self.block()) + spot.page % 2 * self.block();
                (start, blocks * self.block())
            }
        }
    }

    fn pages(&self, start: u64, len: u64) -> impl Iterator<Item = u64> + use<> {
        (start..start + len).step_by(self.page() as usize)
    }

    /// The range with every block that meets it taken whole.
    fn whole(&self, start: u64, len: u64) -> (u64, u64) {
        let reach =
            |hit: Option<Hit>, ia: u64| hit.map_or((ia, ia + self.page()), |h| (h.base, h.base + h.size));
        let last = start + len - self.page();
        let (low, _) = reach(self.fake.walk(start), start);
        let (_, high) = reach(self.fake.walk(last), last);
        (low, high - low)
    }

    fn update(&mut self, start: u64, len: u64, mut change: impl FnMut(&mut Page)) {
        let (low, len) = self.whole(start, len);
        for (_, page) in self.model.range_mut(low..low + len) {
            change(page);
        }
    }

    /// Plans with every number of tables that is too small, then with just enough.
    fn commit(&mut self, plan: impl Fn(&Fake) -> Result<Plan>) -> Result<()> {
        let before = self.fake.snapshot();
        let full = self.fake.capacity;
        let needed = match plan(&self.fake) {
            Ok(plan) => plan.tables(),
            Err(error) => {
                assert_eq!(before, self.fake.snapshot());
                return Err(error);
            }
        };
        for few in 0..needed {
            self.fake.capacity = few;
            assert_eq!(plan(&self.fake).err(), Some(Error::NoMemory));
        }
        assert_eq!(before, self.fake.snapshot(), "a plan changed the table");
        self.fake.capacity = needed;
        let taken = self.fake.taken;
        let checked = plan(&self.fake).unwrap();
        checked.commit(&self.s2, &mut self.fake);
        assert_eq!(self.fake.taken - taken, needed, "a plan counted wrong");
        self.fake.capacity = full - needed;
        Ok(())
    }

    fn apply(&mut self, op: &Op, spot: &Spot) {
        let (start, len) = self.range(spot);
        let ipa = Ipa::new(start);
        let s2 = self.s2;
        self.fake.checker.narrows = matches!(op, Op::Wrprotect | Op::Relax(_) | Op::Age(_));
        match *op {
            Op::Map {
                perms,
                memory,
                state,
                blocks,
                skew,
            } => {
                let perms = Perms::from_bits(perms).unwrap();
                // Other output addresses than input ones, with the same offset in a block unless there is skew.
                let pa = (start ^ (self.block() << 1)) + skew * self.page();
                let pa = pa.min((1 << s2.config().geometry().output_bits()) - len);
                let request = MapRequest {
                    ipa,
                    len,
                    phys: Phys::new(pa),
                    perms,
                    memory,
                    state,
                    blocks,
                };
                let result = self.commit(|fake| s2.plan_map(fake, &request));
                let odd = perms.intersects(Perms::X) && !perms.contains(Perms::X);
                let split = odd && !s2.config().features().contains(Stage2Features::XNX);
                if split || (perms.intersects(Perms::X) && memory != MemType::Normal) {
                    assert_eq!(result, Err(Error::Invalid));
                    return;
                }
                assert_eq!(result, Ok(()));
                let as_s1 = s2.config().features().contains(Stage2Features::AS_S1);
                let memory = if as_s1 { MemType::Normal } else { memory };
                for ia in self.pages(start, len) {
                    let page = Page::Map {
                        pa: pa + (ia - start),
                        perms,
                        memory,
                        state,
                        young: true,
                    };
                    self.model.insert(ia, page);
                }
            }
            Op::Annotate(who) => {
                let gfn = Gfn::checked(0xab_cdef_0123 >> (4 * who)).unwrap();
                let owner = match who {
                    0 => Owner::Hyp,
                    _ => Owner::Guest {
                        handle: Handle::from_index(who * 84).unwrap(),
                        gfn,
                    },
                };
                self.commit(|fake| s2.plan_annotate(fake, ipa, len, owner))
                    .unwrap();
                for ia in self.pages(start, len) {
                    self.model.insert(ia, Page::Owned(owner));
                }
            }
            Op::Unmap => {
                let (low, whole) = self.whole(start, len);
                s2.unmap(&mut self.fake, ipa, len).unwrap();
                self.model.retain(|ia, _| *ia < low || *ia >= low + whole);
            }
            Op::Poison => {
                let expected = match (self.model.get(&start), self.fake.walk(start)) {
                    (None, _) => Err(Error::NotFound),
                    (Some(Page::Poison), _) => Err(Error::Poisoned),
                    (Some(Page::Owned(_)), _) => Err(Error::Perm),
                    (Some(Page::Map { .. }), Some(hit)) if hit.level < 3 => Err(Error::TooBig),
                    _ => Ok(()),
                };
                let taken = self.fake.taken;
                assert_eq!(s2.poison(&mut self.fake, ipa), expected);
                assert_eq!(self.fake.taken, taken);
                if expected.is_ok() {
                    self.model.insert(start, Page::Poison);
                }
            }
            Op::SetState(new) => {
                let expected = match self.fake.walk(start) {
                    None => Err(Error::NotFound),
                    Some(hit) if hit.level < 3 => Err(Error::TooBig),
                    Some(_) => Ok(()),
                };
                let before = self.fake.checker.invalidations;
                assert_eq!(s2.set_state(&mut self.fake, ipa, new), expected);
                assert_eq!(self.fake.checker.invalidations, before);
                if expected.is_ok()
                    && let Some(Page::Map { state, .. }) = self.model.get_mut(&start)
                {
                    *state = new;
                }
            }
            Op::Wrprotect => {
                s2.wrprotect(&mut self.fake, ipa, len).unwrap();
                self.update(start, len, |page| {
                    if let Page::Map { perms, .. } = page {
                        *perms = perms.without(Perms::W);
                    }
                });
            }
            Op::Relax(more) => self.relax(start, Perms::from_bits(more).unwrap()),
            Op::Age(age) => {
                let mut any = false;
                let found = s2.age(&mut self.fake, ipa, len, age).unwrap();
                self.update(start, len, |page| {
                    if let Page::Map { young, .. } = page {
                        any |= *young;
                        *young &= age == Age::Test;
                    }
                });
                assert_eq!(found, any);
            }
            Op::MkYoung => {
                let mapped = matches!(self.model.get(&start), Some(Page::Map { .. }));
                let expected = if mapped { Ok(()) } else { Err(Error::Again) };
                assert_eq!(s2.mkyoung(&mut self.fake, ipa), expected);
                self.touched(start);
            }
            Op::Touch => {
                self.fake.touch(start);
                self.touched(start);
            }
        }
    }

    fn touched(&mut self, start: u64) {
        self.update(start, self.page(), |page| {
            if let Page::Map { young, .. } = page {
                *young = true;
            }
        });
    }

    fn relax(&mut self, start: u64, more: Perms) {
        let s2 = self.s2;
        self.fake.local.clear();
        let result = s2.relax_perms(&mut self.fake, Ipa::new(start), more);
        let executes = more.intersects(Perms::X);
        let split = executes && !more.contains(Perms::X);
        if split && !s2.config().features().contains(Stage2Features::XNX) {
            assert_eq!(result, Err(Error::Invalid));
            return;
        }
        match (self.model.get(&start).copied(), self.fake.walk(start)) {
            (Some(Page::Map { memory, .. }), _) if executes && memory != MemType::Normal => {
                assert_eq!(result, Err(Error::Invalid));
            }
            (Some(Page::Map { .. }), Some(hit)) => {
                assert_eq!(result.map(Level::raw), Ok(hit.level as i8));
                assert_eq!(self.fake.local, [(hit.base, Some(hit.level as i8))]);
                self.update(start, self.page(), |page| {
                    if let Page::Map { perms, .. } = page {
                        let kept = if executes { perms.without(Perms::X) } else { *perms };
                        *perms = kept.union(more);
                    }
                });
            }
            _ => {
                assert_eq!(result, Err(Error::Again));
                assert_eq!(self.fake.local, [(start, None)]);
            }
        }
    }

    /// The bits that hardware must see for `page`, written down once more from the architecture's tables.
    fn expected_bits(&self, page: &Page) -> Option<u64> {
        let Page::Map {
            perms,
            memory,
            state,
            young,
            ..
        } = *page
        else {
            return None;
        };
        let features = self.s2.config().features();
        let fwb = features.contains(Stage2Features::FWB);
        let memattr = match (memory, fwb) {
            _ if features.contains(Stage2Features::AS_S1) => [0b1111, 0b0111][usize::from(fwb)],
            (MemType::Normal, false) => 0b1111,
            (MemType::Normal, true) => 0b0110,
            (MemType::NormalNc, _) => 0b0101,
            (MemType::Device, _) => 0b0001,
        };
        let xn = match (perms.contains(Perms::PX), perms.contains(Perms::UX)) {
            (true, true) => 0b00,
            (false, true) => 0b01,
            (false, false) => 0b10,
            (true, false) => 0b11,
        };
        let share = if self.fake.checker.shape.ds { 0 } else { 0b11 << 8 };
        let read = u64::from(perms.contains(Perms::R)) << 6;
        let write = u64::from(perms.contains(Perms::W)) << 7;
        Some(memattr << 2 | read | write | share | u64::from(young) << 10 | xn << 53 | (state as u64) << 55)
    }

    fn check_page(&self, ia: u64) {
        let hit = self.fake.walk(ia);
        let found = self.s2.lookup(&self.fake, Ipa::new(ia)).unwrap();
        let page = self.model.get(&ia);
        let address = if self.fake.checker.shape.ds {
            0x0003_ffff_ffff_f000 | 0x300
        } else {
            0x0000_ffff_ffff_f000
        };
        match (page, found.entry) {
            (None, Entry::Absent) | (Some(Page::Poison), Entry::Poisoned) => assert_eq!(hit, None),
            (Some(Page::Owned(owner)), Entry::Donated(other)) => {
                assert_eq!((*owner, hit), (other, None));
                assert!(found.level.is_last());
            }
            (
                Some(
                    page @ Page::Map {
                        pa,
                        perms,
                        memory,
                        state,
                        young,
                    },
                ),
                Entry::Leaf(leaf),
            ) => {
                let hit = hit.unwrap_or_else(|| panic!("hardware misses {ia:#x}"));
                assert_eq!(hit.pa, *pa, "{ia:#x}");
                assert_eq!(
                    Some(hit.word & !address & !3),
                    self.expected_bits(page),
                    "{ia:#x}"
                );
                assert_eq!(found.phys_of(Ipa::new(ia)), Some(Phys::new(*pa)));
                assert_eq!(
                    (found.level.raw().into(), found.base.raw()),
                    (hit.level, hit.base)
                );
                assert_eq!(
                    (leaf.perms, leaf.memory, leaf.state, leaf.young),
                    (*perms, *memory, *state, *young)
                );
            }
            other => panic!("{ia:#x}: {other:?}"),
        }
    }

    fn check_around(&self, start: u64, len: u64) {
        let limit = 1u64 << self.s2.config().ipa_bits();
        let last = start + len - self.page();
        for ia in [
            start,
            last,
            start.wrapping_sub(self.page()),
            last + self.page(),
            start + len / 2,
        ] {
            let ia = ia & !(self.page() - 1);
            if ia < limit {
                self.check_page(ia);
            }
        }
    }

    /// Every page of the model, and no page that is not in it.
    fn check_all(&self) {
        for ia in self.model.keys() {
            self.check_page(*ia);
        }
        let len = 1u64 << self.s2.config().ipa_bits();
        let mut pages = 0;
        let mut next = 0;
        for found in self.s2.entries(&self.fake, Ipa::new(0), len).unwrap() {
            assert_eq!(found.base.raw(), next, "entries do not tile the space");
            next += self.s2.config().level_size(found.level);
            if found.entry != Entry::Absent {
                pages += self.s2.config().level_pages(found.level);
            }
        }
        assert_eq!(next, len);
        assert_eq!(pages, self.model.len() as u64);
    }
}

fn run(granule: Granule, parange: u64, wide: bool, features: Stage2Features, steps: &[(Op, Spot)]) {
    let mut bench = bench(granule, parange, wide, features);
    for (op, spot) in steps {
        bench.apply(op, spot);
        bench.fake.check();
        let (start, len) = bench.range(spot);
        bench.check_around(start, len);
    }
    bench.check_all();
    // Taken apart, it gives every table back.
    let before = bench.fake.checker.invalidations;
    bench.fake.checker.retired = true;
    assert_eq!(bench.s2.destroy(&mut bench.fake), Phys::new(bench.fake.root));
    assert_eq!(bench.fake.used(), 0);
    assert_eq!(bench.fake.checker.invalidations, before + 1);
    let snapshot = bench.fake.snapshot();
    assert!(
        snapshot
            .iter()
            .all(|(_, words, references)| *references == 1 && words.iter().all(|w| *w == 0))
    );
}

const GUEST: Stage2Features = Stage2Features::MAINTAIN_CACHES;
const GUEST_FWB: Stage2Features = Stage2Features::MAINTAIN_CACHES
    .union(Stage2Features::FWB)
    .union(Stage2Features::XNX);
const HOST: Stage2Features = Stage2Features::AS_S1.union(Stage2Features::FWB);

macro_rules! model_tests {
    ($($name:ident: $granule:ident, $parange:literal, $wide:literal, $features:expr, $levels:literal, $cases:literal;)*) => {
        $(
            #[test]
            fn $name() {
                let levels = bench(Granule::$granule, $parange, $wide, $features).s2.config().levels();
                assert_eq!(levels, $levels);
                let mut runner = runner($cases);
                let steps = prop::collection::vec((op(), spot()), 1..30);
                runner
                    .run(&steps, |steps| {
                        run(Granule::$granule, $parange, $wide, $features, &steps);
                        Ok(())
                    })
                    .unwrap();
            }
        )*
    };
}

model_tests! {
    pages_of_4k_32_bits: K4, 0, false, GUEST, 2, 32;
    pages_of_4k_40_bits: K4, 2, false, GUEST_FWB, 3, 32;
    pages_of_4k_42_bits: K4, 3, false, GUEST, 3, 48;
    pages_of_4k_48_bits: K4, 5, false, HOST, 4, 48;
    pages_of_4k_52_bits: K4, 6, true, GUEST, 4, 48;
    pages_of_16k_40_bits: K16, 2, false, GUEST, 2, 8;
    pages_of_16k_48_bits: K16, 5, false, GUEST_FWB, 3, 8;
    pages_of_16k_52_bits: K16, 6, true, HOST, 4, 8;
    pages_of_64k_48_bits: K64, 5, false, HOST, 3, 3;
    pages_of_64k_52_bits: K64, 6, true, GUEST, 3, 3;
}

/// One page of memory at two addresses of a range, cached at one alone: it is cleaned when no TLB holds either.
#[test]
fn a_page_at_two_addresses_is_cleaned_when_neither_can_be_used() {
    let map = |perms, memory, skew| Op::Map {
        perms,
        memory,
        state: PageState::Owned,
        blocks: Blocks::Allowed,
        skew,
    };
    let spot = |page, len| Spot { corner: 2, page, len };
    let steps = [
        (map(11, MemType::Normal, 0), spot(2, Span::Blocks(1))),
        (map(0, MemType::NormalNc, 1), spot(3, Span::Pages(4))),
        (Op::Unmap, spot(5, Span::Pages(3))),
    ];
    run(Granule::K4, 3, false, GUEST, &steps);
}
