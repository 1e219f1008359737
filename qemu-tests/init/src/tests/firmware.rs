// SPDX-License-Identifier: GPL-2.0-only
//! Which of the host's SMCs reach firmware, as the monitor at EL3 saw it: what comes back in x0 does not tell, since
//! firmware refuses in the same words as EL2. FF-A has tests of its own.

use super::judgements::seen;
use super::{Fail, Outcome, pin_to_cpu};
use crate::hostile::monitor::Event;
use crate::hostile::{Hostile, Monitor, Reply};
use crate::ktap::{Sub, note};

/// x1 to x3 where a call does not care. As a PSCI power state, address, type or function they are of nothing.
const ARGS: [u64; 3] = [0x7000_0011, 0x7000_0022, 0x7000_0033];
/// Bit 16 of a function number, which is no part of it.
const HINT: u64 = 1 << 16;
const SMCCC_ARCH_FEATURES: u64 = 0x8000_0001;

/// Issues an SMC and says what came back and what reached firmware meanwhile.
fn issue(
    h: &Hostile,
    monitor: &Monitor<'_>,
    imm: u64,
    words: [u64; 4],
) -> Result<(Reply, Vec<[u64; 4]>), String> {
    let mut regs: [u64; 18] = std::array::from_fn(|n| 0xca4a_0000 + n as u64);
    regs[..4].copy_from_slice(&words);
    let mark = monitor.count(Event::Smc)?;
    let reply = h.smc(imm, regs).map_err(|e| e.to_string())?;
    let mut smcs = monitor.smcs_since(mark)?;
    // The kernel asks which mitigations there are whenever it likes, on the other CPU too.
    smcs.retain(|smc| smc[0] != SMCCC_ARCH_FEATURES);
    Ok((reply, smcs))
}

const fn with_args(x0: u64) -> [u64; 4] {
    [x0, ARGS[0], ARGS[1], ARGS[2]]
}

/// J3: calls that would let firmware enter EL2 at the host's word or take EL2's memory, and spellings of calls that no
/// filter knows. PSCI and FF-A with a reserved bit are calls to firmware that looks at the rest of the number alone.
const UNLISTED: &[(&str, &[u64])] = &[
    // VERSION, EVENT_REGISTER twice, PE_UNMASK, SHARED_RESET.
    (
        "SDEI",
        &[
            0xc400_0020,
            0xc400_0021,
            0xc400_0021 | HINT,
            0xc400_002c,
            0x8400_0032,
        ],
    ),
    // VERSION, DYNAMIC_LAUNCH.
    ("DRTM", &[0xc400_0110, 0xc400_0114]),
    // VERSION, GRANULE_DELEGATE in three spellings, GRANULE_UNDELEGATE.
    (
        "RMI",
        &[
            0xc400_0150,
            0xc400_0151,
            0x8400_0151,
            0xc400_0151 | HINT,
            0xc400_0152,
        ],
    ),
    // PRIME, ACTIVATE.
    ("firmware activation", &[0xc400_02e3, 0xc400_02e4]),
    ("unassigned standard calls", &[0x8400_0100, 0xc400_7fff]),
    // By which KVM's guests give memory away.
    ("memory sharing of hypervisors", &[0xc600_0003, 0xc600_0004]),
    // CPU_ON twice, FFA_VERSION, FFA_MEM_SHARE.
    (
        "reserved bits",
        &[
            0xc400_0003 | 1 << 17,
            0xc400_0003 | 1 << 23,
            0x8400_0063 | 1 << 18,
            0xc400_0073 | 1 << 20,
        ],
    ),
    ("yielding", &[0x4400_0003, 0x0400_0003, 0x4400_0073]),
    // CPU_ON, and calls that pass without the bits.
    (
        "upper bits",
        &[
            0xc400_0003 | 1 << 32,
            0xc200_0001 | 1 << 63,
            0xffff_ffff_8000_0000,
        ],
    ),
];

/// Calls that must pass as they are: SMCCC_VERSION, a mitigation, TRNG_VERSION, the chip's, the board's, the trusted OS's.
const LISTED: [u64; 6] = [
    0x8000_0000,
    0x8000_8000,
    0x8400_0050,
    0xc200_0001,
    0xc300_ffff,
    0xb200_ff01,
];

/// J3: none of the calls that are on no list reaches firmware, and those that are on it do.
pub fn unlisted(h: &Hostile) -> Result<bool, Fail> {
    let monitor = Monitor::find(h)?;
    let mut good = true;
    let mut said = Vec::new();
    let mut sum = 0;
    let mut count = |what: &str, calls: &mut dyn Iterator<Item = (u64, u64)>| -> Result<(), String> {
        let (mut all, mut reached) = (0, 0);
        for (imm, function) in calls {
            let words = with_args(function);
            let (reply, smcs) = issue(h, &monitor, imm, words)?;
            all += 1;
            reached += usize::from(!smcs.is_empty());
            let kept = reply.regs[1] == words[1] && reply.clobbered.is_none();
            if reply.x0() != -1 || !kept {
                note(&format!("{what} {function:#x}: {reply}"));
                good = false;
            }
        }
        if reached != 0 {
            good = false;
            said.push(format!("{what} {reached} of {all}"));
        }
        sum += all;
        Ok(())
    };
    for (what, calls) in UNLISTED {
        count(what, &mut calls.iter().map(|function| (0, *function)))?;
    }
    // The immediate is no part of the convention: with one, nothing passes.
    count("SMC #1", &mut LISTED.iter().map(|function| (1, *function)))?;
    let mut passed = 0;
    for function in LISTED {
        let words = with_args(function);
        let (reply, smcs) = issue(h, &monitor, 0, words)?;
        let answer = if function == 0x8000_0000 { 0x1_0003 } else { -1 };
        if smcs == [words] && reply.x0() == answer {
            passed += 1;
        } else {
            note(&format!("{function:#x}: {reply}, firmware saw {smcs:x?}"));
        }
    }
    good &= passed == LISTED.len();
    if said.is_empty() {
        said.push(format!("none of {sum}"));
    }
    seen(&format!(
        "{} reached firmware; of those on the list {passed} of {}",
        said.join(", "),
        LISTED.len()
    ));
    Ok(good)
}

/// What becomes of a PSCI call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// It reaches firmware as it is.
    As,
    /// It does so with EL2's own entry point in x2 and context in x3.
    Entry23,
    /// The same in x1 and x2.
    Entry12,
}

const PSCI_VERSION: u64 = 0x8400_0000;

/// The PSCI calls that reach firmware, without PSCI_VERSION: the function, the first version that has it, the way, x1,
/// and what the monitor answers while it refuses.
const PSCI: &[(u64, u64, Way, u64, i64)] = &[
    // CPU_OFF: DENIED.
    (0x8400_0002, 0x0_0002, Way::As, ARGS[0], -3),
    // CPU_SUSPEND, with a state that there is not: INVALID_PARAMETERS.
    (0xc400_0001, 0x0_0002, Way::Entry23, ARGS[0], -2),
    // CPU_ON of the first CPU, which is on: ALREADY_ON.
    (0xc400_0003, 0x0_0002, Way::Entry23, 0, -4),
    // AFFINITY_INFO: INVALID_PARAMETERS.
    (0xc400_0004, 0x0_0002, Way::As, ARGS[0], -2),
    // MIGRATE, MIGRATE_INFO_TYPE, MIGRATE_INFO_UP_CPU: there is nothing that migrates.
    (0xc400_0005, 0x0_0002, Way::As, ARGS[0], -1),
    (0x8400_0006, 0x0_0002, Way::As, ARGS[0], 2),
    (0xc400_0007, 0x0_0002, Way::As, ARGS[0], -1),
    // SYSTEM_OFF, SYSTEM_RESET: INTERNAL_FAILURE.
    (0x8400_0008, 0x0_0002, Way::As, ARGS[0], -6),
    (0x8400_0009, 0x0_0002, Way::As, ARGS[0], -6),
    // PSCI_FEATURES of a call that is not; SYSTEM_SUSPEND; SET_SUSPEND_MODE to a mode that is not.
    (0x8400_000a, 0x1_0000, Way::As, ARGS[0], -1),
    (0xc400_000e, 0x1_0000, Way::Entry12, ARGS[0], -6),
    (0x8400_000f, 0x1_0000, Way::As, ARGS[0], -2),
    // SYSTEM_RESET2, SYSTEM_OFF2 in both widths.
    (0xc400_0012, 0x1_0001, Way::As, 0, -6),
    (0x8400_0015, 0x1_0003, Way::As, 1, -6),
    (0xc400_0015, 0x1_0003, Way::As, 1, -6),
];

/// Where EL2's code is: physical addresses.
fn text(h: &Hostile) -> Result<std::ops::Range<u64>, String> {
    let symbols = std::fs::read_to_string("/proc/kallsyms").map_err(|e| e.to_string())?;
    let find = |name: &str| {
        symbols
            .lines()
            .find_map(|line| line.strip_suffix(name)?.split(' ').next())
            .and_then(|at| u64::from_str_radix(at, 16).ok())
            .ok_or_else(|| format!("kallsyms does not have{name}"))
            .and_then(|at| h.pa_of(at).map_err(|e| e.to_string()))
    };
    Ok(find(" __hyp_idmap_text_start")?..find(" __hyp_text_end")?)
}

/// Makes PSCI calls, while the monitor refuses what would end something.
struct Psci<'a> {
    h: &'a Hostile,
    monitor: Monitor<'a>,
    text: std::ops::Range<u64>,
}

impl<'a> Psci<'a> {
    /// The monitor refuses from now on, until this is dropped.
    fn new(h: &'a Hostile) -> Result<Self, String> {
        pin_to_cpu(0)?;
        let monitor = Monitor::find(h)?;
        monitor.refuse(true)?;
        Ok(Self {
            monitor,
            text: text(h)?,
            h,
        })
    }

    /// Makes a call and says what is not as it must be. Without a way it must not reach firmware.
    fn call(&self, function: u64, way: Option<Way>, x1: u64, answer: i64) -> Result<Option<String>, String> {
        let words = [function, x1, ARGS[1], ARGS[2]];
        let (reply, smcs) = issue(self.h, &self.monitor, 0, words)?;
        let is_entry = |entry: &u64, context: &u64| self.text.contains(entry) && is_own(*context);
        let arrived = match (way, smcs.as_slice()) {
            (None, []) => true,
            (Some(Way::As), [smc]) => *smc == words,
            (Some(Way::Entry23), [[id, first, entry, context]]) => {
                (*id, *first) == (function, x1) && is_entry(entry, context)
            }
            (Some(Way::Entry12), [[id, entry, context, last]]) => {
                (*id, *last) == (function, 0) && is_entry(entry, context)
            }
            _ => false,
        };
        // The results of PSCI are four registers.
        let mut wanted: [u64; 18] = std::array::from_fn(|n| 0xca4a_0000 + n as u64);
        wanted[..4].copy_from_slice(&[answer.cast_unsigned(), 0, 0, 0]);
        Ok((!arrived || reply.regs != wanted).then(|| {
            format!(
                "{function:#x}: x0 to x3 are {:x?}, not {answer}; firmware saw {smcs:x?}",
                &reply.regs[..4]
            )
        }))
    }
}

impl Drop for Psci<'_> {
    fn drop(&mut self) {
        let _ = self.monitor.refuse(false);
    }
}

/// Whether a context can be EL2's, which is the address of a structure, and is none of the host's words.
fn is_own(context: u64) -> bool {
    !ARGS.contains(&context) && context != 0 && context.is_multiple_of(8)
}

/// All numbers of PSCI from version 0.2 on.
fn numbers() -> impl Iterator<Item = u64> {
    (0x8400_0000..0x8400_0020).chain(0xc400_0000..0xc400_0020)
}

/// Every number of PSCI, on firmware of the version that the first word names: what firmware sees, and what the host gets.
pub fn psci(sub: &mut Sub, words: &[String]) -> Outcome {
    let version: u64 = match words.first().map(String::as_str) {
        Some("0.2") => 0x0_0002,
        Some("1.3") => 0x1_0003,
        _ => return Err(Fail::Because("no version named".to_owned())),
    };
    let h = Hostile::open().map_err(|e| format!("/dev/hostile: {e}"))?;
    let psci = Psci::new(&h)?;
    let mut bad = [const { Vec::new() }; 3];
    let mut count = [0; 3];
    for function in numbers() {
        let row = PSCI.iter().find(|row| row.0 == function && row.1 <= version);
        let (way, x1, answer) = match row {
            Some(&(_, _, way, x1, answer)) => (Some(way), x1, answer),
            None if function == PSCI_VERSION => (Some(Way::As), ARGS[0], version.cast_signed()),
            None => (None, ARGS[0], -1),
        };
        let kind = match way {
            Some(Way::As) => 0,
            Some(_) => 1,
            None => 2,
        };
        count[kind] += 1;
        bad[kind].extend(psci.call(function, way, x1, answer)?);
    }
    let kinds = [
        "calls that reach firmware as they are",
        "calls that reach it with EL2's entry point",
        "calls that do not reach it",
    ];
    for ((what, count), bad) in kinds.iter().zip(count).zip(bad) {
        note(&format!("{what}: {count}"));
        let result = if bad.is_empty() {
            Ok(())
        } else {
            Err(bad.join("\n"))
        };
        sub.result(what, result);
    }
    Ok(())
}

/// J3: with PSCI 0.1 the four numbers of the device tree are PSCI, and no others. Firmware that has the standard ones too
/// must not get them from the host: CPU_ON among them would start a CPU at EL2.
pub fn standard_numbers(h: &Hostile) -> Result<bool, Fail> {
    // CPU_SUSPEND, CPU_OFF, CPU_ON, MIGRATE.
    const V0_1: [(u64, Option<Way>, u64, i64); 4] = [
        (0x95c1_ba5e, Some(Way::Entry23), ARGS[0], -2),
        (0x95c1_ba5f, Some(Way::As), ARGS[0], -3),
        (0x95c1_ba60, Some(Way::Entry23), 0, -4),
        (0x95c1_ba61, Some(Way::As), ARGS[0], -1),
    ];
    let psci = Psci::new(h)?;
    let (mut all, mut reached) = (0, 0);
    for function in numbers() {
        let (reply, smcs) = issue(h, &psci.monitor, 0, with_args(function))?;
        all += 1;
        reached += usize::from(!smcs.is_empty());
        if smcs.is_empty() && reply.x0() != -1 {
            return Err(Fail::Because(format!("{function:#x}: {reply}")));
        }
    }
    let mut right = 0;
    for (function, way, x1, answer) in V0_1 {
        match psci.call(function, way, x1, answer)? {
            None => right += 1,
            Some(bad) => note(&bad),
        }
    }
    seen(&format!(
        "{reached} of {all} standard numbers reached firmware; of the device tree's {right} of {} do as they must",
        V0_1.len()
    ));
    Ok(reached == 0 && right == V0_1.len())
}
