// SPDX-License-Identifier: GPL-2.0-only
//! What state the hypervisor is in, from what hardware would see and from the page records; and whether the two agree.

use pkvm_core::machine::Machine;
use pkvm_core::mem::Guest;
use pkvm_core::mem::table::Standing;
use pkvm_pgtable::{Entry, Level, TableOps};
use pkvm_spec::{Call, Frame, Holder, Kind, Leaf, Loan, Outcome, Page, Phase, Vm, World};
use pkvm_types::{
    Error, Gfn, HypVa, Ipa, Owner, PAGE_SHIFT, PAGE_SIZE, PageState, Perms, Pfn, Phys, ShareReason,
};

use crate::reader::Reader;
use crate::rig::{Rig, Slot};
use crate::sim::{CONTENT, Cached};

/// What the pages of each component hold.
const HOST: u64 = 0x1111;
const HYP: u64 = 0x2222;
const GUEST: u64 = 0x3333;
const PUBLIC: u64 = 0x4444;

fn pfn(raw: u64) -> Pfn {
    Pfn::checked(raw).unwrap()
}

impl Rig {
    /// Every translation that is valid now.
    fn translations(&self) -> Vec<Cached> {
        let reader = Reader(&self.m);
        let mut all = Vec::new();
        let s1 = self.hyp.table();
        s1.for_each(&reader, HypVa::new(0), s1.config().geometry().limit(), |found| {
            if let Some(leaf) = found.leaf {
                let size = s1.config().level_size(found.level);
                all.push(Cached {
                    vmid: None,
                    base: found.base.raw(),
                    size,
                    phys: leaf.phys.raw(),
                });
            }
            Ok(())
        })
        .unwrap();
        let guests = self.vms.iter().filter_map(|slot| slot.guest.as_ref());
        let tables = guests.filter_map(|guest| Some((guest.regime(), guest.table()?)));
        for (regime, s2) in tables.chain([(self.host.regime(), self.host.table())]) {
            let config = s2.config();
            for found in s2
                .entries(&reader, Ipa::new(0), config.geometry().limit())
                .unwrap()
            {
                if let Entry::Leaf(leaf) = found.entry {
                    let (base, size) = (found.base.raw(), config.level_size(found.level));
                    all.push(Cached {
                        vmid: Some(regime.vmid.raw()),
                        base,
                        size,
                        phys: leaf.phys.raw(),
                    });
                }
            }
        }
        all
    }

    /// The TLBs take in everything that is valid.
    pub fn fill_tlb(&self) {
        self.m.fill_tlb(self.translations());
    }

    /// No TLB reaches anything that the tables do not.
    fn check_tlb(&self, translations: &[Cached]) {
        for cached in self.m.tlb() {
            let valid = translations.iter().any(|now| {
                now.vmid == cached.vmid
                    && now.base <= cached.base
                    && cached.base + cached.size <= now.base + now.size
                    && now.phys + (cached.base - now.base) == cached.phys
            });
            // A block that was split may stay in a TLB until its parts go, but the walker does not leave it.
            assert!(valid, "a TLB still holds {cached:x?}");
        }
    }

    /// The abstract state, after checking every invariant that ties tables and records together.
    pub fn world<const P: usize, const V: usize, const G: usize>(&self) -> World<P, V, G> {
        let translations = self.translations();
        self.check_tlb(&translations);
        let mut world = World {
            pages: [Page::default(); P],
            vms: [Vm {
                kind: Kind::Normal,
                phase: Phase::Gone,
                frames: [Frame::Absent; G],
            }; V],
        };
        for (index, slot) in self.vms.iter().enumerate() {
            world.vms[index] = self.vm(slot);
        }
        for region in self.layout.regions {
            for frame in region.start..region.end {
                let page = self.page(frame, region.nomap, &translations, &world.vms);
                let window = frame
                    .checked_sub(self.layout.base)
                    .and_then(|i| world.pages.get_mut(i as usize));
                if let Some(kept) = window {
                    *kept = page;
                }
            }
        }
        self.check_tables();
        world
    }

    fn vm<const G: usize>(&self, slot: &Slot) -> Vm<G> {
        let mut vm = Vm {
            kind: slot.kind,
            phase: slot.phase,
            frames: [Frame::Absent; G],
        };
        let Some(s2) = slot.guest.as_ref().and_then(Guest::table) else {
            return vm;
        };
        let reader = Reader(&self.m);
        for found in s2
            .entries(&reader, Ipa::new(0), s2.config().geometry().limit())
            .unwrap()
        {
            let frame = match found.entry {
                Entry::Absent => continue,
                Entry::Poisoned => Frame::Poison,
                Entry::Leaf(leaf) => {
                    match (slot.kind, leaf.state) {
                        (Kind::Protected, PageState::Owned | PageState::SharedOwned)
                        | (Kind::Normal, PageState::SharedBorrowed) => {}
                        wrong => panic!("a leaf that no VM of its kind has: {wrong:?}"),
                    }
                    Frame::Leaf(Leaf {
                        pfn: Pfn::of(leaf.phys).raw(),
                        pages: s2.config().level_pages(found.level),
                        perms: leaf.perms.bits(),
                        young: leaf.young,
                        lent: leaf.state == PageState::SharedOwned,
                    })
                }
                wrong => panic!("{wrong:?} in a guest's table"),
            };
            let gfn = Gfn::of(found.base).raw();
            vm.frames[(gfn - self.layout.guest_base) as usize] = frame;
        }
        vm
    }

    /// One page, as tables and records tell it: I1 to I7 and I9.
    fn page<const G: usize>(&self, frame: u64, nomap: bool, translations: &[Cached], vms: &[Vm<G>]) -> Page {
        let phys = frame << PAGE_SHIFT;
        let reach = |vmid: Option<u16>| {
            translations
                .iter()
                .any(|t| t.vmid == vmid && (t.phys..t.phys + t.size).contains(&phys))
        };
        let record = self.m.record(pfn(frame)).unwrap();
        let text = self.m.memory().is_hyp_text(pfn(frame));
        let entry = self
            .host
            .table()
            .lookup(&Reader(&self.m), Ipa::new(phys))
            .unwrap()
            .entry;

        // Who owns it by the tables alone.
        let mut lenders = Vec::new();
        let mut borrowers = 0u32;
        let mut owners = Vec::new();
        for (index, vm) in vms.iter().enumerate() {
            for (offset, slot) in vm.frames.iter().enumerate() {
                let Frame::Leaf(leaf) = slot else { continue };
                if !(leaf.pfn..leaf.pfn + leaf.pages).contains(&frame) {
                    continue;
                }
                let at = (index as u8, self.layout.guest_base + offset as u64);
                match (vm.kind, leaf.lent) {
                    (Kind::Normal, _) => borrowers += 1,
                    (Kind::Protected, true) => lenders.push(at),
                    (Kind::Protected, false) => owners.push(at),
                }
            }
        }
        let holder = match (entry, &lenders[..], &owners[..]) {
            (Entry::Donated(Owner::Hyp), [], []) => Holder::Hyp,
            (Entry::Leaf(leaf), [], []) if text => {
                assert_eq!(leaf.perms, Perms::R, "hypervisor text in the host's table");
                Holder::Hyp
            }
            (Entry::Donated(Owner::Guest { handle, gfn }), [], [(vm, at)]) => {
                assert_eq!(
                    (handle.index(), gfn.raw()),
                    (*vm as usize, *at),
                    "the host's table and the VM's disagree"
                );
                Holder::Guest(*vm, *at)
            }
            (Entry::Absent | Entry::Leaf(_), [(vm, at)], []) => Holder::Guest(*vm, *at),
            (Entry::Absent | Entry::Leaf(_), [], []) => Holder::Host,
            wrong => panic!("frame {frame:#x} has no owner: {wrong:?}"),
        };
        if let Entry::Leaf(leaf) = entry
            && !text
        {
            assert_eq!(leaf.perms, Perms::RWX, "a default mapping of memory");
            assert_eq!(leaf.state, PageState::Owned, "the host's leaves carry no state");
        }

        // What the record says.
        let standing = Standing::of(record).unwrap_or_else(|| panic!("frame {frame:#x} has a broken record"));
        let loan = match record.share() {
            ShareReason::None => Loan::None,
            ShareReason::Hyp => Loan::Hyp(record.refcount()),
            ShareReason::Ffa => Loan::Ffa,
            ShareReason::Guests(count) => Loan::Guests(count),
            ShareReason::GuestToHost => Loan::Host,
        };
        let page = Page { holder, loan, text };
        assert_eq!(
            record.host_state(),
            page.host_state(),
            "host state of {frame:#x}, {standing:?}"
        );
        assert_eq!(
            record.hyp_state(),
            page.hyp_state(),
            "hypervisor state of {frame:#x}, {standing:?}"
        );
        let counted = if let Loan::Guests(count) = loan { count } else { 0 };
        assert_eq!(counted, borrowers, "loans of {frame:#x} to normal VMs");
        assert_eq!(
            loan == Loan::Host,
            !lenders.is_empty(),
            "loan of {frame:#x} to the host"
        );
        let pinned = matches!(loan, Loan::Hyp(1..));
        assert_eq!(
            reach(None),
            holder == Holder::Hyp || pinned,
            "mapping of {frame:#x} at EL2"
        );
        if holder != Holder::Hyp && !matches!(loan, Loan::Hyp(_)) {
            assert_eq!(record.refcount(), 0, "references of {frame:#x}");
        }
        if nomap {
            assert_eq!((holder, loan), (Holder::Host, Loan::None));
        }
        page
    }

    /// Every table's count is one more than its entries, and no page is in a table and free at once.
    fn check_tables(&self) {
        let reader = Reader(&self.m);
        let count = |table: Phys, entries: u16| {
            assert_eq!(
                reader.count(table),
                entries + 1,
                "references of the table at {table:?}"
            );
        };
        self.hyp.table().recount(&reader, count);
        let guests = self.vms.iter().filter_map(|slot| slot.guest.as_ref()?.table());
        for s2 in guests.chain([self.host.table()]) {
            let level = s2.config().geometry().start();
            self.check_table(s2.root(), level);
        }
        for slot in &self.vms {
            let mut seen = Vec::new();
            let mut cache = slot.memcache;
            while let Some(page) = cache.first() {
                assert!(!seen.contains(&page), "a memcache has a page twice");
                let record = self.m.record(page).unwrap();
                assert_eq!(
                    (Standing::of(record), record.refcount()),
                    (Some(Standing::Hyp), 0)
                );
                seen.push(page);
                cache.advance(Phys::new(self.m.word(page.raw(), 0)));
            }
            assert_eq!(seen.len() as u64, slot.memcache.len());
        }
    }

    fn check_table(&self, table: Phys, level: Level) {
        let words = (0..pkvm_types::PTES_PER_TABLE as usize).map(|index| self.m.read_word(table, index));
        let used: Vec<u64> = words.filter(|word| *word != 0).collect();
        assert_eq!(
            Reader(&self.m).count(table) as usize,
            used.len() + 1,
            "references of {table:?}"
        );
        if let Some(below) = Level::checked(level.raw() + 1) {
            for word in used {
                if word & 3 == 3 {
                    let address = (1u64 << 48) - PAGE_SIZE;
                    self.check_table(Phys::new(word & address), below);
                }
            }
        }
    }

    /// Each component writes what it knows into the pages it has, after checking that the host finds nothing there that
    /// was somebody's secret: I14.
    pub fn exchange_secrets<const P: usize, const V: usize, const G: usize>(&self, world: &World<P, V, G>) {
        for (index, page) in world.pages.iter().enumerate() {
            let frame = self.layout.base + index as u64;
            let content = self.m.word(frame, CONTENT);
            if page.host_can_read() && !page.text {
                // What a VM lends it also shows.
                assert!(
                    content != HYP && (content != GUEST || page.loan == Loan::Host),
                    "the host reads a secret in {frame:#x}: {page:?}"
                );
            }
            let content = match (page.holder, page.loan) {
                (Holder::Host, _) => HOST,
                (Holder::Hyp, _) => HYP,
                (Holder::Guest(..), Loan::Host) => PUBLIC,
                (Holder::Guest(..), _) => GUEST,
            };
            self.m.set_word(frame, CONTENT, content);
        }
    }

    /// Makes a call that may fail for want of memory as well: then nothing has changed.
    pub fn check_or_no_memory<const P: usize, const V: usize, const G: usize>(
        &mut self,
        before: &World<P, V, G>,
        call: Call,
    ) -> (Outcome, World<P, V, G>) {
        let (want, after) = before.step(&self.layout, call);
        let got = self.call(call);
        let is = self.world::<P, V, G>();
        if got == Err(Error::NoMemory) {
            assert!(
                is == *before,
                "{call:x?} ran out of memory and left {is:x?}, not {before:x?}"
            );
        } else {
            assert!(
                got == want && is == after,
                "{call:x?} gives {got:?}, not {want:?}, and {is:x?}, not {after:x?}"
            );
        }
        self.exchange_secrets(&is);
        self.fill_tlb();
        (got, is)
    }

    /// Makes a call and compares everything with the specification.
    pub fn check<const P: usize, const V: usize, const G: usize>(
        &mut self,
        before: &World<P, V, G>,
        call: Call,
    ) -> (Outcome, World<P, V, G>) {
        let (want, after) = before.step(&self.layout, call);
        let version = self.m.version();
        let got = self.call(call);
        let untouched = after == *before && self.m.version() == version;
        let is = if untouched { after } else { self.world::<P, V, G>() };
        let tables_decide =
            matches!(call, Call::InPoisonFault { .. }) && matches!((got, want), (Err(Error::Invalid), Ok(0)));
        assert!(
            got == want || tables_decide,
            "{call:x?} gives {got:?}, not {want:?}, in {before:x?}"
        );
        assert!(
            is == after,
            "{call:x?} ({got:?}) leads from {before:x?}\nto {is:x?}\nnot {after:x?}"
        );
        if got.is_ok() && !untouched {
            self.exchange_secrets(&is);
            self.fill_tlb();
        }
        (got, is)
    }
}
