// SPDX-License-Identifier: GPL-2.0-only
//! The transactions that firmware has accepted, each under the handle that firmware gave it, with the pages that it holds.

use super::abi::Handle;
use crate::mem::FfaLoan;

/// One transaction.
#[derive(Debug)]
pub struct Transaction {
    handle: Handle,
    /// The pages that belong to it.
    pub loan: FfaLoan,
    /// Bytes of the descriptor that firmware has.
    sent: u32,
    /// Bytes of the descriptor.
    len: u32,
}

impl Transaction {
    /// What a slot holds while it is not in use.
    pub const NONE: Self = Self {
        handle: Handle::new(0, 0),
        loan: FfaLoan::new(),
        sent: 0,
        len: 0,
    };

    /// Where the next fragment of the descriptor goes, and where the last one ends; `None` when there is none to come.
    pub fn progress(&self) -> Option<(u32, u32)> {
        (self.sent < self.len).then_some((self.sent, self.len))
    }

    /// Firmware has the descriptor up to `sent`.
    pub fn advance(&mut self, sent: u32) {
        self.sent = sent.min(self.len);
    }

    /// Nothing more will be sent: what is left of the transaction is to reclaim it.
    pub fn close(&mut self) {
        self.sent = self.len;
    }
}

/// All transactions. The first `used` slots are in use, in no order.
#[derive(Debug)]
pub struct Table<'a> {
    slots: &'a mut [Transaction],
    used: usize,
}

impl<'a> Table<'a> {
    /// A table without transactions that has room for as many as `slots`.
    pub fn new(slots: &'a mut [Transaction]) -> Self {
        Self { slots, used: 0 }
    }

    fn live(&mut self) -> &mut [Transaction] {
        self.slots.get_mut(..self.used).unwrap_or(&mut [])
    }

    /// The transactions in use.
    pub fn iter(&self) -> impl Iterator<Item = &Transaction> {
        self.slots.iter().take(self.used)
    }

    /// Whether there is room for one more.
    pub fn has_room(&self) -> bool {
        self.used < self.slots.len()
    }

    /// The transaction of `handle`.
    pub fn find(&mut self, handle: Handle) -> Option<&mut Transaction> {
        self.live().iter_mut().find(|slot| slot.handle == handle)
    }

    /// Enters a transaction of `len` bytes, of which `sent` are sent. Gives the loan back where the handle is in use, or
    /// no slot is left.
    pub fn insert(&mut self, handle: Handle, loan: FfaLoan, sent: u32, len: u32) -> Result<(), FfaLoan> {
        if self.find(handle).is_some() {
            return Err(loan);
        }
        let Some(slot) = self.slots.get_mut(self.used) else {
            return Err(loan);
        };
        *slot = Transaction {
            handle,
            loan,
            sent: sent.min(len),
            len,
        };
        self.used = self.used.saturating_add(1);
        Ok(())
    }

    /// Strikes a transaction out, and yields its pages.
    pub fn remove(&mut self, handle: Handle) -> Option<FfaLoan> {
        let live = self.live();
        let at = live.iter().position(|slot| slot.handle == handle)?;
        let last = live.len().checked_sub(1)?;
        live.swap(at, last);
        let slot = core::mem::replace(live.get_mut(last)?, Transaction::NONE);
        self.used = last;
        Some(slot.loan)
    }
}
