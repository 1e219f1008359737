// SPDX-License-Identifier: GPL-2.0-only
//! Versions, the kernel's driver, and calls that carry no memory.

use super::client::{Answer, Client, INVALID, NOT_SUPPORTED, PARTITION, id, wait_for};
use crate::hostile::monitor::Event;
use crate::ktap::{Sub, note};
use crate::tests::boot::kernel_log;
use crate::tests::{Fail, Outcome};
use std::time::Duration;

/// The partitions that the kernel's driver found: their numbers.
fn found() -> Vec<u64> {
    let Ok(all) = std::fs::read_dir("/sys/bus/arm_ffa/devices") else {
        return Vec::new();
    };
    all.flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("partition_id")).ok())
        .filter_map(|text| u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok())
        .collect()
}

/// The kernel's driver probes, and finds the partition.
pub fn driver(_: &mut Sub) -> Outcome {
    wait_for(Duration::from_secs(5), || found().contains(&u64::from(PARTITION)));
    for line in kernel_log()?.iter().filter(|l| l.contains("FF-A")) {
        note(line);
    }
    let found = found();
    if found.contains(&u64::from(PARTITION)) {
        Ok(())
    } else {
        Err(Fail::Because(format!("/sys/bus/arm_ffa has only {found:x?}")))
    }
}

/// A version of the protocol, as it is written.
fn word(version: &str) -> Option<u64> {
    match version {
        "1.0" => Some(0x1_0000),
        "1.1" => Some(0x1_0001),
        "1.2" => Some(0x1_0002),
        _ => None,
    }
}

/// What comes of each firmware: `1.0` and so on if the driver must probe with this version, `none` if it must not. With
/// `first` there is no driver, and nobody has asked for a version yet: the test asks for this one and must get it.
pub fn version(wanted: &str, first: bool) -> Outcome {
    let log = kernel_log()?;
    for line in log.iter().filter(|l| l.contains("FF-A")) {
        note(line);
    }
    let client = Client::look()?;
    let probed = found().contains(&u64::from(PARTITION));
    let asked = word(wanted).filter(|_| first).unwrap_or(0x1_0002);
    let version = client.call(&[id::VERSION, asked])?.regs[0];
    let bit31 = client.call(&[id::VERSION, 0x8001_0002])?.regs[0];
    let seen = format!(
        "driver {}, version {version:#x}",
        if probed { "probed" } else { "did not" }
    );
    note(&seen);
    let refused = |value: u64| value as u32 == u32::MAX;
    // The C object overlooks the bit once it has agreed on a version, and does not start protected on firmware with
    // another major number: then it answers 0, or nobody stands between the host and firmware.
    let is_c = crate::system::cmdline_has("hyp=c");
    if is_c && (matches!(version, 0 | 0x2_0000) || !refused(bit31)) {
        note("this is what the C object does");
    } else if !refused(bit31) {
        return Err(Fail::Because(format!("a version with bit 31 set: {bit31:#x}")));
    }
    let good = match wanted {
        "none" if is_c && matches!(version, 0 | 0x2_0000) => return Ok(()),
        "none" => !probed && refused(version),
        "1.0" | "1.1" | "1.2" => probed != first && Some(version) == word(wanted),
        // The firmware says another thing each time: whatever came of it, the host lives, and EL2 speaks one version.
        _ => {
            let again = client.call(&[id::VERSION, 0x1_0002])?.regs[0];
            again == version && (refused(version) || (0x1_0000..=0x1_0002).contains(&version))
        }
    };
    if !good {
        return Err(Fail::Because(format!("{seen}; wanted: {wanted}")));
    }
    if refused(version) {
        // Then nothing else is served.
        for call in [
            id::ID_GET,
            id::FEATURES,
            id::RXTX_MAP,
            id::MEM_SHARE,
            id::MEM_RECLAIM,
        ] {
            let got = client.ask(&[call])?;
            if got != Answer::Error(INVALID) {
                return Err(Fail::Because(format!(
                    "call {call:#x} before an agreement: {got:?}"
                )));
            }
        }
        return Ok(());
    }
    // What the version says of descriptors holds: a page goes there and back.
    let mut client = Client::open()?;
    client.map_buffers()?;
    let pa = client.fresh()?;
    let handle = client
        .give(id::MEM_SHARE, &[(pa, 1)])?
        .map_err(|e| format!("FFA_MEM_SHARE: {e:?}"))?;
    client.shared("a shared page", pa)?;
    match client.reclaim(handle)? {
        Answer::Success(..) => {}
        other => return Err(Fail::Because(format!("FFA_MEM_RECLAIM: {other:?}"))),
    }
    client.owned("a reclaimed page", pa)?;
    client.unmap_buffers()?;
    client.close()?;
    match client.bad.first() {
        None => Ok(()),
        Some(bad) => Err(Fail::Because(bad.clone())),
    }
}

/// Once a version is agreed it stays.
pub fn negotiate(c: &mut Client) -> Result<(), String> {
    let agreed = c.version;
    let refused = u64::from(u32::MAX);
    for (asked, want) in [
        (0x1_0002, agreed),
        (0x1_0003, agreed),
        (0x1_ffff, agreed),
        (0x1_0001, refused),
        (0x1_0000, refused),
        (0x0_ffff, refused),
        (0x2_0000, refused),
        (0x7fff_0000, refused),
        (0x8001_0000, refused),
        (0x8001_0002, refused),
        (0xffff_ffff, refused),
        (0, refused),
    ] {
        let got = c.call(&[id::VERSION, asked])?.regs[0] & 0xffff_ffff;
        // The C object overlooks bit 31 in the major number.
        let known = c.is_c && asked == 0x8001_0002 && got == agreed;
        c.expect(
            &format!("FFA_VERSION {asked:#x}: {got:#x}, not {want:#x}"),
            got == want || known,
        );
    }
    Ok(())
}

/// Calls that go through, and those that must not: the monitor counts what reaches it.
pub fn calls(c: &mut Client) -> Result<(), String> {
    c.check("FFA_ID_GET", &[id::ID_GET], Answer::Success(0, 0))?;
    c.check("FFA_SPM_ID_GET", &[id::SPM_ID_GET], Answer::Success(0x8000, 0))?;
    for feature in [id::MEM_SHARE, id::MEM_LEND, id::RXTX_MAP, id::ID_GET, id::VERSION] {
        let got = c.ask(&[id::FEATURES, feature])?;
        c.expect(
            &format!("FFA_FEATURES {feature:#x}: {got:?}"),
            got == Answer::Success(0, 0),
        );
    }
    for feature in [
        id::MEM_DONATE,
        id::MEM_RETRIEVE_REQ,
        0x8400_007d,
        0x8400_0083,
        0x8400_008a,
    ] {
        c.check(
            &format!("FFA_FEATURES {feature:#x}"),
            &[id::FEATURES, feature],
            Answer::Error(NOT_SUPPORTED),
        )?;
    }
    // The partition sends back what it gets.
    let mut message = [0; 18];
    message[..8].copy_from_slice(&[id::DIRECT_REQ, u64::from(PARTITION), 0, 11, 12, 13, 14, 15]);
    let reply = c.call(&message)?;
    c.expect(
        &format!("a direct message: {:x?}", &reply.regs[..8]),
        reply.regs[0] == id::DIRECT_RESP
            && reply.regs[1] == u64::from(PARTITION) << 16
            && reply.regs[3..8] == [11, 12, 13, 14, 15],
    );
    // What the proxy does not know stays on this side.
    let mut strays: Vec<u64> = vec![
        id::MEM_DONATE,
        id::MEM_RETRIEVE_REQ,
        0x8400_0071,
        0x8400_0074,
        0x8400_0075,
        0x8400_0076,
        0x8400_0078,
        0x8400_0079,
        id::MEM_FRAG_RX,
        0x8400_006a,
        0x8400_006b,
        0x8400_006e,
        0x8400_0070,
        0x8400_0066,
    ];
    strays.extend(0x8400_007d..=0x8400_0083);
    strays.extend([0x8400_008a, 0xc400_008b, 0xc400_008d, 0xc400_008e]);
    if !c.is_c {
        // J26: those that the C object lets through.
        strays.extend([
            0xc400_0070,
            0xc400_0083,
            0x8400_0084,
            0x8400_0086,
            0x8400_0087,
            0xc400_0087,
        ]);
        strays.extend([
            0x8400_0088,
            0xc400_0088,
            0x8400_0089,
            0xc400_0089,
            0x8400_008c,
            0x8400_008f,
            0xc400_00fe,
        ]);
    }
    for call in strays {
        let before = c.monitor()?.count(Event::Ffa)?;
        let got = c.ask(&[call, 1, 2, 3])?;
        let reached = c.monitor()?.count(Event::Ffa)? != before;
        c.expect(
            &format!(
                "call {call:#x}: {got:?}{}",
                if reached { ", and it reached firmware" } else { "" }
            ),
            got == Answer::Error(NOT_SUPPORTED) && !reached,
        );
    }
    Ok(())
}
