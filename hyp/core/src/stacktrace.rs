// SPDX-License-Identifier: GPL-2.0-only
//! Unwinding EL2's own stack by its frame records, for a panic. It does the job of the kernel's unwinder in
//! `asm/stacktrace/common.h`.
//!
//! The frame of the first function holds the host's frame pointer, which the host may have set to anything, and a stack
//! may be overwritten when EL2 panics. So a record counts only if it lies on one of EL2's stacks, above the one before,
//! and a stack that was left is not entered again: the walk ends after as many steps as there are records at most.

/// A stack: its lowest byte, and the byte after its highest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stack {
    /// The lowest byte.
    pub low: u64,
    /// The end.
    pub high: u64,
}

impl Stack {
    /// None at all.
    const GONE: Self = Self { low: 0, high: 0 };

    /// Whether a record at `at` lies on the stack.
    const fn holds(self, at: u64) -> bool {
        match at.checked_add(RECORD) {
            Some(end) => self.low <= at && end <= self.high,
            None => false,
        }
    }
}

/// Bytes of a frame record: the caller's frame pointer, and the return address.
const RECORD: u64 = 16;

/// Walks the frame records from `fp` on and calls `found` with each return address. `read` yields the two words of the
/// record at an address that lies on one of the stacks. `stacks` are those that nest in one another, in any order.
pub fn unwind<const N: usize>(
    mut fp: u64,
    mut stacks: [Stack; N],
    mut read: impl FnMut(u64) -> [u64; 2],
    mut found: impl FnMut(u64),
) {
    let mut current = Stack::GONE;
    while fp.is_multiple_of(8) {
        if !current.holds(fp) {
            let Some(next) = stacks.iter_mut().find(|stack| stack.holds(fp)) else {
                return;
            };
            current = core::mem::replace(next, Stack::GONE);
        }
        current.low = fp.saturating_add(RECORD);
        let [caller, pc] = read(fp);
        found(pc);
        fp = caller;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    const HYP: Stack = Stack {
        low: 0x1000,
        high: 0x2000,
    };
    const OVERFLOW: Stack = Stack {
        low: 0x8000,
        high: 0x9000,
    };

    fn walk(fp: u64, records: &[(u64, u64, u64)]) -> Vec<u64> {
        let records: BTreeMap<_, _> = records.iter().map(|(at, fp, pc)| (*at, [*fp, *pc])).collect();
        let mut found = Vec::new();
        unwind(fp, [OVERFLOW, HYP], |at| records[&at], |pc| found.push(pc));
        found
    }

    #[test]
    fn a_stack_is_walked_to_the_hosts_frame() {
        let records = [
            (0x1800, 0x1900, 1),
            (0x1900, 0x1ff0, 2),
            (0x1ff0, 0xffff_8000_1234_5670, 3),
        ];
        assert_eq!(walk(0x1800, &records), [1, 2, 3]);
    }

    #[test]
    fn an_overflow_leads_back_to_the_stack_that_overflowed() {
        let records = [
            (0x8f00, 0x8f80, 1),
            (0x8f80, 0x1010, 2),
            (0x1010, 0x1ff0, 3),
            (0x1ff0, 0, 4),
        ];
        assert_eq!(walk(0x8f00, &records), [1, 2, 3, 4]);
    }

    #[test]
    fn records_that_lead_back_end_the_walk() {
        assert_eq!(walk(0x1800, &[(0x1800, 0x1800, 1)]), [1]);
        assert_eq!(walk(0x1800, &[(0x1800, 0x1700, 1)]), [1]);
        assert_eq!(walk(0x8f00, &[(0x8f00, 0x1100, 1), (0x1100, 0x8f80, 2)]), [1, 2]);
    }

    #[test]
    fn what_is_not_wholly_on_a_stack_is_no_record() {
        for fp in [0, 7, 0x1804, 0xff8, 0x1ff8, 0x2000, u64::MAX, u64::MAX - 7] {
            assert_eq!(walk(fp, &[]), [] as [u64; 0]);
        }
    }

    proptest! {
        #[test]
        fn any_content_ends(words in prop::collection::vec(prop_oneof![0x1000_u64..0x2000, 0x8000_u64..0x9000, any::<u64>()], 64), fp in 0x1000_u64..0x2000) {
            let mut steps = 0;
            unwind(fp & !7, [OVERFLOW, HYP], |at| [words[at as usize / 16 % 64] & !7, at], |_| steps += 1);
            prop_assert!(steps <= 512);
        }
    }
}
