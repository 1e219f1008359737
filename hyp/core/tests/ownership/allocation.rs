// SPDX-License-Identifier: GPL-2.0-only
//! Memory that runs out: every call either does all it should or changes nothing, whatever the pools hold.

use pkvm_core::machine::Machine;
use pkvm_spec::{Call, Kind, World};
use pkvm_types::{Error, PAGE_SHIFT, Phys, block_pages};

use crate::rig::{Plan, Rig};

const ROOMY: Plan = Plan {
    levels: 3,
    apart: true,
    ..Plan::SMALL
};

/// Calls that take page-table memory of every component.
fn script(plan: &Plan) -> Vec<Call> {
    let (pfn, gfn) = (plan.base(), plan.guest_base);
    let far = gfn + 4 * block_pages();
    vec![
        Call::ShareHyp { pfn },
        Call::Pin { pfn, pages: 1 },
        Call::ShareHyp { pfn: pfn + 1 },
        Call::Pin { pfn, pages: 2 },
        Call::Unpin { pfn, pages: 1 },
        Call::Unpin { pfn, pages: 2 },
        Call::UnshareHyp { pfn },
        Call::UnshareHyp { pfn: pfn + 1 },
        Call::DonateHyp { pfn, pages: 2 },
        Call::GiveHost { pfn },
        Call::GiveHost { pfn: pfn + 1 },
        Call::DonateGuest { vm: 0, pfn, gfn },
        Call::GuestShare { vm: 0, gfn },
        Call::GuestUnshare { vm: 0, gfn },
        Call::ShareGuest {
            vm: 1,
            pfn: pfn + 1,
            gfn,
            pages: 1,
            prot: 15,
        },
        Call::ShareGuest {
            vm: 1,
            pfn: pfn + 1,
            gfn: gfn + 1,
            pages: 1,
            prot: 15,
        },
        Call::ForceReclaim { pfn },
        Call::DonateGuest {
            vm: 0,
            pfn,
            gfn: gfn + 1,
        },
        Call::UnshareGuest { vm: 1, gfn, pages: 1 },
        Call::UnshareGuest {
            vm: 1,
            gfn: gfn + 1,
            pages: 1,
        },
        // Out of the world's sight, but not of the pools'.
        Call::UnshareGuest {
            vm: 1,
            gfn: far,
            pages: 1,
        },
        Call::StartTeardown { vm: 0 },
        Call::ReclaimDying { vm: 0, gfn: gfn + 1 },
        Call::FinalizeTeardown { vm: 0 },
        Call::StartTeardown { vm: 1 },
        Call::FinalizeTeardown { vm: 1 },
    ]
}

/// Runs the script and counts the calls that ran out of memory.
fn run(plan: Plan) -> usize {
    let mut rig = Rig::new(plan);
    let mut world = World::<3, 2, 2>::new([Kind::Protected, Kind::Normal]);
    let mut short = 0;
    for call in script(&plan) {
        let (result, after) = rig.check_or_no_memory(&world, call);
        short += usize::from(result == Err(Error::NoMemory));
        world = after;
    }
    if world.vms.iter().all(|vm| vm.phase == pkvm_spec::Phase::Gone) {
        // The top-level tables have come on top.
        assert_eq!(rig.spare() as u64, plan.spare + 2, "pages are missing");
    }
    short
}

#[test]
fn every_pool_may_run_out_at_every_call() {
    // Two tables of each pool are taken by the boot.
    for spare in 0..=4 {
        run(Plan { spare, ..ROOMY });
    }
    for pool in 2..=4 {
        run(Plan {
            hyp_pool: pool,
            ..ROOMY
        });
        run(Plan {
            host_pool: pool,
            ..ROOMY
        });
        run(Plan {
            host_pool: pool,
            hyp_pool: pool,
            spare: 1,
            ..ROOMY
        });
    }
    assert!(run(Plan { hyp_pool: 2, ..ROOMY }) > 0);
    assert!(
        run(Plan {
            host_pool: 2,
            ..ROOMY
        }) > 0
    );
    assert!(run(Plan { spare: 0, ..ROOMY }) > 0);
    assert_eq!(
        run(Plan {
            host_pool: 3,
            hyp_pool: 3,
            spare: 8,
            ..ROOMY
        }),
        0
    );
}

#[test]
fn maps_of_devices_give_way_to_memory() {
    // One table beyond the boot's, which a device takes that shares its block with memory nobody can take.
    let plan = Plan {
        host_pool: 3,
        ..ROOMY
    };
    let mut rig = Rig::new(plan);
    let start = World::<3, 2, 2>::new([Kind::Protected, Kind::Normal]);
    let (_, world) = rig.check(
        &start,
        Call::HostRead {
            pfn: plan.nomap() + 1,
        },
    );
    assert_eq!(rig.host.free_tables(), 0);
    let (result, world) = rig.check(
        &world,
        Call::DonateHyp {
            pfn: plan.base(),
            pages: 1,
        },
    );
    assert_eq!(result, Ok(0));
    // The device's map is gone; where there is no memory for it, the access fails, and nothing else.
    assert!(!rig.host_access(plan.nomap() + 1, pkvm_types::Perms::R));
    assert!(rig.world::<3, 2, 2>() == world);
}

#[test]
fn a_pin_over_two_tables_needs_both() {
    // The boot takes one table; each of the two pages needs one of its own.
    let plan = Plan {
        pages: block_pages() + 32,
        levels: 2,
        hyp_pool: 2,
        ..ROOMY
    };
    let mut rig = Rig::new(plan);
    let crosses = |frame: &u64| {
        let va = |frame: u64| rig.m.linear_va(Phys::new(frame << PAGE_SHIFT)).raw() >> PAGE_SHIFT;
        va(*frame + 1).is_multiple_of(block_pages())
    };
    let pfn = (plan.base() + 32..plan.nomap()).find(crosses).unwrap();
    rig.call(Call::ShareHyp { pfn }).unwrap();
    rig.call(Call::ShareHyp { pfn: pfn + 1 }).unwrap();
    let before = rig.m.version();
    assert_eq!(rig.call(Call::Pin { pfn, pages: 2 }), Err(Error::NoMemory));
    assert_eq!(rig.m.version(), before);
    rig.call(Call::Pin { pfn, pages: 1 }).unwrap();
    assert_eq!(rig.call(Call::Pin { pfn, pages: 2 }), Err(Error::NoMemory));
    rig.call(Call::Unpin { pfn, pages: 1 }).unwrap();
    rig.call(Call::Pin {
        pfn: pfn + 1,
        pages: 1,
    })
    .unwrap();
}
