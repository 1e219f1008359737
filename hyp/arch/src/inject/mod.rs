// SPDX-License-Identifier: GPL-2.0-only
//! Taking an exception on behalf of a guest or the host, and stepping over an instruction that was emulated for it.
//! Does the job of `exception.c`, `aarch32.c` and `hyp/adjust_pc.h`.
//!
//! [`pstate`], [`entry`], [`aarch32`] and [`adjust`] are pure: they see registers through [`VcpuRegs`] and run in
//! the unit tests. [`adjust_pc`], [`skip_running`] and [`inject_running`] are the mechanism. No lock is taken here. PC, PSTATE, VBAR and SCTLR are the guest's or the host's own words and may
//! hold anything; all arithmetic on them wraps, as the hardware's does, and a PSTATE that names a mode the guest may
//! not have is caught by the world switch, which enters it as an illegal exception return.

pub mod aarch32;
pub mod adjust;
pub mod entry;
pub mod pstate;
mod vcpu;

pub use adjust::{Iflags, Pending};
pub use entry::{El1Control, Entry, Exception, take_to_el1};
pub use pstate::{Mte, Pstate};
pub use vcpu::{ESR_UNDEFINED, adjust_pc, inject_running, skip_running};

/// The registers of a stopped vCPU that exception entry and instruction skipping touch. EL1's banked registers are
/// the saved ones, not those of the CPU.
pub trait VcpuRegs {
    /// The program counter.
    fn pc(&self) -> u64;
    /// Sets the program counter.
    fn set_pc(&mut self, pc: u64);
    /// PSTATE, in the layout of SPSR_EL2.
    fn pstate(&self) -> Pstate;
    /// Sets PSTATE.
    fn set_pstate(&mut self, pstate: Pstate);
    /// SCTLR_EL1; SCTLR for an AArch32 EL1.
    fn sctlr_el1(&self) -> u64;
    /// VBAR_EL1; VBAR for an AArch32 EL1.
    fn vbar_el1(&self) -> u64;
    /// Sets ELR_EL1.
    fn set_elr_el1(&mut self, elr: u64);
    /// Sets SPSR_EL1.
    fn set_spsr_el1(&mut self, spsr: u64);
    /// Sets the banked link register and SPSR of an AArch32 mode. `spsr` is in the AArch32 layout.
    fn set_aarch32_return(&mut self, mode: aarch32::Mode, lr: u32, spsr: u32);
    /// Whether the VM has memory tagging. Asked at most once, and only where the answer matters: finding it may
    /// need a host structure.
    fn mte(&mut self) -> Mte;
    /// How long the trapped instruction is, for a guest in Thumb state.
    fn trapped_length(&self) -> aarch32::Length;
}

#[cfg(test)]
pub(crate) mod fake;
