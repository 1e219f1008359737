// SPDX-License-Identifier: GPL-2.0-only
//! The ownership self-test: takes one page through every standing, and at each stop makes every call that must be refused.
//! The same body runs at EL2 at boot, in builds with `CONFIG_NVHE_EL2_DEBUG`, and on the simulated machine. What each call
//! must do is written here once more, by hand, so that a slip in the transition table does not confirm itself.
//!
//! Nothing panics: a difference is returned, and the boot fails with it.

use pkvm_pgtable::{Entry, Stage2Config};
use pkvm_pool::Memcache;
use pkvm_types::{Error, Gfn, Handle, Ipa, MAX_VMS, PAGE_SHIFT, Perms, Pfn, PfnRange, Result};

use super::ops::{Stage2Ops, Words};
use super::table::{GuestState, Standing};
use super::token::{HypPages, Pinned};
use super::{Guest, GuestKind, Host, Hyp};
use crate::machine::Machine;

/// A call of the self-test; the number is one of two guest frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// `host_share_hyp`
    ShareHyp,
    /// `host_unshare_hyp`
    UnshareHyp,
    /// `pin`
    Pin,
    /// `unpin`
    Unpin,
    /// `host_donate_hyp`
    DonateHyp,
    /// `hyp_donate_host`
    GiveHost,
    /// `host_share_ffa`
    ShareFfa,
    /// `host_unshare_ffa`
    UnshareFfa,
    /// `host_donate_guest` to the protected VM
    DonateGuest(u8),
    /// `guest_share_host` by the protected VM
    GuestShare(u8),
    /// `guest_unshare_host` by the protected VM
    GuestUnshare(u8),
    /// `host_force_reclaim_guest`
    ForceReclaim,
    /// `host_reclaim_dying_guest` of the protected VM
    Reclaim(u8),
    /// `host_share_guest` with the normal VM
    ShareGuest(u8),
    /// `host_unshare_guest` of the normal VM
    UnshareGuest(u8),
}

/// Every call.
const OPS: [Op; 21] = [
    Op::ShareHyp,
    Op::UnshareHyp,
    Op::Pin,
    Op::Unpin,
    Op::DonateHyp,
    Op::GiveHost,
    Op::ShareFfa,
    Op::UnshareFfa,
    Op::DonateGuest(0),
    Op::DonateGuest(1),
    Op::GuestShare(0),
    Op::GuestShare(1),
    Op::GuestUnshare(0),
    Op::GuestUnshare(1),
    Op::ForceReclaim,
    Op::Reclaim(0),
    Op::Reclaim(1),
    Op::ShareGuest(0),
    Op::ShareGuest(1),
    Op::UnshareGuest(0),
    Op::UnshareGuest(1),
];

/// The way through all standings. It begins and ends with the page as the hypervisor's.
const TOUR: [Op; 30] = [
    Op::GiveHost,
    Op::ShareHyp,
    Op::Pin,
    Op::Pin,
    Op::Unpin,
    Op::Unpin,
    Op::UnshareHyp,
    Op::ShareFfa,
    Op::UnshareFfa,
    Op::ShareGuest(0),
    Op::ShareGuest(1),
    Op::UnshareGuest(0),
    Op::UnshareGuest(1),
    Op::ShareGuest(1),
    Op::UnshareGuest(1),
    Op::DonateGuest(0),
    Op::GuestShare(0),
    Op::GuestUnshare(0),
    Op::GuestShare(0),
    Op::Reclaim(0),
    Op::DonateGuest(0),
    Op::ForceReclaim,
    Op::DonateGuest(1),
    Op::Reclaim(1),
    Op::Reclaim(0),
    Op::DonateGuest(1),
    Op::ForceReclaim,
    Op::DonateHyp,
    Op::GiveHost,
    Op::DonateHyp,
];

/// What went wrong: the step of the tour, the call, and what it returned where the model wanted something else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// There are too few pages, or they do not suit the page tables.
    Setup(Error),
    /// A call returned something else than it should.
    Outcome(usize, Op, Result<()>),
    /// A call left another state than it should.
    State(usize, Op),
    /// Pages were missing at the end.
    Leak,
}

/// What the test knows of its page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State {
    standing: Standing,
    pins: u16,
    protected: [GuestState; 2],
    normal: [GuestState; 2],
}

impl State {
    const START: Self = Self {
        standing: Standing::Hyp,
        pins: 0,
        protected: [GuestState::Absent; 2],
        normal: [GuestState::Absent; 2],
    };

    /// What `op` makes of the state.
    fn step(mut self, op: Op) -> Result<Self> {
        use GuestState::{Absent, Borrowed, Owned, Poison, SharedOwned};
        let refuse = |allowed: bool| if allowed { Ok(()) } else { Err(Error::Perm) };
        let from = |standing| refuse(self.standing == standing);
        let slot = |frames: [GuestState; 2], at: u8| frames.get(usize::from(at)).copied().unwrap_or(Absent);
        let put = |frames: &mut [GuestState; 2], at: u8, state| {
            if let Some(slot) = frames.get_mut(usize::from(at)) {
                *slot = state;
            }
        };
        match op {
            Op::ShareHyp => {
                from(Standing::Host)?;
                self.standing = Standing::HostHyp;
            }
            Op::UnshareHyp => {
                from(Standing::HostHyp)?;
                if self.pins != 0 {
                    return Err(Error::Busy);
                }
                self.standing = Standing::Host;
            }
            Op::Pin => {
                from(Standing::HostHyp)?;
                self.pins = self.pins.saturating_add(1);
            }
            Op::Unpin => self.pins = self.pins.checked_sub(1).ok_or(Error::Perm)?,
            Op::DonateHyp => {
                from(Standing::Host)?;
                self.standing = Standing::Hyp;
            }
            Op::GiveHost => {
                from(Standing::Hyp)?;
                self.standing = Standing::Host;
            }
            Op::ShareFfa => {
                from(Standing::Host)?;
                self.standing = Standing::HostFfa;
            }
            Op::UnshareFfa => {
                from(Standing::HostFfa)?;
                self.standing = Standing::Host;
            }
            Op::DonateGuest(at) => {
                from(Standing::Host)?;
                refuse(slot(self.protected, at) == Absent)?;
                self.standing = Standing::Guest;
                put(&mut self.protected, at, Owned);
            }
            Op::GuestShare(at) => {
                expect(slot(self.protected, at), Owned)?;
                self.standing = Standing::GuestHost;
                put(&mut self.protected, at, SharedOwned);
            }
            Op::GuestUnshare(at) => {
                expect(slot(self.protected, at), SharedOwned)?;
                self.standing = Standing::Guest;
                put(&mut self.protected, at, Owned);
            }
            Op::ForceReclaim => {
                if self.standing.host_may_access() {
                    return Err(Error::Again);
                }
                from(Standing::Guest)?;
                self.standing = Standing::Host;
                self.protected = self
                    .protected
                    .map(|state| if state == Owned { Poison } else { state });
            }
            Op::Reclaim(at) => match slot(self.protected, at) {
                Absent => return Err(Error::NotFound),
                Poison => {}
                _ => {
                    self.standing = Standing::Host;
                    put(&mut self.protected, at, Absent);
                }
            },
            Op::ShareGuest(at) => {
                refuse(slot(self.normal, at) == Absent)?;
                refuse(matches!(self.standing, Standing::Host | Standing::HostGuests))?;
                self.standing = Standing::HostGuests;
                put(&mut self.normal, at, Borrowed);
            }
            Op::UnshareGuest(at) => {
                if slot(self.normal, at) != Borrowed {
                    return Err(Error::NotFound);
                }
                put(&mut self.normal, at, Absent);
                if self.normal == [Absent; 2] {
                    self.standing = Standing::Host;
                }
            }
        }
        Ok(self)
    }
}

/// What a protected VM's call says of a frame that is not in the state it wants.
fn expect(is: GuestState, want: GuestState) -> Result<()> {
    match is {
        _ if is == want => Ok(()),
        GuestState::Absent => Err(Error::NotFound),
        GuestState::Poison => Err(Error::Poisoned),
        _ => Err(Error::Perm),
    }
}

/// The page under test and the VMs.
struct Bench<'a, M> {
    m: &'a M,
    host: &'a mut Host,
    hyp: &'a mut Hyp,
    pfn: Pfn,
    gfn: [Gfn; 2],
    protected: Guest,
    normal: Guest,
    memcache: [Memcache; 2],
}

/// Runs the self-test. `pages` are pages of EL2's that nothing else uses, at least [`pages_needed`] of them; `config` is
/// that of every VM. On success they are all EL2's again, to be taken up with [`HypPages::claim`].
pub fn run<M: Machine>(
    m: &M,
    host: &mut Host,
    hyp: &mut Hyp,
    config: Stage2Config,
    pages: HypPages,
) -> Result<(), Failure> {
    let range = pages.rest();
    let mut bench = Bench::new(m, host, hyp, config, range).map_err(Failure::Setup)?;
    let mut state = State::START;
    for (step, tour) in TOUR.into_iter().enumerate() {
        for op in OPS.into_iter().filter(|op| state.step(*op).is_err()) {
            // What is refused leaves the state as it is, which is what is compared.
            bench.expect(step, op, state)?;
        }
        state = bench.expect(step, tour, state)?;
    }
    bench.finish(range)
}

/// How many pages [`run`] needs: one to test, and the tables of two VMs, whose roots must find their alignment.
pub fn pages_needed(config: &Stage2Config) -> u64 {
    let root = config.root_pages();
    let tables = u64::from(config.min_pages());
    root.saturating_mul(3)
        .saturating_add(tables.saturating_mul(4))
        .saturating_add(1)
}

impl<'a, M: Machine> Bench<'a, M> {
    #[inline(never)]
    fn new(
        m: &'a M,
        host: &'a mut Host,
        hyp: &'a mut Hyp,
        config: Stage2Config,
        range: PfnRange,
    ) -> Result<Self> {
        let root = config.root_pages();
        let first = range
            .start()
            .raw()
            .checked_next_multiple_of(root)
            .ok_or(Error::NoMemory)?;
        let second = first.checked_add(root).ok_or(Error::NoMemory)?;
        let past = second.checked_add(root).ok_or(Error::NoMemory)?;
        if range.count() < pages_needed(&config) {
            return Err(Error::NoMemory);
        }
        let guest = |hyp: &mut Hyp, index: usize, kind, start| {
            let pgd = HypPages::claim(m, hyp, PfnRange::checked(Pfn::checked(start)?, root)?)?;
            let handle = Handle::from_index(MAX_VMS.saturating_sub(index))?;
            Guest::create(m, handle, kind, config, pgd).map_err(|(error, _)| error)
        };
        let protected = guest(hyp, 1, GuestKind::Protected, first)?;
        let normal = guest(hyp, 2, GuestKind::Normal, second)?;
        let mut rest = range.iter().filter(|pfn| pfn.raw() < first || past <= pfn.raw());
        let pfn = rest.next().ok_or(Error::NoMemory)?;
        let mut memcache = [Memcache::new(); 2];
        for (i, page) in rest.enumerate() {
            // By turns, so that both get enough.
            if let Some(cache) = memcache.get_mut(i & 1) {
                cache.push(&Words(m), page);
            }
        }
        // Half of the address space, as far as one may go from anything that boot has used.
        let half = 1u64 << config.ipa_bits().saturating_sub(PAGE_SHIFT).saturating_sub(1);
        let gfn = [Gfn::checked(half)?, Gfn::checked(half.saturating_add(1))?];
        Ok(Self {
            m,
            host,
            hyp,
            pfn,
            gfn,
            protected,
            normal,
            memcache,
        })
    }

    /// Makes a call and compares what it returns and leaves with the model.
    fn expect(&mut self, step: usize, op: Op, state: State) -> Result<State, Failure> {
        let want = state.step(op);
        let got = self.call(op);
        if got != want.map(|_| ()) {
            return Err(Failure::Outcome(step, op, got));
        }
        let after = want.unwrap_or(state);
        if self.state() == Ok(after) {
            Ok(after)
        } else {
            Err(Failure::State(step, op))
        }
    }

    fn call(&mut self, op: Op) -> Result<()> {
        let m = self.m;
        let page = PfnRange::single(self.pfn);
        let [for_protected, for_normal] = &mut self.memcache;
        match op {
            Op::ShareHyp => apart(|| super::host_share_hyp(m, self.host, self.hyp, self.pfn)),
            Op::UnshareHyp => apart(|| super::host_unshare_hyp(m, self.host, self.hyp, self.pfn)),
            Op::Pin => apart(|| {
                super::pin(m, self.host, self.hyp, page).map(|pinned| {
                    pinned.rest();
                })
            }),
            Op::Unpin => apart(|| {
                let pinned = Pinned::claim(m, self.hyp, page)?;
                super::unpin(m, self.host, self.hyp, pinned);
                Ok(())
            }),
            Op::DonateHyp => apart(|| {
                super::host_donate_hyp(m, self.host, self.hyp, page).map(|pages| {
                    pages.rest();
                })
            }),
            Op::GiveHost => apart(|| {
                let (page, _) = HypPages::claim(m, self.hyp, page)?.scrub_first(m, 0);
                super::hyp_donate_host(m, self.host, self.hyp, page).map_err(|(error, _)| error)
            }),
            Op::ShareFfa => apart(|| super::host_share_ffa(m, self.host, page)),
            Op::UnshareFfa => apart(|| super::host_unshare_ffa(m, self.host, page)),
            Op::DonateGuest(at) => apart(|| {
                let gfn = frame_of(self.gfn, at);
                super::host_donate_guest(m, self.host, &mut self.protected, for_protected, self.pfn, gfn)
            }),
            Op::GuestShare(at) => {
                apart(|| super::guest_share_host(m, self.host, &mut self.protected, frame_of(self.gfn, at)))
            }
            Op::GuestUnshare(at) => apart(|| {
                let gfn = frame_of(self.gfn, at);
                super::guest_unshare_host(m, self.host, &mut self.protected, gfn)
            }),
            Op::ForceReclaim => apart(|| {
                let phys = self.pfn.phys();
                let (handle, gfn) = super::owner_of_faulting_page(m, self.host, phys)?;
                if handle != self.protected.handle() {
                    return Err(Error::Invalid);
                }
                super::host_force_reclaim_guest(m, self.host, &mut self.protected, phys, gfn)
            }),
            Op::Reclaim(at) => apart(|| {
                let gfn = frame_of(self.gfn, at);
                super::host_reclaim_dying_guest(m, self.host, &mut self.protected, gfn)
            }),
            Op::ShareGuest(at) => apart(|| {
                let gfn = frame_of(self.gfn, at);
                let prot = u64::from(Perms::RWX.bits());
                super::host_share_guest(m, self.host, &mut self.normal, for_normal, self.pfn, gfn, 1, prot)
            }),
            Op::UnshareGuest(at) => apart(|| {
                let gfn = frame_of(self.gfn, at);
                super::host_unshare_guest(m, self.host, &mut self.normal, gfn, 1)
            }),
        }
    }

    /// The state as records and tables have it.
    #[inline(never)]
    fn state(&mut self) -> Result<State> {
        let m = self.m;
        let record = m.record(self.pfn).ok_or(Error::Invalid)?;
        let standing = Standing::of(record).ok_or(Error::Invalid)?;
        let gfn = self.gfn;
        let protected = frames(m, &mut self.protected, gfn)?;
        let normal = frames(m, &mut self.normal, gfn)?;
        let (s2, ops) = self.host.split(m);
        let entry = s2.lookup(&ops, Ipa::new(self.pfn.phys().raw()))?.entry;
        let hidden = matches!(entry, Entry::Donated(_));
        // The host's table hides exactly what the record says it must not see.
        if hidden == standing.host_may_access() {
            return Err(Error::Invalid);
        }
        Ok(State {
            standing,
            pins: record.refcount(),
            protected,
            normal,
        })
    }

    /// Ends both VMs and checks that every page is free again.
    #[inline(never)]
    fn finish(mut self, range: PfnRange) -> Result<(), Failure> {
        let m = self.m;
        for guest in [&mut self.protected, &mut self.normal] {
            super::guest_teardown(m, self.host, guest).map_err(Failure::Setup)?;
            while let Some(page) = super::guest_pop_table(m, guest) {
                page.rest();
            }
        }
        match HypPages::claim(m, self.hyp, range) {
            Ok(pages) => {
                pages.zero(m);
                pages.rest();
                Ok(())
            }
            Err(_) => Err(Failure::Leak),
        }
    }
}

/// Makes a call in a frame of its own: EL2 has one page of stack, and a function that holds all calls would need the room
/// of the largest for each.
#[inline(never)]
fn apart<R>(call: impl FnOnce() -> R) -> R {
    call()
}

/// One of the two guest frames.
fn frame_of(gfn: [Gfn; 2], at: u8) -> Gfn {
    let [first, second] = gfn;
    if at == 0 { first } else { second }
}

/// What a VM has at both frames.
fn frames<M: Machine>(m: &M, guest: &mut Guest, gfn: [Gfn; 2]) -> Result<[GuestState; 2]> {
    let (s2, ops) = guest.split(m, None)?;
    let [first, second] = gfn.map(|gfn| frame(s2, &ops, gfn));
    Ok([first?, second?])
}

fn frame<M: Machine>(s2: &pkvm_pgtable::Stage2, ops: &Stage2Ops<'_, M>, gfn: Gfn) -> Result<GuestState> {
    use GuestState::{Borrowed, Owned, SharedOwned};
    match s2.lookup(ops, gfn.ipa())?.entry {
        Entry::Absent => Ok(GuestState::Absent),
        Entry::Poisoned => Ok(GuestState::Poison),
        Entry::Leaf(leaf) => {
            let mut states = [Owned, SharedOwned, Borrowed].into_iter();
            states
                .find(|state| state.leaf() == Some(leaf.state))
                .ok_or(Error::Invalid)
        }
        _ => Err(Error::Invalid),
    }
}
