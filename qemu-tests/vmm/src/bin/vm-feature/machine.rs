// SPDX-License-Identifier: GPL-2.0-only
//! A normal VM with one vCPU that runs a program of [`crate::code`], in the thread of its test.

#![expect(
    unsafe_code,
    reason = "KVM_SET_USER_MEMORY_REGION takes an address, and some calls have no wrapper"
)]

use crate::code::{self, ENTRY, EXCEPTION, MMIO, PAUSE, REPORTS};
use kvm_bindings as kb;
use kvm_ioctls::{Cap, DeviceFd, Kvm, VcpuExit, VcpuFd, VmFd};
use pkvm_vmm::layout::RAM_BASE;
use pkvm_vmm::memory::{GuestRam, RamConfig};
use pkvm_vmm::{Error, Result};
use std::os::fd::AsRawFd;

/// Memory of these machines.
const RAM: RamConfig = RamConfig {
    size: 2 << 20,
    pool: 0,
    inherit: false,
};

/// EL1h with everything masked.
const PSTATE: u64 = 0x3c5;

/// Turns a failed ioctl into the error of a test.
pub fn ioctl(what: &str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |e| Error::setup(what, std::io::Error::from(e))
}

/// Why the guest came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Its program paused, with this value.
    Paused(u64),
    /// It took an exception that its program has no handler for: the vector's offset, ESR_EL1, ELR_EL1.
    Exception(u64, u64, u64),
    /// The debugger, which the test is, has it: ESR_EL2 and FAR_EL2.
    Debug(u64, u64),
    /// KVM_RUN failed with this errno.
    Failed(i32),
    /// Something else.
    Other(&'static str),
}

/// What the vCPU has beside PSCI.
#[derive(Debug, Clone, Copy, Default)]
pub struct Features {
    /// `KVM_ARM_VCPU_*`, one bit each.
    pub bits: u32,
    /// Which vector lengths: the largest, in units of 16 bytes; 0 without SVE.
    pub vq: u32,
}

/// The VM.
pub struct Machine {
    /// KVM itself.
    pub kvm: Kvm,
    /// The VM.
    pub vm: VmFd,
    /// Its vCPU.
    pub vcpu: VcpuFd,
    /// Its memory.
    pub ram: GuestRam,
    /// What the program reported last, by number.
    pub reports: [u64; REPORTS],
    _gic: Option<DeviceFd>,
}

/// Which interrupt controller the VM has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gic {
    /// None: interrupts come by the vCPU's pins.
    None,
    /// GICv2, at these addresses of distributor and CPU interface.
    V2(u64, u64),
}

impl Machine {
    /// A VM without an interrupt controller, with the usual vectors.
    pub fn new(features: Features, program: &code::Code) -> Result<Self> {
        Self::with(
            features,
            Gic::None,
            &[],
            &program.bytes(),
            &code::vectors(&[]),
            |_| Ok(()),
        )
    }

    /// A VM with `program` and `vectors` in its memory. `before` may change the vCPU before it is set up for good; `caps` are
    /// enabled.
    pub fn with(
        features: Features,
        gic: Gic,
        caps: &[u32],
        program: &[u8],
        vectors: &[u8],
        before: impl FnOnce(&VcpuFd) -> Result<()>,
    ) -> Result<Self> {
        let kvm = Kvm::new().map_err(ioctl("/dev/kvm"))?;
        let limit = u64::try_from(kvm.check_extension_int(Cap::ArmVmIPASize)).unwrap_or(0);
        let vm = kvm
            .create_vm_with_type(if limit == 0 { 0 } else { limit.min(40) })
            .map_err(ioctl("KVM_CREATE_VM"))?;
        for cap in caps {
            let cap = kb::kvm_enable_cap {
                cap: *cap,
                ..Default::default()
            };
            vm.enable_cap(&cap).map_err(ioctl("KVM_ENABLE_CAP"))?;
        }
        let ram = GuestRam::new(RAM)?;
        for (ipa, size, host) in ram.regions() {
            let region = kb::kvm_userspace_memory_region {
                slot: 0,
                flags: 0,
                guest_phys_addr: ipa,
                memory_size: size,
                userspace_addr: host as u64,
            };
            // SAFETY: the mapping is the machine's own and outlives the VM's descriptor, which is declared before it.
            unsafe { vm.set_user_memory_region(region) }.map_err(ioctl("KVM_SET_USER_MEMORY_REGION"))?;
        }
        let device = match gic {
            Gic::None => None,
            Gic::V2(dist, cpu) => Some(gicv2(&vm, dist, cpu)?),
        };
        let vcpu = vm.create_vcpu(0).map_err(ioctl("KVM_CREATE_VCPU"))?;
        let mut init = kb::kvm_vcpu_init::default();
        vm.get_preferred_target(&mut init)
            .map_err(ioctl("KVM_ARM_PREFERRED_TARGET"))?;
        init.features[0] |= 1 << kb::KVM_ARM_VCPU_PSCI_0_2 | features.bits;
        if features.vq > 0 {
            init.features[0] |= 1 << kb::KVM_ARM_VCPU_SVE;
        }
        vcpu.vcpu_init(&init).map_err(ioctl("KVM_ARM_VCPU_INIT"))?;
        before(&vcpu)?;
        if features.vq > 0 {
            set_vector_lengths(&vcpu, features.vq)?;
            let sve = kb::KVM_ARM_VCPU_SVE.cast_signed();
            vcpu.vcpu_finalize(&sve).map_err(ioctl("KVM_ARM_VCPU_FINALIZE"))?;
        }
        if let Some(device) = &device {
            let attr = kb::kvm_device_attr {
                group: kb::KVM_DEV_ARM_VGIC_GRP_CTRL,
                attr: u64::from(kb::KVM_DEV_ARM_VGIC_CTRL_INIT),
                ..Default::default()
            };
            device.set_device_attr(&attr).map_err(ioctl("init the vGIC"))?;
        }
        ram.load(RAM_BASE, vectors)?;
        ram.load(ENTRY, program)?;
        let this = Self {
            kvm,
            vm,
            vcpu,
            ram,
            reports: [0; REPORTS],
            _gic: device,
        };
        this.set_core(256, ENTRY)?;
        if features.bits & 1 << kb::KVM_ARM_VCPU_EL1_32BIT == 0 {
            this.set_core(264, PSTATE)?;
        }
        Ok(this)
    }

    /// Sets a core register by its offset in `struct kvm_regs`.
    pub fn set_core(&self, offset: u64, value: u64) -> Result<()> {
        let id = core_id(offset);
        self.vcpu
            .set_one_reg(id, &value.to_le_bytes())
            .map(drop)
            .map_err(ioctl("set a core register"))
    }

    /// A core register by its offset in `struct kvm_regs`.
    pub fn core(&self, offset: u64) -> Result<u64> {
        let id = core_id(offset);
        let mut raw = [0; 8];
        self.vcpu
            .get_one_reg(id, &mut raw)
            .map_err(ioctl("get a core register"))?;
        Ok(u64::from_le_bytes(raw))
    }

    /// The program counter.
    pub fn pc(&self) -> Result<u64> {
        self.core(256)
    }

    /// Runs the guest until it stops.
    pub fn run(&mut self) -> Stop {
        /// More exits than any program makes on its way to a pause.
        const MANY: u32 = 10_000;
        for _ in 0..MANY {
            match self.vcpu.run() {
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    let mut raw = [0; 8];
                    raw[..data.len()].copy_from_slice(data);
                    let value = u64::from_le_bytes(raw);
                    match address.wrapping_sub(MMIO) {
                        PAUSE => return Stop::Paused(value),
                        EXCEPTION => {
                            return Stop::Exception(
                                value,
                                self.reports[code::ESR_AT],
                                self.reports[code::ELR_AT],
                            );
                        }
                        offset => {
                            if let Some(word) = self.reports.get_mut(offset as usize / 8) {
                                *word = value;
                            } else {
                                return Stop::Other("a store to nowhere");
                            }
                        }
                    }
                }
                Ok(VcpuExit::MmioRead(_, data)) => data.fill(0x5a),
                Ok(VcpuExit::Debug(debug)) => {
                    return Stop::Debug(u64::from(debug.hsr) | u64::from(debug.hsr_high) << 32, debug.far);
                }
                Ok(VcpuExit::SystemEvent(..)) => return Stop::Other("a system event"),
                Ok(VcpuExit::FailEntry(..)) => return Stop::Other("a failed entry"),
                Ok(VcpuExit::InternalError) => return Stop::Other("an internal error"),
                Ok(VcpuExit::Intr) => {}
                Ok(_) => return Stop::Other("an exit of another kind"),
                Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {}
                Err(e) => return Stop::Failed(e.errno()),
            }
        }
        Stop::Other("no pause")
    }

    /// Runs the guest, which must pause.
    pub fn run_to_pause(&mut self) -> Result<u64> {
        match self.run() {
            Stop::Paused(value) => Ok(value),
            other => Err(Error::Setup(format!("the guest stopped by {other:x?}"))),
        }
    }

    /// Sets the IRQ or FIQ pin of the vCPU.
    pub fn pin(&self, fiq: bool, level: bool) -> Result<()> {
        let irq = kb::KVM_ARM_IRQ_TYPE_CPU << kb::KVM_ARM_IRQ_TYPE_SHIFT | u32::from(fiq);
        self.vm.set_irq_line(irq, level).map_err(ioctl("KVM_IRQ_LINE"))
    }

    /// Sets shared peripheral interrupt `intid`.
    pub fn spi(&self, intid: u32, level: bool) -> Result<()> {
        let irq = kb::KVM_ARM_IRQ_TYPE_SPI << kb::KVM_ARM_IRQ_TYPE_SHIFT | intid;
        self.vm.set_irq_line(irq, level).map_err(ioctl("KVM_IRQ_LINE"))
    }

    /// Sets the counter's offset: what both counters of the guest are behind the host's.
    pub fn set_counter_offset(&self, offset: u64) -> Result<()> {
        const KVM_ARM_SET_COUNTER_OFFSET: u64 = 0x4010_aeb5;
        let arg: [u64; 2] = [offset, 0];
        // SAFETY: the ioctl reads this structure of 16 bytes and nothing else.
        let result = unsafe { libc::ioctl(self.vm.as_raw_fd(), KVM_ARM_SET_COUNTER_OFFSET, &raw const arg) };
        if result == 0 {
            Ok(())
        } else {
            Err(Error::setup(
                "KVM_ARM_SET_COUNTER_OFFSET",
                std::io::Error::last_os_error(),
            ))
        }
    }
}

/// The id of a core register, by its offset in `struct kvm_regs`.
fn core_id(offset: u64) -> u64 {
    kb::KVM_REG_ARM64 | kb::KVM_REG_SIZE_U64 | u64::from(kb::KVM_REG_ARM_CORE) | (offset / 4)
}

/// The id of a system register for KVM_GET_ONE_REG.
pub fn sysreg_id([op0, op1, crn, crm, op2]: code::Reg) -> u64 {
    kb::KVM_REG_ARM64
        | kb::KVM_REG_SIZE_U64
        | u64::from(kb::KVM_REG_ARM64_SYSREG)
        | u64::from(op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2)
}

/// A system register of a vCPU.
pub fn get_sysreg(vcpu: &VcpuFd, reg: code::Reg) -> Result<u64> {
    let mut raw = [0; 8];
    vcpu.get_one_reg(sysreg_id(reg), &mut raw)
        .map_err(ioctl("get a system register"))?;
    Ok(u64::from_le_bytes(raw))
}

/// Sets a system register of a vCPU.
pub fn set_sysreg(vcpu: &VcpuFd, reg: code::Reg, value: u64) -> Result<()> {
    vcpu.set_one_reg(sysreg_id(reg), &value.to_le_bytes())
        .map(drop)
        .map_err(ioctl("set a system register"))
}

/// `KVM_REG_ARM64_SVE_VLS`: one bit for each vector length.
const SVE_VLS: u64 = kb::KVM_REG_ARM64 | 0x15 << 16 | 0x0060_0000_0000_0000 | 0xffff;

/// Which vector lengths a vCPU with SVE can have, as bits: bit n is 16 (n + 1) bytes.
pub fn vector_lengths(vcpu: &VcpuFd) -> Result<u64> {
    let mut raw = [0; 64];
    vcpu.get_one_reg(SVE_VLS, &mut raw)
        .map_err(ioctl("KVM_REG_ARM64_SVE_VLS"))?;
    Ok(u64::from_le_bytes(std::array::from_fn(|n| raw[n])))
}

/// Leaves the vCPU the lengths up to `vq`.
fn set_vector_lengths(vcpu: &VcpuFd, vq: u32) -> Result<()> {
    let lengths = vector_lengths(vcpu)? & ((1 << vq) - 1);
    let mut raw = [0; 64];
    raw[..8].copy_from_slice(&lengths.to_le_bytes());
    vcpu.set_one_reg(SVE_VLS, &raw)
        .map(drop)
        .map_err(ioctl("KVM_REG_ARM64_SVE_VLS"))
}

fn gicv2(vm: &VmFd, dist: u64, cpu: u64) -> Result<DeviceFd> {
    let mut request = kb::kvm_create_device {
        type_: kb::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2,
        fd: 0,
        flags: 0,
    };
    let gic = vm
        .create_device(&mut request)
        .map_err(ioctl("create the vGICv2"))?;
    for (attr, base) in [
        (kb::KVM_VGIC_V2_ADDR_TYPE_DIST, dist),
        (kb::KVM_VGIC_V2_ADDR_TYPE_CPU, cpu),
    ] {
        let attr = kb::kvm_device_attr {
            flags: 0,
            group: kb::KVM_DEV_ARM_VGIC_GRP_ADDR,
            attr: u64::from(attr),
            addr: &raw const base as u64,
        };
        gic.set_device_attr(&attr).map_err(ioctl("place the vGICv2"))?;
    }
    Ok(gic)
}
