// SPDX-License-Identifier: GPL-2.0-only
//! Which version of FF-A is spoken. EL2 asks firmware at boot what it offers; the host then agrees to that or to an older
//! version, once and for all.

use pkvm_types::PAGE_SIZE;

use super::abi::{HOST_ID, Regs, Status, Version, WIDE, id};
use super::table::{Table, Transaction};
use super::{Machine, Proxy, call_firmware, outcome};

impl<'a> Proxy<'a> {
    /// A proxy, where firmware offers a version of FF-A that EL2 knows. It has room for as many transactions as `slots`,
    /// each with a descriptor of at most `limit` bytes. Run at boot.
    pub fn probe(slots: &'a mut [Transaction], limit: u32, m: &mut impl Machine) -> Option<Self> {
        let offered = ask(Version::V1_2, &mut [0; 18], m)?.min(Version::V1_2);
        Some(Self {
            offered,
            told: Some(offered),
            agreed: None,
            host: None,
            mapped: false,
            limit,
            table: Table::new(slots),
        })
    }
}

/// Tells firmware that EL2 would speak `version`. Yields what it answers, `None` if that is a refusal or no version.
fn ask(version: Version, regs: &mut Regs, m: &mut impl Machine) -> Option<Version> {
    call_firmware(m, regs, id::VERSION, &[version.word()]);
    let [x0, ..] = *regs;
    Version::from_word(x0 as u32)
}

/// The answer that refuses a version.
pub fn refusal() -> Regs {
    let mut regs = [0; 18];
    if let Some(x0) = regs.first_mut() {
        *x0 = Status::NOT_SUPPORTED.word();
    }
    regs
}

/// FFA_VERSION of the host.
pub fn negotiate(proxy: &mut Proxy, wanted: u32, regs: &mut Regs, m: &mut impl Machine) {
    let answer = agree(proxy, wanted, regs, m);
    *regs = refusal();
    if let (Some(version), Some(x0)) = (answer, regs.first_mut()) {
        *x0 = version.word();
    }
}

fn agree(proxy: &mut Proxy, wanted: u32, regs: &mut Regs, m: &mut impl Machine) -> Option<Version> {
    let wanted = Version::from_word(wanted)?;
    if let Some(agreed) = proxy.agreed {
        return (agreed <= wanted).then_some(agreed);
    }
    let version = wanted.min(proxy.offered);
    if proxy.told != Some(version) {
        proxy.told = None;
        // Firmware may answer with the latest version that it has, but not with an older one.
        ask(version, regs, m).filter(|answer| *answer >= version)?;
        proxy.told = Some(version);
    }
    is_usable(regs, m).then(|| {
        proxy.agreed = Some(version);
        version
    })
}

/// Whether EL2 can speak for the host: the host's endpoint is the one that belongs to the hypervisor, and a page is enough
/// for a mailbox.
fn is_usable(regs: &mut Regs, m: &mut impl Machine) -> bool {
    call_firmware(m, regs, id::ID_GET, &[]);
    if !matches!(outcome(regs), Ok([HOST_ID, _])) {
        return false;
    }
    call_firmware(m, regs, id::FEATURES, &[u64::from(id::RXTX_MAP | WIDE)]);
    let Ok([properties, _]) = outcome(regs) else {
        return false;
    };
    match properties & 3 {
        0 => PAGE_SIZE >= 0x1000,
        1 => PAGE_SIZE >= 0x1_0000,
        2 => PAGE_SIZE >= 0x4000,
        _ => false,
    }
}
