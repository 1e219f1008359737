// SPDX-License-Identifier: GPL-2.0-only
//! The abstract state.

use pkvm_types::{PageState, Perms};

/// A stretch of memory in the memory map, in frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// The first frame.
    pub start: u64,
    /// One past the last frame.
    pub end: u64,
    /// Whether it may never be mapped by anyone but the host.
    pub nomap: bool,
}

/// What never changes in a world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The memory, in ascending order.
    pub regions: &'static [Region],
    /// The first frame that the world keeps a page for.
    pub base: u64,
    /// Frames of the address space, physical and intermediate.
    pub limit: u64,
    /// Pages of a block.
    pub block: u64,
    /// The first guest frame that the world keeps for each VM.
    pub guest_base: u64,
    /// Whether execute permission may differ by privilege.
    pub xnx: bool,
}

/// Who owns a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum Holder {
    /// The host.
    #[default]
    Host,
    /// The hypervisor.
    Hyp,
    /// The VM of this index, at this guest frame.
    Guest(u8, u64),
}

/// To whom the owner lends a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum Loan {
    /// Nobody.
    #[default]
    None,
    /// The hypervisor, which holds so many pins.
    Hyp(u16),
    /// The secure world.
    Ffa,
    /// Normal VMs, at so many guest frames in all.
    Guests(u32),
    /// The host.
    Host,
}

/// One page of memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Page {
    /// Who owns it.
    pub holder: Holder,
    /// To whom it is lent.
    pub loan: Loan,
    /// Whether it holds hypervisor text, which nobody can take.
    pub text: bool,
}

impl Page {
    /// How the host sees it.
    pub const fn host_state(&self) -> PageState {
        match (self.holder, self.loan) {
            (Holder::Host, Loan::None) => PageState::Owned,
            (Holder::Host, _) => PageState::SharedOwned,
            (Holder::Guest(..), Loan::Host) => PageState::SharedBorrowed,
            _ => PageState::NoPage,
        }
    }

    /// How the hypervisor sees it.
    pub const fn hyp_state(&self) -> PageState {
        match (self.holder, self.loan) {
            (Holder::Hyp, _) => PageState::Owned,
            (Holder::Host, Loan::Hyp(_)) => PageState::SharedBorrowed,
            _ => PageState::NoPage,
        }
    }

    /// Whether the host can read it.
    pub const fn host_can_read(&self) -> bool {
        self.text || !matches!(self.host_state(), PageState::NoPage)
    }
}

/// Whether a VM is protected.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// It owns its memory.
    Protected,
    /// It borrows its memory from the host.
    Normal,
}

/// Where a VM is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// It runs.
    Live,
    /// It will not run again.
    Dying,
    /// Its slot is free.
    Gone,
}

/// A mapping of a VM's stage 2.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Leaf {
    /// The first frame that it maps.
    pub pfn: u64,
    /// Pages that it maps.
    pub pages: u64,
    /// What the VM may do, as the bits of [`Perms`].
    pub perms: u8,
    /// Whether the access flag is set.
    pub young: bool,
    /// Whether the VM lends the page to the host.
    pub lent: bool,
}

impl Leaf {
    /// The permissions.
    pub const fn allows(&self, perms: Perms) -> bool {
        self.perms & perms.bits() == perms.bits()
    }
}

/// What a VM has at one guest frame. A block is at its first frame; the other frames of it are absent here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum Frame {
    /// Nothing.
    #[default]
    Absent,
    /// The page was taken by force.
    Poison,
    /// A mapping.
    Leaf(Leaf),
}

/// One VM.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Vm<const G: usize> {
    /// Whether it is protected.
    pub kind: Kind,
    /// Where it is in its life.
    pub phase: Phase,
    /// Its guest frames from [`Layout::guest_base`] on.
    pub frames: [Frame; G],
}

/// The state: `P` pages, and `V` VMs of `G` guest frames each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct World<const P: usize, const V: usize, const G: usize> {
    /// The pages from [`Layout::base`] on.
    pub pages: [Page; P],
    /// The VMs.
    pub vms: [Vm<G>; V],
}

impl<const P: usize, const V: usize, const G: usize> World<P, V, G> {
    /// All memory the host's, and VMs of these kinds without memory.
    pub const fn new(kinds: [Kind; V]) -> Self {
        let page = Page {
            holder: Holder::Host,
            loan: Loan::None,
            text: false,
        };
        let mut vms = [Vm {
            kind: Kind::Normal,
            phase: Phase::Live,
            frames: [Frame::Absent; G],
        }; V];
        let mut i = 0;
        while i < V {
            vms[i].kind = kinds[i];
            i += 1;
        }
        Self {
            pages: [page; P],
            vms,
        }
    }
}
