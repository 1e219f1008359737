// SPDX-License-Identifier: GPL-2.0-only
//! What tests showed on one object, kept in a file from run to run, and the cells of the documentation's tables.

use std::fmt::Write as _;
use std::path::Path;

/// One row of the file of results, tab separated: test, CPU model, whether the demand was met, what was seen.
pub struct Row {
    /// The test.
    pub name: String,
    /// The CPU model.
    pub cpu: String,
    /// Whether it did what it must.
    pub met: bool,
    /// What was seen, in one line.
    pub seen: String,
}

/// The rows of a file; none where there is no file.
pub fn rows(path: &Path) -> Vec<Row> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(4, '\t').map(str::to_owned);
            Some(Row {
                name: fields.next()?,
                cpu: fields.next()?,
                met: fields.next()? == "yes",
                seen: fields.next()?,
            })
        })
        .collect()
}

/// Keeps what a test showed, in place of what it showed the time before.
pub fn record(path: &Path, row: Row) {
    let mut all = rows(path);
    all.retain(|old| old.name != row.name || old.cpu != row.cpu);
    all.push(row);
    let mut text = String::new();
    for row in all {
        let _ = writeln!(
            text,
            "{}\t{}\t{}\t{}",
            row.name,
            row.cpu,
            if row.met { "yes" } else { "no" },
            row.seen.replace(['\t', '\n'], " ")
        );
    }
    let _ = std::fs::write(path, text);
}

/// One object's results of a test: one line per different result, with the CPU models that gave it.
pub fn cell(text: &mut String, rows: &[Row], name: &str) {
    let mut groups: Vec<(&str, bool, Vec<&str>)> = Vec::new();
    for row in rows.iter().filter(|row| row.name == name) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_results_share_a_line() {
        let row = |cpu: &str, seen: &str| Row {
            name: "j1".into(),
            cpu: cpu.into(),
            met: false,
            seen: seen.into(),
        };
        let mut text = String::new();
        cell(
            &mut text,
            &[row("max", "a"), row("n2", "b"), row("a57", "a")],
            "j1",
        );
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("max, a57: **not as demanded**: ``a``"));
    }
}
