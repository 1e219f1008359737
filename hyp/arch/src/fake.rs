// SPDX-License-Identifier: GPL-2.0-only
//! What stands in for the hardware off the target: register values and capabilities that a test sets, and a log of
//! what the code under test did. The state belongs to the thread, so that tests run in parallel.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::vec::Vec;

use crate::sysreg::{Enc, PAR_EL1};

/// Something the code under test did to the fake hardware.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An ISB.
    Isb,
    /// A DSB with this option: `sy`, `ish`, `ishst`, `nsh`, `nshst`.
    Dsb(&'static str),
    /// Another barrier: `dmb sy`, `psb csync`, `tsb csync`.
    Barrier(&'static str),
    /// A write of a system register, by its EL1 or EL2 encoding whatever the alias in use.
    Write(Enc, u64),
    /// A TLB invalidation, with its operand where it has one.
    Tlbi(&'static str, u64),
    /// Cache maintenance of a range: what, first address, length in bytes.
    Cache(&'static str, u64, u64),
    /// An SMC and its function id.
    Smc(u64),
    /// An address translation instruction and its address.
    At(&'static str, u64),
    /// A point that the test itself marked.
    Mark(&'static str),
}

#[derive(Default)]
struct State {
    regs: HashMap<Enc, u64>,
    caps: HashSet<u16>,
    keys: HashSet<&'static str>,
    log: Vec<Event>,
    smc: Option<fn(&mut [u64; 18])>,
    at: Option<fn(u64) -> Option<u64>>,
    exits: VecDeque<(u64, fn())>,
    tpidr_el2: u64,
}

std::thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

fn with<R>(f: impl FnOnce(&mut State) -> R) -> R {
    STATE.with(|state| f(&mut state.borrow_mut()))
}

/// Forgets everything: registers read as zero, no capability, all static keys off, the log empty.
pub fn reset() {
    with(|state| *state = State::default());
}

/// The value that reads of register `enc` give.
pub fn set_reg(enc: Enc, value: u64) {
    with(|state| state.regs.insert(enc, value));
}

/// The value last written to register `enc` or set by the test; zero if there was none.
pub fn reg(enc: Enc) -> u64 {
    with(|state| state.regs.get(&enc).copied().unwrap_or(0))
}

/// Gives the fake CPU the capability.
pub fn set_cap(cap: u16) {
    with(|state| state.caps.insert(cap));
}

/// Turns the named static key on.
pub fn set_key(name: &'static str) {
    with(|state| state.keys.insert(name));
}

/// What answers SMC calls: it finds the arguments in x0 to x17 and leaves the results there.
pub fn set_smc(handler: fn(&mut [u64; 18])) {
    with(|state| state.smc = Some(handler));
}

/// What answers address translations: it gives the value of PAR_EL1 for an address, or nothing where the walk takes an
/// exception. Without one every walk is done and leaves PAR_EL1 as it is.
pub fn set_at(walk: fn(u64) -> Option<u64>) {
    with(|state| state.at = Some(walk));
}

/// Makes the next entry to a guest end with this exit code. Without any in the queue it ends by an interrupt.
pub fn queue_exit(code: u64) {
    queue_exit_with(code, || {});
}

/// As [`queue_exit`], and meanwhile the guest does this.
pub fn queue_exit_with(code: u64, guest: fn()) {
    with(|state| state.exits.push_back((code, guest)));
}

pub(crate) fn enter_guest() -> u64 {
    let (code, guest) = with(|state| state.exits.pop_front()).unwrap_or((0, || {}));
    guest();
    code
}

/// Puts a mark in the log.
pub fn mark(what: &'static str) {
    log(Event::Mark(what));
}

/// The per-CPU offset of the fake CPU.
pub fn set_this_cpu_offset(offset: u64) {
    with(|state| state.tpidr_el2 = offset);
}

/// Takes the log, leaving it empty.
pub fn take_log() -> Vec<Event> {
    with(|state| core::mem::take(&mut state.log))
}

pub(crate) fn log(event: Event) {
    with(|state| state.log.push(event));
}

pub(crate) fn write_reg(enc: Enc, value: u64) {
    with(|state| {
        state.regs.insert(enc, value);
        state.log.push(Event::Write(enc, value));
    });
}

/// Does an address translation. False where it takes an exception.
pub(crate) fn translate(instruction: &'static str, va: u64) -> bool {
    log(Event::At(instruction, va));
    let Some(walk) = with(|state| state.at) else {
        return true;
    };
    match walk(va) {
        Some(par) => {
            set_reg(PAR_EL1, par);
            true
        }
        None => false,
    }
}

pub(crate) fn has_cap(cap: u16) -> bool {
    with(|state| state.caps.contains(&cap))
}

/// Whether a test turned the key on.
#[doc(hidden)]
pub fn static_key(name: &str) -> bool {
    with(|state| state.keys.contains(name))
}

pub(crate) fn this_cpu_offset() -> u64 {
    with(|state| state.tpidr_el2)
}

pub(crate) fn smc(regs: &mut [u64; 18]) {
    log(Event::Smc(regs[0]));
    match with(|state| state.smc) {
        Some(handler) => handler(regs),
        // SMCCC: an unknown function returns NOT_SUPPORTED.
        None => regs[0] = u64::MAX,
    }
}
