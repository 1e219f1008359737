// SPDX-License-Identifier: GPL-2.0-only
//! The monitor's own calls, for tests: 64-bit fast calls of the OEM's range.
//!
//! | number | arguments | result |
//! |---|---|---|
//! | `0xc300_0000` | | x0: a magic number |
//! | `0xc300_0001` | fault, how often | arms a fault of the FF-A side, 0 for none |
//! | `0xc300_0002` | n | the n-th range of memory that the secure world holds: x1 address, x2 pages, x3 handle |
//! | `0xc300_0003` | address, 0 or 1, value | reads (x1) or writes a 64-bit word from the secure side |
//! | `0xc300_0004` | event | x1: how often it happened |
//! | `0xc300_0005` | n | x1: a register of EL2 as it is while the host runs |
//! | `0xc300_0006` | n | x1 to x4: x0 to x3 of the n-th SMC that is neither one of these nor an idle CPU's |
//! | `0xc300_0007` | 0 or 1 | whether PSCI refuses to switch off, reset or suspend a CPU or the system, however it is told |
//!
//! Of the SMCs the last 32 are kept.
//!
//! x0 is 0 for success, -2 for an argument out of range and -3 for an address that the secure world does not hold.

use crate::start::Frame;
use crate::{NOT_SUPPORTED, ffa, mem, psci, regs};
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

const MAGIC: u64 = 0x706b_766d_2d65_6c33;
const INVALID: u64 = (-2i64).cast_unsigned();
const NOT_HELD: u64 = (-3i64).cast_unsigned();

/// What is counted.
#[derive(Clone, Copy)]
pub enum Event {
    /// CPU_SUSPEND without a loss of power.
    Standby,
    /// CPU_SUSPEND with it.
    PowerDown,
    /// CPU_ON that succeeded.
    CpuOn,
    /// CPU_OFF.
    CpuOff,
    /// SYSTEM_SUSPEND that succeeded.
    SystemSuspend,
    /// An FF-A call of any kind.
    Ffa,
    /// A page was offered that the secure world holds already.
    HeldTwice,
    /// An SMC of any kind but the monitor's own calls and those of an idle CPU.
    Smc,
}

const EVENTS: usize = 8;
static COUNTS: [AtomicU64; EVENTS] = [const { AtomicU64::new(0) }; EVENTS];

/// Counts an event.
pub fn count(event: Event) {
    COUNTS[event as usize].fetch_add(1, Ordering::Relaxed);
}

const KEPT: usize = 32;

/// x0 to x3 of the last SMCs: the n-th of all is at n modulo the length.
static SMCS: Mutex<[[u64; 4]; KEPT]> = Mutex::new([[0; 4]; KEPT]);

/// Whether a function number is one of these calls. No other spelling of one is: that somebody else must have thought of.
pub fn is_own(function: u64) -> bool {
    (0xc300_0000..=0xc300_0007).contains(&function)
}

/// Keeps an SMC.
pub fn record(words: [u64; 4]) {
    // The count moves under the lock, so that who sees it finds the words.
    let mut smcs = SMCS.lock();
    let n = COUNTS[Event::Smc as usize].load(Ordering::Relaxed);
    smcs[n as usize % KEPT] = words;
    count(Event::Smc);
}

/// The n-th SMC, if it is kept.
fn recorded(n: u64) -> Option<[u64; 4]> {
    let smcs = SMCS.lock();
    let count = COUNTS[Event::Smc as usize].load(Ordering::Relaxed);
    let kept = n < count && count - n <= KEPT as u64;
    kept.then(|| smcs[n as usize % KEPT])
}

/// Answers a call.
pub fn call(id: u64, frame: &mut Frame) {
    let [_, x1, x2, x3, ..] = frame.x;
    let one = |value: Option<u64>| value.map_or((INVALID, 0), |value| (0, value));
    let (x0, value) = match id {
        0xc300_0000 => (MAGIC, 0),
        0xc300_0001 => (if ffa::arm(x1, x2) { 0 } else { INVALID }, 0),
        0xc300_0002 => match ffa::held(x1) {
            Some((at, pages, handle)) => {
                frame.x[2] = pages;
                frame.x[3] = handle;
                (0, at)
            }
            None => (INVALID, 0),
        },
        0xc300_0003 => touch(x1, x2, x3),
        0xc300_0004 => one(usize::try_from(x1)
            .ok()
            .and_then(|n| COUNTS.get(n))
            .map(|count| count.load(Ordering::Relaxed))),
        0xc300_0005 => one(regs::el2(x1)),
        0xc300_0006 => match recorded(x1) {
            Some([smc0, smc1, smc2, smc3]) => {
                frame.x[2..5].copy_from_slice(&[smc1, smc2, smc3]);
                (0, smc0)
            }
            None => (INVALID, 0),
        },
        0xc300_0007 => {
            psci::refuse(x1 != 0);
            (0, 0)
        }
        _ => {
            frame.x[0] = NOT_SUPPORTED;
            return;
        }
    };
    frame.x[0] = x0;
    frame.x[1] = value;
}

fn touch(at: u64, how: u64, value: u64) -> (u64, u64) {
    if !at.is_multiple_of(8) || !mem::is_ram(at, 8) {
        return (INVALID, 0);
    }
    if !ffa::holds(at) {
        return (NOT_HELD, 0);
    }
    let mut word = value.to_le_bytes();
    let done = match how {
        0 => mem::copy_in(at, &mut word),
        1 => mem::copy_out(at, &word),
        _ => false,
    };
    if done {
        (0, u64::from_le_bytes(word))
    } else {
        (INVALID, 0)
    }
}
