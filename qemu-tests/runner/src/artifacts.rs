// SPDX-License-Identifier: GPL-2.0-only
//! The programs and the module that go into an initramfs: builds them, finds them.

use crate::cpio::Archive;
use crate::selftests;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the repository's test crates are.
pub fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_path_buf)
}

const LINUX: &str = "aarch64-unknown-linux-gnu";
const NO_SELFTESTS: &str =
    "PKVM_SELFTESTS does not name the KVM selftests (scripts/selftests and scripts/test build them)";

/// Which programs are wanted besides init.
pub struct Programs {
    /// The VMM.
    pub vmm: bool,
    /// The bare-metal guest.
    pub payload: bool,
    /// The monitor at EL3.
    pub monitor: bool,
}

/// Where the built programs are.
pub struct Artifacts {
    bin: PathBuf,
    built: bool,
}

impl Artifacts {
    /// Programs that somebody else built.
    pub fn at(dir: PathBuf) -> Self {
        Self {
            bin: dir,
            built: true,
        }
    }

    /// Programs in this repository's target directory; `build` makes them anew where needed, the
    /// others where asked for.
    pub fn own(build: bool, more: &Programs) -> Result<Self, String> {
        let target = tests_dir().join("target");
        if build {
            cargo(&tests_dir().join("init"), &target)?;
            if more.vmm {
                cargo(&tests_dir().join("vmm"), &target)?;
            }
            if more.payload {
                bare_metal("guest", &target)?;
            }
            if more.monitor {
                bare_metal("monitor", &target)?;
            }
        }
        Ok(Self {
            bin: target.join(LINUX).join("release"),
            built: build,
        })
    }

    /// The bytes of a program.
    pub fn program(&self, name: &str) -> Result<Vec<u8>, String> {
        let path = self.bin.join(name);
        std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// The bare-metal guest, a flat image.
    pub fn payload(&self) -> Result<Vec<u8>, String> {
        self.flat("pkvm-guest.bin")
    }

    /// The monitor at EL3, a flat image.
    pub fn monitor(&self) -> Result<Vec<u8>, String> {
        self.flat("pkvm-monitor.bin")
    }

    fn flat(&self, name: &str) -> Result<Vec<u8>, String> {
        let beside = self.bin.join(name);
        let path = if beside.is_file() {
            beside
        } else {
            tests_dir().join("target").join(name)
        };
        std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// A static arm64 busybox: the environment says where.
    pub fn busybox() -> Result<Vec<u8>, String> {
        let path = std::env::var_os("PKVM_BUSYBOX").ok_or(
            "PKVM_BUSYBOX does not name a static arm64 busybox (scripts/run and scripts/test fetch one)",
        )?;
        std::fs::read(&path).map_err(|e| format!("{}: {e}", Path::new(&path).display()))
    }

    /// A KVM selftest of the kernel's: the environment says where they are.
    pub fn selftest(program: &str) -> Result<Vec<u8>, String> {
        let dir = std::env::var_os("PKVM_SELFTESTS").ok_or(NO_SELFTESTS)?;
        let path = Path::new(&dir).join(program);
        std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Whether the kernel builds the selftests that are listed here, and no other.
    ///
    /// # Errors
    /// One line: the first that is missing or new, or the directory cannot be read.
    pub fn all_selftests() -> Result<(), String> {
        let dir = PathBuf::from(std::env::var_os("PKVM_SELFTESTS").ok_or(NO_SELFTESTS)?);
        let mut built = Vec::new();
        for sub in ["", "arm64"] {
            let path = dir.join(sub);
            let entries = std::fs::read_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            for entry in entries.flatten() {
                let program = entry
                    .metadata()
                    .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
                if program {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    built.push(if sub.is_empty() {
                        name
                    } else {
                        format!("{sub}/{name}")
                    });
                }
            }
        }
        selftests::all_of(&built).map_err(|why| format!("{}: {why}", dir.display()))
    }

    /// The initramfs of Linux guests.
    pub fn guest_initramfs() -> Result<Vec<u8>, String> {
        let init = tests_dir().join("vmm/guest/init");
        let mut archive = Archive::default();
        for dir in ["/dev", "/proc", "/sys", "/tmp", "/bin"] {
            archive.dir(dir);
        }
        archive.char_device("/dev/console", 5, 1);
        archive.file("/bin/busybox", 0o755, &Self::busybox()?);
        archive.file(
            "/init",
            0o755,
            &std::fs::read(&init).map_err(|e| format!("{}: {e}", init.display()))?,
        );
        Ok(archive.finish())
    }

    /// The test module, built for the kernel of `kbuild`.
    pub fn module(&self, kbuild: &Path) -> Result<Vec<u8>, String> {
        let source = tests_dir().join("hostile");
        let kbuild = kbuild
            .canonicalize()
            .map_err(|e| format!("{}: {e}", kbuild.display()))?;
        // One directory per kernel build, since a module fits no other.
        let name: String = kbuild
            .to_string_lossy()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        let out = tests_dir().join("target").join("hostile").join(name);
        if self.built {
            std::fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
            let mut make = Command::new("make");
            make.arg("-s")
                .arg("-C")
                .arg(&kbuild)
                .arg(format!("M={}", source.display()))
                .arg(format!("MO={}", out.display()))
                .args([
                    "ARCH=arm64",
                    "CROSS_COMPILE=aarch64-linux-gnu-",
                    "KBUILD_MODPOST_WARN=1",
                    "modules",
                ]);
            run(make, "the test module")?;
        }
        let path = out.join("hostile.ko");
        std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
    }
}

fn cargo(dir: &Path, target: &Path) -> Result<(), String> {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(dir)
        .args([
            "build",
            "--quiet",
            "--release",
            "--target",
            LINUX,
            "-Zbuild-std=std,panic_abort",
        ])
        .env("CARGO_TARGET_DIR", target)
        // Std is built from source for this target, which the toolchain allows only so.
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER",
            "aarch64-linux-gnu-gcc",
        )
        .env(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "-Ctarget-feature=+crt-static",
        )
        // What cargo tells a program that it runs must not reach the build of another workspace.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS");
    run(cargo, &dir.display().to_string())
}

const BARE: &str = "aarch64-unknown-none-softfloat";

/// Builds a bare-metal program and makes a flat image of it.
fn bare_metal(name: &str, target: &Path) -> Result<(), String> {
    let dir = tests_dir().join(name);
    let program = format!("pkvm-{name}");
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(&dir)
        .args([
            "build",
            "--quiet",
            "--release",
            "--target",
            BARE,
            "-Zbuild-std=core",
        ])
        .env("CARGO_TARGET_DIR", target)
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS");
    run(cargo, &dir.display().to_string())?;
    let mut objcopy = Command::new("aarch64-linux-gnu-objcopy");
    objcopy
        .args(["-O", "binary"])
        .arg(target.join(BARE).join("release").join(&program))
        .arg(target.join(format!("{program}.bin")));
    run(objcopy, &format!("the flat image of {program}"))
}

fn run(mut command: Command, what: &str) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|e| format!("{}: {e}", command.get_program().to_string_lossy()))?;
    if output.status.success() {
        return Ok(());
    }
    eprint!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    Err(format!("{what} does not build"))
}
