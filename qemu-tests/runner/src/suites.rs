// SPDX-License-Identifier: GPL-2.0-only
//! What is tested: suites of tests, and how many of them one boot takes.

use crate::judgements;

/// A test, as init's table names it.
#[derive(Clone, Debug)]
pub struct Test {
    /// Unique in its suite.
    pub name: &'static str,
    /// Seconds before init ends it.
    pub limit: u32,
    /// The program in the initramfs and its arguments. `@MODE@` stands for the mode that the CPU model calls for.
    pub argv: &'static [&'static str],
}

/// How the machine of a suite differs from the usual.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// The test module is loaded.
    pub hostile: bool,
    /// A part of memory is under no-map.
    pub no_map: bool,
    /// The VMM and what its scenarios boot is in the initramfs.
    pub vmm: bool,
    /// At least this many CPUs.
    pub smp: u32,
}

/// Tests that belong together.
#[derive(Clone, Debug)]
pub struct Suite {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Its tests.
    pub tests: Vec<Test>,
    /// The machine.
    pub needs: Needs,
    /// Each test has a boot of its own, because it may end the machine.
    pub alone: bool,
}

const fn test(name: &'static str, limit: u32, argv: &'static [&'static str]) -> Test {
    Test { name, limit, argv }
}

/// All suites, in the order in which they run.
pub fn all() -> Vec<Suite> {
    let hostile = Needs {
        hostile: true,
        no_map: true,
        ..Needs::default()
    };
    vec![
        Suite {
            name: "boot",
            about: "the host comes up protected, with all its CPUs",
            tests: vec![
                test(
                    "protected-mode",
                    20,
                    &["/init", "--test", "protected-mode", "@MODE@"],
                ),
                test("smp", 20, &["/init", "--test", "smp"]),
            ],
            needs: Needs::default(),
            alone: false,
        },
        Suite {
            name: "judgements",
            about: "what a hostile host can do to EL2, one boot per case",
            tests: judgements::CASES
                .iter()
                .map(|case| Test {
                    name: case.name,
                    limit: 40,
                    argv: case.argv,
                })
                .collect(),
            needs: hostile,
            alone: true,
        },
    ]
}

/// KVM's word for the mode that a CPU model boots into: hVHE where the CPU can run EL2 with E2H set.
pub fn mode_of(cpu: &str) -> &'static str {
    const NO_VHE: [&str; 5] = [
        "cortex-a35",
        "cortex-a53",
        "cortex-a57",
        "cortex-a72",
        "cortex-a73",
    ];
    if NO_VHE.contains(&cpu) { "nVHE" } else { "hVHE" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for suite in all() {
            let mut names: Vec<_> = suite.tests.iter().map(|t| t.name).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{}", suite.name);
            // They are separated by commas on the kernel's command line.
            assert!(names.iter().all(|n| !n.contains([',', ' ', '\t', '#'])));
        }
    }
}
