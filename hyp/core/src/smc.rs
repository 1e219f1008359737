// SPDX-License-Identifier: GPL-2.0-only
//! Where an SMC of the host goes. The function number is brought to one form first and then matched, so that no second
//! spelling of a call slips past a filter to firmware. This does the job of the SMC half of the kernel's
//! `nvhe/hyp-main.c`; the FF-A proxy has its place in [`ffa`].
//!
//! Every register is the host's. Source: SMC Calling Convention, DEN 0028.

use crate::psci;

pub mod ffa;
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
    /// To [`ffa`].
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
    if function & FAST != 0 && function & RESERVED != 0 {
        return Route::NotSupported;
    }
    if let Some(call) = config.decode(function) {
        return Route::Psci(call, u64::from(function));
    }
    if ffa::is_call(function) {
        return Route::Ffa(function);
    }
    if is_denied(function) {
        return Route::NotSupported;
    }
    Route::Forward
}

/// Calls by which firmware would break the isolation, in either width.
const fn is_denied(function: u32) -> bool {
    /// The bit that marks a 64-bit call.
    const WIDE: u32 = 1 << 30;
    matches!(
        function & !WIDE,
        // PSCI that the relay did not take, as with version 0.1: it could carry an entry point.
        0x8400_0000..=0x8400_001f
        // SDEI: firmware would enter EL2 at an address of the host's choice.
        | 0x8400_0020..=0x8400_003f
        // Dynamic root of trust: firmware would start a payload of the host's choice at EL2.
        | 0x8400_0110..=0x8400_012f
        // The realm management interface: it can take any page, EL2's tables too, out of the normal world.
        | 0x8400_0150..=0x8400_01cf
        // Live firmware activation: it may return at an address of the host's choice, at EL2.
        | 0x8400_02e0..=0x8400_02ff
    )
}
