// SPDX-License-Identifier: GPL-2.0-only
//! The machine under the FF-A proxy, and its lock. The decisions are in [`pkvm_core::ffa`].
//!
//! The proxy's memory is the pages that EL1 reserves for it: a mailbox to send with, one to receive with, and the table of
//! transactions in the rest. The SPM reads and writes the mailboxes at any time, so they are never Rust references.
#![expect(
    unsafe_code,
    reason = "lays out the pages of the proxy, and calls firmware in the host's registers"
)]

use core::sync::atomic::{AtomicBool, Ordering};

use pkvm_arch::{barrier, smccc};
use pkvm_core::ffa::{self, Call, Path, Proxy, Regs, Stage, Transaction};
use pkvm_core::mem::{self, FfaLoan, Pinned, Returned};
use pkvm_core::trace::Reason;
use pkvm_kernel::Context;
use pkvm_sync::{FfaBuffers, Held, Lock, Root};
use pkvm_types::{Error, Pfn, PfnRange, Phys, Result};

use crate::cell::BootCell;
use crate::hw::HW;
use crate::state::{with_host, with_host_hyp};
use crate::{host, trace, words};

/// The proxy; `None` before `__pkvm_init`, and where firmware has no FF-A.
static PROXY: Lock<Option<Proxy<'static>>, FfaBuffers> = Lock::new(None);

/// Whether a version is agreed upon: what merely goes through takes no lock.
static NEGOTIATED: AtomicBool = AtomicBool::new(false);

/// EL2's mailboxes: to send with, and to receive with.
static MAILBOXES: BootCell<[Phys; 2]> = BootCell::new([Phys::new(0); 2]);

/// SMCCC 1.2, since which x4 to x17 are arguments and results.
const SMCCC_1_2: u32 = 0x1_0002;

/// Looks for FF-A, with `pages` as the memory of the proxy. [`Error::NoMemory`] where they are too few.
pub fn init(held: &mut Held<Root>, pages: PfnRange) -> Result<()> {
    if crate::psci::smccc_version() < SMCCC_1_2 {
        return Ok(());
    }
    let (tx, rest) = first(pages)?;
    let (rx, rest) = first(rest)?;
    // SAFETY: this is the boot CPU in `__pkvm_init`, once, and the others are in the stub.
    unsafe { *MAILBOXES.init() = [tx.phys(), rx.phys()] };
    let bytes = rest.bytes().ok_or(Error::NoMemory)?;
    let slots = slots(rest, bytes as usize);
    let limit = u32::try_from(bytes).unwrap_or(u32::MAX);
    let mut guard = PROXY.lock(held);
    let (proxy, held) = guard.parts();
    *proxy = Proxy::probe(slots, limit, &mut Spm(held));
    Ok(())
}

/// The first of `pages`, and the others.
fn first(pages: PfnRange) -> Result<(Pfn, PfnRange)> {
    let left = pages.count().checked_sub(1).ok_or(Error::NoMemory)?;
    let next = pages.start().checked_add(1).ok_or(Error::NoMemory)?;
    Ok((
        pages.start(),
        PfnRange::checked(next, left).map_err(|_| Error::NoMemory)?,
    ))
}

/// The table of transactions, in `pages` of `bytes` bytes.
fn slots(pages: PfnRange, bytes: usize) -> &'static mut [Transaction] {
    let base = words::linear_va(pages.start().phys()).raw() as *mut Transaction;
    let count = bytes / size_of::<Transaction>();
    for n in 0..count {
        // SAFETY: the pages are EL2's, mapped for ever at consecutive addresses, and nobody has used them; the slot lies
        // within them, aligned since a page is.
        unsafe { base.add(n).write(Transaction::NONE) };
    }
    // SAFETY: as above, each slot is initialised now, and this is the only reference that is ever made.
    unsafe { core::slice::from_raw_parts_mut(base, count) }
}

/// An FF-A call of the host's, with the function number that [`pkvm_core::smc::route`] found.
#[inline(never)]
pub fn handle(held: &mut Held<Root>, context: Context, function: u32) {
    let stage = if NEGOTIATED.load(Ordering::Acquire) {
        Stage::Negotiated
    } else {
        Stage::Unnegotiated
    };
    let regs = match ffa::path(function, context.reg(1), stage) {
        Path::Forward => return host::forward_smc(context),
        Path::Supported => ffa::abi::success(0, 0),
        Path::Refuse(status) => status.answer(),
        Path::Proxy(call) => {
            let mut regs = core::array::from_fn(|n| context.reg(n));
            proxy(held, call, &mut regs);
            regs
        }
    };
    for (n, word) in regs.into_iter().enumerate() {
        context.set_reg(n, word);
    }
}

fn proxy(held: &mut Held<Root>, call: Call, regs: &mut Regs) {
    let mut guard = PROXY.lock(held);
    let (proxy, held) = guard.parts();
    let Some(proxy) = proxy else {
        *regs = ffa::absent(call);
        return;
    };
    proxy.call(call, regs, &mut Spm(held));
    if proxy.stage() == Stage::Negotiated {
        NEGOTIATED.store(true, Ordering::Release);
    }
}

/// The proxy's view of this machine, with the proxy's lock held.
struct Spm<'a>(&'a mut Held<FfaBuffers>);

impl ffa::Machine for Spm<'_> {
    fn smc(&mut self, regs: &mut Regs) {
        // Firmware may read the mailbox on this CPU or on another.
        barrier::dsb_ishst();
        trace::hyp_exit(Reason::Smc);
        smccc::smc(regs);
        trace::hyp_enter(Reason::Smc);
    }
    fn mailboxes(&self) -> (Phys, Phys) {
        let [tx, rx] = *MAILBOXES.get();
        (tx, rx)
    }
    fn borrow_page(&mut self, pfn: Pfn) -> Result<Pinned> {
        with_host_hyp(self.0, |host, hyp| mem::borrow_page(&HW, host, hyp, pfn))
    }
    fn return_page(&mut self, page: Pinned) {
        // There was a host when the page was borrowed.
        let _ = with_host_hyp(self.0, |host, hyp| {
            mem::return_page(&HW, host, hyp, page);
            Ok(())
        });
    }
    fn copy_from_host(&mut self, tx: &Pinned, bytes: u32) {
        let [own, _] = *MAILBOXES.get();
        words::copy_shared(tx.range().start().phys(), own, u64::from(bytes));
    }
    fn copy_to_host(&mut self, rx: &Pinned, bytes: u32) {
        let [_, own] = *MAILBOXES.get();
        words::copy_shared(own, rx.range().start().phys(), u64::from(bytes));
    }
    fn tx_word(&self, offset: u32) -> u64 {
        words::read_shared(MAILBOXES.get()[0], offset as usize / 8)
    }
    fn set_tx_word(&mut self, offset: u32, word: u64) {
        words::write_shared(MAILBOXES.get()[0], offset as usize / 8, word);
    }
    fn lend(&mut self, loan: &mut FfaLoan, pages: PfnRange) -> Result<()> {
        with_host(self.0, |host, _| loan.lend(&HW, host, pages))
    }
    fn take_back(&mut self, loan: &mut FfaLoan, limit: u64) -> Returned {
        with_host(self.0, |host, _| Ok(loan.take_back(&HW, host, limit))).unwrap_or(Returned::All)
    }
}
