// SPDX-License-Identifier: GPL-2.0-only
//! One error type; each value prints as one line that says what failed and, where known, what to do.

use std::fmt;

/// What can go wrong in the VMM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Something outside the guest: a file, a limit, an ioctl. The text is the whole message.
    Setup(String),
    /// `KVM_RUN` of a vCPU failed.
    Run {
        /// The vCPU's index.
        cpu: u32,
        /// The error number.
        errno: i32,
    },
    /// A vCPU left with an exit that this VMM does not serve.
    Exit {
        /// The vCPU's index.
        cpu: u32,
        /// The exit, as the KVM binding names it.
        exit: String,
    },
}

/// `std::result::Result` with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error whose message says what was being done and why it failed.
    pub fn setup(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::Setup(format!("{what}: {why}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup(text) => f.write_str(text),
            Self::Run {
                cpu,
                errno: libc::EFAULT,
            } => write!(
                f,
                "KVM_RUN of vCPU {cpu}: Bad address (EFAULT): the guest touched a page that the host has taken away from it, \
                 or that has no memory behind it"
            ),
            Self::Run {
                cpu,
                errno: libc::ENOMEM,
            } => write!(
                f,
                "KVM_RUN of vCPU {cpu}: out of memory (ENOMEM): a protected VM's pages count as locked memory, see RLIMIT_MEMLOCK"
            ),
            Self::Run { cpu, errno } => write!(
                f,
                "KVM_RUN of vCPU {cpu}: {}",
                std::io::Error::from_raw_os_error(*errno)
            ),
            Self::Exit { cpu, exit } => write!(f, "vCPU {cpu} left with an exit that is not served: {exit}"),
        }
    }
}

impl std::error::Error for Error {}
