// SPDX-License-Identifier: GPL-2.0-only
//! Tells the crate what of the kernel's configuration decides in which sections its statics lie; all else of it are
//! constants of the layout.

use std::{env, fs};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(kernel_has_event_ids)");
    println!("cargo::rerun-if-env-changed=EL2_LAYOUT");
    let Ok(file) = env::var("EL2_LAYOUT") else { return };
    println!("cargo::rerun-if-changed={file}");
    let layout = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
    let is_on = |name: &str| {
        layout.lines().any(|line| {
            line.strip_prefix("pub const ")
                .and_then(|rest| rest.strip_prefix(name))
                .is_some_and(|rest| rest.starts_with(": u64 = 1"))
        })
    };
    if is_on("CONFIG_NVHE_EL2_TRACING") {
        println!("cargo::rustc-cfg=kernel_has_event_ids");
    }
}
