// SPDX-License-Identifier: GPL-2.0-only
extern crate std;

use super::*;
use crate::idreg::{ProtectedIds, SystemIds};
use proptest::prelude::*;

/// The ID registers of a protected VM on a machine with RAS.
const SYSTEM: SystemIds = SystemIds {
    pfr0: 1 << 28,
    pfr1: 0,
    pfr2: 0,
    isar0: 0,
    isar1: 0,
    isar2: 0,
    mmfr0: 0,
    mmfr1: 0,
    mmfr2: 0,
};
const IDS: ProtectedIds<'static> = ProtectedIds {
    system: &SYSTEM,
    granted: Granted {
        sve: false,
        ptrauth: false,
    },
};

fn plain(kind: VmKind) -> VmFeatures {
    VmFeatures::from_host(kind, 0, 0, Cpu::empty())
}

/// HCR_GUEST_FLAGS of the kernel's kvm_arm.h.
const GUEST_FLAGS: u64 = 0x8_807d_663f;

#[test]
fn a_normal_vms_hcr_is_the_kernels() {
    let hcr = |cpu, vm: &VmFeatures| initial_hcr(VmKind::Normal, cpu, vm, false, &IDS);
    let vm = plain(VmKind::Normal);
    assert_eq!(hcr(Cpu::empty(), &vm), GUEST_FLAGS);
    assert_eq!(hcr(Cpu::HVHE, &vm), GUEST_FLAGS | 1 << 34);
    assert_eq!(hcr(Cpu::RAS | Cpu::FWB, &vm), GUEST_FLAGS | 3 << 36 | 1 << 46);
    let asked = |feature: VcpuFeatures, cpu| VmFeatures::from_host(VmKind::Normal, 0, feature.bits(), cpu);
    let aarch32 = asked(VcpuFeatures::EL1_32BIT, Cpu::empty());
    assert_eq!(hcr(Cpu::AARCH32_EL1, &aarch32), GUEST_FLAGS & !(1 << 31));
    assert_eq!(
        hcr(Cpu::empty(), &aarch32),
        GUEST_FLAGS,
        "the entry then fails as illegal"
    );
    let ptrauth = asked(VcpuFeatures::PTRAUTH_ADDRESS, Cpu::PTRAUTH);
    assert_eq!(hcr(Cpu::PTRAUTH, &ptrauth), GUEST_FLAGS | 3 << 40);
    assert_eq!(hcr(Cpu::empty(), &ptrauth), GUEST_FLAGS);
}

#[test]
fn a_protected_vms_hcr_traps_what_it_lacks() {
    let vm = plain(VmKind::Protected);
    let hcr = |cpu, ctr, ids: &ProtectedIds| initial_hcr(VmKind::Protected, cpu, &vm, ctr, ids);
    // TID2 at 17, TID5 at 58, TID4 at 49, TERR and TEA at 36 and 37.
    assert_eq!(hcr(Cpu::empty(), true, &IDS), GUEST_FLAGS | 1 << 17 | 1 << 58);
    assert_eq!(hcr(Cpu::EVT, true, &IDS), GUEST_FLAGS | 1 << 49 | 1 << 58);
    assert_eq!(hcr(Cpu::EVT, false, &IDS), GUEST_FLAGS | 1 << 17 | 1 << 58);
    assert_eq!(
        hcr(Cpu::EVT | Cpu::MISMATCHED_CACHE_TYPE, true, &IDS),
        GUEST_FLAGS | 1 << 17 | 1 << 58
    );
    let without_ras = ProtectedIds {
        system: &SystemIds::default(),
        ..IDS
    };
    assert_eq!(
        hcr(Cpu::empty(), true, &without_ras),
        GUEST_FLAGS | 1 << 17 | 1 << 58 | 3 << 36
    );
    // AArch32 is not to be had.
    let asked = VmFeatures::from_host(VmKind::Protected, 0, VcpuFeatures::EL1_32BIT.bits(), Cpu::all());
    let hcr = initial_hcr(VmKind::Protected, Cpu::AARCH32_EL1, &asked, true, &IDS);
    assert_eq!(hcr >> 31 & 1, 1);
}

#[test]
fn the_hosts_bits_of_hcr_are_the_kernels() {
    assert_eq!(host_hcr_mask(VmKind::Protected), 0x6100);
    assert_eq!(host_hcr_mask(VmKind::Normal), 0x0482_0000_0402_61c0);
}

#[test]
fn hcrx_follows_the_vms_features() {
    assert_eq!(initial_hcrx(VmKind::Normal, Cpu::HCX, 0x1234, &IDS), 0x1234);
    assert_eq!(initial_hcrx(VmKind::Protected, Cpu::empty(), 0x1234, &IDS), 0);
    assert_eq!(
        initial_hcrx(VmKind::Protected, Cpu::HCX | Cpu::FPMR, u64::MAX, &IDS),
        1 << 5
    );
    /// A VM that has it all.
    struct Everything;
    impl IdRegs for Everything {
        fn id_reg(&self, _: crate::sysreg::SysReg) -> u64 {
            0x7777_7777_7777_7777
        }
    }
    assert_eq!(
        initial_hcrx(VmKind::Protected, Cpu::HCX | Cpu::FPMR, 0, &Everything),
        0x80_cc26
    );
    assert_eq!(mdcr_floor(VmKind::Protected, &Everything), 0);
}

#[test]
fn a_protected_vm_has_every_debug_trap() {
    // TPM, TPMCR, TDRA, TDA, TDOSA, TPMS, TTRF, TDCC.
    let all = 1 << 6 | 1 << 5 | 1 << 11 | 1 << 9 | 1 << 10 | 1 << 14 | 1 << 19 | 1 << 27;
    assert_eq!(mdcr_floor(VmKind::Protected, &IDS), all);
    assert_eq!(mdcr_floor(VmKind::Normal, &IDS), 0);
}

#[test]
fn what_the_kernel_asks_of_mdcr_passes() {
    // kvm_arm_setup_mdcr_el2: six counters, TPM, TPMS, TTRF, TPMCR, TDRA, TDOSA; debug by user space adds TDE, TDA.
    let host = 6 | 1 << 6 | 1 << 14 | 1 << 19 | 1 << 5 | 1 << 11 | 1 << 10 | 1 << 8 | 1 << 9;
    assert_eq!(run_mdcr(0, host, 6), host);
    // The hypervisor's own buffers and counters are not the guest's: E2PB, E2TB, HPME, MTPME, HLP.
    assert_eq!(run_mdcr(0, 3 << 12 | 3 << 24 | 1 << 7 | 1 << 28 | 1 << 26, 6), 6);
}

proptest! {
    #[test]
    fn the_host_adds_traps_and_takes_none(host: u64, counters in 0_u8..32) {
        let floor = mdcr_floor(VmKind::Protected, &IDS);
        let mdcr = run_mdcr(floor, host, counters);
        prop_assert_eq!(mdcr & floor, floor);
        prop_assert!(mdcr & 31 <= u64::from(counters));
        prop_assert!(counters == 0 || mdcr & 31 != 0);
        prop_assert_eq!(mdcr & !(Mdcr::all().bits() | 31), 0);
    }

    #[test]
    fn hcr_changes_in_the_hosts_bits_only(hyp: u64, host: u64, normal: bool) {
        let kind = if normal { VmKind::Normal } else { VmKind::Protected };
        let (mask, hcr) = (host_hcr_mask(kind), run_hcr(kind, hyp, host));
        prop_assert_eq!(hcr & mask, host & mask);
        prop_assert_eq!(hcr & !mask, hyp & !mask);
        let loaded = load_hcr(hyp, host);
        prop_assert_eq!((loaded & 0x6000, loaded & !0x6000), (host & 0x6000, hyp & !0x6000));
        let back = hcr_for_host(host, hyp);
        prop_assert_eq!((back & 0x100, back & !0x100), (hyp & 0x100, host & !0x100));
    }

    #[test]
    fn no_vm_of_protected_mode_has_tags(flags: u64, asked: u64, cpu: u32, host: u64, normal: bool) {
        // HCR_EL2.ATA. The host's wish of it counts in the other mode alone, where its own structure runs.
        const ATA: u64 = 1 << 56;
        let kind = if normal { VmKind::Normal } else { VmKind::Protected };
        let cpu = Cpu::from_bits_truncate(cpu);
        let vm = VmFeatures::from_host(kind, flags | VM_FLAG_MTE, asked, cpu);
        let hcr = initial_hcr(kind, cpu, &vm, true, &IDS);
        prop_assert_eq!(hcr & ATA, 0);
        prop_assert_eq!(run_hcr(kind, hcr, host | ATA) & ATA, 0);
        prop_assert_eq!(load_hcr(hcr, host | ATA) & ATA, 0);
    }

    #[test]
    fn a_protected_vm_gets_psci_and_pointer_authentication_at_most(flags: u64, asked: u64, cpu: u32) {
        let cpu = Cpu::from_bits_truncate(cpu);
        let vm = VmFeatures::from_host(VmKind::Protected, flags, asked, cpu);
        prop_assert_eq!(vm.flags, 0);
        prop_assert_eq!(vm.vcpu.bits() & !0b110_0100, 0);
        prop_assert_eq!(vm.vcpu.bits() & !asked, 0);
        prop_assert!(!vm.mte() && !vm.granted(cpu).sve && !vm.host_midr);
    }

    #[test]
    fn a_normal_vm_keeps_its_flags(flags: u64, asked: u64) {
        let vm = VmFeatures::from_host(VmKind::Normal, flags, asked, Cpu::all());
        // All but "ID registers are valid", which is EL2's own; the SVE flag follows the feature.
        prop_assert_eq!(vm.flags & !(1 << 9), flags & !(1 << 7) & !(1 << 9));
        prop_assert_eq!(vm.flags >> 9 & 1, asked >> 4 & 1);
        prop_assert_eq!(vm.vcpu.bits(), asked & 0x3ff & !(1 << 7));
        prop_assert_eq!(vm.host_midr, flags >> 10 & 1 == 1);
    }

    #[test]
    fn the_gic_must_be_there(model: u32) {
        for kind in [VmKind::Normal, VmKind::Protected] {
            for gic in [Gic::V2, Gic::V3, Gic::V5, Gic::V5WithLegacy] {
                prop_assert!(check_vgic_model(model, kind, gic).is_err() || matches!(model, 0 | 5 | 7));
            }
        }
    }
}

#[test]
fn each_gic_runs_its_models() {
    let ok = |model, kind, gic| check_vgic_model(model, kind, gic).is_ok();
    assert!(ok(7, VmKind::Protected, Gic::V3) && ok(7, VmKind::Normal, Gic::V5WithLegacy));
    assert!(!ok(16, VmKind::Normal, Gic::V3), "its registers are not there");
    assert!(
        !ok(16, VmKind::Normal, Gic::V5WithLegacy),
        "its state is not switched"
    );
    assert!(!ok(7, VmKind::Normal, Gic::V2) && !ok(7, VmKind::Normal, Gic::V5));
    assert!(!ok(5, VmKind::Protected, Gic::V3) && ok(5, VmKind::Normal, Gic::V3));
    assert!(ok(0, VmKind::Protected, Gic::V3));
}

#[test]
fn floating_point_traps_until_the_guest_owns_it() {
    use FpAccess::{FpSimd, Sve, Trapped};
    let nvhe = |fp| guest_cptr(Cpu::empty(), fp);
    assert_eq!(
        [Trapped, FpSimd, Sve].map(nvhe),
        [0x4010_37ff, 0x4010_33ff, 0x4010_32ff]
    );
    let hvhe = |fp| guest_cptr(Cpu::HVHE, fp);
    assert_eq!(
        [Trapped, FpSimd, Sve].map(hvhe),
        [0x5000_0000, 0x5030_0000, 0x5033_0000]
    );
    assert_eq!(host_cptr(Cpu::empty(), false, false), 0x33ff);
    assert_eq!(host_cptr(Cpu::SVE, true, false), 0x22ff);
    assert_eq!(host_cptr(Cpu::HVHE | Cpu::SVE, true, true), 0x2333_0000);
}
