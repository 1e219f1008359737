// SPDX-License-Identifier: GPL-2.0-only
//! Checks of the EL2 object of a kernel build: what is in it, what it asks for, and what it must never hold.
//!
//! `el2.nvhe.o` is what cargo gave, `kvm_nvhe.tmp.o` is that with the kernel's lib routines after `ld -r -T hyp.lds`.

mod a64;
mod flow;
mod object;
mod stack;
mod tags;
mod vectors;

use crate::kernel::{self, Kernel};
use crate::paths;
use crate::sh::{self, cmd};
use crate::ui;
use object::Elf;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// EL2's stack is one page, 4 KB at least. The deepest path has the panic at its end in it; what is left is for an
/// exception that EL2 itself takes: its vector pushes 16 bytes and goes to the panic.
const STACK_LIMIT: u64 = 4096 - 192;
/// Sections that the cargo object may bring: those that hyp.lds sorts, and the kernel's tables. An entry that ends in
/// `*` stands for all names that begin so.
const SECTIONS: &[&str] = &[
    ".text*",
    ".idmap.text",
    ".rodata*",
    ".data",
    ".data.*",
    ".data..percpu",
    ".data..ro_after_init",
    ".bss*",
    ".altinstructions",
    "__jump_table",
    "__kvm_ex_table",
    "__bug_table",
    // The trace's events; the kernel gathers them in the order of their names.
    ".hyp.event_ids.*",
    // Says that there are landing pads; the kernel's link drops it.
    ".note.gnu.property",
];
/// Of these, the ones that would be writable at EL2 though nothing writes them, or need a runtime.
const NOT_THESE: &[&str] = &[
    ".data.rel.ro*",
    ".tdata*",
    ".tbss*",
    ".init_array*",
    ".eh_frame*",
    ".got*",
    ".llvm*",
];
/// The kernel's tables: name, bytes of a record, what it records.
const TABLES: &[(&str, u64)] = &[
    (".altinstructions", 12),
    ("__jump_table", 16),
    ("__kvm_ex_table", 8),
    ("__bug_table", 12),
];

/// One check's outcome: a remark, or what is wrong.
pub struct Outcome {
    /// What was looked at.
    pub name: &'static str,
    /// The remark, or a line per fault.
    pub result: Result<String, Vec<String>>,
}

type Verdict = Result<String, Vec<String>>;

/// Whether the kernel was configured with an option, by its name without `CONFIG_`.
fn configured(config: &str, option: &str) -> bool {
    config.lines().any(|l| l == format!("CONFIG_{option}=y"))
}

/// The kernel's number of a CPU capability, by its name without `ARM64_`.
///
/// # Errors
/// One line: the build has no list of them, or not this one.
fn capability(kernel: &Kernel, name: &str) -> Result<u16, String> {
    let path = kernel.dir.join("arch/arm64/include/generated/asm/cpucap-defs.h");
    sh::read(&path)?
        .lines()
        .find_map(|l| {
            l.strip_prefix("#define ARM64_")?
                .strip_prefix(name)?
                .trim()
                .parse()
                .ok()
        })
        .ok_or_else(|| format!("{}: no ARM64_{name}", path.display()))
}

fn verdict(problems: Vec<String>, remark: String) -> Verdict {
    if problems.is_empty() {
        Ok(remark)
    } else {
        Err(problems)
    }
}

/// Runs all checks on a kernel build with the Rust EL2.
///
/// # Errors
/// One line: a file is missing or no object.
pub fn run(kernel: &Kernel) -> Result<Vec<Outcome>, String> {
    let nvhe = kernel.nvhe();
    let el2 = Elf::read(&nvhe.join("el2.nvhe.o"))?;
    let linked = Elf::read(&nvhe.join("kvm_nvhe.tmp.o"))?;
    let inputs = link_inputs(kernel)?;
    let lists = paths::root().join("linker");
    let undefined = words(&sh::read(&lists.join("allowed-undefined.txt"))?);
    let relocations = sh::read(&lists.join("allowed-relocations.txt"))?;
    let routines = words(&sh::read(&lists.join("kernel-objects.txt"))?)
        .iter()
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    let fp = words(&sh::read(&lists.join("allowed-fp.txt"))?);
    let indirect = indirect_calls(&sh::read(&lists.join("indirect-calls.txt"))?);
    let entered = words(&sh::read(&lists.join("no-landing-pad.txt"))?);
    let mut outcomes = vec![
        Outcome {
            name: "origin",
            result: origin(kernel, &inputs, &linked, &routines)?,
        },
        Outcome {
            name: "undefined-symbols",
            result: undefined_symbols(&linked, &undefined),
        },
        Outcome {
            name: "relocations",
            result: relocation_types(&linked, &relocations),
        },
        Outcome {
            name: "sections",
            result: section_names(&el2),
        },
        Outcome {
            name: "record-counts",
            result: record_counts(&inputs, &linked)?,
        },
        Outcome {
            name: "alternatives",
            result: alternatives(&linked),
        },
        Outcome {
            name: "no-fp-registers",
            result: no_fp(&linked, &fp)?,
        },
        Outcome {
            name: "stack-depth",
            result: stack_depth(&linked, &indirect)?,
        },
    ];
    outcomes.push(vectors::run(kernel, &linked)?);
    outcomes.extend(tags::run(kernel, &linked)?);
    let entered: Vec<String> = entered.into_iter().collect();
    outcomes.extend(flow::run(kernel, &el2, &linked, &entered)?);
    Ok(outcomes)
}

/// How large an EL2 object is.
pub struct Sizes {
    /// Bytes of instructions.
    pub text: u64,
    /// Bytes of constants.
    pub rodata: u64,
    /// Pointers that EL1 turns into EL2's at boot.
    pub pointers: u64,
}

/// Measures the EL2 object of a kernel build, of either kind.
///
/// # Errors
/// One line: it is not there.
pub fn sizes(kernel: &Kernel) -> Result<Sizes, String> {
    const R_AARCH64_ABS64: u32 = 257;
    let linked = Elf::read(&kernel.nvhe().join("kvm_nvhe.tmp.o"))?;
    let size = |name: &str| linked.section(name).map_or(0, |s| s.size);
    Ok(Sizes {
        text: size(".hyp.text") + size(".hyp.idmap.text"),
        rodata: size(".hyp.rodata"),
        pointers: linked
            .sections
            .values()
            .filter(|s| s.name.starts_with(".hyp"))
            .flat_map(|s| &s.relocs)
            .filter(|r| r.kind == R_AARCH64_ABS64)
            .count() as u64,
    })
}

/// Prints a line per check, and says how many passed and failed.
pub fn report(outcomes: &[Outcome]) -> (u32, u32) {
    let mut failed = 0;
    for Outcome { name, result } in outcomes {
        match result {
            Ok(remark) => ui::say(&format!("ok    object/{name} - {remark}")),
            Err(problems) => {
                failed += 1;
                ui::say(&format!("FAIL  object/{name} - {} faults", problems.len()));
                for problem in problems.iter().take(20) {
                    ui::say(&format!("      {problem}"));
                }
            }
        }
    }
    (u32::try_from(outcomes.len()).unwrap_or(u32::MAX) - failed, failed)
}

/// The words of a list, comments left out.
fn words(text: &str) -> BTreeSet<String> {
    text.lines()
        .map(|l| l.split('#').next().unwrap_or("").trim().to_owned())
        .filter(|l| !l.is_empty())
        .collect()
}

/// Lines of a part of a caller's symbol and the symbols that it calls through a register.
fn indirect_calls(text: &str) -> Vec<(String, Vec<String>)> {
    words(text)
        .iter()
        .filter_map(|line| {
            let mut names = line.split_whitespace().map(str::to_owned);
            Some((names.next()?, names.collect()))
        })
        .collect()
}

/// The objects that went into `kvm_nvhe.tmp.o`, from Kbuild's record of the command.
fn link_inputs(kernel: &Kernel) -> Result<Vec<PathBuf>, String> {
    let record = sh::read(&kernel.nvhe().join(".kvm_nvhe.tmp.o.cmd"))?;
    let line = record
        .lines()
        .find(|l| l.starts_with("savedcmd_"))
        .unwrap_or_default();
    let inputs: Vec<_> = line
        .split_whitespace()
        .filter(|w| w.ends_with(".nvhe.o"))
        .map(|w| kernel.dir.join(w))
        .collect();
    if inputs.is_empty() {
        return Err(format!(
            "{}: no record of how the EL2 object was linked",
            kernel.nvhe().display()
        ));
    }
    Ok(inputs)
}

/// Where all code comes from. The remark is a table of it.
fn origin(
    kernel: &Kernel,
    inputs: &[PathBuf],
    linked: &Elf,
    routines: &BTreeSet<String>,
) -> Result<Verdict, String> {
    let mut problems = Vec::new();
    let mut table = vec![("bytes of code".to_owned(), "from".to_owned())];
    let mut seen = BTreeSet::new();
    for object in inputs
        .iter()
        .chain(&kernel::nvhe_objects(&kernel.dir.join("arch/arm64/kvm/hyp"))?)
    {
        let object = object.canonicalize().unwrap_or_else(|_| object.clone());
        if !seen.insert(object.clone()) {
            continue;
        }
        let from = if object.ends_with("nvhe/el2.nvhe.o") {
            "this project".to_owned()
        } else {
            let source = kernel::source_of(&object)
                .ok_or_else(|| format!("{}: nobody knows what it is made from", object.display()))?;
            // Kbuild's own way is from the build directory where that holds the sources too.
            let source = kernel.dir.join(&source).canonicalize().unwrap_or_default();
            let name = source.file_name().unwrap_or_default().to_string_lossy();
            let is_routine = name.strip_suffix(".S").is_some_and(|n| routines.contains(n));
            if !is_routine || !source.parent().is_some_and(|dir| dir.ends_with("arch/arm64/lib")) {
                problems.push(format!(
                    "{} is not in linker/kernel-objects.txt (made from {})",
                    object.display(),
                    source.display()
                ));
            }
            format!("arch/arm64/lib/{name}")
        };
        table.push((Elf::read(&object)?.code().to_string(), from));
    }
    // A compiler of C names its source in the symbol table.
    problems.extend(
        linked
            .files
            .iter()
            .filter(|f| kernel::is_kind(f, "c"))
            .map(|f| format!("code of {f} is in the object")),
    );
    problems.sort();
    problems.dedup();
    let rows: Vec<_> = table
        .iter()
        .map(|(bytes, from)| format!("\n      {bytes:>13}  {from}"))
        .collect();
    Ok(verdict(
        problems,
        format!("{} objects{}", table.len() - 1, rows.concat()),
    ))
}

fn undefined_symbols(linked: &Elf, allowed: &BTreeSet<String>) -> Verdict {
    let problems: Vec<_> = linked
        .undefined
        .iter()
        .filter(|s| !allowed.contains(*s))
        .map(|s| format!("{s} is not in linker/allowed-undefined.txt"))
        .collect();
    verdict(
        problems,
        format!("{} of {} allowed", linked.undefined.len(), allowed.len()),
    )
}

fn relocation_types(linked: &Elf, list: &str) -> Verdict {
    let allowed: BTreeMap<&str, Vec<&str>> = list
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| {
            let mut words = l.split_whitespace();
            Some((words.next()?, words.collect()))
        })
        .collect();
    let mut count = 0usize;
    let mut problems = BTreeSet::new();
    for (number, section) in linked.sections.iter().filter(|(_, s)| s.alloc) {
        for reloc in &section.relocs {
            count += 1;
            let name = relocation_name(reloc.kind);
            let good = allowed
                .get(name.as_str())
                .is_some_and(|sections| sections.is_empty() || sections.contains(&section.name.as_str()));
            if !good {
                let place = linked.place(*number, reloc.offset);
                problems.insert(format!(
                    "{name} against {} in {} at {place}",
                    reloc.symbol, section.name
                ));
            }
        }
    }
    verdict(
        problems.into_iter().collect(),
        format!("{count}, all of allowed types"),
    )
}

/// The names of the types that gen-hyprel knows (ELF for the Arm 64-bit architecture, 5.7).
fn relocation_name(kind: u32) -> String {
    let name = match kind {
        257 => "ABS64",
        258 => "ABS32",
        260 => "PREL64",
        261 => "PREL32",
        262 => "PREL16",
        273 => "LD_PREL_LO19",
        274 => "ADR_PREL_LO21",
        275 => "ADR_PREL_PG_HI21",
        276 => "ADR_PREL_PG_HI21_NC",
        277 => "ADD_ABS_LO12_NC",
        278 => "LDST8_ABS_LO12_NC",
        279 => "TSTBR14",
        280 => "CONDBR19",
        282 => "JUMP26",
        283 => "CALL26",
        284 => "LDST16_ABS_LO12_NC",
        285 => "LDST32_ABS_LO12_NC",
        286 => "LDST64_ABS_LO12_NC",
        299 => "LDST128_ABS_LO12_NC",
        other => return format!("type {other}"),
    };
    format!("R_AARCH64_{name}")
}

fn matches(name: &str, patterns: &[&str]) -> bool {
    patterns.iter().any(|p| match p.strip_suffix('*') {
        Some(stem) => name.starts_with(stem),
        None => name == *p,
    })
}

fn section_names(el2: &Elf) -> Verdict {
    let loaded: Vec<_> = el2.sections.values().filter(|s| s.alloc && s.size > 0).collect();
    let mut problems: Vec<_> = loaded
        .iter()
        .filter(|s| !matches(&s.name, SECTIONS) || matches(&s.name, NOT_THESE))
        .map(|s| format!("{} ({} bytes) has no place at EL2", s.name, s.size))
        .collect();
    problems.extend(
        el2.sections
            .values()
            .filter(|s| s.name.starts_with(".llvm"))
            .map(|s| format!("{} holds bitcode", s.name)),
    );
    let total = |stem: &str| {
        loaded
            .iter()
            .filter(|s| s.name.starts_with(stem))
            .map(|s| s.size)
            .sum::<u64>()
    };
    let remark = format!(
        "text {}, rodata {}, data {}, bss {} bytes of Rust",
        total(".text"),
        total(".rodata"),
        total(".data"),
        total(".bss")
    );
    verdict(problems, remark)
}

/// The linker must not drop a table's records: nothing refers to them, so nobody would notice.
fn record_counts(inputs: &[PathBuf], linked: &Elf) -> Result<Verdict, String> {
    let mut wanted: BTreeMap<&str, u64> = BTreeMap::new();
    for input in inputs {
        let elf = Elf::read(input)?;
        for (table, _) in TABLES {
            let size: u64 = elf
                .sections
                .values()
                .filter(|s| s.name == *table)
                .map(|s| s.size)
                .sum();
            *wanted.entry(table).or_default() += size;
        }
    }
    let mut problems = Vec::new();
    let mut remark = Vec::new();
    for (table, record) in TABLES {
        let have = linked.section(table).map_or(0, |s| s.size);
        let want = wanted.get(table).copied().unwrap_or_default();
        if have != want || !have.is_multiple_of(*record) {
            problems.push(format!(
                "{table}: {have} bytes linked, {want} compiled, records of {record}"
            ));
        }
        remark.push(format!(
            "{} {}",
            have / record,
            table.trim_start_matches(['.', '_'])
        ));
    }
    if linked.section(".altinstructions").is_none() {
        problems.push("no .altinstructions at all: every CPU capability would read as absent".to_owned());
    }
    Ok(verdict(problems, remark.join(", ")))
}

/// An alternative replaces as many bytes as it has, unless a callback writes them.
fn alternatives(linked: &Elf) -> Verdict {
    let records = linked.alternatives();
    if records.is_empty() {
        return Err(vec!["there are none".into()]);
    }
    let problems = records
        .iter()
        .enumerate()
        .filter(|(_, r)| r.old == 0 || r.old % 4 != 0 || r.new != if r.callback { 0 } else { r.old })
        .map(|(index, r)| {
            format!(
                "record {index}, capability {}: {} bytes become {}",
                r.cap, r.old, r.new
            )
        })
        .collect();
    let callbacks = records.iter().filter(|r| r.callback).count();
    verdict(
        problems,
        format!("{} records, {callbacks} by callback", records.len()),
    )
}

/// Guests' and the host's FP registers are live at EL2, so only what saves and restores them may name them.
fn no_fp(linked: &Elf, allowed: &BTreeSet<String>) -> Result<Verdict, String> {
    let mut users: BTreeMap<String, (u32, u64, u32)> = BTreeMap::new();
    let mut all = 0u64;
    for (number, _) in linked.sections.iter().filter(|(_, s)| s.exec && s.alloc) {
        for (at, word) in linked.instructions(*number) {
            all += 1;
            if a64::uses_fp(word) {
                let name = linked
                    .function_at(*number, at)
                    .map_or_else(|| linked.place(*number, at), |f| linked.functions[f].name.clone());
                let user = users.entry(name).or_insert((0, at, word));
                user.0 += 1;
            }
        }
    }
    let names = demangle(&users.keys().cloned().collect::<Vec<_>>())?;
    let mut problems = Vec::new();
    let mut excused = 0;
    for ((_, (count, at, word)), name) in users.iter().zip(&names) {
        if allowed.iter().any(|a| without_hashes(name).contains(a.as_str())) {
            excused += count;
        } else {
            problems.push(format!(
                "{name}: {count} instructions, the first {word:#010x} at {at:#x}"
            ));
        }
    }
    Ok(verdict(
        problems,
        format!("{all} instructions, {excused} in the functions that save and restore FP state"),
    ))
}

/// `crate[1f2e]::item` as `crate::item`.
fn without_hashes(name: &str) -> String {
    name.split('[')
        .map(|part| part.split_once(']').map_or(part, |(_, rest)| rest))
        .collect()
}

fn demangle(names: &[String]) -> Result<Vec<String>, String> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let text = sh::output(cmd("aarch64-linux-gnu-c++filt", names))?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn stack_depth(linked: &Elf, known: &[(String, Vec<String>)]) -> Result<Verdict, String> {
    let depth = stack::depth(linked, known);
    let raw: Vec<String> = depth
        .path
        .iter()
        .map(|p| p.split(' ').next().unwrap_or_default().to_owned())
        .collect();
    let path: Vec<String> = demangle(&raw)?
        .iter()
        .map(|name| without_hashes(name))
        .zip(&depth.path)
        .map(|(name, old)| format!("{name}{}", old.find(' ').map_or("", |i| &old[i..])))
        .collect();
    let frame = demangle(std::slice::from_ref(&depth.frame.1))?;
    let mut problems = depth.problems;
    if depth.bytes > STACK_LIMIT {
        problems.push(format!(
            "{} bytes are more than {STACK_LIMIT}: {}",
            depth.bytes,
            path.join(" > ")
        ));
    }
    let remark = format!(
        "at most {} bytes over {} frames, largest frame {} in {}",
        depth.bytes,
        path.len(),
        depth.frame.0,
        frame.first().map_or("", String::as_str)
    );
    Ok(verdict(problems, remark))
}
