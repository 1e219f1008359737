// SPDX-License-Identifier: GPL-2.0-only
//! The keys of pointer authentication: a guest has its own, and the process that runs it keeps its own.
//!
//! The kernel may leave a process's keys on the CPU while it works for the process, and then whoever runs a guest in
//! between must put them back. Only the thread that ran the vCPU can tell: every switch of threads loads keys anew. So the
//! guest writes to a device, and the device, which is that thread right after the run, signs.

#![expect(unsafe_code, reason = "instructions of pointer authentication")]

use crate::Context;
use crate::memory::RAM;
use crate::report::Report;
use pkvm_vmm::layout::TESTDEV_BASE;
use pkvm_vmm::monitor::{Failure, Monitor};
use pkvm_vmm::testdev::PUTC;
use pkvm_vmm::vm::Kind;
use pkvm_vmm::{Error, Result};
use std::io::Write;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// How often the guest runs between looks.
const ROUNDS: usize = 20;
/// What is signed: an address, and a modifier of zero.
const VALUE: u64 = 0x1234_5678;

/// The instructions `paciza`, `pacizb`, `pacdza`, `pacdzb` on x0, and `pacga x0, x0, x0`.
const SIGN: [u32; 5] = [0xdac1_23e0, 0xdac1_27e0, 0xdac1_2be0, 0xdac1_2fe0, 0x9ac0_3000];
/// `msr KEY, x0` for the lower and the upper half of the keys APIA, APIB, APDA, APDB and APGA.
const WRITE_KEYS: [u32; 10] = [
    0xd518_2100,
    0xd518_2120,
    0xd518_2140,
    0xd518_2160,
    0xd518_2200,
    0xd518_2220,
    0xd518_2240,
    0xd518_2260,
    0xd518_2300,
    0xd518_2320,
];
/// Makes an `mrs` of an `msr`.
const READ: u32 = 1 << 21;
/// `msr sctlr_el1, x0`, and the bits in it that turn the keys on.
const WRITE_SCTLR: u32 = 0xd518_1000;
const ENABLE: u64 = 1 << 31 | 1 << 30 | 1 << 27 | 1 << 13;

/// The value signed by this process with each of its keys.
fn sign() -> [u64; 5] {
    let mut signed = [VALUE; 5];
    macro_rules! by {
        ($index:literal, $instruction:literal) => {
            // SAFETY: changes x0 alone; the caller has seen that the CPU has the instruction.
            unsafe { std::arch::asm!($instruction, inout("x0") signed[$index], options(nomem, nostack)) }
        };
    }
    by!(0, ".inst 0xdac123e0");
    by!(1, ".inst 0xdac127e0");
    by!(2, ".inst 0xdac12be0");
    by!(3, ".inst 0xdac12fe0");
    by!(4, ".inst 0x9ac03000");
    signed
}

/// A console that signs whenever something is written to it.
struct Signer(Sender<[u64; 5]>);

impl Write for Signer {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(sign());
        Ok(text.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn half(index: usize) -> u64 {
    0x0123_4567_89ab_cdef_u64.rotate_left(4 * index as u32) ^ 0x6b65_7900
}

/// What the guest sees of its keys, and what it signs with them.
fn look(vm: &Monitor) -> std::result::Result<(Vec<u64>, Vec<u64>), Failure> {
    let keys = WRITE_KEYS
        .iter()
        .map(|write| vm.execute(write | READ, 0))
        .collect::<std::result::Result<_, _>>()?;
    let signed = SIGN
        .iter()
        .map(|sign| vm.execute(*sign, VALUE))
        .collect::<std::result::Result<_, _>>()?;
    Ok((keys, signed))
}

fn one(kind: Kind, what: &str, report: &mut Report) -> std::result::Result<(), Failure> {
    let setup = |error: Error| Failure::Ended(Err(error));
    let (send, signatures) = channel();
    let vm = Monitor::start_with(kind, 1, RAM, Box::new(Signer(send))).map_err(setup)?;
    for (index, write) in WRITE_KEYS.iter().enumerate() {
        vm.execute(*write, half(index))?;
    }
    let sctlr = vm.execute(WRITE_SCTLR | READ, 0)?;
    vm.execute(WRITE_SCTLR, sctlr | ENABLE)?;
    let written: Vec<u64> = (0..WRITE_KEYS.len()).map(half).collect();
    let (keys, signed) = look(&vm)?;
    report.equal(
        &format!("a {what} guest has the keys that it wrote"),
        keys,
        written,
    );
    let own = sign();
    // 32 bits of the last one are signature: that they are equal by chance does not happen.
    report.result(
        &format!("a {what} guest signs otherwise than its host"),
        if signed[4] == own[4] {
            Err(format!("both make {:#x}", own[4]))
        } else {
            Ok(())
        },
    );
    let mut wrong = 0;
    for _ in 0..ROUNDS {
        vm.store(TESTDEV_BASE + PUTC, u64::from(b'x'))?;
        match signatures.recv_timeout(Duration::from_mins(1)) {
            Ok(found) if found == own => {}
            Ok(found) => {
                if wrong == 0 {
                    report.say(format_args!(
                        "the process signs {own:x?}, and after a run {found:x?}"
                    ));
                }
                wrong += 1;
            }
            Err(_) => return Err(Failure::Silent),
        }
    }
    report.equal(
        &format!("a process has its own keys after it ran a {what} guest"),
        wrong,
        0,
    );
    report.equal(
        &format!("a {what} guest signs as before after its host did"),
        look(&vm)?.1,
        signed,
    );
    Ok(())
}

/// A guest with pointer authentication beside a process with pointer authentication.
pub fn keys(_: &Context, report: &mut Report) -> Result<()> {
    if !std::arch::is_aarch64_feature_detected!("paca") || !std::arch::is_aarch64_feature_detected!("pacg") {
        report.say(format_args!("this machine has no pointer authentication"));
        report.result("the machine has no keys to keep", Ok(()));
        return Ok(());
    }
    for (kind, what) in [(Kind::Protected, "protected"), (Kind::Normal, "normal")] {
        one(kind, what, report).map_err(|failure| Error::Setup(failure.to_string()))?;
    }
    Ok(())
}
