// SPDX-License-Identifier: GPL-2.0-only
//! Suites whose machine has the monitor at EL3 for its firmware (see [`crate::firmware`]). They run on few CPU models:
//! what FF-A does depends on none, and the return of a CPU on whether EL2 runs with E2H.

use super::{Needs, Suite, Test, test};

/// A part of what is tried with FF-A.
macro_rules! ffa {
    ($name:literal) => {
        test($name, 60, &["/init", "--test", "ffa", $name])
    };
}

/// A way in which CPUs lose their registers.
macro_rules! power {
    ($name:literal) => {
        test(
            concat!("registers-", $name),
            60,
            &["/init", "--test", "power", $name],
        )
    };
}

/// A firmware, and the version that must come of it.
macro_rules! version {
    ($name:literal, $wanted:literal) => {
        test($name, 60, &["/init", "--test", "ffa", "version", $wanted])
    };
}

/// A version that a host asks for, which has no driver, of firmware that has a newer one too.
macro_rules! host_version {
    ($name:literal, $asked:literal) => {
        test($name, 60, &["/init", "--test", "ffa", "version", $asked, "first"])
    };
}

/// The suites; `protected` is the test of the mode, and `hostile` what tests with the module need.
pub fn suites(protected: &Test, hostile: Needs) -> Vec<Suite> {
    vec![
        Suite {
            name: "ffa",
            about: "FF-A against a secure world of ours at EL3, honest and not, and a pVM afterwards",
            tests: vec![
                protected.clone(),
                ffa!("driver"),
                ffa!("negotiate"),
                ffa!("calls"),
                ffa!("buffers"),
                ffa!("share"),
                ffa!("refused"),
                ffa!("fragments"),
                ffa!("handles"),
                ffa!("lies"),
                scenario!("memory", 100),
            ],
            needs: Needs {
                vmm: true,
                mem: 2048,
                models: &["max"],
                ..hostile
            },
            alone: false,
        },
        Suite {
            name: "suspend",
            about: "CPUs that lose their registers: idle, off, and suspended to RAM, beside a pVM",
            tests: vec![
                protected.clone(),
                power!("standby"),
                power!("idle"),
                power!("off-and-on"),
                power!("suspend"),
                scenario!("idle", 200),
                scenario!("hotplug", 300, "hotplug", "--count", "20"),
                scenario!("sleep", 200),
            ],
            needs: Needs {
                vmm: true,
                mem: 2048,
                models: &["max", "cortex-a57"],
                ..hostile
            },
            alone: false,
        },
        Suite {
            name: "psci",
            about: "every call of PSCI: what firmware sees, and what the host gets",
            tests: vec![
                protected.clone(),
                test("calls", 30, &["/init", "--test", "psci", "1.3"]),
            ],
            needs: hostile,
            alone: false,
        },
        Suite {
            name: "psci",
            about: "the same on firmware of PSCI 0.2, and CPUs that come and go on it",
            tests: vec![
                Test {
                    name: "v0-2-protected-mode",
                    ..protected.clone()
                },
                test("v0-2-calls", 30, &["/init", "--test", "psci", "0.2"]),
                test("v0-2-off-and-on", 60, &["/init", "--test", "power", "off-and-on"]),
                test("v0-2-idle", 60, &["/init", "--test", "power", "idle"]),
            ],
            needs: Needs {
                variant: "v0-2",
                ..hostile
            },
            alone: false,
        },
        Suite {
            name: "psci",
            about: "CPUs that come and go on firmware of PSCI 0.1, whose numbers are of the device tree",
            tests: vec![
                Test {
                    name: "v0-1-protected-mode",
                    ..protected.clone()
                },
                test("v0-1-off-and-on", 60, &["/init", "--test", "power", "off-and-on"]),
                test("v0-1-idle", 60, &["/init", "--test", "power", "idle"]),
            ],
            needs: Needs {
                variant: "v0-1",
                ..hostile
            },
            alone: false,
        },
        Suite {
            name: "ffa-version",
            about: "firmware and hosts with other versions of FF-A, and without, one boot each",
            tests: vec![
                version!("one-zero", "1.0"),
                version!("one-one", "1.1"),
                version!("none", "none"),
                host_version!("host-one-zero", "1.0"),
                host_version!("host-one-one", "1.1"),
                version!("newer-minor", "any"),
                version!("newer-major", "none"),
                version!("bit-31", "1.2"),
                version!("drifting", "any"),
                version!("other-id", "none"),
                version!("large-buffers", "none"),
            ],
            needs: Needs {
                models: &["max"],
                ..hostile
            },
            alone: true,
        },
    ]
}
