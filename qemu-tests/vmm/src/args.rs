// SPDX-License-Identifier: GPL-2.0-only
//! Command lines of the form `--name value`, `--flag`.

use crate::{Error, Result};

/// The words of a command line that have not been taken yet.
#[derive(Debug, Clone)]
pub struct Args(Vec<String>);

impl Args {
    /// This process's, without the program's name.
    pub fn of_process() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    /// Given words.
    pub fn new<S: Into<String>>(words: impl IntoIterator<Item = S>) -> Self {
        Self(words.into_iter().map(Into::into).collect())
    }

    /// Takes `name` if it is there.
    pub fn flag(&mut self, name: &str) -> bool {
        let at = self.0.iter().position(|word| word == name);
        at.map(|at| self.0.remove(at)).is_some()
    }

    /// Takes the value after `name`, or after `name=`. Errors: `name` is last.
    pub fn value(&mut self, name: &str) -> Result<Option<String>> {
        let joined = self
            .0
            .iter()
            .position(|word| word.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')));
        if let Some(at) = joined {
            return Ok(Some(self.0.remove(at)[name.len() + 1..].to_owned()));
        }
        let Some(at) = self.0.iter().position(|word| word == name) else {
            return Ok(None);
        };
        if at + 1 >= self.0.len() {
            return Err(Error::Setup(format!("{name} needs a value")));
        }
        self.0.remove(at);
        Ok(Some(self.0.remove(at)))
    }

    /// As [`Self::value`], read as a number: decimal, or hexadecimal with 0x.
    pub fn number(&mut self, name: &str) -> Result<Option<u64>> {
        self.value(name)?
            .map(|text| number(&text).ok_or_else(|| Error::Setup(format!("{name} {text}: not a number"))))
            .transpose()
    }

    /// As [`Self::value`], read as a size: bytes, or with K, M or G.
    pub fn size(&mut self, name: &str) -> Result<Option<u64>> {
        self.value(name)?
            .map(|text| {
                size(&text).ok_or_else(|| Error::Setup(format!("{name} {text}: not a size like 256M")))
            })
            .transpose()
    }

    /// Takes the first word that is left, if it is no option.
    pub fn word(&mut self) -> Option<String> {
        let first = self.0.first().filter(|word| !word.starts_with('-'))?.clone();
        self.0.remove(0);
        Some(first)
    }

    /// Nothing may be left.
    pub fn finish(self) -> Result<()> {
        match self.0.first() {
            None => Ok(()),
            Some(word) => Err(Error::Setup(format!("{word}: not an option (see --help)"))),
        }
    }
}

/// A number: decimal, or hexadecimal with 0x.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A size in bytes: a number, with K, M or G for powers of 1024.
pub fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.strip_suffix(['K', 'k', 'M', 'm', 'G', 'g']) {
        None => (text, 0),
        Some(digits) => (
            digits,
            match text.as_bytes().last()? | 0x20 {
                b'k' => 10,
                b'm' => 20,
                _ => 30,
            },
        ),
    };
    number(digits)?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_once() {
        let mut args = Args::new(["--cpus", "2", "--mem=256M", "--protected", "x"]);
        assert_eq!(args.number("--cpus"), Ok(Some(2)));
        assert_eq!(args.size("--mem"), Ok(Some(256 << 20)));
        assert!(args.flag("--protected"));
        assert!(!args.flag("--protected"));
        assert_eq!(args.value("--disk"), Ok(None));
        assert!(args.clone().finish().is_err());
        assert_eq!(args.word().as_deref(), Some("x"));
        assert_eq!(args.finish(), Ok(()));
    }

    #[test]
    fn bad_values_are_refused() {
        assert!(Args::new(["--mem"]).size("--mem").is_err());
        assert!(Args::new(["--mem", "12Q"]).size("--mem").is_err());
        assert_eq!(size("16777216G"), Some(1 << 54));
        assert_eq!(size("99999999999G"), None);
        assert_eq!(number("0x40000000"), Some(0x4000_0000));
    }
}
