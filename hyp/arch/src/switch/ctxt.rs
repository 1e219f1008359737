// SPDX-License-Identifier: GPL-2.0-only
//! The system registers that change hands between host and guest: one list, saved and restored whole for both. Does
//! the job of `sysreg-sr.c` and `hyp/sysreg-sr.h`.
//!
//! Every value may be the host's or the guest's invention; none of these registers acts on EL2 itself. PSTATE alone
//! could, and [`safe_pstate`] sees to that.

use pkvm_kernel::layout::*;
use pkvm_kernel::{Context, HostData};

use super::{DebugOwner, Feature, Features, Guest};
use crate::alt::has_cap;
#[cfg(target_os = "none")]
use crate::alternative;
use crate::barrier::isb;
use crate::sysreg::*;

/// The EL1 registers that every world has and that hVHE banks: `(register, slot in the context)`.
macro_rules! for_each_el1_register {
    ($do:ident, $ctxt:expr) => {
        $do!($ctxt, CPACR_EL1, SR_CPACR_EL1);
        $do!($ctxt, TTBR0_EL1, SR_TTBR0_EL1);
        $do!($ctxt, TTBR1_EL1, SR_TTBR1_EL1);
        $do!($ctxt, ESR_EL1, SR_ESR_EL1);
        $do!($ctxt, AFSR0_EL1, SR_AFSR0_EL1);
        $do!($ctxt, AFSR1_EL1, SR_AFSR1_EL1);
        $do!($ctxt, FAR_EL1, SR_FAR_EL1);
        $do!($ctxt, MAIR_EL1, SR_MAIR_EL1);
        $do!($ctxt, VBAR_EL1, SR_VBAR_EL1);
        $do!($ctxt, CONTEXTIDR_EL1, SR_CONTEXTIDR_EL1);
        $do!($ctxt, AMAIR_EL1, SR_AMAIR_EL1);
        $do!($ctxt, CNTKCTL_EL1, SR_CNTKCTL_EL1);
        $do!($ctxt, ELR_EL1, SR_ELR_EL1);
        $do!($ctxt, SPSR_EL1, SR_SPSR_EL1);
    };
}

macro_rules! save_el1 {
    ($ctxt:expr, $reg:ident, $slot:ident) => {
        $ctxt.set_sys_reg($slot, read_el1::<$reg>())
    };
}
macro_rules! restore_el1 {
    ($ctxt:expr, $reg:ident, $slot:ident) => {
        write_el1::<$reg>($ctxt.sys_reg($slot))
    };
}
macro_rules! save {
    ($ctxt:expr, $reg:ident, $slot:ident) => {
        $ctxt.set_sys_reg($slot, read::<$reg>())
    };
}
macro_rules! restore {
    ($ctxt:expr, $reg:ident, $slot:ident) => {
        write::<$reg>($ctxt.sys_reg($slot))
    };
}

/// Whether the CPU's stage-1 translation of the outgoing world must be shut off while the registers of the incoming
/// one are loaded (Arm errata 1165522, 1319367 and 1530923: an AT instruction may be speculated in between).
#[inline(always)]
pub(super) fn speculative_at() -> bool {
    has_cap::<{ CAP_WORKAROUND_SPECULATIVE_AT as u16 }>()
}

/// Reads PAR_EL1 on a CPU that may need barriers around it (Arm erratum 1508412).
#[inline(always)]
pub fn read_par() -> u64 {
    #[cfg(target_os = "none")]
    #[expect(unsafe_code, reason = "a barrier that is a NOP elsewhere")]
    {
        alternative!("nop", "dmb sy", CAP_WORKAROUND_1508412);
        let par = read::<PAR_EL1>();
        alternative!("nop", "dmb sy", CAP_WORKAROUND_1508412);
        par
    }
    #[cfg(not(target_os = "none"))]
    read::<PAR_EL1>()
}

fn save_common(ctxt: Context, features: Features) {
    save_el1!(ctxt, SCTLR_EL1, SR_SCTLR_EL1);
    save_el1!(ctxt, TCR_EL1, SR_TCR_EL1);
    for_each_el1_register!(save_el1, ctxt);
    if features.has(Feature::Tcr2) {
        save_el1!(ctxt, TCR2_EL1, SR_TCR2_EL1);
        if features.has(Feature::S1Pie) {
            save_el1!(ctxt, PIR_EL1, SR_PIR_EL1);
            save_el1!(ctxt, PIRE0_EL1, SR_PIRE0_EL1);
        }
        if features.has(Feature::S1Poe) {
            save_el1!(ctxt, POR_EL1, SR_POR_EL1);
        }
    }
    ctxt.set_sys_reg(SR_PAR_EL1, read_par());
    save!(ctxt, TPIDR_EL1, SR_TPIDR_EL1);
    if features.has(Feature::Mte) {
        save_el1!(ctxt, TFSR_EL1, SR_TFSR_EL1);
        save!(ctxt, TFSRE0_EL1, SR_TFSRE0_EL1);
    }
    save!(ctxt, SP_EL1, SR_SP_EL1);
    if features.has(Feature::Sctlr2) {
        save_el1!(ctxt, SCTLR2_EL1, SR_SCTLR2_EL1);
    }
    if features.has(Feature::S1Poe) {
        save!(ctxt, POR_EL0, SR_POR_EL0);
    }
    save!(ctxt, TPIDR_EL0, SR_TPIDR_EL0);
    save!(ctxt, TPIDRRO_EL0, SR_TPIDRRO_EL0);
    ctxt.set_pc(read_el2::<ELR_EL2>());
    if has_cap::<{ CAP_HAS_RAS_EXTN as u16 }>() {
        ctxt.set_sys_reg(SR_DISR_EL1, read::<VDISR_EL2>());
    }
}

/// Everything but SCTLR_EL1 and TCR_EL1, whose place in the order depends on the direction.
fn restore_common(ctxt: Context, features: Features) {
    for_each_el1_register!(restore_el1, ctxt);
    if features.has(Feature::Tcr2) {
        restore_el1!(ctxt, TCR2_EL1, SR_TCR2_EL1);
        if features.has(Feature::S1Pie) {
            restore_el1!(ctxt, PIR_EL1, SR_PIR_EL1);
            restore_el1!(ctxt, PIRE0_EL1, SR_PIRE0_EL1);
        }
        if features.has(Feature::S1Poe) {
            restore_el1!(ctxt, POR_EL1, SR_POR_EL1);
        }
    }
    restore!(ctxt, PAR_EL1, SR_PAR_EL1);
    restore!(ctxt, TPIDR_EL1, SR_TPIDR_EL1);
    if features.has(Feature::Mte) {
        restore_el1!(ctxt, TFSR_EL1, SR_TFSR_EL1);
        restore!(ctxt, TFSRE0_EL1, SR_TFSRE0_EL1);
    }
    restore!(ctxt, SP_EL1, SR_SP_EL1);
    if features.has(Feature::Sctlr2) {
        restore_el1!(ctxt, SCTLR2_EL1, SR_SCTLR2_EL1);
    }
    if features.has(Feature::S1Poe) {
        restore!(ctxt, POR_EL0, SR_POR_EL0);
    }
    restore!(ctxt, TPIDR_EL0, SR_TPIDR_EL0);
    restore!(ctxt, TPIDRRO_EL0, SR_TPIDRRO_EL0);
    write_el2::<ELR_EL2>(ctxt.pc());
    write_el2::<SPSR_EL2>(safe_pstate(ctxt.pstate()));
    if has_cap::<{ CAP_HAS_RAS_EXTN as u16 }>() {
        write::<VDISR_EL2>(ctxt.sys_reg(SR_DISR_EL1));
    }
}

/// Saves the host's registers as a run begins.
pub(super) fn save_host(host: HostData, features: Features) {
    let ctxt = host.ctxt();
    save!(ctxt, MDSCR_EL1, SR_MDSCR_EL1);
    save_common(ctxt, features);
    ctxt.set_pstate(read_el2::<SPSR_EL2>());
}

/// Loads the guest's registers. With the speculation workaround SCTLR_EL1 and TCR_EL1 wait for
/// [`finish_guest_translation`], and until then the guest's tables are not walked.
pub(super) fn restore_guest(guest: &Guest) {
    let ctxt = guest.vcpu.ctxt();
    write::<VPIDR_EL2>(guest.midr());
    write::<VMPIDR_EL2>(ctxt.sys_reg(SR_MPIDR_EL1));
    if speculative_at() {
        // The host's stage 1 is on still, so that disabling its walks is enough.
        write_el1::<TCR_EL1>(ctxt.sys_reg(SR_TCR_EL1) | tcr_el1::EPD0 | tcr_el1::EPD1);
        isb();
    } else {
        restore_el1!(ctxt, SCTLR_EL1, SR_SCTLR_EL1);
        restore_el1!(ctxt, TCR_EL1, SR_TCR_EL1);
    }
    restore_common(ctxt, guest.features);
    write::<MDSCR_EL1>(match guest.debug_owner {
        DebugOwner::Host => guest.vcpu.external_mdscr(),
        DebugOwner::Guest | DebugOwner::Free => ctxt.sys_reg(SR_MDSCR_EL1),
    });
}

/// With the speculation workaround: lets the guest's stage 1 go, now that its stage 2 is in place.
pub(super) fn finish_guest_translation(guest: &Guest) {
    if speculative_at() {
        isb();
        let ctxt = guest.vcpu.ctxt();
        restore_el1!(ctxt, SCTLR_EL1, SR_SCTLR_EL1);
        isb();
        restore_el1!(ctxt, TCR_EL1, SR_TCR_EL1);
    }
}

/// Saves the guest's registers as a run ends. PSTATE was read at the exit already.
pub(super) fn save_guest(guest: &Guest) {
    let ctxt = guest.vcpu.ctxt();
    save_common(ctxt, guest.features);
    let mdscr = read::<MDSCR_EL1>();
    match guest.debug_owner {
        DebugOwner::Host => guest.vcpu.set_external_mdscr(mdscr),
        DebugOwner::Guest | DebugOwner::Free => ctxt.set_sys_reg(SR_MDSCR_EL1, mdscr),
    }
}

/// With the speculation workaround: stops walks of the guest's stage 1 before its stage 2 goes, in the reverse of the
/// order in which they were let go.
pub(super) fn stop_guest_translation() {
    if speculative_at() {
        let tcr = read_el1::<TCR_EL1>();
        write_el1::<TCR_EL1>(tcr | tcr_el1::EPD0 | tcr_el1::EPD1);
        isb();
        let sctlr = read_el1::<SCTLR_EL1>();
        write_el1::<SCTLR_EL1>(sctlr | sctlr_el1::M);
        isb();
    }
}

/// Loads the host's registers, with the host's stage 2 in place again.
pub(super) fn restore_host(host: HostData, features: Features) {
    let ctxt = host.ctxt();
    write::<VPIDR_EL2>(read::<MIDR_EL1>());
    write::<VMPIDR_EL2>(ctxt.sys_reg(SR_MPIDR_EL1));
    if !speculative_at() {
        restore_el1!(ctxt, SCTLR_EL1, SR_SCTLR_EL1);
        restore_el1!(ctxt, TCR_EL1, SR_TCR_EL1);
    }
    restore_common(ctxt, features);
    if speculative_at() {
        // Walks are still disabled. The tables and the stage 2 must be there before they resume.
        isb();
        restore_el1!(ctxt, SCTLR_EL1, SR_SCTLR_EL1);
        isb();
        restore_el1!(ctxt, TCR_EL1, SR_TCR_EL1);
    }
    restore!(ctxt, MDSCR_EL1, SR_MDSCR_EL1);
}

/// PSTATE as it may go to SPSR_EL2. A return to EL2 or EL3 would run the world's code there, so a mode that is not EL0's
/// or EL1's becomes an illegal return, which the CPU takes as an exception at once; with all others masked, so that it
/// is the first. Which modes of AArch32 are illegal by themselves is the CPU's to say.
pub fn safe_pstate(pstate: u64) -> u64 {
    let legal =
        pstate & spsr::MODE32 != 0 || matches!(pstate & spsr::MODE, spsr::EL0t | spsr::EL1t | spsr::EL1h);
    if legal {
        pstate
    } else {
        spsr::EL2h | spsr::IL | spsr::D | spsr::A | spsr::I | spsr::F
    }
}

/// Saves what only a guest with an AArch32 EL1 has.
pub(super) fn save_aarch32(guest: &Guest) {
    if !guest.el1_is_aarch32() {
        return;
    }
    let ctxt = guest.vcpu.ctxt();
    ctxt.set_spsr_abt(read::<SPSR_abt>());
    ctxt.set_spsr_und(read::<SPSR_und>());
    ctxt.set_spsr_irq(read::<SPSR_irq>());
    ctxt.set_spsr_fiq(read::<SPSR_fiq>());
    save!(ctxt, DACR32_EL2, SR_DACR32_EL2);
    save!(ctxt, IFSR32_EL2, SR_IFSR32_EL2);
    if guest.debug_owner != DebugOwner::Free {
        save!(ctxt, DBGVCR32_EL2, SR_DBGVCR32_EL2);
    }
}

/// Loads what only a guest with an AArch32 EL1 has. Before the other registers: Cortex-A57 erratum 852523 and
/// Cortex-A72 erratum 853709.
pub(super) fn restore_aarch32(guest: &Guest) {
    if !guest.el1_is_aarch32() {
        return;
    }
    let ctxt = guest.vcpu.ctxt();
    write::<SPSR_abt>(ctxt.spsr_abt());
    write::<SPSR_und>(ctxt.spsr_und());
    write::<SPSR_irq>(ctxt.spsr_irq());
    write::<SPSR_fiq>(ctxt.spsr_fiq());
    restore!(ctxt, DACR32_EL2, SR_DACR32_EL2);
    restore!(ctxt, IFSR32_EL2, SR_IFSR32_EL2);
    if guest.debug_owner != DebugOwner::Free {
        restore!(ctxt, DBGVCR32_EL2, SR_DBGVCR32_EL2);
    }
}
