// SPDX-License-Identifier: GPL-2.0-only
//! A host, the proxy, and the simulated partition manager, wired as EL2 wires them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use pkvm_core::ffa::abi::{WIDE, id};
use pkvm_core::ffa::{self, Path, Proxy, Regs, Stage, Transaction};
use pkvm_core::machine::{Features, Machine};
use pkvm_core::mem::table::Standing;
use pkvm_core::mem::{self, FfaLoan, Pinned, Returned};
use pkvm_spec::Kind;
use pkvm_types::{Error, PAGE_SIZE, Pfn, PfnRange, Phys};

use crate::build::Build;
use crate::rig::{Plan, Rig};
use crate::spm::{self, Spm};

pub const PLAN: Plan = Plan {
    pages: 40,
    kinds: &[Kind::Protected, Kind::Normal],
    levels: 2,
    host_pool: 6,
    hyp_pool: 6,
    spare: 8,
    features: Features {
        fwb: true,
        dic: true,
        xnx: false,
    },
    guest_base: 0x10,
    apart: false,
};

const WORDS: usize = (PAGE_SIZE / 8) as usize;

/// Changes what firmware answers to a call.
pub type Tamper = Box<dyn FnMut(&Regs, &mut Regs, &mut Spm)>;

/// The machine under the proxy.
pub struct World {
    pub rig: Rig,
    pub spm: Spm,
    pub tamper: Option<Tamper>,
    own_tx: Vec<u64>,
    pub own_rx: Vec<u64>,
    /// Pages of the host's that hold something, by frame number.
    pub host: BTreeMap<u64, Vec<u64>>,
    /// Words of EL2's sending mailbox that were read since they were copied there.
    seen: RefCell<BTreeSet<u32>>,
    /// The call has copied the host's mailbox already.
    copied: bool,
    /// Pages lent since the call began.
    pub lent: BTreeSet<u64>,
}

/// Where EL2's mailboxes are: behind all that the rig has.
const OWN: [u64; 2] = [0xf_0000, 0xf_0001];

impl World {
    pub fn standing(&self, pfn: u64) -> Option<Standing> {
        Standing::of(self.rig.m.record(Pfn::checked(pfn).unwrap())?)
    }
}

impl ffa::Machine for World {
    fn smc(&mut self, regs: &mut Regs) {
        let call = *regs;
        *regs = self.spm.serve(&call, &self.own_tx, &mut self.own_rx);
        if let Some(mut tamper) = self.tamper.take() {
            tamper(&call, regs, &mut self.spm);
            self.tamper = Some(tamper);
        }
    }
    fn mailboxes(&self) -> (Phys, Phys) {
        let at = |n: usize| Phys::new(OWN[n] * PAGE_SIZE);
        (at(0), at(1))
    }
    fn borrow_page(&mut self, pfn: Pfn) -> Result<Pinned, Error> {
        mem::borrow_page(&self.rig.m, &mut self.rig.host, &mut self.rig.hyp, pfn)
    }
    fn return_page(&mut self, page: Pinned) {
        mem::return_page(&self.rig.m, &mut self.rig.host, &mut self.rig.hyp, page);
    }
    fn copy_from_host(&mut self, tx: &Pinned, bytes: u32) {
        assert!(!self.copied, "the host's mailbox is read twice in one call");
        self.copied = true;
        assert!(bytes.is_multiple_of(8) && u64::from(bytes) <= PAGE_SIZE);
        assert_eq!(self.standing(tx.range().start().raw()), Some(Standing::HostHyp));
        let page = self
            .host
            .entry(tx.range().start().raw())
            .or_insert_with(|| vec![0; WORDS]);
        for (own, word) in self.own_tx.iter_mut().zip(page).take(bytes as usize / 8) {
            // The host changes each word as soon as it is read.
            *own = std::mem::replace(word, 0xdead_beef_dead_beef);
        }
        self.seen.borrow_mut().clear();
    }
    fn copy_to_host(&mut self, rx: &Pinned, bytes: u32) {
        assert!(u64::from(bytes) <= PAGE_SIZE);
        assert_eq!(self.standing(rx.range().start().raw()), Some(Standing::HostHyp));
        let page = self
            .host
            .entry(rx.range().start().raw())
            .or_insert_with(|| vec![0; WORDS]);
        let words = (bytes as usize).div_ceil(8);
        page[..words].copy_from_slice(&self.own_rx[..words]);
    }
    fn tx_word(&self, offset: u32) -> u64 {
        assert!(offset.is_multiple_of(8) && u64::from(offset) < PAGE_SIZE);
        assert!(
            self.seen.borrow_mut().insert(offset),
            "the word at {offset:#x} is read twice"
        );
        self.own_tx[offset as usize / 8]
    }
    fn set_tx_word(&mut self, offset: u32, word: u64) {
        self.own_tx[offset as usize / 8] = word;
    }
    fn lend(&mut self, loan: &mut FfaLoan, pages: PfnRange) -> Result<(), Error> {
        loan.lend(&self.rig.m, &mut self.rig.host, pages)?;
        self.lent.extend(pages.iter().map(Pfn::raw));
        Ok(())
    }
    fn take_back(&mut self, loan: &mut FfaLoan, limit: u64) -> Returned {
        // A short batch shows that the caller comes back for the rest.
        loan.take_back(&self.rig.m, &mut self.rig.host, limit.min(3))
    }
}

pub struct Bench {
    pub proxy: Option<Proxy<'static>>,
    pub w: World,
}

/// Bytes that a descriptor may have: as with the pages that the kernel reserves.
pub const LIMIT: u32 = 9 * 4096;

impl Bench {
    /// A bench over `spm`, with room for `slots` transactions; EL2 has booted.
    pub fn boot(spm: Spm, slots: usize) -> Self {
        let mut w = World {
            rig: Rig::new(PLAN),
            spm,
            tamper: None,
            own_tx: vec![0; WORDS],
            own_rx: vec![0; WORDS],
            host: BTreeMap::new(),
            seen: RefCell::default(),
            copied: false,
            lent: BTreeSet::new(),
        };
        let slots = Vec::leak((0..slots).map(|_| Transaction::NONE).collect());
        let proxy = Proxy::probe(slots, LIMIT, &mut w);
        Self { proxy, w }
    }

    /// A bench whose host has agreed to `version` and mapped its mailboxes.
    pub fn ready(version: u32) -> Self {
        Self::with(version, 8)
    }

    pub fn with(version: u32, slots: usize) -> Self {
        let mut bench = Self::boot(Spm::new(0x1_0002), slots);
        assert_eq!(
            bench.call(id::VERSION, &[u64::from(version)])[0],
            u64::from(version)
        );
        let (tx, rx) = (bench.tx(), bench.rx());
        let mapped = bench.call(
            id::RXTX_MAP | WIDE,
            &[tx * PAGE_SIZE, rx * PAGE_SIZE, PAGE_SIZE / 4096],
        );
        assert_eq!(mapped, spm::regs(&[spm::OK]));
        bench
    }

    /// The frame of page `n` of the host's memory.
    #[expect(clippy::unused_self, reason = "it is one of the places that a bench says")]
    pub fn page(&self, n: u64) -> u64 {
        PLAN.base() + n
    }
    pub fn tx(&self) -> u64 {
        self.page(PLAN.pages - 1)
    }
    pub fn rx(&self) -> u64 {
        self.page(PLAN.pages - 2)
    }
    pub fn version(&self) -> u32 {
        self.w.spm.version
    }

    /// A call of the host's, as EL2 treats it; what goes through is not made.
    pub fn call(&mut self, function: u32, arguments: &[u64]) -> Regs {
        self.w.copied = false;
        self.w.lent.clear();
        let stage = self.proxy.as_ref().map_or(Stage::Unnegotiated, Proxy::stage);
        let x1 = arguments.first().copied().unwrap_or(0);
        let answer = match ffa::path(function, x1, stage) {
            Path::Forward => panic!("{function:#x} goes through"),
            Path::Supported => ffa::abi::success(0, 0),
            Path::Refuse(status) => status.answer(),
            Path::Proxy(call) => {
                // What the host leaves in the other registers must not matter.
                let mut regs: Regs = std::array::from_fn(|n| 0xcafe_0000_0000 + n as u64);
                regs[0] = u64::from(function);
                regs[1..=arguments.len()].copy_from_slice(arguments);
                match &mut self.proxy {
                    None => regs = ffa::absent(call),
                    Some(proxy) => proxy.call(call, &mut regs, &mut self.w),
                }
                regs
            }
        };
        assert!(
            answer[4..].iter().all(|word| *word == 0),
            "registers leak: {answer:x?}"
        );
        assert!(
            matches!(answer[0], spm::OK | spm::ERROR | spm::FRAG_RX) || function == id::VERSION,
            "{answer:x?}"
        );
        self.check();
        answer
    }

    /// The invariant: what the secure world holds is marked as lent to it.
    pub fn check(&self) {
        for pfn in self.w.spm.pages() {
            assert_eq!(
                self.w.standing(pfn),
                Some(Standing::HostFfa),
                "the secure world holds frame {pfn:#x}"
            );
        }
        let listed: u32 = self
            .proxy
            .iter()
            .flat_map(|proxy| proxy.transactions().map(|transaction| transaction.loan.pages()))
            .sum();
        assert!(listed as usize <= self.lent_pages().len());
    }

    /// All pages that are marked.
    pub fn lent_pages(&self) -> BTreeSet<u64> {
        (0..PLAN.pages)
            .map(|n| self.page(n))
            .filter(|pfn| self.w.standing(*pfn) == Some(Standing::HostFfa))
            .collect()
    }

    /// Writes into the host's sending mailbox.
    pub fn write_tx(&mut self, bytes: &[u8]) {
        let mut words = vec![0; WORDS];
        for (n, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            words[n] = u64::from_le_bytes(word);
        }
        let tx = self.tx();
        self.w.host.insert(tx, words);
    }

    /// Sends a descriptor in fragments of at most `most` bytes, and yields the last answer.
    pub fn send(&mut self, function: u32, build: &Build, most: usize) -> Regs {
        let bytes = build.bytes(self.version());
        let mut sent = most.min(bytes.len());
        self.write_tx(&bytes[..sent]);
        let mut answer = self.call(function, &[bytes.len() as u64, sent as u64, 0, 0]);
        while answer[0] == spm::FRAG_RX {
            assert_eq!(answer[3], sent as u64);
            let end = (sent + most / 16 * 16).min(bytes.len());
            self.write_tx(&bytes[sent..end]);
            let arguments = [answer[1], answer[2], (end - sent) as u64, 0];
            answer = self.call(id::MEM_FRAG_TX, &arguments);
            sent = end;
        }
        answer
    }

    /// Shares single pages of the host's. Yields the handle.
    pub fn share(&mut self, pages: &[u64]) -> u64 {
        let ranges: Vec<_> = pages.iter().map(|n| (self.page(*n), 1)).collect();
        let answer = self.send(id::MEM_SHARE | WIDE, &Build::of(&ranges), PAGE_SIZE as usize);
        handle(&answer)
    }

    pub fn reclaim(&mut self, handle: u64) -> Regs {
        self.call(id::MEM_RECLAIM, &[handle & 0xffff_ffff, handle >> 32, 0])
    }
}

/// The handle in a success.
pub fn handle(answer: &Regs) -> u64 {
    assert_eq!((answer[0], answer[1]), (spm::OK, 0), "{answer:x?}");
    answer[3] << 32 | answer[2]
}

/// Whether an answer is FFA_ERROR with `code`, and nothing else.
pub fn refused(answer: &Regs, code: i64) -> bool {
    *answer == spm::regs(&[spm::ERROR, 0, code.cast_unsigned()])
}
