// SPDX-License-Identifier: GPL-2.0-only
//! The mechanism over fake registers: what is saved and restored, in which order, and for how many registers.
#![expect(unsafe_code, reason = "views of a buffer")]

use core::ptr::NonNull;
use std::boxed::Box;
use std::vec;

use super::super::trap::{Direction::*, tests::sys64};
use super::*;
use crate::fake::{self, Event};

/// A zeroed structure of `bytes` that is never freed: views are copied freely.
fn memory(bytes: usize) -> NonNull<u8> {
    NonNull::from(Box::leak(vec![0_u64; bytes.div_ceil(8)].into_boxed_slice())).cast()
}

/// A saved interface with the register view and the interface on, on hardware with `lrs` list registers and five
/// bits of preemption.
fn interface(lrs: u64) -> VgicV3 {
    fake::reset();
    fake::set_reg(ICH_VTR_EL2, 4 << 26 | (lrs - 1));
    // SAFETY: the memory is large enough, aligned and stays.
    let cpu_if = unsafe { VgicV3::from_raw(memory(VgicV3::SIZE)) };
    cpu_if.set_sre(7);
    cpu_if.set_hcr(hcr::EN);
    cpu_if
}

fn writes_of(log: &[Event], reg: Enc) -> std::vec::Vec<u64> {
    log.iter()
        .filter(|event| matches!(event, Event::Write(r, _) if *r == reg))
        .map(value)
        .collect()
}

fn value(event: &Event) -> u64 {
    match event {
        Event::Write(_, value) => *value,
        _ => panic!("no write"),
    }
}

const LRS: [Enc; 4] = [ICH_LR0_EL2, ICH_LR1_EL2, ICH_LR2_EL2, ICH_LR3_EL2];

#[test]
fn used_registers_are_restored_and_the_rest_left_alone() {
    let cpu_if = interface(4);
    cpu_if.set_used_lrs(2);
    for n in 0..4 {
        cpu_if.set_lr(n, 0x100 + n as u64);
    }
    restore_state(cpu_if);
    let log = fake::take_log();
    assert_eq!(writes_of(&log, ICH_HCR_EL2), [u64::from(hcr::EN)]);
    for (n, reg) in LRS.into_iter().enumerate() {
        let want: &[u64] = if n < 2 { &[0x100 + n as u64] } else { &[] };
        assert_eq!(writes_of(&log, reg), want);
    }
    assert!(
        !log.iter()
            .any(|event| matches!(event, Event::Isb | Event::Dsb(_)))
    );
}

#[test]
fn a_count_beyond_the_hardware_touches_no_register_that_is_not_there() {
    let cpu_if = interface(2);
    cpu_if.set_used_lrs(u32::MAX);
    restore_state(cpu_if);
    save_state(cpu_if);
    let log = fake::take_log();
    assert!(writes_of(&log, ICH_LR2_EL2).is_empty());
    assert_eq!(writes_of(&log, ICH_LR1_EL2).len(), 2);
}

#[test]
fn saving_keeps_what_the_guest_left_and_turns_the_interface_off() {
    let cpu_if = interface(4);
    cpu_if.set_used_lrs(3);
    let pending = 1 << 62;
    for (n, reg) in LRS.into_iter().enumerate() {
        cpu_if.set_lr(n, pending | n as u64);
        fake::set_reg(reg, 1 << 63 | (0x40 + n as u64));
    }
    // The guest is done with the second.
    fake::set_reg(ICH_ELRSR_EL2, 0b1010);
    fake::set_reg(ICH_VMCR_EL2, 0xf800_0002);
    save_state(cpu_if);
    assert_eq!(
        [cpu_if.lr(0), cpu_if.lr(1), cpu_if.lr(2)],
        [1 << 63 | 0x40, 1, 1 << 63 | 0x42]
    );
    assert_eq!(cpu_if.lr(3), pending | 3, "not in use");
    assert_eq!(cpu_if.vmcr(), 0xf800_0002);
    let log = fake::take_log();
    assert_eq!(log.last(), Some(&Event::Write(ICH_HCR_EL2, 0)));
    assert_eq!(
        writes_of(&log, ICH_LR2_EL2),
        [0],
        "no interrupt of this guest is left for the next"
    );
    assert!(writes_of(&log, ICH_LR3_EL2).is_empty());
}

#[test]
fn unlisted_ends_are_taken_over_only_where_el1_asked() {
    let live = 5_u64 << hcr::EOICOUNT_SHIFT | 1;
    for (asked, want) in [(hcr::LRENPIE, 5), (0, 3)] {
        let cpu_if = interface(4);
        cpu_if.set_hcr(hcr::EN | asked | 3 << hcr::EOICOUNT_SHIFT);
        fake::set_reg(ICH_HCR_EL2, live);
        save_state(cpu_if);
        assert_eq!(cpu_if.hcr(), hcr::EN | asked | want << hcr::EOICOUNT_SHIFT);
    }
}

#[test]
fn the_memory_mapped_view_is_chosen_before_vmcr_and_synchronised() {
    let cpu_if = interface(4);
    cpu_if.set_sre(0);
    cpu_if.set_vmcr(0x1234);
    activate_traps(cpu_if);
    restore_state(cpu_if);
    let log = fake::take_log();
    assert_eq!(
        log,
        [
            Event::Write(ICC_SRE_EL1, 0),
            Event::Isb,
            Event::Write(ICH_VMCR_EL2, 0x1234),
            Event::Write(ICH_HCR_EL2, 1),
            Event::Write(ICH_HCR_EL2, 1),
            Event::Isb,
            Event::Dsb("sy"),
        ]
    );
    fake::set_key("vgic_v3_has_v2_compat");
    fake::set_reg(ICC_SRE_EL2, 0x7);
    save_state(cpu_if);
    deactivate_traps(cpu_if);
    let log = fake::take_log();
    assert_eq!(log[..2], [Event::Dsb("sy"), Event::Isb]);
    assert_eq!(
        log[log.len() - 4..],
        [
            Event::Write(ICC_SRE_EL2, 0xf),
            Event::Isb,
            Event::Write(ICC_SRE_EL1, 1),
            Event::Write(ICH_HCR_EL2, 0)
        ]
    );
}

#[test]
fn a_guest_without_a_gic_gets_the_register_view_so_that_it_traps() {
    let cpu_if = interface(4);
    cpu_if.set_hcr(0);
    activate_traps(cpu_if);
    assert_eq!(fake::take_log(), [Event::Write(ICC_SRE_EL1, 1), Event::Isb]);
}

#[test]
fn active_priorities_go_by_the_number_implemented() {
    for (field, count) in [(4, 1), (5, 2), (6, 4)] {
        let cpu_if = interface(4);
        fake::set_reg(ICH_VTR_EL2, field << 26);
        fake::set_reg(ICH_AP0R0_EL2, 0xa0);
        fake::set_reg(ICH_AP1R3_EL2, 0xb3);
        save_aprs(cpu_if);
        assert_eq!(cpu_if.ap0r(0), 0xa0);
        assert_eq!(cpu_if.ap1r(3), if count == 4 { 0xb3 } else { 0 });
        cpu_if.set_vmcr(7);
        restore_vmcr_aprs(cpu_if);
        let log = fake::take_log();
        assert_eq!(writes_of(&log, ICH_VMCR_EL2), [7]);
        assert_eq!(log.len(), 1 + 2 * count);
        cpu_if.set_sre(0);
        restore_vmcr_aprs(cpu_if);
        assert!(
            writes_of(&fake::take_log(), ICH_VMCR_EL2).is_empty(),
            "the world switch does it"
        );
    }
}

#[test]
fn the_probe_leaves_everything_as_it_was() {
    interface(4);
    fake::set_reg(HCR_EL2, 1 << 31);
    fake::set_reg(ICC_SRE_EL1, 7);
    assert!(has_memory_mapped_cpuif(), "the fake register keeps the zero");
    assert_eq!((fake::reg(HCR_EL2), fake::reg(ICC_SRE_EL1)), (1 << 31, 7));
    let log = fake::take_log();
    let routed = writes_of(&log, HCR_EL2)[0];
    assert_eq!(routed, 1 << 31 | 0x38, "AMO, IMO and FMO while the view changes");
    assert_eq!(writes_of(&log, ICC_SRE_EL1), [0, 7]);
}

#[test]
fn every_list_register_is_emptied_at_boot() {
    interface(16);
    init_lrs();
    let log = fake::take_log();
    assert_eq!(log.len(), 16);
    assert!(log.iter().all(|event| value(event) == 0));
}

struct Trapped {
    vcpu: Vcpu,
    vm: Kvm,
}

fn trapped(esr: u64) -> Trapped {
    interface(4);
    // SAFETY: as in `interface`.
    let (vcpu, vm) = unsafe {
        (
            Vcpu::from_raw(memory(Vcpu::SIZE)),
            Kvm::from_raw(memory(Kvm::SIZE)),
        )
    };
    vm.set_vgic_model(layout::VGIC_MODEL_V3 as u32);
    vcpu.set_fault_esr(esr);
    vcpu.vgic_v3().set_used_lrs(1);
    fake::set_reg(ELR_EL2, 0x1000);
    fake::set_reg(SPSR_EL2, 0x5);
    Trapped { vcpu, vm }
}

#[test]
fn a_trapped_acknowledge_gives_the_guest_its_interrupt() {
    let Trapped { vcpu, vm } = trapped(sys64(12, 12, 0, 3, Read));
    fake::set_reg(ICH_LR0_EL2, 1 << 62 | 1 << 60 | 0x80 << 48 | 0x2a);
    fake::set_reg(ICH_VMCR_EL2, 0xf800_0002 | 3 << 18);
    assert_eq!(perform_cpuif_access(vcpu, vm), Access::Handled);
    assert_eq!(vcpu.ctxt().reg(3), 42);
    assert_eq!(fake::reg(ICH_LR0_EL2) >> 62, 2, "active");
    assert_eq!(fake::reg(ICH_AP1R0_EL2), 1 << 16);
    assert_eq!((fake::reg(ELR_EL2), vcpu.ctxt().pc()), (0x1004, 0x1004));
}

#[test]
fn what_is_not_ours_changes_nothing() {
    let mut esrs = std::vec![sys64(12, 12, 5, 0, Read), sys64(12, 11, 5, 0, Write)];
    esrs.push(sys64(12, 12, 0, 0, Write));
    for esr in esrs {
        let Trapped { vcpu, vm } = trapped(esr);
        assert_eq!(perform_cpuif_access(vcpu, vm), Access::ToHost);
        assert!(fake::take_log().is_empty());
    }
    let Trapped { vcpu, vm } = trapped(sys64(12, 12, 0, 0, Read));
    vm.set_vgic_model(layout::VGIC_MODEL_V2 as u32);
    assert_eq!(perform_cpuif_access(vcpu, vm), Access::ToHost);
    assert!(fake::take_log().is_empty());
}

#[test]
fn a_failed_condition_steps_over_the_access() {
    // MRCNE with Z set, in A32 state.
    let esr = 0x03 << 26 | 1 << 25 | 1 << 24 | 1 << 20 | 12 << 10 | 3 << 5 | 12 << 1 | 1;
    let Trapped { vcpu, vm } = trapped(esr);
    vcpu.ctxt().set_pstate(1 << 30 | 0x13);
    fake::set_reg(SPSR_EL2, 1 << 30 | 0x13);
    vcpu.ctxt().set_reg(3, 99);
    assert_eq!(perform_cpuif_access(vcpu, vm), Access::Handled);
    assert_eq!((vcpu.ctxt().reg(3), fake::reg(ELR_EL2)), (99, 0x1004));
}
