// SPDX-License-Identifier: GPL-2.0-only
//! What EL1 left to do on a vCPU before it runs again: enter an exception that KVM pended, or step over an
//! instruction that KVM or user space emulated. EL1 says so in the vCPU's `iflags` byte.

use super::VcpuRegs;
use super::aarch32;
use super::entry::{El1Control, Exception, take_to_el1};
use super::pstate::Pstate;

/// `kvm_vcpu_arch.iflags`, written by EL1. Every value is legal: unknown ones mean nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Iflags(u8);

impl Iflags {
    /// An exception is to be entered; the kernel's `PENDING_EXCEPTION`.
    pub const PENDING_EXCEPTION: u8 = 1;
    /// An instruction is to be skipped; the kernel's `INCREMENT_PC`. It overlaps [`Self::EXCEPT_MASK`].
    pub const INCREMENT_PC: u8 = 1 << 1;
    /// Which exception; the kernel's `EXCEPT_MASK`.
    pub const EXCEPT_MASK: u8 = 7 << 1;

    /// The flags as EL1 wrote them.
    pub const fn new(raw: u8) -> Self {
        Self(raw)
    }
    /// The flags as a byte.
    pub const fn raw(self) -> u8 {
        self.0
    }

    /// What is left to do, for a vCPU whose EL1 is of the given width.
    pub const fn pending(self, el1: El1Width) -> Pending {
        if self.0 & Self::PENDING_EXCEPTION != 0 {
            match (el1, (self.0 & Self::EXCEPT_MASK) >> 1) {
                (El1Width::AArch32, 0) => Pending::Enter32(aarch32::Exception::Undefined),
                (El1Width::AArch32, 1) => Pending::Enter32(aarch32::Exception::PrefetchAbort),
                (El1Width::AArch32, 2) => Pending::Enter32(aarch32::Exception::DataAbort),
                (El1Width::AArch64, 0) => Pending::Enter64(Exception::Sync),
                (El1Width::AArch64, 3) => Pending::Enter64(Exception::SError),
                (El1Width::AArch64, 4 | 5 | 7) => Pending::EnterEl2,
                _ => Pending::Unknown,
            }
        } else if self.0 & Self::INCREMENT_PC != 0 {
            Pending::Skip
        } else {
            Pending::Nothing
        }
    }

    /// The flags once what they asked for is done.
    #[must_use]
    pub const fn done(self) -> Self {
        if self.0 & Self::PENDING_EXCEPTION != 0 {
            Self(self.0 & !(Self::PENDING_EXCEPTION | Self::EXCEPT_MASK))
        } else {
            Self(self.0 & !Self::INCREMENT_PC)
        }
    }
}

/// Whether a vCPU's EL1 is AArch32, which HCR_EL2.RW says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum El1Width {
    /// HCR_EL2.RW is clear.
    AArch32,
    /// HCR_EL2.RW is set.
    AArch64,
}

impl El1Width {
    /// The width that the vCPU's HCR_EL2 selects.
    pub const fn of_hcr(hcr: u64) -> Self {
        if hcr & 1 << 31 != 0 {
            Self::AArch64
        } else {
            Self::AArch32
        }
    }
}

/// What `iflags` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pending {
    /// Nothing.
    Nothing,
    /// Step over the instruction at PC.
    Skip,
    /// Enter an exception at AArch64 EL1.
    Enter64(Exception),
    /// Enter an exception at AArch32 EL1.
    Enter32(aarch32::Exception),
    /// Enter an exception at EL2, which no guest of this hypervisor has.
    EnterEl2,
    /// A number without a meaning. The request is dropped.
    Unknown,
}

/// Does what `iflags` asks for and returns the flags to store: those of the request cleared, the others kept.
pub fn adjust_pc<R: VcpuRegs + ?Sized>(regs: &mut R, iflags: Iflags, el1: El1Width) -> Iflags {
    match iflags.pending(el1) {
        Pending::Nothing => return iflags,
        Pending::Skip => skip_instruction(regs),
        Pending::Enter64(exception) => enter64(regs, exception),
        Pending::Enter32(exception) => aarch32::enter(regs, exception),
        // A guest has no EL2 here. The mode alone is enough to make the entry an illegal exception return, which
        // the host is told of; the rest of the guest's state stays for whoever looks at it.
        Pending::EnterEl2 => {
            let pstate = regs.pstate().without(Pstate::MODE).with(Pstate::EL2H);
            regs.set_pstate(pstate);
        }
        Pending::Unknown => {}
    }
    iflags.done()
}

/// Enters `exception` at the vCPU's AArch64 EL1.
pub fn enter64<R: VcpuRegs + ?Sized>(regs: &mut R, exception: Exception) {
    let control = El1Control {
        vbar: regs.vbar_el1(),
        sctlr: regs.sctlr_el1(),
        mte: regs.mte(),
    };
    let entry = take_to_el1(regs.pc(), regs.pstate(), exception, control);
    regs.set_elr_el1(entry.elr);
    regs.set_spsr_el1(entry.spsr.raw());
    regs.set_pc(entry.pc);
    regs.set_pstate(entry.pstate);
}

/// Steps over one instruction, with what the architecture does besides: BTYPE returns to zero, an IT block moves on,
/// and a pending single step is done.
pub fn skip_instruction<R: VcpuRegs + ?Sized>(regs: &mut R) {
    if regs.pstate().is_aarch32() {
        aarch32::skip(regs);
    } else {
        regs.set_pc(regs.pc().wrapping_add(4));
        regs.set_pstate(regs.pstate().without(Pstate::BTYPE));
    }
    regs.set_pstate(regs.pstate().without(Pstate::SS));
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeRegs;
    use super::super::pstate::Mte;
    use super::*;

    fn run(regs: &mut FakeRegs, iflags: u8, el1: El1Width) -> u8 {
        adjust_pc(regs, Iflags::new(iflags), el1).raw()
    }

    #[test]
    fn nothing_asked_nothing_done() {
        let mut regs = FakeRegs {
            pc: 0x1000,
            pstate: Pstate::EL1H,
            ..FakeRegs::default()
        };
        let before = regs.clone();
        for iflags in (0..=255).filter(|flags| flags & 3 == 0) {
            assert_eq!(run(&mut regs, iflags, El1Width::AArch64), iflags);
            assert_eq!(regs, before);
        }
    }

    #[test]
    fn a_skip_clears_btype_and_step_and_keeps_the_other_flags() {
        let pstate = Pstate::NZCV | Pstate::BTYPE | Pstate::SS | Pstate::EL1H;
        let mut regs = FakeRegs {
            pc: u64::MAX - 3,
            pstate,
            ..FakeRegs::default()
        };
        assert_eq!(
            run(&mut regs, 0x12, El1Width::AArch64),
            0x10,
            "PKVM_HOST_STATE_DIRTY stays"
        );
        assert_eq!((regs.pc, regs.pstate), (0, Pstate::NZCV | Pstate::EL1H));
        assert_eq!(regs.mte_asked, 0);
    }

    #[test]
    fn a_skip_in_thumb_moves_the_it_block_on() {
        let mut regs = FakeRegs {
            pc: 0x100,
            pstate: 0x10 | 1 << 5 | 0x0c << 8 | Pstate::SS,
            length: aarch32::Length::Bits16,
            ..FakeRegs::default()
        };
        run(&mut regs, Iflags::INCREMENT_PC, El1Width::AArch64);
        assert_eq!(
            (regs.pc, regs.pstate),
            (0x102, 0x10 | 1 << 5 | 0x18 << 8),
            "EL0 may be AArch32 alone"
        );
    }

    #[test]
    fn pending_sync_and_serror_enter_el1() {
        for (code, offset) in [(0, 0x200), (3, 0x380)] {
            let mut regs = FakeRegs {
                pc: 0x1234,
                pstate: Pstate::EL1H | Pstate::SS,
                vbar: 0x8000,
                sctlr: 1 << 23,
                mte: Mte::Present,
                ..FakeRegs::default()
            };
            assert_eq!(run(&mut regs, 0xf0 | 1 | code << 1, El1Width::AArch64), 0xf0);
            assert_eq!(regs.pc, 0x8000 + offset);
            assert_eq!(regs.pstate, Pstate::TCO | Pstate::DAIF | Pstate::EL1H);
            assert_eq!((regs.elr, regs.spsr), (0x1234, Pstate::EL1H | Pstate::SS));
            assert_eq!(regs.mte_asked, 1);
        }
    }

    #[test]
    fn an_el2_exception_becomes_an_illegal_mode() {
        for code in [4, 5, 7] {
            let mut regs = FakeRegs {
                pc: 0x1234,
                pstate: Pstate::NZCV | 0x10,
                ..FakeRegs::default()
            };
            assert_eq!(run(&mut regs, 1 | code << 1, El1Width::AArch64), 0);
            assert_eq!((regs.pc, regs.pstate), (0x1234, Pstate::NZCV | Pstate::EL2H));
        }
    }

    #[test]
    fn unknown_requests_are_dropped() {
        let mut regs = FakeRegs {
            pc: 0x1234,
            pstate: 0x10,
            ..FakeRegs::default()
        };
        let before = regs.clone();
        for (code, el1) in [
            (1, El1Width::AArch64),
            (2, El1Width::AArch64),
            (6, El1Width::AArch64),
            (3, El1Width::AArch32),
            (7, El1Width::AArch32),
        ] {
            assert_eq!(run(&mut regs, 1 | code << 1, el1), 0);
            assert_eq!(regs, before);
        }
    }

    #[test]
    fn aarch32_requests_go_to_aarch32_modes() {
        for (code, vector) in [(0, 4), (1, 12), (2, 16)] {
            let mut regs = FakeRegs {
                pc: 0x100,
                pstate: 0x10,
                sctlr: 1 << 23,
                ..FakeRegs::default()
            };
            assert_eq!(run(&mut regs, 1 | code << 1, El1Width::AArch32), 0);
            assert_eq!(regs.pc, vector);
            assert_eq!(regs.elr, 0, "ELR_EL1 is not an AArch32 register");
        }
    }
}
