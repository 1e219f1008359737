// SPDX-License-Identifier: GPL-2.0-only
//! Registers that belong to a feature: they change hands where both the CPU and the VM have it, and are not touched
//! otherwise, since they may be undefined.

use super::*;

/// A feature with its capability and with what gives it to a VM.
type Optional = (Feature, u64, fn(&World));

const FEATURES: [Optional; 5] = [
    (Feature::Mte, CAP_MTE, |world| {
        world.vm.set_flags(1 << KVM_FLAG_MTE_ENABLED);
    }),
    (Feature::Tcr2, CAP_HAS_TCR2, |world| add_mmfr3(world, 0)),
    (Feature::Sctlr2, CAP_HAS_SCTLR2, |world| add_mmfr3(world, 4)),
    (Feature::S1Pie, CAP_HAS_S1PIE, |world| add_mmfr3(world, 8)),
    (Feature::S1Poe, CAP_HAS_S1POE, |world| add_mmfr3(world, 16)),
];

/// Sets the field of ID_AA64MMFR3_EL1 at `shift`.
fn add_mmfr3(world: &World, shift: u32) {
    let old = world.vm.id_reg(ID_AA64MMFR3);
    world.vm.set_id_reg(ID_AA64MMFR3, old | 1 << shift);
}

/// The registers, each with its place in a context and the features that it takes. The indirection and overlay
/// registers of EL1 do nothing without TCR2_EL1, which turns them on; POR_EL0 is EL0's to use.
const REGISTERS: [(Enc, u64, &[Feature]); 8] = [
    (TFSR_EL1, SR_TFSR_EL1, &[Feature::Mte]),
    (TFSRE0_EL1, SR_TFSRE0_EL1, &[Feature::Mte]),
    (TCR2_EL1, SR_TCR2_EL1, &[Feature::Tcr2]),
    (SCTLR2_EL1, SR_SCTLR2_EL1, &[Feature::Sctlr2]),
    (PIR_EL1, SR_PIR_EL1, &[Feature::Tcr2, Feature::S1Pie]),
    (PIRE0_EL1, SR_PIRE0_EL1, &[Feature::Tcr2, Feature::S1Pie]),
    (POR_EL1, SR_POR_EL1, &[Feature::Tcr2, Feature::S1Poe]),
    (POR_EL0, SR_POR_EL0, &[Feature::S1Poe]),
];

const fn of_host(reg: Enc) -> u64 {
    0x1_0000_0000 | reg as u64
}
const fn of_guest(reg: Enc) -> u64 {
    0x2_0000_0000 | reg as u64
}
const fn of_guest_later(reg: Enc) -> u64 {
    0x3_0000_0000 | reg as u64
}

/// Runs a VM once that has the features in `vm`, bits by their place in [`FEATURES`], on a CPU that has those in `cpu`, and
/// checks every register.
fn check(cpu: usize, vm: usize) {
    let world = world();
    for (n, (_, cap, grant)) in FEATURES.iter().enumerate() {
        if cpu >> n & 1 != 0 {
            fake::set_cap(*cap as u16);
        }
        if vm >> n & 1 != 0 {
            grant(&world);
        }
    }
    let ctxt = world.vcpu.ctxt();
    for (reg, slot, _) in REGISTERS {
        fake::set_reg(reg, of_host(reg));
        ctxt.set_sys_reg(slot, of_guest(reg));
    }
    fake::queue_exit_with(ExitCode::IRQ.0, || {
        for (reg, _, _) in REGISTERS {
            fake::set_reg(reg, of_guest_later(reg));
        }
    });
    let (before, after) = world.run_apart();
    let both = |feature: &Feature| {
        let n = FEATURES.iter().position(|f| f.0 == *feature).unwrap();
        cpu & vm & 1 << n != 0
    };
    for (reg, slot, features) in REGISTERS {
        let what = std::format!("{:?} with {cpu:#b} on the CPU and {vm:#b} in the VM", name(reg));
        if features.iter().all(both) {
            assert_eq!(written(&before, reg), Some(of_guest(reg)), "{what}");
            assert_eq!(ctxt.sys_reg(slot), of_guest_later(reg), "{what}");
            assert_eq!(fake::reg(reg), of_host(reg), "{what}");
        } else {
            assert_eq!(written(&before, reg), None, "{what}");
            assert_eq!(written(&after, reg), None, "{what}");
            assert_eq!(ctxt.sys_reg(slot), of_guest(reg), "{what}");
            assert_eq!(world.cpu.host.ctxt().sys_reg(slot), 0, "{what}");
        }
    }
}

#[test]
fn registers_of_features_change_hands_where_cpu_and_vm_have_them() {
    let all = 1 << FEATURES.len();
    for cpu in 0..all {
        for vm in 0..all {
            check(cpu, vm);
        }
    }
}

#[test]
fn tags_are_on_for_a_vm_whose_owner_says_so() {
    // What of RGSR_EL1 and GCR_EL1 goes with the guest is decided by this bit, in the entry itself.
    for (wanted, ata) in [(hcr::RW, 0), (hcr::RW | hcr::ATA, 1 << 56)] {
        for cap in [false, true] {
            let world = world();
            if cap {
                fake::set_cap(CAP_MTE as u16);
            }
            world.vcpu.set_hcr_el2(wanted);
            let (before, _) = world.run_apart();
            assert_eq!(last_write(&before, HCR_EL2) & 1 << 56, ata);
            assert_eq!(fake::reg(HCR_EL2), HOST_HCR);
        }
    }
}

/// MPAM2_EL2 as the host has it: some partition numbers, and MPAM for SM allowed (`EnMPAMSM`).
const HOST_MPAM: u64 = 1 << 50 | 0x0005_0007;

#[test]
fn mpam_traps_the_guest_and_not_the_host() {
    // TRAPMPAM1EL1 and TRAPMPAM0EL1; TIDR; MPAMHCR_EL2.TRAP_MPAMIDR_EL1, where there is that register.
    let (both, tidr, trap_id) = (1 << 48 | 1 << 49, 1 << 58, 1 << 31);
    let inside = 0x0005_0007 | both;
    for (caps, guest, guest_hcr, host_hcr) in [
        (&[][..], None, None, None),
        (&[CAP_MPAM_HCR], None, None, None),
        (&[CAP_MPAM], Some(inside | tidr), None, None),
        (&[CAP_MPAM, CAP_MPAM_HCR], Some(inside), Some(trap_id), Some(0)),
    ] {
        let world = world();
        for cap in caps {
            fake::set_cap(*cap as u16);
        }
        fake::set_reg(MPAM2_EL2, HOST_MPAM);
        let (before, after) = world.run_apart();
        assert_eq!(written(&before, MPAM2_EL2), guest, "{caps:?}");
        assert_eq!(written(&before, MPAMHCR_EL2), guest_hcr, "{caps:?}");
        assert_eq!(written(&after, MPAM2_EL2), guest.map(|_| HOST_MPAM), "{caps:?}");
        assert_eq!(written(&after, MPAMHCR_EL2), host_hcr, "{caps:?}");
        assert_eq!(fake::reg(MPAM2_EL2), HOST_MPAM);
    }
}

#[test]
fn activity_monitors_and_trace_trap_in_every_guest() {
    // CPTR_EL2.TAM, and TTA, which is elsewhere with HCR_EL2.E2H set.
    for (hvhe, tta) in [(false, 1 << 20), (true, 1 << 28)] {
        for amu in [false, true] {
            let world = world();
            fake::set_cap(CAP_HAS_FGT as u16);
            if hvhe {
                fake::set_cap(CAP_KVM_HVHE as u16);
            }
            if amu {
                fake::set_reg(ID_AA64PFR0_EL1, 1 << 44);
            }
            fake::set_reg(HAFGRTR_EL2, 0x11);
            world.vcpu.set_fgt(HAFGRTR_GROUP, 0x22, 0);
            let (before, after) = world.run_apart();
            let traps = 1 << 30 | tta;
            assert_eq!(last_write(&before, CPTR_EL2) & traps, traps);
            assert_eq!(last_write(&after, CPTR_EL2) & traps, 0);
            // The fine-grained traps of the monitors come with the monitors.
            assert_eq!(written(&before, HAFGRTR_EL2), amu.then_some(0x22));
            assert_eq!(written(&after, HAFGRTR_EL2), amu.then_some(0x11));
        }
    }
}
