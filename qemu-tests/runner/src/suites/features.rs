// SPDX-License-Identifier: GPL-2.0-only
//! The modes of KVM and the features of CPUs: suites that differ in the machine that they boot.

use super::{Mode, Needs, Suite, test};

/// The CPU models that a kernel can run on at EL2 itself.
const VHE: &[&str] = &["max", "neoverse-n2"];
/// A CPU model that boards with a GICv2 have.
const GICV2: &[&str] = &["cortex-a57"];

/// The suites; `vmm` and `hostile` are what those that use the VMM or the test module need.
pub fn suites(vmm: Needs, hostile: Needs) -> Vec<Suite> {
    vec![
        Suite {
            name: "modes",
            about: "CPUs that come up late: off line while the host lost its privileges",
            tests: vec![test("late-cpu", 60, &["/init", "--test", "late-cpu"])],
            needs: Needs {
                variant: "late-cpu",
                cmdline: "maxcpus=1",
                ..hostile
            },
            alone: false,
        },
        Suite {
            name: "modes",
            about: "CPUs that come up late: off line from before the host lost its privileges until after",
            tests: vec![test("missed-cpu", 60, &["/init", "--test", "missed-cpu"])],
            needs: Needs {
                variant: "missed-cpu",
                // Without a parser of partitions the driver asks for one at its start, which is after KVM's and before
                // the host loses its privileges: `init` answers as `/sbin/modprobe`. Nothing reads the memory.
                cmdline: "phram.phram=none,0x4000000,0x1000",
                modprobe: true,
                ..hostile
            },
            alone: false,
        },
        Suite {
            name: "modes",
            about: "CPUs that come up late: off line and on again",
            tests: vec![test("replugged-cpu", 60, &["/init", "--test", "replugged-cpu"])],
            needs: Needs {
                variant: "replugged",
                ..hostile
            },
            alone: false,
        },
        Suite {
            name: "modes",
            about: "the other modes of KVM: without it",
            tests: vec![mode!("none")],
            needs: Needs {
                variant: "none",
                mode: Mode::None,
                ..Needs::default()
            },
            alone: false,
        },
        Suite {
            name: "modes",
            about: "the other modes of KVM: the kernel runs at EL2 itself",
            tests: vec![mode!("vhe"), scenario!("plain", 200, "plain-vhe")],
            needs: Needs {
                variant: "vhe",
                mode: Mode::Unsaid,
                models: VHE,
                ..vmm
            },
            alone: false,
        },
        Suite {
            name: "modes",
            about: "the other modes of KVM: EL2 serves a host that it trusts",
            tests: vec![
                mode!("nvhe"),
                test("replug", 60, &["/init", "--test", "replug", "5"]),
                scenario!("plain", 200),
                scenario!("normal", 100),
                scenario!("fp", 150),
                scenario!("churn", 200),
                feature!("registers"),
                feature!("sve"),
                feature!("debug"),
                feature!("pmu"),
                feature!("pmu-host"),
                feature!("time"),
                feature!("pins"),
                feature!("serror"),
                feature!("aarch32"),
            ],
            needs: Needs {
                variant: "nvhe",
                mode: Mode::Nvhe,
                ..vmm
            },
            alone: false,
        },
        Suite {
            name: "modes",
            about: "the other modes of KVM: EL2 is handed back to the kernel's stub, and taken again",
            tests: vec![
                test("stub", 60, &["/init", "--test", "stub"]),
                scenario!("normal", 100, "normal-after-stub"),
            ],
            needs: Needs {
                variant: "stub",
                mode: Mode::Nvhe,
                hostile: true,
                ..vmm
            },
            alone: false,
        },
        Suite {
            name: "modes",
            about: "the other modes of KVM: EL2 with E2H set serves a host that it trusts",
            tests: vec![
                mode!("hvhe"),
                scenario!("plain", 200, "plain-hvhe"),
                scenario!("fp", 150, "fp-hvhe"),
                feature!("pmu-host", "pmu-host-hvhe"),
            ],
            needs: Needs {
                variant: "hvhe",
                mode: Mode::Nvhe,
                cmdline: "arm64_sw.hvhe=1",
                models: VHE,
                full: true,
                ..vmm
            },
            alone: false,
        },
        Suite {
            name: "modes",
            about: "the other modes of KVM: EL2 with E2H clear protects, on a CPU that has both",
            tests: vec![
                mode!("protected-nvhe"),
                scenario!("beside", 300, "beside-nvhe"),
                scenario!("fp", 150, "fp-nvhe"),
            ],
            needs: Needs {
                variant: "protected-nvhe",
                cmdline: "id_aa64mmfr1.vh=0 arm64_sw.hvhe=0",
                models: VHE,
                full: true,
                ..vmm
            },
            alone: false,
        },
        Suite {
            name: "features",
            about: "CPU features in normal VMs, beside protected ones",
            tests: vec![
                feature!("registers"),
                feature!("traps"),
                feature!("mops"),
                feature!("sve"),
                feature!("debug"),
                feature!("pmu"),
                feature!("time"),
                feature!("pins"),
                feature!("serror"),
                feature!("aarch32"),
            ],
            needs: vmm,
            alone: false,
        },
        Suite {
            name: "features",
            about: "SVE with three lengths, the longest no power of two",
            tests: vec![feature!("sve", "sve-384"), scenario!("fp", 150, "fp-384")],
            needs: Needs {
                variant: "sve-384",
                cpu: "sve-max-vq=3",
                models: &["max"],
                ..vmm
            },
            alone: false,
        },
        Suite {
            name: "features",
            about: "SVE with one length",
            tests: vec![feature!("sve", "sve-128"), scenario!("fp", 150, "fp-128")],
            needs: Needs {
                variant: "sve-128",
                cpu: "sve-max-vq=1",
                models: &["max"],
                full: true,
                ..vmm
            },
            alone: false,
        },
        Suite {
            name: "features",
            about: "a new CPU without SVE",
            tests: vec![
                scenario!("fp", 150, "fp-no-sve"),
                scenario!("beside", 300, "beside-no-sve"),
            ],
            needs: Needs {
                variant: "no-sve",
                cpu: "sve=off,sme=off",
                models: &["max"],
                full: true,
                ..vmm
            },
            alone: false,
        },
        Suite {
            name: "features",
            about: "a CPU whose addresses end at 48 bits",
            tests: vec![scenario!("beside", 300, "beside-no-lpa2")],
            needs: Needs {
                variant: "no-lpa2",
                cpu: "lpa2=off",
                models: &["max"],
                full: true,
                ..vmm
            },
            alone: false,
        },
        Suite {
            name: "features",
            about: "guests whose every access to the GICv3 CPU interface traps to EL2",
            tests: vec![
                test("gic-traps", 30, &["/init", "--test", "gic-traps"]),
                scenario!("beside", 400, "trapped-gic"),
            ],
            needs: Needs {
                variant: "gicv3-trap",
                cmdline: "kvm-arm.vgic_v3_group0_trap=1 kvm-arm.vgic_v3_group1_trap=1 kvm-arm.vgic_v3_common_trap=1",
                models: &["max"],
                ..vmm
            },
            alone: false,
        },
        Suite {
            name: "features",
            about: "a host with a GICv2, whose CPU interface guests get",
            tests: vec![mode!("nvhe", "gicv2-mode"), feature!("gicv2")],
            needs: Needs {
                variant: "gicv2",
                mode: Mode::Nvhe,
                machine: "gic-version=2",
                models: GICV2,
                ..vmm
            },
            alone: false,
        },
        Suite {
            name: "features",
            about: "a host with a GICv2 that guests reach through EL2",
            tests: vec![test(
                "gicv2-trapped",
                100,
                &["/bin/vm-feature", "gicv2", "trapped"],
            )],
            needs: Needs {
                variant: "gicv2-trap",
                mode: Mode::Nvhe,
                machine: "gic-version=2",
                odd_gicv: true,
                models: GICV2,
                ..vmm
            },
            alone: false,
        },
        Suite {
            name: "features",
            about: "memory tags that the kernel does not use",
            tests: vec![test("host-mte", 60, &["/init", "--test", "host-mte"])],
            needs: Needs {
                variant: "mte",
                machine: "mte=on",
                models: &["max"],
                ..hostile
            },
            alone: false,
        },
        Suite {
            name: "modes",
            about: "the other modes of KVM: protected mode refuses a GICv2",
            tests: vec![mode!("no-gicv2")],
            needs: Needs {
                variant: "no-gicv2",
                machine: "gic-version=2",
                models: GICV2,
                ..Needs::default()
            },
            alone: false,
        },
    ]
}
