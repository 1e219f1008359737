// SPDX-License-Identifier: GPL-2.0-only
//! The options of all commands. Each command takes those that mean something to it, and refuses the others.

use crate::kernel::Hyp;
use crate::paths;
use crate::selftests::MODES;
use std::path::PathBuf;

/// What the user asked for.
#[derive(Debug)]
pub struct Args {
    /// `--hyp c|rust`: the EL2 object.
    pub hyp: Hyp,
    /// `--cpu MODEL`, in the order given.
    pub cpus: Vec<String>,
    /// `--mode protected|nvhe`: of the host.
    pub modes: Vec<String>,
    /// `--smp N`.
    pub smp: u32,
    /// `--shell`: a shell in the host.
    pub shell: bool,
    /// `--gdb`: wait for a debugger.
    pub gdb: bool,
    /// `--quick`: leave out what needs QEMU.
    pub quick: bool,
    /// `--suite NAME`: only these of the QEMU tests.
    pub suites: Vec<String>,
    /// `--full`: the slow tests too.
    pub full: bool,
    /// `--list`: say what there is.
    pub list: bool,
    /// `--object`: the EL2 object alone.
    pub object: bool,
    /// `--write`: write the results into the documentation.
    pub write: bool,
    /// Words that are no options, where the command takes such.
    pub names: Vec<String>,
    /// `KDIR=DIR`, as a word or from the environment.
    pub kdir: Option<PathBuf>,
}

/// What each command takes; `NAME` are words that are no options.
const COMMANDS: [(&str, &[&str]); 7] = [
    ("setup", &["--gdb", "KDIR="]),
    ("build", &["--hyp", "--gdb", "KDIR="]),
    ("run", &["--hyp", "--cpu", "--smp", "--shell", "--gdb", "KDIR="]),
    (
        "test",
        &["--quick", "--full", "--hyp", "--cpu", "--suite", "KDIR="],
    ),
    (
        "configs",
        &["--list", "--object", "--hyp", "--write", "--cpu", "NAME", "KDIR="],
    ),
    ("selftests", &["--cpu", "--mode", "KDIR="]),
    ("check-object", &["--hyp", "KDIR="]),
];

impl Args {
    /// Reads the words after the command.
    ///
    /// # Errors
    /// One line about the first mistake.
    pub fn parse(command: &str, words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self {
            hyp: Hyp::Rust,
            cpus: Vec::new(),
            modes: Vec::new(),
            smp: 2,
            shell: false,
            gdb: false,
            quick: false,
            suites: Vec::new(),
            full: false,
            list: false,
            object: false,
            write: false,
            names: Vec::new(),
            kdir: std::env::var("KDIR")
                .ok()
                .filter(|v| !v.is_empty())
                .map(|v| paths::from_user(&v)),
        };
        let mut words = words;
        while let Some(word) = words.next() {
            known(command, &word)?;
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--hyp" => {
                    args.hyp = match value()?.as_str() {
                        "c" => Hyp::C,
                        "rust" => Hyp::Rust,
                        other => return Err(format!("--hyp is c or rust, not {other}")),
                    }
                }
                "--cpu" => args.cpus.push(value()?),
                "--mode" => {
                    let text = value()?;
                    if !MODES.contains(&text.as_str()) {
                        return Err(format!("--mode is {}, not {text}", MODES.join(" or ")));
                    }
                    args.modes.push(text);
                }
                "--suite" => args.suites.push(value()?),
                "--smp" => {
                    let text = value()?;
                    args.smp = text
                        .parse()
                        .ok()
                        .filter(|n| (1..=8).contains(n))
                        .ok_or_else(|| format!("--smp is 1 to 8, not {text}"))?;
                }
                "--shell" => args.shell = true,
                "--gdb" => args.gdb = true,
                "--quick" => args.quick = true,
                "--full" => args.full = true,
                "--list" => args.list = true,
                "--object" => args.object = true,
                "--write" => args.write = true,
                other => match other.strip_prefix("KDIR=") {
                    Some(dir) => args.kdir = Some(paths::from_user(dir)),
                    None => args.names.push(word),
                },
            }
        }
        args.consistent(command)?;
        Ok(args)
    }

    /// What each option allows alone and the command does not do.
    fn consistent(&self, command: &str) -> Result<(), String> {
        if command == "run" && self.cpus.len() > 1 {
            return Err("run boots one machine: give --cpu once".to_owned());
        }
        if self.quick && !(self.suites.is_empty() && self.cpus.is_empty() && self.hyp == Hyp::Rust) {
            return Err("--quick runs nothing in QEMU: leave out --suite, --cpu and --hyp c".to_owned());
        }
        if self.write && self.names.is_empty() && (self.object || !self.cpus.is_empty()) {
            return Err(
                "--write without NAME runs nothing: name configurations, or leave out --cpu and --object"
                    .to_owned(),
            );
        }
        if self.object && !self.cpus.is_empty() {
            return Err("--object boots nothing: leave out --cpu".to_owned());
        }
        if command == "configs" && self.hyp == Hyp::C && !self.object {
            return Err(
                "configs boots the Rust EL2 alone: give --object with --hyp c, to build the C object"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

/// Whether a word is one that the command takes.
fn known(command: &str, word: &str) -> Result<(), String> {
    // A command that does not exist is another's to complain about.
    let Some((_, takes)) = COMMANDS.iter().find(|(name, _)| *name == command) else {
        return Ok(());
    };
    let option = match word.strip_prefix("KDIR=") {
        Some(_) => "KDIR=",
        None if word.starts_with('-') => word,
        None => "NAME",
    };
    if takes.contains(&option) {
        return Ok(());
    }
    let others: Vec<&str> = COMMANDS
        .iter()
        .filter(|(_, takes)| takes.contains(&option))
        .map(|(name, _)| *name)
        .collect();
    if option == "NAME" || others.is_empty() {
        return Err(format!("{word}: no such option (see --help)"));
    }
    Err(format!(
        "{command} does not take {word}, only {} {}: leave it out (see --help)",
        others.join(" and "),
        if others.len() == 1 { "does" } else { "do" }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(command: &str, line: &str) -> Result<Args, String> {
        Args::parse(command, line.split_whitespace().map(String::from))
    }

    #[test]
    fn typical() {
        let args = of("run", "--hyp c --cpu cortex-a57 --smp 4 KDIR=/src/linux --shell").unwrap();
        assert_eq!(args.hyp, Hyp::C);
        assert_eq!(args.cpus, ["cortex-a57"]);
        assert_eq!(args.smp, 4);
        assert!(args.shell && !args.gdb);
        assert_eq!(args.kdir, Some(PathBuf::from("/src/linux")));
        let args = of("test", "--cpu max --cpu max,lpa2=off --suite boot").unwrap();
        assert_eq!(args.cpus, ["max", "max,lpa2=off"]);
        assert_eq!(of("configs", "--object --hyp c 64k").unwrap().names, ["64k"]);
    }

    #[test]
    fn mistakes_are_named() {
        assert!(of("test", "--hyp both").unwrap_err().contains("both"));
        assert!(of("run", "--smp 9").unwrap_err().contains("--smp"));
        assert!(of("run", "--frob").unwrap_err().contains("--frob: no such"));
        assert!(of("test", "boot").unwrap_err().contains("boot: no such"));
    }

    #[test]
    fn options_of_other_commands_are_refused() {
        for (command, line, word) in [
            ("run", "--mode nvhe", "only selftests does"),
            ("run", "--suite boot", "only test does"),
            ("run", "--cpu max --cpu cortex-a57", "once"),
            ("test", "--smp 4", "only run does"),
            ("test", "--mode nvhe", "only selftests does"),
            ("configs", "--hyp c", "--object"),
            ("configs", "--write --cpu max", "without NAME"),
            ("configs", "--write --object", "without NAME"),
            ("configs", "--object --cpu max 64k", "boots nothing"),
            ("test", "--quick --suite boot", "--quick runs nothing in QEMU"),
            ("test", "--quick --cpu max", "--quick runs nothing in QEMU"),
            ("configs", "--full", "only test does"),
            ("selftests", "--hyp c", "does not take --hyp"),
            ("selftests", "max", "no such option"),
            ("check-object", "--cpu max", "does not take --cpu"),
        ] {
            let why = of(command, line).unwrap_err();
            assert!(why.contains(word) && !why.contains('\n'), "{why}");
        }
    }
}
