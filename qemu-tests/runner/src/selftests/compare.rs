// SPDX-License-Identifier: GPL-2.0-only
//! Runs the kernel's selftests for the table.

use super::results::{self, Attempt, Results};
use crate::ktap::Status;
use crate::suites::Test;
use crate::{Session, Tally};

impl Session<'_> {
    /// Runs tests to compare two objects by: what they did is kept for the table, and one that fails is run again.
    pub fn compare(&self, tally: &mut Tally) -> Result<(), String> {
        let mut results = Results::read(&self.args.log_dir, self.args.hyp, self.cpu, self.mode);
        for test in &self.suite.tests {
            results.forget(test.name);
        }
        // Old results are not this run's, whatever becomes of it.
        results.save()?;
        let ended = self.passes(&mut results);
        for test in &self.suite.tests {
            match results.best(test.name) {
                Some(Status::Passed) => tally.passed += 1,
                Some(Status::Skipped) => tally.skipped += 1,
                Some(Status::Failed) | None => tally.failed += 1,
            }
        }
        ended
    }

    fn passes(&self, results: &mut Results) -> Result<(), String> {
        let failed = self.pass("1", &self.suite.tests, results)?;
        if failed.is_empty() {
            return Ok(());
        }
        println!(
            "      {} failed, and {} again",
            failed.len(),
            if failed.len() == 1 { "runs" } else { "run" }
        );
        self.pass("2", &failed, results).map(|_| ())
    }

    /// Runs tests once, in a new machine wherever one died. Returns those that failed.
    ///
    /// # Errors
    /// One line: two machines in a row came to no test, which says nothing of the tests; or a result was not kept.
    fn pass(&self, name: &str, tests: &[Test], results: &mut Results) -> Result<Vec<Test>, String> {
        let mut left = tests.to_vec();
        let mut failed = Vec::new();
        let mut boots = 0;
        let mut stillborn = 0;
        let mut kept = Ok(());
        while !left.is_empty() {
            boots += 1;
            let stem = format!(
                "{}-{}-{}-{name}.{boots}",
                self.suite.name,
                self.cpu,
                self.mode.name()
            );
            let mut keep = |test: &str, status, took: &str, object: Option<&str>, reason: &str| {
                self.print(results::word(status), test, took, reason);
                let attempt = Attempt {
                    test: test.to_owned(),
                    status,
                    object: object.unwrap_or("unknown").to_owned(),
                    reason: reason.to_owned(),
                };
                if let Err(why) = results.add(attempt) {
                    kept = Err(why);
                }
                if status == Status::Failed {
                    failed.extend(tests.iter().find(|t| t.name == test).cloned());
                }
            };
            let begun = self.start(&stem, &left, |timed, _, object| {
                let outcome = &timed.outcome;
                let took = format!("{:.1} s", timed.took.as_secs_f64());
                keep(
                    &outcome.name,
                    outcome.status,
                    &took,
                    object,
                    &results::reason(outcome),
                );
            })?;
            let Some((report, log)) = begun else { break };
            if !report.begun {
                let why = self
                    .symbols
                    .name(report.death.as_deref().unwrap_or("no end was seen"));
                stillborn += 1;
                if stillborn == 2 {
                    return Err(format!("no test ran: {why}; console: {}", log.display()));
                }
                println!("      no test ran, so it boots again: {why}");
                continue;
            }
            stillborn = 0;
            // The first without a result is the one that the machine died of.
            let died = left
                .iter()
                .position(|t| report.results.iter().all(|r| r.outcome.name != t.name));
            if let Some(test) = died.map(|at| left[at].name) {
                let why = report.death.as_deref().unwrap_or("no result");
                keep(
                    test,
                    Status::Failed,
                    "",
                    report.object.as_deref(),
                    &self.symbols.name(why),
                );
                println!("      console: {}", log.display());
            }
            for complaint in &report.complaints {
                println!("      {complaint}");
            }
            // The results that the table is made of must be these.
            kept.clone()?;
            left.drain(..died.map_or(left.len(), |at| at + 1));
        }
        Ok(failed)
    }
}
