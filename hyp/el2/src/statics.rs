// SPDX-License-Identifier: GPL-2.0-only
//! The variables that EL1 knows by name, each in the section that EL1 expects of it:
//!
//! * zero-initialised ones are cleaned to memory by EL1 before EL2 starts, since some are read with the MMU off;
//! * `ro_after_init` ones are written by EL1 through the kernel image during boot, and read-only at EL2;
//! * per-CPU ones are a template that EL1 copies for each CPU; only the copies are ever used.
//!
//! Everything here is written by somebody else, so it is reached through volatile accesses and never as a plain value.
#![expect(
    unsafe_code,
    reason = "symbols that the kernel shares by name, and the cells around them"
)]

use core::cell::UnsafeCell;

use pkvm_arch::alt::kern_hyp_va;
use pkvm_arch::percpu;
use pkvm_kernel::layout::*;
use pkvm_kernel::{HostData, InitParams};
use pkvm_types::HypVa;

/// A variable that EL1 writes before EL2 trusts nothing from it any more.
#[repr(transparent)]
pub struct Kernel<T>(UnsafeCell<T>);

// SAFETY: the inner value is only reached by volatile reads of whole machine words, and its writers are EL1 during
// boot, before any of EL2's code reads it.
unsafe impl<T> Sync for Kernel<T> {}

impl<T: Copy> Kernel<T> {
    const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }
    /// The value as EL1 left it.
    pub fn get(&self) -> T {
        // SAFETY: the cell is always initialised, and every `T` used here is an integer or an array of integers.
        unsafe { self.0.get().read_volatile() }
    }
    /// Where the variable is.
    pub const fn as_ptr(&self) -> *mut T {
        self.0.get()
    }
}

impl<const N: usize> Kernel<[u64; N]> {
    /// Element `index`, `None` past the end.
    pub fn at(&self, index: usize) -> Option<u64> {
        if index >= N {
            return None;
        }
        // SAFETY: the index lies within the array that the cell holds.
        Some(unsafe { self.0.get().cast::<u64>().add(index).read_volatile() })
    }
}

const CPUS: usize = CONFIG_NR_CPUS as usize;

macro_rules! kernel_bss {
    ($( $(#[$doc:meta])* $name:ident: $t:ty; )*) => {
        $( $(#[$doc])* #[unsafe(no_mangle)] pub static $name: Kernel<$t> = Kernel::new(0); )*
    };
}

kernel_bss! {
    /// Entries of [`hyp_memory`] in use.
    hyp_memblock_nr: u32;
    /// CPUs that can ever be.
    hyp_nr_cpus: u64;
    /// List registers of the GICv3 CPU interface.
    hyp_gicv3_nr_lr: u32;
    /// How the instruction cache is indexed and tagged.
    __icache_flags: u64;
    /// Sanitised ID_AA64PFR0_EL1.
    id_aa64pfr0_el1_sys_val: u64;
    /// Sanitised ID_AA64PFR1_EL1.
    id_aa64pfr1_el1_sys_val: u64;
    /// Sanitised ID_AA64PFR2_EL1.
    id_aa64pfr2_el1_sys_val: u64;
    /// Sanitised ID_AA64ISAR0_EL1.
    id_aa64isar0_el1_sys_val: u64;
    /// Sanitised ID_AA64ISAR1_EL1.
    id_aa64isar1_el1_sys_val: u64;
    /// Sanitised ID_AA64ISAR2_EL1.
    id_aa64isar2_el1_sys_val: u64;
    /// Sanitised ID_AA64MMFR0_EL1.
    id_aa64mmfr0_el1_sys_val: u64;
    /// Sanitised ID_AA64MMFR1_EL1.
    id_aa64mmfr1_el1_sys_val: u64;
    /// Sanitised ID_AA64MMFR2_EL1.
    id_aa64mmfr2_el1_sys_val: u64;
    /// Sanitised ID_AA64SMFR0_EL1.
    id_aa64smfr0_el1_sys_val: u64;
}

macro_rules! fgt_masks {
    ($($name:ident)*) => {
        $(
            /// Masks of a fine-grained trap register. EL1 fills them in; nothing at EL2 reads them.
            #[unsafe(no_mangle)]
            pub static $name: Kernel<[u64; FGT_MASKS_SIZE as usize / 8]> = Kernel::new([0; FGT_MASKS_SIZE as usize / 8]);
        )*
    };
}

fgt_masks! {
    hfgrtr_masks hfgwtr_masks hfgitr_masks hdfgrtr_masks hdfgwtr_masks hafgrtr_masks hfgrtr2_masks hfgwtr2_masks
    hfgitr2_masks hdfgrtr2_masks hdfgwtr2_masks ich_hfgrtr_masks ich_hfgwtr_masks ich_hfgitr_masks
}

const MEMORY_WORDS: usize = (HYP_MEMBLOCK_REGIONS * MEMBLOCK_REGION_SIZE / 8) as usize;

/// The memory map: `struct memblock_region[HYP_MEMBLOCK_REGIONS]`.
#[unsafe(no_mangle)]
pub static hyp_memory: Kernel<[u64; MEMORY_WORDS]> = Kernel::new([0; MEMORY_WORDS]);

/// One region of the memory map.
#[derive(Clone, Copy)]
pub struct MemoryRegion {
    /// Physical address of the first byte.
    pub base: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// The kernel's `enum memblock_flags`.
    pub flags: u64,
}

impl MemoryRegion {
    /// Whether the kernel keeps the region out of its linear map, so that it is not ordinary memory.
    pub const fn is_nomap(self) -> bool {
        self.flags & MEMBLOCK_NOMAP != 0
    }
}

/// The regions of the memory map, in the kernel's order.
pub fn memory_regions() -> impl Iterator<Item = MemoryRegion> + Clone {
    const _: () = assert!(MEMBLOCK_REGION_SIZE.is_multiple_of(8) && MEMBLOCK_REGION_BASE.is_multiple_of(8));
    const _: () = assert!(MEMBLOCK_REGION_FLAGS.is_multiple_of(8) && MEMBLOCK_REGION_BYTES.is_multiple_of(8));
    let count = u64::from(hyp_memblock_nr.get()).min(HYP_MEMBLOCK_REGIONS);
    (0..count).map(|n| {
        let word = |field: u64| {
            hyp_memory
                .at(((n * MEMBLOCK_REGION_SIZE + field) / 8) as usize)
                .unwrap_or(0)
        };
        MemoryRegion {
            base: word(MEMBLOCK_REGION_BASE),
            bytes: word(MEMBLOCK_REGION_BYTES),
            // The flags are a C enum of 32 bits; what shares their word is another member or padding.
            flags: word(MEMBLOCK_REGION_FLAGS) & 0xffff_ffff,
        }
    })
}

macro_rules! ro_after_init {
    ($( $(#[$doc:meta])* $name:ident: $t:ty = $init:expr; )*) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            #[unsafe(link_section = ".data..ro_after_init")]
            pub static $name: Kernel<$t> = Kernel::new($init);
        )*
    };
}

ro_after_init! {
    /// Kernel linear address of each CPU's copy of the per-CPU template.
    kvm_arm_hyp_percpu_base: [u64; CPUS] = [0; CPUS];
    /// Physical address less EL2 linear address, as the linear map has it.
    hyp_physvirt_offset: u64 = 0;
    /// MPIDR_EL1 of each CPU that was online when KVM started.
    hyp_cpu_logical_map: [u64; CPUS] = [INVALID_HWID; CPUS];
    /// What PSCI the host uses: `struct kvm_host_psci_config`.
    kvm_host_psci_config: [u32; PSCI_CONFIG_SIZE as usize / 4] = [0; PSCI_CONFIG_SIZE as usize / 4];
    /// The largest vector length of the host, in bytes.
    kvm_host_sve_max_vl: u32 = 0;
    /// Width of a VMID.
    kvm_arm_vmid_bits: u32 = 0;
}

/// Bytes in the per-CPU template.
#[repr(C, align(64))]
pub struct Template<const N: usize>(UnsafeCell<[u8; N]>);

// SAFETY: nothing reads or writes the template itself; each CPU uses its own copy.
unsafe impl<const N: usize> Sync for Template<N> {}

impl<const N: usize> Template<N> {
    const fn zero() -> Self {
        Self(UnsafeCell::new([0; N]))
    }
    /// Where this CPU's copy is.
    pub fn this_cpu(&self) -> *mut u8 {
        percpu::this_cpu_ptr(self.0.get().cast::<u8>())
    }
    /// Where the copy of `cpu` is, `None` where there is no such CPU.
    pub fn of_cpu(&self, cpu: usize) -> Option<*mut u8> {
        copy_of_cpu(self.0.get().cast::<u8>(), cpu)
    }
}

/// Where `cpu` has its copy of the per-CPU variable whose template is at `template`; `None` where there is no such CPU.
pub fn copy_of_cpu<T>(template: *const T, cpu: usize) -> Option<*mut T> {
    let area = kern_hyp_va(kvm_arm_hyp_percpu_base.at(cpu)?);
    if cpu as u64 >= hyp_nr_cpus.get() {
        return None;
    }
    Some(percpu::copy_at(
        template,
        HypVa::new((&raw const pkvm_kernel::__per_cpu_start) as u64),
        area,
    ))
}

macro_rules! per_cpu {
    ($( $(#[$doc:meta])* $name:ident: $bytes:expr; )*) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            #[unsafe(link_section = ".data..percpu")]
            pub static $name: Template<{ $bytes as usize }> = Template::zero();
        )*
    };
}

per_cpu! {
    /// EL2 address of the vectors that catch this CPU's guest.
    kvm_hyp_vector: 8;
    /// EL2's own registers while a guest runs: `struct kvm_cpu_context`.
    kvm_hyp_ctxt: CTXT_SIZE;
    /// `struct kvm_host_data`.
    kvm_host_data: HOST_DATA_SIZE;
    /// `struct kvm_nvhe_init_params`.
    kvm_init_params: INIT_PARAMS_SIZE;
    /// Where EL1 starts to unwind after a panic of EL2.
    kvm_stacktrace_info: STACKTRACE_INFO_SIZE;
    /// Where EL2 runs after its stack overflowed.
    overflow_stack: OVERFLOW_STACK_SIZE;
    /// The return addresses that EL2 found on its stack when it panicked, for EL1 to print in protected mode. Of no
    /// size where the kernel is built without.
    pkvm_stacktrace: PKVM_STACKTRACE_SIZE;
}

/// This CPU's `struct kvm_host_data`.
pub fn host_data() -> HostData {
    // SAFETY: the per-CPU copy is mapped at EL2 for ever, aligned like its template, and never null.
    unsafe { HostData::from_raw(core::ptr::NonNull::new_unchecked(kvm_host_data.this_cpu())) }
}

/// The `struct kvm_host_data` of `cpu`, `None` where there is no such CPU.
pub fn host_data_of(cpu: usize) -> Option<HostData> {
    let ptr = core::ptr::NonNull::new(kvm_host_data.of_cpu(cpu)?)?;
    // SAFETY: as in `init_params_of`.
    Some(unsafe { HostData::from_raw(ptr) })
}

/// This CPU's initialisation parameters.
pub fn init_params() -> InitParams {
    // SAFETY: as in `host_data`.
    unsafe { InitParams::from_raw(core::ptr::NonNull::new_unchecked(kvm_init_params.this_cpu())) }
}

/// The initialisation parameters of `cpu`, `None` where there is no such CPU.
pub fn init_params_of(cpu: usize) -> Option<InitParams> {
    let ptr = core::ptr::NonNull::new(kvm_init_params.of_cpu(cpu)?)?;
    // SAFETY: EL1 made one copy of the template for each CPU below `hyp_nr_cpus`, mapped at EL2 for ever.
    Some(unsafe { InitParams::from_raw(ptr) })
}

/// Whether one physical page can sit in several places of the instruction cache: the kernel's `ICACHEF_ALIASING`.
pub fn icache_is_aliasing() -> bool {
    const ALIASING_BIT: u64 = 1 << 0;
    __icache_flags.get() & ALIASING_BIT != 0
}
