// SPDX-License-Identifier: GPL-2.0-only
//! Handles that nobody gave, and many at once.

use super::client::{Answer, Client, INVALID, id};
use crate::hostile::monitor::Event;

/// EL2 knows the handles that it let through, and tells firmware of no other.
pub fn handles(c: &mut Client) -> Result<(), String> {
    let page = c.fresh()?;
    let per = (c.page / 4096) as u32;
    let handle = c
        .give(id::MEM_SHARE, &[(page, per)])?
        .map_err(|e| format!("share: {e:?}"))?;
    for wrong in [0, 1, handle + 1, handle ^ 1 << 32, handle & 0xffff_ffff, u64::MAX] {
        let before = c.monitor()?.count(Event::Ffa)?;
        let got = c.reclaim(wrong)?;
        let reached = c.monitor()?.count(Event::Ffa)? != before;
        // The C object asks the firmware first.
        c.expect(
            &format!("reclaim of {wrong:#x}: {got:?}, firmware called: {reached}"),
            got == Answer::Error(INVALID) && (!reached || c.is_c),
        );
        if !c.is_c {
            // J12: with a range that fails, the C object dies of it.
            let fragment = c.descriptor(&[(page, per)]);
            let got = c.more(wrong, &fragment[fragment.len() - 16..])?;
            c.expect(
                &format!("a fragment for {wrong:#x}: {got:?}"),
                got == Answer::Error(INVALID),
            );
        }
    }
    c.shared("after wrong handles", page)?;
    let got = c.reclaim(handle)?;
    c.expect(&format!("reclaim: {got:?}"), matches!(got, Answer::Success(..)));
    c.owned("after all", page)?;

    // As many as both sides take; what is refused is not held.
    let mut live = Vec::new();
    for _ in 0..40 {
        let page = c.fresh()?;
        match c.give(id::MEM_LEND, &[(page, per)])? {
            Ok(handle) => live.push((page, handle)),
            Err(Answer::Error(_)) => c.owned("one too many", page)?,
            Err(other) => c.expect(&format!("one of many: {other:?}"), false),
        }
    }
    c.expect(&format!("{} at once", live.len()), live.len() >= 8);
    for (page, handle) in live {
        let got = c.reclaim(handle)?;
        c.expect(&format!("reclaim: {got:?}"), matches!(got, Answer::Success(..)));
        c.owned("one of many", page)?;
    }
    Ok(())
}
