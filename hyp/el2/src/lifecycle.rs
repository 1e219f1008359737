// SPDX-License-Identifier: GPL-2.0-only
//! How VMs and vCPUs come and go: the host donates memory for EL2's structures and pins its own, and gets everything
//! back at the end. It does the job of the VM half of the kernel's `nvhe/pkvm.c`.
//!
//! A constructor takes its resources one after another; where a step fails, those taken before go back in reverse
//! order and the host finds its memory as it was, zeroed. Locks: the VM table's, then the host's, then EL2's.
#![expect(
    unsafe_code,
    reason = "places structures in donated memory, and views in pinned memory"
)]

use core::ptr::NonNull;

use pkvm_arch::alt::kern_hyp_va;
use pkvm_core::mem::{self, Guest, GuestKind, Host, HostList, HypPages, Pinned, Scrubbed};
use pkvm_core::vm_table::{VmKind, VmRef};
use pkvm_kernel::layout::*;
use pkvm_kernel::{Kvm, Vcpu};
use pkvm_pool::Memcache;
use pkvm_sync::{Before, Held, HostMmu, Level, Root};
use pkvm_types::{Error, Handle, HypVa, PAGE_SIZE, Pfn, PfnRange, Result, Untrusted};

use crate::hw::HW;
use crate::state::{GUEST_CONFIG, VMS, with_host, with_host_hyp};
use crate::vm::{NewVm, VCPU_BYTES, VcpuPtr, VmPtr, vm_bytes};
use crate::{guest_config, words};

/// Pins `bytes` at the kernel address `addr`, a structure of the host.
fn pin<O: Level + Before<HostMmu>>(held: &mut Held<O>, addr: u64, bytes: usize) -> Result<(HypVa, Pinned)> {
    let va = kern_hyp_va(addr);
    // A structure that is not aligned is none of the kernel's, and views need the alignment.
    if !va.is_aligned(8) {
        return Err(Error::Invalid);
    }
    let pin = with_host_hyp(held, |host, hyp| mem::pin_va(&HW, host, hyp, va, bytes as u64))?;
    Ok((va, pin))
}

/// Drops a pin.
#[inline(never)]
fn unpin<O: Level + Before<HostMmu>>(held: &mut Held<O>, pin: Pinned) {
    // Both are there, since the pin is.
    let _ = with_host_hyp(held, |host, hyp| {
        mem::unpin(&HW, host, hyp, pin);
        Ok(())
    });
}

/// Takes `bytes` of the host's memory at the kernel address `addr`. Whatever is wrong with it is [`Error::NoMemory`]:
/// EL1 expects no other error.
fn donate<O: Level + Before<HostMmu>>(held: &mut Held<O>, addr: u64, bytes: u64) -> Result<HypPages> {
    let va = kern_hyp_va(addr);
    if !va.is_page_aligned() {
        return Err(Error::NoMemory);
    }
    let range =
        PfnRange::checked(Pfn::of(words::linear_phys(va)), bytes / PAGE_SIZE).map_err(|_| Error::NoMemory)?;
    with_host_hyp(held, |host, hyp| mem::host_donate_hyp(&HW, host, hyp, range)).map_err(|_| Error::NoMemory)
}

/// Gives pages back to the host, zeroed.
pub fn give_back<O: Level + Before<HostMmu>>(held: &mut Held<O>, pages: HypPages) {
    give_back_linked(held, pages, |_| 0);
}

/// Gives pages back to the host, zeroed but for the first 8 bytes, which hold what `link` says for the page.
fn give_back_linked<O: Level + Before<HostMmu>>(
    held: &mut Held<O>,
    pages: HypPages,
    mut link: impl FnMut(Pfn) -> u64,
) {
    let mut rest = Some(pages);
    while let Some(pages) = rest {
        let link = link(pages.range().start());
        let (page, more) = pages.scrub_first(&HW, link);
        rest = more;
        give_back_page(held, page);
    }
}

/// Gives one page back to the host. Not inlined, as its users' frames lie under the deepest calls there are, on a stack
/// of one page.
#[inline(never)]
fn give_back_page<O: Level + Before<HostMmu>>(held: &mut Held<O>, page: Scrubbed) {
    // A page that EL2 owns and nothing refers to always goes back; if one did not it would stay EL2's, which leaks a
    // page and no secret.
    let _ = with_host_hyp(held, |host, hyp| {
        let _leaked = mem::hyp_donate_host(&HW, host, hyp, page);
        Ok(())
    });
}

fn nonnull(va: HypVa) -> Result<NonNull<u8>> {
    NonNull::new(va.raw() as *mut u8).ok_or(Error::Invalid)
}

/// Hypercall 40: makes the VM that the host's `struct kvm` at `host_kvm` describes, in donated memory.
pub fn init_vm(
    held: &mut Held<Root>,
    host_kvm: Untrusted<u64>,
    vm: Untrusted<u64>,
    pgd: Untrusted<u64>,
) -> Result<()> {
    // `pin` and `donate` check the addresses: only memory that the host shares, or owns, passes.
    let (kvm_va, host_pin) = pin(held, host_kvm.unchecked(), Kvm::SIZE)?;
    let kvm_va = match nonnull(kvm_va) {
        Ok(kvm_va) => kvm_va,
        Err(error) => {
            unpin(held, host_pin);
            return Err(error);
        }
    };
    // SAFETY: pinned memory stays mapped until the pin is dropped, which is after the last use of the view.
    let view = unsafe { Kvm::from_raw(kvm_va) };
    match build_vm(held, view, host_pin, vm.unchecked(), pgd.unchecked()) {
        Ok(()) => Ok(()),
        Err((error, host_pin)) => {
            unpin(held, host_pin);
            Err(error)
        }
    }
}

fn build_vm(
    held: &mut Held<Root>,
    host_kvm: Kvm,
    host_pin: Pinned,
    vm_addr: u64,
    pgd_addr: u64,
) -> Result<(), (Error, Pinned)> {
    // Each word of the host is read once, here.
    let nr_vcpus = host_kvm.created_vcpus();
    let raw_handle = host_kvm.handle();
    let kind = if host_kvm.is_protected() == 0 {
        VmKind::Normal
    } else {
        VmKind::Protected
    };

    if nr_vcpus == 0 || u64::from(nr_vcpus) > KVM_MAX_VCPUS {
        return Err((Error::Invalid, host_pin));
    }
    let (Ok(handle), Some(bytes)) = (Handle::checked(raw_handle), vm_bytes(nr_vcpus)) else {
        return Err((Error::Invalid, host_pin));
    };
    let features = match guest_config::VmFeatures::read(host_kvm, kind) {
        Ok(features) => features,
        Err(error) => return Err((error, host_pin)),
    };
    let Some(config) = *GUEST_CONFIG.get() else {
        return Err((Error::Perm, host_pin));
    };
    let vm_pages = match donate(held, vm_addr, bytes) {
        Ok(pages) => pages,
        Err(error) => return Err((error, host_pin)),
    };
    let pgd = match donate(held, pgd_addr, config.root_pages() * PAGE_SIZE) {
        Ok(pages) => pages,
        Err(error) => {
            give_back(held, vm_pages);
            return Err((error, host_pin));
        }
    };
    // A handle that names a VM must not lend its VMID to another stage 2, not even until `insert` refuses it below.
    let reserved = VMS.lock(held).check_reserved(raw_handle);
    if let Err(error) = reserved {
        give_back(held, pgd);
        give_back(held, vm_pages);
        return Err((error, host_pin));
    }
    vm_pages.zero(&HW);

    let at = vm_pages.va(&HW);
    let Some(at) = NonNull::new(at.raw() as *mut u8) else {
        give_back(held, pgd);
        give_back(held, vm_pages);
        return Err((Error::Invalid, host_pin));
    };
    // SAFETY: `vm_pages` owns the zeroed memory and is put to rest below; it holds `vm_bytes(nr_vcpus)` bytes. The VM
    // is given back only after `unmake_vm` took its pointer out of use.
    let vm = unsafe {
        VmPtr::create(
            at,
            NewVm {
                kind,
                nr_vcpus,
                host_kvm,
                host_pin,
            },
        )
    };
    features.apply(vm.kvm());
    let guest_kind = match kind {
        VmKind::Protected => GuestKind::Protected,
        VmKind::Normal => GuestKind::Normal,
    };
    match Guest::create(&HW, handle, guest_kind, config, pgd) {
        Ok(guest) => {
            guest_config::describe_stage2(vm, handle, &guest);
            *vm.get().guest.lock(held) = Some(guest);
        }
        Err((error, pgd)) => {
            give_back(held, pgd);
            return Err((error, unmake_vm(held, vm, vm_pages)));
        }
    }

    // The last step publishes the VM.
    let inserted = VMS.lock(held).insert(raw_handle, vm);
    if let Err(error) = inserted {
        let torn = drain_stage2(held, vm, |_| 0);
        debug_assert!(torn.is_ok());
        return Err((error, unmake_vm(held, vm, vm_pages)));
    }
    let _at_rest: PfnRange = vm_pages.rest();
    Ok(())
}

/// Takes a VM apart that was never published; yields the pin of the host's structure.
fn unmake_vm(held: &mut Held<Root>, vm: VmPtr, pages: HypPages) -> Pinned {
    let Some(pin) = vm.get().host_pin.take() else {
        bug!()
    };
    give_back(held, pages);
    pin
}

/// Tears the stage 2 of `vm` down and gives its tables to the host, linked as `link` says.
fn drain_stage2<O>(held: &mut Held<O>, vm: VmPtr, mut link: impl FnMut(Pfn) -> u64) -> Result<()>
where
    O: Level + Before<HostMmu>,
{
    with_guest(held, vm, |host, guest| mem::guest_teardown(&HW, host, guest))?;
    while let Some(table) = pop_table(held, vm) {
        give_back_linked(held, table, &mut link);
    }
    Ok(())
}

/// The next page of a stage 2 that has been torn down.
#[inline(never)]
fn pop_table<O: Level + Before<HostMmu>>(held: &mut Held<O>, vm: VmPtr) -> Option<HypPages> {
    with_guest(held, vm, |_, guest| {
        mem::guest_pop_table(&HW, guest).ok_or(Error::NotFound)
    })
    .ok()
}

/// Runs `f` with the host's and the VM's lock held. [`Error::Perm`] where EL2 is not initialised for protected mode.
pub fn with_guest<O, R>(
    held: &mut Held<O>,
    vm: VmPtr,
    f: impl FnOnce(&mut Host, &mut Guest) -> Result<R>,
) -> Result<R>
where
    O: Level + Before<HostMmu>,
{
    with_host(held, |host, held| {
        f(host, vm.get().guest.lock(held).as_mut().ok_or(Error::Perm)?)
    })
}

/// Runs `f` with the VM's lock held alone.
pub fn with_guest_alone<R>(
    held: &mut Held<Root>,
    vm: VmPtr,
    f: impl FnOnce(&mut Guest) -> Result<R>,
) -> Result<R> {
    f(vm.get().guest.lock(held).as_mut().ok_or(Error::Perm)?)
}

/// Hypercall 41: makes the vCPU that the host's `struct kvm_vcpu` at `host_vcpu` describes, in donated memory.
pub fn init_vcpu(
    held: &mut Held<Root>,
    handle: Untrusted<u16>,
    host_vcpu: Untrusted<u64>,
    memory: Untrusted<u64>,
) -> Result<()> {
    let pages = donate(held, memory.unchecked(), VCPU_BYTES)?;
    pages.zero(&HW);
    // The table stays locked throughout, so that the VM neither dies nor gets another vCPU meanwhile.
    let mut table = VMS.lock(held);
    let (table, inner) = table.parts();
    let result = match table.get_live(handle.unchecked()) {
        Err(error) => Err(error),
        Ok(vm) => {
            let made = build_vcpu(inner, vm.vm(), host_vcpu.unchecked(), &pages).and_then(|vcpu| {
                let index = vcpu.view().idx();
                table
                    .register_vcpu(&vm, index, vcpu)
                    .inspect_err(|_| drop_pins(inner, vcpu))
            });
            table.put(vm);
            made
        }
    };
    match result {
        Ok(()) => {
            let _at_rest: PfnRange = pages.rest();
            Ok(())
        }
        Err(error) => {
            give_back(inner, pages);
            Err(error)
        }
    }
}

fn build_vcpu<O>(held: &mut Held<O>, vm: VmPtr, host_vcpu: u64, pages: &HypPages) -> Result<VcpuPtr>
where
    O: Level + Before<HostMmu>,
{
    let at = nonnull(pages.va(&HW))?;
    let (va, host_pin) = pin(held, host_vcpu, Vcpu::SIZE).map_err(|_| Error::Busy)?;
    let Some(host_at) = NonNull::new(va.raw() as *mut u8) else {
        unpin(held, host_pin);
        return Err(Error::Invalid);
    };
    // SAFETY: pinned memory stays mapped until the pin is dropped, which is after the last use of the view.
    let host = unsafe { Vcpu::from_raw(host_at) };
    // SAFETY: `pages` owns VCPU_BYTES zeroed bytes; where this fails, or the vCPU is not published, its pointer is out
    // of use before they go back.
    let vcpu = unsafe { VcpuPtr::create(at, vm, host, host_pin) };
    let configured = guest_config::init_vcpu(vcpu).and_then(|sve| match sve {
        None => Ok(()),
        Some(sve) => {
            let (va, sve_pin) = pin(held, sve.buffer, sve.bytes)?;
            vcpu.get().sve_pin.set(Some(sve_pin));
            vcpu.view().set_sve_state(va.raw());
            vcpu.view().set_sve_max_vl(sve.max_vl);
            Ok(())
        }
    });
    match configured {
        Ok(()) => Ok(vcpu),
        Err(error) => {
            drop_pins(held, vcpu);
            Err(error)
        }
    }
}

fn drop_pins<O: Level + Before<HostMmu>>(held: &mut Held<O>, vcpu: VcpuPtr) {
    for pin in [vcpu.get().sve_pin.take(), vcpu.get().host_pin.take()]
        .into_iter()
        .flatten()
    {
        unpin(held, pin);
    }
}

/// Hypercall 46: ends a dying VM. Every page of it goes back to the host, in two lists that the host's `struct kvm`
/// heads. [`Error::Busy`], and nothing changed, while the guest still owns pages.
pub fn finalize_teardown(held: &mut Held<Root>, handle: Untrusted<u16>) -> Result<()> {
    let vm = retire(held, handle)?;
    give_back_vm(held, vm);
    Ok(())
}

/// Takes a dying VM out of the table, its stage 2 torn down. In a frame of its own: the stack is one page, and what
/// gives the memory back needs its own room after this.
#[inline(never)]
fn retire(held: &mut Held<Root>, handle: Untrusted<u16>) -> Result<VmPtr> {
    let mut table = VMS.lock(held);
    let (table, held) = table.parts();
    table.retire(handle.unchecked(), |vm: VmPtr| {
        with_guest(held, vm, |host, guest| mem::guest_teardown(&HW, host, guest))
    })
}

/// Gives every page of a retired VM back to the host.
#[inline(never)]
fn give_back_vm(held: &mut Held<Root>, vm: VmPtr) {
    // From here nobody else can reach the VM.
    let host_kvm = vm.get().host_kvm;
    let mut tables = List {
        head: host_kvm.stage2_teardown_mc_head(),
        nr: host_kvm.stage2_teardown_mc_nr_pages(),
    };
    while let Some(table) = pop_table(held, vm) {
        give_back_linked(held, table, |pfn| tables.push(pfn));
    }

    let mut structs = List {
        head: host_kvm.teardown_mc_head(),
        nr: host_kvm.teardown_mc_nr_pages(),
    };
    for index in 0..vm.nr_vcpus() {
        let Some(vcpu) = vm.vcpu(index) else { continue };
        let mut memcache = vcpu.get().memcache.replace(Memcache::new());
        while let Some(page) = mem::memcache_pop(&HW, &mut memcache) {
            give_back_linked(held, page, |pfn| tables.push(pfn));
        }
        drop_pins(held, vcpu);
        give_back_structure(held, vcpu.addr(), VCPU_BYTES, &mut structs);
    }
    let Some(host_pin) = vm.get().host_pin.take() else {
        bug!()
    };
    let bytes = vm.bytes();
    give_back_structure(held, vm.addr(), bytes, &mut structs);

    host_kvm.set_stage2_teardown_mc_head(tables.head);
    host_kvm.set_stage2_teardown_mc_nr_pages(tables.nr);
    host_kvm.set_teardown_mc_head(structs.head);
    host_kvm.set_teardown_mc_nr_pages(structs.nr);
    unpin(held, host_pin);
}

fn give_back_structure(held: &mut Held<Root>, va: u64, bytes: u64, list: &mut List) {
    let start = Pfn::of(words::linear_phys(HypVa::new(va)));
    let claimed = PfnRange::checked(start, bytes / PAGE_SIZE)
        .and_then(|range| with_host_hyp(held, |_, hyp| HypPages::claim(&HW, hyp, range)));
    // The pages were donated for the structure and nothing refers to them, so claiming them cannot fail; if it did
    // they would stay EL2's.
    if let Ok(pages) = claimed {
        give_back_linked(held, pages, |pfn| list.push(pfn));
    }
}

/// A list of pages in the kernel's form: each page's first 8 bytes hold the previous head.
struct List {
    head: u64,
    nr: u64,
}

impl List {
    /// Puts `pfn` at the head, and yields what its first word must be.
    fn push(&mut self, pfn: Pfn) -> u64 {
        self.nr = self.nr.wrapping_add(1);
        core::mem::replace(&mut self.head, pfn.phys().raw())
    }
}

/// Moves pages from the host's memcache of the loaded vCPU to EL2's, before a call that may need tables. The host's
/// list is read once and written back as it then is.
pub fn refill_memcache(held: &mut Held<Root>, vcpu: VcpuPtr) -> Result<()> {
    let host_vcpu = vcpu.get().host;
    let mut list = HostList {
        head: host_vcpu.memcache_head(),
        count: host_vcpu.memcache_nr_pages(),
    };
    let mut memcache = vcpu.get().memcache.get();
    let result = with_host_hyp(held, |host, hyp| {
        mem::refill_memcache(&HW, host, hyp, &mut memcache, &mut list)
    });
    vcpu.get().memcache.set(memcache);
    host_vcpu.set_memcache_head(list.head);
    host_vcpu.set_memcache_nr_pages(list.count);
    result
}

/// Runs `f` with the host structure at the kernel address `addr` pinned. Nothing happens where the host does not share
/// that memory with EL2.
pub fn with_pinned<R>(
    held: &mut Held<Root>,
    addr: u64,
    bytes: usize,
    f: impl FnOnce(&mut Held<Root>, NonNull<u8>) -> R,
) -> Option<R> {
    let (va, pin) = pin(held, addr, bytes).ok()?;
    let result = nonnull(va).ok().map(|at| f(held, at));
    unpin(held, pin);
    result
}
