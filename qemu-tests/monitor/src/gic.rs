// SPDX-License-Identifier: GPL-2.0-only
//! The GICv3 with two security states: all interrupts are Group 1 Non-secure, except one SGI of Group 0 by which the
//! monitor wakes a CPU that is off.
#![expect(unsafe_code, reason = "the CPU interface is system registers")]

use crate::mem::{device_read, device_write};
use crate::regs::{read, wait, write};

const DISTRIBUTOR: u64 = 0x0800_0000;
const REDISTRIBUTORS: u64 = 0x080a_0000;
const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;
/// The SGI that is the monitor's.
const WAKE: u32 = 15;

/// Gives all shared interrupts to the Non-secure state, and turns the distributor on.
pub fn init_distributor() {
    const CTLR: u64 = DISTRIBUTOR;
    const TYPER: u64 = DISTRIBUTOR + 4;
    const IGROUPR: u64 = DISTRIBUTOR + 0x80;
    // Affinity routing in both states, while the groups are off.
    device_write(CTLR, 3 << 4);
    for n in 1..=u64::from(device_read(TYPER) & 31) {
        device_write(IGROUPR + 4 * n, u32::MAX);
    }
    device_write(CTLR, 3 << 4 | 7);
}

/// The same for this CPU's own interrupts and its interface.
pub fn init_cpu(cpu: usize) {
    let frame = REDISTRIBUTORS + cpu as u64 * REDISTRIBUTOR_SIZE;
    let waker = frame + 0x14;
    device_write(waker, device_read(waker) & !2);
    while device_read(waker) & 4 != 0 {}
    let sgis = frame + 0x1_0000;
    device_write(sgis + 0x80, !(1 << WAKE));
    device_write(sgis + 0x100, 1 << WAKE);

    // The system register interface at all levels, then: no interrupt is masked, Group 0 on.
    write!("S3_6_C12_C12_5", 15);
    write!("S3_4_C12_C9_5", 15);
    write!("S3_0_C4_C6_0", 0xff);
    write!("S3_0_C12_C12_6", 1);
}

/// Wakes another CPU.
pub fn wake(cpu: usize) {
    let (aff1, aff0) = (cpu as u64 / 16, cpu as u64 % 16);
    write!("S3_0_C12_C11_7", u64::from(WAKE) << 24 | aff1 << 16 | 1 << aff0);
}

/// Waits until [`wake`] is for this CPU. Afterwards no interrupt of the monitor's is pending here.
pub fn wait_for_wake() {
    // Interrupts that the kernel left enabled must not wake a CPU that is off.
    write!("S3_0_C4_C6_0", 0xff);
    loop {
        wait();
        // ICC_IAR0_EL1 and ICC_EOIR0_EL1.
        let id = read!("S3_0_C12_C8_0");
        if id < 1020 {
            write!("S3_0_C12_C8_1", id);
        }
        if id == u64::from(WAKE) {
            return;
        }
    }
}
