// SPDX-License-Identifier: GPL-2.0-only
//! Running instructions from a physical page, in user space.
#![expect(unsafe_code, reason = "jumps to an address that no compiler has made")]

use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::fs::File;
use std::io::Result;

/// Maps the page at `phys` by the device and calls its first word.
pub fn run(device: &File, phys: u64) -> Result<()> {
    let prot = ProtFlags::READ | ProtFlags::EXEC;
    // SAFETY: a new mapping at an address of the kernel's choice takes nothing from anybody.
    let at = unsafe { mmap(std::ptr::null_mut(), 4096, prot, MapFlags::SHARED, device, phys)? };
    // SAFETY: none is possible: what is there is no function. The caller is a process that lives only to see whether
    // the fetch is refused, which ends it by a signal; if it is not, whatever it does ends with this process.
    unsafe {
        let code: extern "C" fn() = std::mem::transmute(at);
        code();
    }
    Ok(())
}
