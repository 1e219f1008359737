// SPDX-License-Identifier: GPL-2.0-only
//! What came out of a configuration: kept in its build directory, with the EL2 that it was seen with.

use super::table::Config;
use crate::sh;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The file in the build directory.
const FILE: &str = ".pkvm-rs-result";
/// What stands for the EL2 object in the file, in place of a CPU model.
const OBJECT: &str = "object";

/// The outcome of one configuration with the Rust EL2.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Record {
    /// Checks of the EL2 object.
    pub checks: Option<Seen>,
    /// Tests by CPU model.
    pub boots: Vec<Boot>,
}

/// The tests on a CPU model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Boot {
    /// QEMU's name of it.
    pub cpu: String,
    /// The suites that ran, separated by commas.
    pub suites: String,
    /// What they showed.
    pub seen: Seen,
}

/// Counts, and what they were seen with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// How many passed.
    pub passed: u32,
    /// How many failed.
    pub failed: u32,
    /// When, in seconds since 1970: it tells which revision is the newest.
    pub at: u64,
    /// Which EL2 it was, in the words of the kernel's log.
    pub revision: String,
}

impl Seen {
    /// What was seen just now.
    pub fn now((passed, failed): (u32, u32), revision: &str) -> Self {
        let at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        Self {
            passed,
            failed,
            at,
            revision: revision.to_owned(),
        }
    }
}

impl Record {
    /// Puts the boots of a CPU model in place of earlier ones.
    pub fn set(&mut self, boot: Boot) {
        match self.boots.iter_mut().find(|old| old.cpu == boot.cpu) {
            Some(old) => *old = boot,
            None => self.boots.push(boot),
        }
    }

    /// Brings the boots into the order of the configuration's CPU models, without those that it no longer names.
    pub fn arrange(&mut self, config: &Config) {
        let place = |boot: &Boot| config.cpus.iter().position(|cpu| *cpu == boot.cpu);
        self.boots.retain(|boot| place(boot).is_some());
        self.boots.sort_by_key(place);
    }

    /// All that was seen.
    pub fn all(&self) -> impl Iterator<Item = &Seen> {
        self.checks.iter().chain(self.boots.iter().map(|boot| &boot.seen))
    }

    /// Keeps it, a line for each.
    ///
    /// # Errors
    /// One line: the file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), String> {
        sh::write(&dir.join(FILE), &self.text())
    }

    /// That of earlier runs; empty where there was none, or one whose revision nobody knows.
    pub fn load(dir: &Path) -> Self {
        std::fs::read_to_string(dir.join(FILE))
            .ok()
            .and_then(|text| Self::parse(&text))
            .unwrap_or_default()
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, suites: &str, seen: &Seen| {
            let Seen {
                passed,
                failed,
                at,
                revision,
            } = seen;
            let _ = writeln!(text, "{name}\t{suites}\t{passed}\t{failed}\t{at}\t{revision}");
        };
        if let Some(checks) = &self.checks {
            line(OBJECT, "", checks);
        }
        for Boot { cpu, suites, seen } in &self.boots {
            line(cpu, suites, seen);
        }
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let mut record = Self::default();
        for line in text.lines() {
            let mut fields = line.split('\t');
            let (name, suites) = (fields.next()?, fields.next()?);
            let seen = Seen {
                passed: fields.next()?.parse().ok()?,
                failed: fields.next()?.parse().ok()?,
                at: fields.next()?.parse().ok()?,
                revision: fields.next()?.to_owned(),
            };
            if name == OBJECT {
                record.checks = Some(seen);
            } else {
                record.boots.push(Boot {
                    cpu: name.to_owned(),
                    suites: suites.to_owned(),
                    seen,
                });
            }
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::super::table;
    use super::*;

    fn boot(cpu: &str, passed: u32) -> Boot {
        Boot {
            cpu: cpu.to_owned(),
            suites: "boot,tour".to_owned(),
            seen: Seen::now((passed, 0), "pkvm-rs 0.1.0 (Rust, abc)"),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = Record {
            checks: Some(Seen::now((8, 1), "pkvm-rs 0.1.0 (Rust, def-dirty)")),
            boots: vec![boot("max,pauth-impdef=on,lpa2=off", 6), boot("neoverse-n2", 5)],
        };
        assert_eq!(Record::parse(&record.text()), Some(record));
        // Without a revision a result says nothing.
        assert_eq!(Record::parse("object 8 0\nmax 6 0\n"), None);
    }

    #[test]
    fn a_run_on_one_cpu_leaves_what_is_known_of_the_others() {
        let mut record = Record {
            checks: None,
            boots: vec![boot("cortex-a57", 6), boot("cortex-a53", 6), boot("max", 5)],
        };
        record.set(boot("cortex-a57", 7));
        record.set(boot("neoverse-n2", 6));
        record.arrange(table::find("64k").unwrap());
        let cpus: Vec<_> = record
            .boots
            .iter()
            .map(|boot| (boot.cpu.as_str(), boot.seen.passed))
            .collect();
        assert_eq!(cpus, [("max", 5), ("neoverse-n2", 6), ("cortex-a57", 7)]);
    }
}
