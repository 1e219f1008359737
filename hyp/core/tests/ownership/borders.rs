// SPDX-License-Identifier: GPL-2.0-only
//! Memory maps that no firmware should hand over: regions that begin and end anywhere, with and without owners in them. Every access of
//! the host's has an answer, blocks never mix what is different, and what is taken stays taken.

use pkvm_core::machine::{Features, Machine};
use pkvm_core::mem::{self, AbortAction, AbortKind, Access, Class, Host, HostAbort, MemoryMap};
use pkvm_pgtable::{Entry, Stage2Features};
use pkvm_types::{Error, Ipa, PAGE_SHIFT, PAGE_SIZE, Perms, Pfn, PfnRange, Phys, block_pages};

use crate::random::Random;
use crate::reader::Reader;
use crate::rig::{Plan, pages, stage2};
use crate::sim::Sim;

const PLAN: Plan = Plan {
    levels: 3,
    ..Plan::SMALL
};
/// Frames for the host's tables, in a region of their own beyond all others.
const TABLES: u64 = 64;

struct Borders {
    m: Sim,
    host: Host,
    end: u64,
}

impl Borders {
    /// A few regions with odd borders in the first blocks, then the tables.
    fn new(random: &mut Random) -> Self {
        let mut map = MemoryMap::new(PLAN.bits());
        let mut at = block_pages() * PAGE_SIZE;
        for _ in 0..=random.below(4) {
            // Some borders are even ones.
            let (gap, size) = (random.below(600), 1 + random.below(1200));
            let odd = |random: &mut Random| random.pick(&[0, 0, 1, 8, PAGE_SIZE / 2, PAGE_SIZE - 1]);
            let base = at + gap * PAGE_SIZE + odd(random);
            let bytes = size * PAGE_SIZE + odd(random);
            let access = if random.below(5) == 0 {
                Access::NoMap
            } else {
                Access::Normal
            };
            map.push(Phys::new(base), bytes, access).unwrap();
            at = base + bytes;
        }
        let tables = at.next_multiple_of(block_pages() * PAGE_SIZE) / PAGE_SIZE + block_pages();
        map.push(Phys::new(tables * PAGE_SIZE), TABLES * PAGE_SIZE, Access::Normal)
            .unwrap();
        let features = Features {
            fwb: true,
            dic: true,
            xnx: false,
        };
        let m = Sim::new(map, features, 0, (tables + TABLES) as usize);
        let (root, pool) = (pages(tables, 1), pages(tables + 1, TABLES - 1));
        let host = Host::create(&m, stage2(&PLAN, Stage2Features::AS_S1), root, pool).unwrap();
        Self { m, host, end: tables }
    }

    fn entry(&self, frame: u64) -> Entry {
        self.host
            .table()
            .lookup(&Reader(&self.m), Ipa::new(frame << PAGE_SHIFT))
            .unwrap()
            .entry
    }

    /// The host touches a frame; whether that works, and if so, with which permissions it then is mapped.
    fn touch(&mut self, frame: u64) -> Option<Perms> {
        let abort = HostAbort {
            ipa: Some(Phys::new(frame << PAGE_SHIFT)),
            kind: AbortKind::Translation,
        };
        match mem::host_mem_abort(&self.m, &mut self.host, abort) {
            AbortAction::Inject => None,
            AbortAction::Retry => match self.entry(frame) {
                Entry::Leaf(leaf) => Some(leaf.perms),
                other => panic!("a retry of frame {frame:#x} finds {other:?}"),
            },
        }
    }

    /// Each leaf maps things of one kind, to itself, and nothing that was taken.
    fn check(&self, taken: &[u64]) {
        let s2 = self.host.table();
        for found in s2
            .entries(&Reader(&self.m), Ipa::new(0), s2.config().geometry().limit())
            .unwrap()
        {
            let Entry::Leaf(leaf) = found.entry else { continue };
            assert_eq!(leaf.phys.raw(), found.base.raw());
            let range = pages(
                found.base.raw() >> PAGE_SHIFT,
                s2.config().level_pages(found.level),
            );
            let device = leaf.perms == Perms::RW;
            let (first, last) = (range.start().raw(), range.last().raw());
            assert!(!taken.iter().any(|frame| (first..=last).contains(frame)));
            // Beyond all regions there is nothing but devices.
            for frame in first..=last.min(self.end + TABLES) {
                let class = self.m.memory().class(Pfn::checked(frame).unwrap());
                assert_eq!(
                    class == Class::Device,
                    device,
                    "frame {frame:#x} in a leaf of {range:?}"
                );
            }
        }
    }
}

#[test]
fn every_access_to_every_memory_map_has_an_answer() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let mut borders = Borders::new(&mut random);
        let mut taken = Vec::new();
        for _ in 0..60 {
            let regions = borders.m.memory().regions();
            let region = regions[random.below(regions.len() as u64 - 1) as usize];
            let near = [
                region.base.raw() >> PAGE_SHIFT,
                region.last.raw() >> PAGE_SHIFT,
                (region.last.raw() >> PAGE_SHIFT) + 1,
                (region.base.raw() >> PAGE_SHIFT) - 1,
                random.below(borders.end),
            ];
            let frame = random.pick(&near);
            let pfn = Pfn::checked(frame).unwrap();
            let class = borders.m.memory().class(pfn);
            if random.below(6) == 0 {
                let owned = mem::own_boot_page(&borders.m, &mut borders.host, pfn);
                if class == Class::Memory {
                    assert_eq!(owned, Ok(()));
                    taken.push(frame);
                } else {
                    assert_eq!(owned, Err(Error::Invalid));
                }
            }
            let want = match class {
                _ if taken.contains(&frame) => None,
                Class::Device => Some(Perms::RW),
                Class::Memory | Class::NoMap => Some(Perms::RWX),
            };
            assert_eq!(
                borders.touch(frame),
                want,
                "seed {seed}, frame {frame:#x}, {class:?}"
            );
        }
        borders.check(&taken);
    }
}

#[test]
fn the_memory_check_takes_whole_pages_only() {
    let base = block_pages() * PAGE_SIZE;
    for (offset, size) in [
        (8, PAGE_SIZE - 8),
        (0, 8),
        (PAGE_SIZE - 8, 16),
        (8, 3 * PAGE_SIZE),
        (0, 2 * PAGE_SIZE + 1),
    ] {
        let mut map = MemoryMap::new(PLAN.bits());
        map.push(Phys::new(base + offset), size, Access::Normal).unwrap();
        for frame in block_pages() - 1..block_pages() + 5 {
            let owned = map
                .check_memory(PfnRange::single(Pfn::checked(frame).unwrap()))
                .is_ok();
            let (start, end) = (frame * PAGE_SIZE, (frame + 1) * PAGE_SIZE);
            let whole = start >= base + offset && end <= base + offset + size;
            assert_eq!(owned, whole, "frame {frame:#x} of {size:#x} bytes at {offset:#x}");
        }
    }
}
