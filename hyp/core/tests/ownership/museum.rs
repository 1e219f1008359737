// SPDX-License-Identifier: GPL-2.0-only
//! One test for each known defect of memory ownership, of this or of other hypervisors, that a simulated machine can show. Each
//! says what went wrong there.

use pkvm_core::mem::{self, GuestFault, HostList, HypPages};
use pkvm_pgtable::HypAttrs;
use pkvm_pool::Memcache;
use pkvm_spec::{Call, Frame, Holder, Kind, Loan, Phase, World};
use pkvm_types::{
    Error, Gfn, HypVa, Ipa, PAGE_SHIFT, PAGE_SIZE, Perms, Pfn, PfnRange, Phys, ShareReason, block_pages,
};

use crate::rig::{Plan, Rig, pages};

type Small = World<3, 2, 2>;
const PLAN: Plan = Plan::SMALL;
const PFN: u64 = PLAN.base();
const GFN: u64 = PLAN.guest_base;

fn start() -> (Rig, Small) {
    (Rig::new(PLAN), Small::new([Kind::Protected, Kind::Normal]))
}

/// Makes calls that the specification knows, one after another.
fn go(rig: &mut Rig, world: &mut Small, calls: &[Call]) -> Result<u64, Error> {
    let mut last = Ok(0);
    for call in calls {
        (last, *world) = rig.check(world, *call);
    }
    last
}

/// A size or a frame number that wraps as an address led to writes beyond the page records.
#[test]
fn a_range_that_wraps_is_refused() {
    let (mut rig, mut world) = start();
    for pages in [1 << 52, u64::MAX, (1 << 52) - PFN, 0] {
        for pfn in [PFN, PFN + (1 << 52), u64::MAX] {
            for call in [
                Call::DonateHyp { pfn, pages },
                Call::ShareFfa { pfn, pages },
                Call::UnshareFfa { pfn, pages },
                Call::Pin { pfn, pages },
                Call::ShareGuest {
                    vm: 1,
                    pfn,
                    gfn: GFN,
                    pages,
                    prot: 15,
                },
            ] {
                assert_eq!(
                    go(&mut rig, &mut world, &[call]),
                    Err(Error::Invalid),
                    "{call:x?}"
                );
            }
        }
    }
    let call = Call::DonateGuest {
        vm: 0,
        pfn: PFN,
        gfn: GFN + (1 << 52),
    };
    assert_eq!(go(&mut rig, &mut world, &[call]), Err(Error::Range));
}

/// Devices and memory that firmware keeps were donated, since nothing in the page table said no.
#[test]
fn what_is_not_memory_has_no_owner_to_change() {
    let (mut rig, mut world) = start();
    for pfn in [0, PFN - 1, PFN + PLAN.pages, PLAN.nomap(), PLAN.text()] {
        // The host may have used it before, which makes no difference.
        go(&mut rig, &mut world, &[Call::HostRead { pfn }]).unwrap();
        for call in [
            Call::ShareHyp { pfn },
            Call::DonateHyp { pfn, pages: 1 },
            Call::ShareFfa { pfn, pages: 1 },
            Call::DonateGuest { vm: 0, pfn, gfn: GFN },
            Call::ShareGuest {
                vm: 1,
                pfn,
                gfn: GFN,
                pages: 1,
                prot: 15,
            },
        ] {
            assert_eq!(go(&mut rig, &mut world, &[call]), Err(Error::Perm), "{call:x?}");
        }
    }
}

/// The host changed the list of pages while it was taken, or made it a loop.
#[test]
fn a_memcache_takes_what_the_list_says_at_one_reading_and_no_page_twice() {
    let (mut rig, _) = start();
    let mut memcache = Memcache::new();
    // A loop of two pages, said to be long.
    rig.m.set_word(PFN, 0, (PFN + 1) << PAGE_SHIFT);
    rig.m.set_word(PFN + 1, 0, PFN << PAGE_SHIFT);
    let mut list = HostList {
        head: PFN << PAGE_SHIFT,
        count: u64::MAX,
    };
    let result = mem::refill_memcache(&rig.m, &mut rig.host, &mut rig.hyp, &mut memcache, &mut list);
    assert_eq!(result, Err(Error::NoMemory));
    assert_eq!(
        (memcache.len(), list),
        (
            2,
            HostList {
                head: PFN << PAGE_SHIFT,
                count: u64::MAX - 2
            }
        )
    );
    // The link was read from a page that the host had lost.
    let world = rig.world::<3, 2, 2>();
    assert_eq!(world.pages[0].holder, Holder::Hyp);
    assert_eq!(world.pages[1].holder, Holder::Hyp);
}

#[test]
fn a_memcache_has_a_bound() {
    let plan = Plan { pages: 40, ..PLAN };
    let mut rig = Rig::new(plan);
    for page in 0..40 {
        rig.m.set_word(PFN + page, 0, (PFN + page + 1) << PAGE_SHIFT);
    }
    let mut memcache = Memcache::new();
    let mut list = HostList {
        head: PFN << PAGE_SHIFT,
        count: 40,
    };
    mem::refill_memcache(&rig.m, &mut rig.host, &mut rig.hyp, &mut memcache, &mut list).unwrap();
    assert_eq!(
        (memcache.len(), list.count),
        (mem::MEMCACHE_LIMIT, 40 - mem::MEMCACHE_LIMIT)
    );
    while let Some(page) = mem::memcache_pop(&rig.m, &mut memcache) {
        let (page, _) = page.scrub_first(&rig.m, 0);
        mem::hyp_donate_host(&rig.m, &mut rig.host, &mut rig.hyp, page).unwrap();
    }
}

/// A record that the page had before it became a table made the allocator write past it: a page of a pool starts anew.
#[test]
fn a_page_comes_back_without_a_trace() {
    let (mut rig, mut world) = start();
    let calls = [
        Call::ShareGuest {
            vm: 1,
            pfn: PFN,
            gfn: GFN,
            pages: 1,
            prot: 15,
        },
        Call::UnshareGuest {
            vm: 1,
            gfn: GFN,
            pages: 1,
        },
        Call::ShareHyp { pfn: PFN },
        Call::Pin { pfn: PFN, pages: 1 },
        Call::Unpin { pfn: PFN, pages: 1 },
        Call::UnshareHyp { pfn: PFN },
        Call::DonateHyp { pfn: PFN, pages: 1 },
        Call::GiveHost { pfn: PFN },
    ];
    let (_, fresh) = rig.m.version();
    assert_eq!(go(&mut rig, &mut world, &calls), Ok(0));
    assert_eq!(rig.m.version().1[0], fresh[0]);
}

/// Rebuilding a block of the host's lost what the table said of its neighbours, which then were the host's for the asking.
#[test]
fn the_host_cannot_fault_away_what_its_table_says_of_other_owners() {
    let (mut rig, mut world) = start();
    let calls = [
        Call::DonateGuest {
            vm: 0,
            pfn: PFN,
            gfn: GFN,
        },
        Call::DonateHyp {
            pfn: PFN + 2,
            pages: 1,
        },
        Call::HostRead { pfn: PFN + 1 },
        Call::HostRead { pfn: PFN },
        Call::HostRead { pfn: PFN + 2 },
    ];
    assert_eq!(go(&mut rig, &mut world, &calls), Ok(0));
}

/// The same where the entry was lost: the page record decides.
#[test]
fn a_lost_entry_gives_the_host_nothing() {
    let (mut rig, mut world) = start();
    go(
        &mut rig,
        &mut world,
        &[Call::DonateGuest {
            vm: 0,
            pfn: PFN,
            gfn: GFN,
        }],
    )
    .unwrap();
    let (table, index) = host_entry(&rig, PFN);
    assert_ne!(rig.m.word(table, index), 0);
    rig.m.set_word(table, index, 0);
    assert!(!rig.host_access(PFN, Perms::R));
    assert!(rig.host_access(PFN + 1, Perms::R));
}

/// A VM that was destroyed with pages left, and a slot used again: the host's table named a frame of another VM.
#[test]
fn a_vm_cannot_go_while_it_owns_pages() {
    let (mut rig, mut world) = start();
    let calls = [
        Call::DonateGuest {
            vm: 0,
            pfn: PFN,
            gfn: GFN,
        },
        Call::StartTeardown { vm: 0 },
        Call::FinalizeTeardown { vm: 0 },
    ];
    assert_eq!(go(&mut rig, &mut world, &calls), Err(Error::Busy));
    let calls = [
        Call::ReclaimDying { vm: 0, gfn: GFN },
        Call::FinalizeTeardown { vm: 0 },
    ];
    assert_eq!(go(&mut rig, &mut world, &calls), Ok(0));
    assert_eq!(rig.spare() as u64, PLAN.spare + 1);
    // And nobody answers for it: not `EAGAIN` for ever.
    assert_eq!(
        go(&mut rig, &mut world, &[Call::ForceReclaim { pfn: PFN }]),
        Err(Error::Again)
    );
}

/// Loans to a normal VM outlived it, and the host could never use the pages for anything else.
#[test]
fn a_normal_vm_that_goes_returns_what_it_borrowed() {
    let (mut rig, mut world) = start();
    let lend = |gfn| Call::ShareGuest {
        vm: 1,
        pfn: PFN,
        gfn,
        pages: 1,
        prot: 15,
    };
    let calls = [
        lend(GFN),
        lend(GFN + 1),
        Call::StartTeardown { vm: 1 },
        Call::FinalizeTeardown { vm: 1 },
    ];
    assert_eq!(go(&mut rig, &mut world, &calls), Ok(0));
    assert_eq!(world.vms[1].phase, Phase::Gone);
    assert_eq!(
        go(
            &mut rig,
            &mut world,
            &[Call::DonateGuest {
                vm: 0,
                pfn: PFN,
                gfn: GFN
            }]
        ),
        Ok(0)
    );
}

/// A call without a check of why a page is shared ended another component's loan.
#[test]
fn each_loan_is_ended_by_its_own_call_only() {
    let lend = Call::ShareGuest {
        vm: 1,
        pfn: PFN,
        gfn: GFN,
        pages: 1,
        prot: 15,
    };
    let pairs = [
        (Call::ShareHyp { pfn: PFN }, Call::UnshareHyp { pfn: PFN }),
        (
            Call::ShareFfa { pfn: PFN, pages: 1 },
            Call::UnshareFfa { pfn: PFN, pages: 1 },
        ),
        (
            lend,
            Call::UnshareGuest {
                vm: 1,
                gfn: GFN,
                pages: 1,
            },
        ),
    ];
    for (begin, own) in pairs {
        let (mut rig, mut world) = start();
        go(&mut rig, &mut world, &[begin]).unwrap();
        for (other, end) in pairs {
            if other != begin {
                assert!(go(&mut rig, &mut world, &[other]).is_err());
                assert!(go(&mut rig, &mut world, &[end]).is_err());
            }
        }
        assert_eq!(go(&mut rig, &mut world, &[own]), Ok(0));
    }
}

/// Counts at their ends were a panic: so many pins, or so many loans, that one more does not fit.
#[test]
fn counts_stop_at_their_ends() {
    let (mut rig, mut world) = start();
    go(
        &mut rig,
        &mut world,
        &[Call::ShareHyp { pfn: PFN }, Call::Pin { pfn: PFN, pages: 1 }],
    )
    .unwrap();
    let set = |rig: &Rig, count| {
        pkvm_core::machine::Machine::record(&rig.m, Pfn::checked(PFN).unwrap())
            .unwrap()
            .set_refcount(count);
    };
    set(&rig, u16::MAX);
    let mut full = world;
    full.pages[0].loan = Loan::Hyp(u16::MAX);
    go(&mut rig, &mut full, &[Call::ShareHyp { pfn: PFN + 1 }]).unwrap();
    // Both pages or none: the second one is not pinned for the first one's sake.
    assert_eq!(
        go(&mut rig, &mut full, &[Call::Pin { pfn: PFN, pages: 2 }]),
        Err(Error::Busy)
    );
    assert_eq!(
        go(&mut rig, &mut full, &[Call::UnshareHyp { pfn: PFN }]),
        Err(Error::Busy)
    );

    let (mut rig, mut world) = start();
    go(
        &mut rig,
        &mut world,
        &[Call::ShareGuest {
            vm: 1,
            pfn: PFN,
            gfn: GFN,
            pages: 1,
            prot: 15,
        }],
    )
    .unwrap();
    let record = pkvm_core::machine::Machine::record(&rig.m, Pfn::checked(PFN).unwrap()).unwrap();
    record.set_share(ShareReason::Guests(u32::MAX));
    let lend = Call::ShareGuest {
        vm: 1,
        pfn: PFN,
        gfn: GFN + 1,
        pages: 1,
        prot: 15,
    };
    assert_eq!(rig.call(lend), Err(Error::Busy));
}

/// Permissions that the CPUs cannot tell apart passed the checks and failed after the page had been counted.
#[test]
fn execution_by_privilege_needs_the_feature() {
    let (mut rig, mut world) = start();
    for prot in [1, 2, 9, 10, 13, 14, 16, 1 << 55, 15 | 1 << 5, u64::MAX] {
        let lend = Call::ShareGuest {
            vm: 1,
            pfn: PFN,
            gfn: GFN,
            pages: 1,
            prot,
        };
        assert_eq!(go(&mut rig, &mut world, &[lend]), Err(Error::Invalid));
        assert_eq!(
            go(
                &mut rig,
                &mut world,
                &[Call::RelaxPerms {
                    vm: 1,
                    gfn: GFN,
                    prot
                }]
            ),
            Err(Error::Invalid)
        );
    }
}

/// A guest frame beyond the address space was an error nobody had expected, in a place where errors stopped the machine.
#[test]
fn a_frame_beyond_the_address_space_is_a_plain_error() {
    let (mut rig, mut world) = start();
    let limit = rig.layout.limit;
    for gfn in [limit, (1 << 52) - 1, 1 << 52, u64::MAX] {
        for call in [
            Call::DonateGuest { vm: 0, pfn: PFN, gfn },
            Call::ShareGuest {
                vm: 1,
                pfn: PFN,
                gfn,
                pages: 1,
                prot: 15,
            },
            Call::UnshareGuest { vm: 1, gfn, pages: 1 },
            Call::RelaxPerms { vm: 1, gfn, prot: 15 },
            Call::Wrprotect { vm: 1, gfn, pages: 1 },
            Call::TestClearYoung {
                vm: 1,
                gfn,
                pages: 1,
                clear: true,
            },
            Call::GuestShare { vm: 0, gfn },
            Call::GuestUnshare { vm: 0, gfn },
        ] {
            assert_eq!(go(&mut rig, &mut world, &[call]), Err(Error::Range), "{call:x?}");
        }
        assert_eq!(go(&mut rig, &mut world, &[Call::Mkyoung { vm: 1, gfn }]), Ok(0));
    }
}

/// The host asked for a page of hypervisor text by force, whose entry is not what it was taken for.
#[test]
fn hypervisor_text_and_devices_are_not_reclaimed() {
    let (mut rig, mut world) = start();
    for (pfn, error) in [
        (PLAN.text(), Error::Perm),
        (PLAN.text() + 1, Error::Perm),
        (PLAN.nomap(), Error::Again),
        (PFN + PLAN.pages, Error::Fault),
        (PFN, Error::Again),
    ] {
        assert_eq!(
            go(&mut rig, &mut world, &[Call::ForceReclaim { pfn }]),
            Err(error),
            "{pfn:#x}"
        );
    }
    let text = PfnRange::single(Pfn::checked(PLAN.text()).unwrap());
    assert_eq!(HypPages::claim(&rig.m, &mut rig.hyp, text), Err(Error::Perm));
}

/// With pages larger than 4 KiB the kernel takes the 4 KiB of a fault for the start of a page, finds the next page's mapping,
/// and runs the guest again for ever. Its question shows that, but not where there is a page, and not of what fails.
#[test]
fn a_fault_that_the_host_misread_is_told_from_others() {
    let (mut rig, mut world) = start();
    let ask = |rig: &mut Rig, vm, offset| {
        let ipa = Ipa::new((GFN << PAGE_SHIFT) + offset);
        rig.with_guest(vm, |m, _, guest, _| mem::in_poison_fault(m, guest, ipa))
    };
    let middle = PAGE_SIZE / 2;
    // The tables end above.
    assert_eq!(ask(&mut rig, 0, middle), Ok(GuestFault::Misread));
    assert_eq!(ask(&mut rig, 0, 0), Err(Error::Invalid));
    // The host looks for pages of normal VMs in another way.
    assert_eq!(ask(&mut rig, 1, middle), Err(Error::Invalid));
    let beyond = Ipa::new(Gfn::checked(1 << (51 - PAGE_SHIFT)).unwrap().ipa().raw() + middle);
    assert_eq!(
        rig.with_guest(0, |m, _, guest, _| mem::in_poison_fault(m, guest, beyond)),
        Err(Error::Range)
    );
    let next = Call::DonateGuest {
        vm: 0,
        pfn: PFN + 1,
        gfn: GFN + 1,
    };
    assert_eq!(go(&mut rig, &mut world, &[next]), Ok(0));
    assert_eq!(ask(&mut rig, 0, middle), Ok(GuestFault::Misread));
    assert_eq!(ask(&mut rig, 0, 0), Ok(GuestFault::Settled));
    let give = Call::DonateGuest {
        vm: 0,
        pfn: PFN,
        gfn: GFN,
    };
    assert_eq!(go(&mut rig, &mut world, &[give]), Ok(0));
    assert_eq!(ask(&mut rig, 0, middle), Ok(GuestFault::Settled));
    assert_eq!(
        go(&mut rig, &mut world, &[Call::ForceReclaim { pfn: PFN }]),
        Ok(0)
    );
    assert_eq!(ask(&mut rig, 0, middle), Ok(GuestFault::Poisoned));
}

/// A frame that was taken by force must not get a page again, and only the fault of a vCPU tells the host of it.
#[test]
fn a_poisoned_frame_stays_so() {
    let (mut rig, mut world) = start();
    let give = Call::DonateGuest {
        vm: 0,
        pfn: PFN,
        gfn: GFN,
    };
    assert_eq!(
        go(&mut rig, &mut world, &[give, Call::ForceReclaim { pfn: PFN }]),
        Ok(0)
    );
    assert_eq!(world.vms[0].frames[0], Frame::Poison);
    assert_eq!(go(&mut rig, &mut world, &[give]), Err(Error::Perm));
    assert_eq!(
        go(&mut rig, &mut world, &[Call::GuestShare { vm: 0, gfn: GFN }]),
        Err(Error::Poisoned)
    );
    assert_eq!(
        go(&mut rig, &mut world, &[Call::InPoisonFault { vm: 0, gfn: GFN }]),
        Ok(1)
    );
    assert_eq!(
        go(
            &mut rig,
            &mut world,
            &[Call::InPoisonFault { vm: 0, gfn: GFN + 1 }]
        ),
        Ok(0)
    );
    let calls = [
        Call::StartTeardown { vm: 0 },
        Call::ReclaimDying { vm: 0, gfn: GFN },
    ];
    assert_eq!(go(&mut rig, &mut world, &calls), Ok(0));
    assert_eq!(
        go(&mut rig, &mut world, &[Call::FinalizeTeardown { vm: 0 }]),
        Ok(0)
    );
}

/// A block that is only partly the host's to lend is not lent at all.
#[test]
fn a_range_is_taken_as_a_whole_or_not() {
    let (mut rig, mut world) = start();
    go(
        &mut rig,
        &mut world,
        &[Call::ShareFfa {
            pfn: PFN + 1,
            pages: 1,
        }],
    )
    .unwrap();
    for call in [
        Call::DonateHyp { pfn: PFN, pages: 3 },
        Call::ShareFfa { pfn: PFN, pages: 2 },
    ] {
        assert_eq!(go(&mut rig, &mut world, &[call]), Err(Error::Perm));
    }
    let taken = mem::host_donate_hyp(&rig.m, &mut rig.host, &mut rig.hyp, pages(PFN, 4));
    assert_eq!(taken, Err(Error::Invalid), "across the end of the region");
}

/// Where the entry of the host's table for `frame` is.
fn host_entry(rig: &Rig, frame: u64) -> (u64, usize) {
    let bits = PAGE_SHIFT - 3;
    let mask = pkvm_types::PTES_PER_TABLE - 1;
    let root = Pfn::of(rig.host.table().root()).raw();
    let word = rig.m.word(root, ((frame >> bits) & mask) as usize);
    (
        (word & ((1 << 48) - PAGE_SIZE)) >> PAGE_SHIFT,
        (frame & mask) as usize,
    )
}

/// The host's table named the wrong frame of a VM: what the VM has there is not taken for the page.
#[test]
fn a_wrong_back_link_takes_nothing() {
    let (mut rig, mut world) = start();
    let give = |page| Call::DonateGuest {
        vm: 0,
        pfn: PFN + page,
        gfn: GFN + page,
    };
    go(&mut rig, &mut world, &[give(0), give(1)]).unwrap();
    let (table, first) = host_entry(&rig, PFN);
    let words = [rig.m.word(table, first), rig.m.word(table, first + 1)];
    rig.m.set_word(table, first, words[1]);
    rig.m.set_word(table, first + 1, words[0]);
    assert_eq!(rig.call(Call::ForceReclaim { pfn: PFN }), Err(Error::Perm));
    assert_eq!(rig.call(Call::ForceReclaim { pfn: PFN + 1 }), Err(Error::Perm));
}

/// A whole table was lost, so that a block fits where some page is not the host's.
#[test]
fn no_block_covers_a_page_of_another_owner() {
    let plan = Plan {
        pages: block_pages() + 2,
        ..PLAN
    };
    let mut rig = Rig::new(plan);
    rig.call(Call::DonateHyp {
        pfn: PFN + 7,
        pages: 1,
    })
    .unwrap();
    let root = Pfn::of(rig.host.table().root()).raw();
    rig.m.set_word(root, (PFN >> (PAGE_SHIFT - 3)) as usize, 0);
    assert!(rig.host_access(PFN, Perms::R));
    assert!(!rig.host_access(PFN + 7, Perms::R));
    assert!(rig.host_access(PFN + 8, Perms::R));
}

/// Memory of the host's was mapped in the private range, where its owner was never asked about it again.
#[test]
fn private_mappings_are_of_devices_or_of_the_hypervisors_memory() {
    let (mut rig, mut world) = start();
    let check = |rig: &Rig, frame| mem::check_private_mapping(&rig.m, pages(frame, 1));
    assert_eq!(check(&rig, PFN), Err(Error::Perm));
    assert_eq!(check(&rig, PLAN.nomap()), Err(Error::Perm));
    assert_eq!(check(&rig, rig.layout.limit), Err(Error::Invalid));
    assert_eq!(check(&rig, PFN - 1), Ok(()));
    assert_eq!(
        mem::check_private_mapping(&rig.m, pages(PFN - 1, 2)),
        Err(Error::Perm)
    );
    go(&mut rig, &mut world, &[Call::DonateHyp { pfn: PFN, pages: 1 }]).unwrap();
    assert_eq!(check(&rig, PFN), Ok(()));
    assert_eq!(mem::check_private_mapping(&rig.m, pages(PFN - 1, 2)), Ok(()));

    // Somewhere high in the address space, as the private range is.
    let quarter = 1u64 << (PLAN.bits() - 2);
    let range = |rig: &mut Rig| mem::check_private_range(&rig.m, &mut rig.hyp, HypVa::new(quarter), quarter);
    assert_eq!(range(&mut rig), Ok(()));
    let map = |rig: &mut Rig, at: u64, frame: u64| {
        let (va, phys) = (
            HypVa::new(quarter + at * PAGE_SIZE),
            Phys::new(frame << PAGE_SHIFT),
        );
        rig.hyp
            .map_private(&rig.m, va, PAGE_SIZE, phys, HypAttrs::normal(Perms::RW))
            .unwrap();
    };
    map(&mut rig, 3, PFN);
    assert_eq!(range(&mut rig), Ok(()));
    map(&mut rig, 4, PFN + 1);
    assert_eq!(range(&mut rig), Err(Error::Perm));
}

/// A loan is ended in the size in which it was made, or the counts of the other pages are wrong for ever.
#[test]
fn a_loan_is_ended_in_its_own_size() {
    let block = block_pages();
    let plan = Plan {
        pages: block,
        guest_base: block,
        ..PLAN
    };
    let mut rig = Rig::new(plan);
    let lend = |pages| Call::ShareGuest {
        vm: 1,
        pfn: PFN,
        gfn: block,
        pages,
        prot: 15,
    };
    let end = |pages| Call::UnshareGuest {
        vm: 1,
        gfn: block,
        pages,
    };
    rig.call(lend(block)).unwrap();
    assert_eq!(rig.call(end(1)), Err(Error::TooBig));
    assert_eq!(rig.call(lend(1)), Err(Error::Perm));
    rig.call(end(block)).unwrap();
    rig.call(lend(1)).unwrap();
    assert_eq!(rig.call(end(block)), Err(Error::TooBig));
    assert_eq!(rig.call(lend(block)), Err(Error::Perm));
    rig.call(end(1)).unwrap();
    for pages in [0, 2, block - 1, block + 1, u64::MAX] {
        assert_eq!(rig.call(end(pages)), Err(Error::Invalid));
        assert_eq!(
            rig.call(Call::Wrprotect {
                vm: 1,
                gfn: block,
                pages
            }),
            Err(Error::Invalid)
        );
    }
    assert_eq!(
        rig.call(Call::UnshareGuest {
            vm: 1,
            gfn: block + 1,
            pages: block
        }),
        Err(Error::Invalid)
    );
}
