// SPDX-License-Identifier: GPL-2.0-only
extern crate std;

use super::*;
use proptest::prelude::*;

const EL0: u64 = 0x0;
const EL1H: u64 = 0x5;
const AARCH32_EL0: u64 = 0x10;
const SPAN: u64 = 1 << 23;

fn before(spsr: u64) -> Before {
    Before {
        spsr,
        pc: 0xffff_8000_0001_0000,
        vbar: 0xffff_8000_0100_0000,
        sctlr: SPAN,
        mte: false,
    }
}

#[test]
fn classes_are_told_apart() {
    let of = |class: u64| decode(class << 26 | 1 << 25);
    assert_eq!(of(0x16), HostTrap::Hypercall);
    assert_eq!(of(0x17), HostTrap::Smc);
    assert_eq!(of(0x18), HostTrap::SysReg);
    for class in (0..64).filter(|class| ![0x16, 0x17, 0x18, 0x20, 0x24].contains(class)) {
        assert_eq!(of(class), HostTrap::Other, "{class:#x}");
    }
    // ISS2 is above the class.
    assert_eq!(decode(0xffff_ffff << 32 | 0x16 << 26), HostTrap::Hypercall);
}

#[test]
fn aborts_are_described() {
    let fetch = HostTrap::Abort(Abort {
        status: FaultStatus::Permission,
        write: false,
        fetch: true,
        on_walk: false,
    });
    assert_eq!(decode(0x20 << 26 | 0xf), fetch);
    let store = HostTrap::Abort(Abort {
        status: FaultStatus::Translation,
        write: true,
        fetch: false,
        on_walk: false,
    });
    assert_eq!(decode(0x9200_0047), store);
    let walk = HostTrap::Abort(Abort {
        status: FaultStatus::Translation,
        write: false,
        fetch: false,
        on_walk: true,
    });
    assert_eq!(decode(0x20 << 26 | 1 << 7 | 6), walk);
}

#[test]
fn every_fault_status_has_its_kind() {
    use FaultStatus::{AccessFlag, AddressSize, External, Other, Permission, Translation};
    for code in 0..64 {
        let expected = match code {
            0b000000..=0b000011 | 0b101001 | 0b101100 => AddressSize,
            0b000100..=0b000111 | 0b101010 | 0b101011 => Translation,
            0b001000..=0b001011 => AccessFlag,
            0b001100..=0b001111 => Permission,
            // External aborts and ECC errors, on the access or on a walk from level -2 on.
            0b010000 | 0b010010..=0b011000 | 0b011011..=0b011111 => External,
            _ => Other,
        };
        assert_eq!(FaultStatus::decode(code), expected, "{code:#b}");
    }
}

#[test]
fn an_undefined_instruction_of_the_kernel() {
    let injection = undefined(&before(0x6000_0000 | EL1H));
    assert_eq!(
        injection,
        Injection {
            esr_el1: Some(0x0200_0000),
            far_el1: None,
            elr_el1: 0xffff_8000_0001_0000,
            spsr_el1: 0x6000_0005,
            elr_el2: 0xffff_8000_0100_0200,
            spsr_el2: 0x6000_03c5,
        }
    );
}

#[test]
fn the_vector_depends_on_where_the_exception_comes_from() {
    let target = |spsr, vector| inject(&before(spsr), vector, None, None).elr_el2 & 0xfff;
    assert_eq!(target(EL1H, Vector::Sync), 0x200);
    assert_eq!(target(4, Vector::Irq), 0x080);
    assert_eq!(target(EL0, Vector::Fiq), 0x500);
    assert_eq!(target(AARCH32_EL0, Vector::SError), 0x780);
}

#[test]
fn pstate_follows_sctlr_and_the_features() {
    let base = before(!0x1f | EL1H);
    let kept = 0xf << 28 | 1 << 24 | 1 << 22;
    assert_eq!(entry_pstate(&base), kept | 0x3c5);
    assert_eq!(
        entry_pstate(&Before { mte: true, ..base }),
        kept | 1 << 25 | 0x3c5
    );
    let quiet = Before { spsr: EL0, ..base };
    assert_eq!(entry_pstate(&quiet), 0x3c5);
    assert_eq!(entry_pstate(&Before { sctlr: 0, ..quiet }), 1 << 22 | 0x3c5);
    assert_eq!(
        entry_pstate(&Before {
            sctlr: SPAN | 1 << 44,
            ..quiet
        }),
        1 << 12 | 0x3c5
    );
}

#[test]
fn an_abort_on_a_page_of_others_is_marked() {
    // A write of the kernel to an unmapped page, then the same from user space, and a fetch.
    let far = 0xffff_0000_dead_0000;
    let kernel = protected_abort(&before(EL1H), 0x9200_0047, far);
    assert_eq!((kernel.esr_el1, kernel.far_el1), (Some(0x9600_00c7), Some(far)));
    let user = protected_abort(&before(EL0), 0x9200_0047, far);
    assert_eq!((user.esr_el1, user.far_el1), (Some(0x9200_00c7), Some(far)));
    let user32 = protected_abort(&before(AARCH32_EL0), 0x9200_0047, far);
    assert_eq!(user32.esr_el1, user.esr_el1);
    let fetch = protected_abort(&before(EL1H), 0x8200_000f, far);
    assert_eq!(
        (fetch.esr_el1, fetch.far_el1),
        (Some(0x8600_008f), None),
        "a permission fault leaves FAR_EL1 alone"
    );
}

#[test]
fn an_access_that_cannot_be_resolved_is_an_external_abort() {
    let abort = external_abort(&before(EL1H), 0x9200_00c7 | 1 << 10, 0x1234);
    assert_eq!((abort.esr_el1, abort.far_el1), (Some(0x9600_0050), Some(0x1234)));
}

proptest! {
    #[test]
    fn the_host_goes_on_at_its_vectors_in_el1_with_interrupts_masked(
        spsr: u64, pc: u64, vbar: u64, sctlr: u64, mte: bool, esr: u64, far: u64
    ) {
        let before = Before { spsr, pc, vbar, sctlr, mte };
        for injection in [undefined(&before), reflected(&before, esr), protected_abort(&before, esr, far),
                          external_abort(&before, esr, far)] {
            prop_assert_eq!(injection.spsr_el2 & 0x1f, EL1H);
            prop_assert_eq!(injection.spsr_el2 & 0x3c0, 0x3c0);
            // IL, SS, UAO and BTYPE are clear.
            prop_assert_eq!(injection.spsr_el2 & (1 << 20 | 1 << 21 | 1 << 23 | 3 << 10), 0);
            prop_assert_eq!((injection.elr_el1, injection.spsr_el1), (pc, spsr));
            prop_assert!([0, 0x200, 0x400, 0x600].contains(&injection.elr_el2.wrapping_sub(vbar)));
        }
    }

    #[test]
    fn skipping_ends_a_step_and_a_branch(pc: u64, spsr: u64) {
        let (next, pstate) = skip_instruction(pc, spsr);
        prop_assert_eq!(next, pc.wrapping_add(4));
        prop_assert_eq!(pstate, spsr & !(1 << 21 | 3 << 10));
    }
}

#[test]
fn a_fault_within_a_page_is_moved_to_its_start() {
    // FIPA counts 4 KiB: the address 0x4072_d000 of a fault, and NS above it.
    let ns = 1 << 63;
    let page = 0x4072_d000 & pkvm_types::PAGE_MASK;
    assert_eq!(super::hpfar_of_page(ns | 0x4072_d000 >> 8), ns | page >> 8);
}
