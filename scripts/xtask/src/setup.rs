// SPDX-License-Identifier: GPL-2.0-only
//! Gets what building and booting need: programs, rust-src, Linux, an arm64 busybox. Each is looked for first, so that a
//! machine that has everything makes no use of the network.

use crate::apt::{self, Apt};
use crate::paths;
use crate::sh::{self, cmd};
use crate::ui::{self, Now};
use std::path::{Path, PathBuf};

/// The Linux release that the layout probe and the hypercall table are written for.
pub const LINUX: &str = "7.3";
/// QEMU before this has no stage 2 in its SMMU and misses CPU features.
const QEMU: [u32; 3] = [10, 0, 2];
/// EL2's target.
pub const EL2_TARGET: &str = "aarch64-unknown-none-softfloat";

/// A program or file whose absence tells that a package is missing.
const NEEDED: &[(&str, &str)] = &[
    ("cc", "gcc"),
    ("/usr/include/stdio.h", "libc6-dev"),
    ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    ("aarch64-linux-gnu-ld", "binutils-aarch64-linux-gnu"),
    ("/usr/aarch64-linux-gnu/lib/libc.a", "libc6-dev-arm64-cross"),
    ("make", "make"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("perl", "perl"),
    ("xz", "xz-utils"),
    ("git", "git"),
];

/// Installs the programs that are missing.
///
/// # Errors
/// One line.
pub fn programs(gdb: bool) -> Result<(), String> {
    let mut missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(probe, _)| {
            if probe.starts_with('/') {
                !Path::new(probe).exists()
            } else {
                !sh::has(probe)
            }
        })
        .map(|(_, package)| *package)
        .collect();
    if gdb && !sh::has("gdb-multiarch") {
        missing.push("gdb-multiarch");
    }
    if !missing.is_empty() {
        ui::step(&format!("install {}", missing.join(" ")), |now| {
            Apt::install_sources()?.0.install(&missing, None, now)
        })?;
    }
    if qemu_version().is_none_or(|v| v < QEMU) {
        ui::step("install QEMU from the backports", |now| {
            let (apt, suite) = Apt::install_sources()?;
            apt.install(&["qemu-system-arm"], Some(&suite), now)
        })?;
        let have = qemu_version().ok_or("qemu-system-aarch64 does not run")?;
        if have < QEMU {
            return Err(format!("QEMU is {have:?}, and 10.0.2 or later is needed"));
        }
    }
    Ok(())
}

/// The emulator's version.
pub fn qemu_version() -> Option<[u32; 3]> {
    version_in(&sh::output(cmd("qemu-system-aarch64", ["--version"])).ok()?)
}

/// The first `a.b.c` in a text.
fn version_in(text: &str) -> Option<[u32; 3]> {
    text.split_whitespace().find_map(|word| {
        let mut parts = word.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some([parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?])
    })
}

/// Makes sure that the core library can be built for EL2, and std for the test programs.
///
/// # Errors
/// One line that says what to install.
pub fn rust_src() -> Result<(), String> {
    let sysroot = PathBuf::from(sh::output(cmd("rustc", ["--print", "sysroot"]))?);
    let link = sysroot.join("lib/rustlib/src/rust");
    if link.join("library/core/Cargo.toml").is_file() {
        return Ok(());
    }
    let version = version_in(&sh::output(cmd("rustc", ["-V"]))?).ok_or("rustc -V names no version")?;
    let version = version.map(|n| n.to_string()).join(".");
    ui::step(&format!("rust-src {version}"), |now| {
        let tree = paths::cache().join(format!("rust-src/usr/src/rustc-{version}"));
        if !tree.join("library/core/Cargo.toml").is_file()
            && let Err(why) = debian_rust_src(&version, now)
        {
            // Rustup knows every version, where its server can be reached.
            now.set("rustup component add rust-src");
            return sh::logged("rust-src", cmd("rustup", ["component", "add", "rust-src"]), now).map_err(
                |_| {
                    format!(
                        "{why}, and rustup cannot fetch it: put the source of rustc {version} at {}",
                        link.display()
                    )
                },
            );
        }
        sh::mkdir(&sysroot.join("lib/rustlib/src"))?;
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&tree, &link).map_err(|e| format!("{}: {e}", link.display()))
    })
}

fn debian_rust_src(version: &str, now: &Now) -> Result<(), String> {
    let apt = Apt::backports()?;
    let offered = apt.versions("rust-src", now)?;
    let exact = offered
        .iter()
        .find(|v| {
            v.strip_prefix(version)
                .is_some_and(|rest| rest.starts_with(['+', '-', '~']))
        })
        .ok_or_else(|| format!("Debian has no rust-src {version} (it has {})", offered.join(", ")))?;
    let deb = apt.download("rust-src", exact, now)?;
    apt::unpack(&deb, &paths::cache().join("rust-src"), now)
}

/// The kernel source: the user's own, the cached one, or Debian's. Returns its directory and version.
///
/// # Errors
/// One line.
pub fn linux(kdir: Option<&Path>) -> Result<(PathBuf, String), String> {
    let dir = match kdir {
        Some(dir) => dir
            .canonicalize()
            .map_err(|e| format!("KDIR={}: {e}", dir.display()))?,
        None => match cached_linux() {
            Some(dir) => dir,
            None => ui::step(&format!("fetch Debian's linux-source-{LINUX}"), fetch_linux)?,
        },
    };
    let version = linux_version(&dir)?;
    if !version.starts_with(&format!("{LINUX}.")) {
        return Err(format!(
            "{} is Linux {version}; a {LINUX} tree is needed",
            dir.display()
        ));
    }
    Ok((dir, version))
}

fn linux_version(dir: &Path) -> Result<String, String> {
    let text = sh::read(&dir.join("Makefile"))?;
    let field = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name))
            .map(|v| v.trim().to_owned())
            .unwrap_or_default()
    };
    let (version, patch, sub) = (field("VERSION ="), field("PATCHLEVEL ="), field("SUBLEVEL ="));
    if version.is_empty() || patch.is_empty() {
        return Err(format!("{} holds no Linux source", dir.display()));
    }
    Ok(format!("{version}.{patch}.{sub}"))
}

/// The newest complete tree in the cache: one is renamed into place once it is unpacked.
fn cached_linux() -> Option<PathBuf> {
    let prefix = format!("linux-{LINUX}.");
    let number = |path: &Path| {
        path.file_name()?
            .to_str()?
            .strip_prefix(&prefix)?
            .parse::<u32>()
            .ok()
    };
    std::fs::read_dir(paths::cache())
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| number(path).is_some())
        .max_by_key(|path| number(path))
}

fn fetch_linux(now: &Now) -> Result<PathBuf, String> {
    let package = format!("linux-source-{LINUX}");
    let hint = format!("point KDIR= at a Linux {LINUX} source tree to use that");
    let apt = Apt::backports().map_err(|why| format!("{why}; {hint}"))?;
    let versions = apt
        .versions(&package, now)
        .map_err(|why| format!("{why}; {hint}"))?;
    let version = versions
        .first()
        .ok_or_else(|| format!("this machine's Debian mirror has no {package}; {hint}"))?;
    let deb = apt
        .download(&package, version, now)
        .map_err(|why| format!("{why}; {hint}"))?;
    let work = paths::cache().join("linux-unpack");
    let _ = std::fs::remove_dir_all(&work);
    apt::unpack(&deb, &work, now)?;
    let mut tar = cmd("tar", ["-xf"]);
    tar.arg(work.join(format!("usr/src/{package}.tar.xz")))
        .arg("-C")
        .arg(&work);
    now.set("unpack the source");
    sh::logged("untar", tar, now)?;
    let tree = work.join(&package);
    let dir = paths::cache().join(format!("linux-{}", linux_version(&tree)?));
    std::fs::rename(&tree, &dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let _ = std::fs::remove_dir_all(&work);
    Ok(dir)
}

/// clang and LLVM's own binutils of one release.
///
/// # Errors
/// One line.
pub fn llvm(release: u32) -> Result<(), String> {
    let packages = ["clang", "lld", "llvm"].map(|name| format!("{name}-{release}"));
    let programs = ["clang", "ld.lld", "llvm-nm"].map(|name| format!("{name}-{release}"));
    if programs.iter().all(|program| sh::has(program)) {
        return Ok(());
    }
    ui::step(&format!("install {}", packages.join(" ")), |now| {
        let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
        Apt::install_sources()?.0.install(&packages, None, now)
    })
}

/// The configuration of Debian's arm64 kernel of the release that is built here, and what its build needs beside the
/// usual: the kernel's keyring is made with OpenSSL.
///
/// # Errors
/// One line.
pub fn debian_config() -> Result<String, String> {
    if !sh::has("openssl") || !Path::new("/usr/include/openssl/ssl.h").exists() {
        ui::step("install openssl libssl-dev", |now| {
            Apt::install_sources()?
                .0
                .install(&["openssl", "libssl-dev"], None, now)
        })?;
    }
    let package = format!("linux-config-{LINUX}");
    let dir = paths::cache().join(&package);
    let file = dir.join(format!("usr/src/{package}/config.arm64_none_arm64.xz"));
    if !file.is_file() {
        ui::step(&format!("fetch Debian's {package} for arm64"), |now| {
            let apt = Apt::arm64_backports()?;
            let versions = apt.versions(&package, now)?;
            let version = versions
                .first()
                .ok_or_else(|| format!("this machine's Debian mirror has no {package} for arm64"))?;
            let deb = apt.download(&package, version, now)?;
            apt::unpack(&deb, &dir, now)
        })?;
    }
    let mut xz = cmd("xz", ["-dc"]);
    xz.arg(&file);
    Ok(sh::output(xz)? + "\n")
}

/// A static arm64 busybox: the shell in the machines that are booted.
///
/// # Errors
/// One line.
pub fn busybox() -> Result<PathBuf, String> {
    let dir = paths::cache().join("busybox-arm64");
    let find = || {
        ["bin/busybox", "usr/bin/busybox"]
            .map(|name| dir.join(name))
            .into_iter()
            .find(|p| p.is_file())
    };
    if let Some(path) = find() {
        return Ok(path);
    }
    ui::step("fetch busybox-static for arm64", |now| {
        let apt = Apt::arm64()?;
        let versions = apt.versions("busybox-static", now)?;
        let version = versions
            .first()
            .ok_or("this machine's Debian mirror has no busybox-static for arm64")?;
        let deb = apt.download("busybox-static", version, now)?;
        apt::unpack(&deb, &dir, now)?;
        find().ok_or_else(|| format!("{} holds no busybox", deb.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::version_in;

    #[test]
    fn versions_are_found() {
        assert_eq!(
            version_in("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"),
            Some([10, 0, 2])
        );
        assert_eq!(
            version_in("rustc 1.95.0 (59807616e 2026-04-14)"),
            Some([1, 95, 0])
        );
        assert_eq!(version_in("none here"), None);
    }
}
