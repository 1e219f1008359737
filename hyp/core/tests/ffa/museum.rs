// SPDX-License-Identifier: GPL-2.0-only
//! What has gone wrong in other proxies, or could: firmware that answers something else than it does. It may deceive itself;
//! a page that a partition may have stays marked all the same, and the host hears an error.

use pkvm_core::ffa::Regs;
use pkvm_core::ffa::abi::{WIDE, id};
use pkvm_spec::Call;
use pkvm_types::PAGE_SIZE;

use crate::bench::{Bench, refused};
use crate::build::Build;
use crate::spm::{self, regs};

const SHARE: u32 = id::MEM_SHARE | WIDE;
const PAGE: usize = PAGE_SIZE as usize;

/// Firmware serves `function` and answers something else.
fn lie(bench: &mut Bench, function: u32, answer: impl Fn(&Regs) -> Regs + 'static) {
    bench.w.tamper = Some(Box::new(move |call, reply, _| {
        if call[0] & !spm::WIDE == u64::from(function) {
            *reply = answer(reply);
        }
    }));
}

fn send(bench: &mut Bench, pages: u64) -> Regs {
    let build = Build::of(&[(bench.page(1), pages)]);
    bench.send(SHARE, &build, PAGE)
}

#[test]
fn an_accepted_descriptor_with_a_senseless_answer_is_reclaimed() {
    // The handle is in the answer, so EL2 can take the pages back.
    let answers: [fn(&Regs) -> Regs; 3] = [
        // It wants more than there is.
        |ok| regs(&[spm::FRAG_RX, ok[2], ok[3], 16]),
        |ok| regs(&[spm::FRAG_RX, ok[2], ok[3], 0]),
        // It wants to pause.
        |ok| regs(&[u64::from(id::MEM_OP_PAUSE), ok[2], ok[3]]),
    ];
    for answer in answers {
        let mut bench = Bench::ready(0x1_0002);
        lie(&mut bench, id::MEM_SHARE, answer);
        assert!(refused(&send(&mut bench, 2), spm::ABORTED));
        assert!(bench.w.spm.objects.is_empty() && bench.lent_pages().is_empty());
        assert_eq!(bench.w.spm.count(id::MEM_RECLAIM), 1);
        // All goes well with firmware that has come to its senses.
        bench.w.tamper = None;
        bench.share(&[1, 2]);
    }
}

#[test]
fn an_accepted_descriptor_without_a_handle_stays_marked_for_ever() {
    for answer in [
        regs(&[0]),
        regs(&[1, 2, 3, 4, 5, 6, 7]),
        regs(&[u64::from(id::INTERRUPT)]),
        regs(&[u64::from(id::MEM_FRAG_TX), 1, 2, 3]),
        regs(&[u64::from(id::MEM_SHARE)]),
    ] {
        let mut bench = Bench::ready(0x1_0002);
        lie(&mut bench, id::MEM_SHARE, move |_| answer);
        assert!(refused(&send(&mut bench, 2), spm::ABORTED), "{answer:x?}");
        assert_eq!(bench.lent_pages(), [1, 2].map(|n| bench.page(n)).into());
        bench.w.tamper = None;
        let pfn = bench.page(1);
        assert!(bench.w.rig.call(Call::DonateHyp { pfn, pages: 1 }).is_err());
        assert!(refused(&send(&mut bench, 1), spm::DENIED));
    }
}

#[test]
fn a_handle_that_is_in_use_names_one_transaction() {
    let mut bench = Bench::ready(0x1_0002);
    let first = bench.share(&[10]);
    lie(&mut bench, id::MEM_SHARE, move |_| {
        regs(&[spm::OK, 0, first & 0xffff_ffff, first >> 32])
    });
    assert!(refused(&send(&mut bench, 2), spm::ABORTED));
    assert_eq!(bench.w.spm.count(id::MEM_RECLAIM), 0, "the first one goes on");
    assert_eq!(bench.lent_pages().len(), 3);
    bench.w.tamper = None;
    assert_eq!(bench.reclaim(first)[0], spm::OK);
    // What the other one holds, EL2 cannot name.
    assert_eq!(bench.lent_pages().len(), 2);
}

#[test]
fn a_refusal_gives_the_pages_back() {
    for (answer, code) in [
        (spm::error(spm::NO_MEMORY), spm::NO_MEMORY),
        (spm::error(-99), -99),
        (regs(&[spm::ERROR, 7, 0, 7, 7]), spm::ABORTED),
        (regs(&[u64::MAX, 1, 0x4000_0000]), spm::NOT_SUPPORTED),
        (regs(&[0xffff_ffff]), spm::NOT_SUPPORTED),
    ] {
        let mut bench = Bench::ready(0x1_0002);
        bench.w.tamper = Some(Box::new(move |call, reply, spm| {
            if call[0] == u64::from(SHARE) {
                spm.objects.clear();
                *reply = answer;
            }
        }));
        assert!(refused(&send(&mut bench, 3), code));
        assert!(bench.lent_pages().is_empty());
    }
}

/// A transaction of four single pages whose first fragment has two.
fn started(bench: &mut Bench) -> (u64, Vec<u8>) {
    let frames: Vec<_> = (0..4).map(|n| (bench.page(2 * n), 1)).collect();
    let bytes = Build::of(&frames).bytes(bench.version());
    let fragment = bytes.len() - 32;
    bench.write_tx(&bytes[..fragment]);
    let answer = bench.call(SHARE, &[bytes.len() as u64, fragment as u64, 0, 0]);
    assert_eq!(answer[0], spm::FRAG_RX);
    (answer[2] << 32 | answer[1], bytes[fragment..].to_vec())
}

fn finish(bench: &mut Bench, handle: u64, rest: &[u8]) -> Regs {
    bench.write_tx(rest);
    bench.call(
        id::MEM_FRAG_TX,
        &[handle & 0xffff_ffff, handle >> 32, rest.len() as u64, 0],
    )
}

#[test]
fn a_first_fragment_whose_length_firmware_misstates_is_given_up() {
    // The host would go on with the fragments of a transaction whose pages are not marked any more.
    for wrong in [0, 16, 95, 0xffff_ffff] {
        let mut bench = Bench::ready(0x1_0001);
        lie(&mut bench, id::MEM_SHARE, move |more| {
            regs(&[more[0], more[1], more[2], wrong])
        });
        let frames: Vec<_> = (0..4).map(|n| (bench.page(2 * n), 1)).collect();
        let bytes = Build::of(&frames).bytes(bench.version());
        bench.write_tx(&bytes[..112]);
        let answer = bench.call(SHARE, &[bytes.len() as u64, 112, 0, 0]);
        assert!(refused(&answer, spm::ABORTED), "{wrong}");
        let open = *bench.w.spm.objects.first_key_value().unwrap().0;
        bench.w.tamper = None;
        assert!(refused(&finish(&mut bench, open, &bytes[112..]), spm::INVALID));
        assert_eq!(bench.w.spm.count(id::MEM_FRAG_TX), 0, "it never becomes whole");
        // Firmware has not said that it gave them back, so the two pages stay marked.
        assert_eq!(bench.lent_pages().len(), 2);
        assert!(refused(&bench.reclaim(open), spm::INVALID));
        bench.w.spm.objects.get_mut(&open).unwrap().len = 112;
        assert_eq!(bench.reclaim(open)[0], spm::OK);
        assert!(bench.lent_pages().is_empty());
    }
}

#[test]
fn a_first_fragment_that_firmware_takes_for_the_whole_is_reclaimed() {
    let mut bench = Bench::ready(0x1_0001);
    bench.w.tamper = Some(Box::new(|call, reply, spm| {
        if call[0] == u64::from(SHARE) {
            let handle = *spm.objects.first_key_value().unwrap().0;
            let object = spm.objects.get_mut(&handle).unwrap();
            object.len = object.bytes.len();
            *reply = regs(&[spm::OK, 0, handle & 0xffff_ffff, handle >> 32]);
        }
    }));
    let frames: Vec<_> = (0..4).map(|n| (bench.page(2 * n), 1)).collect();
    let bytes = Build::of(&frames).bytes(bench.version());
    bench.write_tx(&bytes[..112]);
    let answer = bench.call(SHARE, &[bytes.len() as u64, 112, 0, 0]);
    assert!(refused(&answer, spm::ABORTED));
    assert!(bench.lent_pages().is_empty() && bench.w.spm.objects.is_empty());
}

#[test]
fn a_fragment_with_a_senseless_answer_ends_the_transaction() {
    let answers: [fn(&Regs) -> Regs; 6] = [
        |_| regs(&[0]),
        |ok| regs(&[spm::FRAG_RX, ok[2], ok[3], 0]),
        |ok| regs(&[spm::FRAG_RX, ok[2], ok[3], 128]),
        |ok| regs(&[spm::FRAG_RX, ok[2] ^ 1, ok[3], 144]),
        |ok| regs(&[u64::from(id::MEM_OP_PAUSE), ok[2], ok[3]]),
        |_| regs(&[u64::from(id::YIELD)]),
    ];
    for answer in answers {
        let mut bench = Bench::ready(0x1_0001);
        let (handle, rest) = started(&mut bench);
        lie(&mut bench, id::MEM_FRAG_TX, answer);
        // Firmware has the whole of it, and gives it back when it is told to.
        assert!(refused(&finish(&mut bench, handle, &rest), spm::ABORTED));
        assert!(bench.lent_pages().is_empty() && bench.w.spm.objects.is_empty());

        // And if it does not, the host may try later.
        let mut bench = Bench::ready(0x1_0001);
        let (handle, rest) = started(&mut bench);
        bench.w.tamper = Some(Box::new(move |call, reply, spm| {
            if call[0] == u64::from(id::MEM_FRAG_TX) {
                *reply = answer(reply);
                spm.objects.get_mut(&handle).unwrap().retrieved = true;
            }
        }));
        assert!(refused(&finish(&mut bench, handle, &rest), spm::ABORTED));
        assert_eq!(bench.lent_pages().len(), 4);
        assert!(refused(&finish(&mut bench, handle, &rest), spm::INVALID));
        assert!(refused(&bench.reclaim(handle), spm::DENIED));
        bench.w.spm.objects.get_mut(&handle).unwrap().retrieved = false;
        assert_eq!(bench.reclaim(handle)[0], spm::OK);
        assert!(bench.lent_pages().is_empty());
    }
}

#[test]
fn a_fragment_in_the_middle_has_one_right_answer() {
    let answers: [fn(&Regs) -> Regs; 4] = [
        // The whole, another transaction, more than was sent, less.
        |more| regs(&[spm::OK, 0, more[1], more[2]]),
        |more| regs(&[spm::FRAG_RX, more[1] ^ 1, more[2], more[3]]),
        |more| regs(&[spm::FRAG_RX, more[1], more[2], more[3] + 16]),
        |more| regs(&[spm::FRAG_RX, more[1], more[2], more[3] - 16]),
    ];
    for answer in answers {
        let mut bench = Bench::ready(0x1_0001);
        let (handle, rest) = started(&mut bench);
        lie(&mut bench, id::MEM_FRAG_TX, answer);
        assert!(refused(&finish(&mut bench, handle, &rest[..16]), spm::ABORTED));
        // Firmware keeps what is not whole, and has not said that it gave it back.
        assert_eq!(bench.lent_pages().len(), 3);
        bench.w.tamper = None;
        let asked = bench.w.spm.count(id::MEM_FRAG_TX);
        assert!(refused(&finish(&mut bench, handle, &rest[16..]), spm::INVALID));
        assert_eq!(bench.w.spm.count(id::MEM_FRAG_TX), asked);
    }
}

#[test]
fn a_fragment_that_firmware_refuses_takes_those_before_it_along() {
    for (code, objects) in [(spm::NO_MEMORY, false), (spm::BUSY, false), (spm::ABORTED, true)] {
        let mut bench = Bench::ready(0x1_0001);
        let (handle, rest) = started(&mut bench);
        bench.w.tamper = Some(Box::new(move |call, reply, spm| {
            if call[0] == u64::from(id::MEM_FRAG_TX) {
                *reply = spm::error(code);
                if objects {
                    spm.objects.clear();
                } else {
                    let object = spm.objects.get_mut(&handle).unwrap();
                    object.bytes.truncate(object.len - 32);
                }
            }
        }));
        assert!(refused(&finish(&mut bench, handle, &rest), code));
        assert!(bench.lent_pages().is_empty());
        bench.w.tamper = None;
        assert!(refused(&finish(&mut bench, handle, &rest), spm::INVALID));
    }
}

#[test]
fn the_last_fragment_may_be_acknowledged_without_the_handle() {
    let mut bench = Bench::ready(0x1_0001);
    let (handle, rest) = started(&mut bench);
    lie(&mut bench, id::MEM_FRAG_TX, |_| regs(&[spm::OK]));
    let answer = finish(&mut bench, handle, &rest);
    assert_eq!(answer, regs(&[spm::OK, 0, handle & 0xffff_ffff, handle >> 32]));
    assert_eq!(bench.reclaim(handle)[0], spm::OK);
}

#[test]
fn an_open_transaction_can_be_reclaimed_where_firmware_can() {
    let mut bench = Bench::ready(0x1_0001);
    let (handle, rest) = started(&mut bench);
    assert!(refused(&bench.reclaim(handle), spm::INVALID));
    assert_eq!(bench.lent_pages().len(), 2, "it is still open");
    assert_eq!(finish(&mut bench, handle, &rest)[0], spm::OK);
    bench.reclaim(handle);
    let (handle, rest) = started(&mut bench);
    bench.w.tamper = Some(Box::new(move |call, reply, spm| {
        if call[0] == u64::from(id::MEM_RECLAIM) {
            spm.objects.clear();
            *reply = regs(&[spm::OK]);
        }
    }));
    assert_eq!(bench.reclaim(handle)[0], spm::OK);
    assert!(bench.lent_pages().is_empty());
    assert!(refused(&finish(&mut bench, handle, &rest), spm::INVALID));
}

#[test]
fn only_a_success_reclaims() {
    for (answer, code) in [
        (regs(&[0]), spm::ABORTED),
        (regs(&[spm::ERROR, 0, 0]), spm::ABORTED),
        (regs(&[spm::ERROR, 0, 1]), spm::ABORTED),
        (regs(&[u64::MAX, 0, 0]), spm::NOT_SUPPORTED),
        (regs(&[spm::FRAG_RX, 0, 0, 0]), spm::ABORTED),
        (regs(&[u64::from(id::MEM_OP_PAUSE), 1, 0]), spm::ABORTED),
        (spm::error(spm::INVALID), spm::INVALID),
        (spm::error(spm::BUSY), spm::BUSY),
    ] {
        let mut bench = Bench::ready(0x1_0002);
        let sent = bench.share(&[1, 2]);
        bench.w.tamper = Some(Box::new(move |_, reply, _| *reply = answer));
        assert!(refused(&bench.reclaim(sent), code), "{answer:x?}");
        assert_eq!(bench.lent_pages().len(), 2);
        bench.w.tamper = None;
        // Had firmware not kept them, it would not know the handle now.
        let again = bench.reclaim(sent);
        assert!(refused(&again, spm::INVALID) == (bench.lent_pages().len() == 2));
    }
}

#[test]
fn a_handle_that_the_proxy_never_saw_is_not_reclaimed() {
    let mut bench = Bench::ready(0x1_0002);
    let sent = bench.share(&[1]);
    let asked = bench.w.spm.calls.len();
    for handle in [0, sent ^ 1, sent | 1 << 63, sent << 32, u64::MAX] {
        assert!(refused(&bench.reclaim(handle), spm::INVALID), "{handle:#x}");
    }
    assert_eq!(bench.w.spm.calls.len(), asked);
    // The registers' upper halves do not count.
    let answer = bench.call(
        id::MEM_RECLAIM,
        &[sent & 0xffff_ffff | 0xdead << 32, sent >> 32 | 1 << 63, u64::MAX],
    );
    assert_eq!(answer, regs(&[spm::OK]));
    let last = bench.w.spm.calls.last().unwrap();
    assert_eq!(last[3], 1, "no flag but the one that clears the memory");
}
