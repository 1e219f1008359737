// SPDX-License-Identifier: GPL-2.0-only
//! The views, one for each kernel structure that EL2 touches.

use core::ptr::NonNull;

use crate::layout::*;
use crate::view::view;

view! {
    /// `struct kvm_cpu_context`: the general registers, FP registers and saved system registers of one world.
    Context, CTXT_SIZE;
    /// The program counter.
    pc / set_pc: u64 => CTXT_PC;
    /// The saved program state.
    pstate / set_pstate: u64 => CTXT_PSTATE;
    /// SP_EL0.
    sp_el0 / set_sp_el0: u64 => CTXT_SP_EL0;
    /// SPSR_abt of AArch32.
    spsr_abt / set_spsr_abt: u64 => CTXT_SPSR_ABT;
    /// SPSR_und of AArch32.
    spsr_und / set_spsr_und: u64 => CTXT_SPSR_UND;
    /// SPSR_irq of AArch32.
    spsr_irq / set_spsr_irq: u64 => CTXT_SPSR_IRQ;
    /// SPSR_fiq of AArch32.
    spsr_fiq / set_spsr_fiq: u64 => CTXT_SPSR_FIQ;
    /// EL2 address of the vCPU that runs on this CPU; zero where none does, and always zero in a guest's context.
    running_vcpu / set_running_vcpu: u64 => CTXT_RUNNING_VCPU;
}

impl Context {
    /// General register `n`, 0 to 30; higher numbers read as zero, as the zero register does.
    #[inline(always)]
    pub fn reg(self, n: usize) -> u64 {
        if n < 31 {
            self.read(CTXT_REGS + 8 * n as u64)
        } else {
            0
        }
    }
    /// Sets general register `n`; a write to the zero register is dropped.
    #[inline(always)]
    pub fn set_reg(self, n: usize, value: u64) {
        if n < 31 {
            self.write(CTXT_REGS + 8 * n as u64, value);
        }
    }
    /// The saved system register `index`, one of `layout::SR_*`.
    #[inline(always)]
    pub fn sys_reg(self, index: u64) -> u64 {
        debug_assert!(index < NR_SYS_REGS);
        self.read(CTXT_SYS_REGS + 8 * index)
    }
    /// Sets the saved system register `index`, one of `layout::SR_*`.
    #[inline(always)]
    pub fn set_sys_reg(self, index: u64, value: u64) {
        debug_assert!(index < NR_SYS_REGS);
        self.write(CTXT_SYS_REGS + 8 * index, value);
    }
    /// Where the FP and SIMD registers are: 32 registers of 16 bytes, then FPSR and FPCR.
    pub fn fp_regs(self) -> *mut u8 {
        self.as_ptr().wrapping_add(CTXT_FP_REGS as usize)
    }
}

view! {
    /// `struct kvm_guest_debug_arch`: one set of breakpoint and watchpoint registers.
    DebugRegs, GUEST_DEBUG_SIZE;
}

view! {
    /// `struct vgic_v3_cpu_if`: the saved GICv3 CPU interface of a vCPU.
    VgicV3, VGIC_V3_SIZE;
    /// ICH_HCR_EL2.
    hcr / set_hcr: u32 => VGIC_V3_HCR;
    /// ICH_VMCR_EL2.
    vmcr / set_vmcr: u32 => VGIC_V3_VMCR;
    /// ICC_SRE_EL1.
    sre / set_sre: u32 => VGIC_V3_SRE;
    /// How many list registers are in use; the host's word in its own copy.
    used_lrs / set_used_lrs: u32 => VGIC_V3_USED_LRS;
    /// The `its_vm` pointer of the vPE, only ever compared with zero.
    its_vm / set_its_vm: u64 => VGIC_V3_ITS_VM;
}

impl VgicV3 {
    /// List registers that the structure holds.
    pub const LRS: usize = (VGIC_V3_LR_SIZE / 8) as usize;
    /// Active priority registers of each group that the structure holds.
    pub const APRS: usize = (VGIC_V3_AP0R_SIZE / 4) as usize;

    /// List register `n`, below [`Self::LRS`].
    pub fn lr(self, n: usize) -> u64 {
        debug_assert!(n < Self::LRS);
        self.read(VGIC_V3_LR + 8 * n as u64)
    }
    /// Sets list register `n`, below [`Self::LRS`].
    pub fn set_lr(self, n: usize, value: u64) {
        debug_assert!(n < Self::LRS);
        self.write(VGIC_V3_LR + 8 * n as u64, value);
    }
    /// Group 0 active priority register `n`, below [`Self::APRS`].
    pub fn ap0r(self, n: usize) -> u32 {
        debug_assert!(n < Self::APRS);
        self.read(VGIC_V3_AP0R + 4 * n as u64)
    }
    /// Sets group 0 active priority register `n`, below [`Self::APRS`].
    pub fn set_ap0r(self, n: usize, value: u32) {
        debug_assert!(n < Self::APRS);
        self.write(VGIC_V3_AP0R + 4 * n as u64, value);
    }
    /// Group 1 active priority register `n`, below [`Self::APRS`].
    pub fn ap1r(self, n: usize) -> u32 {
        debug_assert!(n < Self::APRS);
        self.read(VGIC_V3_AP1R + 4 * n as u64)
    }
    /// Sets group 1 active priority register `n`, below [`Self::APRS`].
    pub fn set_ap1r(self, n: usize, value: u32) {
        debug_assert!(n < Self::APRS);
        self.write(VGIC_V3_AP1R + 4 * n as u64, value);
    }
}

view! {
    /// `struct vgic_v5_cpu_if`: the saved GICv5 CPU interface of a vCPU.
    VgicV5, VGIC_V5_SIZE;
    /// ICH_APR_EL2.
    apr / set_apr: u64 => VGIC_V5_APR;
    /// ICH_VMCR_EL2.
    vmcr / set_vmcr: u64 => VGIC_V5_VMCR;
    /// ICC_ICSR_EL1.
    icsr / set_icsr: u64 => VGIC_V5_ICSR;
    /// Private interrupts that hardware injects directly, one bit each.
    ppi_dvir / set_ppi_dvir: u64 => VGIC_V5_PPI_DVIR;
    /// Private interrupts that are active.
    ppi_activer / set_ppi_activer: u64 => VGIC_V5_PPI_ACTIVER;
    /// Private interrupts that are enabled.
    ppi_enabler / set_ppi_enabler: u64 => VGIC_V5_PPI_ENABLER;
}

impl VgicV5 {
    /// Priorities of eight private interrupts, one byte each; `n` is below 8.
    pub fn ppi_priorityr(self, n: usize) -> u64 {
        debug_assert!((n as u64) < VGIC_V5_PPI_PRIORITYR_SIZE / 8);
        self.read(VGIC_V5_PPI_PRIORITYR + 8 * n as u64)
    }
    /// Sets the priorities of eight private interrupts; `n` is below 8.
    pub fn set_ppi_priorityr(self, n: usize, value: u64) {
        debug_assert!((n as u64) < VGIC_V5_PPI_PRIORITYR_SIZE / 8);
        self.write(VGIC_V5_PPI_PRIORITYR + 8 * n as u64, value);
    }
}

view! {
    /// `struct kvm_s2_mmu`: what the TLB code needs of a stage 2.
    Mmu, MMU_SIZE;
    /// The VMID, with a generation above its width in non-protected mode.
    vmid / set_vmid: u64 => MMU_VMID;
    /// Physical address of the start table.
    pgd_phys / set_pgd_phys: u64 => MMU_PGD_PHYS;
    /// VTCR_EL2.
    vtcr / set_vtcr: u64 => MMU_VTCR;
    /// Kernel or EL2 address of the `struct kvm_arch` it belongs to.
    arch / set_arch: u64 => MMU_ARCH;
}

view! {
    /// `struct kvm_vcpu`: the host's, or EL2's own of the same layout.
    Vcpu, VCPU_SIZE;
    /// Address of the VM; a kernel address in the host's structure.
    kvm_addr / set_kvm_addr: u64 => VCPU_KVM;
    /// The vCPU's identifier, as user space chose it.
    id / set_id: u32 => VCPU_ID;
    /// The vCPU's index in its VM.
    idx / set_idx: u32 => VCPU_IDX;
    /// Guest debug flags of user space.
    guest_debug / set_guest_debug: u32 => VCPU_GUEST_DEBUG;
    /// Address of the SVE state buffer.
    sve_state / set_sve_state: u64 => VCPU_SVE_STATE;
    /// The guest's maximum vector length in bytes.
    sve_max_vl / set_sve_max_vl: u32 => VCPU_SVE_MAX_VL;
    /// Address of the stage 2 in use.
    hw_mmu_addr / set_hw_mmu_addr: u64 => VCPU_HW_MMU;
    /// HCR_EL2 while the vCPU runs.
    hcr_el2 / set_hcr_el2: u64 => VCPU_HCR_EL2;
    /// HCRX_EL2 while the vCPU runs.
    hcrx_el2 / set_hcrx_el2: u64 => VCPU_HCRX_EL2;
    /// MDCR_EL2 while the vCPU runs.
    mdcr_el2 / set_mdcr_el2: u64 => VCPU_MDCR_EL2;
    /// ESR_EL2 of the last exit.
    fault_esr / set_fault_esr: u64 => VCPU_FAULT_ESR_EL2;
    /// FAR_EL2 of the last exit.
    fault_far / set_fault_far: u64 => VCPU_FAULT_FAR_EL2;
    /// HPFAR_EL2 of the last exit.
    fault_hpfar / set_fault_hpfar: u64 => VCPU_FAULT_HPFAR_EL2;
    /// DISR_EL1 of the last exit.
    fault_disr / set_fault_disr: u64 => VCPU_FAULT_DISR_EL1;
    /// Configuration flags.
    cflags / set_cflags: u8 => VCPU_CFLAGS;
    /// Flags into EL2: a pending exception or program counter increment.
    iflags / set_iflags: u8 => VCPU_IFLAGS;
    /// State flags.
    sflags / set_sflags: u16 => VCPU_SFLAGS;
    /// MDSCR_EL1 while the host debugs the guest.
    external_mdscr / set_external_mdscr: u64 => VCPU_EXTERNAL_MDSCR_EL1;
    /// Who owns the debug registers, one of `layout::VCPU_DEBUG_*`, unchecked.
    debug_owner / set_debug_owner: u32 => VCPU_DEBUG_OWNER;
    /// EL2 or kernel address of the virtual timer's VM offset, or zero.
    vtimer_vm_offset / set_vtimer_vm_offset: u64 => VCPU_VTIMER_VM_OFFSET;
    /// EL2 or kernel address of the virtual timer's vCPU offset, or zero.
    vtimer_vcpu_offset / set_vtimer_vcpu_offset: u64 => VCPU_VTIMER_VCPU_OFFSET;
    /// EL2 or kernel address of the physical timer's VM offset, or zero.
    ptimer_vm_offset / set_ptimer_vm_offset: u64 => VCPU_PTIMER_VM_OFFSET;
    /// EL2 or kernel address of the physical timer's vCPU offset, or zero.
    ptimer_vcpu_offset / set_ptimer_vcpu_offset: u64 => VCPU_PTIMER_VCPU_OFFSET;
    /// Physical address of the first page in the memcache.
    memcache_head / set_memcache_head: u64 => VCPU_MEMCACHE_HEAD;
    /// Pages in the memcache.
    memcache_nr_pages / set_memcache_nr_pages: u64 => VCPU_MEMCACHE_NR_PAGES;
    /// Power state.
    mp_state / set_mp_state: u32 => VCPU_MP_STATE;
    /// VSESR_EL2 for a pending virtual SError.
    vsesr_el2 / set_vsesr_el2: u64 => VCPU_VSESR_EL2;
    /// The host task that runs the vCPU, for tracing.
    pid / set_pid: u32 => VCPU_PID;
}

impl Vcpu {
    const fn inner(self, offset: u64) -> NonNull<u8> {
        // SAFETY: the view promises SIZE mapped bytes, and the probed offset of a member lies within them, so the sum
        // stays in the same structure and is not null.
        unsafe { NonNull::new_unchecked(self.0.as_ptr().add(offset as usize)) }
    }
    /// The vCPU's register context.
    pub const fn ctxt(self) -> Context {
        // SAFETY: a member of the structure lives as long as the structure.
        unsafe { Context::from_raw(self.inner(VCPU_CTXT)) }
    }
    /// The guest's debug registers.
    pub const fn debug_state(self) -> DebugRegs {
        // SAFETY: as for `ctxt`.
        unsafe { DebugRegs::from_raw(self.inner(VCPU_DEBUG_STATE)) }
    }
    /// The debug registers with which the host debugs the guest.
    pub const fn external_debug_state(self) -> DebugRegs {
        // SAFETY: as for `ctxt`.
        unsafe { DebugRegs::from_raw(self.inner(VCPU_EXTERNAL_DEBUG_STATE)) }
    }
    /// The saved GICv3 CPU interface.
    pub const fn vgic_v3(self) -> VgicV3 {
        // SAFETY: as for `ctxt`.
        unsafe { VgicV3::from_raw(self.inner(VCPU_VGIC_V3)) }
    }
    /// The saved GICv5 CPU interface, which shares its place with the other.
    pub const fn vgic_v5(self) -> VgicV5 {
        // SAFETY: as for `ctxt`.
        unsafe { VgicV5::from_raw(self.inner(VCPU_VGIC_V5)) }
    }
    /// Fine-grained trap registers of `group` (`layout::*_GROUP`): the read and the write one.
    pub fn fgt(self, group: u64) -> (u64, u64) {
        debug_assert!(group < NR_FGT_GROUPS);
        (
            self.read(VCPU_FGT + 16 * group),
            self.read(VCPU_FGT + 16 * group + 8),
        )
    }
    /// Sets the fine-grained trap registers of `group`.
    pub fn set_fgt(self, group: u64, read: u64, write: u64) {
        debug_assert!(group < NR_FGT_GROUPS);
        self.write(VCPU_FGT + 16 * group, read);
        self.write(VCPU_FGT + 16 * group + 8, write);
    }
}

view! {
    /// `struct kvm`: the host's, or EL2's own of the same layout.
    Kvm, KVM_SIZE;
    /// vCPUs created so far.
    created_vcpus / set_created_vcpus: u32 => KVM_CREATED_VCPUS;
    /// IPA of the GICv2 CPU interface in a VM that has one.
    vgic_cpu_base / set_vgic_cpu_base: u64 => KVM_VGIC_CPU_BASE;
    /// The kind of interrupt controller, one of `layout::VGIC_MODEL_*`, unchecked.
    vgic_model / set_vgic_model: u32 => KVM_VGIC_MODEL;
    /// Architecture flags, bits `layout::KVM_FLAG_*`.
    flags / set_flags: u64 => KVM_FLAGS;
    /// vCPU features, bits `layout::FEATURE_*`.
    vcpu_features / set_vcpu_features: u64 => KVM_VCPU_FEATURES;
    /// MIDR_EL1 as the guest reads it, where user space may write it.
    midr_el1 / set_midr_el1: u64 => KVM_MIDR_EL1;
    /// CTR_EL0 as the guest reads it.
    ctr_el0 / set_ctr_el0: u64 => KVM_CTR_EL0;
    /// The handle by which the host names the VM to EL2, unchecked.
    handle / set_handle: u16 => KVM_HANDLE;
    /// Non-zero for a protected VM; a byte, not a bool, since the host wrote it.
    is_protected / set_is_protected: u8 => KVM_IS_PROTECTED;
    /// First page of the list that gives VM and vCPU structures back to the host.
    teardown_mc_head / set_teardown_mc_head: u64 => KVM_TEARDOWN_MC_HEAD;
    /// Pages in that list.
    teardown_mc_nr_pages / set_teardown_mc_nr_pages: u64 => KVM_TEARDOWN_MC_NR_PAGES;
    /// First page of the list that gives stage-2 tables back to the host.
    stage2_teardown_mc_head / set_stage2_teardown_mc_head: u64 => KVM_STAGE2_TEARDOWN_MC_HEAD;
    /// Pages in that list.
    stage2_teardown_mc_nr_pages / set_stage2_teardown_mc_nr_pages: u64 => KVM_STAGE2_TEARDOWN_MC_NR_PAGES;
}

impl Kvm {
    /// The VM's stage 2.
    pub const fn mmu(self) -> Mmu {
        // SAFETY: the view promises SIZE mapped bytes, and the member lies within them and lives as long.
        unsafe { Mmu::from_raw(NonNull::new_unchecked(self.0.as_ptr().add(KVM_MMU as usize))) }
    }
    /// The ID register with index `(CRm - 1) * 8 + Op2`, below `layout::KVM_ID_REG_NUM`.
    pub fn id_reg(self, index: usize) -> u64 {
        debug_assert!((index as u64) < KVM_ID_REG_NUM);
        self.read(KVM_ID_REGS + 8 * index as u64)
    }
    /// Sets the ID register with index `(CRm - 1) * 8 + Op2`, below `layout::KVM_ID_REG_NUM`.
    pub fn set_id_reg(self, index: usize, value: u64) {
        debug_assert!((index as u64) < KVM_ID_REG_NUM);
        self.write(KVM_ID_REGS + 8 * index as u64, value);
    }
}

view! {
    /// `struct kvm_host_data`: what belongs to one physical CPU rather than to a vCPU.
    HostData, HOST_DATA_SIZE;
    /// Bits `layout::HOST_FLAG_*`.
    flags / set_flags: u64 => HOST_DATA_FLAGS;
    /// Address of the host's SVE save area.
    sve_regs / set_sve_regs: u64 => HOST_DATA_SVE_REGS;
    /// Who owns the FP registers, one of `layout::FP_STATE_*`.
    fp_owner / set_fp_owner: u32 => HOST_DATA_FP_OWNER;
    /// The host's PMSCR_EL1.
    pmscr / set_pmscr: u64 => HOST_DATA_PMSCR_EL1;
    /// The host's PMBLIMITR_EL1.
    pmblimitr / set_pmblimitr: u64 => HOST_DATA_PMBLIMITR_EL1;
    /// The host's TRFCR_EL1.
    trfcr / set_trfcr: u64 => HOST_DATA_TRFCR_EL1;
    /// The host's TRBLIMITR_EL1.
    trblimitr / set_trblimitr: u64 => HOST_DATA_TRBLIMITR_EL1;
    /// The host's MDCR_EL2.
    mdcr / set_mdcr: u64 => HOST_DATA_MDCR_EL2;
    /// The host's BRBCR_EL1.
    brbcr / set_brbcr: u64 => HOST_DATA_BRBCR_EL1;
    /// TRFCR_EL1 while a guest runs.
    trfcr_while_in_guest / set_trfcr_while_in_guest: u64 => HOST_DATA_TRFCR_WHILE_IN_GUEST;
    /// Event counters of this CPU.
    nr_event_counters / set_nr_event_counters: u32 => HOST_DATA_NR_EVENT_COUNTERS;
    /// Breakpoints of this CPU, less one.
    debug_brps / set_debug_brps: u32 => HOST_DATA_DEBUG_BRPS;
    /// Watchpoints of this CPU, less one.
    debug_wrps / set_debug_wrps: u32 => HOST_DATA_DEBUG_WRPS;
    /// Private interrupts of a GICv5 guest that are pending, one bit each.
    ppi_pendr / set_ppi_pendr: u64 => HOST_DATA_PPI_PENDR;
    /// Those that were active at its last exit.
    ppi_activer_exit / set_ppi_activer_exit: u64 => HOST_DATA_PPI_ACTIVER_EXIT;
}

impl HostData {
    const fn inner(self, offset: u64) -> NonNull<u8> {
        // SAFETY: the view promises SIZE mapped bytes, and the probed offset of a member lies within them.
        unsafe { NonNull::new_unchecked(self.0.as_ptr().add(offset as usize)) }
    }
    /// The host's register context on this CPU.
    pub const fn ctxt(self) -> Context {
        // SAFETY: a member of the structure lives as long as the structure.
        unsafe { Context::from_raw(self.inner(HOST_DATA_CTXT)) }
    }
    /// The host's own debug registers while a guest's are loaded.
    pub const fn debug_regs(self) -> DebugRegs {
        // SAFETY: as for `ctxt`.
        unsafe { DebugRegs::from_raw(self.inner(HOST_DATA_DEBUG_REGS)) }
    }
}

view! {
    /// `struct kvm_nvhe_init_params`: what a CPU loads on its way into EL2.
    InitParams, INIT_PARAMS_SIZE;
    /// MAIR_EL2.
    mair_el2 / set_mair_el2: u64 => INIT_PARAMS_MAIR_EL2;
    /// TCR_EL2.
    tcr_el2 / set_tcr_el2: u64 => INIT_PARAMS_TCR_EL2;
    /// TPIDR_EL2: this CPU's per-CPU offset.
    tpidr_el2 / set_tpidr_el2: u64 => INIT_PARAMS_TPIDR_EL2;
    /// EL2 address of the top of the stack.
    stack_hyp_va / set_stack_hyp_va: u64 => INIT_PARAMS_STACK_HYP_VA;
    /// Physical address of the stack's page.
    stack_pa / set_stack_pa: u64 => INIT_PARAMS_STACK_PA;
    /// Physical address of EL2's start table.
    pgd_pa / set_pgd_pa: u64 => INIT_PARAMS_PGD_PA;
    /// HCR_EL2 for the host.
    hcr_el2 / set_hcr_el2: u64 => INIT_PARAMS_HCR_EL2;
    /// VTTBR_EL2 for the host.
    vttbr / set_vttbr: u64 => INIT_PARAMS_VTTBR;
    /// VTCR_EL2 for the host.
    vtcr / set_vtcr: u64 => INIT_PARAMS_VTCR;
}
