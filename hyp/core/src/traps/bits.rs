// SPDX-License-Identifier: GPL-2.0-only
//! The trap registers' bits, named as in the Arm ARM.
#![allow(missing_docs, reason = "the names are the Arm ARM's, which says what they do")]

use bitflags::bitflags;

bitflags! {
    /// HCR_EL2.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Hcr: u64 {
        const VM = 1 << 0;
        const SWIO = 1 << 1;
        const PTW = 1 << 2;
        const FMO = 1 << 3;
        const IMO = 1 << 4;
        const AMO = 1 << 5;
        const VF = 1 << 6;
        const VI = 1 << 7;
        const VSE = 1 << 8;
        const FB = 1 << 9;
        const BSU_IS = 1 << 10;
        const TWI = 1 << 13;
        const TWE = 1 << 14;
        const TID1 = 1 << 16;
        const TID2 = 1 << 17;
        const TID3 = 1 << 18;
        const TSC = 1 << 19;
        const TIDCP = 1 << 20;
        const TACR = 1 << 21;
        const TSW = 1 << 22;
        const TVM = 1 << 26;
        const RW = 1 << 31;
        const E2H = 1 << 34;
        const TLOR = 1 << 35;
        const TERR = 1 << 36;
        const TEA = 1 << 37;
        const APK = 1 << 40;
        const API = 1 << 41;
        const FWB = 1 << 46;
        const FIEN = 1 << 47;
        const TID4 = 1 << 49;
        const AMVOFFEN = 1 << 51;
        const TTLBOS = 1 << 55;
        const ATA = 1 << 56;
        const DCT = 1 << 57;
        const TID5 = 1 << 58;
        // The bits without a name here exist all the same.
        const _ = !0;
    }
}

bitflags! {
    /// MDCR_EL2, without HPMN.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Mdcr: u64 {
        const TPMCR = 1 << 5;
        const TPM = 1 << 6;
        const TDE = 1 << 8;
        const TDA = 1 << 9;
        const TDOSA = 1 << 10;
        const TDRA = 1 << 11;
        const TPMS = 1 << 14;
        const TTRF = 1 << 19;
        const TDCC = 1 << 27;
    }
}

bitflags! {
    /// HCRX_EL2, as far as EL2 sets it.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Hcrx: u64 {
        const EN_ALS = 1 << 1;
        const EN_ASR = 1 << 2;
        const SMPME = 1 << 5;
        const MCE2 = 1 << 10;
        const MSCEN = 1 << 11;
        const TCR2EN = 1 << 14;
        const SCTLR2EN = 1 << 15;
        const EN_FPM = 1 << 23;
    }
}
