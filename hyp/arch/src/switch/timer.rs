// SPDX-License-Identifier: GPL-2.0-only
//! Who may use the physical timer and the counters. Does the job of `timer-sr.c`. The timers themselves are EL1's
//! business: the host programs its own registers around a run.
#![expect(
    unsafe_code,
    reason = "reads timer offsets through addresses in the vCPU, and refers to a static key"
)]

use pkvm_kernel::layout::*;

use super::{Feature, Guest};
use crate::alt::{has_cap, kern_hyp_va};
use crate::static_key;
use crate::sysreg::*;

#[cfg(target_os = "none")]
unsafe extern "C" {
    /// On where CNTVOFF_EL2 does not work.
    static broken_cntvoff_key: u8;
}

/// Sets the offset of the virtual counter for whoever runs below EL2 on this CPU. In protected mode the host may do
/// so at any time too: it controls the time that guests see, and they must not rely on it.
pub fn set_cntvoff(offset: u64) {
    write::<CNTVOFF_EL2>(offset);
}

/// One counter's offset from the physical counter: the VM's and the vCPU's, where they have one.
fn offset(vm_offset: u64, vcpu_offset: u64) -> u64 {
    [vm_offset, vcpu_offset]
        .into_iter()
        .filter(|address| *address != 0)
        // SAFETY: `Guest::new` has its caller prove that the offsets of a vCPU that runs are mapped. They are aligned
        // words that EL1 may write at any time, hence volatile.
        .map(|address| unsafe { (kern_hyp_va(address).raw() as *const u64).read_volatile() })
        .fold(0, u64::wrapping_add)
}

/// The physical counter's offset.
pub(super) fn physical_offset(guest: &Guest) -> u64 {
    offset(guest.vcpu.ptimer_vm_offset(), guest.vcpu.ptimer_vcpu_offset())
}

/// The virtual counter's offset.
pub(super) fn virtual_offset(guest: &Guest) -> u64 {
    offset(guest.vcpu.vtimer_vm_offset(), guest.vcpu.vtimer_vcpu_offset())
}

/// CNTHCTL_EL2 has its old fields ten bits up with HCR_EL2.E2H set.
fn shift() -> u32 {
    if has_cap::<{ CAP_KVM_HVHE as u16 }>() {
        10
    } else {
        0
    }
}

/// Traps the guest's physical timer, and the counters wherever the hardware cannot apply the guest's offset.
pub(super) fn activate_traps(guest: &Guest) {
    let mut clear = cnthctl::EL1PCEN;
    let mut set = 0;
    // A protected VM sees the physical counter as it is: no offset is applied for it.
    if guest.features.has(Feature::Protected) || physical_offset(guest) == 0 {
        set |= cnthctl::EL1PCTEN;
    } else {
        clear |= cnthctl::EL1PCTEN;
    }
    let shift = shift();
    clear <<= shift;
    set <<= shift;
    if static_key!(broken_cntvoff_key) && virtual_offset(guest) != 0 {
        set |= cnthctl::EL1TVT | cnthctl::EL1TVCT;
    }
    clear_set::<CNTHCTL_EL2>(clear, set);
}

/// Opens timers and counters to the host.
pub(super) fn deactivate_traps() {
    clear_set::<CNTHCTL_EL2>(
        cnthctl::EL1TVT | cnthctl::EL1TVCT,
        (cnthctl::EL1PCTEN | cnthctl::EL1PCEN) << shift(),
    );
}
