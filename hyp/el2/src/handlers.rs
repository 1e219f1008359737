// SPDX-License-Identifier: GPL-2.0-only
//! The handlers of the host's hypercalls. Which exist and when they may be made is in [`pkvm_core::hcall`]; each here
//! checks its words by the constructors of their types, takes the locks, and calls the policy. It does the job of the
//! `handle_*` functions of the kernel's `nvhe/hyp-main.c`.
//!
//! Every argument may be an adversary's choice, as may every word behind a pointer to the host's memory. Only the calls
//! that the table keeps from a host without privileges trust theirs.
#![expect(unsafe_code, reason = "views in pinned memory, and EL2's SCTLR")]

use pkvm_arch::alt::{has_cap, kern_hyp_va};
use pkvm_arch::inject::{self, Mte};
use pkvm_arch::switch::stage2::{self, Stage2};
use pkvm_arch::switch::timer;
use pkvm_arch::sysreg::{SCTLR_EL2, read_el2, write_own};
use pkvm_arch::vgic::{v3, v5};
use pkvm_core::hcall::{ExitCode, HostCalls, Switch};
use pkvm_core::mem::{self, Young};
use pkvm_core::traps::{VM_FLAG_MTE, load_hcr};
use pkvm_core::vm_table::VmKind;
use pkvm_kernel::layout::*;
use pkvm_kernel::{Kvm, Mmu, Vcpu, VgicV3, VgicV5};
use pkvm_pgtable::HypAttrs;
use pkvm_sync::{Held, Root};
use pkvm_types::{
    Error, Gfn, Handle, HypVa, PAGE_SIZE, Perms, Pfn, PfnRange, Phys, Result, Untrusted, page_align,
};

use crate::hw::HW;
use crate::lifecycle::{self, refill_memcache, with_guest, with_guest_alone, with_pinned};
use crate::state::{HYP, VMS, with_host, with_host_hyp, with_vcpus};
use crate::vm::{VcpuPtr, VmPtr};
use crate::{boot, host, run, statics, trace, vectors};

/// The handlers, with no lock held.
pub struct Handlers<'a> {
    held: &'a mut Held<Root>,
}

fn pfn(raw: Untrusted<u64>) -> Result<Pfn> {
    raw.check(Pfn::checked)
}

fn gfn(raw: Untrusted<u64>) -> Result<Gfn> {
    raw.check(Gfn::checked)
}

fn is_protected_mode() -> bool {
    has_cap::<{ CAP_KVM_PROTECTED_MODE as u16 }>()
}

impl<'a> Handlers<'a> {
    /// For one trap.
    pub fn new(held: &'a mut Held<Root>) -> Self {
        Self { held }
    }

    /// The loaded vCPU.
    fn loaded() -> Option<VcpuPtr> {
        with_vcpus(|cpu| cpu.loaded().map(|loaded| loaded.vcpu))
    }

    /// The loaded vCPU of a VM of kind `kind`.
    fn loaded_of(kind: VmKind) -> Result<VcpuPtr> {
        with_vcpus(|cpu| cpu.loaded_of(kind).map(|loaded| loaded.vcpu))
    }

    /// Runs `f` on a normal VM, with the host's and the VM's lock held.
    fn with_normal<R>(
        &mut self,
        handle: Untrusted<u16>,
        f: impl FnOnce(&mut mem::Host, &mut mem::Guest) -> Result<R>,
    ) -> Result<R> {
        // The table checks the handle.
        let vm = VMS.lock(self.held).get_normal(handle.unchecked())?;
        let result = with_guest(self.held, vm.vm(), f);
        VMS.lock(self.held).put(vm);
        result
    }

    /// The saved GICv3 interface at the kernel address `cpu_if`: the host's, and EL2's own where the host is not trusted.
    /// `None` where the host may not name it.
    fn vgic(cpu_if: u64) -> Option<(VgicV3, Option<VgicV3>)> {
        if !v3::has_cpuif() {
            // With a GICv2 the registers are undefined at EL2 too, and a VM without a GICv3 can be loaded there.
            return None;
        }
        if !is_protected_mode() {
            let at = core::ptr::NonNull::new(kern_hyp_va(cpu_if).raw() as *mut u8)?;
            // SAFETY: outside protected mode the host is trusted and passes its own structure.
            return Some((unsafe { VgicV3::from_raw(at) }, None));
        }
        let vcpu = Self::loaded()?;
        let host = vcpu.get().host.vgic_v3();
        (host.addr() == kern_hyp_va(cpu_if).raw()).then_some((host, Some(vcpu.view().vgic_v3())))
    }

    /// The saved GICv5 interface that a trusted host names; `None` on hardware without one and in protected mode, where no
    /// VM has it.
    fn trusted_vgic_v5(cpu_if: Untrusted<u64>) -> Option<VgicV5> {
        if !v5::is_usable() {
            return None;
        }
        let at = core::ptr::NonNull::new(kern_hyp_va(cpu_if.unchecked()).raw() as *mut u8)?;
        // SAFETY: outside protected mode the host is trusted and passes its own structure.
        Some(unsafe { VgicV5::from_raw(at) })
    }

    /// The stage 2 that a trusted host names.
    fn trusted_mmu(mmu: Untrusted<u64>) -> Option<Stage2> {
        let at = core::ptr::NonNull::new(kern_hyp_va(mmu.unchecked()).raw() as *mut u8)?;
        // SAFETY: the dispatcher lets these calls through only while the host is trusted.
        let mmu = unsafe { Mmu::from_raw(at) };
        Some(Stage2::of(mmu, statics::kvm_arm_vmid_bits.get()))
    }
}

fn level_hint(level: Untrusted<i32>) -> Option<u8> {
    // A level that is none is no hint, and TLBs need none.
    u8::try_from(level.unchecked()).ok().filter(|level| *level <= 3)
}

impl HostCalls for Handlers<'_> {
    fn pkvm_init(
        &mut self,
        phys: Untrusted<u64>,
        size: Untrusted<u64>,
        _per_cpu_base: Untrusted<u64>,
        va_bits: Untrusted<u32>,
    ) -> Result<()> {
        // Before this call the host is trusted; the values are checked for sense.
        boot::pkvm_init(phys.unchecked(), size.unchecked(), va_bits.unchecked())
    }

    fn create_private_mapping(
        &mut self,
        phys: Untrusted<u64>,
        size: Untrusted<u64>,
        prot: Untrusted<u64>,
    ) -> Result<HypVa> {
        const DEVICE: u64 = 1 << 4;
        let phys = Phys::new(phys.unchecked());
        let prot = prot.unchecked();
        let perms = Perms::from_bits(prot & !DEVICE).ok_or(Error::Invalid)?;
        // EL2 executes with privilege alone, so the kernel's two execute bits mean one.
        let perms = if perms.intersects(Perms::X) {
            perms.without(Perms::X).union(Perms::PX)
        } else {
            perms
        };
        let attrs = if prot & DEVICE == 0 {
            HypAttrs::normal(perms)
        } else {
            HypAttrs {
                perms,
                ..HypAttrs::DEVICE
            }
        };
        let bytes = size
            .unchecked()
            .checked_add(phys.page_offset())
            .and_then(page_align)
            .ok_or(Error::Invalid)?;
        let pages = PfnRange::checked(Pfn::of(phys), bytes / PAGE_SIZE)?;
        mem::check_private_mapping(&HW, pages)?;
        let mut hyp = HYP.lock(self.held);
        let (hyp, _) = hyp.parts();
        let space = hyp.hyp.as_mut().ok_or(Error::Perm)?;
        let va = hyp.private.take(bytes, PAGE_SIZE)?;
        space.map_private(&HW, va, bytes, phys.page(), attrs)?;
        Ok(HypVa::new(va.raw() + phys.page_offset()))
    }

    fn cpu_set_vector(&mut self, slot: Untrusted<u32>) -> Result<()> {
        vectors::set(slot.unchecked())
    }

    fn enable_ssbs(&mut self) {
        const DSSBS: u64 = 1 << 44;
        // SAFETY: the bit sets what PSTATE.SSBS becomes at an exception; EL2 runs with either.
        unsafe { write_own::<SCTLR_EL2>(read_el2::<SCTLR_EL2>() | DSSBS) };
    }

    fn vgic_v3_init_lrs(&mut self) {
        v3::init_lrs();
    }

    fn vgic_v3_get_gic_config(&mut self) -> bool {
        v3::has_memory_mapped_cpuif()
    }

    fn prot_finalize(&mut self) -> Result<()> {
        host::prot_finalize()
    }

    fn adjust_pc(&mut self, vcpu: Untrusted<u64>) {
        let addr = vcpu.unchecked();
        if !is_protected_mode() {
            if let Some(at) = core::ptr::NonNull::new(kern_hyp_va(addr).raw() as *mut u8) {
                // SAFETY: outside protected mode the host is trusted and passes its own vCPU and VM.
                let vcpu = unsafe { Vcpu::from_raw(at) };
                inject::adjust_pc(vcpu, || trusted_mte(vcpu));
            }
            return;
        }
        if let Some(loaded) = Self::loaded()
            && loaded.get().host.addr() == kern_hyp_va(addr).raw()
        {
            let vm = loaded.get().vm;
            inject::adjust_pc(loaded.get().host, || mte_of(vm.kvm()));
            return;
        }
        with_pinned(self.held, addr, Vcpu::SIZE, |held, at| {
            // SAFETY: the memory is pinned for the time of this closure.
            let vcpu = unsafe { Vcpu::from_raw(at) };
            let kvm = vcpu.kvm_addr();
            // The VM is asked for one thing only, and one that cannot be pinned has no memory tags.
            inject::adjust_pc(vcpu, || {
                with_pinned(held, kvm, Kvm::SIZE, |_, at| {
                    // SAFETY: as above.
                    mte_of(unsafe { Kvm::from_raw(at) })
                })
                .unwrap_or(Mte::Absent)
            });
        });
    }

    fn vcpu_run(&mut self, vcpu: Untrusted<u64>) -> Result<ExitCode> {
        let loaded = Self::loaded();
        run::vcpu_run(self.held, loaded, vcpu.unchecked())
    }

    fn flush_vm_context(&mut self) {
        stage2::flush_all_vmids();
    }

    fn tlb_flush_vmid_ipa(&mut self, mmu: Untrusted<u64>, ipa: Untrusted<u64>, level: Untrusted<i32>) {
        if let Some(target) = Self::trusted_mmu(mmu) {
            stage2::flush_ipa(target, ipa.unchecked(), level_hint(level));
        }
    }

    fn tlb_flush_vmid_ipa_nsh(&mut self, mmu: Untrusted<u64>, ipa: Untrusted<u64>, level: Untrusted<i32>) {
        if let Some(target) = Self::trusted_mmu(mmu) {
            stage2::flush_ipa_this_cpu(target, ipa.unchecked(), level_hint(level));
        }
    }

    fn tlb_flush_vmid(&mut self, mmu: Untrusted<u64>) {
        if let Some(target) = Self::trusted_mmu(mmu) {
            stage2::flush_vmid(target);
        }
    }

    fn tlb_flush_vmid_range(&mut self, mmu: Untrusted<u64>, start: Untrusted<u64>, pages: Untrusted<u64>) {
        if let Some(target) = Self::trusted_mmu(mmu) {
            stage2::flush_range(target, start.unchecked(), pages.unchecked());
        }
    }

    fn flush_cpu_context(&mut self, mmu: Untrusted<u64>) {
        if let Some(target) = Self::trusted_mmu(mmu) {
            stage2::flush_cpu_context(target);
        }
    }

    fn timer_set_cntvoff(&mut self, offset: Untrusted<u64>) {
        timer::set_cntvoff(offset.unchecked());
    }

    fn tracing_load(&mut self, desc: Untrusted<u64>, size: Untrusted<u64>) -> Result<()> {
        trace::load(self.held, desc, size)
    }

    fn tracing_unload(&mut self) {
        trace::unload(self.held);
    }

    fn tracing_enable(&mut self, enable: Switch) -> Result<()> {
        trace::enable(self.held, enable)
    }

    fn tracing_swap_reader(&mut self, cpu: Untrusted<u32>) -> Result<()> {
        trace::swap_reader(self.held, cpu)
    }

    fn tracing_update_clock(
        &mut self,
        mult: Untrusted<u32>,
        shift: Untrusted<u32>,
        epoch_ns: Untrusted<u64>,
        epoch_cyc: Untrusted<u64>,
    ) {
        // The clock takes any numbers.
        trace::update_clock(
            self.held,
            mult.unchecked(),
            shift.unchecked(),
            epoch_ns.unchecked(),
            epoch_cyc.unchecked(),
        );
    }

    fn tracing_reset(&mut self, cpu: Untrusted<u32>) -> Result<()> {
        trace::reset(self.held, cpu)
    }

    fn tracing_enable_event(&mut self, id: Untrusted<u16>, enable: Switch) -> Result<()> {
        trace::enable_event(id, enable)
    }

    fn tracing_write_event(&mut self, id: Untrusted<u64>) {
        trace::write_event(id.unchecked());
    }

    fn vgic_v3_save_aprs(&mut self, cpu_if: Untrusted<u64>) {
        let Some((host, hyp)) = Self::vgic(cpu_if.unchecked()) else {
            return;
        };
        let Some(hyp) = hyp else {
            return v3::save_aprs(host);
        };
        v3::save_aprs(hyp);
        host.set_vmcr(hyp.vmcr());
        for n in 0..VgicV3::APRS {
            host.set_ap0r(n, hyp.ap0r(n));
            host.set_ap1r(n, hyp.ap1r(n));
        }
    }

    fn vgic_v3_restore_vmcr_aprs(&mut self, cpu_if: Untrusted<u64>) {
        let Some((host, hyp)) = Self::vgic(cpu_if.unchecked()) else {
            return;
        };
        let Some(hyp) = hyp else {
            return v3::restore_vmcr_aprs(host);
        };
        hyp.set_vmcr(host.vmcr());
        hyp.set_sre(run::SRE_ON);
        for n in 0..VgicV3::APRS {
            hyp.set_ap0r(n, host.ap0r(n));
            hyp.set_ap1r(n, host.ap1r(n));
        }
        v3::restore_vmcr_aprs(hyp);
    }

    // EL1 takes "not supported" for a fatal inconsistency, so that without a GICv5 these do nothing.
    fn vgic_v5_save_apr(&mut self, cpu_if: Untrusted<u64>) {
        if let Some(cpu_if) = Self::trusted_vgic_v5(cpu_if) {
            v5::save_apr(cpu_if);
        }
    }
    fn vgic_v5_restore_vmcr_apr(&mut self, cpu_if: Untrusted<u64>) {
        if let Some(cpu_if) = Self::trusted_vgic_v5(cpu_if) {
            v5::restore_vmcr_apr(cpu_if);
        }
    }

    fn host_share_hyp(&mut self, raw: Untrusted<u64>) -> Result<()> {
        let pfn = pfn(raw)?;
        with_host_hyp(self.held, |host, hyp| mem::host_share_hyp(&HW, host, hyp, pfn))
    }

    fn host_unshare_hyp(&mut self, raw: Untrusted<u64>) -> Result<()> {
        let pfn = pfn(raw)?;
        with_host_hyp(self.held, |host, hyp| mem::host_unshare_hyp(&HW, host, hyp, pfn))
    }

    fn host_donate_guest(&mut self, raw_pfn: Untrusted<u64>, raw_gfn: Untrusted<u64>) -> Result<()> {
        let vcpu = Self::loaded_of(VmKind::Protected)?;
        refill_memcache(self.held, vcpu)?;
        let (pfn, gfn) = (pfn(raw_pfn)?, gfn(raw_gfn)?);
        let mut memcache = vcpu.get().memcache.get();
        let result = with_guest(self.held, vcpu.get().vm, |host, guest| {
            mem::host_donate_guest(&HW, host, guest, &mut memcache, pfn, gfn)
        });
        vcpu.get().memcache.set(memcache);
        if result.is_ok() {
            vcpu.get().misread_fault.set(0);
        }
        result
    }

    fn host_share_guest(
        &mut self,
        raw_pfn: Untrusted<u64>,
        raw_gfn: Untrusted<u64>,
        nr_pages: Untrusted<u64>,
        prot: Untrusted<u64>,
    ) -> Result<()> {
        let vcpu = Self::loaded_of(VmKind::Normal)?;
        refill_memcache(self.held, vcpu)?;
        let (pfn, gfn) = (pfn(raw_pfn)?, gfn(raw_gfn)?);
        let mut memcache = vcpu.get().memcache.get();
        // The transition checks the number of pages and the permissions.
        let result = with_guest(self.held, vcpu.get().vm, |host, guest| {
            mem::host_share_guest(
                &HW,
                host,
                guest,
                &mut memcache,
                pfn,
                gfn,
                nr_pages.unchecked(),
                prot.unchecked(),
            )
        });
        vcpu.get().memcache.set(memcache);
        result
    }

    fn host_unshare_guest(
        &mut self,
        handle: Untrusted<u16>,
        raw_gfn: Untrusted<u64>,
        nr_pages: Untrusted<u64>,
    ) -> Result<()> {
        self.with_normal(handle, |host, guest| {
            mem::host_unshare_guest(&HW, host, guest, gfn(raw_gfn)?, nr_pages.unchecked())
        })
    }

    fn host_relax_perms_guest(&mut self, raw_gfn: Untrusted<u64>, prot: Untrusted<u64>) -> Result<()> {
        let vcpu = Self::loaded_of(VmKind::Normal)?;
        let gfn = gfn(raw_gfn)?;
        with_guest_alone(self.held, vcpu.get().vm, |guest| {
            mem::host_relax_perms_guest(&HW, guest, gfn, prot.unchecked())
        })
    }

    fn host_wrprotect_guest(
        &mut self,
        handle: Untrusted<u16>,
        raw_gfn: Untrusted<u64>,
        nr_pages: Untrusted<u64>,
    ) -> Result<()> {
        self.with_normal(handle, |_, guest| {
            mem::host_wrprotect_guest(&HW, guest, gfn(raw_gfn)?, nr_pages.unchecked())
        })
    }

    fn host_test_clear_young_guest(
        &mut self,
        handle: Untrusted<u16>,
        raw_gfn: Untrusted<u64>,
        nr_pages: Untrusted<u64>,
        mkold: Switch,
    ) -> Result<bool> {
        let young = match mkold {
            Switch::On => Young::Clear,
            Switch::Off => Young::Test,
        };
        self.with_normal(handle, |_, guest| {
            mem::host_test_clear_young_guest(&HW, guest, gfn(raw_gfn)?, nr_pages.unchecked(), young)
        })
    }

    fn host_mkyoung_guest(&mut self, raw_gfn: Untrusted<u64>) -> Result<()> {
        let vcpu = Self::loaded_of(VmKind::Normal)?;
        // A page that is not there, or cannot be, has no age: EL1 takes any error as fatal.
        if let Ok(gfn) = gfn(raw_gfn) {
            let _ = with_guest_alone(self.held, vcpu.get().vm, |guest| {
                mem::host_mkyoung_guest(&HW, guest, gfn)
            });
        }
        Ok(())
    }

    fn reserve_vm(&mut self) -> Result<Handle> {
        VMS.lock(self.held).reserve()
    }

    fn unreserve_vm(&mut self, handle: Untrusted<u16>) {
        VMS.lock(self.held).unreserve(handle.unchecked());
    }

    fn init_vm(&mut self, host_kvm: Untrusted<u64>, vm: Untrusted<u64>, pgd: Untrusted<u64>) -> Result<()> {
        lifecycle::init_vm(self.held, host_kvm, vm, pgd)
    }

    fn init_vcpu(
        &mut self,
        handle: Untrusted<u16>,
        host_vcpu: Untrusted<u64>,
        vcpu: Untrusted<u64>,
    ) -> Result<()> {
        lifecycle::init_vcpu(self.held, handle, host_vcpu, vcpu)
    }

    fn vcpu_in_poison_fault(&mut self) -> Result<bool> {
        const EC_SHIFT: u32 = 26;
        const IABT_LOW: u64 = 0x20;
        const DABT_LOW: u64 = 0x24;
        let vcpu = Self::loaded().ok_or(Error::Invalid)?;
        let (esr, hpfar) = (vcpu.view().fault_esr(), vcpu.view().fault_hpfar());
        if !matches!(esr >> EC_SHIFT & 0x3f, IABT_LOW | DABT_LOW)
            || pkvm_core::host_trap::FaultStatus::decode(esr)
                != pkvm_core::host_trap::FaultStatus::Translation
        {
            return Err(Error::Invalid);
        }
        let ipa = run::faulting_page(hpfar);
        let fault = with_guest_alone(self.held, vcpu.get().vm, |guest| {
            mem::in_poison_fault(&HW, guest, ipa)
        })?;
        if fault == mem::GuestFault::Misread {
            run::misread(vcpu, ipa);
        }
        Ok(fault == mem::GuestFault::Poisoned)
    }

    fn force_reclaim_guest_page(&mut self, phys: Untrusted<u64>) -> Result<()> {
        let phys = Phys::new(phys.unchecked()).page();
        let mut table = VMS.lock(self.held);
        let (table, held) = table.parts();
        with_host(held, |host, held| {
            let (handle, gfn) = mem::owner_of_faulting_page(&HW, host, phys)?;
            // The table stays locked, so the VM cannot go meanwhile. A slot without a VM has no pages.
            let vm = table.get(handle.raw()).map_err(|_| Error::Perm)?;
            let result = match vm.vm().get().guest.lock(held).as_mut() {
                Some(guest) => mem::host_force_reclaim_guest(&HW, host, guest, phys, gfn),
                None => Err(Error::Perm),
            };
            table.put(vm);
            result
        })
    }

    fn reclaim_dying_guest_page(&mut self, handle: Untrusted<u16>, raw_gfn: Untrusted<u64>) -> Result<()> {
        let vm = VMS.lock(self.held).get_dying(handle.unchecked())?;
        let result = with_guest(self.held, vm.vm(), |host, guest| {
            mem::host_reclaim_dying_guest(&HW, host, guest, gfn(raw_gfn)?)
        });
        VMS.lock(self.held).put(vm);
        result
    }

    fn start_teardown_vm(&mut self, handle: Untrusted<u16>) -> Result<()> {
        VMS.lock(self.held).start_teardown(handle.unchecked())
    }

    fn finalize_teardown_vm(&mut self, handle: Untrusted<u16>) -> Result<()> {
        lifecycle::finalize_teardown(self.held, handle)
    }

    fn vcpu_load(&mut self, handle: Untrusted<u16>, vcpu_idx: Untrusted<u32>, hcr_el2: Untrusted<u64>) {
        let loaded = {
            let mut table = VMS.lock(self.held);
            let flush = |vm: VmPtr| {
                stage2::flush_cpu_context(Stage2::of(vm.kvm().mmu(), statics::kvm_arm_vmid_bits.get()));
            };
            with_vcpus(|cpu| table.load(cpu, handle.unchecked(), vcpu_idx.unchecked(), flush))
        };
        let Some(loaded) = loaded else { return };
        let (vcpu, vm): (VcpuPtr, VmPtr) = (loaded.vcpu, loaded.vm);
        let view = vcpu.view();
        match vm.get().kind {
            VmKind::Protected => view.set_hcr_el2(load_hcr(view.hcr_el2(), hcr_el2.unchecked())),
            VmKind::Normal => {
                for group in 0..NR_FGT_GROUPS {
                    let (read, write) = vcpu.get().host.fgt(group);
                    view.set_fgt(group, read, write);
                }
            }
        }
    }

    fn vcpu_put(&mut self) {
        let Some(vcpu) = Self::loaded() else { return };
        if vcpu.get().vm.get().kind == VmKind::Normal && !run::is_host_newer(vcpu.get().host.iflags()) {
            run::copy_context(vcpu.view(), vcpu.get().host);
        }
        let mut table = VMS.lock(self.held);
        with_vcpus(|cpu| table.unload(cpu));
    }

    fn vcpu_sync_state(&mut self) {
        if let Ok(vcpu) = Self::loaded_of(VmKind::Normal) {
            run::copy_context(vcpu.view(), vcpu.get().host);
        }
    }

    fn pkvm_tlb_flush_vmid(&mut self, handle: Untrusted<u16>) {
        // Void: a handle of no normal VM means nothing to do.
        let _ = self.with_normal(handle, |_, guest| {
            mem::host_tlb_flush_vmid(&HW, guest);
            Ok(())
        });
    }
}

fn mte_of(kvm: Kvm) -> Mte {
    if kvm.flags() & VM_FLAG_MTE != 0 {
        Mte::Present
    } else {
        Mte::Absent
    }
}

fn trusted_mte(vcpu: Vcpu) -> Mte {
    match core::ptr::NonNull::new(kern_hyp_va(vcpu.kvm_addr()).raw() as *mut u8) {
        // SAFETY: outside protected mode the host is trusted, and the vCPU's VM is mapped.
        Some(at) => mte_of(unsafe { Kvm::from_raw(at) }),
        None => Mte::Absent,
    }
}
