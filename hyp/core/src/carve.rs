// SPDX-License-Identifier: GPL-2.0-only
//! How the memory that the kernel reserved for EL2 at boot is divided. The kernel computes the size of the reservation
//! from the same memory map (`kvm_hyp_reserve`), so every bound here must agree with, or stay below, the kernel's;
//! but for the page records, which must be there for every page (see [`record_pages`]).

use pkvm_types::{Error, PAGE_SHIFT, PAGE_SIZE, PTES_PER_TABLE, Pfn, PfnRange, Result};

/// Levels of a translation regime, -1 to 3.
const LEVELS: u32 = 5;

/// Memory for device mappings of a translation regime: the kernel provisions tables for 1 GiB.
const DEVICE_BYTES: u64 = 1 << 30;

/// Spare pages with which the kernel bounds a concatenated top-level table.
const CONCATENATION_SPARE: u64 = 16;

/// Tables that map `pages` single pages at worst.
fn tables_for(pages: u64) -> Option<u64> {
    let mut entries = pages;
    let mut total = 0u64;
    for _ in 0..LEVELS {
        entries = entries.div_ceil(PTES_PER_TABLE);
        total = total.checked_add(entries)?;
    }
    Some(total)
}

/// Bytes of one page record.
const RECORD: u64 = 8;

/// The first and the last-plus-one page, in units of pages of page records, that hold the records of the memory
/// region of `bytes` bytes at `base`. A region need not begin or end at a page: the last page is that of its end, and
/// may be one more than its length says. The kernel reserves by the length. What that lacks comes out of its rounding of
/// the whole, and if there is none, [`carve`] finds the memory too small.
pub fn record_pages(base: u64, bytes: u64) -> Option<(u64, u64)> {
    let start = (base >> PAGE_SHIFT).checked_mul(RECORD)?;
    let end = (base.checked_add(bytes)? >> PAGE_SHIFT).checked_mul(RECORD)?;
    Some((start >> PAGE_SHIFT, end.div_ceil(PAGE_SIZE)))
}

/// The pools within EL2's memory, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carve {
    /// Behind the page records.
    pub records: PfnRange,
    /// The kernel provisions these for a VM table of pointers.
    pub vm_table: PfnRange,
    /// For EL2's own stage-1 tables.
    pub hyp_tables: PfnRange,
    /// For the host's stage-2 tables.
    pub host_tables: PfnRange,
    /// For the FF-A proxy's mailboxes and descriptor buffer.
    pub ffa: PfnRange,
    /// For the ownership self-test, where the kernel is configured for it: all the rest, since the kernel rounds the
    /// reservation up and the test can use more than the kernel sets apart for it.
    pub selftest: Option<PfnRange>,
}

/// Divides `memory` for the memory map `regions` of (base, bytes). [`Error::NoMemory`] where it is too small.
pub fn carve(
    memory: PfnRange,
    regions: impl Iterator<Item = (u64, u64)> + Clone,
    vm_table_bytes: u64,
    selftest_pages: u64,
    ffa_pages: u64,
) -> Result<Carve> {
    let mut tables = 0u64;
    let mut records = 0u64;
    for (base, bytes) in regions {
        let more = tables_for(bytes >> PAGE_SHIFT).ok_or(Error::NoMemory)?;
        tables = tables.checked_add(more).ok_or(Error::NoMemory)?;
        let (first, end) = record_pages(base, bytes).ok_or(Error::NoMemory)?;
        let count = end.checked_sub(first).ok_or(Error::NoMemory)?;
        records = records.checked_add(count).ok_or(Error::NoMemory)?;
    }
    let device = tables_for(DEVICE_BYTES >> PAGE_SHIFT).ok_or(Error::NoMemory)?;
    let hyp_tables = tables.checked_add(device).ok_or(Error::NoMemory)?;
    let host_tables = hyp_tables
        .checked_add(CONCATENATION_SPARE)
        .ok_or(Error::NoMemory)?;

    let mut cut = Cutter {
        next: memory.start(),
        left: memory.count(),
    };
    let mut carve = Carve {
        records: cut.take(records)?,
        vm_table: cut.take(vm_table_bytes.div_ceil(PAGE_SIZE))?,
        hyp_tables: cut.take(hyp_tables)?,
        host_tables: cut.take(host_tables)?,
        ffa: cut.take(ffa_pages)?,
        selftest: None,
    };
    if selftest_pages != 0 {
        if cut.left < selftest_pages {
            return Err(Error::NoMemory);
        }
        carve.selftest = Some(cut.take(cut.left)?);
    }
    Ok(carve)
}

struct Cutter {
    next: Pfn,
    left: u64,
}

impl Cutter {
    fn take(&mut self, count: u64) -> Result<PfnRange> {
        let range = PfnRange::checked(self.next, count).map_err(|_| Error::NoMemory)?;
        self.left = self.left.checked_sub(count).ok_or(Error::NoMemory)?;
        // The last piece may end at the end of the address space; then there is nothing left to take either.
        self.next = self.next.checked_add(count).unwrap_or(self.next);
        Ok(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(pages: u64) -> PfnRange {
        PfnRange::checked(Pfn::checked(0x5_0000).unwrap(), pages).unwrap()
    }

    const GIB: u64 = 1 << 30;

    #[test]
    fn pieces_follow_one_another_without_overlap() {
        let regions = [(0x4000_0000, 2 * GIB), (0x10_0000_0000, GIB / 2)];
        let carve = carve(memory(0x4000), regions.into_iter(), 255 * 8, 32, 11).unwrap();
        let pieces = [
            carve.records,
            carve.vm_table,
            carve.hyp_tables,
            carve.host_tables,
            carve.ffa,
            carve.selftest.unwrap(),
        ];
        assert_eq!(carve.selftest.unwrap().last(), memory(0x4000).last());
        for pair in pieces.windows(2) {
            assert_eq!(pair[0].last().raw() + 1, pair[1].start().raw());
        }
        assert_eq!(carve.host_tables.count() - carve.hyp_tables.count(), 16);
    }

    #[test]
    fn sizes_are_those_the_kernel_reserves() {
        let carve = carve(memory(0x4000), [(0x4000_0000, GIB)].into_iter(), 255 * 8, 0, 11).unwrap();
        // 1 GiB: the last-level tables, then the levels above; the same again for devices. Then the page records.
        let (tables, records) = match PAGE_SHIFT {
            12 => (512 + 4, 512),
            14 => (32 + 4, 32),
            _ => (2 + 4, 2),
        };
        assert_eq!(carve.hyp_tables.count(), 2 * tables);
        assert_eq!(carve.records.count(), records);
        assert_eq!(carve.selftest, None);
    }

    #[test]
    fn a_reservation_one_page_short_is_refused() {
        let regions = [(0x4000_0000, GIB)];
        let whole = carve(memory(0x4000), regions.into_iter(), 255 * 8, 32, 11).unwrap();
        let used = whole.ffa.last().raw() + 1 - 0x5_0000 + 32;
        assert!(carve(memory(used), regions.into_iter(), 255 * 8, 32, 11).is_ok());
        assert_eq!(
            carve(memory(used - 1), regions.into_iter(), 255 * 8, 32, 11),
            Err(Error::NoMemory)
        );
    }

    #[test]
    fn the_last_whole_page_of_a_region_has_its_record() {
        // The region begins in the middle of a page and ends with one whose record is the first in its page of records:
        // its length alone has a page less.
        let per_page = PAGE_SIZE / RECORD;
        let (base, bytes) = (
            per_page * PAGE_SIZE + PAGE_SIZE / 2,
            per_page * PAGE_SIZE + PAGE_SIZE / 2,
        );
        let (first, end) = record_pages(base, bytes).unwrap();
        let last = (base + bytes) / PAGE_SIZE - 1;
        assert_eq!((first, end), (1, last / per_page + 1));
        let (first, end) = record_pages(base, bytes + PAGE_SIZE).unwrap();
        assert_eq!((first, end), (1, (last + 1) / per_page + 1));
        assert_eq!(end, 3);
        // And one that holds no whole page has none.
        assert_eq!(record_pages(PAGE_SIZE / 4, PAGE_SIZE / 2), Some((0, 0)));
    }

    #[test]
    fn a_memory_map_of_nonsense_does_not_wrap() {
        assert_eq!(
            carve(memory(0x4000), [(u64::MAX, u64::MAX)].into_iter(), 8, 0, 1).unwrap_err(),
            Error::NoMemory
        );
    }
}
