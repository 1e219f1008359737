// SPDX-License-Identifier: GPL-2.0-only
//! FF-A (DEN 0077A, 1.0 to 1.2) as the hypervisor sees it at the Non-secure physical instance: a partition manager and
//! one partition, which echoes direct messages and keeps the memory that it is given. All calls are under one lock.

pub mod fault;
mod xfer;

use crate::control::{Event, count};
use crate::mem::{copy_in, copy_out, is_ram};
use crate::params;
use crate::start::Frame;
use fault::{Armed, Fault};
use spin::Mutex;
use xfer::{MAX_LEN, State, Transfers};

/// x0 to x17.
type Regs = [u64; 18];

const NOT_SUPPORTED: i32 = -1;
const INVALID_PARAMETERS: i32 = -2;
const NO_MEMORY: i32 = -3;
const BUSY: i32 = -4;
const DENIED: i32 = -6;

/// The partition's number.
const PARTITION: u16 = 0x8001;
/// The partition manager's.
const MANAGER: u64 = 0x8000;
/// The partition's UUID, as four words and as it is in memory.
const UUID: [u32; 4] = [0x706b_766d, 0x2d72_732d, 0x7465_7374, 0x2d73_7031];
/// It takes direct messages of both kinds, and runs in AArch64.
const PROPERTIES: u32 = 1 | 1 << 8 | 1 << 9;

const ERROR: u64 = 0x8400_0060;
const SUCCESS: u64 = 0x8400_0061;
const SUCCESS64: u64 = 0xc400_0061;
const VERSION: u64 = 0x8400_0063;
const RETRIEVE_RESP: u64 = 0x8400_0075;
const FRAG_RX: u64 = 0x8400_007a;
const FRAG_TX: u64 = 0x8400_007b;

/// A version of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// The first, whose structures are smaller.
    V1_0,
    /// Partitions have a UUID.
    V1_1,
    /// Endpoints have 32 bytes in a memory descriptor.
    V1_2,
}

impl Version {
    fn from_word(word: u64) -> Option<Self> {
        match word {
            0x1_0000 => Some(Self::V1_0),
            0x1_0001 => Some(Self::V1_1),
            0x1_0002 => Some(Self::V1_2),
            _ => None,
        }
    }

    fn word(self) -> u64 {
        0x1_0000 + self as u64
    }
}

struct Spmc {
    /// What is offered, and what the caller speaks: the protocol's words for them, 0 for none. All of this structure is
    /// zero at first, so that it is not in the flash.
    newest: u64,
    version: u64,
    /// Another call than FFA_VERSION was made, which fixes the version.
    fixed: bool,
    /// The caller's send and receive buffers.
    buffers: Option<(u64, u64)>,
    /// The receive buffer is the caller's until it releases it.
    full: bool,
    drift: u64,
    armed: Armed,
    transfers: Transfers,
    page: [u8; 4096],
}

static SPMC: Mutex<Spmc> = Mutex::new(Spmc {
    newest: 0,
    version: 0,
    fixed: false,
    buffers: None,
    full: false,
    drift: 0,
    armed: Armed::new(),
    transfers: Transfers::new(),
    page: [0; 4096],
});

/// Takes the version and the fault from the parameters.
pub fn init() {
    let params = params::get();
    SPMC.lock().newest = params.ffa;
    arm(params.fault[0], params.fault[1]);
}

/// Arms a fault; false if there is none of this number.
pub fn arm(fault: u64, times: u64) -> bool {
    let Some(fault) = Fault::from_number(fault) else {
        return false;
    };
    SPMC.lock().armed.arm(fault, times);
    true
}

/// The n-th range that the secure world holds: address, pages, handle.
pub fn held(n: u64) -> Option<(u64, u64, u64)> {
    SPMC.lock().transfers.held(n)
}

/// Whether it holds the page of an address.
pub fn holds(at: u64) -> bool {
    SPMC.lock().transfers.holds(at)
}

/// Answers a call: x0 to x17 are its result.
pub fn call(id: u64, frame: &mut Frame) {
    count(Event::Ffa);
    let args: Regs = core::array::from_fn(|n| frame.x[n]);
    let result = SPMC.lock().answer(id, &args);
    frame.x[..18].copy_from_slice(&result);
}

fn regs(words: &[u64]) -> Regs {
    let mut all = [0; 18];
    all[..words.len()].copy_from_slice(words);
    all
}

fn error(code: i32) -> Regs {
    regs(&[ERROR, 0, u64::from(code.cast_unsigned())])
}

fn halves(handle: u64) -> (u64, u64) {
    (handle & 0xffff_ffff, handle >> 32)
}

impl Spmc {
    fn answer(&mut self, id: u64, args: &Regs) -> Regs {
        if id == VERSION {
            return self.negotiate(args[1]);
        }
        let Some(version) = Version::from_word(self.version) else {
            return regs(&[u64::MAX]);
        };
        self.fixed = true;
        if self.armed.shows(Fault::BareError) {
            let mut same = *args;
            same[0] = u64::MAX;
            return same;
        }
        if self.armed.shows(Fault::ErrorZero) {
            return error(0);
        }
        if self.armed.shows(Fault::SuccessEmpty) {
            let mut odd = [u64::from(INVALID_PARAMETERS.cast_unsigned()); 18];
            (odd[0], odd[1]) = (SUCCESS, 0);
            return odd;
        }
        let word = |n: usize| args[n] & 0xffff_ffff;
        let handle = word(1) | word(2) << 32;
        let result = match id {
            // FFA_FEATURES.
            0x8400_0064 => self.features(word(1)),
            // FFA_RX_RELEASE.
            0x8400_0065 if !self.full => Err(DENIED),
            0x8400_0065 => {
                self.full = false;
                Ok(regs(&[SUCCESS]))
            }
            // FFA_RXTX_MAP.
            0x8400_0066 => self.map(word(1), word(2), word(3)),
            0xc400_0066 => self.map(args[1], args[2], word(3)),
            // FFA_RXTX_UNMAP.
            0x8400_0067 => self.unmap(word(1)),
            // FFA_PARTITION_INFO_GET.
            0x8400_0068 => self.partitions([word(1), word(2), word(3), word(4)], word(5), version),
            // FFA_ID_GET.
            0x8400_0069 if self.armed.shows(Fault::Id) => Ok(regs(&[SUCCESS, 0, 7])),
            0x8400_0069 => Ok(regs(&[SUCCESS])),
            // FFA_SPM_ID_GET.
            0x8400_0085 => Ok(regs(&[SUCCESS, 0, MANAGER])),
            // FFA_MSG_SEND_DIRECT_REQ and FFA_MSG_SEND_DIRECT_REQ2.
            0x8400_006f | 0xc400_006f => direct(id, args, 8),
            0xc400_008d if version >= Version::V1_2 => direct(id, args, 18),
            // FFA_PARTITION_INFO_GET_REGS.
            0xc400_008b if version >= Version::V1_2 => partition_regs(args),
            // FFA_MEM_LEND, FFA_MEM_SHARE.
            0x8400_0072 | 0xc400_0072 | 0x8400_0073 | 0xc400_0073 => self.give(args, version),
            FRAG_TX => self.give_more(handle, word(3)),
            // FFA_MEM_RETRIEVE_REQ.
            0x8400_0074 | 0xc400_0074 => self.retrieve(word(1), word(2)),
            FRAG_RX => self.retrieve_more(handle, word(3)),
            // FFA_MEM_RECLAIM.
            0x8400_0077 => self.reclaim(handle),
            _ => Err(NOT_SUPPORTED),
        };
        let mut result = result.unwrap_or_else(error);
        if result[0] != ERROR && self.armed.shows(Fault::Rubbish) {
            for (n, reg) in result.iter_mut().enumerate().skip(1) {
                *reg |= if *reg == 0 {
                    0x0bad_0bad_0000_0000 + n as u64
                } else {
                    0
                };
            }
        }
        result
    }

    /// FFA_VERSION: x0 alone is the result.
    fn negotiate(&mut self, word: u64) -> Regs {
        let refused = regs(&[u64::MAX]);
        let Some(newest) = Version::from_word(self.newest) else {
            return refused;
        };
        if self.armed.shows(Fault::VersionLate) {
            self.version = newest.word();
            return refused;
        }
        if self.armed.shows(Fault::VersionMinor) {
            self.version = newest.word();
            return regs(&[0x1_0003]);
        }
        if self.armed.shows(Fault::VersionMajor) {
            self.version = newest.word();
            return regs(&[0x2_0000]);
        }
        if self.armed.shows(Fault::VersionDrift) {
            self.drift += 1;
            let now = [Version::V1_1, Version::V1_0, Version::V1_2][(self.drift % 3) as usize];
            self.version = now.word();
            return regs(&[now.word()]);
        }
        let mut word = word & 0xffff_ffff;
        if word & 1 << 31 != 0 && self.armed.shows(Fault::VersionBit31) {
            word &= !(1 << 31);
        }
        if word >> 16 != 1 {
            return refused;
        }
        let spoken = Version::from_word(word).map_or(newest, |asked| asked.min(newest));
        if self.fixed && self.version != spoken.word() {
            // Too late for another one, unless nothing hangs on the old one.
            if self.buffers.is_some() {
                return refused;
            }
            self.fixed = false;
        }
        self.version = spoken.word();
        regs(&[newest.word()])
    }

    fn features(&mut self, id: u64) -> Result<Regs, i32> {
        const KNOWN: [u64; 22] = [
            ERROR,
            SUCCESS,
            SUCCESS64,
            VERSION,
            0x8400_0064,
            0x8400_0065,
            0x8400_0067,
            0x8400_0068,
            0x8400_0069,
            0x8400_006f,
            0xc400_006f,
            0x8400_0072,
            0xc400_0072,
            0x8400_0073,
            0xc400_0073,
            0x8400_0077,
            FRAG_RX,
            FRAG_TX,
            0x8400_0085,
            0xc400_008b,
            0xc400_008d,
            0xc400_0074,
        ];
        match id {
            // Smallest buffer: 0 for 4 KiB, 1 for 64 KiB.
            0x8400_0066 | 0xc400_0066 => {
                let size = u64::from(self.armed.shows(Fault::BufferSize));
                Ok(regs(&[SUCCESS, 0, size]))
            }
            0xc400_008b | 0xc400_008d if self.version < Version::V1_2.word() => Err(NOT_SUPPORTED),
            id if KNOWN.contains(&id) => Ok(regs(&[SUCCESS])),
            _ => Err(NOT_SUPPORTED),
        }
    }

    fn map(&mut self, tx: u64, rx: u64, pages: u64) -> Result<Regs, i32> {
        if self.armed.shows(Fault::Refuse) {
            return Err(NO_MEMORY);
        }
        let is_page = |at: u64| at.is_multiple_of(4096) && is_ram(at, 4096);
        if pages != 1 || !is_page(tx) || !is_page(rx) || tx == rx {
            return Err(INVALID_PARAMETERS);
        }
        if self.buffers.is_some() {
            return Err(DENIED);
        }
        self.buffers = Some((tx, rx));
        self.full = false;
        Ok(regs(&[SUCCESS]))
    }

    fn unmap(&mut self, id: u64) -> Result<Regs, i32> {
        if id >> 16 != 0 || self.buffers.is_none() {
            return Err(INVALID_PARAMETERS);
        }
        self.buffers = None;
        Ok(regs(&[SUCCESS]))
    }

    fn partitions(&mut self, uuid: [u64; 4], flags: u64, version: Version) -> Result<Regs, i32> {
        let (_, rx) = self.buffers.ok_or(BUSY)?;
        if uuid != [0; 4] && uuid != UUID.map(u64::from) {
            return Err(INVALID_PARAMETERS);
        }
        let mut entry = [0; 24];
        entry[..2].copy_from_slice(&PARTITION.to_le_bytes());
        entry[2..4].copy_from_slice(&1u16.to_le_bytes());
        entry[4..8].copy_from_slice(&PROPERTIES.to_le_bytes());
        // The UUID is there only if the caller did not give it.
        if uuid == [0; 4] {
            for (n, word) in UUID.iter().enumerate() {
                entry[8 + 4 * n..12 + 4 * n].copy_from_slice(&word.to_le_bytes());
            }
        }
        let (size, told) = if version == Version::V1_0 {
            (8, 0)
        } else {
            (24, 24)
        };
        if version > Version::V1_0 && flags & 1 != 0 {
            return Ok(regs(&[SUCCESS, 0, 1]));
        }
        if self.full {
            return Err(BUSY);
        }
        copy_out(rx, &entry[..size]);
        self.full = true;
        let count = if self.armed.shows(Fault::PartitionWrap) {
            // Times 8 or 24 it is 8 or 24 modulo 2^32.
            0x2000_0001
        } else if self.armed.shows(Fault::PartitionMany) {
            4096 / size as u64 + 1
        } else {
            1
        };
        Ok(regs(&[SUCCESS, 0, count, told]))
    }

    fn give(&mut self, args: &Regs, version: Version) -> Result<Regs, i32> {
        let word = |n: usize| (args[n] & 0xffff_ffff) as usize;
        let (tx, _) = self.buffers.ok_or(INVALID_PARAMETERS)?;
        let (len, part) = (word(1), word(2));
        if part > len || part > self.page.len() || args[3] != 0 || args[4] != 0 {
            return Err(INVALID_PARAMETERS);
        }
        if self.armed.shows(Fault::Refuse) {
            return Err(DENIED);
        }
        copy_in(tx, &mut self.page[..part]);
        let (handle, whole) = self.transfers.begin(&self.page[..part], len, version)?;
        Ok(self.progress(handle, part, whole))
    }

    fn give_more(&mut self, handle: u64, part: u64) -> Result<Regs, i32> {
        let (tx, _) = self.buffers.ok_or(INVALID_PARAMETERS)?;
        let part = usize::try_from(part).ok().filter(|n| *n <= self.page.len());
        let part = part.ok_or(INVALID_PARAMETERS)?;
        if self.armed.shows(Fault::Refuse) {
            return Err(DENIED);
        }
        copy_in(tx, &mut self.page[..part]);
        let (got, whole) = self.transfers.more(handle, &self.page[..part])?;
        Ok(self.progress(handle, got, whole))
    }

    /// The answer to a fragment that was taken.
    fn progress(&mut self, handle: u64, got: usize, whole: bool) -> Regs {
        let told = if self.armed.shows(Fault::OtherHandle) {
            self.transfers.other(handle)
        } else {
            handle
        };
        let (low, high) = halves(told);
        let mut next = got as u64;
        let mut done = whole;
        if whole {
            done = !self.armed.shows(Fault::FragAgain);
        } else if self.armed.shows(Fault::FragLong) {
            next += 16;
        } else if self.armed.shows(Fault::FragZero) {
            next = 0;
        } else if self.armed.shows(Fault::FragWrap) {
            next = 0xffff_fff0;
        } else {
            done = self.armed.shows(Fault::FragDone);
        }
        if done {
            return regs(&[SUCCESS, 0, low, high]);
        }
        regs(&[FRAG_RX, low, high, next])
    }

    /// A hypervisor asks for the descriptor of a transaction, by a request that holds only its handle.
    fn retrieve(&mut self, len: u64, part: u64) -> Result<Regs, i32> {
        let (tx, rx) = self.buffers.ok_or(INVALID_PARAMETERS)?;
        if part != len || !(32..=4096).contains(&len) {
            return Err(INVALID_PARAMETERS);
        }
        if self.full {
            return Err(BUSY);
        }
        let mut request = [0; 32];
        copy_in(tx, &mut request);
        let handle = u64::from_le_bytes(core::array::from_fn(|n| request[8 + n]));
        let count = u32::from_le_bytes(core::array::from_fn(|n| request[28 + n]));
        let found = self.transfers.find(handle).filter(|t| t.state == State::Live);
        let Some(found) = found.filter(|_| count == 0) else {
            return Err(INVALID_PARAMETERS);
        };
        let (mut total, mut first) = (found.len, found.len.min(4096));
        let at = found.ranges_at();
        self.page[..first].copy_from_slice(&found.bytes()[..first]);
        let page = &mut self.page;
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        if self.armed.shows(Fault::RetrieveLong) {
            (total, first) = (MAX_LEN, 0x2000);
        } else if self.armed.shows(Fault::RetrieveShort) {
            first = 8;
        } else if self.armed.shows(Fault::RetrieveOffset) {
            // The composite descriptor follows the endpoint's entry, and both are where their sender put them.
            let access = if self.version == Version::V1_0.word() {
                32
            } else {
                48
            };
            put(access + 4, &0xffff_fff8u32.to_le_bytes());
        } else if self.armed.shows(Fault::RetrieveCount) {
            put(at - 12, &0x1000_0001u32.to_le_bytes());
        } else if self.armed.shows(Fault::RetrieveOther) {
            let wrong = crate::mem::RAM + 0x20_0000;
            put(at, &wrong.to_le_bytes());
        }
        let shown = first.min(self.page.len());
        copy_out(rx, &self.page[..shown]);
        self.full = true;
        Ok(regs(&[RETRIEVE_RESP, total as u64, first as u64]))
    }

    fn retrieve_more(&mut self, handle: u64, offset: u64) -> Result<Regs, i32> {
        let (_, rx) = self.buffers.ok_or(INVALID_PARAMETERS)?;
        if self.full {
            return Err(BUSY);
        }
        let zero = self.armed.shows(Fault::RetrieveZero);
        let huge = self.armed.shows(Fault::RetrieveHuge);
        let Some(found) = self.transfers.find(handle) else {
            return Err(INVALID_PARAMETERS);
        };
        let offset = usize::try_from(offset).map_err(|_| INVALID_PARAMETERS)?;
        let rest = found.bytes().get(offset..).ok_or(INVALID_PARAMETERS)?;
        let part = rest.len().min(4096);
        copy_out(rx, &rest[..part]);
        self.full = true;
        let told = match (zero, huge) {
            (true, _) => 0,
            (_, true) => 0x1_0000,
            _ => part as u64,
        };
        let (low, high) = halves(handle);
        Ok(regs(&[FRAG_TX, low, high, told]))
    }

    fn reclaim(&mut self, handle: u64) -> Result<Regs, i32> {
        if self.armed.shows(Fault::ReclaimRefuse) {
            return Err(DENIED);
        }
        let (low, high) = halves(handle);
        if self.armed.shows(Fault::ReclaimOdd) {
            return Ok(regs(&[FRAG_RX, low, high, 0]));
        }
        let found = self.transfers.find(handle).ok_or(INVALID_PARAMETERS)?;
        found.state = State::Free;
        Ok(regs(&[SUCCESS]))
    }
}

/// The partition sends every direct message back.
fn direct(id: u64, args: &Regs, count: usize) -> Result<Regs, i32> {
    let (from, to) = (args[1] >> 16 & 0xffff, args[1] & 0xffff);
    if to != u64::from(PARTITION) || from & 0x8000 != 0 {
        return Err(INVALID_PARAMETERS);
    }
    let mut answer = [0; 18];
    answer[..count].copy_from_slice(&args[..count]);
    answer[0] = id + 1;
    answer[1] = to << 16 | from;
    answer[2] = 0;
    Ok(answer)
}

fn partition_regs(args: &Regs) -> Result<Regs, i32> {
    let pair = |n: usize| u64::from(UUID[n]) | u64::from(UUID[n + 1]) << 32;
    let uuid = (args[1], args[2]);
    if args[3] & 0xffff != 0 || (uuid != (0, 0) && uuid != (pair(0), pair(2))) {
        return Err(INVALID_PARAMETERS);
    }
    let first = u64::from(PARTITION) | 1 << 16 | u64::from(PROPERTIES) << 32;
    // One partition: its index is 0 and so is the last one's; an entry has 24 bytes.
    let (low, high) = if uuid == (0, 0) {
        (pair(0), pair(2))
    } else {
        (0, 0)
    };
    Ok(regs(&[SUCCESS64, 0, 24 << 48, first, low, high]))
}
