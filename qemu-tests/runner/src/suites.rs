// SPDX-License-Identifier: GPL-2.0-only
//! What is tested: suites of tests, and how many of them one boot takes.

use crate::{judgements, pvm, selftests};

/// A test, as init's table names it.
#[derive(Clone, Debug)]
pub struct Test {
    /// Unique in its suite.
    pub name: &'static str,
    /// Seconds before init ends it.
    pub limit: u32,
    /// The program in the initramfs and its arguments. `@MODE@` stands for the mode that the CPU model
    /// calls for, `@PROTECTED1@` for `--protected`, and `@PROTECTED0@` for nothing.
    pub argv: &'static [&'static str],
    /// What the console must show, in this order, of a machine that the test ends. Empty where it must live.
    pub console: &'static [&'static str],
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
    /// The program of the tests of protected VMs is in the initramfs.
    pub selftest: bool,
    /// The bare-metal guest is in the initramfs.
    pub payload: bool,
    /// The GICv2's virtual CPU interface does not fill whole pages.
    pub odd_gicv: bool,
    /// At least this much memory, in MiB.
    pub mem: u32,
    /// The kernel has the options of `kernel-glue/configs/diagnostics.config` and EL2's feature `provoke`, so that the suite runs
    /// only where it is asked for by name.
    pub diagnostics: bool,
    /// One CPU only: a second one would soon wait for the lock that a dying EL2 holds, perhaps with the console's in
    /// its hands, and the last words would be lost.
    pub one_cpu: bool,
    /// Tells suites of one name apart that differ in their machines; empty where there is only one.
    pub variant: &'static str,
    /// Options of QEMU's `virt` machine beside those that every one has, separated by commas. An option that stands
    /// here too counts in its last form, as with `gic-version=2`.
    pub machine: &'static str,
    /// Properties of the CPU model, separated by commas, as `sve256=on`.
    pub cpu: &'static str,
    /// The only CPU models that it runs on; all where empty.
    pub models: &'static [&'static str],
    /// The mode that KVM is asked for.
    pub mode: Mode,
    /// More words for the kernel's command line.
    pub cmdline: &'static str,
    /// Left out unless everything is asked for: it is slow, or a further variation of what the others show.
    pub full: bool,
    /// The kernel's own KVM selftests are in the initramfs.
    pub kernel_tests: bool,
    /// `init` is `/sbin/modprobe` as well, for what it does before the system is up.
    pub modprobe: bool,
    /// Only when it is named.
    pub on_request: bool,
}

/// What `kvm-arm.mode=` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// `protected`: EL2 keeps itself and protected VMs from the host.
    #[default]
    Protected,
    /// `nvhe`: EL2 serves a host that it trusts.
    Nvhe,
    /// `none`: no KVM.
    None,
    /// Nothing: the kernel's choice, which is to run at EL2 itself where the CPU can.
    Unsaid,
}

impl Mode {
    /// The words on the kernel's command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Protected => "kvm-arm.mode=protected ",
            Self::Nvhe => "kvm-arm.mode=nvhe ",
            Self::None => "kvm-arm.mode=none ",
            Self::Unsaid => "",
        }
    }

    /// What a table or a file calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Protected => "protected",
            Self::Nvhe => "nvhe",
            Self::None => "none",
            Self::Unsaid => "default",
        }
    }
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

impl Suite {
    /// Whether it runs on a CPU model.
    pub fn runs_on(&self, cpu: &str) -> bool {
        self.needs.models.is_empty() || self.needs.models.contains(&cpu)
    }
}

const fn test(name: &'static str, limit: u32, argv: &'static [&'static str]) -> Test {
    Test {
        name,
        limit,
        argv,
        console: &[],
    }
}

/// A test of the VMM's scenario program.
macro_rules! scenario {
    ($name:literal, $limit:literal) => {
        scenario!($name, $limit, $name)
    };
    ($name:literal, $limit:literal, $known_as:literal $(, $word:literal)*) => {
        test($known_as, $limit, &["/bin/pvm-scenario", $name $(, $word)*])
    };
}

/// A part of the bare-metal guest: which, whether in a pVM, on how many vCPUs.
macro_rules! payload {
    ($name:literal, $which:literal, $protected:literal, $cpus:literal) => {
        test(
            $name,
            150,
            &[
                "/bin/pvm-probe",
                "--payload",
                "/guest/payload",
                "--timeout",
                "140",
                "--cpus",
                $cpus,
                "--param",
                concat!("0=", $which),
                "--param",
                concat!("1=", $protected),
                "--param",
                concat!("2=", $cpus),
                concat!("@PROTECTED", $protected, "@"),
            ],
        )
    };
}

/// The test that KVM came up in a mode.
macro_rules! mode {
    ($mode:literal) => {
        mode!($mode, concat!("mode-", $mode))
    };
    ($mode:literal, $known_as:expr) => {
        test($known_as, 30, &["/init", "--test", "mode", $mode])
    };
}

/// A test of the VMM's program about CPU features.
macro_rules! feature {
    ($name:literal) => {
        feature!($name, $name)
    };
    ($name:literal, $known_as:literal) => {
        test($known_as, 100, &["/bin/vm-feature", $name])
    };
}

/// A part of the bad-input list.
macro_rules! bad_input {
    ($name:literal) => {
        test($name, 100, &["/init", "--test", "bad-input", $name])
    };
}

// After the macros, which it uses.
mod diagnostics;
mod features;
mod secure;

/// All suites, in the order in which they run.
pub fn all() -> Vec<Suite> {
    let mut all = own();
    all.extend(selftests::suites());
    all
}

fn own() -> Vec<Suite> {
    let protected = || {
        test(
            "protected-mode",
            30,
            &["/init", "--test", "protected-mode", "@MODE@"],
        )
    };
    let hostile = Needs {
        hostile: true,
        no_map: true,
        ..Needs::default()
    };
    let vmm = Needs {
        vmm: true,
        mem: 2048,
        ..Needs::default()
    };
    let mut all = vec![
        Suite {
            name: "boot",
            about: "the host comes up protected, with all its CPUs",
            tests: vec![protected(), test("smp", 30, &["/init", "--test", "smp"])],
            needs: Needs::default(),
            alone: false,
        },
        Suite {
            name: "tour",
            about: "the main job: a protected Linux guest, its memory kept from the host, a normal one beside it",
            tests: vec![
                protected(),
                scenario!("linux", 200),
                scenario!("memory", 100),
                scenario!("beside", 300),
            ],
            needs: vmm,
            alone: false,
        },
        Suite {
            name: "vm",
            about: "virtual machines: calls, forks, crashes, many at once and one after another",
            tests: vec![
                scenario!("calls", 100),
                scenario!("normal", 100),
                scenario!("fork", 100),
                scenario!("errors", 100),
                scenario!("traps", 150),
                scenario!("fp", 150),
                scenario!("keys", 100),
                scenario!("storm", 200),
                scenario!("churn", 200),
                scenario!("kill", 200),
                scenario!("lifecycles", 500),
                scenario!("crowd", 500),
            ],
            needs: vmm,
            alone: false,
        },
        Suite {
            name: "pvm",
            about: "protected VMs in the manner of the kernel's KVM selftests",
            tests: pvm::CASES
                .iter()
                .map(|case| Test {
                    name: case.name,
                    limit: case.limit,
                    argv: case.argv,
                    console: &[],
                })
                .collect(),
            needs: Needs {
                selftest: true,
                ..Needs::default()
            },
            alone: false,
        },
        Suite {
            name: "payload",
            about: "bare-metal guests: forbidden registers, ID registers, odd hypercalls, vCPUs by PSCI",
            tests: vec![
                payload!("registers", "1", "1", "1"),
                payload!("id-registers", "2", "1", "1"),
                payload!("hypercalls", "3", "1", "1"),
                payload!("psci", "4", "1", "3"),
                payload!("normal-registers", "1", "0", "1"),
                payload!("normal-psci", "4", "0", "3"),
            ],
            needs: Needs { payload: true, ..vmm },
            alone: false,
        },
        Suite {
            name: "hotplug",
            about: "a CPU of the host goes off and on a hundred times while a protected guest runs",
            tests: vec![scenario!("hotplug", 600)],
            needs: vmm,
            alone: false,
        },
        Suite {
            name: "bad-input",
            about: "every call with every argument out of range, and a pVM afterwards",
            tests: vec![
                bad_input!("numbers"),
                bad_input!("immediates"),
                bad_input!("tracing"),
                bad_input!("host-pages"),
                bad_input!("guest-pages"),
                bad_input!("normal-pages"),
                bad_input!("reclaim"),
                bad_input!("handles"),
                bad_input!("init-vm"),
                bad_input!("init-vcpu"),
                bad_input!("teardown"),
                bad_input!("vcpu"),
                bad_input!("smc"),
                scenario!("memory", 100),
            ],
            needs: Needs {
                vmm: true,
                mem: 2048,
                ..hostile
            },
            alone: false,
        },
        Suite {
            name: "judgements",
            about: "what a hostile host can do to EL2, one boot per case",
            tests: judgements::CASES
                .iter()
                .map(|case| Test {
                    name: case.name,
                    limit: case.big.map_or(40, |(limit, _)| limit),
                    argv: case.argv,
                    console: &[],
                })
                .collect(),
            needs: Needs {
                one_cpu: true,
                ..hostile
            },
            alone: true,
        },
    ];
    all.extend(features::suites(vmm, hostile));
    all.extend(diagnostics::suites(hostile));
    all.extend(secure::suites(&protected(), hostile));
    all
}

/// What `--shell` boots: everything is there and nothing runs by itself.
pub fn shell() -> Suite {
    Suite {
        name: "shell",
        about: "a shell in the host",
        tests: vec![test("shell", 0, &["/bin/busybox", "sh"])],
        needs: Needs {
            vmm: true,
            mem: 2048,
            ..Needs::default()
        },
        alone: false,
    }
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
            assert!(suite.tests.iter().all(|t| !t.name.is_empty()));
            let same: Vec<_> = all().into_iter().filter(|s| s.name == suite.name).collect();
            let mut variants: Vec<_> = same.iter().map(|s| s.needs.variant).collect();
            variants.sort_unstable();
            variants.dedup();
            assert_eq!(variants.len(), same.len(), "{}", suite.name);
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
