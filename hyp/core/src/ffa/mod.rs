// SPDX-License-Identifier: GPL-2.0-only
//! The FF-A proxy: between the host and the secure world's partition manager (SPM), so that the host lends the secure world
//! nothing but memory of its own, and EL2 knows which. This does the job of the kernel's `nvhe/ffa.c`.
//!
//! The host's mailboxes are shared with EL2 and EL2's own with the SPM; what passes through them is copied, and a
//! descriptor of memory is checked on the way. Each page that is lent carries that fact in its record, and each
//! transaction its pages ([`crate::mem::FfaLoan`]), so that nothing the SPM says later decides which pages those are. What
//! carries no memory goes through as it is; what the proxy does not know does not go through.
//!
//! Registers and mailboxes are the host's and firmware's, and neither is trusted: a word is read once and checked, an
//! answer of firmware that makes no sense is an error for the host. One lock, which is held over calls to firmware,
//! guards the [`Proxy`]; what merely goes through does without. Source: Arm Firmware Framework for A-profile, DEN 0077.

use pkvm_types::{Error, Pfn, PfnRange, Phys};

pub mod abi;
mod descriptor;
mod mailbox;
mod table;
mod transfer;
mod version;

pub use abi::{Regs, Status, Version};
pub use table::Transaction;

use crate::mem::{FfaLoan, Pinned, Returned};
use abi::{HOST_ID, WIDE, id};
use table::Table;

/// What the proxy needs of the machine.
pub trait Machine {
    /// Calls firmware with x0 to x17, and has its answer there.
    fn smc(&mut self, regs: &mut Regs);

    /// Where EL2's own mailboxes are, one page each: the one it sends with, the one it receives with.
    fn mailboxes(&self) -> (Phys, Phys);

    /// Lends a page of the host's to EL2 and pins it: [`crate::mem::borrow_page`].
    fn borrow_page(&mut self, pfn: Pfn) -> Result<Pinned, Error>;

    /// Ends that: [`crate::mem::return_page`].
    fn return_page(&mut self, page: Pinned);

    /// Copies the first `bytes` of the host's mailbox, a multiple of 8 that fits in a page, to EL2's sending mailbox.
    /// Reads each word of the host's once.
    fn copy_from_host(&mut self, tx: &Pinned, bytes: u32);

    /// Copies the first `bytes` of EL2's receiving mailbox, at most a page and rounded up to 8, to the host's mailbox.
    fn copy_to_host(&mut self, rx: &Pinned, bytes: u32);

    /// Reads the 8 bytes at `offset`, a multiple of 8 within a page, in EL2's sending mailbox.
    fn tx_word(&self, offset: u32) -> u64;

    /// Writes them.
    fn set_tx_word(&mut self, offset: u32, word: u64);

    /// Lends pages of the host's to the secure world: [`FfaLoan::lend`].
    fn lend(&mut self, loan: &mut FfaLoan, pages: PfnRange) -> Result<(), Error>;

    /// Gives pages of a loan back: [`FfaLoan::take_back`].
    fn take_back(&mut self, loan: &mut FfaLoan, limit: u64) -> Returned;
}

/// A call that the proxy makes its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// FFA_VERSION.
    Version,
    /// FFA_RXTX_MAP, in its 64-bit form.
    RxtxMap,
    /// FFA_RXTX_UNMAP.
    RxtxUnmap,
    /// FFA_RX_RELEASE.
    RxRelease,
    /// FFA_PARTITION_INFO_GET.
    PartitionInfoGet,
    /// FFA_MEM_SHARE.
    MemShare,
    /// FFA_MEM_LEND.
    MemLend,
    /// FFA_MEM_FRAG_TX.
    MemFragTx,
    /// FFA_MEM_RECLAIM.
    MemReclaim,
}

/// Where an FF-A call goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path {
    /// To [`Proxy::call`].
    Proxy(Call),
    /// To firmware: x0 to x17 as they are, and back. It carries no memory.
    Forward,
    /// Nowhere: FFA_SUCCESS without properties is the answer.
    Supported,
    /// Nowhere: FFA_ERROR is the answer.
    Refuse(Status),
}

/// Whether a version is agreed upon. Until then nothing but FFA_VERSION is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Not yet, or the firmware has no FF-A.
    Unnegotiated,
    /// For good.
    Negotiated,
}

/// Whether `function`, whose hint bit is gone and whose reserved bits are zero, is an FF-A call of either width.
pub fn is_call(function: u32) -> bool {
    abi::FUNCTIONS.contains(&(function & !WIDE))
}

/// How the proxy treats the call `function`: the list of all that passes, in any way.
fn known(function: u32) -> Option<Path> {
    const RXTX_MAP: u32 = id::RXTX_MAP | WIDE;
    const MEM_SHARE: u32 = id::MEM_SHARE | WIDE;
    const MEM_LEND: u32 = id::MEM_LEND | WIDE;
    const SUCCESS: u32 = id::SUCCESS | WIDE;
    const DIRECT_REQ: u32 = id::MSG_SEND_DIRECT_REQ | WIDE;
    Some(match function {
        id::VERSION => Path::Proxy(Call::Version),
        // Its 32-bit form cannot name every page.
        RXTX_MAP => Path::Proxy(Call::RxtxMap),
        id::RXTX_UNMAP => Path::Proxy(Call::RxtxUnmap),
        id::RX_RELEASE => Path::Proxy(Call::RxRelease),
        id::PARTITION_INFO_GET => Path::Proxy(Call::PartitionInfoGet),
        id::MEM_SHARE | MEM_SHARE => Path::Proxy(Call::MemShare),
        id::MEM_LEND | MEM_LEND => Path::Proxy(Call::MemLend),
        id::MEM_FRAG_TX => Path::Proxy(Call::MemFragTx),
        id::MEM_RECLAIM => Path::Proxy(Call::MemReclaim),
        id::ERROR
        | id::SUCCESS
        | SUCCESS
        | id::INTERRUPT
        | id::FEATURES
        | id::ID_GET
        | id::SPM_ID_GET
        | id::YIELD
        | id::RUN
        | id::NORMAL_WORLD_RESUME
        | id::MSG_SEND_DIRECT_REQ
        | DIRECT_REQ => Path::Forward,
        // Not served: notifications, which would need an owner for each virtual CPU; indirect messages through
        // mailboxes; donation, and retrieval by the host; what came with 1.2; what is yet to come.
        _ => return None,
    })
}

/// Decides about the call `function` of the host with `x1`.
pub fn path(function: u32, x1: u64, stage: Stage) -> Path {
    if stage == Stage::Unnegotiated && function != id::VERSION {
        return Path::Refuse(Status::INVALID_PARAMETERS);
    }
    match function {
        id::FEATURES => match known(x1 as u32) {
            None => Path::Refuse(Status::NOT_SUPPORTED),
            // Firmware would tell of properties that the proxy does not have, as buffers for each transaction.
            Some(Path::Proxy(Call::MemShare | Call::MemLend)) => Path::Supported,
            Some(_) => Path::Forward,
        },
        // Sender u16, receiver u16: nobody but the host can be the sender.
        id::MSG_SEND_DIRECT_REQ | abi::MSG_SEND_DIRECT_REQ_64 if (x1 as u32) >> 16 != HOST_ID as u32 => {
            Path::Refuse(Status::INVALID_PARAMETERS)
        }
        _ => known(function).unwrap_or(Path::Refuse(Status::NOT_SUPPORTED)),
    }
}

/// The host's mailboxes: it sends with one and receives with the other.
#[derive(Debug)]
struct HostMailboxes {
    tx: Pinned,
    rx: Pinned,
}

/// The proxy, where firmware has FF-A.
#[derive(Debug)]
pub struct Proxy<'a> {
    /// The latest version that both EL2 and firmware know.
    offered: Version,
    /// The version that firmware speaks; `None` where it is not certain that it heeded what it was told.
    told: Option<Version>,
    /// The version that the host has agreed to.
    agreed: Option<Version>,
    /// The host's mailboxes.
    host: Option<HostMailboxes>,
    /// Whether the SPM has EL2's.
    mapped: bool,
    /// Bytes that a descriptor may have.
    limit: u32,
    table: Table<'a>,
}

impl Proxy<'_> {
    /// Whether the host may make calls other than FFA_VERSION.
    pub fn stage(&self) -> Stage {
        match self.agreed {
            None => Stage::Unnegotiated,
            Some(_) => Stage::Negotiated,
        }
    }

    /// The transactions, each with its number of pages.
    pub fn transactions(&self) -> impl Iterator<Item = &Transaction> {
        self.table.iter()
    }

    /// Serves `call`, whose arguments `regs` holds from x1 on, and leaves the answer in `regs`.
    pub fn call(&mut self, call: Call, regs: &mut Regs, m: &mut impl Machine) {
        let [_, x1, x2, x3, x4, x5, ..] = *regs;
        let answer = match call {
            Call::Version => {
                version::negotiate(self, x1 as u32, regs, m);
                return;
            }
            Call::RxtxMap => mailbox::map(self, [x1, x2, x3], regs, m),
            Call::RxtxUnmap => mailbox::unmap(self, x1, regs, m),
            Call::RxRelease => mailbox::release(regs, m),
            Call::PartitionInfoGet => mailbox::partition_info(self, [x1, x2, x3, x4, x5], regs, m),
            Call::MemShare => transfer::begin(self, id::MEM_SHARE | WIDE, [x1, x2, x3, x4], regs, m),
            Call::MemLend => transfer::begin(self, id::MEM_LEND | WIDE, [x1, x2, x3, x4], regs, m),
            Call::MemFragTx => transfer::go_on(self, [x1, x2, x3, x4], regs, m),
            Call::MemReclaim => transfer::reclaim(self, [x1, x2, x3], regs, m),
        };
        *regs = match answer {
            Ok([function, w1, w2, w3]) => abi::answer(function as u32, [w1, w2, w3]),
            Err(status) => status.answer(),
        };
    }
}

/// The answer to a call where firmware has no FF-A, or none that EL2 can agree with.
pub fn absent(call: Call) -> Regs {
    match call {
        Call::Version => version::refusal(),
        _ => Status::INVALID_PARAMETERS.answer(),
    }
}

/// x0 to x3 of an answer; all other registers become zero.
type Answer = Result<[u64; 4], Status>;

/// FFA_SUCCESS with `w2` and `w3`.
const fn success(w2: u64, w3: u64) -> [u64; 4] {
    [id::SUCCESS as u64, 0, w2, w3]
}

/// Calls firmware, in the registers of the host's call, which nobody needs any more.
fn call_firmware(m: &mut impl Machine, regs: &mut Regs, function: u32, arguments: &[u64]) {
    *regs = [0; 18];
    let words = core::iter::once(u64::from(function)).chain(arguments.iter().copied());
    for (register, word) in regs.iter_mut().zip(words) {
        *register = word;
    }
    m.smc(regs);
}

/// What firmware answers to a call that succeeds or fails and does nothing else: w2 and w3 of the success.
fn outcome(regs: &Regs) -> Result<[u64; 2], Status> {
    let [x0, _, x2, x3, ..] = *regs;
    match x0 as u32 {
        SUCCESS | SUCCESS_64 => Ok([x2 & 0xffff_ffff, x3 & 0xffff_ffff]),
        _ => Err(failure(x0, x2)),
    }
}

const SUCCESS: u32 = id::SUCCESS;
const SUCCESS_64: u32 = id::SUCCESS | WIDE;

/// The status of an answer that is not a success. Only FFA_ERROR has one; SMCCC answers an unknown call with -1; everything
/// else is nonsense.
fn failure(x0: u64, x2: u64) -> Status {
    match x0 as u32 {
        id::ERROR => Status::from_word(x2).unwrap_or(Status::ABORTED),
        u32::MAX => Status::NOT_SUPPORTED,
        _ => Status::ABORTED,
    }
}
