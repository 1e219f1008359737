// SPDX-License-Identifier: GPL-2.0-only
//! The results of the kernel's selftests, kept in one file per EL2 object, CPU model and mode: a run of some tests leaves
//! what is known of the others.

use crate::args::Hyp;
use crate::ktap::{Outcome, Status};
use crate::suites::Mode;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// One run of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The test.
    pub test: String,
    /// How it ended.
    pub status: Status,
    /// Which EL2 ran, in the kernel's words.
    pub object: String,
    /// Why it failed or was skipped.
    pub reason: String,
}

/// A file of results.
pub struct Results {
    path: PathBuf,
    /// In the order in which they ran. A test that failed was run again, and has more than one.
    pub attempts: Vec<Attempt>,
}

impl Results {
    /// Reads the file, which need not exist.
    pub fn read(dir: &Path, hyp: Hyp, cpu: &str, mode: Mode) -> Self {
        let path = dir.join(format!("selftests-{}-{cpu}-{}.tsv", hyp.word(), mode.name()));
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let attempts = text.lines().filter_map(row).collect();
        Self { path, attempts }
    }

    /// The best that a test did.
    pub fn best(&self, test: &str) -> Option<Status> {
        let mine = self.attempts.iter().filter(|a| a.test == test);
        mine.map(|a| a.status).min_by_key(|s| rank(*s))
    }

    /// Forgets what is known of a test.
    pub fn forget(&mut self, test: &str) {
        self.attempts.retain(|a| a.test != test);
    }

    /// Keeps a result.
    ///
    /// # Errors
    /// Those of [`Self::save`].
    pub fn add(&mut self, attempt: Attempt) -> Result<(), String> {
        self.attempts.push(attempt);
        self.save()
    }

    /// Writes the file.
    ///
    /// # Errors
    /// One line: it cannot be written, and what it holds is old.
    pub fn save(&self) -> Result<(), String> {
        let mut text = String::new();
        for a in &self.attempts {
            let _ = writeln!(
                text,
                "{}\t{}\t{}\t{}",
                a.test,
                word(a.status),
                a.object.replace(['\t', '\n'], " "),
                a.reason.replace(['\t', '\n'], " ")
            );
        }
        std::fs::write(&self.path, text).map_err(|e| format!("{}: {e}", self.path.display()))
    }
}

/// Better ones come first.
pub fn rank(status: Status) -> u8 {
    match status {
        Status::Passed => 0,
        Status::Skipped => 1,
        Status::Failed => 2,
    }
}

/// The word for a status in files and tables.
pub fn word(status: Status) -> &'static str {
    match status {
        Status::Passed => "ok",
        Status::Skipped => "skip",
        Status::Failed => "fail",
    }
}

fn row(line: &str) -> Option<Attempt> {
    let mut fields = line.splitn(4, '\t').map(str::to_owned);
    let test = fields.next()?;
    let said = fields.next()?;
    let status = [Status::Passed, Status::Skipped, Status::Failed]
        .into_iter()
        .find(|s| word(*s) == said)?;
    Some(Attempt {
        test,
        status,
        object: fields.next()?,
        reason: fields.next()?,
    })
}

/// Why a test failed or was skipped, in its own words.
pub fn reason(outcome: &Outcome) -> String {
    match outcome.status {
        Status::Passed => String::new(),
        Status::Skipped => skip_reason(&outcome.note),
        Status::Failed => failure(outcome),
    }
}

/// A selftest's last line is KTAP of its own: `1..0 # SKIP - Requirement not met: x`.
fn skip_reason(note: &str) -> String {
    let text = note.rsplit_once("# SKIP").map_or(note, |(_, text)| text);
    text.trim().trim_start_matches("- ").to_owned()
}

/// The assertion that did not hold, or the subtests that failed, or how the test ended.
fn failure(outcome: &Outcome) -> String {
    let lines = &outcome.diagnostics;
    let end = lines.last().map_or("", |l| {
        l.strip_prefix(&outcome.name)
            .and_then(|l| l.strip_prefix(": "))
            .unwrap_or(l)
    });
    if let Some(at) = lines.iter().position(|l| l.contains("Test Assertion Failure")) {
        let mut words = lines[at + 1..].iter().map(|l| l.trim()).filter(|l| !l.is_empty());
        let place = words.next().unwrap_or_default();
        // After the place come the process, a stack that nobody here can name, and what the test says of it.
        let noise = |l: &str| {
            l.starts_with("pid=") || l.starts_with("sh: ") || l.contains("stack trace") || is_frame(l)
        };
        let said = words.find(|l| !noise(l));
        return match said {
            Some(said) if !said.starts_with(&outcome.name) => format!("{place}: {said}"),
            _ => place.to_owned(),
        };
    }
    let failed: Vec<_> = outcome
        .children
        .iter()
        .filter(|c| c.status == Status::Failed)
        .map(|c| c.name.as_str())
        .collect();
    if failed.is_empty() {
        end.to_owned()
    } else {
        let all = outcome.children.len();
        format!("{} of {all} subtests: {}; {end}", failed.len(), failed.join(", "))
    }
}

/// `3  0x0000000000402d5b: main at file.c:12`, or the same with question marks.
fn is_frame(line: &str) -> bool {
    line.split_once('\t')
        .or_else(|| line.split_once(' '))
        .is_some_and(|(number, rest)| number.parse::<u32>().is_ok() && rest.trim_start().starts_with("0x"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: Status, note: &str, diagnostics: &[&str]) -> Outcome {
        Outcome {
            name: "arm64/at".into(),
            status,
            note: note.into(),
            children: Vec::new(),
            diagnostics: diagnostics.iter().map(|l| (*l).to_owned()).collect(),
        }
    }

    #[test]
    fn skips_and_failures_have_their_reasons() {
        let skipped = outcome(
            Status::Skipped,
            "1..0 # SKIP - Requirement not met: kvm_check_cap(X)",
            &[],
        );
        assert_eq!(reason(&skipped), "Requirement not met: kvm_check_cap(X)");
        let plain = outcome(Status::Skipped, "No GICv5 support", &[]);
        assert_eq!(reason(&plain), "No GICv5 support");
        let failed = outcome(
            Status::Failed,
            "",
            &[
                "Testing",
                "==== Test Assertion Failure ====",
                "  arm64/at.c:33: ret == 0",
                "  pid=76 tid=76 errno=22 - Invalid argument",
                "     1\t0x0000000000402d5b: ?? ??:0",
                "sh: addr2line: not found",
                "  KVM_RUN failed",
                "arm64/at: exit status 254",
            ],
        );
        assert_eq!(reason(&failed), "arm64/at.c:33: ret == 0: KVM_RUN failed");
        let late = outcome(Status::Failed, "", &["arm64/at: no end within 60 s"]);
        assert_eq!(reason(&late), "no end within 60 s");
    }

    #[test]
    fn files_read_back() {
        let dir = std::env::temp_dir().join(format!("pkvm-runner-results-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let read = || Results::read(&dir, Hyp::Rust, "max", Mode::Nvhe);
        let attempt = |status, reason: &str| Attempt {
            test: "a".into(),
            status,
            object: "pkvm-rs".into(),
            reason: reason.into(),
        };
        let mut results = read();
        results.add(attempt(Status::Failed, "why\tso")).unwrap();
        results.add(attempt(Status::Passed, "")).unwrap();
        assert_eq!(
            read().attempts,
            [attempt(Status::Failed, "why so"), attempt(Status::Passed, "")]
        );
        let mut results = read();
        results.forget("a");
        assert!(results.attempts.is_empty());
        std::fs::remove_dir_all(&dir).unwrap();
        // What cannot be kept is said.
        assert!(results.save().is_err());
    }
}
