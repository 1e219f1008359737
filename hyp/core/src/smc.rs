// SPDX-License-Identifier: GPL-2.0-only
//! Where an SMC of the host goes. The function number is brought to one form first and then matched, so that no second
//! spelling of a call slips past a filter to firmware. This does the job of the SMC half of the kernel's
//! `nvhe/hyp-main.c`; the relay of PSCI is [`crate::psci`], the FF-A proxy [`crate::ffa`].
//!
//! Every register is the host's. Source: SMC Calling Convention, DEN 0028.

use crate::{ffa, psci};

#[cfg(test)]
mod tests;

/// What a refused call leaves in x0.
pub const NOT_SUPPORTED: u64 = u64::MAX;

/// Bit 31 of a function number: the call is fast.
const FAST: u32 = 1 << 31;
/// Bits 23 to 17, which must be zero in a fast call.
const RESERVED: u32 = 0x00fe_0000;
/// Bit 16: the caller has no live SVE state. It is not part of the number.
const HINT: u32 = 1 << 16;

/// Where an SMC goes. The host's PC moves on by one instruction in every case: a trapped SMC leaves it in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// To [`psci::relay`], with this function number in x0.
    Psci(psci::Call, u64),
    /// To [`ffa::path`], with this function number.
    Ffa(u32),
    /// To firmware: x0 to x17 as they are, and back.
    Forward,
    /// Nowhere: x0 becomes [`NOT_SUPPORTED`] and nothing else changes.
    NotSupported,
}

/// Decides about an SMC with the immediate of syndrome `esr` and function number `x0`.
pub fn route(esr: u64, x0: u64, config: &psci::Config) -> Route {
    // The immediate must be zero, and firmware may look at all 64 bits or at 32.
    if esr & 0xffff != 0 {
        return Route::NotSupported;
    }
    let Ok(raw) = u32::try_from(x0) else {
        return Route::NotSupported;
    };
    let function = raw & !HINT;
    // The numbers of PSCI 0.1 need not follow SMCCC, which is younger, and may have any bit set.
    for candidate in [raw, function] {
        if config.is_v0_1_call(candidate)
            && let Some(call) = config.decode(candidate)
        {
            return Route::Psci(call, u64::from(candidate));
        }
    }
    if let Some(call) = config.decode(function) {
        return Route::Psci(call, u64::from(function));
    }
    if ffa::is_call(function) {
        return Route::Ffa(function);
    }
    if is_forwarded(function) {
        Route::Forward
    } else {
        Route::NotSupported
    }
}

/// Whether firmware may have a call of neither PSCI nor FF-A: by who defines the call, and, where that is Arm, by what it
/// does. A call that would let firmware enter EL2 at an address of the host's choice, or take memory on the host's word,
/// is not on the list: SDEI, dynamic root of trust, the realm management interface, live firmware activation, PSCI that the
/// relay does not know, and whatever is yet to be defined.
const fn is_forwarded(function: u32) -> bool {
    /// A bit that two calls may differ in, one for each width.
    const WIDE: u32 = 1 << 30;
    let owner = function >> 24 & 0x3f;
    match owner {
        // The chip and the board, with numbers of their own making; and trusted applications and their system, which also
        // yield. Real machines need them, and nobody but their makers knows what they do.
        2 | 3 | 48..=63 => true,
        // All else that yields is not in use, and all else that is fast has bits that must be zero.
        _ if function & FAST == 0 || function & RESERVED != 0 => false,
        // Queries and mitigations of the architecture and of the CPU.
        0 | 1 => true,
        _ => matches!(
            function & !WIDE,
            // The management mode, by which UEFI reaches its variables.
            0x8400_0040..=0x8400_004f
            // Random numbers.
            | 0x8400_0050..=0x8400_005f
            // What standard services there are.
            | 0x8400_ff00..=0x8400_ff03
            // Stolen time, and the time of a hypervisor below: this machine may be a VM.
            | 0x8500_0020..=0x8500_0021
            | 0x8500_ff00..=0x8500_ff03
            | 0x8600_0000..=0x8600_0001
            // The models of CPUs that such a VM may run on.
            | 0x8600_0040..=0x8600_0041
            | 0x8600_ff00..=0x8600_ff03
        ),
    }
}
