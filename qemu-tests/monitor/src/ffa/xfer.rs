// SPDX-License-Identifier: GPL-2.0-only
//! Memory transactions: the descriptors as they were sent, piece by piece, under the handles that were given for them.

use super::Version;

/// The longest descriptor, which is also what pKVM's proxy has room for.
pub const MAX_LEN: usize = 9 * 4096;
const TRANSFERS: usize = 24;

/// Where a transaction stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing is here.
    Free,
    /// Fragments are missing.
    Sending,
    /// The secure world holds the memory.
    Live,
}

/// A transaction. The values of a free one have no meaning.
pub struct Transfer {
    /// Where it stands.
    pub state: State,
    /// Its handle.
    pub handle: u64,
    /// Length of the whole descriptor.
    pub len: usize,
    /// How much of it has come.
    pub got: usize,
    /// Where the first range of addresses is in it.
    ranges_at: usize,
    bytes: [u8; MAX_LEN],
}

/// All transactions.
pub struct Transfers {
    all: [Transfer; TRANSFERS],
    next: u64,
}

/// Why a descriptor is not accepted, as an FF-A error code.
pub type Refused = i32;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        bytes.get(at..at.checked_add(8)?)?.try_into().ok()?,
    ))
}

/// Where the ranges begin in a descriptor of this version, whose first fragment this is, and how many there are.
fn ranges(bytes: &[u8], version: Version) -> Option<(usize, usize)> {
    const COMPOSITE: usize = 16;
    const RECEIVER: u16 = super::PARTITION;
    let (count, access_at) = if version == Version::V1_0 {
        (u32_at(bytes, 28)?, 32)
    } else {
        let size = u32_at(bytes, 24)?;
        let expected = if version == Version::V1_1 { 16 } else { 32 };
        if size != expected {
            return None;
        }
        (u32_at(bytes, 28)?, u32_at(bytes, 32)? as usize)
    };
    // The sender is the hypervisor or what it stands for.
    if u16_at(bytes, 0)? != 0 || count != 1 || u16_at(bytes, access_at)? != RECEIVER {
        return None;
    }
    let composite = u32_at(bytes, access_at.checked_add(4)?)? as usize;
    let count = u32_at(bytes, composite.checked_add(4)?)? as usize;
    let at = composite.checked_add(COMPOSITE)?;
    (at <= bytes.len()).then_some((at, count))
}

impl Transfer {
    /// The ranges that have come: address and number of 4 KiB pages.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.bytes
            .get(self.ranges_at..self.got)
            .unwrap_or(&[])
            .chunks_exact(16)
            .map(|range| {
                let at = u64_at(range, 0).unwrap_or(0);
                (at, u32_at(range, 8).unwrap_or(0).into())
            })
    }

    /// The descriptor, as far as it has come.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.got).unwrap_or(&[])
    }

    /// Where its first range is.
    pub fn ranges_at(&self) -> usize {
        self.ranges_at
    }

    /// Whether the secure world holds a page because of it. It holds the pages of a transaction that is under way as
    /// well: the sender has given them.
    fn holds(&self, page: u64) -> bool {
        self.state != State::Free
            && self
                .ranges()
                .any(|(at, pages)| page >= at && page - at < pages.saturating_mul(4096))
    }
}

impl Transfers {
    /// None.
    #[expect(
        clippy::large_stack_arrays,
        reason = "it is evaluated at build time, for a static"
    )]
    pub const fn new() -> Self {
        Self {
            all: [const {
                Transfer {
                    state: State::Free,
                    handle: 0,
                    len: 0,
                    got: 0,
                    ranges_at: 0,
                    bytes: [0; MAX_LEN],
                }
            }; TRANSFERS],
            next: 0,
        }
    }

    /// The transaction of a handle.
    pub fn find(&mut self, handle: u64) -> Option<&mut Transfer> {
        self.all
            .iter_mut()
            .find(|t| t.state != State::Free && t.handle == handle)
    }

    /// A handle other than this one, of a transaction if there is another.
    pub fn other(&self, handle: u64) -> u64 {
        self.all
            .iter()
            .find(|t| t.state != State::Free && t.handle != handle)
            .map_or(handle ^ 0x1_0000_0001, |t| t.handle)
    }

    /// Whether the secure world holds a page.
    pub fn holds(&self, page: u64) -> bool {
        self.all.iter().any(|t| t.holds(page))
    }

    /// The n-th range that it holds: address, pages, handle.
    pub fn held(&self, n: u64) -> Option<(u64, u64, u64)> {
        self.all
            .iter()
            .filter(|t| t.state != State::Free)
            .flat_map(|t| t.ranges().map(|(at, pages)| (at, pages, t.handle)))
            .nth(usize::try_from(n).ok()?)
    }

    /// Takes the first fragment of a descriptor of `len` bytes; gives the handle and whether it is whole.
    ///
    /// # Errors
    /// The FF-A error code.
    pub fn begin(&mut self, fragment: &[u8], len: usize, version: Version) -> Result<(u64, bool), Refused> {
        let (ranges_at, count) = ranges(fragment, version).ok_or(super::INVALID_PARAMETERS)?;
        if len > MAX_LEN {
            return Err(super::NO_MEMORY);
        }
        if fragment.len() > len || count.checked_mul(16) != len.checked_sub(ranges_at) || count == 0 {
            return Err(super::INVALID_PARAMETERS);
        }
        self.check(&fragment[ranges_at..])?;
        let next = self.next + 1;
        let Some(slot) = self.all.iter_mut().find(|t| t.state == State::Free) else {
            return Err(super::NO_MEMORY);
        };
        self.next = next;
        slot.bytes[..fragment.len()].copy_from_slice(fragment);
        slot.len = len;
        slot.got = fragment.len();
        slot.ranges_at = ranges_at;
        // Both words of a handle are in use.
        slot.handle = (next << 32) | (0x1000 + next);
        slot.bytes[8..16].copy_from_slice(&slot.handle.to_le_bytes());
        let whole = slot.got == len;
        slot.state = if whole { State::Live } else { State::Sending };
        Ok((slot.handle, whole))
    }

    /// Takes a further fragment; gives how much has come and whether that is all.
    ///
    /// # Errors
    /// The FF-A error code.
    pub fn more(&mut self, handle: u64, fragment: &[u8]) -> Result<(usize, bool), Refused> {
        let found = self.find(handle).filter(|t| t.state == State::Sending);
        let (len, got) = found.map(|t| (t.len, t.got)).ok_or(super::INVALID_PARAMETERS)?;
        if fragment.len() > len - got || fragment.is_empty() {
            return Err(super::INVALID_PARAMETERS);
        }
        self.check(fragment)?;
        let Some(slot) = self.find(handle) else {
            return Err(super::INVALID_PARAMETERS);
        };
        slot.bytes[got..got + fragment.len()].copy_from_slice(fragment);
        slot.got += fragment.len();
        let whole = slot.got == slot.len;
        if whole {
            slot.state = State::Live;
        }
        Ok((slot.got, whole))
    }

    /// Ranges must be pages of Non-secure memory. One that is held already is the caller's mistake: it is counted and
    /// refused.
    fn check(&self, ranges: &[u8]) -> Result<(), Refused> {
        for range in ranges.chunks(16) {
            let at = u64_at(range, 0).ok_or(super::INVALID_PARAMETERS)?;
            let pages = u64::from(u32_at(range, 8).ok_or(super::INVALID_PARAMETERS)?);
            if !at.is_multiple_of(4096) || pages == 0 || !crate::mem::is_ram(at, pages * 4096) {
                return Err(super::INVALID_PARAMETERS);
            }
            let overlaps = self.all.iter().filter(|t| t.state != State::Free).any(|t| {
                t.ranges()
                    .any(|(b, n)| at < b + n * 4096 && b < at + pages * 4096)
            });
            if overlaps {
                crate::control::count(crate::control::Event::HeldTwice);
                return Err(super::DENIED);
            }
        }
        Ok(())
    }
}
