// SPDX-License-Identifier: GPL-2.0-only
//! What the runner wrote into the flash behind the program.
#![expect(unsafe_code, reason = "the parameters are at a fixed address")]

/// Where they are; monitor.ld keeps the program below.
const AT: u64 = 0x4_0000;
const MAGIC: u64 = 0x706b_766d_2d6d_6f6e;

/// Little-endian words.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Params {
    magic: u64,
    /// Where the kernel starts.
    pub kernel: u64,
    /// Its device tree.
    pub dtb: u64,
    /// Size of the Non-secure memory.
    pub ram: u64,
    /// Number of CPUs.
    pub cpus: u64,
    /// The newest version of FF-A that is offered, 0 for none.
    pub ffa: u64,
    /// A fault that is armed from the start, see [`crate::ffa::fault`], and how often it shows.
    pub fault: [u64; 2],
    /// The version of PSCI, as the protocol writes it.
    pub psci: u64,
}

/// The parameters.
pub fn get() -> Params {
    // SAFETY: flash, which is mapped and which nobody writes.
    let params = unsafe { core::ptr::read_volatile(AT as *const Params) };
    assert_eq!(params.magic, MAGIC, "no parameters behind the program");
    params
}
