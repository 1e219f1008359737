// SPDX-License-Identifier: GPL-2.0-only
//! What of the guest's doing traps to EL2, and the host's settings back. Does the job of `nvhe/switch.c` and
//! `hyp/switch.h` in this.
//!
//! HCR_EL2 and MDCR_EL2 of a protected VM were made and masked by EL2's policy before the run; this code only insists
//! on the few bits without which EL2 would not be in control.
#![expect(unsafe_code, reason = "writes HCR_EL2 and VBAR_EL2")]

use pkvm_kernel::layout::*;
use pkvm_kernel::{Context, HostData};

use super::{Cpu, Feature, FpOwner, Guest, ctxt};
use crate::alt::has_cap;
use crate::barrier::{dsb_nsh, isb};
use crate::sysreg::*;

/// Writes HCR_EL2, with the barriers around it that one CPU needs (Ampere erratum AC04_CPU_23).
///
/// # Safety
/// As for [`write_own`].
pub(super) unsafe fn write_hcr(value: u64) {
    if has_cap::<{ CAP_WORKAROUND_AMPERE_AC04_CPU_23 as u16 }>() {
        dsb_nsh();
        // SAFETY: as the caller proves.
        unsafe { write_own::<HCR_EL2>(value) };
        isb();
    } else {
        // SAFETY: as the caller proves.
        unsafe { write_own::<HCR_EL2>(value) };
    }
}

/// HCR_EL2 for the guest: what its owner asks for, but always with stage 2, never with EL0 in the host's regime, and
/// with EL2 in the mode it was booted in, which `host_hcr` tells.
pub fn guest_hcr(wanted: u64, host_hcr: u64) -> u64 {
    let mut hcr = (wanted & !(hcr::TGE | hcr::E2H)) | hcr::VM | host_hcr & hcr::E2H;
    if has_cap::<{ CAP_WORKAROUND_CAVIUM_TX2_219_TVM as u16 }>() {
        hcr |= hcr::TVM;
    }
    hcr
}

/// The fine-grained trap registers: `(register, slot of the host's value, group, which of the group's pair)`.
macro_rules! for_each_fgt {
    ($do:ident) => {
        $do!(HFGRTR_EL2, SR_HFGRTR_EL2, HFGRTR_GROUP, 0);
        $do!(HFGWTR_EL2, SR_HFGWTR_EL2, HFGRTR_GROUP, 1);
        $do!(HFGITR_EL2, SR_HFGITR_EL2, HFGITR_GROUP, 0);
        $do!(HDFGRTR_EL2, SR_HDFGRTR_EL2, HDFGRTR_GROUP, 0);
        $do!(HDFGWTR_EL2, SR_HDFGWTR_EL2, HDFGRTR_GROUP, 1);
    };
}
/// Those of FEAT_FGT2.
macro_rules! for_each_fgt2 {
    ($do:ident) => {
        $do!(HFGRTR2_EL2, SR_HFGRTR2_EL2, HFGRTR2_GROUP, 0);
        $do!(HFGWTR2_EL2, SR_HFGWTR2_EL2, HFGRTR2_GROUP, 1);
        $do!(HFGITR2_EL2, SR_HFGITR2_EL2, HFGITR2_GROUP, 0);
        $do!(HDFGRTR2_EL2, SR_HDFGRTR2_EL2, HDFGRTR2_GROUP, 0);
        $do!(HDFGWTR2_EL2, SR_HDFGWTR2_EL2, HDFGRTR2_GROUP, 1);
    };
}
/// Those of the GICv5 CPU interface.
macro_rules! for_each_gicv5_fgt {
    ($do:ident) => {
        $do!(ICH_HFGRTR_EL2, SR_ICH_HFGRTR_EL2, ICH_HFGRTR_GROUP, 0);
        $do!(ICH_HFGWTR_EL2, SR_ICH_HFGWTR_EL2, ICH_HFGRTR_GROUP, 1);
        $do!(ICH_HFGITR_EL2, SR_ICH_HFGITR_EL2, ICH_HFGITR_GROUP, 0);
    };
}

/// Whether the CPU has activity monitors, whose traps are a register of their own.
fn has_amu() -> bool {
    read::<ID_AA64PFR0_EL1>() >> 44 & 0xf != 0
}

fn activate_fine_grained(guest: &Guest, host: Context) {
    macro_rules! activate {
        ($reg:ident, $slot:ident, $group:ident, $half:tt) => {
            host.set_sys_reg($slot, read::<$reg>());
            write::<$reg>(guest.vcpu.fgt($group).$half);
        };
    }
    if has_cap::<{ CAP_HAS_FGT as u16 }>() {
        for_each_fgt!(activate);
        if has_amu() {
            activate!(HAFGRTR_EL2, SR_HAFGRTR_EL2, HAFGRTR_GROUP, 0);
        }
        if has_cap::<{ CAP_HAS_FGT2 as u16 }>() {
            for_each_fgt2!(activate);
        }
    }
    if has_cap::<{ CAP_HAS_GICV5_CPUIF as u16 }>() {
        for_each_gicv5_fgt!(activate);
    }
}

fn deactivate_fine_grained(host: Context) {
    macro_rules! deactivate {
        ($reg:ident, $slot:ident, $group:ident, $half:tt) => {
            write::<$reg>(host.sys_reg($slot));
        };
    }
    if has_cap::<{ CAP_HAS_FGT as u16 }>() {
        for_each_fgt!(deactivate);
        if has_amu() {
            deactivate!(HAFGRTR_EL2, SR_HAFGRTR_EL2, HAFGRTR_GROUP, 0);
        }
        if has_cap::<{ CAP_HAS_FGT2 as u16 }>() {
            for_each_fgt2!(deactivate);
        }
    }
    if has_cap::<{ CAP_HAS_GICV5_CPUIF as u16 }>() {
        for_each_gicv5_fgt!(deactivate);
    }
}

fn activate_mpam() {
    if !has_cap::<{ CAP_MPAM as u16 }>() {
        return;
    }
    let mut set = mpam2::TRAPMPAM0EL1 | mpam2::TRAPMPAM1EL1;
    if has_cap::<{ CAP_MPAM_HCR as u16 }>() {
        write::<MPAMHCR_EL2>(mpamhcr::TRAP_MPAMIDR_EL1);
    } else {
        // MPAM v1.1 traps MPAMIDR_EL1 by this bit; before, the bit is RES0.
        set |= mpam2::TIDR;
    }
    clear_set::<MPAM2_EL2>(mpam2::EnMPAMSM, set);
}

fn deactivate_mpam() {
    if !has_cap::<{ CAP_MPAM as u16 }>() {
        return;
    }
    clear_set::<MPAM2_EL2>(
        mpam2::TRAPMPAM0EL1 | mpam2::TRAPMPAM1EL1 | mpam2::TIDR,
        mpam2::EnMPAMSM,
    );
    if has_cap::<{ CAP_MPAM_HCR as u16 }>() {
        write::<MPAMHCR_EL2>(0);
    }
}

/// CPTR_EL2 for the guest: FP, SVE and SME trap unless the guest's registers are loaded, trace and activity monitors
/// trap always.
pub(super) fn activate_cptr(guest: &Guest, host: HostData) {
    let owns_fp = FpOwner::of(host) == FpOwner::Guest;
    let sve = owns_fp && guest.features.has(Feature::Sve);
    if !owns_fp && guest.el1_is_aarch32() && has_cap::<{ CAP_HAS_FPSIMD as u16 }>() {
        // A disabled FPEXC would send the trap to the guest's EL1, and EL2 would miss it.
        write::<FPEXC32_EL2>(FPEXC_EN);
    }
    write::<CPTR_EL2>(if has_cap::<{ CAP_KVM_HVHE as u16 }>() {
        let mut value = cptr_e2h::TAM | cptr_e2h::TTA;
        if owns_fp {
            value |= cptr_e2h::FPEN;
        }
        if sve {
            value |= cptr_e2h::ZEN;
        }
        value
    } else {
        let mut value = cptr::RES1 | cptr::TAM | cptr::TTA | cptr::TSM;
        if !owns_fp {
            value |= cptr::TFP;
        }
        if !sve {
            value |= cptr::TZ;
        }
        value
    });
}

/// FPEXC.EN: FP and SIMD are enabled for AArch32.
const FPEXC_EN: u64 = bit(30);

/// CPTR_EL2 for the host: all that the system has is open.
pub(super) fn deactivate_cptr() {
    write::<CPTR_EL2>(if has_cap::<{ CAP_KVM_HVHE as u16 }>() {
        let mut value = cptr_e2h::FPEN;
        if has_cap::<{ CAP_SVE as u16 }>() {
            value |= cptr_e2h::ZEN;
        }
        if has_cap::<{ CAP_SME as u16 }>() {
            value |= cptr_e2h::SMEN;
        }
        if has_cap::<{ CAP_HAS_S1POE as u16 }>() {
            value |= cptr_e2h::E0POE;
        }
        value
    } else {
        let mut value = cptr::RES1;
        if !has_cap::<{ CAP_SVE as u16 }>() {
            value |= cptr::TZ;
        }
        if !has_cap::<{ CAP_SME as u16 }>() {
            value |= cptr::TSM;
        }
        value
    });
}

/// For a panic: the host may read EL2's memory, to make a report of it. Its stage 2 is never turned on again.
pub(super) fn disable_stage2() {
    // SAFETY: the host sees all memory from here on, which is what the kernel's configuration asks for in a panic.
    unsafe { write_hcr(read::<HCR_EL2>() & !hcr::VM) };
    isb();
    crate::tlbi::vmalls12e1();
    dsb_nsh();
}

/// Every trap of the guest's, and EL2's vectors for exits. The guest's stage 2 is loaded already.
pub(super) fn activate(cpu: &Cpu, guest: &Guest) {
    let vcpu = guest.vcpu;
    let hcr = guest_hcr(vcpu.hcr_el2(), cpu.params.hcr_el2());
    // SAFETY: `guest_hcr` keeps EL2's own regime and the stage 2; the rest governs the guest.
    unsafe { write_hcr(hcr) };
    if hcr & hcr::VSE != 0 && has_cap::<{ CAP_HAS_RAS_EXTN as u16 }>() {
        write::<VSESR_EL2>(vcpu.vsesr_el2());
    }

    cpu.host.set_mdcr(read::<MDCR_EL2>());
    write::<MDCR_EL2>(vcpu.mdcr_el2());

    let host = cpu.host.ctxt();
    // AArch32 accesses to CP15 c15, the implementation's own registers.
    write::<HSTR_EL2>(bit(15));
    if has_cap::<{ CAP_HAS_PMUV3 as u16 }>() {
        // EL0 accesses must reach EL2 rather than be undefined at EL1, so EL0 is let through to the traps, and the
        // counter selector names one that exists.
        write::<PMSELR_EL0>(0);
        host.set_sys_reg(SR_PMUSERENR_EL0, read::<PMUSERENR_EL0>());
        write::<PMUSERENR_EL0>(pmuserenr::EN | pmuserenr::SW | pmuserenr::CR | pmuserenr::ER);
        vcpu.set_sflags(vcpu.sflags() | SFLAG_PMUSERENR_ON_CPU as u16);
    }
    if has_cap::<{ CAP_HAS_HCX as u16 }>() {
        host.set_sys_reg(SR_HCRX_EL2, read::<HCRX_EL2>());
        write::<HCRX_EL2>(vcpu.hcrx_el2());
    }
    activate_fine_grained(guest, host);
    activate_mpam();
    activate_cptr(guest, cpu.host);

    // SAFETY: `Cpu` promises that these are EL2's vectors for a running guest.
    unsafe { write_own::<VBAR_EL2>(cpu.guest_vectors) };
    ctxt::finish_guest_translation(guest);
}

/// The host's settings again.
pub(super) fn deactivate(cpu: &Cpu, guest: &Guest) {
    let vcpu = guest.vcpu;
    // A virtual SError that was pended stays pending until the guest takes it, when the hardware clears the bit.
    let wanted = vcpu.hcr_el2();
    if wanted & hcr::VSE != 0 {
        vcpu.set_hcr_el2(wanted & !hcr::VSE | read::<HCR_EL2>() & hcr::VSE);
    }
    ctxt::stop_guest_translation();

    write::<MDCR_EL2>(cpu.host.mdcr());

    let host = cpu.host.ctxt();
    write::<HSTR_EL2>(0);
    if has_cap::<{ CAP_HAS_PMUV3 as u16 }>() {
        write::<PMUSERENR_EL0>(host.sys_reg(SR_PMUSERENR_EL0));
        vcpu.set_sflags(vcpu.sflags() & !(SFLAG_PMUSERENR_ON_CPU as u16));
    }
    if has_cap::<{ CAP_HAS_HCX as u16 }>() {
        write::<HCRX_EL2>(host.sys_reg(SR_HCRX_EL2));
    }
    deactivate_fine_grained(host);
    deactivate_mpam();

    // SAFETY: the value this CPU was initialised with, which EL2 has kept since.
    unsafe { write_hcr(cpu.params.hcr_el2()) };
    deactivate_cptr();
    // SAFETY: `Cpu` promises that these are EL2's vectors for the host.
    unsafe { write_own::<VBAR_EL2>(cpu.host_vectors) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    #[test]
    fn hcr_cannot_leave_stage_2_or_el2s_mode() {
        fake::reset();
        assert_eq!(guest_hcr(0, 0), hcr::VM);
        assert_eq!(guest_hcr(hcr::TGE | hcr::E2H | hcr::TWI, 0), hcr::VM | hcr::TWI);
        assert_eq!(guest_hcr(0, hcr::E2H), hcr::VM | hcr::E2H);
        fake::set_cap(CAP_WORKAROUND_CAVIUM_TX2_219_TVM as u16);
        assert_eq!(guest_hcr(0, 0), hcr::VM | hcr::TVM);
    }

    #[test]
    fn the_host_gets_cptr_with_all_it_has() {
        fake::reset();
        deactivate_cptr();
        assert_eq!(fake::reg(CPTR_EL2), cptr::RES1 | cptr::TZ | cptr::TSM);
        fake::set_cap(CAP_SVE as u16);
        deactivate_cptr();
        assert_eq!(fake::reg(CPTR_EL2), cptr::RES1 | cptr::TSM);
        fake::set_cap(CAP_KVM_HVHE as u16);
        deactivate_cptr();
        assert_eq!(fake::reg(CPTR_EL2), cptr_e2h::FPEN | cptr_e2h::ZEN);
    }
}
