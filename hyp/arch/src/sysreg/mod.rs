// SPDX-License-Identifier: GPL-2.0-only
//! System registers by number. One table ([`regs`]) names them, for access here and for the decoding of traps, whose
//! syndrome carries the same numbers. Assemblers refuse newer registers by name; none refuses a number.
#![expect(unsafe_code, reason = "system register accesses")]

mod bits;
mod regs;

pub use bits::*;
pub use regs::*;

#[cfg(target_os = "none")]
use pkvm_kernel::layout::CAP_KVM_HVHE;

/// The encoding of a system register: `Op0 << 19 | Op1 << 16 | CRn << 12 | CRm << 8 | Op2 << 5`, as the kernel's
/// `sys_reg()` has it, and as bits 20 to 5 of an MRS or MSR instruction have it.
pub type Enc = u32;

/// The encoding from its five parts.
pub const fn enc(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> Enc {
    op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5
}

#[cfg(any(test, target_os = "none"))]
const fn op0(enc: Enc) -> u32 {
    enc >> 19 & 3
}
#[cfg(any(test, target_os = "none"))]
const fn op1(enc: Enc) -> u32 {
    enc >> 16 & 7
}
#[cfg(any(test, target_os = "none"))]
const fn crn(enc: Enc) -> u32 {
    enc >> 12 & 15
}
#[cfg(any(test, target_os = "none"))]
const fn crm(enc: Enc) -> u32 {
    enc >> 8 & 15
}
#[cfg(any(test, target_os = "none"))]
const fn op2(enc: Enc) -> u32 {
    enc >> 5 & 7
}

/// Op1 under which EL2 with HCR_EL2.E2H set reaches the real EL1 and EL0 registers (the `_EL12` and `_EL02` names).
#[cfg(target_os = "none")]
const OP1_EL12: u32 = 5;
/// Op1 of EL1 registers, which EL2 with HCR_EL2.E2H set finds its own EL2 registers under.
#[cfg(target_os = "none")]
const OP1_EL1: u32 = 0;

/// Reads register `R` by exactly this encoding.
#[inline(always)]
pub fn read<const R: Enc>() -> u64 {
    #[cfg(target_os = "none")]
    {
        let value: u64;
        // SAFETY: reading the registers of the table changes nothing that Rust code relies on; the few reads with an
        // effect (an acknowledge) say so there. Not `nomem`, so that reads stay on their side of barriers.
        unsafe {
            core::arch::asm!(
                "mrs {value}, S{op0}_{op1}_C{crn}_C{crm}_{op2}",
                value = lateout(reg) value,
                op0 = const op0(R), op1 = const op1(R), crn = const crn(R), crm = const crm(R), op2 = const op2(R),
                options(nostack, preserves_flags),
            );
        }
        value
    }
    #[cfg(not(target_os = "none"))]
    crate::fake::reg(R)
}

/// Writes register `R` by exactly this encoding. The write takes effect at the next context synchronisation.
/// A register on which EL2's own execution or protection rests does not compile here: see [`write_own`].
#[inline(always)]
pub fn write<const R: Enc>(value: u64) {
    const { assert!(!is_el2_critical(R), "write_own() writes this register") };
    #[cfg(target_os = "none")]
    // SAFETY: the remaining registers of the table, whatever their value, make EL2 run no other code and see no other
    // memory than its mappings give.
    unsafe {
        core::arch::asm!(
            "msr S{op0}_{op1}_C{crn}_C{crm}_{op2}, {value:x}",
            value = in(reg) value,
            op0 = const op0(R), op1 = const op1(R), crn = const crn(R), crm = const crm(R), op2 = const op2(R),
            options(nostack, preserves_flags),
        );
    }
    #[cfg(not(target_os = "none"))]
    crate::fake::write_reg(R, value);
}

/// Writes one of the registers that EL2's own execution or the protection of its memory rests on.
///
/// # Safety
/// With the new value EL2 still translates, runs and takes exceptions as the compiled code expects, and no other
/// world reaches memory that is not its own.
#[inline(always)]
pub unsafe fn write_own<const R: Enc>(value: u64) {
    #[cfg(target_os = "none")]
    // SAFETY: as the caller proves.
    unsafe {
        core::arch::asm!(
            "msr S{op0}_{op1}_C{crn}_C{crm}_{op2}, {value:x}",
            value = in(reg) value,
            op0 = const op0(R), op1 = const op1(R), crn = const crn(R), crm = const crm(R), op2 = const op2(R),
            options(nostack, preserves_flags),
        );
    }
    #[cfg(not(target_os = "none"))]
    crate::fake::write_reg(R, value);
}

/// A read that goes by `$nvhe` or, where EL2 runs with HCR_EL2.E2H set, by `$hvhe` as Op1: one instruction, patched.
#[cfg(target_os = "none")]
macro_rules! read_by_mode {
    ($reg:expr, $hvhe_op1:expr) => {{
        let value: u64;
        // SAFETY: as for `read`; the replacement is the same access by another name.
        unsafe {
            core::arch::asm!(
                "661: mrs {value}, S{op0}_{op1}_C{crn}_C{crm}_{op2}",
                "662:",
                ".pushsection .altinstructions, \"a\"",
                ".word 661b - .",
                ".word 663f - .",
                ".hword {cap}",
                ".byte 662b - 661b",
                ".byte 664f - 663f",
                ".popsection",
                ".subsection 1",
                "663: mrs {value}, S{op0}_{hvhe}_C{crn}_C{crm}_{op2}",
                "664:",
                ".org . - (664b - 663b) + (662b - 661b)",
                ".org . - (662b - 661b) + (664b - 663b)",
                ".previous",
                value = lateout(reg) value,
                op0 = const op0($reg), op1 = const op1($reg), crn = const crn($reg), crm = const crm($reg),
                op2 = const op2($reg), hvhe = const $hvhe_op1, cap = const CAP_KVM_HVHE,
                options(nostack, preserves_flags),
            );
        }
        value
    }};
}

/// A write that goes by the register's own Op1 or, where EL2 runs with HCR_EL2.E2H set, by another.
#[cfg(target_os = "none")]
macro_rules! write_by_mode {
    ($reg:expr, $hvhe_op1:expr, $value:expr) => {
        // SAFETY: as for `write`; the replacement is the same access by another name.
        unsafe {
            core::arch::asm!(
                "661: msr S{op0}_{op1}_C{crn}_C{crm}_{op2}, {value:x}",
                "662:",
                ".pushsection .altinstructions, \"a\"",
                ".word 661b - .",
                ".word 663f - .",
                ".hword {cap}",
                ".byte 662b - 661b",
                ".byte 664f - 663f",
                ".popsection",
                ".subsection 1",
                "663: msr S{op0}_{hvhe}_C{crn}_C{crm}_{op2}, {value:x}",
                "664:",
                ".org . - (664b - 663b) + (662b - 661b)",
                ".org . - (662b - 661b) + (664b - 663b)",
                ".previous",
                value = in(reg) $value,
                op0 = const op0($reg), op1 = const op1($reg), crn = const crn($reg), crm = const crm($reg),
                op2 = const op2($reg), hvhe = const $hvhe_op1, cap = const CAP_KVM_HVHE,
                options(nostack, preserves_flags),
            )
        }
    };
}

/// Reads the EL1 register `R` of the world that runs below EL2, by its `_EL1` name or under hVHE by its `_EL12` name.
/// With a timer register of EL0 it goes by `_EL0` or `_EL02`.
#[inline(always)]
pub fn read_el1<const R: Enc>() -> u64 {
    #[cfg(target_os = "none")]
    return read_by_mode!(R, OP1_EL12);
    #[cfg(not(target_os = "none"))]
    crate::fake::reg(R)
}

/// Writes the EL1 register `R` of the world that runs below EL2; see [`read_el1`].
#[inline(always)]
pub fn write_el1<const R: Enc>(value: u64) {
    const { assert!(!is_el2_critical(R), "not a register of EL1") };
    #[cfg(target_os = "none")]
    write_by_mode!(R, OP1_EL12, value);
    #[cfg(not(target_os = "none"))]
    crate::fake::write_reg(R, value);
}

/// Reads EL2's own register `R`, by its `_EL2` name or under hVHE by its `_EL1` name. Either reads the same register:
/// this exists because a few cores are faster by the second, as the kernel also has it.
#[inline(always)]
pub fn read_el2<const R: Enc>() -> u64 {
    #[cfg(target_os = "none")]
    return read_by_mode!(R, OP1_EL1);
    #[cfg(not(target_os = "none"))]
    crate::fake::reg(R)
}

/// Writes EL2's own register `R`; see [`read_el2`].
#[inline(always)]
pub fn write_el2<const R: Enc>(value: u64) {
    const { assert!(!is_el2_critical(R), "write_own() writes this register") };
    #[cfg(target_os = "none")]
    write_by_mode!(R, OP1_EL1, value);
    #[cfg(not(target_os = "none"))]
    crate::fake::write_reg(R, value);
}

/// Clears and sets bits of register `R`, and writes only where that changes it.
#[inline(always)]
pub fn clear_set<const R: Enc>(clear: u64, set: u64) {
    let old = read::<R>();
    let new = old & !clear | set;
    if new != old {
        write::<R>(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_the_kernels() {
        // sys_reg(3, 0, 1, 0, 0) and the numbers of the Arm ARM for a few with large parts.
        assert_eq!(SCTLR_EL1, 0x180000 | 1 << 12);
        assert_eq!(ICH_VTR_EL2, enc(3, 4, 12, 11, 1));
        assert_eq!(
            (
                op0(CNTV_CVAL_EL0),
                op1(CNTV_CVAL_EL0),
                crn(CNTV_CVAL_EL0),
                crm(CNTV_CVAL_EL0),
                op2(CNTV_CVAL_EL0)
            ),
            (3, 3, 14, 3, 2)
        );
    }

    #[test]
    fn a_write_that_changes_nothing_is_not_made() {
        crate::fake::reset();
        crate::fake::set_reg(CNTHCTL_EL2, 3);
        clear_set::<CNTHCTL_EL2>(0, 1);
        assert!(crate::fake::take_log().is_empty());
        clear_set::<CNTHCTL_EL2>(1, 4);
        assert_eq!(crate::fake::reg(CNTHCTL_EL2), 6);
    }
}
