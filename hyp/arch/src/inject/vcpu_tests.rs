// SPDX-License-Identifier: GPL-2.0-only
//! Which words of a vCPU and which registers the mechanism reads and writes.
#![expect(unsafe_code, reason = "views of a buffer")]

use core::ptr::NonNull;
use std::boxed::Box;
use std::vec;

use super::*;
use crate::fake;

fn vcpu() -> Vcpu {
    fake::reset();
    let memory = Box::leak(vec![0_u64; Vcpu::SIZE.div_ceil(8)].into_boxed_slice());
    // SAFETY: the memory is large enough, aligned and never freed.
    unsafe { Vcpu::from_raw(NonNull::from(memory).cast()) }
}

const RW: u64 = 1 << 31;
const SPAN: u64 = 1 << 23;

#[test]
fn a_pending_exception_uses_the_saved_registers_alone() {
    let vcpu = vcpu();
    vcpu.set_hcr_el2(RW);
    vcpu.set_iflags(0x10 | Iflags::PENDING_EXCEPTION);
    let ctxt = vcpu.ctxt();
    ctxt.set_pc(0x4000);
    ctxt.set_pstate(Pstate::EL1H);
    ctxt.set_sys_reg(layout::SR_VBAR_EL1, 0x8_0000);
    ctxt.set_sys_reg(layout::SR_SCTLR_EL1, SPAN);
    adjust_pc(vcpu, || Mte::Present);
    assert_eq!(
        (ctxt.pc(), ctxt.pstate()),
        (0x8_0200, Pstate::TCO | Pstate::DAIF | Pstate::EL1H)
    );
    assert_eq!(ctxt.sys_reg(layout::SR_ELR_EL1), 0x4000);
    assert_eq!(ctxt.sys_reg(layout::SR_SPSR_EL1), Pstate::EL1H);
    assert_eq!(vcpu.iflags(), 0x10);
    assert!(fake::take_log().is_empty(), "no register of the CPU");
}

#[test]
fn banked_registers_of_aarch32_lie_where_the_architecture_maps_them() {
    for (code, lr, spsr) in [(0, 22, "und"), (2, 20, "abt")] {
        let vcpu = vcpu();
        vcpu.set_iflags(Iflags::PENDING_EXCEPTION | code << 1);
        let ctxt = vcpu.ctxt();
        ctxt.set_pc(0x100);
        ctxt.set_pstate(0x10);
        adjust_pc(vcpu, || panic!("AArch32 has no tags"));
        assert_ne!(ctxt.reg(lr), 0);
        assert_eq!(
            (ctxt.spsr_und(), ctxt.spsr_abt()),
            if spsr == "und" { (0x10, 0) } else { (0, 0x10) }
        );
    }
}

#[test]
fn nothing_pending_writes_nothing() {
    let vcpu = vcpu();
    vcpu.set_iflags(0xf0);
    adjust_pc(vcpu, || panic!("not asked"));
    assert_eq!((vcpu.iflags(), vcpu.ctxt().pc()), (0xf0, 0));
}

#[test]
fn a_running_guest_is_stepped_in_the_registers_and_in_memory() {
    let vcpu = vcpu();
    fake::set_reg(ELR_EL2, 0x1000);
    fake::set_reg(SPSR_EL2, Pstate::SS | Pstate::BTYPE | Pstate::EL0T);
    skip_running(vcpu);
    assert_eq!((fake::reg(ELR_EL2), fake::reg(SPSR_EL2)), (0x1004, Pstate::EL0T));
    assert_eq!((vcpu.ctxt().pc(), vcpu.ctxt().pstate()), (0x1004, Pstate::EL0T));
}

#[test]
fn an_exception_of_what_runs_goes_through_the_live_registers() {
    fake::reset();
    fake::set_reg(ELR_EL2, 0x1000);
    fake::set_reg(SPSR_EL2, Pstate::EL0T);
    fake::set_reg(VBAR_EL1, 0x8_0000);
    fake::set_reg(SCTLR_EL1, SPAN);
    let (pc, pstate) = inject_running(ESR_UNDEFINED, Mte::Absent);
    assert_eq!((pc, pstate.raw()), (0x8_0400, Pstate::DAIF | Pstate::EL1H));
    assert_eq!((fake::reg(ELR_EL2), fake::reg(SPSR_EL2)), (pc, pstate.raw()));
    assert_eq!(
        (fake::reg(ELR_EL1), fake::reg(SPSR_EL1), fake::reg(ESR_EL1)),
        (0x1000, Pstate::EL0T, ESR_UNDEFINED)
    );
}
