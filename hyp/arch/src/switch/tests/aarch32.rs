// SPDX-License-Identifier: GPL-2.0-only
//! What only a guest with an AArch32 EL1 has.

use super::*;

/// The registers besides DBGVCR32_EL2, which depends on the debug registers' owner.
const BANKED: [Enc; 6] = [SPSR_abt, SPSR_und, SPSR_irq, SPSR_fiq, DACR32_EL2, IFSR32_EL2];

/// The vCPU's words for [`BANKED`] and DBGVCR32_EL2.
fn saved(world: &World) -> ([u64; 6], u64) {
    let ctxt = world.vcpu.ctxt();
    (
        [
            ctxt.spsr_abt(),
            ctxt.spsr_und(),
            ctxt.spsr_irq(),
            ctxt.spsr_fiq(),
            ctxt.sys_reg(SR_DACR32_EL2),
            ctxt.sys_reg(SR_IFSR32_EL2),
        ],
        ctxt.sys_reg(SR_DBGVCR32_EL2),
    )
}

/// A vCPU with this HCR_EL2, whose words are 0x101 to 0x107, on a CPU whose registers hold something else. The guest adds
/// 0x100 to each.
fn banked_world(hcr: u64) -> World {
    let world = world();
    world.vcpu.set_hcr_el2(hcr);
    let ctxt = world.vcpu.ctxt();
    ctxt.set_spsr_abt(0x101);
    ctxt.set_spsr_und(0x102);
    ctxt.set_spsr_irq(0x103);
    ctxt.set_spsr_fiq(0x104);
    ctxt.set_sys_reg(SR_DACR32_EL2, 0x105);
    ctxt.set_sys_reg(SR_IFSR32_EL2, 0x106);
    ctxt.set_sys_reg(SR_DBGVCR32_EL2, 0x107);
    for reg in BANKED.into_iter().chain([DBGVCR32_EL2]) {
        fake::set_reg(reg, 0x900);
    }
    fake::queue_exit_with(ExitCode::IRQ.0, || {
        for reg in BANKED.into_iter().chain([DBGVCR32_EL2]) {
            fake::set_reg(reg, fake::reg(reg) + 0x100);
        }
    });
    world
}

#[test]
fn banked_registers_are_loaded_and_saved() {
    let world = banked_world(hcr::VM);
    world.vcpu.set_debug_owner(VCPU_DEBUG_GUEST_OWNED as u32);
    let (before, _) = world.run_apart();
    for (reg, value) in BANKED.into_iter().chain([DBGVCR32_EL2]).zip(0x101..) {
        assert_eq!(last_write(&before, reg), value, "{:?}", name(reg));
        // Cortex-A57 852523 and Cortex-A72 853709: nothing of the guest's is loaded before them.
        let loaded = position(&before, Event::Write(reg, value));
        assert!(loaded < position(&before, Event::Write(SCTLR_EL1, 0)));
        assert!(loaded < position(&before, Event::Write(TTBR0_EL1, 0)));
        assert!(loaded < position(&before, Event::Write(SPSR_EL2, spsr::EL0t)));
    }
    assert_eq!(saved(&world), ([0x201, 0x202, 0x203, 0x204, 0x205, 0x206], 0x207));
}

#[test]
fn the_vector_catch_register_goes_with_the_debug_registers() {
    for (owner, switched) in [
        (VCPU_DEBUG_FREE, false),
        (VCPU_DEBUG_HOST_OWNED, true),
        (VCPU_DEBUG_GUEST_OWNED, true),
    ] {
        let world = banked_world(hcr::VM);
        world.vcpu.set_debug_owner(owner as u32);
        let (before, _) = world.run_apart();
        let (loaded, kept) = if switched {
            (Some(0x107), 0x207)
        } else {
            (None, 0x107)
        };
        assert_eq!(written(&before, DBGVCR32_EL2), loaded);
        assert_eq!(saved(&world).1, kept);
    }
}

#[test]
fn a_guest_in_aarch64_has_none_of_them() {
    // They may be undefined: a CPU need not have AArch32 at all.
    let world = banked_world(hcr::VM | hcr::RW);
    world.vcpu.set_debug_owner(VCPU_DEBUG_GUEST_OWNED as u32);
    let (before, after) = world.run_apart();
    for reg in BANKED.into_iter().chain([DBGVCR32_EL2]) {
        assert_eq!(written(&before, reg), None, "{:?}", name(reg));
        assert_eq!(written(&after, reg), None, "{:?}", name(reg));
    }
    assert_eq!(saved(&world), ([0x101, 0x102, 0x103, 0x104, 0x105, 0x106], 0x107));
}

#[test]
fn fpexc_is_the_guests_while_it_has_the_fp_registers() {
    let world = banked_world(hcr::VM);
    fake::set_cap(CAP_HAS_FPSIMD as u16);
    let ctxt = world.vcpu.ctxt();
    ctxt.set_sys_reg(SR_FPEXC32_EL2, 0x21);
    let (before, _) = world.run_apart();
    // Enabled, so that the guest's use of FP traps to EL2 and not to its own EL1.
    assert_eq!(last_write(&before, FPEXC32_EL2), 1 << 30);
    assert_eq!(ctxt.sys_reg(SR_FPEXC32_EL2), 0x21);
    fake::queue_exit(ExitCode::TRAP.0);
    fake::set_reg(ESR_EL2, u64::from(fault::ec::FP_ASIMD) << 26);
    fake::queue_exit_with(ExitCode::IRQ.0, || {
        assert_eq!(fake::reg(FPEXC32_EL2), 0x21);
        fake::set_reg(FPEXC32_EL2, 0x22);
    });
    world.run();
    assert_eq!(ctxt.sys_reg(SR_FPEXC32_EL2), 0x22);
}
