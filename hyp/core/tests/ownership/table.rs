// SPDX-License-Identifier: GPL-2.0-only
//! The transition table: its documentation, and the self-test that boot runs.

use pkvm_core::mem::{self, HypPages, selftest, table};
use pkvm_pgtable::Stage2Features;

use crate::rig::{Plan, Rig, pages, stage2};

/// The documentation is printed from the table; `PKVM_BLESS=1` renews it.
#[test]
fn documentation_of_transitions_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Documentation/transitions.rst");
    let mut want = String::new();
    table::print_rst(&mut want).unwrap();
    if std::env::var_os("PKVM_BLESS").is_some() {
        std::fs::write(path, &want).unwrap();
    }
    let is = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        is == want,
        "Documentation/transitions.rst is not what the table says; see its head"
    );
}

#[test]
fn the_self_test_of_the_boot_passes() {
    for levels in [2, 3] {
        let plan = Plan {
            pages: 24,
            levels,
            host_pool: 8,
            hyp_pool: 8,
            ..Plan::SMALL
        };
        let mut rig = Rig::new(plan);
        let config = stage2(&plan, Stage2Features::MAINTAIN_CACHES);
        let range = pages(plan.base(), selftest::pages_needed(&config));
        let taken = mem::host_donate_hyp(&rig.m, &mut rig.host, &mut rig.hyp, range).unwrap();
        assert_eq!(
            selftest::run(&rig.m, &mut rig.host, &mut rig.hyp, config, taken),
            Ok(())
        );
        assert!(HypPages::claim(&rig.m, &mut rig.hyp, range).is_ok());
    }
}

#[test]
fn a_record_has_the_standing_of_its_fields_or_none() {
    use pkvm_types::{PageState, ShareReason};
    let states = [
        PageState::Owned,
        PageState::SharedOwned,
        PageState::SharedBorrowed,
        PageState::NoPage,
    ];
    let reasons = [
        ShareReason::None,
        ShareReason::Hyp,
        ShareReason::Ffa,
        ShareReason::Guests(0),
        ShareReason::Guests(1),
        ShareReason::Guests(u32::MAX),
        ShareReason::GuestToHost,
    ];
    let record = pkvm_pool::PageMeta::new();
    let mut known = 0;
    for host in states {
        for hyp in states {
            for reason in reasons {
                record.set_host_state(host);
                record.set_hyp_state(hyp);
                record.set_share(reason);
                let same = table::Standing::ALL.into_iter().find(|standing| {
                    let (a, b, c) = standing.states();
                    let counted = matches!((c, reason), (ShareReason::Guests(_), ShareReason::Guests(1..)));
                    (a, b) == (host, hyp) && (c == reason || counted)
                });
                assert_eq!(
                    table::Standing::of(&record),
                    same,
                    "{host:?}, {hyp:?}, {reason:?}"
                );
                known += usize::from(same.is_some());
            }
        }
    }
    assert_eq!(known, 8);
}
