// SPDX-License-Identifier: GPL-2.0-only
//! PSTATE as SPSR_ELx holds it, and the value it takes on exception entry to EL1.
//!
//! Sources: Arm ARM (DDI 0487) C5.2.18 for the two layouts of SPSR_EL1, D1.3.1 for entry to AArch64.

/// Processor state in the layout of SPSR_ELx. M[4] selects between the AArch64 and the AArch32 reading of the rest.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Pstate(u64);

impl core::fmt::Debug for Pstate {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Pstate({:#x})", self.0)
    }
}

impl Pstate {
    /// The condition flags N, Z, C and V.
    pub const NZCV: u64 = 0xf << 28;
    /// Tag check override (AArch64).
    pub const TCO: u64 = 1 << 25;
    /// Data-independent timing.
    pub const DIT: u64 = 1 << 24;
    /// Privileged access never.
    pub const PAN: u64 = 1 << 22;
    /// Software step.
    pub const SS: u64 = 1 << 21;
    /// Illegal execution state.
    pub const IL: u64 = 1 << 20;
    /// Speculative store bypass safe (AArch64).
    pub const SSBS: u64 = 1 << 12;
    /// Branch type (AArch64).
    pub const BTYPE: u64 = 3 << 10;
    /// Debug, SError, IRQ and FIQ masks (AArch64).
    pub const DAIF: u64 = 0xf << 6;
    /// M[4]: AArch32.
    pub const AARCH32: u64 = 1 << 4;
    /// The mode, M[4] included.
    pub const MODE: u64 = 0x1f;

    /// EL0 with its own stack pointer, M[4:0].
    pub const EL0T: u64 = 0;
    /// EL1 on SP_EL0, M[4:0].
    pub const EL1T: u64 = 4;
    /// EL1 on SP_EL1, M[4:0].
    pub const EL1H: u64 = 5;
    /// EL2 on SP_EL2, M[4:0].
    pub const EL2H: u64 = 9;

    /// The state that `raw` encodes. Any number is one.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
    /// The state as a number.
    pub const fn raw(self) -> u64 {
        self.0
    }
    /// M[4:0].
    pub const fn mode(self) -> u64 {
        self.0 & Self::MODE
    }
    /// Whether the state is an AArch32 one.
    pub const fn is_aarch32(self) -> bool {
        self.0 & Self::AARCH32 != 0
    }
    /// The state with `bits` cleared.
    #[must_use]
    pub const fn without(self, bits: u64) -> Self {
        Self(self.0 & !bits)
    }
    /// The state with `bits` set.
    #[must_use]
    pub const fn with(self, bits: u64) -> Self {
        Self(self.0 | bits)
    }

    /// What PSTATE becomes when an exception taken in this state goes to AArch64 EL1.
    ///
    /// `sctlr` is SCTLR_EL1. The condition flags, DIT and PAN survive; IL, SS, UAO and BTYPE fall to zero.
    #[must_use]
    pub const fn on_entry_to_el1(self, sctlr: u64, mte: Mte) -> Self {
        let mut new = (self.0 & (Self::NZCV | Self::DIT | Self::PAN)) | Self::DAIF | Self::EL1H;
        if sctlr & SCTLR_SPAN == 0 {
            new |= Self::PAN;
        }
        if sctlr & SCTLR_DSSBS != 0 {
            new |= Self::SSBS;
        }
        if matches!(mte, Mte::Present) {
            new |= Self::TCO;
        }
        Self(new)
    }
}

/// SCTLR_EL1.SPAN: exception entry leaves PSTATE.PAN alone. RES1 without FEAT_PAN, so that PAN is never set there.
const SCTLR_SPAN: u64 = 1 << 23;
/// SCTLR_EL1.DSSBS: PSTATE.SSBS on exception entry.
const SCTLR_DSSBS: u64 = 1 << 44;

/// Whether whoever takes the exception has memory tagging, which makes entry set PSTATE.TCO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mte {
    /// It has.
    Present,
    /// It has not, or nobody knows.
    Absent,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: u64 = SCTLR_SPAN;

    #[test]
    fn entry_keeps_flags_dit_and_pan_only() {
        let old = Pstate::new(u64::MAX);
        let new = old.on_entry_to_el1(SPAN, Mte::Absent);
        let kept = Pstate::NZCV | Pstate::DIT | Pstate::PAN;
        assert_eq!(new.raw(), kept | Pstate::DAIF | Pstate::EL1H);
    }

    #[test]
    fn entry_from_nothing_masks_everything() {
        let new = Pstate::new(0).on_entry_to_el1(SPAN, Mte::Absent);
        assert_eq!(new.raw(), 0x3c5, "INIT_PSTATE_EL1 of the kernel");
    }

    #[test]
    fn pan_is_forced_where_span_is_clear() {
        assert_ne!(
            Pstate::new(0).on_entry_to_el1(0, Mte::Absent).raw() & Pstate::PAN,
            0
        );
        assert_eq!(
            Pstate::new(0).on_entry_to_el1(SPAN, Mte::Absent).raw() & Pstate::PAN,
            0
        );
    }

    #[test]
    fn ssbs_comes_from_sctlr_not_from_the_old_state() {
        let old = Pstate::new(Pstate::SSBS);
        assert_eq!(old.on_entry_to_el1(SPAN, Mte::Absent).raw() & Pstate::SSBS, 0);
        assert_ne!(
            Pstate::new(0).on_entry_to_el1(SPAN | 1 << 44, Mte::Absent).raw() & Pstate::SSBS,
            0
        );
    }

    #[test]
    fn tco_is_set_for_a_vm_with_tags() {
        assert_ne!(
            Pstate::new(0).on_entry_to_el1(SPAN, Mte::Present).raw() & Pstate::TCO,
            0
        );
        assert_eq!(
            Pstate::new(Pstate::TCO).on_entry_to_el1(SPAN, Mte::Absent).raw() & Pstate::TCO,
            0
        );
    }
}
