// SPDX-License-Identifier: GPL-2.0-only
//! How EL2 takes the machine: `__pkvm_init`. It does the job of the kernel's `nvhe/setup.c`.
//!
//! EL2 first runs on tables that EL1 built. The boot CPU, while all others still sit in the stub, builds EL2's own tables
//! from memory that EL1 reserved, switches to them, and makes everything that they map EL2's. Until then the host is
//! trusted: its words are checked for sense, not for malice.
#![expect(
    unsafe_code,
    reason = "initialises shared state in place, and jumps to the other page tables"
)]

mod early;
mod space;

use core::sync::atomic::{AtomicU8, Ordering};

use pkvm_arch::alt::has_cap;
use pkvm_arch::entry::init;
use pkvm_core::carve::{Carve, carve};
use pkvm_core::mem::{self, Access, Host, Hyp, MemoryMap};
use pkvm_kernel::layout::*;
use pkvm_pgtable::{Granule, HypS1, Stage2Config, Stage2Features, VtcrInputs};
use pkvm_sync::{Held, Root};
use pkvm_types::{Error, HypVa, MAX_VMS, PAGE_SHIFT, Pfn, PfnRange, Phys, Result};

use crate::cell::BootCell;
use crate::hw::{HW, RECORDS};
use crate::mm::PrivateVa;
use crate::state::{
    self, GUEST_CONFIG, HOST, HOST_ROOT, HOST_VTCR, HYP, MEMORY, VMS, with_host, with_host_hyp,
};
use crate::{host, statics, words};

use space::{Built, Space};

/// How far `__pkvm_init` came. It runs once.
static STARTED: AtomicU8 = AtomicU8::new(0);

/// What the first half of the boot leaves to the second, which runs on another stack.
struct Handover {
    carve: Carve,
    s1: HypS1,
    tables_used: u64,
    private: PrivateVa,
    quarter: (HypVa, u64),
}

static HANDOVER: BootCell<Option<Handover>> = BootCell::new(None);

/// The granule of all tables: the kernel's page size.
pub fn granule() -> Result<Granule> {
    Granule::from_shift(PAGE_SHIFT).ok_or(Error::Invalid)
}

/// Hypercall 1. Returns only where it fails before the switch; afterwards the host finds the result in its x1.
pub fn pkvm_init(phys: u64, size: u64, va_bits: u32) -> Result<()> {
    let phys = Phys::new(phys);
    if !phys.is_page_aligned() || !Phys::new(size).is_page_aligned() {
        return Err(Error::Invalid);
    }
    if STARTED.swap(1, Ordering::Relaxed) != 0 {
        return Err(Error::Perm);
    }
    let root = prepare(PfnRange::checked(Pfn::of(phys), size >> PAGE_SHIFT)?, va_bits)?;

    let stack = HypVa::new(statics::init_params().stack_hyp_va());
    let code = words::linear_phys(init::switch_code());
    // SAFETY: the new tables map everything that the old ones did of EL2, `finalise` and the page of this code among it,
    // and the new stack.
    unsafe { init::switch_tables(code, root, stack, finalise) }
}

/// Builds EL2's tables. Yields their root.
fn prepare(memory: PfnRange, va_bits: u32) -> Result<Phys> {
    // SAFETY: this is the boot CPU in `__pkvm_init`, once, and the others are in the stub.
    describe_memory(unsafe { MEMORY.init() })?;
    let regions = statics::memory_regions().map(|region| (region.base, region.bytes));
    let carve = carve(
        memory,
        regions,
        8 * MAX_VMS as u64,
        SELFTEST_PAGES,
        FFA_PROXY_PAGES,
    )?;
    for pool in [
        carve.selftest,
        Some(carve.records),
        Some(carve.vm_table),
        Some(carve.ffa),
    ]
    .into_iter()
    .flatten()
    {
        pool.iter().for_each(|pfn| words::zero_page(pfn.phys()));
    }

    let mut space = Space::new(carve.hyp_tables, va_bits)?;
    space.map_idmap()?;
    space.map_vectors()?;
    space.map_records(carve.records)?;
    space.map_image()?;
    space.map_linear(memory)?;
    space.map_cpus()?;
    let Built {
        s1,
        tables_used,
        records,
        private,
        quarter,
    } = space.finish();
    let root = s1.root();
    // SAFETY: as above.
    unsafe {
        *RECORDS.init() = records.raw();
        *HANDOVER.init() = Some(Handover {
            carve,
            s1,
            tables_used,
            private,
            quarter,
        });
    }

    for cpu in 0..statics::hyp_nr_cpus.get() as usize {
        let params = statics::init_params_of(cpu).ok_or(Error::Invalid)?;
        params.set_pgd_pa(root.raw());
        // CPUs read them with their MMU off.
        pkvm_arch::cache::dcache_clean_inval_poc(HypVa::new(params.addr()), INIT_PARAMS_SIZE);
    }
    Ok(root)
}

fn describe_memory(map: &mut MemoryMap) -> Result<()> {
    for region in statics::memory_regions() {
        let access = if region.is_nomap() {
            Access::NoMap
        } else {
            Access::Normal
        };
        map.push(Phys::new(region.base), region.bytes, access)?;
    }
    let start = words::linear_phys(HypVa::new((&raw const pkvm_kernel::__hyp_text_start) as u64));
    let end = words::linear_phys(HypVa::new((&raw const pkvm_kernel::__hyp_text_end) as u64));
    let first = Pfn::of(start);
    let last = Pfn::of(Phys::new(end.raw().checked_sub(1).ok_or(Error::Invalid)?));
    let count = last
        .raw()
        .checked_sub(first.raw())
        .and_then(|count| count.checked_add(1))
        .ok_or(Error::Invalid)?;
    map.set_hyp_text(PfnRange::checked(first, count)?);
    Ok(())
}

/// The second half of `__pkvm_init`, on EL2's own tables and the CPU's new stack.
extern "C" fn finalise() -> ! {
    let mut held = Held::at_trap_entry();
    let result = take_over(&mut held);
    let context = statics::host_data().ctxt();
    context.set_reg(1, Error::status(result).cast_unsigned());
    host::enter(context)
}

fn take_over(held: &mut Held<Root>) -> Result<()> {
    let (selftest, ffa, top) = establish(held)?;
    crate::selftest::run(held, selftest)?;
    crate::ffa::init(held, ffa)?;
    // Only now may the host lose its privileges, and make VMs.
    // SAFETY: this is the boot CPU in `__pkvm_init`, once, and the others are in the stub.
    unsafe { *HOST_ROOT.init() = Some(top) };
    VMS.lock(held).open();
    Ok(())
}

/// Takes the memory. Yields what of it is for the self-test and for the FF-A proxy, and the root of the host's stage 2. Its frame is large,
/// and must not lie under the self-test's.
#[inline(never)]
fn establish(held: &mut Held<Root>) -> Result<(Option<PfnRange>, PfnRange, Phys)> {
    // SAFETY: as in `prepare`; this is the only other place that uses it.
    let handover = unsafe { HANDOVER.init() }.take().ok_or(Error::Invalid)?;
    let Handover {
        carve,
        s1,
        tables_used,
        private,
        quarter,
    } = handover;

    let used = carve
        .hyp_tables
        .start()
        .checked_add(tables_used)
        .ok_or(Error::NoMemory)?;
    let left = carve
        .hyp_tables
        .count()
        .checked_sub(tables_used)
        .ok_or(Error::NoMemory)?;
    let pool = if left == 0 {
        None
    } else {
        Some(PfnRange::checked(used, left)?)
    };
    space::recount(&s1);
    {
        let mut hyp = HYP.lock(held);
        hyp.hyp = Some(Hyp::create(&HW, s1, pool));
        hyp.private = private;
    }

    let config = stage2_config()?;
    let (root, pool) = split_root(carve.host_tables, config.host.root_pages())?;
    root.iter().for_each(|pfn| words::zero_page(pfn.phys()));
    let host = Host::create(&HW, config.host, root, pool)?;
    let top = host.regime().root;
    *HOST.lock(held) = Some(host);
    // SAFETY: this is the boot CPU in `__pkvm_init`, once, and the others are in the stub.
    unsafe {
        *HOST_VTCR.init() = config.vtcr;
        *GUEST_CONFIG.init() = Some(config.guest);
        MEMORY.init().set_ipa_bits(config.host.ipa_bits());
    }

    for cpu in 0..statics::hyp_nr_cpus.get() as u32 {
        let slot = {
            let mut hyp = HYP.lock(held);
            let va = hyp.private.take(pkvm_types::PAGE_SIZE, pkvm_types::PAGE_SIZE)?;
            hyp.hyp.as_mut().ok_or(Error::Perm)?.make_window(&HW, va)?
        };
        // SAFETY: as above.
        unsafe { state::init_cpu(cpu, slot) }?;
    }

    with_host_hyp(held, |host, hyp| mem::fix_boot_ownership(&HW, host, hyp))?;
    own_stacks(held)?;
    with_host_hyp(held, |_, hyp| {
        mem::check_private_range(&HW, hyp, quarter.0, quarter.1)
    })?;
    Ok((carve.selftest, carve.ffa, top))
}

/// The stacks are mapped in the private range, not in the linear map.
fn own_stacks(held: &mut Held<Root>) -> Result<()> {
    for cpu in 0..statics::hyp_nr_cpus.get() as usize {
        let params = statics::init_params_of(cpu).ok_or(Error::Invalid)?;
        let pfn = Pfn::of(Phys::new(params.stack_pa()));
        with_host(held, |host, _| mem::own_boot_page(&HW, host, pfn))?;
    }
    Ok(())
}

struct Stage2Configs {
    vtcr: u64,
    host: Stage2Config,
    guest: Stage2Config,
}

fn stage2_config() -> Result<Stage2Configs> {
    let granule = granule()?;
    let inputs = VtcrInputs {
        granule,
        mmfr0: statics::id_aa64mmfr0_el1_sys_val.get(),
        mmfr1: statics::id_aa64mmfr1_el1_sys_val.get(),
        lpa2: has_cap::<{ CAP_HAS_LPA2 as u16 }>(),
        pa52: CONFIG_PA_BITS == 52,
        hardware_af: CONFIG_HW_AFDBM != 0 && !has_cap::<{ CAP_WORKAROUND_AMPERE_AC03_CPU_38 as u16 }>(),
    };
    let vtcr = inputs.vtcr(inputs.phys_shift());
    let mut features = Stage2Features::empty();
    features.set(Stage2Features::FWB, has_cap::<{ CAP_HAS_STAGE2_FWB as u16 }>());
    features.set(Stage2Features::XNX, has_cap::<{ CAP_HAS_XNX as u16 }>());
    let mut guest = features | Stage2Features::MAINTAIN_CACHES;
    guest.set(Stage2Features::DIC, has_cap::<{ CAP_HAS_CACHE_DIC as u16 }>());
    Ok(Stage2Configs {
        vtcr,
        host: Stage2Config::from_vtcr(vtcr, granule, features | Stage2Features::AS_S1)?,
        guest: Stage2Config::from_vtcr(vtcr, granule, guest)?,
    })
}

/// Splits `pages` into `root_pages` pages that are aligned to their total size, and the rest behind them.
fn split_root(pages: PfnRange, root_pages: u64) -> Result<(PfnRange, PfnRange)> {
    let start = pages
        .start()
        .raw()
        .checked_next_multiple_of(root_pages)
        .ok_or(Error::NoMemory)?;
    let root = PfnRange::checked(Pfn::checked(start)?, root_pages)?;
    let rest = Pfn::checked(root.last().raw() + 1)?;
    let left = pages
        .last()
        .raw()
        .checked_sub(rest.raw())
        .and_then(|left| left.checked_add(1))
        .ok_or(Error::NoMemory)?;
    Ok((root, PfnRange::checked(rest, left)?))
}
