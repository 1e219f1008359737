// SPDX-License-Identifier: GPL-2.0-only
//! Running a vCPU: what goes from the host's structure to EL2's before, what comes back after, and which exits EL2
//! settles in between. It does the job of the run half of the kernel's `nvhe/hyp-main.c`.
//!
//! In protected mode the guest runs on EL2's own structure. The lists in [`flush`] and [`sync`] are all that passes
//! between the two; each word of the host is read once. In the other mode the host is trusted and its structure runs.
#![expect(
    unsafe_code,
    reason = "vouches for the structures that the world switch works on"
)]

use core::ptr::NonNull;

use pkvm_arch::alt::{has_cap, kern_hyp_va};
use pkvm_arch::barrier;
use pkvm_arch::inject::{self, Mte};
use pkvm_arch::switch::{self, Cpu, ExitCode, Guest, GuestExits, Resume, Stage2, copy, fault, fp};
use pkvm_arch::sysreg::{ELR_EL2, ESR_EL2, FAR_EL2, VBAR_EL2, read_el2, write_el2, write_own};
use pkvm_core::guest_hvc::{self, Decision, ShareReply};
use pkvm_core::idreg::{Feature, IdRegs};
use pkvm_core::sysreg::{self, Trap};
use pkvm_core::trace::Reason;
use pkvm_core::traps::{hcr_for_host, mdcr_floor, run_hcr, run_mdcr};
use pkvm_core::vm_table::VmKind;
use pkvm_core::{hcall, mem};
use pkvm_kernel::layout::*;
use pkvm_kernel::{Kvm, Mmu, Vcpu, VgicV3};
use pkvm_sync::{Held, Root};
use pkvm_types::{Error, Gfn, HypVa, Ipa, Result};

use crate::guest_config::VmIds;
use crate::hw::HW;
use crate::lifecycle::with_guest;
use crate::vm::VcpuPtr;
use crate::{statics, trace};

/// The CPU that runs this.
pub fn cpu() -> Cpu {
    // SAFETY: this CPU's own copy, an 8-byte word.
    let guest_vectors = unsafe { statics::kvm_hyp_vector.this_cpu().cast::<u64>().read_volatile() };
    let host_vectors = pkvm_arch::entry::host::host_vectors();
    let vl = statics::kvm_host_sve_max_vl.get();
    // SAFETY: `vectors::set` wrote one of EL2's tables, or in non-protected mode the trusted host did; boot mapped the
    // CPU's SVE area.
    unsafe {
        Cpu::new(
            statics::host_data(),
            statics::init_params(),
            HypVa::new(guest_vectors),
            host_vectors,
            vl,
        )
    }
}

fn stage2(mmu: Mmu) -> Stage2 {
    Stage2::of(mmu, statics::kvm_arm_vmid_bits.get())
}

/// EL2's part of a vCPU's run, as the world switch wants it.
fn protected_guest(vcpu: VcpuPtr) -> Guest {
    let kvm = vcpu.get().vm.kvm();
    // SAFETY: the vCPU is of this VM; the stage 2 is the one that EL2 keeps for it; the timer offsets are zero or words
    // of the pinned struct kvm; a vCPU with SVE has its buffer pinned.
    unsafe { Guest::new(vcpu.view(), kvm, stage2(kvm.mmu())) }
}

/// Hypercall 9. `addr` is the kernel's address of the vCPU to run, which in protected mode must be the loaded one.
pub fn vcpu_run(held: &mut Held<Root>, loaded: Option<VcpuPtr>, addr: u64) -> Result<hcall::ExitCode> {
    let cpu = cpu();
    if !has_cap::<{ CAP_KVM_PROTECTED_MODE as u16 }>() {
        return run_trusted(&cpu, addr);
    }
    let vcpu = loaded
        .filter(|vcpu| vcpu.get().host.addr() == kern_hyp_va(addr).raw())
        .ok_or(Error::Invalid)?;
    if vcpu.get().dead.get() {
        // Not an error: EL1 takes what comes back for an exit code, and a negative number's bit 31 for an SError, of
        // which it dies.
        return Ok(hcall::ExitCode(ExitCode::ILLEGAL.0 as u32));
    }
    fp::check_host_state()?;
    flush(vcpu);
    let guest = protected_guest(vcpu);
    fp::begin_protected_run(&cpu);
    let code = switch::run(&cpu, &guest, &mut Policy(Some(Exits { held, vcpu })));
    fp::end_protected_run(&cpu, &guest);
    sync(vcpu);
    if vcpu.get().vm.get().kind == VmKind::Protected && is_illegal(code) {
        vcpu.get().dead.set(true);
    }
    Ok(hcall::ExitCode(code.0 as u32))
}

/// Whether the guest left the states that it may be in.
fn is_illegal(code: ExitCode) -> bool {
    const REASON: u64 = 0x7fff_ffff;
    code.0 & REASON == ExitCode::ILLEGAL.0
}

fn run_trusted(cpu: &Cpu, addr: u64) -> Result<hcall::ExitCode> {
    let vcpu = NonNull::new(kern_hyp_va(addr).raw() as *mut u8).ok_or(Error::Invalid)?;
    // SAFETY: outside protected mode the host is trusted with EL2's mappings, and passes its own vCPU and VM.
    let vcpu = unsafe { Vcpu::from_raw(vcpu) };
    let kvm = NonNull::new(kern_hyp_va(vcpu.kvm_addr()).raw() as *mut u8).ok_or(Error::Invalid)?;
    let mmu = NonNull::new(kern_hyp_va(vcpu.hw_mmu_addr()).raw() as *mut u8).ok_or(Error::Invalid)?;
    // SAFETY: as above.
    let guest = unsafe { Guest::new(vcpu, Kvm::from_raw(kvm), stage2(Mmu::from_raw(mmu))) };
    fp::begin_trusted_run(cpu, &guest);
    let code = switch::run(cpu, &guest, &mut Policy(None));
    fp::end_trusted_run(cpu, &guest);
    Ok(hcall::ExitCode(code.0 as u32))
}

/// For a panic while `vcpu` runs: gives the host its world back.
pub fn abandon_guest(vcpu: Vcpu) {
    let Some(kvm) = NonNull::new(kern_hyp_va(vcpu.kvm_addr()).raw() as *mut u8) else {
        return;
    };
    // SAFETY: the structure is the one that runs, so its VM is mapped.
    let kvm = unsafe { Kvm::from_raw(kvm) };
    // SAFETY: as above; the guest does not run again.
    let guest = unsafe { Guest::new(vcpu, kvm, stage2(kvm.mmu())) };
    switch::abandon(&cpu(), &guest);
}

/// Copies the registers of a normal VM's vCPU: all but the timers', which EL1 keeps itself.
pub fn copy_context(from: Vcpu, to: Vcpu) {
    copy::context_without_timers(from.ctxt(), to.ctxt());
}

/// Whether the host says in `iflags` that its copy of a normal vCPU's registers is the newer one.
pub fn is_host_newer(iflags: u8) -> bool {
    u64::from(iflags) & IFLAG_HOST_STATE_DIRTY != 0
}

/// From the host's structure to EL2's, before a run.
fn flush(vcpu: VcpuPtr) {
    let (host, hyp, vm) = (vcpu.get().host, vcpu.view(), vcpu.get().vm);
    let kind = vm.get().kind;

    let owner = host.debug_owner();
    hyp.set_debug_owner(owner);
    match u64::from(owner) {
        VCPU_DEBUG_GUEST_OWNED => copy::debug_regs(host.debug_state(), hyp.debug_state()),
        VCPU_DEBUG_HOST_OWNED => {
            copy::debug_regs(host.external_debug_state(), hyp.external_debug_state());
            hyp.set_external_mdscr(host.external_mdscr());
        }
        // Free, or a value that means nothing and counts as free.
        _ => hyp.set_debug_owner(VCPU_DEBUG_FREE as u32),
    }

    let iflags = host.iflags();
    match kind {
        VmKind::Protected => copy::whole_context(host.ctxt(), hyp.ctxt()),
        VmKind::Normal if is_host_newer(iflags) => copy_context(host, hyp),
        VmKind::Normal => {}
    }
    hyp.ctxt().set_running_vcpu(0);

    let counters = statics::host_data().nr_event_counters() as u8;
    hyp.set_mdcr_el2(run_mdcr(
        mdcr_floor(kind, &VmIds(vm.kvm())),
        host.mdcr_el2(),
        counters,
    ));
    hyp.set_hcr_el2(run_hcr(kind, hyp.hcr_el2(), host.hcr_el2()));
    hyp.set_iflags(iflags);
    hyp.set_vsesr_el2(host.vsesr_el2());
    flush_vgic(host.vgic_v3(), hyp.vgic_v3());
    hyp.set_pid(host.pid());
}

/// ICC_SRE_EL1 with DIB, DFB and SRE set: the system register interface, and nothing else.
pub const SRE_ON: u32 = 7;

fn flush_vgic(host: VgicV3, hyp: VgicV3) {
    let used = host
        .used_lrs()
        .min(statics::hyp_gicv3_nr_lr.get())
        .min(VgicV3::LRS as u32);
    hyp.set_hcr(host.hcr());
    hyp.set_sre(SRE_ON);
    hyp.set_used_lrs(used);
    for n in 0..used as usize {
        hyp.set_lr(n, host.lr(n));
    }
}

/// From EL2's structure to the host's, after a run.
fn sync(vcpu: VcpuPtr) {
    let (host, hyp, vm) = (vcpu.get().host, vcpu.view(), vcpu.get().vm);
    match u64::from(hyp.debug_owner()) {
        VCPU_DEBUG_GUEST_OWNED => copy::debug_regs(hyp.debug_state(), host.debug_state()),
        VCPU_DEBUG_HOST_OWNED => copy::debug_regs(hyp.external_debug_state(), host.external_debug_state()),
        _ => {}
    }
    match vm.get().kind {
        VmKind::Protected => copy::whole_context(hyp.ctxt(), host.ctxt()),
        VmKind::Normal => {
            // Tracing and single step look at these before the host asks for the rest.
            host.ctxt().set_pc(hyp.ctxt().pc());
            host.ctxt().set_pstate(hyp.ctxt().pstate());
        }
    }
    host.set_fault_esr(hyp.fault_esr());
    host.set_fault_far(hyp.fault_far());
    host.set_fault_hpfar(fault_for_host(vcpu, hyp.fault_hpfar()));
    host.set_fault_disr(hyp.fault_disr());
    host.set_iflags(hyp.iflags());
    // A virtual SError that the guest took is pending no more.
    host.set_hcr_el2(hcr_for_host(host.hcr_el2(), hyp.hcr_el2()));
    let (host, hyp) = (host.vgic_v3(), hyp.vgic_v3());
    host.set_hcr(hyp.hcr());
    host.set_vmcr(hyp.vmcr());
    for n in 0..(hyp.used_lrs() as usize).min(VgicV3::LRS) {
        host.set_lr(n, hyp.lr(n));
    }
}

/// HPFAR_EL2 as the host is told.
///
/// It names 4 KiB, whatever a page is. For a protected VM the kernel looks for a mapping from there for the length of a
/// page, and so with larger pages finds the next page's: it then runs the guest again, which faults again, for ever. It
/// says so by asking whether the page was poisoned ([`misread`]), and is then told the page's first address. It cannot
/// be told that every time: within a page of devices it needs the rest.
fn fault_for_host(vcpu: VcpuPtr, hpfar: u64) -> u64 {
    if vcpu.get().misread_fault.get() == faulting_page(hpfar).page().raw() + 1 {
        pkvm_core::host_trap::hpfar_of_page(hpfar)
    } else {
        hpfar
    }
}

/// Notes that the host misread the fault of the loaded vCPU at `ipa` ([`pkvm_core::mem::GuestFault::Misread`]).
pub fn misread(vcpu: VcpuPtr, ipa: Ipa) {
    vcpu.get().misread_fault.set(ipa.page().raw() + 1);
}

/// What settles exits: nothing where a trusted host runs the guest. One type for both, so that the world switch is
/// there once.
struct Policy<'a>(Option<Exits<'a>>);

impl GuestExits for Policy<'_> {
    fn entering(&mut self) {
        trace::hyp_exit(Reason::EretGuest);
    }
    fn left(&mut self) {
        trace::hyp_enter(Reason::GuestExit);
    }
    fn protected_hvc(&mut self, guest: &Guest) -> Resume {
        self.0
            .as_mut()
            .map_or(Resume::Host, |exits| exits.protected_hvc(guest))
    }
    fn protected_sysreg(&mut self, guest: &Guest) -> Resume {
        self.0
            .as_mut()
            .map_or(Resume::Host, |exits| exits.protected_sysreg(guest))
    }
    fn protected_restricted(&mut self, guest: &Guest) -> Resume {
        self.0
            .as_mut()
            .map_or(Resume::Host, |exits| exits.protected_restricted(guest))
    }
}

/// The exits of a protected VM that EL2 settles.
struct Exits<'a> {
    held: &'a mut Held<Root>,
    vcpu: VcpuPtr,
}

impl GuestExits for Exits<'_> {
    fn protected_hvc(&mut self, guest: &Guest) -> Resume {
        let ctxt = guest.vcpu().ctxt();
        let reply = match guest_hvc::decide([ctxt.reg(0), ctxt.reg(1), ctxt.reg(2), ctxt.reg(3)]) {
            Decision::ToHost => return Resume::Host,
            Decision::Reply(words) => words,
            Decision::Unshare(ipa) => {
                let done = with_guest(self.held, self.vcpu.get().vm, |host, guest| {
                    mem::guest_unshare_host(&HW, host, guest, Gfn::of(ipa))
                });
                guest_hvc::reply(done)
            }
            Decision::Share(ipa) => match self.share(ipa) {
                ShareReply::Reply(words) => words,
                ShareReply::Fault(fault) => {
                    guest.vcpu().set_fault_esr(fault.esr_el2);
                    guest.vcpu().set_fault_far(fault.far_el2);
                    guest.vcpu().set_fault_hpfar(fault.hpfar_el2);
                    // The HVC is made again once the page is there.
                    write_el2::<ELR_EL2>(read_el2::<ELR_EL2>().wrapping_sub(4));
                    return Resume::Host;
                }
            },
        };
        for (n, word) in reply.into_iter().enumerate() {
            ctxt.set_reg(n, word);
        }
        Resume::Guest
    }

    fn protected_sysreg(&mut self, guest: &Guest) -> Resume {
        let esr = read_el2::<ESR_EL2>();
        let trap = Trap::decode(esr);
        let ids = VmIds(guest.vm());
        let idst = ids.has(Feature::IDST);
        match sysreg::decide(trap, idst, |index| guest.vm().id_reg(index)) {
            sysreg::Decision::ToHost => return Resume::Host,
            sysreg::Decision::Done(value) => {
                if let Some(value) = value {
                    guest.vcpu().ctxt().set_reg(usize::from(trap.rt), value);
                }
                inject::skip_running(guest.vcpu());
            }
            sysreg::Decision::Undef => undefined(guest),
            sysreg::Decision::Reflect => inject(guest, esr),
        }
        Resume::Guest
    }

    fn protected_restricted(&mut self, guest: &Guest) -> Resume {
        undefined(guest);
        Resume::Guest
    }
}

impl Exits<'_> {
    fn share(&mut self, ipa: Ipa) -> ShareReply {
        let done = with_guest(self.held, self.vcpu.get().vm, |host, guest| {
            mem::guest_share_host(&HW, host, guest, Gfn::of(ipa))
        });
        guest_hvc::share_reply(ipa, done)
    }
}

fn undefined(guest: &Guest) {
    inject(guest, inject::ESR_UNDEFINED);
}

/// Sends the guest to its own exception vector.
fn inject(guest: &Guest, esr: u64) {
    let mte: Mte = guest.mte();
    let (pc, pstate) = inject::inject_running(esr, mte);
    let ctxt = guest.vcpu().ctxt();
    ctxt.set_pc(pc);
    ctxt.set_pstate(pstate.raw());
}

/// The page that HPFAR_EL2 names.
pub fn faulting_page(hpfar: u64) -> Ipa {
    // FIPA holds the bits of the address from 12 on, and begins at bit 4. Above it are NS and bits that are zero.
    const FIPA: u64 = ((1 << 44) - 1) << 4;
    Ipa::new((hpfar & FIPA) << 8)
}

/// What became of the search for the address of a host's abort.
pub enum FaultAddress {
    /// The page's address.
    Known(Ipa),
    /// An external abort, or another fault without an address.
    Unknown,
    /// The tables changed meanwhile: the access should be tried again.
    Raced,
}

/// Finds out where the host's abort happened. Where hardware does not say, the host's own tables are walked, and they
/// may lead to an address that answers with an external abort by now. Only the vectors for guests know that such a walk
/// can be given up; those for the host take any exception from EL2 for a defect of EL2's.
fn host_fault_info(esr: fault::Esr) -> Option<fault::FaultInfo> {
    if esr.is_translation_fault() && !has_cap::<{ CAP_WORKAROUND_834220 as u16 }>() {
        return fault::fault_info(esr);
    }
    let host_vectors = read_el2::<VBAR_EL2>();
    // SAFETY: both are EL2's own tables, and they treat exceptions from EL2 alike but for the fixup. Exceptions from
    // below cannot come before the host's are back.
    unsafe { write_own::<VBAR_EL2>(crate::vectors::plain()) };
    barrier::isb();
    let info = fault::fault_info(esr);
    // SAFETY: as above.
    unsafe { write_own::<VBAR_EL2>(host_vectors) };
    info
}

/// The address of the host's abort with syndrome `esr`, and the virtual one.
pub fn host_fault(esr: u64) -> (FaultAddress, u64) {
    match host_fault_info(fault::Esr(esr)) {
        None => (FaultAddress::Raced, read_el2::<FAR_EL2>()),
        Some(info) => {
            let address = if info.hpfar == 0 {
                FaultAddress::Unknown
            } else {
                FaultAddress::Known(faulting_page(info.hpfar))
            };
            (address, info.far)
        }
    }
}
