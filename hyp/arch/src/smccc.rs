// SPDX-License-Identifier: GPL-2.0-only
//! Calls to the firmware, by the SMC Calling Convention (Arm DEN0028).
#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "SMC instruction"))]

/// Registers x0 to x17 of a call: arguments on the way in, results on the way out.
pub type Regs = [u64; 18];

/// Makes the call. By SMCCC 1.1 the firmware preserves x18 and up, and memory is changed only as the called function
/// is known to; by SMCCC 1.0 x4 to x17 come back with any value, so use only what the function returns.
pub fn smc(regs: &mut Regs) {
    #[cfg(target_os = "none")]
    {
        let [
            x0,
            x1,
            x2,
            x3,
            x4,
            x5,
            x6,
            x7,
            x8,
            x9,
            x10,
            x11,
            x12,
            x13,
            x14,
            x15,
            x16,
            x17,
        ] = regs;
        // SAFETY: firmware runs at EL3, below every protection EL2 has; that it follows the convention is what the
        // whole system rests on. Every register it may change is an output.
        unsafe {
            core::arch::asm!(
                "smc #0",
                inout("x0") * x0,
                inout("x1") * x1,
                inout("x2") * x2,
                inout("x3") * x3,
                inout("x4") * x4,
                inout("x5") * x5,
                inout("x6") * x6,
                inout("x7") * x7,
                inout("x8") * x8,
                inout("x9") * x9,
                inout("x10") * x10,
                inout("x11") * x11,
                inout("x12") * x12,
                inout("x13") * x13,
                inout("x14") * x14,
                inout("x15") * x15,
                inout("x16") * x16,
                inout("x17") * x17,
                options(nostack),
            );
        }
    }
    #[cfg(not(target_os = "none"))]
    crate::fake::smc(regs);
}

/// A call with up to seven arguments after the function id; its results x0 to x3.
pub fn call(function: u64, arguments: &[u64]) -> [u64; 4] {
    let mut regs = [0; 18];
    regs[0] = function;
    for (register, argument) in regs[1..8].iter_mut().zip(arguments) {
        *register = *argument;
    }
    smc(&mut regs);
    [regs[0], regs[1], regs[2], regs[3]]
}
