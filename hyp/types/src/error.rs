// SPDX-License-Identifier: GPL-2.0-only
//! Why a call failed, and the errno by which EL1 knows it. EL1 relies on exact values, so this is the one place that
//! maps them.

/// The result of an operation that EL2 may refuse.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// Why EL2 refused an operation. A call that returns one of these changed nothing, save what its documentation names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Error {
    /// The state of a page or an object forbids the operation (`EPERM`).
    Perm,
    /// There is nothing there (`ENOENT`).
    NotFound,
    /// The page sizes do not agree (`E2BIG`).
    TooBig,
    /// Try again: the state changed meanwhile, or the mapping is not there yet (`EAGAIN`).
    Again,
    /// EL2 has no memory left for this (`ENOMEM`).
    NoMemory,
    /// The address is not memory (`EFAULT`).
    Fault,
    /// Somebody still uses it (`EBUSY`).
    Busy,
    /// It exists already (`EEXIST`).
    Exists,
    /// No such device or buffer (`ENODEV`).
    NoDevice,
    /// An argument makes no sense (`EINVAL`).
    Invalid,
    /// The address is beyond the translation regime (`ERANGE`).
    Range,
    /// Not available here (`EOPNOTSUPP`).
    NotSupported,
    /// The page was poisoned when the host took it back by force (`EHWPOISON`).
    Poisoned,
}

impl Error {
    /// The kernel's errno, negative.
    pub const fn errno(self) -> i64 {
        -match self {
            Self::Perm => 1,
            Self::NotFound => 2,
            Self::TooBig => 7,
            Self::Again => 11,
            Self::NoMemory => 12,
            Self::Fault => 14,
            Self::Busy => 16,
            Self::Exists => 17,
            Self::NoDevice => 19,
            Self::Invalid => 22,
            Self::Range => 34,
            Self::NotSupported => 95,
            Self::Poisoned => 133,
        }
    }

    /// What a call that returns `result` leaves in the host's x1: zero or the negative errno.
    pub const fn status(result: Result<()>) -> i64 {
        match result {
            Ok(()) => 0,
            Err(error) => error.errno(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_values_are_the_kernels() {
        assert_eq!(Error::Perm.errno(), -1);
        assert_eq!(Error::Poisoned.errno(), -133);
        assert_eq!(Error::status(Ok(())), 0);
    }
}
