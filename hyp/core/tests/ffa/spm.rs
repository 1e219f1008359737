// SPDX-License-Identifier: GPL-2.0-only
//! A partition manager as simple as can be: it speaks any version, keeps what it is given, and says what it holds. It is
//! strict, and it tells the truth; a test that wants another answer changes that on its way.

use std::collections::{BTreeMap, BTreeSet};

use pkvm_core::ffa::Regs;
use pkvm_core::ffa::abi::id;
use pkvm_types::PAGE_SIZE;

pub const WIDE: u64 = 1 << 30;
pub const OK: u64 = id::SUCCESS as u64;
pub const ERROR: u64 = id::ERROR as u64;
pub const FRAG_RX: u64 = id::MEM_FRAG_RX as u64;

pub const NOT_SUPPORTED: i64 = -1;
pub const INVALID: i64 = -2;
pub const NO_MEMORY: i64 = -3;
pub const BUSY: i64 = -4;
pub const DENIED: i64 = -6;
pub const ABORTED: i64 = -8;

/// A transaction.
#[derive(Clone, Debug)]
pub struct Object {
    pub function: u64,
    pub bytes: Vec<u8>,
    pub len: usize,
    /// Where the constituents begin.
    pub first: usize,
    /// A partition uses the memory.
    pub retrieved: bool,
}

impl Object {
    /// The pages of the kernel's that it holds, as far as it has heard of them.
    pub fn pages(&self) -> BTreeSet<u64> {
        let mut pages = BTreeSet::new();
        for range in self.bytes[self.first..].chunks_exact(16) {
            let address = u64::from_le_bytes(range[..8].try_into().unwrap());
            let bytes = u64::from(word(range, 8)) * 4096;
            let last = address.wrapping_add(bytes.wrapping_sub(1));
            pages.extend(address / PAGE_SIZE..=last / PAGE_SIZE);
        }
        pages
    }
}

pub fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub struct Spm {
    /// The latest version it speaks; `None` where there is no FF-A.
    pub latest: Option<u32>,
    pub version: u32,
    /// The property bits of RXTX_MAP.
    pub mailbox_size: u64,
    pub id: u64,
    pub mailboxes: Option<[u64; 2]>,
    pub rx_full: bool,
    pub partitions: u64,
    pub objects: BTreeMap<u64, Object>,
    pub next: u64,
    /// Every call so far.
    pub calls: Vec<Regs>,
}

pub fn regs(words: &[u64]) -> Regs {
    let mut regs = [0; 18];
    regs[..words.len()].copy_from_slice(words);
    regs
}

pub fn error(code: i64) -> Regs {
    regs(&[ERROR, 0, code.cast_unsigned() & 0xffff_ffff])
}

impl Spm {
    pub fn new(latest: u32) -> Self {
        Self {
            latest: Some(latest),
            version: latest,
            mailbox_size: 0,
            id: 0,
            mailboxes: None,
            rx_full: false,
            partitions: 3,
            objects: BTreeMap::new(),
            next: 0x8_0000_0001,
            calls: Vec::new(),
        }
    }

    /// All pages that a partition may have: those of transactions that are whole.
    pub fn pages(&self) -> BTreeSet<u64> {
        let whole = |object: &&Object| object.bytes.len() == object.len;
        self.objects
            .values()
            .filter(whole)
            .flat_map(Object::pages)
            .collect()
    }

    /// How many calls of `function`, in either width, there were.
    pub fn count(&self, function: u32) -> usize {
        let same = |call: &&Regs| call[0] & !WIDE == u64::from(function);
        self.calls.iter().filter(same).count()
    }

    pub fn serve(&mut self, call: &Regs, tx: &[u64], rx: &mut [u64]) -> Regs {
        self.calls.push(*call);
        let Some(latest) = self.latest else {
            return regs(&[u64::MAX]);
        };
        match (call[0] & !WIDE) as u32 {
            id::VERSION => {
                if call[1] >> 16 != 1 {
                    return regs(&[u64::from(u32::MAX)]);
                }
                self.version = (call[1] as u32).min(latest);
                regs(&[u64::from(latest)])
            }
            id::ID_GET => regs(&[OK, 0, self.id]),
            id::FEATURES => regs(&[OK, 0, self.mailbox_size]),
            id::RXTX_MAP if call[0] & WIDE != 0 => {
                if self.mailboxes.is_some() {
                    return error(DENIED);
                }
                self.mailboxes = Some([call[1], call[2]]);
                assert_eq!(call[3], PAGE_SIZE / 4096);
                regs(&[OK])
            }
            id::RXTX_UNMAP => match self.mailboxes.take() {
                Some(_) => regs(&[OK]),
                None => error(INVALID),
            },
            id::RX_RELEASE => {
                if !std::mem::take(&mut self.rx_full) {
                    return error(DENIED);
                }
                regs(&[OK])
            }
            id::PARTITION_INFO_GET => self.partition_info(call, rx),
            id::MEM_SHARE | id::MEM_LEND => self.begin(call, tx),
            id::MEM_FRAG_TX => self.go_on(call, tx),
            id::MEM_RECLAIM => {
                let handle = call[2] << 32 | call[1];
                match self.objects.get(&handle) {
                    Some(object) if object.bytes.len() < object.len => error(INVALID),
                    Some(object) if object.retrieved => error(DENIED),
                    Some(_) => {
                        self.objects.remove(&handle);
                        regs(&[OK])
                    }
                    None => error(INVALID),
                }
            }
            _ => regs(&[u64::MAX]),
        }
    }

    fn partition_info(&mut self, call: &Regs, rx: &mut [u64]) -> Regs {
        if self.mailboxes.is_none() || self.rx_full {
            return error(BUSY);
        }
        let size = if self.version >= 0x1_0001 { 24 } else { 8 };
        if self.version >= 0x1_0001 && call[5] & 1 != 0 {
            return regs(&[OK, 0, self.partitions]);
        }
        for (n, word) in rx
            .iter_mut()
            .enumerate()
            .take((self.partitions * size / 8) as usize)
        {
            *word = 0x1234_0000 + n as u64;
        }
        self.rx_full = true;
        let told = if self.version >= 0x1_0001 { size } else { 0 };
        regs(&[OK, 0, self.partitions, told])
    }

    fn begin(&mut self, call: &Regs, tx: &[u64]) -> Regs {
        assert!(call[0] & WIDE != 0, "the proxy sends the 64-bit form");
        let (len, fragment) = (call[1] as usize, call[2] as usize);
        assert!(fragment <= len && fragment <= PAGE_SIZE as usize && call[3] == 0 && call[4] == 0);
        let bytes = bytes_of(tx)[..fragment].to_vec();
        // What follows is for the proxy to get right, so that an error here fails the test.
        assert_eq!(word(&bytes, 0) & 0xffff, 0, "sender");
        assert_eq!(word(&bytes, 4) & 2, 0, "time slicing");
        assert_eq!(word(&bytes, 28), 1, "endpoints");
        let at = if self.version >= 0x1_0001 {
            let size = if self.version >= 0x1_0002 { 32 } else { 16 };
            assert_eq!(word(&bytes, 24), size);
            assert!(word(&bytes, 32) as usize + size as usize <= fragment);
            word(&bytes, 32) as usize
        } else {
            32
        };
        let composite = word(&bytes, at + 4) as usize;
        let count = word(&bytes, composite + 4) as usize;
        assert_eq!(composite + 16 + count * 16, len, "constituents");
        let object = Object {
            function: call[0],
            bytes,
            len,
            first: composite + 16,
            retrieved: false,
        };
        let handle = self.next;
        self.next += 1;
        self.objects.insert(handle, object);
        self.answer(handle)
    }

    fn go_on(&mut self, call: &Regs, tx: &[u64]) -> Regs {
        let handle = call[2] << 32 | call[1];
        let fragment = call[3] as usize;
        let Some(object) = self.objects.get_mut(&handle) else {
            return error(INVALID);
        };
        assert!(fragment != 0 && object.bytes.len() + fragment <= object.len && call[4] == 0);
        object.bytes.extend(&bytes_of(tx)[..fragment]);
        self.answer(handle)
    }

    fn answer(&mut self, handle: u64) -> Regs {
        let object = &self.objects[&handle];
        let halves = [handle & 0xffff_ffff, handle >> 32];
        if object.bytes.len() < object.len {
            return regs(&[FRAG_RX, halves[0], halves[1], object.bytes.len() as u64]);
        }
        let composite = object.first - 16;
        let pages: u64 = object.bytes[object.first..]
            .chunks_exact(16)
            .map(|range| u64::from(word(range, 8)))
            .sum();
        if pages != u64::from(word(&object.bytes, composite)) {
            self.objects.remove(&handle);
            return error(INVALID);
        }
        regs(&[OK, 0, halves[0], halves[1]])
    }
}
