// SPDX-License-Identifier: GPL-2.0-only
//! FP and SVE registers, which the hypervisor switches lazily for a guest and gives back to the host.

use crate::Context;
use crate::memory::{RAM, worked};
use crate::report::Report;
use pkvm_vmm::fpregs::Registers;
use pkvm_vmm::monitor::{Monitor, OP_FP};
use pkvm_vmm::vm::Kind;
use pkvm_vmm::{Error, Result};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Rounds of the guest for each kind of exit.
const GUEST_ROUNDS: u64 = 1000;
/// Rounds of the host's process between looks at whether it is to end.
const HOST_ROUNDS: u64 = 500;

/// Host processes watch their registers on the CPU where a guest uses its own.
pub fn fp(_: &Context, report: &mut Report) -> Result<()> {
    // All threads made from here on share one CPU, so that each switch between them is one of registers too.
    let mut one = CpuSet::new();
    one.set(0);
    sched_setaffinity(None, &one).map_err(|e| Error::setup("sched_setaffinity", e))?;
    let kinds: &[Kind] = if pkvm_vmm::vm::host_protects() {
        &[Kind::Protected, Kind::Normal]
    } else {
        report.say("this host makes no protected VMs");
        &[Kind::Normal]
    };
    for &kind in kinds {
        let what = if kind == Kind::Protected {
            "protected"
        } else {
            "normal"
        };
        for registers in [Registers::Neon, Registers::Sve] {
            if !registers.present() {
                report.say(format_args!("this machine has no {registers:?} registers"));
                continue;
            }
            let stop = Arc::new(AtomicBool::new(false));
            let told = stop.clone();
            let watcher = std::thread::spawn(move || {
                let (mut rounds, mut changed) = (0, 0);
                while !told.load(Ordering::Relaxed) {
                    changed += registers.watch(0x4057_0000_0000_0000 + rounds, HOST_ROUNDS);
                    rounds += HOST_ROUNDS;
                }
                (rounds, changed)
            });
            let vm = Monitor::start(kind, 1, RAM)?;
            let mut changed = 0;
            for exits in 0..4 {
                vm.post(0, OP_FP, &[0x6e57_0000_0000 << exits, GUEST_ROUNDS, exits])
                    .map_err(|e| Error::Setup(e.to_string()))?;
                changed += worked(vm.reply(0))?.results[0];
            }
            stop.store(true, Ordering::Relaxed);
            let (rounds, host_changed) = watcher.join().unwrap_or((0, 1));
            report.say(format_args!(
                "the host looked {rounds} times at its {registers:?} registers beside a {what} VM"
            ));
            report.equal(
                &format!("a {what} guest's registers stay beside a host's {registers:?}"),
                changed,
                0,
            );
            report.equal(
                &format!("a host's {registers:?} registers stay beside a {what} guest"),
                host_changed,
                0,
            );
        }
    }
    Ok(())
}
