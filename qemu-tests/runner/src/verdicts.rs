// SPDX-License-Identifier: GPL-2.0-only
//! Whether a test's outcome is the right one, and the line that says so.

use crate::args::Hyp;
use crate::ktap::{self, Status};
use crate::suites::Test;
use crate::{Session, Tally, judgements, pvm, qemu};
use std::path::Path;
use std::time::Duration;

/// A test that the C object fails, because it has the defect that the test is about.
struct CFails {
    suite: &'static str,
    test: &'static str,
    /// How it fails: a subtest or a remark of a failure holds one of these, or the words with which the machine dies. A
    /// failure of another kind is one that nobody knows.
    how: &'static [&'static str],
}

/// In protected mode a guest takes a virtual SError again and again, a process that ran a guest has lost its keys of
/// pointer authentication, EL2 stamps its trace with the virtual counter of the guest whose vCPU is loaded, and panics
/// where a host lends a page too often. A CPU that was off line when the host lost its privileges keeps them.
const C_FAILS: &[CFails] = &[
    CFails {
        suite: "features",
        test: "serror",
        how: &[
            "the guest stopped by",
            "the guest took one SError in four runs",
            "it is pending no more",
            "so with SErrors unmasked",
        ],
    },
    CFails {
        suite: "features",
        test: "aarch32",
        how: &["that comes once"],
    },
    CFails {
        suite: "vm",
        test: "keys",
        how: &["a process has its own keys after it ran a"],
    },
    CFails {
        suite: "modes",
        test: "missed-cpu",
        how: &["it reads EL2's memory"],
    },
    CFails {
        suite: "trace-nvhe",
        test: "guest-time",
        how: &["a time of "],
    },
    CFails {
        suite: "trace",
        test: "trace-many",
        how: &["nVHE hyp BUG at: arch/arm64/kvm/hyp/include/nvhe/memory.h"],
    },
];

/// How the C object is known to fail a test.
fn c_fails(hyp: Hyp, suite: &str, test: &str) -> Option<&'static CFails> {
    C_FAILS
        .iter()
        .find(|known| hyp == Hyp::C && known.suite == suite && known.test == test)
}

impl CFails {
    /// Whether one of the words says what is known.
    fn says<'a>(&self, mut words: impl Iterator<Item = &'a str>) -> bool {
        words.any(|line| self.how.iter().any(|how| line.contains(how)))
    }

    /// Whether a failed test failed so.
    fn explains(&self, outcome: &ktap::Outcome) -> bool {
        let failed = outcome.children.iter().filter(|c| c.status == Status::Failed);
        self.says(failed.map(|c| c.name.as_str()))
            || self.says(outcome.diagnostics.iter().map(String::as_str))
    }
}

impl Session<'_> {
    /// Prints the line of a test that ended.
    pub fn judge(&self, outcome: &ktap::Outcome, took: Duration, log: &Path, tally: &mut Tally) {
        let took = format!("{:.1} s", took.as_secs_f64());
        let seen = judgements::seen(&outcome.diagnostics);
        if let Some(case) = judgements::find(self.suite.name, &outcome.name) {
            let seen = seen.unwrap_or_else(|| "nothing was reported".to_owned());
            self.judge_case(case, outcome.status == Status::Passed, &seen, &took, log, tally);
            return;
        }
        let dies = |t: &&Test| t.name == outcome.name && !t.console.is_empty();
        if outcome.status != Status::Skipped && self.suite.tests.iter().any(|t| dies(&t)) {
            self.fail(&outcome.name, &took, "the machine lives on", log, tally);
            return;
        }
        if let Some(case) = pvm::find(self.suite.name, &outcome.name)
            && outcome.status != Status::Skipped
        {
            let verdict = pvm::judge(&self.args.log_dir, self.args.hyp, self.cpu, case, outcome);
            self.tell(case, verdict, &took, log, tally);
            return;
        }
        let known = c_fails(self.args.hyp, self.suite.name, &outcome.name);
        match outcome.status {
            Status::Passed => {
                tally.passed += 1;
                // Not every CPU model shows a defect.
                let note = known.map_or(
                    "",
                    |_| "passes here, though it is recorded that the C object fails",
                );
                self.print("ok", &outcome.name, &took, note);
            }
            Status::Skipped => {
                tally.skipped += 1;
                self.print("skip", &outcome.name, &took, &outcome.note);
            }
            Status::Failed if known.is_some_and(|known| known.explains(outcome)) => {
                tally.passed += 1;
                self.print("ok", &outcome.name, &took, "failed, as recorded of the C object");
            }
            Status::Failed => {
                let sub: Vec<_> = outcome
                    .children
                    .iter()
                    .filter(|c| c.status == Status::Failed)
                    .map(|c| c.name.as_str())
                    .collect();
                let mut why = outcome.diagnostics.last().cloned().unwrap_or_default();
                if !sub.is_empty() {
                    why = format!(
                        "{} of {} subtests: {}",
                        sub.len(),
                        outcome.children.len(),
                        sub.join(", ")
                    );
                }
                let other = known.map_or("", |_| "; not as recorded of the C object");
                self.fail(&outcome.name, &took, &format!("{why}{other}"), log, tally);
            }
        }
    }

    /// Prints the line of a test of protected VMs.
    fn tell(&self, case: &pvm::Case, verdict: pvm::Verdict, took: &str, log: &Path, tally: &mut Tally) {
        if verdict.good {
            tally.passed += 1;
            self.print("ok", case.name, took, &verdict.seen);
        } else {
            self.fail(case.name, took, &verdict.seen, log, tally);
        }
    }

    /// Prints the line of a judgement's case: on ours it must have given the specification's answer, on the C object it
    /// must do what was recorded.
    fn judge_case(
        &self,
        case: &judgements::Case,
        met: bool,
        seen: &str,
        took: &str,
        log: &Path,
        tally: &mut Tally,
    ) {
        judgements::record(&self.args.log_dir, self.args.hyp, self.cpu, case, met, seen);
        let good = match self.args.hyp {
            Hyp::Rust => met,
            Hyp::C => case.c_saw.split('|').any(|words| seen.contains(words)),
        };
        if good {
            tally.passed += 1;
            let note = if met {
                seen.to_owned()
            } else {
                format!("{seen} (as recorded of the C object)")
            };
            self.print("ok", case.name, took, &note);
        } else {
            let wanted = match self.args.hyp {
                Hyp::Rust => case.demand,
                Hyp::C => case.c_saw,
            };
            self.fail(case.name, took, &format!("{seen}; wanted: {wanted}"), log, tally);
        }
    }

    /// Accounts for the tests that have no result.
    pub fn close(&self, tests: &[Test], report: &qemu::Report, log: &Path, tally: &mut Tally) {
        let mut death = report.death.as_deref().map(|line| self.symbols.name(line));
        for test in tests {
            if report.results.iter().any(|r| r.outcome.name == test.name) {
                continue;
            }
            let why = death.take().unwrap_or_else(|| "not run".to_owned());
            if !test.console.is_empty() {
                match shows(log, test.console) {
                    Ok(()) => {
                        tally.passed += 1;
                        self.print("ok", test.name, "", &why);
                    }
                    Err(missing) => {
                        let why = format!("{why}; the console does not show \"{missing}\"");
                        self.fail(test.name, "", &why, log, tally);
                    }
                }
            } else if let Some(case) = judgements::find(self.suite.name, test.name) {
                self.judge_case(case, false, &why, "", log, tally);
            } else if let Some(case) = pvm::find(self.suite.name, test.name) {
                let verdict = pvm::judge_end(&self.args.log_dir, self.args.hyp, self.cpu, case, &why);
                self.tell(case, verdict, "", log, tally);
            } else if c_fails(self.args.hyp, self.suite.name, test.name)
                .is_some_and(|known| known.says(std::iter::once(why.as_str())))
            {
                // Never one that was not run: who dies of an earlier test says nothing of this one.
                tally.passed += 1;
                self.print(
                    "ok",
                    test.name,
                    "",
                    &format!("{why}, as recorded of the C object"),
                );
            } else {
                let said = report
                    .last_words
                    .last()
                    .map(|w| format!(" (after: {w})"))
                    .unwrap_or_default();
                self.fail(test.name, "", &format!("{why}{said}"), log, tally);
            }
        }
        if let Some(why) = death {
            self.fail("power-off", "", &why, log, tally);
        }
        for complaint in &report.complaints {
            println!("      {complaint}");
        }
    }

    pub fn fail(&self, name: &str, took: &str, why: &str, log: &Path, tally: &mut Tally) {
        tally.failed += 1;
        self.print("FAIL", name, took, why);
        println!("      console: {}", log.display());
    }

    pub fn print(&self, word: &str, name: &str, took: &str, note: &str) {
        let dash = if note.is_empty() { "" } else { " - " };
        println!(
            "{word:<5} {:<12} {:<44} {took:>8}{dash}{note}",
            self.cpu,
            format!("{}/{name}", self.suite.name)
        );
    }
}

/// Whether the console holds all of `wanted` in this order; if not, the first that is missing.
fn shows(log: &Path, wanted: &[&'static str]) -> Result<(), &'static str> {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut rest: &str = &text;
    for words in wanted {
        let at = rest.find(words).ok_or(*words)?;
        rest = &rest[at + words.len()..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suites;

    fn failed(name: &str, children: &[&str], diagnostics: &[&str]) -> ktap::Outcome {
        let child = |name: &&str| failed(name, &[], &[]);
        ktap::Outcome {
            name: name.to_owned(),
            status: Status::Failed,
            note: String::new(),
            children: children.iter().map(child).collect(),
            diagnostics: diagnostics.iter().map(|l| (*l).to_owned()).collect(),
        }
    }

    #[test]
    fn known_failures_are_of_tests_that_there_are() {
        for known in C_FAILS {
            assert!(
                suites::all()
                    .iter()
                    .any(|s| s.name == known.suite && s.tests.iter().any(|t| t.name == known.test)),
                "{}/{}",
                known.suite,
                known.test
            );
            assert!(!known.how.is_empty() && known.how.iter().all(|how| !how.is_empty()));
        }
    }

    #[test]
    fn a_failure_is_known_by_its_words() {
        let known = c_fails(Hyp::C, "vm", "keys").unwrap();
        let as_recorded = "a process has its own keys after it ran a protected guest";
        assert!(known.explains(&failed("keys", &[as_recorded], &[])));
        assert!(!known.explains(&failed(
            "keys",
            &["a protected guest has the keys that it wrote"],
            &[]
        )));
        assert!(c_fails(Hyp::Rust, "vm", "keys").is_none());
        assert!(c_fails(Hyp::C, "vm", "fp").is_none());
        let serror = c_fails(Hyp::C, "features", "serror").unwrap();
        let remark = "runs to its end: the guest stopped by Other(\"no pause\")";
        assert!(serror.explains(&failed("serror", &["runs to its end"], &[remark])));
        assert!(!serror.explains(&failed("serror", &[], &["serror: no end within 100 s"])));
    }

    #[test]
    fn a_test_that_did_not_run_showed_nothing() {
        for known in C_FAILS {
            assert!(!known.says(std::iter::once("not run")));
            assert!(!known.says(std::iter::once("no end within 60 s, CPUs at EL2")));
        }
        let many = c_fails(Hyp::C, "trace", "trace-many").unwrap();
        let death = "nVHE hyp BUG at: arch/arm64/kvm/hyp/include/nvhe/memory.h:138!";
        assert!(many.says(std::iter::once(death)));
    }
}
