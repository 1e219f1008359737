// SPDX-License-Identifier: GPL-2.0-only
//! The memory map that the boot handed over: which frames are memory, which may not be touched, which are devices.
//! Ownership exists for memory alone, and every frame number from outside passes through here before it selects a page
//! record.
//!
//! The regions come from EL1 while it is still trusted (before deprivilege); they are validated once, when they are
//! pushed, and never change afterwards.

use pkvm_types::{Error, PAGE_SHIFT, PAGE_SIZE, Pfn, PfnRange, Phys, Result};

/// How many regions a map can hold; the kernel's `HYP_MEMBLOCK_REGIONS`.
pub const MAX_REGIONS: usize = 128;

/// One region of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// Its first byte.
    pub base: Phys,
    /// Its last byte.
    pub last: Phys,
    /// Whether the kernel keeps it out of its linear map. Such memory never changes owner.
    pub access: Access,
}

/// Whether memory takes part in ownership transitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Ordinary memory.
    Normal,
    /// Memory that firmware marked `no-map`.
    NoMap,
}

/// What lies at a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Memory that has an owner.
    Memory,
    /// Memory that always stays the host's.
    NoMap,
    /// Not memory: a device, a hole, or a page of which a region covers only a part.
    Device,
}

/// The stretch of the address space around an address: the region that holds it, or the gap between two regions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Its first byte.
    pub first: Phys,
    /// Its last byte.
    pub last: Phys,
    /// The region, or `None` in a gap.
    pub access: Option<Access>,
}

impl Span {
    /// Whether `range` lies wholly in the span.
    pub fn covers(&self, range: PfnRange) -> bool {
        self.first <= range.start().phys() && last_byte(range.last()) <= self.last
    }
}

/// How many frames a region touches.
fn frames(region: &Region) -> Option<u64> {
    let (first, last) = (Pfn::of(region.base).raw(), Pfn::of(region.last).raw());
    last.checked_sub(first)?.checked_add(1)
}

/// The last byte of a frame. Setting bits cannot overflow.
fn last_byte(pfn: Pfn) -> Phys {
    Phys::new(pfn.phys().raw() | (PAGE_SIZE - 1))
}

/// The regions of memory in ascending order, the hypervisor's text, and the size of the physical address space.
#[derive(Debug)]
pub struct MemoryMap {
    regions: [Region; MAX_REGIONS],
    count: usize,
    text: Option<PfnRange>,
    ipa_bits: u32,
}

impl MemoryMap {
    /// A map without memory. Physical addresses have `ipa_bits` bits, which are also those of every intermediate
    /// address.
    pub const fn new(ipa_bits: u32) -> Self {
        const NONE: Region = Region {
            base: Phys::new(0),
            last: Phys::new(0),
            access: Access::NoMap,
        };
        Self {
            regions: [NONE; MAX_REGIONS],
            count: 0,
            text: None,
            ipa_bits,
        }
    }

    /// Sets the size of the address space: the sanitised physical address range of the CPUs.
    pub fn set_ipa_bits(&mut self, bits: u32) {
        self.ipa_bits = bits;
    }

    /// Bits of a physical and of an intermediate physical address.
    pub fn ipa_bits(&self) -> u32 {
        self.ipa_bits
    }

    /// Adds the region of `size` bytes from `base`. [`Error::Invalid`] where it is empty, wraps, or does not lie above
    /// the regions there are; [`Error::NoMemory`] where the map is full.
    pub fn push(&mut self, base: Phys, size: u64, access: Access) -> Result<()> {
        let last = size
            .checked_sub(1)
            .and_then(|size| base.checked_add(size))
            .ok_or(Error::Invalid)?;
        if self.regions().last().is_some_and(|above| base <= above.last) {
            return Err(Error::Invalid);
        }
        *self.regions.get_mut(self.count).ok_or(Error::NoMemory)? = Region { base, last, access };
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    /// Names the frames of the hypervisor's text.
    pub fn set_hyp_text(&mut self, text: PfnRange) {
        self.text = Some(text);
    }

    /// Whether `pfn` holds hypervisor text. The host may read it, and nobody may change its owner.
    pub fn is_hyp_text(&self, pfn: Pfn) -> bool {
        self.text
            .is_some_and(|text| text.start() <= pfn && pfn <= text.last())
    }

    /// Whether any of `pages` holds hypervisor text.
    pub fn has_hyp_text(&self, pages: PfnRange) -> bool {
        self.text
            .is_some_and(|text| text.start() <= pages.last() && pages.start() <= text.last())
    }

    /// The regions in ascending order.
    pub fn regions(&self) -> &[Region] {
        self.regions.get(..self.count).unwrap_or(&[])
    }

    /// The region or gap that holds `phys`.
    pub fn span(&self, phys: Phys) -> Span {
        let regions = self.regions();
        let above = regions.partition_point(|region| region.last < phys);
        let first = match above.checked_sub(1).and_then(|below| regions.get(below)) {
            // A region whose last byte is the last address has nothing above it, so this cannot saturate there.
            Some(below) => Phys::new(below.last.raw().saturating_add(1)),
            None => Phys::new(0),
        };
        match regions.get(above) {
            Some(region) if region.base <= phys => Span {
                first: region.base,
                last: region.last,
                access: Some(region.access),
            },
            Some(region) => Span {
                first,
                last: Phys::new(region.base.raw().saturating_sub(1)),
                access: None,
            },
            None => Span {
                first,
                last: Phys::new(u64::MAX),
                access: None,
            },
        }
    }

    /// The place of `pfn` among all frames of memory, counted through the regions without the gaps; `None` for a frame
    /// that lies in no region. A shorter name of the frame than its number.
    pub fn index(&self, pfn: Pfn) -> Option<u64> {
        let mut before = 0_u64;
        for region in self.regions() {
            let (first, last) = (Pfn::of(region.base), Pfn::of(region.last));
            if first <= pfn && pfn <= last {
                return pfn.raw().checked_sub(first.raw())?.checked_add(before);
            }
            before = before.checked_add(frames(region)?)?;
        }
        None
    }

    /// The frame at a place: the inverse of [`index`](Self::index).
    pub fn frame(&self, index: u64) -> Option<Pfn> {
        let mut rest = index;
        for region in self.regions() {
            let frames = frames(region)?;
            match rest.checked_sub(frames) {
                Some(beyond) => rest = beyond,
                None => return Pfn::of(region.base).checked_add(rest),
            }
        }
        None
    }

    /// What lies at `pfn`.
    pub fn class(&self, pfn: Pfn) -> Class {
        let span = self.span(pfn.phys());
        match span.access {
            Some(access) if span.covers(PfnRange::single(pfn)) => match access {
                Access::Normal => Class::Memory,
                Access::NoMap => Class::NoMap,
            },
            _ => Class::Device,
        }
    }

    /// Whether each frame of `range` is memory that has an owner. [`Error::Invalid`] where the range crosses a border
    /// between regions and gaps, [`Error::Perm`] where it is a device or may not be mapped.
    pub fn check_memory(&self, range: PfnRange) -> Result<()> {
        let span = self.span(range.start().phys());
        if !span.covers(range) {
            return Err(Error::Invalid);
        }
        match span.access {
            Some(Access::Normal) => Ok(()),
            Some(Access::NoMap) | None => Err(Error::Perm),
        }
    }

    /// Whether `range` lies below the end of the physical address space. [`Error::Invalid`] elsewhere.
    pub fn check_limit(&self, range: PfnRange) -> Result<()> {
        if self.in_address_space(range.last().raw()) {
            Ok(())
        } else {
            Err(Error::Invalid)
        }
    }

    /// Whether a frame number is one of the address space.
    pub fn in_address_space(&self, frame: u64) -> bool {
        let bits = self.ipa_bits.saturating_sub(PAGE_SHIFT);
        frame.checked_shr(bits).is_none_or(|above| above == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pfn(raw: u64) -> Pfn {
        Pfn::checked(raw).unwrap()
    }
    fn range(start: u64, count: u64) -> PfnRange {
        PfnRange::checked(pfn(start), count).unwrap()
    }
    fn map() -> MemoryMap {
        let mut map = MemoryMap::new(40);
        map.push(Phys::new(4 * PAGE_SIZE), 4 * PAGE_SIZE, Access::Normal)
            .unwrap();
        map.push(Phys::new(8 * PAGE_SIZE), 2 * PAGE_SIZE + 8, Access::NoMap)
            .unwrap();
        map.push(Phys::new(12 * PAGE_SIZE + 8), 3 * PAGE_SIZE, Access::Normal)
            .unwrap();
        map
    }

    #[test]
    fn every_frame_has_one_class() {
        let map = map();
        for frame in 0..18 {
            let want = match frame {
                4..8 | 13..15 => Class::Memory,
                8..10 => Class::NoMap,
                _ => Class::Device,
            };
            assert_eq!(map.class(pfn(frame)), want, "frame {frame}");
        }
    }

    #[test]
    fn a_range_across_a_border_is_invalid_and_a_device_is_not_permitted() {
        let map = map();
        assert_eq!(map.check_memory(range(4, 4)), Ok(()));
        assert_eq!(map.check_memory(range(3, 1)), Err(Error::Perm));
        assert_eq!(map.check_memory(range(3, 2)), Err(Error::Invalid));
        assert_eq!(map.check_memory(range(7, 2)), Err(Error::Invalid));
        assert_eq!(map.check_memory(range(8, 1)), Err(Error::Perm));
        assert_eq!(map.check_memory(range(12, 1)), Err(Error::Invalid));
        assert_eq!(map.check_memory(range(20, 1 << 40)), Err(Error::Perm));
    }

    #[test]
    fn each_frame_of_a_region_has_a_place_of_its_own() {
        let map = map();
        let places: Vec<_> = (0..18)
            .filter_map(|frame| Some((frame, map.index(pfn(frame))?)))
            .collect();
        // The last frame of a region and the first of the next may be one; they are no memory then.
        let frames: Vec<_> = places.iter().map(|place| place.0).collect();
        assert_eq!(frames, [4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15]);
        assert!(places.iter().map(|place| place.1).eq(0..11));
        for (frame, place) in places {
            assert_eq!(map.frame(place), Some(pfn(frame)));
        }
        assert_eq!(map.frame(11), None);
        assert_eq!(map.frame(u64::MAX), None);
        assert_eq!(MemoryMap::new(40).frame(0), None);
    }

    #[test]
    fn the_end_of_the_address_space_is_exact() {
        let map = map();
        let end = 1u64 << (40 - PAGE_SHIFT);
        assert_eq!(map.check_limit(range(end - 1, 1)), Ok(()));
        assert_eq!(map.check_limit(range(end - 1, 2)), Err(Error::Invalid));
        assert_eq!(map.check_limit(range(end, 1)), Err(Error::Invalid));
    }

    #[test]
    fn regions_must_ascend() {
        let mut map = map();
        assert_eq!(
            map.push(Phys::new(0), PAGE_SIZE, Access::Normal),
            Err(Error::Invalid)
        );
        assert_eq!(
            map.push(Phys::new(u64::MAX), 2, Access::Normal),
            Err(Error::Invalid)
        );
        assert_eq!(
            map.push(Phys::new(u64::MAX), 0, Access::Normal),
            Err(Error::Invalid)
        );
        map.push(Phys::new(u64::MAX - 7), 8, Access::Normal).unwrap();
        assert_eq!(map.span(Phys::new(u64::MAX)).last, Phys::new(u64::MAX));
    }
}
