// SPDX-License-Identifier: GPL-2.0-only
//! Pages that the host lends to the secure world, and which loan a page belongs to.
//!
//! A loan is a list through the records of its pages, whose head is a [`FfaLoan`]. A page is on at most one list, since it
//! must be the host's alone to get on one, and it leaves the list only when the loan's holder takes the loan back. So
//! nobody else's word is needed to know which pages that are, and a loan may have any number of pages.

use pkvm_types::{Error, Pfn, PfnRange, Result};

use super::Host;
use super::table::{Standing, Transition};
use super::transfer::{Parts, check, prepare};
use crate::machine::Machine;

/// The end of a list.
const END: u32 = 0;
/// The next page of the list is the next frame.
const ADJACENT: u32 = 1;
/// The first link that names a frame, by its place in the memory map.
const FRAMES: u64 = 2;

/// Lends pages of the host's to the secure world. It is the bare transition: the proxy lends through a [`FfaLoan`].
///
/// [`Error::Invalid`] for a range beyond the address space, else as for [`host_share_hyp`](super::host_share_hyp).
pub fn host_share_ffa<M: Machine>(m: &M, host: &mut Host, pages: PfnRange) -> Result<()> {
    transfer(m, Transition::HostShareFfa, host, pages)
}

/// Ends that, when the secure world has given the pages back.
pub fn host_unshare_ffa<M: Machine>(m: &M, host: &mut Host, pages: PfnRange) -> Result<()> {
    transfer(m, Transition::HostUnshareFfa, host, pages)
}

fn transfer<M: Machine>(m: &M, transition: Transition, host: &mut Host, pages: PfnRange) -> Result<()> {
    m.memory().check_limit(pages)?;
    let checked = check(m, transition, pages)?;
    prepare(
        m,
        checked,
        Parts {
            host,
            hyp: None,
            guest: None,
        },
    )?
    .commit();
    Ok(())
}

/// Whether a loan is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Returned {
    /// All its pages are the host's again.
    All,
    /// There are more; call again.
    Some,
}

/// The pages of one loan. They stay lent for ever if this is dropped with pages on the list.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "dropping a loan leaves its pages with the secure world"]
pub struct FfaLoan {
    head: u32,
    pages: u32,
}

static_assertions::assert_not_impl_any!(FfaLoan: Clone, Copy);

impl FfaLoan {
    /// A loan of no pages.
    pub const fn new() -> Self {
        Self { head: END, pages: 0 }
    }

    /// How many pages are lent.
    pub const fn pages(&self) -> u32 {
        self.pages
    }

    /// Lends `pages` of the host's as part of this loan: all of them, or none on an error.
    ///
    /// [`Error::Perm`] or [`Error::Invalid`] where a page is not the host's own memory, lent to nobody;
    /// [`Error::NoMemory`] where the machine has more memory than the list can name.
    pub fn lend<M: Machine>(&mut self, m: &M, host: &mut Host, pages: PfnRange) -> Result<()> {
        let head = link_to(m, pages.start())?;
        let count = u32::try_from(pages.count()).map_err(|_| Error::NoMemory)?;
        let total = self.pages.checked_add(count).ok_or(Error::NoMemory)?;
        host_share_ffa(m, host, pages)?;
        if let Some((last, before)) = m.records(pages).and_then(<[_]>::split_last) {
            for record in before {
                record.set_ffa_link(ADJACENT);
            }
            last.set_ffa_link(self.head);
        }
        *self = Self { head, pages: total };
        Ok(())
    }

    /// Gives up to `limit` pages of the loan back to the host. Who calls knows that the secure world has no use of any of
    /// them.
    pub fn take_back<M: Machine>(&mut self, m: &M, host: &mut Host, limit: u64) -> Returned {
        let mut left = limit.min(u64::from(self.pages));
        while left != 0
            && let Some((run, next)) = self.first_run(m, left)
        {
            if host_unshare_ffa(m, host, run).is_err() {
                break;
            }
            left = left.saturating_sub(run.count());
            let count = u32::try_from(run.count()).unwrap_or(u32::MAX);
            *self = Self {
                head: next,
                pages: self.pages.saturating_sub(count),
            };
        }
        if left != 0 {
            // The list does not hold what it must. What is left of it stays lent.
            debug_assert!(false, "a page of a loan lost its standing");
            *self = Self::new();
        }
        if self.pages == 0 {
            Returned::All
        } else {
            Returned::Some
        }
    }

    /// The adjacent frames at the head of the list, at most `limit`, and the link to what follows them.
    fn first_run<M: Machine>(&self, m: &M, limit: u64) -> Option<(PfnRange, u32)> {
        let start = m.memory().frame(u64::from(self.head).checked_sub(FRAMES)?)?;
        let mut count = 1;
        let mut last = start;
        loop {
            let record = m.record(last)?;
            if Standing::of(record) != Some(Standing::HostFfa) {
                return None;
            }
            let link = record.ffa_link();
            if link != ADJACENT {
                return Some((PfnRange::checked(start, count).ok()?, link));
            }
            let next = last.checked_add(1)?;
            if count == limit {
                return Some((PfnRange::checked(start, count).ok()?, link_to(m, next).ok()?));
            }
            count = count.checked_add(1)?;
            last = next;
        }
    }
}

impl Default for FfaLoan {
    fn default() -> Self {
        Self::new()
    }
}

/// The link that names `pfn`. [`Error::NoMemory`] where the machine has too many frames before it.
fn link_to<M: Machine>(m: &M, pfn: Pfn) -> Result<u32> {
    let index = m.memory().index(pfn).ok_or(Error::Perm)?;
    index
        .checked_add(FRAMES)
        .and_then(|link| u32::try_from(link).ok())
        .ok_or(Error::NoMemory)
}
