// SPDX-License-Identifier: GPL-2.0-only
//! The monitor's translation table, and access to devices and to the Non-secure world's memory, whose words change under
//! it: each is read or written once, by value.
#![expect(unsafe_code, reason = "physical addresses are accessed")]

use crate::regs::write;

use core::arch::asm;

/// Where the machine's Non-secure memory begins.
pub const RAM: u64 = 0x4000_0000;

#[repr(C, align(4096))]
struct Table([u64; 512]);

static ROOT: spin::Mutex<(Table, Table)> = spin::Mutex::new((Table([0; 512]), Table([0; 512])));

/// Writes the table: every address is its own physical one. Secure flash is read-only, secure RAM and devices are not
/// executable, and from 1 GiB on it is Non-secure memory.
pub fn make_table() {
    const BLOCK: u64 = 1;
    const TABLE: u64 = 3;
    const DEVICE: u64 = 0;
    const NORMAL: u64 = 1 << 2;
    const NON_SECURE: u64 = 1 << 5;
    /// AP[1], which is RES1 at EL3, inner shareable, accessed.
    const COMMON: u64 = 1 << 6 | 3 << 8 | 1 << 10;
    const READ_ONLY: u64 = 1 << 7;
    const NO_EXECUTE: u64 = 1 << 54;
    let mut guard = ROOT.lock();
    let (root, low) = &mut *guard;
    for (n, entry) in low.0.iter_mut().enumerate() {
        let at = (n as u64) << 21;
        *entry = match at {
            ..0x0400_0000 => at | BLOCK | NORMAL | COMMON | READ_ONLY,
            0x0800_0000..0x0c00_0000 => at | BLOCK | DEVICE | COMMON | NO_EXECUTE,
            0x0e00_0000..0x0f00_0000 => at | BLOCK | NORMAL | COMMON | NO_EXECUTE,
            _ => 0,
        };
    }
    root.0[0] = low.0.as_ptr() as u64 | TABLE;
    for (n, entry) in root.0.iter_mut().enumerate().skip(1) {
        *entry = (n as u64) << 30 | BLOCK | NORMAL | COMMON | NON_SECURE | NO_EXECUTE;
    }
}

/// Turns this CPU's MMU on.
pub fn mmu_on() {
    let root = ROOT.lock().0.0.as_ptr() as u64;
    write!("mair_el3", 0xff04);
    // A 39-bit space, 4 KiB pages, write-back walks, 40-bit physical addresses, RES1.
    write!(
        "tcr_el3",
        0x19 | 1 << 8 | 1 << 10 | 3 << 12 | 2 << 16 | 1 << 23 | 1 << 31
    );
    write!("ttbr0_el3", root);
    // SAFETY: everything in use is mapped at its own address. RES1 bits, I, C and M; alignment is checked for SP alone.
    unsafe {
        asm!(
            "tlbi alle3", "dsb sy", "isb",
            "msr sctlr_el3, {}", "isb",
            in(reg) 0x30c5_0830u64 | 1 << 12 | 1 << 3 | 1 << 2 | 1,
            options(nostack)
        );
    }
}

/// Reads a word of a device.
pub fn device_read(at: u64) -> u32 {
    // SAFETY: callers give addresses of devices of this machine, which the table maps.
    unsafe { core::ptr::read_volatile(at as *const u32) }
}

/// Writes a word of a device.
pub fn device_write(at: u64, value: u32) {
    // SAFETY: as for `device_read`.
    unsafe { core::ptr::write_volatile(at as *mut u32, value) };
}

/// Whether `len` bytes at `at` are Non-secure memory.
pub fn is_ram(at: u64, len: u64) -> bool {
    let end = RAM + crate::params::get().ram;
    at >= RAM && at.checked_add(len).is_some_and(|last| last <= end)
}

/// Copies from the Non-secure world; false if the range is not its memory.
pub fn copy_in(from: u64, to: &mut [u8]) -> bool {
    if !is_ram(from, to.len() as u64) {
        return false;
    }
    for (n, byte) in to.iter_mut().enumerate() {
        // SAFETY: the range was checked to be Non-secure memory, which is mapped and never referenced.
        *byte = unsafe { core::ptr::read_volatile((from + n as u64) as *const u8) };
    }
    true
}

/// Copies to the Non-secure world; false if the range is not its memory.
pub fn copy_out(to: u64, from: &[u8]) -> bool {
    if !is_ram(to, from.len() as u64) {
        return false;
    }
    for (n, byte) in from.iter().enumerate() {
        // SAFETY: as for `copy_in`.
        unsafe { core::ptr::write_volatile((to + n as u64) as *mut u8, *byte) };
    }
    true
}
