// SPDX-License-Identifier: GPL-2.0-only
//! Reads KTAP (Documentation/dev-tools/ktap.rst) out of a kernel's console. The lines of the tests are among those of
//! the kernel, and carry its time stamps, since init writes them through `/dev/kmsg` so that no line is torn.

/// How one test ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// `ok`.
    Passed,
    /// `not ok`.
    Failed,
    /// `ok ... # SKIP`.
    Skipped,
}

/// A result line with what was nested in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The name the line gave.
    pub name: String,
    /// What it said.
    pub status: Status,
    /// What followed `# SKIP`, or nothing.
    pub note: String,
    /// The results nested in this one.
    pub children: Vec<Outcome>,
    /// The `#` lines that came before this result at any depth below it.
    pub diagnostics: Vec<String>,
}

/// Takes a console line by line.
#[derive(Default)]
pub struct Parser {
    /// One list of unfinished results for each depth.
    levels: Vec<Vec<Outcome>>,
    diagnostics: Vec<String>,
}

/// What a line meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// It is not KTAP, or does not end a test.
    None,
    /// A test of the outermost level ended.
    Ended(Outcome),
}

impl Parser {
    /// The `#` lines of the test that is still running: what a machine said before it died.
    pub fn pending(&self) -> &[String] {
        &self.diagnostics
    }

    /// Takes the next line of the console.
    pub fn line(&mut self, line: &str) -> Event {
        let body = strip_stamp(line);
        let text = body.trim_start_matches(' ');
        let depth = (body.len() - text.len()) / 4;
        if let Some(rest) = text.strip_prefix("# ") {
            self.diagnostics.push(rest.trim_end().to_owned());
            return Event::None;
        }
        let Some((ok, rest)) = result_line(text) else {
            return Event::None;
        };
        let (name, note) = match rest.split_once(" # ") {
            Some((name, directive)) => (name, directive.trim()),
            None => (rest, ""),
        };
        let skip = note
            .get(..4)
            .is_some_and(|word| word.eq_ignore_ascii_case("SKIP"));
        if self.levels.len() <= depth + 1 {
            self.levels.resize_with(depth + 2, Vec::new);
        }
        // A result adopts what was reported one level deeper since the last result of its own level.
        let children = self.levels.drain(depth + 1..).flatten().collect::<Vec<_>>();
        let outcome = Outcome {
            name: name.trim().trim_start_matches("- ").to_owned(),
            status: match (ok, skip) {
                (true, true) => Status::Skipped,
                (true, false) => Status::Passed,
                (false, _) => Status::Failed,
            },
            note: if skip {
                note[4..].trim().to_owned()
            } else {
                String::new()
            },
            children,
            diagnostics: if depth == 0 {
                std::mem::take(&mut self.diagnostics)
            } else {
                Vec::new()
            },
        };
        if depth == 0 {
            return Event::Ended(outcome);
        }
        self.levels[depth].push(outcome);
        Event::None
    }
}

/// Splits `ok 3 name` and `not ok 3 name` into the verdict and the name. The number is required: a kernel message that
/// happens to begin with "ok" is no result.
fn result_line(text: &str) -> Option<(bool, &str)> {
    let (ok, rest) = match text.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, text.strip_prefix("ok ")?),
    };
    let (number, name) = rest.split_once(' ')?;
    number.parse::<u32>().ok()?;
    Some((ok, name.trim_end()))
}

/// Takes printk's time stamp, and the caller id that some configurations add, off a line.
pub fn strip_stamp(line: &str) -> &str {
    let mut rest = line.trim_end_matches(['\r', '\n']);
    for _ in 0..2 {
        let Some(inner) = rest.strip_prefix('[') else {
            break;
        };
        let Some((stamp, after)) = inner.split_once("] ") else {
            break;
        };
        let stamp = stamp.trim();
        let time = stamp.split_once('.').is_some_and(|(s, f)| {
            !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()) && f.bytes().all(|b| b.is_ascii_digit())
        });
        let caller = stamp.len() > 1
            && matches!(stamp.as_bytes()[0], b'T' | b'C')
            && stamp[1..].bytes().all(|b| b.is_ascii_digit());
        if !time && !caller {
            break;
        }
        rest = after;
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> (Parser, Vec<Outcome>) {
        let mut parser = Parser::default();
        let ended = text
            .lines()
            .filter_map(|l| match parser.line(l) {
                Event::Ended(o) => Some(o),
                Event::None => None,
            })
            .collect();
        (parser, ended)
    }

    #[test]
    fn nested_results_among_kernel_lines() {
        let (_, ended) = run("[    0.000000] Booting Linux on physical CPU 0x0\r
[    1.000000] KTAP version 1\r
[    1.000001] 1..2\r
[    1.100000]     KTAP version 1\r
[    1.100000]     1..2\r
[    1.200000]     # said something\r
[    1.200000]     ok 1 inner-a\r
[    1.200001] kvm [1]: a message of the kernel\r
[    1.200000]     not ok 2 inner-b\r
[    1.300000] not ok 1 outer\r
[    1.300000] ok 2 other # SKIP no device\r
");
        assert_eq!(ended.len(), 2);
        assert_eq!(ended[0].status, Status::Failed);
        assert_eq!(ended[0].diagnostics, ["said something"]);
        assert_eq!(ended[0].children.len(), 2);
        assert_eq!(ended[0].children[1].status, Status::Failed);
        assert_eq!(
            (ended[1].status, ended[1].note.as_str()),
            (Status::Skipped, "no device")
        );
        assert!(ended[1].children.is_empty());
    }

    #[test]
    fn a_dead_machine_leaves_pending_words() {
        let (parser, ended) =
            run("1..1\n# about to call 27\n[    2.0] Kernel panic - not syncing: HYP panic:\n");
        assert!(ended.is_empty());
        assert_eq!(parser.pending(), ["about to call 27"]);
    }

    #[test]
    fn words_that_only_look_like_results() {
        let (_, ended) = run("ok then\n[    1.0] ok, fine\nnot ok at all\n");
        assert!(ended.is_empty());
    }

    #[test]
    fn stamps() {
        assert_eq!(strip_stamp("[    1.25] [   T1] ok 1 a"), "ok 1 a");
        assert_eq!(strip_stamp("[drm] not a stamp"), "[drm] not a stamp");
        assert_eq!(strip_stamp("[    1.25]     ok 1 a"), "    ok 1 a");
    }
}
