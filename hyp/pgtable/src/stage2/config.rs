// SPDX-License-Identifier: GPL-2.0-only
//! What a stage-2 table is built for.

use crate::geometry::{Geometry, Granule, Level};
use crate::vtcr;
use pkvm_types::{Error, Result};

bitflags::bitflags! {
    /// What the machine and the user of a stage-2 table ask of it.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Stage2Features: u8 {
        /// FEAT_S2FWB is in use: stage 2 decides cacheability, and no data cache maintenance is needed.
        const FWB = 1 << 0;
        /// FEAT_XNX: execution can differ by privilege.
        const XNX = 1 << 1;
        /// Stage 1 alone decides the memory type, as for the host.
        const AS_S1 = 1 << 2;
        /// Pages that are mapped in or out need cache maintenance, as for guests.
        const MAINTAIN_CACHES = 1 << 3;
        /// CTR_EL0.DIC: no instruction cache maintenance is needed.
        const DIC = 1 << 4;
    }
}

/// The shape and the descriptor formats of a stage-2 table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2Config {
    geometry: Geometry,
    features: Stage2Features,
}

/// Up to 16 tables can be concatenated at the root of a stage 2.
const CONCAT_BITS: u32 = 4;

impl Stage2Config {
    /// The configuration that VTCR_EL2 = `vtcr` asks of software. [`Error::Invalid`] where the register and `granule` do not
    /// agree, or where it describes no table that this code supports.
    pub fn from_vtcr(vtcr: u64, granule: Granule, features: Stage2Features) -> Result<Self> {
        if (vtcr >> vtcr::TG0_SHIFT) & 3 != vtcr::tg0(granule) || vtcr & vtcr::SL2 != 0 {
            return Err(Error::Invalid);
        }
        let sl0 = ((vtcr >> vtcr::SL0_SHIFT) & 3) as i8;
        let start = Level::checked(vtcr::sl0_base(granule) - sl0).ok_or(Error::Invalid)?;
        // SL0 has no code for a level above 0.
        if start.raw() < 0 {
            return Err(Error::Invalid);
        }
        let ia_bits = 64 - (vtcr & vtcr::T0SZ) as u32;
        let geometry = Geometry::new(granule, ia_bits, start, vtcr & vtcr::DS != 0, CONCAT_BITS)?;
        Ok(Self { geometry, features })
    }

    /// The shape.
    #[inline]
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    /// What was asked for.
    #[inline]
    pub const fn features(&self) -> Stage2Features {
        self.features
    }
    /// Bits of intermediate physical address.
    pub const fn ipa_bits(&self) -> u32 {
        self.geometry.ia_bits()
    }
    /// Levels of lookup.
    pub const fn levels(&self) -> u32 {
        self.geometry.levels()
    }
    /// Pages of the root, a power of two.
    pub const fn root_pages(&self) -> u64 {
        self.geometry.root_pages()
    }
    /// Tables that mapping one page may need: one for each level below the root.
    pub const fn min_pages(&self) -> u32 {
        self.levels() - 1
    }
    /// Bytes that an entry of `level` covers.
    pub const fn level_size(&self, level: Level) -> u64 {
        self.geometry.size(level)
    }
    /// Pages that an entry of `level` covers.
    pub const fn level_pages(&self, level: Level) -> u64 {
        self.geometry.size(level) >> self.geometry.granule().shift()
    }
    #[inline]
    pub(super) const fn has(&self, features: Stage2Features) -> bool {
        self.features.contains(features)
    }
}
