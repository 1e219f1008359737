// SPDX-License-Identifier: GPL-2.0-only
//! Exception entry to AArch64 EL1, computed. A stopped vCPU, a guest whose registers are still in the CPU and the
//! host itself all take their exceptions through [`take_to_el1`]; they differ in where the results are written.

use super::pstate::{Mte, Pstate};

/// Which exception is taken: the offset of its slot within a vector group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Exception {
    /// A synchronous exception: an abort or an undefined instruction.
    Sync = 0x000,
    /// An SError interrupt.
    SError = 0x180,
}

/// What the owner of EL1 configured that decides how an exception is entered.
#[derive(Clone, Copy, Debug)]
pub struct El1Control {
    /// VBAR_EL1.
    pub vbar: u64,
    /// SCTLR_EL1.
    pub sctlr: u64,
    /// Whether entry sets PSTATE.TCO.
    pub mte: Mte,
}

/// The outcome of an exception entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The address of the vector.
    pub pc: u64,
    /// PSTATE in the handler.
    pub pstate: Pstate,
    /// ELR_EL1: the preferred return address.
    pub elr: u64,
    /// SPSR_EL1: the interrupted PSTATE.
    pub spsr: Pstate,
}

/// Takes `exception` to AArch64 EL1 from `pc` in state `pstate`. The vector group is that of the interrupted mode;
/// a mode above EL1 counts as a lower AArch64 one, for want of a better, and changes nothing for the caller.
pub const fn take_to_el1(pc: u64, pstate: Pstate, exception: Exception, control: El1Control) -> Entry {
    let group = match pstate.mode() {
        Pstate::EL1T => 0x000,
        Pstate::EL1H => 0x200,
        _ if pstate.is_aarch32() => 0x600,
        _ => 0x400,
    };
    Entry {
        // VBAR is a guest's word: the sum wraps as the hardware's adder would.
        pc: control.vbar.wrapping_add(group).wrapping_add(exception as u64),
        pstate: pstate.on_entry_to_el1(control.sctlr, control.mte),
        elr: pc,
        spsr: pstate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: El1Control = El1Control {
        vbar: 0xffff_8000_0001_0800,
        sctlr: 1 << 23,
        mte: Mte::Absent,
    };

    fn vector(mode: u64, exception: Exception) -> u64 {
        take_to_el1(0x1000, Pstate::new(mode), exception, CONTROL).pc - CONTROL.vbar
    }

    #[test]
    fn the_vector_is_that_of_the_interrupted_mode() {
        assert_eq!(vector(Pstate::EL1H, Exception::Sync), 0x200);
        assert_eq!(vector(Pstate::EL1T, Exception::Sync), 0x000);
        assert_eq!(vector(Pstate::EL0T, Exception::Sync), 0x400);
        assert_eq!(vector(0x10, Exception::Sync), 0x600, "AArch32 user");
        assert_eq!(vector(0x13, Exception::SError), 0x780, "AArch32 supervisor");
        assert_eq!(vector(Pstate::EL1H, Exception::SError), 0x380);
        assert_eq!(vector(Pstate::EL0T, Exception::SError), 0x580);
    }

    #[test]
    fn return_state_is_the_interrupted_one() {
        let old = Pstate::new(0x6000_1000 | Pstate::SS | Pstate::EL0T);
        let entry = take_to_el1(0xdead_0000, old, Exception::Sync, CONTROL);
        assert_eq!((entry.elr, entry.spsr), (0xdead_0000, old));
        assert_eq!(entry.pstate.mode(), Pstate::EL1H);
    }

    #[test]
    fn a_vector_base_at_the_top_wraps() {
        let control = El1Control {
            vbar: !0x7ff,
            ..CONTROL
        };
        let entry = take_to_el1(0, Pstate::new(0x10), Exception::SError, control);
        assert_eq!(entry.pc, !0x7ff + 0x780);
        let control = El1Control {
            vbar: u64::MAX,
            ..CONTROL
        };
        assert_eq!(
            take_to_el1(0, Pstate::new(0x10), Exception::SError, control).pc,
            0x77f
        );
    }
}
