// SPDX-License-Identifier: GPL-2.0-only
//! Guest programs, written instruction by instruction where a test runs. A program runs at EL1 with the MMU off, from the
//! first page of memory, and talks to its test by stores to [`MMIO`]: x19 holds that address throughout.

use pkvm_vmm::layout::RAM_BASE;

/// Where a program begins. The page before it holds the exception vectors.
pub const ENTRY: u64 = RAM_BASE + 0x1000;
/// Where the exception vectors are.
pub const VECTORS: u64 = RAM_BASE;
/// Memory that a program is free to use.
pub const FREE: u64 = RAM_BASE + 0x1_0000;
/// An address without memory: a store there is a report, by its offset.
pub const MMIO: u64 = 0x0900_0000;
/// How many words can be reported; `MMIO + 8 n` is the place of word n.
pub const REPORTS: usize = 64;
/// A store here hands control to the test; the value is passed on.
pub const PAUSE: u64 = 0x200;
/// A store here says that an exception was taken that no handler of the program is for.
pub const EXCEPTION: u64 = 0x208;
/// The reports that hold ESR_EL1, ELR_EL1 and FAR_EL1 of that exception.
pub const ESR_AT: usize = 61;
/// See [`ESR_AT`].
pub const ELR_AT: usize = 62;
/// See [`ESR_AT`].
pub const FAR_AT: usize = 63;

/// A system register: op0, op1, CRn, CRm, op2.
pub type Reg = [u32; 5];

/// Registers, by the architecture's names.
pub mod regs {
    use super::Reg;
    pub const ESR_EL1: Reg = [3, 0, 5, 2, 0];
    pub const ELR_EL1: Reg = [3, 0, 4, 0, 1];
    pub const FAR_EL1: Reg = [3, 0, 6, 0, 0];
    pub const SPSR_EL1: Reg = [3, 0, 4, 0, 0];
    pub const VBAR_EL1: Reg = [3, 0, 12, 0, 0];
    pub const CPACR_EL1: Reg = [3, 0, 1, 0, 2];
    pub const MDSCR_EL1: Reg = [2, 0, 0, 2, 2];
    pub const OSLAR_EL1: Reg = [2, 0, 1, 0, 4];
    pub const CNTVCT_EL0: Reg = [3, 3, 14, 0, 2];
    pub const CNTPCT_EL0: Reg = [3, 3, 14, 0, 1];
    pub const CNTP_TVAL_EL0: Reg = [3, 3, 14, 2, 0];
    pub const CNTP_CTL_EL0: Reg = [3, 3, 14, 2, 1];
    pub const PMCR_EL0: Reg = [3, 3, 9, 12, 0];
    pub const PMCNTENSET_EL0: Reg = [3, 3, 9, 12, 1];
    pub const PMCCNTR_EL0: Reg = [3, 3, 9, 13, 0];
    pub const ISR_EL1: Reg = [3, 0, 12, 1, 0];
}

/// The exception class of a syndrome (Arm ARM, `ESR_ELx`).
pub fn class(esr: u64) -> u64 {
    esr >> 26 & 0x3f
}

/// A field of an ID register.
pub fn field(value: u64, shift: u32) -> u64 {
    value >> shift & 0xf
}

/// A program in the making.
#[derive(Default)]
pub struct Code(pub Vec<u32>);

fn encode(base: u32, [op0, op1, crn, crm, op2]: Reg) -> u32 {
    base | op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5
}

impl Code {
    /// A program that has its vectors set and x19 ready.
    pub fn new() -> Self {
        let mut code = Self::default();
        code.mov(19, MMIO).mov(0, VECTORS).msr(regs::VBAR_EL1, 0).isb();
        code
    }

    /// Any instruction.
    pub fn word(&mut self, word: u32) -> &mut Self {
        self.0.push(word);
        self
    }
    /// The address of the next instruction.
    pub fn here(&self) -> u64 {
        ENTRY + 4 * self.0.len() as u64
    }
    /// `xd = value`.
    pub fn mov(&mut self, d: u32, value: u64) -> &mut Self {
        for part in 0..4_u32 {
            let half = (value >> (16 * part) & 0xffff) as u32;
            // MOVZ, then MOVK.
            let base = if part == 0 { 0xd280_0000 } else { 0xf280_0000 };
            self.word(base | part << 21 | half << 5 | d);
        }
        self
    }
    /// `MSR reg, xt`.
    pub fn msr(&mut self, reg: Reg, t: u32) -> &mut Self {
        self.word(encode(0xd500_0000, reg) | t)
    }
    /// `MRS xt, reg`.
    pub fn mrs(&mut self, t: u32, reg: Reg) -> &mut Self {
        self.word(encode(0xd520_0000, reg) | t)
    }
    /// `ISB`.
    pub fn isb(&mut self) -> &mut Self {
        self.word(0xd503_3fdf)
    }
    /// `NOP`.
    pub fn nop(&mut self) -> &mut Self {
        self.word(0xd503_201f)
    }
    /// `ERET`.
    pub fn eret(&mut self) -> &mut Self {
        self.word(0xd69f_03e0)
    }
    /// `ADD xd, xn, #imm`.
    pub fn add(&mut self, d: u32, n: u32, imm: u32) -> &mut Self {
        self.word(0x9100_0000 | imm << 10 | n << 5 | d)
    }
    /// `SUBS xd, xd, #1`.
    pub fn count_down(&mut self, d: u32) -> &mut Self {
        self.word(0xf100_0400 | d << 5 | d)
    }
    /// `B` by this many instructions.
    pub fn branch(&mut self, by: i32) -> &mut Self {
        self.word(0x1400_0000 | by.cast_unsigned() & 0x3ff_ffff)
    }
    /// `B.NE` by this many instructions.
    pub fn branch_ne(&mut self, by: i32) -> &mut Self {
        self.word(0x5400_0001 | (by.cast_unsigned() & 0x7_ffff) << 5)
    }
    /// `LDR xt, [xn, #offset]`; the offset is a multiple of 8.
    pub fn ldr(&mut self, t: u32, n: u32, offset: u32) -> &mut Self {
        self.word(0xf940_0000 | (offset / 8) << 10 | n << 5 | t)
    }
    /// `STR xt, [xn, #offset]`; the offset is a multiple of 8.
    pub fn str(&mut self, t: u32, n: u32, offset: u32) -> &mut Self {
        self.word(0xf900_0000 | (offset / 8) << 10 | n << 5 | t)
    }
    /// `LDR wt, [xn, #offset]`; the offset is a multiple of 4.
    pub fn ldr_w(&mut self, t: u32, n: u32, offset: u32) -> &mut Self {
        self.word(0xb940_0000 | (offset / 4) << 10 | n << 5 | t)
    }
    /// `STR wt, [xn, #offset]`; the offset is a multiple of 4.
    pub fn str_w(&mut self, t: u32, n: u32, offset: u32) -> &mut Self {
        self.word(0xb900_0000 | (offset / 4) << 10 | n << 5 | t)
    }
    /// Unmasks what `bits` name: 8 debug, 4 SError, 2 IRQ, 1 FIQ.
    pub fn unmask(&mut self, bits: u32) -> &mut Self {
        self.word(0xd503_40ff | bits << 8)
    }
    /// Reports xt as word `n`.
    pub fn report(&mut self, n: usize, t: u32) -> &mut Self {
        self.str(t, 19, 8 * n as u32)
    }
    /// Hands control to the test, with xt.
    pub fn pause(&mut self, t: u32) -> &mut Self {
        self.str(t, 19, PAUSE as u32)
    }
    /// Spins `rounds` times; x9 is used.
    pub fn spin(&mut self, rounds: u64) -> &mut Self {
        self.mov(9, rounds).count_down(9).branch_ne(-1)
    }
    /// Branches to itself.
    pub fn forever(&mut self) -> &mut Self {
        self.branch(0)
    }
    /// The bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// An exception vector, by its offset.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Vector {
    /// IRQ, from EL1.
    Irq = 0x280,
    /// FIQ, from EL1.
    Fiq = 0x300,
    /// SError, from EL1.
    SError = 0x380,
}

/// The vectors: `handlers` of at most 32 instructions, and for all others one that reports the exception.
pub fn vectors(handlers: &[(Vector, &Code)]) -> Vec<u8> {
    let mut page = vec![0; 0x800];
    for slot in 0..16 {
        let mut other = Code::default();
        other
            .mov(19, MMIO)
            .mrs(0, regs::ESR_EL1)
            .report(ESR_AT, 0)
            .mrs(0, regs::ELR_EL1)
            .report(ELR_AT, 0)
            .mrs(0, regs::FAR_EL1)
            .report(FAR_AT, 0)
            .mov(0, 0x80 * slot)
            .str(0, 19, EXCEPTION as u32)
            .forever();
        let at = 0x80 * slot as usize;
        let code = handlers
            .iter()
            .find(|(vector, _)| *vector as usize == at)
            .map_or(&other, |(_, code)| code);
        let bytes = code.bytes();
        assert!(bytes.len() <= 0x80, "a handler has 32 instructions at most");
        page[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    page
}
