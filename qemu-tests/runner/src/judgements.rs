// SPDX-License-Identifier: GPL-2.0-only
//! The cases in which the specification judges the C object wrong, or in which a host could end the machine: what each
//! must do, what the C object did when it was run, and the table of both in the documentation.

/// One case. Its test reports what it saw in a line that begins with `seen: `.
#[derive(Debug)]
pub struct Case {
    /// The test's name, which begins with the number of the judgement.
    pub name: &'static str,
    /// How init is called.
    pub argv: &'static [&'static str],
    /// What is tried, for the table.
    pub what: &'static str,
    /// What must come of it.
    pub demand: &'static str,
    /// CPU models that can show it; empty if all can.
    pub cpus: &'static [&'static str],
    /// Seconds and MiB that it needs, if more than the others.
    pub big: Option<(u32, u32)>,
    /// Words that must be in what was seen on the C object, on these models, recorded from runs; of alternatives,
    /// separated by a bar, one.
    pub c_saw: &'static str,
}

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "j1-save",
        argv: &["/init", "--test", "judgement", "j1-save"],
        what: "calls ``__vgic_v5_save_apr`` (27) with the address of any page that EL2 knows",
        demand: "no effect: x0=0, page and x1 unchanged",
        cpus: &[],
        big: None,
        c_saw: "nVHE hyp panic",
    },
    Case {
        name: "j1-restore",
        argv: &["/init", "--test", "judgement", "j1-restore"],
        what: "the same with ``__vgic_v5_restore_vmcr_apr`` (28)",
        demand: "no effect: x0=0, page and x1 unchanged",
        cpus: &[],
        big: None,
        c_saw: "nVHE hyp panic",
    },
    Case {
        name: "j2-ipa",
        argv: &["/init", "--test", "judgement", "j2-ipa"],
        what: "calls ``__kvm_tlb_flush_vmid_ipa`` (11) with the address of a private page",
        demand: "NOT_SUPPORTED",
        cpus: &[],
        big: None,
        c_saw: "nVHE hyp panic",
    },
    Case {
        name: "j2-ipa-nsh",
        argv: &["/init", "--test", "judgement", "j2-ipa-nsh"],
        what: "the same with ``__kvm_tlb_flush_vmid_ipa_nsh`` (12)",
        demand: "NOT_SUPPORTED",
        cpus: &[],
        big: None,
        c_saw: "nVHE hyp panic",
    },
    Case {
        name: "j2-vmid",
        argv: &["/init", "--test", "judgement", "j2-vmid"],
        what: "the same with ``__kvm_tlb_flush_vmid`` (13)",
        demand: "NOT_SUPPORTED",
        cpus: &[],
        big: None,
        c_saw: "nVHE hyp panic",
    },
    Case {
        name: "j2-range",
        argv: &["/init", "--test", "judgement", "j2-range"],
        what: "the same with ``__kvm_tlb_flush_vmid_range`` (14)",
        demand: "NOT_SUPPORTED",
        cpus: &[],
        big: None,
        c_saw: "nVHE hyp panic",
    },
    Case {
        name: "j2-cpu",
        argv: &["/init", "--test", "judgement", "j2-cpu"],
        what: "the same with ``__kvm_flush_cpu_context`` (15)",
        demand: "NOT_SUPPORTED",
        cpus: &[],
        big: None,
        c_saw: "nVHE hyp panic",
    },
    Case {
        name: "j3-smc",
        argv: &["/init", "--test", "judgement", "j3-smc"],
        what: "SMCs that are neither PSCI nor FF-A nor on the list of what passes: SDEI, realms, numbers with reserved bits",
        demand: "none reaches firmware, and those on the list do",
        cpus: &[],
        big: None,
        c_saw: "SDEI 5 of 5, DRTM 2 of 2, RMI 5 of 5",
    },
    Case {
        name: "j3-psci",
        argv: &["/init", "--test", "judgement", "j3-psci"],
        what: "the standard numbers of PSCI, where the device tree names version 0.1 and other numbers",
        demand: "none reaches firmware, which would start a CPU at EL2; those of the device tree do",
        cpus: &[],
        big: None,
        c_saw: "64 of 64 standard numbers reached firmware",
    },
    Case {
        name: "j4",
        argv: &["/init", "--test", "judgement", "j4"],
        what: "``__pkvm_force_reclaim_guest_page`` (43) on a page of EL2's text",
        demand: "EPERM",
        cpus: &[],
        big: None,
        c_saw: "nVHE hyp BUG|no end",
    },
    Case {
        name: "j5-freed",
        argv: &["/init", "--test", "judgement", "j5-freed"],
        what: "ends a pVM that still has a page, then reclaims the page by force",
        demand: "the end is refused (EBUSY) or returns the page zeroed; else EPERM, never EAGAIN",
        cpus: &[],
        big: None,
        c_saw: "force_reclaim: EAGAIN",
    },
    Case {
        name: "j5-reused",
        argv: &["/init", "--test", "judgement", "j5-reused"],
        what: "the same, after another pVM took the handle and has a page at the same address",
        demand: "the end is refused (EBUSY) or returns the page zeroed; else EPERM",
        cpus: &[],
        big: None,
        c_saw: "nVHE hyp BUG|no end",
    },
    Case {
        name: "j6-px",
        argv: &["/init", "--test", "judgement", "j6-px"],
        what: "shares a page executable for EL1 alone, on a CPU without FEAT_XNX",
        demand: "EINVAL",
        cpus: &["cortex-a57", "cortex-a72", "cortex-a53"],
        big: None,
        c_saw: "nVHE hyp BUG|no end",
    },
    Case {
        name: "j6-ux",
        argv: &["/init", "--test", "judgement", "j6-ux"],
        what: "shares a page executable for EL0 alone, on a CPU without FEAT_XNX",
        demand: "EINVAL",
        cpus: &["cortex-a57", "cortex-a72", "cortex-a53"],
        big: None,
        c_saw: "nVHE hyp BUG|no end",
    },
    Case {
        name: "j7",
        argv: &["/init", "--test", "judgement", "j7"],
        what: "``__pkvm_host_test_clear_young_guest`` (36) one page beyond the guest's address space",
        demand: "ERANGE",
        cpus: &[],
        big: None,
        c_saw: "nVHE hyp BUG|no end",
    },
    Case {
        name: "j8",
        argv: &["/init", "--test", "judgement", "j8"],
        what: "``__pkvm_init_vm`` (40) with a concatenated first table that is not aligned to its size",
        demand: "EINVAL, nothing donated",
        cpus: &["max", "cortex-a53"],
        big: None,
        c_saw: "nVHE hyp panic|no end",
    },
    Case {
        name: "j9",
        argv: &["/init", "--test", "judgement", "j9"],
        what: "runs a vCPU with ``debug_owner`` = 3",
        demand: "the value means that nobody owns them; the guest runs",
        cpus: &[],
        big: None,
        c_saw: "nVHE hyp panic",
    },
    Case {
        name: "j10",
        argv: &["/init", "--test", "judgement", "j10"],
        what: "pins one page 65538 times, by vCPUs that share a host structure",
        demand: "an error at the latest when the count is full",
        cpus: &[],
        big: Some((300, 2560)),
        c_saw: "nVHE hyp BUG|no end",
    },
    Case {
        name: "j14-write",
        argv: &["/init", "--test", "judgement", "j14-write"],
        what: "writes a page of EL2's text, which it may read",
        demand: "an abort",
        cpus: &[],
        big: None,
        c_saw: "no end",
    },
    Case {
        name: "j14-exec",
        argv: &["/init", "--test", "judgement", "j14-exec"],
        what: "executes from the console's registers",
        demand: "an abort",
        cpus: &[],
        big: None,
        c_saw: "no end",
    },
    Case {
        name: "j17",
        argv: &["/init", "--test", "judgement", "j17"],
        what: "reads SMCR_EL1, which EL2 traps when the kernel knows no SME",
        demand: "undefined instruction",
        cpus: &["max"],
        big: None,
        c_saw: "nVHE hyp BUG",
    },
    Case {
        name: "j28",
        argv: &["/init", "--test", "judgement", "j28"],
        what: "runs a protected guest's vCPU that was caught in AArch32 state",
        demand: "x1=3, the exit code of an illegal state",
        cpus: &["max", "cortex-a57"],
        big: None,
        c_saw: "x1=2",
    },
    Case {
        name: "j29",
        argv: &["/init", "--test", "judgement", "j29"],
        what: "asks for none of the traps of MDCR_EL2; the protected guest reads PMCR_EL0",
        demand: "undefined instruction",
        cpus: &[],
        big: None,
        c_saw: "PMCR_EL0 read as",
    },
    Case {
        name: "j30",
        argv: &["/init", "--test", "judgement", "j30"],
        what: "``__pkvm_init_vm`` with ``vgic_model`` of a GICv5 on a GICv3 machine, then runs the VM",
        demand: "EINVAL",
        cpus: &[],
        big: None,
        c_saw: "nVHE hyp panic",
    },
    Case {
        name: "j31",
        argv: &["/init", "--test", "judgement", "j31"],
        what: "``is_protected`` = 2, 0x80, 0xfe, 0xff",
        demand: "all are a pVM",
        cpus: &[],
        big: None,
        c_saw: "0x2: EINVAL, 0x80: EINVAL, 0xfe: EINVAL, 0xff: EINVAL",
    },
    Case {
        name: "j32",
        argv: &["/init", "--test", "judgement", "j32"],
        what: "``__pkvm_host_donate_guest`` (31) with a memcache of 1000 pages",
        demand: "at most 4 times what a mapping needs is taken",
        cpus: &[],
        big: None,
        c_saw: "1000 of 1000",
    },
    Case {
        name: "j33",
        argv: &["/init", "--test", "judgement", "j33"],
        what: "looks at all that the end of a pVM returns",
        demand: "zero but for the links",
        cpus: &[],
        big: None,
        c_saw: "came back zero",
    },
    Case {
        name: "j34",
        argv: &["/init", "--test", "judgement", "j34"],
        what: "ends a normal VM with a page still shared, then uses the page",
        demand: "EBUSY, or the page is free again",
        cpus: &[],
        big: None,
        c_saw: "finalize_teardown: 0; then the page shared with EL2: EPERM",
    },
    Case {
        name: "j41",
        argv: &["/init", "--test", "judgement", "j41"],
        what: "page and frame numbers with bit 52 set, in every call that takes one",
        demand: "EINVAL for a host's page, ERANGE for a guest's",
        cpus: &[],
        big: None,
        c_saw: "accepted",
    },
    Case {
        name: "j43",
        argv: &["/init", "--test", "judgement", "j43"],
        what: "``__pkvm_init_vm`` with a first table on pages that are pinned, or EL2's already",
        demand: "an errno; a proper one works afterwards",
        cpus: &[],
        big: None,
        c_saw: "a proper one: 0",
    },
    Case {
        name: "j48",
        argv: &["/init", "--test", "judgement", "j48"],
        what: "pends a virtual SError (HCR_EL2.VSE) and runs the vCPU four times",
        demand: "the guest takes it once, and the host sees that it is pending no more",
        cpus: &[],
        big: None,
        c_saw: "4 SErrors in 4 runs, still pending",
    },
    Case {
        name: "j11-pin",
        argv: &["/init", "--test", "judgement", "j11-pin"],
        what: "unmaps FF-A buffers of which one has a second pin",
        demand: "the buffers are unmapped, and the page stays pinned",
        cpus: &["max"],
        big: None,
        c_saw: "nVHE hyp BUG|no end",
    },
    Case {
        name: "j12-fragment",
        argv: &["/init", "--test", "judgement", "j12-fragment"],
        what: "``FFA_MEM_FRAG_TX`` with an unknown handle and a range of EL2's memory",
        demand: "INVALID_PARAMETERS",
        cpus: &["max"],
        big: None,
        c_saw: "nVHE hyp BUG|no end",
    },
    Case {
        name: "j19-late",
        argv: &["/init", "--test", "judgement", "j19-late"],
        what: "firmware refuses FF-A at boot and serves it later; the host negotiates, and reclaims a handle",
        demand: "FFA_VERSION is refused, as is all else",
        cpus: &["max"],
        big: None,
        c_saw: "nVHE hyp panic|no end",
    },
    Case {
        name: "j20-bit31",
        argv: &["/init", "--test", "judgement", "j20-bit31"],
        what: "``FFA_VERSION`` 1.0 with bit 31 set, which firmware overlooks",
        demand: "NOT_SUPPORTED",
        cpus: &["max"],
        big: None,
        c_saw: "0x80010000",
    },
    Case {
        name: "j21-other",
        argv: &["/init", "--test", "judgement", "j21-other"],
        what: "firmware returns another descriptor than was sent, when a page is reclaimed",
        demand: "the page that was shared is the host's again",
        cpus: &["max"],
        big: None,
        c_saw: "nVHE hyp BUG|no end",
    },
    Case {
        name: "j22-offset",
        argv: &["/init", "--test", "judgement", "j22-offset"],
        what: "firmware takes a fragment and names a wrong offset for the next",
        demand: "an error; no page is the secure world's and free",
        cpus: &["max"],
        big: None,
        c_saw: "the secure world's: true, free for others: true",
    },
    Case {
        name: "j23-zero",
        argv: &["/init", "--test", "judgement", "j23-zero"],
        what: "firmware returns a descriptor in fragments of no bytes",
        demand: "the page is the host's again",
        cpus: &["max"],
        big: None,
        c_saw: "no end",
    },
    Case {
        name: "j23-huge",
        argv: &["/init", "--test", "judgement", "j23-huge"],
        what: "firmware returns a descriptor with a fragment of 64 KiB, which the C object copies over what follows its buffer",
        demand: "the page is the host's again",
        cpus: &["max"],
        big: None,
        c_saw: "RECLAIM: Success",
    },
    Case {
        name: "j23-long",
        argv: &["/init", "--test", "judgement", "j23-long"],
        what: "firmware returns a first fragment longer than a page",
        demand: "the page is the host's again",
        cpus: &["max"],
        big: None,
        c_saw: "the page is the host's: false",
    },
    Case {
        name: "j23-short",
        argv: &["/init", "--test", "judgement", "j23-short"],
        what: "firmware returns a first fragment shorter than a header",
        demand: "the page is the host's again",
        cpus: &["max"],
        big: None,
        c_saw: "the page is the host's: false",
    },
    Case {
        name: "j23-wrap",
        argv: &["/init", "--test", "judgement", "j23-wrap"],
        what: "firmware returns a descriptor whose offset wraps",
        demand: "the page is the host's again",
        cpus: &["max"],
        big: None,
        c_saw: "the page is the host's: false",
    },
    Case {
        name: "j23-count",
        argv: &["/init", "--test", "judgement", "j23-count"],
        what: "firmware returns a descriptor with more ranges than it has room for",
        demand: "the page is the host's again",
        cpus: &["max"],
        big: None,
        c_saw: "the page is the host's: false",
    },
    Case {
        name: "j24",
        argv: &["/init", "--test", "judgement", "j24"],
        what: "firmware names so many partitions that their size wraps",
        demand: "an error",
        cpus: &["max"],
        big: None,
        c_saw: "Success",
    },
    Case {
        name: "j25-address",
        argv: &["/init", "--test", "judgement", "j25-address"],
        what: "firmware answers -1 and leaves the registers, when EL2 maps its buffers",
        demand: "an FF-A error code",
        cpus: &["max"],
        big: None,
        c_saw: "an address of EL2's",
    },
    Case {
        name: "j25-zero",
        argv: &["/init", "--test", "judgement", "j25-zero"],
        what: "firmware answers FFA_ERROR with the code 0, when EL2 maps its buffers",
        demand: "an FF-A error code",
        cpus: &["max"],
        big: None,
        c_saw: "Success",
    },
    Case {
        name: "j26",
        argv: &["/init", "--test", "judgement", "j26"],
        what: "FF-A calls that are on no list",
        demand: "none reaches firmware",
        cpus: &["max"],
        big: None,
        c_saw: "11 of 11 reached firmware",
    },
];

use crate::args::Hyp;
use crate::results::{self, Row};
use std::fmt::Write as _;
use std::path::Path;

/// The case behind a test, if its suite holds judgements.
pub fn find(suite: &str, test: &str) -> Option<&'static Case> {
    if suite != "judgements" {
        return None;
    }
    CASES.iter().find(|case| case.name == test)
}

/// What a test reported: its last `seen: ` line, or else the last thing that it or init said.
pub fn seen(diagnostics: &[String]) -> Option<String> {
    let report = diagnostics
        .iter()
        .rev()
        .find_map(|line| line.strip_prefix("seen: "));
    report
        .or(diagnostics.last().map(String::as_str))
        .map(str::to_owned)
}

/// Keeps what a case showed, in place of what it showed the time before.
pub fn record(dir: &Path, hyp: Hyp, cpu: &str, case: &Case, met: bool, seen: &str) {
    let row = Row {
        name: case.name.to_owned(),
        cpu: cpu.to_owned(),
        met,
        seen: seen.to_owned(),
    };
    results::record(&crate::results_file(dir, hyp), row);
}

/// Writes the table of the documentation from the results of runs.
///
/// # Errors
/// The file cannot be written, or the C object's results are missing.
pub fn write_table(out: &Path, c: Option<&Path>, rust: Option<&Path>) -> Result<(), String> {
    let c = results::rows(c.ok_or("--judgements needs --c-results")?);
    let rust = rust.map(results::rows).unwrap_or_default();
    if c.is_empty() {
        return Err("the file of the C object's results holds none".to_owned());
    }
    let mut text = String::from(HEAD);
    for case in CASES {
        let _ = writeln!(text, "   * - {}", case.name);
        let _ = writeln!(text, "     - {}", case.what);
        let _ = writeln!(text, "     - {}", case.demand);
        results::cell(&mut text, &c, case.name);
        results::cell(&mut text, &rust, case.name);
    }
    std::fs::write(out, text).map_err(|e| format!("{}: {e}", out.display()))
}

const HEAD: &str = "\
.. SPDX-License-Identifier: GPL-2.0-only

==========================
Judgements on the C object
==========================

..
   This file is written by ``pkvm-runner --judgements``; do not edit it.

Reading the C object's source against the specification left a list of cases in which a host could end the machine,
keep a page for ever, or slip an argument past a check. Each became a test of its own, with a boot of its own
(``pkvm-runner --suite judgements``), and ran first on the kernel's C object: the table says what each case did
there, in the words of the test or, where the machine died, of the line with which it died. The last column is the
same on the Rust object, where it may have been run on more CPU models.

Where the C object's machine had \"no end, CPUs at EL2\", it stopped at a check that failed while EL2 held the lock of
the host's stage 2: the host, told to report the death, touched memory that was not mapped yet, and its abort waits at
EL2 for that lock. Whether the report (``hyp BUG at``) gets out before is a matter of luck.

.. list-table::
   :header-rows: 1
   :widths: 12 25 18 25 20

   * - Case
     - What the host does
     - Demand
     - C object
     - Rust object
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_report_counts() {
        let lines = ["a", "seen: x1=0", "seen: x1=-22", "b"].map(String::from);
        assert_eq!(seen(&lines).as_deref(), Some("x1=-22"));
        assert_eq!(seen(&lines[..1]).as_deref(), Some("a"));
        assert_eq!(seen(&[]), None);
    }
}
