// SPDX-License-Identifier: GPL-2.0-only
//! RGSR_EL1 and GCR_EL1, which choose the tags that a world's IRG instructions give out: the entry to a guest and the
//! exit from it exchange them, in assembler, for a guest that has tags. A kernel without memory tagging has no such code.

use super::object::Elf;
use super::{Outcome, Verdict, capability, configured, verdict};
use crate::kernel::Kernel;
use crate::sh;

const NOP: u32 = 0xd503_201f;
/// `mrs x3, hcr_el2`
const MRS_HCR: u32 = 0xd53c_1103;
/// `tbz x3, #56`, without the distance.
const TBZ_ATA: u32 = 0xb6c0_0003;
/// `mrs x0` and `msr` of RGSR_EL1 (S3_0_C1_C0_5) and GCR_EL1 (S3_0_C1_C0_6).
const MRS_RGSR: u32 = 0xd538_10a0;
const MRS_GCR: u32 = 0xd538_10c0;
const MSR_RGSR: u32 = 0xd518_10a0;
const MSR_GCR: u32 = 0xd518_10c0;

/// The instructions that exchange the registers.
const EXCHANGE: usize = 11;

/// `str` or `ldr` of a 64-bit register with an offset: whether it loads, the register, its base and the offset.
fn access(word: u32) -> Option<(bool, u32, u32, u32)> {
    let parts = (
        word >> 22 & 1 == 1,
        word & 31,
        word >> 5 & 31,
        (word >> 10 & 0xfff) * 8,
    );
    (word & 0xff80_0000 == 0xf900_0000).then_some(parts)
}

/// Where in a context the two are, if `words` exchange them as they should: to the context at register `save`, from that
/// at register `load`, and only with HCR_EL2.ATA set. All is skipped by the first instruction.
fn exchange(words: &[u32; EXCHANGE], save: u32, load: u32) -> Result<(u32, u32), &'static str> {
    let [
        skip,
        mrs_hcr,
        test,
        mrs_rgsr,
        mrs_gcr,
        a,
        b,
        c,
        d,
        msr_rgsr,
        msr_gcr,
    ] = *words;
    if mrs_hcr != MRS_HCR || test & 0xfff8_001f != TBZ_ATA {
        return Err("HCR_EL2.ATA does not decide");
    }
    // Both branches leave the exchange whole: B counts from the first instruction, TBZ from the third.
    let (b_words, tbz_words) = (skip & 0x03ff_ffff, test >> 5 & 0x3fff);
    if skip >> 26 != 0x05 || b_words != tbz_words + 2 || b_words < EXCHANGE as u32 {
        return Err("the branches do not leave the exchange out");
    }
    if (mrs_rgsr, mrs_gcr, msr_rgsr, msr_gcr) != (MRS_RGSR | 3, MRS_GCR | 4, MSR_RGSR | 3, MSR_GCR | 4) {
        return Err("other registers change");
    }
    let Some(((false, 3, save_rgsr, rgsr), (false, 4, save_gcr, gcr))) = access(a).zip(access(b)) else {
        return Err("they are not saved");
    };
    let Some((rgsr_again, gcr_again)) = access(c).zip(access(d)) else {
        return Err("they are not loaded");
    };
    if (save_rgsr, save_gcr) != (save, save)
        || rgsr_again != (true, 3, load, rgsr)
        || gcr_again != (true, 4, load, gcr)
        || rgsr == gcr
    {
        return Err("they come from or go to another place");
    }
    Ok((rgsr, gcr))
}

/// Checks one function: whose instructions are where, and that one record with the capability turns the skip off.
fn one(linked: &Elf, function: &str, save: u32, load: u32, mte: u16) -> Result<(u32, u32), String> {
    let (section, start) = linked.symbol(function).ok_or("it is not there")?;
    let end = linked
        .functions
        .iter()
        .find(|f| f.name == function)
        .map_or(start, |f| f.end);
    let at = (start..end)
        .step_by(4)
        .find(|at| linked.word((section, *at)).is_some_and(|w| w & !31 == MRS_RGSR))
        .ok_or("it never reads RGSR_EL1")?;
    let first = at
        .checked_sub(12)
        .filter(|first| *first >= start)
        .ok_or("it begins too late")?;
    let mut words = [0; EXCHANGE];
    for (word, at) in words.iter_mut().zip((first..).step_by(4)) {
        *word = linked.word((section, at)).unwrap_or_default();
    }
    let record = linked
        .alternatives()
        .into_iter()
        .find(|r| r.place == Some((section, first)))
        .ok_or("no record turns the first branch off")?;
    let becomes = record.replacement.and_then(|place| linked.word(place));
    if record.callback || record.cap != mte || record.old != 4 || becomes != Some(NOP) {
        return Err("another capability than ARM64_MTE decides".to_owned());
    }
    Ok(exchange(&words, save, load)?)
}

fn check(linked: &Elf, mte: u16) -> Verdict {
    let mut problems = Vec::new();
    let mut places = Vec::new();
    // The entry has the host's context in x2 and the guest's in x29, the exit has the guest's in x1.
    for (function, save, load) in [("__guest_enter", 2, 29), ("__guest_exit", 1, 2)] {
        match one(linked, function, save, load, mte) {
            Ok(place) => places.push(place),
            Err(why) => problems.push(format!("{function}: {why}")),
        }
    }
    if let [entry, exit] = places[..]
        && entry != exit
    {
        problems.push("entry and exit differ in where they keep the registers".to_owned());
    }
    verdict(
        problems,
        "entry and exit exchange RGSR_EL1 and GCR_EL1".to_owned(),
    )
}

/// The check of a kernel with memory tagging.
///
/// # Errors
/// One line: a file is missing, or does not tell the number of the capability.
pub fn run(kernel: &Kernel, linked: &Elf) -> Result<Option<Outcome>, String> {
    let config = sh::read(&kernel.dir.join(".config"))?;
    if !configured(&config, "ARM64_MTE") {
        return Ok(None);
    }
    let mte = capability(kernel, "MTE")?;
    Ok(Some(Outcome {
        name: "tag-registers",
        result: check(linked, mte),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::object::{Function, Reloc, Section};
    use super::*;

    /// b . + 44; mrs x3, hcr_el2; tbz x3, #56, . + 36; mrs x3, rgsr_el1; mrs x4, gcr_el1; str x3, [x2, #1568];
    /// str x4, [x2, #1576]; ldr x3, [x29, #1568]; ldr x4, [x29, #1576]; msr rgsr_el1, x3; msr gcr_el1, x4
    const ENTRY: [u32; EXCHANGE] = [
        0x1400_000b,
        0xd53c_1103,
        0xb6c0_0123,
        0xd538_10a3,
        0xd538_10c4,
        0xf903_1043,
        0xf903_1444,
        0xf943_13a3,
        0xf943_17a4,
        0xd518_10a3,
        0xd518_10c4,
    ];

    #[test]
    fn no_bit_of_the_exchange_may_differ() {
        assert_eq!(exchange(&ENTRY, 2, 29), Ok((1568, 1576)));
        assert!(exchange(&ENTRY, 29, 2).is_err());
        for word in 0..EXCHANGE {
            for bit in 0..32 {
                let mut words = ENTRY;
                words[word] ^= 1 << bit;
                assert!(exchange(&words, 2, 29).is_err(), "word {word} bit {bit}");
            }
        }
    }

    #[test]
    fn the_capability_decides() {
        let reloc = |offset, at| Reloc {
            offset,
            kind: 261,
            symbol: ".hyp.text".to_owned(),
            target: Some((1, at)),
        };
        // A NOP, the replacement, stands behind the function.
        let words = ENTRY.iter().chain([&NOP]);
        let text = Section {
            exec: true,
            data: words.flat_map(|w| w.to_le_bytes()).collect(),
            ..Section::default()
        };
        let object = |record: &[u8; 4], replacement| Elf {
            sections: [
                (1, text.clone()),
                (
                    2,
                    Section {
                        name: ".altinstructions".to_owned(),
                        data: [&[0; 8], record.as_slice()].concat(),
                        relocs: vec![reloc(0, 0), reloc(4, replacement)],
                        ..Section::default()
                    },
                ),
            ]
            .into(),
            functions: vec![Function {
                name: "__guest_enter".to_owned(),
                section: 1,
                start: 0,
                end: 4 * EXCHANGE as u64,
            }],
            ..Elf::default()
        };
        let result = |record, replacement| one(&object(record, replacement), "__guest_enter", 2, 29, 75);
        let nop = 4 * EXCHANGE as u64;
        assert_eq!(result(&[75, 0, 4, 4], nop), Ok((1568, 1576)));
        assert!(result(&[74, 0, 4, 4], nop).is_err());
        assert!(result(&[75, 0x80, 4, 0], nop).is_err());
        assert!(result(&[75, 0, 4, 4], 0).is_err());
    }
}
