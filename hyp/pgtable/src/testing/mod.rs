// SPDX-License-Identifier: GPL-2.0-only
//! What the tests of both stages share: tables in a map, an automaton that watches every write and invalidation, and a
//! walker of its own. None of it uses the code under test to read a descriptor.

mod checker;
mod fake;
mod walker;

pub use checker::Checker;
pub use fake::Fake;
pub use walker::{Hit, Shape};

/// A runner of `cases` random cases, times the number in `PKVM_TEST_SCALE` for a long run.
pub fn runner(cases: u32) -> proptest::test_runner::TestRunner {
    let scale = std::env::var("PKVM_TEST_SCALE")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    proptest::test_runner::TestRunner::new(proptest::test_runner::Config {
        cases: cases * scale,
        failure_persistence: None,
        ..Default::default()
    })
}
