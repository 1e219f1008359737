// SPDX-License-Identifier: GPL-2.0-only
//! What PID 1 does to the system: mounts, modules, power.

use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};
use std::fs;
use std::process::ExitCode;

/// Mounts the pseudo file systems. A kernel without one of them is no error as long as no test needs it.
///
/// # Errors
/// The mount that failed, if `/proc`, `/sys` or `/dev` is missing.
pub fn mount_all() -> Result<(), String> {
    const MOUNTS: [(&str, &str, bool); 6] = [
        ("proc", "/proc", true),
        ("sysfs", "/sys", true),
        ("devtmpfs", "/dev", true),
        ("tmpfs", "/tmp", false),
        ("debugfs", "/sys/kernel/debug", false),
        ("tracefs", "/sys/kernel/tracing", false),
    ];
    let mut result = Ok(());
    for (kind, at, needed) in MOUNTS {
        let _ = fs::create_dir_all(at);
        if let Err(error) = mount(kind, at, kind, MountFlags::empty(), None)
            && needed
            && error != rustix::io::Errno::BUSY
        {
            result = Err(format!("mount {at}: {error}"));
        }
    }
    result
}

/// Loads a module file.
///
/// # Errors
/// The file's or the kernel's.
pub fn load_module(path: &str) -> Result<(), String> {
    let image = fs::read(path).map_err(|e| e.to_string())?;
    rustix::system::init_module(&image, c"").map_err(|e| e.to_string())
}

/// A shell on the console, with job control, until it ends.
pub fn shell() {
    const SCRIPT: &str = "/bin/busybox --install -s /bin; export PATH=/bin HOME=/ PS1='host# '; \
        echo; echo 'pvm-run, pvm-scenario and pvm-probe are here, a guest kernel and its initrd in /guest.'; \
        exec setsid cttyhack sh";
    let status = std::process::Command::new("/bin/busybox")
        .args(["sh", "-c", SCRIPT])
        .status();
    if let Err(error) = status {
        eprintln!("init: /bin/busybox: {error}");
    }
}

/// Powers the machine off, which ends the emulator.
pub fn power_off() -> ExitCode {
    rustix::fs::sync();
    let _ = reboot(RebootCommand::PowerOff);
    ExitCode::FAILURE
}

/// Whether the word `wanted` is on the kernel's command line.
pub fn cmdline_has(wanted: &str) -> bool {
    fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.split_whitespace().any(|word| word == wanted))
}
