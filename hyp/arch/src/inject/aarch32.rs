// SPDX-License-Identifier: GPL-2.0-only
//! What AArch32 guests need beyond AArch64: condition codes of trapped instructions, the IT state, the instruction
//! length, and entry to the Undefined and Abort modes. Only normal VMs run AArch32.
//!
//! Sources: Arm ARM (DDI 0487) F1.3 for conditions, G1.16 for entry, ESR_ELx for the condition of a trap.

use super::VcpuRegs;
use super::pstate::Pstate;

/// T32 state.
const T: u64 = 1 << 5;
/// FIQ mask; unchanged by the exceptions that are injected.
const F: u64 = 1 << 6;
/// IRQ mask.
const I: u64 = 1 << 7;
/// Asynchronous abort mask.
const A: u64 = 1 << 8;
/// Big-endian data.
const E: u64 = 1 << 9;
/// The greater-than-or-equal flags.
const GE: u64 = 0xf << 16;
/// Speculative store bypass safe, at its AArch32 place.
const SSBS: u64 = 1 << 23;
/// Cumulative saturation.
const Q: u64 = 1 << 27;
/// IT[7:2] and IT[1:0].
const IT: u64 = 0x3f << 10 | 3 << 25;

/// An AArch32 mode that KVM injects exceptions to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Mode {
    /// Abort, for prefetch and data aborts.
    Abort = 0x17,
    /// Undefined.
    Undefined = 0x1b,
}

/// An exception that can be injected into an AArch32 EL1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exception {
    /// Undefined instruction.
    Undefined,
    /// Prefetch abort.
    PrefetchAbort,
    /// Data abort.
    DataAbort,
}

impl Exception {
    const fn mode(self) -> Mode {
        match self {
            Self::Undefined => Mode::Undefined,
            Self::PrefetchAbort | Self::DataAbort => Mode::Abort,
        }
    }
    /// Offset in the vector table, in bytes.
    const fn vector(self) -> u32 {
        match self {
            Self::Undefined => 0x04,
            Self::PrefetchAbort => 0x0c,
            Self::DataAbort => 0x10,
        }
    }
    /// What the link register holds beyond the address of the instruction (Arm ARM table G1-10).
    const fn return_offset(self, thumb: bool) -> u32 {
        match self {
            Self::Undefined if thumb => 2,
            Self::Undefined | Self::PrefetchAbort => 4,
            Self::DataAbort => 8,
        }
    }
}

/// How long a trapped instruction is, ESR_ELx.IL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Length {
    /// A 16-bit T32 instruction.
    Bits16,
    /// Anything else.
    Bits32,
}

impl Length {
    /// The length that a syndrome reports.
    pub const fn of_syndrome(esr: u64) -> Self {
        if esr & 1 << 25 != 0 {
            Self::Bits32
        } else {
            Self::Bits16
        }
    }
}

const fn it_state(pstate: Pstate) -> u64 {
    (pstate.raw() >> 8 & 0xfc) | (pstate.raw() >> 25 & 3)
}

const fn with_it_state(pstate: Pstate, it: u64) -> Pstate {
    pstate.without(IT).with((it & 0xfc) << 8 | (it & 3) << 25)
}

/// The IT state after one more instruction of the block (ITAdvance of the Arm ARM).
const fn advance_it(pstate: Pstate) -> Pstate {
    let it = it_state(pstate);
    if pstate.raw() & T == 0 || it == 0 {
        return pstate;
    }
    let next = if it & 7 == 0 {
        0
    } else {
        it & 0xe0 | it << 1 & 0x1f
    };
    with_it_state(pstate, next)
}

/// Whether flags `nzcv` (N is bit 3) satisfy condition `cond`.
const fn condition_holds(cond: u64, nzcv: u64) -> bool {
    let (n, z, c, v) = (nzcv & 8 != 0, nzcv & 4 != 0, nzcv & 2 != 0, nzcv & 1 != 0);
    let holds = match cond >> 1 & 7 {
        0 => z,
        1 => c,
        2 => n,
        3 => v,
        4 => c && !z,
        5 => n == v,
        6 => n == v && !z,
        _ => return true,
    };
    // The low bit inverts every condition but "always".
    holds != (cond & 1 != 0)
}

/// Whether an instruction of exception class `ec` (ESR_ELx.EC) can be conditional at all.
const fn class_is_conditional(ec: u64) -> bool {
    // CP15 32 and 64 bit, CP14 32 bit, load/store and 64 bit, FP and SIMD, VMRS, SVC.
    matches!(ec, 0x03..=0x08 | 0x0c | 0x11)
}

/// Whether the instruction that trapped with syndrome `esr` in state `pstate` would have been executed: a trap may be
/// taken for an instruction that fails its condition, and that one must be stepped over without any effect.
pub const fn condition_passed(esr: u64, pstate: Pstate) -> bool {
    if !class_is_conditional(esr >> 26 & 0x3f) {
        return true;
    }
    let cond = if esr & 1 << 24 != 0 {
        esr >> 20 & 0xf
    } else {
        // T32 without a condition in the syndrome: the IT block has it, if there is one.
        match it_state(pstate) {
            0 => return true,
            it => it >> 4,
        }
    };
    condition_holds(cond, pstate.raw() >> 28 & 0xf)
}

/// Steps over the trapped instruction, and on in its IT block. The caller clears PSTATE.SS.
pub fn skip<R: VcpuRegs + ?Sized>(regs: &mut R) {
    let pstate = regs.pstate();
    let length = match regs.trapped_length() {
        Length::Bits16 if pstate.raw() & T != 0 => 2,
        _ => 4,
    };
    regs.set_pc((regs.pc() as u32).wrapping_add(length).into());
    regs.set_pstate(advance_it(pstate));
}

/// PSTATE in the handler, from the interrupted one and SCTLR.
const fn on_entry(old: Pstate, sctlr: u64, mode: Mode) -> Pstate {
    let mut new = old.raw() & (Pstate::NZCV | Q | Pstate::DIT | Pstate::PAN | GE | A | F) | I | mode as u64;
    if sctlr & 1 << 31 != 0 {
        new |= SSBS;
    }
    if sctlr & 1 << 23 == 0 {
        new |= Pstate::PAN;
    }
    if sctlr & 1 << 25 != 0 {
        new |= E;
    }
    if sctlr & 1 << 30 != 0 {
        new |= T;
    }
    if matches!(mode, Mode::Abort) {
        new |= A;
    }
    Pstate::new(new)
}

/// SPSR_ELx's reading of an AArch32 state, turned into the layout of SPSR_abt and SPSR_und: DIT moves to bit 21,
/// where SPSR_ELx has SS, which AArch32 has not.
const fn banked_spsr(pstate: Pstate) -> u32 {
    let dit = pstate.raw() & Pstate::DIT;
    (pstate.without(Pstate::DIT | Pstate::SS).raw() | dit >> 3) as u32
}

/// Takes `exception` to its AArch32 mode.
pub fn enter<R: VcpuRegs + ?Sized>(regs: &mut R, exception: Exception) {
    let (old, sctlr) = (regs.pstate(), regs.sctlr_el1());
    let mode = exception.mode();
    let lr = (regs.pc() as u32).wrapping_add(exception.return_offset(old.raw() & T != 0));
    // SCTLR.V selects the high vectors.
    let base = if sctlr & 1 << 13 != 0 {
        0xffff_0000
    } else {
        regs.vbar_el1() as u32
    };

    regs.set_aarch32_return(mode, lr, banked_spsr(old));
    regs.set_pstate(on_entry(old, sctlr, mode));
    regs.set_pc(base.wrapping_add(exception.vector()).into());
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeRegs;
    use super::*;

    fn esr(ec: u64, cond: Option<u64>) -> u64 {
        ec << 26 | cond.map_or(0, |cond| 1 << 24 | cond << 20)
    }

    /// The condition table of the Arm ARM, F1.3.1, written as its text reads.
    #[expect(clippy::fn_params_excessive_bools, reason = "the four flags")]
    fn reference(cond: u64, n: bool, z: bool, c: bool, v: bool) -> bool {
        match cond {
            0 => z,
            1 => !z,
            2 => c,
            3 => !c,
            4 => n,
            5 => !n,
            6 => v,
            7 => !v,
            8 => c && !z,
            9 => !c || z,
            10 => n == v,
            11 => n != v,
            12 => !z && n == v,
            13 => z || n != v,
            _ => true,
        }
    }

    #[test]
    fn every_condition_under_every_flag() {
        for cond in 0..16 {
            for nzcv in 0..16 {
                let bit = |n: u64| nzcv >> n & 1 != 0;
                let want = reference(cond, bit(3), bit(2), bit(1), bit(0));
                let state = Pstate::new(nzcv << 28 | 0x10);
                assert_eq!(
                    condition_passed(esr(0x03, Some(cond)), state),
                    want,
                    "cond {cond} nzcv {nzcv:#x}"
                );
            }
        }
    }

    #[test]
    fn only_classes_of_conditional_instructions_are_looked_at() {
        let never = esr(0x20, Some(0));
        assert!(
            condition_passed(never, Pstate::new(0x10)),
            "an abort has no condition"
        );
        for ec in [0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x0c, 0x11] {
            assert!(
                !condition_passed(esr(ec, Some(0)), Pstate::new(0x10)),
                "class {ec:#x}"
            );
        }
    }

    #[test]
    fn without_a_condition_the_it_block_decides() {
        let it = |it: u64| with_it_state(Pstate::new(T | 0x10), it);
        assert!(condition_passed(esr(0x03, None), it(0)));
        assert!(!condition_passed(esr(0x03, None), it(0x08)), "EQ with Z clear");
        assert!(condition_passed(esr(0x03, None), it(0x18)), "NE with Z clear");
    }

    #[test]
    fn it_advances_as_the_pseudocode_does() {
        for it in 0..=0xff_u64 {
            let want = if it & 7 == 0 {
                0
            } else {
                (it & 0xe0) | ((it & 0x1f) << 1 & 0x1f)
            };
            let got = advance_it(with_it_state(Pstate::new(T | 0x10), it));
            assert_eq!(it_state(got), if it == 0 { 0 } else { want }, "from {it:#x}");
            assert_eq!(got.raw() & !IT, T | 0x10);
        }
        let arm = with_it_state(Pstate::new(0x10), 0x18);
        assert_eq!(advance_it(arm), arm, "A32 has no IT block");
    }

    #[test]
    fn skip_steps_by_the_length_of_the_instruction() {
        for (state, length, step) in [
            (0x10, Length::Bits32, 4),
            (0x10, Length::Bits16, 4),
            (0x10 | T, Length::Bits16, 2),
            (0x10 | T, Length::Bits32, 4),
        ] {
            let mut regs = FakeRegs {
                pc: 0x8000,
                pstate: state,
                length,
                ..FakeRegs::default()
            };
            skip(&mut regs);
            assert_eq!(regs.pc, 0x8000 + step);
        }
        let mut regs = FakeRegs {
            pc: 0xffff_fffe,
            pstate: 0x10,
            ..FakeRegs::default()
        };
        skip(&mut regs);
        assert_eq!(regs.pc, 2, "a 32-bit PC wraps");
    }

    #[test]
    fn undefined_goes_to_its_mode_with_lr_past_the_instruction() {
        let old = 0x2000_0010 | T | Pstate::DIT | Pstate::SS | 0x18 << 8;
        let mut regs = FakeRegs {
            pc: 0x1000,
            pstate: old,
            vbar: 0x4000,
            sctlr: 1 << 23,
            ..FakeRegs::default()
        };
        enter(&mut regs, Exception::Undefined);
        assert_eq!(regs.pc, 0x4004);
        assert_eq!(
            regs.pstate,
            0x2000_0000 | Pstate::DIT | I | 0x1b,
            "IT and T cleared"
        );
        let spsr = (old & !(Pstate::DIT | Pstate::SS) | 1 << 21) as u32;
        assert_eq!(regs.aarch32, Some((Mode::Undefined, 0x1002, spsr)));
    }

    #[test]
    fn aborts_mask_asynchronous_aborts_and_use_the_high_vectors_where_told() {
        let sctlr = 1 << 13 | 1 << 25 | 1 << 30 | 1 << 31;
        let mut regs = FakeRegs {
            pc: 0x1000,
            pstate: 0x10,
            vbar: 0x4000,
            sctlr,
            ..FakeRegs::default()
        };
        enter(&mut regs, Exception::DataAbort);
        assert_eq!(regs.pc, 0xffff_0010);
        assert_eq!(regs.pstate, SSBS | Pstate::PAN | E | A | I | T | 0x17);
        assert_eq!(regs.aarch32, Some((Mode::Abort, 0x1008, 0x10)));

        let mut regs = FakeRegs {
            pc: 0x1000,
            pstate: 0x10 | T,
            sctlr,
            ..FakeRegs::default()
        };
        enter(&mut regs, Exception::PrefetchAbort);
        assert_eq!(regs.pc, 0xffff_000c);
        assert_eq!(regs.aarch32.map(|(_, lr, _)| lr), Some(0x1004));
    }
}
