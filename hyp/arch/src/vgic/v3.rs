// SPDX-License-Identifier: GPL-2.0-only
//! The GICv3 CPU interface's mechanism: the hypervisor registers, saved, restored and emulated.

use pkvm_kernel::{Kvm, Vcpu, VgicV3, layout};

use super::emulate::{self, CpuIf, Outcome, UnlistedDir};
use super::trap::{self, Direction};
use super::words::{Group, Lr, Vmcr, Vtr, hcr};
use crate::barrier::{dsb_nsh, dsb_sy, isb};
use crate::inject;
use crate::sysreg::*;

#[cfg(target_os = "none")]
mod keys {
    #![expect(unsafe_code, reason = "the kernel's keys by name")]
    unsafe extern "C" {
        pub(super) static vgic_v3_cpuif_trap: u8;
        pub(super) static vgic_v3_has_v2_compat: u8;
        pub(super) static kvm_vgic_global_state: u8;
    }
}
#[cfg(target_os = "none")]
use keys::{kvm_vgic_global_state, vgic_v3_cpuif_trap, vgic_v3_has_v2_compat};

/// Whether some accesses of guests to the CPU interface trap to EL2, by an erratum or the kernel's command line.
#[inline(always)]
pub fn traps_cpuif() -> bool {
    crate::static_key!(vgic_v3_cpuif_trap)
}

/// Whether the host has the memory-mapped GICv2 CPU interface beside the registers.
#[inline(always)]
fn has_v2_compat() -> bool {
    crate::static_key!(vgic_v3_has_v2_compat)
}

/// Whether the CPU interface is GICv3's registers at all.
#[inline(always)]
pub fn has_cpuif() -> bool {
    crate::static_key!(kvm_vgic_global_state, layout::VGIC_GLOBAL_GICV3_CPUIF)
}

/// ICH_VTR_EL2 as EL1 found it common to all CPUs.
#[inline(always)]
fn vtr() -> Vtr {
    Vtr::new(patched::ich_vtr())
}

/// The trap bits of ICH_HCR_EL2 that this system needs.
#[inline(always)]
fn trap_bits() -> u64 {
    patched::ich_hcr_traps()
}

/// Words that EL1 writes into EL2's instructions at boot.
#[cfg(target_os = "none")]
mod patched {
    #![expect(unsafe_code, reason = "patched instructions")]
    use crate::alt::CALLBACK;
    use pkvm_kernel::layout::CAP_ALWAYS_SYSTEM;

    unsafe extern "C" {
        fn kvm_patch_ich_vtr_el2();
        fn kvm_compute_ich_hcr_trap_bits();
    }

    macro_rules! patched_word {
        ($callback:ident, $($insn:literal),+) => {{
            let word: u64;
            // SAFETY: moves of immediates to one register, before and after the kernel's callback rewrote them.
            unsafe {
                core::arch::asm!(
                    "661:",
                    $($insn,)+
                    "662:",
                    ".pushsection .altinstructions, \"a\"",
                    ".word 661b - .",
                    ".word {cb} - .",
                    ".hword {cap}",
                    ".byte 662b - 661b",
                    ".byte 664f - 663f",
                    ".popsection",
                    "663:",
                    "664:",
                    out = lateout(reg) word,
                    cb = sym $callback,
                    cap = const CALLBACK | CAP_ALWAYS_SYSTEM as u16,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            word
        }};
    }

    #[inline(always)]
    pub(super) fn ich_vtr() -> u32 {
        patched_word!(kvm_patch_ich_vtr_el2, "movz {out}, #0", "movk {out}, #0, lsl #16") as u32
    }
    #[inline(always)]
    pub(super) fn ich_hcr_traps() -> u64 {
        patched_word!(kvm_compute_ich_hcr_trap_bits, "movz {out}, #0")
    }
}

/// Off the target, tests set the type register; nothing traps.
#[cfg(not(target_os = "none"))]
mod patched {
    pub(super) fn ich_vtr() -> u32 {
        crate::fake::reg(crate::sysreg::ICH_VTR_EL2) as u32
    }
    pub(super) fn ich_hcr_traps() -> u64 {
        0
    }
}

/// Reads, and below writes, one of several registers: that of number `$n`, or the last.
macro_rules! read_nth {
    ($n:expr; $last:ident; $($i:literal => $reg:ident),+) => {
        match $n {
            $($i => read::<$reg>(),)+
            _ => read::<$last>(),
        }
    };
}
macro_rules! write_nth {
    ($n:expr, $value:expr; $last:ident; $($i:literal => $reg:ident),+) => {
        match $n {
            $($i => write::<$reg>($value),)+
            _ => write::<$last>($value),
        }
    };
}

/// List register `n`. The caller knows that it is implemented.
fn read_lr(n: usize) -> u64 {
    read_nth!(n; ICH_LR15_EL2; 0 => ICH_LR0_EL2, 1 => ICH_LR1_EL2, 2 => ICH_LR2_EL2, 3 => ICH_LR3_EL2,
        4 => ICH_LR4_EL2, 5 => ICH_LR5_EL2, 6 => ICH_LR6_EL2, 7 => ICH_LR7_EL2, 8 => ICH_LR8_EL2,
        9 => ICH_LR9_EL2, 10 => ICH_LR10_EL2, 11 => ICH_LR11_EL2, 12 => ICH_LR12_EL2, 13 => ICH_LR13_EL2,
        14 => ICH_LR14_EL2)
}

fn write_lr(n: usize, value: u64) {
    write_nth!(n, value; ICH_LR15_EL2; 0 => ICH_LR0_EL2, 1 => ICH_LR1_EL2, 2 => ICH_LR2_EL2, 3 => ICH_LR3_EL2,
        4 => ICH_LR4_EL2, 5 => ICH_LR5_EL2, 6 => ICH_LR6_EL2, 7 => ICH_LR7_EL2, 8 => ICH_LR8_EL2,
        9 => ICH_LR9_EL2, 10 => ICH_LR10_EL2, 11 => ICH_LR11_EL2, 12 => ICH_LR12_EL2, 13 => ICH_LR13_EL2,
        14 => ICH_LR14_EL2);
}

/// Active priority register `n` of `group`. The caller knows that it is implemented.
fn read_apr(group: Group, n: usize) -> u32 {
    let word = match group {
        Group::G0 => {
            read_nth!(n; ICH_AP0R3_EL2; 0 => ICH_AP0R0_EL2, 1 => ICH_AP0R1_EL2, 2 => ICH_AP0R2_EL2)
        }
        Group::G1 => {
            read_nth!(n; ICH_AP1R3_EL2; 0 => ICH_AP1R0_EL2, 1 => ICH_AP1R1_EL2, 2 => ICH_AP1R2_EL2)
        }
    };
    word as u32
}

fn write_apr(group: Group, n: usize, apr: u32) {
    let word = apr.into();
    match group {
        Group::G0 => {
            write_nth!(n, word; ICH_AP0R3_EL2; 0 => ICH_AP0R0_EL2, 1 => ICH_AP0R1_EL2, 2 => ICH_AP0R2_EL2);
        }
        Group::G1 => {
            write_nth!(n, word; ICH_AP1R3_EL2; 0 => ICH_AP1R0_EL2, 1 => ICH_AP1R1_EL2, 2 => ICH_AP1R2_EL2);
        }
    }
}

/// Runs `$body` for each list register below `$used`, with the number and the register as constants.
macro_rules! for_each_lr {
    ($used:expr, $n:ident, $reg:ident, $body:block) => {
        for_each_lr!(@ $used, $n, $reg, $body; 0 ICH_LR0_EL2, 1 ICH_LR1_EL2, 2 ICH_LR2_EL2, 3 ICH_LR3_EL2,
            4 ICH_LR4_EL2, 5 ICH_LR5_EL2, 6 ICH_LR6_EL2, 7 ICH_LR7_EL2, 8 ICH_LR8_EL2, 9 ICH_LR9_EL2,
            10 ICH_LR10_EL2, 11 ICH_LR11_EL2, 12 ICH_LR12_EL2, 13 ICH_LR13_EL2, 14 ICH_LR14_EL2,
            15 ICH_LR15_EL2)
    };
    (@ $used:expr, $n:ident, $reg:ident, $body:block; $($i:literal $r:ident),+) => {
        'each: {
            $(
                if $used <= $i {
                    break 'each;
                }
                {
                    const { assert!($i < VgicV3::LRS) };
                    const $reg: Enc = $r;
                    let $n: usize = $i;
                    $body
                }
            )+
        }
    };
}

/// How many list registers of the vCPU are in use: EL1's word, but not more than there are.
fn used_lrs(cpu_if: VgicV3) -> usize {
    (cpu_if.used_lrs() as usize).min(vtr().lrs())
}

/// Waits until the memory-mapped and the register view of the interface agree, for a guest that uses the former.
fn sync_views(cpu_if: VgicV3) {
    if cpu_if.sre() == 0 {
        dsb_sy();
        isb();
    }
}

/// Takes the guest's interrupt state off the CPU: list registers, control word and, where EL1 asked for it, the count
/// of unlisted deactivations. The interface is then off.
pub fn save_state(cpu_if: VgicV3) {
    sync_views(cpu_if);
    let used = used_lrs(cpu_if);
    if used != 0 {
        // A register that went empty reads as invalid; what is left of it is in memory.
        let empty = read::<ICH_ELRSR_EL2>();
        for_each_lr!(used, n, REG, {
            let lr = if empty & 1 << n != 0 {
                Lr::new(cpu_if.lr(n)).finished()
            } else {
                Lr::new(read::<REG>())
            };
            cpu_if.set_lr(n, lr.raw());
            write::<REG>(0);
        });
    }
    cpu_if.set_vmcr(read::<ICH_VMCR_EL2>() as u32);
    let saved = cpu_if.hcr();
    if saved & hcr::LRENPIE != 0 {
        let live = read::<ICH_HCR_EL2>() as u32;
        cpu_if.set_hcr(saved & !hcr::EOICOUNT | live & hcr::EOICOUNT);
    }
    write::<ICH_HCR_EL2>(0);
    // Where a hypervisor below emulates EL2, only a read that traps makes the write take effect.
    let _ = read::<ICH_MISR_EL2>();
}

/// Puts the guest's list registers on the CPU and turns the interface on as EL1 configured it, with the traps this
/// system needs. [`activate_traps`] comes first.
pub fn restore_state(cpu_if: VgicV3) {
    write::<ICH_HCR_EL2>(u64::from(cpu_if.hcr()) | trap_bits());
    let used = used_lrs(cpu_if);
    for_each_lr!(used, n, REG, { write::<REG>(cpu_if.lr(n)) });
    if cpu_if.sre() == 0 {
        isb();
        dsb_sy();
    }
}

/// Chooses the view of the CPU interface that the guest gets, before anything else of it is restored: with
/// ICC_SRE_EL1.SRE set, VMCR.VFIQEn is fixed, so the view decides what VMCR can hold.
pub fn activate_traps(cpu_if: VgicV3) {
    if cpu_if.hcr() & hcr::EN == 0 {
        // No interrupt controller: only with the register view can the guest's accesses be made to trap to EL2.
        write::<ICC_SRE_EL1>(ICC_SRE_SRE);
        isb();
    } else if cpu_if.sre() == 0 {
        write::<ICC_SRE_EL1>(0);
        isb();
        write::<ICH_VMCR_EL2>(cpu_if.vmcr().into());
    }
    if has_v2_compat() {
        // The guest must not change its view. Implementations may have the bit fixed at one.
        write::<ICC_SRE_EL2>(read::<ICC_SRE_EL2>() & !ICC_SRE_EL2_ENABLE);
    }
    if needs_traps(cpu_if) {
        write::<ICH_HCR_EL2>(trap_bits() | u64::from(hcr::EN));
    }
}

/// Gives the host its view of the CPU interface back, after [`save_state`].
pub fn deactivate_traps(cpu_if: VgicV3) {
    if has_v2_compat() {
        write::<ICC_SRE_EL2>(read::<ICC_SRE_EL2>() | ICC_SRE_EL2_ENABLE);
        if cpu_if.sre() == 0 {
            // EL2's Enable allows EL1's SRE to be set.
            isb();
            write::<ICC_SRE_EL1>(ICC_SRE_SRE);
        }
    }
    if needs_traps(cpu_if) {
        write::<ICH_HCR_EL2>(0);
    }
}

/// Whether ICH_HCR_EL2 matters even with no interrupt listed: something traps, or the hardware injects directly.
fn needs_traps(cpu_if: VgicV3) -> bool {
    traps_cpuif() || cpu_if.its_vm() != 0 || cpu_if.sre() == 0
}

/// ICC_SRE_EL1.SRE: the register view.
const ICC_SRE_SRE: u64 = 1;
/// ICC_SRE_EL2.Enable: EL1 may access ICC_SRE_EL1.
const ICC_SRE_EL2_ENABLE: u64 = 1 << 3;

/// Saves the active priorities. EL1 asks for it when it takes a vCPU off a CPU.
pub fn save_aprs(cpu_if: VgicV3) {
    for n in 0..vtr().aprs().min(VgicV3::APRS) {
        cpu_if.set_ap0r(n, read_apr(Group::G0, n));
        cpu_if.set_ap1r(n, read_apr(Group::G1, n));
    }
}

/// Puts the control word and the active priorities on the CPU. EL1 asks for it when it puts a vCPU on a CPU.
pub fn restore_vmcr_aprs(cpu_if: VgicV3) {
    if crate::alt::has_cap::<{ layout::CAP_HAS_GICV5_CPUIF as u16 }>() {
        // A GICv5 interface behaves as GICv3's only when told to.
        clear_set::<ICH_VCTLR_EL2>(0, ICH_VCTLR_V3);
        isb();
    }
    // Without the register view the world switch does this, once the view is right.
    if cpu_if.sre() != 0 {
        write::<ICH_VMCR_EL2>(cpu_if.vmcr().into());
    }
    for n in 0..vtr().aprs().min(VgicV3::APRS) {
        write_apr(Group::G0, n, cpu_if.ap0r(n));
        write_apr(Group::G1, n, cpu_if.ap1r(n));
    }
}

/// ICH_VCTLR_EL2.V3.
const ICH_VCTLR_V3: u64 = 1 << 1;

/// Empties every list register of this CPU.
pub fn init_lrs() {
    let lrs = vtr().lrs();
    for_each_lr!(lrs, _n, REG, { write::<REG>(0) });
}

/// Whether this CPU has the memory-mapped GICv2 interface for guests: whether ICC_SRE_EL1.SRE can be cleared.
/// All exceptions are masked at EL2, so that no interrupt is taken while the interface is switched.
pub fn has_memory_mapped_cpuif() -> bool {
    let routed = hcr_routing::Routed::interrupts_to_el2();
    let sre = read::<ICC_SRE_EL1>();
    write::<ICC_SRE_EL1>(0);
    isb();
    let probed = read::<ICC_SRE_EL1>();
    write::<ICC_SRE_EL1>(sre);
    isb();
    drop(routed);
    probed & ICC_SRE_SRE == 0
}

mod hcr_routing {
    #![expect(unsafe_code, reason = "HCR_EL2 is written")]
    use super::{HCR_EL2, dsb_nsh, isb, read, write_own};
    use crate::sysreg::hcr;

    /// All physical interrupts are routed to EL2, which the architecture demands before ICC_SRE_EL1.SRE can change.
    pub(super) struct Routed {
        before: u64,
    }

    impl Routed {
        pub(super) fn interrupts_to_el2() -> Self {
            let before = read::<HCR_EL2>();
            set(before | hcr::AMO | hcr::FMO | hcr::IMO);
            Self { before }
        }
    }

    impl Drop for Routed {
        fn drop(&mut self) {
            set(self.before);
        }
    }

    fn set(value: u64) {
        // A CPU with AmpereOne's erratum AC04_CPU_23 wants both barriers; others do not mind at boot.
        dsb_nsh();
        // SAFETY: only the routing of interrupts changes, and these are masked while EL2 runs; `before` is what the
        // register held.
        unsafe { write_own::<HCR_EL2>(value) };
        isb();
    }
}

/// What became of a guest's trapped system register access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It was done; the guest goes on behind it.
    Handled,
    /// It is not for EL2; the trap goes to EL1.
    ToHost,
}

/// Emulates a trapped access of the vCPU that was running to the CPU interface, if that is what it was. The guest's
/// registers are still on the CPU but for those that every exit saves.
pub fn perform_cpuif_access(vcpu: Vcpu, vm: Kvm) -> Access {
    if u64::from(vm.vgic_model()) != layout::VGIC_MODEL_V3 {
        return Access::ToHost;
    }
    let (esr, ctxt) = (vcpu.fault_esr(), vcpu.ctxt());
    let pstate = inject::Pstate::new(ctxt.pstate());
    if pstate.is_aarch32() && !inject::aarch32::condition_passed(esr, pstate) {
        inject::skip_running(vcpu);
        return Access::Handled;
    }
    let Some(access) = trap::decode(esr) else {
        return Access::ToHost;
    };
    let unlisted_dir = if vcpu.vgic_v3().hcr() & hcr::TDIR != 0 {
        UnlistedDir::Exit
    } else {
        UnlistedDir::Count
    };
    let value = match access.direction {
        Direction::Read => 0,
        Direction::Write => ctxt.reg(access.rt),
    };
    let mut live = Live {
        used: used_lrs(vcpu.vgic_v3()),
    };
    match emulate::access(&mut live, access.reg, access.direction, value, unlisted_dir) {
        Outcome::Exit => return Access::ToHost,
        Outcome::Read(value) => ctxt.set_reg(access.rt, value),
        Outcome::Written => {}
    }
    inject::skip_running(vcpu);
    Access::Handled
}

/// The virtual CPU interface in this CPU's registers.
struct Live {
    used: usize,
}

impl CpuIf for Live {
    fn vtr(&self) -> Vtr {
        vtr()
    }
    fn used_lrs(&self) -> usize {
        self.used
    }
    fn lr(&self, n: usize) -> Lr {
        Lr::new(read_lr(n))
    }
    fn set_lr(&mut self, n: usize, lr: Lr) {
        write_lr(n, lr.raw());
    }
    fn apr(&self, group: Group, n: usize) -> u32 {
        read_apr(group, n)
    }
    fn set_apr(&mut self, group: Group, n: usize, apr: u32) {
        write_apr(group, n, apr);
    }
    fn vmcr(&self) -> Vmcr {
        Vmcr::new(read::<ICH_VMCR_EL2>() as u32)
    }
    fn set_vmcr(&mut self, vmcr: Vmcr) {
        write::<ICH_VMCR_EL2>(vmcr.raw().into());
    }
    fn count_unlisted_eoi(&mut self) {
        let live = read::<ICH_HCR_EL2>() as u32;
        write::<ICH_HCR_EL2>(live.wrapping_add(1 << hcr::EOICOUNT_SHIFT).into());
    }
    fn deactivate_physical(&mut self, pintid: u32) {
        // At EL2 this is the physical interface, whatever HCR_EL2 routes.
        write::<ICC_DIR_EL1>(pintid.into());
        isb();
    }
}

#[cfg(test)]
#[path = "v3_tests.rs"]
mod tests;
