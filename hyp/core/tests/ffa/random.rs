// SPDX-License-Identifier: GPL-2.0-only
//! Random histories of a host that does as it likes and of firmware that tells the truth or answers at random, against a
//! model of which page stands where. `PKVM_SEED` and `PKVM_STEPS` make other and longer ones.

use std::collections::{BTreeMap, BTreeSet};

use pkvm_core::ffa::Regs;
use pkvm_core::ffa::abi::{WIDE, id};
use pkvm_core::mem::table::Standing;
use pkvm_spec::Call;
use pkvm_types::PAGE_SIZE;

use crate::bench::{Bench, PLAN};
use crate::build::Build;
use crate::spm;

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// A number from the environment.
pub fn environment(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// What the host knows of a transaction.
#[derive(Clone, Debug)]
struct Known {
    pages: BTreeSet<u64>,
    /// What is still to be sent.
    rest: Vec<(u64, u64)>,
}

struct History {
    random: Random,
    bench: Bench,
    /// By handle.
    model: BTreeMap<u64, Known>,
    mapped: bool,
}

fn pages(frames: &[(u64, u64)]) -> BTreeSet<u64> {
    frames.iter().flat_map(|(pfn, count)| *pfn..pfn + count).collect()
}

impl History {
    fn frames(&mut self, most: u64) -> Vec<(u64, u64)> {
        let count = 1 + self.random.below(most);
        let start = |random: &mut Random| PLAN.base() + random.below(PLAN.pages);
        (0..count)
            .map(|_| (start(&mut self.random), 1 + self.random.below(2)))
            .collect()
    }

    /// Whether the host may lend all of these, in this order.
    fn may_lend(&self, frames: &[(u64, u64)]) -> bool {
        let mut seen = BTreeSet::new();
        frames
            .iter()
            .flat_map(|(pfn, count)| *pfn..pfn + count)
            .all(|pfn| seen.insert(pfn) && self.bench.w.standing(pfn) == Some(Standing::Host))
    }

    fn share(&mut self) {
        let frames = self.frames(4);
        let first = if self.random.below(2) == 0 {
            frames.len()
        } else {
            self.random.below(frames.len() as u64) as usize
        };
        let bytes = Build::of(&frames).bytes(self.bench.version());
        let fragment = bytes.len() - 16 * (frames.len() - first);
        self.bench.write_tx(&bytes[..fragment]);
        let may = self.mapped && self.may_lend(&frames[..first]) && self.room();
        let answer = self
            .bench
            .call(id::MEM_LEND | WIDE, &[bytes.len() as u64, fragment as u64, 0, 0]);
        let handle = match answer[0] {
            spm::OK => answer[3] << 32 | answer[2],
            spm::FRAG_RX => answer[2] << 32 | answer[1],
            _ => {
                assert!(!may || self.bench.w.tamper.is_some(), "{answer:x?}");
                return;
            }
        };
        assert!(may);
        let known = Known {
            pages: pages(&frames[..first]),
            rest: frames[first..].to_vec(),
        };
        assert!(self.model.insert(handle, known).is_none(), "a handle twice");
    }

    fn room(&self) -> bool {
        self.bench.proxy.as_ref().unwrap().transactions().count() < 8
    }

    fn pick_handle(&mut self) -> u64 {
        let handles: Vec<_> = self.model.keys().copied().collect();
        if handles.is_empty() || self.random.below(8) == 0 {
            return self.bench.w.spm.next ^ self.random.below(4);
        }
        self.random.pick(&handles)
    }

    fn fragment(&mut self) {
        let handle = self.pick_handle();
        let known = self.model.get(&handle).cloned();
        let mut rest = known.as_ref().map_or_else(Vec::new, |known| known.rest.clone());
        // Sometimes not all, sometimes other pages than announced.
        let count = 1 + self.random.below(rest.len().max(1) as u64) as usize;
        rest.truncate(count);
        if self.random.below(6) == 0 || rest.is_empty() {
            rest = self.frames(3);
        }
        let bytes: Vec<_> = rest
            .iter()
            .flat_map(|(pfn, count)| [pfn * PAGE_SIZE, count * PAGE_SIZE / 4096])
            .flat_map(u64::to_le_bytes)
            .collect();
        self.bench.write_tx(&bytes);
        let arguments = [handle & 0xffff_ffff, handle >> 32, bytes.len() as u64, 0];
        let expected = known
            .as_ref()
            .is_some_and(|known| self.mapped && !known.rest.is_empty() && known.rest.len() >= rest.len());
        let answer = self.bench.call(id::MEM_FRAG_TX, &arguments);
        if answer[0] == spm::ERROR {
            // The transaction is gone, or firmware keeps it and the host may reclaim it, or nothing happened.
            if expected {
                if let Some(known) = self.model.get_mut(&handle) {
                    known.rest.clear();
                    known.pages.extend(pages(&rest));
                }
                if !self.is_listed(handle) {
                    self.model.remove(&handle);
                }
            }
            return;
        }
        assert!(expected, "{answer:x?}");
        let known = self.model.get_mut(&handle).unwrap();
        known.pages.extend(pages(&rest));
        known.rest.drain(..rest.len());
        assert_eq!(answer[0] == spm::OK, known.rest.is_empty());
    }

    /// Whether firmware still has something under the handle: the proxy then answers other than at once.
    fn is_listed(&mut self, handle: u64) -> bool {
        self.bench.w.spm.objects.contains_key(&handle) && {
            let calls = self.bench.w.spm.calls.len();
            let tamper = self.bench.w.tamper.replace(Box::new(|_, reply: &mut Regs, _| {
                *reply = spm::error(spm::BUSY);
            }));
            let object = self.bench.w.spm.objects[&handle].clone();
            self.bench.reclaim(handle);
            self.bench.w.spm.objects.insert(handle, object);
            self.bench.w.tamper = tamper;
            self.bench.w.spm.calls.len() != calls
        }
    }

    fn reclaim(&mut self) {
        let handle = self.pick_handle();
        let answer = self.bench.reclaim(handle);
        if answer[0] == spm::OK {
            assert!(self.model.remove(&handle).is_some());
        }
    }

    fn other(&mut self) {
        let pfn = PLAN.base() + self.random.below(PLAN.pages);
        let gfn = PLAN.guest_base + self.random.below(6);
        let call = match self.random.below(12) {
            0 => Call::ShareHyp { pfn },
            1 => Call::UnshareHyp { pfn },
            2 => Call::DonateHyp { pfn, pages: 1 },
            3 | 4 => Call::GiveHost { pfn },
            5 => Call::DonateGuest { vm: 0, pfn, gfn },
            6 => Call::GuestShare { vm: 0, gfn },
            7 => Call::GuestUnshare { vm: 0, gfn },
            8 | 9 => Call::ForceReclaim { pfn },
            10 => Call::ShareGuest {
                vm: 1,
                pfn,
                gfn,
                pages: 1,
                prot: 12,
            },
            _ => Call::UnshareGuest { vm: 1, gfn, pages: 1 },
        };
        let lent = self.bench.w.standing(pfn) == Some(Standing::HostFfa);
        let by_frame = !matches!(
            call,
            Call::GuestShare { .. } | Call::GuestUnshare { .. } | Call::UnshareGuest { .. }
        );
        let done = self.bench.w.rig.call(call);
        assert!(
            !lent || !by_frame || done.is_err(),
            "{call:?} took a page of a loan"
        );
    }

    fn mailboxes(&mut self) {
        let (tx, rx) = (self.bench.tx(), self.bench.rx());
        let answer = if self.mapped {
            self.bench.call(id::RXTX_UNMAP, &[0])
        } else {
            let arguments = [tx * PAGE_SIZE, rx * PAGE_SIZE, PAGE_SIZE / 4096];
            self.bench.call(id::RXTX_MAP | WIDE, &arguments)
        };
        if answer[0] == spm::OK {
            self.mapped = !self.mapped;
        }
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0..=4 => self.share(),
            5..=7 => self.fragment(),
            8..=10 => self.reclaim(),
            11 if self.random.below(8) == 0 => self.mailboxes(),
            _ => self.other(),
        }
    }

    fn known_pages(&self) -> BTreeSet<u64> {
        self.model
            .values()
            .flat_map(|known| known.pages.clone())
            .collect()
    }
}

fn history(seed: u64) -> History {
    let version = 0x1_0000 + (seed % 3) as u32;
    History {
        random: Random::new(seed),
        bench: Bench::ready(version),
        model: BTreeMap::new(),
        mapped: true,
    }
}

#[test]
fn with_honest_firmware_exactly_the_known_pages_are_marked() {
    let steps = environment("PKVM_STEPS", 400);
    let start = environment("PKVM_SEED", 1);
    let mut most = 0;
    for seed in start..start + 16 {
        let mut history = history(seed);
        for step in 0..steps {
            history.step();
            assert_eq!(
                history.bench.lent_pages(),
                history.known_pages(),
                "seed {seed}, step {step}"
            );
            most = most.max(history.model.len());
        }
    }
    assert!(most >= 5, "the histories are too poor");
}

#[test]
fn with_other_firmware_all_that_it_may_hold_is_marked() {
    let steps = environment("PKVM_STEPS", 400);
    let start = environment("PKVM_SEED", 1);
    for seed in start..start + 16 {
        let mut history = history(seed);
        let mut lies = Random::new(seed ^ 0x55);
        history.bench.w.tamper = Some(Box::new(move |call, reply, _| {
            if lies.below(3) != 0 {
                return;
            }
            let honest = *reply;
            let junk = lies.next();
            match lies.below(8) {
                // A success stands for what firmware did; all else that it may say does not.
                0 => *reply = spm::regs(&[spm::FRAG_RX, honest[1], honest[2], junk & 0xff0]),
                1 => *reply = spm::regs(&[spm::FRAG_RX, honest[2], honest[3], 0]),
                2 => *reply = spm::regs(&[u64::from(id::MEM_OP_PAUSE), honest[2], honest[3]]),
                3 => *reply = spm::regs(&[junk & !0xffff_ffff | 0x8400_0099, junk, junk, junk]),
                4 => reply[3] = junk & 3,
                5 => reply[2] ^= junk & 3,
                6 => reply.iter_mut().skip(4).for_each(|word| *word = junk),
                _ if call[0] == u64::from(id::MEM_RECLAIM) && honest[0] == spm::OK => {
                    *reply = spm::error(spm::BUSY);
                }
                _ => *reply = spm::regs(&[0]),
            }
        }));
        for _ in 0..steps {
            // What firmware holds is checked after each call.
            let before = history.bench.w.spm.pages();
            match history.random.below(16) {
                0..=5 => history.hostile_share(),
                6..=8 => history.hostile_fragment(),
                9..=11 => {
                    let handle = history.any_object();
                    history.bench.reclaim(handle);
                }
                _ => history.other(),
            }
            for pfn in history.bench.w.spm.pages() {
                assert_eq!(
                    history.bench.w.standing(pfn),
                    Some(Standing::HostFfa),
                    "seed {seed}: {pfn:#x}, was there before: {}",
                    before.contains(&pfn)
                );
            }
        }
    }
}

impl History {
    fn any_object(&mut self) -> u64 {
        let handles: Vec<_> = self.bench.w.spm.objects.keys().copied().collect();
        if handles.is_empty() {
            return self.random.below(9);
        }
        self.random.pick(&handles) ^ u64::from(self.random.below(8) == 0)
    }

    fn hostile_share(&mut self) {
        let frames = self.frames(3);
        let bytes = Build::of(&frames).bytes(self.bench.version());
        let fragment = bytes.len() - 16 * self.random.below(frames.len() as u64 + 1) as usize;
        self.bench.write_tx(&bytes[..fragment]);
        self.bench
            .call(id::MEM_SHARE | WIDE, &[bytes.len() as u64, fragment as u64, 0, 0]);
    }

    fn hostile_fragment(&mut self) {
        let handle = self.any_object();
        let frames = self.frames(2);
        let bytes: Vec<_> = frames
            .iter()
            .flat_map(|(pfn, count)| [pfn * PAGE_SIZE, count * PAGE_SIZE / 4096])
            .flat_map(u64::to_le_bytes)
            .collect();
        self.bench.write_tx(&bytes);
        let arguments = [handle & 0xffff_ffff, handle >> 32, bytes.len() as u64, 0];
        self.bench.call(id::MEM_FRAG_TX, &arguments);
    }
}
