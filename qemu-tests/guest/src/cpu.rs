// SPDX-License-Identifier: GPL-2.0-only
//! System registers by number, hypercalls, and the test device.
#![expect(unsafe_code, reason = "instructions and device registers")]

use crate::start::{Exception, caught};
use core::arch::{asm, global_asm};
use core::fmt;

/// A system register by its encoding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reg {
    /// Op0, op1, CRn, CRm, op2.
    pub op: (u32, u32, u32, u32, u32),
}

/// Names a register by its encoding.
pub const fn reg(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> Reg {
    Reg {
        op: (op0, op1, crn, crm, op2),
    }
}

impl fmt::Display for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (op0, op1, crn, crm, op2) = self.op;
        write!(f, "S{op0}_{op1}_C{crn}_C{crm}_{op2}")
    }
}

global_asm!(
    r#"
    .pushsection .data.patch, "awx"
    .balign 64
    .global patched
patched:
    nop
    ret
    .popsection
"#
);

unsafe extern "C" {
    static mut patched: [u32; 2];
}

/// Runs one instruction with x0 given; the value of x0 after it comes back.
fn run(instruction: u32, x0: u64) -> Result<u64, Exception> {
    let at = (&raw mut patched).cast::<u32>();
    // SAFETY: the two words of the patch area; the second is a return. Only vCPU 0 patches.
    unsafe {
        core::ptr::write_volatile(at, instruction);
        asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb", in(reg) at);
    }
    caught(|| {
        let mut x = x0;
        // SAFETY: the area is an instruction of the caller's choice that touches only x0 and a return; the
        // exception that it may take is stepped over. It is called as a function that may change what a call may.
        unsafe { asm!("blr {at}", at = in(reg) at, inout("x0") x, clobber_abi("C")) };
        x
    })
}

fn encode(read: bool, reg: Reg) -> u32 {
    let (op0, op1, crn, crm, op2) = reg.op;
    let base = if read { 0xd530_0000 } else { 0xd510_0000 };
    base | (op0 & 1) << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5
}

/// MRS.
pub fn read(reg: Reg) -> Result<u64, Exception> {
    run(encode(true, reg), 0)
}

/// MSR.
pub fn write(reg: Reg, value: u64) -> Result<(), Exception> {
    run(encode(false, reg), value).map(drop)
}

/// Any instruction that uses no register but x0.
pub fn instruction(word: u32) -> Result<u64, Exception> {
    run(word, 0)
}

/// HVC #0 with x0 to x3; all four come back.
pub fn hvc(x: [u64; 4]) -> [u64; 4] {
    let [mut a, mut b, mut c, mut d] = x;
    // SAFETY: SMCCC lets a call change x0 to x17 and nothing else; it may share a page, which is not Rust's.
    unsafe {
        asm!("hvc #0", inout("x0") a, inout("x1") b, inout("x2") c, inout("x3") d,
            lateout("x4") _, lateout("x5") _, lateout("x6") _, lateout("x7") _, lateout("x8") _,
            lateout("x9") _, lateout("x10") _, lateout("x11") _, lateout("x12") _, lateout("x13") _,
            lateout("x14") _, lateout("x15") _, lateout("x16") _, lateout("x17") _);
    }
    [a, b, c, d]
}

const DEVICE: u64 = 0x0903_0000;

fn device(offset: u64) -> *mut u64 {
    core::ptr::with_exposed_provenance_mut((DEVICE + offset) as usize)
}

/// A parameter of the test.
pub fn param(n: u64) -> u64 {
    // SAFETY: a register of the test device (PARAM n), which the VMM serves.
    unsafe { core::ptr::read_volatile(device(0x100 + 8 * n)) }
}

/// Ends the VM with a status.
pub fn exit(status: u64) -> ! {
    // SAFETY: a register of the test device (EXIT).
    unsafe { core::ptr::write_volatile(device(8), status) };
    loop {
        core::hint::spin_loop();
    }
}

/// Lets the other vCPUs see a word, and sees theirs.
pub fn store(at: &core::sync::atomic::AtomicU64, value: u64) {
    at.store(value, core::sync::atomic::Ordering::SeqCst);
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy") };
}

/// The test's output, eight characters an exit.
pub struct Out {
    word: u64,
    len: u32,
}

impl Out {
    /// An empty line.
    pub fn new() -> Self {
        Self { word: 0, len: 0 }
    }

    /// Sends what is there.
    pub fn flush(&mut self) {
        if self.len > 0 {
            // SAFETY: a register of the test device (PUTC).
            unsafe { core::ptr::write_volatile(device(0), self.word) };
        }
        *self = Self::new();
    }
}

impl fmt::Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.word |= u64::from(byte) << (8 * self.len);
            self.len += 1;
            if self.len == 8 {
                self.flush();
            }
        }
        Ok(())
    }
}
