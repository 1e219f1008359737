// SPDX-License-Identifier: GPL-2.0-only
//! Timers and counters around a run.

use super::*;

#[test]
fn timers_trap_the_guest_and_not_the_host() {
    let world = world();
    for (hvhe, shift) in [(false, 0), (true, 10)] {
        if hvhe {
            fake::set_cap(CAP_KVM_HVHE as u16);
        }
        fake::set_reg(CNTHCTL_EL2, (cnthctl::EL1PCTEN | cnthctl::EL1PCEN) << shift);
        let (_, log) = world.run();
        let inside = position(&log, Event::Mark("enter"));
        assert_eq!(
            last_write(&log[..inside], CNTHCTL_EL2),
            cnthctl::EL1PCTEN << shift
        );
        assert_eq!(
            fake::reg(CNTHCTL_EL2),
            (cnthctl::EL1PCTEN | cnthctl::EL1PCEN) << shift
        );
    }
    let offset = 5u64;
    world.vcpu.set_ptimer_vm_offset(&raw const offset as u64);
    let (_, log) = world.run();
    let inside = position(&log, Event::Mark("enter"));
    assert_eq!(last_write(&log[..inside], CNTHCTL_EL2), 0);
}

/// CNTHCTL_EL2.EL1TVT and EL1TVCT, which are in one place with HCR_EL2.E2H set and clear.
const VIRTUAL_TRAPS: u64 = 1 << 13 | 1 << 14;

#[test]
fn a_virtual_counter_whose_offset_does_not_work_traps() {
    let (vm_offset, vcpu_offset) = (5u64, 7u64);
    let (of_vm, of_vcpu) = (&raw const vm_offset as u64, &raw const vcpu_offset as u64);
    for broken in [false, true] {
        for hvhe in [false, true] {
            for (vm, vcpu) in [(0, 0), (of_vm, 0), (0, of_vcpu), (of_vm, of_vcpu)] {
                let world = world();
                if broken {
                    fake::set_key("broken_cntvoff_key");
                }
                if hvhe {
                    fake::set_cap(CAP_KVM_HVHE as u16);
                }
                world.vcpu.set_vtimer_vm_offset(vm);
                world.vcpu.set_vtimer_vcpu_offset(vcpu);
                let (before, _) = world.run_apart();
                let traps = last_write(&before, CNTHCTL_EL2) & VIRTUAL_TRAPS;
                let expected = broken && (vm, vcpu) != (0, 0);
                assert_eq!(traps, if expected { VIRTUAL_TRAPS } else { 0 });
                assert_eq!(fake::reg(CNTHCTL_EL2) & VIRTUAL_TRAPS, 0, "the host's never do");
            }
        }
    }
}

#[test]
fn a_trapped_counter_is_read_with_the_guests_offsets() {
    let (vm_offset, vcpu_offset) = (0x30u64, 0x100u64);
    for (register, physical) in [
        (CNTVCT_EL0, false),
        (CNTVCTSS_EL0, false),
        (CNTPCT_EL0, true),
        (CNTPCTSS_EL0, true),
    ] {
        let world = world();
        if physical {
            world.vcpu.set_ptimer_vm_offset(&raw const vm_offset as u64);
            world.vcpu.set_ptimer_vcpu_offset(&raw const vcpu_offset as u64);
        } else {
            world.vcpu.set_vtimer_vm_offset(&raw const vm_offset as u64);
            world.vcpu.set_vtimer_vcpu_offset(&raw const vcpu_offset as u64);
        }
        fake::set_reg(CNTPCT_EL0, 0x1000);
        world.vcpu.ctxt().set_pc(0x4000);
        // MRS x5, with the parts of the encoding where the syndrome has them.
        let (op2, op1, crn, crm) = (
            register >> 5 & 7,
            register >> 16 & 7,
            register >> 12 & 15,
            register >> 8 & 15,
        );
        let iss = 3 << 20 | op2 << 17 | op1 << 14 | crn << 10 | 5 << 5 | crm << 1 | 1;
        fake::queue_exit(ExitCode::TRAP.0);
        fake::set_reg(
            ESR_EL2,
            u64::from(fault::ec::SYS64) << 26 | 1 << 25 | u64::from(iss),
        );
        assert_eq!(world.run().0, ExitCode::IRQ, "settled without the host");
        assert_eq!(world.vcpu.ctxt().reg(5), 0x1000 - 0x130, "{:?}", name(register));
        assert_eq!(world.vcpu.ctxt().pc(), 0x4004);
    }
}
