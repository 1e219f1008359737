// SPDX-License-Identifier: GPL-2.0-only
//! The hypercalls of the host: which exist, in which phase they may be made, and how their registers are read and
//! written. This does the job of the dispatch half of the kernel's `nvhe/hyp-main.c`.
//!
//! The one table is in [`table`]; the trait [`HostCalls`], the numbers that the kernel build checks and
//! `Documentation/hypercalls.rst` all come from it. Every register is the host's and may hold anything. Nothing here
//! takes a lock.

mod abi;
mod table;
#[cfg(test)]
mod tests;

pub use abi::{Arg, ExitCode, HostRegs, Reply, Switch, Value};
pub use table::{HostCalls, NUMBERS, ROWS};

/// SMCCC's `SUCCESS`, which x0 holds after every call that exists.
const SUCCESS: u64 = 0;
/// SMCCC's `NOT_SUPPORTED`, which x0 holds after a call that does not exist or may not be made now.
const NOT_SUPPORTED: u64 = u64::MAX;
/// A fast 64-bit call of the vendor-specific hypervisor service, function 0.
const CALL_BASE: u64 = 0xc600_0000;
/// The bit by which a caller says that it holds no live SVE state (SMCCC 1.3); it does not belong to the number.
const CALL_HINT: u64 = 1 << 16;

/// How far EL2 is in taking the machine from the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The static key `kvm_protected_mode_initialized` is off: the host is trusted.
    Boot,
    /// The key is on: the host is an adversary.
    Deprivileged,
}

/// In which phases a call may be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// Only before the host loses its privileges.
    Boot,
    /// Always.
    Both,
    /// In both phases it succeeds, but once the host is no longer trusted it does nothing: the host makes the call and
    /// warns when it is refused, and its pointer cannot be checked.
    BothInert,
    /// Only once the host has lost its privileges.
    Deprivileged,
}

/// One hypercall, as documentation and the build's checks see it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its number, the `__KVM_HOST_SMCCC_FUNC_*` of the kernel.
    pub number: u32,
    /// Its name in the kernel.
    pub name: &'static str,
    /// When it may be made.
    pub gate: Gate,
    /// The name and type of each argument, from x1 on.
    pub args: &'static [(&'static str, &'static str)],
    /// What x1 holds afterwards.
    pub returns: &'static str,
    /// What it does.
    pub doc: &'static str,
}

/// What became of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dispatched {
    /// The handler of this number ran.
    Handled(u32),
    /// The call of this number does nothing in this phase.
    Inert(u32),
    /// No such call, or not now.
    Refused,
}

/// The number of the kernel's hypercall `name`, for build-time checks. `None` where there is no such row.
pub const fn number_of(name: &str) -> Option<u32> {
    let mut rows = NUMBERS;
    while let [(candidate, number), rest @ ..] = rows {
        if same(candidate.as_bytes(), name.as_bytes()) {
            return Some(*number);
        }
        rows = rest;
    }
    None
}

const fn same(mut a: &[u8], mut b: &[u8]) -> bool {
    loop {
        match (a, b) {
            ([], []) => return true,
            ([x, rest_a @ ..], [y, rest_b @ ..]) if *x == *y => (a, b) = (rest_a, rest_b),
            _ => return false,
        }
    }
}

/// Whether the call `number` may be made in `phase`, and whether it then has an effect.
fn admit(number: u64, phase: Phase) -> Dispatched {
    let Ok(number) = u32::try_from(number) else {
        return Dispatched::Refused;
    };
    match (table::gate(number), phase) {
        (Some(Gate::Both), _)
        | (Some(Gate::Boot | Gate::BothInert), Phase::Boot)
        | (Some(Gate::Deprivileged), Phase::Deprivileged) => Dispatched::Handled(number),
        (Some(Gate::BothInert), Phase::Deprivileged) => Dispatched::Inert(number),
        (None, _) | (Some(Gate::Boot), Phase::Deprivileged) | (Some(Gate::Deprivileged), Phase::Boot) => {
            Dispatched::Refused
        }
    }
}

/// Makes the host's HVC: finds the call that x0 names, reads its arguments from x1 on, each once, and runs its
/// handler. x0 is set before the handler runs, so that a handler which never returns has an answer in place; x1 is
/// set after it, unless the call returns nothing. No other register changes.
pub fn dispatch(regs: &mut impl HostRegs, phase: Phase, calls: &mut impl HostCalls) -> Dispatched {
    let number = (regs.get(0) & !CALL_HINT).wrapping_sub(CALL_BASE);
    let outcome = admit(number, phase);
    match outcome {
        Dispatched::Handled(number) => {
            regs.set(0, SUCCESS);
            if let Some(x1) = table::call(number, &*regs, calls) {
                regs.set(1, x1);
            }
        }
        Dispatched::Inert(_) => regs.set(0, SUCCESS),
        Dispatched::Refused => regs.set(0, NOT_SUPPORTED),
    }
    outcome
}
