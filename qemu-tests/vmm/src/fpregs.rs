// SPDX-License-Identifier: GPL-2.0-only
//! A process that watches its own FP and SVE registers: the hypervisor saves and restores them behind the host's back.

#![expect(
    unsafe_code,
    reason = "functions in assembler, which alone can name these registers"
)]

std::arch::global_asm!(include_str!("fpregs.S"));

unsafe extern "C" {
    fn pvm_fpregs_neon(pattern: u64, rounds: u64) -> u64;
    fn pvm_fpregs_sve(pattern: u64, rounds: u64) -> u64;
}

/// CNTVCT_EL0 of this process.
pub fn ticks() -> u64 {
    let ticks;
    // SAFETY: reads a counter, in order with what comes before.
    unsafe { std::arch::asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nostack)) };
    ticks
}

/// `pointer` signed with this process's instruction key A; unchanged where the machine has no such keys.
pub fn sign(pointer: u64) -> u64 {
    let mut signed = pointer;
    // SAFETY: PACIA1716, a hint that changes x17 alone.
    unsafe {
        std::arch::asm!("hint #8", inout("x17") signed, in("x16") 0x1234_u64, options(nomem, nostack));
    }
    signed
}

/// Which registers are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registers {
    /// V0 to V31.
    Neon,
    /// Z0 to Z30 at the whole vector length, and four predicates.
    Sve,
}

impl Registers {
    /// Whether this machine has them.
    pub fn present(self) -> bool {
        match self {
            Self::Neon => true,
            Self::Sve => std::arch::is_aarch64_feature_detected!("sve"),
        }
    }

    /// Fills the registers, then looks at them `rounds` times without a system call in between. Returns how many values
    /// were found changed; nothing is watched where the machine has no such registers.
    pub fn watch(self, pattern: u64, rounds: u64) -> u64 {
        if !self.present() {
            return 0;
        }
        match self {
            // SAFETY: the function keeps to the procedure call standard and touches registers and its stack frame alone.
            Self::Neon => unsafe { pvm_fpregs_neon(pattern, rounds) },
            // SAFETY: as above, and the machine has SVE.
            Self::Sve => unsafe { pvm_fpregs_sve(pattern, rounds) },
        }
    }
}
