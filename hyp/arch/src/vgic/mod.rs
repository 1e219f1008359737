// SPDX-License-Identifier: GPL-2.0-only
//! The guest's interrupt controller, as far as EL2 has to touch it: the CPU interface in the world switch and the
//! accesses to it that trap. Distributor, redistributors and ITS are EL1's. Does the job of `vgic-v3-sr.c`
//! ([`v3`]), `vgic-v2-cpuif-proxy.c` ([`v2`]) and `vgic-v5-sr.c` ([`v5`]).
//!
//! [`words`], [`trap`] and [`emulate`] are pure and run in the unit tests; [`v3`] and [`v5`] are mechanism. No lock is
//! taken: the structures belong to the vCPU that is loaded on this CPU. What EL1 put in them is untrusted. Counts and
//! indices are clamped to what the hardware has, since a register that is not there is an undefined instruction at
//! EL2; register contents can be anything and concern the guest alone.

use pkvm_kernel::{HostData, Kvm, Vcpu, layout};

pub mod emulate;
pub mod trap;
pub mod v2;
pub mod v3;
pub mod v5;
pub mod words;

/// Gives the CPU interface to the guest, before it is entered.
pub fn switch_to_guest(vcpu: Vcpu, vm: Kvm, host: HostData) {
    match interface(vm) {
        Interface::V3 => {
            v3::activate_traps(vcpu.vgic_v3());
            v3::restore_state(vcpu.vgic_v3());
        }
        Interface::V5 => v5::switch_to_guest(vcpu.vgic_v5(), host),
        Interface::Neither => {}
    }
}

/// Takes the CPU interface back from the guest.
pub fn switch_to_host(vcpu: Vcpu, vm: Kvm, host: HostData) {
    match interface(vm) {
        Interface::V3 => {
            v3::save_state(vcpu.vgic_v3());
            v3::deactivate_traps(vcpu.vgic_v3());
        }
        Interface::V5 => v5::switch_to_host(vcpu.vgic_v5(), host),
        Interface::Neither => {}
    }
}

/// By which registers a VM gets its interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Interface {
    V3,
    V5,
    /// Through memory, or not at all.
    Neither,
}

/// The interface of a VM. One without an interrupt controller gets GICv3's where there is one, whose registers must trap.
fn interface(vm: Kvm) -> Interface {
    if u64::from(vm.vgic_model()) == layout::VGIC_MODEL_V5 {
        // A host that claims the model on other hardware gets nothing for it.
        if v5::is_usable() {
            Interface::V5
        } else {
            Interface::Neither
        }
    } else if v3::has_cpuif() {
        Interface::V3
    } else {
        Interface::Neither
    }
}
