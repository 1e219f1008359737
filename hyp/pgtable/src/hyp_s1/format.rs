// SPDX-License-Identifier: GPL-2.0-only
//! EL2's stage-1 descriptors, in their two formats (Arm ARM, D8.3.1 and D8.4).

use crate::geometry::{Geometry, Granule, Level, state_bits, state_of};
use crate::{ACCESS_FLAG, INNER_SHAREABLE, MemType};
use pkvm_types::{Error, HypVa, PageState, Perms, Phys, Result};

const ATTR_INDEX_SHIFT: u32 = 2;
const AP_SHIFT: u32 = 6;
const AP_MASK: u64 = 0b11 << AP_SHIFT;
/// Guarded page: an indirect branch must land on a BTI.
const GP: u64 = 1 << 50;
const PXN: u64 = 1 << 53;
const XN: u64 = 1 << 54;

/// The kernel's indices in MAIR_EL2, which EL1 passes unchanged.
const MT_NORMAL: u64 = 0;
const MT_NORMAL_NC: u64 = 2;
const MT_DEVICE_NGNRE: u64 = 4;

/// Which translation regime EL2 has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HypFormat {
    /// EL2 alone (E2H = 0): one privilege level.
    Nvhe,
    /// EL2 and EL0 (E2H = 1): execution and access differ by privilege.
    Hvhe,
}

/// The shape and the descriptor formats of EL2's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HypConfig {
    geometry: Geometry,
    format: HypFormat,
    guarded: bool,
}

/// What an EL2 mapping allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HypAttrs {
    /// Must include `R`. Code is `R` and `PX`, and cannot be written.
    pub perms: Perms,
    /// The memory type.
    pub memory: MemType,
    /// The state to record in each leaf; hardware does not look at it.
    pub state: PageState,
}

impl HypAttrs {
    /// Normal memory with `perms`, in the state that all-zero software bits stand for.
    pub const fn normal(perms: Perms) -> Self {
        Self {
            perms,
            memory: MemType::Normal,
            state: PageState::Owned,
        }
    }
    /// Device registers, to read and write.
    pub const DEVICE: Self = Self {
        perms: Perms::RW,
        memory: MemType::Device,
        state: PageState::Owned,
    };
}

/// An EL2 mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HypLeaf {
    /// What the first address of the entry maps to.
    pub phys: Phys,
    /// What EL2 may do; `UX` is EL0's and only shows in the hVHE format.
    pub perms: Perms,
    /// The memory type.
    pub memory: MemType,
    /// The recorded state.
    pub state: PageState,
}

/// What a walk of EL2's table ends with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HypFound {
    /// The mapping, if there is one.
    pub leaf: Option<HypLeaf>,
    /// The level of the entry.
    pub level: Level,
    /// The first address that the entry covers.
    pub base: HypVa,
}

impl HypConfig {
    /// A table for `va_bits` of address, in `format`. `lpa2` as the kernel uses it; with `guarded` EL2's code pages are guarded
    /// pages, as the kernel's are where it uses BTI. [`Error::Invalid`] where the architecture has no such table.
    pub fn new(granule: Granule, va_bits: u32, format: HypFormat, lpa2: bool, guarded: bool) -> Result<Self> {
        let bits = granule.index_bits();
        let levels = va_bits
            .checked_sub(granule.shift())
            .ok_or(Error::Invalid)?
            .div_ceil(bits);
        let start = 4i8
            .checked_sub(i8::try_from(levels).map_err(|_| Error::Invalid)?)
            .ok_or(Error::Invalid)?;
        let start = Level::checked(start).ok_or(Error::Invalid)?;
        Ok(Self {
            geometry: Geometry::new(granule, va_bits, start, lpa2, 0)?,
            format,
            guarded,
        })
    }

    /// The shape.
    #[inline]
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    /// Bytes that an entry of `level` covers.
    pub const fn level_size(&self, level: Level) -> u64 {
        self.geometry.size(level)
    }
    /// The level of the blocks that the fixed block window uses: the last that has blocks.
    pub const fn block_level(&self) -> Level {
        Level::BLOCK
    }

    /// Checks that EL2 can have a mapping with `attrs`. [`Error::Invalid`] where it could not be read, where it could be both
    /// written and executed, or where device memory could be executed.
    pub fn check_attrs(&self, attrs: HypAttrs) -> Result<()> {
        self.attr_bits(attrs).map(|_| ())
    }

    /// The attribute bits of a leaf.
    pub(super) fn attr_bits(&self, attrs: HypAttrs) -> Result<u64> {
        let HypAttrs { perms, memory, state } = attrs;
        // Without E2H there is no EL0 in this regime, so its execute permission means nothing.
        let perms = match self.format {
            HypFormat::Nvhe => perms.without(Perms::UX),
            HypFormat::Hvhe => perms,
        };
        let executable = perms.intersects(Perms::X);
        let writable = perms.contains(Perms::W);
        if !perms.contains(Perms::R) || (executable && (writable || memory != MemType::Normal)) {
            return Err(Error::Invalid);
        }
        let index = match memory {
            MemType::Normal => MT_NORMAL,
            MemType::NormalNc => MT_NORMAL_NC,
            MemType::Device => MT_DEVICE_NGNRE,
        };
        let mut bits = index << ATTR_INDEX_SHIFT | ACCESS_FLAG | state_bits(state);
        bits |= self.access(writable);
        if self.geometry.address_mask() & INNER_SHAREABLE == 0 {
            bits |= INNER_SHAREABLE;
        }
        if executable && self.guarded {
            bits |= GP;
        }
        Ok(bits | self.execute_never(perms))
    }

    /// AP[2:1]. Without E2H bit 6 is RES1.
    const fn access(&self, writable: bool) -> u64 {
        let ap = match (self.format, writable) {
            (HypFormat::Nvhe, true) => 0b01,
            (HypFormat::Nvhe, false) => 0b11,
            (HypFormat::Hvhe, true) => 0b00,
            (HypFormat::Hvhe, false) => 0b10,
        };
        ap << AP_SHIFT
    }

    const fn execute_never(&self, perms: Perms) -> u64 {
        match self.format {
            HypFormat::Nvhe => {
                if perms.contains(Perms::PX) {
                    0
                } else {
                    XN
                }
            }
            HypFormat::Hvhe => {
                let pxn = if perms.contains(Perms::PX) { 0 } else { PXN };
                let uxn = if perms.contains(Perms::UX) { 0 } else { XN };
                pxn | uxn
            }
        }
    }

    /// What the leaf `word` says.
    pub(super) const fn decode(&self, word: u64) -> HypLeaf {
        let mut perms = Perms::NONE;
        let ap = word & AP_MASK;
        if ap == self.access(false) {
            perms = Perms::R;
        } else if ap == self.access(true) {
            perms = Perms::RW;
        }
        let (px, ux) = match self.format {
            HypFormat::Nvhe => (word & XN == 0, false),
            HypFormat::Hvhe => (word & PXN == 0, word & XN == 0),
        };
        if px {
            perms = perms.union(Perms::PX);
        }
        if ux {
            perms = perms.union(Perms::UX);
        }
        let memory = match (word >> ATTR_INDEX_SHIFT) & 7 {
            MT_NORMAL => MemType::Normal,
            MT_NORMAL_NC => MemType::NormalNc,
            _ => MemType::Device,
        };
        HypLeaf {
            phys: Phys::new(self.geometry.decode(word)),
            perms,
            memory,
            state: state_of(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(format: HypFormat, guarded: bool) -> HypConfig {
        HypConfig::new(Granule::K4, 48, format, false, guarded).unwrap()
    }

    #[test]
    fn leaves_have_the_bits_of_their_regime() {
        let common = 3 << 8 | 1 << 10;
        let nvhe = config(HypFormat::Nvhe, true);
        assert_eq!(
            nvhe.attr_bits(HypAttrs::normal(Perms::RW)),
            Ok(common | 1 << 6 | 1 << 54)
        );
        assert_eq!(
            nvhe.attr_bits(HypAttrs::normal(Perms::R)),
            Ok(common | 3 << 6 | 1 << 54)
        );
        assert_eq!(
            nvhe.attr_bits(HypAttrs::normal(Perms::RX)),
            Ok(common | 3 << 6 | 1 << 50)
        );
        assert_eq!(
            nvhe.attr_bits(HypAttrs::DEVICE),
            Ok(common | 4 << 2 | 1 << 6 | 1 << 54)
        );
        let hvhe = config(HypFormat::Hvhe, false);
        assert_eq!(hvhe.attr_bits(HypAttrs::normal(Perms::RW)), Ok(common | 3 << 53));
        assert_eq!(
            hvhe.attr_bits(HypAttrs::normal(Perms::R)),
            Ok(common | 2 << 6 | 3 << 53)
        );
        assert_eq!(
            hvhe.attr_bits(HypAttrs::normal(Perms::R.union(Perms::PX))),
            Ok(common | 2 << 6 | 1 << 54)
        );
    }

    #[test]
    fn nothing_is_both_writable_and_executable() {
        for format in [HypFormat::Nvhe, HypFormat::Hvhe] {
            let config = config(format, false);
            let device_code = HypAttrs {
                perms: Perms::RX,
                ..HypAttrs::DEVICE
            };
            for attrs in [
                HypAttrs::normal(Perms::RWX),
                HypAttrs::normal(Perms::RW.union(Perms::PX)),
                HypAttrs::normal(Perms::W),
                HypAttrs::normal(Perms::PX),
                HypAttrs::normal(Perms::NONE),
                device_code,
            ] {
                assert_eq!(config.check_attrs(attrs), Err(Error::Invalid), "{attrs:?}");
            }
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        for format in [HypFormat::Nvhe, HypFormat::Hvhe] {
            let config = config(format, true);
            for perms in [Perms::R, Perms::RW, Perms::R.union(Perms::PX)] {
                for memory in [MemType::Normal, MemType::NormalNc, MemType::Device] {
                    let attrs = HypAttrs {
                        perms,
                        memory,
                        state: PageState::SharedBorrowed,
                    };
                    let Ok(bits) = config.attr_bits(attrs) else {
                        continue;
                    };
                    let leaf = config.decode(config.geometry().leaf_word(0x1234_5000, bits, Level::LAST));
                    assert_eq!(
                        (leaf.perms, leaf.memory, leaf.state),
                        (perms, memory, attrs.state)
                    );
                    assert_eq!(leaf.phys, Phys::new(0x1234_5000));
                }
            }
        }
    }

    #[test]
    fn levels_follow_the_address_width() {
        for (granule, bits, lpa2, start) in [
            (Granule::K4, 39, false, 1),
            (Granule::K4, 48, false, 0),
            (Granule::K4, 52, true, -1),
            (Granule::K16, 47, false, 1),
            (Granule::K16, 48, false, 0),
            (Granule::K64, 42, false, 2),
            (Granule::K64, 52, false, 1),
        ] {
            let config = HypConfig::new(granule, bits, HypFormat::Hvhe, lpa2, false).unwrap();
            assert_eq!(config.geometry().start().raw(), start);
            assert_eq!(config.geometry().root_pages(), 1);
        }
        assert!(HypConfig::new(Granule::K4, 52, HypFormat::Hvhe, false, false).is_err());
        assert!(HypConfig::new(Granule::K4, 12, HypFormat::Hvhe, false, false).is_err());
    }
}
