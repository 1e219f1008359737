// SPDX-License-Identifier: GPL-2.0-only
//! RLIMIT_MEMLOCK: a page that a protected VM owns counts as locked memory of the VMM.

use crate::{Error, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The bit of CAP_IPC_LOCK in a capability set.
const CAP_IPC_LOCK: u32 = 14;

/// Sees to it that `bytes` may be locked: nothing to do with CAP_IPC_LOCK or a high limit, else the limit is raised.
/// Errors: it cannot be raised; the message says what to run.
pub fn allow_locked(bytes: u64) -> Result<()> {
    let limit = getrlimit(Resource::Memlock);
    if limit.current.is_none_or(|now| now >= bytes) || has_ipc_lock() {
        return Ok(());
    }
    // The hard limit can only be kept (or raised, by root); try it first, then raise both.
    let keep = Rlimit {
        current: Some(bytes),
        maximum: limit.maximum,
    };
    let raise = Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    setrlimit(Resource::Memlock, keep).or_else(|_| setrlimit(Resource::Memlock, raise)).map_err(|_| {
        Error::Setup(format!(
            "a protected VM locks its memory and RLIMIT_MEMLOCK is {} KiB: run `ulimit -l {}` first (or as root), \
             or give this program CAP_IPC_LOCK",
            limit.current.unwrap_or(0) / 1024,
            bytes.div_ceil(1024)
        ))
    })
}

fn has_ipc_lock() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .is_some_and(|set| set >> CAP_IPC_LOCK & 1 == 1)
}
