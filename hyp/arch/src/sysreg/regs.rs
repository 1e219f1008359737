// SPDX-License-Identifier: GPL-2.0-only
//! The table of system registers, by the encodings of the Arm ARM (DDI 0487, chapter D24) and the GIC architecture
//! (IHI 0069, chapter 12).
#![allow(
    missing_docs,
    non_upper_case_globals,
    reason = "the names are the architecture's"
)]

use super::{Enc, enc};

macro_rules! registers {
    ($($name:ident = $op0:literal $op1:literal $crn:literal $crm:literal $op2:literal;)*) => {
        $(pub const $name: Enc = enc($op0, $op1, $crn, $crm, $op2);)*

        /// The name of a register of the table, for messages and traces.
        pub fn name(enc: Enc) -> Option<&'static str> {
            match enc {
                $($name => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

registers! {
    // Identification.
    MIDR_EL1 = 3 0 0 0 0;
    MPIDR_EL1 = 3 0 0 0 5;
    REVIDR_EL1 = 3 0 0 0 6;
    AIDR_EL1 = 3 1 0 0 7;
    CTR_EL0 = 3 3 0 0 1;
    CLIDR_EL1 = 3 1 0 0 1;
    CCSIDR_EL1 = 3 1 0 0 0;
    CSSELR_EL1 = 3 2 0 0 0;
    GMID_EL1 = 3 1 0 0 4;
    ID_AA64PFR0_EL1 = 3 0 0 4 0;
    ID_AA64PFR1_EL1 = 3 0 0 4 1;
    ID_AA64PFR2_EL1 = 3 0 0 4 2;
    ID_AA64DFR0_EL1 = 3 0 0 5 0;
    ID_AA64SMFR0_EL1 = 3 0 0 4 5;
    ID_AA64ISAR1_EL1 = 3 0 0 6 1;
    ID_AA64MMFR0_EL1 = 3 0 0 7 0;
    ID_AA64MMFR1_EL1 = 3 0 0 7 1;
    ID_AA64MMFR3_EL1 = 3 0 0 7 3;
    SMIDR_EL1 = 3 1 0 0 6;
    MPAMIDR_EL1 = 3 0 10 4 4;
    PMSIDR_EL1 = 3 0 9 9 7;
    PMBIDR_EL1 = 3 0 9 10 7;
    TRBIDR_EL1 = 3 0 9 11 7;
    // Control of the world below EL2: banked under hVHE, use the `_el1` accessors.
    SCTLR_EL1 = 3 0 1 0 0;
    SCTLR2_EL1 = 3 0 1 0 3;
    ACTLR_EL1 = 3 0 1 0 1;
    CPACR_EL1 = 3 0 1 0 2;
    TTBR0_EL1 = 3 0 2 0 0;
    TTBR1_EL1 = 3 0 2 0 1;
    TCR_EL1 = 3 0 2 0 2;
    TCR2_EL1 = 3 0 2 0 3;
    PIR_EL1 = 3 0 10 2 3;
    PIRE0_EL1 = 3 0 10 2 2;
    POR_EL1 = 3 0 10 2 4;
    ESR_EL1 = 3 0 5 2 0;
    AFSR0_EL1 = 3 0 5 1 0;
    AFSR1_EL1 = 3 0 5 1 1;
    FAR_EL1 = 3 0 6 0 0;
    MAIR_EL1 = 3 0 10 2 0;
    VBAR_EL1 = 3 0 12 0 0;
    CONTEXTIDR_EL1 = 3 0 13 0 1;
    AMAIR_EL1 = 3 0 10 3 0;
    CNTKCTL_EL1 = 3 0 14 1 0;
    TFSR_EL1 = 3 0 5 6 0;
    ELR_EL1 = 3 0 4 0 1;
    SPSR_EL1 = 3 0 4 0 0;
    ZCR_EL1 = 3 0 1 2 0;
    PMSCR_EL1 = 3 0 9 9 0;
    TRFCR_EL1 = 3 0 1 2 1;
    BRBCR_EL1 = 2 1 9 0 0;
    // State of the world below EL2 with one name only.
    APIAKEYLO_EL1 = 3 0 2 1 0;
    APIAKEYHI_EL1 = 3 0 2 1 1;
    APIBKEYLO_EL1 = 3 0 2 1 2;
    APIBKEYHI_EL1 = 3 0 2 1 3;
    APDAKEYLO_EL1 = 3 0 2 2 0;
    APDAKEYHI_EL1 = 3 0 2 2 1;
    APDBKEYLO_EL1 = 3 0 2 2 2;
    APDBKEYHI_EL1 = 3 0 2 2 3;
    APGAKEYLO_EL1 = 3 0 2 3 0;
    APGAKEYHI_EL1 = 3 0 2 3 1;
    GCSCR_EL1 = 3 0 2 5 0;
    GCSCRE0_EL1 = 3 0 2 5 2;
    LORC_EL1 = 3 0 10 4 3;
    PAR_EL1 = 3 0 7 4 0;
    TPIDR_EL1 = 3 0 13 0 4;
    TPIDR_EL0 = 3 3 13 0 2;
    TPIDRRO_EL0 = 3 3 13 0 3;
    TFSRE0_EL1 = 3 0 5 6 1;
    POR_EL0 = 3 3 10 2 4;
    SP_EL1 = 3 4 4 1 0;
    DISR_EL1 = 3 0 12 1 1;
    RGSR_EL1 = 3 0 1 0 5;
    GCR_EL1 = 3 0 1 0 6;
    ISR_EL1 = 3 0 12 1 0;
    SPSR_abt = 3 4 4 3 1;
    SPSR_und = 3 4 4 3 2;
    SPSR_irq = 3 4 4 3 0;
    SPSR_fiq = 3 4 4 3 3;
    DACR32_EL2 = 3 4 3 0 0;
    IFSR32_EL2 = 3 4 5 0 1;
    FPEXC32_EL2 = 3 4 5 3 0;
    DBGVCR32_EL2 = 2 4 0 7 0;
    // EL2's own: banked under hVHE, use the `_el2` accessors where the kernel does.
    ELR_EL2 = 3 4 4 0 1;
    SPSR_EL2 = 3 4 4 0 0;
    ESR_EL2 = 3 4 5 2 0;
    FAR_EL2 = 3 4 6 0 0;
    ZCR_EL2 = 3 4 1 2 0;
    SCTLR_EL2 = 3 4 1 0 0;
    TCR_EL2 = 3 4 2 0 2;
    TTBR0_EL2 = 3 4 2 0 0;
    MAIR_EL2 = 3 4 10 2 0;
    VBAR_EL2 = 3 4 12 0 0;
    CPTR_EL2 = 3 4 1 1 2;
    // EL2's own with one name only.
    HPFAR_EL2 = 3 4 6 0 4;
    HCR_EL2 = 3 4 1 1 0;
    HCRX_EL2 = 3 4 1 2 2;
    HSTR_EL2 = 3 4 1 1 3;
    MDCR_EL2 = 3 4 1 1 1;
    VTTBR_EL2 = 3 4 2 1 0;
    VTCR_EL2 = 3 4 2 1 2;
    VPIDR_EL2 = 3 4 0 0 0;
    VMPIDR_EL2 = 3 4 0 0 5;
    VDISR_EL2 = 3 4 12 1 1;
    VSESR_EL2 = 3 4 5 2 3;
    TPIDR_EL2 = 3 4 13 0 2;
    SMCR_EL2 = 3 4 1 2 6;
    SMPRIMAP_EL2 = 3 4 1 2 5;
    PMSCR_EL2 = 3 4 9 9 0;
    BRBCR_EL2 = 2 4 9 0 0;
    GCSCR_EL2 = 3 4 2 5 0;
    // Fine-grained traps.
    HFGRTR_EL2 = 3 4 1 1 4;
    HFGWTR_EL2 = 3 4 1 1 5;
    HFGITR_EL2 = 3 4 1 1 6;
    HDFGRTR_EL2 = 3 4 3 1 4;
    HDFGWTR_EL2 = 3 4 3 1 5;
    HAFGRTR_EL2 = 3 4 3 1 6;
    HFGRTR2_EL2 = 3 4 3 1 2;
    HFGWTR2_EL2 = 3 4 3 1 3;
    HFGITR2_EL2 = 3 4 3 1 7;
    HDFGRTR2_EL2 = 3 4 3 1 0;
    HDFGWTR2_EL2 = 3 4 3 1 1;
    ICH_HFGRTR_EL2 = 3 4 12 9 4;
    ICH_HFGWTR_EL2 = 3 4 12 9 6;
    ICH_HFGITR_EL2 = 3 4 12 9 7;
    // Memory partitioning.
    MPAM2_EL2 = 3 4 10 5 0;
    MPAMHCR_EL2 = 3 4 10 4 0;
    // FP, SVE and SME.
    FPCR = 3 3 4 4 0;
    FPSR = 3 3 4 4 1;
    FPMR = 3 3 4 4 2;
    SVCR = 3 3 4 2 2;
    // Debug, profiling and trace.
    MDSCR_EL1 = 2 0 0 2 2;
    MDCCINT_EL1 = 2 0 0 2 0;
    PMBLIMITR_EL1 = 3 0 9 10 0;
    TRBLIMITR_EL1 = 3 0 9 11 0;
    PMCR_EL0 = 3 3 9 12 0;
    PMCNTENSET_EL0 = 3 3 9 12 1;
    PMCNTENCLR_EL0 = 3 3 9 12 2;
    PMSELR_EL0 = 3 3 9 12 5;
    PMUSERENR_EL0 = 3 3 9 14 0;
    // Timers.
    CNTHCTL_EL2 = 3 4 14 1 0;
    CNTVOFF_EL2 = 3 4 14 0 3;
    CNTFRQ_EL0 = 3 3 14 0 0;
    CNTPCT_EL0 = 3 3 14 0 1;
    CNTPCTSS_EL0 = 3 3 14 0 5;
    CNTVCT_EL0 = 3 3 14 0 2;
    CNTVCTSS_EL0 = 3 3 14 0 6;
    CNTP_TVAL_EL0 = 3 3 14 2 0;
    CNTP_CTL_EL0 = 3 3 14 2 1;
    CNTP_CVAL_EL0 = 3 3 14 2 2;
    CNTV_TVAL_EL0 = 3 3 14 3 0;
    CNTV_CTL_EL0 = 3 3 14 3 1;
    CNTV_CVAL_EL0 = 3 3 14 3 2;
    // The GIC CPU interface.
    ICC_PMR_EL1 = 3 0 4 6 0;
    ICC_IAR0_EL1 = 3 0 12 8 0;
    ICC_EOIR0_EL1 = 3 0 12 8 1;
    ICC_HPPIR0_EL1 = 3 0 12 8 2;
    ICC_BPR0_EL1 = 3 0 12 8 3;
    ICC_AP0R0_EL1 = 3 0 12 8 4;
    ICC_AP0R1_EL1 = 3 0 12 8 5;
    ICC_AP0R2_EL1 = 3 0 12 8 6;
    ICC_AP0R3_EL1 = 3 0 12 8 7;
    ICC_AP1R0_EL1 = 3 0 12 9 0;
    ICC_AP1R1_EL1 = 3 0 12 9 1;
    ICC_AP1R2_EL1 = 3 0 12 9 2;
    ICC_AP1R3_EL1 = 3 0 12 9 3;
    ICC_DIR_EL1 = 3 0 12 11 1;
    ICC_RPR_EL1 = 3 0 12 11 3;
    ICC_SGI1R_EL1 = 3 0 12 11 5;
    ICC_ASGI1R_EL1 = 3 0 12 11 6;
    ICC_SGI0R_EL1 = 3 0 12 11 7;
    ICC_IAR1_EL1 = 3 0 12 12 0;
    ICC_EOIR1_EL1 = 3 0 12 12 1;
    ICC_HPPIR1_EL1 = 3 0 12 12 2;
    ICC_BPR1_EL1 = 3 0 12 12 3;
    ICC_CTLR_EL1 = 3 0 12 12 4;
    ICC_SRE_EL1 = 3 0 12 12 5;
    ICC_IGRPEN0_EL1 = 3 0 12 12 6;
    ICC_IGRPEN1_EL1 = 3 0 12 12 7;
    ICC_SRE_EL2 = 3 4 12 9 5;
    // The GIC's hypervisor interface.
    ICH_HCR_EL2 = 3 4 12 11 0;
    ICH_VTR_EL2 = 3 4 12 11 1;
    ICH_MISR_EL2 = 3 4 12 11 2;
    ICH_EISR_EL2 = 3 4 12 11 3;
    ICH_ELRSR_EL2 = 3 4 12 11 5;
    ICH_VMCR_EL2 = 3 4 12 11 7;
    ICH_VCTLR_EL2 = 3 4 12 11 4;
    // The GICv5 CPU interface, from the hypervisor (AES 0070).
    ICC_ICSR_EL1 = 3 0 12 10 4;
    ICH_APR_EL2 = 3 4 12 8 4;
    ICH_PPI_DVIR0_EL2 = 3 4 12 10 0;
    ICH_PPI_DVIR1_EL2 = 3 4 12 10 1;
    ICH_PPI_ENABLER0_EL2 = 3 4 12 10 2;
    ICH_PPI_ENABLER1_EL2 = 3 4 12 10 3;
    ICH_PPI_PENDR0_EL2 = 3 4 12 10 4;
    ICH_PPI_PENDR1_EL2 = 3 4 12 10 5;
    ICH_PPI_ACTIVER0_EL2 = 3 4 12 10 6;
    ICH_PPI_ACTIVER1_EL2 = 3 4 12 10 7;
    ICH_PPI_PRIORITYR0_EL2 = 3 4 12 14 0;
    ICH_PPI_PRIORITYR1_EL2 = 3 4 12 14 1;
    ICH_PPI_PRIORITYR2_EL2 = 3 4 12 14 2;
    ICH_PPI_PRIORITYR3_EL2 = 3 4 12 14 3;
    ICH_PPI_PRIORITYR4_EL2 = 3 4 12 14 4;
    ICH_PPI_PRIORITYR5_EL2 = 3 4 12 14 5;
    ICH_PPI_PRIORITYR6_EL2 = 3 4 12 14 6;
    ICH_PPI_PRIORITYR7_EL2 = 3 4 12 14 7;
    ICH_PPI_PRIORITYR8_EL2 = 3 4 12 15 0;
    ICH_PPI_PRIORITYR9_EL2 = 3 4 12 15 1;
    ICH_PPI_PRIORITYR10_EL2 = 3 4 12 15 2;
    ICH_PPI_PRIORITYR11_EL2 = 3 4 12 15 3;
    ICH_PPI_PRIORITYR12_EL2 = 3 4 12 15 4;
    ICH_PPI_PRIORITYR13_EL2 = 3 4 12 15 5;
    ICH_PPI_PRIORITYR14_EL2 = 3 4 12 15 6;
    ICH_PPI_PRIORITYR15_EL2 = 3 4 12 15 7;
    // And GICv3's.
    ICH_AP0R0_EL2 = 3 4 12 8 0;
    ICH_AP0R1_EL2 = 3 4 12 8 1;
    ICH_AP0R2_EL2 = 3 4 12 8 2;
    ICH_AP0R3_EL2 = 3 4 12 8 3;
    ICH_AP1R0_EL2 = 3 4 12 9 0;
    ICH_AP1R1_EL2 = 3 4 12 9 1;
    ICH_AP1R2_EL2 = 3 4 12 9 2;
    ICH_AP1R3_EL2 = 3 4 12 9 3;
    ICH_LR0_EL2 = 3 4 12 12 0;
    ICH_LR1_EL2 = 3 4 12 12 1;
    ICH_LR2_EL2 = 3 4 12 12 2;
    ICH_LR3_EL2 = 3 4 12 12 3;
    ICH_LR4_EL2 = 3 4 12 12 4;
    ICH_LR5_EL2 = 3 4 12 12 5;
    ICH_LR6_EL2 = 3 4 12 12 6;
    ICH_LR7_EL2 = 3 4 12 12 7;
    ICH_LR8_EL2 = 3 4 12 13 0;
    ICH_LR9_EL2 = 3 4 12 13 1;
    ICH_LR10_EL2 = 3 4 12 13 2;
    ICH_LR11_EL2 = 3 4 12 13 3;
    ICH_LR12_EL2 = 3 4 12 13 4;
    ICH_LR13_EL2 = 3 4 12 13 5;
    ICH_LR14_EL2 = 3 4 12 13 6;
    ICH_LR15_EL2 = 3 4 12 13 7;
}

/// Breakpoint value register `n`, below 16.
pub const fn dbgbvr(n: u32) -> Enc {
    enc(2, 0, 0, n, 4)
}
/// Breakpoint control register `n`, below 16.
pub const fn dbgbcr(n: u32) -> Enc {
    enc(2, 0, 0, n, 5)
}
/// Watchpoint value register `n`, below 16.
pub const fn dbgwvr(n: u32) -> Enc {
    enc(2, 0, 0, n, 6)
}
/// Watchpoint control register `n`, below 16.
pub const fn dbgwcr(n: u32) -> Enc {
    enc(2, 0, 0, n, 7)
}

/// Whether a wrong value of the register breaks EL2 itself, or the protection of its memory: only
/// [`write_own`](super::write_own) writes these.
pub(super) const fn is_el2_critical(enc: Enc) -> bool {
    matches!(
        enc,
        HCR_EL2 | SCTLR_EL2 | TCR_EL2 | TTBR0_EL2 | MAIR_EL2 | VBAR_EL2 | TPIDR_EL2 | VTTBR_EL2 | VTCR_EL2
    )
}
