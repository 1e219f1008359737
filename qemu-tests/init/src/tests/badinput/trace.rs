// SPDX-License-Identifier: GPL-2.0-only
//! Trace buffers that a host made up: pages that are not lent, that serve for something else or twice, and descriptors
//! that point out of themselves.

use super::{Bench, Want};
use crate::hostile::{FakeVm, Hostile, Kind, errno};

const EINVAL: Want = Want::Result(errno::EINVAL);
const OK: Want = Want::Result(0);
/// What a refused donation may say.
const REFUSED: Want = Want::OneOf(&[errno::EPERM, errno::EINVAL, errno::ENOMEM, errno::EBUSY]);

/// Words of a descriptor: the head, then the CPUs' parts.
const NR_CPUS: usize = 2;
const CPU_0: usize = 4;
const META: usize = CPU_0 + 1;
const PAGES: usize = CPU_0 + 2;

/// Buffers for two CPUs, in memory of the host.
struct Buffers {
    desc: u64,
    desc_bytes: u64,
    backing: u64,
    backing_bytes: u64,
    /// The meta page of CPU 0, its pages, then those of CPU 1: all lent to EL2.
    lent: Vec<u64>,
    words: Vec<u64>,
}

impl Buffers {
    /// Makes buffers of so many pages per CPU.
    fn new(h: &Hostile, page: u64, pages: u64) -> Result<Self, String> {
        let alloc = |bytes: u64| h.alloc(bytes).map_err(|e| e.to_string());
        let (desc, _) = alloc(page)?;
        let (backing, _) = alloc(page)?;
        let mut lent = Vec::new();
        let mut words = vec![backing, page, 2, 0];
        for cpu in 0..2 {
            words.push(cpu | pages << 32);
            for _ in 0..=pages {
                let (va, pa) = alloc(page)?;
                h.call("__pkvm_host_share_hyp", &[pa / page])
                    .map_err(|e| e.to_string())?
                    .ok("share")?;
                lent.push(va);
                words.push(va);
            }
        }
        Ok(Self {
            desc,
            desc_bytes: page,
            backing,
            backing_bytes: page,
            lent,
            words,
        })
    }

    /// Writes the descriptor, with some words changed, and has EL2 load it.
    fn load(
        &self,
        b: &mut Bench,
        what: &str,
        changes: &[(usize, u64)],
        want: Want,
        c: Option<Want>,
    ) -> Result<(), String> {
        let mut words = self.words.clone();
        for (index, value) in changes {
            words[*index] = *value;
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        b.h.poke(self.desc, &bytes).map_err(|e| e.to_string())?;
        b.check_unless_c("__tracing_load", what, &[self.desc, self.desc_bytes], want, c)?;
        let back =
            b.h.peek(self.desc, bytes.len())
                .map_err(|e| format!("{what}: the descriptor: {e}"))?;
        b.expect(
            &format!("{what}: the descriptor came back changed"),
            back == bytes,
        );
        Ok(())
    }

    /// Everything is the host's again: no page is pinned, and the backing holds nothing of EL2's.
    fn released(&self, b: &mut Bench, what: &str) -> Result<(), String> {
        b.check("__tracing_unload", what, &[], Want::Any)?;
        for (n, va) in self.lent.iter().enumerate() {
            let pfn = b.h.pa_of(*va).map_err(|e| e.to_string())? / b.page;
            let what = format!("{what}: of lent page {n}");
            b.check("__pkvm_host_unshare_hyp", &what, &[pfn], OK)?;
            b.check("__pkvm_host_share_hyp", &what, &[pfn], OK)?;
        }
        let backing = b.h.peek(self.backing, self.backing_bytes as usize);
        let zero = backing.is_ok_and(|bytes| bytes.iter().all(|byte| *byte == 0));
        b.expect(
            &format!("{what}: the backing is not the host's, or not zero"),
            zero,
        );
        for va in [self.backing, self.desc] {
            let pfn = b.h.pa_of(va).map_err(|e| e.to_string())? / b.page;
            b.owned(what, pfn)?;
        }
        Ok(())
    }
}

/// Loads that must be refused, between loads that must not.
pub fn load(b: &mut Bench) -> Result<(), String> {
    if b.h.fact("tracing") != 1 {
        println!("# tracing is not in this kernel");
        return Ok(());
    }
    let h = Hostile::open().map_err(|e| e.to_string())?;
    let buffers = Buffers::new(&h, b.page, 3)?;
    let other = Buffers::new(&h, b.page, 4)?;
    let cpu_1 = CPU_0 + 5;
    let all = |b: &mut Bench| {
        buffers.load(b, "of good buffers", &[], OK, None)?;
        other.load(b, "of other buffers beside them", &[], EINVAL, None)?;
        other.released_but_loaded(b)?;
        let pfn = b.h.pa_of(buffers.lent[1]).map_err(|e| e.to_string())? / b.page;
        b.check(
            "__pkvm_host_unshare_hyp",
            "of a page in a ring",
            &[pfn],
            Want::Result(errno::EBUSY),
        )?;
        for event in 0..3 {
            b.check("__tracing_enable_event", "that there is", &[event, 1], OK)?;
        }
        b.check("__tracing_enable_event", "after the last", &[3, 1], EINVAL)?;
        b.check("__tracing_enable", "of loaded buffers", &[1], OK)?;
        for (mult, shift, ns, cyc) in [
            (u64::MAX, 63, u64::MAX, u64::MAX),
            (1, 0, 0, u64::MAX),
            (u64::MAX, 0, 0, 0),
            (1 << 24, 18, u64::MAX - 5, 0),
        ] {
            b.check(
                "__tracing_update_clock",
                "by odd numbers",
                &[mult, shift, ns, cyc],
                Want::Void,
            )?;
            for id in 0..400 {
                b.check("__tracing_write_event", "in odd times", &[id], Want::Void)?;
            }
        }
        // The host's pages are the host's to spoil, and it may say that it read what it did not.
        for va in &buffers.lent {
            b.h.poke(*va, &vec![0xff; b.page as usize])
                .map_err(|e| e.to_string())?;
        }
        let any = Want::OneOf(&[0, errno::EBUSY]);
        for round in 0..12 {
            b.check("__tracing_swap_reader", "of spoilt pages", &[round % 2], any)?;
            b.check("__tracing_write_event", "into spoilt pages", &[round], Want::Void)?;
            b.check("__tracing_reset", "of spoilt pages", &[round % 2], any)?;
        }
        for event in 0..3 {
            b.check("__tracing_enable_event", "off", &[event, 0], OK)?;
        }
        buffers.released(b, "after good buffers")
    };
    all(b)?;

    let vm = FakeVm::new(&h, Kind::Protected)?;
    let (page, twice) = (b.page, Some(OK));
    let unshared = b.h.alloc(page).map_err(|e| e.to_string())?.0;
    let hyp = b.h.va_of(b.map.hyp).map_err(|e| e.to_string())?;
    let mmio = b.h.va_of(b.map.mmio).map_err(|e| e.to_string())?;
    let first = buffers.lent[1];
    for (what, change, want, c) in [
        ("with a page twice in a ring", (PAGES + 2, first), EINVAL, twice),
        ("with a page in two rings", (cpu_1 + 2, first), EINVAL, twice),
        (
            "with a meta page that is a page as well",
            (META, first),
            EINVAL,
            twice,
        ),
        (
            "with a page that is not lent",
            (PAGES + 1, unshared),
            EINVAL,
            None,
        ),
        (
            "with a meta page that is not lent",
            (META, unshared),
            EINVAL,
            None,
        ),
        ("with EL2's page", (PAGES, hyp), EINVAL, None),
        ("with a device", (PAGES, mmio), EINVAL, None),
        (
            "with a page that is none",
            (PAGES, first + 8),
            EINVAL,
            Some(REFUSED_OR_OK),
        ),
        ("with page 0", (PAGES, 0), EINVAL, None),
        (
            "with a VM's structure for a page",
            (PAGES, vm.host),
            EINVAL,
            twice,
        ),
        ("of two pages", (CPU_0, 2 << 32), EINVAL, None),
        ("of no pages", (CPU_0, 0), EINVAL, None),
        ("of more pages than fit", (CPU_0, 600 << 32), EINVAL, None),
        ("of 2^32-1 pages", (CPU_0, 0xffff_ffff << 32), EINVAL, None),
        ("with CPUs out of order", (CPU_0, 1 | 3 << 32), EINVAL, None),
        ("with a CPU of -1", (CPU_0, 0xffff_ffff | 3 << 32), EINVAL, None),
        ("for 5000 CPUs", (NR_CPUS, 5000), EINVAL, None),
        ("for -1 CPUs", (NR_CPUS, 0xffff_ffff), EINVAL, None),
        ("without backing", (1, 0), EINVAL, None),
        ("with backing of an odd size", (1, 100), EINVAL, None),
        (
            "with more backing than there is",
            (1, page.wrapping_neg()),
            REFUSED,
            None,
        ),
        (
            "with backing at an odd place",
            (0, buffers.backing + 8),
            EINVAL,
            None,
        ),
        ("with EL2's backing", (0, hyp), REFUSED, None),
        ("with a lent page for backing", (0, first), REFUSED, None),
        ("with itself for backing", (0, buffers.desc), REFUSED, None),
    ] {
        buffers.load(b, what, &[change], want, c)?;
        buffers.released(b, what)?;
    }
    vm.destroy(&[], Kind::Protected)?;
    b.check("__tracing_load", "of EL2's memory", &[hyp, page], REFUSED)?;
    b.check("__tracing_load", "of a lent page", &[first, page], REFUSED)?;
    all(b)
}

/// What the C object makes of a page address with low bits: it uses it.
const REFUSED_OR_OK: Want = Want::OneOf(&[0, errno::EINVAL]);

impl Buffers {
    /// As [`released`](Self::released), while other buffers stay loaded.
    fn released_but_loaded(&self, b: &mut Bench) -> Result<(), String> {
        for va in [self.backing, self.desc, self.lent[0]] {
            let pfn = b.h.pa_of(va).map_err(|e| e.to_string())? / b.page;
            if va == self.lent[0] {
                b.check("__pkvm_host_unshare_hyp", "of refused buffers", &[pfn], OK)?;
                b.check("__pkvm_host_share_hyp", "of refused buffers", &[pfn], OK)?;
            } else {
                b.owned("refused buffers", pfn)?;
            }
        }
        Ok(())
    }
}

/// A ring that names one page more often than a pin can be counted.
pub fn many(b: &mut Bench) -> Result<(), String> {
    const COUNT: u64 = 65_540;
    if b.h.fact("tracing") != 1 {
        println!("# tracing is not in this kernel");
        return Ok(());
    }
    let h = Hostile::open().map_err(|e| e.to_string())?;
    let mut buffers = Buffers::new(&h, b.page, 3)?;
    let alloc = |bytes: u64| h.alloc(bytes).map_err(|e| e.to_string());
    let pages = |bytes: u64| bytes.next_multiple_of(b.page);
    let one = buffers.lent[1];
    buffers.desc_bytes = pages(8 * (COUNT + 6));
    buffers.desc = alloc(buffers.desc_bytes)?.0;
    buffers.backing_bytes = pages(40 * COUNT);
    buffers.backing = alloc(buffers.backing_bytes)?.0;
    buffers.words = vec![
        buffers.backing,
        buffers.backing_bytes,
        1,
        0,
        COUNT << 32,
        buffers.lent[0],
    ];
    buffers.words.extend(std::iter::repeat_n(one, COUNT as usize));
    buffers.load(b, "with one page 65540 times", &[], EINVAL, None)?;
    buffers.released(b, "after one page 65540 times")
}
