// SPDX-License-Identifier: GPL-2.0-only
//! VTCR_EL2, as the kernel's `kvm_get_vtcr` computes it.

use crate::Granule;

const PARANGE_48: u64 = 5;
const PARANGE_52: u64 = 6;

pub(crate) const T0SZ: u64 = 0x3f;
pub(crate) const SL0_SHIFT: u32 = 6;
pub(crate) const TG0_SHIFT: u32 = 14;
pub(crate) const DS: u64 = 1 << 32;
pub(crate) const SL2: u64 = 1 << 33;
const IRGN0_WBWA: u64 = 1 << 8;
const ORGN0_WBWA: u64 = 1 << 10;
const SH0_INNER: u64 = 3 << 12;
const PS_SHIFT: u32 = 16;
const VS_16BIT: u64 = 1 << 19;
const HA: u64 = 1 << 21;
const RES1: u64 = 1 << 31;

/// The TG0 field of `granule`.
pub(crate) const fn tg0(granule: Granule) -> u64 {
    match granule {
        Granule::K4 => 0,
        Granule::K64 => 1,
        Granule::K16 => 2,
    }
}

/// What SL0 holds for a walk that starts at level 0, were it allowed: SL0 is this less the start level.
pub(crate) const fn sl0_base(granule: Granule) -> i8 {
    match granule {
        Granule::K4 => 2,
        Granule::K16 | Granule::K64 => 3,
    }
}

/// What VTCR_EL2 depends on.
#[derive(Clone, Copy, Debug)]
pub struct VtcrInputs {
    /// The kernel's page size.
    pub granule: Granule,
    /// The sanitised ID_AA64MMFR0_EL1.
    pub mmfr0: u64,
    /// The sanitised ID_AA64MMFR1_EL1.
    pub mmfr1: u64,
    /// Whether the kernel uses FEAT_LPA2.
    pub lpa2: bool,
    /// Whether the kernel is built for 52-bit physical addresses (`CONFIG_ARM64_PA_BITS_52`).
    pub pa52: bool,
    /// Whether hardware may set the access flag: `CONFIG_ARM64_HW_AFDBM` without the Ampere AC03 CPU 38 workaround.
    /// The bit is harmless on a CPU without the feature.
    pub hardware_af: bool,
}

impl VtcrInputs {
    /// PARange, no larger than the kernel supports.
    const fn parange(&self) -> u64 {
        let max = if self.lpa2 || (self.pa52 && matches!(self.granule, Granule::K64)) {
            PARANGE_52
        } else {
            PARANGE_48
        };
        let parange = self.mmfr0 & 0xf;
        if parange > max { max } else { parange }
    }

    /// Bits of physical address, which are also the bits of the host's IPA space and of every guest's under pKVM.
    pub const fn phys_shift(&self) -> u32 {
        pa_bits(self.parange())
    }

    /// VTCR_EL2 for an IPA space of `phys_shift` bits, 32 to 52.
    pub const fn vtcr(&self, phys_shift: u32) -> u64 {
        // Up to 16 tables are concatenated at the root, which resolves four more bits there. Two levels at least, so that
        // a block of the host's is never split for want of a level.
        let bits = phys_shift.saturating_sub(4);
        let levels = bits.saturating_sub(4) / self.granule.index_bits();
        let levels = if levels < 2 { 2 } else { levels };
        let start = 4 - levels as i8;
        let sl0 = (sl0_base(self.granule) - start).cast_unsigned() as u64 & 3;

        let mut vtcr = RES1 | SH0_INNER | ORGN0_WBWA | IRGN0_WBWA | tg0(self.granule) << TG0_SHIFT;
        vtcr |= self.parange() << PS_SHIFT;
        vtcr |= 64u64.saturating_sub(phys_shift as u64) & T0SZ;
        vtcr |= sl0 << SL0_SHIFT;
        if self.hardware_af {
            vtcr |= HA;
        }
        if self.lpa2 {
            vtcr |= DS;
        }
        // ID_AA64MMFR1_EL1.VMIDBits.
        if (self.mmfr1 >> 4) & 0xf == 2 {
            vtcr |= VS_16BIT;
        }
        vtcr
    }
}

/// Bits of physical address for a PARange field; values that are not known count as 48.
pub const fn pa_bits(parange: u64) -> u32 {
    match parange {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        6 => 52,
        _ => 48,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Stage2Config, Stage2Features};

    fn inputs(granule: Granule, parange: u64, vmid: u64, lpa2: bool, pa52: bool) -> VtcrInputs {
        VtcrInputs {
            granule,
            mmfr0: 0xffff_fff0 | parange,
            mmfr1: vmid << 4,
            lpa2,
            pa52,
            hardware_af: false,
        }
    }

    #[test]
    fn values_are_the_ones_that_kvm_programs() {
        let host = |inputs: VtcrInputs| inputs.vtcr(inputs.phys_shift());
        // A Cortex-A57: 44 bits, 8-bit VMIDs. Then a 48-bit CPU with 16-bit VMIDs and hardware access flags.
        assert_eq!(host(inputs(Granule::K4, 4, 0, false, false)), 0x8004_3594);
        let big = VtcrInputs {
            hardware_af: true,
            ..inputs(Granule::K4, 5, 2, false, false)
        };
        assert_eq!(host(big), 0x802d_3590);
        // 40 bits of IPA, the default of a VM, by granule.
        assert_eq!(inputs(Granule::K4, 2, 0, false, false).vtcr(40), 0x8002_3558);
        assert_eq!(inputs(Granule::K16, 2, 0, false, false).vtcr(40), 0x8002_b558);
        assert_eq!(inputs(Granule::K64, 2, 0, false, false).vtcr(40), 0x8002_7558);
        // 52 bits need LPA2, or 64 KiB pages and a kernel built for them.
        assert_eq!(host(inputs(Granule::K4, 6, 0, false, true)), 0x8005_3590);
        assert_eq!(host(inputs(Granule::K4, 6, 0, true, true)), 0x1_8006_358c);
        assert_eq!(host(inputs(Granule::K64, 6, 0, false, true)), 0x8006_758c);
        assert_eq!(host(inputs(Granule::K64, 6, 0, false, false)), 0x8005_7590);
    }

    #[test]
    fn every_machine_has_a_table_of_the_size_the_kernel_reserves() {
        // The kernel's kvm_stage2_levels and kvm_pgtable_stage2_pgd_size, by granule and PARange: levels, pages of the root.
        for (granule, tables) in [
            (
                Granule::K4,
                [(2, 4), (3, 1), (3, 2), (3, 8), (4, 1), (4, 1), (4, 16)],
            ),
            (
                Granule::K16,
                [(2, 1), (2, 1), (2, 16), (3, 1), (3, 1), (3, 2), (4, 1)],
            ),
            (
                Granule::K64,
                [(2, 1), (2, 1), (2, 1), (2, 1), (2, 4), (3, 1), (3, 1)],
            ),
        ] {
            for (parange, table) in (0..).zip(tables) {
                let wide = parange == 6 && granule != Granule::K64;
                let inputs = inputs(granule, parange, 0, wide, true);
                let vtcr = inputs.vtcr(inputs.phys_shift());
                let config = Stage2Config::from_vtcr(vtcr, granule, Stage2Features::empty()).unwrap();
                assert_eq!(
                    (config.levels(), config.root_pages()),
                    table,
                    "{granule:?}, PARange {parange}"
                );
                assert_eq!(config.ipa_bits(), pa_bits(parange));
            }
        }
    }

    #[test]
    fn a_register_for_another_granule_is_refused() {
        let vtcr = inputs(Granule::K4, 2, 0, false, false).vtcr(40);
        for granule in [Granule::K16, Granule::K64] {
            assert!(Stage2Config::from_vtcr(vtcr, granule, Stage2Features::empty()).is_err());
        }
        assert!(Stage2Config::from_vtcr(vtcr | SL2, Granule::K4, Stage2Features::empty()).is_err());
        assert!(
            Stage2Config::from_vtcr(vtcr | 3 << SL0_SHIFT, Granule::K4, Stage2Features::empty()).is_err()
        );
    }
}
