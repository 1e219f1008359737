// SPDX-License-Identifier: GPL-2.0-only
//! Buffers, and memory that is shared, lent and reclaimed.

use super::client::{Answer, Client, DENIED, INVALID, NO_MEMORY, NOT_SUPPORTED, PARTITION, id};
use crate::hostile::monitor::{Event, Fault};
use crate::hostile::{FakeVm, Kind, errno};

/// Buffers are mapped once, pinned while they are, and the host's afterwards.
pub fn buffers(c: &mut Client) -> Result<(), String> {
    let (tx, rx) = c.buffers.ok_or("no buffers")?;
    let count = c.page / 4096;
    for (what, pa) in [("the send buffer", tx), ("the receive buffer", rx)] {
        let reply =
            c.h.call("__pkvm_host_unshare_hyp", &[pa / c.page])
                .map_err(|e| e.to_string())?;
        c.expect(
            &format!("unsharing {what}: {reply}"),
            reply.x1() == errno::EBUSY && reply.x0() == 0,
        );
        c.kept(what, pa)?;
    }
    let (a, b) = (c.fresh()?, c.fresh()?);
    c.check(
        "a second pair",
        &[id::RXTX_MAP, a, b, count],
        Answer::Error(DENIED),
    )?;
    c.owned("refused buffers", a)?;

    // The partition's entry arrives in the receive buffer, which then belongs to the host until it is released.
    let got = c.ask(&[id::PARTITION_INFO_GET])?;
    let size = if c.version == 0x1_0000 { 0 } else { 24 };
    c.expect(
        &format!("FFA_PARTITION_INFO_GET: {got:?}"),
        got == Answer::Success(1, size),
    );
    let entry = c.get(8)?;
    c.expect("the partition's number", entry[..2] == PARTITION.to_le_bytes());
    c.check("FFA_RX_RELEASE", &[id::RX_RELEASE], Answer::Success(0, 0))?;
    c.check("FFA_RX_RELEASE again", &[id::RX_RELEASE], Answer::Error(DENIED))?;
    for (what, fault) in [
        ("as many partitions as wrap", Fault::PartitionWrap),
        ("more partitions than fit", Fault::PartitionMany),
    ] {
        c.h.poke(c.va(rx)?, &[0x5a; 64]).map_err(|e| e.to_string())?;
        c.monitor()?.arm(fault, 1)?;
        let got = c.ask(&[id::PARTITION_INFO_GET])?;
        // The C object multiplies in 32 bits, and believes what comes out.
        let known = c.is_c && fault == Fault::PartitionWrap && matches!(got, Answer::Success(..));
        c.expect(
            &format!("{what}: {got:?}"),
            matches!(got, Answer::Error(_)) || known,
        );
        let _ = c.ask(&[id::RX_RELEASE])?;
    }

    c.check(
        "unmapping for another",
        &[id::RXTX_UNMAP, 1],
        Answer::Error(INVALID),
    )?;
    c.unmap_buffers()?;
    c.owned("the send buffer", tx)?;
    c.owned("the receive buffer", rx)?;
    c.check("unmapping twice", &[id::RXTX_UNMAP], Answer::Error(INVALID))?;
    let descriptor = c.descriptor(&[(a, 1)]);
    c.check(
        "sharing without buffers",
        &[id::MEM_SHARE, descriptor.len() as u64, descriptor.len() as u64],
        Answer::Error(INVALID),
    )?;

    // Pages that cannot be buffers; each time the good one stays the host's.
    let device = c.map.mmio;
    let hyp = c.map.hyp;
    for (what, tx, rx, n) in [
        ("no page", a, b, 0),
        ("too many pages", a, b, count + 1),
        ("an unaligned address", a + 8, b, count),
        ("an unaligned address", a, b + 0x800, count),
        ("a device", device, b, count),
        ("a device", a, device, count),
        ("EL2's memory", hyp, b, count),
        ("EL2's memory", a, hyp, count),
        ("an address out of range", 1 << 52, b, count),
        ("an address out of range", a, u64::MAX - 4095, count),
    ] {
        c.check(
            &format!("{what} for a buffer"),
            &[id::RXTX_MAP, tx, rx, n],
            Answer::Error(INVALID),
        )?;
        c.owned(&format!("after {what} for a buffer"), a)?;
        c.owned(&format!("after {what} for a buffer"), b)?;
    }
    // A page that is shared with EL2 already is not taken, and stays shared.
    let share = |name: &str| c.h.call(name, &[b / c.page]).map_err(|e| e.to_string());
    share("__pkvm_host_share_hyp")?.ok("share_hyp")?;
    let got = c.ask(&[id::RXTX_MAP, a, b, count])?;
    let still = share("__pkvm_host_unshare_hyp")?.ok("").is_ok();
    c.expect(
        &format!("a shared page for a buffer: {got:?}"),
        got == Answer::Error(INVALID),
    );
    c.expect("the shared page stayed shared", still);
    c.owned("beside a shared page", a)?;
    // The firmware may refuse; then nothing has changed.
    c.monitor()?.arm(Fault::Refuse, 1)?;
    c.check(
        "a refusal",
        &[id::RXTX_MAP, a, b, count],
        Answer::Error(NO_MEMORY),
    )?;
    c.monitor()?.arm(Fault::Honest, 0)?;
    c.owned("after a refusal", a)?;
    c.owned("after a refusal", b)?;
    c.map_buffers()
}

/// Memory goes to the secure world and comes back, and nobody else gets it meanwhile.
pub fn share(c: &mut Client) -> Result<(), String> {
    for (what, function) in [
        ("shared", id::MEM_SHARE),
        ("lent", id::MEM_LEND),
        ("shared by a 32-bit call", id::MEM_SHARE & !(1 << 30)),
    ] {
        let pages = c.pages(2)?;
        let other = c.fresh()?;
        c.h.poke64(c.va(pages)?, 0x1111_2222).map_err(|e| e.to_string())?;
        let per = (c.page / 4096) as u32;
        let ranges = [(pages, 2 * per), (other, per)];
        let handle = c.give(function, &ranges)?.map_err(|e| format!("{what}: {e:?}"))?;
        let seen = c.monitor()?.read(pages)?;
        c.monitor()?.write(other, 0x3333_4444)?;
        let back = c.h.peek64(c.va(other)?).map_err(|e| e.to_string())?;
        c.expect(
            &format!("{what}: the two sides see {seen:#x} and {back:#x}"),
            (seen, back) == (0x1111_2222, 0x3333_4444),
        );
        for pa in [pages, pages + c.page, other] {
            c.shared(what, pa)?;
        }
        // A second time, alone or within a range.
        for ranges in [vec![(other, per)], vec![(pages + c.page, per)]] {
            let got = c.give(function, &ranges)?;
            c.expect(
                &format!("{what} twice: {got:?}"),
                got == Err(Answer::Error(DENIED)),
            );
        }
        let twice = c.monitor()?.count(Event::HeldTwice)?;
        c.expect(
            &format!("{what} twice: firmware was offered {twice} pages that it had"),
            twice == 0,
        );
        let got = c.reclaim(handle)?;
        c.expect(&format!("reclaim: {got:?}"), matches!(got, Answer::Success(..)));
        for pa in [pages, pages + c.page, other] {
            c.owned(what, pa)?;
        }
        let got = c.reclaim(handle)?;
        c.expect(
            &format!("reclaim twice: {got:?}"),
            matches!(got, Answer::Error(_)),
        );
    }
    Ok(())
}

/// Memory that is not the host's to give, and descriptors that are not as they must be: nothing reaches the firmware.
pub fn refused(c: &mut Client) -> Result<(), String> {
    let good = c.fresh()?;
    let vm = FakeVm::new(c.h, Kind::Protected)?;
    vm.load(0)?;
    let guest_page = vm.donate(0x50)?;
    vm.put()?;
    let mut targets = vec![
        ("EL2's memory", c.map.hyp),
        ("EL2's text", c.map.hyp_text),
        ("a device", c.map.mmio),
        ("what is behind memory", c.map.memory_end),
        ("a pVM's page", guest_page),
        ("a buffer", c.buffers.ok_or("no buffers")?.0),
        ("half a page", good + 0x800),
        ("an address of 52 bits and more", 1 << 52),
        ("the end of the address space", u64::MAX - 4095),
    ];
    if let Some(at) = c.map.kept_out {
        targets.push(("memory under no-map", at));
    }
    let mut strays = Vec::new();
    for (what, at) in targets {
        for function in [id::MEM_SHARE, id::MEM_LEND] {
            // Alone, and behind a page that is fine.
            for ranges in [vec![(at, 1)], vec![(good, 1), (at, 1)]] {
                let before = c.monitor()?.count(Event::Ffa)?;
                let got = c.give(function, &ranges)?;
                let reached = c.monitor()?.count(Event::Ffa)? != before;
                if !matches!(got, Err(Answer::Error(DENIED | INVALID))) || reached {
                    strays.push(format!("{what}: {got:?}, firmware called: {reached}"));
                }
                if !c.is_owned(good)? {
                    strays.push(format!("{what}: the page before it is not the host's any more"));
                }
            }
        }
    }
    for (what, ranges) in [
        ("a range that wraps", vec![(good, u32::MAX)]),
        ("a page twice", vec![(good, 1), (good, 1)]),
        ("no range", vec![]),
    ] {
        let got = c.give(id::MEM_SHARE, &ranges)?;
        // The C object passes a descriptor without ranges on; the monitor refuses it.
        if !matches!(got, Err(Answer::Error(DENIED | INVALID))) || !c.is_owned(good)? {
            strays.push(format!("{what}: {got:?}"));
        }
    }

    // One field at a time is wrong.
    let fine = c.descriptor(&[(good, 1)]);
    let header = if c.version == 0x1_0000 { 32 } else { 48 };
    let composite = fine.len() - 32;
    let whole = fine.len() as u64;
    let spoiled: [(&str, usize, &[u8]); 7] = [
        ("another sender", 0, &[1, 0]),
        ("two receivers", 28, &[2, 0, 0, 0]),
        ("no receiver", 28, &[0; 4]),
        ("no composite descriptor", header + 4, &[0; 4]),
        (
            "a composite descriptor out of the fragment",
            header + 4,
            &[0, 0, 1, 0],
        ),
        (
            "a composite descriptor that wraps",
            header + 4,
            &[0xf8, 0xff, 0xff, 0xff],
        ),
        ("more ranges than there are", composite + 4, &[9, 0, 0, 0]),
    ];
    for (what, at, bytes) in spoiled {
        let mut descriptor = fine.clone();
        descriptor[at..at + bytes.len()].copy_from_slice(bytes);
        let got = c.begin(id::MEM_SHARE, &descriptor, descriptor.len())?;
        if !matches!(got, Answer::Error(INVALID | DENIED)) || !c.is_owned(good)? {
            strays.push(format!("{what}: {got:?}"));
        }
    }
    c.put(&fine)?;
    for (what, words) in [
        ("a fragment longer than all", [whole, whole + 16, 0, 0]),
        ("a fragment of nothing", [whole, 0, 0, 0]),
        ("a fragment of a header", [whole, header as u64, 0, 0]),
        ("a fragment above a page", [0x9000, 0x1_0010, 0, 0]),
        ("a buffer of its own", [whole, whole, good, 1]),
        ("a tail", [whole - 8, whole - 8, 0, 0]),
    ] {
        let got = c.ask(&[id::MEM_SHARE, words[0], words[1], words[2], words[3]])?;
        if !matches!(got, Answer::Error(_)) || !c.is_owned(good)? {
            strays.push(format!("{what}: {got:?}"));
        }
    }
    let got = c.ask(&[id::MEM_SHARE, 1 << 20, 4096])?;
    if !matches!(got, Answer::Error(NO_MEMORY | INVALID)) {
        strays.push(format!("a descriptor of 1 MiB: {got:?}"));
    }
    let got = c.ask(&[id::MEM_DONATE, whole, whole])?;
    if got != Answer::Error(NOT_SUPPORTED) {
        strays.push(format!("FFA_MEM_DONATE: {got:?}"));
    }
    vm.destroy(&[0x50], Kind::Protected)?;
    c.good += 60;
    c.bad.append(&mut strays);
    c.owned("the good page", good)
}

/// Long descriptors go in pieces, and a piece that fails costs nothing.
pub fn fragments(c: &mut Client) -> Result<(), String> {
    const RANGES: usize = 300;
    let per = (c.page / 4096) as u32;
    // Every other page, so that no two ranges touch.
    let base = c.pages(2 * RANGES as u64)?;
    let ranges: Vec<(u64, u32)> = (0..RANGES as u64).map(|n| (base + 2 * n * c.page, per)).collect();
    let descriptor = c.descriptor(&ranges);
    let head = descriptor.len() - 16 * RANGES;
    let (first, second) = (head + 16 * 100, head + 16 * 201);

    let start = |c: &Client| -> Result<u64, String> {
        match c.begin(id::MEM_SHARE, &descriptor, first)? {
            Answer::More(handle, next) if next == first as u64 => Ok(handle),
            other => Err(format!("the first fragment: {other:?}")),
        }
    };
    let handle = start(c)?;
    c.kept("of the first fragment", ranges[0].0)?;
    c.kept("of the first fragment", ranges[99].0)?;
    c.owned("of a fragment to come", ranges[100].0)?;
    let got = c.more(handle, &descriptor[first..second])?;
    c.expect(
        &format!("the second fragment: {got:?}"),
        got == Answer::More(handle, second as u64),
    );
    let got = c.more(handle, &descriptor[second..])?;
    c.expect(
        &format!("the last fragment: {got:?}"),
        got == Answer::Success(handle & 0xffff_ffff, handle >> 32),
    );
    for n in [0, 99, 100, 200, 201, RANGES - 1] {
        c.shared("of a long descriptor", ranges[n].0)?;
    }
    let held = c.monitor()?.held()?.len();
    c.expect(&format!("the secure world has {held} ranges"), held == RANGES);
    if !c.is_c {
        // More of it than there is, which firmware need not hear of.
        let before = c.monitor()?.count(Event::Ffa)?;
        let got = c.more(handle, &descriptor[second..])?;
        let reached = c.monitor()?.count(Event::Ffa)? != before;
        c.expect(
            &format!("a fragment too many: {got:?}, firmware called: {reached}"),
            got == Answer::Error(INVALID) && !reached,
        );
    }
    let got = c.reclaim(handle)?;
    c.expect(&format!("reclaim: {got:?}"), matches!(got, Answer::Success(..)));
    for n in [0, 99, 100, 200, 201, RANGES - 1] {
        c.owned("of a long descriptor", ranges[n].0)?;
    }

    if c.is_c {
        // What follows costs the C object the pages of earlier fragments, as its own comment says.
        return Ok(());
    }
    // A page that is not the host's in a later fragment: all of it is undone.
    let handle = start(c)?;
    let mut wrong = descriptor[first..second].to_vec();
    wrong[16 * 50..16 * 50 + 8].copy_from_slice(&c.map.hyp.to_le_bytes());
    let got = c.more(handle, &wrong)?;
    c.expect(
        &format!("a fragment with EL2's memory: {got:?}"),
        got == Answer::Error(DENIED),
    );
    for n in [0, 99, 100, 149, 151, 200] {
        c.owned("after a fragment with EL2's memory", ranges[n].0)?;
    }
    // Fragments that are no fragments change nothing; the transaction goes on after them.
    let handle = start(c)?;
    for (what, len) in [
        ("of nothing", 0u64),
        ("of half a range", 24),
        ("above a page", 0x1_0010),
        ("that wraps", 0xffff_fff0),
    ] {
        let got = c.ask(&[id::MEM_FRAG_TX, handle & 0xffff_ffff, handle >> 32, len])?;
        c.expect(
            &format!("a fragment {what}: {got:?}"),
            got == Answer::Error(INVALID),
        );
    }
    let got = c.ask(&[id::MEM_FRAG_TX, handle & 0xffff_ffff, handle >> 32, 16, 5])?;
    c.expect(
        &format!("a fragment of another's: {got:?}"),
        got == Answer::Error(INVALID),
    );
    // A transaction that is under way can be given up.
    let got = c.reclaim(handle)?;
    c.expect(
        &format!("reclaim midway: {got:?}"),
        matches!(got, Answer::Success(..)),
    );
    for n in [0, 99] {
        c.owned("after a reclaim midway", ranges[n].0)?;
    }
    Ok(())
}
