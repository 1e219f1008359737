// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's selftests on both objects, side by side: compares the results and writes `Documentation/selftests.rst`.

use super::judged::{Beside, Config, Judged, Verdict, beside, verdict};
use super::results::{Attempt, Results, rank, word};
use super::{MODES, NOTES, TESTS};
use crate::args::Hyp;
use crate::ktap::Status;
use crate::suites::Mode;
use std::fmt::Write as _;
use std::path::Path;

fn cell(c: Option<&Verdict>, rust: Option<&Verdict>) -> String {
    let say = |v: Option<&Verdict>| {
        v.map_or("?".to_owned(), |v| {
            let again = if v.again { " (2)" } else { "" };
            format!("{}{again}", word(v.status))
        })
    };
    let (c, rust) = (say(c), say(rust));
    if c == rust { c } else { format!("{c} / {rust}") }
}

/// The CPU models of the table, beside those that are chosen.
const CPUS: [&str; 3] = ["max", "neoverse-n2", "cortex-a57"];

/// Writes the document from the results in a directory, of all machines. The outcome is about those of `cpus` and
/// `mode`, where they are named.
///
/// # Errors
/// There are no results, or the file cannot be written.
pub fn write(out: &Path, dir: &Path, cpus: &[String], mode: Option<Mode>) -> Result<Judged, String> {
    let chosen = mode;
    let more = cpus.iter().map(String::as_str).filter(|cpu| !CPUS.contains(cpu));
    let (configs, absent): (Vec<Config>, Vec<Config>) = CPUS
        .into_iter()
        .chain(more)
        .flat_map(|cpu| MODES.map(|mode| (cpu, mode)))
        .map(|(cpu, mode)| Config {
            cpu: cpu.to_owned(),
            mode,
            judged: (cpus.is_empty() || cpus.iter().any(|c| c == cpu)) && chosen.is_none_or(|m| m == mode),
            c: Results::read(dir, Hyp::C, cpu, mode).attempts,
            rust: Results::read(dir, Hyp::Rust, cpu, mode).attempts,
        })
        .partition(|config| !config.c.is_empty() || !config.rust.is_empty());
    if configs.is_empty() {
        return Err(format!("{}: no results of selftests", dir.display()));
    }
    let (text, judged) = document(&configs, &absent);
    std::fs::write(out, text).map_err(|e| format!("{}: {e}", out.display()))?;
    Ok(judged)
}

/// The EL2 objects of the results, where results of one kind come from more than one: a run of some machines leaves what
/// is known of the others.
struct Objects<'a>([Vec<&'a str>; 2]);

impl<'a> Objects<'a> {
    fn of(configs: &'a [Config]) -> Self {
        Self([Hyp::C, Hyp::Rust].map(|hyp| {
            let mut objects: Vec<&str> = configs
                .iter()
                .flat_map(|c| c.of(hyp))
                .map(|a| a.object.as_str())
                .collect();
            objects.sort_unstable();
            objects.dedup();
            objects
        }))
    }

    fn all(&self, hyp: Hyp) -> &[&'a str] {
        let Self([c, rust]) = self;
        match hyp {
            Hyp::C => c,
            Hyp::Rust => rust,
        }
    }

    /// The names, with numbers where there is more than one.
    fn names(&self, hyp: Hyp) -> String {
        match self.all(hyp) {
            [one] => (*one).to_owned(),
            all => {
                let names: Vec<_> = (1..).zip(all).map(|(n, name)| format!("({n}) {name}")).collect();
                names.join("; ")
            }
        }
    }

    /// The numbers of the objects of some attempts; empty where there is but one object.
    fn mark(&self, hyp: Hyp, attempts: &[&Attempt]) -> String {
        let all = self.all(hyp);
        let numbers: Vec<String> = (1..)
            .zip(all)
            .filter(|(_, name)| all.len() > 1 && attempts.iter().any(|a| a.object == **name))
            .map(|(n, _): (u32, _)| n.to_string())
            .collect();
        if numbers.is_empty() {
            String::new()
        } else {
            format!("({})", numbers.join(", "))
        }
    }

    /// The same for a column of the table, of both kinds.
    fn column(&self, config: &Config) -> String {
        let marks = [(Hyp::C, "C"), (Hyp::Rust, "Rust")].map(|(hyp, name)| {
            let mark = self.mark(hyp, &config.of(hyp).iter().collect::<Vec<_>>());
            (name, mark)
        });
        let said: Vec<_> = marks
            .iter()
            .filter(|(_, mark)| !mark.is_empty())
            .map(|(name, mark)| format!("{name} {mark}"))
            .collect();
        said.join(", ")
    }
}

fn document(configs: &[Config], absent: &[Config]) -> (String, Judged) {
    let objects = Objects::of(configs);
    let mut judged = Judged::default();
    let mut all = Judged::default();
    let mut rows = Vec::new();
    for test in TESTS {
        let mut row = vec![test.program.to_owned()];
        for config in configs {
            let beside = beside(config, test.program);
            let cell = cell_of(config, test.program);
            row.push(match beside {
                Beside::Worse => format!("**{cell}**"),
                _ => cell,
            });
            let line = || told(config, test.program, &objects);
            all.count(beside, line);
            if config.judged {
                judged.count(beside, line);
            }
        }
        rows.push(row);
    }
    let mut text = String::from(HEAD);
    summary(&mut text, configs, &objects, &all);
    if !absent.is_empty() {
        let names: Vec<_> = absent.iter().map(Config::name).collect();
        let _ = writeln!(text, "Not run at all: {}.\n", names.join(", "));
    }
    table(&mut text, configs, &objects, &rows);
    reasons(&mut text, configs, Status::Skipped, SKIPPED);
    reasons(&mut text, configs, Status::Failed, FAILED);
    arguments(&mut text);
    judged.absent = absent.iter().filter(|c| c.judged).map(Config::name).collect();
    (text, judged)
}

/// What both objects did with a test on a machine.
fn told(config: &Config, test: &str, objects: &Objects<'_>) -> String {
    let by = |hyp| {
        let attempts = config.of(hyp);
        let mine: Vec<_> = attempts.iter().filter(|a| a.test == test).collect();
        let mark = objects.mark(hyp, &mine);
        let space = if mark.is_empty() { "" } else { " " };
        let did = verdict(attempts, test).map_or("not run", |v| word(v.status));
        (did, format!("{space}{mark}"))
    };
    let (c, by_c) = by(Hyp::C);
    let (rust, by_rust) = by(Hyp::Rust);
    format!(
        "{test} on {}: {c} with the C object{by_c}, {rust} with the Rust object{by_rust}",
        config.name()
    )
}

fn cell_of(config: &Config, test: &str) -> String {
    cell(
        verdict(&config.c, test).as_ref(),
        verdict(&config.rust, test).as_ref(),
    )
}

fn summary(text: &mut String, configs: &[Config], objects: &Objects<'_>, all: &Judged) {
    for hyp in [Hyp::C, Hyp::Rust] {
        let mut counts = [0_u32; 3];
        for config in configs {
            for v in TESTS.iter().filter_map(|t| verdict(config.of(hyp), t.program)) {
                counts[usize::from(rank(v.status))] += 1;
            }
        }
        let _ = writeln!(
            text,
            "* {}: {} passed, {} skipped, {} failed",
            objects.names(hyp),
            counts[0],
            counts[1],
            counts[2]
        );
    }
    text.push('\n');
    if configs.iter().any(|config| !objects.column(config).is_empty()) {
        text.push_str(
            "Not all columns are of the same objects; the numbers at their heads say which are whose.\n\n",
        );
    }
    if all.missing > 0 {
        let _ = writeln!(
            text,
            "A ``?`` was not run; there are {} cells with one.\n",
            all.missing
        );
    }
    if !all.both.is_empty() {
        text.push_str("What fails with both objects, and no note below says why:\n\n");
        for line in &all.both {
            let _ = writeln!(text, "* {line}");
        }
        text.push('\n');
    }
    if all.worse.is_empty() {
        text.push_str("Nothing that was run does worse on the Rust object than on the C object.\n\n");
    } else {
        text.push_str("Where the Rust object does worse:\n\n");
        for line in &all.worse {
            let _ = writeln!(text, "* {line}");
        }
        text.push('\n');
    }
}

/// A simple table: one row per test, one column per CPU model and mode.
fn table(text: &mut String, configs: &[Config], objects: &Objects<'_>, rows: &[Vec<String>]) {
    let mut heads = vec![vec!["Test".to_owned()], vec![String::new()]];
    for config in configs {
        heads[0].push(config.cpu.clone());
        heads[1].push(config.mode.name().to_owned());
    }
    let marks = std::iter::once(String::new()).chain(configs.iter().map(|config| objects.column(config)));
    let marks: Vec<String> = marks.collect();
    if marks.iter().any(|mark| !mark.is_empty()) {
        heads.push(marks);
    }
    let widths: Vec<usize> = (0..=configs.len())
        .map(|i| {
            heads
                .iter()
                .chain(rows)
                .map(|row| row[i].len())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let rule = widths
        .iter()
        .map(|w| "=".repeat(*w))
        .collect::<Vec<_>>()
        .join("  ");
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    let _ = writeln!(text, "{rule}");
    for head in &heads {
        let _ = writeln!(text, "{}", line(head));
    }
    let _ = writeln!(text, "{rule}");
    for row in rows {
        let _ = writeln!(text, "{}", line(row));
    }
    let _ = writeln!(text, "{rule}");
}

/// For each test that ended so anywhere: the reasons, and where each was given.
fn reasons(text: &mut String, configs: &[Config], status: Status, head: &str) {
    let mut section = String::new();
    for test in TESTS {
        // Reason, and the objects and configurations that gave it.
        let mut groups: Vec<(&str, Vec<(Hyp, usize)>)> = Vec::new();
        for (index, config) in configs.iter().enumerate() {
            for hyp in [Hyp::C, Hyp::Rust] {
                for attempt in config.of(hyp) {
                    if attempt.test != test.program || attempt.status != status {
                        continue;
                    }
                    let place = (hyp, index);
                    match groups.iter_mut().find(|(reason, _)| *reason == attempt.reason) {
                        Some((_, places)) if places.contains(&place) => {}
                        Some((_, places)) => places.push(place),
                        None => groups.push((&attempt.reason, vec![place])),
                    }
                }
            }
        }
        if groups.is_empty() {
            continue;
        }
        let _ = writeln!(section, "\n``{}``", test.program);
        for note in NOTES {
            if note.program == test.program && note.status == status {
                let _ = writeln!(section, "    {}\n", note.text);
            }
        }
        for (reason, places) in groups {
            let _ = writeln!(
                section,
                "    * {}: ``{}``",
                places_of(configs, &places),
                reason.replace('`', "'")
            );
        }
    }
    if !section.is_empty() {
        text.push_str(head);
        text.push_str(&section);
    }
}

/// Names places: an object is named only where the other did not do the same.
fn places_of(configs: &[Config], places: &[(Hyp, usize)]) -> String {
    if places.len() == 2 * configs.len() {
        return "everywhere".to_owned();
    }
    let mut parts = Vec::new();
    for (index, config) in configs.iter().enumerate() {
        let has = |hyp| places.contains(&(hyp, index));
        match (has(Hyp::C), has(Hyp::Rust)) {
            (true, true) => parts.push(config.name()),
            (true, false) => parts.push(format!("{} (C)", config.name())),
            (false, true) => parts.push(format!("{} (Rust)", config.name())),
            (false, false) => {}
        }
    }
    parts.join(", ")
}

fn arguments(text: &mut String) {
    text.push_str(ARGUMENTS);
    for test in TESTS.iter().filter(|t| !t.why.is_empty()) {
        let words = [&[test.program], test.arguments()].concat().join(" ");
        let _ = writeln!(text, "\n``{words}``\n    {}.", test.why);
    }
}

const HEAD: &str = "\
.. SPDX-License-Identifier: GPL-2.0-only

=============================
KVM selftests on both objects
=============================

..
   This file is written by ``scripts/selftests``; do not edit it.

``scripts/selftests`` builds the kernel's own KVM selftests (``tools/testing/selftests/kvm``, all that it builds for
arm64), boots the same kernel with its C object and with the Rust object on the same machines, and writes this table.
Its exit status is 0 only if all was run, no test does worse on the Rust object than on the C object, and each that fails
on both has a note below that says why. A machine that dies before its first test counts as not run.

A cell holds what both did, or what the C object did and, after the stroke, what the Rust object did. A test that fails
is run once more in a boot of its own; ``ok (2)`` passed then. That happens to tests that hold the emulator to a time
while the machine below it does other work. Under ``protected`` the host boots with ``kvm-arm.mode=protected``, and its
normal VMs are tested; under ``nvhe`` nothing is protected, and EL2 only switches worlds.

";

const SKIPPED: &str = "
Why tests are skipped
=====================
";

const FAILED: &str = "
Why tests fail
==============
";

const ARGUMENTS: &str = "
Tests that are changed
======================

The others run as they are. These end in bearable time on an emulated machine, or do not end at their first assertion,
only with these arguments, or built so:
";

#[cfg(test)]
mod tests {
    use super::super::judged::made::{attempt, config};
    use super::*;

    #[test]
    fn what_fails_with_both_decides_unless_it_is_noted() {
        let both = |test: &str, reason: &str| {
            let failed = || vec![attempt(test, Status::Failed, reason)];
            document(&[config(failed(), failed())], &[])
        };
        let (text, judged) = both("get-reg-list", "x == y");
        assert_eq!((judged.both.len(), judged.both_known, judged.passed), (1, 0, 0));
        assert!(
            text.contains("no note below says why:\n\n* get-reg-list on max nvhe: fail"),
            "{text}"
        );
        let (text, judged) = both(
            "arm64/page_fault_test",
            "x: other numbers of faults: ro_memslot_no_syndrome_guest_cas 1.",
        );
        assert_eq!((judged.both.len(), judged.both_known), (0, 1));
        assert!(!text.contains("no note below"), "{text}");
    }

    #[test]
    fn a_second_attempt_counts_and_shows() {
        let attempts = [
            attempt("get-reg-list", Status::Failed, "slow"),
            attempt("get-reg-list", Status::Passed, ""),
        ];
        let v = verdict(&attempts, "get-reg-list").unwrap();
        assert!(v.status == Status::Passed && v.again);
        assert_eq!(cell(Some(&v), Some(&v)), "ok (2)");
        assert!(verdict(&attempts, "steal_time").is_none());
    }

    #[test]
    fn the_document_names_losses_and_reasons() {
        let one = [config(
            vec![
                attempt("get-reg-list", Status::Passed, ""),
                attempt("arm64/at", Status::Skipped, "no EL2"),
            ],
            vec![
                attempt("get-reg-list", Status::Failed, "x == y"),
                attempt("arm64/at", Status::Skipped, "no EL2"),
            ],
        )];
        let (text, judged) = document(&one, &[config(Vec::new(), Vec::new())]);
        assert!(text.contains("Not run at all: max nvhe."));
        assert_eq!((judged.skipped, judged.worse.len(), judged.missing), (1, 1, 44));
        assert_eq!(judged.absent, ["max nvhe"]);
        assert!(judged.worse[0].starts_with("get-reg-list on max nvhe: ok"));
        assert!(text.contains("**ok / fail**"));
        assert!(text.contains("* everywhere: ``no EL2``"));
        assert!(text.contains("* max nvhe (Rust): ``x == y``"));
        assert!(text.contains("1 passed, 1 skipped, 0 failed"));
    }

    #[test]
    fn only_the_chosen_machines_decide() {
        let lost = |judged| Config {
            judged,
            ..config(
                vec![attempt("get-reg-list", Status::Passed, "")],
                vec![attempt("get-reg-list", Status::Failed, "x")],
            )
        };
        let absent = Config {
            judged: false,
            ..config(Vec::new(), Vec::new())
        };
        let (text, judged) = document(&[lost(false)], &[absent]);
        // All is shown.
        assert!(text.contains("**ok / fail**") && text.contains("Where the Rust object does worse"));
        assert!(judged.good());
        let (_, judged) = document(&[lost(false), lost(true)], &[]);
        assert_eq!((judged.worse.len(), judged.missing), (1, 45));
    }

    #[test]
    fn columns_of_different_objects_are_marked() {
        let of = |mode, object: &str, status| {
            let mut rust = attempt("get-reg-list", status, "x");
            object.clone_into(&mut rust.object);
            Config {
                mode,
                ..config(vec![attempt("get-reg-list", Status::Passed, "")], vec![rust])
            }
        };
        let (text, judged) = document(
            &[
                of(Mode::Nvhe, "new", Status::Passed),
                of(Mode::Protected, "old", Status::Failed),
            ],
            &[],
        );
        assert!(text.contains("* object: 2 passed"), "{text}");
        assert!(text.contains("* (1) new; (2) old: 1 passed"), "{text}");
        assert!(
            text.lines()
                .any(|l| l.split_whitespace().eq(["Rust", "(1)", "Rust", "(2)"])),
            "{text}"
        );
        assert!(judged.worse[0].ends_with("ok with the C object, fail with the Rust object (2)"));
        let (text, _) = document(&[of(Mode::Nvhe, "new", Status::Passed)], &[]);
        assert!(
            !text.contains("(1)") && !text.contains("Not all columns"),
            "{text}"
        );
    }
}
