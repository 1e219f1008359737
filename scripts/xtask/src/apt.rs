// SPDX-License-Identifier: GPL-2.0-only
//! Debian packages. Suites that the machine does not follow (backports, another release's) are reached through the
//! mirror that the machine is configured for, in an apt state of our own: its sources and preferences stay as they are.

use crate::paths;
use crate::sh::{self, cmd};
use crate::ui::Now;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// Lists older than this are fetched anew before something is installed or downloaded.
const FRESH: Duration = Duration::from_hours(24);

/// A line of apt's sources.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    options: String,
    uri: String,
    suite: String,
}

impl Source {
    fn line(&self, suite: &str) -> String {
        let options = if self.options.is_empty() {
            String::new()
        } else {
            format!("[{}] ", self.options)
        };
        format!("deb {options}{} {suite} main\n", self.uri)
    }
}

/// Reads one-line sources: `deb [options] URI SUITE COMPONENT...`.
fn one_line(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.trim().strip_prefix("deb ") else {
            continue;
        };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((options, rest)) => (options.trim(), rest),
            None => ("", rest),
        };
        let words: Vec<_> = rest.split_whitespace().collect();
        if let [uri, suite, components @ ..] = words.as_slice()
            && components.contains(&"main")
        {
            sources.push(Source {
                options: signed_by(options),
                uri: (*uri).into(),
                suite: (*suite).into(),
            });
        }
    }
    sources
}

/// Of the options, only the key matters to us; an architecture list would hide the foreign one.
fn signed_by(options: &str) -> String {
    options
        .split_whitespace()
        .find(|o| o.starts_with("signed-by="))
        .unwrap_or_default()
        .to_owned()
}

/// Reads deb822 sources: stanzas of `Field: value`.
fn deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza
                .lines()
                .filter(|l| !l.starts_with('#'))
                .find_map(|l| l.strip_prefix(name).and_then(|l| l.strip_prefix(':')))
                .map(str::trim)
                .unwrap_or_default()
        };
        let enabled = !matches!(field("Enabled"), "no" | "false");
        let words = |name: &str| {
            field(name)
                .split_whitespace()
                .map(String::from)
                .collect::<Vec<_>>()
        };
        if !enabled
            || !words("Types").contains(&"deb".into())
            || !words("Components").contains(&"main".into())
        {
            continue;
        }
        // A key may also stand in the file itself, over many lines; apt then falls back on the trusted ones.
        let key = field("Signed-By");
        let options = if key.starts_with('/') {
            format!("signed-by={key}")
        } else {
            String::new()
        };
        for uri in words("URIs") {
            for suite in words("Suites") {
                sources.push(Source {
                    options: options.clone(),
                    uri: uri.clone(),
                    suite,
                });
            }
        }
    }
    sources
}

fn configured() -> Vec<Source> {
    let mut sources = one_line(&std::fs::read_to_string("/etc/apt/sources.list").unwrap_or_default());
    let mut files: Vec<PathBuf> = std::fs::read_dir("/etc/apt/sources.list.d")
        .map(|dir| dir.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        match file.extension().and_then(|e| e.to_str()) {
            Some("list") => sources.extend(one_line(&text)),
            Some("sources") => sources.extend(deb822(&text)),
            _ => {}
        }
    }
    sources
}

/// The Debian release that this machine runs, `bookworm` for Debian 12.
fn codename() -> Result<String, String> {
    let text = sh::read(Path::new("/etc/os-release"))?;
    let value = |key: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(key))
            .map(|v| v.trim_matches('"').to_owned())
            .unwrap_or_default()
    };
    let name = value("VERSION_CODENAME=");
    if value("ID=") != "debian" || name.is_empty() {
        return Err(
            "this machine is no Debian release; install what is missing by hand (README.md lists it)".into(),
        );
    }
    Ok(name)
}

/// An apt state of our own.
pub struct Apt {
    dir: PathBuf,
    /// Names the list and its state: one per set of suites and architecture.
    name: String,
    options: Vec<String>,
}

impl Apt {
    fn new(name: &str, lists: &str, architecture: Option<&str>, sources: &str) -> Result<Self, String> {
        let dir = paths::cache().join("apt");
        let list = dir.join("etc").join(format!("{name}.list"));
        sh::write(&list, sources)?;
        for part in [format!("{lists}/partial"), "archives/partial".to_owned()] {
            sh::mkdir(&dir.join(part))?;
        }
        let d = dir.display();
        let mut options = vec![
            format!("Dir::Etc::sourcelist={}", list.display()),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={d}/{lists}"),
            format!("Dir::Cache::archives={d}/archives"),
            format!("Dir::Cache::pkgcache={d}/{name}-pkgcache.bin"),
            format!("Dir::Cache::srcpkgcache={d}/{name}-srcpkgcache.bin"),
            // The cache lies in a home directory that apt's own user may not enter.
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ];
        if let Some(architecture) = architecture {
            options.push(format!("APT::Architecture={architecture}"));
            options.push(format!("APT::Architectures={architecture}"));
        }
        Ok(Self {
            dir,
            name: name.to_owned(),
            options,
        })
    }

    fn mirror() -> Result<(Source, String), String> {
        let codename = codename()?;
        let source = configured()
            .into_iter()
            .find(|s| s.suite == codename)
            .ok_or_else(|| {
                format!("apt's sources name no mirror with the suite {codename} and the component main")
            })?;
        Ok((source, codename))
    }

    /// The suites that carry new kernels, compilers and emulators for this release.
    ///
    /// # Errors
    /// One line: not Debian, or no mirror.
    pub fn backports() -> Result<Self, String> {
        Self::new("sources", "lists", None, &Self::backport_lines()?)
    }

    /// As [`Apt::backports`], for arm64: only to take files out of packages.
    ///
    /// # Errors
    /// One line: not Debian, or no mirror.
    pub fn arm64_backports() -> Result<Self, String> {
        let sources = Self::backport_lines()?;
        Self::new(
            "arm64-backports",
            "lists-arm64-backports",
            Some("arm64"),
            &sources,
        )
    }

    fn backport_lines() -> Result<String, String> {
        let (mirror, codename) = Self::mirror()?;
        let suites: &[&str] = match codename.as_str() {
            "bookworm" => &["trixie-backports", "bookworm-backports"],
            "trixie" => &["trixie-backports"],
            _ => &[codename.as_str()],
        };
        Ok(suites.iter().map(|suite| mirror.line(suite)).collect())
    }

    /// The machine's own release and its backports, to install from.
    ///
    /// # Errors
    /// One line: not Debian, or no mirror.
    pub fn install_sources() -> Result<(Self, String), String> {
        let (mirror, codename) = Self::mirror()?;
        let mut sources = mirror.line(&codename);
        for more in configured() {
            if more.suite == format!("{codename}-security") || more.suite == format!("{codename}-updates") {
                sources += &more.line(&more.suite);
            }
        }
        let backports = format!("{codename}-backports");
        if matches!(codename.as_str(), "bookworm" | "trixie") {
            sources += &mirror.line(&backports);
        }
        Ok((Self::new("install", "lists-install", None, &sources)?, backports))
    }

    /// The machine's own release for arm64: only to take files out of packages.
    ///
    /// # Errors
    /// One line: not Debian, or no mirror.
    pub fn arm64() -> Result<Self, String> {
        let (mirror, codename) = Self::mirror()?;
        Self::new("arm64", "lists-arm64", Some("arm64"), &mirror.line(&codename))
    }

    fn command(&self, program: &str, words: &[&str], as_root: bool) -> Command {
        let sudo = as_root && !is_root();
        let mut command = cmd(if sudo { "sudo" } else { program }, [] as [&str; 0]);
        if sudo {
            command.args(["env", "DEBIAN_FRONTEND=noninteractive", program]);
        }
        for option in &self.options {
            command.args(["-o", option]);
        }
        command.env("DEBIAN_FRONTEND", "noninteractive").args(words);
        command
    }

    /// Fetches the lists when they are missing or old.
    fn update(&self, as_root: bool, now: &Now) -> Result<(), String> {
        let stamp = self.dir.join(format!("{}.updated", self.name));
        let sources = self.dir.join("etc").join(format!("{}.list", self.name));
        let time = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
        let fresh = time(&stamp).is_some_and(|t| {
            SystemTime::now().duration_since(t).is_ok_and(|age| age < FRESH) && time(&sources) < Some(t)
        });
        if !fresh {
            sh::logged(
                &format!("apt-update-{}", self.name),
                self.command("apt-get", &["update"], as_root),
                now,
            )?;
            std::fs::write(&stamp, "").map_err(|e| format!("{}: {e}", stamp.display()))?;
        }
        Ok(())
    }

    /// Versions of a package that the suites offer, as apt prefers them.
    ///
    /// # Errors
    /// One line: apt failed.
    pub fn versions(&self, package: &str, now: &Now) -> Result<Vec<String>, String> {
        self.update(false, now)?;
        let table = sh::output(self.command("apt-cache", &["madison", package], false))?;
        Ok(table
            .lines()
            .filter_map(|l| l.split('|').nth(1))
            .map(|v| v.trim().to_owned())
            .collect())
    }

    /// The package file, from the cache or the mirror.
    ///
    /// # Errors
    /// One line: apt failed.
    pub fn download(&self, package: &str, version: &str, now: &Now) -> Result<PathBuf, String> {
        let archives = self.dir.join("archives");
        // apt writes an epoch's colon as %3a.
        let wanted = format!("{package}_{}_", version.replace(':', "%3a"));
        let find = || {
            std::fs::read_dir(&archives)
                .ok()?
                .flatten()
                .map(|entry| entry.path())
                .find(|path| {
                    path.extension().is_some_and(|e| e == "deb")
                        && path
                            .file_name()
                            .and_then(|n| n.to_str())
                            .is_some_and(|n| n.starts_with(&wanted))
                })
        };
        if let Some(path) = find() {
            return Ok(path);
        }
        let mut command = self.command("apt-get", &["download", &format!("{package}={version}")], false);
        command.current_dir(&archives);
        sh::logged(&format!("apt-download-{package}"), command, now)?;
        find().ok_or_else(|| format!("apt-get download left no {wanted}*.deb in {}", archives.display()))
    }

    /// Installs packages; `suite` is preferred where the machine's release has them too.
    ///
    /// # Errors
    /// One line: apt failed.
    pub fn install(&self, packages: &[&str], suite: Option<&str>, now: &Now) -> Result<(), String> {
        if !is_root() && !sh::has("sudo") {
            return Err(format!(
                "packages are missing and there is neither root nor sudo: {}",
                packages.join(" ")
            ));
        }
        self.update(true, now)?;
        let mut words = vec!["install", "-y", "--no-install-recommends"];
        if let Some(suite) = suite {
            words.extend(["-t", suite]);
        }
        words.extend(packages);
        sh::logged("apt-install", self.command("apt-get", &words, true), now)
    }
}

/// Whether this process may install packages itself.
fn is_root() -> bool {
    sh::output(cmd("id", ["-u"])).is_ok_and(|id| id == "0")
}

/// Unpacks a package into a directory.
///
/// # Errors
/// One line.
pub fn unpack(deb: &Path, into: &Path, now: &Now) -> Result<(), String> {
    sh::mkdir(into)?;
    let mut command = cmd("dpkg-deb", ["-x"]);
    command.arg(deb).arg(into);
    sh::logged("unpack", command, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_read() {
        let old = "# c\ndeb-src http://m.example/debian bookworm main\n\
                   deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian bookworm main contrib\n";
        let expected = Source {
            options: "signed-by=/k.gpg".into(),
            uri: "http://m.example/debian".into(),
            suite: "bookworm".into(),
        };
        assert_eq!(one_line(old), std::slice::from_ref(&expected));
        let new = "Types: deb deb-src\n# x\nURIs: http://m.example/debian\nSuites: bookworm bookworm-updates\n\
                   Components: main\nSigned-By: /k.gpg\n\nTypes: deb\nURIs: http://n.example\nSuites: bookworm\n\
                   Components: contrib\n";
        let read = deb822(new);
        assert_eq!(read.len(), 2);
        assert_eq!(read[0], expected);
        assert_eq!(
            read[0].line("x-backports"),
            "deb [signed-by=/k.gpg] http://m.example/debian x-backports main\n"
        );
        assert!(deb822("Enabled: no\nTypes: deb\nURIs: u\nSuites: s\nComponents: main\n").is_empty());
    }
}
