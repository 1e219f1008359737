// SPDX-License-Identifier: GPL-2.0-only
//! What to do with an exit from a guest: settle it here and go on, or end the run. Does the job of the exit handlers
//! in `nvhe/switch.c` and `hyp/switch.h`.
//!
//! Everything in the syndrome and the guest's registers is the guest's choice.

use pkvm_kernel::Vcpu;
use pkvm_kernel::layout::*;

use super::fault::{Esr, ec, fault_info};
use super::{Cpu, Feature, Guest, fp, mops, timer};
use crate::alt::has_cap;
use crate::inject;
use crate::sysreg::*;
use crate::vgic;

/// Why a run ended, as `__guest_enter` and EL1 know it: one of the `ARM_EXCEPTION_*` values, and bit 31 where an SError
/// is pending besides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExitCode(pub u64);

impl ExitCode {
    /// An interrupt for the host.
    pub const IRQ: Self = Self(0);
    /// An SError from the guest.
    pub const SERROR: Self = Self(1);
    /// A synchronous exception; the vCPU has its syndrome.
    pub const TRAP: Self = Self(2);
    /// The guest's PSTATE was not one it may have.
    pub const ILLEGAL: Self = Self(3);

    pub(crate) const SERROR_PENDING: u64 = 1 << 31;

    fn without_serror(self) -> Self {
        Self(self.0 & !Self::SERROR_PENDING)
    }
    fn serror_pending(self) -> bool {
        self.0 & Self::SERROR_PENDING != 0
    }
    fn with_reason(self, reason: Self) -> Self {
        Self(self.0 & Self::SERROR_PENDING | reason.0)
    }
}

/// Whether the guest goes on after its exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resume {
    /// The exit is settled; the guest goes on.
    Guest,
    /// The host must see it.
    Host,
}

/// The policy that decides exits of protected VMs, and the marks around a guest's time for tracing. The guest's EL1
/// registers, ELR_EL2 and SPSR_EL2 are on the CPU in all of these; its general registers and PSTATE are in the
/// context.
pub trait GuestExits {
    /// Called just before the guest is entered.
    fn entering(&mut self) {}
    /// Called just after the guest was left.
    fn left(&mut self) {}
    /// A protected VM's HVC from AArch64.
    fn protected_hvc(&mut self, guest: &Guest) -> Resume;
    /// A protected VM's access to a system register that the mechanism has no answer to.
    fn protected_sysreg(&mut self, guest: &Guest) -> Resume;
    /// A protected VM's use of something it does not have.
    fn protected_restricted(&mut self, guest: &Guest) -> Resume;
}

/// What became of an exit.
pub(super) enum Settled {
    /// The guest goes on.
    Reenter,
    /// The run ends.
    Exit(ExitCode),
}

/// What became of a trap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trapped {
    /// It is settled; the guest goes on.
    Settled,
    /// The host must see it.
    ToHost,
    /// The host must see an SError in its place.
    AsSError,
}

impl From<Resume> for Trapped {
    fn from(resume: Resume) -> Self {
        match resume {
            Resume::Guest => Self::Settled,
            Resume::Host => Self::ToHost,
        }
    }
}

/// Settles an exit or finds why the run ends.
pub(super) fn settle<E: GuestExits>(cpu: &Cpu, guest: &Guest, exits: &mut E, code: u64) -> Settled {
    let mut code = ExitCode(code);
    let protected = guest.features.has(Feature::Protected);
    save_pstate(guest);

    // Nothing keeps a guest from dropping to AArch32 at EL0 where the CPU has it, but a protected VM has no business
    // there, and the host is not trusted to notice.
    if protected && guest.vcpu.ctxt().pstate() & spsr::MODE32 != 0 {
        code = code.with_reason(ExitCode::ILLEGAL);
    }

    if code.without_serror() != ExitCode::IRQ {
        let esr = Esr(read_el2::<ESR_EL2>());
        guest.vcpu.set_fault_esr(esr.0);
        // The guest comes back to the same instruction once it has taken the SError. The return address of an HVC is
        // the one after it; of every other trap it is the instruction itself.
        if code.serror_pending() && matches!(esr.ec(), ec::HVC32 | ec::HVC64) {
            write_el2::<ELR_EL2>(read_el2::<ELR_EL2>().wrapping_sub(4));
        }
        // With an SError pending nothing is settled: the trap happens again.
        if code == ExitCode::TRAP {
            match trap(cpu, guest, exits, esr, protected) {
                Trapped::Settled => return Settled::Reenter,
                Trapped::ToHost => {}
                Trapped::AsSError => code = ExitCode::SERROR,
            }
        }
    }
    Settled::Exit(code)
}

/// Takes PSTATE into the context. Cortex-A510 erratum 2077057: SPSR_EL2 is wrong after a PAC exception while single
/// stepping, and is what it was before.
fn save_pstate(guest: &Guest) {
    let ctxt = guest.vcpu.ctxt();
    if has_cap::<{ CAP_WORKAROUND_2077057 as u16 }>()
        && guest.vcpu.guest_debug() & GUEST_DEBUG_SINGLESTEP != 0
        && ctxt.pstate() & spsr::SS != 0
        && Esr(read_el2::<ESR_EL2>()).ec() == ec::PAC
    {
        write_el2::<SPSR_EL2>(super::safe_pstate(ctxt.pstate()));
    }
    ctxt.set_pstate(read_el2::<SPSR_EL2>());
}

/// `KVM_GUESTDBG_SINGLESTEP` of the user-space interface.
const GUEST_DEBUG_SINGLESTEP: u32 = 1 << 1;

fn trap<E: GuestExits>(cpu: &Cpu, guest: &Guest, exits: &mut E, esr: Esr, protected: bool) -> Trapped {
    let resume = match (esr.ec(), protected) {
        (ec::DABT_LOW, false) => return data_abort(guest, esr),
        (ec::IABT_LOW | ec::DABT_LOW | ec::WATCHPT_LOW, _) => abort(guest, esr),
        (ec::SYS64, false) => sysreg(guest, esr),
        (ec::SYS64, true) => match sysreg(guest, esr) {
            Resume::Guest => Resume::Guest,
            Resume::Host => exits.protected_sysreg(guest),
        },
        (ec::HVC64, true) => exits.protected_hvc(guest),
        (ec::FP_ASIMD, _) => fp_access(cpu, guest),
        (ec::SVE, true) => exits.protected_restricted(guest),
        (ec::SVE, false) if guest.features.has(Feature::Sve) => fp_access(cpu, guest),
        (ec::CP15_32, false) => interrupt_controller(guest),
        (ec::MOPS, _) => memory_operation(guest, esr),
        _ => Resume::Host,
    };
    resume.into()
}

/// A normal VM's data abort, which may be an access to its GICv2.
fn data_abort(guest: &Guest, esr: Esr) -> Trapped {
    match abort(guest, esr) {
        Resume::Guest => Trapped::Settled,
        Resume::Host => match vgic::v2::perform_cpuif_access(guest.vcpu, guest.vm) {
            vgic::v2::Outcome::Handled => Trapped::Settled,
            vgic::v2::Outcome::Illegal => Trapped::AsSError,
            vgic::v2::Outcome::NotOurs => Trapped::ToHost,
        },
    }
}

fn abort(guest: &Guest, esr: Esr) -> Resume {
    match fault_info(esr) {
        Some(info) => {
            guest.vcpu.set_fault_far(info.far);
            guest.vcpu.set_fault_hpfar(info.hpfar);
            Resume::Host
        }
        None => Resume::Guest,
    }
}

fn fp_access(cpu: &Cpu, guest: &Guest) -> Resume {
    if !has_cap::<{ CAP_HAS_FPSIMD as u16 }>() {
        return Resume::Host;
    }
    fp::take_for_guest(cpu, guest);
    Resume::Guest
}

/// System registers that EL2 answers for any guest.
fn sysreg(guest: &Guest, esr: Esr) -> Resume {
    if has_cap::<{ CAP_WORKAROUND_CAVIUM_TX2_219_TVM as u16 }>() && write_translation_control(guest, esr) {
        return Resume::Guest;
    }
    if has_cap::<{ CAP_WORKAROUND_AMPERE_AC03_CPU_38 as u16 }>() && write_tcr(guest, esr) {
        return Resume::Guest;
    }
    match interrupt_controller(guest) {
        Resume::Guest => Resume::Guest,
        Resume::Host => counter(guest, esr),
    }
}

fn interrupt_controller(guest: &Guest) -> Resume {
    if vgic::v3::traps_cpuif()
        && vgic::v3::perform_cpuif_access(guest.vcpu, guest.vm) == vgic::v3::Access::Handled
    {
        Resume::Guest
    } else {
        Resume::Host
    }
}

/// A read of a counter that traps since the hardware cannot apply the guest's offset.
fn counter(guest: &Guest, esr: Esr) -> Resume {
    let offset = match esr.sys64_register() {
        CNTPCT_EL0 | CNTPCTSS_EL0 => timer::physical_offset(guest),
        CNTVCT_EL0 | CNTVCTSS_EL0 => timer::virtual_offset(guest),
        _ => return Resume::Host,
    };
    // The counter may not be read ahead of what came before.
    crate::barrier::isb();
    let value = read::<CNTPCT_EL0>().wrapping_sub(offset);
    guest.vcpu.ctxt().set_reg(esr.sys64_rt(), value);
    inject::skip_running(guest.vcpu);
    Resume::Guest
}

/// Cavium ThunderX2 erratum 219: HCR_EL2.TVM is set behind the guest's back, so its writes are carried out here. Where
/// KVM itself wants the trap it gets it.
fn write_translation_control(guest: &Guest, esr: Esr) -> bool {
    if guest.vcpu.hcr_el2() & hcr::TVM != 0 || esr.sys64_is_read() {
        return false;
    }
    let value = operand(guest.vcpu, esr);
    match esr.sys64_register() {
        SCTLR_EL1 => write_el1::<SCTLR_EL1>(value),
        TTBR0_EL1 => write_el1::<TTBR0_EL1>(value),
        TTBR1_EL1 => write_el1::<TTBR1_EL1>(value),
        TCR_EL1 => write_el1::<TCR_EL1>(value),
        ESR_EL1 => write_el1::<ESR_EL1>(value),
        FAR_EL1 => write_el1::<FAR_EL1>(value),
        AFSR0_EL1 => write_el1::<AFSR0_EL1>(value),
        AFSR1_EL1 => write_el1::<AFSR1_EL1>(value),
        MAIR_EL1 => write_el1::<MAIR_EL1>(value),
        AMAIR_EL1 => write_el1::<AMAIR_EL1>(value),
        CONTEXTIDR_EL1 => write_el1::<CONTEXTIDR_EL1>(value),
        _ => return false,
    }
    inject::skip_running(guest.vcpu);
    true
}

/// Ampere erratum AC03_CPU_38: the CPU hides hardware access flag and dirty state, but obeys the bits that enable
/// them, so a guest's write of TCR_EL1 goes without them.
fn write_tcr(guest: &Guest, esr: Esr) -> bool {
    if esr.sys64_register() != TCR_EL1 || esr.sys64_is_read() {
        return false;
    }
    write_el1::<TCR_EL1>(operand(guest.vcpu, esr) & !(tcr_el1::HA | tcr_el1::HD));
    inject::skip_running(guest.vcpu);
    true
}

fn operand(vcpu: Vcpu, esr: Esr) -> u64 {
    vcpu.ctxt().reg(esr.sys64_rt())
}

struct GuestRegisters(Vcpu);

impl mops::Registers for GuestRegisters {
    fn get(&self, n: usize) -> u64 {
        self.0.ctxt().reg(n)
    }
    fn set(&mut self, n: usize, value: u64) {
        self.0.ctxt().set_reg(n, value);
    }
}

/// A copy or set instruction that the CPU wants to start over.
fn memory_operation(guest: &Guest, esr: Esr) -> Resume {
    let ctxt = guest.vcpu.ctxt();
    let pc = mops::reset(
        &mut GuestRegisters(guest.vcpu),
        read_el2::<ELR_EL2>(),
        ctxt.pstate(),
        esr,
    );
    ctxt.set_pc(pc);
    write_el2::<ELR_EL2>(pc);
    // A pending single step is done with this instruction, not with the first of the three.
    write_el2::<SPSR_EL2>(read_el2::<SPSR_EL2>() & !spsr::SS);
    Resume::Guest
}
