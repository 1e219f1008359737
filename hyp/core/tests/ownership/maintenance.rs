// SPDX-License-Identifier: GPL-2.0-only
//! What happens besides the state: TLB and cache maintenance and zeroing, and their order.

use pkvm_core::machine::{Features, Reach, Shareability};
use pkvm_spec::{Call, Kind, World};
use pkvm_types::{PAGE_SHIFT, Perms, Pfn};

use crate::rig::{Plan, Rig, pages};
use crate::sim::Event;

const PLAIN: Plan = Plan {
    features: Features {
        fwb: false,
        dic: false,
        xnx: false,
    },
    ..Plan::SMALL
};

fn rig(plan: Plan) -> (Rig, World<3, 2, 2>) {
    (Rig::new(plan), World::new([Kind::Protected, Kind::Normal]))
}

/// Makes `calls`, all of which succeed, and gives the events of the last.
fn events(rig: &mut Rig, mut world: World<3, 2, 2>, calls: &[Call]) -> Vec<Event> {
    for call in calls {
        rig.m.take_log();
        let (result, after) = rig.check(&world, *call);
        assert!(result.is_ok(), "{call:?}: {result:?}");
        world = after;
    }
    rig.m.take_log()
}

fn host_tlbi(event: &Event, frame: u64) -> bool {
    matches!(event, Event::Tlbi(regime, ipa, _, Shareability::Inner)
        if regime.vmid.raw() == 0 && ipa.raw() == frame << PAGE_SHIFT)
}

fn guest_tlbi(event: &Event, vm: u16, gfn: u64) -> bool {
    matches!(event, Event::Tlbi(regime, ipa, _, Shareability::Inner)
        if regime.vmid.raw() == vm + 1 && ipa.raw() == gfn << PAGE_SHIFT)
}

fn place(events: &[Event], what: impl Fn(&Event) -> bool) -> usize {
    events
        .iter()
        .position(what)
        .unwrap_or_else(|| panic!("an event is missing in {events:x?}"))
}

/// The host's TLB entries go, then the firmware call of the erratum, then the new owner starts.
#[test]
fn a_page_that_the_host_mapped_leaves_its_tlbs_before_it_has_a_new_owner() {
    let (pfn, gfn) = (PLAIN.base(), PLAIN.guest_base);
    for take in [
        Call::DonateGuest { vm: 0, pfn, gfn },
        Call::DonateHyp { pfn, pages: 1 },
    ] {
        let (mut rig, world) = rig(PLAIN);
        let log = events(&mut rig, world, &[Call::HostRead { pfn }, take]);
        let tlbi = place(&log, |e| host_tlbi(e, pfn));
        // Earlier ones are for pages of the memcache.
        let dvmsync = log.iter().rposition(|e| *e == Event::Dvmsync).unwrap();
        assert!(tlbi < dvmsync);
        if let Some(clean) = log.iter().position(|e| matches!(e, Event::Clean(_))) {
            assert!(dvmsync < clean);
        }
    }
}

#[test]
fn caches_are_maintained_for_a_vm_as_the_cpus_need_it() {
    let (pfn, gfn) = (PLAIN.base(), PLAIN.guest_base);
    let give = [Call::DonateGuest { vm: 0, pfn, gfn }];
    let lend = |prot| {
        [Call::ShareGuest {
            vm: 1,
            pfn,
            gfn,
            pages: 1,
            prot,
        }]
    };
    for (fwb, dic) in [(false, false), (true, false), (false, true), (true, true)] {
        let plan = Plan {
            features: Features { fwb, dic, xnx: false },
            ..Plan::SMALL
        };
        for calls in [&give[..], &lend(15)[..], &lend(12)[..]] {
            let (mut rig, world) = rig(plan);
            let log = events(&mut rig, world, calls);
            let executable = calls != lend(12);
            assert_eq!(log.contains(&Event::Clean(pages(pfn, 1))), !fwb);
            assert_eq!(log.contains(&Event::Icache(pages(pfn, 1))), !dic && executable);
        }
    }
}

/// Zeroed after the VM's TLB entries went; cleaned to the point of coherency whether or not FEAT_S2FWB is there.
#[test]
fn a_page_of_a_vm_is_scrubbed_after_the_vm_lost_it() {
    let (pfn, gfn) = (PLAIN.base(), PLAIN.guest_base);
    for plan in [PLAIN, Plan::SMALL] {
        let give = Call::DonateGuest { vm: 0, pfn, gfn };
        let dying = [
            give,
            Call::StartTeardown { vm: 0 },
            Call::ReclaimDying { vm: 0, gfn },
        ];
        for calls in [&[give, Call::ForceReclaim { pfn }][..], &dying[..]] {
            let (mut rig, world) = rig(plan);
            let log = events(&mut rig, world, calls);
            let scrub = Event::Scrub(Pfn::checked(pfn).unwrap(), Reach::Fixmap);
            assert!(place(&log, |e| guest_tlbi(e, 0, gfn)) < place(&log, |e| *e == scrub));
        }
    }
}

#[test]
fn what_a_vm_lent_is_not_scrubbed() {
    let (pfn, gfn) = (PLAIN.base(), PLAIN.guest_base);
    let (mut rig, world) = rig(PLAIN);
    let calls = [
        Call::DonateGuest { vm: 0, pfn, gfn },
        Call::GuestShare { vm: 0, gfn },
        Call::StartTeardown { vm: 0 },
        Call::ReclaimDying { vm: 0, gfn },
    ];
    let log = events(&mut rig, world, &calls);
    assert!(!log.iter().any(|e| matches!(e, Event::Scrub(..))));
}

/// `MEM_UNSHARE`: no CPU of the host's can reach the page when the VM goes on.
#[test]
fn a_page_that_a_vm_takes_back_leaves_the_hosts_tlbs() {
    let (pfn, gfn) = (PLAIN.base(), PLAIN.guest_base);
    let (mut rig, world) = rig(PLAIN);
    let calls = [
        Call::DonateGuest { vm: 0, pfn, gfn },
        Call::GuestShare { vm: 0, gfn },
        Call::HostRead { pfn },
        Call::GuestUnshare { vm: 0, gfn },
    ];
    let log = events(&mut rig, world, &calls);
    assert!(place(&log, |e| host_tlbi(e, pfn)) < place(&log, |e| *e == Event::Dvmsync));
}

#[test]
fn the_last_unpin_leaves_no_tlb_entry_at_el2() {
    let pfn = PLAIN.base();
    let (mut rig, world) = rig(PLAIN);
    let calls = [
        Call::ShareHyp { pfn },
        Call::Pin { pfn, pages: 1 },
        Call::Pin { pfn, pages: 1 },
        Call::Unpin { pfn, pages: 1 },
    ];
    assert!(events(&mut rig, world, &calls).is_empty(), "a pin is left");
    let world = rig.world();
    let log = events(&mut rig, world, &[Call::Unpin { pfn, pages: 1 }]);
    assert!(log.iter().any(|e| matches!(e, Event::TlbiHyp(_))));
}

/// Walkers may keep more of a VMID than leaves; the next VM must find nothing.
#[test]
fn a_vmid_is_clean_before_it_can_be_used_again() {
    let (pfn, gfn) = (PLAIN.base(), PLAIN.guest_base);
    for vm in 0..2 {
        let (mut rig, world) = rig(PLAIN);
        let calls = [
            Call::ShareGuest {
                vm: 1,
                pfn,
                gfn,
                pages: 1,
                prot: 15,
            },
            Call::StartTeardown { vm },
            Call::FinalizeTeardown { vm },
        ];
        let log = events(&mut rig, world, &calls);
        let mut all = log
            .iter()
            .filter(|e| matches!(e, Event::TlbiAll(regime) if regime.vmid.raw() == u16::from(vm) + 1));
        assert!(all.next().is_some());
    }
}

#[test]
fn permissions_grow_on_this_cpu_and_shrink_when_el1_says() {
    let (pfn, gfn) = (PLAIN.base(), PLAIN.guest_base);
    let (mut rig, world) = rig(PLAIN);
    let lend = Call::ShareGuest {
        vm: 1,
        pfn,
        gfn,
        pages: 1,
        prot: 8,
    };
    let log = events(
        &mut rig,
        world,
        &[lend, Call::RelaxPerms { vm: 1, gfn, prot: 15 }],
    );
    let tlbi = |e: &Event| matches!(e, Event::Tlbi(_, _, _, Shareability::Local));
    // What the VM may fetch now, it must not find stale in the instruction cache.
    assert!(place(&log, |e| *e == Event::Icache(pages(pfn, 1))) < place(&log, tlbi));
    assert!(
        !log.iter()
            .any(|e| matches!(e, Event::Tlbi(_, _, _, Shareability::Inner)))
    );
    let world = rig.world();
    assert!(events(&mut rig, world, &[Call::Wrprotect { vm: 1, gfn, pages: 1 }]).is_empty());
}

#[test]
fn the_host_gets_an_abort_for_what_a_map_does_not_allow() {
    let plan = Plan::SMALL;
    let (mut rig, _) = rig(plan);
    let (text, device, nomap) = (plan.text(), plan.base() + plan.pages, plan.nomap());
    assert!(rig.host_access(text, Perms::R));
    assert!(!rig.host_access(text, Perms::W) && !rig.host_access(text, Perms::X));
    assert!(rig.host_access(device, Perms::RW) && !rig.host_access(device, Perms::X));
    assert!(rig.host_access(nomap, Perms::RWX) && rig.host_access(plan.base(), Perms::RWX));
    assert!(!rig.host_access(rig.layout.limit, Perms::R) && !rig.host_access((1 << 52) - 1, Perms::R));
}
