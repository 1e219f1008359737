// SPDX-License-Identifier: GPL-2.0-only
//! What a stage-2 descriptor says, and how it is written (Arm ARM, D8.3.2 and D8.6.2).

use super::{Stage2, Stage2Config, Stage2Features};
use crate::cursor::Cursor;
use crate::geometry::{Kind, Level, state_bits, state_of};
use crate::ops::TableOps;
use crate::{ACCESS_FLAG, INNER_SHAREABLE, MemType};
use pkvm_types::{Error, Gfn, Handle, Ipa, Owner, PageState, Perms, Phys, Result};

const MEMATTR_SHIFT: u32 = 2;
const MEMATTR_MASK: u64 = 0xf << MEMATTR_SHIFT;
pub(super) const S2AP_R: u64 = 1 << 6;
pub(super) const S2AP_W: u64 = 1 << 7;
const XN_SHIFT: u32 = 53;
pub(super) const XN_MASK: u64 = 0b11 << XN_SHIFT;

/// Bits 63:60 of an invalid descriptor say what software means by it.
const TYPE_SHIFT: u32 = 60;
const TYPE_LOCKED: u64 = 1;
const TYPE_DONATED: u64 = 2;
const TYPE_POISONED: u64 = 3;
/// The owner, in bits 3:1 of a donated entry.
const OWNER_SHIFT: u32 = 1;
const OWNER_MASK: u64 = 0b111;
const OWNER_HYP: u64 = 1;
const OWNER_GUEST: u64 = 2;
/// For a guest, its handle in bits 19:4 and the guest frame number in bits 59:20.
const HANDLE_SHIFT: u32 = 4;
const GFN_SHIFT: u32 = 20;
const GFN_BITS: u32 = 40;

/// A descriptor whose translation is being replaced.
pub(super) const LOCKED: u64 = TYPE_LOCKED << TYPE_SHIFT;
/// A descriptor of a page that the host took back from a guest by force.
pub(super) const POISONED: u64 = TYPE_POISONED << TYPE_SHIFT;

/// What a stage-2 entry says of the addresses it covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing.
    Absent,
    /// In the host's table: the page is somebody else's. Never [`Owner::Host`].
    Donated(Owner),
    /// In a guest's table: the host took the page back by force.
    Poisoned,
    /// A break-before-make is in progress; with the lock held nobody sees this.
    Locked,
    /// They are mapped.
    Leaf(Leaf),
    /// A word that nothing here writes.
    Unknown(u64),
}

/// A stage-2 mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// What the first address of the entry maps to.
    pub phys: Phys,
    /// What the guest, or the host, may do.
    pub perms: Perms,
    /// The memory type; `Normal` where stage 1 decides.
    pub memory: MemType,
    /// How the guest sees its page.
    pub state: PageState,
    /// The access flag.
    pub young: bool,
}

/// An entry and where it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// What the entry says.
    pub entry: Entry,
    /// Its level, which says how much it covers: see [`Stage2Config::level_size`].
    pub level: Level,
    /// The first address that it covers.
    pub base: Ipa,
}

impl Found {
    /// The mapping, where the entry is one.
    pub const fn leaf(&self) -> Option<Leaf> {
        match self.entry {
            Entry::Leaf(leaf) => Some(leaf),
            _ => None,
        }
    }
    /// What `ipa`, an address that the entry covers, maps to.
    pub const fn phys_of(&self, ipa: Ipa) -> Option<Phys> {
        match (self.leaf(), ipa.raw().checked_sub(self.base.raw())) {
            (Some(leaf), Some(offset)) => leaf.phys.checked_add(offset),
            _ => None,
        }
    }
}

impl Stage2Config {
    const fn memattr(&self, memory: MemType) -> u64 {
        let fwb = self.has(Stage2Features::FWB);
        let value = match memory {
            _ if self.has(Stage2Features::AS_S1) => {
                if fwb {
                    7
                } else {
                    0xf
                }
            }
            MemType::Normal if fwb => 6,
            MemType::Normal => 0xf,
            MemType::NormalNc => 5,
            MemType::Device => 1,
        };
        value << MEMATTR_SHIFT
    }

    const fn memory(&self, word: u64) -> MemType {
        let bits = word & MEMATTR_MASK;
        if bits == self.memattr(MemType::Normal) {
            MemType::Normal
        } else if bits == self.memattr(MemType::NormalNc) {
            MemType::NormalNc
        } else {
            MemType::Device
        }
    }

    /// The XN field for `perms`. [`Error::Invalid`] where execution differs by privilege and the CPU cannot do that.
    pub(super) fn xn(&self, perms: Perms) -> Result<u64> {
        let field = match (perms.contains(Perms::PX), perms.contains(Perms::UX)) {
            (true, true) => 0b00,
            (false, true) => 0b01,
            (false, false) => 0b10,
            (true, false) => 0b11,
        };
        if !self.has(Stage2Features::XNX) && field & 1 != 0 {
            return Err(Error::Invalid);
        }
        Ok(field << XN_SHIFT)
    }

    /// Checks that a mapping can have `perms`, for a caller that wants to know before it changes anything else.
    /// [`Error::Invalid`] for a split of execution by privilege without FEAT_XNX, or for executable memory that is
    /// not normal and cacheable.
    pub fn check_perms(&self, perms: Perms, memory: MemType) -> Result<()> {
        self.attr_bits(perms, memory, PageState::Owned).map(|_| ())
    }

    /// The attribute bits of a young leaf.
    pub(super) fn attr_bits(&self, perms: Perms, memory: MemType, state: PageState) -> Result<u64> {
        if memory != MemType::Normal && perms.intersects(Perms::X) {
            return Err(Error::Invalid);
        }
        let mut bits = self.xn(perms)? | self.memattr(memory) | ACCESS_FLAG | state_bits(state);
        // Where the address takes these bits, VTCR_EL2.SH0 gives the shareability.
        if self.geometry().address_mask() & INNER_SHAREABLE == 0 {
            bits |= INNER_SHAREABLE;
        }
        if perms.contains(Perms::R) {
            bits |= S2AP_R;
        }
        if perms.contains(Perms::W) {
            bits |= S2AP_W;
        }
        Ok(bits)
    }

    pub(super) const fn perms(word: u64) -> Perms {
        let mut perms = match (word & XN_MASK) >> XN_SHIFT {
            0b00 => Perms::X,
            0b01 => Perms::UX,
            0b11 => Perms::PX,
            _ => Perms::NONE,
        };
        if word & S2AP_R != 0 {
            perms = perms.union(Perms::R);
        }
        if word & S2AP_W != 0 {
            perms = perms.union(Perms::W);
        }
        perms
    }

    pub(super) const fn executable(word: u64) -> bool {
        Self::perms(word).intersects(Perms::X)
    }

    /// Whether the page of a leaf must be cleaned from the data caches when it is mapped or unmapped.
    pub(super) fn cleans(&self, word: u64) -> bool {
        self.has(Stage2Features::MAINTAIN_CACHES)
            && !self.has(Stage2Features::FWB)
            && self.memory(word) == MemType::Normal
    }

    /// Whether the page of a leaf must leave the instruction caches before it is mapped.
    pub(super) fn invalidates_icache(&self, word: u64) -> bool {
        self.has(Stage2Features::MAINTAIN_CACHES) && !self.has(Stage2Features::DIC) && Self::executable(word)
    }

    /// What `word`, read at `level`, says. A table counts as unknown: it is not where a walk ends.
    pub(super) fn decode(&self, word: u64, level: Level) -> Entry {
        if word == 0 {
            return Entry::Absent;
        }
        match self.geometry().kind(word, level) {
            Kind::Leaf => Entry::Leaf(Leaf {
                phys: Phys::new(self.geometry().decode(word)),
                perms: Self::perms(word),
                memory: self.memory(word),
                state: state_of(word),
                young: word & ACCESS_FLAG != 0,
            }),
            Kind::Table => Entry::Unknown(word),
            Kind::Invalid => decode_invalid(word),
        }
    }
}

/// The word of an entry of the host's table for a page of `owner`'s. [`Error::Invalid`] for the host itself, and for a guest
/// frame number that does not fit.
pub(super) fn donated_word(owner: Owner) -> Result<u64> {
    let (id, extra) = match owner {
        Owner::Host => return Err(Error::Invalid),
        Owner::Hyp => (OWNER_HYP, 0),
        Owner::Guest { handle, gfn } => {
            if gfn.raw() >> GFN_BITS != 0 {
                return Err(Error::Invalid);
            }
            (
                OWNER_GUEST,
                gfn.raw() << GFN_SHIFT | u64::from(handle.raw()) << HANDLE_SHIFT,
            )
        }
    };
    Ok(TYPE_DONATED << TYPE_SHIFT | extra | id << OWNER_SHIFT)
}

fn decode_invalid(word: u64) -> Entry {
    match word {
        LOCKED => return Entry::Locked,
        POISONED => return Entry::Poisoned,
        _ => {}
    }
    let owner = match (word >> OWNER_SHIFT) & OWNER_MASK {
        OWNER_HYP => Some(Owner::Hyp),
        OWNER_GUEST => {
            let handle = Handle::checked((word >> HANDLE_SHIFT) as u16).ok();
            let gfn = Gfn::checked((word >> GFN_SHIFT) & ((1 << GFN_BITS) - 1)).ok();
            handle.zip(gfn).map(|(handle, gfn)| Owner::Guest { handle, gfn })
        }
        _ => None,
    };
    match owner {
        // Encoding back catches every bit that should be clear, the type among them.
        Some(owner) if donated_word(owner) == Ok(word) => Entry::Donated(owner),
        _ => Entry::Unknown(word),
    }
}

/// The entries that a range meets; see [`Stage2::entries`].
pub struct Entries<'a, O: TableOps> {
    stage2: Stage2,
    ops: &'a O,
    cursor: Cursor,
    end: u64,
}

impl<'a, O: TableOps> Entries<'a, O> {
    pub(super) fn new(stage2: Stage2, ops: &'a O, start: u64, end: u64) -> Self {
        Self {
            stage2,
            ops,
            cursor: stage2.cursor(start),
            end,
        }
    }
}

impl<O: TableOps> Iterator for Entries<'_, O> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if self.cursor.ia() >= self.end {
            return None;
        }
        let geometry = self.stage2.config().geometry();
        loop {
            let word = self.cursor.read(self.ops);
            if geometry.kind(word, self.cursor.level()) == Kind::Table {
                self.cursor.descend(Some(geometry.child(word)));
                continue;
            }
            let found = self.stage2.found(&self.cursor, word);
            self.cursor.step(self.cursor.end());
            return Some(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Granule;
    use proptest::prelude::*;

    fn guest(index: usize, gfn: u64) -> Owner {
        Owner::Guest {
            handle: Handle::from_index(index).unwrap(),
            gfn: Gfn::checked(gfn).unwrap(),
        }
    }

    #[test]
    fn annotations_have_the_layout_of_the_contract() {
        assert_eq!(donated_word(Owner::Hyp), Ok(2 << 60 | 1 << 1));
        assert_eq!(
            donated_word(guest(1, 0xab)),
            Ok(2 << 60 | 0xab << 20 | 0x1001 << 4 | 2 << 1)
        );
        assert_eq!(donated_word(Owner::Host), Err(Error::Invalid));
        assert_eq!(donated_word(guest(0, 1 << 40)), Err(Error::Invalid));
        assert_eq!(LOCKED, 1 << 60);
        assert_eq!(POISONED, 3 << 60);
    }

    proptest! {
        #[test]
        fn decoding_is_total_and_loses_nothing(word: u64) {
            match decode_invalid(word & !1) {
                Entry::Donated(owner) => prop_assert_eq!(donated_word(owner), Ok(word & !1)),
                Entry::Locked => prop_assert_eq!(word & !1, LOCKED),
                Entry::Poisoned => prop_assert_eq!(word & !1, POISONED),
                Entry::Unknown(same) => prop_assert_eq!(same, word & !1),
                Entry::Absent | Entry::Leaf(_) => prop_assert!(false),
            }
        }

        #[test]
        fn owners_survive_the_table(index in 0usize..255, gfn in 0u64..1 << 40) {
            let owner = guest(index, gfn);
            prop_assert_eq!(decode_invalid(donated_word(owner).unwrap()), Entry::Donated(owner));
        }
    }

    fn config(features: Stage2Features) -> Stage2Config {
        // 40 bits of 4 KiB pages from level 1.
        Stage2Config::from_vtcr(1 << 31 | 1 << 6 | 0x18, Granule::K4, features).unwrap()
    }

    #[test]
    fn execution_splits_by_privilege_only_where_the_cpu_can() {
        let plain = config(Stage2Features::empty());
        for perms in [Perms::PX, Perms::UX] {
            assert_eq!(plain.xn(perms), Err(Error::Invalid));
            assert!(config(Stage2Features::XNX).xn(perms).is_ok());
        }
        assert_eq!(plain.xn(Perms::X), Ok(0));
        assert_eq!(plain.xn(Perms::NONE), Ok(0b10 << 53));
    }

    #[test]
    fn leaves_have_the_kernels_bits() {
        let plain = config(Stage2Features::empty());
        let bits = |config: Stage2Config, memory, perms| config.attr_bits(perms, memory, PageState::Owned);
        assert_eq!(
            bits(plain, MemType::Normal, Perms::RWX),
            Ok(0xf << 2 | 3 << 6 | 3 << 8 | 1 << 10)
        );
        assert_eq!(
            bits(plain, MemType::Device, Perms::RW),
            Ok(1 << 2 | 3 << 6 | 3 << 8 | 1 << 10 | 2 << 53)
        );
        assert_eq!(bits(plain, MemType::Device, Perms::RX), Err(Error::Invalid));
        let fwb = config(Stage2Features::FWB);
        assert_eq!(
            bits(fwb, MemType::Normal, Perms::RWX),
            Ok(6 << 2 | 3 << 6 | 3 << 8 | 1 << 10)
        );
        let host = config(Stage2Features::AS_S1 | Stage2Features::FWB);
        assert_eq!(
            bits(host, MemType::Device, Perms::RW),
            Ok(7 << 2 | 3 << 6 | 3 << 8 | 1 << 10 | 2 << 53)
        );
        assert_eq!(
            plain.attr_bits(Perms::R, MemType::Normal, PageState::SharedBorrowed),
            Ok(0xf << 2 | 1 << 6 | 3 << 8 | 1 << 10 | 2 << 53 | 1 << 56)
        );
    }
}
