// SPDX-License-Identifier: GPL-2.0-only
//! Firmware that lies. After each lie: the host lives; a page that the secure world has is given to nobody; and once the
//! secure world has given it back, it is the host's.

use super::client::{Answer, Client, id};
use crate::hostile::monitor::{Event, Fault};

/// What may become of pages after a lie.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    /// All are the host's again at once.
    Owned,
    /// They stay with the secure world until it lets the host reclaim them.
    Held,
    /// EL2 cannot know under which name the secure world has them, if it has them, and keeps them from all others.
    Kept,
}

/// Each lie where it matters.
pub fn lies(c: &mut Client) -> Result<(), String> {
    let whole: &[(Fault, After)] = &[
        (Fault::BareError, After::Owned),
        (Fault::ErrorZero, After::Owned),
        (Fault::Refuse, After::Owned),
        (Fault::SuccessEmpty, After::Kept),
        (Fault::FragAgain, After::Owned),
        (Fault::Rubbish, After::Held),
    ];
    for (fault, after) in whole {
        one_piece(c, *fault, *after)?;
    }
    for fault in [Fault::FragLong, Fault::FragZero, Fault::FragWrap, Fault::FragDone] {
        for at in [0, 1] {
            pieces(c, fault, at, After::Owned)?;
        }
    }
    pieces(c, Fault::Refuse, 1, After::Owned)?;
    pieces(c, Fault::BareError, 1, After::Owned)?;
    pieces(c, Fault::SuccessEmpty, 1, After::Owned)?;
    pieces(c, Fault::OtherHandle, 1, After::Owned)?;
    other_handle(c)?;
    for fault in [
        Fault::ReclaimRefuse,
        Fault::ReclaimOdd,
        Fault::BareError,
        Fault::ErrorZero,
        Fault::SuccessEmpty,
    ] {
        reclaim(c, fault)?;
    }
    no_leak(c)?;
    c.monitor()?.arm(Fault::Honest, 0)?;
    let twice = c.monitor()?.count(Event::HeldTwice)?;
    c.expect(
        &format!("firmware was offered {twice} pages that it had"),
        twice == 0,
    );
    Ok(())
}

/// Every page that the secure world has is one that EL2 keeps; and those of `pages` are as they must be.
fn settle(c: &mut Client, what: &str, pages: &[u64], after: After) -> Result<(), String> {
    c.monitor()?.arm(Fault::Honest, 0)?;
    for pa in pages {
        if c.monitor()?.holds(*pa)? {
            c.kept(&format!("{what}, held"), *pa)?;
        }
        match after {
            After::Owned => c.owned(what, *pa)?,
            After::Held => c.shared(what, *pa)?,
            After::Kept => c.kept(what, *pa)?,
        }
    }
    Ok(())
}

/// A page in one piece.
fn one_piece(c: &mut Client, fault: Fault, after: After) -> Result<(), String> {
    let what = format!("{fault:?} at a share");
    let page = c.fresh()?;
    let per = (c.page / 4096) as u32;
    c.monitor()?.arm(fault, 1)?;
    let got = c.give(id::MEM_SHARE, &[(page, per)])?;
    settle(c, &what, &[page], after)?;
    match (after, got) {
        (After::Held, Ok(handle)) => {
            let got = c.reclaim(handle)?;
            c.expect(
                &format!("{what}, reclaim: {got:?}"),
                matches!(got, Answer::Success(..)),
            );
            c.owned(&what, page)?;
        }
        // Nothing was done, and EL2 does not know: the handle that was made up is nobody's.
        (After::Kept, Ok(handle)) => {
            let got = c.reclaim(handle)?;
            c.expect(
                &format!("{what}, reclaim: {got:?}"),
                matches!(got, Answer::Error(_)),
            );
            c.kept(&what, page)?;
        }
        (After::Owned | After::Kept, Err(Answer::Error(code))) => {
            c.expect(&format!("{what}: the error {code}"), code < 0);
        }
        (_, got) => c.expect(&format!("{what}: {got:?}"), false),
    }
    Ok(())
}

/// Two ranges in two pieces: the lie is told at piece `at`.
fn pieces(c: &mut Client, fault: Fault, at: u32, after: After) -> Result<(), String> {
    let what = format!("{fault:?} at fragment {at}");
    let per = (c.page / 4096) as u32;
    let pages = [c.fresh()?, c.fresh()?, c.fresh()?];
    let descriptor = c.descriptor(&pages.map(|pa| (pa, per)));
    let cut = descriptor.len() - 32;
    if at == 0 {
        c.monitor()?.arm(fault, 1)?;
    }
    let first = c.begin(id::MEM_SHARE, &descriptor, cut)?;
    let got = match first {
        Answer::More(handle, _) if at > 0 => {
            c.monitor()?.arm(fault, 1)?;
            c.more(handle, &descriptor[cut..cut + 16])?
        }
        other => other,
    };
    c.expect(
        &format!("{what}: {got:?}"),
        matches!(got, Answer::Error(code) if code < 0),
    );
    settle(c, &what, &pages, after)
}

/// A share that is answered with the handle of another one: that one must not suffer.
fn other_handle(c: &mut Client) -> Result<(), String> {
    let per = (c.page / 4096) as u32;
    let (old, new) = (c.fresh()?, c.fresh()?);
    let handle = c
        .give(id::MEM_SHARE, &[(old, per)])?
        .map_err(|e| format!("share: {e:?}"))?;
    c.monitor()?.arm(Fault::OtherHandle, 1)?;
    let got = c.give(id::MEM_SHARE, &[(new, per)])?;
    c.monitor()?.arm(Fault::Honest, 0)?;
    c.expect(
        &format!("another's handle: {got:?}"),
        matches!(got, Err(Answer::Error(_))),
    );
    c.shared("whose handle was given twice", old)?;
    c.kept("that got another's handle", new)?;
    let got = c.reclaim(handle)?;
    c.expect(
        &format!("its owner's reclaim: {got:?}"),
        matches!(got, Answer::Success(..)),
    );
    c.owned("whose handle was given twice", old)?;
    // The secure world has it under its true handle, which EL2 never heard of.
    c.kept("that got another's handle, later", new)
}

/// A reclaim that is answered badly: the page stays where it is, and comes back when the firmware is honest.
fn reclaim(c: &mut Client, fault: Fault) -> Result<(), String> {
    let what = format!("{fault:?} at a reclaim");
    let per = (c.page / 4096) as u32;
    let page = c.fresh()?;
    let handle = c
        .give(id::MEM_LEND, &[(page, per)])?
        .map_err(|e| format!("lend: {e:?}"))?;
    c.monitor()?.arm(fault, 1)?;
    let got = c.reclaim(handle)?;
    c.monitor()?.arm(Fault::Honest, 0)?;
    if fault == Fault::SuccessEmpty {
        // A firmware that says that it gave the page back is believed: there is nobody else to ask. It did not, so the
        // monitor is told by hand.
        c.expect(&format!("{what}: {got:?}"), matches!(got, Answer::Success(..)));
        let owned = c.is_owned(page)?;
        c.expect(&what, owned);
        return Ok(());
    }
    c.expect(
        &format!("{what}: {got:?}"),
        matches!(got, Answer::Error(code) if code < 0),
    );
    c.shared(&what, page)?;
    let got = c.reclaim(handle)?;
    c.expect(
        &format!("{what}, and again: {got:?}"),
        matches!(got, Answer::Success(..)),
    );
    c.owned(&what, page)
}

/// No register tells the host where EL2's own buffers are (J25): an error leaves all but the code zero.
fn no_leak(c: &mut Client) -> Result<(), String> {
    c.unmap_buffers()?;
    let (tx, rx) = (c.fresh()?, c.fresh()?);
    c.monitor()?.arm(Fault::BareError, 1)?;
    let reply = c.call(&[id::RXTX_MAP, tx, rx, c.page / 4096])?;
    c.monitor()?.arm(Fault::Honest, 0)?;
    let error = super::client::answer(&reply);
    c.expect(
        &format!("a bare error at FFA_RXTX_MAP: {:x?}", &reply.regs[..4]),
        matches!(error, Answer::Error(code) if (-16..0).contains(&code))
            && reply.regs.iter().skip(3).all(|r| *r == 0),
    );
    c.owned("after a bare error", tx)?;
    c.owned("after a bare error", rx)?;
    c.map_buffers()
}
