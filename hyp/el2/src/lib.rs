// SPDX-License-Identifier: GPL-2.0-only
//! The hypervisor's object: the entries that the vectors call, the symbols that EL1 knows, and the wiring
//! between policy (`pkvm_core`) and mechanism (`pkvm_arch`). It replaces the C object `kvm_nvhe.o`.
#![no_std]
#![allow(non_upper_case_globals, reason = "symbols have the kernel's names")]
#![allow(
    clippy::cast_ptr_alignment,
    reason = "the kernel's structures are reached by byte offsets, which the layout probe measured"
)]

#[macro_use]
mod bug;
mod boot;
mod cell;
mod ffa;
mod guest_config;
mod handlers;
mod host;
mod hw;
mod lifecycle;
mod mm;
mod panic;
#[cfg(feature = "provoke")]
mod provoke;
mod psci;
mod run;
mod selftest;
mod state;
mod statics;
mod trace;
mod vectors;
mod vm;
mod words;

/// The table of hypercalls has the kernel's numbers, and as many rows as the kernel has calls.
const _: () = {
    use pkvm_core::hcall::{NUMBERS, number_of};
    use pkvm_kernel::layout::*;

    macro_rules! same_numbers {
        ($($name:literal $number:ident)*) => {
            $( assert!(matches!(number_of($name), Some(number) if number as u64 == $number), $name); )*
        };
    }
    same_numbers! {
        "__pkvm_init" HCALL___pkvm_init
        "__pkvm_create_private_mapping" HCALL___pkvm_create_private_mapping
        "__pkvm_cpu_set_vector" HCALL___pkvm_cpu_set_vector
        "__kvm_enable_ssbs" HCALL___kvm_enable_ssbs
        "__vgic_v3_init_lrs" HCALL___vgic_v3_init_lrs
        "__vgic_v3_get_gic_config" HCALL___vgic_v3_get_gic_config
        "__pkvm_prot_finalize" HCALL___pkvm_prot_finalize
        "__kvm_adjust_pc" HCALL___kvm_adjust_pc
        "__kvm_vcpu_run" HCALL___kvm_vcpu_run
        "__kvm_flush_vm_context" HCALL___kvm_flush_vm_context
        "__kvm_tlb_flush_vmid_ipa" HCALL___kvm_tlb_flush_vmid_ipa
        "__kvm_tlb_flush_vmid_ipa_nsh" HCALL___kvm_tlb_flush_vmid_ipa_nsh
        "__kvm_tlb_flush_vmid" HCALL___kvm_tlb_flush_vmid
        "__kvm_tlb_flush_vmid_range" HCALL___kvm_tlb_flush_vmid_range
        "__kvm_flush_cpu_context" HCALL___kvm_flush_cpu_context
        "__kvm_timer_set_cntvoff" HCALL___kvm_timer_set_cntvoff
        "__tracing_load" HCALL___tracing_load
        "__tracing_unload" HCALL___tracing_unload
        "__tracing_enable" HCALL___tracing_enable
        "__tracing_swap_reader" HCALL___tracing_swap_reader
        "__tracing_update_clock" HCALL___tracing_update_clock
        "__tracing_reset" HCALL___tracing_reset
        "__tracing_enable_event" HCALL___tracing_enable_event
        "__tracing_write_event" HCALL___tracing_write_event
        "__vgic_v3_save_aprs" HCALL___vgic_v3_save_aprs
        "__vgic_v3_restore_vmcr_aprs" HCALL___vgic_v3_restore_vmcr_aprs
        "__vgic_v5_save_apr" HCALL___vgic_v5_save_apr
        "__vgic_v5_restore_vmcr_apr" HCALL___vgic_v5_restore_vmcr_apr
        "__pkvm_host_share_hyp" HCALL___pkvm_host_share_hyp
        "__pkvm_host_unshare_hyp" HCALL___pkvm_host_unshare_hyp
        "__pkvm_host_donate_guest" HCALL___pkvm_host_donate_guest
        "__pkvm_host_share_guest" HCALL___pkvm_host_share_guest
        "__pkvm_host_unshare_guest" HCALL___pkvm_host_unshare_guest
        "__pkvm_host_relax_perms_guest" HCALL___pkvm_host_relax_perms_guest
        "__pkvm_host_wrprotect_guest" HCALL___pkvm_host_wrprotect_guest
        "__pkvm_host_test_clear_young_guest" HCALL___pkvm_host_test_clear_young_guest
        "__pkvm_host_mkyoung_guest" HCALL___pkvm_host_mkyoung_guest
        "__pkvm_reserve_vm" HCALL___pkvm_reserve_vm
        "__pkvm_unreserve_vm" HCALL___pkvm_unreserve_vm
        "__pkvm_init_vm" HCALL___pkvm_init_vm
        "__pkvm_init_vcpu" HCALL___pkvm_init_vcpu
        "__pkvm_vcpu_in_poison_fault" HCALL___pkvm_vcpu_in_poison_fault
        "__pkvm_force_reclaim_guest_page" HCALL___pkvm_force_reclaim_guest_page
        "__pkvm_reclaim_dying_guest_page" HCALL___pkvm_reclaim_dying_guest_page
        "__pkvm_start_teardown_vm" HCALL___pkvm_start_teardown_vm
        "__pkvm_finalize_teardown_vm" HCALL___pkvm_finalize_teardown_vm
        "__pkvm_vcpu_load" HCALL___pkvm_vcpu_load
        "__pkvm_vcpu_put" HCALL___pkvm_vcpu_put
        "__pkvm_vcpu_sync_state" HCALL___pkvm_vcpu_sync_state
        "__pkvm_tlb_flush_vmid" HCALL___pkvm_tlb_flush_vmid
    }
    assert!(
        NUMBERS.len() as u64 + 1 == HCALL_MAX,
        "the kernel has hypercalls without a row in the table"
    );
};
