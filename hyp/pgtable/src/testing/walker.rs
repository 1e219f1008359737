// SPDX-License-Identifier: GPL-2.0-only
//! A translation-table walk as hardware does it, from the register fields alone (Arm ARM, D8.2).

/// What hardware is told of a table.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Base-two logarithm of the granule.
    pub page: u32,
    /// Bits of input address: 64 less TxSZ.
    pub bits: u32,
    /// The level of the first lookup.
    pub start: i32,
    /// TCR or VTCR DS: 52-bit descriptors for 4 and 16 KiB.
    pub ds: bool,
}

/// Where a walk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    pub pa: u64,
    pub level: i32,
    pub word: u64,
    /// Where the word is.
    pub at: u64,
    /// The first address that the leaf covers, and how many bytes.
    pub base: u64,
    pub size: u64,
}

impl Shape {
    /// From VTCR_EL2.
    pub fn of_vtcr(vtcr: u64) -> Self {
        let page = match (vtcr >> 14) & 3 {
            0 => 12,
            1 => 16,
            2 => 14,
            _ => panic!("reserved TG0"),
        };
        let sl0 = ((vtcr >> 6) & 3) as i32;
        let start = match (page, sl0) {
            (12, 2) | (14, 3) => 0,
            (12, 1) | (14 | 16, 2) => 1,
            (12, 0) | (14 | 16, 1) => 2,
            (14 | 16, 0) => 3,
            _ => panic!("reserved SL0"),
        };
        Self {
            page,
            bits: 64 - (vtcr & 0x3f) as u32,
            start,
            ds: vtcr & (1 << 32) != 0,
        }
    }

    /// Base-two logarithm of what an entry of `level` covers.
    pub fn span(&self, level: i32) -> u32 {
        let mut span = self.page;
        for _ in level..3 {
            span += self.page - 3;
        }
        span
    }

    pub fn address(&self, word: u64) -> u64 {
        let field = |high: u32, low: u32| (word >> low) & ((1 << (high - low + 1)) - 1);
        if self.ds {
            field(49, self.page) << self.page | field(9, 8) << 50
        } else if self.page == 16 {
            field(47, 16) << 16 | field(15, 12) << 48
        } else {
            field(47, self.page) << self.page
        }
    }

    /// Whether `word` points to a table, at `level`.
    pub fn is_table(word: u64, level: i32) -> bool {
        word & 3 == 3 && level < 3
    }

    /// Whether `word` maps something, at `level`.
    pub fn is_leaf(&self, word: u64, level: i32) -> bool {
        match (word & 3, level) {
            (3, 3) | (1, 2) => true,
            (1, 1) => self.page == 12 || (self.page == 14 && self.ds) || self.page == 16,
            (1, 0) => self.page == 12 && self.ds,
            _ => false,
        }
    }

    /// Walks `ia` from `root`; `load` gives the word at a physical address.
    pub fn walk(&self, load: impl Fn(u64) -> u64, root: u64, ia: u64) -> Option<Hit> {
        if ia >> self.bits != 0 {
            return None;
        }
        let mut table = root;
        for level in self.start..=3 {
            let span = self.span(level);
            // The first lookup resolves all the bits that are left, over concatenated tables where they are many.
            let width = if level == self.start {
                self.bits - span
            } else {
                self.page - 3
            };
            let index = (ia >> span) & ((1 << width) - 1);
            let word = load(table + 8 * index);
            if Self::is_table(word, level) {
                table = self.address(word);
            } else if self.is_leaf(word, level) {
                let size = 1 << span;
                assert_eq!(self.address(word) % size, 0, "RES0 address bits in a block");
                return Some(Hit {
                    pa: self.address(word) + ia % size,
                    level,
                    word,
                    at: table + 8 * index,
                    base: ia - ia % size,
                    size,
                });
            } else {
                return None;
            }
        }
        None
    }
}
