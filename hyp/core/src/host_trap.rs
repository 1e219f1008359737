// SPDX-License-Identifier: GPL-2.0-only
//! Exceptions from the host to EL2, and those that EL2 sends back to an EL1. This does the job of the exception half of
//! the kernel's `nvhe/hyp-main.c`, and of its exception injection where it is AArch64.
//!
//! Everything here is a value in and a value out: the syndrome comes from hardware, but the host chooses which it is.
//! Source: Arm ARM, D1.3 on exception entry, ESR_ELx.

#[cfg(test)]
mod tests;

/// Where the exception class lies. Bits from 32 on are ISS2 and belong to no class.
const EC_SHIFT: u32 = 26;
const EC_MASK: u64 = 0x3f << EC_SHIFT;
/// A 32-bit instruction, or one whose length is not known.
const IL: u64 = 1 << 25;
/// In an abort: the fault was on a stage-1 walk. EL1's hardware never sets it in ESR_EL1; EL2 marks its own aborts by it.
const S1PTW: u64 = 1 << 7;
/// In an abort: FAR_EL1 holds no address.
const FNV: u64 = 1 << 10;
/// The fault status of an abort.
const FSC: u64 = 0x3f;
/// A synchronous external abort that was not on a walk.
const FSC_EXTERNAL: u64 = 0x10;

const EC_HVC64: u64 = 0x16;
const EC_SMC64: u64 = 0x17;
const EC_SYS64: u64 = 0x18;
const EC_IABT_LOW: u64 = 0x20;
const EC_DABT_LOW: u64 = 0x24;

/// What the host did to get to EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostTrap {
    /// HVC; its immediate means nothing. The PC is past it.
    Hypercall,
    /// SMC: see [`crate::smc::route`]. The PC is still on it.
    Smc,
    /// A stage-2 abort, of an instruction or data.
    Abort(Abort),
    /// A system register or instruction that EL2 traps but does not model: [`undefined`] goes back.
    SysReg,
    /// Anything else that EL2 traps without meaning to, as an instruction set extension the kernel does not know:
    /// [`undefined`] goes back.
    Other,
}

/// A stage-2 abort of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abort {
    /// What was wrong.
    pub status: FaultStatus,
    /// Whether it was a write. A fault on a stage-1 walk counts as the walk's own access.
    pub write: bool,
    /// Whether it was an instruction fetch.
    pub fetch: bool,
    /// Whether it was on a stage-1 walk.
    pub on_walk: bool,
}

/// What was wrong with an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultStatus {
    /// The address is beyond what the tables can map.
    AddressSize,
    /// There is no mapping.
    Translation,
    /// The access flag is clear.
    AccessFlag,
    /// There is a mapping that does not allow it.
    Permission,
    /// An external abort, on the access or on a walk.
    External,
    /// Anything else.
    Other,
}

impl FaultStatus {
    /// The status that the FSC field of `esr` holds.
    pub const fn decode(esr: u64) -> Self {
        match esr & FSC {
            0x00..=0x03 | 0x29 | 0x2c => Self::AddressSize,
            0x04..=0x07 | 0x2a | 0x2b => Self::Translation,
            0x08..=0x0b => Self::AccessFlag,
            0x0c..=0x0f => Self::Permission,
            0x10 | 0x12..=0x17 | 0x18 | 0x1b..=0x1f => Self::External,
            _ => Self::Other,
        }
    }
}

/// What the host did, from ESR_EL2.
pub const fn decode(esr: u64) -> HostTrap {
    match (esr & EC_MASK) >> EC_SHIFT {
        EC_HVC64 => HostTrap::Hypercall,
        EC_SMC64 => HostTrap::Smc,
        EC_SYS64 => HostTrap::SysReg,
        ec @ (EC_IABT_LOW | EC_DABT_LOW) => {
            let on_walk = esr & S1PTW != 0;
            HostTrap::Abort(Abort {
                status: FaultStatus::decode(esr),
                write: ec == EC_DABT_LOW && esr & 1 << 6 != 0,
                fetch: ec == EC_IABT_LOW && !on_walk,
                on_walk,
            })
        }
        _ => HostTrap::Other,
    }
}

/// The state that an exception to EL1 depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Before {
    /// SPSR_EL2: the PSTATE that was interrupted.
    pub spsr: u64,
    /// ELR_EL2: the PC that was interrupted.
    pub pc: u64,
    /// VBAR_EL1.
    pub vbar: u64,
    /// SCTLR_EL1.
    pub sctlr: u64,
    /// Whether that EL1 has memory tags, so that the exception sets PSTATE.TCO.
    pub mte: bool,
}

/// The registers to write so that the return from EL2 is to EL1's exception vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Injection {
    /// ESR_EL1, unless the exception is an interrupt.
    pub esr_el1: Option<u64>,
    /// FAR_EL1, where it changes.
    pub far_el1: Option<u64>,
    /// ELR_EL1.
    pub elr_el1: u64,
    /// SPSR_EL1.
    pub spsr_el1: u64,
    /// ELR_EL2.
    pub elr_el2: u64,
    /// SPSR_EL2.
    pub spsr_el2: u64,
}

/// The vector of an exception, by its offset in a group of four.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Vector {
    /// Synchronous.
    Sync = 0,
    /// IRQ.
    Irq = 0x80,
    /// FIQ.
    Fiq = 0x100,
    /// SError.
    SError = 0x180,
}

/// Bits of SPSR_ELx.
mod psr {
    pub const MODE: u64 = 0x1f;
    pub const EL0T: u64 = 0;
    pub const EL1T: u64 = 4;
    pub const EL1H: u64 = 5;
    pub const AARCH32: u64 = 0x10;
    pub const DAIF: u64 = 0xf << 6;
    pub const SSBS: u64 = 1 << 12;
    pub const PAN: u64 = 1 << 22;
    pub const DIT: u64 = 1 << 24;
    pub const TCO: u64 = 1 << 25;
    pub const NZCV: u64 = 0xf << 28;
    pub const SS: u64 = 1 << 21;
    pub const BTYPE: u64 = 3 << 10;
}

/// SCTLR_EL1.SPAN: when clear, an exception sets PSTATE.PAN.
const SCTLR_SPAN: u64 = 1 << 23;
/// SCTLR_EL1.DSSBS: what an exception makes of PSTATE.SSBS.
const SCTLR_DSSBS: u64 = 1 << 44;

/// PSTATE after an exception to EL1: flags, DIT and PAN stay; interrupts are masked; TCO, SSBS and PAN are as the
/// features and SCTLR_EL1 want; everything else, SS, IL, UAO and BTYPE among it, is clear.
pub const fn entry_pstate(before: &Before) -> u64 {
    let mut pstate = before.spsr & (psr::NZCV | psr::DIT | psr::PAN) | psr::DAIF | psr::EL1H;
    if before.mte {
        pstate |= psr::TCO;
    }
    if before.sctlr & SCTLR_SPAN == 0 {
        pstate |= psr::PAN;
    }
    if before.sctlr & SCTLR_DSSBS != 0 {
        pstate |= psr::SSBS;
    }
    pstate
}

/// Where in EL1's vectors an exception from the mode of `spsr` goes.
const fn vector_group(spsr: u64) -> u64 {
    match spsr & psr::MODE {
        psr::EL1T => 0x000,
        psr::EL0T => 0x400,
        mode if mode & psr::AARCH32 != 0 => 0x600,
        _ => 0x200,
    }
}

/// An exception to EL1 through `vector`, with syndrome `esr` and, where it changes, fault address `far`.
pub const fn inject(before: &Before, vector: Vector, esr: Option<u64>, far: Option<u64>) -> Injection {
    // The vector base is EL1's and may be anything; hardware wraps as well.
    let target = before
        .vbar
        .wrapping_add(vector_group(before.spsr))
        .wrapping_add(vector as u64);
    Injection {
        esr_el1: esr,
        far_el1: far,
        elr_el1: before.pc,
        spsr_el1: before.spsr,
        elr_el2: target,
        spsr_el2: entry_pstate(before),
    }
}

/// The exception of an UNDEFINED instruction.
pub const fn undefined(before: &Before) -> Injection {
    inject(before, Vector::Sync, Some(IL), None)
}

/// The trap with syndrome `esr` (of EL2) as EL1's own: FEAT_IDST.
pub const fn reflected(before: &Before, esr: u64) -> Injection {
    inject(before, Vector::Sync, Some(esr), None)
}

/// Makes an abort from a lower level one from the same, where EL1 itself and not EL0 was interrupted.
const fn at_el1(esr: u64, spsr: u64) -> u64 {
    // The classes of aborts from the same level are one above those from a lower one.
    if spsr & psr::MODE & !psr::AARCH32 == psr::EL0T {
        esr
    } else {
        esr | 1 << EC_SHIFT
    }
}

/// The stage-2 abort that the host gets for a page which is not its own. `esr` is ESR_EL2 and `far` FAR_EL2 of the
/// abort, which [`decode`] called one. The host knows it by S1PTW. FAR_EL1 changes for a translation fault only.
pub const fn protected_abort(before: &Before, esr: u64, far: u64) -> Injection {
    let far = match FaultStatus::decode(esr) {
        FaultStatus::Translation => Some(far),
        _ => None,
    };
    inject(before, Vector::Sync, Some(at_el1(esr, before.spsr) | S1PTW), far)
}

/// The synchronous external abort that the host gets when its access cannot be resolved: an external abort on a stage-2
/// walk, or an address that no table can map. There is no page to name, so it is not marked as EL2's.
pub const fn external_abort(before: &Before, esr: u64, far: u64) -> Injection {
    let esr = esr & !(FSC | S1PTW | FNV) | FSC_EXTERNAL;
    inject(before, Vector::Sync, Some(at_el1(esr, before.spsr)), Some(far))
}

/// The PC and PSTATE after an AArch64 instruction that EL2 carried out in the guest's stead.
pub const fn skip_instruction(pc: u64, spsr: u64) -> (u64, u64) {
    (pc.wrapping_add(4), spsr & !(psr::SS | psr::BTYPE))
}

/// HPFAR_EL2 for the first byte of the page that it names a part of: its FIPA field counts 4 KiB from bit 4 on.
pub const fn hpfar_of_page(hpfar: u64) -> u64 {
    const BELOW: u64 = ((pkvm_types::PAGE_SIZE >> 12) - 1) << 4;
    hpfar & !BELOW
}
