// SPDX-License-Identifier: GPL-2.0-only
//! Random histories, with arguments that no honest caller would choose. `PKVM_SEED` and `PKVM_STEPS` make them other and
//! longer ones; a failure names its seed.

use pkvm_core::machine::Features;
use pkvm_spec::{Call, Kind, World};
use pkvm_types::block_pages;

use crate::rig::{Plan, Rig};

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    fn next(&mut self) -> u64 {
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

struct Generator {
    random: Random,
    plan: Plan,
    guest_frames: u64,
    /// Sizes that a caller asks for.
    sizes: &'static [u64],
}

impl Generator {
    /// A frame number: mostly of the world, else one at a border or one that lies.
    fn pfn(&mut self) -> u64 {
        let (base, limit) = (self.plan.base(), self.plan.layout().limit);
        let inside = base + self.random.below(self.plan.pages);
        match self.random.below(16) {
            0 => {
                let odd = [
                    base - 1,
                    base + self.plan.pages,
                    self.plan.nomap(),
                    self.plan.text(),
                    0,
                    limit - 1,
                    limit,
                    (1 << 52) - 1,
                    inside + (1 << 52),
                    u64::MAX,
                ];
                self.random.pick(&odd)
            }
            // Blocks want their first page.
            1..5 => base,
            _ => inside,
        }
    }

    fn gfn(&mut self) -> u64 {
        let base = self.plan.guest_base;
        let inside = base + self.random.below(self.guest_frames);
        match self.random.below(16) {
            0 => {
                let limit = self.plan.layout().limit;
                let odd = [limit, limit + 1, (1 << 52) - 1, inside + (1 << 52), u64::MAX];
                self.random.pick(&odd)
            }
            1..5 => base,
            _ => inside,
        }
    }

    fn size(&mut self) -> u64 {
        if self.random.below(16) == 0 {
            let block = block_pages();
            self.random
                .pick(&[0, 2, block - 1, block, block + 1, 1 << 52, u64::MAX])
        } else {
            self.random.pick(self.sizes)
        }
    }

    fn call(&mut self) -> Call {
        let vm = self.random.below(self.plan.kinds.len() as u64 + 1) as u8;
        let (pfn, gfn, pages) = (self.pfn(), self.gfn(), self.size());
        let prot = if self.random.below(8) == 0 {
            self.random.pick(&[1, 2, 16, 32, 1 << 55, u64::MAX])
        } else {
            self.random.pick(&[0, 4, 8, 11, 12, 15])
        };
        match self.random.below(40) {
            0 | 1 => Call::ShareHyp { pfn },
            2 | 3 => Call::UnshareHyp { pfn },
            4 => Call::DonateHyp { pfn, pages },
            5 | 6 => Call::GiveHost { pfn },
            7 => Call::Pin { pfn, pages },
            8 | 9 => Call::Unpin { pfn, pages },
            10 => Call::ShareFfa { pfn, pages },
            11 | 12 => Call::UnshareFfa { pfn, pages },
            13..17 => Call::DonateGuest { vm, pfn, gfn },
            17..22 => Call::ShareGuest {
                vm,
                pfn,
                gfn,
                pages,
                prot,
            },
            22..25 => Call::UnshareGuest { vm, gfn, pages },
            25 => Call::RelaxPerms { vm, gfn, prot },
            26 => Call::Wrprotect { vm, gfn, pages },
            27 => Call::TestClearYoung {
                vm,
                gfn,
                pages,
                clear: self.random.below(2) == 0,
            },
            28 => Call::Mkyoung { vm, gfn },
            29 | 30 => Call::GuestShare { vm, gfn },
            31 => Call::GuestUnshare { vm, gfn },
            32 => Call::ForceReclaim {
                pfn: pfn & ((1 << 52) - 1),
            },
            33 => Call::InPoisonFault { vm, gfn },
            34 | 35 => Call::ReclaimDying { vm, gfn },
            36 if self.random.below(20) == 0 => Call::StartTeardown { vm },
            37 => Call::FinalizeTeardown { vm },
            _ => Call::HostRead {
                pfn: pfn & ((1 << 40) - 1),
            },
        }
    }
}

fn history<const P: usize, const V: usize, const G: usize>(plan: Plan, sizes: &'static [u64], steps: u64) {
    let seed = environment("PKVM_SEED", 1);
    let mut kinds = [Kind::Normal; V];
    kinds.copy_from_slice(plan.kinds);
    for seed in seed..seed + 3 {
        println!("seed {seed}");
        let mut generator = Generator {
            random: Random::new(seed),
            plan,
            guest_frames: G as u64,
            sizes,
        };
        let mut world = World::<P, V, G>::new(kinds);
        let mut rig = Rig::new(plan);
        let mut done = 0;
        for _ in 0..environment("PKVM_STEPS", steps) {
            // Past the end of the space there is nothing to tell.
            let (result, after) = rig.check(&world, generator.call());
            world = after;
            done += u64::from(result.is_ok());
        }
        assert!(done > steps / 20, "only {done} calls did anything");
    }
}

const PAIR: &[Kind] = &[Kind::Protected, Kind::Normal, Kind::Protected];

#[test]
fn random_histories_of_pages() {
    let plan = Plan {
        pages: 6,
        kinds: PAIR,
        spare: 12,
        ..Plan::SMALL
    };
    history::<6, 3, 5>(plan, &[1, 1, 2, 3], 600);
}

#[test]
fn random_histories_with_execution_by_privilege_and_cache_maintenance() {
    let features = Features {
        fwb: false,
        dic: false,
        xnx: true,
    };
    let plan = Plan {
        pages: 5,
        kinds: PAIR,
        spare: 12,
        levels: 3,
        features,
        ..Plan::SMALL
    };
    history::<5, 3, 4>(plan, &[1, 1, 2], 400);
}

#[test]
fn random_histories_of_blocks() {
    const P: usize = block_pages() as usize + 2;
    const G: usize = block_pages() as usize + 2;
    let plan = Plan {
        pages: P as u64,
        kinds: &[Kind::Normal],
        guest_base: 2 * block_pages(),
        spare: 8,
        ..Plan::SMALL
    };
    const SIZES: &[u64] = &[1, block_pages()];
    // A world of some thousand pages by value wants a stack to match.
    let run = move || history::<P, 1, G>(plan, SIZES, 150);
    std::thread::Builder::new()
        .stack_size(64 << 20)
        .spawn(run)
        .unwrap()
        .join()
        .unwrap();
}
