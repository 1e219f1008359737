// SPDX-License-Identifier: GPL-2.0-only
//! The mechanism over fake registers.
#![expect(unsafe_code, reason = "views of a buffer")]

use core::ptr::NonNull;
use std::boxed::Box;
use std::vec;

use super::super::{Interface, interface};
use super::*;
use crate::fake::{self, Event};
use pkvm_kernel::{Kvm, layout};

/// A zeroed structure of `bytes` that is never freed: views are copied freely.
fn memory(bytes: usize) -> NonNull<u8> {
    NonNull::from(Box::leak(vec![0_u64; bytes.div_ceil(8)].into_boxed_slice())).cast()
}

fn structures() -> (VgicV5, HostData) {
    fake::reset();
    // SAFETY: the memory is large enough, aligned and stays.
    unsafe {
        (
            VgicV5::from_raw(memory(VgicV5::SIZE)),
            HostData::from_raw(memory(HostData::SIZE)),
        )
    }
}

#[test]
fn the_guest_gets_its_state_and_an_empty_second_bank() {
    let (cpu_if, host) = structures();
    cpu_if.set_icsr(0x11);
    cpu_if.set_ppi_dvir(0xf0);
    cpu_if.set_ppi_activer(0x22);
    cpu_if.set_ppi_enabler(0x33);
    host.set_ppi_pendr(0xff);
    for n in 0..8 {
        cpu_if.set_ppi_priorityr(n, 0x100 + n as u64);
    }
    fake::set_reg(ICH_PPI_ENABLER1_EL2, 1);
    fake::set_reg(ICH_PPI_PRIORITYR15_EL2, 1);
    switch_to_guest(cpu_if, host);
    for (reg, value) in [
        (ICC_ICSR_EL1, 0x11),
        (ICH_PPI_DVIR0_EL2, 0xf0),
        (ICH_PPI_ACTIVER0_EL2, 0x22),
        (ICH_PPI_ENABLER0_EL2, 0x33),
        (ICH_PPI_PENDR0_EL2, 0x0f),
        (ICH_PPI_PRIORITYR0_EL2, 0x100),
        (ICH_PPI_PRIORITYR7_EL2, 0x107),
        (ICH_PPI_ENABLER1_EL2, 0),
        (ICH_PPI_PRIORITYR15_EL2, 0),
    ] {
        assert_eq!(fake::reg(reg), value, "{:?}", name(reg));
    }
}

#[test]
fn the_host_gets_it_back_and_direct_injection_ends() {
    let (cpu_if, host) = structures();
    fake::set_reg(ICH_VMCR_EL2, 0x1_0000_0001);
    fake::set_reg(ICC_ICSR_EL1, 0x44);
    fake::set_reg(ICH_PPI_ACTIVER0_EL2, 0x55);
    fake::set_reg(ICH_PPI_PENDR0_EL2, 0x66);
    fake::set_reg(ICH_PPI_PRIORITYR3_EL2, 0x77);
    fake::set_reg(ICH_PPI_DVIR0_EL2, 0x88);
    switch_to_host(cpu_if, host);
    assert_eq!(cpu_if.vmcr(), 0x1_0000_0001, "all 64 bits");
    assert_eq!(cpu_if.icsr(), 0x44);
    assert_eq!((host.ppi_activer_exit(), host.ppi_pendr()), (0x55, 0x66));
    assert_eq!(cpu_if.ppi_priorityr(3), 0x77);
    assert_eq!(fake::reg(ICH_PPI_DVIR0_EL2), 0);
}

#[test]
fn priorities_are_restored_in_the_native_mode_of_the_interface() {
    let (cpu_if, _) = structures();
    fake::set_reg(ICH_VCTLR_EL2, V3 | 1);
    cpu_if.set_vmcr(0x8000_0001);
    cpu_if.set_apr(0x99);
    restore_vmcr_apr(cpu_if);
    assert_eq!(
        fake::take_log(),
        [
            Event::Write(ICH_VCTLR_EL2, 1),
            Event::Isb,
            Event::Write(ICH_VMCR_EL2, 0x8000_0001),
            Event::Write(ICH_APR_EL2, 0x99),
        ]
    );
    fake::set_reg(ICH_APR_EL2, 0xaa);
    save_apr(cpu_if);
    assert_eq!(cpu_if.apr(), 0xaa);
}

#[test]
fn a_claim_of_the_model_alone_touches_nothing() {
    fake::reset();
    // SAFETY: as above.
    let vm = unsafe { Kvm::from_raw(memory(Kvm::SIZE)) };
    vm.set_vgic_model(layout::VGIC_MODEL_V5 as u32);
    assert_eq!(interface(vm), Interface::Neither);
    fake::set_cap(CAP_HAS_GICV5_CPUIF as u16);
    assert_eq!(interface(vm), Interface::V5);
    fake::set_cap(CAP_KVM_PROTECTED_MODE as u16);
    assert_eq!(interface(vm), Interface::Neither);
}
