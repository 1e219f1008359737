// SPDX-License-Identifier: GPL-2.0-only
//! How deep the EL2 stack can get: frames from the code itself, paths over the call graph.

use super::a64::{self, Effect};
use super::object::Elf;
use std::collections::{BTreeMap, BTreeSet};

const R_AARCH64_ABS64: u32 = 257;
const R_AARCH64_ADR_PREL_PG_HI21: u32 = 275;

/// What one function does.
#[derive(Default, Clone)]
struct Body {
    frame: u64,
    unknown: bool,
    calls: BTreeSet<usize>,
    indirect: bool,
}

/// The result.
pub struct Depth {
    /// The largest frame and its function.
    pub frame: (u64, String),
    /// Bytes on the deepest path.
    pub bytes: u64,
    /// The functions on it.
    pub path: Vec<String>,
    /// What keeps the figure from being a bound: recursion, frames of unknown size.
    pub problems: Vec<String>,
}

/// Finds the deepest path. `known` tells where some functions' calls through registers go: a part of the caller's name,
/// and the callees. Any other such call may reach every function whose address is taken, and one of those may do so
/// once more.
pub fn depth(elf: &Elf, known: &[(String, Vec<String>)]) -> Depth {
    let mut bodies = bodies(elf);
    for (index, body) in bodies.iter_mut().enumerate().filter(|(_, b)| b.indirect) {
        let name = &elf.functions[index].name;
        if let Some((_, callees)) = known.iter().find(|(caller, _)| name.contains(caller.as_str())) {
            body.indirect = false;
            body.calls
                .extend((0..elf.functions.len()).filter(|f| callees.contains(&elf.functions[*f].name)));
        }
    }
    let taken = address_taken(elf);
    let mut problems = Vec::new();
    for (index, body) in bodies.iter().enumerate() {
        // The vectors add a register to SP and take it off again, to look at SP without a scratch one.
        if body.unknown && !looks_at_sp(&elf.functions[index].name) {
            problems.push(format!("{}: a frame of unknown size", elf.functions[index].name));
        }
    }
    let mut indirect = 0;
    let mut search = Search {
        bodies: &bodies,
        indirect,
        memo: BTreeMap::new(),
        on_path: Vec::new(),
        cycles: BTreeSet::new(),
    };
    for _ in 0..2 {
        indirect = taken.iter().map(|f| search.depth(*f)).max().unwrap_or(0);
        search.memo.clear();
        search.indirect = indirect;
    }
    let deepest = (0..bodies.len()).max_by_key(|f| search.depth(*f));
    for cycle in &search.cycles {
        let names: Vec<_> = cycle.iter().map(|f| elf.functions[*f].name.as_str()).collect();
        problems.push(format!("recursion: {}", names.join(" -> ")));
    }
    let largest = (0..bodies.len()).max_by_key(|f| bodies[*f].frame);
    let mut path = Vec::new();
    let mut at = deepest;
    while let Some(f) = at {
        path.push(format!("{} ({})", elf.functions[f].name, bodies[f].frame));
        at = bodies[f]
            .calls
            .iter()
            .copied()
            .filter(|c| *c != f)
            .max_by_key(|c| search.depth(*c));
        let below = at.map_or(0, |c| search.depth(c));
        if bodies[f].indirect && indirect > below {
            path.push(format!("through a pointer ({indirect})"));
            break;
        }
        if path.len() > 64 {
            break;
        }
    }
    Depth {
        frame: largest.map_or((0, String::new()), |f| {
            (bodies[f].frame, elf.functions[f].name.clone())
        }),
        bytes: deepest.map_or(0, |f| search.depth(f)),
        path,
        problems,
    }
}

fn bodies(elf: &Elf) -> Vec<Body> {
    let mut bodies = vec![Body::default(); elf.functions.len()];
    let mut slots: BTreeMap<(usize, u64), u64> = BTreeMap::new();
    for (number, section) in elf.sections.iter().filter(|(_, s)| s.exec && s.alloc) {
        let relocs: BTreeMap<u64, Option<(usize, u64)>> =
            section.relocs.iter().map(|r| (r.offset, r.target)).collect();
        for (at, word) in elf.instructions(*number) {
            let Some(function) = elf.function_at(*number, at) else {
                continue;
            };
            let body = &mut bodies[function];
            match a64::effect(word) {
                // A table of vectors holds sixteen entries of 0x80 bytes, or several such tables, and runs one of them.
                Effect::Push(bytes) if is_vectors(&elf.functions[function].name) => {
                    let slot = slots.entry((function, at / 0x80)).or_default();
                    *slot += bytes;
                    body.frame = body.frame.max(*slot);
                }
                Effect::Push(bytes) => body.frame += bytes,
                Effect::UnknownPush => body.unknown = true,
                Effect::Indirect => body.indirect = true,
                Effect::Branch(offset) => {
                    let target = match relocs.get(&at) {
                        Some(target) => *target,
                        None => Some((*number, at.wrapping_add_signed(offset))),
                    };
                    if let Some(callee) = target.and_then(|(s, a)| elf.function_at(s, a))
                        && callee != function
                    {
                        body.calls.insert(callee);
                    }
                }
                Effect::None => {}
            }
        }
    }
    bodies
}

fn looks_at_sp(name: &str) -> bool {
    is_vectors(name) || name.starts_with("__guest_own_")
}

fn is_vectors(name: &str) -> bool {
    name.ends_with("_vector") || name.ends_with("_vecs")
}

/// Functions whose address is in a pointer, or made in a register.
pub fn address_taken(elf: &Elf) -> BTreeSet<usize> {
    let mut taken = BTreeSet::new();
    for section in elf.sections.values().filter(|s| s.alloc) {
        for reloc in &section.relocs {
            if matches!(reloc.kind, R_AARCH64_ABS64 | R_AARCH64_ADR_PREL_PG_HI21)
                && let Some((s, at)) = reloc.target
                && let Some(function) = elf.function_at(s, at)
                && elf.functions[function].start == at
            {
                taken.insert(function);
            }
        }
    }
    taken
}

struct Search<'a> {
    bodies: &'a [Body],
    indirect: u64,
    memo: BTreeMap<usize, u64>,
    on_path: Vec<usize>,
    cycles: BTreeSet<Vec<usize>>,
}

impl Search<'_> {
    fn depth(&mut self, function: usize) -> u64 {
        if let Some(known) = self.memo.get(&function) {
            return *known;
        }
        if let Some(start) = self.on_path.iter().position(|f| *f == function) {
            self.cycles.insert(self.on_path[start..].to_vec());
            return 0;
        }
        self.on_path.push(function);
        let body = &self.bodies[function];
        let mut below = if body.indirect { self.indirect } else { 0 };
        for callee in &body.calls {
            below = below.max(self.depth(*callee));
        }
        self.on_path.pop();
        let depth = body.frame + below;
        self.memo.insert(function, depth);
        depth
    }
}
