// SPDX-License-Identifier: GPL-2.0-only
//! The registers that a protected VM may touch where EL2 traps them. Cache maintenance by set and way, the performance
//! monitors, the activity monitors, limited ordering regions, statistical profiling and trace are left out on purpose:
//! what is not here is UNDEFINED.

use super::{Rule, SysReg};

/// Pairs a register's fields, and its name for the reader, with its rule.
macro_rules! rules {
    ($($name:ident $op0:literal $op1:literal $crn:literal $crm:literal $op2:literal => $rule:ident,)*) => {
        /// The rules, in strictly ascending order of their registers.
        pub(super) const RULES: &[(SysReg, Rule)] =
            &[$((SysReg::new($op0, $op1, $crn, $crm, $op2), Rule::$rule)),*];
        /// The registers' names, in the same order.
        #[cfg(test)]
        pub(super) const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

rules! {
    DBGBVR0_EL1 2 0 0 0 4 => RazWi,
    DBGBCR0_EL1 2 0 0 0 5 => RazWi,
    DBGWVR0_EL1 2 0 0 0 6 => RazWi,
    DBGWCR0_EL1 2 0 0 0 7 => RazWi,
    MDSCR_EL1 2 0 0 2 2 => RazWi,
    OSLAR_EL1 2 0 1 0 4 => RazWi,
    OSLSR_EL1 2 0 1 1 4 => RazWi,
    OSDLR_EL1 2 0 1 3 4 => RazWi,
    REVIDR_EL1 3 0 0 0 6 => Host,
    ID_PFR0_EL1 3 0 0 1 0 => IdAarch32,
    ID_PFR1_EL1 3 0 0 1 1 => IdAarch32,
    ID_DFR0_EL1 3 0 0 1 2 => IdAarch32,
    ID_AFR0_EL1 3 0 0 1 3 => IdAarch32,
    ID_MMFR0_EL1 3 0 0 1 4 => IdAarch32,
    ID_MMFR1_EL1 3 0 0 1 5 => IdAarch32,
    ID_MMFR2_EL1 3 0 0 1 6 => IdAarch32,
    ID_MMFR3_EL1 3 0 0 1 7 => IdAarch32,
    ID_ISAR0_EL1 3 0 0 2 0 => IdAarch32,
    ID_ISAR1_EL1 3 0 0 2 1 => IdAarch32,
    ID_ISAR2_EL1 3 0 0 2 2 => IdAarch32,
    ID_ISAR3_EL1 3 0 0 2 3 => IdAarch32,
    ID_ISAR4_EL1 3 0 0 2 4 => IdAarch32,
    ID_ISAR5_EL1 3 0 0 2 5 => IdAarch32,
    ID_MMFR4_EL1 3 0 0 2 6 => IdAarch32,
    ID_ISAR6_EL1 3 0 0 2 7 => IdAarch32,
    MVFR0_EL1 3 0 0 3 0 => IdAarch32,
    MVFR1_EL1 3 0 0 3 1 => IdAarch32,
    MVFR2_EL1 3 0 0 3 2 => IdAarch32,
    unallocated 3 0 0 3 3 => IdAarch64,
    ID_PFR2_EL1 3 0 0 3 4 => IdAarch32,
    ID_DFR1_EL1 3 0 0 3 5 => IdAarch32,
    ID_MMFR5_EL1 3 0 0 3 6 => IdAarch32,
    unallocated 3 0 0 3 7 => IdAarch64,
    ID_AA64PFR0_EL1 3 0 0 4 0 => IdAarch64,
    ID_AA64PFR1_EL1 3 0 0 4 1 => IdAarch64,
    ID_AA64PFR2_EL1 3 0 0 4 2 => IdAarch64,
    unallocated 3 0 0 4 3 => IdAarch64,
    ID_AA64ZFR0_EL1 3 0 0 4 4 => IdAarch64,
    unallocated 3 0 0 4 5 => IdAarch64,
    unallocated 3 0 0 4 6 => IdAarch64,
    unallocated 3 0 0 4 7 => IdAarch64,
    ID_AA64DFR0_EL1 3 0 0 5 0 => IdAarch64,
    ID_AA64DFR1_EL1 3 0 0 5 1 => IdAarch64,
    unallocated 3 0 0 5 2 => IdAarch64,
    unallocated 3 0 0 5 3 => IdAarch64,
    ID_AA64AFR0_EL1 3 0 0 5 4 => IdAarch64,
    ID_AA64AFR1_EL1 3 0 0 5 5 => IdAarch64,
    unallocated 3 0 0 5 6 => IdAarch64,
    unallocated 3 0 0 5 7 => IdAarch64,
    ID_AA64ISAR0_EL1 3 0 0 6 0 => IdAarch64,
    ID_AA64ISAR1_EL1 3 0 0 6 1 => IdAarch64,
    ID_AA64ISAR2_EL1 3 0 0 6 2 => IdAarch64,
    unallocated 3 0 0 6 3 => IdAarch64,
    unallocated 3 0 0 6 4 => IdAarch64,
    unallocated 3 0 0 6 5 => IdAarch64,
    unallocated 3 0 0 6 6 => IdAarch64,
    unallocated 3 0 0 6 7 => IdAarch64,
    ID_AA64MMFR0_EL1 3 0 0 7 0 => IdAarch64,
    ID_AA64MMFR1_EL1 3 0 0 7 1 => IdAarch64,
    ID_AA64MMFR2_EL1 3 0 0 7 2 => IdAarch64,
    unallocated 3 0 0 7 3 => IdAarch64,
    unallocated 3 0 0 7 4 => IdAarch64,
    unallocated 3 0 0 7 5 => IdAarch64,
    unallocated 3 0 0 7 6 => IdAarch64,
    unallocated 3 0 0 7 7 => IdAarch64,
    ICC_PMR_EL1 3 0 4 6 0 => Host,
    ERRIDR_EL1 3 0 5 3 0 => RazWi,
    ERRSELR_EL1 3 0 5 3 1 => RazWi,
    ERXFR_EL1 3 0 5 4 0 => RazWi,
    ERXCTLR_EL1 3 0 5 4 1 => RazWi,
    ERXSTATUS_EL1 3 0 5 4 2 => RazWi,
    ERXADDR_EL1 3 0 5 4 3 => RazWi,
    ERXMISC0_EL1 3 0 5 5 0 => RazWi,
    ERXMISC1_EL1 3 0 5 5 1 => RazWi,
    ICC_DIR_EL1 3 0 12 11 1 => Host,
    ICC_RPR_EL1 3 0 12 11 3 => Host,
    ICC_SGI1R_EL1 3 0 12 11 5 => Host,
    ICC_ASGI1R_EL1 3 0 12 11 6 => Host,
    ICC_SGI0R_EL1 3 0 12 11 7 => Host,
    ICC_CTLR_EL1 3 0 12 12 4 => Host,
    ICC_SRE_EL1 3 0 12 12 5 => IccSre,
    CCSIDR_EL1 3 1 0 0 0 => Host,
    CLIDR_EL1 3 1 0 0 1 => Host,
    CCSIDR2_EL1 3 1 0 0 2 => Idst,
    GMID_EL1 3 1 0 0 4 => Idst,
    SMIDR_EL1 3 1 0 0 6 => Idst,
    AIDR_EL1 3 1 0 0 7 => Host,
    CSSELR_EL1 3 2 0 0 0 => Host,
    CTR_EL0 3 3 0 0 1 => Host,
    CNTP_TVAL_EL0 3 3 14 2 0 => Host,
    CNTP_CTL_EL0 3 3 14 2 1 => Host,
    CNTP_CVAL_EL0 3 3 14 2 2 => Host,
}

// The lookup is a binary search.
const _: () = {
    let mut rules = RULES;
    while let [(first, _), rest @ ..] = rules {
        if let [(second, _), ..] = rest {
            assert!(
                first.raw() < second.raw(),
                "the table of trapped registers is not in order"
            );
        }
        rules = rest;
    }
};

/// The rule of `reg`, if it has one.
pub(super) fn rule(reg: SysReg) -> Option<Rule> {
    let index = RULES.binary_search_by_key(&reg, |&(entry, _)| entry).ok()?;
    RULES.get(index).map(|&(_, rule)| rule)
}
