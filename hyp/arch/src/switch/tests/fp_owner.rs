// SPDX-License-Identifier: GPL-2.0-only
//! Whose FP registers are on the CPU. The registers themselves are out of the fakes' reach; the control registers stand
//! for them.

use pkvm_types::Error;

use super::*;

#[test]
fn fp_registers_change_hands_at_the_first_use() {
    let world = world();
    fake::set_cap(CAP_HAS_FPSIMD as u16);
    protect(&world);
    fp::begin_protected_run(&world.cpu);
    fake::set_reg(FPCR, 0x11);
    let (code, _) = trap_once(&world, fault::ec::FP_ASIMD);
    assert_eq!(code, ExitCode::IRQ);
    assert_eq!(FpOwner::of(world.cpu.host), FpOwner::Guest);
    assert_eq!(fake::reg(FPCR), 0);
    fake::set_reg(FPCR, 0x22);
    fp::end_protected_run(&world.cpu, &world.guest());
    assert_eq!(FpOwner::of(world.cpu.host), FpOwner::Host);
    assert_eq!(fake::reg(FPCR), 0x11);
}

/// A VM and a CPU that may have FPMR each: 0x11 in the register, 0x21 in the VM's context.
fn fpmr_world(cap: bool, field: bool) -> World {
    let world = world();
    fake::set_cap(CAP_HAS_FPSIMD as u16);
    if cap {
        fake::set_cap(CAP_HAS_FPMR as u16);
    }
    if field {
        world.vm.set_id_reg(ID_AA64PFR2, 1 << 32);
    }
    fake::set_reg(FPMR, 0x11);
    world.vcpu.ctxt().set_sys_reg(SR_FPMR, 0x21);
    world
}

#[test]
fn fpmr_goes_with_the_fp_registers_of_a_vm_that_has_it() {
    for (cap, field) in [(true, true), (true, false), (false, true), (false, false)] {
        // With SVE the host's registers move by another way.
        for sve in [false, true] {
            let world = fpmr_world(cap, field);
            if sve {
                fake::set_cap(CAP_SVE as u16);
            }
            protect(&world);
            fp::begin_protected_run(&world.cpu);
            let (host, guest) = (world.cpu.host.ctxt(), world.vcpu.ctxt());
            let (_, log) = world.run();
            assert_eq!(written(&log, FPMR), None, "the guest has not used FP");
            trap_once(&world, fault::ec::FP_ASIMD);
            if cap && field {
                assert_eq!(fake::reg(FPMR), 0x21);
                assert_eq!(host.sys_reg(SR_FPMR), 0x11);
                fake::set_reg(FPMR, 0x22);
                fp::end_protected_run(&world.cpu, &world.guest());
                assert_eq!(guest.sys_reg(SR_FPMR), 0x22);
            } else {
                fp::end_protected_run(&world.cpu, &world.guest());
                assert_eq!(written(&fake::take_log(), FPMR), None);
                assert_eq!((host.sys_reg(SR_FPMR), guest.sys_reg(SR_FPMR)), (0, 0x21));
            }
            assert_eq!(fake::reg(FPMR), 0x11);
        }
    }
}

#[test]
fn a_trusted_host_keeps_its_own_fpmr() {
    let world = fpmr_world(true, true);
    trap_once(&world, fault::ec::FP_ASIMD);
    assert_eq!(fake::reg(FPMR), 0x21);
    assert_eq!(world.cpu.host.ctxt().sys_reg(SR_FPMR), 0);
    fp::end_trusted_run(&world.cpu, &world.guest());
    assert_eq!(fake::reg(FPMR), 0x21, "EL1 collects it");
}

#[test]
fn a_host_with_streaming_state_is_not_fit_to_run_a_vcpu() {
    // SVCR.SM, SVCR.ZA, and both.
    for svcr in [1, 2, 3] {
        fake::reset();
        fake::set_reg(SVCR, svcr);
        assert_eq!(fp::check_host_state(), Ok(()), "without SME it is no register");
        fake::set_cap(CAP_SME as u16);
        assert_eq!(fp::check_host_state(), Err(Error::Invalid));
        fake::set_reg(SVCR, 0);
        assert_eq!(fp::check_host_state(), Ok(()));
    }
}
