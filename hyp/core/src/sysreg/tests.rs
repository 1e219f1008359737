// SPDX-License-Identifier: GPL-2.0-only
#![allow(
    clippy::match_same_arms,
    clippy::unnested_or_patterns,
    reason = "an arm per block of the contract"
)]
extern crate std;

use super::table::{NAMES, RULES};
use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

/// Every register that an instruction can name, with its fields.
fn all() -> impl Iterator<Item = ([u32; 5], SysReg)> {
    (0..1 << 16).map(|bits: u32| {
        let fields = [
            bits >> 14,
            bits >> 11 & 7,
            bits >> 7 & 15,
            bits >> 3 & 15,
            bits & 7,
        ];
        let [op0, op1, crn, crm, op2] = fields;
        (fields, SysReg::new(op0, op1, crn, crm, op2))
    })
}

/// The syndrome of an access, built from the Arm ARM's layout.
fn esr([op0, op1, crn, crm, op2]: [u32; 5], rt: u8, access: Access) -> u64 {
    let iss = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | u32::from(rt) << 5 | crm << 1;
    0x18 << 26 | 1 << 25 | u64::from(iss) | u64::from(access == Access::Read)
}

/// The rules, said again as the contract says them: by blocks and not by rows.
fn expected(fields: [u32; 5], access: Access, idst: bool) -> Decision {
    let read = access == Access::Read;
    let raz_wi = Decision::Done(read.then_some(0));
    match fields {
        // Breakpoint and watchpoint 0, MDSCR, and the OS locks.
        [2, 0, 0, 0, 4..=7] | [2, 0, 0, 2, 2] | [2, 0, 1, 0 | 1 | 3, 4] => raz_wi,
        // Error records.
        [3, 0, 5, 3, 0 | 1] | [3, 0, 5, 4, 0..=3] | [3, 0, 5, 5, 0 | 1] => raz_wi,
        // ID groups: AArch32 reads as zero, AArch64 as the VM's value. The closure of the test doubles the index.
        [3, 0, 0, 1..=7, _] if !read => Decision::Undef,
        [3, 0, 0, 1 | 2, _] | [3, 0, 0, 3, 0..=2 | 4..=6] => Decision::Done(Some(0)),
        [3, 0, 0, crm @ 3..=7, op2] => Decision::Done(Some(u64::from(crm - 1) * 16 + u64::from(op2) * 2)),
        [3, 0, 12, 12, 5] => Decision::Done(read.then_some(7)),
        [3, 1, 0, 0, 2 | 4 | 6] => {
            if idst {
                Decision::Reflect
            } else {
                Decision::Undef
            }
        }
        // REVIDR, AIDR, CCSIDR, CLIDR, CSSELR, CTR.
        [3, 0, 0, 0, 6] | [3, 1, 0, 0, 7 | 0 | 1] | [3, 2, 0, 0, 0] | [3, 3, 0, 0, 1] => Decision::ToHost,
        // The GIC's PMR, DIR, RPR, SGI generation and CTLR.
        [3, 0, 4, 6, 0] | [3, 0, 12, 11, 1 | 3 | 5..=7] | [3, 0, 12, 12, 4] => Decision::ToHost,
        // The physical timer.
        [3, 3, 14, 2, 0..=2] => Decision::ToHost,
        _ => Decision::Undef,
    }
}

#[test]
fn every_register_gets_what_the_contract_says() {
    for (fields, reg) in all() {
        for access in [Access::Read, Access::Write] {
            for idst in [false, true] {
                let trap = Trap::decode(esr(fields, 9, access));
                assert_eq!(trap, Trap { reg, rt: 9, access });
                let got = decide(trap, idst, |index| index as u64 * 2);
                assert_eq!(
                    got,
                    expected(fields, access, idst),
                    "{fields:?} {access:?} idst {idst}"
                );
            }
        }
    }
}

#[test]
fn registers_are_ordered_by_their_fields() {
    let mut sorted: Vec<_> = all().collect();
    sorted.sort_by_key(|(_, reg)| *reg);
    assert!(sorted.is_sorted_by_key(|(fields, _)| *fields));
    assert_eq!(
        sorted.iter().map(|(_, reg)| reg).collect::<BTreeSet<_>>().len(),
        1 << 16
    );
}

#[test]
fn the_syndromes_other_bits_do_not_matter() {
    let plain = esr([3, 0, 0, 4, 0], 31, Access::Read);
    let trap = Trap::decode(plain | 0xff << 32 | 7 << 22);
    assert_eq!(trap, Trap::decode(plain));
    assert_eq!(trap.rt, 31);
}

#[test]
fn id_registers_have_the_kernels_indices() {
    let with_index: BTreeMap<_, _> = all()
        .filter_map(|(fields, reg)| Some((fields, id_index(reg)?)))
        .collect();
    assert_eq!(with_index.len(), ID_REGS);
    for ([op0, op1, crn, crm, op2], index) in with_index {
        assert_eq!((op0, op1, crn), (3, 0, 0));
        assert_eq!(index, ((crm - 1) << 3 | op2) as usize);
    }
}

#[test]
fn names_are_unique() {
    let named: Vec<_> = NAMES.iter().filter(|name| **name != "unallocated").collect();
    assert_eq!(named.iter().collect::<BTreeSet<_>>().len(), named.len());
    assert_eq!(NAMES.len(), RULES.len());
}

#[test]
fn registers_print_as_the_assembler_spells_them() {
    assert_eq!(std::format!("{:?}", SysReg::new(3, 4, 1, 2, 2)), "S3_4_C1_C2_2");
}
