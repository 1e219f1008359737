// SPDX-License-Identifier: GPL-2.0-only
//! SMCs of the host: EL2 traps them all, serves PSCI, and refuses what is malformed.

use super::{Bench, Want};
use crate::hostile::Reply;

fn regs(x0: u64) -> [u64; 18] {
    let mut regs: [u64; 18] = std::array::from_fn(|n| 0xca4a_0000 + n as u64);
    regs[0] = x0;
    regs
}

/// Function ids that must not reach the firmware as they are.
pub fn smc(b: &mut Bench) -> Result<(), String> {
    const VERSION: u64 = 0x8400_0000;
    const CPU_ON32: u64 = 0x8400_0003;
    const CPU_ON64: u64 = 0xc400_0003;
    let refused = |reply: &Reply| reply.x0() == -1;
    let version = b.h.smc(0, regs(VERSION)).map_err(|e| e.to_string())?;
    b.expect(
        &format!("PSCI_VERSION: {version}"),
        version.x0() > 0 && version.x0() < 1 << 31,
    );
    // EL2 looks past the hint, but the firmware gets it and need not know it.
    let hinted = b.h.smc(0, regs(VERSION | 1 << 16)).map_err(|e| e.to_string())?;
    b.expect(
        &format!("PSCI_VERSION with the hint: {hinted}"),
        hinted.x0() == version.x0() || refused(&hinted),
    );
    for imm in [1, 0xffff] {
        let reply = b.h.smc(imm, regs(VERSION)).map_err(|e| e.to_string())?;
        b.judge(
            &format!("SMC #{imm:#x}"),
            &reply,
            0xca4a_0001,
            Want::NotSupported,
            None,
        );
    }
    for bit in [32, 48, 63] {
        let reply = b.h.smc(0, regs(VERSION | 1 << bit)).map_err(|e| e.to_string())?;
        b.judge(
            &format!("PSCI_VERSION with bit {bit}"),
            &reply,
            0xca4a_0001,
            Want::NotSupported,
            None,
        );
    }
    for bit in [17, 20, 23] {
        let reply = b.h.smc(0, regs(VERSION | 1 << bit)).map_err(|e| e.to_string())?;
        b.expect(&format!("PSCI_VERSION with bit {bit}: {reply}"), refused(&reply));
    }
    // CPU_ON: only the 64-bit call, only CPUs that are there, only with a clean MPIDR.
    for (what, id, mpidr, want) in [
        ("32-bit CPU_ON", CPU_ON32, 1, -1),
        ("CPU_ON of a CPU that is not", CPU_ON64, 0x77, -2),
        ("CPU_ON with reserved bits", CPU_ON64, 1 << 63, -2),
        ("CPU_ON of all ones", CPU_ON64, u64::MAX, -2),
        ("CPU_ON of a CPU that is on", CPU_ON64, 0, -4),
        ("32-bit CPU_SUSPEND", 0x8400_0001, 0, -1),
        ("32-bit SYSTEM_SUSPEND", 0x8400_000e, 0, -1),
        ("a PSCI call that is not", 0x8400_001f, 0, -1),
        ("SDEI_VERSION", 0xc400_0020, 0, -1),
        ("SDEI_EVENT_REGISTER", 0xc400_0021, 0, -1),
        ("FFA_VERSION of bit 31", 0x8400_0063, 0x8001_0000, -1),
        ("RMI_VERSION", 0xc400_0150, 0, -1),
        ("an unknown standard call", 0x8400_7fff, 0, -1),
        ("an unknown vendor call", 0xc600_1234, 0, -1),
    ] {
        let mut regs = regs(id);
        (regs[1], regs[2], regs[3]) = (mpidr, 0, 0);
        let reply = b.h.smc(0, regs).map_err(|e| format!("{what}: {e}"))?;
        let x0 = i64::from(reply.regs[0] as u32 as i32);
        b.expect(&format!("{what}: {:#x}, not {want}", reply.regs[0]), x0 == want);
    }
    without_ffa(b)
}

/// FF-A where the firmware has none: no version, and everything else as if none were agreed upon yet.
fn without_ffa(b: &mut Bench) -> Result<(), String> {
    const VERSION: u64 = 0x8400_0063;
    let mut wanted = regs(VERSION);
    wanted[1] = 0x1_0002;
    let version = b.h.smc(0, wanted).map_err(|e| e.to_string())?;
    if version.regs[0] as u32 != u32::MAX {
        println!("# the firmware has FF-A: not tested without");
        return Ok(());
    }
    // ERROR, FEATURES, RXTX_MAP in both widths, ID_GET, MEM_SHARE, MEM_RECLAIM, MEM_FRAG_TX, NOTIFICATION_INFO_GET, and a number
    // without a meaning.
    for id in [
        0x8400_0060,
        0x8400_0064,
        0x8400_0066,
        0xc400_0066,
        0x8400_0069,
        0xc400_0073,
        0x8400_0077,
        0x8400_007b,
        0xc400_0083,
        0xc400_00ff,
    ] {
        let reply = b.h.smc(0, regs(id)).map_err(|e| e.to_string())?;
        let mut error = [0; 18];
        (error[0], error[2]) = (0x8400_0060, (-2_i64).cast_unsigned());
        b.expect(&format!("FF-A {id:#x}: {reply}"), reply.regs == error);
    }
    Ok(())
}
