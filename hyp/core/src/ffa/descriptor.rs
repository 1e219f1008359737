// SPDX-License-Identifier: GPL-2.0-only
//! The memory transaction descriptor that a host sends: a header, one endpoint's access descriptor, a composite descriptor,
//! and the constituents, which are ranges of pages and may go on in further fragments.
//!
//! It is parsed in EL2's own mailbox, to which the host's bytes were copied once. The secure world can write there too, so
//! each word is read once; the three parts may not overlap, which also keeps firmware from reading them otherwise.

use pkvm_types::{PAGE_MASK, PAGE_SHIFT, Pfn, PfnRange, Phys};

use super::Machine;
use super::abi::{FFA_PAGE, HOST_ID, Status, Version};

/// Bytes of a composite memory region descriptor before its constituents.
const COMPOSITE: u32 = 16;
/// Bytes of a constituent.
pub const CONSTITUENT: u32 = 16;
/// The flag in a header by which the sender lets the callee pause the operation, which the proxy cannot go on with.
const TIME_SLICE: u64 = 1 << 1 << 32;

/// Constituents in a fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Constituents {
    /// Where in the mailbox the first is.
    pub at: u32,
    /// How many there are.
    pub count: u32,
}

/// Half of a word: the lower one, or the upper one.
const fn low(word: u64) -> u32 {
    word as u32
}
const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Checks the first `fragment` bytes of a descriptor of `len` bytes, and yields the constituents among them. Clears the
/// time-slice flag in the mailbox.
///
/// # Errors
///
/// [`Status::INVALID_PARAMETERS`].
pub fn parse(
    m: &mut impl Machine,
    version: Version,
    len: u32,
    fragment: u32,
) -> Result<Constituents, Status> {
    let (endpoint, endpoint_end) = header(m, version, fragment)?;

    // The access descriptor: receiver u16, permissions u8, flags u8, offset of the composite descriptor u32.
    let composite = high(m.tx_word(endpoint));
    let first = composite
        .checked_add(COMPOSITE)
        .ok_or(Status::INVALID_PARAMETERS)?;
    if composite < endpoint_end || !composite.is_multiple_of(8) || first > fragment {
        return Err(Status::INVALID_PARAMETERS);
    }

    // The composite descriptor: pages in all u32, constituents in all u32.
    let count = high(m.tx_word(composite));
    let end = count
        .checked_mul(CONSTITUENT)
        .and_then(|bytes| bytes.checked_add(first));
    // Firmware counts constituents by this number, the proxy by the length. They must not differ.
    if end != Some(len) {
        return Err(Status::INVALID_PARAMETERS);
    }
    constituents(first, fragment)
}

/// Checks the header. Yields where the one access descriptor begins and ends, within the fragment.
fn header(m: &mut impl Machine, version: Version, fragment: u32) -> Result<(u32, u32), Status> {
    let (header, size) = (version.header_bytes(), version.endpoint_bytes());
    let fits = |at: u32| at.checked_add(size).filter(|end| *end <= fragment);
    if fits(header).is_none() {
        return Err(Status::INVALID_PARAMETERS);
    }
    // Sender u16, attributes u16, flags u32.
    let word = m.tx_word(0);
    if word & 0xffff != HOST_ID {
        return Err(Status::INVALID_PARAMETERS);
    }
    if word & TIME_SLICE != 0 {
        m.set_tx_word(0, word & !TIME_SLICE);
    }
    // Behind the handle and the tag: bytes of an access descriptor (since 1.1), how many there are.
    let word = m.tx_word(24);
    if high(word) != 1 {
        return Err(Status::INVALID_PARAMETERS);
    }
    let mut at = header;
    if version >= Version::V1_1 {
        at = low(m.tx_word(32));
        if low(word) != size || at < header || !at.is_multiple_of(16) {
            return Err(Status::INVALID_PARAMETERS);
        }
    }
    Ok((at, fits(at).ok_or(Status::INVALID_PARAMETERS)?))
}

/// The constituents from `at` to `end`, which must be whole.
pub fn constituents(at: u32, end: u32) -> Result<Constituents, Status> {
    match end.checked_sub(at) {
        Some(bytes) if bytes.is_multiple_of(CONSTITUENT) => Ok(Constituents {
            at,
            count: bytes / CONSTITUENT,
        }),
        _ => Err(Status::INVALID_PARAMETERS),
    }
}

/// The pages of the constituent at `at`.
///
/// # Errors
///
/// [`Status::INVALID_PARAMETERS`] for no page at all, [`Status::DENIED`] for what are not whole pages of the address space.
pub fn range(m: &impl Machine, at: u32) -> Result<PfnRange, Status> {
    let address = m.tx_word(at);
    let count = u64::from(low(m.tx_word(at.saturating_add(8))));
    if count == 0 {
        return Err(Status::INVALID_PARAMETERS);
    }
    // 32 bits of pages of 4 KiB cannot overflow.
    let bytes = count.saturating_mul(FFA_PAGE);
    if (address | bytes) & !PAGE_MASK != 0 {
        return Err(Status::DENIED);
    }
    PfnRange::checked(Pfn::of(Phys::new(address)), bytes >> PAGE_SHIFT).map_err(|_| Status::DENIED)
}
