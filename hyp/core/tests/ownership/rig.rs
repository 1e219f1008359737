// SPDX-License-Identifier: GPL-2.0-only
//! A booted hypervisor on the simulated machine: it makes the calls of the specification, and tells what state it is in by
//! reading page tables and page records.
//!
//! The frames of a rig: the world's pages from the first block on; a gap; one page that may not be mapped; then, as a
//! region of their own, hypervisor text and all that the hypervisor and the VMs need besides.

use pkvm_core::machine::{Features, Machine};
use pkvm_core::mem::{
    self, AbortAction, AbortKind, Access, Guest, GuestKind, Host, HostAbort, HostList, Hyp, HypPages,
    MemoryMap, Pinned, Young,
};
use pkvm_pgtable::{Entry, Granule, HypAttrs, HypConfig, HypFormat, HypS1, Stage2Config, Stage2Features};
use pkvm_pool::Memcache;
use pkvm_spec::{Call, Kind, Layout, Outcome, Phase, Region};
use pkvm_types::{
    Error, Gfn, Handle, Ipa, PAGE_SHIFT, PAGE_SIZE, Perms, Pfn, PfnRange, Phys, Result, block_pages,
};

use crate::reader::Reader;
use crate::sim::{CONTENT, Sim};

/// How a rig is built.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Pages of the world.
    pub pages: u64,
    /// The VMs.
    pub kinds: &'static [Kind],
    /// Levels of every page table.
    pub levels: u32,
    /// Pages for the tables of the host, beyond its root.
    pub host_pool: u64,
    /// Pages for the tables of the hypervisor, beyond its root.
    pub hyp_pool: u64,
    /// Pages that the host has for the memcaches of its VMs.
    pub spare: u64,
    pub features: Features,
    /// The first guest frame that matters.
    pub guest_base: u64,
    /// Whether the parts of memory lie in blocks of their own, so that they share no last-level table.
    pub apart: bool,
}

impl Plan {
    /// A world of a few pages, with all the memory that tables can take.
    pub const SMALL: Self = Self {
        pages: 3,
        kinds: &[Kind::Protected, Kind::Normal],
        levels: 2,
        host_pool: 4,
        hyp_pool: 4,
        spare: 6,
        features: Features {
            fwb: true,
            dic: true,
            xnx: false,
        },
        guest_base: 0x10,
        apart: false,
    };

    /// Bits of every address.
    pub const fn bits(&self) -> u32 {
        let bits = PAGE_SHIFT + self.levels * (PAGE_SHIFT - 3);
        if bits < 48 { bits } else { 48 }
    }

    /// The first frame of the world: the beginning of a block.
    #[expect(clippy::unused_self, reason = "it is one of the places that a plan says")]
    pub const fn base(&self) -> u64 {
        block_pages()
    }

    /// The frame that may not be mapped.
    pub const fn nomap(&self) -> u64 {
        if self.apart {
            3 * block_pages()
        } else {
            self.base() + self.pages + 2
        }
    }

    /// The first frame of what the hypervisor needs, which is its text.
    pub const fn text(&self) -> u64 {
        if self.apart {
            5 * block_pages()
        } else {
            self.nomap() + 2
        }
    }

    fn meta(&self) -> u64 {
        4 + self.host_pool + self.hyp_pool + self.spare + self.kinds.len() as u64
    }

    fn end(&self) -> u64 {
        self.text() + self.meta()
    }

    pub fn layout(&self) -> Layout {
        let (base, nomap, text) = (self.base(), self.nomap(), self.text());
        let regions = [
            Region {
                start: base,
                end: base + self.pages,
                nomap: false,
            },
            Region {
                start: nomap,
                end: nomap + 1,
                nomap: true,
            },
            Region {
                start: text,
                end: self.end(),
                nomap: false,
            },
        ];
        Layout {
            regions: Box::leak(Box::new(regions)),
            base,
            limit: 1 << (self.bits() - PAGE_SHIFT),
            block: block_pages(),
            guest_base: self.guest_base,
            xnx: self.features.xnx,
        }
    }
}

/// A VM as EL1 and the VM table know it.
pub struct Slot {
    pub kind: Kind,
    pub phase: Phase,
    pub guest: Option<Guest>,
    pub memcache: Memcache,
}

pub struct Rig {
    pub plan: Plan,
    pub layout: Layout,
    pub m: Sim,
    pub host: Host,
    pub hyp: Hyp,
    pub vms: Vec<Slot>,
    /// Pages that EL1 keeps for memcaches.
    spare: Vec<u64>,
}

pub fn pages(start: u64, count: u64) -> PfnRange {
    PfnRange::checked(Pfn::checked(start).unwrap(), count).unwrap()
}

impl Rig {
    pub fn new(plan: Plan) -> Self {
        let layout = plan.layout();
        let mut map = MemoryMap::new(plan.bits());
        for region in layout.regions {
            let access = if region.nomap {
                Access::NoMap
            } else {
                Access::Normal
            };
            let bytes = (region.end - region.start) * PAGE_SIZE;
            map.push(Phys::new(region.start * PAGE_SIZE), bytes, access)
                .unwrap();
        }
        map.set_hyp_text(pages(plan.text(), 1));
        let m = Sim::new(
            map,
            plan.features,
            plan.base(),
            (plan.end() - plan.base()) as usize,
        );
        let mut next = plan.text() + 1;
        let mut take = |count: u64| {
            let range = pages(next, count);
            next += count;
            range
        };

        let (root, pool) = (take(1), take(plan.hyp_pool));
        let config = HypConfig::new(Granule::KERNEL, plan.bits(), HypFormat::Nvhe, false, false).unwrap();
        let s1 = HypS1::new(config, root.start().phys()).unwrap();
        let mut hyp = Hyp::create(&m, s1, Some(pool));
        hyp.adopt_tables(&m);
        let (host_root, host_pool) = (take(1), take(plan.host_pool));
        let mut host = Host::create(&m, stage2(&plan, Stage2Features::AS_S1), host_root, host_pool).unwrap();
        for range in [root, pool, host_root, host_pool] {
            let attrs = HypAttrs::normal(Perms::RW);
            let phys = range.start().phys();
            hyp.map_private(&m, m.linear_va(phys), range.bytes().unwrap(), phys, attrs)
                .unwrap();
        }
        let text = Phys::new(plan.text() * PAGE_SIZE);
        let attrs = HypAttrs::normal(Perms::R.union(Perms::PX));
        hyp.map_private(&m, m.linear_va(text), PAGE_SIZE, text, attrs)
            .unwrap();
        mem::fix_boot_ownership(&m, &mut host, &mut hyp).unwrap();

        let mut rig = Self {
            plan,
            layout,
            m,
            host,
            hyp,
            vms: Vec::new(),
            spare: Vec::new(),
        };
        for (index, kind) in plan.kinds.iter().enumerate() {
            let pgd = mem::host_donate_hyp(&rig.m, &mut rig.host, &mut rig.hyp, take(1)).unwrap();
            let handle = Handle::from_index(index).unwrap();
            let guest_kind = match kind {
                Kind::Protected => GuestKind::Protected,
                Kind::Normal => GuestKind::Normal,
            };
            let config = stage2(&plan, Stage2Features::MAINTAIN_CACHES);
            let guest = Guest::create(&rig.m, handle, guest_kind, config, pgd).unwrap();
            let memcache = Memcache::new();
            rig.vms.push(Slot {
                kind: *kind,
                phase: Phase::Live,
                guest: Some(guest),
                memcache,
            });
        }
        rig.spare = (plan.end() - plan.spare..plan.end()).collect();
        rig.fill_tlb();
        rig
    }

    /// EL1 fills the memcache that a vCPU of `vm` brings.
    pub fn refill(&mut self, vm: usize) -> Result<()> {
        let want = u64::from(self.plan.levels) - 1;
        let mut list = HostList { head: 0, count: 0 };
        let mut taken = Vec::new();
        while list.count < want
            && let Some(page) = self.spare.pop()
        {
            self.m.set_word(page, 0, list.head);
            list = HostList {
                head: page * PAGE_SIZE,
                count: list.count + 1,
            };
            taken.push(page);
        }
        let slot = &mut self.vms[vm];
        let result = mem::refill_memcache(
            &self.m,
            &mut self.host,
            &mut self.hyp,
            &mut slot.memcache,
            &mut list,
        );
        // What is still on the list is EL1's.
        taken.truncate(list.count as usize);
        self.spare.append(&mut taken);
        result
    }

    fn live(&self, vm: u8, kind: Kind) -> Result<()> {
        match self.vms.get(vm as usize) {
            Some(slot) if slot.kind == kind && slot.phase == Phase::Live => Ok(()),
            _ => Err(Error::Invalid),
        }
    }

    fn slot(&mut self, vm: u8) -> Result<&mut Guest> {
        self.vms
            .get_mut(vm as usize)
            .and_then(|slot| slot.guest.as_mut())
            .ok_or(Error::Invalid)
    }

    /// The VM `vm`, borrowed apart from the rest.
    pub fn with_guest<T>(
        &mut self,
        vm: u8,
        run: impl FnOnce(&Sim, &mut Host, &mut Guest, &mut Memcache) -> Result<T>,
    ) -> Result<T> {
        let slot = self.vms.get_mut(vm as usize).ok_or(Error::Invalid)?;
        let guest = slot.guest.as_mut().ok_or(Error::Invalid)?;
        run(&self.m, &mut self.host, guest, &mut slot.memcache)
    }

    /// Makes one call as EL1, the VM table and the dispatcher do.
    pub fn call(&mut self, call: Call) -> Outcome {
        let done = |result: Result<()>| result.map(|()| 0);
        match call {
            Call::ShareHyp { pfn } => {
                let pfn = Pfn::checked(pfn)?;
                done(mem::host_share_hyp(&self.m, &mut self.host, &mut self.hyp, pfn))
            }
            Call::UnshareHyp { pfn } => {
                let pfn = Pfn::checked(pfn)?;
                done(mem::host_unshare_hyp(&self.m, &mut self.host, &mut self.hyp, pfn))
            }
            Call::DonateHyp { pfn, pages } => {
                let range = PfnRange::checked(Pfn::checked(pfn)?, pages)?;
                mem::host_donate_hyp(&self.m, &mut self.host, &mut self.hyp, range).map(|pages| {
                    pages.rest();
                    0
                })
            }
            Call::GiveHost { pfn } => {
                let range = PfnRange::single(Pfn::checked(pfn)?);
                let page = HypPages::claim(&self.m, &mut self.hyp, range)?;
                done(self.give_back(page))
            }
            Call::Pin { pfn, pages } => {
                let range = PfnRange::checked(Pfn::checked(pfn)?, pages)?;
                self.m.memory().check_limit(range)?;
                let pinned = mem::pin(&self.m, &mut self.host, &mut self.hyp, range)?;
                pinned.rest();
                Ok(0)
            }
            Call::Unpin { pfn, pages } => {
                let range = PfnRange::checked(Pfn::checked(pfn)?, pages)?;
                self.m.memory().check_limit(range)?;
                // The test may unpin in other portions than it pinned: only the counts matter to the hypervisor.
                let pinned = Pinned::claim(&self.m, &mut self.hyp, range)?;
                mem::unpin(&self.m, &mut self.host, &mut self.hyp, pinned);
                Ok(0)
            }
            Call::ShareFfa { pfn, pages } => {
                let range = PfnRange::checked(Pfn::checked(pfn)?, pages)?;
                done(mem::host_share_ffa(&self.m, &mut self.host, range))
            }
            Call::UnshareFfa { pfn, pages } => {
                let range = PfnRange::checked(Pfn::checked(pfn)?, pages)?;
                done(mem::host_unshare_ffa(&self.m, &mut self.host, range))
            }
            Call::DonateGuest { vm, pfn, gfn } => {
                self.live(vm, Kind::Protected)?;
                let (pfn, gfn) = (Pfn::checked(pfn)?, Gfn::checked(gfn)?);
                self.refill(vm as usize)?;
                done(self.with_guest(vm, |m, host, guest, cache| {
                    mem::host_donate_guest(m, host, guest, cache, pfn, gfn)
                }))
            }
            Call::ShareGuest {
                vm,
                pfn,
                gfn,
                pages,
                prot,
            } => {
                self.live(vm, Kind::Normal)?;
                let (pfn, gfn) = (Pfn::checked(pfn)?, Gfn::checked(gfn)?);
                self.refill(vm as usize)?;
                done(self.with_guest(vm, |m, host, guest, cache| {
                    mem::host_share_guest(m, host, guest, cache, pfn, gfn, pages, prot)
                }))
            }
            Call::UnshareGuest { vm, gfn, pages } => {
                self.slot(vm).and_then(|guest| expect(guest, GuestKind::Normal))?;
                let gfn = Gfn::checked(gfn)?;
                done(self.with_guest(vm, |m, host, guest, _| {
                    mem::host_unshare_guest(m, host, guest, gfn, pages)
                }))
            }
            Call::RelaxPerms { vm, gfn, prot } => {
                self.live(vm, Kind::Normal)?;
                let gfn = Gfn::checked(gfn)?;
                done(self.with_guest(vm, |m, _, guest, _| {
                    mem::host_relax_perms_guest(m, guest, gfn, prot)
                }))
            }
            Call::Wrprotect { vm, gfn, pages } => {
                self.slot(vm).and_then(|guest| expect(guest, GuestKind::Normal))?;
                let gfn = Gfn::checked(gfn)?;
                done(self.with_guest(vm, |m, _, guest, _| {
                    mem::host_wrprotect_guest(m, guest, gfn, pages)
                }))
            }
            Call::TestClearYoung {
                vm,
                gfn,
                pages,
                clear,
            } => {
                self.slot(vm).and_then(|guest| expect(guest, GuestKind::Normal))?;
                let gfn = Gfn::checked(gfn)?;
                let young = if clear { Young::Clear } else { Young::Test };
                self.with_guest(vm, |m, _, guest, _| {
                    mem::host_test_clear_young_guest(m, guest, gfn, pages, young)
                })
                .map(u64::from)
            }
            Call::Mkyoung { vm, gfn } => {
                self.live(vm, Kind::Normal)?;
                let Ok(gfn) = Gfn::checked(gfn) else { return Ok(0) };
                done(self.with_guest(vm, |m, _, guest, _| mem::host_mkyoung_guest(m, guest, gfn)))
            }
            Call::GuestShare { vm, gfn } => {
                self.live(vm, Kind::Protected)?;
                let gfn = Gfn::checked(gfn)?;
                done(self.with_guest(vm, |m, host, guest, _| mem::guest_share_host(m, host, guest, gfn)))
            }
            Call::GuestUnshare { vm, gfn } => {
                self.live(vm, Kind::Protected)?;
                let gfn = Gfn::checked(gfn)?;
                done(self.with_guest(vm, |m, host, guest, _| {
                    mem::guest_unshare_host(m, host, guest, gfn)
                }))
            }
            Call::ForceReclaim { pfn } => {
                let phys = Phys::new(pfn << PAGE_SHIFT);
                let (handle, gfn) = mem::owner_of_faulting_page(&self.m, &mut self.host, phys)?;
                let vm = handle.index() as u8;
                done(self.with_guest(vm, |m, host, guest, _| {
                    mem::host_force_reclaim_guest(m, host, guest, phys, gfn)
                }))
            }
            Call::ReclaimDying { vm, gfn } => {
                if self
                    .vms
                    .get(vm as usize)
                    .is_none_or(|slot| slot.phase != Phase::Dying)
                {
                    return Err(Error::Invalid);
                }
                let gfn = Gfn::checked(gfn)?;
                done(self.with_guest(vm, |m, host, guest, _| {
                    mem::host_reclaim_dying_guest(m, host, guest, gfn)
                }))
            }
            Call::StartTeardown { vm } => match self.vms.get_mut(vm as usize) {
                Some(slot) if slot.phase == Phase::Live => {
                    slot.phase = Phase::Dying;
                    Ok(0)
                }
                _ => Err(Error::Invalid),
            },
            Call::FinalizeTeardown { vm } => done(self.finalize(vm)),
            Call::InPoisonFault { vm, gfn } => {
                if self
                    .vms
                    .get(vm as usize)
                    .is_none_or(|slot| slot.phase != Phase::Live)
                {
                    return Err(Error::Invalid);
                }
                let ipa = Gfn::checked(gfn)?.ipa();
                self.with_guest(vm, |m, _, guest, _| mem::in_poison_fault(m, guest, ipa))
                    .map(|fault| u64::from(fault == mem::GuestFault::Poisoned))
            }
            Call::HostRead { pfn } => Ok(u64::from(self.host_access(pfn, Perms::R))),
        }
    }

    /// The host accesses a page as a CPU would, and whether that works in the end.
    pub fn host_access(&mut self, frame: u64, needed: Perms) -> bool {
        let phys = Phys::new(frame << PAGE_SHIFT);
        for _ in 0..3 {
            let found = self.host.table().lookup(&Reader(&self.m), Ipa::new(phys.raw()));
            let kind = match found.map(|found| found.entry) {
                Ok(Entry::Leaf(leaf)) if leaf.perms.contains(needed) => return true,
                Ok(Entry::Leaf(_)) => AbortKind::Permission(needed),
                Ok(_) => AbortKind::Translation,
                Err(_) => AbortKind::Other,
            };
            match mem::host_mem_abort(
                &self.m,
                &mut self.host,
                HostAbort {
                    ipa: Some(phys),
                    kind,
                },
            ) {
                AbortAction::Inject => return false,
                AbortAction::Retry => {}
            }
        }
        panic!("the host faults for ever at frame {frame:#x}");
    }

    fn give_back(&mut self, page: HypPages) -> Result<()> {
        let (scrubbed, rest) = page.scrub_first(&self.m, 0);
        assert!(rest.is_none());
        mem::hyp_donate_host(&self.m, &mut self.host, &mut self.hyp, scrubbed).map_err(|(error, _)| error)
    }

    fn finalize(&mut self, vm: u8) -> Result<()> {
        if self
            .vms
            .get(vm as usize)
            .is_none_or(|slot| slot.phase != Phase::Dying)
        {
            return Err(Error::Invalid);
        }
        self.with_guest(vm, |m, host, guest, _| mem::guest_teardown(m, host, guest))?;
        let cached = self.m.tlb();
        let vmid = u16::from(vm) + 1;
        assert!(
            !cached.iter().any(|c| c.vmid == Some(vmid)),
            "the VMID is free while a TLB knows it"
        );
        let slot = &mut self.vms[vm as usize];
        slot.phase = Phase::Gone;
        let mut guest = slot.guest.take().unwrap();
        let mut memcache = std::mem::take(&mut slot.memcache);
        let mut last = None;
        while let Some(page) =
            mem::guest_pop_table(&self.m, &mut guest).or_else(|| mem::memcache_pop(&self.m, &mut memcache))
        {
            let number = page.range().start().raw();
            // As the kernel's list: each page names the one before.
            let (scrubbed, _) = page.scrub_first(&self.m, last.map_or(0, |last: u64| last << PAGE_SHIFT));
            mem::hyp_donate_host(&self.m, &mut self.host, &mut self.hyp, scrubbed).unwrap();
            assert_eq!(self.m.word(number, CONTENT), 0);
            last = Some(number);
            self.spare.push(number);
        }
        assert!(guest.table().is_none());
        Ok(())
    }

    /// Pages that the host has for memcaches.
    pub fn spare(&self) -> usize {
        self.spare.len()
    }
}

fn expect(guest: &Guest, kind: GuestKind) -> Result<()> {
    if guest.kind() == kind {
        Ok(())
    } else {
        Err(Error::Invalid)
    }
}

pub fn stage2(plan: &Plan, features: Stage2Features) -> Stage2Config {
    let (tg0, base) = match Granule::KERNEL {
        Granule::K4 => (0u64, 2u64),
        Granule::K16 => (2, 3),
        Granule::K64 => (1, 3),
    };
    let start = 4 - u64::from(plan.levels);
    let vtcr = tg0 << 14 | (base - start) << 6 | u64::from(64 - plan.bits());
    let mut features = features;
    features.set(Stage2Features::FWB, plan.features.fwb);
    features.set(Stage2Features::XNX, plan.features.xnx);
    features.set(Stage2Features::DIC, plan.features.dic);
    Stage2Config::from_vtcr(vtcr, Granule::KERNEL, features).unwrap()
}
