// SPDX-License-Identifier: GPL-2.0-only
//! The vectors for the time when a guest runs. Which mitigation of branch prediction a CPU gets is decided by a table's
//! place alone, and what becomes of an entry by the function of EL1 that its record names: no test of a CPU that needs
//! none of it would notice a wrong one. So every entry is compared with what has to be in it.

use super::object::{Alternative, Elf};
use super::{Outcome, Verdict, capability, configured, verdict};
use crate::kernel::Kernel;
use crate::sh;
use std::collections::BTreeMap;

/// Bytes of an entry and of a table of 16.
const ENTRY: u64 = 128;
const TABLE: u64 = 16 * ENTRY;
/// What of an entry of the plain table the one in front does in its place (`KVM_VECTOR_PREAMBLE`).
const PREAMBLE: u64 = 8;

const PLAIN: &str = "__kvm_hyp_vector";
const IN_FRONT: &str = "__bp_harden_hyp_vecs";

const ESB: u32 = 0xd503_221f;
const BTI_J: u32 = 0xd503_249f;
const NOP: u32 = 0xd503_201f;
/// `stp x0, x1, [sp, #-16]!`
const PUSH: u32 = 0xa9bf_07e0;
const SMC: u32 = 0xd400_0003;

/// How a table in front of the plain one mitigates.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// A call to firmware.
    Firmware,
    /// A loop of branches, or the CPU's own instruction.
    Branches,
}

/// The tables in front by their place, which is the kernel's `enum arm64_hyp_spectre_vector` less one: its name there, how
/// it mitigates, and whether it is reached by an address of its own and so leaves by an absolute branch.
const TABLES: [(&str, By, bool); 3] = [
    ("SPECTRE_DIRECT", By::Firmware, false),
    ("INDIRECT", By::Branches, true),
    ("SPECTRE_INDIRECT", By::Firmware, true),
];

/// Where an entry of the plain table goes: those for EL2 with SP_EL0 and with its own SP, and those for the guest in
/// AArch64 and in AArch32; a synchronous exception, IRQ, FIQ and SError each.
const HANDLERS: [&str; 16] = [
    "__guest_own_panic",
    "__guest_own_panic",
    "__guest_own_panic",
    "__guest_own_panic",
    "__guest_own_sync",
    "__guest_own_interrupt",
    "__guest_own_interrupt",
    "__guest_own_serror",
    "__guest_sync",
    "__guest_irq",
    "__guest_irq",
    "__guest_serror",
    "__guest_sync",
    "__guest_irq",
    "__guest_irq",
    "__guest_serror",
];

/// A part of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// This instruction.
    Is(u32),
    /// So many instructions that look for room on the stack; they depend on its size.
    Look(u64),
    /// These instructions, which this function of EL1 rewrites.
    By(&'static str, &'static [u32]),
    /// These instructions, which are others where the CPU has a capability.
    Or(&'static [u32]),
    /// A branch, with or without a condition, to so many bytes after a symbol.
    To(&'static str, u64),
}

impl Part {
    fn bytes(self) -> u64 {
        4 * match self {
            Self::Is(_) | Self::To(..) => 1,
            Self::Look(words) => words,
            Self::By(_, words) | Self::Or(words) => words.len() as u64,
        }
    }
}

/// Entry `n` of the plain table.
fn plain_entry(n: u64) -> Vec<Part> {
    let handler = Part::To(HANDLERS[n as usize & 15], 0);
    let mut parts = vec![Part::Is(ESB)];
    if n < 8 {
        parts.extend([
            Part::Is(0x1400_0003), // b . + 12
            Part::Is(BTI_J),
            handler,
            Part::Look(7),
            handler, // b.eq
        ]);
    }
    parts.push(Part::Is(PUSH));
    if n >= 8 {
        parts.push(Part::Is(BTI_J));
    }
    parts.push(handler);
    parts
}

/// Entry `n` of a table in front. `bhb` says whether the kernel has the mitigation by branches.
fn entry_in_front(n: u64, by: By, absolute: bool, bhb: bool) -> Vec<Part> {
    let mut parts = vec![Part::Is(ESB)];
    // EL2 taught the branch predictors itself what it may meet in exceptions of its own.
    if n < 8 {
        parts.extend([
            Part::Look(7),
            Part::Is(0x5400_0040), // b.eq . + 8
            Part::Is(PUSH),
        ]);
    } else if by == By::Firmware {
        parts.extend([
            Part::Is(0xd100_83ff), // sub sp, sp, #32
            Part::Is(0xa900_0fe2), // stp x2, x3, [sp]
            Part::Is(0xa901_07e0), // stp x0, x1, [sp, #16]
            // mov w0, #0x80008000: SMCCC_ARCH_WORKAROUND_1
            Part::By("spectre_bhb_patch_wa3", &[0x3201_83e0]),
            Part::Is(SMC),
            Part::Is(0xa8c1_0fe2), // ldp x2, x3, [sp], #16
        ]);
    } else {
        parts.push(Part::Is(PUSH));
        if bhb {
            parts.extend([
                Part::By("spectre_bhb_patch_loop_mitigation_enable", &[0x1400_0007]), // b . + 28
                Part::By("spectre_bhb_patch_loop_iter", &[0xd280_0400]),              // mov x0, #32
                Part::Is(0x1400_0001),                                                // b . + 4
                Part::Is(0xf100_0400),                                                // subs x0, x0, #1
                Part::Is(0x54ff_ffc1),                                                // b.ne . - 8
                Part::Or(&[0xd503_379f, 0xd503_3fdf]),                                // dsb nsh; isb, or SB
                Part::By("spectre_bhb_patch_clearbhb", &[0xd503_22df, 0xd503_3fdf]),  // clrbhb; isb
            ]);
        }
    }
    if absolute {
        parts.push(Part::By("kvm_patch_vector_branch", &[NOP; 4]));
    }
    parts.push(Part::To(PLAIN, n * ENTRY + PREAMBLE));
    parts
}

/// Every entry: the table's name, its own number, where it is from the symbol of its tables, and its parts.
fn entries(bhb: bool) -> Vec<(String, &'static str, u64, Vec<Part>)> {
    let plain = (0..16).map(|n| (format!("DIRECT entry {n}"), PLAIN, n * ENTRY, plain_entry(n)));
    let in_front =
        TABLES
            .iter()
            .zip((0u64..).step_by(TABLE as usize))
            .flat_map(|((name, by, absolute), table)| {
                (0..16).map(move |n| {
                    (
                        format!("{name} entry {n}"),
                        IN_FRONT,
                        table + n * ENTRY,
                        entry_in_front(n, *by, *absolute, bhb),
                    )
                })
            });
    plain.chain(in_front).collect()
}

/// Where the branch at a place leads.
fn branch_target(linked: &Elf, (section, at): (usize, u64)) -> Option<(usize, u64)> {
    const R_AARCH64_CONDBR19: u32 = 280;
    const R_AARCH64_JUMP26: u32 = 282;
    // The linker leaves both kinds to the last link, also within a section.
    let relocs = &linked.sections.get(&section)?.relocs;
    relocs
        .iter()
        .find(|r| r.offset == at && matches!(r.kind, R_AARCH64_CONDBR19 | R_AARCH64_JUMP26))?
        .target
}

/// The numbers of capabilities.
#[derive(Clone, Copy)]
struct Caps {
    /// Every system has it: a callback of this one is always called.
    always: u16,
    /// The CPUs have the instruction [`SB`].
    sb: u16,
}

/// The speculation barrier of CPUs that have one instruction for it.
const SB: u32 = 0xd503_30ff;

/// Compares one entry. `patched` are the records that nobody has claimed yet.
fn compare(
    linked: &Elf,
    caps: Caps,
    patched: &mut BTreeMap<(usize, u64), Alternative>,
    (section, mut at): (usize, u64),
    parts: &[Part],
) -> Result<(), String> {
    for part in parts {
        let place = (section, at);
        let words: &[u32] = match part {
            Part::Is(word) => std::slice::from_ref(word),
            Part::By(_, words) | Part::Or(words) => words,
            Part::Look(_) | Part::To(..) => &[],
        };
        for (word, at) in words.iter().zip((at..).step_by(4)) {
            match linked.word((section, at)) {
                Some(found) if found == *word => {}
                Some(found) => return Err(format!("{found:#010x} in the place of {word:#010x}")),
                None => return Err("ends early".to_owned()),
            }
        }
        match part {
            Part::By(function, words) => match patched.remove(&place) {
                Some(r) if r.callback && r.symbol == *function && usize::from(r.old) == 4 * words.len() => {
                    // With any other capability EL1 would call it only where a CPU has that.
                    if r.cap != caps.always {
                        return Err(format!("{function} is called for capability {}", r.cap));
                    }
                }
                Some(r) => return Err(format!("{} in the place of {function}", r.symbol)),
                None => return Err(format!("{function} does not write it")),
            },
            Part::Or(words) => match patched.remove(&place) {
                Some(r)
                    if !r.callback
                        && r.cap == caps.sb
                        && usize::from(r.old) == 4 * words.len()
                        && r.replacement.and_then(|at| linked.word(at)) == Some(SB) => {}
                _ => return Err("no capability chooses the speculation barrier".to_owned()),
            },
            Part::To(symbol, offset) => {
                let wanted = linked.symbol(symbol).map(|(s, start)| (s, start + offset));
                let found = branch_target(linked, place);
                if wanted.is_none() || found != wanted {
                    let found = found.map_or_else(|| "nowhere".to_owned(), |(s, at)| linked.place(s, at));
                    return Err(format!(
                        "a branch to {found} in the place of {symbol}+{offset:#x}"
                    ));
                }
            }
            Part::Is(_) | Part::Look(_) => {}
        }
        at += part.bytes();
    }
    Ok(())
}

fn check(linked: &Elf, bhb: bool, caps: Caps) -> Verdict {
    let (Some(plain), Some(in_front)) = (linked.symbol(PLAIN), linked.symbol(IN_FRONT)) else {
        return Err(vec![format!("no {PLAIN} or no {IN_FRONT}")]);
    };
    let within = |(section, at): (usize, u64)| {
        section == plain.0 && (plain.1..plain.1 + TABLE).contains(&at)
            || section == in_front.0 && (in_front.1..in_front.1 + 3 * TABLE).contains(&at)
    };
    let mut patched: BTreeMap<_, _> = linked
        .alternatives()
        .into_iter()
        .filter_map(|r| Some((r.place.filter(|place| within(*place))?, r)))
        .collect();
    let records = patched.len();
    let mut problems = Vec::new();
    for (symbol, (_, start)) in [(PLAIN, plain), (IN_FRONT, in_front)] {
        if start % TABLE != 0 {
            problems.push(format!("{symbol} is not aligned as VBAR_EL2 wants it"));
        }
    }
    let entries = entries(bhb);
    for (name, symbol, offset, parts) in &entries {
        let (section, start) = if *symbol == PLAIN { plain } else { in_front };
        if let Err(why) = compare(linked, caps, &mut patched, (section, start + offset), parts) {
            problems.push(format!("{name}: {why}"));
        }
    }
    // Whatever failed above has left its records here, too; they would only say the same again.
    if problems.is_empty() {
        problems.extend(patched.iter().map(|((section, at), r)| {
            format!(
                "{} rewrites {}, which nothing asks for",
                r.symbol,
                linked.place(*section, *at)
            )
        }));
    }
    verdict(
        problems,
        format!(
            "{} entries of 4 tables, {records} places that EL1 patches",
            entries.len()
        ),
    )
}

/// The check of the vectors for guests.
///
/// # Errors
/// One line: a file is missing, or does not tell the number of a capability.
pub fn run(kernel: &Kernel, linked: &Elf) -> Result<Outcome, String> {
    let config = sh::read(&kernel.dir.join(".config"))?;
    let caps = Caps {
        always: capability(kernel, "ALWAYS_SYSTEM")?,
        sb: capability(kernel, "HAS_SB")?,
    };
    Ok(Outcome {
        name: "guest-vectors",
        result: check(
            linked,
            configured(&config, "MITIGATE_SPECTRE_BRANCH_HISTORY"),
            caps,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::super::object::{Function, Reloc, Section};
    use super::*;

    const TEXT: usize = 1;
    const CAPS: Caps = Caps { always: 0, sb: 1 };
    /// Where the tables are in the section, after a word for each handler.
    const START: u64 = 4 * TABLE;

    /// An object with these entries, by their number in [`entries`], in the places of the entries.
    fn object(bhb: bool, order: impl Fn(usize) -> usize) -> Elf {
        let all = entries(bhb);
        let mut text = Section {
            name: ".hyp.text".to_owned(),
            exec: true,
            alloc: true,
            data: vec![0; (START + 4 * TABLE) as usize],
            ..Section::default()
        };
        text.data[..4].copy_from_slice(&SB.to_le_bytes());
        let mut table = Section {
            name: ".altinstructions".to_owned(),
            ..Section::default()
        };
        let mut functions: Vec<Function> = HANDLERS
            .iter()
            .zip((0u64..).step_by(4))
            .map(|(name, start)| function(name, start, start + 4))
            .collect();
        functions.push(function(PLAIN, START, START + TABLE));
        functions.push(function(IN_FRONT, START + TABLE, START + 4 * TABLE));
        let mut linked = Elf {
            functions,
            ..Elf::default()
        };
        for number in 0..all.len() {
            let (_, symbol, offset, _) = &all[number];
            let mut at = offset + if *symbol == PLAIN { START } else { START + TABLE };
            for part in &all[order(number)].3 {
                let mut put = |words: &[u32]| {
                    for (word, at) in words.iter().zip((at as usize..).step_by(4)) {
                        text.data[at..at + 4].copy_from_slice(&word.to_le_bytes());
                    }
                };
                match part {
                    Part::Is(word) => put(&[*word]),
                    Part::By(_, words) | Part::Or(words) => {
                        put(words);
                        record(&mut table, at, *part);
                    }
                    Part::To(symbol, offset) => {
                        let target = linked.symbol(symbol).map(|(s, start)| (s, start + offset));
                        text.relocs.push(reloc(at, 282, symbol, target));
                    }
                    Part::Look(_) => {}
                }
                at += part.bytes();
            }
        }
        linked.sections = [(TEXT, text), (2, table)].into();
        linked
    }

    fn function(name: &str, start: u64, end: u64) -> Function {
        Function {
            name: name.to_owned(),
            section: TEXT,
            start,
            end,
        }
    }

    fn reloc(offset: u64, kind: u32, symbol: &str, target: Option<(usize, u64)>) -> Reloc {
        Reloc {
            offset,
            kind,
            symbol: symbol.to_owned(),
            target,
        }
    }

    /// Adds the record for a part that is rewritten.
    fn record(table: &mut Section, at: u64, part: Part) {
        let end = table.data.len() as u64;
        table.relocs.push(reloc(end, 261, ".hyp.text", Some((TEXT, at))));
        let bytes = u8::try_from(part.bytes()).unwrap();
        if let Part::By(name, _) = part {
            table.relocs.push(reloc(end + 4, 261, name, None));
            table.data.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, bytes, 0]);
        } else {
            table
                .relocs
                .push(reloc(end + 4, 261, ".hyp.text", Some((TEXT, 0))));
            table.data.extend([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, bytes, bytes]);
        }
    }

    fn faults(linked: &Elf, bhb: bool) -> usize {
        check(linked, bhb, CAPS)
            .err()
            .map_or(0, |problems| problems.len())
    }

    #[test]
    fn entries_fit() {
        for (name, _, _, parts) in entries(true) {
            assert!(parts.iter().map(|p| p.bytes()).sum::<u64>() <= ENTRY, "{name}");
        }
    }

    #[test]
    fn the_tables_as_they_should_be_pass() {
        for bhb in [false, true] {
            assert_eq!(check(&object(bhb, |n| n), bhb, CAPS).err(), None);
        }
        // The loop of branches has to be there where the kernel was configured with it, and only there.
        assert_eq!(faults(&object(false, |n| n), true), 8);
        assert_eq!(faults(&object(true, |n| n), false), 8);
    }

    #[test]
    fn records_of_other_capabilities_are_faults() {
        for (byte, cap) in [(8, 3), (8, 1)] {
            let mut other = object(true, |n| n);
            let table = &mut other.sections.get_mut(&2).unwrap().data;
            let records = table.chunks_exact_mut(12);
            let changed = records.filter(|r| r[8] != cap).map(|r| r[byte] = cap).count();
            assert!(changed > 0 && faults(&other, true) > 0);
        }
        let mut other = object(true, |n| n);
        other.sections.get_mut(&TEXT).unwrap().data[0] ^= 1;
        assert!(faults(&other, true) > 0);
    }

    #[test]
    fn tables_in_each_others_place_are_faults() {
        for (a, b) in [(1, 2), (1, 3), (2, 3)] {
            let swapped = object(true, |n| match n / 16 {
                table if table == a => n % 16 + 16 * b,
                table if table == b => n % 16 + 16 * a,
                _ => n,
            });
            assert!(faults(&swapped, true) >= 16, "{a} {b}");
        }
    }

    #[test]
    fn entries_in_each_others_place_are_faults() {
        // Two of the plain table: a synchronous exception and an IRQ of the guest's.
        let swapped = object(true, |n| match n {
            8 => 9,
            9 => 8,
            n => n,
        });
        assert_eq!(faults(&swapped, true), 2);
    }

    #[test]
    fn every_record_is_missed() {
        let count = object(true, |n| n).alternatives().len();
        assert_eq!(count, 8 + (16 + 4 * 8) + (16 + 8));
        for number in 0..count as u64 {
            let mut linked = object(true, |n| n);
            let table = linked.sections.get_mut(&2).unwrap();
            // Somewhere else, so that it patches nothing of an entry.
            for r in table.relocs.iter_mut().filter(|r| r.offset == 12 * number) {
                r.target = Some((TEXT, 0));
            }
            assert_eq!(faults(&linked, true), 1, "record {number}");
        }
    }

    #[test]
    fn a_record_too_many_and_another_instruction_are_faults() {
        let mut linked = object(true, |n| n);
        record(
            linked.sections.get_mut(&2).unwrap(),
            START + 4,
            Part::By("kvm_update_va_mask", &[0]),
        );
        assert_eq!(faults(&linked, true), 1);
        let mut linked = object(true, |n| n);
        let call = (START + TABLE + 8 * ENTRY + 20) as usize;
        let data = &mut linked.sections.get_mut(&TEXT).unwrap().data;
        assert_eq!(data[call..call + 4], SMC.to_le_bytes());
        data[call..call + 4].copy_from_slice(&NOP.to_le_bytes());
        assert_eq!(faults(&linked, true), 1);
    }
}
