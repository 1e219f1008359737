// SPDX-License-Identifier: GPL-2.0-only
//! CPU capabilities, static keys and the hypervisor's view of kernel addresses.
//!
//! EL2 cannot read any of these as data: EL1 patches the instructions before it hands EL2 over. Each test emits the
//! record that the kernel's own patching looks for: `.altinstructions` (asm/alternative-macros.h) or `__jump_table`
//! (asm/jump_label.h). A capability or key that is off costs one NOP.
#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "patched instructions"))]

use pkvm_types::HypVa;

/// Whether the system has the capability with this number in the kernel's `enum` of cpucaps.
#[inline(always)]
pub fn has_cap<const CAP: u16>() -> bool {
    #[cfg(target_os = "none")]
    // SAFETY: the NOP, or the branch that replaces it, has no effect but on the program counter. The record names
    // both by self-relative offsets, and the .org directives refuse a replacement of another length.
    unsafe {
        core::arch::asm!(
            "661: nop",
            "662:",
            ".pushsection .altinstructions, \"a\"",
            ".word 661b - .",
            ".word 663f - .",
            ".hword {cap}",
            ".byte 662b - 661b",
            ".byte 664f - 663f",
            ".popsection",
            ".subsection 1",
            "663: b {yes}",
            "664:",
            ".org . - (664b - 663b) + (662b - 661b)",
            ".org . - (662b - 661b) + (664b - 663b)",
            ".previous",
            cap = const CAP,
            yes = label { return true },
            options(nomem, nostack, preserves_flags),
        );
        false
    }
    #[cfg(not(target_os = "none"))]
    crate::fake::has_cap(CAP)
}

/// One instruction that becomes another where the system has a capability: `alternative!("nop", "isb", CAP)`.
/// Instructions without operands only.
#[cfg(target_os = "none")]
#[macro_export]
macro_rules! alternative {
    ($old:literal, $new:literal, $cap:expr) => {
        // SAFETY: the caller names two instructions without operands; see the expansion's place.
        unsafe {
            core::arch::asm!(
                concat!("661: ", $old),
                "662:",
                ".pushsection .altinstructions, \"a\"",
                ".word 661b - .",
                ".word 663f - .",
                ".hword {cap}",
                ".byte 662b - 661b",
                ".byte 664f - 663f",
                ".popsection",
                ".subsection 1",
                concat!("663: ", $new),
                "664:",
                ".org . - (664b - 663b) + (662b - 661b)",
                ".org . - (662b - 661b) + (664b - 663b)",
                ".previous",
                cap = const $cap,
                options(nostack, preserves_flags),
            )
        }
    };
}

/// Whether a static key of the kernel that starts off (`DEFINE_STATIC_KEY_FALSE`) has been turned on:
/// `static_key!(kvm_protected_mode_initialized)`. With `+ offset` the key is a field that far into the symbol.
///
/// The key itself is not mapped at EL2; only its address enters the record.
#[cfg(target_os = "none")]
#[macro_export]
macro_rules! static_key {
    ($key:path) => {
        $crate::static_key!($key, 0)
    };
    ($key:path, $offset:expr) => {{
        #[inline(always)]
        #[expect(unsafe_code, reason = "a patched branch")]
        fn test() -> bool {
            // SAFETY: the NOP, or the branch the kernel puts there, only moves the program counter.
            unsafe {
                core::arch::asm!(
                    "661: nop",
                    ".pushsection __jump_table, \"aw\"",
                    ".align 3",
                    ".long 661b - ., {yes} - .",
                    ".quad {key} + {offset} - .",
                    ".popsection",
                    key = sym $key,
                    offset = const $offset,
                    yes = label { return true },
                    options(nomem, nostack, preserves_flags),
                );
            }
            false
        }
        test()
    }};
}

/// Off the target: whether the test turned the key on.
#[cfg(not(target_os = "none"))]
#[macro_export]
macro_rules! static_key {
    ($key:path) => {
        $crate::fake::static_key(stringify!($key))
    };
    ($key:path, $offset:expr) => {
        $crate::fake::static_key(stringify!($key))
    };
}

/// The hypervisor's address of what the kernel sees at `kernel` in its linear map; the kernel's `kern_hyp_va()`.
/// An address that is a hypervisor's already comes out unchanged. Nothing is checked: the caller must know that EL2
/// maps it.
#[inline(always)]
pub fn kern_hyp_va(kernel: u64) -> HypVa {
    #[cfg(target_os = "none")]
    {
        let hyp: u64;
        // SAFETY: five instructions on one register. kvm_update_va_mask() rewrites exactly this sequence.
        unsafe {
            core::arch::asm!(
                "661:",
                "and {out}, {va}, #1",
                "ror {out}, {out}, #1",
                "add {out}, {out}, #0",
                "add {out}, {out}, #0, lsl 12",
                "ror {out}, {out}, #63",
                "662:",
                ".pushsection .altinstructions, \"a\"",
                ".word 661b - .",
                ".word {cb} - .",
                ".hword {cap}",
                ".byte 662b - 661b",
                ".byte 664f - 663f",
                ".popsection",
                "663:",
                "664:",
                va = in(reg) kernel,
                out = lateout(reg) hyp,
                cb = sym kvm_update_va_mask,
                cap = const CALLBACK | pkvm_kernel::layout::CAP_ALWAYS_SYSTEM as u16,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        HypVa::new(hyp)
    }
    #[cfg(not(target_os = "none"))]
    HypVa::new(kernel)
}

/// What to add to a physical address of the kernel's image for the kernel's own address of it.
#[cfg(target_os = "none")]
pub fn kimage_voffset() -> u64 {
    let offset: u64;
    // SAFETY: four moves to one register. kvm_get_kimage_voffset() rewrites exactly this sequence.
    unsafe {
        core::arch::asm!(
            "661:",
            "movz {offset}, #0",
            "movk {offset}, #0, lsl #16",
            "movk {offset}, #0, lsl #32",
            "movk {offset}, #0, lsl #48",
            "662:",
            ".pushsection .altinstructions, \"a\"",
            ".word 661b - .",
            ".word {cb} - .",
            ".hword {cap}",
            ".byte 662b - 661b",
            ".byte 664f - 663f",
            ".popsection",
            "663:",
            "664:",
            offset = out(reg) offset,
            cb = sym kvm_get_kimage_voffset,
            cap = const CALLBACK | pkvm_kernel::layout::CAP_ALWAYS_SYSTEM as u16,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    offset
}

/// The bit of a record's capability that makes its replacement a callback.
#[cfg(target_os = "none")]
pub(crate) const CALLBACK: u16 = 1 << 15;

#[cfg(target_os = "none")]
unsafe extern "C" {
    /// EL1's patcher of [`kern_hyp_va`]; never called at EL2.
    fn kvm_update_va_mask();
    /// EL1's patcher of [`kimage_voffset`]; never called at EL2.
    fn kvm_get_kimage_voffset();
}
