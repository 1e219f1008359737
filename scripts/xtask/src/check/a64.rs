// SPDX-License-Identifier: GPL-2.0-only
//! As much of the A64 encoding as the checks need (Arm ARM, C4.1).

/// Whether an instruction reads or writes a floating-point, SIMD, SVE or SME register, or does arithmetic on them.
///
/// Top level: bits 28:25. `x111` is data processing on SIMD and FP registers, `0010` is SVE, `0000` with bit 31 set is
/// SME; loads and stores are `x1x0`, where bit 26 chooses the SIMD and FP registers.
pub fn uses_fp(word: u32) -> bool {
    // Memory copy and set (FEAT_MOPS) stand among the loads and stores and use bit 26 for themselves.
    if word & 0x3b20_0c00 == 0x1900_0400 {
        return false;
    }
    // RDVL reads how long the registers are, and none of them.
    if word & 0xffff_f800 == 0x04bf_5000 {
        return false;
    }
    let op0 = word >> 25 & 0xf;
    match op0 {
        0b0111 | 0b1111 | 0b0010 => true,
        0b0000 => word >> 31 == 1,
        _ if op0 & 0b0101 == 0b0100 => word >> 26 & 1 == 1,
        _ => false,
    }
}

/// What an instruction does to the stack pointer or to the flow of control.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// It takes so many bytes of stack.
    Push(u64),
    /// It moves the stack pointer by an amount that is not in the instruction.
    UnknownPush,
    /// It calls, or jumps to, the place so many bytes away.
    Branch(i64),
    /// It calls through a register.
    Indirect,
    /// Nothing of the kind.
    None,
}

/// The effect of an instruction.
pub fn effect(word: u32) -> Effect {
    const SP: u32 = 31;
    let rn = word >> 5 & 31;
    let rd = word & 31;
    // SUB (immediate), 64-bit.
    if word & 0xff80_0000 == 0xd100_0000 && rn == SP && rd == SP {
        let imm = u64::from(word >> 10 & 0xfff);
        return Effect::Push(if word >> 22 & 1 == 1 { imm << 12 } else { imm });
    }
    // SUB (extended register), 64-bit.
    if word & 0xffe0_0000 == 0xcb20_0000 && rd == SP {
        return Effect::UnknownPush;
    }
    // STP (pre-index), 64-bit: imm7 counts eight bytes.
    if word & 0xffc0_0000 == 0xa980_0000 && rn == SP {
        return pushed(signed(word >> 15 & 0x7f, 7) * 8);
    }
    // STR (immediate, pre-index), 64-bit.
    if word & 0xffe0_0c00 == 0xf800_0c00 && rn == SP {
        return pushed(signed(word >> 12 & 0x1ff, 9));
    }
    // B and BL: imm26 counts instructions.
    if word & 0x7c00_0000 == 0x1400_0000 {
        return Effect::Branch(signed(word & 0x03ff_ffff, 26) * 4);
    }
    // BLR.
    if word & 0xffff_fc1f == 0xd63f_0000 {
        return Effect::Indirect;
    }
    Effect::None
}

fn pushed(offset: i64) -> Effect {
    if offset < 0 {
        Effect::Push(offset.unsigned_abs())
    } else {
        Effect::None
    }
}

fn signed(value: u32, bits: u32) -> i64 {
    i64::from(value.cast_signed() << (32 - bits) >> (32 - bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fp_registers_are_seen() {
        // ldr q0,[x0]; stp d8,d9,[sp]; fmov x0,d0; movi v0.2d,#0; st1 {v0.16b},[x1]; ldr z0,[x0]; str d1,[x2]
        for word in [
            0x3dc0_0000,
            0x6d00_27e8,
            0x9e66_0000,
            0x6f00_e400,
            0x4c00_7020,
            0x8580_4000,
            0xfd00_0041,
        ] {
            assert!(uses_fp(word), "{word:08x}");
        }
        // stp x29,x30,[sp,#-16]!; ldr x0,[x1]; msr fpsr,x0; mrs x0,fpcr; mul; b; ldaxr; nop; crc32b; prfm; cpyp; rdvl x0,#1
        for word in [
            0xa9bf_7bfd,
            0xf940_0020,
            0xd51b_4420,
            0xd53b_4400,
            0x9b01_7c00,
            0x1400_0000,
            0xc85f_fc20,
            0xd503_201f,
            0x1ac1_4000,
            0xf980_0000,
            0x1d01_4440,
            0x04bf_5020,
        ] {
            assert!(!uses_fp(word), "{word:08x}");
        }
    }

    #[test]
    fn effects() {
        assert_eq!(effect(0xd100_83ff), Effect::Push(32));
        assert_eq!(effect(0xd140_07ff), Effect::Push(4096));
        assert_eq!(effect(0xa9bf_7bfd), Effect::Push(16));
        assert_eq!(effect(0xf81f_0ffe), Effect::Push(16));
        assert_eq!(effect(0x97ff_ffff), Effect::Branch(-4));
        assert_eq!(effect(0xd63f_0100), Effect::Indirect);
        assert_eq!(effect(0x9100_83ff), Effect::None);
    }
}
