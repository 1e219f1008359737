// SPDX-License-Identifier: GPL-2.0-only
//! SVE at vector lengths that this machine has: the guest's Z, P and FFR and its ZCR_EL1 stay over exits, beside a
//! process of the host that uses SVE on the same CPU.

#![expect(
    unsafe_code,
    reason = "the program is assembled into this one and copied out of it"
)]

use crate::machine::{Features, Gic, Machine, vector_lengths};
use crate::report::Report;
use crate::{Skip, code};
use pkvm_vmm::fpregs::Registers;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

std::arch::global_asm!(include_str!("sve.S"));

fn program() -> &'static [u8] {
    unsafe extern "C" {
        static vm_feature_sve_start: [u8; 0];
        static vm_feature_sve_end: [u8; 0];
    }
    // SAFETY: the two symbols of sve.S bound one stretch of read-only data that nothing ever writes.
    unsafe {
        let start = (&raw const vm_feature_sve_start).cast::<u8>();
        let end = (&raw const vm_feature_sve_end).cast::<u8>();
        std::slice::from_raw_parts(start, end.offset_from_unsigned(start))
    }
}

fn machine(vq: u32, pattern: u64, zcr: u64) -> pkvm_vmm::Result<Machine> {
    let features = Features { bits: 0, vq };
    let machine = Machine::with(features, Gic::None, &[], program(), &code::vectors(&[]), |_| {
        Ok(())
    })?;
    machine.set_core(8 * 20, pattern)?;
    machine.set_core(8 * 21, zcr)?;
    Ok(machine)
}

/// Rounds of exits for each length.
const ROUNDS: u32 = 6;

/// Each length, beside the shortest.
pub fn sve(report: &mut Report) -> Result<(), Skip> {
    if !Registers::Sve.present() {
        return Err(Skip("this machine has no SVE".into()));
    }
    let mut one = CpuSet::new();
    one.set(0);
    sched_setaffinity(None, &one).map_err(|e| Skip(e.to_string()))?;
    // What the machine has is asked of a vCPU that may have all of it.
    let mut lengths = 0;
    Machine::with(
        Features { bits: 0, vq: 16 },
        Gic::None,
        &[],
        program(),
        &code::vectors(&[]),
        |vcpu| {
            lengths = vector_lengths(vcpu)?;
            Ok(())
        },
    )?;
    report.say(format_args!(
        "vector lengths, one bit for each 16 bytes: {lengths:#x}"
    ));
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    let watcher = std::thread::spawn(move || {
        let (mut rounds, mut changed) = (0, 0);
        while !told.load(Ordering::Relaxed) {
            changed += Registers::Sve.watch(0x4057_0000_0000_0000 + rounds, 200);
            rounds += 200;
        }
        (rounds, changed)
    });
    for vq in (1..=16).filter(|vq| lengths >> (vq - 1) & 1 != 0) {
        // A vCPU with this as its longest, and beside it one that chose the shortest by itself.
        let mut full = machine(vq, (0x1111_0000 + u64::from(vq)) << 16, 15)?;
        let mut short = machine(vq, (0x2222_0000 + u64::from(vq)) << 16, 0)?;
        let mut changed = 0;
        for _ in 0..ROUNDS {
            full.run_to_pause()?;
            changed += full.reports[1];
            short.run_to_pause()?;
            changed += short.reports[1];
        }
        report.equal(
            &format!("a guest with {vq} times 16 bytes has that length"),
            (full.reports[0], full.reports[2]),
            (16 * u64::from(vq), 16 * u64::from(vq)),
        );
        report.equal(
            &format!("another keeps to the shortest, of {vq}"),
            (short.reports[0], short.reports[2]),
            (16, 16),
        );
        report.equal(&format!("registers of {vq} times 16 bytes stay"), changed, 0);
    }
    stop.store(true, Ordering::Relaxed);
    let (rounds, changed) = watcher.join().unwrap_or((0, 1));
    report.say(format_args!(
        "the host looked {rounds} times at its own registers"
    ));
    report.equal("the host's registers stay", changed, 0);
    Ok(())
}
