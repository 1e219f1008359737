// SPDX-License-Identifier: GPL-2.0-only
//! A vCPU's registers as plain fields, for the unit tests.

use super::VcpuRegs;
use super::aarch32::{Length, Mode};
use super::pstate::{Mte, Pstate};

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FakeRegs {
    pub pc: u64,
    pub pstate: u64,
    pub sctlr: u64,
    pub vbar: u64,
    pub elr: u64,
    pub spsr: u64,
    pub aarch32: Option<(Mode, u32, u32)>,
    pub mte: Mte,
    pub mte_asked: u32,
    pub length: Length,
}

impl Default for FakeRegs {
    fn default() -> Self {
        Self {
            pc: 0,
            pstate: 0,
            sctlr: 0,
            vbar: 0,
            elr: 0,
            spsr: 0,
            aarch32: None,
            mte: Mte::Absent,
            mte_asked: 0,
            length: Length::Bits32,
        }
    }
}

impl VcpuRegs for FakeRegs {
    fn pc(&self) -> u64 {
        self.pc
    }
    fn set_pc(&mut self, pc: u64) {
        self.pc = pc;
    }
    fn pstate(&self) -> Pstate {
        Pstate::new(self.pstate)
    }
    fn set_pstate(&mut self, pstate: Pstate) {
        self.pstate = pstate.raw();
    }
    fn sctlr_el1(&self) -> u64 {
        self.sctlr
    }
    fn vbar_el1(&self) -> u64 {
        self.vbar
    }
    fn set_elr_el1(&mut self, elr: u64) {
        self.elr = elr;
    }
    fn set_spsr_el1(&mut self, spsr: u64) {
        self.spsr = spsr;
    }
    fn set_aarch32_return(&mut self, mode: Mode, lr: u32, spsr: u32) {
        self.aarch32 = Some((mode, lr, spsr));
    }
    fn mte(&mut self) -> Mte {
        self.mte_asked += 1;
        self.mte
    }
    fn trapped_length(&self) -> Length {
        self.length
    }
}
