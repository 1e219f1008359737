// SPDX-License-Identifier: GPL-2.0-only
//! A guest's memory copy or set instruction that began on a CPU with one algorithm and went on under another (Arm ARM
//! rules CNTMJ and MWFQH): the registers go back to what the first instruction of the three takes, and it starts over.

use super::fault::Esr;
use crate::sysreg::{bit, spsr};

/// The general registers and the condition flags that the three instructions use.
pub trait Registers {
    /// General register `n`, below 32; 31 is the zero register.
    fn get(&self, n: usize) -> u64;
    /// Sets general register `n`; a write to the zero register is dropped.
    fn set(&mut self, n: usize, value: u64);
}

/// Resets the registers for the exception `esr` that was taken at `pc` with `pstate`; returns the address of the
/// first of the three instructions.
pub fn reset<R: Registers>(registers: &mut R, pc: u64, pstate: u64, esr: Esr) -> u64 {
    let field = |low: u32| (esr.0 >> low & 0x1f) as usize;
    let (dst_reg, src_reg, size_reg) = (field(10), field(5), field(0));
    let is_set = esr.0 & bit(24) != 0;
    let from_epilogue = esr.0 & bit(18) != 0;
    let wrong_option = esr.0 & bit(17) != 0;
    let option_a = (esr.0 & bit(16) != 0) != wrong_option;

    let (dst, size) = (registers.get(dst_reg), registers.get(size_reg));
    if is_set {
        if option_a {
            // Option A counts up from a negative size, with the destination at the end.
            registers.set(dst_reg, dst.wrapping_add(size));
            registers.set(size_reg, size.wrapping_neg());
        }
    } else {
        let src = registers.get(src_reg);
        if option_a {
            if size & bit(63) != 0 {
                // A forward copy, counting as above. A backward one is in the first instruction's form already.
                registers.set(dst_reg, dst.wrapping_add(size));
                registers.set(src_reg, src.wrapping_add(size));
                registers.set(size_reg, size.wrapping_neg());
            }
        } else if pstate & spsr::N != 0 {
            // Option B, backward: both addresses are at the end.
            registers.set(dst_reg, dst.wrapping_sub(size));
            registers.set(src_reg, src.wrapping_sub(size));
        }
    }
    pc.wrapping_sub(if from_epilogue { 8 } else { 4 })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Regs([u64; 31]);
    impl Registers for Regs {
        fn get(&self, n: usize) -> u64 {
            self.0.get(n).copied().unwrap_or(0)
        }
        fn set(&mut self, n: usize, value: u64) {
            if let Some(slot) = self.0.get_mut(n) {
                *slot = value;
            }
        }
    }

    /// x1 is the destination, x2 the source, x3 the size.
    fn run(bits: u64, pstate: u64, values: [u64; 3]) -> ([u64; 3], u64) {
        let mut regs = Regs([0; 31]);
        regs.0[1..4].copy_from_slice(&values);
        let pc = reset(
            &mut regs,
            0x1008,
            pstate,
            Esr(0x27 << 26 | bits | 1 << 10 | 2 << 5 | 3),
        );
        ([regs.0[1], regs.0[2], regs.0[3]], pc)
    }

    const SET: u64 = 1 << 24;
    const EPILOGUE: u64 = 1 << 18;
    const WRONG: u64 = 1 << 17;
    const OPTION_A: u64 = 1 << 16;

    #[test]
    fn a_forward_copy_of_option_a_goes_back_to_positive_size() {
        assert_eq!(
            run(OPTION_A, 0, [0x2000, 0x3000, 16u64.wrapping_neg()]),
            ([0x1ff0, 0x2ff0, 16], 0x1004)
        );
        assert_eq!(
            run(WRONG, 0, [0x2000, 0x3000, 16u64.wrapping_neg()]).0,
            [0x1ff0, 0x2ff0, 16]
        );
    }

    #[test]
    fn a_backward_copy_is_moved_by_option_b_only() {
        assert_eq!(
            run(OPTION_A, spsr::N, [0x2000, 0x3000, 16]).0,
            [0x2000, 0x3000, 16]
        );
        assert_eq!(run(0, spsr::N, [0x2000, 0x3000, 16]).0, [0x1ff0, 0x2ff0, 16]);
        assert_eq!(run(0, 0, [0x2000, 0x3000, 16]).0, [0x2000, 0x3000, 16]);
    }

    #[test]
    fn a_set_ignores_the_source_and_an_epilogue_is_two_back() {
        assert_eq!(
            run(
                SET | OPTION_A | EPILOGUE,
                0,
                [0x2000, 0x3000, 16u64.wrapping_neg()]
            ),
            ([0x1ff0, 0x3000, 16], 0x1000)
        );
        assert_eq!(run(SET, spsr::N, [0x2000, 0x3000, 16]).0, [0x2000, 0x3000, 16]);
    }
}
