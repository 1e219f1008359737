// SPDX-License-Identifier: GPL-2.0-only
//! A reader that knows only what EL1 knows, against the writer.
extern crate std;

use super::ring::meta;
use super::*;
use pkvm_types::{Error, HypVa, PAGE_SIZE, Result};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::vec;
use std::vec::Vec;

/// The lent pages by address, as the host reads them.
#[derive(Default)]
struct Memory(RefCell<BTreeMap<u64, Vec<u64>>>);

impl Memory {
    fn read(&self, page: u64, offset: u64) -> u64 {
        self.0.borrow()[&page][offset as usize / 8]
    }
}

impl SharedPages for Memory {
    fn write(&self, page: HypVa, offset: u64, value: u64) {
        assert!(offset.is_multiple_of(8));
        let mut pages = self.0.borrow_mut();
        let page = pages.get_mut(&page.raw()).expect("a page that is not lent");
        page[offset as usize / 8] = value;
    }
    fn publish(&self, page: HypVa, offset: u64, value: u64) {
        self.write(page, offset, value);
    }
}

/// A host that lends the pages from 0x1000 on, but for those in `refused`, each once.
struct Host<'a> {
    memory: &'a Memory,
    lent: BTreeSet<u64>,
    refused: BTreeSet<u64>,
}

impl<'a> Host<'a> {
    fn new(memory: &'a Memory) -> Self {
        Self {
            memory,
            lent: BTreeSet::new(),
            refused: BTreeSet::new(),
        }
    }
}

impl Lender for Host<'_> {
    fn take(&mut self, va: u64) -> Result<HypVa> {
        if va < PAGE_SIZE
            || !va.is_multiple_of(PAGE_SIZE)
            || self.refused.contains(&va)
            || !self.lent.insert(va)
        {
            return Err(Error::Perm);
        }
        // What lies in a page at first is the host's garbage.
        let garbage = vec![0x5a5a_5a5a_5a5a_5a5a; PAGE_SIZE as usize / 8];
        self.memory.0.borrow_mut().insert(va, garbage);
        Ok(HypVa::new(va))
    }
    fn put(&mut self, page: HypVa) {
        assert!(self.lent.remove(&page.raw()), "a page is given back twice");
    }
}

struct Desc(Vec<u64>);

impl Words for Desc {
    fn word(&self, index: u64) -> Option<u64> {
        self.0.get(usize::try_from(index).ok()?).copied()
    }
}

const META: u64 = 0x10_0000;

fn page_va(n: u64) -> u64 {
    0x1_0000 + n * PAGE_SIZE
}

/// A descriptor of one ring per element, of so many pages.
fn describe(rings: &[u32]) -> Desc {
    let mut words = vec![0xb000, 0x1000, rings.len() as u64 | 0xdead << 32, 0];
    let mut next = 0;
    for (cpu, pages) in rings.iter().enumerate() {
        words.push(cpu as u64 | u64::from(*pages) << 32);
        words.push(META + cpu as u64 * PAGE_SIZE);
        for _ in 0..*pages {
            words.push(page_va(next));
            next += 1;
        }
    }
    Desc(words)
}

fn blank_pages(count: usize) -> Vec<BufferPage> {
    vec![BufferPage::EMPTY; count]
}

fn load<'a>(pages: &'a mut [BufferPage], host: &mut Host<'_>) -> Result<Ring<'a>> {
    let desc = describe(&[pages.len() as u32]);
    let read = Descriptor::read(&desc, 8)?;
    let entry = read.entries(&desc).next().unwrap()?;
    let memory = host.memory;
    Ring::load(&entry, &desc, pages, host, memory)
}

/// EL1's half: `__rb_get_reader_page_from_remote` and what is around it.
struct Reader<'a> {
    memory: &'a Memory,
    page: u64,
    offset: u64,
    stamp: u64,
    consumed: u64,
    /// Records that EL1 was told it missed.
    lost: u64,
}

impl<'a> Reader<'a> {
    fn new(memory: &'a Memory) -> Self {
        let page = page_va(memory.read(META, meta::READER) & 0xffff_ffff);
        Self {
            memory,
            page,
            offset: 0,
            stamp: 0,
            consumed: 0,
            lost: 0,
        }
    }

    fn unread(&self) -> u64 {
        self.memory.read(META, meta::ENTRIES) - (self.memory.read(META, meta::OVERRUN) + self.consumed)
    }

    /// The next record: its time and its words.
    fn next(&mut self, ring: &mut Ring<'_>) -> Option<(u64, Vec<u64>)> {
        loop {
            if self.unread() == 0 {
                return None;
            }
            if self.offset >= self.memory.read(self.page, 8) {
                ring.swap_reader(self.memory).expect("the swap that EL1 asks for");
                let number = self.memory.read(META, meta::READER);
                assert!(number < 1 << 32, "reader.read is EL1's to count");
                let page = page_va(number);
                assert_ne!(page, self.page);
                self.page = page;
                self.offset = 0;
                self.lost += self.memory.read(META, meta::READER_LOST);
                assert_ne!(self.memory.read(self.page, 8), 0, "an empty page for a reader");
            }
            if self.offset == 0 {
                self.stamp = self.memory.read(self.page, 0);
            }
            let word = self.memory.read(self.page, 16 + self.offset);
            let (kind, delta, high) = (word & 31, (word & 0xffff_ffff) >> 5, word >> 32);
            if kind == 30 {
                self.stamp += delta | high << 27;
                self.offset += 8;
                continue;
            }
            assert_eq!(kind, 0);
            self.stamp += delta;
            let words = (0..(high - 4) / 8)
                .map(|n| self.memory.read(self.page, 16 + self.offset + 8 + 8 * n))
                .collect();
            self.offset += high + 4;
            self.consumed += 1;
            return Some((self.stamp, words));
        }
    }

    fn reset(&mut self) {
        self.offset = 0;
        self.consumed = 0;
    }
}

#[test]
fn records_have_the_kernels_layout() {
    let record = Record::enter_exit(1, Reason::EretGuest, 0x1234);
    assert_eq!(record, Record::one(0x1234_0007_0001));
    assert_eq!(Record::selftest(2, u64::MAX), Record::two(2, u64::MAX));
}

#[test]
fn a_ring_begins_as_the_kernel_expects() {
    let memory = Memory::default();
    let mut pages = blank_pages(5);
    load(&mut pages, &mut Host::new(&memory)).unwrap();
    assert_eq!(memory.read(META, 0), PAGE_SIZE);
    assert_eq!(memory.read(META, 8), 5 << 32);
    assert_eq!(memory.read(META, meta::READER), 0);
    for n in 0..5 {
        assert_eq!(memory.read(page_va(n), 8), 0, "commit of page {n}");
    }
}

#[test]
fn nothing_is_written_while_off() {
    let memory = Memory::default();
    let mut pages = blank_pages(3);
    let mut ring = load(&mut pages, &mut Host::new(&memory)).unwrap();
    ring.write(Record::selftest(2, 1), Some(5), &memory);
    assert_eq!(memory.read(META, meta::ENTRIES), 0);
    ring.set_on(true);
    ring.write(Record::selftest(2, 1), Some(5), &memory);
    assert_eq!(memory.read(META, meta::ENTRIES), 1);
    ring.set_on(false);
    ring.write(Record::selftest(2, 1), Some(5), &memory);
    assert_eq!(memory.read(META, meta::ENTRIES), 1);
}

#[test]
fn a_failed_load_gives_every_page_back() {
    for (count, refused) in [
        (2, None),
        (5, Some(META)),
        (5, Some(page_va(0))),
        (5, Some(page_va(4))),
    ] {
        let memory = Memory::default();
        let mut host = Host::new(&memory);
        host.refused.extend(refused);
        let mut pages = blank_pages(count);
        assert_eq!(load(&mut pages, &mut host).err(), Some(Error::Invalid));
        assert!(host.lent.is_empty());
    }
}

#[test]
fn unloading_gives_every_page_back() {
    let memory = Memory::default();
    let mut host = Host::new(&memory);
    let mut pages = blank_pages(4);
    let ring = load(&mut pages, &mut host).unwrap();
    assert_eq!(host.lent.len(), 5);
    ring.unload(&mut host);
    assert!(host.lent.is_empty());
}

#[test]
fn a_page_twice_in_one_ring_is_refused() {
    let memory = Memory::default();
    let mut host = Host::new(&memory);
    let mut desc = describe(&[4]);
    let last = desc.0.len() - 1;
    desc.0[last] = desc.0[last - 1];
    let read = Descriptor::read(&desc, 8).unwrap();
    let entry = read.entries(&desc).next().unwrap().unwrap();
    let mut pages = blank_pages(4);
    let ring = Ring::load(&entry, &desc, &mut pages, &mut host, &memory);
    assert_eq!(ring.err(), Some(Error::Invalid));
    assert!(host.lent.is_empty());
}

#[test]
fn a_swap_of_an_empty_ring_is_refused_and_harms_nothing() {
    let memory = Memory::default();
    let mut pages = blank_pages(3);
    let mut ring = load(&mut pages, &mut Host::new(&memory)).unwrap();
    ring.set_on(true);
    assert_eq!(ring.swap_reader(&memory), Ok(()));
    assert_eq!(ring.swap_reader(&memory), Err(Error::Busy));
    let mut reader = Reader::new(&memory);
    ring.write(Record::selftest(2, 7), Some(1), &memory);
    assert_eq!(ring.swap_reader(&memory), Err(Error::Busy));
    assert_eq!(reader.next(&mut ring), Some((1, vec![2, 7])));
}

/// Where EL1 begins a read that consumes nothing: `rb_update_remote_head`, from any place.
#[test]
fn time_stamps_lead_to_the_oldest_page() {
    let per_page = (PAGE_SIZE - 16) / 16;
    for swaps in 0..4 {
        for written in 0..6 {
            let memory = Memory::default();
            let mut pages = blank_pages(7);
            let mut ring = load(&mut pages, &mut Host::new(&memory)).unwrap();
            ring.set_on(true);
            let mut time = 0;
            let mut fill = |ring: &mut Ring<'_>, count: u64| {
                for _ in 0..count * per_page {
                    time += 10;
                    ring.write(Record::enter_exit(0, Reason::Hvc, 0), Some(time), &memory);
                }
            };
            let mut order: VecDeque<u64> = (1..7).collect();
            let mut reader = 0;
            for _ in 0..swaps {
                fill(&mut ring, 1);
                ring.swap_reader(&memory).unwrap();
                let oldest = order.pop_front().unwrap();
                order.push_back(reader);
                reader = oldest;
            }
            fill(&mut ring, written);
            let stamp = |n: usize| memory.read(page_va(order[n]), 0);
            for start in written as usize..6 {
                let mut head = start;
                while stamp(head) > stamp((head + 1) % 6) {
                    head = (head + 1) % 6;
                }
                let expected = if written == 0 { 5 } else { 0 };
                assert_eq!(head, expected, "swaps {swaps}, written {written}, from {start}");
            }
        }
    }
}

#[test]
fn times_never_fall_and_long_ones_are_extended() {
    let memory = Memory::default();
    let mut pages = blank_pages(3);
    let mut ring = load(&mut pages, &mut Host::new(&memory)).unwrap();
    ring.set_on(true);
    let record = Record::enter_exit(0, Reason::Hvc, 1);
    let late = 1 << 40;
    for now in [Some(100), Some(50), None, Some(late), Some(0), Some(late + 1)] {
        ring.write(record, now, &memory);
    }
    let mut reader = Reader::new(&memory);
    let times: Vec<u64> = std::iter::from_fn(|| reader.next(&mut ring).map(|(time, _)| time)).collect();
    assert_eq!(times, [100, 100, 100, late, late, late + 1]);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64),
    Long,
    Read(u8),
    Reset,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        30 => (0_u64..400).prop_map(Step::Write),
        2 => Just(Step::Long),
        10 => any::<u8>().prop_map(Step::Read),
        1 => Just(Step::Reset),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Every record comes back once, in order and with its time, or is counted as lost.
    #[test]
    fn a_reader_gets_what_was_written(count in 3_usize..8, steps in steps()) {
        let memory = Memory::default();
        let mut host = Host::new(&memory);
        let mut pages = blank_pages(count);
        let mut ring = load(&mut pages, &mut host).unwrap();
        ring.set_on(true);
        let mut reader = Reader::new(&memory);
        let mut written: VecDeque<(u64, u64)> = VecDeque::new();
        let mut overrun = 0;
        let (mut time, mut id) = (1, 0);
        for step in steps {
            match step {
                Step::Write(many) => for _ in 0..many {
                    time += id % 1000;
                    ring.write(Record::selftest(2, id), Some(time), &memory);
                    written.push_back((time, id));
                    id += 1;
                },
                Step::Long => {
                    time += 1 << 30;
                    ring.write(Record::selftest(2, id), Some(time), &memory);
                    written.push_back((time, id));
                    id += 1;
                }
                Step::Read(many) => for _ in 0..many {
                    let Some((stamp, words)) = reader.next(&mut ring) else { break };
                    prop_assert_eq!(words[0], 2);
                    // What the ring lost lies between the reader's page and its head.
                    let mut skipped = 0;
                    while written.front().is_some_and(|first| first.1 != words[1]) {
                        written.pop_front();
                        skipped += 1;
                    }
                    overrun += skipped;
                    prop_assert_eq!(written.pop_front(), Some((stamp, words[1])));
                    prop_assert_eq!(reader.lost, overrun);
                },
                Step::Reset => {
                    ring.reset(&memory);
                    reader.reset();
                    reader.lost = 0;
                    overrun = 0;
                    written.clear();
                }
                Step::Restart => {
                    ring.set_on(false);
                    ring.write(Record::selftest(2, u64::MAX), Some(time), &memory);
                    ring.set_on(true);
                }
            }
            let lost = memory.read(META, meta::OVERRUN) - overrun;
            prop_assert_eq!(written.len() as u64 - lost, reader.unread());
        }
        ring.unload(&mut host);
        prop_assert!(host.lent.is_empty());
    }

    /// Whatever is in a descriptor, reading it ends, and nothing outside of it is read.
    #[test]
    fn any_descriptor_is_read_or_refused(words in prop::collection::vec(prop_oneof![
        0_u64..6, (0_u64..8).prop_map(|pages| pages << 32 | 1), any::<u64>(),
    ], 0..40)) {
        let desc = Desc(words);
        if let Ok(read) = Descriptor::read(&desc, 4) {
            prop_assert!(read.cpus <= 4 && read.pages <= 40);
            let mut pages = 0;
            for (cpu, entry) in read.entries(&desc).enumerate() {
                let entry = entry.unwrap();
                prop_assert_eq!(entry.cpu as usize, cpu);
                for n in 0..entry.pages {
                    prop_assert!(entry.page(&desc, n).is_some());
                }
                prop_assert_eq!(entry.page(&desc, entry.pages), None);
                pages += u64::from(entry.pages);
            }
            prop_assert_eq!(pages, read.pages);
        }
    }

    /// The clock takes any number.
    #[test]
    fn the_clock_is_total(mult: u32, shift: u32, ns: u64, cyc: u64, counter: u64) {
        let clock = Clock::new();
        prop_assert_eq!(clock.at(counter), Some(0));
        clock.update(mult, shift, ns, cyc);
        let expected = if mult == 0 || shift >= 64 {
            0
        } else {
            let product = u128::from(counter.wrapping_sub(cyc)) * u128::from(mult);
            ((product >> shift) as u64).wrapping_add(ns)
        };
        prop_assert_eq!(clock.at(counter), Some(expected));
    }
}

#[test]
fn descriptors_of_the_kernel_are_read() {
    let desc = describe(&[3, 4]);
    let read = Descriptor::read(&desc, 2).unwrap();
    assert_eq!(
        read,
        Descriptor {
            backing: 0xb000,
            backing_bytes: 0x1000,
            cpus: 2,
            pages: 7
        }
    );
    let entries: Vec<_> = read.entries(&desc).map(Result::unwrap).collect();
    assert_eq!(entries[1].meta, META + PAGE_SIZE);
    assert_eq!(entries[1].page(&desc, 0), Some(page_va(3)));
    // One CPU too many, a list that ends too late, a CPU out of order.
    assert_eq!(Descriptor::read(&desc, 1), Err(Error::Invalid));
    let mut short = describe(&[3, 4]);
    short.0.pop();
    assert_eq!(Descriptor::read(&short, 2), Err(Error::Invalid));
    let mut swapped = describe(&[3, 4]);
    swapped.0[4] |= 1;
    assert_eq!(Descriptor::read(&swapped, 2), Err(Error::Invalid));
    assert_eq!(Descriptor::read(&describe(&[]), 2).map(|read| read.pages), Ok(0));
}

#[test]
fn a_descriptor_that_grows_after_it_was_read_is_refused() {
    let read = Descriptor::read(&describe(&[3, 4]), 2).unwrap();
    let grown = |rings: &[u32]| {
        let desc = describe(rings);
        read.entries(&desc)
            .map(|entry| entry.map(|entry| entry.pages))
            .collect::<Result<Vec<_>>>()
    };
    assert_eq!(grown(&[3, 4]), Ok(vec![3, 4]));
    assert_eq!(grown(&[3, 5]), Err(Error::Invalid));
    assert_eq!(grown(&[400, 4]), Err(Error::Invalid));
}

#[test]
fn a_clock_that_is_updated_meanwhile_shows_no_mixed_time() {
    // Each update keeps ns equal to cyc, so that with a factor of one the time is the counter's.
    static CLOCK: Clock = Clock::new();
    CLOCK.update(1, 0, 1, 1);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..200_000 {
                CLOCK.update(1, 0, n * 0x1_0001, n * 0x1_0001);
            }
        });
        let mut seen = 0_u32;
        while !writer.is_finished() {
            if let Some(time) = CLOCK.at(77) {
                assert_eq!(time, 77);
                seen += 1;
            }
        }
        let _ = seen;
    });
}
