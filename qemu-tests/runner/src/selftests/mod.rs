// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's own KVM selftests (tools/testing/selftests/kvm): which there are, with which arguments they end in
//! bearable time on an emulated machine, and the suites that run them.

mod compare;
mod judged;
mod results;
pub mod table;

use crate::ktap::Status;
use crate::suites::{Mode, Needs, Suite, Test};

/// Where they are in the initramfs.
pub const DIR: &str = "/selftests";
/// The suite of them all, which runs only when it is named.
pub const ALL: &str = "selftests-all";

/// The modes of the host that they run in.
pub const MODES: [Mode; 2] = [Mode::Protected, Mode::Nvhe];

/// A selftest.
pub struct Selftest {
    /// The program, as the kernel's Makefile names it.
    pub program: &'static str,
    /// Seconds before it is ended. Nearly all end in a tenth of it: a machine with other work may be slow.
    pub limit: u32,
    /// Program and arguments.
    argv: &'static [&'static str],
    /// Why it has arguments, or is other than its source.
    pub why: &'static str,
    /// Part of the small suite.
    quick: bool,
}

impl Selftest {
    /// The arguments after the program.
    pub fn arguments(&self) -> &'static [&'static str] {
        self.argv.get(1..).unwrap_or_default()
    }
}

macro_rules! selftest {
    ($program:literal, $limit:literal $(, $argument:literal)* $(; $why:literal)?) => {
        Selftest {
            program: $program,
            limit: $limit,
            argv: &[concat!("/selftests/", $program) $(, $argument)*],
            why: concat!("" $(, $why)?),
            quick: false,
        }
    };
}

/// A fast one that says much, run at every change.
const fn quick(mut test: Selftest) -> Selftest {
    test.quick = true;
    test
}

/// All that the kernel builds for arm64, in the order in which they run.
pub const TESTS: &[Selftest] = &[
    selftest!("access_tracking_perf_test", 400, "-b", "8M"; "the default ages 1 GiB in each guest mode"),
    selftest!("arch_timer", 400, "-i", "2", "-e", "1000000"; "the emulator's time goes on while the machine does other work, so interrupts come late"),
    selftest!("arm64/aarch32_id_regs", 180),
    selftest!("arm64/arch_timer_edge_cases", 900, "-i", "1", "-w", "100"; "as above; each wait is longer"),
    selftest!("arm64/at", 180),
    selftest!("arm64/debug-exceptions", 400, "-i", "500"; "the default takes 10000 single steps"),
    quick(selftest!("arm64/external_aborts", 180)),
    selftest!("arm64/hello_el2", 180),
    selftest!("arm64/hidden_features", 180),
    quick(selftest!("arm64/host_sve", 180)),
    quick(selftest!("arm64/hypercalls", 180)),
    selftest!("arm64/idreg-idst", 180),
    selftest!("arm64/kvm-uuid", 180),
    quick(selftest!("arm64/mmio_sign_ext", 180)),
    selftest!("arm64/no-vgic", 180),
    selftest!("arm64/page_fault_test", 900, "-m", "6"; "in one guest mode, 4 KiB pages of 40 address bits: it makes a VM for each of its tests, and where the CPU has 52 address bits the protected host walks them all at a VM's end; built to go on after a test that counted other faults, and to name them all at the end"),
    quick(selftest!("arm64/psci_test", 180)),
    selftest!("arm64/sea_to_user", 400),
    selftest!("arm64/set_id_regs", 400),
    quick(selftest!("arm64/smccc_filter", 180)),
    quick(selftest!("arm64/stage2_block_transitions", 180)),
    selftest!("arm64/vcpu_width_config", 180),
    selftest!("arm64/vgic_init", 400; "built to expect of protected KVM that a VM has all address bits of the CPU, as it has there, and not 40"),
    selftest!("arm64/vgic_irq", 400),
    selftest!("arm64/vgic_its_save", 400),
    quick(selftest!("arm64/vgic_lpi_stress", 400)),
    selftest!("arm64/vgic_v5", 180),
    selftest!("arm64/vpmu_counter_access", 400),
    selftest!("coalesced_io_test", 180),
    selftest!("demand_paging_test", 400, "-b", "4M"; "the default pages in 1 GiB in each guest mode"),
    selftest!("dirty_log_perf_test", 400, "-b", "4M"; "the default dirties 1 GiB in each guest mode"),
    selftest!("dirty_log_test", 900, "-i", "2", "-m", "6"; "the default is 32 rounds of each log mode in each guest mode; the one here is that of page_fault_test"),
    quick(selftest!("get-reg-list", 400)),
    selftest!("guest_memfd_test", 400),
    quick(selftest!("guest_print_test", 180)),
    selftest!("irqfd_test", 900),
    selftest!("kvm_binary_stats_test", 180),
    selftest!("kvm_create_max_vcpus", 400),
    selftest!("kvm_page_table_test", 900, "-b", "8M"; "the default maps 1 GiB in each guest mode"),
    selftest!("memslot_modification_stress_test", 400, "-b", "4M"; "the default dirties 1 GiB in each guest mode"),
    selftest!("memslot_perf_test", 600, "-s", "64", "-e", "4", "-l", "1", "-t", "200"; "the default times five seconds of each operation on 32767 slots; left out is the guest's writing of 512 MiB, which moves no slot and takes minutes"),
    selftest!("mmu_stress_test", 900, "-c", "2", "-m", "1", "-s", "1"; "the default is a guest of 128 GiB; built to count in units of 32 MiB, as each page of the guest ends a run"),
    selftest!("rseq_test", 900; "built to migrate 2000 times in place of 100000"),
    selftest!("set_memory_region_test", 400),
    quick(selftest!("steal_time", 180)),
    selftest!("vm_types_test", 180),
];

/// Whether programs are those of [`TESTS`].
///
/// # Errors
/// One line about the first that is not built, or that nobody runs.
pub fn all_of(built: &[String]) -> Result<(), String> {
    if let Some(test) = TESTS.iter().find(|t| !built.iter().any(|b| b == t.program)) {
        return Err(format!(
            "{} is not built (is it gone from this kernel?)",
            test.program
        ));
    }
    match built.iter().find(|b| !TESTS.iter().any(|t| t.program == **b)) {
        Some(new) => Err(format!(
            "{new} is new: list it in qemu-tests/runner/src/selftests/mod.rs"
        )),
        None => Ok(()),
    }
}

/// What a reader of the table may want to know of a test that is skipped or fails.
struct Note {
    program: &'static str,
    status: Status,
    /// Words of the reason that the test gives. That it fails so with both objects is expected; another failure is none
    /// that the note explains.
    reason: &'static str,
    text: &'static str,
}

const NESTED: &str = "A guest with an EL2 of its own exists in neither mode.";
const NOTES: &[Note] = &[
    Note {
        program: "arm64/at",
        status: Status::Skipped,
        reason: "KVM_CAP_ARM_EL2",
        text: NESTED,
    },
    Note {
        program: "arm64/hello_el2",
        status: Status::Skipped,
        reason: "KVM_CAP_ARM_EL2",
        text: NESTED,
    },
    Note {
        program: "arm64/page_fault_test",
        status: Status::Failed,
        reason: "other numbers of faults: ro_memslot_no_syndrome_guest_cas 1.",
        text: "A compare-and-swap in read-only memory counts one fault too few: QEMU asks whether it may write before it \
               reads. The cortex-a57 has no such instruction.",
    },
    Note {
        program: "arm64/sea_to_user",
        status: Status::Failed,
        reason: "exit status 1",
        text: "Wants firmware that injects memory errors, and reports a failure where it means to skip.",
    },
    Note {
        program: "arm64/vgic_v5",
        status: Status::Skipped,
        reason: "GICv5",
        text: "QEMU emulates no GICv5.",
    },
];

/// The suites: the small one in both modes, and all of them.
pub fn suites() -> [Suite; 3] {
    let tests = |small: bool| {
        TESTS
            .iter()
            .filter(|t| t.quick || !small)
            .map(|t| Test {
                name: t.program,
                limit: t.limit,
                argv: t.argv,
                console: &[],
            })
            .collect()
    };
    let machine = Needs {
        kernel_tests: true,
        mem: 6144,
        cmdline: "numa=fake=2 default_hugepagesz=2M hugepagesz=2M hugepages=640 hugepagesz=1G hugepages=1 ",
        ..Needs::default()
    };
    let small = Needs {
        models: &["max"],
        ..machine
    };
    [
        Suite {
            name: "selftests",
            about: "some of the kernel's own KVM selftests, in the protected mode",
            tests: tests(true),
            needs: small,
            alone: false,
        },
        Suite {
            name: "selftests-nvhe",
            about: "the same in the mode that protects no VMs",
            tests: tests(true),
            needs: Needs {
                mode: Mode::Nvhe,
                ..small
            },
            alone: false,
        },
        Suite {
            name: ALL,
            about: "all of the kernel's own KVM selftests (scripts/selftests compares the two objects)",
            tests: tests(false),
            needs: Needs {
                on_request: true,
                ..machine
            },
            alone: false,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_whole() {
        assert_eq!(TESTS.len(), 46);
        assert!(TESTS.is_sorted_by_key(|t| t.program));
        assert!(TESTS.iter().all(|t| t.argv[0] == format!("{DIR}/{}", t.program)));
        assert!(
            TESTS
                .iter()
                .all(|t| t.arguments().is_empty() || !t.why.is_empty())
        );
        assert!(NOTES.iter().all(|n| TESTS.iter().any(|t| t.program == n.program)));
    }

    #[test]
    fn what_the_kernel_builds_is_what_runs() {
        let mut built: Vec<String> = TESTS.iter().map(|t| t.program.to_owned()).collect();
        assert_eq!(all_of(&built), Ok(()));
        built.push("arm64/newest".to_owned());
        assert!(all_of(&built).unwrap_err().starts_with("arm64/newest is new"));
        built.retain(|b| b != "steal_time");
        assert!(all_of(&built).unwrap_err().starts_with("steal_time is not built"));
    }
}
