// SPDX-License-Identifier: GPL-2.0-only
//! The mailboxes, and what firmware writes there.

use pkvm_core::ffa::Regs;
use pkvm_core::ffa::abi::{WIDE, id};
use pkvm_core::mem::table::Standing;
use pkvm_spec::Call;
use pkvm_types::PAGE_SIZE;

use crate::bench::{Bench, PLAN, refused};
use crate::spm::{self, Spm, regs};

const MAP: u32 = id::RXTX_MAP | WIDE;
const PAGES: u64 = PAGE_SIZE / 4096;

fn booted() -> Bench {
    let mut bench = Bench::boot(Spm::new(0x1_0002), 4);
    bench.call(id::VERSION, &[0x1_0002]);
    bench
}

fn map(bench: &mut Bench, tx: u64, rx: u64) -> Regs {
    bench.call(MAP, &[tx * PAGE_SIZE, rx * PAGE_SIZE, PAGES])
}

#[test]
fn mailboxes_are_borrowed_and_returned() {
    let mut bench = booted();
    let (tx, rx) = (bench.tx(), bench.rx());
    for _ in 0..2 {
        assert_eq!(map(&mut bench, tx, rx), regs(&[spm::OK]));
        assert_eq!(bench.w.standing(tx), Some(Standing::HostHyp));
        assert!(
            bench
                .w
                .spm
                .mailboxes
                .is_some_and(|own| !own.contains(&(tx * PAGE_SIZE)))
        );
        assert!(refused(&map(&mut bench, tx, rx), spm::DENIED));
        // The host cannot take them back behind EL2's back.
        for pfn in [tx, rx] {
            assert!(bench.w.rig.call(Call::UnshareHyp { pfn }).is_err());
            assert!(bench.w.rig.call(Call::DonateHyp { pfn, pages: 1 }).is_err());
        }
        assert!(refused(&bench.call(id::RXTX_UNMAP, &[1]), spm::INVALID));
        assert_eq!(bench.call(id::RXTX_UNMAP, &[0]), regs(&[spm::OK]));
        assert_eq!(bench.w.standing(tx), Some(Standing::Host));
        assert_eq!(bench.w.standing(rx), Some(Standing::Host));
        assert!(bench.w.spm.mailboxes.is_none());
        assert!(refused(&bench.call(id::RXTX_UNMAP, &[0]), spm::INVALID));
    }
}

#[test]
fn what_cannot_be_a_mailbox_is_refused_and_nothing_changes() {
    let mut bench = booted();
    let (tx, rx) = (bench.tx(), bench.rx());
    bench.w.rig.call(Call::ShareHyp { pfn: bench.page(0) }).unwrap();
    bench
        .w
        .rig
        .call(Call::DonateHyp {
            pfn: bench.page(1),
            pages: 1,
        })
        .unwrap();
    let bad = [
        bench.page(0),
        bench.page(1),
        PLAN.nomap(),
        PLAN.text(),
        0,
        PLAN.layout().limit,
        (1 << 52) - 1,
    ];
    for bad in bad {
        for (a, b) in [(bad, rx), (tx, bad), (bad, bad), (tx, tx)] {
            let a = a.wrapping_mul(PAGE_SIZE);
            let b = b.wrapping_mul(PAGE_SIZE);
            assert!(
                refused(&bench.call(MAP, &[a, b, PAGES]), spm::INVALID),
                "{bad:#x}"
            );
        }
    }
    for (tx, rx, pages) in [
        (tx * PAGE_SIZE + 8, rx * PAGE_SIZE, PAGES),
        (tx * PAGE_SIZE, rx * PAGE_SIZE + 1, PAGES),
        (tx * PAGE_SIZE, rx * PAGE_SIZE, 0),
        (tx * PAGE_SIZE, rx * PAGE_SIZE, PAGES + 1),
        (tx * PAGE_SIZE, rx * PAGE_SIZE, 0xffff_ffff),
    ] {
        assert!(refused(&bench.call(MAP, &[tx, rx, pages]), spm::INVALID));
    }
    for page in [tx, rx] {
        assert_eq!(bench.w.standing(page), Some(Standing::Host));
    }
    assert_eq!(bench.w.spm.count(id::RXTX_MAP), 0);
    // The 32-bit call does not exist.
    assert!(refused(
        &bench.call(id::RXTX_MAP, &[tx * PAGE_SIZE, rx * PAGE_SIZE, PAGES]),
        spm::NOT_SUPPORTED
    ));
}

#[test]
fn without_mailboxes_there_is_no_transaction() {
    let mut bench = booted();
    assert!(refused(&bench.call(id::MEM_SHARE, &[96, 96, 0, 0]), spm::INVALID));
    assert!(refused(
        &bench.call(id::MEM_FRAG_TX, &[1, 0, 16, 0]),
        spm::INVALID
    ));
    assert!(refused(&bench.call(id::PARTITION_INFO_GET, &[0; 5]), spm::BUSY));
}

#[test]
fn firmware_that_refuses_the_mailboxes_leaves_the_host_its_pages() {
    // What firmware says, and what the host hears.
    for (answer, code) in [
        (spm::error(spm::NO_MEMORY), spm::NO_MEMORY),
        (regs(&[u64::MAX, 0, 0x4000_0000]), spm::NOT_SUPPORTED),
        // An error that is none, and an answer that is nothing.
        (regs(&[spm::ERROR, 0, 0]), spm::ABORTED),
        (regs(&[spm::ERROR, 0, 7]), spm::ABORTED),
        (regs(&[0, 0, 0]), spm::ABORTED),
        (regs(&[spm::FRAG_RX, 1, 2, 3]), spm::ABORTED),
    ] {
        let mut bench = booted();
        let (tx, rx) = (bench.tx(), bench.rx());
        bench.w.tamper = Some(Box::new(move |_, reply, _| *reply = answer));
        assert!(refused(&map(&mut bench, tx, rx), code), "{answer:x?}");
        assert_eq!(bench.w.standing(tx), Some(Standing::Host));
        assert_eq!(bench.w.standing(rx), Some(Standing::Host));
    }
}

#[test]
fn a_mailbox_with_another_use_stays_lent_for_that() {
    let mut bench = Bench::ready(0x1_0002);
    let tx = bench.tx();
    bench.w.rig.call(Call::Pin { pfn: tx, pages: 1 }).unwrap();
    assert_eq!(bench.call(id::RXTX_UNMAP, &[0]), regs(&[spm::OK]));
    assert_eq!(bench.w.standing(tx), Some(Standing::HostHyp));
    assert_eq!(bench.w.standing(bench.rx()), Some(Standing::Host));
    bench.w.rig.call(Call::Unpin { pfn: tx, pages: 1 }).unwrap();
    bench.w.rig.call(Call::UnshareHyp { pfn: tx }).unwrap();
}

#[test]
fn firmware_that_keeps_the_mailboxes_is_not_given_them_again() {
    let mut bench = Bench::ready(0x1_0002);
    bench.w.tamper = Some(Box::new(|call, reply, _| {
        if call[0] == u64::from(id::RXTX_UNMAP) {
            *reply = spm::error(spm::DENIED);
        }
    }));
    assert_eq!(bench.call(id::RXTX_UNMAP, &[0]), regs(&[spm::OK]));
    let (tx, rx) = (bench.tx(), bench.rx());
    let before = bench.w.spm.count(id::RXTX_MAP);
    assert_eq!(map(&mut bench, tx, rx), regs(&[spm::OK]));
    assert_eq!(bench.w.spm.count(id::RXTX_MAP), before);
}

fn info(bench: &mut Bench, flags: u64) -> Regs {
    bench.call(id::PARTITION_INFO_GET, &[1, 2, 3, 4, flags])
}

#[test]
fn partition_information_is_copied() {
    for (version, size, told) in [(0x1_0002, 24, 24), (0x1_0001, 24, 24), (0x1_0000, 8, 0)] {
        let mut bench = Bench::ready(version);
        assert_eq!(info(&mut bench, 0), regs(&[spm::OK, 0, 3, told]));
        let words = &bench.w.host[&bench.rx()];
        let (copied, rest) = words.split_at(3 * size / 8);
        assert!(
            copied
                .iter()
                .copied()
                .eq((0..).map(|n| 0x1234_0000 + n).take(copied.len()))
        );
        assert_eq!(rest[0], 0);
        // The host owes the mailbox.
        assert!(refused(&info(&mut bench, 0), spm::BUSY));
        assert_eq!(bench.call(id::RX_RELEASE, &[]), regs(&[spm::OK]));
        assert!(refused(&bench.call(id::RX_RELEASE, &[]), spm::DENIED));
        assert_eq!(info(&mut bench, 0)[0], spm::OK);
    }
}

#[test]
fn the_number_of_partitions_alone_copies_nothing() {
    let mut bench = Bench::ready(0x1_0001);
    assert_eq!(info(&mut bench, 1), regs(&[spm::OK, 0, 3]));
    assert!(!bench.w.spm.rx_full && !bench.w.host.contains_key(&bench.rx()));
}

#[test]
fn a_list_that_does_not_fit_is_given_up() {
    let too_many = PAGE_SIZE / 24 + 1;
    // The last ones wrap in 32 bits to something small.
    for (count, size) in [
        (too_many, 24),
        (1, PAGE_SIZE + 1),
        (0x1_0000, 0x1_0000),
        (0x8000_0001, 2),
        (0xffff_ffff, 0xffff_ffff),
    ] {
        let mut bench = Bench::ready(0x1_0002);
        bench.w.tamper = Some(Box::new(move |call, reply, _| {
            if call[0] == u64::from(id::PARTITION_INFO_GET) {
                *reply = regs(&[spm::OK, 0, count, size]);
            }
        }));
        assert!(
            refused(&info(&mut bench, 0), spm::ABORTED),
            "{count:#x} * {size:#x}"
        );
        assert!(!bench.w.spm.rx_full, "the mailbox is released");
        assert!(!bench.w.host.contains_key(&bench.rx()));
    }
    // Exactly one page fits.
    let mut bench = Bench::ready(0x1_0002);
    bench.w.tamper = Some(Box::new(|_, reply, _| {
        *reply = regs(&[spm::OK, 0, PAGE_SIZE / 8, 8]);
    }));
    assert_eq!(info(&mut bench, 0)[0], spm::OK);
}

#[test]
fn nonsense_about_partitions_is_an_error() {
    for (answer, code) in [
        (regs(&[0x55, 1, 2, 3, 4]), spm::ABORTED),
        (regs(&[u64::MAX, 0, 1, 8]), spm::NOT_SUPPORTED),
        (spm::error(spm::NO_MEMORY), spm::NO_MEMORY),
    ] {
        let mut bench = Bench::ready(0x1_0002);
        bench.w.tamper = Some(Box::new(move |_, reply, _| *reply = answer));
        assert!(refused(&info(&mut bench, 0), code));
        assert!(refused(&bench.call(id::RX_RELEASE, &[]), code));
    }
    // A success keeps to the registers that mean something.
    let mut bench = Bench::ready(0x1_0002);
    bench.w.tamper = Some(Box::new(|_, reply, _| {
        *reply = [0x7777_7777_7777_7777; 18];
        (reply[0], reply[2], reply[3]) = (spm::OK, 0xffff_0000_0000_0002, 0xffff_0000_0000_0010);
    }));
    assert_eq!(info(&mut bench, 0), regs(&[spm::OK, 0, 2, 0x10]));
}
