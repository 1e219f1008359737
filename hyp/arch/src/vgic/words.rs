// SPDX-License-Identifier: GPL-2.0-only
//! The GICv3 virtual CPU interface's register words, with names for their fields.
//!
//! Source: GICv3 architecture (IHI 0069) 12.4: ICH_LR<n>_EL2, ICH_VMCR_EL2, ICH_VTR_EL2, ICH_HCR_EL2.

/// An interrupt group. Without security states at EL1, group 1 is what IRQs use and group 0 what FIQs use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// Group 0.
    G0,
    /// Group 1.
    G1,
}

/// The priority when nothing is active or pending.
pub const IDLE_PRIORITY: u8 = 0xff;
/// The identifier that an acknowledge returns where there is nothing to acknowledge.
pub const SPURIOUS: u32 = 0x3ff;
/// The first identifier of a locality-specific peripheral interrupt; these have no active state.
pub const FIRST_LPI: u32 = 8192;

/// Whether `intid` is one of 1020 to 1023, which name no interrupt.
pub const fn is_special(intid: u32) -> bool {
    matches!(intid, 0x3fc..=0x3ff)
}

/// A list register, ICH_LR<n>_EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Lr(u64);

impl Lr {
    const PENDING: u64 = 1 << 62;
    const ACTIVE: u64 = 1 << 63;
    /// Both state bits: pending and active.
    pub const STATE: u64 = Self::PENDING | Self::ACTIVE;
    const HW: u64 = 1 << 61;
    const GROUP: u64 = 1 << 60;

    /// The list register that `raw` encodes.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
    /// The list register as a word.
    pub const fn raw(self) -> u64 {
        self.0
    }
    /// The virtual interrupt's identifier.
    pub const fn vintid(self) -> u32 {
        self.0 as u32
    }
    /// The physical interrupt to deactivate with the virtual one; `None` where there is none.
    pub const fn pintid(self) -> Option<u32> {
        if self.0 & Self::HW != 0 {
            Some((self.0 >> 32) as u32 & 0x3ff)
        } else {
            None
        }
    }
    /// The priority; lower is more urgent.
    pub const fn priority(self) -> u8 {
        (self.0 >> 48) as u8
    }
    /// The group.
    pub const fn group(self) -> Group {
        if self.0 & Self::GROUP != 0 {
            Group::G1
        } else {
            Group::G0
        }
    }
    /// Pending, and not active as well: what an acknowledge may take.
    pub const fn is_only_pending(self) -> bool {
        self.0 & Self::STATE == Self::PENDING
    }
    /// Active, pending or not.
    pub const fn is_active(self) -> bool {
        self.0 & Self::ACTIVE != 0
    }
    /// The same interrupt, active and not pending.
    #[must_use]
    pub const fn acknowledged(self) -> Self {
        Self(self.0 & !Self::STATE | Self::ACTIVE)
    }
    /// The same interrupt, not active.
    #[must_use]
    pub const fn deactivated(self) -> Self {
        Self(self.0 & !Self::ACTIVE)
    }
    /// The same interrupt, neither pending nor active.
    #[must_use]
    pub const fn finished(self) -> Self {
        Self(self.0 & !Self::STATE)
    }
}

/// What the implementation offers, ICH_VTR_EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Vtr(u32);

impl Vtr {
    /// The type register that `raw` encodes.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }
    /// How many list registers there are: 1 to 16.
    pub const fn lrs(self) -> usize {
        // The field has five bits but the architecture stops at sixteen registers.
        (self.0 & 0xf) as usize + 1
    }
    /// How many bits of a priority count for preemption: 5 to 7. The field could encode less and more, which the
    /// architecture does not allow.
    pub const fn preemption_bits(self) -> u32 {
        match (self.0 >> 26 & 7) + 1 {
            6 => 6,
            7 | 8 => 7,
            _ => 5,
        }
    }
    /// How many active priority registers each group has: 1, 2 or 4.
    pub const fn aprs(self) -> usize {
        1 << (self.preemption_bits() - 5)
    }
    /// The shift that leaves the preemption level of a priority, and the least value of ICC_BPR1_EL1.
    pub const fn bpr_min(self) -> u32 {
        8 - self.preemption_bits()
    }
    /// Priority bits minus one, as ICC_CTLR_EL1.PRIbits reports.
    pub const fn pri_bits(self) -> u32 {
        self.0 >> 29 & 7
    }
    /// Identifier bits, as ICC_CTLR_EL1.IDbits encodes them.
    pub const fn id_bits(self) -> u32 {
        self.0 >> 23 & 7
    }
    /// Whether affinity level 3 can be other than zero in SGIs.
    pub const fn a3v(self) -> u32 {
        self.0 >> 21 & 1
    }
}

/// The guest's control of its interface, ICH_VMCR_EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Vmcr(u32);

impl Vmcr {
    const VENG0: u32 = 1 << 0;
    const VENG1: u32 = 1 << 1;
    const VCBPR: u32 = 1 << 4;
    const VEOIM: u32 = 1 << 9;
    const VBPR1_SHIFT: u32 = 18;
    const VBPR0_SHIFT: u32 = 21;
    const VPMR_SHIFT: u32 = 24;

    /// The control word that `raw` encodes.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }
    /// The control word as a number.
    pub const fn raw(self) -> u32 {
        self.0
    }
    const fn bit(self, mask: u32) -> bool {
        self.0 & mask != 0
    }
    const fn insert(self, shift: u32, mask: u32, value: u32) -> Self {
        Self(self.0 & !(mask << shift) | (value & mask) << shift)
    }
    /// Whether the group is enabled.
    pub const fn enabled(self, group: Group) -> bool {
        match group {
            Group::G0 => self.bit(Self::VENG0),
            Group::G1 => self.bit(Self::VENG1),
        }
    }
    /// The word with the group's enable taken from bit 0 of `value`.
    #[must_use]
    pub const fn with_enabled(self, group: Group, value: u32) -> Self {
        match group {
            Group::G0 => self.insert(0, 1, value),
            Group::G1 => self.insert(1, 1, value),
        }
    }
    /// Whether group 1 uses group 0's binary point.
    pub const fn common_bpr(self) -> bool {
        self.bit(Self::VCBPR)
    }
    /// Whether writes to EOIR only drop the priority and DIR deactivates.
    pub const fn split_eoi(self) -> bool {
        self.bit(Self::VEOIM)
    }
    /// The word with the two fields of ICC_CTLR_EL1 that a guest can write, CBPR and EOImode, taken from `ctlr`.
    #[must_use]
    pub const fn with_ctlr(self, ctlr: u32) -> Self {
        self.insert(4, 1, ctlr).insert(9, 1, ctlr >> 1)
    }
    /// The binary point as ICC_BPR<n>_EL1 reads.
    pub const fn bpr(self, group: Group) -> u32 {
        let bpr0 = self.0 >> Self::VBPR0_SHIFT & 7;
        match group {
            Group::G0 => bpr0,
            // Group 1's scale is one off group 0's, and saturates.
            Group::G1 if self.common_bpr() => {
                if bpr0 < 7 {
                    bpr0 + 1
                } else {
                    7
                }
            }
            Group::G1 => self.0 >> Self::VBPR1_SHIFT & 7,
        }
    }
    /// The word with the group's binary point replaced.
    #[must_use]
    pub const fn with_bpr(self, group: Group, bpr: u32) -> Self {
        match group {
            Group::G0 => self.insert(Self::VBPR0_SHIFT, 7, bpr),
            Group::G1 => self.insert(Self::VBPR1_SHIFT, 7, bpr),
        }
    }
    /// The priority mask: only more urgent interrupts are signalled.
    pub const fn pmr(self) -> u8 {
        (self.0 >> Self::VPMR_SHIFT) as u8
    }
    /// The word with the priority mask replaced.
    #[must_use]
    pub const fn with_pmr(self, pmr: u8) -> Self {
        self.insert(Self::VPMR_SHIFT, 0xff, pmr as u32)
    }
    /// `priority` without the bits that do not count for preemption within `group`.
    pub const fn preemption_level(self, priority: u8, group: Group) -> u8 {
        let shift = match group {
            Group::G1 if !self.common_bpr() => self.0 >> Self::VBPR1_SHIFT & 7,
            _ => (self.0 >> Self::VBPR0_SHIFT & 7) + 1,
        };
        // A shift of eight leaves nothing: no interrupt of the group preempts another.
        (priority as u32 >> shift << shift) as u8
    }
}

/// Bits of ICH_HCR_EL2.
pub mod hcr {
    /// The virtual interface is on.
    pub const EN: u32 = 1 << 0;
    /// A maintenance interrupt where deactivations of unlisted interrupts were counted.
    pub const LRENPIE: u32 = 1 << 2;
    /// DIR traps.
    pub const TDIR: u32 = 1 << 14;
    /// Where the count of deactivations of unlisted interrupts begins.
    pub const EOICOUNT_SHIFT: u32 = 27;
    /// The count of deactivations of unlisted interrupts.
    pub const EOICOUNT: u32 = 0x1f << EOICOUNT_SHIFT;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_register_never_yields_impossible_counts() {
        for field in 0..8 {
            let vtr = Vtr::new(field << 26 | 0x1f);
            assert!((5..=7).contains(&vtr.preemption_bits()));
            assert!(matches!(vtr.aprs(), 1 | 2 | 4));
            assert_eq!(vtr.lrs(), 16);
        }
        assert_eq!(Vtr::new(4 << 26 | 3).aprs(), 1);
        assert_eq!(Vtr::new(5 << 26).aprs(), 2);
        assert_eq!(Vtr::new(6 << 26).aprs(), 4);
        assert_eq!(Vtr::new(3).lrs(), 4);
    }

    #[test]
    fn preemption_level_follows_the_binary_point() {
        let vmcr = Vmcr::default().with_bpr(Group::G0, 2).with_bpr(Group::G1, 5);
        assert_eq!(vmcr.preemption_level(0xff, Group::G0), 0xf8);
        assert_eq!(vmcr.preemption_level(0xff, Group::G1), 0xe0);
        let common = vmcr.with_ctlr(1);
        assert_eq!(common.preemption_level(0xff, Group::G1), 0xf8);
        assert_eq!(common.bpr(Group::G1), 3);
        let coarse = common.with_bpr(Group::G0, 7);
        assert_eq!(
            coarse.preemption_level(0xff, Group::G1),
            0,
            "no preemption at all"
        );
        assert_eq!(coarse.bpr(Group::G1), 7, "the register saturates");
    }

    #[test]
    fn fields_of_the_control_word_do_not_touch_each_other() {
        let all = Vmcr::new(u32::MAX);
        assert_eq!(all.with_pmr(0).raw(), 0x00ff_ffff);
        assert_eq!(all.with_bpr(Group::G0, 0).raw(), !(7 << 21));
        assert_eq!(all.with_bpr(Group::G1, 0).raw(), !(7 << 18));
        assert_eq!(all.with_ctlr(0).raw(), !(1 << 9 | 1 << 4));
        assert_eq!(all.with_enabled(Group::G0, 2).raw(), !1);
        assert_eq!(all.with_enabled(Group::G1, 0).raw(), !2);
    }

    #[test]
    fn a_list_register_takes_its_steps() {
        let lr = Lr::new(Lr::PENDING | Lr::HW | Lr::GROUP | 0xa0 << 48 | 0x3ff << 32 | 0x1b);
        assert!(lr.is_only_pending() && !lr.is_active());
        assert_eq!(
            (lr.vintid(), lr.pintid(), lr.priority(), lr.group()),
            (27, Some(0x3ff), 0xa0, Group::G1)
        );
        let active = lr.acknowledged();
        assert!(active.is_active() && !active.is_only_pending());
        assert!(!active.deactivated().is_active());
        assert_eq!(Lr::new(u64::MAX).finished().raw() >> 62, 0);
        assert_eq!(Lr::new(!Lr::HW).pintid(), None);
    }
}
