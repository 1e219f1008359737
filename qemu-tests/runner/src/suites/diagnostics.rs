// SPDX-License-Identifier: GPL-2.0-only
//! Suites about looking into EL2: its trace, and its panics.

use super::{Mode, Needs, Suite, Test, test};

/// A part of the trace's tests.
macro_rules! trace {
    ($name:literal, $limit:literal) => {
        test($name, $limit, &["/init", "--test", "trace", $name])
    };
}

/// A panic of EL2: how to provoke it, and what EL1 must show of it. The last words are the functions that led there.
macro_rules! panics {
    ($name:literal, $way:literal, $($console:literal),+) => {
        Test {
            console: &[$($console,)+ "---[ end nVHE call trace ]---"],
            ..test($name, 60, &["/init", "--test", "panic", $way])
        }
    };
}

/// The ways that EL2's `provoke` knows.
fn panics() -> Vec<Test> {
    vec![
        panics!(
            "bug",
            "31632324233986049",
            "nVHE hyp BUG at: hyp/el2/src/provoke.rs:",
            "nVHE call trace:",
            "broken_invariant",
            "panic_for",
            "handle_trap"
        ),
        panics!(
            "bounds",
            "31632324233986050",
            "nVHE hyp BUG at: hyp/el2/src/provoke.rs:",
            "nVHE call trace:",
            "panic_bounds_check",
            "out_of_bounds",
            "panic_for",
            "handle_trap"
        ),
        panics!(
            "access",
            "31632324233986051",
            "nVHE hyp panic at: ",
            "nVHE call trace:",
            "bad_access",
            "handle_trap"
        ),
        panics!(
            "stack",
            "31632324233986052",
            "nVHE hyp panic at: ",
            "nVHE call trace:",
            "deep_recursion",
            "deep_recursion",
            "panic_for",
            "handle_trap"
        ),
        panics!(
            "overflow",
            "31632324233986053",
            "nVHE hyp BUG at: hyp/el2/src/provoke.rs:",
            "nVHE call trace:",
            "panic_const_add_overflow",
            "panic_for",
            "handle_trap"
        ),
    ]
}

/// The suites.
pub fn suites(vmm: Needs, hostile: Needs) -> Vec<Suite> {
    vec![
        Suite {
            name: "trace",
            about: "EL2's trace in tracefs, and hosts that lie about its buffers",
            tests: vec![
                trace!("files", 30),
                trace!("selftest", 60),
                trace!("pairs", 60),
                trace!("guest", 200),
                trace!("overrun", 100),
                trace!("reload", 100),
                trace!("reset", 60),
                trace!("hotplug", 120),
                trace!("stream", 120),
                bad_input!("tracing"),
                bad_input!("trace-load"),
                bad_input!("trace-many"),
            ],
            needs: Needs {
                vmm: true,
                payload: true,
                mem: 2048,
                diagnostics: true,
                ..hostile
            },
            alone: false,
        },
        Suite {
            name: "trace-nvhe",
            about: "the same where EL2 does not protect",
            tests: vec![
                trace!("files", 30),
                trace!("selftest", 60),
                trace!("pairs", 60),
                trace!("guest", 200),
                trace!("overrun", 100),
                trace!("reload", 100),
                trace!("reset", 60),
                trace!("hotplug", 120),
                trace!("stream", 120),
            ],
            needs: Needs {
                payload: true,
                mode: Mode::Nvhe,
                diagnostics: true,
                ..vmm
            },
            alone: false,
        },
        Suite {
            name: "panic",
            about: "what the host shows of a panic of EL2 in protected mode, one boot per panic",
            tests: panics(),
            needs: Needs {
                hostile: true,
                diagnostics: true,
                one_cpu: true,
                ..Needs::default()
            },
            alone: true,
        },
        Suite {
            name: "panic-nvhe",
            about: "the same where EL2 does not protect",
            tests: panics(),
            needs: Needs {
                hostile: true,
                mode: Mode::Nvhe,
                diagnostics: true,
                one_cpu: true,
                ..Needs::default()
            },
            alone: true,
        },
    ]
}
