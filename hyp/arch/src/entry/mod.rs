// SPDX-License-Identifier: GPL-2.0-only
//! How a CPU comes to EL2 and how it leaves: exception vectors, the registers that no compiled code may touch, and the
//! way from "MMU off" to compiled code. All that is left in assembler is here, and all of EL2's assembler.
//!
//! * [`init`]: the one page that also runs with the MMU off. It does the job of the kernel's `nvhe/hyp-init.S`.
//! * [`setup`]: what EL2 controls on a CPU, set once at its start, in Rust. It does the job of `asm/el2_setup.h`.
//! * [`host`]: vectors for the time when the host runs, and its registers. It does the job of `nvhe/host.S`.
//! * [`guest`]: the switch of the registers of a guest. It does the job of `entry.S`.
//! * [`vectors`]: vectors for the time when a guest runs, plain and with Spectre mitigations. It does the job of
//!   `hyp-entry.S`.
//!
//! What the text expects of `el2`, by name: the per-CPU variables `kvm_host_data`, `kvm_hyp_ctxt`, `overflow_stack`; the
//! word `hyp_physvirt_offset`; and the functions `hyp_init_cpu`, `hyp_start_cpu`, `handle_trap`, `hyp_panic` and
//! `hyp_fixup`. Which Rust code runs in between may use any register but, with a shadow call stack in the kernel, x18.

#[cfg(target_os = "none")]
#[macro_use]
#[rustfmt::skip]
mod asm;
#[cfg(target_os = "none")]
pub mod guest;
#[cfg(target_os = "none")]
pub mod host;
#[cfg(target_os = "none")]
pub mod init;
pub mod setup;
#[cfg(target_os = "none")]
pub mod vectors;

/// Where a context (`struct kvm_cpu_context`) has the keys of pointer authentication: five, of two words each.
#[cfg(target_os = "none")]
const KEYS: u64 = {
    use pkvm_kernel::layout::*;
    assert!(SR_APGAKEYHI_EL1 - SR_APIAKEYLO_EL1 == 9);
    CTXT_SYS_REGS + 8 * SR_APIAKEYLO_EL1
};

/// How a CPU came to EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// The kernel, still trusted, installed EL2 by a call to the stub that it left there at boot.
    Installed,
    /// Firmware started the CPU, by CPU_ON.
    CpuOn,
    /// Firmware woke the CPU from a suspend.
    Resume,
}

impl Start {
    /// The start with this number in the assembler text, which knows no others.
    pub const fn from_raw(raw: u64) -> Self {
        match raw {
            1 => Self::CpuOn,
            2 => Self::Resume,
            _ => Self::Installed,
        }
    }
    /// The number of the start in the assembler text.
    #[cfg(target_os = "none")]
    const fn raw(self) -> u64 {
        match self {
            Self::Installed => 0,
            Self::CpuOn => 1,
            Self::Resume => 2,
        }
    }
}
