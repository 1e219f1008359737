// SPDX-License-Identifier: GPL-2.0-only
//! Runs on fake hardware: what is in the registers while the guest runs, what is there after, and in which order.

use core::ptr::NonNull;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::fake::{self, Event};

mod aarch32;
mod buffers;
mod counters;
mod fp_owner;
mod optional;

/// Memory for one kernel structure.
struct Memory(Vec<u64>);

impl Memory {
    fn new(bytes: usize) -> Self {
        Self(vec![0; bytes.div_ceil(8)])
    }
    fn ptr(&mut self) -> NonNull<u8> {
        NonNull::new(self.0.as_mut_ptr().cast()).unwrap()
    }
}

struct World {
    _memory: [Memory; 4],
    cpu: Cpu,
    vcpu: Vcpu,
    vm: Kvm,
}

const STAGE2: Stage2 = Stage2 {
    vttbr: 5 << 48 | 0x8000,
    vtcr: 0x8000_0000,
};
const HOST_HCR: u64 = hcr::RW;

fn world() -> World {
    fake::reset();
    let mut memory = [
        Memory::new(HostData::SIZE),
        Memory::new(InitParams::SIZE),
        Memory::new(Vcpu::SIZE),
        Memory::new(Kvm::SIZE),
    ];
    let [host, params, vcpu, vm] = &mut memory;
    // SAFETY: each buffer is aligned and as large as its structure, and lives as long as the `World`.
    let (host, params, vcpu, vm) = unsafe {
        (
            HostData::from_raw(host.ptr()),
            InitParams::from_raw(params.ptr()),
            Vcpu::from_raw(vcpu.ptr()),
            Kvm::from_raw(vm.ptr()),
        )
    };
    params.set_hcr_el2(HOST_HCR);
    vcpu.set_hcr_el2(hcr::RW | hcr::VM);
    // SAFETY: the fakes load no vectors and have no SVE.
    let cpu = unsafe { Cpu::new(host, params, HypVa::new(0x1800), HypVa::new(0x1000), 0) };
    World {
        _memory: memory,
        cpu,
        vcpu,
        vm,
    }
}

impl World {
    fn guest(&self) -> Guest {
        // SAFETY: no stage 2 translates anything here, and there are no offsets and no SVE.
        unsafe { Guest::new(self.vcpu, self.vm, STAGE2) }
    }
    /// Runs the vCPU, and gives what was done before its first entry and what was done after.
    fn run_apart(&self) -> (Vec<Event>, Vec<Event>) {
        let (_, mut before) = self.run();
        let after = before.split_off(position(&before, Event::Mark("enter")));
        (before, after)
    }
    fn run(&self) -> (ExitCode, Vec<Event>) {
        let code = run(&self.cpu, &self.guest(), &mut Policy::default());
        (code, fake::take_log())
    }
}

#[derive(Default)]
struct Policy {
    hvcs: usize,
    sysregs: usize,
    restricted: usize,
}

impl GuestExits for Policy {
    fn entering(&mut self) {
        fake::mark("enter");
    }
    fn left(&mut self) {
        fake::mark("exit");
    }
    fn protected_hvc(&mut self, _: &Guest) -> Resume {
        self.hvcs += 1;
        Resume::Guest
    }
    fn protected_sysreg(&mut self, _: &Guest) -> Resume {
        self.sysregs += 1;
        Resume::Host
    }
    fn protected_restricted(&mut self, _: &Guest) -> Resume {
        self.restricted += 1;
        Resume::Guest
    }
}

fn position(log: &[Event], event: Event) -> usize {
    log.iter()
        .position(|other| *other == event)
        .unwrap_or_else(|| panic!("no {event:?}"))
}

/// The value that was written to `reg` last, if it was written at all.
fn written(log: &[Event], reg: Enc) -> Option<u64> {
    log.iter().rev().find_map(|event| match event {
        Event::Write(other, value) if *other == reg => Some(*value),
        _ => None,
    })
}

fn last_write(log: &[Event], reg: Enc) -> u64 {
    written(log, reg).unwrap_or_else(|| panic!("no write of {:?}", name(reg)))
}

fn protect(world: &World) {
    fake::set_cap(CAP_KVM_PROTECTED_MODE as u16);
    world.vm.set_is_protected(1);
}

fn trap_once(world: &World, class: u8) -> (ExitCode, Policy) {
    fake::queue_exit(ExitCode::TRAP.0);
    fake::set_reg(ESR_EL2, u64::from(class) << 26);
    let mut policy = Policy::default();
    let code = run(&world.cpu, &world.guest(), &mut policy);
    (code, policy)
}

#[test]
fn host_registers_come_back_and_guest_registers_are_kept() {
    let world = world();
    for reg in [
        SCTLR_EL1, TTBR0_EL1, TCR_EL1, VBAR_EL1, TPIDR_EL0, SP_EL1, MDSCR_EL1, ELR_EL2,
    ] {
        fake::set_reg(reg, 0x1000 + u64::from(reg));
    }
    let ctxt = world.vcpu.ctxt();
    ctxt.set_sys_reg(SR_TTBR0_EL1, 0x77);
    ctxt.set_sys_reg(SR_MDSCR_EL1, 0x78);
    ctxt.set_pc(0x4000);
    let (code, log) = world.run();
    assert_eq!(code, ExitCode::IRQ);
    assert!(position(&log, Event::Write(TTBR0_EL1, 0x77)) < position(&log, Event::Mark("enter")));
    for reg in [
        SCTLR_EL1, TTBR0_EL1, TCR_EL1, VBAR_EL1, TPIDR_EL0, SP_EL1, MDSCR_EL1, ELR_EL2,
    ] {
        assert_eq!(fake::reg(reg), 0x1000 + u64::from(reg), "{:?}", name(reg));
    }
    assert_eq!(ctxt.sys_reg(SR_TTBR0_EL1), 0x77);
    assert_eq!(ctxt.sys_reg(SR_MDSCR_EL1), 0x78);
    assert_eq!(ctxt.pc(), 0x4000);
    assert_eq!(world.cpu.host.ctxt().running_vcpu(), 0);
}

#[test]
fn traps_are_the_hosts_again() {
    let world = world();
    for cap in [CAP_HAS_FGT, CAP_HAS_FGT2, CAP_HAS_HCX, CAP_HAS_PMUV3] {
        fake::set_cap(cap as u16);
    }
    let host = [
        MDCR_EL2,
        HCRX_EL2,
        HFGRTR_EL2,
        HFGWTR_EL2,
        HDFGWTR2_EL2,
        PMUSERENR_EL0,
    ];
    for reg in host {
        fake::set_reg(reg, u64::from(reg));
    }
    world.vcpu.set_fgt(HFGRTR_GROUP, 0x11, 0x22);
    world.vcpu.set_hcrx_el2(0x33);
    let (_, log) = world.run();
    let inside = position(&log, Event::Mark("enter"));
    assert_eq!(last_write(&log[..inside], HFGRTR_EL2), 0x11);
    assert_eq!(last_write(&log[..inside], HFGWTR_EL2), 0x22);
    assert_eq!(last_write(&log[..inside], HCRX_EL2), 0x33);
    assert_eq!(last_write(&log[..inside], HSTR_EL2), 1 << 15);
    assert_eq!(last_write(&log[..inside], HCR_EL2), hcr::RW | hcr::VM);
    assert_eq!(last_write(&log[..inside], VBAR_EL2), 0x1800);
    for reg in host {
        assert_eq!(fake::reg(reg), u64::from(reg), "{:?}", name(reg));
    }
    assert_eq!(fake::reg(HSTR_EL2), 0);
    assert_eq!(fake::reg(HCR_EL2), HOST_HCR);
    assert_eq!(fake::reg(VBAR_EL2), 0x1000);
    assert_eq!((fake::reg(VTTBR_EL2), fake::reg(VTCR_EL2)), (0, 0));
}

#[test]
fn stage_2_follows_the_guests_registers_and_precedes_its_traps() {
    let world = world();
    let (_, log) = world.run();
    let inside = position(&log, Event::Mark("enter"));
    let stage2 = position(&log, Event::Write(VTTBR_EL2, STAGE2.vttbr));
    let hcr = log[..inside]
        .iter()
        .rposition(|e| matches!(e, Event::Write(HCR_EL2, _)))
        .unwrap();
    let el1 = log[..inside]
        .iter()
        .rposition(|e| matches!(e, Event::Write(SPSR_EL2, _)))
        .unwrap();
    assert!(position(&log, Event::Dsb("nsh")) < el1 && el1 < stage2 && stage2 < hcr && hcr < inside);
    let back = log[inside..]
        .iter()
        .position(|e| matches!(e, Event::Write(VTTBR_EL2, 0)))
        .unwrap();
    let host_hcr = log[inside..]
        .iter()
        .position(|e| matches!(e, Event::Write(HCR_EL2, _)))
        .unwrap();
    assert!(host_hcr < back);
}

#[test]
fn where_at_is_speculated_guest_walks_begin_last_and_end_first() {
    let world = world();
    fake::set_cap(CAP_WORKAROUND_SPECULATIVE_AT as u16);
    fake::set_reg(TCR_EL1, 0x10);
    fake::set_reg(SCTLR_EL1, sctlr_el1::M);
    world.vcpu.ctxt().set_sys_reg(SR_TCR_EL1, 0x20);
    let (_, log) = world.run();
    let off = tcr_el1::EPD0 | tcr_el1::EPD1;
    let inside = position(&log, Event::Mark("enter"));
    let stopped = position(&log, Event::Write(TCR_EL1, 0x20 | off));
    let going = position(&log, Event::Write(TCR_EL1, 0x20));
    let stage2 = position(&log, Event::Write(VTTBR_EL2, STAGE2.vttbr));
    assert!(stopped < stage2 && stage2 < going && going < inside);
    assert_eq!(log[stopped + 1], Event::Isb);
    let again = inside + position(&log[inside..], Event::Write(TCR_EL1, 0x20 | off));
    let host_stage2 = inside + position(&log[inside..], Event::Write(VTTBR_EL2, 0));
    let host = inside + position(&log[inside..], Event::Write(TCR_EL1, 0x10));
    assert!(again < host_stage2 && host_stage2 < host);
    assert_eq!(world.vcpu.ctxt().sys_reg(SR_TCR_EL1), 0x20);
}

#[test]
fn a_guest_cannot_return_to_el2() {
    for (asked, got) in [
        // Illegal, and with every other exception masked.
        (spsr::EL2h, 0x10_03c9),
        (spsr::EL2t, 0x10_03c9),
        (0xd, 0x10_03c9),
        (1, 0x10_03c9),
        (7, 0x10_03c9),
        (spsr::EL1t, spsr::EL1t),
        (spsr::EL1h, spsr::EL1h),
        (spsr::EL0t, 0),
        (0x1f, 0x1f),
    ] {
        assert_eq!(safe_pstate(asked), got);
    }
}

#[test]
fn an_unknown_debug_owner_is_nobody() {
    let world = world();
    fake::set_reg(dbgbcr(0), 0x55);
    world.vcpu.set_debug_owner(3);
    world.run();
    assert_eq!(fake::reg(dbgbcr(0)), 0x55);
    assert_eq!(DebugOwner::checked(u32::MAX), DebugOwner::Free);
}

#[test]
fn debug_registers_change_hands_where_they_are_used() {
    let world = world();
    fake::set_reg(dbgbcr(0), 0x55);
    fake::set_reg(dbgwvr(3), 0x56);
    fake::set_reg(dbgwvr(4), 0x57);
    world.cpu.host.set_debug_wrps(3);
    world.vcpu.set_debug_owner(VCPU_DEBUG_GUEST_OWNED as u32);
    world.vcpu.debug_state().write(GUEST_DEBUG_BCR, 0x65u64);
    world.vcpu.debug_state().write(GUEST_DEBUG_WVR + 24, 0x66u64);
    let (_, log) = world.run();
    let inside = position(&log, Event::Mark("enter"));
    assert_eq!(last_write(&log[..inside], dbgbcr(0)), 0x65);
    assert_eq!(last_write(&log[..inside], dbgwvr(3)), 0x66);
    assert!(
        !log.iter()
            .any(|e| matches!(e, Event::Write(reg, _) if *reg == dbgwvr(4)))
    );
    assert_eq!((fake::reg(dbgbcr(0)), fake::reg(dbgwvr(3))), (0x55, 0x56));
    assert_eq!(world.vcpu.debug_state().read::<u64>(GUEST_DEBUG_BCR), 0x65);
}

#[test]
fn a_pended_serror_is_reported_as_the_hardware_left_it() {
    let world = world();
    world.vcpu.set_hcr_el2(hcr::RW | hcr::VM | hcr::VSE);
    world.run();
    // The fake does not take it.
    assert_eq!(world.vcpu.hcr_el2() & hcr::VSE, hcr::VSE);
    fake::queue_exit_with(ExitCode::IRQ.0, || {
        fake::set_reg(HCR_EL2, fake::reg(HCR_EL2) & !hcr::VSE);
    });
    world.run();
    assert_eq!(world.vcpu.hcr_el2() & hcr::VSE, 0);
}

#[test]
fn an_hvc_is_replayed_after_a_pending_serror() {
    let world = world();
    fake::queue_exit_with(ExitCode::TRAP.0 | 1 << 31, || {
        fake::set_reg(ELR_EL2, 0x4004);
    });
    fake::set_reg(ESR_EL2, u64::from(fault::ec::HVC64) << 26);
    let (code, _) = world.run();
    assert_eq!(code, ExitCode(ExitCode::TRAP.0 | 1 << 31));
    assert_eq!(world.vcpu.ctxt().pc(), 0x4000);
}

#[test]
fn a_protected_guest_in_aarch32_is_illegal() {
    let world = world();
    fake::queue_exit_with(ExitCode::IRQ.0 | 1 << 31, || {
        fake::set_reg(SPSR_EL2, spsr::MODE32);
    });
    assert_eq!(world.run().0, ExitCode(ExitCode::IRQ.0 | 1 << 31));
    protect(&world);
    fake::queue_exit_with(ExitCode::IRQ.0 | 1 << 31, || {
        fake::set_reg(SPSR_EL2, spsr::MODE32);
    });
    assert_eq!(world.run().0, ExitCode(ExitCode::ILLEGAL.0 | 1 << 31));
}

#[test]
fn policy_sees_protected_exits_only() {
    let world = world();
    let (code, policy) = trap_once(&world, fault::ec::HVC64);
    assert_eq!((code, policy.hvcs), (ExitCode::TRAP, 0));
    let (code, policy) = trap_once(&world, fault::ec::SVE);
    assert_eq!((code, policy.restricted), (ExitCode::TRAP, 0));
    protect(&world);
    let (code, policy) = trap_once(&world, fault::ec::HVC64);
    assert_eq!((code, policy.hvcs), (ExitCode::IRQ, 1));
    let (code, policy) = trap_once(&world, fault::ec::SVE);
    assert_eq!((code, policy.restricted), (ExitCode::IRQ, 1));
    let (code, policy) = trap_once(&world, fault::ec::SYS64);
    assert_eq!((code, policy.sysregs), (ExitCode::TRAP, 1));
}
