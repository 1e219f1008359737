// SPDX-License-Identifier: GPL-2.0-only
//! What came out of a configuration: kept in its build directory, with the EL2 that it was seen with.

use super::table::Config;
use crate::counts::Counts;
use crate::sh;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The file in the build directory.
const FILE: &str = ".pkvm-rs-result";
/// What stands for the EL2 object in the file, in place of a CPU model.
const OBJECT: &str = "object";
/// The same for a build that failed.
const BUILD: &str = "build";

/// The outcome of one configuration with the Rust EL2.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Record {
    /// The last build, where it failed; what else is known is older than it.
    pub broken: Option<Seen>,
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
    /// How many passed, failed and were skipped.
    pub counts: Counts,
    /// When, in seconds since 1970: it tells which revision is the newest.
    pub at: u64,
    /// Which EL2 it was, in the words of the kernel's log.
    pub revision: String,
    /// Why nothing could be seen; empty where something was.
    pub why: String,
}

impl Seen {
    /// What was seen just now.
    pub fn now(counts: Counts, revision: &str) -> Self {
        let at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        Self {
            counts,
            at,
            revision: revision.to_owned(),
            why: String::new(),
        }
    }

    /// That nothing could be seen just now: one failure.
    pub fn nothing(why: &str, revision: &str) -> Self {
        Self {
            // It is a field of a line.
            why: why.replace(['\t', '\n'], " "),
            ..Self::now(Counts::FAILED, revision)
        }
    }
}

impl Record {
    /// Notes that a build failed. What another revision showed stays, and is marked as older; what this one showed before
    /// is in doubt.
    pub fn fail(&mut self, seen: Seen) {
        self.checks = self.checks.take().filter(|old| old.revision != seen.revision);
        self.boots.retain(|old| old.seen.revision != seen.revision);
        self.broken = Some(seen);
    }

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
        let boots = self.boots.iter().map(|boot| &boot.seen);
        self.broken.iter().chain(&self.checks).chain(boots)
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
                counts:
                    Counts {
                        passed,
                        failed,
                        skipped,
                    },
                at,
                revision,
                why,
            } = seen;
            let _ = writeln!(
                text,
                "{name}\t{suites}\t{passed}\t{failed}\t{at}\t{revision}\t{skipped}\t{why}"
            );
        };
        if let Some(broken) = &self.broken {
            line(BUILD, "", broken);
        }
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
            let mut counts = Counts::of(fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            let (at, revision) = (fields.next()?.parse().ok()?, fields.next()?.to_owned());
            // Older records have no more than that.
            counts.skipped = fields.next().map_or(Some(0), |n| n.parse().ok())?;
            let seen = Seen {
                counts,
                at,
                revision,
                why: fields.next().unwrap_or_default().to_owned(),
            };
            if name == OBJECT {
                record.checks = Some(seen);
            } else if name == BUILD {
                record.broken = Some(seen);
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
            seen: Seen::now(Counts::of(passed, 0), "pkvm-rs 0.1.0 (Rust, abc)"),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let mut record = Record {
            broken: Some(Seen::nothing(
                "make failed:\tsee the log",
                "pkvm-rs 0.1.0 (Rust, fed)",
            )),
            checks: Some(Seen::now(Counts::of(8, 1), "pkvm-rs 0.1.0 (Rust, def-dirty)")),
            boots: vec![boot("max,pauth-impdef=on,lpa2=off", 6), boot("neoverse-n2", 5)],
        };
        record.boots[0].seen.counts.skipped = 3;
        assert_eq!(Record::parse(&record.text()), Some(record));
        // Without a revision a result says nothing.
        assert_eq!(Record::parse("object 8 0\nmax 6 0\n"), None);
        // As they were kept before skips were.
        let old = Record::parse("object\t\t8\t0\t1\tabc\nmax\tboot,tour\t6\t0\t2\tabc\n").unwrap();
        assert_eq!(old.checks.unwrap().counts, Counts::of(8, 0));
        assert_eq!(old.boots[0].seen.counts, Counts::of(6, 0));
    }

    #[test]
    fn a_build_that_fails_puts_its_own_results_in_doubt() {
        let mut record = Record {
            broken: None,
            checks: Some(Seen::now(Counts::of(8, 0), "new")),
            boots: vec![boot("max", 6)],
        };
        record.fail(Seen::nothing("make failed", "new"));
        assert_eq!((record.checks.is_none(), record.boots.len()), (true, 1));
        assert_eq!(record.all().count(), 2);
    }

    #[test]
    fn a_run_on_one_cpu_leaves_what_is_known_of_the_others() {
        let mut record = Record {
            broken: None,
            checks: None,
            boots: vec![boot("cortex-a57", 6), boot("cortex-a53", 6), boot("max", 5)],
        };
        record.set(boot("cortex-a57", 7));
        record.set(boot("neoverse-n2", 6));
        record.arrange(table::find("64k").unwrap());
        let cpus: Vec<_> = record
            .boots
            .iter()
            .map(|boot| (boot.cpu.as_str(), boot.seen.counts.passed))
            .collect();
        assert_eq!(cpus, [("max", 5), ("neoverse-n2", 6), ("cortex-a57", 7)]);
    }
}
