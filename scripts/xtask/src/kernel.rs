// SPDX-License-Identifier: GPL-2.0-only
//! Kernel builds: one directory per tree and EL2 object, outside of tree and checkout, kept from run to run. Of a tree's two
//! builds the second starts as a copy of the first, so that a machine compiles a kernel once.

use crate::paths;
use crate::sh::{self, cmd};
use crate::ui;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which EL2 object a kernel carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hyp {
    /// The kernel's own.
    C,
    /// This project's.
    Rust,
}

impl Hyp {
    /// The word for it on command lines and in directory names.
    pub fn word(self) -> &'static str {
        match self {
            Self::C => "c",
            Self::Rust => "rust",
        }
    }

    /// The word for it in sentences.
    pub fn name(self) -> &'static str {
        match self {
            Self::C => "C",
            Self::Rust => "Rust",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::C => Self::Rust,
            Self::Rust => Self::C,
        }
    }

    /// The option of the kernel's configuration that links it.
    pub fn option(self) -> &'static str {
        match self {
            Self::C => "CONFIG_KVM_ARM_HYP_C=y\n",
            Self::Rust => "CONFIG_KVM_ARM_HYP_RUST=y\n",
        }
    }
}

/// A kernel that is built.
pub struct Kernel {
    /// Its build directory.
    pub dir: PathBuf,
    /// The EL2 object in it.
    pub hyp: Hyp,
}

impl Kernel {
    /// What QEMU boots.
    pub fn image(&self) -> PathBuf {
        self.dir.join("arch/arm64/boot/Image")
    }

    /// Where the EL2 object was made.
    pub fn nvhe(&self) -> PathBuf {
        self.dir.join("arch/arm64/kvm/hyp/nvhe")
    }
}

/// What tells the builds of a tree of the user's apart from those of the cached one, for which it is empty.
pub fn tree_prefix(tree: &Path) -> String {
    if tree.parent() == Some(&paths::cache()) {
        return String::new();
    }
    let mut hash = DefaultHasher::new();
    tree.hash(&mut hash);
    format!("kdir-{:08x}-", hash.finish() >> 32)
}

/// Where the cached tree's builds are, or those of a tree of the user's.
fn build_dir(tree: &Path, hyp: Hyp) -> PathBuf {
    paths::cache().join("build").join(tree_prefix(tree) + hyp.word())
}

fn make(tree: &Path, dir: &Path, words: &[&str]) -> Command {
    kbuild(
        tree,
        Some(dir),
        &["CROSS_COMPILE=aarch64-linux-gnu-".to_owned()],
        words,
    )
}

/// Kbuild in a tree, with its output beside the sources or in a directory of its own; `tools` are the variables that
/// choose the compiler.
pub fn kbuild(tree: &Path, out: Option<&Path>, tools: &[String], words: &[&str]) -> Command {
    let mut make = cmd("make", ["-C"]);
    make.arg(tree)
        .args(out.map(|dir| format!("O={}", dir.display())))
        .arg("ARCH=arm64")
        .args(tools)
        .args(words)
        // What cargo sets for the program that it runs must not reach the cargo below make.
        .env_remove("CARGO")
        .env_remove("CARGO_MANIFEST_DIR")
        .env_remove("LD_LIBRARY_PATH");
    make
}

/// Makes a tree offer the Rust EL2.
///
/// # Errors
/// One line: it is not Linux 7.3, or not writable.
pub fn attach(tree: &Path) -> Result<(), String> {
    sh::output(cmd(
        &paths::root().join("scripts/attach-kernel").to_string_lossy(),
        [tree],
    ))
    .map(drop)
}

/// Attaches the tree and builds its Image with the given EL2 object.
///
/// # Errors
/// One line; the build's own are shown before.
pub fn build(tree: &Path, version: &str, hyp: Hyp) -> Result<Kernel, String> {
    attach(tree)?;
    let dir = build_dir(tree, hyp);
    drop_foreign(&dir, tree);
    let other = build_dir(tree, hyp.other());
    drop_foreign(&other, tree);
    // To compile the second with a new configuration takes longer than to copy the first anew.
    if !configured(&dir, hyp)? && configured(&other, hyp.other())? && other.join("vmlinux").exists() {
        let _ = std::fs::remove_dir_all(&dir);
    }
    if !dir.join("vmlinux").exists() && other.join("vmlinux").exists() {
        ui::step(
            &format!("copy the kernel build ({} -> {})", hyp.other().word(), hyp.word()),
            |_| copy(&other, &dir),
        )?;
    }
    configure(tree, &dir, hyp)?;
    ui::step(
        &format!("build Linux {version} with the {} EL2", hyp.name()),
        |now| {
            let jobs = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
            // modules_prepare: the test module is built against this.
            let command = make(tree, &dir, &[&format!("-j{jobs}"), "Image", "modules_prepare"]);
            let mut objects = 0;
            sh::logged_with(&format!("kernel-{}", hyp.word()), command, |line| {
                if line.starts_with("  CC") || line.starts_with("  AS") {
                    objects += 1;
                    now.set(format!("{objects} objects"));
                }
            })
        },
    )?;
    Ok(Kernel { dir, hyp })
}

/// Removes a build of another source, for instance of the version before.
fn drop_foreign(dir: &Path, tree: &Path) {
    if let Ok(source) = std::fs::read_link(dir.join("source"))
        && source != tree
    {
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// Says in a build directory how it was configured.
const STAMP: &str = ".pkvm-rs-configured";

fn options(hyp: Hyp) -> Result<String, String> {
    Ok(sh::read(&paths::root().join("kernel-glue/qemu.config"))? + hyp.option())
}

/// What the stamp holds of a build that is up to date.
fn state(hyp: Hyp) -> Result<String, String> {
    let compiler = sh::output(cmd("aarch64-linux-gnu-gcc", ["-dumpfullversion"]))?;
    Ok(format!("{}# {compiler}\n", options(hyp)?))
}

fn configured(dir: &Path, hyp: Hyp) -> Result<bool, String> {
    let state = state(hyp)?;
    Ok(std::fs::read_to_string(dir.join(STAMP)).is_ok_and(|old| old == state))
}

fn configure(tree: &Path, dir: &Path, hyp: Hyp) -> Result<(), String> {
    if configured(dir, hyp)? {
        return Ok(());
    }
    let file = dir.join(".pkvm-rs-options");
    sh::write(&file, &options(hyp)?)?;
    let mut command = make(tree, dir, &["allnoconfig"]);
    command.env("KCONFIG_ALLCONFIG", &file);
    sh::logged_with(&format!("config-{}", hyp.word()), command, |_| {})?;
    sh::write(&dir.join(STAMP), &state(hyp)?)
}

/// Copies a finished build so that make finds nothing to do in it: Kbuild's command files name the directory.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let work = to.with_extension("copying");
    let _ = std::fs::remove_dir_all(&work);
    let mut cp = cmd("cp", ["-a"]);
    cp.arg(from).arg(&work);
    sh::output(cp)?;
    let _ = std::fs::remove_file(work.join(STAMP));
    let _ = std::fs::remove_dir_all(work.join("arch/arm64/kvm/hyp/nvhe/el2-target"));
    rename_inside(&work, &from.to_string_lossy(), &to.to_string_lossy())?;
    std::fs::rename(&work, to).map_err(|e| format!("{}: {e}", to.display()))
}

fn rename_inside(dir: &Path, from: &str, to: &str) -> Result<(), String> {
    let mut grep = cmd("grep", ["-rlIF", "--exclude=*.o", "--exclude=*.a", from]);
    grep.arg(dir);
    for name in sh::output(grep)?.lines() {
        let path = Path::new(name);
        let error = |e: std::io::Error| format!("{name}: {e}");
        let time = std::fs::metadata(path)
            .and_then(|m| m.modified())
            .map_err(error)?;
        let text = sh::read(path)?.replace(from, to);
        std::fs::write(path, text).map_err(error)?;
        let file = std::fs::File::options().write(true).open(path).map_err(error)?;
        file.set_modified(time).map_err(error)?;
    }
    Ok(())
}

/// Every object made for EL2 below `arch/arm64/kvm/hyp` of a build.
///
/// # Errors
/// One line: a directory cannot be read.
pub fn nvhe_objects(hyp: &Path) -> Result<Vec<PathBuf>, String> {
    let mut objects = Vec::new();
    for dir in [hyp.to_path_buf(), hyp.join("nvhe")] {
        let entries = std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        objects.extend(
            entries
                .flatten()
                .map(|e| e.path())
                .filter(|p| p.to_string_lossy().ends_with(".nvhe.o")),
        );
    }
    objects.sort();
    Ok(objects)
}

/// Whether a source file is of a kind, by its extension: `S` is assembler that is preprocessed, and not `s`.
pub fn is_kind(source: &str, extension: &str) -> bool {
    Path::new(source).extension().is_some_and(|e| e == extension)
}

/// Kbuild's record of how an object was made.
fn command_file(object: &Path) -> PathBuf {
    let name = object.file_name().unwrap_or_default().to_string_lossy();
    object.with_file_name(format!(".{name}.cmd"))
}

/// The source that Kbuild compiled an object from.
pub fn source_of(object: &Path) -> Option<String> {
    let text = std::fs::read_to_string(command_file(object)).ok()?;
    text.lines()
        .find(|l| l.starts_with("source_"))
        .and_then(|l| l.split(":= ").nth(1))
        .map(str::to_owned)
}
