// SPDX-License-Identifier: GPL-2.0-only
//! A VM on KVM: creation, one thread for each vCPU, and the end.
//!
//! A VM ends by the first of: the guest's PSCI power-off or reset, the test device's exit register, an error of KVM_RUN, a
//! stop from outside. The other vCPUs are then kicked out of the guest, and the threads hand their descriptors back, so
//! that dropping the VM ends it in the kernel at once.

#![expect(
    unsafe_code,
    reason = "KVM_SET_USER_MEMORY_REGION takes an address, and the kick signal needs a handler"
)]

use crate::bus::{Bus, Interrupt, Outcome};
use crate::layout::{GICD_BASE, GICR_BASE, GICR_STRIDE, MAX_CPUS, NR_IRQS};
use crate::memory::{GuestRam, RamConfig};
use crate::{Error, Result, limits};
use kvm_bindings as kb;
use kvm_ioctls::{Cap, DeviceFd, Kvm, VcpuExit, VcpuFd, VmFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

/// `KVM_VM_TYPE_ARM_PROTECTED` of the kernel's `uapi/linux/kvm.h`: the VM's memory is private to it.
pub const VM_TYPE_PROTECTED: u64 = 1 << 31;

/// The IPA bits asked for where the host does not decide them itself, as pKVM does.
pub(crate) const IPA_BITS: u64 = 40;

/// Processor state at entry: EL1h with debug, SError, IRQ and FIQ masked (Linux boot protocol).
pub(crate) const PSTATE_AT_ENTRY: u64 = 0x3c5;

/// The kinds of VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The host can read and write all of its memory.
    Normal,
    /// pKVM keeps the host out of its memory.
    Protected,
}

/// What VM to make.
#[derive(Debug, Clone, Copy)]
pub struct VmConfig {
    /// Normal or protected.
    pub kind: Kind,
    /// vCPUs, 1 to [`MAX_CPUS`].
    pub cpus: u32,
    /// Its memory.
    pub ram: RamConfig,
}

/// Whether this host makes protected VMs.
pub fn host_protects() -> bool {
    Kvm::new().is_ok_and(|kvm| kvm.create_vm_with_type(VM_TYPE_PROTECTED).is_ok())
}

/// Something the interrupt controller delivers to the guest: a shared peripheral interrupt.
struct IrqLine {
    vm: Arc<VmFd>,
    irq: u32,
}

impl Interrupt for IrqLine {
    /// Errors of the ioctl are of no use to a device and are ignored.
    fn set(&self, active: bool) {
        let _ = self.vm.set_irq_line(self.irq, active);
    }
}

/// A VM that has not run yet.
pub struct Vm {
    fd: Arc<VmFd>,
    gic: DeviceFd,
    vcpus: Vec<VcpuFd>,
    ram: Arc<GuestRam>,
    config: VmConfig,
    stop: Arc<AtomicBool>,
    /// The devices; filled before [`Vm::start`].
    pub bus: Bus,
}

fn ioctl(what: &str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |e| Error::setup(what, std::io::Error::from(e))
}

impl Vm {
    /// Creates the VM with its memory, vCPUs (the first on, the others off until the guest's CPU_ON) and GICv3.
    pub fn new(config: VmConfig) -> Result<Self> {
        if config.cpus == 0 || config.cpus > MAX_CPUS {
            return Err(Error::Setup(format!(
                "{} vCPUs asked for: 1 to {MAX_CPUS} are possible",
                config.cpus
            )));
        }
        if config.kind == Kind::Protected {
            // Page tables and vCPU state are not counted; two MiB are a margin for what else the process may lock.
            limits::allow_locked(config.ram.size + 0x20_0000)?;
        }
        let ram = Arc::new(GuestRam::new(config.ram)?);
        let kvm = Kvm::new().map_err(ioctl("/dev/kvm"))?;
        let limit = u64::try_from(kvm.check_extension_int(Cap::ArmVmIPASize)).unwrap_or(0);
        let ipa_bits = if limit == 0 { 0 } else { limit.min(IPA_BITS) };
        let fd = match config.kind {
            Kind::Normal => kvm
                .create_vm_with_type(ipa_bits)
                .map_err(ioctl("KVM_CREATE_VM"))?,
            Kind::Protected => kvm
                .create_vm_with_type(ipa_bits | VM_TYPE_PROTECTED)
                .map_err(ioctl(
                    "KVM_CREATE_VM of a protected VM (is the host booted with kvm-arm.mode=protected?)",
                ))?,
        };
        (0..)
            .zip(ram.regions())
            .try_for_each(|(slot, region)| set_region(&fd, slot, region, 0))?;
        let gic = create_gic(&fd, config.cpus)?;
        let vcpus = (0..config.cpus)
            .map(|index| create_vcpu(&fd, index))
            .collect::<Result<Vec<_>>>()?;
        init_gic(&gic)?;
        Ok(Self {
            fd: Arc::new(fd),
            gic,
            vcpus,
            ram,
            config,
            stop: Arc::default(),
            bus: Bus::default(),
        })
    }

    /// Its memory.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// What it was made from.
    pub fn config(&self) -> VmConfig {
        self.config
    }

    /// Set when the VM ends: a device that holds a vCPU in an MMIO access lets it go then.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// The line of shared peripheral interrupt `spi` (0 is INTID 32).
    pub fn irq_line(&self, spi: u32) -> Box<dyn Interrupt> {
        Box::new(IrqLine {
            vm: self.fd.clone(),
            irq: (kb::KVM_ARM_IRQ_TYPE_SPI << kb::KVM_ARM_IRQ_TYPE_SHIFT) | (spi + 32),
        })
    }

    /// The affinity fields of each vCPU's MPIDR_EL1, as the FDT's cpu nodes name them.
    pub fn mpidrs(&self) -> Result<Vec<u64>> {
        let read = |vcpu: &VcpuFd| {
            let mut raw = [0; 8];
            vcpu.get_one_reg(sysreg_id(3, 0, 0, 0, 5), &mut raw)
                .map_err(ioctl("read MPIDR_EL1"))?;
            Ok(u64::from_le_bytes(raw) & 0xff_00ff_ffff)
        };
        self.vcpus.iter().map(read).collect()
    }

    /// Sets where vCPU 0 starts and its x0; it starts at EL1 with interrupts masked and the MMU off.
    pub fn set_entry(&self, pc: u64, x0: u64) -> Result<()> {
        for (offset, value) in [(256, pc), (264, PSTATE_AT_ENTRY), (0, x0)] {
            self.vcpus[0]
                .set_one_reg(core_reg_id(offset), &value.to_le_bytes())
                .map_err(ioctl("set a core register"))?;
        }
        Ok(())
    }

    /// Starts all vCPU threads.
    pub fn start(self) -> Result<Running> {
        register_signal_handler(SIGRTMIN(), on_kick).map_err(|e| Error::setup("sigaction", e))?;
        let shared = Arc::new(Shared {
            stop: self.stop,
            end: Mutex::default(),
            ended: Condvar::new(),
        });
        let mut threads = Vec::new();
        for (cpu, mut vcpu) in (0_u32..).zip(self.vcpus) {
            let (bus, shared) = (self.bus.clone(), shared.clone());
            let body = move || shared.finish(run_vcpu(cpu, &mut vcpu, &bus, &shared));
            threads.push(
                std::thread::Builder::new()
                    .name(format!("vcpu{cpu}"))
                    .spawn(body)
                    .map_err(|e| Error::setup("start a vCPU thread", e))?,
            );
        }
        Ok(Running {
            threads,
            shared,
            ram: self.ram,
            _gic: self.gic,
            fd: self.fd,
        })
    }
}

/// A VM that runs, or has ended and is not yet destroyed.
pub struct Running {
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
    ram: Arc<GuestRam>,
    _gic: DeviceFd,
    fd: Arc<VmFd>,
}

impl Running {
    /// Its memory. After the first run a protected guest's private pages must not be touched, see [`crate::touch`].
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// Waits for the end, at most for `limit`. None: it still runs.
    pub fn wait_for(&self, limit: Duration) -> Option<Result<Outcome>> {
        let until = Instant::now() + limit;
        let mut end = self.shared.lock();
        loop {
            if let Some(result) = &*end {
                return Some(result.clone());
            }
            let left = until.checked_duration_since(Instant::now())?;
            end = self
                .shared
                .ended
                .wait_timeout(end, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for the end, however long it takes.
    pub fn wait(&self) -> Result<Outcome> {
        loop {
            if let Some(result) = self.wait_for(Duration::from_hours(1)) {
                return result;
            }
        }
    }

    /// Starts or stops to note which pages of memory the guest writes. Errors: a protected VM, which has no such log.
    pub fn log_dirty_pages(&self, on: bool) -> Result<()> {
        let flags = if on { kb::KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        (0..)
            .zip(self.ram.regions())
            .try_for_each(|(slot, region)| set_region(&self.fd, slot, region, flags))
    }

    /// How many pages of the first region the guest has written since the log was started or last read.
    pub fn dirty_pages(&self) -> Result<u32> {
        let size = self.ram.regions().next().map_or(0, |(_, size, _)| size);
        let log = self
            .fd
            .get_dirty_log(0, size as usize)
            .map_err(ioctl("KVM_GET_DIRTY_LOG"))?;
        Ok(log.iter().map(|word| word.count_ones()).sum())
    }

    /// Ends the VM from outside, if it has not ended yet.
    pub fn stop(&self) {
        self.shared.finish(Some(Ok(Outcome::Stopped)));
    }

    /// A handle that stops the VM from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.shared.clone())
    }

    /// Stops the VM if need be, brings every vCPU thread home and closes all descriptors: the kernel destroys the VM
    /// before this returns. The memory stays mapped as long as someone holds it.
    pub fn destroy(mut self) -> Arc<GuestRam> {
        self.shut_down();
        self.ram.clone()
    }

    fn shut_down(&mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            // A kick that comes between the check of the flag and KVM_RUN is lost, so kick until the thread has gone.
            while !thread.is_finished() {
                let _ = thread.kill(SIGRTMIN());
                std::thread::sleep(Duration::from_millis(2));
            }
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Stops a VM from another thread.
#[derive(Clone)]
pub struct Stopper(Arc<Shared>);

impl Stopper {
    /// Ends the VM, if it has not ended yet; whoever waits for it learns it.
    pub fn stop(&self) {
        self.0.finish(Some(Ok(Outcome::Stopped)));
    }
}

struct Shared {
    stop: Arc<AtomicBool>,
    end: Mutex<Option<Result<Outcome>>>,
    ended: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Result<Outcome>>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first end counts.
    fn finish(&self, result: Option<Result<Outcome>>) {
        if let Some(result) = result {
            self.lock().get_or_insert(result);
            self.stop.store(true, Ordering::SeqCst);
            self.ended.notify_all();
        }
    }
}

pub(crate) extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Runs one vCPU until the VM ends. None: another vCPU ended it.
fn run_vcpu(cpu: u32, vcpu: &mut VcpuFd, bus: &Bus, shared: &Shared) -> Option<Result<Outcome>> {
    while !shared.stop.load(Ordering::SeqCst) {
        let end = match vcpu.run() {
            Ok(VcpuExit::MmioRead(addr, data)) => {
                bus.read(cpu, addr, data);
                None
            }
            Ok(VcpuExit::MmioWrite(addr, data)) => bus.write(cpu, addr, data).map(Ok),
            Ok(VcpuExit::SystemEvent(kb::KVM_SYSTEM_EVENT_SHUTDOWN, _)) => Some(Ok(Outcome::PowerOff)),
            Ok(VcpuExit::SystemEvent(kb::KVM_SYSTEM_EVENT_RESET, _)) => Some(Ok(Outcome::Reset)),
            Ok(VcpuExit::Intr) => None,
            Ok(exit) => Some(Err(Error::Exit {
                cpu,
                exit: format!("{exit:?}"),
            })),
            Err(e) => match e.errno() {
                libc::EINTR | libc::EAGAIN => None,
                errno => Some(Err(Error::Run { cpu, errno })),
            },
        };
        if end.is_some() {
            return end;
        }
    }
    None
}

/// Gives the VM a region of memory, or changes the flags of one that it has.
fn set_region(vm: &VmFd, slot: u32, (ipa, size, host): (u64, u64, *mut u8), flags: u32) -> Result<()> {
    let region = kb::kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr: ipa,
        memory_size: size,
        userspace_addr: host as u64,
    };
    // SAFETY: the range is a mapping of the VM's `GuestRam`, which lives as long as the VM's descriptor: both are held by
    // Vm and then by Running, and a caller who keeps the memory longer keeps it by the same Arc.
    unsafe { vm.set_user_memory_region(region) }.map_err(ioctl("KVM_SET_USER_MEMORY_REGION"))
}

fn create_vcpu(vm: &VmFd, index: u32) -> Result<VcpuFd> {
    let vcpu = vm
        .create_vcpu(u64::from(index))
        .map_err(ioctl("KVM_CREATE_VCPU"))?;
    let mut init = kb::kvm_vcpu_init::default();
    vm.get_preferred_target(&mut init)
        .map_err(ioctl("KVM_ARM_PREFERRED_TARGET"))?;
    init.features[0] |= 1 << kb::KVM_ARM_VCPU_PSCI_0_2;
    if vm.check_extension(Cap::ArmPtrAuthAddress) && vm.check_extension(Cap::ArmPtrAuthGeneric) {
        init.features[0] |= 1 << kb::KVM_ARM_VCPU_PTRAUTH_ADDRESS | 1 << kb::KVM_ARM_VCPU_PTRAUTH_GENERIC;
    }
    if index > 0 {
        init.features[0] |= 1 << kb::KVM_ARM_VCPU_POWER_OFF;
    }
    vcpu.vcpu_init(&init).map_err(ioctl("KVM_ARM_VCPU_INIT"))?;
    Ok(vcpu)
}

/// Makes a GICv3 for `cpus` vCPUs, which may be created later; it is still to be initialised ([`init_gic`]).
pub(crate) fn create_gic(vm: &VmFd, cpus: u32) -> Result<DeviceFd> {
    let mut request = kb::kvm_create_device {
        type_: kb::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
        fd: 0,
        flags: 0,
    };
    let gic = vm
        .create_device(&mut request)
        .map_err(ioctl("create the vGICv3"))?;
    let addr = kb::KVM_DEV_ARM_VGIC_GRP_ADDR;
    set_attr(
        &gic,
        addr,
        u64::from(kb::KVM_VGIC_V3_ADDR_TYPE_DIST),
        Some(&GICD_BASE),
        "place the distributor",
    )?;
    debug_assert!(GICR_BASE + u64::from(cpus) * GICR_STRIDE <= crate::layout::UART_BASE);
    set_attr(
        &gic,
        addr,
        u64::from(kb::KVM_VGIC_V3_ADDR_TYPE_REDIST),
        Some(&GICR_BASE),
        "place the redistributors",
    )?;
    let irqs = u64::from(NR_IRQS);
    set_attr(
        &gic,
        kb::KVM_DEV_ARM_VGIC_GRP_NR_IRQS,
        0,
        Some(&irqs),
        "size the vGIC",
    )?;
    Ok(gic)
}

/// Initialises a GICv3 once the VM has all its vCPUs.
pub(crate) fn init_gic(gic: &DeviceFd) -> Result<()> {
    set_attr(
        gic,
        kb::KVM_DEV_ARM_VGIC_GRP_CTRL,
        u64::from(kb::KVM_DEV_ARM_VGIC_CTRL_INIT),
        None,
        "init the vGIC",
    )
}

fn set_attr(device: &DeviceFd, group: u32, attr: u64, value: Option<&u64>, what: &str) -> Result<()> {
    let addr = value.map_or(0, |v| std::ptr::from_ref(v) as u64);
    let attr = kb::kvm_device_attr {
        flags: 0,
        group,
        attr,
        addr,
    };
    device.set_device_attr(&attr).map_err(ioctl(what))
}

/// The id of the core register at `offset` in `struct kvm_regs` (64-bit registers only).
pub fn core_reg_id(offset: u64) -> u64 {
    kb::KVM_REG_ARM64 | kb::KVM_REG_SIZE_U64 | u64::from(kb::KVM_REG_ARM_CORE) | (offset / 4)
}

/// The id of a system register by its encoding.
pub fn sysreg_id(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    kb::KVM_REG_ARM64
        | kb::KVM_REG_SIZE_U64
        | u64::from(kb::KVM_REG_ARM64_SYSREG)
        | op0 << 14
        | op1 << 11
        | crn << 7
        | crm << 3
        | op2
}
