// SPDX-License-Identifier: GPL-2.0-only
//! What EL2 controls on a CPU, from "unknown" out of reset to what the host runs with: nothing traps to EL2 that EL2 did
//! not ask for, and every feature that the system uses is there for EL1. Does the job of `asm/el2_setup.h`.
//!
//! It is compiled code, since none of it is needed to run compiled code: what is (HCR_EL2, SCTLR_EL2, the translation and
//! SP) the assembler in front of it has set. Each CPU answers for its own features. Where firmware may keep a register
//! from the system although the CPU has it, EL1's view of the whole system decides ([`System`]).
//!
//! No lock: a CPU sets its own registers.

use pkvm_kernel::layout::*;

use super::Start;
use crate::alt::has_cap;
use crate::barrier::isb;
use crate::sysreg::*;

/// ID registers as EL1 made them out of those of all CPUs and the command line.
#[derive(Clone, Copy, Debug)]
pub struct System {
    /// ID_AA64PFR0_EL1.
    pub pfr0: u64,
    /// ID_AA64PFR1_EL1.
    pub pfr1: u64,
    /// ID_AA64SMFR0_EL1.
    pub smfr0: u64,
}

/// The 4-bit field at `low` of an ID register.
const fn field(register: u64, low: u32) -> u64 {
    register >> low & 0xf
}

/// Sets up this CPU.
pub fn init(start: Start, system: &System) {
    extended_configuration();
    timers();
    write::<MDCR_EL2>(debug_configuration());
    branch_records();
    gicv3();
    gicv5();
    write::<HSTR_EL2>(0);
    // The CPU's own, for a host that is not virtual.
    write::<VPIDR_EL2>(read::<MIDR_EL1>());
    write::<VMPIDR_EL2>(read::<MPIDR_EL1>());
    fine_grained_traps();
    fine_grained_traps2();
    partitioning(system);
    vectors_and_matrices(system);
    if start != Start::Installed {
        // What EL1 would find in an unknown state, and does not look at before it relies on it. While it runs this is its
        // own.
        if field(read::<ID_AA64MMFR1_EL1>(), 16) != 0 {
            write::<LORC_EL1>(0);
        }
        if field(system.pfr1, 44) != 0 {
            write_el1::<GCSCR_EL1>(0);
            write::<GCSCRE0_EL1>(0);
        }
    }
    if field(system.pfr1, 44) != 0 {
        write::<GCSCR_EL2>(0);
    }
    isb();
}

/// HCRX_EL2: instructions and registers that are there for EL1 and EL0.
fn extended_configuration() {
    if field(read::<ID_AA64MMFR1_EL1>(), 40) == 0 {
        return;
    }
    let mut value = hcrx::MSCEn | hcrx::TCR2En | hcrx::EnFPM;
    if field(read::<ID_AA64PFR1_EL1>(), 44) != 0 {
        value |= hcrx::GCSEn;
    }
    // FEAT_LS64, and from 2 on FEAT_LS64_V.
    let ls64 = field(read::<ID_AA64ISAR1_EL1>(), 60);
    if ls64 >= 1 {
        value |= hcrx::EnALS;
    }
    if ls64 >= 2 {
        value |= hcrx::EnASR;
    }
    write::<HCRX_EL2>(value);
}

/// The physical timer and counter are EL1's, and virtual time is physical time.
fn timers() {
    let open = cnthctl::EL1PCTEN | cnthctl::EL1PCEN;
    // With HCR_EL2.E2H set the register has CNTKCTL_EL1's fields below these.
    let shift = if has_cap::<{ CAP_KVM_HVHE as u16 }>() {
        10
    } else {
        0
    };
    write::<CNTHCTL_EL2>(open << shift);
    write::<CNTVOFF_EL2>(0);
}

/// MDCR_EL2: all event counters, the profiling buffer and the trace buffer are EL1's.
fn debug_configuration() -> u64 {
    let dfr0 = read::<ID_AA64DFR0_EL1>();
    let mut mdcr = 0;
    if has_architected_pmu(dfr0) {
        // PMCR_EL0.N, into HPMN.
        mdcr |= read::<PMCR_EL0>() >> 11 & mdcr::HPMN;
    }
    if field(dfr0, 32) != 0 {
        // Unless EL3 owns the buffer, samples may have physical addresses and timestamps.
        if read::<PMBIDR_EL1>() & pmbidr::P == 0 {
            write::<PMSCR_EL2>(pmscr_el2::PA | pmscr_el2::PCT_PHYSICAL);
        }
        mdcr |= mdcr::E2PB;
    }
    if field(dfr0, 44) != 0 && read::<TRBIDR_EL1>() & trbidr::P == 0 {
        mdcr |= mdcr::E2TB;
    }
    mdcr
}

fn has_architected_pmu(dfr0: u64) -> bool {
    // 15 is an implementation's own.
    !matches!(field(dfr0, 8), 0 | 15)
}

/// BRBE counts cycles and mispredictions only where EL2 allows it too, even for EL1.
fn branch_records() {
    if field(read::<ID_AA64DFR0_EL1>(), 52) != 0 {
        write::<BRBCR_EL2>(brbcr::CC | brbcr::MPRED);
    }
}

/// The CPU interface of GICv3 by system registers, for EL1 too.
fn gicv3() {
    if field(read::<ID_AA64PFR0_EL1>(), 24) == 0 {
        return;
    }
    write::<ICC_SRE_EL2>(read::<ICC_SRE_EL2>() | icc_sre_el2::SRE | icc_sre_el2::Enable);
    isb();
    // EL3 may have chosen the memory-mapped interface for all.
    if read::<ICC_SRE_EL2>() & icc_sre_el2::SRE != 0 {
        write::<ICH_HCR_EL2>(0);
    }
}

/// The CPU interface of GICv5: its traps have the opposite sense, so that zero traps.
fn gicv5() {
    if field(read::<ID_AA64PFR2_EL1>(), 12) == 0 {
        return;
    }
    write::<ICH_HFGITR_EL2>(ich_hfg::INSTRUCTIONS);
    write::<ICH_HFGRTR_EL2>(ich_hfg::READS);
    write::<ICH_HFGWTR_EL2>(ich_hfg::WRITES);
    // Selection of the highest priority virtual interrupt.
    write::<ICH_VCTLR_EL2>(ich_vctlr::En);
}

/// No register or instruction traps that the CPU has. Zero is "no trap", but for the fields whose names begin with an n.
fn fine_grained_traps() {
    if field(read::<ID_AA64MMFR0_EL1>(), 56) == 0 {
        return;
    }
    let dfr0 = read::<ID_AA64DFR0_EL1>();
    let pfr1 = read::<ID_AA64PFR1_EL1>();
    let mmfr3 = read::<ID_AA64MMFR3_EL1>();

    let (mut debug_read, mut debug_write, mut registers, mut instructions) = (0, 0, 0, 0);
    if field(dfr0, 32) >= 3 {
        // Version 1.2 of SPE.
        debug_read |= hdfg::nPMSNEVFR_EL1;
        debug_write |= hdfg::nPMSNEVFR_EL1;
    }
    if field(dfr0, 52) != 0 {
        debug_read |= hdfg::nBRBDATA | hdfg::nBRBCTL | hdfg::nBRBIDR;
        debug_write |= hdfg::nBRBDATA | hdfg::nBRBCTL;
        instructions |= hfgitr::nBRBIALL | hfgitr::nBRBINJ;
    }
    if field(pfr1, 24) != 0 {
        registers |= hfg::nSMPRI_EL1 | hfg::nTPIDR2_EL0;
    }
    if field(mmfr3, 8) != 0 {
        registers |= hfg::nPIR_EL1 | hfg::nPIRE0_EL1;
    }
    if field(mmfr3, 16) != 0 {
        registers |= hfg::nPOR_EL0;
    }
    if field(pfr1, 44) != 0 {
        registers |= hfg::nGCS_EL0 | hfg::nGCS_EL1;
    }
    write::<HDFGRTR_EL2>(debug_read);
    write::<HDFGWTR_EL2>(debug_write);
    write::<HFGRTR_EL2>(registers);
    write::<HFGWTR_EL2>(registers);
    write::<HFGITR_EL2>(instructions);
    // Undefined on a CPU without activity monitors.
    if field(read::<ID_AA64PFR0_EL1>(), 44) != 0 {
        write::<HAFGRTR_EL2>(0);
    }
}

/// As [`fine_grained_traps`], for the registers of FEAT_FGT2.
fn fine_grained_traps2() {
    if field(read::<ID_AA64MMFR0_EL1>(), 56) < 2 {
        return;
    }
    let dfr0 = read::<ID_AA64DFR0_EL1>();
    let (mut debug_read, mut debug_write) = (0, 0);
    if has_architected_pmu(dfr0) && field(dfr0, 8) >= 9 {
        // PMUv3p9. PMZR_EL0 cannot be read.
        debug_read |= hdfg2::nPMICNTR_EL0 | hdfg2::nPMICFILTR_EL0 | hdfg2::nPMUACR_EL1;
        debug_write |= hdfg2::nPMICNTR_EL0 | hdfg2::nPMICFILTR_EL0 | hdfg2::nPMUACR_EL1 | hdfg2::nPMZR_EL0;
    }
    if field(dfr0, 32) != 0 && read::<PMSIDR_EL1>() & pmsidr::FDS != 0 {
        debug_read |= hdfg2::nPMSDSFR_EL1;
        debug_write |= hdfg2::nPMSDSFR_EL1;
    }
    write::<HDFGRTR2_EL2>(debug_read);
    write::<HDFGWTR2_EL2>(debug_write);
    write::<HFGRTR2_EL2>(0);
    write::<HFGWTR2_EL2>(0);
    write::<HFGITR2_EL2>(0);
}

/// MPAM: the default partition for EL2, and no traps.
fn partitioning(system: &System) {
    // The major version, and the minor one of version 0.1.
    if field(system.pfr0, 40) == 0 && field(system.pfr1, 16) == 0 {
        return;
    }
    write::<MPAM2_EL2>(mpam2::EnMPAMSM);
    if read::<MPAMIDR_EL1>() & mpamidr::HAS_HCR != 0 {
        write::<MPAMHCR_EL2>(0);
    }
}

/// FP, SVE and SME, with registers as long as the CPU has them.
fn vectors_and_matrices(system: &System) {
    crate::switch::set_host_traps();
    // EL2's own accesses to the following trap by the old value before this.
    isb();
    if has_cap::<{ CAP_SVE as u16 }>() {
        write::<ZCR_EL2>(zcr::LEN);
    }
    if has_cap::<{ CAP_SME as u16 }>() {
        let mut value = zcr::LEN;
        if system.smfr0 & smfr0::FA64 != 0 {
            value |= smcr::FA64;
        }
        if field(system.smfr0, 56) != 0 {
            value |= smcr::EZT0;
        }
        write::<SMCR_EL2>(value);
        if read::<SMIDR_EL1>() & smidr::SMPS != 0 {
            // All priorities are the same.
            write::<SMPRIMAP_EL2>(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Event};
    use std::collections::BTreeMap;
    use std::vec::Vec;

    const NONE: System = System {
        pfr0: 0,
        pfr1: 0,
        smfr0: 0,
    };

    /// What the setup wrote, last value of each register.
    fn written(start: Start, system: &System) -> BTreeMap<&'static str, u64> {
        init(start, system);
        fake::take_log()
            .into_iter()
            .filter_map(|event| match event {
                Event::Write(register, value) => Some((name(register).unwrap_or("?"), value)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_cpu_of_version_8_0_has_no_later_register_touched() {
        fake::reset();
        // Cortex-A57: a PMU with six counters, and GICv3.
        fake::set_reg(ID_AA64DFR0_EL1, 1 << 8);
        fake::set_reg(ID_AA64PFR0_EL1, 1 << 24);
        fake::set_reg(PMCR_EL0, 6 << 11);
        fake::set_reg(MIDR_EL1, 0x411f_d070);
        fake::set_reg(MPIDR_EL1, 0x8000_0001);
        let expected = BTreeMap::from([
            ("CNTHCTL_EL2", 3),
            ("CNTVOFF_EL2", 0),
            ("MDCR_EL2", 6),
            ("ICC_SRE_EL2", 9),
            ("ICH_HCR_EL2", 0),
            ("HSTR_EL2", 0),
            ("VPIDR_EL2", 0x411f_d070),
            ("VMPIDR_EL2", 0x8000_0001),
            ("CPTR_EL2", 0x33ff),
        ]);
        assert_eq!(written(Start::CpuOn, &NONE), expected);
        assert_eq!(written(Start::Installed, &NONE), expected);
    }

    /// Every feature there is.
    fn everything() -> System {
        fake::reset();
        for register in [
            ID_AA64MMFR0_EL1,
            ID_AA64MMFR1_EL1,
            ID_AA64MMFR3_EL1,
            ID_AA64PFR0_EL1,
            ID_AA64PFR1_EL1,
            ID_AA64PFR2_EL1,
            ID_AA64ISAR1_EL1,
        ] {
            fake::set_reg(register, 0x2222_2222_2222_2222);
        }
        // PMUv3p9, SPE 1.3, TRBE, BRBE.
        fake::set_reg(ID_AA64DFR0_EL1, 9 << 8 | 4 << 32 | 1 << 44 | 1 << 52);
        fake::set_reg(PMSIDR_EL1, pmsidr::FDS);
        fake::set_reg(PMCR_EL0, 31 << 11);
        fake::set_reg(MPAMIDR_EL1, mpamidr::HAS_HCR);
        fake::set_reg(SMIDR_EL1, smidr::SMPS);
        for cap in [CAP_KVM_HVHE, CAP_SVE, CAP_SME] {
            fake::set_cap(cap as u16);
        }
        System {
            pfr0: 1 << 40,
            pfr1: 1 << 44,
            smfr0: smfr0::FA64 | 1 << 56,
        }
    }

    #[test]
    fn a_cpu_with_everything_traps_nothing() {
        let system = everything();
        let got = written(Start::CpuOn, &system);
        // The values that the macros of asm/el2_setup.h give, worked out by hand from the Arm ARM's fields.
        for (register, value) in [
            ("HCRX_EL2", 0xc0_4806),
            ("CNTHCTL_EL2", 0xc00),
            ("MDCR_EL2", 31 | 3 << 12 | 3 << 24),
            ("PMSCR_EL2", 0x50),
            ("BRBCR_EL2", 0x18),
            ("HDFGRTR_EL2", 0xf << 59),
            ("HDFGWTR_EL2", 7 << 60),
            ("HFGITR_EL2", 3 << 55),
            ("HFGRTR_EL2", 0xf << 52 | 7 << 57),
            ("HFGWTR_EL2", 0xf << 52 | 7 << 57),
            ("HAFGRTR_EL2", 0),
            ("HDFGRTR2_EL2", 0x8_001c),
            ("HDFGWTR2_EL2", 0x28_001c),
            ("HFGRTR2_EL2", 0),
            ("HFGWTR2_EL2", 0),
            ("HFGITR2_EL2", 0),
            ("ICH_HFGITR_EL2", 0x7ff),
            ("ICH_HFGRTR_EL2", 0x1f_00f7),
            ("ICH_HFGWTR_EL2", 0x1e_0065),
            ("ICH_VCTLR_EL2", 1),
            ("MPAM2_EL2", 1 << 50),
            ("MPAMHCR_EL2", 0),
            ("CPTR_EL2", 3 << 16 | 3 << 20 | 3 << 24),
            ("ZCR_EL2", 0xf),
            ("SMCR_EL2", 3 << 30 | 0xf),
            ("SMPRIMAP_EL2", 0),
            ("LORC_EL1", 0),
            ("GCSCR_EL1", 0),
            ("GCSCRE0_EL1", 0),
            ("GCSCR_EL2", 0),
        ] {
            assert_eq!(got.get(register), Some(&value), "{register}");
        }
    }

    #[test]
    fn a_running_kernel_keeps_its_own_registers() {
        let system = everything();
        let got = written(Start::Installed, &system);
        for register in ["LORC_EL1", "GCSCR_EL1", "GCSCRE0_EL1"] {
            assert!(!got.contains_key(register), "{register}");
        }
    }

    #[test]
    fn buffers_of_a_higher_level_stay_there() {
        let system = everything();
        fake::set_reg(PMBIDR_EL1, pmbidr::P);
        fake::set_reg(TRBIDR_EL1, trbidr::P);
        let got = written(Start::CpuOn, &system);
        assert!(!got.contains_key("PMSCR_EL2"));
        assert_eq!(got.get("MDCR_EL2"), Some(&(31 | 3 << 12)));
    }

    #[test]
    fn what_firmware_hides_is_left_alone() {
        everything();
        let got = written(Start::CpuOn, &NONE);
        for register in ["MPAM2_EL2", "GCSCR_EL2", "GCSCR_EL1"] {
            assert!(!got.contains_key(register), "{register}");
        }
    }

    #[test]
    fn the_length_of_vectors_is_set_once_its_trap_is_gone() {
        let system = everything();
        init(Start::CpuOn, &system);
        let log = fake::take_log();
        let at = |wanted: Enc| {
            log.iter()
                .position(|event| matches!(event, Event::Write(register, _) if *register == wanted))
                .unwrap()
        };
        let between: Vec<_> = log[at(CPTR_EL2)..at(ZCR_EL2)].iter().collect();
        assert!(between.contains(&&Event::Isb));
    }
}
