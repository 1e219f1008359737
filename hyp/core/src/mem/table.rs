// SPDX-License-Identifier: GPL-2.0-only
//! The ownership transitions, as data. This table is the only place that says which states a page may go between and in
//! which order the page tables, TLBs and contents follow; the functions of this module execute its rows, the table in
//! `Documentation/transitions.rst` is printed from it, and the tests walk it.
//!
//! A page of memory has one [`Standing`]: the seven ways in which host and hypervisor can see it at once. Any other
//! combination of the three fields of a page record is a broken record, and no transition starts from it.

use core::fmt;

use pkvm_pool::PageMeta;
use pkvm_types::{PageState, ShareReason};

/// Who owns a page, and to whom it is lent. The names say "owner, then borrower".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Standing {
    /// The host's, for itself.
    Host,
    /// The host's, lent to the hypervisor, which may pin it.
    HostHyp,
    /// The host's, lent to the secure world.
    HostFfa,
    /// The host's, lent to normal VMs.
    HostGuests,
    /// The hypervisor's.
    Hyp,
    /// A protected VM's.
    Guest,
    /// A protected VM's, lent to the host.
    GuestHost,
}

impl Standing {
    /// Every standing.
    pub const ALL: [Self; 7] = [
        Self::Host,
        Self::HostHyp,
        Self::HostFfa,
        Self::HostGuests,
        Self::Hyp,
        Self::Guest,
        Self::GuestHost,
    ];

    /// How the host, the hypervisor, and the reason of a share describe a page of this standing. The count of a page
    /// that is lent to normal VMs is its own matter: at least one.
    pub const fn states(self) -> (PageState, PageState, ShareReason) {
        use PageState::{NoPage, Owned, SharedBorrowed, SharedOwned};
        match self {
            Self::Host => (Owned, NoPage, ShareReason::None),
            Self::HostHyp => (SharedOwned, SharedBorrowed, ShareReason::Hyp),
            Self::HostFfa => (SharedOwned, NoPage, ShareReason::Ffa),
            Self::HostGuests => (SharedOwned, NoPage, ShareReason::Guests(1)),
            Self::Hyp => (NoPage, Owned, ShareReason::None),
            Self::Guest => (NoPage, NoPage, ShareReason::None),
            Self::GuestHost => (SharedBorrowed, NoPage, ShareReason::GuestToHost),
        }
    }

    /// The standing that a page record describes, `None` for a combination that no transition makes.
    pub fn of(record: &PageMeta) -> Option<Self> {
        let reason = record.share();
        if matches!(reason, ShareReason::Guests(0)) {
            return None;
        }
        let key = Self::key(record.host_state(), record.hyp_state(), reason);
        STANDINGS.get(key).copied().flatten()
    }

    /// Where [`STANDINGS`] has the combination; the count of a loan does not matter.
    const fn key(host: PageState, hyp: PageState, reason: ShareReason) -> usize {
        let reason = match reason {
            ShareReason::None => 0,
            ShareReason::Hyp => 1,
            ShareReason::Ffa => 2,
            ShareReason::Guests(_) => 3,
            ShareReason::GuestToHost => 4,
        };
        reason << 4 | (hyp as usize) << 2 | host as usize
    }

    /// Writes the standing into a page record. Not for [`HostGuests`](Self::HostGuests), whose count goes up and down.
    pub(super) fn store(self, record: &PageMeta) {
        let (host, hyp, reason) = self.states();
        record.set_hyp_state(hyp);
        record.set_share(reason);
        record.set_host_state(host);
    }

    /// Whether the host may access such a page.
    pub const fn host_may_access(self) -> bool {
        !matches!(self, Self::Hyp | Self::Guest)
    }

    const fn same(self, other: Self) -> bool {
        self as u8 == other as u8
    }
}

/// The standing of each combination of states and reason: [`Standing::states`] turned round, for one look-up a page.
#[expect(clippy::indexing_slicing, reason = "evaluated by the build alone")]
static STANDINGS: [Option<Standing>; 128] = {
    let mut standings = [None; 128];
    let mut i = 0;
    while i < Standing::ALL.len() {
        let (host, hyp, reason) = Standing::ALL[i].states();
        standings[Standing::key(host, hyp, reason)] = Some(Standing::ALL[i]);
        i += 1;
    }
    standings
};

/// What a VM's stage 2 says of a guest frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum GuestState {
    /// Nothing.
    Absent,
    /// The page that was here was taken by force; it never comes back.
    Poison,
    /// The VM owns the page.
    Owned,
    /// The VM owns the page and lends it to the host.
    SharedOwned,
    /// The host lends the page to the VM.
    Borrowed,
}

impl GuestState {
    /// The state in the software bits of the leaf, `None` where there is no leaf.
    pub const fn leaf(self) -> Option<PageState> {
        match self {
            Self::Absent | Self::Poison => None,
            Self::Owned => Some(PageState::Owned),
            Self::SharedOwned => Some(PageState::SharedOwned),
            Self::Borrowed => Some(PageState::SharedBorrowed),
        }
    }
}

/// What a transition does to the records of its pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// They get this standing.
    To(Standing),
    /// One normal VM more borrows each page; the first makes it [`Standing::HostGuests`].
    AddGuest,
    /// One normal VM fewer borrows each page; the last makes it [`Standing::Host`].
    DropGuest,
}

/// Whether a transition tolerates pins of its pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pins {
    /// The standing excludes pins already.
    Impossible,
    /// A pinned page refuses the transition with `EBUSY`.
    Refuse,
}

/// One step of a transition's commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Effect {
    /// The host's stage 2 names the new owner instead of a mapping; TLB invalidation is done.
    HostAnnotate,
    /// The host's stage 2 maps the page with the permissions of memory.
    HostMap,
    /// The firmware call of erratum 4193714, where the CPUs need it.
    DvmSync,
    /// The page records change.
    Records,
    /// EL2's stage 1 maps the page in the linear map.
    HypMap,
    /// EL2's stage 1 stops mapping the page; TLB invalidation is done.
    HypUnmap,
    /// Cache maintenance so that the VM sees the page as the host left it, then the VM's stage 2 maps it.
    GuestMap,
    /// The VM's stage 2 stops mapping the page; TLB invalidation is done.
    GuestUnmap,
    /// The VM's stage 2 says that the page was taken by force; TLB invalidation is done.
    GuestPoison,
    /// The VM's stage 2 marks the page with its new state; the mapping stays.
    GuestMark,
    /// The page is filled with zeroes and cleaned to the point of coherency.
    Zero,
}

/// A transition of ownership or lending.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Transition {
    /// The host lends a page to the hypervisor.
    HostShareHyp,
    /// The host ends that.
    HostUnshareHyp,
    /// The host gives pages to the hypervisor.
    HostDonateHyp,
    /// The hypervisor gives pages to the host.
    HypDonateHost,
    /// The host gives a page to a protected VM.
    HostDonateGuest,
    /// The host lends a page or a block to a normal VM.
    HostShareGuest,
    /// The host ends that.
    HostUnshareGuest,
    /// A protected VM lends a page to the host.
    GuestShareHost,
    /// The protected VM ends that.
    GuestUnshareHost,
    /// The host takes a page of a running protected VM.
    HostForceReclaim,
    /// The host takes back a page that a dying protected VM owns.
    HostReclaimOwned,
    /// The host takes back a page that a dying protected VM lends it.
    HostReclaimShared,
    /// The host lends pages to the secure world.
    HostShareFfa,
    /// The secure world gave them back.
    HostUnshareFfa,
    /// The boot gives the hypervisor a page that it already maps.
    BootOwn,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Which transition this is.
    pub transition: Transition,
    /// The function that offers it, with the hypercall that leads there where there is one.
    pub call: &'static str,
    /// The standings that a page may have before; `EPERM` for any other.
    pub from: &'static [Standing],
    /// What becomes of the records.
    pub change: Change,
    /// Whether pins matter.
    pub pins: Pins,
    /// The state at the guest frame before and after, where a VM takes part.
    pub guest: Option<(GuestState, GuestState)>,
    /// The steps of the commit in their order.
    pub effects: &'static [Effect],
}

/// The table, in the order of [`Transition`].
pub const TRANSITIONS: [Row; 15] = {
    use Change::{AddGuest, DropGuest, To};
    use Effect::{
        DvmSync, GuestMap, GuestMark, GuestPoison, GuestUnmap, HostAnnotate, HostMap, HypMap, HypUnmap,
        Records, Zero,
    };
    use GuestState::{Absent, Borrowed, Owned, Poison, SharedOwned};
    use Pins::{Impossible, Refuse};
    use Standing as S;
    use Transition as T;
    const fn row(
        transition: Transition,
        call: &'static str,
        from: &'static [Standing],
        change: Change,
        pins: Pins,
        guest: Option<(GuestState, GuestState)>,
        effects: &'static [Effect],
    ) -> Row {
        Row {
            transition,
            call,
            from,
            change,
            pins,
            guest,
            effects,
        }
    }
    [
        row(
            T::HostShareHyp,
            "host_share_hyp (29)",
            &[S::Host],
            To(S::HostHyp),
            Impossible,
            None,
            &[Records],
        ),
        row(
            T::HostUnshareHyp,
            "host_unshare_hyp (30)",
            &[S::HostHyp],
            To(S::Host),
            Refuse,
            None,
            &[Records],
        ),
        row(
            T::HostDonateHyp,
            "host_donate_hyp",
            &[S::Host],
            To(S::Hyp),
            Impossible,
            None,
            &[HostAnnotate, DvmSync, Records, HypMap],
        ),
        row(
            T::HypDonateHost,
            "hyp_donate_host",
            &[S::Hyp],
            To(S::Host),
            Refuse,
            None,
            &[HypUnmap, HostMap, Records],
        ),
        row(
            T::HostDonateGuest,
            "host_donate_guest (31)",
            &[S::Host],
            To(S::Guest),
            Impossible,
            Some((Absent, Owned)),
            &[HostAnnotate, DvmSync, Records, GuestMap],
        ),
        row(
            T::HostShareGuest,
            "host_share_guest (32)",
            &[S::Host, S::HostGuests],
            AddGuest,
            Impossible,
            Some((Absent, Borrowed)),
            &[Records, GuestMap],
        ),
        row(
            T::HostUnshareGuest,
            "host_unshare_guest (33)",
            &[S::HostGuests],
            DropGuest,
            Impossible,
            Some((Borrowed, Absent)),
            &[GuestUnmap, Records],
        ),
        row(
            T::GuestShareHost,
            "guest_share_host (MEM_SHARE)",
            &[S::Guest],
            To(S::GuestHost),
            Impossible,
            Some((Owned, SharedOwned)),
            &[GuestMark, HostMap, Records],
        ),
        row(
            T::GuestUnshareHost,
            "guest_unshare_host (MEM_UNSHARE)",
            &[S::GuestHost],
            To(S::Guest),
            Impossible,
            Some((SharedOwned, Owned)),
            &[HostAnnotate, DvmSync, Records, GuestMark],
        ),
        row(
            T::HostForceReclaim,
            "host_force_reclaim_guest (43)",
            &[S::Guest],
            To(S::Host),
            Impossible,
            Some((Owned, Poison)),
            &[GuestPoison, Zero, HostMap, Records],
        ),
        row(
            T::HostReclaimOwned,
            "host_reclaim_dying_guest (44)",
            &[S::Guest],
            To(S::Host),
            Impossible,
            Some((Owned, Absent)),
            &[GuestUnmap, Zero, HostMap, Records],
        ),
        row(
            T::HostReclaimShared,
            "host_reclaim_dying_guest (44)",
            &[S::GuestHost],
            To(S::Host),
            Impossible,
            Some((SharedOwned, Absent)),
            &[GuestUnmap, Records],
        ),
        row(
            T::HostShareFfa,
            "host_share_ffa",
            &[S::Host],
            To(S::HostFfa),
            Impossible,
            None,
            &[Records],
        ),
        row(
            T::HostUnshareFfa,
            "host_unshare_ffa",
            &[S::HostFfa],
            To(S::Host),
            Impossible,
            None,
            &[Records],
        ),
        row(
            T::BootOwn,
            "own_boot_page",
            &[S::Host],
            To(S::Hyp),
            Impossible,
            None,
            &[HostAnnotate, DvmSync, Records],
        ),
    ]
};

impl Transition {
    /// The row of this transition.
    pub fn row(self) -> &'static Row {
        static TABLE: [Row; 15] = TRANSITIONS;
        // The constant below proves that each transition has its row at its own index.
        let [first, ..] = &TABLE;
        TABLE.get(self as usize).unwrap_or(first)
    }
}

impl Row {
    /// Whether a page of `standing` may take this transition.
    pub fn starts_from(&self, standing: Standing) -> bool {
        self.from.contains(&standing)
    }

    #[expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "bounded; and `const` has no iterators"
    )]
    /// The place of `effect` in the commit, or the number of effects where it is not part of it.
    const fn place(&self, effect: Effect) -> usize {
        let mut i = 0;
        while i < self.effects.len() && self.effects[i] as u8 != effect as u8 {
            i += 1;
        }
        i
    }

    /// Whether `effect` is part of the commit.
    pub const fn has(&self, effect: Effect) -> bool {
        self.place(effect) < self.effects.len()
    }

    /// Whether `first` comes before `then`, both being part of the commit.
    const fn orders(&self, first: Effect, then: Effect) -> bool {
        self.has(then) && self.place(first) < self.place(then)
    }

    #[expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "evaluated by the build alone"
    )]
    /// Whether the steps of the row respect what any transition owes the other components.
    const fn is_sound(&self) -> bool {
        let mut i = 0;
        while i < self.effects.len() {
            // Taking an entry out of a page table has no plan and may be refused; then nothing has changed yet.
            if matches!(
                self.effects[i],
                Effect::GuestUnmap | Effect::GuestPoison | Effect::HypUnmap
            ) && i != 0
            {
                return false;
            }
            i += 1;
        }
        if !self.has(Effect::Records) {
            return false;
        }
        let Change::To(to) = self.change else {
            // Lending to a normal VM: counted before it is mapped, unmapped before it is discounted.
            return match self.change {
                Change::AddGuest => self.orders(Effect::Records, Effect::GuestMap),
                _ => self.orders(Effect::GuestUnmap, Effect::Records),
            };
        };
        let mut i = 0;
        while i < self.from.len() {
            let from = self.from[i];
            let loses_host = from.host_may_access() && !to.host_may_access();
            if loses_host {
                // The host loses access, its TLB entries are gone, and only then the new owner starts to use the page.
                if !self.orders(Effect::HostAnnotate, Effect::DvmSync)
                    || !self.orders(Effect::DvmSync, Effect::Records)
                {
                    return false;
                }
                if self.has(Effect::HypMap) && !self.orders(Effect::Records, Effect::HypMap)
                    || self.has(Effect::GuestMap) && !self.orders(Effect::Records, Effect::GuestMap)
                    || self.has(Effect::GuestMark) && !self.orders(Effect::Records, Effect::GuestMark)
                {
                    return false;
                }
            }
            if from.same(Standing::Guest) && to.same(Standing::Host) {
                // The VM cannot reach the page any more, then its content goes, then the host gets it.
                let gone = self.orders(Effect::GuestUnmap, Effect::Zero)
                    || self.orders(Effect::GuestPoison, Effect::Zero);
                if !gone
                    || !self.orders(Effect::Zero, Effect::HostMap)
                    || !self.orders(Effect::Zero, Effect::Records)
                {
                    return false;
                }
            }
            if from.same(Standing::Hyp)
                && to.same(Standing::Host)
                && !self.orders(Effect::HypUnmap, Effect::HostMap)
            {
                return false;
            }
            i += 1;
        }
        true
    }
}

// A row at the wrong place, or one whose steps are in an unsafe order, does not build.
#[expect(clippy::indexing_slicing, reason = "evaluated by the build alone")]
const _: () = {
    let mut i = 0;
    while i < TRANSITIONS.len() {
        assert!(
            TRANSITIONS[i].transition as usize == i,
            "a row is not at the index of its transition"
        );
        assert!(
            TRANSITIONS[i].is_sound(),
            "the steps of a row are in an unsafe order"
        );
        i += 1;
    }
};

/// Prints the table as reStructuredText.
///
/// # Errors
///
/// Those of `out`.
pub fn print_rst(out: &mut impl fmt::Write) -> fmt::Result {
    out.write_str(include_str!("transitions.head.rst"))?;
    for row in &TRANSITIONS {
        writeln!(out, "   * - ``{}``", row.call)?;
        out.write_str("     - ")?;
        for (i, from) in row.from.iter().enumerate() {
            write!(out, "{}{from:?}", if i == 0 { "" } else { ", " })?;
        }
        match row.change {
            Change::To(to) => writeln!(out, " -> {to:?}")?,
            Change::AddGuest => writeln!(out, " -> HostGuests, count + 1")?,
            Change::DropGuest => writeln!(out, " -> count - 1, Host at 0")?,
        }
        match row.guest {
            Some((from, to)) => writeln!(out, "     - {from:?} -> {to:?}")?,
            None => writeln!(out, "     -")?,
        }
        writeln!(
            out,
            "     - {}",
            if row.pins == Pins::Refuse {
                "unpinned, else EBUSY"
            } else {
                ""
            }
        )?;
        out.write_str("     - ")?;
        for (i, effect) in row.effects.iter().enumerate() {
            write!(out, "{}{effect:?}", if i == 0 { "" } else { ", " })?;
        }
        out.write_str("\n")?;
    }
    out.write_str("\nStandings\n---------\n\n.. list-table::\n   :header-rows: 1\n\n")?;
    out.write_str("   * - Standing\n     - Host state\n     - Hypervisor state\n     - Reason\n")?;
    for standing in Standing::ALL {
        let (host, hyp, reason) = standing.states();
        let reason = match reason {
            ShareReason::None => "",
            ShareReason::Hyp => "hypervisor",
            ShareReason::Ffa => "secure world",
            ShareReason::Guests(_) => "normal VMs, counted",
            ShareReason::GuestToHost => "guest to host",
        };
        writeln!(
            out,
            "   * - {standing:?}\n     - {host:?}\n     - {hyp:?}\n     - {reason}"
        )?;
    }
    Ok(())
}
