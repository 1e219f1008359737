// SPDX-License-Identifier: GPL-2.0-only
/*
 * Facts about this kernel that its tests need: call numbers, structure layouts, sizes. All come from the kernel's own
 * headers, so that no test holds a number of its own.
 */
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <asm/kvm_asm.h>
#include <asm/kvm_pkvm.h>
#include "hyp_constants.h"
#include "hostile.h"

struct fact {
	const char *name;
	u64 value;
};

#define CALL(n)		{ "call." #n, __KVM_HOST_SMCCC_FUNC_##n }
#define KVM(n, f)	{ "kvm." n, offsetof(struct kvm, f) }
#define VCPU(n, f)	{ "vcpu." n, offsetof(struct kvm_vcpu, f) }
#define VALUE(n, v)	{ n, v }
/* A vCPU flag is a list of its set, its bits and its mask; tests want the bits. */
#define FLAG(f)		FLAG_BITS(f)
#define FLAG_BITS(set, bits, mask)	(bits)

static const struct fact facts[] = {
	VALUE("page_size", PAGE_SIZE),
	VALUE("call_base", KVM_HOST_SMCCC_ID(0)),
	VALUE("call_min_pkvm", __KVM_HOST_SMCCC_FUNC_MIN_PKVM),
	VALUE("call_pkvm_only", __KVM_HOST_SMCCC_FUNC_PKVM_ONLY),
	VALUE("call_max", __KVM_HOST_SMCCC_FUNC_MAX),
	CALL(__pkvm_init), CALL(__pkvm_create_private_mapping), CALL(__pkvm_cpu_set_vector),
	CALL(__kvm_enable_ssbs), CALL(__vgic_v3_init_lrs), CALL(__vgic_v3_get_gic_config),
	CALL(__pkvm_prot_finalize), CALL(__kvm_adjust_pc), CALL(__kvm_vcpu_run),
	CALL(__kvm_flush_vm_context), CALL(__kvm_tlb_flush_vmid_ipa), CALL(__kvm_tlb_flush_vmid_ipa_nsh),
	CALL(__kvm_tlb_flush_vmid), CALL(__kvm_tlb_flush_vmid_range), CALL(__kvm_flush_cpu_context),
	CALL(__kvm_timer_set_cntvoff), CALL(__tracing_load), CALL(__tracing_unload), CALL(__tracing_enable),
	CALL(__tracing_swap_reader), CALL(__tracing_update_clock), CALL(__tracing_reset),
	CALL(__tracing_enable_event), CALL(__tracing_write_event), CALL(__vgic_v3_save_aprs),
	CALL(__vgic_v3_restore_vmcr_aprs), CALL(__vgic_v5_save_apr), CALL(__vgic_v5_restore_vmcr_apr),
	CALL(__pkvm_host_share_hyp), CALL(__pkvm_host_unshare_hyp), CALL(__pkvm_host_donate_guest),
	CALL(__pkvm_host_share_guest), CALL(__pkvm_host_unshare_guest), CALL(__pkvm_host_relax_perms_guest),
	CALL(__pkvm_host_wrprotect_guest), CALL(__pkvm_host_test_clear_young_guest),
	CALL(__pkvm_host_mkyoung_guest), CALL(__pkvm_reserve_vm), CALL(__pkvm_unreserve_vm),
	CALL(__pkvm_init_vm), CALL(__pkvm_init_vcpu), CALL(__pkvm_vcpu_in_poison_fault),
	CALL(__pkvm_force_reclaim_guest_page), CALL(__pkvm_reclaim_dying_guest_page),
	CALL(__pkvm_start_teardown_vm), CALL(__pkvm_finalize_teardown_vm), CALL(__pkvm_vcpu_load),
	CALL(__pkvm_vcpu_put), CALL(__pkvm_vcpu_sync_state), CALL(__pkvm_tlb_flush_vmid),
	VALUE("tracing", IS_ENABLED(CONFIG_NVHE_EL2_TRACING)),
	VALUE("el2_debug", IS_ENABLED(CONFIG_NVHE_EL2_DEBUG)),
	VALUE("kvm.size", sizeof(struct kvm)),
	KVM("created_vcpus", created_vcpus),
	KVM("flags", arch.flags),
	KVM("vcpu_features", arch.vcpu_features),
	KVM("vgic_model", arch.vgic.vgic_model),
	KVM("vtcr", arch.mmu.vtcr),
	KVM("handle", arch.pkvm.handle),
	KVM("is_protected", arch.pkvm.is_protected),
	KVM("is_created", arch.pkvm.is_created),
	KVM("teardown_mc", arch.pkvm.teardown_mc),
	KVM("stage2_teardown_mc", arch.pkvm.stage2_teardown_mc),
	VALUE("mc.head", offsetof(struct kvm_hyp_memcache, head)),
	VALUE("mc.nr_pages", offsetof(struct kvm_hyp_memcache, nr_pages)),
	VALUE("vcpu.size", sizeof(struct kvm_vcpu)),
	VCPU("kvm", kvm),
	VCPU("vcpu_id", vcpu_id),
	VCPU("vcpu_idx", vcpu_idx),
	VCPU("regs", arch.ctxt.regs.regs),
	VCPU("pc", arch.ctxt.regs.pc),
	VCPU("pstate", arch.ctxt.regs.pstate),
	VCPU("hcr", arch.hcr_el2),
	VCPU("mdcr", arch.mdcr_el2),
	VCPU("vbar", arch.ctxt.sys_regs[VBAR_EL1]),
	VCPU("cflags", arch.cflags),
	VCPU("iflags", arch.iflags),
	VCPU("debug_owner", arch.debug_owner),
	VCPU("memcache", arch.pkvm_memcache),
	VCPU("esr", arch.fault.esr_el2),
	VCPU("far", arch.fault.far_el2),
	VCPU("hpfar", arch.fault.hpfar_el2),
	VCPU("vgic_v3", arch.vgic_cpu.vgic_v3),
	VCPU("used_lrs", arch.vgic_cpu.vgic_v3.used_lrs),
	VCPU("sve_state", arch.sve_state),
	VCPU("sve_max_vl", arch.sve_max_vl),
	VALUE("hyp_vm.size", PKVM_HYP_VM_SIZE),
	VALUE("hyp_vcpu.size", PKVM_HYP_VCPU_SIZE),
	VALUE("vgic_v2", KVM_DEV_TYPE_ARM_VGIC_V2),
	VALUE("vgic_v3", KVM_DEV_TYPE_ARM_VGIC_V3),
	VALUE("vgic_v5", KVM_DEV_TYPE_ARM_VGIC_V5),
	VALUE("prot_x", KVM_PGTABLE_PROT_X),
	VALUE("prot_px", KVM_PGTABLE_PROT_PX),
	VALUE("prot_ux", KVM_PGTABLE_PROT_UX),
	VALUE("prot_w", KVM_PGTABLE_PROT_W),
	VALUE("prot_r", KVM_PGTABLE_PROT_R),
	VALUE("prot_device", KVM_PGTABLE_PROT_DEVICE),
	VALUE("flag_dirty", FLAG(PKVM_HOST_STATE_DIRTY)),
	VALUE("flag_initialized", FLAG(VCPU_INITIALIZED)),
	VALUE("flag_id_regs", KVM_ARCH_FLAG_ID_REGS_INITIALIZED),
};

int hostile_facts(char *buf, size_t size)
{
	int i, at = 0;

	for (i = 0; i < ARRAY_SIZE(facts); i++)
		at += scnprintf(buf + at, size - at, "%s %llu\n", facts[i].name, facts[i].value);
	at += scnprintf(buf + at, size - at, "page_offset %llu\nhpfar_ns %llu\n", (u64)PAGE_OFFSET, (u64)HPFAR_EL2_NS);
	return at;
}
