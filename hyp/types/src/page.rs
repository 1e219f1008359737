// SPDX-License-Identifier: GPL-2.0-only
//! What EL2 knows of a page: who owns it, why it is shared, how each component sees it.

use crate::{Gfn, Handle};

/// How one component (host, hypervisor or guest) sees a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum PageState {
    /// Owned, and accessible to nobody else.
    Owned = 0,
    /// Owned, and lent to another component as well.
    SharedOwned = 1,
    /// Another component's, lent to this one.
    SharedBorrowed = 2,
    /// Not accessible to this component.
    NoPage = 3,
}

impl PageState {
    /// The state that two bits encode.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Owned,
            1 => Self::SharedOwned,
            2 => Self::SharedBorrowed,
            _ => Self::NoPage,
        }
    }
}

/// Who owns a page of memory. Exactly one component does at any time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Owner {
    /// The host.
    Host,
    /// The hypervisor itself.
    Hyp,
    /// The protected VM `handle`, at guest frame `gfn`.
    Guest {
        /// The VM.
        handle: Handle,
        /// Where the VM sees the page.
        gfn: Gfn,
    },
}

/// Why a page that the host owns, or sees, is shared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ShareReason {
    /// It is not shared.
    None,
    /// The host shares it with the hypervisor.
    Hyp,
    /// The host shares it with the secure world.
    Ffa,
    /// The host shares it with normal VMs, mapped so many times.
    Guests(u32),
    /// A protected VM shares it with the host.
    GuestToHost,
}

/// Access permissions of a mapping. `X` splits by privilege where FEAT_XNX is there: see `PX` and `UX`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct Perms(u8);

impl Perms {
    /// No access.
    pub const NONE: Self = Self(0);
    /// Privileged execute, the kernel's `KVM_PGTABLE_PROT_PX`.
    pub const PX: Self = Self(1);
    /// Unprivileged execute, the kernel's `KVM_PGTABLE_PROT_UX`.
    pub const UX: Self = Self(2);
    /// Write.
    pub const W: Self = Self(4);
    /// Read.
    pub const R: Self = Self(8);
    /// Execute at every privilege.
    pub const X: Self = Self(3);
    /// Read and write.
    pub const RW: Self = Self(12);
    /// Read and execute.
    pub const RX: Self = Self(11);
    /// Everything.
    pub const RWX: Self = Self(15);

    /// The set that the four low bits name, `None` where another bit is set.
    pub const fn from_bits(bits: u64) -> Option<Self> {
        if bits & !15 == 0 {
            Some(Self(bits as u8))
        } else {
            None
        }
    }
    /// The set as bits.
    pub const fn bits(self) -> u8 {
        self.0
    }
    /// Whether every permission of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// Whether any permission of `other` is in this set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// This set without `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}
