// SPDX-License-Identifier: GPL-2.0-only
//! The mechanism under exception injection: the registers of a stopped vCPU in its structure, of a guest that was
//! just running, and of the host.

use pkvm_kernel::{Vcpu, layout};

use super::VcpuRegs;
use super::aarch32::{Length, Mode};
use super::adjust::{self, El1Width, Iflags};
use super::entry::{El1Control, Exception, take_to_el1};
use super::pstate::{Mte, Pstate};
use crate::sysreg::*;

/// The saved registers of a vCPU; `M` finds out whether its VM has memory tagging.
struct Stopped<M> {
    vcpu: Vcpu,
    mte: M,
}

impl<M: FnMut() -> Mte> VcpuRegs for Stopped<M> {
    fn pc(&self) -> u64 {
        self.vcpu.ctxt().pc()
    }
    fn set_pc(&mut self, pc: u64) {
        self.vcpu.ctxt().set_pc(pc);
    }
    fn pstate(&self) -> Pstate {
        Pstate::new(self.vcpu.ctxt().pstate())
    }
    fn set_pstate(&mut self, pstate: Pstate) {
        self.vcpu.ctxt().set_pstate(pstate.raw());
    }
    fn sctlr_el1(&self) -> u64 {
        self.vcpu.ctxt().sys_reg(layout::SR_SCTLR_EL1)
    }
    fn vbar_el1(&self) -> u64 {
        self.vcpu.ctxt().sys_reg(layout::SR_VBAR_EL1)
    }
    fn set_elr_el1(&mut self, elr: u64) {
        self.vcpu.ctxt().set_sys_reg(layout::SR_ELR_EL1, elr);
    }
    fn set_spsr_el1(&mut self, spsr: u64) {
        self.vcpu.ctxt().set_sys_reg(layout::SR_SPSR_EL1, spsr);
    }
    fn set_aarch32_return(&mut self, mode: Mode, lr: u32, spsr: u32) {
        // Where the AArch64 registers hold the banked ones: Arm ARM D1.20.1.
        let ctxt = self.vcpu.ctxt();
        match mode {
            Mode::Abort => {
                ctxt.set_spsr_abt(spsr.into());
                ctxt.set_reg(20, lr.into());
            }
            Mode::Undefined => {
                ctxt.set_spsr_und(spsr.into());
                ctxt.set_reg(22, lr.into());
            }
        }
    }
    fn mte(&mut self) -> Mte {
        (self.mte)()
    }
    fn trapped_length(&self) -> Length {
        Length::of_syndrome(self.vcpu.fault_esr())
    }
}

const _: () = assert!(
    Iflags::PENDING_EXCEPTION as u64 == layout::IFLAG_PENDING_EXCEPTION
        && Iflags::INCREMENT_PC as u64 == layout::IFLAG_INCREMENT_PC
        && Iflags::EXCEPT_MASK as u64 == layout::IFLAG_EXCEPT_MASK
);

/// Does what EL1 left to do on a vCPU that is not running: enters a pending exception, or steps over an emulated
/// instruction. The kernel's `__kvm_adjust_pc()`. `mte` says whether the VM has memory tagging, and is asked only
/// where an exception to AArch64 is entered.
///
/// The structure may be the host's: each word is read as it is needed, and one that changes meanwhile leads to
/// registers that the host could have written itself.
pub fn adjust_pc(vcpu: Vcpu, mte: impl FnMut() -> Mte) {
    let before = Iflags::new(vcpu.iflags());
    let after = adjust::adjust_pc(
        &mut Stopped { vcpu, mte },
        before,
        El1Width::of_hcr(vcpu.hcr_el2()),
    );
    if after != before {
        vcpu.set_iflags(after.raw());
    }
}

/// Steps over the instruction that trapped, for a vCPU whose PC and PSTATE are still in EL2's ELR and SPSR. The
/// vCPU's structure has them too afterwards.
pub fn skip_running(vcpu: Vcpu) {
    let ctxt = vcpu.ctxt();
    ctxt.set_pc(read_el2::<ELR_EL2>());
    ctxt.set_pstate(read_el2::<SPSR_EL2>());
    adjust::skip_instruction(&mut Stopped {
        vcpu,
        mte: || Mte::Absent,
    });
    write_el2::<SPSR_EL2>(ctxt.pstate());
    write_el2::<ELR_EL2>(ctxt.pc());
}

/// Makes the world below EL2, a guest that was just running or the host, take a synchronous exception at its AArch64
/// EL1 instead of going on. Its EL1 registers are on the CPU and get ELR, SPSR and ESR; FAR is the caller's.
/// Returns the PC and PSTATE it will go on with, which are in ELR_EL2 and SPSR_EL2 already.
pub fn inject_running(esr: u64, mte: Mte) -> (u64, Pstate) {
    let control = El1Control {
        vbar: read_el1::<VBAR_EL1>(),
        sctlr: read_el1::<SCTLR_EL1>(),
        mte,
    };
    let pstate = Pstate::new(read_el2::<SPSR_EL2>());
    let entry = take_to_el1(read_el2::<ELR_EL2>(), pstate, Exception::Sync, control);
    write_el1::<ESR_EL1>(esr);
    write_el1::<ELR_EL1>(entry.elr);
    write_el1::<SPSR_EL1>(entry.spsr.raw());
    write_el2::<ELR_EL2>(entry.pc);
    write_el2::<SPSR_EL2>(entry.pstate.raw());
    (entry.pc, entry.pstate)
}

/// ESR_ELx of an undefined instruction: exception class "unknown", 32-bit instruction.
pub const ESR_UNDEFINED: u64 = 1 << 25;

#[cfg(test)]
#[path = "vcpu_tests.rs"]
mod tests;
