// SPDX-License-Identifier: GPL-2.0-only
//! Protections of calls and returns that the kernel's configuration asks for: EL2 must have them as the kernel has.
//! Assembler is left out where it says so itself; what the kernel does not ask for is not looked at.

use super::object::Elf;
use super::{Outcome, configured, stack, verdict};
use crate::kernel::Kernel;
use crate::sh::{self, cmd};

/// Sections that hold assembler alone: it takes care of itself, and is reviewed.
const ASSEMBLER: [&str; 3] = [".idmap.text", ".text.entry", ".text.vectors"];

/// The checks that this kernel's configuration calls for. `entered` are functions that no branch through a register
/// reaches though their address is taken.
///
/// # Errors
/// One line: a file is missing.
pub fn run(kernel: &Kernel, el2: &Elf, linked: &Elf, entered: &[String]) -> Result<Vec<Outcome>, String> {
    let config = sh::read(&kernel.dir.join(".config"))?;
    let has = |option: &str| configured(&config, option);
    let mut outcomes = Vec::new();
    if has("CFI") {
        outcomes.push(Outcome {
            name: "checked-calls",
            result: checked_calls(el2),
        });
    }
    if has("ARM64_BTI_KERNEL") {
        outcomes.push(Outcome {
            name: "landing-pads",
            result: landing_pads(linked, entered),
        });
    }
    if has("ARM64_PTR_AUTH_KERNEL") {
        outcomes.push(Outcome {
            name: "signed-returns",
            result: signed_returns(el2),
        });
    }
    if has("SHADOW_CALL_STACK") {
        outcomes.push(Outcome {
            name: "no-x18",
            result: no_x18(kernel)?,
        });
    }
    Ok(outcomes)
}

/// BLR.
fn calls_through(word: u32) -> Option<u32> {
    (word & 0xffff_fc1f == 0xd63f_0000).then_some(word >> 5 & 31)
}

/// The register whose target's type a kCFI trap has found wrong (asm/brk-imm.h: the immediate is 0x8000, with the
/// target's register in bits 4 to 0).
fn type_trap(word: u32) -> Option<u32> {
    let immediate = word >> 5 & 0xffff;
    (word & 0xffe0_001f == 0xd420_0000 && immediate & 0xfc00 == 0x8000).then_some(immediate & 31)
}

/// Compiled code calls through a register only after it has compared the type of what is there.
fn checked_calls(el2: &Elf) -> super::Verdict {
    let mut problems = Vec::new();
    let mut calls = 0;
    for (number, section) in el2.sections.iter().filter(|(_, s)| s.exec && s.alloc) {
        if ASSEMBLER.contains(&section.name.as_str()) {
            continue;
        }
        let mut before = 0;
        for (at, word) in el2.instructions(*number) {
            if let Some(register) = calls_through(word) {
                calls += 1;
                if type_trap(before) != Some(register) {
                    problems.push(format!(
                        "a call through x{register} without a check at {}",
                        el2.place(*number, at)
                    ));
                }
            }
            before = word;
        }
    }
    verdict(problems, format!("{calls} calls through a register"))
}

/// BTI, PACIASP and PACIBSP.
fn is_pad(word: u32) -> bool {
    word & 0xffff_ff3f == 0xd503_241f && word != 0xd503_241f || word & 0xffff_ffbf == 0xd503_233f
}

/// Whatever a pointer may lead to begins with a landing pad.
fn landing_pads(linked: &Elf, entered: &[String]) -> super::Verdict {
    let mut problems = Vec::new();
    let mut pads = 0;
    for index in stack::address_taken(linked) {
        let function = &linked.functions[index];
        if entered.contains(&function.name) {
            continue;
        }
        let first = linked
            .instructions(function.section)
            .find(|(at, _)| *at == function.start);
        match first {
            Some((_, word)) if is_pad(word) => pads += 1,
            _ => problems.push(format!("{} begins without a landing pad", function.name)),
        }
    }
    verdict(problems, format!("{pads} functions whose address is taken"))
}

/// Compiled code signs a return address before it stores it.
fn signed_returns(el2: &Elf) -> super::Verdict {
    const PACIASP: u32 = 0xd503_233f;
    let mut signed = vec![false; el2.functions.len()];
    let mut stored = vec![false; el2.functions.len()];
    for (number, section) in el2.sections.iter().filter(|(_, s)| s.exec && s.alloc) {
        if ASSEMBLER.contains(&section.name.as_str()) {
            continue;
        }
        for (at, word) in el2.instructions(*number) {
            if let Some(function) = el2.function_at(*number, at) {
                signed[function] |= word == PACIASP;
                // STP X29, X30, [SP, #imm] with or without writeback.
                stored[function] |= matches!(word & 0xffc0_7fff, 0xa900_7bfd | 0xa980_7bfd);
            }
        }
    }
    let problems = (0..el2.functions.len())
        .filter(|f| stored[*f] && !signed[*f])
        .map(|f| format!("{} stores an unsigned return address", el2.functions[f].name))
        .collect();
    let count = stored.iter().filter(|s| **s).count();
    verdict(problems, format!("{count} functions that store one"))
}

/// Compiled code leaves x18 to whom it belongs.
fn no_x18(kernel: &Kernel) -> Result<super::Verdict, String> {
    let mut objdump = cmd("aarch64-linux-gnu-objdump", ["-d", "--no-show-raw-insn"]);
    objdump.arg(kernel.nvhe().join("el2.nvhe.o"));
    let text = sh::output(objdump)?;
    let mut problems = Vec::new();
    let mut skip = false;
    let mut function = "";
    let mut count = 0u64;
    for line in text.lines() {
        if let Some(section) = line.strip_prefix("Disassembly of section ") {
            skip = ASSEMBLER.contains(&section.trim_end_matches(':'));
        } else if let Some((_, name)) = line.strip_suffix(">:").and_then(|l| l.split_once('<')) {
            function = name;
        } else if !skip {
            count += 1;
            let uses = |register: &str| {
                line.split(|c: char| !c.is_ascii_alphanumeric())
                    .any(|w| w == register)
            };
            if uses("x18") || uses("w18") {
                problems.push(format!("{function}: {}", line.trim()));
            }
        }
    }
    Ok(verdict(problems, format!("{count} lines of compiled code")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_known() {
        assert_eq!(calls_through(0xd63f_0100), Some(8));
        assert_eq!(calls_through(0xd61f_0100), None);
        // brk #0x8228
        assert_eq!(type_trap(0xd430_4500), Some(8));
        assert_eq!(type_trap(0xd421_0000), None);
        // bti c; bti j; bti jc; paciasp; pacibsp; then bti; nop; autiasp
        for word in [0xd503_245f, 0xd503_249f, 0xd503_24df, 0xd503_233f, 0xd503_237f] {
            assert!(is_pad(word), "{word:08x}");
        }
        for word in [0xd503_241f, 0xd503_201f, 0xd503_23bf] {
            assert!(!is_pad(word), "{word:08x}");
        }
    }
}
