// SPDX-License-Identifier: GPL-2.0-only
//! The record of one page, the kernel's `struct hyp_page`.
//!
//! EL1 reserves the memory of the array, 8 bytes a page, and the array starts zeroed; the layout is EL2's own. Fields are
//! atomic because the array is shared between CPUs, not to order anything: the host's byte and count are written under the
//! host's page-table lock, EL2's byte under EL2's, and the reference count under the lock of whatever counts.

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering::Relaxed};
use pkvm_types::{Error, PageState, Result, ShareReason};

/// What EL2 knows of one page of memory. All zeroes means: the host's, not shared, not mapped at EL2, no references.
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub struct PageMeta {
    refcount: AtomicU16,
    /// Bits 1:0 the host's state, bits 4:2 why the page is shared.
    host: AtomicU8,
    /// Bits 1:0 the complement of EL2's state, so that zero is `NoPage`.
    hyp: AtomicU8,
    /// For a page lent to normal VMs how many mappings there are, for one lent to the secure world the lender's word.
    guest_shares: AtomicU32,
}

static_assertions::assert_eq_size!(PageMeta, u64);
static_assertions::assert_eq_align!(PageMeta, u64);

const STATE: u8 = 0b11;
const REASON_SHIFT: u32 = 2;
const REASON_NONE: u8 = 0;
const REASON_HYP: u8 = 1;
const REASON_FFA: u8 = 2;
const REASON_GUESTS: u8 = 3;
const REASON_GUEST_TO_HOST: u8 = 4;

impl PageMeta {
    /// The record of a page of the host's.
    pub const fn new() -> Self {
        Self {
            refcount: AtomicU16::new(0),
            host: AtomicU8::new(0),
            hyp: AtomicU8::new(0),
            guest_shares: AtomicU32::new(0),
        }
    }

    /// Makes this the record of a page of the host's again.
    pub fn reset(&self) {
        self.refcount.store(0, Relaxed);
        self.host.store(0, Relaxed);
        self.hyp.store(0, Relaxed);
        self.guest_shares.store(0, Relaxed);
    }

    /// How the host sees the page.
    pub fn host_state(&self) -> PageState {
        PageState::from_bits(self.host.load(Relaxed) & STATE)
    }

    /// Changes how the host sees the page, under the host's page-table lock.
    pub fn set_host_state(&self, state: PageState) {
        let rest = self.host.load(Relaxed) & !STATE;
        self.host.store(rest | state as u8, Relaxed);
    }

    /// How EL2 sees the page.
    pub fn hyp_state(&self) -> PageState {
        PageState::from_bits(!self.hyp.load(Relaxed) & STATE)
    }

    /// Changes how EL2 sees the page, under EL2's page-table lock.
    pub fn set_hyp_state(&self, state: PageState) {
        self.hyp.store(!(state as u8) & STATE, Relaxed);
    }

    /// Why the page is shared with or by the host.
    pub fn share(&self) -> ShareReason {
        match self.host.load(Relaxed) >> REASON_SHIFT {
            REASON_HYP => ShareReason::Hyp,
            REASON_FFA => ShareReason::Ffa,
            REASON_GUESTS => ShareReason::Guests(self.guest_shares.load(Relaxed)),
            REASON_GUEST_TO_HOST => ShareReason::GuestToHost,
            // Only the five values are ever stored.
            _ => ShareReason::None,
        }
    }

    /// Changes why the page is shared, under the host's page-table lock.
    pub fn set_share(&self, share: ShareReason) {
        let (reason, count) = match share {
            ShareReason::None => (REASON_NONE, 0),
            ShareReason::Hyp => (REASON_HYP, 0),
            ShareReason::Ffa => (REASON_FFA, 0),
            ShareReason::Guests(count) => (REASON_GUESTS, count),
            ShareReason::GuestToHost => (REASON_GUEST_TO_HOST, 0),
        };
        let state = self.host.load(Relaxed) & STATE;
        self.host.store(reason << REASON_SHIFT | state, Relaxed);
        self.guest_shares.store(count, Relaxed);
    }

    /// A word that whoever lent the page to the secure world keeps with it; 0 where the page is not lent there.
    pub fn ffa_link(&self) -> u32 {
        match self.share() {
            ShareReason::Ffa => self.guest_shares.load(Relaxed),
            _ => 0,
        }
    }

    /// Changes that word, under the host's page-table lock. Nothing happens where the page is not lent to the secure
    /// world; every change of the reason makes the word 0.
    pub fn set_ffa_link(&self, link: u32) {
        if self.share() == ShareReason::Ffa {
            self.guest_shares.store(link, Relaxed);
        }
    }

    /// Counts one more mapping by a normal VM and gives the new count. Makes the reason `Guests` where the page was not
    /// shared. [`Error::Busy`] at the largest count, [`Error::Perm`] where the page is shared for another reason.
    pub fn inc_guest_shares(&self) -> Result<u32> {
        let count = match self.share() {
            ShareReason::None => 1,
            ShareReason::Guests(count) => count.checked_add(1).ok_or(Error::Busy)?,
            _ => return Err(Error::Perm),
        };
        self.set_share(ShareReason::Guests(count));
        Ok(count)
    }

    /// Counts one mapping by a normal VM less and gives the new count; at zero the page is not shared any more.
    /// [`Error::Perm`] where no normal VM maps the page.
    pub fn dec_guest_shares(&self) -> Result<u32> {
        let ShareReason::Guests(count) = self.share() else {
            return Err(Error::Perm);
        };
        let count = count.checked_sub(1).ok_or(Error::Perm)?;
        self.set_share(if count == 0 {
            ShareReason::None
        } else {
            ShareReason::Guests(count)
        });
        Ok(count)
    }

    /// References to the page: pins of a shared page, users of a page of EL2's, entries plus one of a table.
    pub fn refcount(&self) -> u16 {
        self.refcount.load(Relaxed)
    }

    /// Adds a reference and gives the new count. [`Error::Busy`], with nothing changed, at the largest count.
    pub fn inc_ref(&self) -> Result<u16> {
        self.refcount
            .fetch_update(Relaxed, Relaxed, |count| count.checked_add(1))
            .map(|old| old + 1)
            .map_err(|_| Error::Busy)
    }

    /// Drops a reference and gives the new count. [`Error::Invalid`], with nothing changed, where there is none.
    pub fn dec_ref(&self) -> Result<u16> {
        self.refcount
            .fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1))
            .map(|old| old - 1)
            .map_err(|_| Error::Invalid)
    }

    /// Sets the reference count, for a page that only the caller knows.
    pub fn set_refcount(&self, count: u16) {
        self.refcount.store(count, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [PageState; 4] = [
        PageState::Owned,
        PageState::SharedOwned,
        PageState::SharedBorrowed,
        PageState::NoPage,
    ];

    #[test]
    fn a_fresh_record_is_the_hosts() {
        let meta = PageMeta::new();
        assert_eq!(meta.host_state(), PageState::Owned);
        assert_eq!(meta.hyp_state(), PageState::NoPage);
        assert_eq!(meta.share(), ShareReason::None);
        assert_eq!(meta.refcount(), 0);
    }

    #[test]
    fn fields_do_not_disturb_each_other() {
        let reasons = [
            ShareReason::None,
            ShareReason::Hyp,
            ShareReason::Ffa,
            ShareReason::Guests(u32::MAX),
            ShareReason::GuestToHost,
        ];
        for host in STATES {
            for hyp in STATES {
                for share in reasons {
                    for order in 0..3 {
                        let meta = PageMeta::new();
                        meta.set_refcount(0xabcd);
                        for step in 0..3 {
                            match (step + order) % 3 {
                                0 => meta.set_host_state(host),
                                1 => meta.set_hyp_state(hyp),
                                _ => meta.set_share(share),
                            }
                        }
                        assert_eq!(
                            (meta.host_state(), meta.hyp_state(), meta.share(), meta.refcount()),
                            (host, hyp, share, 0xabcd)
                        );
                        meta.reset();
                        assert_eq!(meta.host.load(Relaxed) | meta.hyp.load(Relaxed), 0);
                    }
                }
            }
        }
    }

    #[test]
    fn references_stop_at_both_ends() {
        let meta = PageMeta::new();
        assert_eq!(meta.dec_ref(), Err(Error::Invalid));
        assert_eq!(meta.inc_ref(), Ok(1));
        meta.set_refcount(u16::MAX);
        assert_eq!(meta.inc_ref(), Err(Error::Busy));
        assert_eq!(meta.refcount(), u16::MAX);
        assert_eq!(meta.dec_ref(), Ok(u16::MAX - 1));
    }

    #[test]
    fn guest_shares_stop_at_both_ends_and_respect_other_reasons() {
        let meta = PageMeta::new();
        assert_eq!(meta.dec_guest_shares(), Err(Error::Perm));
        assert_eq!(meta.inc_guest_shares(), Ok(1));
        assert_eq!(meta.dec_guest_shares(), Ok(0));
        assert_eq!(meta.share(), ShareReason::None);
        meta.set_share(ShareReason::Guests(u32::MAX));
        assert_eq!(meta.inc_guest_shares(), Err(Error::Busy));
        assert_eq!(meta.share(), ShareReason::Guests(u32::MAX));
        meta.set_share(ShareReason::Ffa);
        assert_eq!(meta.inc_guest_shares(), Err(Error::Perm));
        assert_eq!(meta.dec_guest_shares(), Err(Error::Perm));
        assert_eq!(meta.share(), ShareReason::Ffa);
    }

    #[test]
    fn the_link_lives_as_long_as_the_loan_to_the_secure_world() {
        let meta = PageMeta::new();
        meta.set_ffa_link(7);
        assert_eq!((meta.ffa_link(), meta.share()), (0, ShareReason::None));
        meta.set_share(ShareReason::Ffa);
        assert_eq!(meta.ffa_link(), 0);
        meta.set_ffa_link(u32::MAX);
        assert_eq!((meta.ffa_link(), meta.share()), (u32::MAX, ShareReason::Ffa));
        meta.set_host_state(PageState::SharedOwned);
        assert_eq!(meta.ffa_link(), u32::MAX);
        meta.set_share(ShareReason::None);
        assert_eq!(meta.ffa_link(), 0);
        meta.set_share(ShareReason::Guests(9));
        meta.set_ffa_link(1);
        assert_eq!((meta.ffa_link(), meta.share()), (0, ShareReason::Guests(9)));
    }
}
