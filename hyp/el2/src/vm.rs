// SPDX-License-Identifier: GPL-2.0-only
//! EL2's own structures for a VM and a vCPU, which live in memory that the host donated for them.
//!
//! Each begins with a structure of the kernel's layout, since the world switch runs a vCPU of the host directly where
//! the host is trusted. Nothing of them is visible to EL1 but the number of pages, which EL1 computes from the sizes
//! of its own C structures: ours must fit.
//!
//! A [`VmPtr`] is valid from the moment the VM is complete until [`VmTable::retire`] returned it. In between whoever
//! uses one holds a reference of the table, or has one of the VM's vCPUs loaded.
//!
//! [`VmTable::retire`]: pkvm_core::vm_table::VmTable::retire
#![expect(unsafe_code, reason = "objects in donated memory are reached by pointer")]

use core::cell::{Cell, UnsafeCell};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use pkvm_core::mem::{Guest, Pinned};
use pkvm_core::vm_table::{CpuId, VmKind, VmRef};
use pkvm_kernel::layout::*;
use pkvm_kernel::{Kvm, Vcpu};
use pkvm_pool::Memcache;
use pkvm_sync::{Lock, VmMmu};
use pkvm_types::{PAGE_SIZE, page_align};

/// Room for a kernel structure, aligned as the strictest member of any asks.
#[repr(C, align(16))]
struct Room<const N: usize>(UnsafeCell<[u8; N]>);

/// A VM.
#[repr(C)]
pub struct Vm {
    kvm: Room<{ KVM_SIZE as usize }>,
    /// The VM's stage 2; `None` only while the VM is made.
    pub guest: Lock<Option<Guest>, VmMmu>,
    /// Protected or normal.
    pub kind: VmKind,
    /// How many vCPUs it may have.
    pub nr_vcpus: u32,
    /// The host's structure of this VM, pinned for as long as this one lives.
    pub host_kvm: Kvm,
    /// The pin of `host_kvm`.
    pub host_pin: Cell<Option<Pinned>>,
    vcpus: [AtomicPtr<VcpuObj>; 0],
}

/// A vCPU.
#[repr(C)]
pub struct VcpuObj {
    vcpu: Room<{ VCPU_SIZE as usize }>,
    /// The VM it belongs to.
    pub vm: VmPtr,
    /// The host's structure of this vCPU, pinned for as long as this one lives.
    pub host: Vcpu,
    /// The pin of `host`.
    pub host_pin: Cell<Option<Pinned>>,
    /// The pin of the SVE buffer, where the vCPU has one.
    pub sve_pin: Cell<Option<Pinned>>,
    /// Pages for the VM's stage-2 tables.
    pub memcache: Cell<Memcache>,
    /// One more than the address of the page whose fault the host misread, or 0: see [`crate::run`]'s `fault_for_host`.
    pub misread_fault: Cell<u64>,
    /// Set once the vCPU did what no vCPU may come back from, such as a protected one in AArch32 state.
    pub dead: Cell<bool>,
    /// One more than the number of the CPU that has it loaded, or 0.
    loaded_on: AtomicU32,
}

/// Bytes of a VM with `nr_vcpus` vCPUs, in whole pages; the host donates as many. `None` where that does not fit.
pub fn vm_bytes(nr_vcpus: u32) -> Option<u64> {
    page_align(DONATED_VM_SIZE.checked_add(8 * u64::from(nr_vcpus))?)
}

/// Bytes of a vCPU, in whole pages; the host donates as many.
pub const VCPU_BYTES: u64 = (DONATED_VCPU_SIZE + PAGE_SIZE - 1) & !(PAGE_SIZE - 1);

const _: () = assert!(
    size_of::<Vm>() as u64 <= DONATED_VM_SIZE,
    "EL2's VM outgrew the pages that EL1 donates"
);
const _: () = assert!(
    size_of::<VcpuObj>() as u64 <= VCPU_BYTES,
    "EL2's vCPU outgrew the pages that EL1 donates"
);
const _: () = assert!(size_of::<AtomicPtr<VcpuObj>>() == 8);

/// A pointer to a VM; see the module for when it is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct VmPtr(NonNull<Vm>);

/// A pointer to a vCPU; valid as long as its VM is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct VcpuPtr(NonNull<VcpuObj>);

// SAFETY: a VM is used by many CPUs at once: its stage 2 sits in a lock, its vCPUs are published through atomics, and
// the rest is fixed before the VM is published or changes under the VM table lock only.
unsafe impl Send for VmPtr {}
// SAFETY: a vCPU is used by the CPU that has it loaded, and otherwise under the VM table lock.
unsafe impl Send for VcpuPtr {}

/// What a new VM starts with.
pub struct NewVm {
    /// Protected or normal.
    pub kind: VmKind,
    /// How many vCPUs it may have.
    pub nr_vcpus: u32,
    /// The host's structure.
    pub host_kvm: Kvm,
    /// Its pin.
    pub host_pin: Pinned,
}

impl VmPtr {
    /// Makes a VM at `at`, whose stage 2 is still to be initialised.
    ///
    /// # Safety
    /// `at` is page aligned, and EL2 alone owns [`vm_bytes`]`(new.nr_vcpus)` zeroed bytes there, until the VM has been
    /// retired and no pointer to it is used.
    pub unsafe fn create(at: NonNull<u8>, new: NewVm) -> Self {
        let vm = at.cast::<Vm>();
        // SAFETY: the memory is the caller's to give, large enough by the assertion above, and aligned. Fields are
        // written one by one since the whole would not fit on the stack; the kernel structure and the vCPU pointers
        // stay zero, which is a value of theirs.
        unsafe {
            let vm = vm.as_ptr();
            (&raw mut (*vm).guest).write(Lock::new(None));
            (&raw mut (*vm).kind).write(new.kind);
            (&raw mut (*vm).nr_vcpus).write(new.nr_vcpus);
            (&raw mut (*vm).host_kvm).write(new.host_kvm);
            (&raw mut (*vm).host_pin).write(Cell::new(Some(new.host_pin)));
        }
        Self(vm)
    }
    /// The VM.
    pub fn get(&self) -> &Vm {
        // SAFETY: the pointer is valid while it is used (see the module), and nobody has an exclusive reference.
        unsafe { self.0.as_ref() }
    }
    /// EL2's `struct kvm` of the VM.
    pub fn kvm(self) -> Kvm {
        // SAFETY: the room is of the structure's size, and lives as long as the VM.
        unsafe { Kvm::from_raw(self.0.cast::<u8>()) }
    }
    /// The first byte.
    pub fn addr(self) -> u64 {
        self.0.as_ptr() as u64
    }
    /// Bytes of the VM's memory, in whole pages.
    pub fn bytes(self) -> u64 {
        // The sum fitted when the VM was made.
        vm_bytes(self.get().nr_vcpus).unwrap_or(0)
    }
    fn slot(&self, index: u32) -> Option<&AtomicPtr<VcpuObj>> {
        if index >= self.get().nr_vcpus {
            return None;
        }
        // SAFETY: the VM's memory has room for `nr_vcpus` pointers behind the structure, zeroed when it was made, and
        // the index is below that. The pointer is made from the VM's own, since a reference to the field would be one
        // to no bytes at all.
        Some(unsafe {
            let first = (&raw const (*self.0.as_ptr()).vcpus).cast::<AtomicPtr<VcpuObj>>();
            &*first.add(index as usize)
        })
    }
}

impl VmRef for VmPtr {
    type Vcpu = VcpuPtr;

    fn kind(self) -> VmKind {
        self.get().kind
    }
    fn nr_vcpus(self) -> u32 {
        self.get().nr_vcpus
    }
    fn vcpu(self, index: u32) -> Option<VcpuPtr> {
        NonNull::new(self.slot(index)?.load(Ordering::Acquire)).map(VcpuPtr)
    }
    fn publish_vcpu(self, index: u32, vcpu: VcpuPtr) {
        if let Some(slot) = self.slot(index) {
            slot.store(vcpu.0.as_ptr(), Ordering::Release);
        }
    }
    fn loaded_on(self, vcpu: VcpuPtr) -> Option<CpuId> {
        vcpu.get()
            .loaded_on
            .load(Ordering::Relaxed)
            .checked_sub(1)
            .map(CpuId)
    }
    fn set_loaded_on(self, vcpu: VcpuPtr, cpu: Option<CpuId>) {
        vcpu.get()
            .loaded_on
            .store(cpu.map_or(0, |cpu| cpu.0.wrapping_add(1)), Ordering::Relaxed);
    }
}

impl VcpuPtr {
    /// Makes a vCPU at `at`.
    ///
    /// # Safety
    /// `at` is page aligned, and EL2 alone owns [`VCPU_BYTES`] zeroed bytes there, until its VM has been retired and
    /// no pointer to the vCPU is used. `vm` is valid.
    pub unsafe fn create(at: NonNull<u8>, vm: VmPtr, host: Vcpu, host_pin: Pinned) -> Self {
        let vcpu = at.cast::<VcpuObj>();
        // SAFETY: as in `VmPtr::create`.
        unsafe {
            let vcpu = vcpu.as_ptr();
            (&raw mut (*vcpu).vm).write(vm);
            (&raw mut (*vcpu).host).write(host);
            (&raw mut (*vcpu).host_pin).write(Cell::new(Some(host_pin)));
            (&raw mut (*vcpu).sve_pin).write(Cell::new(None));
            (&raw mut (*vcpu).memcache).write(Cell::new(Memcache::new()));
            (&raw mut (*vcpu).misread_fault).write(Cell::new(0));
            (&raw mut (*vcpu).dead).write(Cell::new(false));
            (&raw mut (*vcpu).loaded_on).write(AtomicU32::new(0));
        }
        Self(vcpu)
    }
    /// The vCPU.
    pub fn get(&self) -> &VcpuObj {
        // SAFETY: the pointer is valid while it is used (see the module), and nobody has an exclusive reference.
        unsafe { self.0.as_ref() }
    }
    /// EL2's `struct kvm_vcpu` of the vCPU.
    pub fn view(self) -> Vcpu {
        // SAFETY: the room is of the structure's size, and lives as long as the vCPU.
        unsafe { Vcpu::from_raw(self.0.cast::<u8>()) }
    }
    /// The first byte.
    pub fn addr(self) -> u64 {
        self.0.as_ptr() as u64
    }
}
