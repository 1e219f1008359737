// SPDX-License-Identifier: GPL-2.0-only
//! PSCI 1.3 (DEN 0022), 0.2 or 0.1: CPUs on and off, suspend with and without power, the system off, reset and suspended
//! to RAM.

use crate::control::{self, Event};
use crate::mem::{RAM, device_write, is_ram};
use crate::start::{Frame, MAX_CPUS};
use crate::{NOT_SUPPORTED, gic, params, regs};
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Mutex;

const SUCCESS: i64 = 0;
const INVALID_PARAMETERS: i64 = -2;
const DENIED: i64 = -3;
const ALREADY_ON: i64 = -4;
const ON_PENDING: i64 = -5;
const INTERNAL_FAILURE: i64 = -6;
const INVALID_ADDRESS: i64 = -9;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Off,
    /// Told to start, with this address and context.
    Pending(u64, u64),
    On,
}

static CPUS: Mutex<[State; MAX_CPUS]> = Mutex::new([State::Off; MAX_CPUS]);

/// Says that the first CPU is on.
pub fn boot() {
    CPUS.lock()[0] = State::On;
}

/// Where a CPU waits that is off.
pub fn park(cpu: usize) -> ! {
    loop {
        gic::wait_for_wake();
        let mut cpus = CPUS.lock();
        if let State::Pending(entry, context) = cpus[cpu] {
            cpus[cpu] = State::On;
            drop(cpus);
            regs::forget();
            Frame::entry(entry, context).leave();
        }
    }
}

/// The index of the CPU with this affinity, if there is one.
fn index_of(mpidr: u64) -> Option<usize> {
    // Aff1 and Aff0 are all that this machine uses; bits 31:24 are no affinity.
    if mpidr & !0xffff != 0 || mpidr & 0xf0 != 0 {
        return None;
    }
    let index = (mpidr >> 8) * 16 + (mpidr & 0xff);
    let there = index < params::get().cpus.min(MAX_CPUS as u64);
    usize::try_from(index).ok().filter(|_| there)
}

fn is_entry(at: u64) -> bool {
    at >= RAM && at.is_multiple_of(4) && is_ram(at, 4)
}

/// See [`refuse`].
static REFUSES: AtomicBool = AtomicBool::new(false);

/// Says whether to refuse what switches off, resets or suspends a CPU or the system, as broken firmware may. An idle CPU
/// is not refused.
pub fn refuse(yes: bool) {
    REFUSES.store(yes, Ordering::Relaxed);
}

/// Whether this is the call by which a kernel that has nothing to do enters a state of the device tree. Nobody can say when
/// it does that.
pub fn is_idle(frame: &Frame) -> bool {
    let [x0, x1, ..] = frame.x;
    from_v0_1(x0).unwrap_or(x0) == CPU_SUSPEND && matches!(x1, RETENTION | POWER_DOWN)
}

const CPU_SUSPEND: u64 = 0xc400_0001;

/// The standard number of a call that has one of version 0.1. Those are in the device tree and may be any; these are what
/// KVM once had for its guests, which keep to no convention, and the same without bit 16. The standard ones of version 0.2
/// work beside them.
pub fn from_v0_1(function: u64) -> Option<u64> {
    const FIRST: u64 = 0x95c0_ba5e;
    // CPU_SUSPEND, CPU_OFF, CPU_ON, MIGRATE.
    const CALLS: [u64; 4] = [CPU_SUSPEND, 0x8400_0002, 0xc400_0003, 0xc400_0005];
    let n = usize::try_from((function & !(1 << 16)).checked_sub(FIRST)?).ok()?;
    CALLS.get(n).copied().filter(|_| params::get().psci == 0x0_0001)
}

/// Answers a call.
pub fn call(id: u64, frame: &mut Frame) {
    let [_, x1, x2, x3, ..] = frame.x;
    // A 32-bit call has 32-bit arguments.
    let wide = id & 1 << 30 != 0;
    let arg = |x: u64| if wide { x } else { x & 0xffff_ffff };
    let (a1, a2, a3) = (arg(x1), arg(x2), arg(x3));
    let version = params::get().psci;
    let refuses = REFUSES.load(Ordering::Relaxed);
    let result = match id & 0xff {
        0x00 => version.cast_signed(),
        0x01 => suspend(frame, a1, a2, a3),
        0x02 if refuses => DENIED,
        0x02 => off(),
        0x03 => on(a1, a2, a3),
        0x04 => affinity_info(a1, a2),
        // MIGRATE_INFO_TYPE: no trusted OS that would have to move.
        0x06 => 2,
        0x08 | 0x09 if refuses => INTERNAL_FAILURE,
        0x08 => {
            power_off();
        }
        0x09 => reset(),
        // Version 0.2 has no more.
        _ if version < 0x1_0000 => NOT_SUPPORTED.cast_signed(),
        0x0a => features(a1),
        0x0e | 0x12 | 0x15 if refuses => INTERNAL_FAILURE,
        0x0e => system_suspend(frame, a1, a2),
        // PSCI_SET_SUSPEND_MODE: the platform coordinates.
        0x0f if a1 == 0 => SUCCESS,
        // SYSTEM_RESET2, warm: nothing survives any reset here.
        0x12 if a1 == 0 => reset(),
        // SYSTEM_OFF2, to hibernate, which is the default too.
        0x15 if a1 <= 1 => {
            power_off();
        }
        0x0f | 0x12 | 0x15 => INVALID_PARAMETERS,
        _ => NOT_SUPPORTED.cast_signed(),
    };
    if let Some(x0) = frame.x.first_mut().filter(|_| result != RESUMED) {
        *x0 = result.cast_unsigned();
    }
}

/// The result of a suspend from which the caller does not return: the frame is that of the resume.
const RESUMED: i64 = i64::MIN;

fn features(id: u64) -> i64 {
    const SMCCC_VERSION: u64 = 0x8000_0000;
    const KNOWN: [u64; 17] = [
        SMCCC_VERSION,
        0x8400_0000,
        // CPU_SUSPEND: original format of the state, coordinated by the platform.
        0x8400_0001,
        0xc400_0001,
        0x8400_0002,
        0x8400_0003,
        0xc400_0003,
        0x8400_0004,
        0xc400_0004,
        0x8400_0006,
        0x8400_0008,
        0x8400_0009,
        0x8400_000a,
        0x8400_000e,
        0xc400_000e,
        0x8400_0012,
        0xc400_0012,
    ];
    match id & 0xffff_ffff {
        known if KNOWN.contains(&known) => SUCCESS,
        // SYSTEM_OFF2: the one type that there is.
        0x8400_0015 | 0xc400_0015 => 1,
        _ => NOT_SUPPORTED.cast_signed(),
    }
}

fn on(target: u64, entry: u64, context: u64) -> i64 {
    let Some(index) = index_of(target) else {
        return INVALID_PARAMETERS;
    };
    if !is_entry(entry) {
        return INVALID_ADDRESS;
    }
    let mut cpus = CPUS.lock();
    match cpus[index] {
        State::On => return ALREADY_ON,
        State::Pending(..) => return ON_PENDING,
        State::Off => cpus[index] = State::Pending(entry, context),
    }
    drop(cpus);
    control::count(Event::CpuOn);
    gic::wake(index);
    SUCCESS
}

fn off() -> ! {
    let cpu = regs::cpu();
    // Its registers are lost before others may see that it is off, and who sees it counted may switch it on.
    regs::forget();
    CPUS.lock()[cpu] = State::Off;
    control::count(Event::CpuOff);
    park(cpu)
}

fn affinity_info(target: u64, level: u64) -> i64 {
    match index_of(target) {
        Some(index) if level == 0 => match CPUS.lock()[index] {
            State::On => 0,
            State::Off => 1,
            State::Pending(..) => 2,
        },
        _ => INVALID_PARAMETERS,
    }
}

/// The states that the device tree offers: StateID, and bit 16 for one that loses power.
pub const RETENTION: u64 = 0x0000_0001;
/// See [`RETENTION`].
pub const POWER_DOWN: u64 = 0x0001_0002;

fn suspend(frame: &mut Frame, state: u64, entry: u64, context: u64) -> i64 {
    match state {
        RETENTION => {
            control::count(Event::Standby);
            regs::wait();
            SUCCESS
        }
        POWER_DOWN if !is_entry(entry) => INVALID_ADDRESS,
        POWER_DOWN => {
            control::count(Event::PowerDown);
            lose_power(frame, entry, context)
        }
        _ => INVALID_PARAMETERS,
    }
}

fn system_suspend(frame: &mut Frame, entry: u64, context: u64) -> i64 {
    let cpu = regs::cpu();
    if !is_entry(entry) {
        return INVALID_ADDRESS;
    }
    let alone = CPUS
        .lock()
        .iter()
        .enumerate()
        .all(|(n, state)| n == cpu || *state == State::Off);
    if !alone {
        return DENIED;
    }
    control::count(Event::SystemSuspend);
    lose_power(frame, entry, context)
}

/// Waits for an interrupt and comes back as if from reset, at `entry`.
fn lose_power(frame: &mut Frame, entry: u64, context: u64) -> i64 {
    regs::wait();
    regs::forget();
    *frame = Frame::entry(entry, context);
    RESUMED
}

/// Pulls a line of the GPIO that controls the machine's power.
fn pull(line: u32) -> ! {
    const PL061: u64 = 0x090b_0000;
    const DIRECTION: u64 = PL061 + 0x400;
    // A word of the data register changes the lines that are set in bits 9:2 of its address.
    let data = PL061 + (4u64 << line);
    device_write(DIRECTION, 1 << line);
    device_write(data, 0);
    device_write(data, 1 << line);
    loop {
        regs::wait();
    }
}

/// Ends the machine.
pub fn power_off() -> ! {
    pull(0)
}

fn reset() -> ! {
    pull(1)
}
