// SPDX-License-Identifier: GPL-2.0-only
//! The hypercalls of a protected guest, with every argument that must be refused.

use crate::Report;
use crate::cpu::hvc;

const FEATURES: u64 = 0x8600_0000;
const MEMINFO: u64 = 0xc600_0002;
const SHARE: u64 = 0xc600_0003;
const UNSHARE: u64 = 0xc600_0004;
/// SMCCC's INVALID_PARAMETER and NOT_SUPPORTED.
const INVALID: u64 = (-3i64).cast_unsigned();
/// A page of RAM that holds nothing of this program.
const PAGE: u64 = 0x4080_0000;

/// The test.
pub fn test(report: &mut Report) {
    if !report.protected {
        return;
    }
    let features = hvc([FEATURES, 0, 0, 0]);
    report.result(
        features == [0x1d, 0, 0, 0],
        format_args!("the features are the four calls: {:#x}", features[0]),
    );
    let [granule, ..] = hvc([MEMINFO, 0, 0, 0]);
    report.result(
        matches!(granule, 0x1000 | 0x4000 | 0x1_0000),
        format_args!("the granule is {granule:#x}"),
    );
    let mut expect = |what: &str, x: [u64; 4], want: u64| {
        let got = hvc(x);
        if got != [want, 0, 0, 0] {
            report.note(format_args!(
                "{what}: {:#x} {:#x} {:#x} {:#x}",
                got[0], got[1], got[2], got[3]
            ));
        }
        report.result(got == [want, 0, 0, 0], format_args!("{what}"));
    };
    for n in 1..4 {
        let mut x = [MEMINFO, 0, 0, 0];
        x[n] = 1;
        expect("MEMINFO with an argument", x, INVALID);
    }
    for (name, call) in [("MEM_SHARE", SHARE), ("MEM_UNSHARE", UNSHARE)] {
        for (what, x) in [
            ("unaligned by 1", [call, PAGE + 1, 0, 0]),
            ("unaligned by half a page", [call, PAGE + granule / 2, 0, 0]),
            ("with a third argument", [call, PAGE, 1, 0]),
            ("with a fourth argument", [call, PAGE, 0, 1]),
            ("beyond the guest's space", [call, 1 << 56, 0, 0]),
            (
                "at the end of all addresses",
                [call, 0u64.wrapping_sub(granule), 0, 0],
            ),
        ] {
            let got = hvc(x);
            let good = got == [INVALID, 0, 0, 0];
            if !good {
                report.note(format_args!(
                    "{:#x} {:#x} {:#x} {:#x}",
                    got[0], got[1], got[2], got[3]
                ));
            }
            report.result(good, format_args!("{name} {what} is refused"));
        }
    }
    let mut expect = |what: &str, x: [u64; 4], want: u64| {
        let got = hvc(x);
        report.result(got == [want, 0, 0, 0], format_args!("{what}: {:#x}", got[0]));
    };
    expect(
        "MEM_UNSHARE of a page that is not there",
        [UNSHARE, PAGE + 8 * granule, 0, 0],
        INVALID,
    );
    expect("MEM_SHARE", [SHARE, PAGE, 0, 0], 0);
    expect("MEM_SHARE again", [SHARE, PAGE, 0, 0], INVALID);
    expect("MEM_UNSHARE", [UNSHARE, PAGE, 0, 0], 0);
    expect("MEM_UNSHARE again", [UNSHARE, PAGE, 0, 0], INVALID);
    // The upper half of the function id is no part of it.
    expect(
        "MEM_SHARE with the upper half of x0 set",
        [SHARE | 1 << 32, PAGE, 0, 0],
        0,
    );
    expect("MEM_UNSHARE after it", [UNSHARE, PAGE, 0, 0], 0);
    for workaround in [0x8000_8000u64, 0x8000_7fff, 0x8000_3fff] {
        let [x0, ..] = hvc([workaround, 0, 0, 0]);
        report.result(x0 == 0, format_args!("ARCH_WORKAROUND {workaround:#x} returns 0"));
    }
    // Unknown calls come back with an error, whoever answers.
    let mut answered = 0;
    for n in 0..64 {
        let [x0, ..] = hvc([0xc600_0040 + n, n, n, n]);
        answered += u32::from(x0 as u32 != u32::MAX);
    }
    report.result(answered == 0, format_args!("64 unknown calls are not supported"));
}
