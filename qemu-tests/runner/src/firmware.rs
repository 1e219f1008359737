// SPDX-License-Identifier: GPL-2.0-only
//! Machines whose firmware is this project's monitor at EL3 (qemu-tests/monitor), and not QEMU's own PSCI: which tests
//! have one, what it offers them, and what QEMU must be told.

use crate::fdt::{Node, Tree};

/// What the monitor offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Firmware {
    /// The newest version of FF-A, as the protocol writes it; 0 for none.
    ffa: u64,
    /// A fault of the monitor's (`Fault` there) that is armed from the start, and how often it shows.
    fault: (u64, u64),
    /// The version of PSCI, as the protocol writes it.
    psci: u64,
    /// With version 0.1, the first of the four function numbers that the device tree gives.
    numbers: u32,
}

const fn offers(ffa: u64) -> Firmware {
    Firmware {
        ffa,
        fault: (0, 0),
        psci: 0x1_0003,
        numbers: 0,
    }
}

const fn lies(fault: u64) -> Firmware {
    Firmware {
        fault: (fault, u64::MAX),
        ..offers(0x1_0002)
    }
}

/// Before PSCI 1.0 there is no way to ask for SMCCC 1.1, let alone for FF-A.
const fn old(psci: u64, numbers: u32) -> Firmware {
    Firmware {
        psci,
        numbers,
        ..offers(0)
    }
}

/// The firmware of a test, None if its machine has QEMU's.
pub fn of(suite: &str, test: &str) -> Option<Firmware> {
    match (suite, test) {
        ("ffa" | "suspend", _)
        | ("ffa-version", "host-one-zero" | "host-one-one")
        | ("judgements", "j3-smc") => Some(offers(0x1_0002)),
        ("psci", name) if name.starts_with("v0-2") => Some(old(0x0_0002, 0)),
        ("psci", name) if name.starts_with("v0-1") => Some(old(0x0_0001, 0x95c0_ba5e)),
        ("psci", _) | ("ffa-version", "none") => Some(offers(0)),
        ("ffa-version", "one-zero") => Some(offers(0x1_0000)),
        ("ffa-version", "one-one") => Some(offers(0x1_0001)),
        ("ffa-version", "newer-minor") => Some(lies(1)),
        ("ffa-version", "newer-major") => Some(lies(2)),
        ("ffa-version", "bit-31") | ("judgements", "j20-bit31") => Some(lies(3)),
        ("ffa-version", "drifting") => Some(lies(4)),
        ("ffa-version", "other-id") => Some(lies(5)),
        ("ffa-version", "large-buffers") => Some(lies(6)),
        ("judgements", "j19-late") => Some(Firmware {
            fault: (29, 1),
            ..offers(0x1_0002)
        }),
        // Bit 16 is a part of these.
        ("judgements", "j3-psci") => Some(old(0x0_0001, 0x95c1_ba5e)),
        ("judgements", name) if FFA_CASES.iter().any(|prefix| name.starts_with(prefix)) => {
            Some(offers(0x1_0002))
        }
        _ => None,
    }
}

/// The judgements that need a secure world on the other side.
const FFA_CASES: [&str; 8] = ["j11", "j12", "j21", "j22", "j23", "j24", "j25", "j26"];

/// What a test adds to the kernel's command line.
pub fn kernel_words(suite: &str, test: &str) -> &'static str {
    match (suite, test) {
        // The kernel's driver would have agreed on a version.
        ("judgements", "j20-bit31") | ("ffa-version", "host-one-zero" | "host-one-one") => {
            " initcall_blacklist=ffa_init"
        }
        _ => "",
    }
}

/// Options of QEMU's machine. With ACPI and firmware there would be another power button than in the device tree of a
/// machine without.
pub const MACHINE: &str = "secure=on,acpi=off";

/// Where what QEMU loads is: the kernel at its text offset from a 2 MiB boundary, above the device tree that QEMU puts at
/// the start of memory for itself.
pub const KERNEL: u64 = 0x4020_0000;
/// The device tree.
pub const DTB: u64 = 0x47e0_0000;
/// The initramfs.
pub const INITRD: u64 = 0x4800_0000;

/// Where the monitor looks for its parameters, and the word that they begin with.
const PARAMS_AT: usize = 0x4_0000;
const MAGIC: u64 = 0x706b_766d_2d6d_6f6e;

impl Firmware {
    /// What goes into the secure flash: the monitor and its parameters.
    ///
    /// # Errors
    /// The monitor is too large.
    pub fn flash(self, monitor: &[u8], smp: u32, mem: u32) -> Result<Vec<u8>, String> {
        if monitor.len() > PARAMS_AT {
            return Err("the monitor overlaps its parameters".to_owned());
        }
        let mut flash = monitor.to_vec();
        flash.resize(PARAMS_AT, 0);
        let words = [
            MAGIC,
            KERNEL,
            DTB,
            u64::from(mem) << 20,
            smp.into(),
            self.ffa,
            self.fault.0,
            self.fault.1,
            self.psci,
        ];
        flash.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        Ok(flash)
    }
}

/// Tells a kernel of the monitor's PSCI and its idle states, and what QEMU's own boot code would have told it.
pub fn describe(firmware: Firmware, tree: &mut Tree, cmdline: &str, initrd_len: u64) {
    let text = |s: &str| [s.as_bytes(), &[0]].concat();
    let compatible: &[u8] = match firmware.psci {
        0x0_0001 => b"arm,psci\0",
        0x0_0002 => b"arm,psci-0.2\0",
        _ => b"arm,psci-1.0\0arm,psci-0.2\0",
    };
    let psci = tree.root.child("psci");
    psci.set("compatible", compatible).set("method", b"smc\0");
    if firmware.numbers != 0 {
        let numbers = ["cpu_suspend", "cpu_off", "cpu_on", "migrate"].into_iter();
        for (name, number) in numbers.zip(firmware.numbers..) {
            psci.set(name, &number.to_be_bytes());
        }
    }
    tree.root
        .child("chosen")
        .set("bootargs", &text(cmdline))
        .set("linux,initrd-start", &INITRD.to_be_bytes())
        .set("linux,initrd-end", &(INITRD + initrd_len).to_be_bytes());
    // What the monitor takes for CPU_SUSPEND. The latencies are of the emulator: a kernel enters either for any sleep.
    let cpus = tree.root.child("cpus");
    let states = cpus.child("idle-states").set("entry-method", b"psci\0");
    let retention = (0x7001u32, 0x0000_0001u32, 100u32);
    let power_down = (0x7002u32, 0x0001_0002u32, 1000u32);
    state(states, "cpu-retention", retention);
    state(states, "cpu-sleep", power_down);
    let both = [retention.0.to_be_bytes(), power_down.0.to_be_bytes()].concat();
    for cpu in cpus.children("cpu@") {
        cpu.set("cpu-idle-states", &both);
    }
}

fn state(states: &mut Node, name: &str, (phandle, param, residency): (u32, u32, u32)) {
    states
        .child(name)
        .set("compatible", b"arm,idle-state\0")
        .set("arm,psci-suspend-param", &param.to_be_bytes())
        .set("entry-latency-us", &10u32.to_be_bytes())
        .set("exit-latency-us", &20u32.to_be_bytes())
        .set("min-residency-us", &residency.to_be_bytes())
        .set("phandle", &phandle.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_of_firmware_has_some() {
        let suites = crate::suites::all();
        let needs = |name: &str| name.starts_with("ffa") || name == "psci";
        for suite in suites.iter().filter(|s| needs(s.name)) {
            for test in &suite.tests {
                assert!(of(suite.name, test.name).is_some(), "{}", test.name);
            }
        }
        assert_eq!(of("boot", "smp"), None);
    }

    #[test]
    fn parameters_follow_the_program() {
        let flash = offers(0x1_0001).flash(&[1; 100], 2, 1024).unwrap();
        assert_eq!(flash.len(), PARAMS_AT + 72);
        assert_eq!(flash[PARAMS_AT..PARAMS_AT + 8], MAGIC.to_le_bytes());
        assert!(offers(0).flash(&vec![0; PARAMS_AT + 1], 1, 1).is_err());
    }
}
