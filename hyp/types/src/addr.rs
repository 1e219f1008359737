// SPDX-License-Identifier: GPL-2.0-only
//! Address newtypes. The page size is the kernel's: the build passes it in `PKVM_PAGE_SHIFT` (12, 14 or 16), and a
//! build without it, as for the unit tests, uses 4 KiB pages.

use crate::{Error, Result};

const fn shift_from_env(text: Option<&str>) -> u32 {
    match text {
        None => 12,
        Some(text) => match text.as_bytes() {
            b"12" => 12,
            b"14" => 14,
            b"16" => 16,
            _ => panic!("PKVM_PAGE_SHIFT must be 12, 14 or 16"),
        },
    }
}

/// Base-two logarithm of the page size.
pub const PAGE_SHIFT: u32 = shift_from_env(option_env!("PKVM_PAGE_SHIFT"));
/// Bytes in a page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// The bits of an address above the page offset.
pub const PAGE_MASK: u64 = !(PAGE_SIZE - 1);
/// Descriptors in one translation table.
pub const PTES_PER_TABLE: u64 = PAGE_SIZE / 8;

/// Pages that one block descriptor of the last-but-one level covers: 512 with 4 KiB pages.
pub const fn block_pages() -> u64 {
    PTES_PER_TABLE
}

/// `bytes` rounded up to whole pages, or `None` where that does not fit in 64 bits.
pub const fn page_align(bytes: u64) -> Option<u64> {
    match bytes.checked_add(PAGE_SIZE - 1) {
        Some(sum) => Some(sum & PAGE_MASK),
        None => None,
    }
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Names a raw number as an address. It says nothing of what is there: a number from outside EL2 must
            /// still pass the check that its user names.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }
            /// The address as a number.
            pub const fn raw(self) -> u64 {
                self.0
            }
            /// The address `bytes` further on, or `None` where the sum does not fit in 64 bits.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }
            /// The page that holds the address.
            #[must_use]
            pub const fn page(self) -> Self {
                Self(self.0 & PAGE_MASK)
            }
            /// The offset within the page, in bytes.
            pub const fn page_offset(self) -> u64 {
                self.0 & !PAGE_MASK
            }
            /// Whether this is the first byte of a page.
            pub const fn is_page_aligned(self) -> bool {
                self.page_offset() == 0
            }
            /// Whether this is a multiple of `align`, a power of two.
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
    };
}

address!(
    /// A physical address; for the host also an intermediate physical address, since its stage 2 is the identity.
    Phys
);
address!(
    /// A virtual address in EL2's own translation regime.
    HypVa
);
address!(
    /// An intermediate physical address of a guest.
    Ipa
);

/// Bits of a page frame number that a 64-bit address can hold.
const PFN_BITS: u32 = u64::BITS - PAGE_SHIFT;

/// A physical page frame number whose address fits in 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Pfn(u64);

impl Pfn {
    /// A frame number from outside EL2. [`Error::Invalid`] where shifting it to an address would drop bits: such a
    /// number would otherwise be a second name of another page.
    pub const fn checked(raw: u64) -> Result<Self> {
        if raw >> PFN_BITS == 0 {
            Ok(Self(raw))
        } else {
            Err(Error::Invalid)
        }
    }
    /// The frame that holds `phys`.
    pub const fn of(phys: Phys) -> Self {
        Self(phys.raw() >> PAGE_SHIFT)
    }
    /// The frame number.
    pub const fn raw(self) -> u64 {
        self.0
    }
    /// The address of the first byte of the frame.
    pub const fn phys(self) -> Phys {
        Phys::new(self.0 << PAGE_SHIFT)
    }
    /// The frame `count` further on, or `None` where there is no such frame.
    #[must_use]
    pub const fn checked_add(self, count: u64) -> Option<Self> {
        match self.0.checked_add(count) {
            Some(sum) if sum >> PFN_BITS == 0 => Some(Self(sum)),
            _ => None,
        }
    }
}

/// A guest's page frame number whose address fits in 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Gfn(u64);

impl Gfn {
    /// A guest frame number from outside EL2. [`Error::Range`] where shifting it to an address would drop bits.
    pub const fn checked(raw: u64) -> Result<Self> {
        if raw >> PFN_BITS == 0 {
            Ok(Self(raw))
        } else {
            Err(Error::Range)
        }
    }
    /// The frame that holds `ipa`.
    pub const fn of(ipa: Ipa) -> Self {
        Self(ipa.raw() >> PAGE_SHIFT)
    }
    /// The frame number.
    pub const fn raw(self) -> u64 {
        self.0
    }
    /// The address of the first byte of the frame.
    pub const fn ipa(self) -> Ipa {
        Ipa::new(self.0 << PAGE_SHIFT)
    }
}

/// A run of physical frames that is not empty and does not wrap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PfnRange {
    start: Pfn,
    count: u64,
}

impl PfnRange {
    /// `count` frames from `start`. [`Error::Invalid`] where `count` is zero or the run leaves the address space.
    pub const fn checked(start: Pfn, count: u64) -> Result<Self> {
        if count == 0 || start.checked_add(count - 1).is_none() {
            return Err(Error::Invalid);
        }
        Ok(Self { start, count })
    }
    /// The one frame `pfn`.
    pub const fn single(pfn: Pfn) -> Self {
        Self { start: pfn, count: 1 }
    }
    /// The first frame.
    pub const fn start(self) -> Pfn {
        self.start
    }
    /// The number of frames, at least one.
    pub const fn count(self) -> u64 {
        self.count
    }
    /// The last frame.
    pub const fn last(self) -> Pfn {
        Pfn(self.start.0 + (self.count - 1))
    }
    /// The length in bytes, or `None` where that does not fit in 64 bits.
    pub const fn bytes(self) -> Option<u64> {
        self.count.checked_mul(PAGE_SIZE)
    }
    /// The frames in ascending order.
    pub fn iter(self) -> impl Iterator<Item = Pfn> {
        (self.start.0..=self.last().0).map(Pfn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_number_that_would_lose_bits_is_refused() {
        assert_eq!(Pfn::checked(1 << PFN_BITS), Err(Error::Invalid));
        assert_eq!(Gfn::checked(1 << PFN_BITS), Err(Error::Range));
        assert_eq!(Gfn::checked(u64::MAX), Err(Error::Range));
        assert_eq!(Pfn::checked((1 << PFN_BITS) - 1).unwrap().phys().raw(), PAGE_MASK);
    }

    #[test]
    fn a_range_is_neither_empty_nor_wrapping() {
        let last = Pfn::checked((1 << PFN_BITS) - 1).unwrap();
        assert_eq!(PfnRange::checked(last, 0), Err(Error::Invalid));
        assert_eq!(PfnRange::checked(last, 2), Err(Error::Invalid));
        assert_eq!(PfnRange::checked(last, u64::MAX), Err(Error::Invalid));
        assert_eq!(PfnRange::checked(last, 1).unwrap().last(), last);
    }

    #[test]
    fn a_range_yields_each_frame_once() {
        let range = PfnRange::checked(Pfn::checked(3).unwrap(), 3).unwrap();
        assert!(range.iter().map(Pfn::raw).eq([3, 4, 5]));
    }

    #[test]
    fn rounding_up_does_not_wrap() {
        assert_eq!(page_align(1), Some(PAGE_SIZE));
        assert_eq!(page_align(u64::MAX), None);
    }
}
