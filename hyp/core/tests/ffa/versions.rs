// SPDX-License-Identifier: GPL-2.0-only
//! Which version is spoken, and what happens before and without one.

use pkvm_core::ffa::abi::{WIDE, id};
use pkvm_core::ffa::{Call, Path, Regs, Stage, Status, absent, path};
use pkvm_types::PAGE_SIZE;

use crate::bench::{Bench, refused};
use crate::spm::{self, Spm, regs};

const REFUSED: Regs = {
    let mut regs = [0; 18];
    regs[0] = u64::MAX;
    regs
};

fn version(bench: &mut Bench, word: u64) -> Regs {
    bench.call(id::VERSION, &[word])
}

#[test]
fn the_older_of_two_versions_is_spoken() {
    // What firmware has, what the host wants, what both get.
    for (latest, wanted, spoken) in [
        (0x1_0002, 0x1_0002, 0x1_0002),
        (0x1_0002, 0x1_0001, 0x1_0001),
        (0x1_0002, 0x1_0000, 0x1_0000),
        (0x1_0001, 0x1_0002, 0x1_0001),
        (0x1_0000, 0x1_0002, 0x1_0000),
        (0x1_0001, 0x1_0000, 0x1_0000),
        (0x1_0003, 0x1_0009, 0x1_0002),
        (0x1_0003, 0x1_0001, 0x1_0001),
        (0x1_0002, 0x1_ffff, 0x1_0002),
    ] {
        let mut bench = Bench::boot(Spm::new(latest), 1);
        assert_eq!(
            version(&mut bench, wanted),
            regs(&[spoken]),
            "{latest:#x}, {wanted:#x}"
        );
        assert_eq!(u64::from(bench.w.spm.version), spoken.min(u64::from(latest)));
        // For good: a newer host can do with it, an older one cannot.
        assert_eq!(version(&mut bench, 0x1_0007), regs(&[spoken]));
        assert_eq!(version(&mut bench, spoken), regs(&[spoken]));
        if spoken > 0x1_0000 {
            assert_eq!(version(&mut bench, spoken - 1), REFUSED);
        }
        assert_eq!(version(&mut bench, 0x2_0000), REFUSED);
    }
}

#[test]
fn words_that_are_no_version_are_refused() {
    let mut bench = Bench::boot(Spm::new(0x1_0002), 1);
    let asked = bench.w.spm.calls.len();
    for word in [
        0x8001_0000,
        0x8001_0002,
        0,
        0x0_0001,
        0x2_0000,
        0xffff_ffff,
        0x7fff_0001,
    ] {
        assert_eq!(version(&mut bench, word), REFUSED, "{word:#x}");
    }
    assert_eq!(bench.w.spm.calls.len(), asked, "firmware is not asked");
    // Only 32 bits are the argument.
    assert_eq!(version(&mut bench, 0xffff_ffff_0001_0002), regs(&[0x1_0002]));
}

#[test]
fn firmware_that_offers_no_version_has_no_proxy() {
    for answer in [
        u64::MAX,
        0xffff_ffff,
        0,
        0x2_0000,
        0x8001_0002,
        0x0_0009,
        0x8400_0060,
        0x7fff_ffff,
    ] {
        let mut spm = Spm::new(0x1_0002);
        spm.latest = u32::try_from(answer).ok();
        let mut bench = Bench::boot(spm, 1);
        assert!(bench.proxy.is_none(), "{answer:#x}");
        assert_eq!(version(&mut bench, 0x1_0002), REFUSED);
        assert!(refused(
            &bench.call(id::RXTX_MAP | WIDE, &[0, 0, 1]),
            spm::INVALID
        ));
        assert!(refused(&bench.call(id::ID_GET, &[]), spm::INVALID));
    }
    for call in [Call::RxtxMap, Call::MemReclaim, Call::MemShare] {
        assert!(refused(&absent(call), spm::INVALID));
    }
}

#[test]
fn nothing_is_served_before_a_version() {
    for function in 0x60..=0xff_u32 {
        for function in [0x8400_0000 | function, 0xc400_0000 | function] {
            if function != id::VERSION {
                assert_eq!(
                    path(function, 0, Stage::Unnegotiated),
                    Path::Refuse(Status::INVALID_PARAMETERS)
                );
            }
        }
    }
}

#[test]
fn a_version_is_agreed_upon_only_if_all_else_fits() {
    /// What firmware would say instead of the truth, once.
    fn answers(function: u64, answer: Regs) -> Bench {
        let mut bench = Bench::boot(Spm::new(0x1_0002), 1);
        let mut left = 1;
        bench.w.tamper = Some(Box::new(move |call, reply, _| {
            if call[0] == function && left != 0 {
                left -= 1;
                *reply = answer;
            }
        }));
        bench
    }
    let id_get = u64::from(id::ID_GET);
    let features = u64::from(id::FEATURES);
    let mut cases = vec![
        (id_get, regs(&[spm::OK, 0, 1])),
        (id_get, spm::error(spm::DENIED)),
        (id_get, regs(&[u64::MAX, 0, 0])),
        (id_get, regs(&[0x1234, 0, 0])),
        (features, regs(&[spm::OK, 0, 3])),
        (features, spm::error(spm::NOT_SUPPORTED)),
        (features, regs(&[u64::MAX])),
    ];
    if PAGE_SIZE < 0x1_0000 {
        cases.push((features, regs(&[spm::OK, 0, 1])));
    }
    if PAGE_SIZE < 0x4000 {
        cases.push((features, regs(&[spm::OK, 0, 2])));
    }
    for (function, answer) in cases {
        let mut bench = answers(function, answer);
        assert_eq!(version(&mut bench, 0x1_0002), REFUSED, "{answer:x?}");
        assert!(refused(&bench.call(id::MEM_RECLAIM, &[1, 0, 0]), spm::INVALID));
        // What was refused once may be agreed upon later.
        assert_eq!(version(&mut bench, 0x1_0002), regs(&[0x1_0002]));
    }
}

#[test]
fn an_older_version_that_firmware_refuses_is_not_spoken() {
    for answer in [u64::MAX, 0xffff_ffff, 0x8001_0001, 0x1_0000, 0, 0x2_0001] {
        let mut bench = Bench::boot(Spm::new(0x1_0002), 1);
        bench.w.tamper = Some(Box::new(move |call, reply, _| {
            if call[0] == u64::from(id::VERSION) && call[1] == 0x1_0001 {
                *reply = regs(&[answer]);
            }
        }));
        assert_eq!(version(&mut bench, 0x1_0001), REFUSED, "{answer:#x}");
        assert_eq!(version(&mut bench, 0x1_0002), regs(&[0x1_0002]));
        assert_eq!(
            bench.w.spm.version, 0x1_0002,
            "firmware speaks what the host was told"
        );
    }
    // A failure after the question: firmware is asked again for what the next host wants.
    let mut bench = Bench::boot(Spm::new(0x1_0002), 1);
    bench.w.spm.id = 5;
    assert_eq!(version(&mut bench, 0x1_0000), REFUSED);
    bench.w.spm.id = 0;
    assert_eq!(version(&mut bench, 0x1_0002), regs(&[0x1_0002]));
    assert_eq!(bench.w.spm.version, 0x1_0002);
}

#[test]
fn what_is_not_known_does_not_pass() {
    let at = |function| path(function, 0, Stage::Negotiated);
    let mut passes = Vec::new();
    for function in (0x60..=0xff).flat_map(|n| [0x8400_0000 | n, 0xc400_0000 | n]) {
        match at(function) {
            Path::Forward => passes.push(function),
            Path::Proxy(_) => {}
            // Asked for properties of function 0.
            Path::Supported => panic!("{function:#x}"),
            Path::Refuse(status) => {
                let features = function == id::FEATURES;
                assert!(features || status == Status::NOT_SUPPORTED, "{function:#x}");
            }
        }
    }
    assert_eq!(
        passes,
        [
            0x8400_0060,
            0x8400_0061,
            0xc400_0061,
            0x8400_0062,
            0x8400_0069,
            0x8400_006c,
            0x8400_006d,
            0x8400_006f,
            0xc400_006f,
            0x8400_007c,
            0x8400_0085
        ]
    );
}

#[test]
fn features_tell_what_the_proxy_serves() {
    let features = |x1| path(id::FEATURES, x1, Stage::Negotiated);
    for x1 in [
        0x8400_0072,
        0xc400_0072,
        0x8400_0073,
        0xc400_0073,
        0xffff_ffff_c400_0073,
    ] {
        assert_eq!(features(x1), Path::Supported, "{x1:#x}");
    }
    for x1 in [
        0xc400_0066,
        0x8400_0067,
        0x8400_0068,
        0x8400_0077,
        0x8400_007b,
        0x8400_006f,
    ] {
        assert_eq!(features(x1), Path::Forward, "{x1:#x}");
    }
    // Donation, retrieval, 32-bit RXTX_MAP, notifications, features without a function number.
    for x1 in [
        0x8400_0071,
        0x8400_0074,
        0x8400_0066,
        0x8400_007d,
        0xc400_008b,
        0xc400_008d,
        0,
        1,
        2,
        3,
    ] {
        assert_eq!(features(x1), Path::Refuse(Status::NOT_SUPPORTED), "{x1:#x}");
    }
}

#[test]
fn nobody_but_the_host_sends_messages() {
    for function in [0x8400_006f, 0xc400_006f] {
        let at = |x1| path(function, x1, Stage::Negotiated);
        assert_eq!(at(0x8001), Path::Forward);
        for x1 in [0x1_8001, 0x8000_8001, 0xffff_0000] {
            assert_eq!(at(x1), Path::Refuse(Status::INVALID_PARAMETERS));
        }
    }
}
