// SPDX-License-Identifier: GPL-2.0-only
//! What EL2 keeps between traps, each behind its lock or set once at boot. The locks are taken in the order VM table,
//! host, then EL2's own space or a VM; the compiler enforces it (see `pkvm_sync`).
#![expect(
    unsafe_code,
    reason = "per-CPU Rust state is reached through its copy's address"
)]

use core::cell::{Cell, UnsafeCell};

use pkvm_arch::percpu;
use pkvm_core::mem::{Host, Hyp, MemoryMap};
use pkvm_core::vm_table::{CpuId, CpuState, VmTable};
use pkvm_pgtable::{Slot, Stage2Config};
use pkvm_sync::{Before, Held, HostMmu, HypMmu, Level, Lock, VmTable as VmTableLevel};
use pkvm_types::{Error, Phys, Result};

use crate::cell::BootCell;
use crate::mm::PrivateVa;
use crate::vm::VmPtr;

/// EL2's own translation, and the part of its address space that is handed out piece by piece.
pub struct HypSpace {
    /// The tables and what of memory they map; `None` before `__pkvm_init`.
    pub hyp: Option<Hyp>,
    /// The private range.
    pub private: PrivateVa,
}

/// The VM table.
pub static VMS: Lock<VmTable<VmPtr>, VmTableLevel> = Lock::new(VmTable::new());
/// The host's stage 2; `None` before `__pkvm_init`.
pub static HOST: Lock<Option<Host>, HostMmu> = Lock::new(None);
/// EL2's stage 1.
pub static HYP: Lock<HypSpace, HypMmu> = Lock::new(HypSpace {
    hyp: None,
    private: PrivateVa::new(),
});
/// The memory map.
pub static MEMORY: BootCell<MemoryMap> = BootCell::new(MemoryMap::new(0));
/// The form of every guest's stage 2; `None` before `__pkvm_init`.
pub static GUEST_CONFIG: BootCell<Option<Stage2Config>> = BootCell::new(None);
/// The top-level table of the host's stage 2; `None` until `__pkvm_init` has succeeded, so that an ownership that was only
/// half established is never enforced as if it were whole.
pub static HOST_ROOT: BootCell<Option<Phys>> = BootCell::new(None);
/// VTCR_EL2 of the host, which every VM shares; 0 before `__pkvm_init`.
pub static HOST_VTCR: BootCell<u64> = BootCell::new(0);

/// Runs `f` with the host's lock held. [`Error::Perm`] where EL2 has not been initialised for protected mode.
pub fn with_host<O, R>(
    held: &mut Held<O>,
    f: impl FnOnce(&mut Host, &mut Held<HostMmu>) -> Result<R>,
) -> Result<R>
where
    O: Level + Before<HostMmu>,
{
    let mut guard = HOST.lock(held);
    let (host, held) = guard.parts();
    f(host.as_mut().ok_or(Error::Perm)?, held)
}

/// Runs `f` with the host's and EL2's own lock held. [`Error::Perm`] as for [`with_host`].
pub fn with_host_hyp<O, R>(held: &mut Held<O>, f: impl FnOnce(&mut Host, &mut Hyp) -> Result<R>) -> Result<R>
where
    O: Level + Before<HostMmu>,
{
    with_host(held, |host, held| {
        f(host, HYP.lock(held).hyp.as_mut().ok_or(Error::Perm)?)
    })
}

/// What belongs to one CPU. It is only used by that CPU, with exceptions masked, and so by one borrower at a time.
pub struct PerCpu {
    vcpus: UnsafeCell<CpuState<VmPtr>>,
    fixmap: UnsafeCell<Option<Slot>>,
    number: Cell<u32>,
    finalised: Cell<bool>,
}

impl PerCpu {
    /// The CPU's number in the kernel's order; `u32::MAX` before `__pkvm_init`.
    pub fn number(&self) -> u32 {
        self.number.get()
    }

    /// Notes that the host has asked for its stage 2 on this CPU, and tells whether it had asked before.
    pub fn finalise(&self) -> bool {
        self.finalised.replace(true)
    }
}

/// The template of [`PerCpu`], of which each CPU uses its copy.
#[repr(transparent)]
struct Template(PerCpu);

// SAFETY: nobody uses the template itself, and each copy is used by its CPU alone.
unsafe impl Sync for Template {}

#[unsafe(link_section = ".data..percpu")]
static PER_CPU: Template = Template(PerCpu {
    vcpus: UnsafeCell::new(CpuState::new(CpuId(u32::MAX))),
    fixmap: UnsafeCell::new(None),
    number: Cell::new(u32::MAX),
    finalised: Cell::new(false),
});

/// This CPU's own state.
pub fn this_cpu() -> &'static PerCpu {
    // SAFETY: EL1 made a copy of the template for each CPU, and it stays mapped for ever. The reference is shared, and
    // what changes lies in cells that only this CPU uses.
    unsafe { &*percpu::this_cpu_ptr((&raw const PER_CPU).cast::<PerCpu>()) }
}

/// Tells `cpu` its number and gives it its fixmap window. [`Error::Invalid`] where there is no such CPU.
///
/// # Safety
/// The caller is the boot CPU within `__pkvm_init`, and no other CPU runs at EL2 beyond the vectors.
pub unsafe fn init_cpu(cpu: u32, fixmap: Slot) -> Result<()> {
    let copy = crate::statics::copy_of_cpu((&raw const PER_CPU).cast::<PerCpu>(), cpu as usize)
        .ok_or(Error::Invalid)?;
    // SAFETY: the copy is mapped, and by the contract nobody uses it while the boot CPU writes it.
    unsafe {
        (*copy).number.set(cpu);
        (*copy).fixmap.get().write(Some(fixmap));
        (*(*copy).vcpus.get()).set_cpu(CpuId(cpu));
    }
    Ok(())
}

/// Runs `f` with this CPU's vCPU state.
pub fn with_vcpus<R>(f: impl FnOnce(&mut CpuState<VmPtr>) -> R) -> R {
    // SAFETY: only this CPU reaches the cell, exceptions are masked at EL2, and no `f` calls back in here: it is a
    // leaf in each of its users.
    f(unsafe { &mut *this_cpu().vcpus.get() })
}

/// This CPU's fixmap window; `None` before `__pkvm_init`.
pub fn fixmap() -> Option<&'static Slot> {
    // SAFETY: the cell is written once, before this CPU reads it, and shared references to it never end.
    unsafe { (*this_cpu().fixmap.get()).as_ref() }
}
