// SPDX-License-Identifier: GPL-2.0-only
//! The ways in which the FF-A side can be told to lie. A fault shows at the call that it is about, as often as it was
//! armed for, and the FF-A side is honest otherwise.

/// A fault, by the number that tests know it by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Fault {
    /// None.
    Honest = 0,
    /// FFA_VERSION: 1.3, which is newer than anybody asks for.
    VersionMinor = 1,
    /// FFA_VERSION: 2.0.
    VersionMajor = 2,
    /// FFA_VERSION: a number with bit 31 set is taken as if it were clear.
    VersionBit31 = 3,
    /// FFA_VERSION: another one each time.
    VersionDrift = 4,
    /// FFA_ID_GET: not the number of the hypervisor.
    Id = 5,
    /// FFA_FEATURES: buffers of 64 KiB at least.
    BufferSize = 6,
    /// Any call but FFA_VERSION: x0 is -1 and the other registers are the caller's.
    BareError = 7,
    /// Any call but FFA_VERSION: FFA_ERROR with the code 0.
    ErrorZero = 8,
    /// A call that would succeed: FFA_SUCCESS, but with -2 in x2, and in x3 to x17 as well. Nothing was done.
    SuccessEmpty = 9,
    /// A call that succeeds: all registers without a meaning hold rubbish.
    Rubbish = 10,
    /// A fragment that was taken: FFA_MEM_FRAG_RX with an offset 16 bytes too far.
    FragLong = 11,
    /// The same with an offset of 0.
    FragZero = 12,
    /// The same with an offset just below 2^32.
    FragWrap = 13,
    /// FFA_SUCCESS although fragments are missing.
    FragDone = 14,
    /// FFA_MEM_FRAG_RX although nothing is missing.
    FragAgain = 15,
    /// The handle in a result is another one.
    OtherHandle = 16,
    /// A share, loan or fragment is refused with FFA_DENIED, and nothing of it is held.
    Refuse = 17,
    /// A reclaim is refused with FFA_DENIED.
    ReclaimRefuse = 18,
    /// A reclaim is answered by FFA_MEM_FRAG_RX.
    ReclaimOdd = 19,
    /// FFA_PARTITION_INFO_GET: so many partitions that count times size is 24 in 32 bits.
    PartitionWrap = 20,
    /// FFA_PARTITION_INFO_GET: 171 partitions, a page and a bit.
    PartitionMany = 21,
    /// FFA_MEM_RETRIEVE_RESP: the first fragment is longer than a page.
    RetrieveLong = 22,
    /// FFA_MEM_RETRIEVE_RESP: the first fragment is 8 bytes long.
    RetrieveShort = 23,
    /// FFA_MEM_RETRIEVE_RESP: the offset of the composite descriptor wraps.
    RetrieveOffset = 24,
    /// FFA_MEM_RETRIEVE_RESP: more ranges than the descriptor has room for.
    RetrieveCount = 25,
    /// FFA_MEM_RETRIEVE_RESP: other ranges than were shared.
    RetrieveOther = 26,
    /// FFA_MEM_FRAG_TX while a descriptor is retrieved: no bytes.
    RetrieveZero = 27,
    /// FFA_MEM_FRAG_TX while a descriptor is retrieved: 64 KiB.
    RetrieveHuge = 28,
    /// FFA_VERSION is refused, though all else is served afterwards.
    VersionLate = 29,
}

impl Fault {
    /// From its number.
    pub fn from_number(n: u64) -> Option<Self> {
        const ALL: [Fault; 30] = {
            use Fault::{
                BareError, BufferSize, ErrorZero, FragAgain, FragDone, FragLong, FragWrap, FragZero, Honest,
                Id, OtherHandle, PartitionMany, PartitionWrap, ReclaimOdd, ReclaimRefuse, Refuse,
                RetrieveCount, RetrieveHuge, RetrieveLong, RetrieveOffset, RetrieveOther, RetrieveShort,
                RetrieveZero, Rubbish, SuccessEmpty, VersionBit31, VersionDrift, VersionLate, VersionMajor,
                VersionMinor,
            };
            [
                Honest,
                VersionMinor,
                VersionMajor,
                VersionBit31,
                VersionDrift,
                Id,
                BufferSize,
                BareError,
                ErrorZero,
                SuccessEmpty,
                Rubbish,
                FragLong,
                FragZero,
                FragWrap,
                FragDone,
                FragAgain,
                OtherHandle,
                Refuse,
                ReclaimRefuse,
                ReclaimOdd,
                PartitionWrap,
                PartitionMany,
                RetrieveLong,
                RetrieveShort,
                RetrieveOffset,
                RetrieveCount,
                RetrieveOther,
                RetrieveZero,
                RetrieveHuge,
                VersionLate,
            ]
        };
        ALL.into_iter().find(|fault| *fault as u64 == n)
    }
}

/// The fault that is armed, and how often it will show.
pub struct Armed {
    fault: Fault,
    left: u64,
}

impl Armed {
    /// Honest.
    pub const fn new() -> Self {
        Self {
            fault: Fault::Honest,
            left: 0,
        }
    }

    /// Arms a fault.
    pub fn arm(&mut self, fault: Fault, times: u64) {
        self.fault = fault;
        self.left = times;
    }

    /// Whether `fault` is to show now; counts it if so.
    pub fn shows(&mut self, fault: Fault) -> bool {
        let now = self.fault == fault && self.left > 0;
        if now {
            self.left -= 1;
        }
        now
    }
}
