// SPDX-License-Identifier: GPL-2.0-only
//! Where things are: the checkout and the cache outside of it.

use std::path::{Path, PathBuf};

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .map_or_else(PathBuf::new, Path::to_path_buf)
}

/// What is fetched and built once for all checkouts: `$XDG_CACHE_HOME/pkvm-rs`, or `~/.cache/pkvm-rs`.
pub fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .filter(|v| !v.is_empty())
        .map(PathBuf::from);
    base.or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
        .unwrap_or_else(|| PathBuf::from("/var/tmp"))
        .join("pkvm-rs")
}

/// A path as the user gave it, seen from where the user stood: the scripts change the directory before cargo runs.
pub fn from_user(path: &str) -> PathBuf {
    std::env::var_os("PKVM_CWD")
        .map(PathBuf::from)
        .unwrap_or_default()
        .join(path)
}
