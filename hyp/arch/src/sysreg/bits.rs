// SPDX-License-Identifier: GPL-2.0-only
//! Fields of the registers that the hypervisor interprets, named as in the Arm ARM: one module for each register.
#![allow(
    missing_docs,
    non_upper_case_globals,
    non_snake_case,
    reason = "the names are the architecture's"
)]

macro_rules! fields {
    ($($(#[$doc:meta])* $reg:ident { $($field:ident = $value:expr;)* })*) => {$(
        $(#[$doc])*
        pub mod $reg {
            $(pub const $field: u64 = $value;)*
        }
    )*};
}

/// A mask of bits `high` to `low`, both included.
pub const fn mask(high: u32, low: u32) -> u64 {
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

/// Bit `n`.
pub const fn bit(n: u32) -> u64 {
    1 << n
}

fields! {
    /// Hypervisor Configuration Register.
    hcr {
        VM = super::bit(0);
        FMO = super::bit(3);
        IMO = super::bit(4);
        AMO = super::bit(5);
        VF = super::bit(6);
        VI = super::bit(7);
        VSE = super::bit(8);
        TWI = super::bit(13);
        TWE = super::bit(14);
        TVM = super::bit(26);
        TGE = super::bit(27);
        RW = super::bit(31);
        E2H = super::bit(34);
        APK = super::bit(40);
        API = super::bit(41);
        FWB = super::bit(46);
        ATA = super::bit(56);
    }
    /// Extended Hypervisor Configuration Register.
    hcrx {
        EnALS = super::bit(1);
        EnASR = super::bit(2);
        MSCEn = super::bit(11);
        TCR2En = super::bit(14);
        GCSEn = super::bit(22);
        EnFPM = super::bit(23);
    }
    /// Fine-grained traps of registers, read and write: HFGRTR_EL2 and HFGWTR_EL2.
    hfg {
        nGCS_EL0 = super::bit(52);
        nGCS_EL1 = super::bit(53);
        nSMPRI_EL1 = super::bit(54);
        nTPIDR2_EL0 = super::bit(55);
        nPIRE0_EL1 = super::bit(57);
        nPIR_EL1 = super::bit(58);
        nPOR_EL0 = super::bit(59);
    }
    /// Fine-grained traps of instructions.
    hfgitr {
        nBRBINJ = super::bit(55);
        nBRBIALL = super::bit(56);
    }
    /// Fine-grained traps of debug registers, read and write: HDFGRTR_EL2 and HDFGWTR_EL2.
    hdfg {
        nBRBIDR = super::bit(59);
        nBRBCTL = super::bit(60);
        nBRBDATA = super::bit(61);
        nPMSNEVFR_EL1 = super::bit(62);
    }
    /// Fine-grained traps of more debug registers, read and write: HDFGRTR2_EL2 and HDFGWTR2_EL2.
    hdfg2 {
        nPMICNTR_EL0 = super::bit(2);
        nPMICFILTR_EL0 = super::bit(3);
        nPMUACR_EL1 = super::bit(4);
        nPMSDSFR_EL1 = super::bit(19);
        nPMZR_EL0 = super::bit(21);
    }
    /// Fine-grained traps of the GICv5 CPU interface: all that are defined.
    ich_hfg {
        INSTRUCTIONS = super::mask(10, 0);
        READS = super::mask(20, 16) | super::mask(7, 4) | super::mask(2, 0);
        WRITES = super::mask(20, 17) | super::mask(6, 5) | super::bit(2) | super::bit(0);
    }
    /// Virtual Control Register of GICv5.
    ich_vctlr {
        En = super::bit(0);
    }
    /// Interrupt Controller System Register Enable Register of EL2.
    icc_sre_el2 {
        SRE = super::bit(0);
        Enable = super::bit(3);
    }
    /// Profiling Buffer ID Register.
    pmbidr {
        P = super::bit(4);
    }
    /// Sampling Profiling ID Register.
    pmsidr {
        FDS = super::bit(7);
    }
    /// Statistical Profiling Control Register of EL2.
    pmscr_el2 {
        PA = super::bit(4);
        PCT_PHYSICAL = super::bit(6);
    }
    /// Trace Buffer ID Register.
    trbidr {
        P = super::bit(4);
    }
    /// MPAM ID Register.
    mpamidr {
        HAS_HCR = super::bit(17);
    }
    /// SME Feature ID Register.
    smfr0 {
        FA64 = super::bit(63);
    }
    /// SME Identification Register.
    smidr {
        SMPS = super::bit(15);
    }
    /// SME Control Register.
    smcr {
        EZT0 = super::bit(30);
        FA64 = super::bit(31);
    }
    /// Monitor Debug Configuration Register of EL2.
    mdcr {
        HPMN = super::mask(4, 0);
        HPME = super::bit(7);
        E2PB = super::mask(13, 12);
        E2TB = super::mask(25, 24);
    }
    /// Saved Program Status Register, AArch64 and the fields AArch32 shares.
    spsr {
        MODE = super::mask(3, 0);
        MODE32 = super::bit(4);
        EL0t = 0;
        EL1t = 4;
        EL1h = 5;
        EL2t = 8;
        EL2h = 9;
        F = super::bit(6);
        I = super::bit(7);
        A = super::bit(8);
        D = super::bit(9);
        BTYPE = super::mask(11, 10);
        IL = super::bit(20);
        SS = super::bit(21);
        N = super::bit(31);
    }
    /// Architectural Feature Trap Register, with HCR_EL2.E2H clear.
    cptr {
        RES1 = super::bit(13) | super::bit(9) | super::mask(7, 0);
        TZ = super::bit(8);
        TFP = super::bit(10);
        TSM = super::bit(12);
        TTA = super::bit(20);
        TAM = super::bit(30);
    }
    /// Architectural Feature Trap Register, with HCR_EL2.E2H set: in the layout of CPACR_EL1.
    cptr_e2h {
        ZEN = super::mask(17, 16);
        FPEN = super::mask(21, 20);
        SMEN = super::mask(25, 24);
        TTA = super::bit(28);
        E0POE = super::bit(29);
        TAM = super::bit(30);
    }
    /// Counter-timer Hypervisor Control register. With HCR_EL2.E2H set EL1PCTEN and EL1PCEN are ten bits higher.
    cnthctl {
        EL1PCTEN = super::bit(0);
        EL1PCEN = super::bit(1);
        EL1TVT = super::bit(13);
        EL1TVCT = super::bit(14);
    }
    /// Performance Monitors User Enable Register.
    pmuserenr {
        EN = super::bit(0);
        SW = super::bit(1);
        CR = super::bit(2);
        ER = super::bit(3);
    }
    /// MPAM register of EL2.
    mpam2 {
        TRAPMPAM1EL1 = super::bit(48);
        TRAPMPAM0EL1 = super::bit(49);
        EnMPAMSM = super::bit(50);
        TIDR = super::bit(58);
    }
    /// MPAM Hypervisor Control Register.
    mpamhcr {
        TRAP_MPAMIDR_EL1 = super::bit(31);
    }
    /// System Control Register of EL1.
    sctlr_el1 {
        M = super::bit(0);
    }
    /// Translation Control Register of EL1.
    tcr_el1 {
        EPD0 = super::bit(7);
        EPD1 = super::bit(23);
        HA = super::bit(39);
        HD = super::bit(40);
    }
    /// Profiling Buffer Limit Address Register.
    pmblimitr {
        E = super::bit(0);
    }
    /// Trace Buffer Limit Address Register.
    trblimitr {
        E = super::bit(0);
    }
    /// Branch Record Buffer Control Register.
    brbcr {
        E0BRE = super::bit(0);
        ExBRE = super::bit(1);
        CC = super::bit(3);
        MPRED = super::bit(4);
    }
    /// SVE Control Register.
    zcr {
        LEN = super::mask(3, 0);
    }
    /// Physical Address Register.
    par {
        F = super::bit(0);
    }
    /// Hypervisor IPA Fault Address Register. The hypervisor and EL1 use NS, RES0 in hardware, as "the rest is valid".
    hpfar {
        FIPA = super::mask(47, 4);
        NS = super::bit(63);
    }
}
