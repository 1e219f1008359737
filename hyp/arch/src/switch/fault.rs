// SPDX-License-Identifier: GPL-2.0-only
//! Where an abort from below happened: FAR_EL2 always, the IPA where it can be known. Does the job of `hyp/fault.h`.
//! Used for guests and for the host.
#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "the AT instruction"))]

use pkvm_kernel::layout::*;

use super::ctxt::read_par;
use crate::alt::has_cap;
use crate::sysreg::*;

/// Exception classes of ESR_ELx that the hypervisor knows.
#[expect(missing_docs, reason = "the names are the architecture's")]
pub mod ec {
    pub const CP15_32: u8 = 0x03;
    pub const FP_ASIMD: u8 = 0x07;
    pub const PAC: u8 = 0x09;
    pub const HVC32: u8 = 0x12;
    pub const HVC64: u8 = 0x16;
    pub const SYS64: u8 = 0x18;
    pub const SVE: u8 = 0x19;
    pub const IABT_LOW: u8 = 0x20;
    pub const DABT_LOW: u8 = 0x24;
    pub const MOPS: u8 = 0x27;
    pub const WATCHPT_LOW: u8 = 0x34;
}

/// A syndrome, the value of ESR_EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Esr(pub u64);

impl Esr {
    /// The exception class. Bits above 31 (ISS2) are no part of it.
    pub const fn ec(self) -> u8 {
        (self.0 >> 26 & 0x3f) as u8
    }
    /// The fault status code of an abort.
    const fn fsc(self) -> u64 {
        self.0 & 0x3f
    }
    /// A translation fault, at any level.
    pub const fn is_translation_fault(self) -> bool {
        matches!(self.fsc(), 0x04..=0x07 | 0x2b)
    }
    const fn is_access_flag_fault(self) -> bool {
        matches!(self.fsc(), 0x08..=0x0b)
    }
    /// A permission fault, at any level.
    pub const fn is_permission_fault(self) -> bool {
        matches!(self.fsc(), 0x0c..=0x0f)
    }
    const fn is_address_size_fault(self) -> bool {
        matches!(self.fsc(), 0x00..=0x03 | 0x29)
    }
    /// An external abort or a parity error on a table walk: walking again would abort again.
    const fn is_walk_error(self) -> bool {
        matches!(self.fsc(), 0x13..=0x17 | 0x1b..=0x1f)
    }
    /// An external abort on the access itself.
    const fn is_external_abort(self) -> bool {
        self.fsc() == 0x10
    }
    /// An external abort of either kind.
    pub const fn is_sea(self) -> bool {
        self.is_external_abort() || self.is_walk_error()
    }
    /// FAR_ELx is not valid.
    const fn far_not_valid(self) -> bool {
        self.0 & bit(10) != 0
    }
    /// A stage-2 abort on a walk of stage 1.
    pub const fn is_s1ptw(self) -> bool {
        self.0 & bit(7) != 0
    }
    /// The syndrome describes the instruction of a data abort (ISV).
    pub const fn has_instruction_syndrome(self) -> bool {
        self.0 & bit(24) != 0
    }
    /// The size of a data access that the syndrome describes: the power of two of its bytes (SAS).
    pub const fn access_size(self) -> u64 {
        self.0 >> 22 & 3
    }
    /// The register operand of a data access that the syndrome describes (SRT).
    pub const fn data_rt(self) -> usize {
        (self.0 >> 16 & 0x1f) as usize
    }
    /// Whether a data abort was on a write (`WnR`).
    pub const fn is_write(self) -> bool {
        self.0 & bit(6) != 0
    }
    /// The register operand of a trapped MRS or MSR.
    pub const fn sys64_rt(self) -> usize {
        (self.0 >> 5 & 0x1f) as usize
    }
    /// Whether a trapped system register access is a read.
    pub const fn sys64_is_read(self) -> bool {
        self.0 & 1 != 0
    }
    /// The register that a trapped MRS or MSR names.
    pub const fn sys64_register(self) -> Enc {
        let iss = self.0 as u32;
        enc(
            iss >> 20 & 3,
            iss >> 14 & 7,
            iss >> 10 & 15,
            iss >> 1 & 15,
            iss >> 17 & 7,
        )
    }
    /// Whether HPFAR_EL2 holds the faulting IPA (Arm ARM, HPFAR_EL2).
    fn sets_hpfar(self) -> bool {
        // Cortex-A57 erratum 834220 reports stage-1 faults of permission or alignment as stage-2 translation faults: walk
        // again. These are no faults of the walk itself, after which another walk would end where this one did, and the
        // world below would run into it for ever.
        if has_cap::<{ CAP_WORKAROUND_834220 as u16 }>() && self.is_translation_fault() && !self.is_s1ptw() {
            return false;
        }
        self.is_translation_fault()
            || self.is_access_flag_fault()
            || (self.is_s1ptw() && self.is_permission_fault())
            || self.is_address_size_fault()
    }
    /// Whether walking the tables for FAR_EL2 makes sense.
    const fn may_translate(self) -> bool {
        !(self.is_walk_error() || self.is_external_abort() && self.far_not_valid())
    }
}

/// Where an abort happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultInfo {
    /// FAR_EL2: the virtual address.
    pub far: u64,
    /// HPFAR_EL2: the page's IPA, shifted right by 8, with [`hpfar::NS`] set; zero where the IPA is not known.
    pub hpfar: u64,
}

/// Finds out where the abort with syndrome `esr` happened. `None` where the world's own tables no longer lead there,
/// since another of its CPUs changed them meanwhile: it should simply run again.
pub fn fault_info(esr: Esr) -> Option<FaultInfo> {
    let far = read_el2::<FAR_EL2>();
    let ipa_bits = if esr.sets_hpfar() {
        read::<HPFAR_EL2>()
    } else if esr.may_translate() {
        translate(far)?
    } else {
        return Some(FaultInfo { far, hpfar: 0 });
    };
    Some(FaultInfo {
        far,
        hpfar: ipa_bits | hpfar::NS,
    })
}

/// The IPA of `va` in HPFAR_EL2's format, by the stage 1 of the world below.
fn translate(va: u64) -> Option<u64> {
    // PAR_EL1 is the world's own and not saved yet.
    let saved = read_par();
    let par = if translate_stage1(va) { read_par() } else { par::F };
    write::<PAR_EL1>(saved);
    (par & par::F == 0).then_some((par & mask(51, 12)) >> 8)
}

/// Whether the walk must be AT S1E1A, which checks no permissions: with permission overlays AT S1E1R could fail where the
/// access did not.
#[inline(always)]
fn walks_without_permissions() -> bool {
    has_cap::<{ CAP_HAS_S1POE as u16 }>()
}

/// Translates `va` for a read at EL1 into PAR_EL1. False where the walk took an exception to EL2, which is an external
/// abort on the tables.
fn translate_stage1(va: u64) -> bool {
    #[cfg(target_os = "none")]
    {
        let failed: u64;
        macro_rules! at {
            ($at:literal) => {
                // SAFETY: the instruction writes PAR_EL1. An exception it takes lands in the guest vectors' handler,
                // which finds the record and resumes at the fixup with all general registers intact; the fixup puts
                // back the syndrome registers that the exception overwrote and this code's caller still needs.
                unsafe {
                    core::arch::asm!(
                        "mrs {spsr}, spsr_el2",
                        "mrs {elr}, elr_el2",
                        concat!("661: ", $at),
                        "isb",
                        "b 663f",
                        "662: msr spsr_el2, {spsr}",
                        "msr elr_el2, {elr}",
                        "mov {failed}, #1",
                        "663:",
                        ".pushsection __kvm_ex_table, \"a\"",
                        ".align 3",
                        ".long (661b - .), (662b - .)",
                        ".popsection",
                        va = in(reg) va,
                        spsr = out(reg) _,
                        elr = out(reg) _,
                        failed = inout(reg) 0u64 => failed,
                        options(nostack, preserves_flags),
                    )
                }
            };
        }
        if walks_without_permissions() {
            at!("sys #0, c7, c9, #2, {va}");
        } else {
            at!("sys #0, c7, c8, #0, {va}");
        }
        failed == 0
    }
    #[cfg(not(target_os = "none"))]
    {
        let instruction = if walks_without_permissions() {
            "s1e1a"
        } else {
            "s1e1r"
        };
        crate::fake::translate(instruction, va)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    fn esr(ec: u8, iss: u64) -> Esr {
        Esr(u64::from(ec) << 26 | iss)
    }

    #[test]
    fn the_class_ignores_what_is_above_bit_31() {
        assert_eq!(Esr(0xffff_ffff_0000_0000 | 0x24 << 26).ec(), ec::DABT_LOW);
    }

    #[test]
    fn a_trapped_register_is_decoded_into_its_encoding() {
        // MRS x5, ICC_SRE_EL1 (S3_0_C12_C12_5).
        let iss = 3 << 20 | 5 << 17 | 12 << 10 | 5 << 5 | 12 << 1 | 1;
        let esr = esr(ec::SYS64, iss);
        assert_eq!(esr.sys64_register(), ICC_SRE_EL1);
        assert_eq!((esr.sys64_rt(), esr.sys64_is_read()), (5, true));
    }

    #[test]
    fn hpfar_is_read_where_the_hardware_sets_it() {
        fake::reset();
        fake::set_reg(HPFAR_EL2, 0x1230);
        fake::set_reg(FAR_EL2, 0x40_0123_4567);
        for fsc in [0x04, 0x07, 0x08, 0x0b, 0x00, 0x03, 0x29, 0x2b, 0x0c | 1 << 7] {
            let info = fault_info(esr(ec::DABT_LOW, fsc)).unwrap();
            assert_eq!(
                info,
                FaultInfo {
                    far: 0x40_0123_4567,
                    hpfar: 0x1230 | hpfar::NS
                },
                "{fsc:#x}"
            );
        }
    }

    #[test]
    fn a_permission_fault_is_translated_and_par_is_put_back() {
        // The walk without overlays checks that the page may be read, the other checks nothing.
        for (overlays, instruction) in [(false, "s1e1r"), (true, "s1e1a")] {
            fake::reset();
            if overlays {
                fake::set_cap(CAP_HAS_S1POE as u16);
            }
            fake::set_reg(FAR_EL2, 0x40_0123_4567);
            fake::set_reg(PAR_EL1, 0x1234);
            fake::set_at(|_| Some(0xff00_0000_4567_8b80));
            let info = fault_info(esr(ec::DABT_LOW, 0x0f)).unwrap();
            assert_eq!(info.hpfar, 0x45_6780 | hpfar::NS);
            assert_eq!(
                fake::take_log(),
                [
                    fake::Event::At(instruction, 0x40_0123_4567),
                    fake::Event::Write(PAR_EL1, 0x1234)
                ]
            );
        }
    }

    #[test]
    fn an_abort_whose_address_leads_nowhere_any_more_is_run_again() {
        // The walk may end in a fault, which PAR_EL1 tells, or in an abort of EL2's.
        for walk in [(|_| Some(par::F)) as fn(u64) -> Option<u64>, |_| None] {
            fake::reset();
            fake::set_reg(PAR_EL1, 0x1000);
            fake::set_at(walk);
            assert_eq!(fault_info(esr(ec::DABT_LOW, 0x0f)), None);
            assert_eq!(fake::reg(PAR_EL1), 0x1000);
        }
    }

    #[test]
    fn an_aborted_walk_is_not_walked_again() {
        fake::reset();
        for fsc in [0x13, 0x14, 0x17, 0x1b, 0x1f, 0x10 | 1 << 10] {
            assert_eq!(fault_info(esr(ec::DABT_LOW, fsc)).unwrap().hpfar, 0, "{fsc:#x}");
        }
    }

    #[test]
    fn the_cpu_that_misreports_translation_faults_is_not_believed() {
        fake::reset();
        fake::set_cap(CAP_WORKAROUND_834220 as u16);
        fake::set_reg(HPFAR_EL2, 0x1230);
        fake::set_reg(PAR_EL1, 0x9000);
        assert_eq!(
            fault_info(esr(ec::DABT_LOW, 0x07)).unwrap().hpfar,
            0x90 | hpfar::NS
        );
        // But on a walk: what was misreported is no fault of one, and translating again would fail as the walk did.
        fake::set_reg(PAR_EL1, par::F);
        assert_eq!(
            fault_info(esr(ec::IABT_LOW, 0x07 | 1 << 7)).unwrap().hpfar,
            0x1230 | hpfar::NS
        );
        assert_eq!(fault_info(esr(ec::DABT_LOW, 0x07)), None);
    }
}
