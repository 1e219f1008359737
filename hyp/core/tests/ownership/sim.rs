// SPDX-License-Identifier: GPL-2.0-only
//! A machine of words in vectors. Its TLBs are as unhelpful as the architecture allows: they hold every translation that was
//! valid when the test last looked, until an invalidation that reaches all CPUs names it.

use std::cell::{Cell, OnceCell, RefCell};

use pkvm_core::machine::{Features, Machine, Reach, Shareability, Stage2Id, TlbLevel};
use pkvm_core::mem::MemoryMap;
use pkvm_pool::PageMeta;
use pkvm_types::{HypVa, Ipa, PAGE_SIZE, PTES_PER_TABLE, Pfn, PfnRange, Phys, ShareReason};

/// Linear addresses are this much below physical ones.
const PHYSVIRT: u64 = 16 * PAGE_SIZE;

/// The word of a page in which tests keep its content; the first ones hold list links.
pub const CONTENT: usize = 5;

/// A translation that a TLB holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cached {
    /// The VMID, `None` for EL2's own regime.
    pub vmid: Option<u16>,
    /// The first input address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// What the first address maps to.
    pub phys: u64,
}

/// What the policy asked of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Tlbi(Stage2Id, Ipa, TlbLevel, Shareability),
    TlbiAll(Stage2Id),
    TlbiHyp(HypVa),
    Scrub(Pfn, Reach),
    Clean(PfnRange),
    Icache(PfnRange),
    Dvmsync,
}

pub struct Sim {
    map: MemoryMap,
    features: Features,
    base: u64,
    records: Vec<PageMeta>,
    pages: Vec<OnceCell<Box<[Cell<u64>]>>>,
    writes: Cell<u64>,
    tlb: RefCell<Vec<Cached>>,
    log: RefCell<Vec<Event>>,
    logging: Cell<bool>,
}

impl Sim {
    /// A machine with records for `count` frames from `base` on.
    pub fn new(map: MemoryMap, features: Features, base: u64, count: usize) -> Self {
        Self {
            map,
            features,
            base,
            records: (0..count).map(|_| PageMeta::new()).collect(),
            pages: (0..count).map(|_| OnceCell::new()).collect(),
            writes: Cell::new(0),
            tlb: RefCell::default(),
            log: RefCell::default(),
            logging: Cell::new(false),
        }
    }

    fn page(&self, pfn: u64) -> &OnceCell<Box<[Cell<u64>]>> {
        &self.pages[usize::try_from(pfn - self.base).unwrap()]
    }

    pub fn word(&self, pfn: u64, index: usize) -> u64 {
        self.page(pfn).get().map_or(0, |page| page[index].get())
    }

    pub fn set_word(&self, pfn: u64, index: usize, value: u64) {
        let page = self
            .page(pfn)
            .get_or_init(|| vec![Cell::new(0); PTES_PER_TABLE as usize].into());
        page[index].set(value);
        self.writes.set(self.writes.get() + 1);
    }

    /// Changes whenever a word or a page record may have changed.
    pub fn version(&self) -> (u64, Vec<[u64; 3]>) {
        let records = self.records.iter().map(|record| {
            let share = match record.share() {
                ShareReason::None => 0,
                ShareReason::Hyp => 1,
                ShareReason::Ffa => 2,
                ShareReason::GuestToHost => 3,
                ShareReason::Guests(count) => 4 + u64::from(count),
            };
            let states = (record.host_state() as u64) << 2 | record.hyp_state() as u64;
            [u64::from(record.refcount()), states, share]
        });
        (self.writes.get(), records.collect())
    }

    /// What the TLBs hold from now on.
    pub fn fill_tlb(&self, cached: Vec<Cached>) {
        *self.tlb.borrow_mut() = cached;
    }

    pub fn tlb(&self) -> Vec<Cached> {
        self.tlb.borrow().clone()
    }

    /// The events since the last call, which also starts the log.
    pub fn take_log(&self) -> Vec<Event> {
        self.logging.set(true);
        std::mem::take(&mut *self.log.borrow_mut())
    }

    fn log(&self, event: Event) {
        if self.logging.get() {
            self.log.borrow_mut().push(event);
        }
    }

    fn drop_cached(&self, drop: impl Fn(&Cached) -> bool) {
        self.tlb.borrow_mut().retain(|cached| !drop(cached));
    }
}

fn covers(cached: &Cached, address: u64) -> bool {
    (cached.base..cached.base + cached.size).contains(&address)
}

impl Machine for Sim {
    fn memory(&self) -> &MemoryMap {
        &self.map
    }
    fn features(&self) -> Features {
        self.features
    }
    fn linear_va(&self, phys: Phys) -> HypVa {
        HypVa::new(phys.raw().wrapping_sub(PHYSVIRT))
    }
    fn linear_phys(&self, va: HypVa) -> Phys {
        Phys::new(va.raw().wrapping_add(PHYSVIRT))
    }
    fn records(&self, pages: PfnRange) -> Option<&[PageMeta]> {
        let span = self.map.span(pages.start().phys());
        if span.access.is_none() || !span.covers(pages) {
            return None;
        }
        let first = usize::try_from(pages.start().raw() - self.base).ok()?;
        self.records.get(first..first + pages.count() as usize)
    }
    fn read_word(&self, table: Phys, index: usize) -> u64 {
        assert!(table.is_page_aligned());
        self.word(Pfn::of(table).raw(), index)
    }
    fn write_word(&self, table: Phys, index: usize, value: u64) {
        assert!(table.is_page_aligned());
        self.set_word(Pfn::of(table).raw(), index, value);
    }
    fn zero_page(&self, pfn: Pfn) {
        if let Some(page) = self.page(pfn.raw()).get() {
            page.iter().for_each(|word| word.set(0));
        }
        self.writes.set(self.writes.get() + 1);
    }
    fn scrub_page(&self, pfn: Pfn, reach: Reach, link: u64) {
        if reach == Reach::Fixmap {
            // A page of a guest's is zeroed when nobody but EL2 can still reach it.
            let phys = pfn.phys().raw();
            let stale = self
                .tlb()
                .into_iter()
                .find(|c| c.vmid.is_some_and(|vmid| vmid != 0) && (c.phys..c.phys + c.size).contains(&phys));
            assert_eq!(
                stale, None,
                "{pfn:?} is zeroed while a guest's TLB entry reaches it"
            );
        }
        self.zero_page(pfn);
        if link != 0 {
            self.set_word(pfn.raw(), 0, link);
        }
        self.log(Event::Scrub(pfn, reach));
    }
    fn clean_dcache(&self, pages: PfnRange) {
        assert!(!self.features.fwb);
        self.log(Event::Clean(pages));
    }
    fn invalidate_icache(&self, pages: PfnRange) {
        assert!(!self.features.dic);
        self.log(Event::Icache(pages));
    }
    fn publish_tables(&self) {}
    fn tlbi_stage2(&self, regime: Stage2Id, ipa: Ipa, level: TlbLevel, scope: Shareability) {
        // Another CPU keeps what only this one drops.
        if scope == Shareability::Inner {
            self.drop_cached(|c| c.vmid == Some(regime.vmid.raw()) && covers(c, ipa.raw()));
        }
        self.log(Event::Tlbi(regime, ipa, level, scope));
    }
    fn tlbi_stage2_all(&self, regime: Stage2Id) {
        self.drop_cached(|c| c.vmid == Some(regime.vmid.raw()));
        self.log(Event::TlbiAll(regime));
    }
    fn publish_hyp_tables(&self) {}
    fn tlbi_hyp(&self, va: HypVa, _level: TlbLevel) {
        self.drop_cached(|c| c.vmid.is_none() && covers(c, va.raw()));
        self.log(Event::TlbiHyp(va));
    }
    fn tlbi_hyp_all(&self) {
        self.drop_cached(|c| c.vmid.is_none());
    }
    fn dvmsync_workaround(&self) {
        self.log(Event::Dvmsync);
    }
}
