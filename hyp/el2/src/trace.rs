// SPDX-License-Identifier: GPL-2.0-only
//! EL2's own trace: the events, where they are written, and hypercalls 17 to 24. The policy is in
//! [`pkvm_core::trace`].
//!
//! An event that is off costs one load and a branch. Whether it is on, and its number, are words in a section of
//! EL2's read-only data: EL1 writes the numbers at boot, and while it has its privileges it may switch events there
//! itself; afterwards hypercall 23 does, through the fixmap.
//!
//! Locks: the trace lock orders the calls that load and unload; pages are donated and pinned under it. A ring's lock is
//! a leaf.
#![expect(
    unsafe_code,
    reason = "rings live in donated memory, and their pages are the host's"
)]

use core::sync::atomic::{AtomicI32, AtomicU16, Ordering};

use pkvm_arch::alt::{has_cap, kern_hyp_va};
use pkvm_arch::barrier;
use pkvm_arch::sysreg::{CNTPCT_EL0, read};
use pkvm_core::hcall::Switch;
use pkvm_core::mem::{self, HypPages, Lent, Pinned};
use pkvm_core::trace::{
    BufferPage, Clock, Descriptor, Lender, Reason, Record, Ring, SharedPages, Words, layout, meta,
};
use pkvm_kernel::Vcpu;
use pkvm_kernel::layout::*;
use pkvm_sync::{Before, Held, HostMmu, Leaf, Level, Lock, Root, Trace};
use pkvm_types::{Error, HypVa, PAGE_SIZE, Pfn, PfnRange, Phys, Result, Untrusted};

use crate::hw::HW;
use crate::lifecycle::give_back;
use crate::state::with_host_hyp;
use crate::{mm, statics, words};

/// Whether the kernel is built with EL2 tracing.
pub const IS_BUILT: bool = CONFIG_NVHE_EL2_TRACING != 0;

/// One event: `struct hyp_event_id`. EL1 knows it by its place in the section, which is sorted by name.
#[repr(C)]
struct Event {
    number: AtomicU16,
    enabled: AtomicI32,
}

const _: () = assert!(
    size_of::<Event>() as u64 == EVENT_ID_SIZE
        && core::mem::offset_of!(Event, number) as u64 == EVENT_ID_ID
        && core::mem::offset_of!(Event, enabled) as u64 == EVENT_ID_ENABLED
);

impl Event {
    const fn new() -> Self {
        Self {
            number: AtomicU16::new(0),
            enabled: AtomicI32::new(0),
        }
    }
    #[inline(always)]
    fn is_on(&self) -> bool {
        IS_BUILT && self.enabled.load(Ordering::Relaxed) != 0
    }
    fn number(&self) -> u16 {
        self.number.load(Ordering::Relaxed)
    }
}

macro_rules! events {
    ($($(#[$doc:meta])* $static:ident $section:literal;)*) => {
        $(
            $(#[$doc])*
            #[cfg_attr(kernel_has_event_ids, unsafe(link_section = $section))]
            static $static: Event = Event::new();
        )*
        /// Every event, in the order of their sections' names, which is that of their numbers.
        static EVENTS: &[&Event] = &[$(&$static),*];
    };
}

events! {
    /// EL2 was entered.
    HYP_ENTER ".hyp.event_ids.hyp_enter";
    /// EL2 is left.
    HYP_EXIT ".hyp.event_ids.hyp_exit";
    /// The host asked for a record.
    SELFTEST ".hyp.event_ids.selftest";
}

/// The rings of a CPU: its own, once it is loaded.
type CpuRing = Leaf<Option<Ring<'static>>>;

#[repr(transparent)]
struct Template(CpuRing);

// SAFETY: a ring refers to memory that it alone uses, and its lock lets one CPU at a time have it.
unsafe impl Sync for Template {}

#[unsafe(link_section = ".data..percpu")]
static RING: Template = Template(Leaf::new(None));

fn my_ring() -> &'static CpuRing {
    // SAFETY: EL1 made a copy of the template for each CPU, mapped for ever; a lock is made to be shared.
    unsafe { &*pkvm_arch::percpu::this_cpu_ptr((&raw const RING).cast::<CpuRing>()) }
}

/// The ring of `cpu`, `None` where there is no such CPU.
fn ring_of(cpu: usize) -> Option<&'static CpuRing> {
    let copy = statics::copy_of_cpu((&raw const RING).cast::<CpuRing>(), cpu)?;
    // SAFETY: as in `my_ring`.
    Some(unsafe { &*copy })
}

static CLOCK: Clock = Clock::new();

/// The buffers as a whole.
struct Buffers {
    /// The memory in which the rings keep their books, at rest; `None` while nothing is loaded.
    backing: Option<Backing>,
}

static BUFFERS: Lock<Buffers, Trace> = Lock::new(Buffers { backing: None });

/// The memory of [`BufferPage`]s: the host's in non-protected mode.
#[derive(Clone, Copy)]
struct Backing {
    at: HypVa,
    pages: PfnRange,
}

fn is_protected_mode() -> bool {
    has_cap::<{ CAP_KVM_PROTECTED_MODE as u16 }>()
}

/// Writes to the lent pages.
struct Shared;

/// Where word `offset` of a page is.
fn shared_word(page: HypVa, offset: u64) -> *mut u64 {
    debug_assert!(offset.is_multiple_of(8) && offset < PAGE_SIZE);
    (page.raw() + (offset & (PAGE_SIZE - 8))) as *mut u64
}

impl SharedPages for Shared {
    fn write(&self, page: HypVa, offset: u64, value: u64) {
        // SAFETY: the ring passes pages that it holds: pinned and so mapped in protected mode, and mapped by the trusted
        // host in the other. The word is aligned and lies on the page.
        unsafe { shared_word(page, offset).write_volatile(value) };
    }
    fn publish(&self, page: HypVa, offset: u64, value: u64) {
        // SAFETY: as for `write`. The store has release order, and the compiler keeps earlier ones before it.
        unsafe {
            core::arch::asm!("stlr {value}, [{word}]", value = in(reg) value, word = in(reg) shared_word(page, offset),
                options(nostack, preserves_flags));
        }
    }
}

const _: () = assert!(
    meta::SIZE == TRACE_META_SIZE
        && meta::PAGE_SIZE == TRACE_META_PAGE_SIZE
        && meta::SUBBUFS == TRACE_META_SUBBUF_SIZE
        && meta::READER_LOST == TRACE_META_READER_LOST
        && meta::READER == TRACE_META_READER_ID
        && meta::ENTRIES == TRACE_META_ENTRIES
        && meta::OVERRUN == TRACE_META_OVERRUN
        && meta::PAGES_LOST == TRACE_META_PAGES_LOST
        && meta::PAGES_TOUCHED == TRACE_META_PAGES_TOUCHED
);

const _: () = assert!(
    layout::BACKING_START * 8 == TRACE_DESC_BACKING_START
        && layout::BACKING_SIZE * 8 == TRACE_DESC_BACKING_BYTES
        && layout::NR_CPUS * 8 == TRACE_DESC_NR_CPUS
        && layout::FIRST * 8 == TRACE_DESC_FIRST
        && layout::META * 8 == TRACE_RING_DESC_META
        && layout::PAGES * 8 == TRACE_RING_DESC_PAGES
);

/// Writes a record to this CPU's ring.
#[cold]
#[inline(never)]
fn write(record: Record) {
    my_ring().with(|ring| {
        if let Some(ring) = ring {
            // The counter must not be read before the event. The host's own clock counts the same, whatever offset a
            // guest's virtual counter has by now.
            barrier::isb();
            ring.write(record, CLOCK.at(read::<CNTPCT_EL0>()), &Shared);
        }
    });
}

/// The process whose vCPU runs on this CPU, or 0.
fn pid() -> u32 {
    let running = statics::host_data().ctxt().running_vcpu();
    match core::ptr::NonNull::new(running as *mut u8) {
        // SAFETY: the pointer is set around a guest's run only, to the vCPU structure that runs.
        Some(vcpu) => unsafe { Vcpu::from_raw(vcpu) }.pid(),
        None => 0,
    }
}

#[cold]
#[inline(never)]
fn write_enter_exit(event: &Event, reason: Reason) {
    write(Record::enter_exit(event.number(), reason, pid()));
}

/// EL2 was entered.
#[inline(always)]
pub fn hyp_enter(reason: Reason) {
    if HYP_ENTER.is_on() {
        write_enter_exit(&HYP_ENTER, reason);
    }
}

/// EL2 is left.
#[inline(always)]
pub fn hyp_exit(reason: Reason) {
    if HYP_EXIT.is_on() {
        write_enter_exit(&HYP_EXIT, reason);
    }
}

/// Hypercall 24.
pub fn write_event(id: u64) {
    #[cfg(feature = "provoke")]
    crate::provoke::panic_for(id);
    if SELFTEST.is_on() {
        write(Record::selftest(SELFTEST.number(), id));
    }
}

/// The descriptor in memory that the host has no hand on.
enum Desc {
    /// Taken from the host.
    Lent(Lent),
    /// The trusted host's, in as many bytes.
    Trusted(HypVa, u64),
}

impl Words for Desc {
    fn word(&self, index: u64) -> Option<u64> {
        match self {
            Self::Lent(lent) => lent.word(&HW, index),
            Self::Trusted(at, bytes) => {
                if index >= bytes / 8 {
                    return None;
                }
                // SAFETY: outside protected mode the host is trusted, and has mapped the descriptor for EL2.
                Some(unsafe { (at.raw() as *const u64).add(index as usize).read_volatile() })
            }
        }
    }
}

/// The frames of `bytes` at `va` in the linear map. [`Error::Invalid`] for what is not whole pages.
fn frames(va: HypVa, bytes: u64) -> Result<PfnRange> {
    if !va.is_page_aligned() || !bytes.is_multiple_of(PAGE_SIZE) {
        return Err(Error::Invalid);
    }
    PfnRange::checked(Pfn::of(words::linear_phys(va)), bytes / PAGE_SIZE)
}

/// Takes the host's pages one by one, each for tracing alone.
struct HostPages<'a, L: Level>(&'a mut Held<L>);

impl<L: Level + Before<HostMmu>> Lender for HostPages<'_, L> {
    fn take(&mut self, kernel_va: u64) -> Result<HypVa> {
        let va = kern_hyp_va(kernel_va);
        if !va.is_page_aligned() {
            return Err(Error::Invalid);
        }
        if is_protected_mode() {
            let pfn = Pfn::of(words::linear_phys(va));
            with_host_hyp(self.0, |host, hyp| mem::pin_alone(&HW, host, hyp, pfn))?.rest();
        }
        Ok(va)
    }

    fn put(&mut self, page: HypVa) {
        if is_protected_mode() {
            // `take` made the pin, and nothing else drops it.
            let _ = with_host_hyp(self.0, |host, hyp| {
                let pages = PfnRange::single(Pfn::of(words::linear_phys(page)));
                let pin = Pinned::claim(&HW, hyp, pages)?;
                mem::unpin(&HW, host, hyp, pin);
                Ok(())
            });
        }
    }
}

/// Hypercall 17.
pub fn load(held: &mut Held<Root>, desc: Untrusted<u64>, size: Untrusted<u64>) -> Result<()> {
    if !IS_BUILT {
        return Err(Error::NoDevice);
    }
    let (va, size) = (kern_hyp_va(desc.unchecked()), size.unchecked());
    let pages = frames(va, size)?;
    if !is_protected_mode() {
        return load_described(held, &Desc::Trusted(va, size));
    }
    let lent = with_host_hyp(held, |host, hyp| mem::host_lend_hyp(&HW, host, hyp, pages))?;
    let desc = Desc::Lent(lent);
    let result = load_described(held, &desc);
    if let Desc::Lent(lent) = desc {
        // Should the host's tables be too short, it has lost the pages.
        let _ = with_host_hyp(held, |host, hyp| mem::hyp_return_lent(&HW, host, hyp, lent));
    }
    result
}

fn load_described(held: &mut Held<Root>, desc: &Desc) -> Result<()> {
    let read = Descriptor::read(desc, statics::hyp_nr_cpus.get())?;
    let books = read
        .pages
        .checked_mul(size_of::<BufferPage>() as u64)
        .ok_or(Error::Invalid)?;
    if books > read.backing_bytes {
        return Err(Error::Invalid);
    }
    let mut buffers = BUFFERS.lock(held);
    let (buffers, held) = buffers.parts();
    if buffers.backing.is_some() {
        return Err(Error::Invalid);
    }
    let backing = take_backing(held, read.backing, read.backing_bytes)?;
    buffers.backing = Some(backing);
    let result = load_rings(held, desc, &read, backing);
    if result.is_err() {
        unload_all(held, buffers);
    }
    result
}

/// Takes the memory for the rings' books.
fn take_backing<L: Level + Before<HostMmu>>(
    held: &mut Held<L>,
    kernel_va: u64,
    bytes: u64,
) -> Result<Backing> {
    let at = kern_hyp_va(kernel_va);
    let pages = frames(at, bytes)?;
    if is_protected_mode() {
        let pages = with_host_hyp(held, |host, hyp| mem::host_donate_hyp(&HW, host, hyp, pages))?;
        pages.zero(&HW);
        let _at_rest: PfnRange = pages.rest();
    } else {
        words::zero(at, bytes);
    }
    Ok(Backing { at, pages })
}

/// Loads one ring after the other. Those that were loaded before an error stay loaded.
fn load_rings<L: Level + Before<HostMmu>>(
    held: &mut Held<L>,
    desc: &Desc,
    read: &Descriptor,
    backing: Backing,
) -> Result<()> {
    let mut next = backing.at.raw() as *mut BufferPage;
    for entry in read.entries(desc) {
        let entry = entry?;
        let slot = ring_of(entry.cpu as usize).ok_or(Error::Invalid)?;
        let count = entry.pages as usize;
        // SAFETY: the backing is zeroed, which makes valid records, is aligned to a page, and by the check of its size
        // holds one for every page that the descriptor had when it was read. `entries` yields no more than those, whatever
        // the descriptor says now, and each is handed out here once. The backing is EL2's, or in the other mode the
        // trusted host's, until `unload_all`, which takes the rings away first.
        let books = unsafe { core::slice::from_raw_parts_mut(next, count) };
        next = next.wrapping_add(count);
        let ring = Ring::load(&entry, desc, books, &mut HostPages(held), &Shared)?;
        slot.with(|slot| *slot = Some(ring));
    }
    Ok(())
}

/// Takes all rings apart and gives their memory back.
fn unload_all<L: Level + Before<HostMmu>>(held: &mut Held<L>, buffers: &mut Buffers) {
    let Some(backing) = buffers.backing.take() else {
        return;
    };
    let cpus = (0..CONFIG_NR_CPUS as usize).map_while(ring_of);
    for ring in cpus.filter_map(|slot| slot.with(Option::take)) {
        ring.unload(&mut HostPages(held));
    }
    if is_protected_mode() {
        let claimed = with_host_hyp(held, |_, hyp| HypPages::claim(&HW, hyp, backing.pages));
        // The pages were donated for this and nothing refers to them, so claiming them cannot fail.
        if let Ok(pages) = claimed {
            give_back(held, pages);
        }
    }
}

/// Hypercall 18.
pub fn unload(held: &mut Held<Root>) {
    let mut buffers = BUFFERS.lock(held);
    let (buffers, held) = buffers.parts();
    unload_all(held, buffers);
}

/// Hypercall 19. [`Error::Invalid`] to start without buffers.
pub fn enable(held: &mut Held<Root>, enable: Switch) -> Result<()> {
    if !IS_BUILT {
        return Err(Error::NoDevice);
    }
    let buffers = BUFFERS.lock(held);
    match (buffers.backing, enable) {
        (None, Switch::On) => return Err(Error::Invalid),
        (None, Switch::Off) => return Ok(()),
        (Some(_), _) => {}
    }
    for slot in (0..CONFIG_NR_CPUS as usize).map_while(ring_of) {
        slot.with(|ring| {
            if let Some(ring) = ring {
                ring.set_on(enable == Switch::On);
            }
        });
    }
    Ok(())
}

/// Runs `f` on the ring of `cpu`. [`Error::Invalid`] where there is no such CPU, [`Error::NoDevice`] where it has no ring.
fn with_ring(
    held: &mut Held<Root>,
    cpu: Untrusted<u32>,
    f: impl FnOnce(&mut Ring<'static>) -> Result<()>,
) -> Result<()> {
    if !IS_BUILT {
        return Err(Error::NoDevice);
    }
    let slot = ring_of(cpu.unchecked() as usize).ok_or(Error::Invalid)?;
    // The trace lock keeps EL1's calls about the buffers in one order.
    let _buffers = BUFFERS.lock(held);
    slot.with(|ring| ring.as_mut().map_or(Err(Error::NoDevice), f))
}

/// Hypercall 20.
pub fn swap_reader(held: &mut Held<Root>, cpu: Untrusted<u32>) -> Result<()> {
    with_ring(held, cpu, |ring| ring.swap_reader(&Shared))
}

/// Hypercall 22.
pub fn reset(held: &mut Held<Root>, cpu: Untrusted<u32>) -> Result<()> {
    with_ring(held, cpu, |ring| {
        ring.reset(&Shared);
        Ok(())
    })
}

/// Hypercall 21.
pub fn update_clock(held: &mut Held<Root>, mult: u32, shift: u32, epoch_ns: u64, epoch_cyc: u64) {
    let _buffers = BUFFERS.lock(held);
    CLOCK.update(mult, shift, epoch_ns, epoch_cyc);
}

/// Hypercall 23. [`Error::Invalid`] for a number that is no event's, and where EL1 has its privileges still and switches
/// events itself.
pub fn enable_event(id: Untrusted<u16>, enable: Switch) -> Result<()> {
    if !IS_BUILT {
        return Err(Error::NoDevice);
    }
    let event = EVENTS.get(usize::from(id.unchecked())).ok_or(Error::Invalid)?;
    if !is_protected_mode() || crate::state::fixmap().is_none() {
        return Err(Error::Invalid);
    }
    let phys: Phys = words::linear_phys(HypVa::new((&raw const event.enabled) as u64));
    mm::with_page(phys.page(), |va| {
        let word = (va.raw() + phys.page_offset()) as *const AtomicI32;
        // SAFETY: the window maps the page of EL2's read-only data that holds the event, writable, and the word is an
        // aligned atomic within it.
        unsafe { &*word }.store(i32::from(enable == Switch::On), Ordering::Relaxed);
    });
    Ok(())
}
