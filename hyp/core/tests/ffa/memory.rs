// SPDX-License-Identifier: GPL-2.0-only
//! Memory that is shared, lent and reclaimed, with a partition manager that keeps to the rules.

use std::collections::BTreeSet;

use pkvm_core::ffa::abi::{WIDE, id};
use pkvm_core::mem::table::Standing;
use pkvm_spec::Call;
use pkvm_types::{Error, PAGE_SIZE};

use crate::bench::{Bench, LIMIT, PLAN, handle, refused};
use crate::build::Build;
use crate::spm::{self, regs};

const SHARE: u32 = id::MEM_SHARE | WIDE;
const PAGE: usize = PAGE_SIZE as usize;

#[test]
fn memory_goes_and_comes_back_in_every_version() {
    for version in [0x1_0000, 0x1_0001, 0x1_0002] {
        for function in [id::MEM_SHARE, SHARE, id::MEM_LEND, id::MEM_LEND | WIDE] {
            let mut bench = Bench::ready(version);
            let frames = [(bench.page(1), 2), (bench.page(9), 1), (bench.page(4), 1)];
            let mut build = Build::of(&frames);
            // EL2 does not let firmware pause.
            build.flags = 3;
            let sent = handle(&bench.send(function, &build, PAGE));
            let want: BTreeSet<_> = [1, 2, 9, 4].map(|n| bench.page(n)).into();
            assert_eq!(bench.lent_pages(), want);
            assert_eq!(bench.w.spm.pages(), want);
            let object = &bench.w.spm.objects[&sent];
            assert_eq!(object.function, u64::from(function | WIDE));
            assert_eq!(spm::word(&object.bytes, 4), 1);
            assert_eq!(bench.reclaim(sent), regs(&[spm::OK]));
            assert!(bench.lent_pages().is_empty() && bench.w.spm.objects.is_empty());
            // A second time there is nothing to reclaim, and firmware is not asked.
            let asked = bench.w.spm.calls.len();
            assert!(refused(&bench.reclaim(sent), spm::INVALID));
            assert_eq!(bench.w.spm.calls.len(), asked);
        }
    }
}

#[test]
fn descriptors_come_in_fragments() {
    for version in [0x1_0000, 0x1_0001, 0x1_0002] {
        let first = Build::composite(version) as usize + 16;
        for most in [first, first + 16, first + 48, PAGE] {
            let mut bench = Bench::ready(version);
            let frames: Vec<_> = (0..12).map(|n| (bench.page(3 * n), 1 + n % 2)).collect();
            let sent = handle(&bench.send(SHARE, &Build::of(&frames), most));
            let want: BTreeSet<_> = frames.iter().flat_map(|(pfn, n)| *pfn..pfn + n).collect();
            assert_eq!(bench.lent_pages(), want);
            assert_eq!(bench.w.spm.pages(), want);
            bench.reclaim(sent);
            assert!(bench.lent_pages().is_empty());
        }
    }
}

#[test]
fn one_loan_may_have_all_that_the_host_has() {
    let mut bench = Bench::ready(0x1_0002);
    let frames: Vec<_> = (0..PLAN.pages - 2).map(|n| (bench.page(n), 1)).collect();
    let sent = handle(&bench.send(SHARE, &Build::of(&frames), 176));
    assert_eq!(bench.lent_pages().len() as u64, PLAN.pages - 2);
    assert_eq!(bench.reclaim(sent), regs(&[spm::OK]));
    assert!(bench.lent_pages().is_empty());
}

#[test]
fn a_page_of_a_loan_can_go_nowhere_else() {
    let mut bench = Bench::ready(0x1_0002);
    let sent = bench.share(&[3]);
    let pfn = bench.page(3);
    let gfn = PLAN.guest_base;
    for call in [
        Call::ShareHyp { pfn },
        Call::UnshareHyp { pfn },
        Call::DonateHyp { pfn, pages: 1 },
        Call::GiveHost { pfn },
        Call::Pin { pfn, pages: 1 },
        Call::ShareFfa { pfn, pages: 1 },
        Call::DonateGuest { vm: 0, pfn, gfn },
        Call::ShareGuest {
            vm: 1,
            pfn,
            gfn,
            pages: 1,
            prot: 15,
        },
        Call::ForceReclaim { pfn },
    ] {
        assert!(bench.w.rig.call(call).is_err(), "{call:?}");
    }
    // Nor into a second loan, beside others, or as a mailbox.
    let before = bench.lent_pages();
    for frames in [vec![3], vec![2, 3], vec![3, 4], vec![5, 2, 3]] {
        let ranges: Vec<_> = frames.iter().map(|n| (bench.page(*n), 1)).collect();
        let answer = bench.send(SHARE, &Build::of(&ranges), PAGE);
        assert!(refused(&answer, spm::DENIED));
        assert_eq!(bench.lent_pages(), before);
    }
    assert_eq!(
        bench.w.spm.count(id::MEM_SHARE),
        1,
        "firmware hears of none of that"
    );
    bench.reclaim(sent);
    assert_eq!(bench.w.rig.call(Call::DonateGuest { vm: 0, pfn, gfn }), Ok(0));
}

#[test]
fn what_is_not_the_hosts_alone_cannot_be_lent() {
    let mut bench = Bench::ready(0x1_0001);
    let at = |bench: &Bench, n| bench.page(n);
    let rig = &mut bench.w.rig;
    let base = PLAN.base();
    rig.call(Call::ShareHyp { pfn: base }).unwrap();
    rig.call(Call::DonateHyp {
        pfn: base + 1,
        pages: 1,
    })
    .unwrap();
    let gfn = PLAN.guest_base;
    rig.call(Call::DonateGuest {
        vm: 0,
        pfn: base + 2,
        gfn,
    })
    .unwrap();
    rig.call(Call::ShareGuest {
        vm: 1,
        pfn: base + 3,
        gfn,
        pages: 1,
        prot: 12,
    })
    .unwrap();
    rig.call(Call::DonateGuest {
        vm: 0,
        pfn: base + 4,
        gfn: gfn + 1,
    })
    .unwrap();
    rig.call(Call::GuestShare { vm: 0, gfn: gfn + 1 }).unwrap();
    let limit = PLAN.layout().limit;
    let bad = [
        (base, 1),
        (base + 1, 1),
        (base + 2, 1),
        (base + 3, 1),
        (base + 4, 1),
        (PLAN.nomap(), 1),
        (PLAN.text(), 1),
        (0, 1),
        (base - 1, 2),
        (bench.tx(), 1),
        (PLAN.base() + PLAN.pages - 1, 2),
        (limit - 1, 1),
        (limit, 1),
    ];
    for bad in bad {
        for frames in [
            vec![bad],
            vec![(at(&bench, 8), 3), bad],
            vec![bad, (at(&bench, 8), 3)],
        ] {
            let answer = bench.send(SHARE, &Build::of(&frames), PAGE);
            assert!(refused(&answer, spm::DENIED), "{frames:x?}");
            assert!(bench.lent_pages().is_empty());
        }
    }
    // Addresses that wrap, or are no whole pages; and a range of no page.
    let good = bench.page(8) * PAGE_SIZE;
    let page = (PAGE_SIZE / 4096) as u32;
    for (range, code) in [
        ((!(PAGE_SIZE - 1), page), spm::DENIED),
        ((!(PAGE_SIZE - 1), 2 * page), spm::DENIED),
        ((good, !(page - 1)), spm::DENIED),
        ((good + 8, page), spm::DENIED),
        ((good + 0x800, page), spm::DENIED),
        ((1 << 63, page), spm::DENIED),
        ((good, 0), spm::INVALID),
        ((0, 0), spm::INVALID),
    ] {
        let mut build = Build::of(&[(bench.page(9), 1)]);
        build.ranges.push(range);
        assert!(refused(&bench.send(SHARE, &build, PAGE), code), "{range:x?}");
        assert!(bench.lent_pages().is_empty());
    }
    assert_eq!(bench.w.spm.count(id::MEM_SHARE), 0);
}

#[test]
fn a_descriptor_is_what_the_version_says_or_refused() {
    for version in [0x1_0000, 0x1_0001, 0x1_0002] {
        let mut bench = Bench::ready(version);
        let later = version >= 0x1_0001;
        let good = Build::of(&[(bench.page(1), 1), (bench.page(5), 2)]);
        let composite = Build::composite(version);
        type Spoil = Box<dyn Fn(&mut Build)>;
        let mut bad: Vec<Spoil> = vec![
            Box::new(|b| b.sender = 1),
            Box::new(|b| b.sender = 0xffff),
            Box::new(|b| b.endpoints = 0),
            Box::new(|b| b.endpoints = 2),
            Box::new(|b| b.endpoints = u32::MAX),
            Box::new(|b| b.composite_at = Some(0)),
            Box::new(|b| b.composite_at = Some(u32::MAX)),
            Box::new(|b| b.composite_at = Some(u32::MAX - 15)),
            Box::new(move |b| b.composite_at = Some(composite + 4)),
            Box::new(move |b| b.composite_at = Some(composite + 8)),
            Box::new(move |b| b.composite_at = Some(composite - 16)),
            Box::new(move |b| b.composite_at = Some(composite + 16)),
            Box::new(move |b| b.composite_at = Some(composite + 48)),
            Box::new(|b| b.count = Some(0)),
            Box::new(|b| b.count = Some(1)),
            Box::new(|b| b.count = Some(3)),
            Box::new(|b| b.count = Some(u32::MAX)),
            Box::new(|b| b.count = Some(0x1000_0002)),
        ];
        if later {
            let size = Build::endpoint_size(version);
            for at in [0, 32, 47, 40, 56, 64, 1 << 20, u32::MAX, u32::MAX - 15] {
                bad.push(Box::new(move |b| b.endpoint_at = Some(at)));
            }
            for wrong in [0, 8, 48 - size, u32::MAX] {
                bad.push(Box::new(move |b| b.endpoint_size = Some(wrong)));
            }
        }
        for (n, spoil) in bad.iter().enumerate() {
            let mut build = good.clone();
            spoil(&mut build);
            let answer = bench.send(SHARE, &build, PAGE);
            assert!(
                refused(&answer, spm::INVALID),
                "version {version:#x}, {n}: {answer:x?}"
            );
            assert!(bench.lent_pages().is_empty());
        }
        // A gap behind the header is no harm if it leaves the endpoint's part aligned.
        if later {
            for (gap, fine) in [(4, false), (8, false), (24, false), (16, true), (64, true)] {
                let mut build = good.clone();
                build.gap = gap;
                let answer = bench.send(SHARE, &build, PAGE);
                assert_eq!(answer[0] == spm::OK, fine, "version {version:#x}, gap {gap}");
                if fine {
                    bench.reclaim(handle(&answer));
                }
            }
            bench.w.spm.calls.clear();
        }
        // Lengths that do not fit the descriptor or the mailbox.
        let bytes = good.bytes(version);
        let len = bytes.len() as u64;
        for (len, fragment, code) in [
            (len - 16, len - 16, spm::INVALID),
            (len + 16, len, spm::INVALID),
            (len, len + 16, spm::INVALID),
            (len, len - 8, spm::INVALID),
            (len, len - 4, spm::INVALID),
            (len, 0, spm::INVALID),
            (0, 0, spm::INVALID),
            (len, u64::from(Build::header(version)), spm::INVALID),
            (u64::from(u32::MAX), PAGE_SIZE + 16, spm::INVALID),
            (u64::from(LIMIT) + 16, len, spm::NO_MEMORY),
            (u64::from(u32::MAX), len, spm::NO_MEMORY),
        ] {
            bench.write_tx(&bytes);
            let answer = bench.call(SHARE, &[len, fragment, 0, 0]);
            assert!(refused(&answer, code), "{len} {fragment}: {answer:x?}");
        }
        // A buffer of its own is not on offer.
        for (address, pages) in [(bench.page(7) * PAGE_SIZE, 1), (1, 0), (1 << 63, 0), (0, 1)] {
            bench.write_tx(&bytes);
            assert!(refused(
                &bench.call(SHARE, &[len, len, address, pages]),
                spm::INVALID
            ));
        }
        assert!(bench.lent_pages().is_empty());
        assert_eq!(
            bench.w.spm.count(id::MEM_SHARE),
            0,
            "firmware hears of none of that"
        );
        handle(&bench.send(SHARE, &good, PAGE));
    }
}

/// A transaction whose first fragment has `first` constituents of `all`.
fn started(bench: &mut Bench, first: u64, all: u64) -> u64 {
    let frames: Vec<_> = (0..all).map(|n| (bench.page(2 * n), 1)).collect();
    let bytes = Build::of(&frames).bytes(bench.version());
    let fragment = bytes.len() - 16 * (all - first) as usize;
    bench.write_tx(&bytes[..fragment]);
    let answer = bench.call(SHARE, &[bytes.len() as u64, fragment as u64, 0, 0]);
    assert_eq!((answer[0], answer[3]), (spm::FRAG_RX, fragment as u64));
    answer[2] << 32 | answer[1]
}

fn constituents(bench: &mut Bench, frames: &[u64]) {
    let bytes: Vec<_> = frames
        .iter()
        .flat_map(|n| [bench.page(*n) * PAGE_SIZE, PAGE_SIZE / 4096])
        .flat_map(u64::to_le_bytes)
        .collect();
    bench.write_tx(&bytes);
}

fn fragment(bench: &mut Bench, handle: u64, bytes: u64) -> pkvm_core::ffa::Regs {
    bench.call(id::MEM_FRAG_TX, &[handle & 0xffff_ffff, handle >> 32, bytes, 0])
}

#[test]
fn a_fragment_that_does_not_fit_changes_nothing() {
    let mut bench = Bench::ready(0x1_0001);
    let sent = started(&mut bench, 2, 4);
    constituents(&mut bench, &[4, 6]);
    let before = bench.lent_pages();
    let asked = bench.w.spm.calls.len();
    for (handle, bytes, sender) in [
        (sent ^ 1, 32, 0),
        (sent ^ 1 << 63, 32, 0),
        (0, 32, 0),
        (u64::MAX, 32, 0),
        (sent, 0, 0),
        (sent, 8, 0),
        (sent, 24, 0),
        (sent, 48, 0),
        (sent, PAGE_SIZE, 0),
        (sent, PAGE_SIZE + 16, 0),
        (sent, 0xffff_fff0, 0),
        (sent, 32, 1),
        (sent, 32, 1 << 16),
    ] {
        let arguments = [handle & 0xffff_ffff, handle >> 32, bytes, sender];
        assert!(
            refused(&bench.call(id::MEM_FRAG_TX, &arguments), spm::INVALID),
            "{arguments:x?}"
        );
        assert_eq!(bench.lent_pages(), before);
    }
    assert_eq!(bench.w.spm.calls.len(), asked, "firmware hears of none of that");
    // It goes on where it was.
    assert_eq!(fragment(&mut bench, sent, 32)[0], spm::OK);
    // When it is whole, nothing more belongs to it.
    constituents(&mut bench, &[20]);
    assert!(refused(&fragment(&mut bench, sent, 16), spm::INVALID));
    assert_eq!(bench.lent_pages().len(), 4);
}

#[test]
fn a_bad_range_in_a_fragment_ends_the_transaction() {
    for bad in [0, 1000, 38, 4] {
        let mut bench = Bench::ready(0x1_0001);
        let sent = started(&mut bench, 2, 4);
        // Lent already, no memory, a mailbox, twice in one fragment.
        constituents(&mut bench, &[4, bad]);
        assert!(refused(&fragment(&mut bench, sent, 32), spm::DENIED));
        // The partition manager says that it knows no such transaction that is whole; it will never be.
        assert_eq!(bench.w.spm.count(id::MEM_RECLAIM), 1);
        assert!(bench.lent_pages().is_empty());
        assert!(refused(&fragment(&mut bench, sent, 32), spm::INVALID));
        assert!(refused(&bench.reclaim(sent), spm::INVALID));
    }
}

#[test]
fn the_table_is_bounded() {
    let mut bench = Bench::with(0x1_0002, 3);
    let handles: Vec<_> = (0..3).map(|n| bench.share(&[2 * n])).collect();
    let build = Build::of(&[(bench.page(9), 1)]);
    assert!(refused(&bench.send(SHARE, &build, PAGE), spm::NO_MEMORY));
    assert_eq!(bench.lent_pages().len(), 3);
    // Freed slots are used again, in any order.
    for n in [1, 0, 2] {
        assert_eq!(bench.reclaim(handles[n]), regs(&[spm::OK]));
        let again = handle(&bench.send(SHARE, &build, PAGE));
        assert_eq!(bench.reclaim(again), regs(&[spm::OK]));
    }
    assert!(bench.lent_pages().is_empty());
    assert_eq!(bench.proxy.as_ref().unwrap().transactions().count(), 0);
}

#[test]
fn memory_in_use_stays_until_it_is_not() {
    let mut bench = Bench::ready(0x1_0002);
    let sent = bench.share(&[3, 4]);
    bench.w.spm.objects.get_mut(&sent).unwrap().retrieved = true;
    assert!(refused(&bench.reclaim(sent), spm::DENIED));
    assert_eq!(bench.lent_pages().len(), 2);
    bench.w.spm.objects.get_mut(&sent).unwrap().retrieved = false;
    assert_eq!(bench.reclaim(sent), regs(&[spm::OK]));
    assert_eq!(bench.w.standing(bench.page(3)), Some(Standing::Host));
}

#[test]
fn a_loan_takes_the_pages_back_in_parts() {
    use pkvm_core::mem::{FfaLoan, Returned};
    use pkvm_types::{Pfn, PfnRange};
    let mut bench = Bench::ready(0x1_0002);
    let range = |start, count| PfnRange::checked(Pfn::checked(start).unwrap(), count).unwrap();
    let at = |n| PLAN.base() + n;
    let rig = &mut bench.w.rig;
    for limit in 1..12 {
        let mut loan = FfaLoan::new();
        for (start, count) in [(at(0), 5), (at(7), 1), (at(5), 2), (at(20), 3)] {
            loan.lend(&rig.m, &mut rig.host, range(start, count)).unwrap();
        }
        // Refused ranges leave the loan as it was.
        let again = loan.lend(&rig.m, &mut rig.host, range(at(4), 1));
        assert_eq!((again, loan.pages()), (Err(Error::Perm), 11));
        let outside = loan.lend(&rig.m, &mut rig.host, range(at(PLAN.pages), 1));
        assert!(outside.is_err());
        let mut left = 11;
        while loan.take_back(&rig.m, &mut rig.host, limit) == Returned::Some {
            left -= limit as u32;
            assert_eq!(loan.pages(), left);
        }
        assert_eq!(loan, FfaLoan::new());
        assert_eq!(loan.take_back(&rig.m, &mut rig.host, limit), Returned::All);
    }
    assert!(bench.lent_pages().is_empty());
}
