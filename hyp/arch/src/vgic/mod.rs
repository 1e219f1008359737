// SPDX-License-Identifier: GPL-2.0-only
//! The guest's interrupt controller, as far as EL2 has to touch it: the GICv3 CPU interface in the world switch and
//! the accesses to it that trap. Distributor, redistributors and ITS are EL1's. Does the job of `vgic-v3-sr.c`;
//! [`v2`] and [`v5`] say why `vgic-v2-cpuif-proxy.c` and `vgic-v5-sr.c` have nothing here yet.
//!
//! [`words`], [`trap`] and [`emulate`] are pure and run in the unit tests; [`v3`] is the mechanism. No lock is taken:
//! the structures belong to the vCPU that is loaded on this CPU. What EL1 put in them is untrusted. Counts and
//! indices are clamped to what the hardware has, since a register that is not there is an undefined instruction at
//! EL2; register contents can be anything and concern the guest alone.

use pkvm_kernel::{Kvm, Vcpu, layout};

pub mod emulate;
pub mod trap;
pub mod v2;
pub mod v3;
pub mod v5;
pub mod words;

/// Gives the CPU interface to the guest, before it is entered.
pub fn switch_to_guest(vcpu: Vcpu, vm: Kvm) {
    if uses_v3(vm) {
        v3::activate_traps(vcpu.vgic_v3());
        v3::restore_state(vcpu.vgic_v3());
    }
}

/// Takes the CPU interface back from the guest.
pub fn switch_to_host(vcpu: Vcpu, vm: Kvm) {
    if uses_v3(vm) {
        v3::save_state(vcpu.vgic_v3());
        v3::deactivate_traps(vcpu.vgic_v3());
    }
}

/// Whether the VM's interrupts go through the GICv3 CPU interface. A VM without an interrupt controller does too: its
/// registers must trap.
fn uses_v3(vm: Kvm) -> bool {
    u64::from(vm.vgic_model()) != layout::VGIC_MODEL_V5 && v3::has_cpuif()
}
