// SPDX-License-Identifier: GPL-2.0-only
//! What EL2 lets a guest do by itself: the values of the trap registers for each kind of VM, what of them the host may
//! choose on each run, and what features a VM gets. This does the job of the trap half of the kernel's `nvhe/pkvm.c`.
//!
//! The host's words are arguments and may be anything; each was read once. Nothing here takes a lock.

use crate::idreg::{Feature, Granted, IdRegs};
use crate::vm_table::VmKind;
use bitflags::bitflags;
use pkvm_types::{Error, Result};

mod bits;
#[cfg(test)]
mod tests;

pub use bits::{Hcr, Hcrx, Mdcr};

/// The HPMN field of MDCR_EL2: how many event counters EL1 may use.
const MDCR_HPMN: u64 = 0x1f;

bitflags! {
    /// What the machine has, as the kernel's CPU capabilities say.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Cpu: u32 {
        /// EL2 runs with HCR_EL2.E2H set.
        const HVHE = 1 << 0;
        /// `ARM64_HAS_RAS_EXTN`.
        const RAS = 1 << 1;
        /// `ARM64_HAS_STAGE2_FWB`.
        const FWB = 1 << 2;
        /// `ARM64_HAS_32BIT_EL1`.
        const AARCH32_EL1 = 1 << 3;
        /// `ARM64_HAS_EVT`.
        const EVT = 1 << 4;
        /// `ARM64_MISMATCHED_CACHE_TYPE`.
        const MISMATCHED_CACHE_TYPE = 1 << 5;
        /// `ARM64_HAS_HCX`.
        const HCX = 1 << 6;
        /// `ARM64_HAS_FPMR`.
        const FPMR = 1 << 7;
        /// `ARM64_SVE`.
        const SVE = 1 << 8;
        /// `ARM64_HAS_ADDRESS_AUTH` or `ARM64_HAS_GENERIC_AUTH`, in a kernel with `CONFIG_ARM64_PTR_AUTH`.
        const PTRAUTH = 1 << 9;
        /// `ARM64_MTE`.
        const MTE = 1 << 10;
    }
}

bitflags! {
    /// The `vcpu_features` of a VM, by the numbers of `KVM_ARM_VCPU_INIT`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct VcpuFeatures: u64 {
        /// AArch32 at EL1.
        const EL1_32BIT = 1 << 1;
        /// PSCI 0.2.
        const PSCI_0_2 = 1 << 2;
        /// Performance monitors.
        const PMU_V3 = 1 << 3;
        /// Scalable vectors.
        const SVE = 1 << 4;
        /// Address authentication.
        const PTRAUTH_ADDRESS = 1 << 5;
        /// Generic authentication.
        const PTRAUTH_GENERIC = 1 << 6;
        /// Nested virtualisation.
        const HAS_EL2 = 1 << 7;
        // The rest up to KVM_VCPU_MAX_FEATURES is taken as it is.
        const _ = (1 << 10) - 1;
    }
}

/// The bit of the kernel's VM flags that says that the guest has memory tags.
pub const VM_FLAG_MTE: u64 = 1 << 1;
/// The bit that says that `id_regs` are valid.
pub const VM_FLAG_ID_REGS: u64 = 1 << 7;
/// The bit that says that the guest has SVE.
pub const VM_FLAG_SVE: u64 = 1 << 9;
/// The bit that says that MIDR_EL1 is the VM's own.
pub const VM_FLAG_WRITABLE_IMP_ID_REGS: u64 = 1 << 10;

/// The features of a VM, as EL2's own copy holds them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmFeatures {
    /// The kernel's VM flags.
    pub flags: u64,
    /// The vCPU features.
    pub vcpu: VcpuFeatures,
    /// Whether MIDR_EL1 comes from the host's copy.
    pub host_midr: bool,
}

impl VmFeatures {
    /// What of the host's VM `flags` and `vcpu_features` EL2 grants a VM of kind `kind`. A normal VM gets all it was
    /// given; a protected one only what EL2 can keep from harm. Nested virtualisation is granted to nobody: EL2 does
    /// not switch its state.
    pub fn from_host(kind: VmKind, flags: u64, vcpu_features: u64, cpu: Cpu) -> Self {
        let asked = VcpuFeatures::from_bits_truncate(vcpu_features);
        let (base, allowed) = match kind {
            VmKind::Normal => (
                flags & !VM_FLAG_ID_REGS,
                VcpuFeatures::all().difference(VcpuFeatures::HAS_EL2),
            ),
            VmKind::Protected => (
                0,
                VcpuFeatures::PSCI_0_2
                    .union(VcpuFeatures::PTRAUTH_ADDRESS)
                    .union(VcpuFeatures::PTRAUTH_GENERIC),
            ),
        };
        let mut vcpu = asked.intersection(allowed);
        if !cpu.contains(Cpu::SVE) {
            vcpu.remove(VcpuFeatures::SVE);
        }
        let sve = if vcpu.contains(VcpuFeatures::SVE) {
            VM_FLAG_SVE
        } else {
            0
        };
        let mut flags = base & !VM_FLAG_SVE | sve;
        if !cpu.contains(Cpu::MTE) {
            flags &= !VM_FLAG_MTE;
        }
        Self {
            flags,
            vcpu,
            host_midr: flags & VM_FLAG_WRITABLE_IMP_ID_REGS != 0,
        }
    }

    /// The optional features that show in the ID registers.
    pub const fn granted(&self, cpu: Cpu) -> Granted {
        Granted {
            sve: cpu.contains(Cpu::SVE) && self.vcpu.contains(VcpuFeatures::SVE),
            ptrauth: cpu.contains(Cpu::PTRAUTH) && self.vcpu.contains(VcpuFeatures::PTRAUTH_GENERIC),
        }
    }

    /// Whether the guest has memory tags.
    pub const fn mte(&self) -> bool {
        self.flags & VM_FLAG_MTE != 0
    }
}

/// The GIC that the host's struct kvm names as the VM's, a `KVM_DEV_TYPE_ARM_VGIC_*`.
const VGIC_NONE: u32 = 0;
const VGIC_V2: u32 = 5;
const VGIC_V3: u32 = 7;

/// The machine's GIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gic {
    /// GICv2: EL2 does not switch it.
    V2,
    /// GICv3 or GICv4.
    V3,
    /// GICv5 alone.
    V5,
    /// GICv5 that can play GICv3.
    V5WithLegacy,
}

/// Checks that the machine can run a VM whose GIC the host calls `model`; [`Error::Invalid`] if not. EL2 would access
/// registers that are not there. A GICv5 model (16) is refused on every machine: EL2 does not switch its state.
pub const fn check_vgic_model(model: u32, kind: VmKind, gic: Gic) -> Result<()> {
    // Without a GIC of its own a VM gets the machine's CPU interface with everything off.
    let fits = matches!(
        (model, gic, kind),
        (VGIC_NONE, _, _)
            | (VGIC_V2, Gic::V2 | Gic::V3, VmKind::Normal)
            | (VGIC_V3, Gic::V3 | Gic::V5WithLegacy, _)
    );
    if fits { Ok(()) } else { Err(Error::Invalid) }
}

/// What every guest starts from: stage 2 on; SMC, WFx, set/way, ID group 1 and 3, implementation defined and ACTLR
/// accesses trapped; interrupts virtual; barriers and maintenance widened to the inner shareable domain.
const HCR_GUEST: Hcr = Hcr::from_bits_retain(
    Hcr::TSC.bits()
        | Hcr::TSW.bits()
        | Hcr::TWE.bits()
        | Hcr::TWI.bits()
        | Hcr::VM.bits()
        | Hcr::BSU_IS.bits()
        | Hcr::FB.bits()
        | Hcr::TACR.bits()
        | Hcr::AMO.bits()
        | Hcr::SWIO.bits()
        | Hcr::TIDCP.bits()
        | Hcr::RW.bits()
        | Hcr::TLOR.bits()
        | Hcr::FMO.bits()
        | Hcr::IMO.bits()
        | Hcr::PTW.bits()
        | Hcr::TID3.bits()
        | Hcr::TID1.bits(),
);

/// HCR_EL2 of a new vCPU. `ctr_is_the_machines` says whether the VM's CTR_EL0 is the CPU's own; `ids` are the VM's ID
/// registers, which count for a protected one.
pub fn initial_hcr(
    kind: VmKind,
    cpu: Cpu,
    vm: &VmFeatures,
    ctr_is_the_machines: bool,
    ids: &impl IdRegs,
) -> u64 {
    let mut hcr = HCR_GUEST;
    hcr.set(Hcr::E2H, cpu.contains(Cpu::HVHE));
    if cpu.contains(Cpu::RAS) {
        // External aborts come to EL2, and so do accesses to the error records.
        hcr |= Hcr::TEA | Hcr::TERR;
    }
    hcr.set(Hcr::FWB, cpu.contains(Cpu::FWB));
    if vm
        .vcpu
        .intersects(VcpuFeatures::PTRAUTH_ADDRESS | VcpuFeatures::PTRAUTH_GENERIC)
        && cpu.contains(Cpu::PTRAUTH)
    {
        hcr |= Hcr::API | Hcr::APK;
    }
    if kind == VmKind::Normal {
        if vm.vcpu.contains(VcpuFeatures::EL1_32BIT) && cpu.contains(Cpu::AARCH32_EL1) {
            hcr.remove(Hcr::RW);
        }
        return hcr.bits();
    }
    // Cache ID registers: the cheaper trap leaves CTR_EL0 and CSSELR_EL1 alone, where they tell the truth.
    if cpu.contains(Cpu::EVT) && !cpu.contains(Cpu::MISMATCHED_CACHE_TYPE) && ctr_is_the_machines {
        hcr |= Hcr::TID4;
    } else {
        hcr |= Hcr::TID2;
    }
    if !ids.has(Feature::RAS) {
        hcr |= Hcr::TERR | Hcr::TEA;
        hcr.remove(Hcr::FIEN);
    }
    if !ids.has(Feature::AMU) {
        hcr.remove(Hcr::AMVOFFEN);
    }
    if !vm.mte() {
        hcr |= Hcr::TID5;
        hcr.remove(Hcr::DCT | Hcr::ATA);
    }
    if !ids.has(Feature::LOR) {
        hcr |= Hcr::TLOR;
    }
    hcr.bits()
}

/// HCRX_EL2 of a new vCPU; `host` is what the host's copy of a normal one says.
pub fn initial_hcrx(kind: VmKind, cpu: Cpu, host: u64, ids: &impl IdRegs) -> u64 {
    if kind == VmKind::Normal {
        return host;
    }
    if !cpu.contains(Cpu::HCX) {
        return 0;
    }
    let mut hcrx = Hcrx::SMPME;
    if ids.has(Feature::MOPS) {
        hcrx |= Hcrx::MSCEN | Hcrx::MCE2;
    }
    hcrx.set(Hcrx::TCR2EN, ids.has(Feature::TCR2));
    hcrx.set(Hcrx::EN_FPM, cpu.contains(Cpu::FPMR) && ids.has(Feature::FPMR));
    hcrx.set(Hcrx::SCTLR2EN, ids.has(Feature::SCTLR2));
    hcrx.set(Hcrx::EN_ALS, ids.has(Feature::LS64));
    hcrx.set(Hcrx::EN_ASR, ids.has(Feature::LS64_V));
    hcrx.bits()
}

/// The traps that a protected VM's MDCR_EL2 always holds: one for each debug, trace, profiling or counting feature that
/// it does not have. Zero for a normal VM.
pub fn mdcr_floor(kind: VmKind, ids: &impl IdRegs) -> u64 {
    if kind == VmKind::Normal {
        return 0;
    }
    let mut mdcr = Mdcr::empty();
    if !ids.has(Feature::PMU) {
        mdcr |= Mdcr::TPM | Mdcr::TPMCR;
    }
    if !ids.has(Feature::DEBUG) {
        mdcr |= Mdcr::TDRA | Mdcr::TDA;
    }
    mdcr.set(Mdcr::TDOSA, !ids.has(Feature::DOUBLE_LOCK));
    mdcr.set(Mdcr::TPMS, !ids.has(Feature::SPE));
    mdcr.set(Mdcr::TTRF, !ids.has(Feature::TRACE_FILTER));
    mdcr.set(Mdcr::TDCC, !ids.has(Feature::FGT));
    mdcr.bits()
}

/// MDCR_EL2 for a run: the traps of `floor` ([`mdcr_floor`]) and those that the host asked for in `host`. The host cannot
/// hand the guest a buffer of its own regime (E2PB, E2TB stay zero), nor more than the `counters` event counters
/// that there are: beyond them, and at zero where there are some, HPMN is CONSTRAINED UNPREDICTABLE.
pub const fn run_mdcr(floor: u64, host: u64, counters: u8) -> u64 {
    let traps = host & Mdcr::all().bits() | floor;
    let asked = host & MDCR_HPMN;
    let counters = counters as u64 & MDCR_HPMN;
    let hpmn = if asked == 0 || asked > counters {
        counters
    } else {
        asked
    };
    traps | hpmn
}

/// The bits of HCR_EL2 that the host chooses on each run.
pub const fn host_hcr_mask(kind: VmKind) -> u64 {
    let protected = Hcr::TWI.bits() | Hcr::TWE.bits() | Hcr::VSE.bits();
    match kind {
        VmKind::Protected => protected,
        VmKind::Normal => {
            protected
                | Hcr::VI.bits()
                | Hcr::VF.bits()
                | Hcr::TVM.bits()
                | Hcr::TID2.bits()
                | Hcr::TID4.bits()
                | Hcr::TID5.bits()
                | Hcr::TTLBOS.bits()
        }
    }
}

/// HCR_EL2 for a run: EL2's own value `hyp`, with the bits that are the host's from `host`.
pub const fn run_hcr(kind: VmKind, hyp: u64, host: u64) -> u64 {
    let mask = host_hcr_mask(kind);
    hyp & !mask | host & mask
}

/// HCR_EL2 of a protected vCPU after `__pkvm_vcpu_load`: the host says whether WFx traps.
pub const fn load_hcr(hyp: u64, host: u64) -> u64 {
    let mask = Hcr::TWI.bits() | Hcr::TWE.bits();
    hyp & !mask | host & mask
}

/// The host's copy of HCR_EL2 after a run: a virtual SError that the guest took is pending no more. `hyp` is EL2's value
/// with VSE as hardware left it.
pub const fn hcr_for_host(host: u64, hyp: u64) -> u64 {
    host & !Hcr::VSE.bits() | hyp & Hcr::VSE.bits()
}

/// Who may use the FP and SIMD registers during a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FpAccess {
    /// They hold the host's values: the guest's first use traps.
    Trapped,
    /// The guest owns them, without SVE.
    FpSimd,
    /// The guest owns them, with SVE.
    Sve,
}

/// CPTR_EL2 while a guest runs, in the layout that EL2 has with `cpu`: SME, trace and activity monitors always trap.
pub const fn guest_cptr(cpu: Cpu, fp: FpAccess) -> u64 {
    const TAM: u64 = 1 << 30;
    if cpu.contains(Cpu::HVHE) {
        // The layout of CPACR_EL1, where set bits enable: ZEN 17:16, FPEN 21:20; SMEN 25:24 stays zero; TTA is bit 28.
        let enabled = match fp {
            FpAccess::Trapped => 0,
            FpAccess::FpSimd => 3 << 20,
            FpAccess::Sve => 3 << 20 | 3 << 16,
        };
        TAM | 1 << 28 | enabled
    } else {
        // Set bits trap: TZ 8, TFP 10, TSM 12, TTA 20. The bits 13, 9 and 7 to 0 are RES1.
        let res1 = 1 << 13 | 1 << 9 | 0xff;
        let trapped = match fp {
            FpAccess::Trapped => 1 << 8 | 1 << 10,
            FpAccess::FpSimd => 1 << 8,
            FpAccess::Sve => 0,
        };
        res1 | TAM | 1 << 20 | 1 << 12 | trapped
    }
}

/// CPTR_EL2 while the host runs: what the machine has is enabled. `sme` and `poe` are `ARM64_SME` and
/// `ARM64_HAS_S1POE`.
pub const fn host_cptr(cpu: Cpu, sme: bool, poe: bool) -> u64 {
    let sve = cpu.contains(Cpu::SVE);
    if cpu.contains(Cpu::HVHE) {
        let mut enabled = 3 << 20;
        if sve {
            enabled |= 3 << 16;
        }
        if sme {
            enabled |= 3 << 24;
        }
        if poe {
            enabled |= 1 << 29;
        }
        enabled
    } else {
        let mut cptr = 1 << 13 | 1 << 9 | 0xff;
        if !sve {
            cptr |= 1 << 8;
        }
        if !sme {
            cptr |= 1 << 12;
        }
        cptr
    }
}
