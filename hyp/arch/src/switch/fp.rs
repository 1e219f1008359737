// SPDX-License-Identifier: GPL-2.0-only
//! The FP, SIMD and SVE registers: whose they are, and moving them. EL2's own code never uses them, so that they stay
//! the host's until a guest touches one, and only then change hands. Does the job of the `fpsimd` parts of
//! `hyp/switch.h`, `hyp-main.c` and asm/fpsimd.h.
//!
//! In protected mode EL2 saves the host's registers at that moment and puts them back before the host runs again: the
//! host neither keeps a guest's registers nor learns of the switch. In non-protected mode EL1 saves its registers
//! before the run and collects the guest's after it.
#![expect(unsafe_code, reason = "moves FP registers from and to memory")]

use pkvm_kernel::layout::*;
use pkvm_kernel::{Context, HostData};
use pkvm_types::{Error, Result};

use super::{Cpu, Feature, Guest, traps};
use crate::alt::{has_cap, kern_hyp_va};
use crate::barrier::isb;
use crate::sysreg::*;

/// Whose values are in the FP registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FpOwner {
    /// Nobody's: EL1 saved its own.
    Free,
    /// The host's.
    Host,
    /// The guest's that runs, or ran last.
    Guest,
}

impl FpOwner {
    /// The owner on this CPU. In non-protected mode EL1 writes the word; a value without a meaning is nobody.
    pub fn of(host: HostData) -> Self {
        match u64::from(host.fp_owner()) {
            FP_STATE_HOST_OWNED => Self::Host,
            FP_STATE_GUEST_OWNED => Self::Guest,
            _ => Self::Free,
        }
    }

    /// Records the owner.
    pub fn set(self, host: HostData) {
        host.set_fp_owner(match self {
            Self::Free => FP_STATE_FREE,
            Self::Host => FP_STATE_HOST_OWNED,
            Self::Guest => FP_STATE_GUEST_OWNED,
        } as u32);
    }
}

/// Saves V0 to V31, FPSR and FPCR.
///
/// # Safety
/// Accesses to FP registers do not trap.
#[inline(never)]
unsafe fn save_fpsimd(ctxt: Context) {
    #[cfg(target_os = "none")]
    // SAFETY: the registers are not the compiler's on this target, and the area is part of the context.
    unsafe {
        core::arch::asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            "stp q0, q1, [{area}, #0]",
            "stp q2, q3, [{area}, #32]",
            "stp q4, q5, [{area}, #64]",
            "stp q6, q7, [{area}, #96]",
            "stp q8, q9, [{area}, #128]",
            "stp q10, q11, [{area}, #160]",
            "stp q12, q13, [{area}, #192]",
            "stp q14, q15, [{area}, #224]",
            "stp q16, q17, [{area}, #256]",
            "stp q18, q19, [{area}, #288]",
            "stp q20, q21, [{area}, #320]",
            "stp q22, q23, [{area}, #352]",
            "stp q24, q25, [{area}, #384]",
            "stp q26, q27, [{area}, #416]",
            "stp q28, q29, [{area}, #448]",
            "stp q30, q31, [{area}, #480]",
            area = in(reg) ctxt.fp_regs(),
            options(nostack, preserves_flags),
        );
    }
    save_fp_control(ctxt);
}

/// Loads what [`save_fpsimd`] saved.
///
/// # Safety
/// Accesses to FP registers do not trap, and their values have been saved or are nobody's.
#[inline(never)]
unsafe fn load_fpsimd(ctxt: Context) {
    #[cfg(target_os = "none")]
    // SAFETY: as above, and any bits are a value of the registers.
    unsafe {
        core::arch::asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            "ldp q0, q1, [{area}, #0]",
            "ldp q2, q3, [{area}, #32]",
            "ldp q4, q5, [{area}, #64]",
            "ldp q6, q7, [{area}, #96]",
            "ldp q8, q9, [{area}, #128]",
            "ldp q10, q11, [{area}, #160]",
            "ldp q12, q13, [{area}, #192]",
            "ldp q14, q15, [{area}, #224]",
            "ldp q16, q17, [{area}, #256]",
            "ldp q18, q19, [{area}, #288]",
            "ldp q20, q21, [{area}, #320]",
            "ldp q22, q23, [{area}, #352]",
            "ldp q24, q25, [{area}, #384]",
            "ldp q26, q27, [{area}, #416]",
            "ldp q28, q29, [{area}, #448]",
            "ldp q30, q31, [{area}, #480]",
            area = in(reg) ctxt.fp_regs(),
            options(nostack, preserves_flags, readonly),
        );
    }
    load_fp_control(ctxt);
}

/// Saves FPSR and FPCR.
fn save_fp_control(ctxt: Context) {
    ctxt.write(CTXT_FP_REGS + FPSIMD_FPSR, read::<FPSR>() as u32);
    ctxt.write(CTXT_FP_REGS + FPSIMD_FPCR, read::<FPCR>() as u32);
}

/// Loads FPSR and FPCR.
fn load_fp_control(ctxt: Context) {
    write::<FPSR>(ctxt.read::<u32>(CTXT_FP_REGS + FPSIMD_FPSR).into());
    write::<FPCR>(ctxt.read::<u32>(CTXT_FP_REGS + FPSIMD_FPCR).into());
}

/// The current vector length in bytes.
#[cfg(target_os = "none")]
fn vector_bytes() -> usize {
    let bytes: usize;
    // SAFETY: reads a constant of the current ZCR settings; callers have opened SVE.
    unsafe {
        core::arch::asm!(".arch_extension sve", "rdvl {}, #1", out(reg) bytes, options(nomem, nostack, preserves_flags));
    }
    bytes
}

/// Saves Z0 to Z31, P0 to P15 and FFR at the current vector length: in this order and without gaps, which is the
/// kernel's layout.
///
/// # Safety
/// `area` is writable for 32 vectors and 17 predicates of the current length, and SVE does not trap.
#[inline(never)]
unsafe fn save_sve(area: *mut u8) {
    #[cfg(target_os = "none")]
    {
        let bytes = vector_bytes();
        let predicates = area.wrapping_add(32 * bytes);
        // SAFETY: as the caller proves. P0 carries FFR to memory and is put back.
        unsafe {
            core::arch::asm!(
                ".arch_extension sve",
                ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                "str z\\n, [{z}, #\\n, mul vl]",
                ".endr",
                ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                "str p\\n, [{p}, #\\n, mul vl]",
                ".endr",
                "rdffr p0.b",
                "str p0, [{p}, #16, mul vl]",
                "ldr p0, [{p}]",
                z = in(reg) area,
                p = in(reg) predicates,
                options(nostack, preserves_flags),
            );
        }
    }
    #[cfg(not(target_os = "none"))]
    let _ = area;
}

/// Loads what [`save_sve`] saved at the same vector length.
///
/// # Safety
/// As for [`save_sve`], readable; the values in the registers have been saved or are nobody's.
#[inline(never)]
unsafe fn load_sve(area: *const u8) {
    #[cfg(target_os = "none")]
    {
        let bytes = vector_bytes();
        let predicates = area.wrapping_add(32 * bytes);
        // SAFETY: as the caller proves. FFR goes by P0, which is loaded after it.
        unsafe {
            core::arch::asm!(
                ".arch_extension sve",
                ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                "ldr z\\n, [{z}, #\\n, mul vl]",
                ".endr",
                "ldr p0, [{p}, #16, mul vl]",
                "wrffr p0.b",
                ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                "ldr p\\n, [{p}, #\\n, mul vl]",
                ".endr",
                z = in(reg) area,
                p = in(reg) predicates,
                options(nostack, preserves_flags, readonly),
            );
        }
    }
    #[cfg(not(target_os = "none"))]
    let _ = area;
}

/// ZCR_ELx.LEN for a vector length in bytes: the number of 128-bit parts, less one.
pub fn zcr_len(vector_bytes: u32) -> u64 {
    u64::from(vector_bytes / 16).saturating_sub(1) & zcr::LEN
}

/// Sets ZCR_EL2.LEN, where that changes it.
fn set_zcr_el2(len: u64) {
    clear_set::<ZCR_EL2>(zcr::LEN, len);
}

/// Saves the host's registers.
fn save_host(cpu: &Cpu, guest: &Guest) {
    let ctxt = cpu.host.ctxt();
    if has_cap::<{ CAP_SVE as u16 }>() {
        ctxt.set_sys_reg(SR_ZCR_EL1, read_el1::<ZCR_EL1>());
        write::<ZCR_EL2>(zcr_len(cpu.host_sve_max_vl));
        // SAFETY: `Cpu` promises that the host's SVE area is mapped and as large as the host's longest vectors take,
        // which ZCR_EL2 has just been set to; the caller has opened FP and SVE.
        unsafe {
            save_sve(cpu.host.sve_regs() as *mut u8);
        }
        save_fp_control(ctxt);
    } else {
        // SAFETY: the caller has opened FP.
        unsafe { save_fpsimd(ctxt) };
    }
    if guest.features.has(Feature::Fpmr) {
        ctxt.set_sys_reg(SR_FPMR, read::<FPMR>());
    }
}

fn load_host(cpu: &Cpu, guest: &Guest) {
    let ctxt = cpu.host.ctxt();
    if has_cap::<{ CAP_SVE as u16 }>() {
        write::<ZCR_EL2>(zcr_len(cpu.host_sve_max_vl));
        // SAFETY: as for `save_host`, at the same length; the guest's registers are saved.
        unsafe {
            load_sve(cpu.host.sve_regs() as *const u8);
        }
        load_fp_control(ctxt);
        write_el1::<ZCR_EL1>(ctxt.sys_reg(SR_ZCR_EL1));
    } else {
        // SAFETY: as for `save_host`; the guest's registers are saved.
        unsafe { load_fpsimd(ctxt) };
    }
    if guest.features.has(Feature::Fpmr) {
        write::<FPMR>(ctxt.sys_reg(SR_FPMR));
    }
}

/// Where the guest's SVE registers rest.
fn guest_sve_area(guest: &Guest) -> *mut u8 {
    kern_hyp_va(guest.vcpu.sve_state()).raw() as *mut u8
}

fn save_guest(guest: &Guest) {
    let ctxt: Context = guest.vcpu.ctxt();
    if guest.features.has(Feature::Sve) {
        ctxt.set_sys_reg(SR_ZCR_EL1, read_el1::<ZCR_EL1>());
        // The layout depends on the length: it is always the vCPU's longest, whatever the guest uses.
        set_zcr_el2(zcr_len(guest.vcpu.sve_max_vl()));
        // SAFETY: `Guest::new` has its caller prove that the area is mapped and large enough for that length.
        unsafe {
            save_sve(guest_sve_area(guest));
        }
        save_fp_control(ctxt);
    } else {
        // SAFETY: the caller has opened FP.
        unsafe { save_fpsimd(ctxt) };
    }
    if guest.features.has(Feature::Fpmr) {
        ctxt.set_sys_reg(SR_FPMR, read::<FPMR>());
    }
}

fn load_guest(guest: &Guest) {
    let ctxt = guest.vcpu.ctxt();
    if guest.features.has(Feature::Sve) {
        set_zcr_el2(zcr_len(guest.vcpu.sve_max_vl()));
        // SAFETY: as for `save_guest`; the caller has saved the registers' values where they are somebody's.
        unsafe {
            load_sve(guest_sve_area(guest));
        }
        load_fp_control(ctxt);
        write_el1::<ZCR_EL1>(ctxt.sys_reg(SR_ZCR_EL1));
    } else {
        // SAFETY: as above.
        unsafe { load_fpsimd(ctxt) };
    }
    if guest.features.has(Feature::Fpmr) {
        write::<FPMR>(ctxt.sys_reg(SR_FPMR));
    }
}

/// The guest's first use of the registers trapped: makes them the guest's. The guest then repeats its instruction.
pub(super) fn take_for_guest(cpu: &Cpu, guest: &Guest) {
    traps::deactivate_cptr();
    isb();
    if has_cap::<{ CAP_KVM_PROTECTED_MODE as u16 }>() && FpOwner::of(cpu.host) == FpOwner::Host {
        save_host(cpu, guest);
    }
    load_guest(guest);
    if guest.el1_is_aarch32() {
        write::<FPEXC32_EL2>(guest.vcpu.ctxt().sys_reg(SR_FPEXC32_EL2));
    }
    FpOwner::Guest.set(cpu.host);
    // The guest sees its own traps again with the return to it, which synchronises.
    traps::activate_cptr(guest, cpu.host);
}

/// At the end of a run, saves what only a guest with an AArch32 EL1 has.
pub(super) fn save_fpexc(cpu: &Cpu, guest: &Guest) {
    if guest.el1_is_aarch32() && FpOwner::of(cpu.host) == FpOwner::Guest {
        guest
            .vcpu
            .ctxt()
            .set_sys_reg(SR_FPEXC32_EL2, read::<FPEXC32_EL2>());
    }
}

/// Protected mode, before anything of a run is done: refuses it while the host has streaming mode or ZA on, with
/// [`Error::Invalid`]. No guest has SME, so the kernel never runs a vCPU with that state live, and EL2 would neither save
/// it nor give it back.
pub fn check_host_state() -> Result<()> {
    if has_cap::<{ CAP_SME as u16 }>() && read::<SVCR>() != 0 {
        Err(Error::Invalid)
    } else {
        Ok(())
    }
}

/// Protected mode, before a run: the registers are the host's.
pub fn begin_protected_run(cpu: &Cpu) {
    FpOwner::Host.set(cpu.host);
}

/// Protected mode, after a run: puts the guest's registers away and the host's back, if the guest used them.
pub fn end_protected_run(cpu: &Cpu, guest: &Guest) {
    if FpOwner::of(cpu.host) != FpOwner::Guest {
        return;
    }
    // The world switch opened the traps; let that take effect.
    isb();
    save_guest(guest);
    load_host(cpu, guest);
    FpOwner::Host.set(cpu.host);
}

/// Non-protected mode, before a run: where the guest's registers are still loaded, its vector lengths apply.
pub fn begin_trusted_run(cpu: &Cpu, guest: &Guest) {
    if FpOwner::of(cpu.host) == FpOwner::Guest && guest.features.has(Feature::Sve) {
        write_el2::<ZCR_EL2>(zcr_len(guest.vcpu.sve_max_vl()));
        write_el1::<ZCR_EL1>(guest.vcpu.ctxt().sys_reg(SR_ZCR_EL1));
    }
}

/// Non-protected mode, after a run: EL1 will save the guest's registers at the vCPU's longest vector length, so that
/// is what it finds, though it may use its own longest.
pub fn end_trusted_run(cpu: &Cpu, guest: &Guest) {
    if FpOwner::of(cpu.host) == FpOwner::Guest && guest.features.has(Feature::Sve) {
        guest.vcpu.ctxt().set_sys_reg(SR_ZCR_EL1, read_el1::<ZCR_EL1>());
        write_el2::<ZCR_EL2>(zcr_len(cpu.host_sve_max_vl));
        write_el1::<ZCR_EL1>(zcr_len(guest.vcpu.sve_max_vl()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_length_becomes_the_number_of_quadwords_less_one() {
        assert_eq!(zcr_len(16), 0);
        assert_eq!(zcr_len(256), 15);
        // Lengths that no vCPU may have still give a valid field.
        assert_eq!(zcr_len(0), 0);
        assert_eq!(zcr_len(u32::MAX) & !zcr::LEN, 0);
    }
}
