// SPDX-License-Identifier: GPL-2.0-only
//! Configures and builds a kernel of a configuration: one directory per configuration and EL2 object, kept from run to
//! run.

use super::table::{Base, Config, Tools};
use crate::kernel::{self, Hyp, Kernel};
use crate::paths;
use crate::setup;
use crate::sh::{self, cmd};
use crate::ui;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How a build directory was configured.
const STAMP: &str = ".pkvm-rs-configured";
/// What the first build of a directory cost.
const COST: &str = ".pkvm-rs-cost";

/// What a build takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goal {
    /// The kernel image.
    Image,
    /// The EL2 object alone, and what Kbuild needs before it.
    Object,
}

/// What the first build in a directory took; later ones compile what changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// By the clock.
    pub wall: Duration,
    /// Of processors: the same on an idle machine and on a busy one.
    pub cpu: Duration,
    /// How many processors the machine had; 0 where nobody noted it.
    pub processors: usize,
}

impl Cost {
    fn text(self) -> String {
        format!(
            "{} {} {}\n",
            self.wall.as_secs(),
            self.cpu.as_secs(),
            self.processors
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace().map(|word| word.parse::<u64>().ok());
        Some(Self {
            wall: Duration::from_secs(words.next()??),
            cpu: Duration::from_secs(words.next()??),
            processors: words
                .next()
                .flatten()
                .and_then(|n| n.try_into().ok())
                .unwrap_or(0),
        })
    }
}

impl Tools {
    /// The variables that Kbuild chooses its tools by.
    pub fn variables(self) -> Vec<String> {
        match self {
            Self::Gcc => vec!["CROSS_COMPILE=aarch64-linux-gnu-".to_owned()],
            Self::Llvm(release) => vec![format!("LLVM=-{release}")],
        }
    }

    /// The compiler's name and version.
    pub fn version(self) -> Result<String, String> {
        let (program, name) = match self {
            Self::Gcc => ("aarch64-linux-gnu-gcc".to_owned(), "gcc"),
            Self::Llvm(release) => (format!("clang-{release}"), "clang"),
        };
        Ok(format!(
            "{name} {}",
            sh::output(cmd(&program, ["-dumpfullversion"]))
                .or_else(|_| { sh::output(cmd(&program, ["-dumpversion"])) })?
        ))
    }
}

/// Where a configuration of a tree is built.
pub fn directory(tree: &Path, config: &Config, hyp: Hyp) -> PathBuf {
    paths::cache().join("build").join(format!(
        "{}{}-{}",
        kernel::tree_prefix(tree),
        config.name,
        hyp.word()
    ))
}

/// The cost of the first build of a directory, where there was one.
pub fn cost(dir: &Path) -> Option<Cost> {
    Cost::parse(&std::fs::read_to_string(dir.join(COST)).ok()?)
}

/// Which EL2 is in the last image of a build, in the words of the kernel's log: those that the image has.
pub fn built(dir: &Path) -> Option<String> {
    let header = dir.join("arch/arm64/kvm/hyp/pkvm-rs/pkvm-rs-version.h");
    let header = std::fs::read_to_string(header).ok()?;
    quoted(&header).filter(|name| !name.is_empty()).map(str::to_owned)
}

/// Which EL2 a tree would build now, in the words of the kernel's log.
///
/// # Errors
/// One line: the script that makes them does not run.
pub fn revision(tree: &Path) -> Result<String, String> {
    kernel::attach(tree)?;
    let script = tree.join("arch/arm64/kvm/hyp/pkvm-rs/gen-version");
    let mut command = cmd("sh", [script]);
    command.env("EL2_RUST", "y");
    let header = sh::output(command)?;
    quoted(&header)
        .map(str::to_owned)
        .ok_or_else(|| format!("gen-version: no version in {header}"))
}

/// What stands between the first and the last quotation mark.
fn quoted(text: &str) -> Option<&str> {
    Some(text.split_once('"')?.1.rsplit_once('"')?.0)
}

/// Builds a configuration.
///
/// # Errors
/// One line; the build's own are shown before.
pub fn build(tree: &Path, version: &str, config: &Config, hyp: Hyp, goal: Goal) -> Result<Kernel, String> {
    if let Tools::Llvm(release) = config.tools {
        setup::llvm(release)?;
    }
    kernel::attach(tree)?;
    let dir = directory(tree, config, hyp);
    let place = Place::of(tree, config, &dir)?;
    configure(&place, config, hyp)?;
    let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let jobs = format!("-j{processors}");
    let (what, words): (_, &[&str]) = match goal {
        // The further suites load the test module, which is built against this.
        Goal::Image if !config.suites.is_empty() => ("build", &[&jobs, "Image", "modules_prepare"]),
        Goal::Image => ("build", &[&jobs, "Image"]),
        Goal::Object => ("build EL2 of", &[&jobs, "arch/arm64/kvm/hyp/nvhe/"]),
    };
    ui::step(
        &format!(
            "{what} Linux {version}, {}, with the {} EL2",
            config.name,
            hyp.name()
        ),
        |now| {
            let first = goal == Goal::Image && !dir.join("vmlinux").exists();
            let start = Instant::now();
            let mut objects = 0;
            let mut cpu = Duration::ZERO;
            let result = sh::logged_with(
                &format!("config-{}-{}", config.name, hyp.word()),
                timed(place.make(config, words)),
                |line| {
                    if line.starts_with("  CC") || line.starts_with("  AS") {
                        objects += 1;
                        now.set(format!("{objects} objects"));
                    }
                    cpu = processor_time(line).unwrap_or(cpu);
                },
            );
            if first {
                // An interrupted build goes on where it was, so that the parts add up.
                let before = cost(&dir).unwrap_or_default();
                let cost = Cost {
                    wall: before.wall + start.elapsed(),
                    cpu: before.cpu + cpu,
                    processors,
                };
                sh::write(&dir.join(COST), &cost.text())?;
            }
            // The shell around make is no news.
            result.map_err(|why| why.replacen("sh failed", "make failed", 1))
        },
    )?;
    Ok(Kernel { dir, hyp })
}

/// The command, with the processor time of its children as the last line.
fn timed(make: std::process::Command) -> std::process::Command {
    let mut shell = cmd("sh", ["-c", "\"$@\"; status=$?; times; exit $status", "sh"]);
    shell.arg(make.get_program()).args(make.get_args());
    for (name, value) in make.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// Reads `1m2.345s 0m1.234s`, user and system, as the shell's `times` prints it.
fn processor_time(line: &str) -> Option<Duration> {
    let part = |word: &str| {
        let (minutes, seconds) = word.strip_suffix('s')?.split_once('m')?;
        let seconds: f64 = seconds.parse().ok()?;
        Some(Duration::from_secs(minutes.parse::<u64>().ok()? * 60) + Duration::from_secs_f64(seconds))
    };
    let (user, system) = line.split_once(' ')?;
    Some(part(user)? + part(system)?)
}

/// Where Kbuild runs, and where it puts what it makes.
struct Place {
    source: PathBuf,
    out: Option<PathBuf>,
}

impl Place {
    fn of(tree: &Path, config: &Config, dir: &Path) -> Result<Self, String> {
        if !config.in_tree {
            sh::mkdir(dir)?;
            return Ok(Self {
                source: tree.to_owned(),
                out: Some(dir.to_owned()),
            });
        }
        if !dir.join("Makefile").is_file() {
            ui::step(&format!("copy the source tree for {}", config.name), |_| {
                let work = dir.with_extension("copying");
                let _ = std::fs::remove_dir_all(&work);
                // Kbuild writes no file of the sources in place, so that links do for our own tree.
                let ours = tree.parent() == Some(&paths::cache());
                let mut cp = cmd("cp", [if ours { "-al" } else { "-a" }]);
                cp.arg(tree).arg(&work);
                sh::output(cp)?;
                std::fs::rename(&work, dir).map_err(|e| format!("{}: {e}", dir.display()))
            })?;
        }
        kernel::attach(dir)?;
        Ok(Self {
            source: dir.to_owned(),
            out: None,
        })
    }

    fn dir(&self) -> &Path {
        self.out.as_deref().unwrap_or(&self.source)
    }

    fn make(&self, config: &Config, words: &[&str]) -> std::process::Command {
        let mut variables = config.tools.variables();
        variables.push(format!("EL2_FEATURES={}", config.features.join(" ")));
        kernel::kbuild(&self.source, self.out.as_deref(), &variables, words)
    }
}

fn configure(place: &Place, config: &Config, hyp: Hyp) -> Result<(), String> {
    let glue = paths::root().join("kernel-glue");
    let mut wanted = String::new();
    for fragment in config.fragments {
        wanted += &sh::read(&glue.join(fragment))?;
    }
    wanted += hyp.option();
    let base = match config.base {
        Base::Small => sh::read(&glue.join("qemu.config"))?,
        Base::Debian => setup::debian_config()?,
    };
    let options = base + &wanted;
    let state = format!("{options}# {}\n", config.tools.version()?);
    let dir = place.dir();
    if std::fs::read_to_string(dir.join(STAMP)).is_ok_and(|old| old == state) {
        return Ok(());
    }
    let log = format!("configure-{}-{}", config.name, hyp.word());
    match config.base {
        Base::Small => {
            let file = dir.join(".pkvm-rs-options");
            sh::write(&file, &options)?;
            let mut command = place.make(config, &["allnoconfig"]);
            command.env("KCONFIG_ALLCONFIG", &file);
            sh::logged_with(&log, command, |_| {})?;
        }
        Base::Debian => {
            sh::write(&dir.join(".config"), &options)?;
            sh::logged_with(&log, place.make(config, &["olddefconfig"]), |_| {})?;
        }
    }
    let refused = refused(&wanted, &sh::read(&dir.join(".config"))?);
    if !refused.is_empty() {
        return Err(format!(
            "{}: this kernel does not take {} with this compiler",
            config.name,
            refused.join(", ")
        ));
    }
    sh::write(&dir.join(STAMP), &state)
}

/// What was asked for and is not in the configuration: Kconfig drops without a word what an option's dependencies rule
/// out.
fn refused<'a>(wanted: &'a str, config: &str) -> Vec<&'a str> {
    let mut last: Vec<(&str, &str)> = Vec::new();
    for (name, line) in wanted.lines().filter_map(|l| Some((l.split_once('=')?.0, l))) {
        last.retain(|(other, _)| *other != name);
        if name.starts_with("CONFIG_") {
            last.push((name, line));
        }
    }
    last.iter()
        .filter(|(name, line)| match line.strip_suffix("=n") {
            Some(_) => config.lines().any(|l| l.split('=').next() == Some(name)),
            None => !config.lines().any(|l| l == *line),
        })
        .map(|(_, line)| *line)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_kconfig_dropped_are_found() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_D=y\nCONFIG_S=\"\"\n";
        assert!(refused("# a\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_C=n\nCONFIG_S=\"\"\n", config).is_empty());
        assert_eq!(
            refused("CONFIG_B=y\nCONFIG_D=n\n", config),
            ["CONFIG_B=y", "CONFIG_D=n"]
        );
        assert!(refused("CONFIG_D=n\nCONFIG_D=y\n", config).is_empty());
    }

    #[test]
    fn a_cost_is_read_as_it_was_written() {
        let cost = Cost {
            wall: Duration::from_secs(40),
            cpu: Duration::from_secs(75),
            processors: 2,
        };
        assert_eq!(Cost::parse(&cost.text()), Some(cost));
        // As it was kept before the processors were.
        assert_eq!(Cost::parse("40 75\n").map(|cost| cost.processors), Some(0));
        assert_eq!(Cost::parse("40\n"), None);
    }

    #[test]
    fn the_version_is_taken_from_its_header() {
        let header = "#define PKVM_RS_VERSION \"pkvm-rs 0.1.0 (Rust, abc-dirty)\"";
        assert_eq!(quoted(header), Some("pkvm-rs 0.1.0 (Rust, abc-dirty)"));
        assert_eq!(quoted("fatal"), None);
    }

    #[test]
    fn processor_time_is_read_as_shells_print_it() {
        assert_eq!(processor_time("1m2.5s 0m1.5s"), Some(Duration::from_secs(64)));
        assert_eq!(processor_time("  CC      mm/slub.o"), None);
    }
}
