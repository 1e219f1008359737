// SPDX-License-Identifier: GPL-2.0-only
//! The options of all commands.

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

impl Args {
    /// Reads the words after the command.
    ///
    /// # Errors
    /// One line about the first mistake.
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
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
                    None if other.starts_with('-') => {
                        return Err(format!("{other}: no such option (see --help)"));
                    }
                    None => args.names.push(word),
                },
            }
        }
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn typical() {
        let args = of("--hyp c --cpu max --cpu cortex-a57 --smp 4 KDIR=/src/linux --shell").unwrap();
        assert_eq!(args.hyp, Hyp::C);
        assert_eq!(args.cpus, ["max", "cortex-a57"]);
        assert_eq!(args.smp, 4);
        assert!(args.shell && !args.gdb);
        assert_eq!(args.kdir, Some(PathBuf::from("/src/linux")));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(of("--hyp both").unwrap_err().contains("both"));
        assert!(of("--smp 9").unwrap_err().contains("--smp"));
        assert!(of("--frob").unwrap_err().contains("--frob"));
    }
}
