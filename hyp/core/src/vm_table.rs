// SPDX-License-Identifier: GPL-2.0-only
//! The table of VMs and the life of a vCPU: which handle names what, who refers to it, and where it is loaded. It does
//! the job of the table half of the kernel's `nvhe/pkvm.c`.
//!
//! The table sits in the VM table lock; `&mut self` is the proof that it is held. It knows a VM and a vCPU only by an
//! opaque pointer that el2 gave it. Handles and indices come from the host and may be anything.

use pkvm_types::{Error, Handle, MAX_VMS, Result};

#[cfg(test)]
mod tests;

/// The logical number of a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct CpuId(pub u32);

/// Whether EL2 protects the VM's memory from the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmKind {
    /// It does: `KVM_VM_TYPE_ARM_PROTECTED`.
    Protected,
    /// It does not, but the VM still only gets what the host owns.
    Normal,
}

/// What the table needs from el2's pointer to a VM. The pointer stays valid from [`VmTable::insert`] until
/// [`VmTable::retire`] has returned it, and these functions are called under the VM table lock only.
pub trait VmRef: Copy + core::fmt::Debug {
    /// The pointer to a vCPU.
    type Vcpu: Copy + core::fmt::Debug;

    /// Whether the VM is protected; fixed at its creation.
    fn kind(self) -> VmKind;
    /// How many vCPUs the VM may have; fixed at its creation.
    fn nr_vcpus(self) -> u32;
    /// The vCPU at `index`, `None` if there is none yet or `index` is not below [`VmRef::nr_vcpus`].
    fn vcpu(self, index: u32) -> Option<Self::Vcpu>;
    /// Publishes `vcpu`, which is complete, at `index`, below [`VmRef::nr_vcpus`].
    fn publish_vcpu(self, index: u32, vcpu: Self::Vcpu);
    /// Where `vcpu` is loaded.
    fn loaded_on(self, vcpu: Self::Vcpu) -> Option<CpuId>;
    /// Notes where `vcpu` is loaded.
    fn set_loaded_on(self, vcpu: Self::Vcpu, cpu: Option<CpuId>);
}

#[derive(Clone, Copy, Debug)]
enum Slot<T> {
    Free,
    Reserved,
    Live { vm: T, refs: u32 },
    Dying { vm: T, refs: u32 },
}

impl<T: VmRef> Slot<T> {
    /// The kind of the slot's VM, if it has one.
    fn kind(&self) -> Option<VmKind> {
        match self {
            Self::Live { vm, .. } | Self::Dying { vm, .. } => Some(vm.kind()),
            Self::Free | Self::Reserved => None,
        }
    }
}

/// A reference to a VM, held by a hypercall while it works on the VM without the table's lock. It must go back through
/// [`VmTable::put`]: a lost one would keep the VM from ever being torn down.
#[must_use = "a reference that is dropped is never given back"]
#[derive(Debug)]
pub struct HeldVm<T> {
    handle: Handle,
    vm: T,
}

impl<T: Copy> HeldVm<T> {
    /// The VM.
    pub const fn vm(&self) -> T {
        self.vm
    }
    /// Its handle.
    pub const fn handle(&self) -> Handle {
        self.handle
    }
}

/// A vCPU that is loaded on a CPU.
#[derive(Clone, Copy, Debug)]
pub struct Loaded<T: VmRef> {
    /// The VM's handle.
    pub handle: Handle,
    /// The vCPU's index.
    pub index: u32,
    /// The VM.
    pub vm: T,
    /// The vCPU.
    pub vcpu: T::Vcpu,
}

/// What a CPU must do with its TLB before a vCPU that was just loaded may run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LocalTlb {
    /// Nothing.
    Keep,
    /// Another vCPU of the same VM ran here last, whose stage-1 translations this one must not see.
    Flush,
}

/// A CPU's part of the vCPU state: the one vCPU that may be loaded on it, and which vCPU of each VM it ran last.
#[derive(Debug)]
pub struct CpuState<T: VmRef> {
    cpu: CpuId,
    loaded: Option<Loaded<T>>,
    /// By VM slot, one more than the index of the vCPU that was loaded last, or 0. It outlives the VM: that a slot's
    /// next VM meets an old number costs one flush or none, and none is safe since retiring flushed the VMID.
    last: [u16; MAX_VMS],
}

impl<T: VmRef> CpuState<T> {
    /// The state of `cpu`, with nothing loaded.
    pub const fn new(cpu: CpuId) -> Self {
        Self {
            cpu,
            loaded: None,
            last: [0; MAX_VMS],
        }
    }
    /// Says which CPU this is the state of, for storage that is copied from one template for all CPUs.
    pub const fn set_cpu(&mut self, cpu: CpuId) {
        self.cpu = cpu;
    }
    /// The vCPU that is loaded here.
    pub const fn loaded(&self) -> Option<&Loaded<T>> {
        self.loaded.as_ref()
    }
    /// The loaded vCPU, if its VM is of kind `kind`; [`Error::Invalid`] if none is, or of the other kind.
    pub fn loaded_of(&self, kind: VmKind) -> Result<&Loaded<T>> {
        self.loaded
            .as_ref()
            .filter(|loaded| loaded.vm.kind() == kind)
            .ok_or(Error::Invalid)
    }

    /// Notes that `index` runs here now, and yields what the TLB needs.
    fn note_run(&mut self, handle: Handle, index: u32) -> LocalTlb {
        // All indices that do not fit share one number, which counts as different from itself.
        let tag = u16::try_from(index)
            .ok()
            .and_then(|index| index.checked_add(1))
            .unwrap_or(u16::MAX);
        let Some(last) = self.last.get_mut(handle.index()) else {
            return LocalTlb::Flush;
        };
        let before = core::mem::replace(last, tag);
        if before == 0 || (before == tag && tag != u16::MAX) {
            LocalTlb::Keep
        } else {
            LocalTlb::Flush
        }
    }
}

/// The VM table.
#[derive(Debug)]
pub struct VmTable<T> {
    open: bool,
    slots: [Slot<T>; MAX_VMS],
}

impl<T: VmRef> VmTable<T> {
    /// The table before EL2 is initialised: no VM can be reserved.
    pub const fn new() -> Self {
        Self {
            open: false,
            slots: [const { Slot::Free }; MAX_VMS],
        }
    }

    /// Opens the table, once EL2 can make VMs.
    pub const fn open(&mut self) {
        self.open = true;
    }

    fn slot(&self, handle: u16) -> Option<(Handle, &Slot<T>)> {
        let handle = Handle::checked(handle).ok()?;
        Some((handle, self.slots.get(handle.index())?))
    }

    fn slot_mut(&mut self, handle: u16) -> Option<(Handle, &mut Slot<T>)> {
        let handle = Handle::checked(handle).ok()?;
        Some((handle, self.slots.get_mut(handle.index())?))
    }

    /// Reserves a slot for a VM that the host is about to make. [`Error::Invalid`] before [`VmTable::open`],
    /// [`Error::NoMemory`] when the table is full.
    pub fn reserve(&mut self) -> Result<Handle> {
        if !self.open {
            return Err(Error::Invalid);
        }
        let (index, slot) = self
            .slots
            .iter_mut()
            .enumerate()
            .find(|(_, slot)| matches!(slot, Slot::Free))
            .ok_or(Error::NoMemory)?;
        let handle = Handle::from_index(index)?;
        *slot = Slot::Reserved;
        Ok(handle)
    }

    /// Gives a slot back that is reserved; any other is left as it is.
    pub fn unreserve(&mut self, handle: u16) {
        if let Some((_, slot @ Slot::Reserved)) = self.slot_mut(handle) {
            *slot = Slot::Free;
        }
    }

    /// Publishes a complete VM in the slot that was reserved for it. [`Error::Invalid`] if it was not.
    pub fn insert(&mut self, handle: u16, vm: T) -> Result<Handle> {
        match self.slot_mut(handle) {
            Some((handle, slot @ Slot::Reserved)) => {
                *slot = Slot::Live { vm, refs: 0 };
                Ok(handle)
            }
            _ => Err(Error::Invalid),
        }
    }

    /// Whether `handle` names a reserved slot: what [`VmTable::insert`] will ask. [`Error::Invalid`] if not.
    pub fn check_reserved(&self, handle: u16) -> Result<Handle> {
        match self.slot(handle) {
            Some((handle, Slot::Reserved)) => Ok(handle),
            _ => Err(Error::Invalid),
        }
    }

    fn take_ref(handle: Handle, slot: &mut Slot<T>) -> Result<HeldVm<T>> {
        match slot {
            Slot::Live { vm, refs } | Slot::Dying { vm, refs } => {
                *refs = refs.checked_add(1).ok_or(Error::Busy)?;
                Ok(HeldVm { handle, vm: *vm })
            }
            Slot::Free | Slot::Reserved => Err(Error::NotFound),
        }
    }

    /// Takes a reference to the VM of `handle`, live or dying. [`Error::NotFound`] if there is none.
    pub fn get(&mut self, handle: u16) -> Result<HeldVm<T>> {
        let (handle, slot) = self.slot_mut(handle).ok_or(Error::NotFound)?;
        Self::take_ref(handle, slot)
    }

    /// Takes a reference to a VM that can still get vCPUs. [`Error::NotFound`] if there is no live one.
    pub fn get_live(&mut self, handle: u16) -> Result<HeldVm<T>> {
        match self.slot_mut(handle) {
            Some((handle, slot @ Slot::Live { .. })) => Self::take_ref(handle, slot),
            _ => Err(Error::NotFound),
        }
    }

    /// Takes a reference to a normal VM, live or dying. [`Error::Invalid`] if there is none.
    pub fn get_normal(&mut self, handle: u16) -> Result<HeldVm<T>> {
        match self.slot_mut(handle) {
            Some((handle, slot)) if slot.kind() == Some(VmKind::Normal) => Self::take_ref(handle, slot),
            _ => Err(Error::Invalid),
        }
    }

    /// Takes a reference to a VM that is being torn down. [`Error::Invalid`] if there is none.
    pub fn get_dying(&mut self, handle: u16) -> Result<HeldVm<T>> {
        match self.slot_mut(handle) {
            Some((handle, slot @ Slot::Dying { .. })) => Self::take_ref(handle, slot),
            _ => Err(Error::Invalid),
        }
    }

    /// Gives a reference back.
    pub fn put(&mut self, held: HeldVm<T>) {
        self.drop_ref(held.handle);
    }

    fn drop_ref(&mut self, handle: Handle) {
        if let Some(Slot::Live { refs, .. } | Slot::Dying { refs, .. }) = self.slots.get_mut(handle.index()) {
            // References are counted in and out by the tokens alone, so this never is at zero.
            *refs = refs.saturating_sub(1);
        }
    }

    /// Publishes a complete vCPU of the VM behind `held`. [`Error::Invalid`] if `index` is beyond the VM's vCPUs or
    /// taken, [`Error::NotFound`] if the VM began to die meanwhile.
    pub fn register_vcpu(&mut self, held: &HeldVm<T>, index: u32, vcpu: T::Vcpu) -> Result<()> {
        match self.slots.get(held.handle.index()) {
            Some(Slot::Live { vm, .. }) => {
                if index >= vm.nr_vcpus() || vm.vcpu(index).is_some() {
                    return Err(Error::Invalid);
                }
                vm.publish_vcpu(index, vcpu);
                Ok(())
            }
            _ => Err(Error::NotFound),
        }
    }

    /// Loads a vCPU on the CPU of `cpu`. `None`, and nothing changed, if that CPU has one loaded, the VM is not live,
    /// it has no such vCPU, or the vCPU is loaded elsewhere.
    ///
    /// Where another vCPU of the VM ran on this CPU last, `flush` is called with the VM before this returns: it
    /// must invalidate this CPU's stage-1 entries of the VMID (VMALLE1) and its instruction cache (IALLU).
    pub fn load(
        &mut self,
        cpu: &mut CpuState<T>,
        handle: u16,
        index: u32,
        flush: impl FnOnce(T),
    ) -> Option<Loaded<T>> {
        if cpu.loaded.is_some() {
            return None;
        }
        let (handle, Slot::Live { vm, refs }) = self.slot_mut(handle)? else {
            return None;
        };
        let vm = *vm;
        if index >= vm.nr_vcpus() {
            return None;
        }
        let vcpu = vm.vcpu(index)?;
        if vm.loaded_on(vcpu).is_some() {
            return None;
        }
        *refs = refs.checked_add(1)?;
        vm.set_loaded_on(vcpu, Some(cpu.cpu));
        let loaded = Loaded {
            handle,
            index,
            vm,
            vcpu,
        };
        if cpu.note_run(handle, index) == LocalTlb::Flush {
            flush(vm);
        }
        cpu.loaded = Some(loaded);
        Some(loaded)
    }

    /// Unloads the vCPU of `cpu`, if any, and says which it was.
    pub fn unload(&mut self, cpu: &mut CpuState<T>) -> Option<Loaded<T>> {
        let loaded = cpu.loaded.take()?;
        loaded.vm.set_loaded_on(loaded.vcpu, None);
        self.drop_ref(loaded.handle);
        Some(loaded)
    }

    /// Begins to tear a VM down: it can be loaded no more. [`Error::Invalid`] if there is none, it is referred to, or
    /// it is dying already.
    pub fn start_teardown(&mut self, handle: u16) -> Result<()> {
        match self.slot_mut(handle) {
            Some((_, slot @ &mut Slot::Live { vm, refs: 0 })) => {
                *slot = Slot::Dying { vm, refs: 0 };
                Ok(())
            }
            _ => Err(Error::Invalid),
        }
    }

    /// Frees the slot of a dying VM that nobody refers to, [`Error::Invalid`] otherwise. `last_rites` runs before, still
    /// under the lock: it refuses while the VM has guest pages ([`Error::Busy`], and nothing changes), and must drop
    /// the VMID from every TLB, since the slot may be reserved again at once. The VM's memory is the caller's then.
    pub fn retire(&mut self, handle: u16, last_rites: impl FnOnce(T) -> Result<()>) -> Result<T> {
        match self.slot_mut(handle) {
            Some((_, slot @ &mut Slot::Dying { vm, refs: 0 })) => {
                last_rites(vm)?;
                *slot = Slot::Free;
                Ok(vm)
            }
            _ => Err(Error::Invalid),
        }
    }
}

impl<T: VmRef> Default for VmTable<T> {
    fn default() -> Self {
        Self::new()
    }
}
