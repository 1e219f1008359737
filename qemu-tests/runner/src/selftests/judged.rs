// SPDX-License-Identifier: GPL-2.0-only
//! How the Rust object did beside the C object, in the kernel's selftests.

use super::NOTES;
use super::results::{Attempt, rank};
use crate::args::Hyp;
use crate::ktap::Status;
use crate::suites::Mode;
use std::fmt::Write as _;

/// A CPU model and a mode, and what both objects did there.
pub struct Config {
    /// QEMU's name of the CPU model.
    pub cpu: String,
    /// The host's mode.
    pub mode: Mode,
    /// Whether it is one of the machines that decide the outcome.
    pub judged: bool,
    /// With the C object.
    pub c: Vec<Attempt>,
    /// With ours.
    pub rust: Vec<Attempt>,
}

impl Config {
    /// CPU model and mode.
    pub fn name(&self) -> String {
        format!("{} {}", self.cpu, self.mode.name())
    }

    /// The attempts with an object.
    pub fn of(&self, hyp: Hyp) -> &[Attempt] {
        match hyp {
            Hyp::C => &self.c,
            Hyp::Rust => &self.rust,
        }
    }
}

/// What a test did on an object: its best attempt, and whether there was a worse one.
#[derive(Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How the best attempt ended.
    pub status: Status,
    /// There was a worse one.
    pub again: bool,
}

/// What a test did; nothing where it was not run.
pub fn verdict(attempts: &[Attempt], test: &str) -> Option<Verdict> {
    let mine: Vec<_> = attempts.iter().filter(|a| a.test == test).collect();
    let status = mine.iter().map(|a| a.status).min_by_key(|s| rank(*s))?;
    let again = mine.first().is_some_and(|a| a.status != status);
    Some(Verdict { status, again })
}

/// How the Rust object did beside the C object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beside {
    /// It passed.
    Passed,
    /// It skipped, and so did the C object, or that failed.
    Skipped,
    /// Both failed, as a note says.
    BothKnown,
    /// Both failed, and no note says why.
    Both,
    /// It does worse: what a reader must not miss.
    Worse,
    /// One of them was not run.
    Missing,
}

/// Compares what both did with a test.
pub fn beside(config: &Config, test: &str) -> Beside {
    let (Some(c), Some(rust)) = (verdict(&config.c, test), verdict(&config.rust, test)) else {
        return Beside::Missing;
    };
    if rank(rust.status) > rank(c.status) {
        return Beside::Worse;
    }
    match rust.status {
        Status::Passed => Beside::Passed,
        Status::Skipped => Beside::Skipped,
        Status::Failed if [Hyp::C, Hyp::Rust].iter().all(|hyp| noted(config.of(*hyp), test)) => {
            Beside::BothKnown
        }
        Status::Failed => Beside::Both,
    }
}

/// Whether every attempt failed as a note says.
fn noted(attempts: &[Attempt], test: &str) -> bool {
    attempts.iter().filter(|a| a.test == test).all(|a| {
        NOTES
            .iter()
            .any(|n| n.program == test && n.status == a.status && a.reason.contains(n.reason))
    })
}

/// What the machines that were chosen showed: how many results there are of each kind, with a line per result that is
/// to be looked at.
#[derive(Default)]
pub struct Judged {
    /// [`Beside::Passed`].
    pub passed: u32,
    /// [`Beside::Skipped`].
    pub skipped: u32,
    /// [`Beside::BothKnown`].
    pub both_known: u32,
    /// [`Beside::Both`].
    pub both: Vec<String>,
    /// [`Beside::Worse`].
    pub worse: Vec<String>,
    /// Results of one object or both that are not there.
    pub missing: u32,
    /// Machines without a result.
    pub absent: Vec<String>,
}

impl Judged {
    /// Whether all was run, nothing does worse with the Rust object, and nothing fails with both that no note explains.
    pub fn good(&self) -> bool {
        self.failed() == 0
    }

    fn failed(&self) -> usize {
        self.both.len() + self.worse.len() + self.absent.len() + self.missing as usize
    }

    /// The lines, the kinds, and at the end what a script reads.
    pub fn tell(&self) {
        for line in &self.worse {
            println!("WORSE {line}");
        }
        for line in &self.both {
            println!("BOTH  {line}");
        }
        for name in &self.absent {
            println!("NONE  {name} was not run at all");
        }
        println!("{}", self.sentence());
        if self.skipped > 0 {
            println!("{} skipped", self.skipped);
        }
        println!("{} passed, {} failed", self.passed, self.failed());
    }

    /// Counts a result; `line` tells of it where it is to be looked at.
    pub fn count(&mut self, beside: Beside, line: impl Fn() -> String) {
        match beside {
            Beside::Passed => self.passed += 1,
            Beside::Skipped => self.skipped += 1,
            Beside::BothKnown => self.both_known += 1,
            Beside::Both => self.both.push(line()),
            Beside::Worse => self.worse.push(line()),
            Beside::Missing => self.missing += 1,
        }
    }

    fn sentence(&self) -> String {
        let mut text = format!(
            "With the Rust object {} pass, {} are skipped, {} fail as they do with the C object for a reason that is noted",
            self.passed, self.skipped, self.both_known
        );
        for (count, what) in [
            (self.both.len(), "fail with both objects and no note says why"),
            (self.worse.len(), "do worse than with the C object"),
            (self.missing as usize, "are missing with one object or both"),
            (self.absent.len(), "of the machines did not run at all"),
        ] {
            if count > 0 {
                let _ = write!(text, ", {count} {what}");
            }
        }
        if self.good() {
            text.push_str(", and none does worse");
        }
        text
    }
}

/// Made for the tests.
#[cfg(test)]
pub mod made {
    use super::{Attempt, Config, Mode, Status};

    /// One run of a test.
    pub fn attempt(test: &str, status: Status, reason: &str) -> Attempt {
        Attempt {
            test: test.into(),
            status,
            object: "object".into(),
            reason: reason.into(),
        }
    }

    /// A machine that decides.
    pub fn config(c: Vec<Attempt>, rust: Vec<Attempt>) -> Config {
        Config {
            cpu: "max".to_owned(),
            mode: Mode::Nvhe,
            judged: true,
            c,
            rust,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::TESTS;
    use super::made::{attempt, config};
    use super::*;

    #[test]
    fn each_kind_is_told_apart() {
        use Status::{Failed, Passed, Skipped};
        let of = |c: &[Status], rust: &[Status], reason: &str| {
            let all = |of: &[Status]| {
                of.iter()
                    .map(|s| attempt("arm64/sea_to_user", *s, reason))
                    .collect()
            };
            beside(&config(all(c), all(rust)), "arm64/sea_to_user")
        };
        for (c, rust) in [(Passed, Failed), (Passed, Skipped), (Skipped, Failed)] {
            assert_eq!(of(&[c], &[rust], ""), Beside::Worse);
        }
        assert_eq!(of(&[Passed], &[Passed], ""), Beside::Passed);
        assert_eq!(of(&[Failed], &[Failed, Passed], ""), Beside::Passed);
        assert_eq!(of(&[Failed], &[Skipped], ""), Beside::Skipped);
        assert_eq!(of(&[Failed], &[Failed], "exit status 1"), Beside::BothKnown);
        // A failure that the note does not speak of.
        assert_eq!(of(&[Failed], &[Failed], "nVHE hyp panic"), Beside::Both);
        for (c, rust) in [(&[][..], &[Passed][..]), (&[Failed], &[]), (&[], &[])] {
            assert_eq!(of(c, rust, ""), Beside::Missing);
        }
    }

    #[test]
    fn only_a_whole_run_is_good() {
        let of = |status| {
            let all = || TESTS.iter().map(|t| attempt(t.program, status, "")).collect();
            let whole = config(all(), all());
            let mut judged = Judged::default();
            for test in TESTS {
                judged.count(beside(&whole, test.program), || test.program.to_owned());
            }
            judged
        };
        let mut judged = of(Status::Passed);
        assert!(judged.good() && judged.sentence().ends_with("and none does worse"));
        judged.absent.push("max nvhe".to_owned());
        assert!(
            !judged.good()
                && judged
                    .sentence()
                    .ends_with("1 of the machines did not run at all")
        );
        let judged = of(Status::Failed);
        assert_eq!((judged.failed(), judged.passed), (TESTS.len(), 0));
    }
}
