// SPDX-License-Identifier: GPL-2.0-only
//! The judgements about FF-A: each may end the machine on the C object, so each has a boot of its own.

use super::client::{Answer, Client, id};
use crate::hostile::monitor::{Event, Fault};
use crate::hostile::{FakeVm, Kind};
use crate::tests::judgements::seen;

type Result = std::result::Result<bool, String>;

fn per(c: &Client) -> u32 {
    (c.page / 4096) as u32
}

fn with_buffers() -> std::result::Result<Client, String> {
    let mut c = Client::open()?;
    c.map_buffers()?;
    Ok(c)
}

/// J11: the buffers are unmapped while one of them has a second pin, as the host's structure of a VM.
pub fn pinned_buffer() -> Result {
    let c = Client::open()?;
    let vm = FakeVm::prepare(c.h, Kind::Protected, 1)?;
    let tx = c.h.pa_of(vm.host).map_err(|e| e.to_string())?;
    let pfn = tx / c.page;
    c.h.call("__pkvm_host_unshare_hyp", &[pfn])
        .map_err(|e| e.to_string())?
        .ok("unshare_hyp")?;
    let rx = c.fresh()?;
    let mapped = c.ask(&[id::RXTX_MAP, tx, rx, c.page / 4096])?;
    if !matches!(mapped, Answer::Success(..)) {
        return Err(format!("FFA_RXTX_MAP: {mapped:?}"));
    }
    vm.init()?;
    println!("# the send buffer is pinned twice; now it is unmapped");
    let got = c.ask(&[id::RXTX_UNMAP])?;
    let pinned =
        c.h.call("__pkvm_host_unshare_hyp", &[pfn])
            .map_err(|e| e.to_string())?;
    seen(&format!("RXTX_UNMAP: {got:?}; then unshare: {pinned}"));
    let receiver = c.is_owned(rx)?;
    Ok(matches!(got, Answer::Success(..)) && pinned.ok("").is_err() && receiver)
}

/// J12: a fragment for a handle that nobody gave, with a range that cannot be shared.
pub fn stray_fragment() -> Result {
    let c = with_buffers()?;
    let fragment = c.descriptor(&[(c.map.hyp, per(&c))]);
    let got = c.more(0x1234_5678_9abc, &fragment[fragment.len() - 16..])?;
    seen(&format!("{got:?}"));
    Ok(got == Answer::Error(super::client::INVALID))
}

/// J19: firmware refuses FF-A when EL2 asks, and offers it afterwards.
pub fn late_firmware() -> Result {
    let c = Client::look()?;
    let version = c.call(&[id::VERSION, 0x1_0002])?.regs[0];
    println!("# FFA_VERSION: {version:#x}");
    let got = c.reclaim(1)?;
    seen(&format!("VERSION: {version:#x}, RECLAIM: {got:?}"));
    Ok(version as u32 == u32::MAX && got == Answer::Error(super::client::INVALID))
}

/// J20: a version with bit 31 set, which firmware overlooks.
pub fn bit_31() -> Result {
    let c = Client::look()?;
    let version = c.call(&[id::VERSION, 0x8001_0000])?.regs[0];
    seen(&format!("{version:#x}"));
    Ok(version as u32 == u32::MAX)
}

/// J21, J23: a page is shared, and when it is reclaimed firmware gives the descriptor back wrongly.
pub fn retrieved(fault: Fault) -> Result {
    let c = with_buffers()?;
    // Long enough for several pages of descriptor where the fault is in a later one.
    let later = matches!(fault, Fault::RetrieveZero | Fault::RetrieveHuge);
    let count = if later { 300 } else { 1 };
    let base = c.pages(2 * count)?;
    let ranges: Vec<_> = (0..count).map(|n| (base + 2 * n * c.page, per(&c))).collect();
    let descriptor = c.descriptor(&ranges);
    let first = descriptor.len().min(4080);
    let mut got = c.begin(id::MEM_SHARE, &descriptor, first)?;
    if let Answer::More(handle, _) = got {
        got = c.more(handle, &descriptor[first..])?;
    }
    let Answer::Success(low, high) = got else {
        return Err(format!("FFA_MEM_SHARE: {got:?}"));
    };
    c.monitor()?.arm(fault, u64::MAX)?;
    println!("# shared; now it is reclaimed");
    let got = c.reclaim(low | high << 32)?;
    c.monitor()?.arm(Fault::Honest, 0)?;
    let owned = c.is_owned(base)?;
    let held = c.monitor()?.holds(base)?;
    seen(&format!(
        "RECLAIM: {got:?}; the page is the host's: {owned}, the secure world's: {held}"
    ));
    Ok(matches!(got, Answer::Success(..)) && owned && !held)
}

/// J22: firmware takes a fragment and names a wrong offset for the next.
pub fn fragment_offset() -> Result {
    let c = with_buffers()?;
    let pages = [c.fresh()?, c.fresh()?];
    let descriptor = c.descriptor(&pages.map(|pa| (pa, per(&c))));
    let cut = descriptor.len() - 16;
    c.monitor()?.arm(Fault::FragLong, 1)?;
    let got = c.begin(id::MEM_SHARE, &descriptor, cut)?;
    c.monitor()?.arm(Fault::Honest, 0)?;
    let held = c.monitor()?.holds(pages[0])?;
    let free = c.is_owned(pages[0])?;
    seen(&format!(
        "{got:?}; the page is the secure world's: {held}, free for others: {free}"
    ));
    Ok(matches!(got, Answer::Error(_)) && !(held && free))
}

/// J24: so many partitions that their size wraps.
pub fn partitions() -> Result {
    let c = with_buffers()?;
    c.monitor()?.arm(Fault::PartitionWrap, 1)?;
    let got = c.ask(&[id::PARTITION_INFO_GET])?;
    seen(&format!("{got:?}"));
    Ok(matches!(got, Answer::Error(_)))
}

/// J25: an error of firmware's that is no FF-A error, when EL2's own buffers are mapped.
pub fn odd_error(fault: Fault) -> Result {
    let c = Client::open()?;
    let (tx, rx) = (c.fresh()?, c.fresh()?);
    c.monitor()?.arm(fault, 1)?;
    let reply = c.call(&[id::RXTX_MAP, tx, rx, c.page / 4096])?;
    let got = super::client::answer(&reply);
    seen(&match got {
        Answer::Error(code) if !(-16..0).contains(&code) => "an address of EL2's for an error".to_owned(),
        other => format!("{other:?}"),
    });
    Ok(matches!(got, Answer::Error(code) if (-16..0).contains(&code)))
}

/// J26: calls that the proxy does not know.
pub fn gaps() -> Result {
    let c = Client::open()?;
    let calls = [
        0xc400_0070,
        0xc400_0083,
        0x8400_0084,
        0x8400_0086,
        0x8400_0087,
        0xc400_0087,
        0x8400_0088,
        0x8400_0089,
        0x8400_008c,
        0x8400_008f,
        0xc400_00fe,
    ];
    let mut reached = Vec::new();
    for call in calls {
        let before = c.monitor()?.count(Event::Ffa)?;
        c.ask(&[call, 1, 2, 3])?;
        if c.monitor()?.count(Event::Ffa)? != before {
            reached.push(format!("{call:x}"));
        }
    }
    seen(&format!("{} of {} reached firmware", reached.len(), calls.len()));
    Ok(reached.is_empty())
}
