// SPDX-License-Identifier: GPL-2.0-only
//! FF-A, by which the host would share memory with the secure world. There is no proxy yet, so no version is ever
//! negotiated and every call is answered as before negotiation. Source: Arm Firmware Framework for A-profile,
//! DEN 0077.

/// FFA_ERROR.
const ERROR: u64 = 0x8400_0060;
/// FFA_VERSION.
const VERSION: u32 = 0x8400_0063;
/// INVALID_PARAMETERS, in w2 of an FFA_ERROR.
const INVALID_PARAMETERS: i32 = -2;
/// NOT_SUPPORTED, which FFA_VERSION returns in w0.
const NOT_SUPPORTED: i32 = -1;

/// Whether `function`, whose hint bit is gone and whose reserved bits are zero, is an FF-A call of either width.
pub const fn is_call(function: u32) -> bool {
    matches!(function, 0x8400_0060..=0x8400_00ff | 0xc400_0060..=0xc400_00ff)
}

/// What FF-A calls leave in x0 to x17.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// x0.
    pub x0: u64,
    /// x2; x1 and x3 to x17 become zero.
    pub x2: u64,
}

/// The answer to `function` while no version is negotiated, and none can be.
pub const fn answer(function: u32) -> Answer {
    if function == VERSION {
        Answer {
            x0: word(NOT_SUPPORTED),
            x2: 0,
        }
    } else {
        Answer {
            x0: ERROR,
            x2: word(INVALID_PARAMETERS),
        }
    }
}

/// An FF-A status as the register holds it: 32 bits, sign-extended as the kernel's code does.
const fn word(status: i32) -> u64 {
    (status as i64).cast_unsigned()
}
