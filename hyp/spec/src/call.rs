// SPDX-License-Identifier: GPL-2.0-only
//! The calls, with the numbers as the caller chose them.

use pkvm_types::Result;

/// What a call returns: a number, or why it was refused.
pub type Outcome = Result<u64>;

/// One call of the host's, of a VM's, or of the hypervisor's own. `vm` is an index; frames are raw numbers; `prot` is raw
/// bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(
    missing_docs,
    reason = "the names are those of the hypercalls and their arguments"
)]
pub enum Call {
    ShareHyp {
        pfn: u64,
    },
    UnshareHyp {
        pfn: u64,
    },
    DonateHyp {
        pfn: u64,
        pages: u64,
    },
    /// The hypervisor scrubs a page of its own and gives it back.
    GiveHost {
        pfn: u64,
    },
    Pin {
        pfn: u64,
        pages: u64,
    },
    /// Drops a pin that [`Call::Pin`] took on the same range.
    Unpin {
        pfn: u64,
        pages: u64,
    },
    ShareFfa {
        pfn: u64,
        pages: u64,
    },
    UnshareFfa {
        pfn: u64,
        pages: u64,
    },
    DonateGuest {
        vm: u8,
        pfn: u64,
        gfn: u64,
    },
    ShareGuest {
        vm: u8,
        pfn: u64,
        gfn: u64,
        pages: u64,
        prot: u64,
    },
    UnshareGuest {
        vm: u8,
        gfn: u64,
        pages: u64,
    },
    RelaxPerms {
        vm: u8,
        gfn: u64,
        prot: u64,
    },
    Wrprotect {
        vm: u8,
        gfn: u64,
        pages: u64,
    },
    TestClearYoung {
        vm: u8,
        gfn: u64,
        pages: u64,
        clear: bool,
    },
    Mkyoung {
        vm: u8,
        gfn: u64,
    },
    /// `MEM_SHARE` of a protected VM.
    GuestShare {
        vm: u8,
        gfn: u64,
    },
    /// `MEM_UNSHARE` of a protected VM.
    GuestUnshare {
        vm: u8,
        gfn: u64,
    },
    ForceReclaim {
        pfn: u64,
    },
    ReclaimDying {
        vm: u8,
        gfn: u64,
    },
    StartTeardown {
        vm: u8,
    },
    FinalizeTeardown {
        vm: u8,
    },
    /// Whether the frame is poisoned, as the hypervisor finds it for the last fault of a vCPU.
    InPoisonFault {
        vm: u8,
        gfn: u64,
    },
    /// The host reads the first byte of a frame. 1 where that works, 0 where it gets an abort.
    HostRead {
        pfn: u64,
    },
}
