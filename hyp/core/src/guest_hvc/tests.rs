// SPDX-License-Identifier: GPL-2.0-only
extern crate std;

use super::*;
use pkvm_types::Error;
use proptest::prelude::*;

const REFUSED: Decision = Decision::Reply([u64::MAX - 2, 0, 0, 0]);

#[test]
fn each_call_has_its_answer() {
    assert_eq!(
        decide([0x8600_0000, 1, 2, 3]),
        Decision::Reply([0b11101, 0, 0, 0])
    );
    assert_eq!(
        decide([0xc600_0002, 0, 0, 0]),
        Decision::Reply([PAGE_SIZE, 0, 0, 0])
    );
    assert_eq!(
        decide([0xc600_0003, 7 * PAGE_SIZE, 0, 0]),
        Decision::Share(Ipa::new(7 * PAGE_SIZE))
    );
    assert_eq!(
        decide([0xc600_0004, 7 * PAGE_SIZE, 0, 0]),
        Decision::Unshare(Ipa::new(7 * PAGE_SIZE))
    );
    // PSCI, TRNG, and the calls that KVM's host side has.
    for function in [
        0x8400_0000,
        0xc400_0003,
        0x8400_0050,
        0x8600_0001,
        0xc600_0001,
        0xc600_0005,
        0x8600_0002,
        0,
    ] {
        assert_eq!(decide([function, 0, 0, 0]), Decision::ToHost, "{function:#x}");
    }
}

#[test]
fn stray_arguments_are_refused() {
    for function in [0xc600_0002, 0xc600_0003, 0xc600_0004] {
        assert_eq!(decide([function, 0, 1, 0]), REFUSED);
        assert_eq!(decide([function, 0, 0, 1 << 63]), REFUSED);
        assert_eq!(decide([function, 1, 0, 0]), REFUSED);
        assert_eq!(decide([function, PAGE_SIZE / 2, 0, 0]), REFUSED);
    }
    assert_eq!(decide([0xc600_0002, PAGE_SIZE, 0, 0]), REFUSED);
}

#[test]
fn only_an_unmapped_page_makes_the_guest_exit() {
    let ipa = Ipa::new(0x12_3456_7000);
    assert_eq!(share_reply(ipa, Ok(())), ShareReply::Reply([0; 4]));
    for error in [
        Error::Perm,
        Error::Range,
        Error::Poisoned,
        Error::TooBig,
        Error::NoMemory,
    ] {
        assert_eq!(
            share_reply(ipa, Err(error)),
            ShareReply::Reply([u64::MAX - 2, 0, 0, 0])
        );
    }
    // Golden values: DABT_LOW, IL, WnR, level 3 translation fault; FIPA with NS.
    assert_eq!(
        share_reply(ipa, Err(Error::NotFound)),
        ShareReply::Fault(FaultInfo {
            esr_el2: 0x9200_0047,
            far_el2: 0,
            hpfar_el2: 0x8000_0000_1234_5670
        })
    );
    assert_eq!(reply(Err(Error::NotFound)), [u64::MAX - 2, 0, 0, 0]);
}

proptest! {
    #[test]
    fn the_fault_names_the_page(page in 0_u64..1 << 40) {
        let fault = FaultInfo::unmapped_write(Ipa::new(page << 12));
        // HPFAR_EL2.FIPA is bits 47 to 4.
        prop_assert_eq!((fault.hpfar_el2 >> 4 & ((1 << 44) - 1)) << 12, page << 12);
    }

    #[test]
    fn only_whole_pages_are_shared(words: [u64; 4], function in 0xc600_0000_u64..0xc600_0008) {
        if let Decision::Share(ipa) | Decision::Unshare(ipa) = decide([function, words[1], words[2], words[3]]) {
            prop_assert!(ipa.is_page_aligned());
        }
        // The upper half of x0 is no part of the number.
        prop_assert_eq!(decide([function | words[0] << 32, words[1], 0, 0]), decide([function, words[1], 0, 0]));
    }
}
