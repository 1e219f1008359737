// SPDX-License-Identifier: GPL-2.0-only
//! Which CPU interface register a trapped system register access names.

use super::words::Group;

/// A CPU interface register that EL2 emulates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reg {
    /// ICC_IAR<n>_EL1: acknowledge.
    Iar(Group),
    /// ICC_EOIR<n>_EL1: end of interrupt.
    Eoir(Group),
    /// ICC_HPPIR<n>_EL1: highest priority pending interrupt.
    Hppir(Group),
    /// ICC_BPR<n>_EL1: binary point.
    Bpr(Group),
    /// ICC_AP<n>R<m>_EL1: active priorities.
    Apr(Group, usize),
    /// ICC_IGRPEN<n>_EL1: group enable.
    Igrpen(Group),
    /// ICC_DIR_EL1: deactivate.
    Dir,
    /// ICC_RPR_EL1: running priority.
    Rpr,
    /// ICC_CTLR_EL1: control.
    Ctlr,
    /// ICC_PMR_EL1: priority mask.
    Pmr,
}

/// The direction of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// The guest reads the register: MRS or MRC.
    Read,
    /// The guest writes the register: MSR or MCR.
    Write,
}

/// A decoded access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// The register.
    pub reg: Reg,
    /// Read or write.
    pub direction: Direction,
    /// The general register that takes or gives the value; 31 is the zero register.
    pub rt: usize,
}

/// Decodes the syndrome of a trapped MSR or MRS, or of an AArch32 MCR or MRC of coprocessor 15, whose registers have
/// the same numbers. `None` where it is not a register that is emulated here; SGIs and ICC_SRE_EL1 are EL1's.
pub const fn decode(esr: u64) -> Option<Access> {
    let op1 = esr >> 14 & 7;
    let op2 = (esr >> 17 & 7) as u8;
    let crn = esr >> 10 & 0xf;
    let crm = (esr >> 1 & 0xf) as u8;
    let aarch64 = esr >> 26 & 0x3f == EC_SYS64;
    if op1 != 0 || (aarch64 && esr >> 20 & 3 != 3) {
        return None;
    }
    let reg = match (crn, crm, op2) {
        (4, 6, 0) => Reg::Pmr,
        (12, 8, 0) => Reg::Iar(Group::G0),
        (12, 8, 1) => Reg::Eoir(Group::G0),
        (12, 8, 2) => Reg::Hppir(Group::G0),
        (12, 8, 3) => Reg::Bpr(Group::G0),
        (12, 8, n @ 4..=7) => Reg::Apr(Group::G0, n as usize - 4),
        (12, 9, n @ 0..=3) => Reg::Apr(Group::G1, n as usize),
        (12, 11, 1) => Reg::Dir,
        (12, 11, 3) => Reg::Rpr,
        (12, 12, 0) => Reg::Iar(Group::G1),
        (12, 12, 1) => Reg::Eoir(Group::G1),
        (12, 12, 2) => Reg::Hppir(Group::G1),
        (12, 12, 3) => Reg::Bpr(Group::G1),
        (12, 12, 4) => Reg::Ctlr,
        (12, 12, 6) => Reg::Igrpen(Group::G0),
        (12, 12, 7) => Reg::Igrpen(Group::G1),
        _ => return None,
    };
    let direction = if esr & 1 != 0 {
        Direction::Read
    } else {
        Direction::Write
    };
    Some(Access {
        reg,
        direction,
        rt: (esr >> 5 & 0x1f) as usize,
    })
}

/// The exception class of a trapped AArch64 system register access.
const EC_SYS64: u64 = 0x18;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The syndrome of an access from AArch64.
    pub(crate) fn sys64(crn: u64, crm: u64, op2: u64, rt: u64, direction: Direction) -> u64 {
        let read = u64::from(direction == Direction::Read);
        EC_SYS64 << 26 | 1 << 25 | 3 << 20 | op2 << 17 | crn << 10 | rt << 5 | crm << 1 | read
    }

    #[test]
    fn registers_decode_by_number() {
        for (crm, op2, reg) in [
            (8, 0, Reg::Iar(Group::G0)),
            (8, 7, Reg::Apr(Group::G0, 3)),
            (9, 0, Reg::Apr(Group::G1, 0)),
            (9, 3, Reg::Apr(Group::G1, 3)),
            (11, 1, Reg::Dir),
            (11, 3, Reg::Rpr),
            (12, 1, Reg::Eoir(Group::G1)),
            (12, 4, Reg::Ctlr),
            (12, 7, Reg::Igrpen(Group::G1)),
        ] {
            let access = decode(sys64(12, crm, op2, 5, Direction::Write));
            assert_eq!(
                access,
                Some(Access {
                    reg,
                    direction: Direction::Write,
                    rt: 5
                })
            );
        }
        let pmr = decode(sys64(4, 6, 0, 31, Direction::Read));
        assert_eq!(
            pmr,
            Some(Access {
                reg: Reg::Pmr,
                direction: Direction::Read,
                rt: 31
            })
        );
    }

    #[test]
    fn others_do_not() {
        for (crn, crm, op2) in [
            (12, 12, 5),
            (12, 11, 5),
            (12, 11, 7),
            (12, 9, 4),
            (12, 11, 0),
            (4, 6, 1),
        ] {
            assert_eq!(decode(sys64(crn, crm, op2, 0, Direction::Read)), None);
        }
        let iar = sys64(12, 8, 0, 0, Direction::Read);
        assert_eq!(decode(iar | 4 << 14), None, "op1 = 4 is EL2's");
        assert_eq!(decode(iar & !(1 << 20)), None, "op0 = 2");
    }

    #[test]
    fn coprocessor_15_has_the_same_numbers() {
        // MRC p15, 0, r3, c12, c12, 0 with a condition where AArch64 has op0.
        let esr = 0x03 << 26 | 1 << 25 | 1 << 24 | 0xe << 20 | 12 << 10 | 3 << 5 | 12 << 1 | 1;
        let want = Access {
            reg: Reg::Iar(Group::G1),
            direction: Direction::Read,
            rt: 3,
        };
        assert_eq!(decode(esr), Some(want));
    }
}
