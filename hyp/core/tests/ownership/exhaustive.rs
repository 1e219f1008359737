// SPDX-License-Identifier: GPL-2.0-only
//! Every state that a small world can reach in a few calls, and every call in each of them.

use std::collections::{HashSet, VecDeque};

use pkvm_spec::{Call, Kind, World};

use crate::random::environment;
use crate::rig::{Plan, Rig};

type Small = World<3, 2, 2>;

/// Every call on the world's pages and frames, with arguments that matter.
fn calls(plan: &Plan) -> Vec<Call> {
    let mut calls = Vec::new();
    let frames = plan.base()..plan.base() + plan.pages;
    let gfns = plan.guest_base..plan.guest_base + 2;
    for pfn in frames.clone() {
        calls.extend([
            Call::ShareHyp { pfn },
            Call::UnshareHyp { pfn },
            Call::GiveHost { pfn },
            Call::ForceReclaim { pfn },
            Call::HostRead { pfn },
        ]);
        for pages in 1..=2 {
            calls.extend([
                Call::DonateHyp { pfn, pages },
                Call::Pin { pfn, pages },
                Call::Unpin { pfn, pages },
                Call::ShareFfa { pfn, pages },
                Call::UnshareFfa { pfn, pages },
            ]);
        }
        for gfn in gfns.clone() {
            calls.push(Call::DonateGuest { vm: 0, pfn, gfn });
            calls.push(Call::ShareGuest {
                vm: 1,
                pfn,
                gfn,
                pages: 1,
                prot: 15,
            });
        }
    }
    for gfn in gfns {
        calls.extend([
            Call::GuestShare { vm: 0, gfn },
            Call::GuestUnshare { vm: 0, gfn },
            Call::UnshareGuest { vm: 1, gfn, pages: 1 },
            Call::Wrprotect { vm: 1, gfn, pages: 1 },
            Call::RelaxPerms { vm: 1, gfn, prot: 12 },
            Call::InPoisonFault { vm: 0, gfn },
            Call::ReclaimDying { vm: 0, gfn },
            Call::ReclaimDying { vm: 1, gfn },
        ]);
    }
    for vm in 0..2 {
        calls.extend([Call::StartTeardown { vm }, Call::FinalizeTeardown { vm }]);
    }
    calls
}

fn replay(plan: Plan, path: &[Call]) -> Rig {
    let mut rig = Rig::new(plan);
    for call in path {
        rig.call(*call).unwrap();
    }
    let world = rig.world::<3, 2, 2>();
    rig.exchange_secrets(&world);
    rig.fill_tlb();
    rig
}

/// Goes through all states that `depth` calls can reach, as far as `states` allows, and makes every call in each.
fn explore(plan: Plan, depth: usize, states: usize) -> usize {
    let calls = calls(&plan);
    let start = Small::new([Kind::Protected, Kind::Normal]);
    let mut seen = HashSet::from([start]);
    let mut queue = VecDeque::from([(start, Vec::new())]);
    let mut transitions = 0;
    while let Some((world, path)) = queue.pop_front() {
        let mut rig = replay(plan, &path);
        let mut fresh = true;
        for call in &calls {
            if !fresh {
                rig = replay(plan, &path);
            }
            let (result, after) = rig.check(&world, *call);
            transitions += 1;
            // A refused call, or one that only tells something, leaves a machine for the next one.
            fresh = after == world;
            if result.is_ok() && path.len() < depth && seen.len() < states && seen.insert(after) {
                let path = path.iter().copied().chain([*call]).collect();
                queue.push_back((after, path));
            }
        }
    }
    println!("{} states, {transitions} calls compared", seen.len());
    seen.len()
}

/// `PKVM_STATES` and `PKVM_DEPTH` say how far to go; the default is what a debug build does in seconds.
#[test]
fn every_call_in_every_state_of_a_small_world() {
    explore(
        Plan::SMALL,
        environment("PKVM_DEPTH", 6) as usize,
        environment("PKVM_STATES", 100) as usize,
    );
}
