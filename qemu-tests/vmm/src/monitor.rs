// SPDX-License-Identifier: GPL-2.0-only
//! A bare-metal guest that does what a test tells it, one command after another: load, store, fill, hypercall.
//!
//! It is a page of position-independent code with the MMU off. Each vCPU asks the test device for its next command
//! ([`crate::testdev`]), so a test reads as a dialogue of host and guest. An exception in a command (an access that has
//! no memory, an instruction that traps) does not end the guest: the reply says what was taken and where.

#![expect(
    unsafe_code,
    reason = "the guest's code is assembled into this program and copied out of it"
)]

use crate::bus::Outcome;
use crate::layout::{RAM_BASE, TESTDEV_BASE, TESTDEV_SIZE};
use crate::memory::RamConfig;
use crate::serial::Sink;
use crate::testdev::{ARGS, Channel, Command, Reply, TestDevice, WORDS};
use crate::vm::{Kind, Running, Vm, VmConfig};
use crate::{Error, Result};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// Where the monitor is loaded and starts. It uses no other memory.
pub const ENTRY: u64 = RAM_BASE;
/// The first page that a test is free to use.
pub const FREE: u64 = RAM_BASE + 0x1_0000;

/// SMCCC vendor call of the hypervisor: which calls there are.
pub const HVC_FEATURES: u64 = 0x8600_0000;
/// The granule of memory protection, in bytes.
pub const HVC_MEMINFO: u64 = 0xc600_0002;
/// Share one granule with the host.
pub const HVC_MEM_SHARE: u64 = 0xc600_0003;
/// Take a shared granule back.
pub const HVC_MEM_UNSHARE: u64 = 0xc600_0004;
/// PSCI CPU_ON.
pub const PSCI_CPU_ON: u64 = 0xc400_0003;
/// PSCI SYSTEM_OFF.
pub const PSCI_SYSTEM_OFF: u64 = 0x8400_0008;

/// Load the word at argument 0.
pub const OP_LOAD: u64 = 1;
/// Store argument 1 at argument 0.
pub const OP_STORE: u64 = 2;
/// A hypercall with arguments 0 to 3 as x0 to x3.
pub const OP_HVC: u64 = 3;
/// See [`Monitor::fill`].
pub const OP_FILL: u64 = 4;
/// See [`Monitor::count`].
pub const OP_COUNT: u64 = 5;
/// Share a page, store in it, take it back, and so on for all pages in turn: arguments are the first page's IPA, rounds,
/// stride and pages; results are how often sharing and taking back succeeded.
pub const OP_STORM: u64 = 6;
/// Fill the FP registers, exit and look at them again: arguments are a pattern, rounds, and which exits (bit 0: to the
/// hypervisor, bit 1: to the VMM); the result is how many halves of registers were found changed.
pub const OP_FP: u64 = 7;
/// Execute the instruction in argument 0 with argument 1 in x0; the result is x0.
pub const OP_EXECUTE: u64 = 8;

/// Call the routine at argument 0 with arguments 1 to 3 as its x0 to x2; the results are its x0 to x3.
pub const OP_CALL: u64 = 9;

/// `DONE`'s value after an exception.
pub(crate) const STATUS_EXCEPTION: u64 = 1;

/// How long a command may take; emulation on a loaded machine is slow.
const PATIENCE: Duration = Duration::from_mins(1);

std::arch::global_asm!(include_str!("monitor.S"));

/// The monitor's code.
pub(crate) fn code() -> &'static [u8] {
    unsafe extern "C" {
        static pvm_monitor_start: [u8; 0];
        static pvm_monitor_end: [u8; 0];
    }
    // SAFETY: the two symbols of monitor.S bound one stretch of read-only data that nothing ever writes.
    unsafe {
        let start = (&raw const pvm_monitor_start).cast::<u8>();
        let end = (&raw const pvm_monitor_end).cast::<u8>();
        std::slice::from_raw_parts(start, end.offset_from_unsigned(start))
    }
}

/// An exception that a command caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
    /// ELR_EL1.
    pub elr: u64,
}

/// Why a command has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It took an exception; the guest goes on.
    Exception(Exception),
    /// The VM ended meanwhile.
    Ended(Result<Outcome>),
    /// No reply came in time.
    Silent,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exception(e) => write!(
                f,
                "exception in the guest: ESR {:#x}, FAR {:#x}, ELR {:#x}",
                e.esr, e.far, e.elr
            ),
            Self::Ended(Ok(outcome)) => write!(f, "the VM ended meanwhile: {outcome:?}"),
            Self::Ended(Err(error)) => write!(f, "the VM ended meanwhile: {error}"),
            Self::Silent => write!(f, "the guest did not answer within {} s", PATIENCE.as_secs()),
        }
    }
}

/// A VM that runs the monitor.
pub struct Monitor {
    channels: Vec<Channel>,
    vm: Running,
}

impl Monitor {
    /// Makes and starts a VM of `cpus` vCPUs with `ram`. vCPU 0 waits for commands; the others are off.
    pub fn start(kind: Kind, cpus: u32, ram: RamConfig) -> Result<Self> {
        Self::start_with(kind, cpus, ram, Box::new(std::io::sink()))
    }

    /// As [`Self::start`], and what the guest writes to the test device's `PUTC` goes to `out`, from the thread of the vCPU
    /// that wrote it.
    pub fn start_with(kind: Kind, cpus: u32, ram: RamConfig, out: Sink) -> Result<Self> {
        let mut vm = Vm::new(VmConfig { kind, cpus, ram })?;
        vm.ram().load(ENTRY, code())?;
        let (device, channels) = TestDevice::new(cpus, [0; WORDS], out, vm.stop_flag());
        vm.bus.add(TESTDEV_BASE, TESTDEV_SIZE, Arc::new(device));
        vm.set_entry(ENTRY, 0)?;
        Ok(Self {
            channels,
            vm: vm.start()?,
        })
    }

    /// The VM.
    pub fn vm(&self) -> &Running {
        &self.vm
    }

    /// Hands vCPU `cpu` a command without waiting for its end.
    pub fn post(&self, cpu: usize, op: u64, args: &[u64]) -> std::result::Result<(), Failure> {
        let mut command = Command { op, args: [0; ARGS] };
        command.args[..args.len()].copy_from_slice(args);
        self.channels[cpu]
            .commands
            .send(command)
            .map_err(|_| self.ended())
    }

    /// Waits for the reply of vCPU `cpu`.
    pub fn reply(&self, cpu: usize) -> std::result::Result<Reply, Failure> {
        let step = Duration::from_millis(10);
        for _ in 0..PATIENCE.as_millis() / step.as_millis() {
            match self.channels[cpu].replies.recv_timeout(step) {
                Ok(reply) if reply.status == STATUS_EXCEPTION => {
                    let [esr, far, elr, ..] = reply.results;
                    return Err(Failure::Exception(Exception { esr, far, elr }));
                }
                Ok(reply) => return Ok(reply),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(end) = self.vm.wait_for(Duration::ZERO) {
                        return Err(Failure::Ended(end));
                    }
                }
            }
        }
        Err(Failure::Silent)
    }

    fn ended(&self) -> Failure {
        self.vm.wait_for(PATIENCE).map_or(Failure::Silent, Failure::Ended)
    }

    fn run(&self, cpu: usize, op: u64, args: &[u64]) -> std::result::Result<Reply, Failure> {
        self.post(cpu, op, args)?;
        self.reply(cpu)
    }

    /// The guest loads the 64-bit word at `ipa`.
    pub fn load(&self, ipa: u64) -> std::result::Result<u64, Failure> {
        self.run(0, OP_LOAD, &[ipa]).map(|reply| reply.results[0])
    }

    /// The guest stores `value` at `ipa`.
    pub fn store(&self, ipa: u64, value: u64) -> std::result::Result<(), Failure> {
        self.run(0, OP_STORE, &[ipa, value]).map(drop)
    }

    /// The guest stores `first`, `first + 1`, ... in `words` 64-bit words, `stride` bytes apart, from `ipa` on.
    pub fn fill(&self, ipa: u64, words: u64, stride: u64, first: u64) -> std::result::Result<(), Failure> {
        self.run(0, OP_FILL, &[ipa, words, stride, first]).map(drop)
    }

    /// The guest counts how many of the words that [`Self::fill`] stored are still as they were.
    pub fn count(&self, ipa: u64, words: u64, stride: u64, first: u64) -> std::result::Result<u64, Failure> {
        self.run(0, OP_COUNT, &[ipa, words, stride, first])
            .map(|reply| reply.results[0])
    }

    /// vCPU 0 makes a hypercall; returns x0 to x3.
    pub fn hvc(&self, function: u64, args: [u64; 3]) -> std::result::Result<[u64; 4], Failure> {
        self.hvc_on(0, function, args)
    }

    /// vCPU `cpu` makes a hypercall; returns x0 to x3.
    pub fn hvc_on(
        &self,
        cpu: usize,
        function: u64,
        args: [u64; 3],
    ) -> std::result::Result<[u64; 4], Failure> {
        let [x1, x2, x3] = args;
        let reply = self.run(cpu, OP_HVC, &[function, x1, x2, x3])?;
        let [x0, x1, x2, x3, ..] = reply.results;
        Ok([x0, x1, x2, x3])
    }

    /// The guest executes one instruction, which may use x0 and nothing else, and which finds `x0` there; returns x0.
    pub fn execute(&self, instruction: u32, x0: u64) -> std::result::Result<u64, Failure> {
        self.run(0, OP_EXECUTE, &[u64::from(instruction), x0])
            .map(|reply| reply.results[0])
    }

    /// Powers vCPU `cpu` up, to wait for commands too. Returns PSCI's answer.
    pub fn cpu_on(&self, cpu: u64) -> std::result::Result<u64, Failure> {
        Ok(self.hvc(PSCI_CPU_ON, [cpu, ENTRY, 0])?[0])
    }

    /// The guest shares the page at `ipa`; returns the call's x0.
    pub fn share(&self, ipa: u64) -> std::result::Result<u64, Failure> {
        Ok(self.hvc(HVC_MEM_SHARE, [ipa, 0, 0])?[0])
    }

    /// The guest takes the page at `ipa` back; returns the call's x0.
    pub fn unshare(&self, ipa: u64) -> std::result::Result<u64, Failure> {
        Ok(self.hvc(HVC_MEM_UNSHARE, [ipa, 0, 0])?[0])
    }

    /// The guest powers off; returns how the VM ended.
    pub fn power_off(&self) -> Result<Outcome> {
        if self.post(0, OP_HVC, &[PSCI_SYSTEM_OFF]).is_err() {
            return Err(Error::Setup("the guest has ended already".into()));
        }
        self.vm
            .wait_for(PATIENCE)
            .unwrap_or_else(|| Err(Error::Setup("the guest did not power off".into())))
    }

    /// Ends the VM; its memory stays as long as the caller keeps it.
    pub fn destroy(self) -> Arc<crate::memory::GuestRam> {
        self.vm.destroy()
    }
}
