// SPDX-License-Identifier: GPL-2.0-only
//! What a VM and a vCPU start with: the host's wishes as far as policy grants them ([`pkvm_core::traps`],
//! [`pkvm_core::idreg`]), written into EL2's own copies. The host's words are read once each, from pinned memory. It does
//! the job of the configuring half of the kernel's `nvhe/pkvm.c`. No lock: nobody else knows the VM or vCPU yet.

use pkvm_arch::alt::has_cap;
use pkvm_arch::sysreg::{CTR_EL0, read};
use pkvm_core::idreg::{IdRegs, ProtectedIds, SystemIds, aarch64_registers, check_protected};
use pkvm_core::mem::Guest;
use pkvm_core::sysreg::{SysReg, id_index};
use pkvm_core::traps::{
    self, Cpu, Gic, VM_FLAG_ID_REGS, VcpuFeatures, check_vgic_model, initial_hcr, initial_hcrx, mdcr_floor,
};
use pkvm_core::vm_table::VmKind;
use pkvm_kernel::Kvm;
use pkvm_kernel::layout::*;
use pkvm_types::{Error, Handle, Result};

use crate::state::HOST_VTCR;
use crate::statics;
use crate::vm::{VcpuPtr, VmPtr};

/// What the machine has, of what policy asks about.
pub fn cpu_features() -> Cpu {
    macro_rules! cap {
        ($($cap:ident => $flag:ident),*) => {{
            let mut features = Cpu::empty();
            $( features.set(Cpu::$flag, has_cap::<{ $cap as u16 }>()); )*
            features
        }};
    }
    let mut features = cap! {
        CAP_KVM_HVHE => HVHE, CAP_HAS_RAS_EXTN => RAS, CAP_HAS_STAGE2_FWB => FWB, CAP_HAS_32BIT_EL1 => AARCH32_EL1,
        CAP_HAS_EVT => EVT, CAP_MISMATCHED_CACHE_TYPE => MISMATCHED_CACHE_TYPE, CAP_HAS_HCX => HCX,
        CAP_HAS_FPMR => FPMR
    };
    features.set(Cpu::SVE, CONFIG_SVE != 0 && has_cap::<{ CAP_SVE as u16 }>());
    features.set(Cpu::MTE, CONFIG_MTE != 0 && has_cap::<{ CAP_MTE as u16 }>());
    let auth = has_cap::<{ CAP_HAS_ADDRESS_AUTH as u16 }>() || has_cap::<{ CAP_HAS_GENERIC_AUTH as u16 }>();
    features.set(Cpu::PTRAUTH, CONFIG_PTR_AUTH != 0 && auth);
    features
}

fn gic() -> Gic {
    let v5 = has_cap::<{ CAP_HAS_GICV5_CPUIF as u16 }>();
    if v5 && has_cap::<{ CAP_HAS_GICV5_LEGACY as u16 }>() {
        Gic::V5WithLegacy
    } else if v5 {
        Gic::V5
    } else if has_cap::<{ CAP_HAS_GICV3_CPUIF as u16 }>() {
        Gic::V3
    } else {
        Gic::V2
    }
}

fn system_ids() -> SystemIds {
    SystemIds {
        pfr0: statics::id_aa64pfr0_el1_sys_val.get(),
        pfr1: statics::id_aa64pfr1_el1_sys_val.get(),
        pfr2: statics::id_aa64pfr2_el1_sys_val.get(),
        isar0: statics::id_aa64isar0_el1_sys_val.get(),
        isar1: statics::id_aa64isar1_el1_sys_val.get(),
        isar2: statics::id_aa64isar2_el1_sys_val.get(),
        mmfr0: statics::id_aa64mmfr0_el1_sys_val.get(),
        mmfr1: statics::id_aa64mmfr1_el1_sys_val.get(),
        mmfr2: statics::id_aa64mmfr2_el1_sys_val.get(),
    }
}

/// The ID registers in EL2's copy of a VM.
pub struct VmIds(pub Kvm);

impl IdRegs for VmIds {
    fn id_reg(&self, reg: SysReg) -> u64 {
        id_index(reg)
            .filter(|index| (*index as u64) < KVM_ID_REG_NUM)
            .map_or(0, |index| self.0.id_reg(index))
    }
}

/// What a VM is granted, decided before anything is built.
pub struct VmFeatures {
    kind: VmKind,
    granted: traps::VmFeatures,
    vgic_model: u32,
    ctr_el0: u64,
    midr_el1: u64,
}

impl VmFeatures {
    /// Reads the host's wishes for a VM of kind `kind`. [`Error::Invalid`] where the machine cannot give the VM its
    /// interrupt controller, or a protected VM the features that it needs.
    pub fn read(host: Kvm, kind: VmKind) -> Result<Self> {
        let cpu = cpu_features();
        let granted = traps::VmFeatures::from_host(kind, host.flags(), host.vcpu_features(), cpu);
        let vgic_model = host.vgic_model();
        check_vgic_model(vgic_model, kind, gic())?;
        if kind == VmKind::Protected {
            check_protected(&ProtectedIds {
                system: &system_ids(),
                granted: granted.granted(cpu),
            })?;
        }
        Ok(Self {
            kind,
            granted,
            vgic_model,
            ctr_el0: host.ctr_el0(),
            midr_el1: host.midr_el1(),
        })
    }

    /// Writes them into EL2's copy.
    pub fn apply(&self, kvm: Kvm) {
        let protected = self.kind == VmKind::Protected;
        kvm.set_flags(self.granted.flags | if protected { VM_FLAG_ID_REGS } else { 0 });
        kvm.set_vcpu_features(self.granted.vcpu.bits());
        kvm.set_vgic_model(self.vgic_model);
        kvm.set_ctr_el0(self.ctr_el0);
        kvm.set_is_protected(u8::from(protected));
        if self.granted.host_midr {
            kvm.set_midr_el1(self.midr_el1);
        }
        if protected {
            let system = system_ids();
            let ids = ProtectedIds {
                system: &system,
                granted: self.granted.granted(cpu_features()),
            };
            for reg in aarch64_registers() {
                if let Some(index) = id_index(reg) {
                    kvm.set_id_reg(index, ids.id_reg(reg));
                }
            }
        }
    }
}

/// Tells the world switch where the VM's stage 2 is.
pub fn describe_stage2(vm: VmPtr, handle: Handle, guest: &Guest) {
    let kvm = vm.kvm();
    let regime = guest.regime();
    kvm.set_created_vcpus(vm.get().nr_vcpus);
    kvm.set_handle(handle.raw());
    let mmu = kvm.mmu();
    mmu.set_vmid(u64::from(regime.vmid.raw()));
    mmu.set_pgd_phys(regime.root.raw());
    mmu.set_vtcr(*HOST_VTCR.get());
    mmu.set_arch(kvm.addr());
}

/// A vCPU's SVE buffer, in the host's memory and still to be pinned.
pub struct SveBuffer {
    /// Kernel address.
    pub buffer: u64,
    /// Its length.
    pub bytes: usize,
    /// The guest's largest vector length, in bytes.
    pub max_vl: u32,
}

/// Bytes of the SVE state with vector length `vl`: 32 vectors, 16 predicates and FFR.
pub const fn sve_state_bytes(vl: u32) -> usize {
    let vl = vl as usize;
    32 * vl + 16 * (vl / 8) + vl / 8
}

/// Sets up the registers of a new vCPU. Yields the SVE buffer that it needs, if any. [`Error::Invalid`] where a normal
/// VM's ID registers are not there yet, or the host's SVE configuration makes no sense.
pub fn init_vcpu(vcpu: VcpuPtr) -> Result<Option<SveBuffer>> {
    let (host, view, vm) = (vcpu.get().host, vcpu.view(), vcpu.get().vm);
    let (kvm, kind) = (vm.kvm(), vm.get().kind);
    let cpu = cpu_features();

    view.set_kvm_addr(kvm.addr());
    view.set_id(host.id());
    view.set_idx(host.idx());
    view.set_hw_mmu_addr(kvm.mmu().addr());
    view.set_cflags(host.cflags());
    view.set_mp_state(KVM_MP_STATE_STOPPED as u32);
    if kind == VmKind::Normal {
        // The offsets are words of the host's struct kvm, which stays pinned for the VM's life.
        let host_kvm = vm.get().host_kvm.addr();
        view.set_vtimer_vm_offset(host_kvm + KVM_TIMER_VOFFSET);
        view.set_ptimer_vm_offset(host_kvm + KVM_TIMER_POFFSET);
        copy_id_regs(vm)?;
    }

    let granted = traps::VmFeatures {
        flags: kvm.flags(),
        vcpu: VcpuFeatures::from_bits_truncate(kvm.vcpu_features()),
        host_midr: false,
    };
    let ids = VmIds(kvm);
    let ctr_is_ours = kvm.ctr_el0() == read::<CTR_EL0>();
    view.set_hcr_el2(initial_hcr(kind, cpu, &granted, ctr_is_ours, &ids));
    let host_hcrx = if kind == VmKind::Normal {
        host.hcrx_el2()
    } else {
        0
    };
    view.set_hcrx_el2(initial_hcrx(kind, cpu, host_hcrx, &ids));
    view.set_mdcr_el2(mdcr_floor(kind, &ids));
    init_sve(vcpu, &granted)
}

fn copy_id_regs(vm: VmPtr) -> Result<()> {
    let (kvm, host) = (vm.kvm(), vm.get().host_kvm);
    if host.flags() & VM_FLAG_ID_REGS == 0 {
        return Err(Error::Invalid);
    }
    if kvm.flags() & VM_FLAG_ID_REGS == 0 {
        for index in 0..KVM_ID_REG_NUM as usize {
            kvm.set_id_reg(index, host.id_reg(index));
        }
        kvm.set_flags(kvm.flags() | VM_FLAG_ID_REGS);
    }
    Ok(())
}

/// The smallest and the largest vector length that the architecture has room for, in bytes.
const VL_MIN: u32 = 16;
const VL_MAX: u32 = 8192;

/// `VCPU_SVE_FINALIZED` of the configuration flags.
const SVE_FINALIZED: u8 = 1 << 1;

fn init_sve(vcpu: VcpuPtr, granted: &traps::VmFeatures) -> Result<Option<SveBuffer>> {
    let (host, view) = (vcpu.get().host, vcpu.view());
    if !granted.vcpu.contains(VcpuFeatures::SVE) {
        view.set_cflags(view.cflags() & !SVE_FINALIZED);
        return Ok(None);
    }
    let max_vl = host.sve_max_vl().min(statics::kvm_host_sve_max_vl.get());
    let buffer = host.sve_state();
    if !(VL_MIN..=VL_MAX).contains(&max_vl) || !max_vl.is_multiple_of(VL_MIN) || buffer == 0 {
        return Err(Error::Invalid);
    }
    Ok(Some(SveBuffer {
        buffer,
        bytes: sve_state_bytes(max_vl),
        max_vl,
    }))
}
