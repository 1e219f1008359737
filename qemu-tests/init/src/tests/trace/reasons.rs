// SPDX-License-Identifier: GPL-2.0-only
//! Each way into EL2 that a host can take at will, and what the trace says of it.

use super::{alternate, by_cpu, demand, none_lost, times};
use crate::hostile::device::Access;
use crate::hostile::facts::Map;
use crate::hostile::{Hostile, code};
use crate::ktap::note;
use crate::tests::pin_to_cpu;
use crate::tests::trace::remote::{Line, Remote, boot_time};

/// How often each thing is done.
const TIMES: usize = 20;

/// Does something often, and finds `whole` that often among the records of the CPU that did it.
fn expect(
    remote: &Remote,
    what: &str,
    whole: &[&str],
    mut act: impl FnMut() -> Result<(), String>,
) -> Result<(), String> {
    remote.write("buffer_size_kb", "512")?;
    remote.event("hyp_enter", true)?;
    remote.event("hyp_exit", true)?;
    let from = boot_time();
    remote.on(true)?;
    (0..TIMES).try_for_each(|_| act())?;
    remote.on(false)?;
    let lines = remote.take(None)?;
    remote.clear()?;
    none_lost(&lines)?;
    times(&lines, from)?;
    let cpus = by_cpu(&lines);
    // What no other test may see is no part of what `alternate` knows.
    for (cpu, lines) in cpus.iter().filter(|_| whole[0] != "enter unknown") {
        alternate(lines).map_err(|why| format!("{what}, CPU {cpu}: {why}"))?;
    }
    demand(lines.iter().all(|line| line.number("vcpu") == 0), || {
        format!("{what}: a vCPU runs where there is none")
    })?;
    let words: Vec<String> = cpus.get(&0).into_iter().flatten().map(Line::short).collect();
    let count = words.windows(whole.len()).filter(|w| *w == whole).count();
    note(&format!("{what}: {count} times {}", whole.join(", ")));
    demand(count >= TIMES, || {
        format!("{what}: {count} of {TIMES} times {}", whole.join(", "))
    })
}

/// An SMC with a function in x0.
fn smc(h: &Hostile, imm: u64, function: u64) -> Result<(), String> {
    let mut regs = [0; 18];
    regs[0] = function;
    h.smc(imm, regs).map(drop).map_err(|e| format!("smc: {e}"))
}

/// ID_AA64PFR1_EL1 as the CPU has it.
fn features(h: &Hostile) -> Result<u64, String> {
    let x = h
        .exec(&code::READ_ID_AA64PFR1, [0; 4])
        .map_err(|e| e.to_string())?;
    x.map(|x| x[0])
        .ok_or_else(|| "the ID register is undefined".to_owned())
}

/// Has EL1 run instructions that must be undefined.
fn undefined(h: &Hostile, code: &[u32]) -> Result<(), String> {
    match h.exec(code, [0; 4]).map_err(|e| e.to_string())? {
        None => Ok(()),
        Some(x) => Err(format!("it reads as {:#x}", x[0])),
    }
}

/// Calls to firmware and memory of EL2's.
pub fn reasons(remote: &Remote) -> Result<(), String> {
    const PSCI_VERSION: u64 = 0x8400_0000;
    const TRUSTED_OS: u64 = 0xb200_ff01;
    let h = Hostile::open().map_err(|e| format!("/dev/hostile: {e}"))?;
    let map = Map::read(&h)?;
    pin_to_cpu(0)?;
    let to_firmware = ["enter smc", "exit smc", "enter smc", "exit eret_host"];
    expect(remote, "a PSCI call", &to_firmware, || smc(&h, 0, PSCI_VERSION))?;
    expect(remote, "a call to a trusted OS", &to_firmware, || {
        smc(&h, 0, TRUSTED_OS)
    })?;
    let refused = ["enter smc", "exit eret_host"];
    expect(remote, "an SMC #1", &refused, || smc(&h, 1, PSCI_VERSION))?;
    let abort = ["enter host_abort", "exit eret_host"];
    expect(remote, "a page of EL2's", &abort, || {
        match h.touch(map.hyp, Access::Read, false) {
            Ok(value) => Err(format!("the host reads {value:#x} in EL2's memory")),
            Err(_) => Ok(()),
        }
    })?;
    // The C object panics at an exception that it has no name for; with SME in the CPU and not in the kernel, SMCR_EL1
    // is such a one.
    if crate::system::cmdline_has("hyp=c") || features(&h)? & (0xf << 24) == 0 {
        note("no exception without a name");
        return Ok(());
    }
    let unnamed = ["enter unknown", "exit eret_host"];
    expect(remote, "SMCR_EL1", &unnamed, || undefined(&h, &code::READ_SMCR))
}

/// A register of memory tagging, which EL2 keeps from a kernel without it.
pub fn registers(remote: &Remote) -> Result<(), String> {
    let h = Hostile::open().map_err(|e| format!("/dev/hostile: {e}"))?;
    demand((features(&h)? >> 8) & 0xf >= 2, || {
        "this CPU has no memory tagging".to_owned()
    })?;
    pin_to_cpu(0)?;
    let whole = ["enter sys", "exit eret_host"];
    // MRS x0, GMID_EL1.
    expect(remote, "GMID_EL1", &whole, || undefined(&h, &[0xd539_0080]))
}
