// SPDX-License-Identifier: GPL-2.0-only
//! A VM taken apart: the test itself creates each part, runs each vCPU on the thread that it likes and sees every error
//! number. The guest is the monitor ([`crate::monitor`]), with routines of the test beside it.

#![expect(
    unsafe_code,
    reason = "KVM takes addresses of memory, and ioctls that have no binding"
)]

use crate::bus::{put_value, value_of};
use crate::layout::{RAM_BASE, TESTDEV_BASE, TESTDEV_SIZE};
use crate::mapping::{Backing, Mapping};
use crate::monitor::{
    self, Exception, HVC_MEM_SHARE, HVC_MEM_UNSHARE, OP_CALL, OP_EXECUTE, OP_HVC, OP_LOAD, OP_STORE,
};
use crate::testdev::{ARG, ARGS, CPU, DONE, EXIT, NEXT, RESULT};
use crate::vm::{
    IPA_BITS, Kind, PSTATE_AT_ENTRY, VM_TYPE_PROTECTED, core_reg_id, create_gic, init_gic, on_kick,
};
use crate::{Error, Result};
use kvm_bindings as kb;
use kvm_ioctls::{Cap, DeviceFd, Kvm, VcpuExit, VcpuFd, VmFd};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// Bytes of the usual memory, at [`RAM_BASE`].
pub const RAM_SIZE: usize = 4 << 20;
/// Where the test's routines are, from the start of memory.
pub const ROUTINES: usize = 0x8000;
/// The first page that a test is free to use, from the start of memory.
pub const FREE: usize = 0x1_0000;
/// The IPA of [`FREE`].
pub const FREE_IPA: u64 = RAM_BASE + FREE as u64;

/// How a vCPU came back without the reply that the test waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The command took an exception in the guest.
    Exception(Exception),
    /// KVM_RUN failed with this error number.
    Errno(i32),
    /// The guest powered off (0), asked for a reset (1), or another system event of KVM.
    Event(u32),
    /// A load of an address that is nobody's.
    MmioRead(u64),
    /// A store there: address and value.
    MmioWrite(u64, u64),
    /// KVM_EXIT_DEBUG: the syndrome and where.
    Debug(u32, u64),
    /// The test's stop flag is set.
    Told,
    /// The guest wrote this to the device's EXIT.
    Quit(u64),
    /// Another exit, as the binding names it.
    Other(String),
}

/// What a command gives: x0 to x3, or why not.
pub type Answer = std::result::Result<[u64; 4], Stop>;

/// A vCPU.
pub struct Cpu {
    fd: VcpuFd,
    index: u32,
    stop: Arc<AtomicBool>,
    polite: bool,
}

/// A failed ioctl's number.
pub type Errno<T> = std::result::Result<T, i32>;

fn errno<T>(result: std::result::Result<T, kvm_ioctls::Error>) -> Errno<T> {
    result.map_err(kvm_ioctls::Error::errno)
}

impl Cpu {
    /// The binding's vCPU.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// For KVM_RUN's page.
    pub fn fd_mut(&mut self) -> &mut VcpuFd {
        &mut self.fd
    }

    /// Reads a register by its id.
    pub fn reg(&self, id: u64) -> Errno<u64> {
        let mut raw = [0; 8];
        let size = 1_usize << ((id & kb::KVM_REG_SIZE_MASK) >> kb::KVM_REG_SIZE_SHIFT);
        let raw_part = raw.get_mut(..size).ok_or(libc::EMSGSIZE)?;
        errno(self.fd.get_one_reg(id, raw_part))?;
        Ok(u64::from_le_bytes(raw))
    }

    /// Writes a register by its id.
    pub fn set_reg(&self, id: u64, value: u64) -> Errno<()> {
        let size = 1_usize << ((id & kb::KVM_REG_SIZE_MASK) >> kb::KVM_REG_SIZE_SHIFT);
        let raw = value.to_le_bytes();
        let raw_part = raw.get(..size).ok_or(libc::EMSGSIZE)?;
        errno(self.fd.set_one_reg(id, raw_part)).map(drop)
    }

    /// KVM_ARM_VCPU_INIT with PSCI 0.2 and `features` (bits of the first word).
    pub fn init(&self, bench: &Bench, features: u32) -> Errno<()> {
        let mut init = kb::kvm_vcpu_init::default();
        errno(bench.vm.get_preferred_target(&mut init))?;
        init.features[0] = features | 1 << kb::KVM_ARM_VCPU_PSCI_0_2;
        errno(self.fd.vcpu_init(&init))
    }

    /// Sets where it starts and its x0; it starts at EL1 with interrupts masked and the MMU off.
    pub fn enter_at(&self, pc: u64, x0: u64) -> Errno<()> {
        [(256, pc), (264, PSTATE_AT_ENTRY), (0, x0)]
            .into_iter()
            .try_for_each(|(offset, value)| self.set_reg(core_reg_id(offset), value))
    }

    /// Completes the access of the last MMIO exit without entering the guest. KVM does so at the next KVM_RUN else, and
    /// would step over the first instruction of a PC that was set meanwhile.
    pub fn settle(&mut self) {
        self.fd.set_kvm_immediate_exit(1);
        let _ = self.fd.run();
        self.fd.set_kvm_immediate_exit(0);
    }

    /// Has it start in the monitor anew, wherever it was.
    pub fn restart(&mut self) -> Errno<()> {
        self.settle();
        self.enter_at(monitor::ENTRY, 0)
    }

    /// From now on it lets other threads of its CPU run after each exit that it serves.
    pub fn be_polite(&mut self) {
        self.polite = true;
    }

    /// Its PC.
    pub fn pc(&self) -> Errno<u64> {
        self.reg(core_reg_id(256))
    }

    /// One KVM_RUN without serving its exit. A signal gives [`Stop::Told`].
    pub fn run_once(&mut self) -> Stop {
        match self.fd.run() {
            Ok(VcpuExit::MmioRead(addr, _)) => Stop::MmioRead(addr),
            Ok(VcpuExit::MmioWrite(addr, data)) => Stop::MmioWrite(addr, value_of(data)),
            Ok(VcpuExit::SystemEvent(kb::KVM_SYSTEM_EVENT_SHUTDOWN, _)) => Stop::Event(0),
            Ok(VcpuExit::SystemEvent(kb::KVM_SYSTEM_EVENT_RESET, _)) => Stop::Event(1),
            Ok(VcpuExit::SystemEvent(other, _)) => Stop::Event(other),
            Ok(VcpuExit::Debug(arch)) => Stop::Debug(arch.hsr, arch.far),
            Ok(VcpuExit::Intr) => Stop::Told,
            Ok(exit) => Stop::Other(format!("{exit:?}")),
            Err(e) if e.errno() == libc::EINTR => Stop::Told,
            Err(e) => Stop::Errno(e.errno()),
        }
    }

    /// Has the guest do `op` and runs it until it has.
    pub fn command(&mut self, op: u64, args: &[u64]) -> Answer {
        let mut given = [0; ARGS];
        given[..args.len()].copy_from_slice(args);
        let mut results = [0; ARGS];
        let index = u64::from(self.index);
        let window = TESTDEV_BASE..TESTDEV_BASE + TESTDEV_SIZE;
        let word = |offset: u64, base: u64| {
            let n = offset.checked_sub(base)? / 8;
            usize::try_from(n).ok().filter(|n| *n < ARGS)
        };
        loop {
            match self.fd.run() {
                Ok(VcpuExit::MmioRead(addr, data)) if window.contains(&addr) => {
                    let offset = addr - TESTDEV_BASE;
                    let value = match (offset, word(offset, ARG)) {
                        (NEXT, _) => op,
                        (CPU, _) => index,
                        (_, Some(n)) => given[n],
                        _ => 0,
                    };
                    put_value(data, value);
                }
                Ok(VcpuExit::MmioWrite(addr, data)) if window.contains(&addr) => {
                    let (offset, value) = (addr - TESTDEV_BASE, value_of(data));
                    match (offset, word(offset, RESULT)) {
                        (DONE, _) if value == monitor::STATUS_EXCEPTION => {
                            let [esr, far, elr, ..] = results;
                            return Err(Stop::Exception(Exception { esr, far, elr }));
                        }
                        (DONE, _) => return Ok([results[0], results[1], results[2], results[3]]),
                        (EXIT, _) => return Err(Stop::Quit(value)),
                        (_, Some(n)) => results[n] = value,
                        _ => {}
                    }
                }
                Ok(VcpuExit::MmioRead(addr, _)) => return Err(Stop::MmioRead(addr)),
                Ok(VcpuExit::MmioWrite(addr, data)) => return Err(Stop::MmioWrite(addr, value_of(data))),
                Ok(VcpuExit::SystemEvent(kb::KVM_SYSTEM_EVENT_SHUTDOWN, _)) => return Err(Stop::Event(0)),
                Ok(VcpuExit::SystemEvent(kb::KVM_SYSTEM_EVENT_RESET, _)) => return Err(Stop::Event(1)),
                Ok(VcpuExit::SystemEvent(other, _)) => return Err(Stop::Event(other)),
                Ok(VcpuExit::Debug(arch)) => return Err(Stop::Debug(arch.hsr, arch.far)),
                Ok(VcpuExit::Intr) => {}
                Ok(exit) => return Err(Stop::Other(format!("{exit:?}"))),
                Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {}
                Err(e) => return Err(Stop::Errno(e.errno())),
            }
            if self.polite {
                std::thread::yield_now();
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(Stop::Told);
            }
        }
    }

    /// The guest loads the word at `ipa`.
    pub fn load(&mut self, ipa: u64) -> std::result::Result<u64, Stop> {
        self.command(OP_LOAD, &[ipa]).map(|[x0, ..]| x0)
    }

    /// The guest stores `value` at `ipa`.
    pub fn store(&mut self, ipa: u64, value: u64) -> std::result::Result<(), Stop> {
        self.command(OP_STORE, &[ipa, value]).map(drop)
    }

    /// The guest makes a hypercall.
    pub fn hvc(&mut self, function: u64, args: [u64; 3]) -> Answer {
        self.command(OP_HVC, &[function, args[0], args[1], args[2]])
    }

    /// The guest shares a page; returns the call's x0.
    pub fn share(&mut self, ipa: u64) -> std::result::Result<u64, Stop> {
        self.hvc(HVC_MEM_SHARE, [ipa, 0, 0]).map(|[x0, ..]| x0)
    }

    /// The guest takes a page back; returns the call's x0.
    pub fn unshare(&mut self, ipa: u64) -> std::result::Result<u64, Stop> {
        self.hvc(HVC_MEM_UNSHARE, [ipa, 0, 0]).map(|[x0, ..]| x0)
    }

    /// The guest executes one instruction that uses x0 alone.
    pub fn execute(&mut self, instruction: u32, x0: u64) -> std::result::Result<u64, Stop> {
        self.command(OP_EXECUTE, &[u64::from(instruction), x0])
            .map(|[x0, ..]| x0)
    }

    /// The guest calls the routine at `offset` of the test's routines.
    pub fn call(&mut self, offset: usize, args: [u64; 3]) -> Answer {
        let at = RAM_BASE + (ROUTINES + offset) as u64;
        self.command(OP_CALL, &[at, args[0], args[1], args[2]])
    }
}

/// A VM without its vCPUs, which are handed out.
pub struct Bench {
    vm: Arc<VmFd>,
    gic: Option<DeviceFd>,
    kind: Kind,
    features: u32,
    stop: Arc<AtomicBool>,
}

impl Bench {
    /// KVM_CREATE_VM. Errors: the kernel's number.
    pub fn create(kind: Kind) -> Errno<Self> {
        let kvm = errno(Kvm::new())?;
        let limit = u64::try_from(kvm.check_extension_int(Cap::ArmVmIPASize)).unwrap_or(0);
        let bits = if limit == 0 { 0 } else { limit.min(IPA_BITS) };
        let protected = if kind == Kind::Protected {
            VM_TYPE_PROTECTED
        } else {
            0
        };
        // A thread that is kicked out of the guest must not die of it.
        let _ = register_signal_handler(SIGRTMIN(), on_kick);
        Ok(Self {
            vm: Arc::new(errno(kvm.create_vm_with_type(bits | protected))?),
            gic: None,
            kind,
            features: 0,
            stop: Arc::default(),
        })
    }

    /// A VM with the usual memory, the test's `routines` in it, and `cpus` vCPUs that are all on and have not run yet.
    pub fn usual(kind: Kind, cpus: u32, routines: &[u8]) -> Result<(Self, Mapping, Vec<Cpu>)> {
        let ram = Mapping::new(RAM_SIZE, Backing::Anonymous)?;
        let (bench, cpus) = Self::on(&ram, kind, cpus, routines)?;
        Ok((bench, ram, cpus))
    }

    /// The same on memory of the caller's, of [`RAM_SIZE`] bytes at least.
    pub fn on(ram: &Mapping, kind: Kind, cpus: u32, routines: &[u8]) -> Result<(Self, Vec<Cpu>)> {
        let (bench, cpus) = Self::on_with(ram, kind, cpus, routines, 0)?;
        Ok((bench, cpus.map_err(|e| Error::setup("KVM_ARM_VCPU_INIT", e))?))
    }

    /// The same with more `features` of the vCPUs, which KVM may refuse by an error number.
    pub fn on_with(
        ram: &Mapping,
        kind: Kind,
        cpus: u32,
        routines: &[u8],
        features: u32,
    ) -> Result<(Self, Errno<Vec<Cpu>>)> {
        // What a fork would copy it would take from the guest.
        ram.advise(0, ram.len(), libc::MADV_DONTFORK)
            .map_err(|e| Error::setup("MADV_DONTFORK", e))?;
        if routines.len() > FREE - ROUTINES {
            return Err(Error::Setup("the routines are too long".into()));
        }
        ram.load(0, monitor::code());
        ram.load(ROUTINES, routines);
        let mut bench = Self::create(kind).map_err(|e| Error::setup("KVM_CREATE_VM", e))?;
        bench
            .set_slot(0, RAM_BASE, ram, 0, ram.len(), 0)
            .map_err(|e| Error::setup("KVM_SET_USER_MEMORY_REGION", e))?;
        let list = bench.add_cpus(cpus, features)?;
        Ok((bench, list))
    }

    /// Makes a GIC and `count` vCPUs that are to start in the monitor, with `features` beside the usual ones.
    pub fn add_cpus(&mut self, count: u32, mut features: u32) -> Result<Errno<Vec<Cpu>>> {
        let gic = create_gic(&self.vm, count)?;
        if self.vm.check_extension(Cap::ArmPtrAuthAddress) && self.vm.check_extension(Cap::ArmPtrAuthGeneric)
        {
            features |= 1 << kb::KVM_ARM_VCPU_PTRAUTH_ADDRESS | 1 << kb::KVM_ARM_VCPU_PTRAUTH_GENERIC;
        }
        let mut cpus = Vec::new();
        for index in 0..count {
            let cpu = self
                .new_cpu(index)
                .map_err(|e| Error::setup("KVM_CREATE_VCPU", e))?;
            // Entry registers of AArch32 have other ids; such a vCPU starts where it may.
            if let Err(number) = cpu.init(self, features) {
                return Ok(Err(number));
            }
            if features & 1 << kb::KVM_ARM_VCPU_EL1_32BIT == 0 {
                cpu.enter_at(monitor::ENTRY, 0)
                    .map_err(|e| Error::setup("KVM_SET_ONE_REG", e))?;
            }
            cpus.push(cpu);
        }
        self.features = features;
        init_gic(&gic)?;
        self.gic = Some(gic);
        Ok(Ok(cpus))
    }

    /// KVM_CREATE_VCPU alone.
    pub fn new_cpu(&self, index: u32) -> Errno<Cpu> {
        Ok(Cpu {
            fd: errno(self.vm.create_vcpu(u64::from(index)))?,
            index,
            stop: self.stop.clone(),
            polite: false,
        })
    }

    /// Which kind of VM it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The features that [`Self::add_cpus`] gave its vCPUs.
    pub fn features(&self) -> u32 {
        self.features
    }

    /// The VM's descriptor.
    pub fn vm(&self) -> &Arc<VmFd> {
        &self.vm
    }

    /// Makes the vCPUs leave after their next exit, with [`Stop::Told`].
    pub fn stop(&self) -> &Arc<AtomicBool> {
        &self.stop
    }

    /// KVM_SET_USER_MEMORY_REGION with `len` bytes of a mapping; 0 deletes the slot.
    pub fn set_slot(
        &self,
        slot: u32,
        ipa: u64,
        ram: &Mapping,
        offset: usize,
        len: usize,
        flags: u32,
    ) -> Errno<()> {
        let region = kb::kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: ipa,
            memory_size: len as u64,
            userspace_addr: ram.address(offset) as u64,
        };
        // SAFETY: the kernel looks the address up at each access, so that memory that is gone is an error of the guest's;
        // and no Rust reference covers a mapping.
        errno(unsafe { self.vm.set_user_memory_region(region) })
    }

    /// An ioctl of the VM that the binding does not have or would not let through; returns its value.
    pub fn raw_ioctl<T>(&self, request: u64, argument: &mut T) -> Errno<i32> {
        // SAFETY: the argument is as large as the request says, as the caller sees to, and lives through the call.
        let result = unsafe { libc::ioctl(self.vm.as_raw_fd(), request as _, std::ptr::from_mut(argument)) };
        if result < 0 {
            Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(-1))
        } else {
            Ok(result)
        }
    }
}
