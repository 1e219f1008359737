// SPDX-License-Identifier: GPL-2.0-only
//! What a protected VM gets when it touches a system register that EL2 traps. This does the job of the trap half of
//! the kernel's `nvhe/sys_regs.c`.
//!
//! The table names what a guest may have; every register that it does not name is UNDEFINED for the guest. The guest
//! chooses the register. Nothing here takes a lock. Source: Arm ARM (DDI 0487), ESR_ELx ISS encoding of an exception
//! from MSR, MRS or System instruction execution.

mod table;
#[cfg(test)]
mod tests;

/// A system register or instruction, by its encoding. The order is that of (op0, op1, CRn, CRm, op2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct SysReg(u32);

impl SysReg {
    /// The register that an instruction with these fields names. Bits beyond a field's width are dropped.
    pub const fn new(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> Self {
        Self((op0 & 3) << 19 | (op1 & 7) << 16 | (crn & 15) << 12 | (crm & 15) << 8 | (op2 & 7) << 5)
    }
    /// The encoding, with the fields where the instruction has them.
    pub const fn raw(self) -> u32 {
        self.0
    }
    /// The CRm field.
    pub const fn crm(self) -> u32 {
        self.0 >> 8 & 15
    }
    /// The op2 field.
    pub const fn op2(self) -> u32 {
        self.0 >> 5 & 7
    }
}

impl core::fmt::Debug for SysReg {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let field = |shift: u32, mask: u32| self.0.checked_shr(shift).unwrap_or(0) & mask;
        write!(
            f,
            "S{}_{}_C{}_C{}_{}",
            field(19, 3),
            field(16, 7),
            field(12, 15),
            field(8, 15),
            field(5, 7)
        )
    }
}

/// Which way a trapped access goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// MRS.
    Read,
    /// MSR, or a System instruction.
    Write,
}

/// A trapped access, from its syndrome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trap {
    /// The register.
    pub reg: SysReg,
    /// The general purpose register; 31 is the zero register.
    pub rt: u8,
    /// The direction.
    pub access: Access,
}

impl Trap {
    /// The access that the ISS of `esr`, of exception class 0x18, describes.
    pub const fn decode(esr: u64) -> Self {
        let iss = esr as u32;
        Self {
            reg: SysReg::new(iss >> 20, iss >> 14, iss >> 10, iss >> 1, iss >> 17),
            rt: (iss >> 5 & 31) as u8,
            access: if iss & 1 == 0 { Access::Write } else { Access::Read },
        }
    }
}

/// What the table says of a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Reads as zero, ignores writes.
    RazWi,
    /// An AArch32 ID register: reads as zero, since there is no AArch32; UNDEFINED to write.
    IdAarch32,
    /// An AArch64 ID register: reads as the VM's own value; UNDEFINED to write.
    IdAarch64,
    /// The host emulates it.
    Host,
    /// ICC_SRE_EL1: the system register interface is on and cannot be turned off.
    IccSre,
    /// The registers of the feature ID space whose trap FEAT_IDST reports as itself.
    Idst,
}

/// What happens to an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The instruction is done: rt becomes the value, if there is one, and the PC moves on.
    Done(Option<u64>),
    /// An UNDEFINED exception goes to the guest's EL1.
    Undef,
    /// The trap's own syndrome goes to the guest's EL1.
    Reflect,
    /// The host emulates the access: the guest exits.
    ToHost,
}

/// Which entry of the kernel's `id_regs` holds the ID register `reg`; `None` if none does.
pub const fn id_index(reg: SysReg) -> Option<usize> {
    let first = SysReg::new(3, 0, 0, 1, 0).0;
    let last = SysReg::new(3, 0, 0, 7, 7).0;
    match reg.0.checked_sub(first) {
        Some(offset) if reg.0 <= last => Some((offset >> 5) as usize),
        _ => None,
    }
}

/// How many ID registers `id_regs` holds: CRm 1 to 7, op2 0 to 7.
pub const ID_REGS: usize = 56;

/// ICC_SRE_EL1 with DIB, DFB and SRE set.
const ICC_SRE_ON: u64 = 7;

/// Decides about a protected VM's access. `id_reg` yields the VM's ID register of an [`id_index`]; `idst` says whether
/// the VM has FEAT_IDST.
pub fn decide(trap: Trap, idst: bool, id_reg: impl FnOnce(usize) -> u64) -> Decision {
    let read = trap.access == Access::Read;
    match table::rule(trap.reg) {
        Some(Rule::Host) => Decision::ToHost,
        Some(Rule::IdAarch32 | Rule::IdAarch64) if !read => Decision::Undef,
        Some(Rule::RazWi | Rule::IdAarch32) => Decision::Done(read.then_some(0)),
        Some(Rule::IdAarch64) => Decision::Done(Some(id_index(trap.reg).map_or(0, id_reg))),
        Some(Rule::IccSre) => Decision::Done(read.then_some(ICC_SRE_ON)),
        Some(Rule::Idst) if idst => Decision::Reflect,
        None | Some(Rule::Idst) => Decision::Undef,
    }
}
