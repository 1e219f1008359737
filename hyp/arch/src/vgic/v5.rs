// SPDX-License-Identifier: GPL-2.0-only
//! The GICv5 CPU interface in the world switch: private interrupts, priorities and the control word. Does the job of
//! `vgic-v5-sr.c`.
//!
//! Only a host that is trusted has GICv5 VMs: the kernel offers none in protected mode, and EL2 refuses the model there.
//! None of the registers is touched on a CPU without the interface, whatever the host claims.

use pkvm_kernel::layout::{CAP_HAS_GICV5_CPUIF, CAP_KVM_PROTECTED_MODE};
use pkvm_kernel::{HostData, VgicV5};

use crate::alt::has_cap;
use crate::barrier::isb;
use crate::sysreg::*;

/// Whether VMs may have a GICv5: the CPUs have the interface, and the host is trusted.
pub fn is_usable() -> bool {
    has_cap::<{ CAP_HAS_GICV5_CPUIF as u16 }>() && !has_cap::<{ CAP_KVM_PROTECTED_MODE as u16 }>()
}

/// ICH_VCTLR_EL2.V3: the interface behaves as GICv3's.
const V3: u64 = 1 << 1;

/// Saves the active priorities. EL1 asks for it when it takes a vCPU off a CPU.
pub fn save_apr(cpu_if: VgicV5) {
    cpu_if.set_apr(read::<ICH_APR_EL2>());
}

/// Puts the control word and the active priorities on the CPU. EL1 asks for it when it puts a vCPU on a CPU.
pub fn restore_vmcr_apr(cpu_if: VgicV5) {
    clear_set::<ICH_VCTLR_EL2>(V3, 0);
    isb();
    write::<ICH_VMCR_EL2>(cpu_if.vmcr());
    write::<ICH_APR_EL2>(cpu_if.apr());
}

/// Does `$do!(n, register)` for the priority registers of the architected private interrupts.
macro_rules! for_each_priority {
    ($do:ident) => {
        $do!(0, ICH_PPI_PRIORITYR0_EL2);
        $do!(1, ICH_PPI_PRIORITYR1_EL2);
        $do!(2, ICH_PPI_PRIORITYR2_EL2);
        $do!(3, ICH_PPI_PRIORITYR3_EL2);
        $do!(4, ICH_PPI_PRIORITYR4_EL2);
        $do!(5, ICH_PPI_PRIORITYR5_EL2);
        $do!(6, ICH_PPI_PRIORITYR6_EL2);
        $do!(7, ICH_PPI_PRIORITYR7_EL2);
    };
}

/// Puts a guest's interface on the CPU. The second bank of private interrupts is of no guest: it is off and empty.
pub fn switch_to_guest(cpu_if: VgicV5, host: HostData) {
    write::<ICC_ICSR_EL1>(cpu_if.icsr());

    let direct = cpu_if.ppi_dvir();
    write::<ICH_PPI_DVIR0_EL2>(direct);
    write::<ICH_PPI_ACTIVER0_EL2>(cpu_if.ppi_activer());
    write::<ICH_PPI_ENABLER0_EL2>(cpu_if.ppi_enabler());
    // The hardware keeps the pending state of what it injects directly.
    write::<ICH_PPI_PENDR0_EL2>(host.ppi_pendr() & !direct);
    macro_rules! restore {
        ($n:literal, $reg:ident) => {
            write::<$reg>(cpu_if.ppi_priorityr($n));
        };
    }
    for_each_priority!(restore);

    write::<ICH_PPI_DVIR1_EL2>(0);
    write::<ICH_PPI_ACTIVER1_EL2>(0);
    write::<ICH_PPI_ENABLER1_EL2>(0);
    write::<ICH_PPI_PENDR1_EL2>(0);
    write::<ICH_PPI_PRIORITYR8_EL2>(0);
    write::<ICH_PPI_PRIORITYR9_EL2>(0);
    write::<ICH_PPI_PRIORITYR10_EL2>(0);
    write::<ICH_PPI_PRIORITYR11_EL2>(0);
    write::<ICH_PPI_PRIORITYR12_EL2>(0);
    write::<ICH_PPI_PRIORITYR13_EL2>(0);
    write::<ICH_PPI_PRIORITYR14_EL2>(0);
    write::<ICH_PPI_PRIORITYR15_EL2>(0);
}

/// Takes a guest's interface off the CPU.
pub fn switch_to_host(cpu_if: VgicV5, host: HostData) {
    cpu_if.set_vmcr(read::<ICH_VMCR_EL2>());
    // The host uses the register as well, and saves it around its own use alone.
    cpu_if.set_icsr(read::<ICC_ICSR_EL1>());

    host.set_ppi_activer_exit(read::<ICH_PPI_ACTIVER0_EL2>());
    host.set_ppi_pendr(read::<ICH_PPI_PENDR0_EL2>());
    macro_rules! save {
        ($n:literal, $reg:ident) => {
            cpu_if.set_ppi_priorityr($n, read::<$reg>());
        };
    }
    for_each_priority!(save);

    // From here on private interrupts are the host's.
    write::<ICH_PPI_DVIR0_EL2>(0);
    write::<ICH_PPI_DVIR1_EL2>(0);
}

#[cfg(test)]
#[path = "v5_tests.rs"]
mod tests;
