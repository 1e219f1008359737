// SPDX-License-Identifier: GPL-2.0-only
//! Fields of the registers that the hypervisor interprets, named as in the Arm ARM: one module for each register.
#![allow(
    missing_docs,
    non_upper_case_globals,
    non_snake_case,
    reason = "the names are the architecture's"
)]

macro_rules! fields {
    ($($(#[$doc:meta])* $reg:ident { $($field:ident = $value:expr;)* })*) => {$(
        $(#[$doc])*
        pub mod $reg {
            $(pub const $field: u64 = $value;)*
        }
    )*};
}

/// A mask of bits `high` to `low`, both included.
pub const fn mask(high: u32, low: u32) -> u64 {
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

/// Bit `n`.
pub const fn bit(n: u32) -> u64 {
    1 << n
}

fields! {
    /// Hypervisor Configuration Register.
    hcr {
        VM = super::bit(0);
        FMO = super::bit(3);
        IMO = super::bit(4);
        AMO = super::bit(5);
        VF = super::bit(6);
        VI = super::bit(7);
        VSE = super::bit(8);
        TWI = super::bit(13);
        TWE = super::bit(14);
        TVM = super::bit(26);
        E2H = super::bit(34);
        RW = super::bit(31);
        API = super::bit(41);
        APK = super::bit(40);
        ATA = super::bit(56);
    }
    /// Saved Program Status Register, AArch64 and the fields AArch32 shares.
    spsr {
        M_MASK = 0xf;
        MODE32 = super::bit(4);
        EL1t = 4;
        EL1h = 5;
        EL2t = 8;
        EL2h = 9;
        F = super::bit(6);
        I = super::bit(7);
        A = super::bit(8);
        D = super::bit(9);
        IL = super::bit(20);
        SS = super::bit(21);
    }
}
