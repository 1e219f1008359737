// SPDX-License-Identifier: GPL-2.0-only
//! Firmware at EL3 for QEMU's `virt,secure=on,virtualization=on`. It starts a kernel at Non-secure EL2 and answers its
//! SMCs: PSCI with states that lose a CPU's registers, FF-A as a secure partition manager with one partition, and calls
//! of its own by which tests make the FF-A side lie, look at what it holds, and see what reached it.
#![no_std]
#![no_main]

mod control;
mod ffa;
mod gic;
mod mem;
mod params;
mod psci;
mod regs;
mod start;
mod uart;

use core::fmt::Write;
use start::Frame;

/// What a call that nobody knows leaves in x0.
const NOT_SUPPORTED: u64 = u64::MAX;

/// Where each CPU arrives after reset, its MMU off, on its own stack.
extern "C" fn main_on(cpu: usize) -> ! {
    if cpu == 0 {
        mem::make_table();
    }
    mem::mmu_on();
    if cpu == 0 {
        gic::init_distributor();
        ffa::init();
    }
    gic::init_cpu(cpu);
    regs::open_up();
    if cpu != 0 {
        psci::park(cpu);
    }
    psci::boot();
    start::release_others();
    let params = params::get();
    Frame::entry(params.kernel, params.dtb).leave()
}

/// Answers an SMC.
fn smc(frame: &mut Frame) {
    /// SMCCC 1.3; see [`arch`].
    const OWNER: u64 = 0x3f;
    let function = frame.x[0];
    if !control::is_own(function) && !psci::is_idle(frame) {
        let [x0, x1, x2, x3, ..] = frame.x;
        control::record([x0, x1, x2, x3]);
    }
    if let Some(id) = psci::from_v0_1(function) {
        return psci::call(id, frame);
    }
    // Bit 16 is a hint about SVE and no part of the number.
    let id = function & 0xffff_ffff & !(1 << 16);
    let fast = id >> 31 == 1;
    match id >> 24 & OWNER {
        0 if fast => frame.x[0] = arch(id, frame.x[1]),
        3 if fast => control::call(id, frame),
        4 if fast && id & 0xffff < 0x20 => psci::call(id, frame),
        4 if fast && (0x60..=0xff).contains(&(id & 0xffff)) => ffa::call(id, frame),
        _ => frame.x[0] = NOT_SUPPORTED,
    }
}

/// Calls of the architecture.
fn arch(id: u64, which: u64) -> u64 {
    const VERSION: u64 = 0x8000_0000;
    const FEATURES: u64 = 0x8000_0001;
    const SMCCC_1_3: u64 = 0x1_0003;
    match id {
        VERSION => SMCCC_1_3,
        FEATURES if matches!(which & 0xffff_ffff, VERSION | FEATURES) => 0,
        _ => NOT_SUPPORTED,
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(uart::Uart, "\nmonitor panic: {info}");
    psci::power_off()
}
