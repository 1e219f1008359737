// SPDX-License-Identifier: GPL-2.0-only
//! The cases in which the specification judges the C object wrong, or in which a host could end the machine: what each
//! must do, what the C object did when it was run, and the table of both in the documentation.

/// One case. Its test reports what it saw in a line that begins with `seen: `.
#[derive(Debug)]
pub struct Case {
    /// The test's name, which begins with the number of the judgement.
    pub name: &'static str,
    /// How init is called.
    pub argv: &'static [&'static str],
    /// What is tried, for the table.
    pub what: &'static str,
    /// What must come of it.
    pub demand: &'static str,
    /// CPU models that can show it; empty if all can.
    pub cpus: &'static [&'static str],
    /// Words that must be in what was seen on the C object, on these models: recorded from a run.
    pub c_saw: &'static str,
}

/// The cases.
pub const CASES: &[Case] = &[];

use crate::args::Hyp;
use std::fmt::Write as _;
use std::path::Path;

/// The case behind a test, if its suite holds judgements.
pub fn find(suite: &str, test: &str) -> Option<&'static Case> {
    if suite != "judgements" {
        return None;
    }
    CASES.iter().find(|case| case.name == test)
}

/// What a test reported: its last `seen: ` line.
pub fn seen(diagnostics: &[String]) -> Option<String> {
    diagnostics
        .iter()
        .rev()
        .find_map(|line| line.strip_prefix("seen: "))
        .map(str::to_owned)
}

/// One row of the file of results, tab separated: case, CPU model, whether the demand was met, what was seen.
struct Row {
    case: String,
    cpu: String,
    met: bool,
    seen: String,
}

fn rows(path: &Path) -> Vec<Row> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(4, '\t').map(str::to_owned);
            Some(Row {
                case: fields.next()?,
                cpu: fields.next()?,
                met: fields.next()? == "yes",
                seen: fields.next()?,
            })
        })
        .collect()
}

/// Keeps what a case showed, in place of what it showed the time before.
pub fn record(dir: &Path, hyp: Hyp, cpu: &str, case: &Case, met: bool, seen: &str) {
    let path = crate::results_file(dir, hyp);
    let mut all = rows(&path);
    all.retain(|row| row.case != case.name || row.cpu != cpu);
    all.push(Row {
        case: case.name.to_owned(),
        cpu: cpu.to_owned(),
        met,
        seen: seen.replace(['\t', '\n'], " "),
    });
    let mut text = String::new();
    for row in all {
        let _ = writeln!(
            text,
            "{}\t{}\t{}\t{}",
            row.case,
            row.cpu,
            if row.met { "yes" } else { "no" },
            row.seen
        );
    }
    let _ = std::fs::write(path, text);
}

/// Writes the table of the documentation from the results of runs.
///
/// # Errors
/// The file cannot be written, or the C object's results are missing.
pub fn write_table(out: &Path, c: Option<&Path>, rust: Option<&Path>) -> Result<(), String> {
    let c = rows(c.ok_or("--judgements needs --c-results")?);
    let rust = rust.map(rows).unwrap_or_default();
    if c.is_empty() {
        return Err("the file of the C object's results holds none".to_owned());
    }
    let mut text = String::from(HEAD);
    for case in CASES {
        let _ = writeln!(text, "   * - {}", case.name);
        let _ = writeln!(text, "     - {}", case.what);
        let _ = writeln!(text, "     - {}", case.demand);
        cell(&mut text, &c, case);
        cell(&mut text, &rust, case);
    }
    std::fs::write(out, text).map_err(|e| format!("{}: {e}", out.display()))
}

/// One object's results of a case: one line per different result, with the CPU models that gave it.
fn cell(text: &mut String, rows: &[Row], case: &Case) {
    let mut groups: Vec<(&str, bool, Vec<&str>)> = Vec::new();
    for row in rows.iter().filter(|row| row.case == case.name) {
        match groups
            .iter_mut()
            .find(|(seen, met, _)| *seen == row.seen && *met == row.met)
        {
            Some((_, _, cpus)) => cpus.push(&row.cpu),
            None => groups.push((&row.seen, row.met, vec![&row.cpu])),
        }
    }
    let mut lead = "     - ";
    if groups.is_empty() {
        let _ = writeln!(text, "{lead}not run");
    }
    for (seen, met, cpus) in groups {
        let verdict = if met { "as demanded" } else { "**not as demanded**" };
        let _ = writeln!(
            text,
            "{lead}| {}: {verdict}: ``{}``",
            cpus.join(", "),
            seen.replace('`', "'")
        );
        lead = "       ";
    }
}

const HEAD: &str = "\
.. SPDX-License-Identifier: GPL-2.0-only

==========================
Judgements on the C object
==========================

..
   This file is written by ``pkvm-runner --judgements``; do not edit it.

Reading the C object's source against the specification left a list of cases in which a host could end the machine,
keep a page for ever, or slip an argument past a check. Each became a test of its own, with a boot of its own
(``pkvm-runner --suite judgements``), and ran first on the kernel's C object: the table says what each case did
there, in the words of the test or, where the machine died, of the line with which it died. The last column is the
same run on the Rust object.

.. list-table::
   :header-rows: 1
   :widths: 12 25 18 25 20

   * - Case
     - What the host does
     - Demand
     - C object
     - Rust object
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_report_counts() {
        let lines = ["a", "seen: x1=0", "seen: x1=-22", "b"].map(String::from);
        assert_eq!(seen(&lines).as_deref(), Some("x1=-22"));
        assert_eq!(seen(&lines[..1]), None);
    }

    #[test]
    fn equal_results_share_a_line() {
        let row = |cpu: &str, seen: &str| Row {
            case: "j1".into(),
            cpu: cpu.into(),
            met: false,
            seen: seen.into(),
        };
        let case = Case {
            name: "j1",
            argv: &[],
            what: "",
            demand: "",
            cpus: &[],
            c_saw: "",
        };
        let mut text = String::new();
        cell(
            &mut text,
            &[row("max", "a"), row("n2", "b"), row("a57", "a")],
            &case,
        );
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("max, a57: **not as demanded**: ``a``"));
    }
}
