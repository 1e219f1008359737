// SPDX-License-Identifier: GPL-2.0-only
extern crate std;

use super::*;
use crate::psci::{Call, Config, V01Ids};
use proptest::prelude::*;

const V1: Config = Config::V1;
const V0_1: Config = Config::V0_1(V01Ids {
    cpu_suspend: None,
    cpu_on: Some(0x95c1_0002),
    cpu_off: Some(0x95c1_0000),
    migrate: Some(0x8400_0003),
});

#[test]
fn an_immediate_or_upper_bits_are_refused() {
    for imm in [1, 0x8000, 0xffff] {
        assert_eq!(route(imm, 0xc400_0003, &V1), Route::NotSupported);
    }
    // The rest of the syndrome does not count.
    assert_eq!(
        route(0x17 << 26 | 1 << 25, 0x8400_0000, &V1),
        Route::Psci(Call::Forward, 0x8400_0000)
    );
    for bit in 32..64 {
        assert_eq!(route(0, 1 << bit | 0xc400_0003, &V1), Route::NotSupported);
        assert_eq!(route(0, 1 << bit | 0x8200_0000, &V1), Route::NotSupported);
    }
}

#[test]
fn the_hint_changes_nothing() {
    for function in [
        0xc400_0003_u64,
        0x8400_0063,
        0xc400_0020,
        0xc400_0150,
        0x8200_0000,
        0x8000_0001,
    ] {
        assert_eq!(
            route(0, function | 1 << 16, &V1),
            route(0, function, &V1),
            "{function:#x}"
        );
    }
    assert_eq!(route(0, 0xc401_0003, &V1), Route::Psci(Call::CpuOn, 0xc400_0003));
}

#[test]
fn each_owner_goes_its_way() {
    let at = |function| route(0, function, &V1);
    assert_eq!(at(0xc400_001f), Route::Psci(Call::Unsupported, 0xc400_001f));
    for sdei in [0x8400_0020, 0x8400_003f, 0xc400_0020, 0xc400_0021, 0xc400_003f] {
        assert_eq!(at(sdei), Route::NotSupported, "SDEI {sdei:#x}");
    }
    for ffa in [0x8400_0060, 0x8400_00ff, 0xc400_0060, 0xc400_00ff, 0x8400_0063] {
        assert_eq!(at(ffa), Route::Ffa(ffa as u32));
    }
    for rmi in [0xc400_0150, 0xc400_01cf, 0x8400_0151] {
        assert_eq!(at(rmi), Route::NotSupported, "RMI {rmi:#x}");
    }
    for entry in [0xc400_0114, 0x8400_0110, 0xc400_02e5, 0xc400_02e0] {
        assert_eq!(at(entry), Route::NotSupported, "DRTM and LFA {entry:#x}");
    }
    // Architecture and CPU, management mode, random numbers, stolen time, a hypervisor below; the chip's and the board's, of
    // which some go far beyond the convention (Tegra); trusted applications and their system, which may yield.
    for other in [
        0x8000_0000,
        0x8000_0001,
        0x8000_3fff,
        0x8000_7fff,
        0x8000_8000,
        0x8100_0010,
        0x8400_0050,
        0xc400_0053,
        0xc400_0041,
        0x8400_ff01,
        0xc500_0020,
        0xc500_0021,
        0x8600_ff01,
        0x8600_0000,
        0x8600_0001,
        0xc600_0041,
        0x8200_0000,
        0xc2ff_fe00,
        0xc2ff_ff01,
        0x4200_0001,
        0xc300_ffff,
        0x3200_0004,
        0x72fe_0000,
        0xb200_ff01,
        0xb000_0000,
        0xffff_fffa,
    ] {
        assert_eq!(at(other), Route::Forward, "{other:#x}");
    }
}

#[test]
fn what_is_not_on_the_list_is_refused() {
    let at = |function| route(0, function, &V1);
    for other in [
        // Standard calls between and beyond the known ones.
        0x8400_0100,
        0xc400_0130,
        0xc400_01d0,
        0x8400_7fff,
        0x8400_ff04,
        0x8400_ffff,
        // By which a VM shares memory with a hypervisor below it, or tells it which pages are devices.
        0xc600_0002,
        0xc600_0003,
        0xc600_0004,
        0xc600_0007,
        0x8500_0000,
        0xc500_0040,
        // Owners that nobody is.
        0x8700_0000,
        0xaf00_0000,
        0xc900_0000,
        // Yielding calls of those who do not yield.
        0,
        0x0100_0000,
        0x0400_0003,
        0x4400_0063,
        0x0600_0000,
        // Bits that must be zero.
        0x8002_0000,
        0x8180_0010,
        0x8402_0050,
        0x8440_0000,
        0x8504_0020,
    ] {
        assert_eq!(at(other), Route::NotSupported, "{other:#x}");
    }
}

#[test]
fn version_0_1_may_have_any_number_and_leaves_no_other_way_to_start_a_cpu() {
    assert_eq!(
        route(0, 0x95c1_0002, &V0_1),
        Route::Psci(Call::CpuOn, 0x95c1_0002)
    );
    assert_eq!(
        route(0, 0x95c1_0000, &V0_1),
        Route::Psci(Call::Forward, 0x95c1_0000)
    );
    assert_eq!(
        route(0, 0x8400_0003, &V0_1),
        Route::Psci(Call::Forward, 0x8400_0003)
    );
    assert_eq!(route(0, 0xc400_0003, &V0_1), Route::NotSupported);
    assert_eq!(route(0, 0x95c1_0004, &V0_1), Route::NotSupported);
}

proptest! {
    #[test]
    fn nothing_that_a_filter_wants_is_forwarded(x0 in prop_oneof![
            any::<u64>(), any::<u32>().prop_map(u64::from),
            (0_u64..0x400, any::<bool>(), 0_u64..512).prop_map(|(n, wide, odd)| {
                0x8400_0000 | n | u64::from(wide) << 30 | odd << 16
            })], v1: bool) {
        let config = if v1 { V1 } else { V0_1 };
        if route(0, x0, &config) == Route::Forward {
            prop_assert!(x0 >> 32 == 0);
            let bits = x0 & !(1 << 16);
            let (fast, owner) = (bits >> 31 == 1, bits >> 24 & 0x3f);
            let free = matches!(owner, 2 | 3 | 48..=63);
            prop_assert!(free || fast && owner <= 6);
            if !free {
                prop_assert_eq!(bits >> 17 & 0x7f, 0);
            }
            if owner == 4 {
                let function = bits & 0xffff;
                prop_assert!(function >= 0x40, "PSCI or SDEI {:#x}", x0);
                prop_assert!(!(0x60..0x100).contains(&function), "FF-A {:#x}", x0);
                prop_assert!(!(0x110..0x130).contains(&function), "DRTM {:#x}", x0);
                prop_assert!(!(0x150..0x1d0).contains(&function), "RMI {:#x}", x0);
                prop_assert!(!(0x2e0..0x300).contains(&function), "LFA {:#x}", x0);
            }
        }
    }
}
