// SPDX-License-Identifier: GPL-2.0-only
//! Memory that the host shares with the secure world or lends to it, and reclaims.
//!
//! Pages are marked before firmware hears of them and unmarked when it is certain that it has them no more: it refused the
//! transaction, or it was told to give the pages back and did. When firmware's answer leaves that open, EL2 tells it to give
//! them back; as long as it does not, they stay marked, and the host may try again with the handle.

use pkvm_types::{Error, Pfn, PfnRange};

use super::abi::{Handle, Regs, Status, id};
use super::descriptor::{self, CONSTITUENT, Constituents};
use super::{Answer, Machine, Proxy, SUCCESS, SUCCESS_64, call_firmware, failure, success};
use crate::mem::{FfaLoan, Returned};

/// Pages that change under one hold of the host's lock.
const BATCH: u64 = 512;
/// Bytes of a mailbox. A page has at most 64 KiB.
const MAILBOX: u32 = pkvm_types::PAGE_SIZE as u32;
/// The flag of FFA_MEM_RECLAIM by which firmware clears the memory. The other one would let it pause.
const CLEAR: u64 = 1;

/// What firmware answers to a fragment.
enum Reply {
    /// It has the whole descriptor.
    Whole(Handle),
    /// It waits for what comes at an offset.
    More(Handle, u64),
    /// It refuses, and keeps nothing of this transaction.
    Refused(Status),
    /// It makes no sense. Where it names a handle, that one may hold the pages.
    Nonsense(Option<Handle>),
}

fn reply(regs: &Regs) -> Reply {
    let [x0, x1, x2, x3, ..] = *regs;
    match x0 as u32 {
        SUCCESS | SUCCESS_64 => Reply::Whole(Handle::new(x2, x3)),
        id::MEM_FRAG_RX => Reply::More(Handle::new(x1, x2), x3 & 0xffff_ffff),
        id::ERROR | u32::MAX => Reply::Refused(failure(x0, x2)),
        id::MEM_OP_PAUSE => Reply::Nonsense(Some(Handle::new(x1, x2))),
        _ => Reply::Nonsense(None),
    }
}

/// FFA_MEM_SHARE and FFA_MEM_LEND (length, length of the fragment, no buffer, no pages of it), sent on as `function`.
pub fn begin(
    proxy: &mut Proxy,
    function: u32,
    [len, fragment, address, pages]: [u64; 4],
    regs: &mut Regs,
    m: &mut impl Machine,
) -> Answer {
    let (len, fragment) = (len as u32, fragment as u32);
    let version = proxy.agreed.ok_or(Status::INVALID_PARAMETERS)?;
    let least = version.header_bytes().saturating_add(version.endpoint_bytes());
    // The descriptor is in the mailbox: there are no buffers for each transaction. It consists of whole words.
    if address != 0
        || !fragment.is_multiple_of(8)
        || pages as u32 != 0
        || fragment > len
        || fragment > MAILBOX
        || fragment < least
    {
        return Err(Status::INVALID_PARAMETERS);
    }
    let host = proxy.host.as_ref().ok_or(Status::INVALID_PARAMETERS)?;
    if len > proxy.limit || !proxy.table.has_room() {
        return Err(Status::NO_MEMORY);
    }
    m.copy_from_host(&host.tx, fragment);
    let constituents = descriptor::parse(m, version, len, fragment)?;

    let mut loan = FfaLoan::new();
    if let Err(status) = lend_all(m, &mut loan, constituents) {
        take_back(m, loan);
        return Err(status);
    }
    call_firmware(m, regs, function, &[u64::from(len), u64::from(fragment)]);
    let handle = match reply(regs) {
        Reply::Whole(handle) if fragment == len => handle,
        Reply::More(handle, next) if fragment < len && next == u64::from(fragment) => handle,
        Reply::Refused(status) => {
            take_back(m, loan);
            return Err(status);
        }
        Reply::Whole(handle) | Reply::More(handle, _) | Reply::Nonsense(Some(handle)) => {
            match proxy.table.insert(handle, loan, len, len) {
                Ok(()) => give_up(proxy, handle, Doubt::Answer, regs, m),
                Err(loan) => keep(loan),
            }
            return Err(Status::ABORTED);
        }
        Reply::Nonsense(None) => {
            keep(loan);
            return Err(Status::ABORTED);
        }
    };
    if let Err(loan) = proxy.table.insert(handle, loan, fragment, len) {
        // The handle of another transaction: to reclaim it would end that one.
        keep(loan);
        return Err(Status::ABORTED);
    }
    Ok(progress(handle, fragment, len))
}

/// FFA_MEM_FRAG_TX (handle in two halves, length of the fragment, sender).
pub fn go_on(
    proxy: &mut Proxy,
    [low, high, fragment, sender]: [u64; 4],
    regs: &mut Regs,
    m: &mut impl Machine,
) -> Answer {
    let (handle, fragment) = (Handle::new(low, high), fragment as u32);
    let at = descriptor::constituents(0, fragment)?;
    if fragment == 0 || fragment > MAILBOX || sender as u32 != 0 {
        return Err(Status::INVALID_PARAMETERS);
    }
    let host = proxy.host.as_ref().ok_or(Status::INVALID_PARAMETERS)?;
    let transaction = proxy.table.find(handle).ok_or(Status::INVALID_PARAMETERS)?;
    let (sent, len) = transaction.progress().ok_or(Status::INVALID_PARAMETERS)?;
    let sent = sent.checked_add(fragment).filter(|sent| *sent <= len);
    let sent = sent.ok_or(Status::INVALID_PARAMETERS)?;
    m.copy_from_host(&host.tx, fragment);
    if let Err(status) = lend_all(m, &mut transaction.loan, at) {
        give_up(proxy, handle, Doubt::None, regs, m);
        return Err(status);
    }
    let arguments = [handle.low(), handle.high(), u64::from(fragment), 0];
    call_firmware(m, regs, id::MEM_FRAG_TX, &arguments);
    match reply(regs) {
        // The handle is known; what firmware says of it here does not matter.
        Reply::Whole(_) if sent == len => {}
        Reply::More(same, next) if sent < len && same == handle && next == u64::from(sent) => {}
        Reply::Refused(status) => {
            give_up(proxy, handle, Doubt::None, regs, m);
            return Err(status);
        }
        Reply::Whole(_) | Reply::More(..) | Reply::Nonsense(_) => {
            give_up(proxy, handle, Doubt::Answer, regs, m);
            return Err(Status::ABORTED);
        }
    }
    if let Some(transaction) = proxy.table.find(handle) {
        transaction.advance(sent);
    }
    Ok(progress(handle, sent, len))
}

/// FFA_MEM_RECLAIM (handle in two halves, flags).
pub fn reclaim(
    proxy: &mut Proxy,
    [low, high, flags]: [u64; 3],
    regs: &mut Regs,
    m: &mut impl Machine,
) -> Answer {
    let handle = Handle::new(low, high);
    proxy.table.find(handle).ok_or(Status::INVALID_PARAMETERS)?;
    ask_back(handle, flags & CLEAR, regs, m)?;
    end(proxy, handle, m);
    Ok(success(0, 0))
}

/// What the host hears of a transaction of which `sent` of `len` bytes are sent.
fn progress(handle: Handle, sent: u32, len: u32) -> [u64; 4] {
    if sent == len {
        success(handle.low(), handle.high())
    } else {
        [
            u64::from(id::MEM_FRAG_RX),
            handle.low(),
            handle.high(),
            u64::from(sent),
        ]
    }
}

/// Tells firmware to give the pages of `handle` back.
fn ask_back(handle: Handle, flags: u64, regs: &mut Regs, m: &mut impl Machine) -> Result<(), Status> {
    call_firmware(m, regs, id::MEM_RECLAIM, &[handle.low(), handle.high(), flags]);
    super::outcome(regs).map(|_| ())
}

/// Why a transaction is given up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// Firmware lacks a part of the descriptor or refused one, so that no partition can have the pages; that it knows no
    /// such handle any more, or none that is whole, is good news.
    None,
    /// Firmware's answer made no sense: only if it says that it gave the pages back it has.
    Answer,
}

/// Gives up a transaction. Its pages are the host's again, or the host may reclaim them.
fn give_up(proxy: &mut Proxy, handle: Handle, doubt: Doubt, regs: &mut Regs, m: &mut impl Machine) {
    match ask_back(handle, 0, regs, m) {
        Ok(()) => end(proxy, handle, m),
        Err(Status::INVALID_PARAMETERS) if doubt == Doubt::None => end(proxy, handle, m),
        Err(_) => {
            if let Some(transaction) = proxy.table.find(handle) {
                transaction.close();
            }
        }
    }
}

/// Firmware has given the pages of `handle` back.
fn end(proxy: &mut Proxy, handle: Handle, m: &mut impl Machine) {
    if let Some(loan) = proxy.table.remove(handle) {
        take_back(m, loan);
    }
}

/// Firmware may have these pages under a name that EL2 does not know. They stay lent for ever.
fn keep(loan: FfaLoan) {
    let _ = loan;
}

fn take_back(m: &mut impl Machine, mut loan: FfaLoan) {
    while loan.pages() != 0 && m.take_back(&mut loan, BATCH) == Returned::Some {}
}

/// Lends the pages of all constituents. On an error some of them are lent.
fn lend_all(m: &mut impl Machine, loan: &mut FfaLoan, constituents: Constituents) -> Result<(), Status> {
    let mut at = constituents.at;
    for _ in 0..constituents.count {
        lend(m, loan, descriptor::range(m, at)?).map_err(|error| match error {
            Error::NoMemory => Status::NO_MEMORY,
            _ => Status::DENIED,
        })?;
        at = at.saturating_add(CONSTITUENT);
    }
    Ok(())
}

fn lend(m: &mut impl Machine, loan: &mut FfaLoan, pages: PfnRange) -> Result<(), Error> {
    let (mut start, mut left) = (Some(pages.start()), pages.count());
    while left != 0 {
        let first: Pfn = start.ok_or(Error::Invalid)?;
        let count = left.min(BATCH);
        m.lend(loan, PfnRange::checked(first, count)?)?;
        left = left.saturating_sub(count);
        start = first.checked_add(count);
    }
    Ok(())
}
