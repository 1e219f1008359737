// SPDX-License-Identifier: GPL-2.0-only
//! The shape of a translation table: granule, levels, and how output addresses are laid out (Arm ARM, D8.2 and D8.3).

use crate::{TABLE_OR_PAGE, VALID};
use pkvm_types::{Error, PAGE_SHIFT, PageState, Phys, Result};

/// The translation granule. The kernel has one; it is a value here so that one test binary covers all three.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Granule {
    /// 4 KiB.
    K4,
    /// 16 KiB.
    K16,
    /// 64 KiB.
    K64,
}

impl Granule {
    /// The kernel's page size.
    pub const KERNEL: Self = match PAGE_SHIFT {
        14 => Self::K16,
        16 => Self::K64,
        _ => Self::K4,
    };

    /// The granule of pages of `1 << shift` bytes.
    pub const fn from_shift(shift: u32) -> Option<Self> {
        match shift {
            12 => Some(Self::K4),
            14 => Some(Self::K16),
            16 => Some(Self::K64),
            _ => None,
        }
    }
    /// Base-two logarithm of the size.
    #[inline]
    pub const fn shift(self) -> u32 {
        match self {
            Self::K4 => 12,
            Self::K16 => 14,
            Self::K64 => 16,
        }
    }
    /// Bytes in a page.
    #[inline]
    pub const fn size(self) -> u64 {
        1 << self.shift()
    }
    /// Descriptors in a table.
    #[inline]
    pub const fn entries(self) -> usize {
        1 << self.index_bits()
    }
    /// Address bits that one level resolves.
    #[inline]
    pub const fn index_bits(self) -> u32 {
        self.shift() - 3
    }
    /// The first level at which KVM uses blocks: 1 GiB, 32 MiB and 512 MiB are the largest. The architecture allows larger
    /// ones with 52-bit addresses, which nothing here needs.
    const fn first_block_level(self) -> Level {
        match self {
            Self::K4 => Level(1),
            Self::K16 | Self::K64 => Level(2),
        }
    }
}

/// A level of lookup, -1 to 3. Descriptors of level 3 map pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Level(i8);

impl Level {
    /// The last level, where pages are.
    pub const LAST: Self = Self(3);
    /// The level above the last, whose blocks the fixed block window maps.
    pub const BLOCK: Self = Self(2);

    /// The level `raw`, where there is such a one.
    pub const fn checked(raw: i8) -> Option<Self> {
        if raw >= -1 && raw <= 3 {
            Some(Self(raw))
        } else {
            None
        }
    }
    /// The level as the Arm ARM numbers it; also the TLBI TTL hint for levels 0 to 3.
    #[inline]
    pub const fn raw(self) -> i8 {
        self.0
    }
    /// The level below; the last has none and gives itself.
    #[inline]
    pub(crate) const fn below(self) -> Self {
        if self.0 < 3 { Self(self.0 + 1) } else { self }
    }
    /// The level above; the first has none and gives itself.
    #[inline]
    pub(crate) const fn above(self) -> Self {
        if self.0 > -1 { Self(self.0 - 1) } else { self }
    }
    /// 0 to 4, to index an array of levels.
    #[inline]
    pub(crate) const fn slot(self) -> usize {
        (self.0 + 1).cast_unsigned() as usize
    }
    /// Whether this is the last level.
    #[inline]
    pub const fn is_last(self) -> bool {
        self.0 == 3
    }
}

/// Where a descriptor holds the bits of its output address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum OutputFormat {
    /// 48 bits, in bits 47 down to the page shift.
    Bits48,
    /// 52 bits with 64 KiB pages (FEAT_LPA): bits 51:48 of the address are bits 15:12 of the descriptor.
    Lpa,
    /// 52 bits with 4 KiB and 16 KiB pages (FEAT_LPA2, DS = 1): bits 51:50 of the address are bits 9:8 of the descriptor,
    /// which then has no shareability field.
    Lpa2,
}

/// What a word of a table is, by its two low bits and its level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Hardware takes it for invalid; software may have written the other bits.
    Invalid,
    /// It points to a table of the next level.
    Table,
    /// It maps a page or a block.
    Leaf,
}

/// The shape of one translation table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    granule: Granule,
    ia_bits: u8,
    start: Level,
    output: OutputFormat,
}

impl Geometry {
    /// A table that resolves `ia_bits` of input address from `start` on, whose root is at most `1 << concat_bits` pages.
    /// [`Error::Invalid`] where the architecture has no such table.
    pub fn new(granule: Granule, ia_bits: u32, start: Level, lpa2: bool, concat_bits: u32) -> Result<Self> {
        let output = match (granule, lpa2) {
            (Granule::K64, true) => return Err(Error::Invalid),
            (Granule::K64, false) => OutputFormat::Lpa,
            (_, true) => OutputFormat::Lpa2,
            (_, false) => OutputFormat::Bits48,
        };
        let geometry = Self {
            granule,
            ia_bits: ia_bits as u8,
            start,
            output,
        };
        if ia_bits > 52 || ia_bits > geometry.output_bits() {
            return Err(Error::Invalid);
        }
        let root_bits = ia_bits.checked_sub(geometry.shift(start)).ok_or(Error::Invalid)?;
        if root_bits == 0 || root_bits > granule.index_bits() + concat_bits {
            return Err(Error::Invalid);
        }
        Ok(geometry)
    }

    /// The granule.
    pub const fn granule(&self) -> Granule {
        self.granule
    }
    /// Bits of input address.
    pub const fn ia_bits(&self) -> u32 {
        self.ia_bits as u32
    }
    /// One past the largest input address.
    #[inline]
    pub const fn limit(&self) -> u64 {
        1 << self.ia_bits
    }
    /// The level of the root.
    pub const fn start(&self) -> Level {
        self.start
    }
    /// Levels of lookup.
    pub const fn levels(&self) -> u32 {
        (4 - self.start.0).cast_unsigned() as u32
    }
    /// How output addresses are laid out.
    pub const fn output(&self) -> OutputFormat {
        self.output
    }
    /// Bits of output address.
    pub const fn output_bits(&self) -> u32 {
        match self.output {
            OutputFormat::Bits48 => 48,
            OutputFormat::Lpa | OutputFormat::Lpa2 => 52,
        }
    }
    /// Pages of the root: more than one where tables are concatenated. The root is aligned to its size.
    pub const fn root_pages(&self) -> u64 {
        let bits = self.ia_bits as u32 - self.shift(self.start);
        if bits <= self.granule.index_bits() {
            1
        } else {
            1 << (bits - self.granule.index_bits())
        }
    }
    /// Base-two logarithm of the bytes that one descriptor of `level` covers.
    #[inline]
    pub const fn shift(&self, level: Level) -> u32 {
        self.granule.shift() + self.granule.index_bits() * (3 - level.0).cast_unsigned() as u32
    }
    /// Bytes that one descriptor of `level` covers. Levels above the root cover everything.
    #[inline]
    pub const fn size(&self, level: Level) -> u64 {
        match 1u64.checked_shl(self.shift(level)) {
            Some(size) => size,
            None => u64::MAX,
        }
    }
    /// The first address that the descriptor of `level` for `ia` covers.
    #[inline]
    pub(crate) const fn base(&self, ia: u64, level: Level) -> u64 {
        ia & !(self.size(level) - 1)
    }
    /// Where in its table the descriptor of `level` for `ia` is.
    #[inline]
    pub(crate) const fn index(&self, ia: u64, level: Level) -> usize {
        (ia >> self.shift(level)) as usize & (self.granule.entries() - 1)
    }
    /// The page of the root that serves `ia`.
    #[inline]
    pub(crate) const fn root_page(&self, root: Phys, ia: u64) -> Phys {
        let page = (ia >> self.shift(self.start)) >> self.granule.index_bits();
        Phys::new(root.raw().wrapping_add(page << self.granule.shift()))
    }
    /// Whether `level` can hold a leaf.
    #[inline]
    pub(crate) const fn has_leaf(&self, level: Level) -> bool {
        level.0 >= self.granule.first_block_level().0
    }

    /// Checks a range of input addresses and gives its end. [`Error::Invalid`] where it is empty or not of whole pages,
    /// [`Error::Range`] where it leaves the table.
    pub(crate) fn range(&self, ia: u64, len: u64) -> Result<u64> {
        let end = ia.checked_add(len).ok_or(Error::Range)?;
        if end > self.limit() {
            return Err(Error::Range);
        }
        if len == 0 || (ia | len) & (self.granule.size() - 1) != 0 {
            return Err(Error::Invalid);
        }
        Ok(end)
    }

    /// Checks that `len` bytes of output addresses from `phys` fit in a descriptor. Errors as for [`Geometry::range`].
    pub(crate) fn output_range(&self, phys: Phys, len: u64) -> Result<()> {
        let end = phys.raw().checked_add(len).ok_or(Error::Range)?;
        if end > 1 << self.output_bits() {
            return Err(Error::Range);
        }
        if phys.raw() & (self.granule.size() - 1) != 0 {
            Err(Error::Invalid)
        } else {
            Ok(())
        }
    }

    /// The bits of a descriptor that hold the address `phys`, which has passed [`Geometry::output_range`].
    #[inline]
    pub(crate) const fn encode(&self, phys: u64) -> u64 {
        let low = phys & self.low_mask();
        match self.output {
            OutputFormat::Bits48 => low,
            OutputFormat::Lpa => low | ((phys >> 48) & 0xf) << 12,
            OutputFormat::Lpa2 => low | ((phys >> 50) & 0b11) << 8,
        }
    }

    /// The address that a table, block or page descriptor holds.
    #[inline]
    pub(crate) const fn decode(&self, word: u64) -> u64 {
        let low = word & self.low_mask();
        match self.output {
            OutputFormat::Bits48 => low,
            OutputFormat::Lpa => low | ((word >> 12) & 0xf) << 48,
            OutputFormat::Lpa2 => low | ((word >> 8) & 0b11) << 50,
        }
    }

    /// Every bit of a descriptor that holds a part of the address.
    #[inline]
    pub(crate) const fn address_mask(&self) -> u64 {
        let high = match self.output {
            OutputFormat::Bits48 => 0,
            OutputFormat::Lpa => 0xf << 12,
            OutputFormat::Lpa2 => 0b11 << 8,
        };
        self.low_mask() | high
    }

    const fn low_mask(&self) -> u64 {
        let top = match self.output {
            OutputFormat::Lpa2 => 50,
            _ => 48,
        };
        (1u64 << top) - self.granule.size()
    }

    /// What `word`, read at `level`, is.
    #[inline]
    pub(crate) const fn kind(&self, word: u64, level: Level) -> Kind {
        if word & VALID == 0 {
            Kind::Invalid
        } else if word & TABLE_OR_PAGE == 0 {
            if !level.is_last() && self.has_leaf(level) {
                Kind::Leaf
            } else {
                Kind::Invalid
            }
        } else if level.is_last() {
            Kind::Leaf
        } else {
            Kind::Table
        }
    }

    /// The descriptor of a table at `table`.
    #[inline]
    pub(crate) const fn table_word(&self, table: Phys) -> u64 {
        self.encode(table.raw()) | TABLE_OR_PAGE | VALID
    }

    /// The table that `word` points to.
    #[inline]
    pub(crate) const fn child(&self, word: u64) -> Phys {
        Phys::new(self.decode(word))
    }

    /// The descriptor that maps `phys` at `level` with the attribute bits `attrs`.
    #[inline]
    pub(crate) const fn leaf_word(&self, phys: u64, attrs: u64, level: Level) -> u64 {
        let page = if level.is_last() { TABLE_OR_PAGE } else { 0 };
        self.encode(phys) | attrs | page | VALID
    }

    /// The attribute bits of the leaf `word`: all but the address and the type.
    #[inline]
    pub(crate) const fn attrs(&self, word: u64) -> u64 {
        word & !(self.address_mask() | TABLE_OR_PAGE | VALID)
    }
}

/// The page state in the software bits of `word`.
#[inline]
pub(crate) const fn state_of(word: u64) -> PageState {
    PageState::from_bits((word >> crate::STATE_SHIFT) as u8)
}

/// The software bits of `state`.
#[inline]
pub(crate) const fn state_bits(state: PageState) -> u64 {
    (state as u64) << crate::STATE_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_shapes_are_refused() {
        let level = |raw| Level::checked(raw).unwrap();
        for (granule, bits, start, lpa2) in [
            (Granule::K64, 48, 1, true),
            (Granule::K4, 52, 0, false),
            (Granule::K4, 48, 2, false),
            (Granule::K4, 39, 0, false),
            (Granule::K16, 48, 3, false),
            (Granule::K64, 53, 1, false),
        ] {
            assert_eq!(
                Geometry::new(granule, bits, level(start), lpa2, 4),
                Err(Error::Invalid)
            );
        }
        assert_eq!(Level::checked(4), None);
        assert_eq!(Level::checked(-2), None);
    }

    #[test]
    fn addresses_survive_every_format() {
        for (granule, lpa2) in [
            (Granule::K4, false),
            (Granule::K4, true),
            (Granule::K16, false),
            (Granule::K16, true),
            (Granule::K64, false),
        ] {
            let start = granule.first_block_level();
            let geometry = Geometry::new(granule, 40, start, lpa2, 4).unwrap();
            for bit in granule.shift()..geometry.output_bits() {
                let phys = 1u64 << bit;
                let word = geometry.encode(phys);
                assert_eq!(geometry.decode(word), phys);
                assert_eq!(word & !geometry.address_mask(), 0);
                assert_eq!(word.count_ones(), 1);
            }
            assert_eq!(
                geometry.address_mask().count_ones(),
                geometry.output_bits() - granule.shift()
            );
        }
    }

    #[test]
    fn ranges_are_checked_at_both_ends() {
        let geometry = Geometry::new(Granule::K4, 40, Level(1), false, 4).unwrap();
        assert_eq!(geometry.range(0, 1 << 40), Ok(1 << 40));
        assert_eq!(geometry.range(1 << 40, 0x1000), Err(Error::Range));
        assert_eq!(geometry.range(!0xfff, 0x1000), Err(Error::Range));
        assert_eq!(geometry.range(0, 0), Err(Error::Invalid));
        assert_eq!(geometry.range(8, 0x1000), Err(Error::Invalid));
        assert_eq!(
            geometry.output_range(Phys::new(1 << 48), 0x1000),
            Err(Error::Range)
        );
        assert_eq!(
            geometry.output_range(Phys::new((1 << 48) - 0x1000), 0x1000),
            Ok(())
        );
    }
}
