// SPDX-License-Identifier: GPL-2.0-only
//! Who owns each page of memory, and every operation that changes it. This does the job of `nvhe/mem_protect.c`.
//!
//! There are three components: the host, the hypervisor, and each VM. A component is a page table, the pool its tables
//! come from, and a state for each page: in the page records for the first two, in the leaf of stage 2 for a VM. The
//! functions take the components they change by exclusive reference, which is the proof that their locks are held;
//! the order of the locks is host, then hypervisor or VM.
//!
//! All arguments may be the host's choice. A function that returns an error has changed nothing that anyone can tell:
//! a page-table page may have moved from a pool into a table, and lazily made maps of the host's may be gone.
//!
//! The [`table`] says what each operation does; `transfer` executes it; the other modules find out what the operation is
//! about and in which order it may be refused.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod abort;
mod boot;
mod ffa;
mod guest;
mod host_hyp;
mod map;
mod ops;
mod private;
mod reclaim;
pub mod selftest;
pub mod table;
mod token;
mod transfer;

pub use abort::{AbortAction, AbortKind, HostAbort, host_mem_abort};
pub use boot::{check_private_mapping, check_private_range, fix_boot_ownership, own_boot_page};
pub use ffa::{FfaLoan, Returned, host_share_ffa, host_unshare_ffa};
pub use guest::{
    GuestFault, Young, guest_share_host, guest_unshare_host, host_donate_guest, host_mkyoung_guest,
    host_relax_perms_guest, host_share_guest, host_test_clear_young_guest, host_tlb_flush_vmid,
    host_unshare_guest, host_wrprotect_guest, in_poison_fault,
};
pub use host_hyp::{
    HostList, MEMCACHE_LIMIT, borrow_page, host_donate_hyp, host_lend_hyp, host_share_hyp, host_unshare_hyp,
    hyp_donate_host, hyp_return_lent, memcache_pop, pin, pin_alone, pin_va, refill_memcache, return_page,
    unpin,
};
pub use map::{Access, Class, MAX_REGIONS, MemoryMap, Region, Span};
pub use reclaim::{
    guest_pop_table, guest_teardown, host_force_reclaim_guest, host_reclaim_dying_guest,
    owner_of_faulting_page,
};
pub use token::{HypPages, Lent, Pinned, Scrubbed};

use ops::{HypOps, Stage2Ops, Words};
use pkvm_pgtable::{HypS1, Stage2, Stage2Config};
use pkvm_pool::{Memcache, Pool};
use pkvm_types::{Error, Handle, Pfn, PfnRange, Result, Vmid};

use crate::machine::{Machine, Stage2Id};

/// The host: its stage 2, which maps each address to itself, and the pool of its tables. It is made once, at boot.
#[derive(Debug)]
pub struct Host {
    s2: Stage2,
    regime: Stage2Id,
    pool: Pool,
}

impl Host {
    /// A host whose stage 2 is empty. `root` is the zeroed top-level table, as large and as aligned as `config` says;
    /// `pool` is the memory for all further tables. EL2 owns both. [`Error::Invalid`] for a root of the wrong shape.
    pub fn create<M: Machine>(m: &M, config: Stage2Config, root: PfnRange, pool: PfnRange) -> Result<Self> {
        let s2 = new_stage2(m, config, root)?;
        let regime = Stage2Id {
            vmid: Vmid::HOST,
            root: s2.root(),
        };
        let mut free = Pool::new();
        free.give_range(&Words(m), pool);
        Ok(Self {
            s2,
            regime,
            pool: free,
        })
    }

    /// What VTTBR_EL2 holds while the host runs.
    pub fn regime(&self) -> Stage2Id {
        self.regime
    }

    /// The host's stage 2.
    pub fn table(&self) -> &Stage2 {
        &self.s2
    }

    /// How many pages are left for further tables.
    pub fn free_tables(&self) -> u64 {
        self.pool.len()
    }

    /// The page table and what its walker needs.
    fn split<'a, M>(&'a mut self, m: &'a M) -> (&'a Stage2, Stage2Ops<'a, M>) {
        (&self.s2, Stage2Ops::new(m, self.regime, &mut self.pool, None))
    }
}

/// The hypervisor: EL2's own stage 1 and the pool of its tables. It is made once, at boot.
#[derive(Debug)]
pub struct Hyp {
    s1: HypS1,
    pool: Pool,
}

impl Hyp {
    /// EL2's stage 1 as the boot built it, with `pool` as the memory for further tables.
    pub fn create<M: Machine>(m: &M, s1: HypS1, pool: Option<PfnRange>) -> Self {
        let mut free = Pool::new();
        if let Some(pool) = pool {
            free.give_range(&Words(m), pool);
        }
        Self { s1, pool: free }
    }

    /// EL2's stage 1.
    pub fn table(&self) -> &HypS1 {
        &self.s1
    }

    /// Writes into the records of EL2's tables how many references they have: the boot built them before there were
    /// records.
    pub fn adopt_tables<M: Machine>(&mut self, m: &M) {
        let (s1, ops) = self.split(m);
        s1.recount(&ops, |table, entries| {
            if let Some(record) = m.record(Pfn::of(table)) {
                record.set_refcount(entries.saturating_add(1));
            }
        });
    }

    /// The page table and what its walker needs.
    fn split<'a, M>(&'a mut self, m: &'a M) -> (&'a HypS1, HypOps<'a, M>) {
        (&self.s1, HypOps::new(m, &mut self.pool))
    }
}

/// Whether a VM's memory is its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum GuestKind {
    /// It owns its memory; the host sees what it lends.
    Protected,
    /// It borrows its memory from the host.
    Normal,
}

/// The memory of a VM: its stage 2, and the free pages that its tables come from before the memcache of a vCPU.
#[derive(Debug)]
pub struct Guest {
    handle: Handle,
    kind: GuestKind,
    regime: Stage2Id,
    config: Stage2Config,
    /// `None` once the VM is torn down.
    s2: Option<Stage2>,
    pool: Pool,
}

impl Guest {
    /// The memory of a new VM. `pgd` becomes its top-level table and is zeroed here. [`Error::Invalid`], with the pages
    /// given back, where they are not as many or not aligned as `config` asks.
    pub fn create<M: Machine>(
        m: &M,
        handle: Handle,
        kind: GuestKind,
        config: Stage2Config,
        pgd: HypPages,
    ) -> Result<Self, (Error, HypPages)> {
        pgd.zero(m);
        match new_stage2(m, config, pgd.range()) {
            Ok(s2) => {
                pgd.rest();
                let regime = Stage2Id {
                    vmid: handle.vmid(),
                    root: s2.root(),
                };
                Ok(Self {
                    handle,
                    kind,
                    regime,
                    config,
                    s2: Some(s2),
                    pool: Pool::new(),
                })
            }
            Err(error) => Err((error, pgd)),
        }
    }

    /// The handle of the VM.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// The VM's stage 2, `None` once it is torn down.
    pub fn table(&self) -> Option<&Stage2> {
        self.s2.as_ref()
    }

    /// Whether the VM is protected.
    pub fn kind(&self) -> GuestKind {
        self.kind
    }

    /// What VTTBR_EL2 holds while the VM runs.
    pub fn regime(&self) -> Stage2Id {
        self.regime
    }

    /// [`Error::Invalid`] for a VM that is not of `kind`.
    fn expect(&self, kind: GuestKind) -> Result<()> {
        if self.kind == kind {
            Ok(())
        } else {
            Err(Error::Invalid)
        }
    }

    /// The page table and what its walker needs. [`Error::Invalid`] once the VM is torn down.
    fn split<'a, M>(
        &'a mut self,
        m: &'a M,
        memcache: Option<&'a mut Memcache>,
    ) -> Result<(&'a Stage2, Stage2Ops<'a, M>)> {
        let s2 = self.s2.as_ref().ok_or(Error::Invalid)?;
        Ok((s2, Stage2Ops::new(m, self.regime, &mut self.pool, memcache)))
    }
}

/// A stage 2 over the zeroed top-level table `root`, with the table's reference on each of its pages. [`Error::Invalid`]
/// where there are not as many pages, or not aligned, as `config` asks.
fn new_stage2<M: Machine>(m: &M, config: Stage2Config, root: PfnRange) -> Result<Stage2> {
    if root.count() != config.root_pages() {
        return Err(Error::Invalid);
    }
    let s2 = Stage2::new(config, root.start().phys())?;
    for record in m.records(root).ok_or(Error::Invalid)? {
        record.set_refcount(1);
    }
    Ok(s2)
}
