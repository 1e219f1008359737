// SPDX-License-Identifier: GPL-2.0-only
//! The ID registers of a protected VM: per field the smaller of what the machine has and what EL2 lets such a VM have.
//! A field that is not listed reads as not implemented. This does the job of the ID register half of the kernel's
//! `nvhe/sys_regs.c`.
//!
//! The machine's values are the kernel's sanitised ones, from before the host lost its privileges. Source: Arm ARM,
//! D24.2, and D24.1.3 on signed fields.

use crate::sysreg::SysReg;
use pkvm_types::{Error, Result};

#[cfg(test)]
mod tests;

/// A four-bit field of an ID register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// The lowest bit.
    pub shift: u8,
    /// Whether values from 8 on are negative, so that 0xf says "not implemented".
    pub signed: bool,
}

impl Field {
    const fn unsigned(shift: u8) -> Self {
        Self { shift, signed: false }
    }
    const fn signed(shift: u8) -> Self {
        Self { shift, signed: true }
    }

    /// The field's value in `register`.
    pub const fn get(self, register: u64) -> i8 {
        let bits = (register >> (self.shift & 63) & 15) as u8;
        if self.signed && bits >= 8 {
            (bits | 0xf0).cast_signed()
        } else {
            bits.cast_signed()
        }
    }

    /// `value` in the field's place.
    const fn put(self, value: i8) -> u64 {
        ((value.cast_unsigned() & 15) as u64) << (self.shift & 63)
    }

    /// The value that says "not implemented".
    const fn none(self) -> i8 {
        if self.signed { -1 } else { 0 }
    }
}

/// What a VM must have been asked to be given for a field to be more than "not implemented".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Needs {
    Nothing,
    Sve,
    PtrAuth,
}

/// A row of the tables of caps.
#[derive(Clone, Copy, Debug)]
struct Cap {
    field: Field,
    max: i8,
    needs: Needs,
}

const fn upto(shift: u8, max: i8) -> Cap {
    Cap {
        field: Field::unsigned(shift),
        max,
        needs: Needs::Nothing,
    }
}
const fn upto_signed(shift: u8, max: i8) -> Cap {
    Cap {
        field: Field::signed(shift),
        max,
        needs: Needs::Nothing,
    }
}
const fn upto_if(needs: Needs, shift: u8, max: i8) -> Cap {
    Cap {
        field: Field::unsigned(shift),
        max,
        needs,
    }
}

const PFR0: &[Cap] = &[
    upto(0, 1),                 // EL0, AArch64 only
    upto(4, 1),                 // EL1, AArch64 only
    upto(8, 1),                 // EL2
    upto(12, 1),                // EL3
    upto_signed(16, 1),         // FP with half precision
    upto_signed(20, 1),         // AdvSIMD with half precision
    upto(24, 1),                // GIC system registers
    upto(28, 1),                // RAS
    upto_if(Needs::Sve, 32, 1), // SVE
    upto(48, 1),                // DIT
    upto(56, 1),                // CSV2
    upto(60, 1),                // CSV3
];
const PFR1: &[Cap] = &[
    upto(0, 1),   // BT
    upto(4, 2),   // SSBS with MSR and MRS
    upto(40, 15), // MTE_frac: 15 says that there is none
];
const PFR2: &[Cap] = &[
    upto(12, 0), // GCIE
];
const ISAR1: &[Cap] = &[
    upto(0, 2),                    // DPB with DC CVADP
    upto_if(Needs::PtrAuth, 4, 1), // APA
    upto_if(Needs::PtrAuth, 8, 1), // API
    upto(12, 1),                   // JSCVT
    upto(16, 1),                   // FCMA
    upto(20, 3),                   // LRCPC3
    upto(24, 1),                   // GPA
    upto(28, 1),                   // GPI
    upto(32, 1),                   // FRINTTS
    upto(36, 1),                   // SB
    upto(40, 2),                   // SPECRES with COSP
    upto(44, 2),                   // BF16 with EBF16
    upto(48, 1),                   // DGH
    upto(52, 1),                   // I8MM
];
const ISAR2: &[Cap] = &[
    upto_if(Needs::PtrAuth, 8, 1),  // GPA3
    upto_if(Needs::PtrAuth, 12, 1), // APA3
    upto(60, 1),                    // ATS1A
];
const MMFR0: &[Cap] = &[
    upto(0, 2),         // PARange of 40 bits
    upto(4, 2),         // ASIDs of 16 bits
    upto(8, 1),         // BIGEND
    upto(12, 1),        // SNSMEM
    upto(16, 1),        // BIGENDEL0
    upto(20, 1),        // TGRAN16
    upto_signed(24, 0), // TGRAN64
    upto_signed(28, 0), // TGRAN4
    upto(44, 1),        // EXS
];
const MMFR1: &[Cap] = &[
    upto(0, 2),  // HAFDBS with dirty state
    upto(4, 2),  // VMIDs of 16 bits
    upto(12, 2), // HPDS2
    upto(20, 3), // PAN3
    upto(24, 1), // SpecSEI
    upto(36, 1), // ETS
    upto(56, 1), // CMOW
];
const MMFR2: &[Cap] = &[
    upto(0, 1),  // CnP
    upto(4, 1),  // UAO
    upto(12, 1), // IESB
    upto(32, 1), // AT
    upto(36, 1), // IDS
    upto(48, 1), // TTL
    upto(52, 2), // BBM level 2
    upto(60, 1), // E0PD
];

/// ID_AA64DFR0_EL1 with nothing implemented: DoubleLock and MTPMU say so with 0xf.
const DFR0_NONE: u64 = 0xf << 36 | 0xf << 48;
/// ID_AA64MMFR4_EL1 with nothing implemented: E2H0 says so with 0xf.
const MMFR4_NONE: u64 = 0xf << 24;

/// The machine's ID registers, as the kernel sanitised them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SystemIds {
    /// ID_AA64PFR0_EL1.
    pub pfr0: u64,
    /// ID_AA64PFR1_EL1.
    pub pfr1: u64,
    /// ID_AA64PFR2_EL1.
    pub pfr2: u64,
    /// ID_AA64ISAR0_EL1.
    pub isar0: u64,
    /// ID_AA64ISAR1_EL1.
    pub isar1: u64,
    /// ID_AA64ISAR2_EL1.
    pub isar2: u64,
    /// ID_AA64MMFR0_EL1.
    pub mmfr0: u64,
    /// ID_AA64MMFR1_EL1.
    pub mmfr1: u64,
    /// ID_AA64MMFR2_EL1.
    pub mmfr2: u64,
}

/// The optional features that the host asked for, the machine has, and EL2 allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Granted {
    /// Scalable vectors.
    pub sve: bool,
    /// Pointer authentication: the kernel is built with it, a CPU has it (address or generic), and the VM asked for
    /// generic authentication.
    pub ptrauth: bool,
}

/// Registers with fields that somebody asks for by name.
pub mod regs {
    use super::SysReg;
    /// ID_AA64PFR0_EL1.
    pub const PFR0: SysReg = SysReg::new(3, 0, 0, 4, 0);
    /// ID_AA64PFR1_EL1.
    pub const PFR1: SysReg = SysReg::new(3, 0, 0, 4, 1);
    /// ID_AA64PFR2_EL1.
    pub const PFR2: SysReg = SysReg::new(3, 0, 0, 4, 2);
    /// ID_AA64DFR0_EL1.
    pub const DFR0: SysReg = SysReg::new(3, 0, 0, 5, 0);
    /// ID_AA64ISAR0_EL1.
    pub const ISAR0: SysReg = SysReg::new(3, 0, 0, 6, 0);
    /// ID_AA64ISAR1_EL1.
    pub const ISAR1: SysReg = SysReg::new(3, 0, 0, 6, 1);
    /// ID_AA64ISAR2_EL1.
    pub const ISAR2: SysReg = SysReg::new(3, 0, 0, 6, 2);
    /// ID_AA64MMFR0_EL1.
    pub const MMFR0: SysReg = SysReg::new(3, 0, 0, 7, 0);
    /// ID_AA64MMFR1_EL1.
    pub const MMFR1: SysReg = SysReg::new(3, 0, 0, 7, 1);
    /// ID_AA64MMFR2_EL1.
    pub const MMFR2: SysReg = SysReg::new(3, 0, 0, 7, 2);
    /// ID_AA64MMFR3_EL1.
    pub const MMFR3: SysReg = SysReg::new(3, 0, 0, 7, 3);
    /// ID_AA64MMFR4_EL1.
    pub const MMFR4: SysReg = SysReg::new(3, 0, 0, 7, 4);
}

fn restrict(system: u64, caps: &[Cap], granted: Granted) -> u64 {
    caps.iter().fold(0, |register, cap| {
        let allowed = match cap.needs {
            Needs::Nothing => true,
            Needs::Sve => granted.sve,
            Needs::PtrAuth => granted.ptrauth,
        };
        let value = if allowed {
            cap.field.get(system).min(cap.max)
        } else {
            cap.field.none()
        };
        register | cap.field.put(value)
    })
}

/// The value of `reg` for a protected VM.
pub fn protected_value(reg: SysReg, system: &SystemIds, granted: Granted) -> u64 {
    match reg {
        regs::PFR0 => restrict(system.pfr0, PFR0, granted),
        regs::PFR1 => restrict(system.pfr1, PFR1, granted),
        regs::PFR2 => restrict(system.pfr2, PFR2, granted),
        // The instruction set attributes here need no state that EL2 would have to switch.
        regs::ISAR0 => system.isar0,
        regs::ISAR1 => restrict(system.isar1, ISAR1, granted),
        regs::ISAR2 => restrict(system.isar2, ISAR2, granted),
        regs::MMFR0 => restrict(system.mmfr0, MMFR0, granted),
        regs::MMFR1 => restrict(system.mmfr1, MMFR1, granted),
        regs::MMFR2 => restrict(system.mmfr2, MMFR2, granted),
        regs::DFR0 => DFR0_NONE,
        regs::MMFR4 => MMFR4_NONE,
        _ => 0,
    }
}

/// The AArch64 ID registers, CRm 4 to 7: those of a protected VM that are not zero by default lie here.
pub fn aarch64_registers() -> impl Iterator<Item = SysReg> {
    (4..8).flat_map(|crm| (0..8).map(move |op2| SysReg::new(3, 0, 0, crm, op2)))
}

/// A question to a VM's ID registers: has a field at least some value?
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// The register.
    pub reg: SysReg,
    field: Field,
    min: i8,
}

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $reg:ident $kind:ident $shift:literal $min:literal;)*) => {
        impl Feature {$(
            $(#[$doc])*
            pub const $name: Self = Self { reg: regs::$reg, field: Field::$kind($shift), min: $min };
        )*}
    };
}

features! {
    /// AArch32 at EL0.
    AARCH32_EL0 = PFR0 unsigned 0 2;
    /// AArch32 at EL1.
    AARCH32_EL1 = PFR0 unsigned 4 2;
    /// Floating point.
    FP = PFR0 signed 16 0;
    /// Advanced SIMD.
    ADVSIMD = PFR0 signed 20 0;
    /// RAS.
    RAS = PFR0 unsigned 28 1;
    /// Activity monitors.
    AMU = PFR0 unsigned 44 1;
    /// SME.
    SME = PFR1 unsigned 24 1;
    /// FPMR.
    FPMR = PFR2 unsigned 32 1;
    /// Debug architecture, version 8 at least.
    DEBUG = DFR0 unsigned 0 6;
    /// Performance monitors.
    PMU = DFR0 unsigned 8 1;
    /// Statistical profiling.
    SPE = DFR0 unsigned 32 1;
    /// OS double lock.
    DOUBLE_LOCK = DFR0 signed 36 0;
    /// Self-hosted trace filter.
    TRACE_FILTER = DFR0 unsigned 40 1;
    /// Trace buffer.
    TRACE_BUFFER = DFR0 unsigned 44 1;
    /// 64-byte loads and stores.
    LS64 = ISAR1 unsigned 60 1;
    /// ST64BV.
    LS64_V = ISAR1 unsigned 60 2;
    /// Memory copy instructions.
    MOPS = ISAR2 unsigned 16 1;
    /// Fine-grained traps.
    FGT = MMFR0 unsigned 56 1;
    /// Limited ordering regions.
    LOR = MMFR1 unsigned 16 1;
    /// ID space accesses trap with their own syndrome.
    IDST = MMFR2 unsigned 36 1;
    /// TCR2_EL1.
    TCR2 = MMFR3 unsigned 0 1;
    /// SCTLR2_EL1.
    SCTLR2 = MMFR3 unsigned 4 1;
}

impl Feature {
    /// Whether a VM has the feature, given its value of [`Feature::reg`].
    pub const fn is_in(self, register: u64) -> bool {
        self.field.get(register) >= self.min
    }
}

/// A VM's ID registers.
pub trait IdRegs {
    /// The VM's value of `reg`, zero where it has none.
    fn id_reg(&self, reg: SysReg) -> u64;
    /// Whether the VM has `feature`.
    fn has(&self, feature: Feature) -> bool {
        feature.is_in(self.id_reg(feature.reg))
    }
}

/// The ID registers that a protected VM gets, before they are stored anywhere.
#[derive(Clone, Copy, Debug)]
pub struct ProtectedIds<'a> {
    /// The machine's registers.
    pub system: &'a SystemIds,
    /// The optional features.
    pub granted: Granted,
}

impl IdRegs for ProtectedIds<'_> {
    fn id_reg(&self, reg: SysReg) -> u64 {
        protected_value(reg, self.system, self.granted)
    }
}

/// Refuses, with [`Error::Invalid`], a protected VM with features that EL2 neither traps nor supports: AArch32, missing
/// floating point, SME.
pub fn check_protected(ids: &impl IdRegs) -> Result<()> {
    let unsupported = [Feature::AARCH32_EL0, Feature::AARCH32_EL1, Feature::SME];
    let needed = [Feature::FP, Feature::ADVSIMD];
    if unsupported.iter().any(|&feature| ids.has(feature)) || !needed.iter().all(|&feature| ids.has(feature))
    {
        return Err(Error::Invalid);
    }
    Ok(())
}
