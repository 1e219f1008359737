// SPDX-License-Identifier: GPL-2.0-only
//! A relocatable object, as the checks look at it.

use object::read::elf::{ElfFile64, FileHeader, SectionHeader};
use object::{
    LittleEndian, Object, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget, SymbolKind, elf,
};
use std::collections::BTreeMap;
use std::path::Path;

/// Where a relocation points.
#[derive(Clone, Debug)]
pub struct Reloc {
    /// Byte in the section that it patches.
    pub offset: u64,
    /// Type, `R_AARCH64_*`.
    pub kind: u32,
    /// Name of its symbol; of a section symbol the section's.
    pub symbol: String,
    /// The section and byte that it means, where that is in this object.
    pub target: Option<(usize, u64)>,
}

/// A section.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// Whether it is loaded.
    pub alloc: bool,
    /// Whether it holds instructions.
    pub exec: bool,
    /// Its bytes; none of a section without contents.
    pub data: Vec<u8>,
    /// Its size.
    pub size: u64,
    /// What patches it.
    pub relocs: Vec<Reloc>,
}

/// A function, or a piece of assembler that a symbol begins.
#[derive(Clone, Debug)]
pub struct Function {
    /// The symbol.
    pub name: String,
    /// The section.
    pub section: usize,
    /// Its first byte.
    pub start: u64,
    /// The byte after its last.
    pub end: u64,
}

/// A record of `.altinstructions`: instructions that EL1 rewrites when it patches the kernel.
#[derive(Clone, Debug)]
pub struct Alternative {
    /// The section and byte of the first of them.
    pub place: Option<(usize, u64)>,
    /// The symbol that their replacement is in, or that of the function that writes them.
    pub symbol: String,
    /// The section and byte of the replacement.
    pub replacement: Option<(usize, u64)>,
    /// The number of the capability that decides.
    pub cap: u16,
    /// Whether a function of EL1 writes them.
    pub callback: bool,
    /// Bytes of the instructions.
    pub old: u8,
    /// Bytes of the replacement.
    pub new: u8,
}

/// The object.
#[derive(Default)]
pub struct Elf {
    /// Sections by their ELF number.
    pub sections: BTreeMap<usize, Section>,
    /// Functions in order of place.
    pub functions: Vec<Function>,
    /// Symbols without a definition.
    pub undefined: Vec<String>,
    /// Names of source files, from the symbol table.
    pub files: Vec<String>,
    /// Begins of data in executable sections, and of code again: (section, byte, is code).
    pub marks: Vec<(usize, u64, bool)>,
}

impl Elf {
    /// Reads an object file.
    ///
    /// # Errors
    /// One line with the file's name.
    pub fn read(path: &Path) -> Result<Self, String> {
        let error = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let data = std::fs::read(path).map_err(|e| error(&e))?;
        let file: ElfFile64<'_, LittleEndian> = ElfFile64::parse(data.as_slice()).map_err(|e| error(&e))?;
        if file.elf_header().e_type(LittleEndian) != elf::ET_REL {
            return Err(error(&"is not relocatable"));
        }
        let mut this = Self::default();
        for section in file.sections() {
            let flags = section.elf_section_header().sh_flags(LittleEndian);
            let mut relocs = Vec::new();
            for (offset, reloc) in section.relocations() {
                let RelocationFlags::Elf { r_type } = reloc.flags() else {
                    continue;
                };
                let RelocationTarget::Symbol(index) = reloc.target() else {
                    continue;
                };
                let symbol = file.symbol_by_index(index).map_err(|e| error(&e))?;
                let mut name = symbol.name().unwrap_or_default().to_owned();
                let inside = symbol.section_index();
                if symbol.kind() == SymbolKind::Section
                    && let Some(Ok(s)) = inside.map(|i| file.section_by_index(i))
                {
                    s.name().unwrap_or_default().clone_into(&mut name);
                }
                let target = inside.map(|i| (i.0, symbol.address().wrapping_add_signed(reloc.addend())));
                relocs.push(Reloc {
                    offset,
                    kind: r_type.0,
                    symbol: name,
                    target,
                });
            }
            this.sections.insert(
                section.index().0,
                Section {
                    name: section.name().unwrap_or_default().to_owned(),
                    alloc: flags.0 & elf::SHF_ALLOC.0 != 0,
                    exec: flags.0 & elf::SHF_EXECINSTR.0 != 0,
                    data: section.data().unwrap_or_default().to_vec(),
                    size: section.size(),
                    relocs,
                },
            );
        }
        for symbol in file.symbols() {
            let name = symbol.name().unwrap_or_default();
            let Some(section) = symbol.section_index().map(|i| i.0) else {
                if symbol.kind() == SymbolKind::File {
                    this.files.push(name.to_owned());
                } else if symbol.is_undefined() && !name.is_empty() {
                    this.undefined.push(name.to_owned());
                }
                continue;
            };
            if !this.sections.get(&section).is_some_and(|s| s.exec) {
                continue;
            }
            let start = symbol.address();
            if name.starts_with("$x") || name.starts_with("$d") {
                this.marks.push((section, start, name.starts_with("$x")));
            } else if !name.is_empty() && symbol.kind() != SymbolKind::Section {
                this.functions.push(Function {
                    name: name.to_owned(),
                    section,
                    start,
                    end: start + symbol.size(),
                });
            }
        }
        this.undefined.sort();
        this.undefined.dedup();
        this.marks.sort_unstable();
        this.close_functions();
        Ok(this)
    }

    /// Gives labels without a size the bytes up to the next symbol, and sorts out aliases.
    fn close_functions(&mut self) {
        self.functions
            .sort_by(|a, b| (a.section, a.start, b.end).cmp(&(b.section, b.start, a.end)));
        self.functions
            .dedup_by(|b, a| (a.section, a.start) == (b.section, b.start));
        let next: Vec<(usize, u64)> = self.functions.iter().map(|f| (f.section, f.start)).collect();
        for (index, function) in self.functions.iter_mut().enumerate() {
            if function.end == function.start {
                function.end = match next.get(index + 1) {
                    Some((section, start)) if *section == function.section => *start,
                    _ => self
                        .sections
                        .get(&function.section)
                        .map_or(function.start, |s| s.size),
                };
            }
        }
    }

    /// The function that holds a byte.
    pub fn function_at(&self, section: usize, at: u64) -> Option<usize> {
        let after = self
            .functions
            .partition_point(|f| (f.section, f.start) <= (section, at));
        let index = after.checked_sub(1)?;
        let function = &self.functions[index];
        (function.section == section && at < function.end).then_some(index)
    }

    /// The instructions of a section: place and word, literals left out.
    pub fn instructions(&self, section: usize) -> impl Iterator<Item = (u64, u32)> {
        let data = self
            .sections
            .get(&section)
            .filter(|s| s.exec)
            .map_or(&[] as &[u8], |s| &s.data);
        (0u64..)
            .step_by(4)
            .zip(data.as_chunks::<4>().0)
            .filter_map(move |(at, bytes)| {
                let after = self.marks.partition_point(|m| (m.0, m.1) <= (section, at));
                let mark = after.checked_sub(1).and_then(|i| self.marks.get(i));
                let code = mark.is_none_or(|m| m.0 != section || m.2);
                code.then(|| (at, u32::from_le_bytes(*bytes)))
            })
    }

    /// How many bytes of instructions it has.
    pub fn code(&self) -> u64 {
        self.sections
            .values()
            .filter(|s| s.alloc && s.exec)
            .map(|s| s.size)
            .sum()
    }

    /// A section by its name.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.values().find(|s| s.name == name)
    }

    /// The function of this name, as its section and first byte.
    pub fn symbol(&self, name: &str) -> Option<(usize, u64)> {
        let function = self.functions.iter().find(|f| f.name == name)?;
        Some((function.section, function.start))
    }

    /// The instruction at a place.
    pub fn word(&self, (section, at): (usize, u64)) -> Option<u32> {
        let data = &self.sections.get(&section)?.data;
        let bytes = data.get(usize::try_from(at).ok()?..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    }

    /// The records of instructions that EL1 rewrites.
    pub fn alternatives(&self) -> Vec<Alternative> {
        let Some(table) = self.section(".altinstructions") else {
            return Vec::new();
        };
        let relocs: BTreeMap<u64, &Reloc> = table.relocs.iter().map(|r| (r.offset, r)).collect();
        let (records, _) = table.data.as_chunks::<12>();
        (0u64..)
            .step_by(12)
            .zip(records)
            .map(|(at, &[.., low, high, old, new])| {
                let word = u16::from_le_bytes([low, high]);
                let by = relocs.get(&(at + 4));
                Alternative {
                    place: relocs.get(&at).and_then(|r| r.target),
                    symbol: by.map_or_else(String::new, |r| r.symbol.clone()),
                    replacement: by.and_then(|r| r.target),
                    cap: word & 0x7fff,
                    callback: word >> 15 == 1,
                    old,
                    new,
                }
            })
            .collect()
    }

    /// A place in words.
    pub fn place(&self, section: usize, at: u64) -> String {
        let name = self.sections.get(&section).map_or("?", |s| s.name.as_str());
        match self.function_at(section, at) {
            Some(index) => format!(
                "{}+{:#x}",
                self.functions[index].name,
                at - self.functions[index].start
            ),
            None => format!("{name}+{at:#x}"),
        }
    }
}
