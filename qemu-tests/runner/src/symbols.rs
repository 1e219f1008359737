// SPDX-License-Identifier: GPL-2.0-only
//! Names for the addresses of a kernel's image, from the `System.map` of its build: EL2's report of its own death gives
//! a bare address when the kernel was built without the file names of its warnings.

use std::path::Path;

/// The text symbols of a kernel by address.
#[derive(Default)]
pub struct Symbols(Vec<(u64, String)>);

impl Symbols {
    /// Reads `System.map`; without one, no address gets a name.
    pub fn read(kbuild: Option<&Path>) -> Self {
        let text = kbuild
            .and_then(|dir| std::fs::read_to_string(dir.join("System.map")).ok())
            .unwrap_or_default();
        Self::parse(&text)
    }

    fn parse(text: &str) -> Self {
        let mut symbols: Vec<_> = text
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ');
                let at = u64::from_str_radix(fields.next()?, 16).ok()?;
                let kind = fields.next()?;
                let name = fields.next()?;
                // Markers of sections share an address with the function behind them, which says more.
                (matches!(kind, "t" | "T") && !name.starts_with('$')).then(|| (at, name.to_owned()))
            })
            .collect();
        symbols.sort();
        Self(symbols)
    }

    /// Replaces each kernel address in `text` by the symbol that holds it, without EL2's prefix.
    pub fn name(&self, text: &str) -> String {
        text.split(' ')
            .map(|word| self.word(word))
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn word(&self, word: &str) -> String {
        let hex = word.trim_end_matches(['!', ',', ':']);
        if hex.len() != 16 || !hex.starts_with("ffff") {
            return word.to_owned();
        }
        let Ok(at) = u64::from_str_radix(hex, 16) else {
            return word.to_owned();
        };
        let after = self.0.partition_point(|(start, _)| *start <= at);
        match after.checked_sub(1).and_then(|n| self.0.get(n)) {
            Some((start, name)) => {
                let name = name.trim_start_matches("__kvm_nvhe_");
                format!("{name}+{:#x}{}", at - start, &word[hex.len()..])
            }
            None => word.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_an_address() {
        let s = Symbols::parse(
            "ffff800080001000 T __kvm_nvhe_handle_trap\nffff800080002000 t next\nffff800080003000 D data\n",
        );
        assert_eq!(
            s.name("hyp panic at: ffff800080001010!"),
            "hyp panic at: handle_trap+0x10!"
        );
        assert_eq!(s.name("ffff800080000000 cafe"), "ffff800080000000 cafe");
    }
}
