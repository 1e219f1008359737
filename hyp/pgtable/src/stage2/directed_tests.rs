// SPDX-License-Identifier: GPL-2.0-only
//! Cases that random operations would not name.

use super::tests::{Bench, bench};
use super::*;
use crate::{Blocks, Granule, Level, MemType};
use pkvm_types::{Owner, PageState, Perms};

const MB: u64 = 1 << 20;
const GUEST: Stage2Features = Stage2Features::MAINTAIN_CACHES;

fn request(ipa: u64, len: u64, phys: u64) -> MapRequest {
    MapRequest {
        ipa: Ipa::new(ipa),
        len,
        phys: Phys::new(phys),
        perms: Perms::RWX,
        memory: MemType::Normal,
        state: PageState::Owned,
        blocks: Blocks::Allowed,
    }
}

#[test]
fn the_largest_leaf_that_fits_is_used() {
    let Bench { s2, mut fake, .. } = bench(Granule::K4, 5, false, Stage2Features::AS_S1);
    s2.map(
        &mut fake,
        &request(0x4000_0000 - 0x1000, 0x8000_1000 + 2 * MB, 0x4000_0000 - 0x1000),
    )
    .unwrap();
    for (ipa, level) in [
        (0x3fff_f000, 3),
        (0x4000_0000, 1),
        (0x8000_0000, 1),
        (0xc000_0000, 2),
    ] {
        let hit = fake.walk(ipa).unwrap();
        assert_eq!((hit.pa, hit.level), (ipa, level));
    }
    assert_eq!(fake.walk(0xc020_0000), None);
    fake.check();
}

#[test]
fn splitting_a_gigabyte_takes_two_tables_and_keeps_the_rest() {
    let Bench { s2, mut fake, .. } = bench(Granule::K4, 5, false, Stage2Features::AS_S1);
    s2.map(&mut fake, &request(0x4000_0000, 1 << 30, 0x4000_0000))
        .unwrap();
    let before = fake.used();
    let page = 0x4123_4000;
    s2.annotate(&mut fake, Ipa::new(page), 0x1000, Owner::Hyp)
        .unwrap();
    fake.check();
    assert_eq!(fake.used(), before + 2);
    assert_eq!(fake.walk(page), None);
    assert_eq!(
        s2.lookup(&fake, Ipa::new(page)).unwrap().entry,
        Entry::Donated(Owner::Hyp)
    );
    for ipa in [
        0x4000_0000,
        page - 0x1000,
        page + 0x1000,
        0x4120_0000,
        0x4140_0000,
        0x7fff_f000,
    ] {
        assert_eq!(fake.walk(ipa).unwrap().pa, ipa);
    }
    // Only the two steps of the split and the page itself were invalidated.
    assert_eq!(fake.checker.invalidations, 3);
}

#[test]
fn a_part_of_a_block_that_is_so_already_does_not_split_it() {
    let Bench { s2, mut fake, .. } = bench(Granule::K4, 5, false, Stage2Features::AS_S1);
    s2.map(&mut fake, &request(4 * MB, 2 * MB, 4 * MB)).unwrap();
    let before = fake.snapshot();
    s2.map(&mut fake, &request(5 * MB, 0x1000, 5 * MB)).unwrap();
    assert_eq!(before, fake.snapshot());
    s2.map(
        &mut fake,
        &MapRequest {
            blocks: Blocks::PagesOnly,
            ..request(5 * MB, 0x1000, 5 * MB)
        },
    )
    .unwrap();
    assert_eq!(fake.walk(5 * MB).unwrap().level, 3);
    fake.check();
}

#[test]
fn a_block_never_replaces_a_table() {
    let Bench { s2, mut fake, .. } = bench(Granule::K4, 5, false, Stage2Features::AS_S1);
    s2.annotate(&mut fake, Ipa::new(2 * MB), 0x1000, Owner::Hyp)
        .unwrap();
    let tables = fake.used();
    s2.map(&mut fake, &request(2 * MB, 2 * MB, 2 * MB)).unwrap();
    assert_eq!((fake.used(), fake.walk(3 * MB).unwrap().level), (tables, 3));
    fake.check();
}

#[test]
fn ranges_of_invalid_entries_are_invalidated_at_once() {
    let Bench { s2, mut fake, .. } = bench(Granule::K4, 5, false, Stage2Features::AS_S1);
    s2.map(
        &mut fake,
        &MapRequest {
            blocks: Blocks::PagesOnly,
            ..request(0, 64 << 12, 0)
        },
    )
    .unwrap();
    assert_eq!(fake.checker.invalidations, 0, "nothing was valid before");
    s2.annotate(&mut fake, Ipa::new(0), 32 << 12, Owner::Hyp).unwrap();
    assert_eq!(fake.checker.invalidations, 1);
    s2.annotate(&mut fake, Ipa::new(0), 32 << 12, Owner::Hyp).unwrap();
    assert_eq!(fake.checker.invalidations, 1, "nothing changed");
    s2.unmap(&mut fake, Ipa::new(0), 64 << 12).unwrap();
    // Three empty tables and one range.
    assert_eq!((fake.checker.invalidations, fake.used()), (5, 0));
    fake.check();
}

#[test]
fn guest_pages_are_cleaned_as_the_cpu_needs() {
    let cases = [
        (GUEST, 1, 1, 1),
        (GUEST | Stage2Features::FWB, 0, 1, 0),
        (GUEST | Stage2Features::DIC, 1, 0, 1),
        (GUEST | Stage2Features::FWB | Stage2Features::DIC, 0, 0, 0),
        (Stage2Features::AS_S1, 0, 0, 0),
    ];
    for (features, cleans, fetches, cleans_after) in cases {
        let Bench { s2, mut fake, .. } = bench(Granule::K4, 2, false, features);
        s2.map(&mut fake, &request(0x5000, 0x1000, 0x8000)).unwrap();
        assert_eq!(fake.cleaned, vec![(0x8000, 0x1000); cleans]);
        assert_eq!(fake.fetched, vec![(0x8000, 0x1000); fetches]);
        fake.cleaned.clear();
        s2.unmap(&mut fake, Ipa::new(0x5000), 0x1000).unwrap();
        assert_eq!(fake.cleaned, vec![(0x8000, 0x1000); cleans_after]);
        // Data alone needs no instruction maintenance until execution is added.
        fake.fetched.clear();
        s2.map(
            &mut fake,
            &MapRequest {
                perms: Perms::RW,
                ..request(0x5000, 0x1000, 0x8000)
            },
        )
        .unwrap();
        assert_eq!(fake.fetched, []);
        s2.relax_perms(&mut fake, Ipa::new(0x5000), Perms::RX).unwrap();
        assert_eq!(fake.fetched, vec![(0x8000, 0x1000); fetches]);
        // Device memory is not cached.
        fake.cleaned.clear();
        let device = MapRequest {
            perms: Perms::RW,
            memory: MemType::Device,
            ..request(0x7000, 0x1000, 0x9000)
        };
        s2.map(&mut fake, &device).unwrap();
        s2.unmap(&mut fake, Ipa::new(0x7000), 0x1000).unwrap();
        assert!(fake.cleaned.is_empty());
    }
}

#[test]
fn a_refused_request_changes_nothing() {
    let Bench { s2, mut fake, .. } = bench(Granule::K4, 2, false, GUEST);
    let limit = 1u64 << 40;
    s2.map(&mut fake, &request(limit - 0x1000, 0x1000, 0x8000))
        .unwrap();
    let before = fake.snapshot();
    let good = request(0x5000, 0x1000, 0x8000);
    let bad = [
        (
            MapRequest {
                ipa: Ipa::new(limit),
                ..good
            },
            Error::Range,
        ),
        (
            MapRequest {
                ipa: Ipa::new(limit - 0x1000),
                len: 0x2000,
                ..good
            },
            Error::Range,
        ),
        (
            MapRequest {
                ipa: Ipa::new(!0xfff),
                ..good
            },
            Error::Range,
        ),
        (MapRequest { len: !0xfff, ..good }, Error::Range),
        (MapRequest { len: 0, ..good }, Error::Invalid),
        (MapRequest { len: 0x800, ..good }, Error::Invalid),
        (
            MapRequest {
                ipa: Ipa::new(0x5800),
                ..good
            },
            Error::Invalid,
        ),
        (
            MapRequest {
                phys: Phys::new(0x8800),
                ..good
            },
            Error::Invalid,
        ),
        (
            MapRequest {
                phys: Phys::new(1 << 48),
                ..good
            },
            Error::Range,
        ),
        (
            MapRequest {
                phys: Phys::new(!0xfff),
                ..good
            },
            Error::Range,
        ),
        (
            MapRequest {
                perms: Perms::R.union(Perms::PX),
                ..good
            },
            Error::Invalid,
        ),
        (
            MapRequest {
                perms: Perms::R.union(Perms::UX),
                ..good
            },
            Error::Invalid,
        ),
        (
            MapRequest {
                memory: MemType::Device,
                ..good
            },
            Error::Invalid,
        ),
    ];
    for (request, error) in bad {
        assert_eq!(s2.map(&mut fake, &request), Err(error), "{request:x?}");
    }
    let beyond = Ipa::new(limit);
    assert_eq!(s2.lookup(&fake, beyond).err(), Some(Error::Range));
    assert_eq!(s2.entries(&fake, beyond, 0x1000).err(), Some(Error::Range));
    assert_eq!(s2.unmap(&mut fake, beyond, 0x1000), Err(Error::Range));
    assert_eq!(s2.wrprotect(&mut fake, beyond, 0x1000), Err(Error::Range));
    assert_eq!(s2.age(&mut fake, beyond, 0x1000, Age::Clear), Err(Error::Range));
    assert_eq!(s2.mkyoung(&mut fake, beyond), Err(Error::Range));
    assert_eq!(s2.poison(&mut fake, beyond), Err(Error::Range));
    assert_eq!(
        s2.set_state(&mut fake, beyond, PageState::Owned),
        Err(Error::Range)
    );
    assert_eq!(s2.relax_perms(&mut fake, beyond, Perms::RWX), Err(Error::Range));
    assert_eq!(
        s2.annotate(&mut fake, beyond, 0x1000, Owner::Hyp),
        Err(Error::Range)
    );
    assert_eq!(
        s2.annotate(&mut fake, Ipa::new(0), 0x1000, Owner::Host),
        Err(Error::Invalid)
    );
    assert_eq!(before, fake.snapshot());
}

#[test]
fn a_lock_is_never_replaced() {
    let Bench { s2, mut fake, .. } = bench(Granule::K4, 2, false, GUEST);
    s2.map(&mut fake, &request(0x5000, 0x1000, 0x8000)).unwrap();
    let (cursor, _) = s2.walk(&fake, 0x5000);
    cursor.write(&mut fake, super::entry::LOCKED);
    let before = fake.snapshot();
    assert_eq!(
        s2.map(&mut fake, &request(0x4000, 0x2000, 0x8000)),
        Err(Error::Busy)
    );
    assert_eq!(s2.poison(&mut fake, Ipa::new(0x5000)), Err(Error::Perm));
    assert_eq!(before, fake.snapshot());
}

#[test]
fn mapping_one_page_needs_no_more_than_a_table_for_each_level_below_the_root() {
    for (granule, parange, wide) in [
        (Granule::K4, 0, false),
        (Granule::K4, 5, false),
        (Granule::K4, 6, true),
        (Granule::K16, 5, false),
        (Granule::K64, 6, true),
    ] {
        let Bench { s2, mut fake, .. } = bench(granule, parange, wide, GUEST);
        let last = (1u64 << s2.config().ipa_bits()) - granule.size();
        let plan = s2.plan_map(&fake, &request(last, granule.size(), 0)).unwrap();
        assert_eq!(plan.tables() as u32, s2.config().min_pages());
        plan.commit(&s2, &mut fake);
        fake.check();
        assert_eq!(s2.lookup(&fake, Ipa::new(last)).unwrap().level, Level::LAST);
    }
}

#[test]
fn a_root_must_be_aligned_to_its_size() {
    let config = *bench(Granule::K4, 2, false, GUEST).s2.config();
    assert_eq!(config.root_pages(), 2);
    assert_eq!(Stage2::new(config, Phys::new(0x1000)).err(), Some(Error::Invalid));
    assert_eq!(Stage2::new(config, Phys::new(1 << 48)).err(), Some(Error::Range));
    assert!(Stage2::new(config, Phys::new(0x2000)).is_ok());
}
