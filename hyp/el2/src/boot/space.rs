// SPDX-License-Identifier: GPL-2.0-only
//! EL2's address space as the boot builds it.
//!
//! One half of the addresses is the linear map: the kernel's own, with its top bits replaced. The other half holds the
//! idmap page; of its two quarters, the one without that page is EL2's to use: the lower half of the quarter for private
//! mappings, handed out upwards, the upper half for the page records.

use pkvm_arch::alt::{has_cap, kern_hyp_va};
use pkvm_core::carve::record_pages;
use pkvm_core::machine::Machine;
use pkvm_kernel::layout::*;
use pkvm_pgtable::{Blocks, HypAttrs, HypConfig, HypFormat, HypS1};
use pkvm_types::{Error, HypVa, PAGE_MASK, PAGE_SIZE, Perms, Pfn, PfnRange, Phys, Result, page_align};

use super::early::EarlyTables;
use crate::hw::HW;
use crate::mm::PrivateVa;
use crate::{guest_config, statics, vectors, words};

/// The space under construction.
pub struct Space {
    s1: HypS1,
    tables: EarlyTables,
    private: PrivateVa,
    records: HypVa,
    quarter_end: HypVa,
}

/// The finished space.
pub struct Built {
    /// The tables.
    pub s1: HypS1,
    /// How many pages of the pool they took.
    pub tables_used: u64,
    /// Where the record of frame 0 would be.
    pub records: HypVa,
    /// The rest of the private range.
    pub private: PrivateVa,
    /// The quarter of private mappings and page records: where it begins, and its length.
    pub quarter: (HypVa, u64),
}

const CODE: HypAttrs = HypAttrs::normal(Perms::R.union(Perms::PX));
const DATA: HypAttrs = HypAttrs::normal(Perms::RW);
const READ_ONLY: HypAttrs = HypAttrs::normal(Perms::R);

// The attribute indices that pgtable writes are those of the kernel's MAIR.
const _: () = assert!(MT_NORMAL == 0 && MT_NORMAL_NC == 2 && MT_DEVICE_nGnRE == 4);

impl Space {
    /// An empty space of `va_bits` bits, whose tables come from `pool`.
    pub fn new(pool: PfnRange, va_bits: u32) -> Result<Self> {
        let format = if has_cap::<{ CAP_KVM_HVHE as u16 }>() {
            HypFormat::Hvhe
        } else {
            HypFormat::Nvhe
        };
        let lpa2 = has_cap::<{ CAP_HAS_LPA2 as u16 }>();
        let guarded = CONFIG_BTI_KERNEL != 0 && has_cap::<{ CAP_BTI as u16 }>();
        let config = HypConfig::new(super::granule()?, va_bits, format, lpa2, guarded)?;
        let mut tables = EarlyTables::new(pool);
        let s1 = HypS1::new(config, tables.page()?)?;

        let bit = |n: u32| {
            va_bits
                .checked_sub(n)
                .and_then(|n| 1u64.checked_shl(n))
                .ok_or(Error::Invalid)
        };
        let idmap = words::linear_phys(HypVa::new(
            (&raw const pkvm_kernel::__hyp_idmap_text_start) as u64,
        ));
        let base = (idmap.raw() & bit(2)?) ^ bit(2)?;
        let records = base | bit(3)?;
        let end = base.checked_add(bit(2)?).ok_or(Error::Invalid)?;
        let mut private = PrivateVa::new();
        private.init(HypVa::new(base), HypVa::new(records));
        Ok(Self {
            s1,
            tables,
            private,
            records: HypVa::new(records),
            quarter_end: HypVa::new(end),
        })
    }

    fn map(&mut self, va: u64, phys: Phys, len: u64, attrs: HypAttrs) -> Result<()> {
        self.s1.map(
            &mut self.tables,
            HypVa::new(va),
            len,
            phys,
            attrs,
            Blocks::PagesOnly,
        )
    }

    /// Maps the whole pages around [`start`, `end`) of the linear map at their own address.
    fn map_range(&mut self, start: u64, end: u64, attrs: HypAttrs) -> Result<()> {
        let start = start & PAGE_MASK;
        let end = page_align(end).ok_or(Error::Invalid)?;
        let len = end.checked_sub(start).ok_or(Error::Invalid)?;
        if len == 0 {
            return Ok(());
        }
        self.map(start, words::linear_phys(HypVa::new(start)), len, attrs)
    }

    /// The page that runs with the MMU off, at its physical address.
    pub fn map_idmap(&mut self) -> Result<()> {
        let start = words::linear_phys(HypVa::new(
            (&raw const pkvm_kernel::__hyp_idmap_text_start) as u64,
        ))
        .page();
        let end = words::linear_phys(HypVa::new((&raw const pkvm_kernel::__hyp_idmap_text_end) as u64));
        let end = page_align(end.raw()).ok_or(Error::Invalid)?;
        self.map(
            start.raw(),
            start,
            end.checked_sub(start.raw()).ok_or(Error::Invalid)?,
            CODE,
        )
    }

    /// A second address for the hardened vectors, where the CPUs need the first hidden (Spectre v3a).
    pub fn map_vectors(&mut self) -> Result<()> {
        if !has_cap::<{ CAP_SPECTRE_V3A as u16 }>() {
            return Ok(());
        }
        let vectors = vectors::hardened();
        let phys = words::linear_phys(HypVa::new(vectors));
        let len = page_align(phys.page_offset() + BP_HARDEN_HYP_VECS_SIZE).ok_or(Error::Invalid)?;
        let va = self.private.take(len, PAGE_SIZE)?;
        self.map(va.raw(), phys.page(), len, CODE)?;
        vectors::set_indirect(va.raw() + phys.page_offset());
        Ok(())
    }

    /// The page records: an array over all frames, of which only the parts for memory are backed, by `backing`.
    pub fn map_records(&mut self, backing: PfnRange) -> Result<()> {
        let mut next = backing.start();
        let mut mapped = 0;
        for region in statics::memory_regions() {
            let (first, end) = record_pages(region.base, region.bytes).ok_or(Error::Invalid)?;
            // Two regions may have records in one page.
            let first = first.max(mapped);
            let Some(count) = end.checked_sub(first).filter(|count| *count != 0) else {
                continue;
            };
            mapped = end;
            let at = first
                .checked_mul(PAGE_SIZE)
                .and_then(|offset| self.records.checked_add(offset));
            let at = at.filter(|at| *at < self.quarter_end).ok_or(Error::NoMemory)?;
            if next.raw() + (count - 1) > backing.last().raw() {
                return Err(Error::NoMemory);
            }
            self.map(at.raw(), next.phys(), count * PAGE_SIZE, DATA)?;
            next = next.checked_add(count).ok_or(Error::NoMemory)?;
        }
        Ok(())
    }

    /// EL2's part of the kernel image.
    pub fn map_image(&mut self) -> Result<()> {
        use pkvm_kernel::{
            __hyp_bss_end, __hyp_bss_start, __hyp_data_end, __hyp_data_start, __hyp_rodata_end,
            __hyp_rodata_start, __hyp_text_end, __hyp_text_start,
        };
        let sections = [
            (&raw const __hyp_text_start, &raw const __hyp_text_end, CODE),
            (&raw const __hyp_data_start, &raw const __hyp_data_end, DATA),
            (
                &raw const __hyp_rodata_start,
                &raw const __hyp_rodata_end,
                READ_ONLY,
            ),
            (&raw const __hyp_bss_start, &raw const __hyp_bss_end, DATA),
        ];
        for (start, end, attrs) in sections {
            self.map_range(start as u64, end as u64, attrs)?;
        }
        Ok(())
    }

    /// Memory of EL2's, in the linear map.
    pub fn map_linear(&mut self, memory: PfnRange) -> Result<()> {
        let start = words::linear_va(memory.start().phys()).raw();
        self.map(
            start,
            memory.start().phys(),
            memory.bytes().ok_or(Error::Invalid)?,
            DATA,
        )
    }

    /// Each CPU's per-CPU data, stack and host SVE buffer.
    pub fn map_cpus(&mut self) -> Result<()> {
        let template =
            (&raw const pkvm_kernel::__per_cpu_end as u64) - (&raw const pkvm_kernel::__per_cpu_start as u64);
        for cpu in 0..statics::hyp_nr_cpus.get() as usize {
            let area = kern_hyp_va(statics::kvm_arm_hyp_percpu_base.at(cpu).ok_or(Error::Invalid)?).raw();
            self.map_range(area, area.checked_add(template).ok_or(Error::Invalid)?, DATA)?;
            let params = statics::init_params_of(cpu).ok_or(Error::Invalid)?;
            let top = self.map_stack(Phys::new(params.stack_pa()))?;
            params.set_stack_hyp_va(top);
            self.map_host_sve(cpu)?;
        }
        Ok(())
    }

    /// A stack of one page, above a page that is not mapped. The vectors tell an overflow by one bit of the stack pointer,
    /// so both together are aligned to their size.
    fn map_stack(&mut self, phys: Phys) -> Result<u64> {
        const STACK: u64 = 1 << NVHE_STACK_SHIFT;
        let base = self.private.take(2 * STACK, 2 * STACK)?.raw();
        self.map(base + STACK, phys, STACK, DATA)?;
        Ok(base + 2 * STACK)
    }

    fn map_host_sve(&mut self, cpu: usize) -> Result<()> {
        if CONFIG_SVE == 0 || !has_cap::<{ CAP_SVE as u16 }>() {
            return Ok(());
        }
        let host = statics::host_data_of(cpu).ok_or(Error::Invalid)?;
        let start = kern_hyp_va(host.sve_regs()).raw();
        let bytes = guest_config::sve_state_bytes(statics::kvm_host_sve_max_vl.get()) as u64;
        self.map_range(start, start.checked_add(bytes).ok_or(Error::Invalid)?, DATA)
    }

    /// The space, complete.
    pub fn finish(self) -> Built {
        Built {
            s1: self.s1,
            tables_used: self.tables.used(),
            records: self.records,
            quarter: (
                self.private.base(),
                self.quarter_end.raw() - self.private.base().raw(),
            ),
            private: self.private,
        }
    }
}

/// Gives the records of the tables their counts: one for the table, and one for each entry in use.
pub fn recount(s1: &HypS1) {
    // The early allocator is a reader of table words like any other; it hands nothing out here.
    let reader = EarlyTables::new(PfnRange::single(Pfn::of(s1.root())));
    s1.recount(&reader, |table, entries| {
        if let Some(record) = HW.record(Pfn::of(table)) {
            record.set_refcount(entries.saturating_add(1));
        }
    });
}
