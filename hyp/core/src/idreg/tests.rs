// SPDX-License-Identifier: GPL-2.0-only
extern crate std;

use super::*;
use crate::sysreg::{ID_REGS, id_index};
use proptest::prelude::*;
use std::collections::BTreeSet;

const TABLES: [(&str, &[Cap]); 8] = [
    ("PFR0", PFR0),
    ("PFR1", PFR1),
    ("PFR2", PFR2),
    ("ISAR1", ISAR1),
    ("ISAR2", ISAR2),
    ("MMFR0", MMFR0),
    ("MMFR1", MMFR1),
    ("MMFR2", MMFR2),
];
const ALL: Granted = Granted {
    sve: true,
    ptrauth: true,
};

#[test]
fn fields_are_nibbles_in_order_and_caps_fit() {
    for (name, caps) in TABLES {
        assert!(caps.is_sorted_by(|a, b| a.field.shift < b.field.shift), "{name}");
        for cap in caps {
            assert!(cap.field.shift % 4 == 0 && cap.field.shift < 64, "{name}");
            assert!(
                cap.max >= 0 && cap.max <= if cap.field.signed { 7 } else { 15 },
                "{name}"
            );
        }
    }
}

#[test]
fn a_signed_field_is_twos_complement() {
    let field = Field::signed(8);
    assert_eq!(field.get(0xf00), -1);
    assert_eq!(field.get(0x800), -8);
    assert_eq!(field.get(0x700), 7);
    assert_eq!(field.put(-1), 0xf00);
    assert_eq!(Field::unsigned(60).get(u64::MAX), 15);
}

/// The rule in the kernel's words: with a negative value on either side the larger unsigned number wins.
fn kernels_rule(system: u64, cap: &Cap, granted: Granted) -> u64 {
    let system = system >> cap.field.shift & 15;
    let max = u64::from(cap.max.cast_unsigned());
    let missing = match cap.needs {
        Needs::Nothing => false,
        Needs::Sve => !granted.sve,
        Needs::PtrAuth => !granted.ptrauth,
    };
    let value = if missing {
        if cap.field.signed { 15 } else { 0 }
    } else if cap.field.signed && (system >= 8 || max >= 8) {
        system.max(max)
    } else {
        system.min(max)
    };
    value << cap.field.shift
}

proptest! {
    #[test]
    fn restriction_is_the_kernels(system: u64, sve: bool, ptrauth: bool) {
        let granted = Granted { sve, ptrauth };
        for (_, caps) in TABLES {
            let expected = caps.iter().fold(0, |value, cap| value | kernels_rule(system, cap, granted));
            prop_assert_eq!(restrict(system, caps, granted), expected);
        }
    }

    #[test]
    fn a_vm_never_has_more_than_the_machine_nor_than_its_cap(system: u64, sve: bool, ptrauth: bool) {
        for (_, caps) in TABLES {
            let value = restrict(system, caps, Granted { sve, ptrauth });
            for cap in caps {
                let field = cap.field.get(value);
                prop_assert!(field <= cap.field.get(system) || field == cap.field.none());
                prop_assert!(field <= cap.max);
            }
            let listed = caps.iter().fold(0, |mask, cap| mask | 15 << cap.field.shift);
            prop_assert_eq!(value & !listed, 0);
            prop_assert_eq!(restrict(value, caps, ALL), value);
        }
    }
}

fn everything() -> SystemIds {
    // All ones is "not implemented" in a signed field, so those have 1 here.
    SystemIds {
        pfr0: !(0xff << 16) | 0x11 << 16,
        pfr1: u64::MAX,
        pfr2: u64::MAX,
        isar0: 0x1122_3344_5566_7788,
        isar1: u64::MAX,
        isar2: u64::MAX,
        mmfr0: !(0xff << 24) | 0x11 << 24,
        mmfr1: u64::MAX,
        mmfr2: u64::MAX,
    }
}

#[test]
fn a_machine_with_everything_gives_exactly_the_caps() {
    let system = everything();
    let value = |reg| protected_value(reg, &system, ALL);
    assert_eq!(value(regs::PFR0), 0x1101_0001_1111_1111);
    assert_eq!(value(regs::PFR1), 0x0000_0f00_0000_0021);
    assert_eq!(value(regs::PFR2), 0);
    assert_eq!(value(regs::ISAR0), system.isar0);
    assert_eq!(value(regs::ISAR1), 0x0011_2211_1131_1112);
    assert_eq!(value(regs::ISAR2), 0x1000_0000_0000_1100);
    assert_eq!(value(regs::MMFR0), 0x0000_1000_0011_1122);
    assert_eq!(value(regs::MMFR1), 0x0100_0010_0130_2022);
    assert_eq!(value(regs::MMFR2), 0x1021_0011_0000_1011);
    assert_eq!(value(regs::DFR0), 0x000f_00f0_0000_0000);
    assert_eq!(value(regs::MMFR4), 0x0f00_0000);
}

#[test]
fn sve_and_pointer_authentication_need_a_grant() {
    let system = everything();
    let value = |reg| protected_value(reg, &system, Granted::default());
    assert_eq!(Field::unsigned(32).get(value(regs::PFR0)), 0);
    assert_eq!(value(regs::ISAR1) >> 4 & 0xff, 0);
    assert_eq!(value(regs::ISAR2) >> 8 & 0xff, 0);
}

#[test]
fn a_machine_without_a_signed_feature_keeps_saying_so() {
    let system = SystemIds {
        pfr0: 0xff << 16,
        mmfr0: 0xff << 24,
        ..SystemIds::default()
    };
    assert_eq!(protected_value(regs::PFR0, &system, ALL), 0xff << 16);
    assert_eq!(protected_value(regs::MMFR0, &system, ALL), 0xff << 24);
}

#[test]
fn registers_that_are_not_listed_read_as_zero() {
    let system = everything();
    let known = [
        regs::PFR0,
        regs::PFR1,
        regs::ISAR0,
        regs::ISAR1,
        regs::ISAR2,
        regs::MMFR0,
        regs::MMFR1,
        regs::MMFR2,
        regs::DFR0,
        regs::MMFR4,
    ];
    for reg in aarch64_registers() {
        let value = protected_value(reg, &system, ALL);
        assert_eq!(value != 0, known.contains(&reg), "{reg:?}");
    }
    let indices: BTreeSet<_> = aarch64_registers().map(|reg| id_index(reg).unwrap()).collect();
    assert!(indices.into_iter().eq(24..ID_REGS));
}

#[test]
fn protected_vms_have_none_of_the_trapped_features() {
    let system = everything();
    let ids = ProtectedIds {
        system: &system,
        granted: ALL,
    };
    for feature in [
        Feature::AARCH32_EL0,
        Feature::AARCH32_EL1,
        Feature::AMU,
        Feature::SME,
        Feature::FPMR,
        Feature::DEBUG,
        Feature::PMU,
        Feature::SPE,
        Feature::DOUBLE_LOCK,
        Feature::TRACE_FILTER,
        Feature::TRACE_BUFFER,
        Feature::LS64,
        Feature::LS64_V,
        Feature::MOPS,
        Feature::FGT,
        Feature::LOR,
        Feature::TCR2,
        Feature::SCTLR2,
    ] {
        assert!(!ids.has(feature), "{feature:?}");
    }
    assert!(
        [Feature::FP, Feature::ADVSIMD, Feature::RAS, Feature::IDST]
            .into_iter()
            .all(|feature| ids.has(feature))
    );
    assert_eq!(check_protected(&ids), Ok(()));
}

/// A VM with one ID register that is not zero.
struct Only(SysReg, u64);
impl IdRegs for Only {
    fn id_reg(&self, reg: SysReg) -> u64 {
        if reg == self.0 { self.1 } else { 0 }
    }
}

#[test]
fn features_that_cannot_be_kept_from_a_guest_refuse_the_vm() {
    assert_eq!(check_protected(&Only(regs::PFR0, 0x11)), Ok(()));
    for bad in [0x12, 0x21, 0xf_0011, 0xf0_0011] {
        assert_eq!(
            check_protected(&Only(regs::PFR0, bad)),
            Err(Error::Invalid),
            "{bad:#x}"
        );
    }
    assert_eq!(check_protected(&Only(regs::PFR1, 1 << 24)), Err(Error::Invalid));
}
