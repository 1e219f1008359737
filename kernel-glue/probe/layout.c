// SPDX-License-Identifier: GPL-2.0-only
/*
 * The layout probe. Compiled by Kbuild with the flags of the nVHE object; never linked. Each DEFINE() becomes one
 * `pub const NAME: u64` of hyp/kernel's `layout` module, so this list is also the list of what EL2 touches in the
 * kernel's structures. A field that is not here cannot be reached from EL2.
 */
#define COMPILE_OFFSETS

#include <linux/arm-smccc.h>
#include <linux/bug.h>
#include <linux/irqchip/arm-gic-v3.h>
#include <linux/kbuild.h>
#include <linux/kvm_host.h>
#include <linux/memblock.h>
#include <linux/trace_remote_event.h>
#include <uapi/linux/trace_mmap.h>
#include <asm/cpucaps.h>
#include <asm/kvm_asm.h>
#include <asm/kvm_emulate.h>
#include <asm/kvm_host.h>
#include <asm/kvm_hyp.h>
#include <asm/kvm_hyptrace.h>
#include <asm/kvm_mmu.h>
#include <asm/kvm_pgtable.h>
#include <asm/kvm_pkvm.h>
#include <asm/sysreg.h>
#include <nvhe/memory.h>
#include <nvhe/pkvm.h>

/* Offset of a member, and its size so that accessors can assert the width they use. */
#define FIELD(name, type, member)                                                                                      \
	DEFINE(name, offsetof(type, member));                                                                          \
	DEFINE(name##_SIZE, sizeof(((type *)0)->member))
#define SIZE(name, type) DEFINE(name##_SIZE, sizeof(type))
#define HCALL(call) DEFINE(HCALL_##call, __KVM_HOST_SMCCC_FUNC_##call)
#define CAP(cap) DEFINE(CAP_##cap, ARM64_##cap)
#define SR(reg) DEFINE(SR_##reg, reg)

static void config(void)
{
	DEFINE(CONFIG_PAGE_SHIFT, PAGE_SHIFT);
	DEFINE(CONFIG_NR_CPUS, NR_CPUS);
	DEFINE(CONFIG_VA_BITS, VA_BITS);
	DEFINE(CONFIG_PA_BITS, CONFIG_ARM64_PA_BITS);
	DEFINE(CONFIG_HW_AFDBM, IS_ENABLED(CONFIG_ARM64_HW_AFDBM));
	DEFINE(CONFIG_PTR_AUTH_KERNEL, IS_ENABLED(CONFIG_ARM64_PTR_AUTH_KERNEL));
	DEFINE(CONFIG_BTI_KERNEL, IS_ENABLED(CONFIG_ARM64_BTI_KERNEL));
	DEFINE(CONFIG_PTR_AUTH, IS_ENABLED(CONFIG_ARM64_PTR_AUTH));
	DEFINE(CONFIG_SVE, IS_ENABLED(CONFIG_ARM64_SVE));
	DEFINE(CONFIG_MTE, IS_ENABLED(CONFIG_ARM64_MTE));
	DEFINE(CONFIG_MPAM, IS_ENABLED(CONFIG_ARM64_MPAM));
	DEFINE(CONFIG_PSEUDO_NMI, IS_ENABLED(CONFIG_ARM64_PSEUDO_NMI));
	DEFINE(CONFIG_NVHE_EL2_DEBUG, IS_ENABLED(CONFIG_NVHE_EL2_DEBUG));
	DEFINE(CONFIG_NVHE_EL2_TRACING, IS_ENABLED(CONFIG_NVHE_EL2_TRACING));
	DEFINE(CONFIG_PKVM_STACKTRACE, IS_ENABLED(CONFIG_PKVM_STACKTRACE));
	DEFINE(CONFIG_PKVM_DISABLE_STAGE2_ON_PANIC, IS_ENABLED(CONFIG_PKVM_DISABLE_STAGE2_ON_PANIC));
	DEFINE(CONFIG_MITIGATE_SPECTRE_BRANCH_HISTORY, IS_ENABLED(CONFIG_MITIGATE_SPECTRE_BRANCH_HISTORY));
	DEFINE(CONFIG_KASAN, IS_ENABLED(CONFIG_KASAN));
	DEFINE(CONFIG_HW_PERF_EVENTS, IS_ENABLED(CONFIG_HW_PERF_EVENTS));
	DEFINE(CONFIG_RANDOMIZE_BASE, IS_ENABLED(CONFIG_RANDOMIZE_BASE));
}

static void hypercalls(void)
{
	HCALL(__pkvm_init);
	HCALL(__pkvm_create_private_mapping);
	HCALL(__pkvm_cpu_set_vector);
	HCALL(__kvm_enable_ssbs);
	HCALL(__vgic_v3_init_lrs);
	HCALL(__vgic_v3_get_gic_config);
	HCALL(__pkvm_prot_finalize);
	HCALL(__kvm_adjust_pc);
	HCALL(__kvm_vcpu_run);
	HCALL(__kvm_flush_vm_context);
	HCALL(__kvm_tlb_flush_vmid_ipa);
	HCALL(__kvm_tlb_flush_vmid_ipa_nsh);
	HCALL(__kvm_tlb_flush_vmid);
	HCALL(__kvm_tlb_flush_vmid_range);
	HCALL(__kvm_flush_cpu_context);
	HCALL(__kvm_timer_set_cntvoff);
	HCALL(__tracing_load);
	HCALL(__tracing_unload);
	HCALL(__tracing_enable);
	HCALL(__tracing_swap_reader);
	HCALL(__tracing_update_clock);
	HCALL(__tracing_reset);
	HCALL(__tracing_enable_event);
	HCALL(__tracing_write_event);
	HCALL(__vgic_v3_save_aprs);
	HCALL(__vgic_v3_restore_vmcr_aprs);
	HCALL(__vgic_v5_save_apr);
	HCALL(__vgic_v5_restore_vmcr_apr);
	HCALL(__pkvm_host_share_hyp);
	HCALL(__pkvm_host_unshare_hyp);
	HCALL(__pkvm_host_donate_guest);
	HCALL(__pkvm_host_share_guest);
	HCALL(__pkvm_host_unshare_guest);
	HCALL(__pkvm_host_relax_perms_guest);
	HCALL(__pkvm_host_wrprotect_guest);
	HCALL(__pkvm_host_test_clear_young_guest);
	HCALL(__pkvm_host_mkyoung_guest);
	HCALL(__pkvm_reserve_vm);
	HCALL(__pkvm_unreserve_vm);
	HCALL(__pkvm_init_vm);
	HCALL(__pkvm_init_vcpu);
	HCALL(__pkvm_vcpu_in_poison_fault);
	HCALL(__pkvm_force_reclaim_guest_page);
	HCALL(__pkvm_reclaim_dying_guest_page);
	HCALL(__pkvm_start_teardown_vm);
	HCALL(__pkvm_finalize_teardown_vm);
	HCALL(__pkvm_vcpu_load);
	HCALL(__pkvm_vcpu_put);
	HCALL(__pkvm_vcpu_sync_state);
	HCALL(__pkvm_tlb_flush_vmid);
	DEFINE(HCALL_MIN_PKVM, __KVM_HOST_SMCCC_FUNC_MIN_PKVM);
	DEFINE(HCALL_PKVM_ONLY, __KVM_HOST_SMCCC_FUNC_PKVM_ONLY);
	DEFINE(HCALL_MAX, __KVM_HOST_SMCCC_FUNC_MAX);
}

static void caps(void)
{
	CAP(ALWAYS_SYSTEM);
	CAP(HAS_ADDRESS_AUTH);
	CAP(HAS_GENERIC_AUTH);
	CAP(HAS_32BIT_EL1);
	CAP(HAS_AMU_EXTN);
	CAP(HAS_ARMv8_4_TTL);
	CAP(HAS_CNP);
	CAP(HAS_ECV_CNTPOFF);
	CAP(HAS_EVT);
	CAP(HAS_FGT);
	CAP(HAS_FGT2);
	CAP(HAS_FPSIMD);
	CAP(HAS_GICV3_CPUIF);
	CAP(HAS_GICV5_CPUIF);
	CAP(HAS_GICV5_LEGACY);
	CAP(HAS_GIC_PRIO_MASKING);
	CAP(HAS_GIC_PRIO_RELAXED_SYNC);
	CAP(HAS_HCX);
	CAP(HAS_LPA2);
	CAP(HAS_LSE_ATOMICS);
	CAP(HAS_MOPS);
	CAP(HAS_NESTED_VIRT);
	CAP(HAS_PAN);
	CAP(HAS_PMUV3);
	CAP(HAS_RAS_EXTN);
	CAP(HAS_S1PIE);
	CAP(HAS_S1POE);
	CAP(HAS_SB);
	CAP(HAS_SCTLR2);
	CAP(HAS_STAGE2_FWB);
	CAP(HAS_TCR2);
	CAP(WORKAROUND_4193714);
	CAP(HAS_XNX);
	CAP(BTI);
	CAP(HAS_TLB_RANGE);
	CAP(HAS_CACHE_DIC);
	CAP(HAS_CACHE_IDC);
	CAP(HAS_FPMR);
	CAP(KVM_HVHE);
	CAP(KVM_PROTECTED_MODE);
	CAP(MISMATCHED_CACHE_TYPE);
	CAP(MPAM);
	CAP(MPAM_HCR);
	CAP(MTE);
	CAP(SME);
	CAP(SPECTRE_V3A);
	CAP(SSBS);
	CAP(SVE);
	CAP(UNMAP_KERNEL_AT_EL0);
	CAP(WORKAROUND_1508412);
	CAP(WORKAROUND_2038923);
	CAP(WORKAROUND_2064142);
	CAP(WORKAROUND_2077057);
	CAP(WORKAROUND_4311569);
	CAP(WORKAROUND_834220);
	CAP(WORKAROUND_AMPERE_AC03_CPU_38);
	CAP(WORKAROUND_AMPERE_AC04_CPU_23);
	CAP(WORKAROUND_CAVIUM_TX2_219_TVM);
	CAP(WORKAROUND_DEVICE_LOAD_ACQUIRE);
	CAP(WORKAROUND_NVIDIA_OLYMPUS_1027);
	CAP(WORKAROUND_REPEAT_TLBI_SYNC);
	CAP(WORKAROUND_SPECULATIVE_AT);
	CAP(WORKAROUND_TSB_FLUSH_FAILURE);
}

static void context(void)
{
	SIZE(CTXT, struct kvm_cpu_context);
	FIELD(CTXT_REGS, struct kvm_cpu_context, regs.regs);
	FIELD(CTXT_SP_EL0, struct kvm_cpu_context, regs.sp);
	FIELD(CTXT_PC, struct kvm_cpu_context, regs.pc);
	FIELD(CTXT_PSTATE, struct kvm_cpu_context, regs.pstate);
	FIELD(CTXT_SPSR_ABT, struct kvm_cpu_context, spsr_abt);
	FIELD(CTXT_SPSR_UND, struct kvm_cpu_context, spsr_und);
	FIELD(CTXT_SPSR_IRQ, struct kvm_cpu_context, spsr_irq);
	FIELD(CTXT_SPSR_FIQ, struct kvm_cpu_context, spsr_fiq);
	FIELD(CTXT_FP_REGS, struct kvm_cpu_context, fp_regs);
	FIELD(CTXT_SYS_REGS, struct kvm_cpu_context, sys_regs);
	FIELD(CTXT_RUNNING_VCPU, struct kvm_cpu_context, __hyp_running_vcpu);
	FIELD(FPSIMD_VREGS, struct user_fpsimd_state, vregs);
	FIELD(FPSIMD_FPSR, struct user_fpsimd_state, fpsr);
	FIELD(FPSIMD_FPCR, struct user_fpsimd_state, fpcr);
	DEFINE(NR_SYS_REGS, NR_SYS_REGS);

	SR(MPIDR_EL1);
	SR(CSSELR_EL1);
	SR(TPIDR_EL0);
	SR(TPIDRRO_EL0);
	SR(TPIDR_EL1);
	SR(CNTKCTL_EL1);
	SR(PAR_EL1);
	SR(MDCCINT_EL1);
	SR(OSLSR_EL1);
	SR(DISR_EL1);
	SR(PMCR_EL0);
	SR(PMSELR_EL0);
	SR(PMUSERENR_EL0);
	SR(APIAKEYLO_EL1);
	SR(APGAKEYHI_EL1);
	SR(RGSR_EL1);
	SR(GCR_EL1);
	SR(TFSRE0_EL1);
	SR(POR_EL0);
	SR(SVCR);
	SR(FPMR);
	SR(DACR32_EL2);
	SR(IFSR32_EL2);
	SR(FPEXC32_EL2);
	SR(DBGVCR32_EL2);
	SR(ELR_EL2);
	SR(SPSR_EL2);
	SR(HCR_EL2);
	SR(HCRX_EL2);
	SR(ZCR_EL2);
	SR(SCTLR_EL1);
	SR(ACTLR_EL1);
	SR(CPACR_EL1);
	SR(ZCR_EL1);
	SR(TTBR0_EL1);
	SR(TTBR1_EL1);
	SR(TCR_EL1);
	SR(TCR2_EL1);
	SR(SCTLR2_EL1);
	SR(ESR_EL1);
	SR(AFSR0_EL1);
	SR(AFSR1_EL1);
	SR(FAR_EL1);
	SR(MAIR_EL1);
	SR(VBAR_EL1);
	SR(CONTEXTIDR_EL1);
	SR(AMAIR_EL1);
	SR(MDSCR_EL1);
	SR(ELR_EL1);
	SR(SP_EL1);
	SR(SPSR_EL1);
	SR(TFSR_EL1);
	SR(PIR_EL1);
	SR(PIRE0_EL1);
	SR(POR_EL1);
	SR(HFGRTR_EL2);
	SR(HFGWTR_EL2);
	SR(HFGITR_EL2);
	SR(HDFGRTR_EL2);
	SR(HDFGWTR_EL2);
	SR(HAFGRTR_EL2);
	SR(HFGRTR2_EL2);
	SR(HFGWTR2_EL2);
	SR(HFGITR2_EL2);
	SR(HDFGRTR2_EL2);
	SR(HDFGWTR2_EL2);
	SR(ICH_HFGRTR_EL2);
	SR(ICH_HFGWTR_EL2);
	SR(ICH_HFGITR_EL2);
	SR(CNTVOFF_EL2);
	SR(CNTV_CVAL_EL0);
	SR(CNTV_CTL_EL0);
	SR(CNTP_CVAL_EL0);
	SR(CNTP_CTL_EL0);
}

static void vcpu(void)
{
	SIZE(VCPU, struct kvm_vcpu);
	FIELD(VCPU_KVM, struct kvm_vcpu, kvm);
	FIELD(VCPU_ID, struct kvm_vcpu, vcpu_id);
	FIELD(VCPU_IDX, struct kvm_vcpu, vcpu_idx);
	FIELD(VCPU_GUEST_DEBUG, struct kvm_vcpu, guest_debug);
	FIELD(VCPU_CTXT, struct kvm_vcpu, arch.ctxt);
	FIELD(VCPU_SVE_STATE, struct kvm_vcpu, arch.sve_state);
	FIELD(VCPU_SVE_MAX_VL, struct kvm_vcpu, arch.sve_max_vl);
	FIELD(VCPU_HW_MMU, struct kvm_vcpu, arch.hw_mmu);
	FIELD(VCPU_HCR_EL2, struct kvm_vcpu, arch.hcr_el2);
	FIELD(VCPU_HCRX_EL2, struct kvm_vcpu, arch.hcrx_el2);
	FIELD(VCPU_MDCR_EL2, struct kvm_vcpu, arch.mdcr_el2);
	FIELD(VCPU_FGT, struct kvm_vcpu, arch.fgt);
	FIELD(VCPU_FAULT_ESR_EL2, struct kvm_vcpu, arch.fault.esr_el2);
	FIELD(VCPU_FAULT_FAR_EL2, struct kvm_vcpu, arch.fault.far_el2);
	FIELD(VCPU_FAULT_HPFAR_EL2, struct kvm_vcpu, arch.fault.hpfar_el2);
	FIELD(VCPU_FAULT_DISR_EL1, struct kvm_vcpu, arch.fault.disr_el1);
	FIELD(VCPU_CFLAGS, struct kvm_vcpu, arch.cflags);
	FIELD(VCPU_IFLAGS, struct kvm_vcpu, arch.iflags);
	FIELD(VCPU_SFLAGS, struct kvm_vcpu, arch.sflags);
	FIELD(VCPU_DEBUG_STATE, struct kvm_vcpu, arch.vcpu_debug_state);
	FIELD(VCPU_EXTERNAL_DEBUG_STATE, struct kvm_vcpu, arch.external_debug_state);
	FIELD(VCPU_EXTERNAL_MDSCR_EL1, struct kvm_vcpu, arch.external_mdscr_el1);
	FIELD(VCPU_DEBUG_OWNER, struct kvm_vcpu, arch.debug_owner);
	FIELD(VCPU_VGIC_V3, struct kvm_vcpu, arch.vgic_cpu.vgic_v3);
	FIELD(VCPU_VGIC_V5, struct kvm_vcpu, arch.vgic_cpu.vgic_v5);
	FIELD(VCPU_VTIMER_VM_OFFSET, struct kvm_vcpu, arch.timer_cpu.timers[TIMER_VTIMER].offset.vm_offset);
	FIELD(VCPU_VTIMER_VCPU_OFFSET, struct kvm_vcpu, arch.timer_cpu.timers[TIMER_VTIMER].offset.vcpu_offset);
	FIELD(VCPU_PTIMER_VM_OFFSET, struct kvm_vcpu, arch.timer_cpu.timers[TIMER_PTIMER].offset.vm_offset);
	FIELD(VCPU_PTIMER_VCPU_OFFSET, struct kvm_vcpu, arch.timer_cpu.timers[TIMER_PTIMER].offset.vcpu_offset);
#ifdef CONFIG_HW_PERF_EVENTS
	FIELD(VCPU_PMU_EVENTS_HOST, struct kvm_vcpu, arch.pmu.events.events_host);
	FIELD(VCPU_PMU_EVENTS_GUEST, struct kvm_vcpu, arch.pmu.events.events_guest);
#else
	DEFINE(VCPU_PMU_EVENTS_HOST, 0);
	DEFINE(VCPU_PMU_EVENTS_GUEST, 0);
#endif
	FIELD(VCPU_MEMCACHE_HEAD, struct kvm_vcpu, arch.pkvm_memcache.head);
	FIELD(VCPU_MEMCACHE_NR_PAGES, struct kvm_vcpu, arch.pkvm_memcache.nr_pages);
	FIELD(VCPU_MP_STATE, struct kvm_vcpu, arch.mp_state.mp_state);
	FIELD(VCPU_VSESR_EL2, struct kvm_vcpu, arch.vsesr_el2);
	FIELD(VCPU_PID, struct kvm_vcpu, arch.pid);

	SIZE(GUEST_DEBUG, struct kvm_guest_debug_arch);
	FIELD(GUEST_DEBUG_BCR, struct kvm_guest_debug_arch, dbg_bcr);
	FIELD(GUEST_DEBUG_BVR, struct kvm_guest_debug_arch, dbg_bvr);
	FIELD(GUEST_DEBUG_WCR, struct kvm_guest_debug_arch, dbg_wcr);
	FIELD(GUEST_DEBUG_WVR, struct kvm_guest_debug_arch, dbg_wvr);

	DEFINE(VCPU_DEBUG_FREE, VCPU_DEBUG_FREE);
	DEFINE(VCPU_DEBUG_HOST_OWNED, VCPU_DEBUG_HOST_OWNED);
	DEFINE(VCPU_DEBUG_GUEST_OWNED, VCPU_DEBUG_GUEST_OWNED);
	DEFINE(IFLAG_PENDING_EXCEPTION, unpack_vcpu_flag(PENDING_EXCEPTION));
	DEFINE(IFLAG_INCREMENT_PC, unpack_vcpu_flag(INCREMENT_PC));
	DEFINE(IFLAG_EXCEPT_MASK, unpack_vcpu_flag(EXCEPT_MASK));
	DEFINE(IFLAG_HOST_STATE_DIRTY, unpack_vcpu_flag(PKVM_HOST_STATE_DIRTY));
	DEFINE(SFLAG_PMUSERENR_ON_CPU, unpack_vcpu_flag(PMUSERENR_ON_CPU));
	DEFINE(NR_FGT_GROUPS, __NR_FGT_GROUP_IDS__);
	DEFINE(HFGRTR_GROUP, HFGRTR_GROUP);
	DEFINE(HDFGRTR_GROUP, HDFGRTR_GROUP);
	DEFINE(HFGITR_GROUP, HFGITR_GROUP);
	DEFINE(HAFGRTR_GROUP, HAFGRTR_GROUP);
	DEFINE(HFGRTR2_GROUP, HFGRTR2_GROUP);
	DEFINE(HDFGRTR2_GROUP, HDFGRTR2_GROUP);
	DEFINE(HFGITR2_GROUP, HFGITR2_GROUP);
	DEFINE(ICH_HFGRTR_GROUP, ICH_HFGRTR_GROUP);
	DEFINE(ICH_HFGITR_GROUP, ICH_HFGITR_GROUP);
	DEFINE(KVM_MP_STATE_STOPPED, KVM_MP_STATE_STOPPED);
	DEFINE(FEATURE_EL1_32BIT, KVM_ARM_VCPU_EL1_32BIT);
	DEFINE(FEATURE_PSCI_0_2, KVM_ARM_VCPU_PSCI_0_2);
	DEFINE(FEATURE_PMU_V3, KVM_ARM_VCPU_PMU_V3);
	DEFINE(FEATURE_SVE, KVM_ARM_VCPU_SVE);
	DEFINE(FEATURE_PTRAUTH_ADDRESS, KVM_ARM_VCPU_PTRAUTH_ADDRESS);
	DEFINE(FEATURE_PTRAUTH_GENERIC, KVM_ARM_VCPU_PTRAUTH_GENERIC);
	DEFINE(FEATURE_COUNT, KVM_VCPU_MAX_FEATURES);
}

static void vgic(void)
{
	SIZE(VGIC_V3, struct vgic_v3_cpu_if);
	FIELD(VGIC_V3_HCR, struct vgic_v3_cpu_if, vgic_hcr);
	FIELD(VGIC_V3_VMCR, struct vgic_v3_cpu_if, vgic_vmcr);
	FIELD(VGIC_V3_SRE, struct vgic_v3_cpu_if, vgic_sre);
	FIELD(VGIC_V3_AP0R, struct vgic_v3_cpu_if, vgic_ap0r);
	FIELD(VGIC_V3_AP1R, struct vgic_v3_cpu_if, vgic_ap1r);
	FIELD(VGIC_V3_LR, struct vgic_v3_cpu_if, vgic_lr);
	FIELD(VGIC_V3_USED_LRS, struct vgic_v3_cpu_if, used_lrs);
	FIELD(VGIC_V3_ITS_VM, struct vgic_v3_cpu_if, its_vpe.its_vm);
	SIZE(VGIC_V5, struct vgic_v5_cpu_if);
	FIELD(VGIC_V5_APR, struct vgic_v5_cpu_if, vgic_apr);
	FIELD(VGIC_V5_VMCR, struct vgic_v5_cpu_if, vgic_vmcr);
	FIELD(VGIC_V5_PPI_DVIR, struct vgic_v5_cpu_if, vgic_ppi_dvir);
	FIELD(VGIC_V5_PPI_ACTIVER, struct vgic_v5_cpu_if, vgic_ppi_activer);
	FIELD(VGIC_V5_PPI_ENABLER, struct vgic_v5_cpu_if, vgic_ppi_enabler);
	FIELD(VGIC_V5_PPI_PRIORITYR, struct vgic_v5_cpu_if, vgic_ppi_priorityr);
	FIELD(VGIC_V5_ICSR, struct vgic_v5_cpu_if, vgic_icsr);
	DEFINE(VGIC_MODEL_V2, KVM_DEV_TYPE_ARM_VGIC_V2);
	DEFINE(VGIC_MODEL_V3, KVM_DEV_TYPE_ARM_VGIC_V3);
	DEFINE(VGIC_MODEL_V5, KVM_DEV_TYPE_ARM_VGIC_V5);
	FIELD(VGIC_GLOBAL_VCPU_HYP_VA, struct vgic_global, vcpu_hyp_va);
	FIELD(VGIC_GLOBAL_GICV3_CPUIF, struct vgic_global, gicv3_cpuif);
}

static void host_data(void)
{
	SIZE(HOST_DATA, struct kvm_host_data);
	FIELD(HOST_DATA_FLAGS, struct kvm_host_data, flags);
	FIELD(HOST_DATA_CTXT, struct kvm_host_data, host_ctxt);
	FIELD(HOST_DATA_SVE_REGS, struct kvm_host_data, sve_regs);
	FIELD(HOST_DATA_FP_OWNER, struct kvm_host_data, fp_owner);
	FIELD(HOST_DATA_DEBUG_REGS, struct kvm_host_data, host_debug_state.regs);
	FIELD(HOST_DATA_PMSCR_EL1, struct kvm_host_data, host_debug_state.pmscr_el1);
	FIELD(HOST_DATA_PMBLIMITR_EL1, struct kvm_host_data, host_debug_state.pmblimitr_el1);
	FIELD(HOST_DATA_TRFCR_EL1, struct kvm_host_data, host_debug_state.trfcr_el1);
	FIELD(HOST_DATA_TRBLIMITR_EL1, struct kvm_host_data, host_debug_state.trblimitr_el1);
	FIELD(HOST_DATA_MDCR_EL2, struct kvm_host_data, host_debug_state.mdcr_el2);
	FIELD(HOST_DATA_BRBCR_EL1, struct kvm_host_data, host_debug_state.brbcr_el1);
	FIELD(HOST_DATA_TRFCR_WHILE_IN_GUEST, struct kvm_host_data, trfcr_while_in_guest);
	FIELD(HOST_DATA_NR_EVENT_COUNTERS, struct kvm_host_data, nr_event_counters);
	FIELD(HOST_DATA_DEBUG_BRPS, struct kvm_host_data, debug_brps);
	FIELD(HOST_DATA_DEBUG_WRPS, struct kvm_host_data, debug_wrps);
	FIELD(HOST_DATA_PPI_PENDR, struct kvm_host_data, vgic_v5_ppi_state.pendr);
	FIELD(HOST_DATA_PPI_ACTIVER_EXIT, struct kvm_host_data, vgic_v5_ppi_state.activer_exit);
	DEFINE(HOST_FLAG_HAS_SPE, KVM_HOST_DATA_FLAG_HAS_SPE);
	DEFINE(HOST_FLAG_HAS_TRBE, KVM_HOST_DATA_FLAG_HAS_TRBE);
	DEFINE(HOST_FLAG_TRBE_ENABLED, KVM_HOST_DATA_FLAG_TRBE_ENABLED);
	DEFINE(HOST_FLAG_EL1_TRACING_CONFIGURED, KVM_HOST_DATA_FLAG_EL1_TRACING_CONFIGURED);
	DEFINE(HOST_FLAG_HAS_BRBE, KVM_HOST_DATA_FLAG_HAS_BRBE);
	DEFINE(FP_STATE_FREE, 0);
	DEFINE(FP_STATE_HOST_OWNED, 1);
	DEFINE(FP_STATE_GUEST_OWNED, 2);
}

static void kvm(void)
{
	SIZE(KVM, struct kvm);
	FIELD(KVM_CREATED_VCPUS, struct kvm, created_vcpus);
	FIELD(KVM_MMU, struct kvm, arch.mmu);
	FIELD(KVM_VGIC_MODEL, struct kvm, arch.vgic.vgic_model);
	FIELD(KVM_VGIC_CPU_BASE, struct kvm, arch.vgic.vgic_cpu_base);
	FIELD(KVM_TIMER_VOFFSET, struct kvm, arch.timer_data.voffset);
	FIELD(KVM_TIMER_POFFSET, struct kvm, arch.timer_data.poffset);
	FIELD(KVM_FLAGS, struct kvm, arch.flags);
	FIELD(KVM_VCPU_FEATURES, struct kvm, arch.vcpu_features);
	FIELD(KVM_ID_REGS, struct kvm, arch.id_regs);
	FIELD(KVM_MIDR_EL1, struct kvm, arch.midr_el1);
	FIELD(KVM_CTR_EL0, struct kvm, arch.ctr_el0);
	FIELD(KVM_HANDLE, struct kvm, arch.pkvm.handle);
	FIELD(KVM_TEARDOWN_MC_HEAD, struct kvm, arch.pkvm.teardown_mc.head);
	FIELD(KVM_TEARDOWN_MC_NR_PAGES, struct kvm, arch.pkvm.teardown_mc.nr_pages);
	FIELD(KVM_STAGE2_TEARDOWN_MC_HEAD, struct kvm, arch.pkvm.stage2_teardown_mc.head);
	FIELD(KVM_STAGE2_TEARDOWN_MC_NR_PAGES, struct kvm, arch.pkvm.stage2_teardown_mc.nr_pages);
	FIELD(KVM_IS_PROTECTED, struct kvm, arch.pkvm.is_protected);
	DEFINE(KVM_FLAG_MTE_ENABLED, KVM_ARCH_FLAG_MTE_ENABLED);
	DEFINE(KVM_FLAG_ID_REGS_INITIALIZED, KVM_ARCH_FLAG_ID_REGS_INITIALIZED);
	DEFINE(KVM_FLAG_GUEST_HAS_SVE, KVM_ARCH_FLAG_GUEST_HAS_SVE);
	DEFINE(KVM_FLAG_WRITABLE_IMP_ID_REGS, KVM_ARCH_FLAG_WRITABLE_IMP_ID_REGS);
	DEFINE(KVM_ID_REG_NUM, KVM_ARM_ID_REG_NUM);
	DEFINE(KVM_MAX_VCPUS, KVM_MAX_VCPUS);
	DEFINE(KVM_MAX_PVMS, KVM_MAX_PVMS);

	SIZE(MMU, struct kvm_s2_mmu);
	FIELD(MMU_VMID, struct kvm_s2_mmu, vmid.id);
	FIELD(MMU_PGD_PHYS, struct kvm_s2_mmu, pgd_phys);
	FIELD(MMU_VTCR, struct kvm_s2_mmu, vtcr);
	FIELD(MMU_ARCH, struct kvm_s2_mmu, arch);

	DEFINE(HYP_PAGE_SIZE, sizeof(struct hyp_page));
	DEFINE(DONATED_VM_SIZE, sizeof(struct pkvm_hyp_vm));
	DEFINE(DONATED_VCPU_SIZE, sizeof(struct pkvm_hyp_vcpu));
}

static void boot(void)
{
	SIZE(INIT_PARAMS, struct kvm_nvhe_init_params);
	FIELD(INIT_PARAMS_MAIR_EL2, struct kvm_nvhe_init_params, mair_el2);
	FIELD(INIT_PARAMS_TCR_EL2, struct kvm_nvhe_init_params, tcr_el2);
	FIELD(INIT_PARAMS_TPIDR_EL2, struct kvm_nvhe_init_params, tpidr_el2);
	FIELD(INIT_PARAMS_STACK_HYP_VA, struct kvm_nvhe_init_params, stack_hyp_va);
	FIELD(INIT_PARAMS_STACK_PA, struct kvm_nvhe_init_params, stack_pa);
	FIELD(INIT_PARAMS_PGD_PA, struct kvm_nvhe_init_params, pgd_pa);
	FIELD(INIT_PARAMS_HCR_EL2, struct kvm_nvhe_init_params, hcr_el2);
	FIELD(INIT_PARAMS_VTTBR, struct kvm_nvhe_init_params, vttbr);
	FIELD(INIT_PARAMS_VTCR, struct kvm_nvhe_init_params, vtcr);

	SIZE(MEMBLOCK_REGION, struct memblock_region);
	FIELD(MEMBLOCK_REGION_BASE, struct memblock_region, base);
	FIELD(MEMBLOCK_REGION_BYTES, struct memblock_region, size);
	FIELD(MEMBLOCK_REGION_FLAGS, struct memblock_region, flags);
	DEFINE(MEMBLOCK_NOMAP, MEMBLOCK_NOMAP);
	DEFINE(HYP_MEMBLOCK_REGIONS, HYP_MEMBLOCK_REGIONS);

	SIZE(PSCI_CONFIG, struct kvm_host_psci_config);
	FIELD(PSCI_CONFIG_VERSION, struct kvm_host_psci_config, version);
	FIELD(PSCI_CONFIG_SMCCC_VERSION, struct kvm_host_psci_config, smccc_version);
	FIELD(PSCI_CONFIG_ID_CPU_SUSPEND, struct kvm_host_psci_config, function_ids_0_1.cpu_suspend);
	FIELD(PSCI_CONFIG_ID_CPU_ON, struct kvm_host_psci_config, function_ids_0_1.cpu_on);
	FIELD(PSCI_CONFIG_ID_CPU_OFF, struct kvm_host_psci_config, function_ids_0_1.cpu_off);
	FIELD(PSCI_CONFIG_ID_MIGRATE, struct kvm_host_psci_config, function_ids_0_1.migrate);
	FIELD(PSCI_CONFIG_HAS_CPU_SUSPEND, struct kvm_host_psci_config, psci_0_1_cpu_suspend_implemented);
	FIELD(PSCI_CONFIG_HAS_CPU_ON, struct kvm_host_psci_config, psci_0_1_cpu_on_implemented);
	FIELD(PSCI_CONFIG_HAS_CPU_OFF, struct kvm_host_psci_config, psci_0_1_cpu_off_implemented);
	FIELD(PSCI_CONFIG_HAS_MIGRATE, struct kvm_host_psci_config, psci_0_1_migrate_implemented);

	SIZE(STACKTRACE_INFO, struct kvm_nvhe_stacktrace_info);
	FIELD(STACKTRACE_INFO_STACK_BASE, struct kvm_nvhe_stacktrace_info, stack_base);
	FIELD(STACKTRACE_INFO_OVERFLOW_BASE, struct kvm_nvhe_stacktrace_info, overflow_stack_base);
	FIELD(STACKTRACE_INFO_FP, struct kvm_nvhe_stacktrace_info, fp);
	FIELD(STACKTRACE_INFO_PC, struct kvm_nvhe_stacktrace_info, pc);
	DEFINE(PKVM_STACKTRACE_SIZE, IS_ENABLED(CONFIG_PKVM_STACKTRACE) ? NVHE_STACKTRACE_SIZE : 0);
	DEFINE(OVERFLOW_STACK_SIZE, OVERFLOW_STACK_SIZE);
	SIZE(FGT_MASKS, struct fgt_masks);

	DEFINE(FFA_PROXY_PAGES, hyp_ffa_proxy_pages());
	DEFINE(SELFTEST_PAGES, pkvm_selftest_pages());
	DEFINE(NVHE_STACK_SHIFT, NVHE_STACK_SHIFT);
	DEFINE(BP_HARDEN_HYP_VECS_SIZE, __BP_HARDEN_HYP_VECS_SZ);
	DEFINE(SCTLR_EL1_MMU_OFF, INIT_SCTLR_EL1_MMU_OFF);
	DEFINE(SCTLR_EL2_MMU_ON, INIT_SCTLR_EL2_MMU_ON);
	DEFINE(SCTLR_EL2_MMU_OFF, INIT_SCTLR_EL2_MMU_OFF);
	DEFINE(KVM_VECTOR_PREAMBLE, KVM_VECTOR_PREAMBLE);
	DEFINE(HYP_INIT_FUNCTION, (u64)(u32)KVM_HOST_SMCCC_FUNC(__kvm_hyp_init));
	DEFINE(HVC_SOFT_RESTART, HVC_SOFT_RESTART);
	DEFINE(HVC_RESET_VECTORS, HVC_RESET_VECTORS);
	DEFINE(HVC_STUB_HCALL_NR, HVC_STUB_HCALL_NR);
	DEFINE(HVC_STUB_ERR, HVC_STUB_ERR);
	DEFINE(MT_NORMAL, MT_NORMAL);
	DEFINE(MT_DEVICE_nGnRE, MT_DEVICE_nGnRE);
	DEFINE(MT_NORMAL_NC, MT_NORMAL_NC);
	DEFINE(HCR_HOST_NVHE_FLAGS, HCR_HOST_NVHE_FLAGS);
	DEFINE(HCR_GUEST_FLAGS, HCR_GUEST_FLAGS);
	DEFINE(INVALID_HWID, INVALID_HWID);
	DEFINE(MPIDR_HWID_BITMASK, MPIDR_HWID_BITMASK);
}

static void diagnostics(void)
{
	DEFINE(CONFIG_GENERIC_BUG, IS_ENABLED(CONFIG_GENERIC_BUG));
	DEFINE(CONFIG_DEBUG_BUGVERBOSE, IS_ENABLED(CONFIG_DEBUG_BUGVERBOSE));
#ifdef CONFIG_GENERIC_BUG
	SIZE(BUG_ENTRY, struct bug_entry);
	FIELD(BUG_ENTRY_FLAGS, struct bug_entry, flags);
#else
	DEFINE(BUG_ENTRY_SIZE, 0);
	DEFINE(BUG_ENTRY_FLAGS, 0);
#endif

	SIZE(EVENT_ID, struct hyp_event_id);
	FIELD(EVENT_ID_ID, struct hyp_event_id, id);
	FIELD(EVENT_ID_ENABLED, struct hyp_event_id, enabled);
	SIZE(TRACE_META, struct trace_buffer_meta);
	FIELD(TRACE_META_PAGE_SIZE, struct trace_buffer_meta, meta_page_size);
	FIELD(TRACE_META_SUBBUF_SIZE, struct trace_buffer_meta, subbuf_size);
	FIELD(TRACE_META_READER_LOST, struct trace_buffer_meta, reader.lost_events);
	FIELD(TRACE_META_READER_ID, struct trace_buffer_meta, reader.id);
	FIELD(TRACE_META_ENTRIES, struct trace_buffer_meta, entries);
	FIELD(TRACE_META_OVERRUN, struct trace_buffer_meta, overrun);
	FIELD(TRACE_META_PAGES_LOST, struct trace_buffer_meta, pages_lost);
	FIELD(TRACE_META_PAGES_TOUCHED, struct trace_buffer_meta, pages_touched);
	FIELD(TRACE_DESC_BACKING_START, struct hyp_trace_desc, bpages_backing_start);
	FIELD(TRACE_DESC_BACKING_BYTES, struct hyp_trace_desc, bpages_backing_size);
	FIELD(TRACE_DESC_NR_CPUS, struct hyp_trace_desc, trace_buffer_desc.nr_cpus);
	DEFINE(TRACE_DESC_FIRST, offsetof(struct hyp_trace_desc, trace_buffer_desc.__data));
	FIELD(TRACE_RING_DESC_META, struct ring_buffer_desc, meta_va);
	DEFINE(TRACE_RING_DESC_PAGES, offsetof(struct ring_buffer_desc, page_va));
}

int main(void)
{
	config();
	hypercalls();
	caps();
	context();
	vcpu();
	vgic();
	host_data();
	kvm();
	boot();
	diagnostics();
	return 0;
}
