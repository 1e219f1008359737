// SPDX-License-Identifier: GPL-2.0-only
//! An FF-A client in user space: the calls, with registers of its choice, and descriptors of memory.

use crate::hostile::facts::Map;
use crate::hostile::{FakeVm, Hostile, Kind, Monitor, Reply};
use std::time::{Duration, Instant};

/// Function numbers and codes of FF-A.
pub mod id {
    pub const ERROR: u64 = 0x8400_0060;
    pub const SUCCESS: u64 = 0x8400_0061;
    pub const VERSION: u64 = 0x8400_0063;
    pub const FEATURES: u64 = 0x8400_0064;
    pub const RX_RELEASE: u64 = 0x8400_0065;
    pub const RXTX_MAP: u64 = 0xc400_0066;
    pub const RXTX_UNMAP: u64 = 0x8400_0067;
    pub const PARTITION_INFO_GET: u64 = 0x8400_0068;
    pub const ID_GET: u64 = 0x8400_0069;
    pub const DIRECT_REQ: u64 = 0xc400_006f;
    pub const DIRECT_RESP: u64 = 0xc400_0070;
    pub const MEM_DONATE: u64 = 0xc400_0071;
    pub const MEM_LEND: u64 = 0xc400_0072;
    pub const MEM_SHARE: u64 = 0xc400_0073;
    pub const MEM_RETRIEVE_REQ: u64 = 0xc400_0074;
    pub const MEM_RECLAIM: u64 = 0x8400_0077;
    pub const MEM_FRAG_RX: u64 = 0x8400_007a;
    pub const MEM_FRAG_TX: u64 = 0x8400_007b;
    pub const SPM_ID_GET: u64 = 0x8400_0085;
}

pub const NOT_SUPPORTED: i32 = -1;
pub const INVALID: i32 = -2;
pub const NO_MEMORY: i32 = -3;
pub const DENIED: i32 = -6;

/// The monitor's partition.
pub const PARTITION: u16 = 0x8001;

/// The answer to a call, as far as it is common to all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// FFA_SUCCESS: w2 and w3.
    Success(u64, u64),
    /// FFA_ERROR: w2.
    Error(i32),
    /// FFA_MEM_FRAG_RX: the handle, and where to go on.
    More(u64, u64),
    /// Anything else: x0.
    Other(u64),
}

/// Reads it.
pub fn answer(reply: &Reply) -> Answer {
    let w = |n: usize| reply.regs[n] & 0xffff_ffff;
    match w(0) {
        id::SUCCESS | 0xc400_0061 => Answer::Success(w(2), w(3)),
        id::ERROR => Answer::Error(w(2) as u32 as i32),
        id::MEM_FRAG_RX => Answer::More(w(1) | w(2) << 32, w(3)),
        _ => Answer::Other(reply.regs[0]),
    }
}

/// What each test has at hand.
pub struct Client {
    /// The device. It is there until the process ends.
    pub h: &'static Hostile,
    /// Where memory of each class is.
    pub map: Map,
    /// Bytes of a page.
    pub page: u64,
    /// The version that was agreed.
    pub version: u64,
    /// The C object is under test.
    pub is_c: bool,
    /// What is not as it must be.
    pub bad: Vec<String>,
    /// How many things are.
    pub good: u32,
    /// Physical addresses of the buffers that this client mapped.
    pub buffers: Option<(u64, u64)>,
    /// A pVM and a normal VM, to which pages are offered.
    takers: Option<[FakeVm<'static>; 2]>,
}

impl Client {
    /// Takes the place of the kernel's driver, and agrees on a version.
    pub fn open() -> Result<Self, String> {
        let mut this = Self::look()?;
        // The driver gives its buffers up; it is not bound if an earlier test was here.
        let _ = std::fs::write("/sys/bus/platform/drivers/arm-ffa/unbind", "arm-ffa");
        this.version = this.call(&[id::VERSION, 0x1_0002])?.regs[0];
        if !(0x1_0000..=0x1_0002).contains(&this.version) {
            return Err(format!("FFA_VERSION: {:#x}", this.version));
        }
        Ok(this)
    }

    /// Opens the device and does nothing else.
    pub fn look() -> Result<Self, String> {
        crate::tests::pin_to_cpu(1).or_else(|_| crate::tests::pin_to_cpu(0))?;
        let h = Hostile::open().map_err(|e| format!("/dev/hostile: {e}"))?;
        let h: &'static Hostile = Box::leak(Box::new(h));
        Ok(Self {
            page: h.fact("page_size"),
            map: Map::read(h)?,
            h,
            takers: None,
            version: 0,
            is_c: crate::system::cmdline_has("hyp=c"),
            bad: Vec::new(),
            good: 0,
            buffers: None,
        })
    }

    /// The monitor.
    pub fn monitor(&self) -> Result<Monitor<'_>, String> {
        Monitor::find(self.h)
    }

    /// Issues a call with x0 and what follows given, the rest zero.
    pub fn call(&self, words: &[u64]) -> Result<Reply, String> {
        let mut regs = [0; 18];
        regs[..words.len()].copy_from_slice(words);
        self.h.smc(0, regs).map_err(|e| e.to_string())
    }

    /// The same, and the usual answer.
    pub fn ask(&self, words: &[u64]) -> Result<Answer, String> {
        Ok(answer(&self.call(words)?))
    }

    /// Issues a call that must be answered so.
    pub fn check(&mut self, what: &str, words: &[u64], want: Answer) -> Result<(), String> {
        let got = self.ask(words)?;
        self.expect(&format!("{what}: {got:?}, not {want:?}"), got == want);
        Ok(())
    }

    /// Judges anything else.
    pub fn expect(&mut self, what: &str, good: bool) {
        if good {
            self.good += 1;
        } else {
            self.bad.push(what.to_owned());
        }
    }

    /// A fresh page: its physical address.
    pub fn fresh(&self) -> Result<u64, String> {
        self.pages(1)
    }

    /// Fresh pages that lie together: their physical address.
    pub fn pages(&self, count: u64) -> Result<u64, String> {
        Ok(self.h.alloc(count * self.page).map_err(|e| e.to_string())?.1)
    }

    /// The address of a page in the kernel.
    pub fn va(&self, pa: u64) -> Result<u64, String> {
        self.h.va_of(pa).map_err(|e| e.to_string())
    }

    /// Maps fresh buffers.
    pub fn map_buffers(&mut self) -> Result<(), String> {
        let (tx, rx) = (self.fresh()?, self.fresh()?);
        match self.ask(&[id::RXTX_MAP, tx, rx, self.page / 4096])? {
            Answer::Success(..) => {
                self.buffers = Some((tx, rx));
                Ok(())
            }
            other => Err(format!("FFA_RXTX_MAP: {other:?}")),
        }
    }

    /// Unmaps them.
    pub fn unmap_buffers(&mut self) -> Result<(), String> {
        match self.ask(&[id::RXTX_UNMAP])? {
            Answer::Success(..) => {
                self.buffers = None;
                Ok(())
            }
            other => Err(format!("FFA_RXTX_UNMAP: {other:?}")),
        }
    }

    /// Writes into the send buffer.
    pub fn put(&self, bytes: &[u8]) -> Result<(), String> {
        let (tx, _) = self.buffers.ok_or("no buffers")?;
        self.h.poke(self.va(tx)?, bytes).map_err(|e| e.to_string())
    }

    /// Reads from the receive buffer.
    pub fn get(&self, len: usize) -> Result<Vec<u8>, String> {
        let (_, rx) = self.buffers.ok_or("no buffers")?;
        self.h.peek(self.va(rx)?, len).map_err(|e| e.to_string())
    }

    /// A descriptor of these ranges (address, pages of 4 KiB) for the partition, in the layout of the version.
    pub fn descriptor(&self, ranges: &[(u64, u32)]) -> Vec<u8> {
        let (header, access) = match self.version {
            0x1_0000 => (32, 16),
            0x1_0001 => (48, 16),
            _ => (48, 32),
        };
        let composite = header + access;
        let mut out = vec![0; composite + 16];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        // Normal memory, write-back, inner shareable.
        put(2, &0x2fu16.to_le_bytes());
        put(28, &1u32.to_le_bytes());
        if self.version > 0x1_0000 {
            put(24, &(access as u32).to_le_bytes());
            put(32, &(header as u32).to_le_bytes());
        }
        put(header, &PARTITION.to_le_bytes());
        // Read and write, not executable.
        put(header + 2, &[0b0110]);
        put(header + 4, &(composite as u32).to_le_bytes());
        let total: u64 = ranges.iter().map(|(_, pages)| u64::from(*pages)).sum();
        put(composite, &(total as u32).to_le_bytes());
        put(composite + 4, &(ranges.len() as u32).to_le_bytes());
        for (at, pages) in ranges {
            out.extend(at.to_le_bytes());
            out.extend(pages.to_le_bytes());
            out.extend([0; 4]);
        }
        out
    }

    /// Sends the beginning of a descriptor.
    pub fn begin(&self, function: u64, descriptor: &[u8], first: usize) -> Result<Answer, String> {
        self.put(&descriptor[..first])?;
        self.ask(&[function, descriptor.len() as u64, first as u64])
    }

    /// Sends a further fragment.
    pub fn more(&self, handle: u64, fragment: &[u8]) -> Result<Answer, String> {
        self.put(fragment)?;
        self.ask(&[
            id::MEM_FRAG_TX,
            handle & 0xffff_ffff,
            handle >> 32,
            fragment.len() as u64,
        ])
    }

    /// Sends all of it in one piece; the handle if it succeeds.
    pub fn give(&self, function: u64, ranges: &[(u64, u32)]) -> Result<Result<u64, Answer>, String> {
        let descriptor = self.descriptor(ranges);
        Ok(match self.begin(function, &descriptor, descriptor.len())? {
            Answer::Success(low, high) => Ok(low | high << 32),
            other => Err(other),
        })
    }

    /// Takes it back.
    pub fn reclaim(&self, handle: u64) -> Result<Answer, String> {
        self.ask(&[id::MEM_RECLAIM, handle & 0xffff_ffff, handle >> 32, 0])
    }

    /// Whether EL2 takes a page for its own, and gives it back: then it is the host's alone.
    pub fn is_owned(&self, pa: u64) -> Result<bool, String> {
        let readable = self.h.peek64(self.va(pa)?).is_ok();
        let pfn = [pa / self.page];
        let call = |name: &str| self.h.call(name, &pfn).map_err(|e| e.to_string());
        let share = call("__pkvm_host_share_hyp")?;
        let unshare = call("__pkvm_host_unshare_hyp")?;
        Ok(readable && share.ok("").is_ok() && unshare.ok("").is_ok())
    }

    /// The page is the host's alone, and the secure world does not have it.
    pub fn owned(&mut self, what: &str, pa: u64) -> Result<(), String> {
        let owned = self.is_owned(pa)?;
        self.expect(&format!("{what}: page {pa:#x} is not the host's alone"), owned);
        let held = self.monitor()?.holds(pa)?;
        self.expect(&format!("{what}: the secure world still has page {pa:#x}"), !held);
        Ok(())
    }

    /// EL2 gives the page to nobody, in whatever way it is asked to.
    pub fn kept(&mut self, what: &str, pa: u64) -> Result<(), String> {
        let pfn = pa / self.page;
        let reply = self
            .h
            .call("__pkvm_host_share_hyp", &[pfn])
            .map_err(|e| e.to_string())?;
        self.expect(
            &format!("{what}: page {pa:#x} shared with EL2"),
            reply.ok("").is_err(),
        );
        if self.takers.is_none() {
            let takers = [
                FakeVm::new(self.h, Kind::Protected)?,
                FakeVm::new(self.h, Kind::Normal)?,
            ];
            for vm in &takers {
                vm.load(0)?;
                vm.top_up(0, 8)?;
                vm.put()?;
            }
            self.takers = Some(takers);
        }
        let Some([pvm, vm]) = &self.takers else {
            return Ok(());
        };
        let prot = self.h.fact("prot_r") | self.h.fact("prot_w");
        pvm.load(0)?;
        let donated = self.h.call("__pkvm_host_donate_guest", &[pfn, 0x77]);
        pvm.put()?;
        vm.load(0)?;
        let shared = self.h.call("__pkvm_host_share_guest", &[pfn, 0x77, 1, prot]);
        vm.put()?;
        let done = |reply: std::io::Result<Reply>| reply.map(|r| r.ok("").is_ok());
        let taken = [
            ("donated to a pVM", done(donated).map_err(|e| e.to_string())?),
            ("shared with a guest", done(shared).map_err(|e| e.to_string())?),
        ];
        for (how, done) in taken {
            self.expect(&format!("{what}: page {pa:#x} {how}"), !done);
        }
        Ok(())
    }

    /// Ends the VMs that pages were offered to, which have none if all is well.
    pub fn close(&mut self) -> Result<(), String> {
        let Some([pvm, vm]) = self.takers.take() else {
            return Ok(());
        };
        pvm.destroy(&[], Kind::Protected)?;
        vm.destroy(&[], Kind::Normal).map(drop)
    }

    /// The page is the secure world's and the host's, and EL2 knows.
    pub fn shared(&mut self, what: &str, pa: u64) -> Result<(), String> {
        let held = self.monitor()?.holds(pa)?;
        self.expect(
            &format!("{what}: the secure world does not have page {pa:#x}"),
            held,
        );
        self.kept(what, pa)
    }
}

/// Waits for something that is on its way.
pub fn wait_for(limit: Duration, mut what: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !what() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}
