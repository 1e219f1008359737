// SPDX-License-Identifier: GPL-2.0-only
//! `scripts/selftests`: the kernel's own KVM selftests on the C object and on ours, on the same machines, as one table.

use crate::args::Args;
use crate::counts::Counts;
use crate::kernel::{self, Hyp};
use crate::paths;
use crate::qemu;
use crate::setup;
use crate::sh::{self, cmd};
use crate::test::CPUS;
use crate::ui;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The runner's suite of them all.
const SUITE: &str = "selftests-all";
/// The host's modes.
pub const MODES: [&str; 2] = ["protected", "nvhe"];

fn dir(tree: &Path) -> PathBuf {
    let name = tree.file_name().unwrap_or_default().to_string_lossy();
    paths::cache()
        .join("selftests")
        .join(kernel::tree_prefix(tree) + &name)
}

/// Where the programs of a tree are.
pub fn programs(tree: &Path) -> PathBuf {
    dir(tree).join("out")
}

/// Builds the selftests of a kernel tree, static, outside of tree and checkout.
///
/// # Errors
/// One line; the compiler's are shown before.
pub fn build(tree: &Path) -> Result<(), String> {
    let (headers, out) = (dir(tree).join("headers"), programs(tree));
    sh::mkdir(&headers)?;
    // Below tools go the headers that it generates; the default is the source tree.
    sh::mkdir(&out.join("tools"))?;
    ui::step("build the kernel's KVM selftests", |now| {
        // What headers_install would copy, without the rsync that it needs.
        let mut make = cross_make(tree);
        make.arg(format!("O={}", headers.display())).arg("headers");
        sh::logged("selftests-headers", make, now)?;
        let jobs = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let mut make = cross_make(&sources(tree)?);
        make.arg(format!("-j{jobs}"))
            .arg(format!("OUTPUT={}", out.display()))
            .arg(format!("abs_objdir={}", out.display()))
            .arg(format!(
                "KHDR_INCLUDES=-isystem {}",
                headers.join("usr/include").display()
            ))
            .arg("LDFLAGS=-static -s");
        sh::logged("selftests", make, now)
    })
}

/// What is changed in the programs: numbers that would take an emulated machine hours and that no argument changes, and
/// assertions that fail with every EL2 object and would hide all that comes after them. The file, what is in it, and what
/// takes its place.
const CHANGES: [(&str, &str, &str); 7] = [
    (
        "mmu_stress_test.c",
        "atoi_positive(\"Memory size\", optarg) * SZ_1G;",
        "atoi_positive(\"Memory size\", optarg) * SZ_32M;",
    ),
    (
        "mmu_stress_test.c",
        "atoi_positive(\"Slot size\", optarg) * SZ_1G;",
        "atoi_positive(\"Slot size\", optarg) * SZ_32M;",
    ),
    (
        "rseq_test.c",
        "#define NR_TASK_MIGRATIONS 100000",
        "#define NR_TASK_MIGRATIONS 2000",
    ),
    // Where protected VMs can be made, every VM has all address bits of the CPU.
    (
        "arm64/vgic_init.c",
        "	pa_bits = vm_guest_mode_params[VM_MODE_DEFAULT].pa_bits;\n",
        "	pa_bits = vm_guest_mode_params[VM_MODE_DEFAULT].pa_bits;\n\
         	if (ioctl(open_kvm_dev_path_or_exit(), KVM_CREATE_VM, KVM_VM_TYPE_ARM_PROTECTED) >= 0)\n\
         		pa_bits = kvm_check_cap(KVM_CAP_ARM_VM_IPA_SIZE);\n",
    ),
    // 52 bits of a region's address are all that an attribute has.
    (
        "arm64/vgic_init.c",
        "REDIST_REGION_ATTR_ADDR(1, max_phys_size, 0, 2)",
        "REDIST_REGION_ATTR_ADDR(1, max_phys_size >> 52 ? max_phys_size - 0x10000 : max_phys_size, 0, 2)",
    ),
    // Tells of all that counted other faults at the end, instead of ending with the first.
    (
        "arm64/page_fault_test.c",
        "static void check_event_counts(struct test_desc *test)\n{\n	\
         TEST_ASSERT_EQ(test->expected_events.uffd_faults, events.uffd_faults);\n",
        "static char other_counts[4096];\n\n\
         static void check_event_counts(struct test_desc *test)\n{\n	\
         if (test->expected_events.uffd_faults != events.uffd_faults)\n		\
         snprintf(other_counts + strlen(other_counts), sizeof(other_counts) - strlen(other_counts), \" %s %d\",\n			 \
         test->name, events.uffd_faults);\n",
    ),
    (
        "arm64/page_fault_test.c",
        "	for_each_test_and_guest_mode(src_type);\n	return 0;\n",
        "	for_each_test_and_guest_mode(src_type);\n	\
         TEST_ASSERT(!other_counts[0], \"other numbers of faults:%s.\", other_counts);\n	return 0;\n",
    ),
];

/// Where the programs are built from: the tree's own sources, but for [`CHANGES`].
fn sources(tree: &Path) -> Result<PathBuf, String> {
    let copy = dir(tree).join("source");
    let _ = std::fs::remove_dir_all(&copy);
    sh::mkdir(&copy)?;
    // Links, where the file system allows.
    let links = cmd("cp", ["-al"])
        .arg(tree.join("tools"))
        .arg(&copy)
        .output()
        .is_ok_and(|out| out.status.success());
    if !links {
        let mut whole = cmd("cp", ["-a"]);
        whole.arg(tree.join("tools")).arg(&copy);
        sh::output(whole)?;
    }
    // Their Makefiles look into the rest of the tree.
    let entries = std::fs::read_dir(tree).map_err(|e| format!("{}: {e}", tree.display()))?;
    for entry in entries.flatten().filter(|entry| entry.file_name() != "tools") {
        std::os::unix::fs::symlink(entry.path(), copy.join(entry.file_name()))
            .map_err(|e| format!("{}: {e}", copy.display()))?;
    }
    let kvm = copy.join("tools/testing/selftests/kvm");
    let changed = dir(tree).join("changed");
    sh::mkdir(&changed.join("arm64"))?;
    let mut texts: Vec<(&str, String)> = Vec::new();
    for (name, from, to) in CHANGES {
        let text = match texts.pop_if(|(last, _)| *last == name) {
            Some((_, text)) => text,
            None => sh::read(&kvm.join(name))?,
        };
        if !text.contains(from) {
            return Err(format!("{name} of this kernel has no \"{}\"", from.trim()));
        }
        texts.push((name, text.replace(from, to)));
    }
    for (name, text) in texts {
        // Written when it changes, and with its time then, so that it is compiled then and not each time.
        let kept = changed.join(name);
        if std::fs::read_to_string(&kept).ok().as_ref() != Some(&text) {
            sh::write(&kept, &text)?;
        }
        // In place of the link, or the tree's own file would change.
        let file = kvm.join(name);
        std::fs::remove_file(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let mut cp = cmd("cp", ["-p"]);
        cp.arg(&kept).arg(&file);
        sh::output(cp)?;
    }
    Ok(kvm)
}

fn cross_make(dir: &Path) -> Command {
    let mut make = cmd("make", ["-C"]);
    make.arg(dir)
        .args(["ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-"]);
    make
}

/// Runs them all; true when all ran, the Rust object does no worse anywhere, and each failure on both is explained.
///
/// # Errors
/// One line, when they could not be run at all.
pub fn run(args: &Args) -> Result<bool, String> {
    let start = Instant::now();
    ui::headline("what is needed");
    setup::programs(false)?;
    qemu::check_models(&args.cpus)?;
    setup::rust_src()?;
    let busybox = setup::busybox()?;
    let (tree, version) = setup::linux(args.kdir.as_deref())?;
    let whole = args.cpus.is_empty() && args.modes.is_empty();
    let table = if whole {
        paths::root().join("Documentation/selftests.rst")
    } else {
        paths::root().join("target/selftests.rst")
    };
    let counts = compare(args, &tree, &version, &busybox, &table)?;
    ui::say(&format!(
        "\nin {}; the table is {}",
        ui::seconds(start.elapsed()),
        table.display()
    ));
    Ok(counts.close())
}

/// Where the runner keeps what the tests did on a machine.
fn results(hyp: Hyp, cpu: &str, mode: &str) -> PathBuf {
    paths::root().join(format!(
        "target/qemu-logs/selftests-{}-{cpu}-{mode}.tsv",
        hyp.word()
    ))
}

/// Runs them all on the chosen machines and writes the table. Returns how many pass with the Rust object, how many are
/// skipped, and how many do worse, are missing, or fail with both objects for no reason that is noted. What fails with
/// both for a noted reason is in none of these numbers; the table's lines say how many that are.
///
/// # Errors
/// One line, when they could not be run at all.
pub fn compare(
    args: &Args,
    tree: &Path,
    version: &str,
    busybox: &Path,
    table: &Path,
) -> Result<Counts, String> {
    ui::headline("build");
    let kernels = [Hyp::C, Hyp::Rust].map(|hyp| kernel::build(tree, version, hyp));
    let [c, rust] = kernels;
    let kernels = [c?, rust?];
    build(tree)?;
    qemu::build_runner()?;

    let cpus = chosen(&args.cpus, &CPUS);
    let modes = chosen(&args.modes, &MODES);
    let mut unrun = 0;
    for cpu in &cpus {
        for mode in &modes {
            for kernel in &kernels {
                ui::headline(&format!(
                    "{cpu}, kvm-arm.mode={mode}, Linux {version} with the {} EL2",
                    kernel.hyp.name()
                ));
                let mut runner = qemu::runner(kernel, busybox);
                runner.args(["--suite", SUITE, "--cpu", cpu, "--mode", mode]);
                // Old results are not this run's, however it ends.
                sh::remove(&results(kernel.hyp, cpu, mode))?;
                // That some fail is for the table to judge, but not that none could run.
                if let Err(why) = qemu::counted(runner) {
                    unrun += 1;
                    ui::say(&format!(
                        "FAIL  selftests/{cpu}-{mode}-{} - {why}",
                        kernel.hyp.word()
                    ));
                }
            }
        }
    }

    ui::headline("side by side");
    let mut runner = qemu::runner(&kernels[1], busybox);
    runner.arg("--selftests-table").arg(table);
    // The results of other machines may be old, and are not this run's to judge.
    for cpu in &cpus {
        runner.args(["--cpu", cpu]);
    }
    if let [mode] = modes.as_slice() {
        runner.args(["--mode", mode]);
    }
    let mut counts = qemu::counted(runner)?;
    if unrun > 0 {
        ui::say(&format!("{unrun} times the test runner did not come to its end"));
    }
    counts.failed += unrun;
    Ok(counts)
}

/// What was asked for, each once; all where nothing was.
fn chosen(given: &[String], all: &[&str]) -> Vec<String> {
    let mut chosen: Vec<String> = Vec::new();
    for word in given {
        if !chosen.contains(word) {
            chosen.push(word.clone());
        }
    }
    if chosen.is_empty() {
        chosen.extend(all.iter().map(|&word| word.to_owned()));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::{MODES, chosen};

    #[test]
    fn a_choice_has_each_once() {
        let words = |list: &[&str]| list.iter().map(|&w| w.to_owned()).collect::<Vec<_>>();
        assert_eq!(chosen(&[], &MODES), MODES);
        assert_eq!(chosen(&words(&["nvhe", "nvhe"]), &MODES), ["nvhe"]);
        assert_eq!(
            chosen(&words(&["nvhe", "protected"]), &MODES),
            ["nvhe", "protected"]
        );
    }
}
