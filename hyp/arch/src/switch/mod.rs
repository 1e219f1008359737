// SPDX-License-Identifier: GPL-2.0-only
//! The world switch: running a guest's vCPU on this CPU until something happens that the host must see. Does the job
//! of `nvhe/switch.c`, `sysreg-sr.c`, `debug-sr.c`, `timer-sr.c` and `tlb.c`.
//!
//! The same code serves protected and non-protected mode. It works on a `struct kvm_vcpu`: EL2's own one in protected
//! mode, the host's in the other, where the host is trusted. No lock is taken. What the guest may have put in its
//! registers is never interpreted here without a check.
//!
//! The order in [`run`] is load-bearing; each step names what it relies on.
#![expect(
    unsafe_code,
    reason = "enters the guest, and vouches for the vectors and stage 2 it loads"
)]

use pkvm_kernel::layout::*;
use pkvm_kernel::{HostData, InitParams, Kvm, Vcpu};
use pkvm_types::HypVa;

use crate::alt::has_cap;
use crate::barrier::{self, dsb_nsh};
use crate::inject::{self, Mte};
use crate::sysreg::*;
use crate::vgic;

pub mod copy;
mod ctxt;
mod debug;
mod exit;
pub mod extable;
pub mod fault;
pub mod fp;
pub mod mops;
pub mod stage2;
pub mod timer;
mod traps;

pub use ctxt::{read_par, safe_pstate};
pub use exit::{ExitCode, GuestExits, Resume};
pub use fp::FpOwner;
pub use stage2::Stage2;
pub use traps::guest_hcr;

/// What belongs to the CPU that runs this, and two system constants that only the final link knows.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    host: HostData,
    params: InitParams,
    guest_vectors: u64,
    host_vectors: u64,
    host_sve_max_vl: u32,
}

impl Cpu {
    /// Gathers them: this CPU's `kvm_host_data` and `kvm_init_params`, the vectors for exits from guests
    /// (`kvm_hyp_vector`) and from the host (`__kvm_hyp_host_vector`), and the host's longest SVE vectors in bytes
    /// (`kvm_host_sve_max_vl`).
    ///
    /// # Safety
    /// Both vectors are EL2's own tables. Where the system has SVE, the host data's `sve_regs` is the address of an
    /// area of this CPU, mapped at EL2, for vectors of that length.
    pub unsafe fn new(
        host: HostData,
        params: InitParams,
        guest_vectors: HypVa,
        host_vectors: HypVa,
        host_sve_max_vl: u32,
    ) -> Self {
        Self {
            host,
            params,
            guest_vectors: guest_vectors.raw(),
            host_vectors: host_vectors.raw(),
            host_sve_max_vl,
        }
    }
    /// This CPU's host data.
    pub fn host(&self) -> HostData {
        self.host
    }
}

/// What a VM has that the switch must know of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Feature {
    /// The VM is protected from the host.
    Protected = 1,
    /// SVE.
    Sve = 1 << 1,
    /// FPMR (FEAT_FPMR).
    Fpmr = 1 << 2,
    /// Memory tagging.
    Mte = 1 << 3,
    /// TCR2_EL1.
    Tcr2 = 1 << 4,
    /// PIR_EL1 and PIRE0_EL1 (FEAT_S1PIE).
    S1Pie = 1 << 5,
    /// POR_EL1 and POR_EL0 (FEAT_S1POE).
    S1Poe = 1 << 6,
    /// SCTLR2_EL1.
    Sctlr2 = 1 << 7,
    /// MIDR_EL1 is what the VMM chose.
    OwnMidr = 1 << 8,
}

/// A set of [`Feature`]s.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features(u32);

impl Features {
    /// Whether the VM has `feature`.
    #[inline(always)]
    pub const fn has(self, feature: Feature) -> bool {
        self.0 & feature as u32 != 0
    }

    /// What `vm` has, of what the system has.
    pub fn of(vm: Kvm) -> Self {
        let flags = vm.flags();
        let mmfr3 = vm.id_reg(ID_AA64MMFR3);
        let pfr2 = vm.id_reg(ID_AA64PFR2);
        let mut set = 0;
        let mut add = |feature: Feature, present: bool| {
            if present {
                set |= feature as u32;
            }
        };
        let field = |register: u64, shift: u32| register >> shift & 0xf != 0;
        add(
            Feature::Protected,
            has_cap::<{ CAP_KVM_PROTECTED_MODE as u16 }>() && vm.is_protected() != 0,
        );
        add(
            Feature::Sve,
            has_cap::<{ CAP_SVE as u16 }>() && flags & 1 << KVM_FLAG_GUEST_HAS_SVE != 0,
        );
        add(
            Feature::Mte,
            has_cap::<{ CAP_MTE as u16 }>() && flags & 1 << KVM_FLAG_MTE_ENABLED != 0,
        );
        add(Feature::OwnMidr, flags & 1 << KVM_FLAG_WRITABLE_IMP_ID_REGS != 0);
        add(
            Feature::Fpmr,
            has_cap::<{ CAP_HAS_FPMR as u16 }>() && field(pfr2, 32),
        );
        add(
            Feature::Tcr2,
            has_cap::<{ CAP_HAS_TCR2 as u16 }>() && field(mmfr3, 0),
        );
        add(
            Feature::Sctlr2,
            has_cap::<{ CAP_HAS_SCTLR2 as u16 }>() && field(mmfr3, 4),
        );
        add(
            Feature::S1Pie,
            has_cap::<{ CAP_HAS_S1PIE as u16 }>() && field(mmfr3, 8),
        );
        add(
            Feature::S1Poe,
            has_cap::<{ CAP_HAS_S1POE as u16 }>() && field(mmfr3, 16),
        );
        Self(set)
    }
}

/// Index of ID_AA64PFR2_EL1 (S3_0_C0_C4_2) in a VM's ID registers.
const ID_AA64PFR2: usize = (4 - 1) << 3 | 2;
/// Index of ID_AA64MMFR3_EL1 (S3_0_C0_C7_3) in a VM's ID registers.
const ID_AA64MMFR3: usize = (7 - 1) << 3 | 3;

/// Who has the breakpoint and watchpoint registers while a vCPU runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DebugOwner {
    /// Nobody uses them.
    Free,
    /// The host debugs the guest.
    Host,
    /// The guest.
    Guest,
}

impl DebugOwner {
    /// What the word in a vCPU says. The host writes it: a number without a meaning is nobody.
    pub fn checked(raw: u32) -> Self {
        match u64::from(raw) {
            VCPU_DEBUG_HOST_OWNED => Self::Host,
            VCPU_DEBUG_GUEST_OWNED => Self::Guest,
            _ => Self::Free,
        }
    }
}

/// A vCPU that is about to run, with what of its VM the switch needs. Decisions are made once, when this is made, so
/// that they hold for the whole run whatever happens to the memory.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    vcpu: Vcpu,
    vm: Kvm,
    stage2: Stage2,
    features: Features,
    debug_owner: DebugOwner,
    aarch32_el1: Aarch32El1,
}

/// Whether a guest's EL1 is AArch32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Aarch32El1 {
    Yes,
    No,
}

impl Guest {
    /// Prepares the vCPU of a VM to run with a stage 2.
    ///
    /// # Safety
    /// The two structures belong together; `stage2` grants no memory but the VM's own; the addresses of timer offsets
    /// in the vCPU are zero or those of mapped words; for a VM with SVE, the vCPU's `sve_state` is the address of an
    /// area, mapped at EL2, for vectors of `sve_max_vl` bytes.
    pub unsafe fn new(vcpu: Vcpu, vm: Kvm, stage2: Stage2) -> Self {
        Self {
            vcpu,
            vm,
            stage2,
            features: Features::of(vm),
            debug_owner: DebugOwner::checked(vcpu.debug_owner()),
            aarch32_el1: if vcpu.hcr_el2() & hcr::RW == 0 {
                Aarch32El1::Yes
            } else {
                Aarch32El1::No
            },
        }
    }
    /// The vCPU.
    pub fn vcpu(&self) -> Vcpu {
        self.vcpu
    }
    /// Its VM.
    pub fn vm(&self) -> Kvm {
        self.vm
    }
    /// What the VM has.
    pub fn features(&self) -> Features {
        self.features
    }
    /// The stage 2 it runs with.
    pub fn stage2(&self) -> Stage2 {
        self.stage2
    }

    fn el1_is_aarch32(&self) -> bool {
        self.aarch32_el1 == Aarch32El1::Yes
    }
    /// MIDR_EL1 as the guest reads it.
    fn midr(&self) -> u64 {
        if self.features.has(Feature::OwnMidr) {
            self.vm.midr_el1()
        } else {
            read::<MIDR_EL1>()
        }
    }
    /// Whether the VM has memory tagging, in the words of exception injection.
    pub fn mte(&self) -> Mte {
        if self.features.has(Feature::Mte) {
            Mte::Present
        } else {
            Mte::Absent
        }
    }
}

/// Interrupt priorities of the kernel with pseudo-NMIs: interrupts on, off, and the mark that PSTATE.I is set too.
const PRIORITY_UNMASKED: u64 = 0xe0;
const PRIORITY_IRQ: u64 = 0xc0;
const PRIORITY_PSR_I_SET: u64 = 1 << 4;

/// Counters that the host counts its own time with, and those it counts guests with: only one kind is enabled at a
/// time. In protected mode the words in EL2's vCPU are zero.
fn switch_counters(guest: &Guest, to_guest: ToGuest) {
    if CONFIG_HW_PERF_EVENTS == 0 {
        return;
    }
    let of_host: u64 = guest.vcpu.read(VCPU_PMU_EVENTS_HOST);
    let of_guest: u64 = guest.vcpu.read(VCPU_PMU_EVENTS_GUEST);
    let (stop, start) = match to_guest {
        ToGuest::Enter => (of_host, of_guest),
        ToGuest::Leave => (of_guest, of_host),
    };
    if stop != 0 {
        write::<PMCNTENCLR_EL0>(stop);
    }
    if start != 0 {
        write::<PMCNTENSET_EL0>(start);
    }
}

/// The direction of a switch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ToGuest {
    Enter,
    Leave,
}

/// Runs the vCPU until an exit that `exits` does not settle, and returns why it ended.
pub fn run<E: GuestExits>(cpu: &Cpu, guest: &Guest, exits: &mut E) -> ExitCode {
    let prio_masking = has_cap::<{ CAP_HAS_GIC_PRIO_MASKING as u16 }>();
    if prio_masking {
        // The GIC must signal interrupts of any priority, or they would not end the guest's run.
        write::<ICC_PMR_EL1>(PRIORITY_UNMASKED | PRIORITY_PSR_I_SET);
        if !has_cap::<{ CAP_HAS_GIC_PRIO_RELAXED_SYNC as u16 }>() {
            barrier::dsb_sy();
        }
    }
    let host = cpu.host;
    host.ctxt().set_running_vcpu(guest.vcpu.addr());
    switch_counters(guest, ToGuest::Enter);

    ctxt::save_host(host, guest.features);
    // The buffers write by EL1's translation, so they stop before it changes.
    debug::stop_host_buffers(host);
    // Walks of the host's tables that began before EL2 was entered end here (Arm ARM rule R_LFHQG).
    dsb_nsh();

    inject::adjust_pc(guest.vcpu, || guest.mte());
    ctxt::restore_aarch32(guest);
    ctxt::restore_guest(guest);
    // Stage 2 only once the guest's EL1 registers are there (errata 1319537 and 1319367).
    // SAFETY: `Guest::new`'s caller vouched for it, and HCR_EL2 follows before anything runs.
    unsafe { guest.stage2.load() };
    traps::activate(cpu, guest);
    vgic::switch_to_guest(guest.vcpu, guest.vm, host);
    timer::activate_traps(guest);
    debug::switch_to_guest(guest, host);

    let code = loop {
        exits.entering();
        let code = enter(guest.vcpu);
        exits.left();
        match exit::settle(cpu, guest, exits, code) {
            // Cortex-A77 erratum 1508412: a barrier between device loads here and the guest's.
            exit::Settled::Reenter => {
                if has_cap::<{ CAP_WORKAROUND_1508412 as u16 }>() {
                    barrier::dmb_sy();
                }
            }
            exit::Settled::Exit(code) => break code,
        }
    };

    ctxt::save_guest(guest);
    ctxt::save_aarch32(guest);
    timer::deactivate_traps();
    vgic::switch_to_host(guest.vcpu, guest.vm, host);
    // Walks of the guest's tables end here, as the host's above.
    dsb_nsh();
    leave_guest(cpu, guest);
    fp::save_fpexc(cpu, guest);
    debug::switch_to_host(guest, host);
    // Last, since they write by the host's translation.
    debug::resume_host_buffers(host);
    switch_counters(guest, ToGuest::Leave);
    if prio_masking {
        // The return to the host clears PSTATE.I.
        write::<ICC_PMR_EL1>(PRIORITY_IRQ);
    }
    host.ctxt().set_running_vcpu(0);
    code
}

/// The host's traps, stage 2 and registers.
fn leave_guest(cpu: &Cpu, guest: &Guest) {
    traps::deactivate(cpu, guest);
    // SAFETY: the host's own, which EL2's policy made; HCR_EL2 is the host's already.
    unsafe { Stage2::host(cpu.params).load() };
    ctxt::restore_host(cpu.host, guest.features);
}

/// Puts the traps of FP, SVE and SME in place that the host runs with, as every return from a guest does. What the kernel
/// has no support for is undefined to the host from then on.
pub fn set_host_traps() {
    traps::deactivate_cptr();
}

/// Turns the host's stage 2 on for this CPU. The tables are in place before HCR_EL2 can turn them on.
///
/// # Safety
/// `params` are this CPU's: the host's stage 2, which is built, and the HCR_EL2 that the CPU runs with already but for the
/// bits that go with it.
pub unsafe fn enable_host_stage2(params: InitParams) {
    // SAFETY: the host's own tables, as the caller proves. Nothing is translated by them yet.
    unsafe { Stage2::host(params).load() };
    barrier::isb();
    // SAFETY: the CPU's own value, as the caller proves, and the host's stage 2 is loaded.
    unsafe { traps::write_hcr(params.hcr_el2()) };
    set_host_traps();
    barrier::isb();
    crate::tlbi::vmalls12e1();
    barrier::dsb_nsh();
    barrier::isb();
}

/// For a panic where the kernel's configuration has EL1 read EL2's memory: turns the host's stage 2 off.
pub fn disable_host_stage2() {
    traps::disable_stage2();
}

/// For a panic during a run: gives the host enough of its world back to report it. The guest's state is lost.
pub fn abandon(cpu: &Cpu, guest: &Guest) {
    timer::deactivate_traps();
    if vgic::v3::has_cpuif() {
        // Its trap bits hold for the host too, which sends interrupts to stop the other CPUs.
        write::<ICH_HCR_EL2>(0);
    }
    leave_guest(cpu, guest);
}

/// Enters the guest; returns at its exit, with the guest's general registers in its context.
#[inline(always)]
fn enter(vcpu: Vcpu) -> u64 {
    #[cfg(target_os = "none")]
    {
        // SAFETY: the vCPU is mapped, and the caller has loaded everything the guest runs under.
        unsafe { crate::entry::guest::enter_guest(vcpu) }
    }
    #[cfg(not(target_os = "none"))]
    {
        let _ = vcpu;
        crate::fake::enter_guest()
    }
}

#[cfg(test)]
mod tests;
