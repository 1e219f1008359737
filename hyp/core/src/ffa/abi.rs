// SPDX-License-Identifier: GPL-2.0-only
//! The numbers and layouts of FF-A. Source: Arm Firmware Framework for A-profile, DEN 0077; offsets are in bytes.

use pkvm_types::PAGE_SIZE;

/// Registers x0 to x17 of a call, and of its answer.
pub type Regs = [u64; 18];

/// An FF-A page, whatever the kernel's page size is.
pub const FFA_PAGE: u64 = 4096;
/// FF-A pages in each mailbox: one page of the kernel's.
pub const MAILBOX_PAGES: u64 = PAGE_SIZE / FFA_PAGE;
/// The only endpoint of the normal world: the host, which the hypervisor speaks for.
pub const HOST_ID: u64 = 0;

/// The bit of a function number that marks a 64-bit call.
pub const WIDE: u32 = 1 << 30;

/// FFA_MSG_SEND_DIRECT_REQ in its 64-bit form.
pub const MSG_SEND_DIRECT_REQ_64: u32 = id::MSG_SEND_DIRECT_REQ | WIDE;

/// Function numbers, without [`WIDE`].
#[expect(missing_docs, reason = "the names are those of the specification, less FFA_")]
pub mod id {
    pub const ERROR: u32 = 0x8400_0060;
    pub const SUCCESS: u32 = 0x8400_0061;
    pub const INTERRUPT: u32 = 0x8400_0062;
    pub const VERSION: u32 = 0x8400_0063;
    pub const FEATURES: u32 = 0x8400_0064;
    pub const RX_RELEASE: u32 = 0x8400_0065;
    pub const RXTX_MAP: u32 = 0x8400_0066;
    pub const RXTX_UNMAP: u32 = 0x8400_0067;
    pub const PARTITION_INFO_GET: u32 = 0x8400_0068;
    pub const ID_GET: u32 = 0x8400_0069;
    pub const YIELD: u32 = 0x8400_006c;
    pub const RUN: u32 = 0x8400_006d;
    pub const MSG_SEND_DIRECT_REQ: u32 = 0x8400_006f;
    pub const MEM_LEND: u32 = 0x8400_0072;
    pub const MEM_SHARE: u32 = 0x8400_0073;
    pub const MEM_RECLAIM: u32 = 0x8400_0077;
    pub const MEM_OP_PAUSE: u32 = 0x8400_0078;
    pub const MEM_FRAG_RX: u32 = 0x8400_007a;
    pub const MEM_FRAG_TX: u32 = 0x8400_007b;
    pub const NORMAL_WORLD_RESUME: u32 = 0x8400_007c;
    pub const SPM_ID_GET: u32 = 0x8400_0085;
}

/// The first and the last function number that belong to FF-A, without [`WIDE`].
pub const FUNCTIONS: core::ops::RangeInclusive<u32> = 0x8400_0060..=0x8400_00ff;

/// A reason for FFA_ERROR, or what FFA_VERSION answers when it refuses. Always negative.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(i32);

impl Status {
    /// The call, or what it asks for, does not exist.
    pub const NOT_SUPPORTED: Self = Self(-1);
    /// An argument or a descriptor makes no sense.
    pub const INVALID_PARAMETERS: Self = Self(-2);
    /// The callee has no room for this.
    pub const NO_MEMORY: Self = Self(-3);
    /// A resource is not available now.
    pub const BUSY: Self = Self(-4);
    /// The state of an object forbids this.
    pub const DENIED: Self = Self(-6);
    /// The operation was given up halfway.
    pub const ABORTED: Self = Self(-8);

    /// The status in w2 of an FFA_ERROR, `None` for a number that is no error.
    pub const fn from_word(word: u64) -> Option<Self> {
        let code = (word as u32).cast_signed();
        if code < 0 { Some(Self(code)) } else { None }
    }

    /// The register that holds the status: sign-extended, as the kernel's code does.
    pub const fn word(self) -> u64 {
        (self.0 as i64).cast_unsigned()
    }

    /// The answer that refuses a call.
    pub const fn answer(self) -> Regs {
        answer(id::ERROR, [0, self.word(), 0])
    }
}

/// An answer: the function number of the reply, and x1 to x3. All other registers are zero.
pub const fn answer(function: u32, words: [u64; 3]) -> Regs {
    let mut regs = [0; 18];
    regs[0] = function as u64;
    regs[1] = words[0];
    regs[2] = words[1];
    regs[3] = words[2];
    regs
}

/// FFA_SUCCESS with `w2` and `w3`.
pub const fn success(w2: u64, w3: u64) -> Regs {
    answer(id::SUCCESS, [0, w2, w3])
}

/// A version 1.x.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version {
    minor: u16,
}

impl Version {
    /// The first version.
    pub const V1_0: Self = Self { minor: 0 };
    /// The version with a header that says where the endpoints' descriptors are.
    pub const V1_1: Self = Self { minor: 1 };
    /// The latest version that the proxy knows.
    pub const V1_2: Self = Self { minor: 2 };

    /// The version that a word names; `None` for any major version but 1, and for a word with bit 31, which is no version.
    pub const fn from_word(word: u32) -> Option<Self> {
        if word >> 16 == 1 {
            Some(Self { minor: word as u16 })
        } else {
            None
        }
    }

    /// The word that names the version.
    pub const fn word(self) -> u64 {
        1 << 16 | self.minor as u64
    }

    /// Bytes of a memory transaction descriptor up to the endpoints' descriptors.
    pub fn header_bytes(self) -> u32 {
        if self >= Self::V1_1 { 48 } else { 32 }
    }

    /// Bytes of an endpoint memory access descriptor.
    pub fn endpoint_bytes(self) -> u32 {
        if self >= Self::V1_2 { 32 } else { 16 }
    }

    /// Bytes of a partition information descriptor where the callee does not tell.
    pub const PARTITION_INFO_BYTES_1_0: u64 = 8;
}

/// Two halves of a 64-bit handle, as registers have them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle(u64);

impl Handle {
    /// The handle of two registers, of which 32 bits count.
    pub const fn new(low: u64, high: u64) -> Self {
        Self(high << 32 | low & 0xffff_ffff)
    }
    /// The low half.
    pub const fn low(self) -> u64 {
        self.0 & 0xffff_ffff
    }
    /// The high half.
    pub const fn high(self) -> u64 {
        self.0 >> 32
    }
}
