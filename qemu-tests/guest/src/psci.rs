// SPDX-License-Identifier: GPL-2.0-only
//! Bringing vCPUs up and down by PSCI.

use crate::Report;
use crate::cpu::{hvc, param, store};
use crate::start::{MAX_CPUS, cpu, secondary as entry};
use core::sync::atomic::{AtomicU64, Ordering};

const CPU_OFF: u64 = 0x8400_0002;
const CPU_ON: u64 = 0xc400_0003;
const AFFINITY_INFO: u64 = 0xc400_0004;
const INVALID: i32 = -2;
const ALREADY_ON: i32 = -4;
const INVALID_ADDRESS: i32 = -9;
const ROUNDS: u64 = 10;

/// How often each vCPU has come up.
static ARRIVED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// What a secondary does: it says that it is here, and goes off again.
pub fn secondary(index: usize) -> ! {
    if let Some(count) = ARRIVED.get(index) {
        store(count, count.load(Ordering::SeqCst) + u64::from(cpu() == index));
    }
    loop {
        hvc([CPU_OFF, 0, 0, 0]);
    }
}

fn call(x: [u64; 4]) -> i32 {
    hvc(x)[0] as i32
}

/// Waits for something that another vCPU does; it gets time because every check exits to the host.
fn wait(what: impl Fn() -> bool) -> bool {
    for _ in 0..200_000 {
        if what() {
            return true;
        }
        // The read of a parameter leaves the guest.
        param(0);
    }
    false
}

/// The test.
pub fn test(report: &mut Report) {
    let cpus = param(2).clamp(1, MAX_CPUS as u64);
    for (what, x, wants) in [
        ("of a CPU that is not", [CPU_ON, 0x55, entry(), 1], &[INVALID][..]),
        ("of all ones", [CPU_ON, u64::MAX, entry(), 1], &[INVALID][..]),
        ("of itself", [CPU_ON, 0, entry(), 0], &[ALREADY_ON][..]),
    ] {
        let got = call(x);
        report.result(
            wants.contains(&got) || got == INVALID_ADDRESS,
            format_args!("CPU_ON {what}: {got}"),
        );
    }
    for index in 1..cpus {
        let mut good = true;
        for round in 1..=ROUNDS {
            let on = call([CPU_ON, index, entry(), index]);
            let came = wait(|| ARRIVED[index as usize].load(Ordering::SeqCst) == round);
            let off = wait(|| call([AFFINITY_INFO, index, 0, 0]) == 1);
            if on != 0 || !came || !off {
                good = false;
                report.note(format_args!(
                    "round {round}: CPU_ON {on}, came {came}, went {off}"
                ));
                break;
            }
        }
        report.result(good, format_args!("vCPU {index} goes on and off {ROUNDS} times"));
    }
}
