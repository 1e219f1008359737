// SPDX-License-Identifier: GPL-2.0-only
//! Suites about looking into EL2: its trace, and its panics.

use super::{Mode, Needs, Suite, Test, test};

/// A part of the trace's tests.
macro_rules! trace {
    ($name:literal, $limit:literal) => {
        test($name, $limit, &["/init", "--test", "trace", $name])
    };
}

/// What both modes have.
fn trace() -> Vec<Test> {
    vec![
        trace!("files", 30),
        trace!("selftest", 60),
        trace!("pairs", 60),
        trace!("guest", 200),
        trace!("guest-time", 200),
        trace!("overrun", 100),
        trace!("reload", 100),
        trace!("reset", 60),
        trace!("hotplug", 120),
        trace!("stream", 120),
        test("page-tables", 100, &["/init", "--test", "page-tables"]),
    ]
}

/// A panic of EL2: how to provoke it, and what EL1 must show of it. The last words are the functions that led there.
macro_rules! panics {
    ($name:literal, $way:literal, $place:expr, $($function:literal),+) => {
        Test {
            console: vec![
                $place,
                "nVHE call trace:",
                $(concat!($function, "+0x"),)+
                "handle_trap+0x",
                "---[ end nVHE call trace ]---",
            ]
            .leak(),
            ..test($name, 60, &["/init", "--test", "panic", $way])
        }
    };
}

/// The file in which they are.
const PROVOKE: &str = include_str!("../../../../hyp/el2/src/provoke.rs");

/// The first line of a report: the line of the file that holds `code`, and what follows it.
fn bug_at(code: &str, rest: &str) -> &'static str {
    let line = PROVOKE
        .lines()
        .position(|line| line.trim() == code)
        .map_or(0, |index| index + 1);
    format!("nVHE hyp BUG at: hyp/el2/src/provoke.rs:{line}{rest}!").leak()
}

/// The ways that EL2's `provoke` knows.
fn panics() -> Vec<Test> {
    vec![
        panics!(
            "bug",
            "31632324233986049",
            bug_at("bug!();", ""),
            "broken_invariant",
            "panic_for"
        ),
        panics!(
            "bounds",
            "31632324233986050",
            bug_at("black_box(table[index]);", ":0"),
            "panic_bounds_check",
            "out_of_bounds",
            "panic_for"
        ),
        panics!("access", "31632324233986051", "nVHE hyp panic at: ", "bad_access"),
        panics!(
            "stack",
            "31632324233986052",
            "nVHE hyp panic at: ",
            "deep_recursion",
            "deep_recursion",
            "panic_for"
        ),
        panics!(
            "overflow",
            "31632324233986053",
            bug_at("black_box(value + 1);", ":0"),
            "panic_const_add_overflow",
            "overflow",
            "panic_for"
        ),
    ]
}

/// The suites.
pub fn suites(hostile: Needs) -> Vec<Suite> {
    let guests = Needs {
        vmm: true,
        payload: true,
        mem: 2048,
        diagnostics: true,
        ..Needs::default()
    };
    let panic = Needs {
        hostile: true,
        diagnostics: true,
        one_cpu: true,
        ..Needs::default()
    };
    let mut protected = trace();
    protected.extend([
        trace!("reasons", 60),
        bad_input!("tracing"),
        bad_input!("trace-load"),
        // The last, since the C object does not live through it.
        bad_input!("trace-many"),
    ]);
    vec![
        Suite {
            name: "trace",
            about: "EL2's trace in tracefs, dumps of page tables, and hosts that lie about trace buffers",
            tests: protected,
            needs: Needs {
                no_map: hostile.no_map,
                hostile: hostile.hostile,
                ..guests
            },
            alone: false,
        },
        Suite {
            name: "trace",
            about: "a register that EL2 keeps from the host, in the trace",
            tests: vec![trace!("registers", 60)],
            needs: Needs {
                variant: "mte",
                machine: "mte=on",
                models: &["max"],
                diagnostics: true,
                ..hostile
            },
            alone: false,
        },
        Suite {
            name: "trace-nvhe",
            about: "the same where EL2 does not protect",
            tests: trace(),
            needs: Needs {
                mode: Mode::Nvhe,
                ..guests
            },
            alone: false,
        },
        Suite {
            name: "panic",
            about: "what the host shows of a panic of EL2 in protected mode, one boot per panic",
            tests: panics(),
            needs: panic,
            alone: true,
        },
        Suite {
            name: "panic-nvhe",
            about: "the same where EL2 does not protect",
            tests: panics(),
            needs: Needs {
                mode: Mode::Nvhe,
                ..panic
            },
            alone: true,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found() {
        for test in panics() {
            let place = test.console[0];
            assert!(!place.contains(".rs:0"), "{place}");
        }
    }
}
