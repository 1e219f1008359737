// SPDX-License-Identifier: GPL-2.0-only
//! Chooses the layout of the kernel's structures: the kernel build names the one it measured in `EL2_LAYOUT`; unit
//! tests and lints, which have no kernel, use the sample.

use std::{env, path::Path};

fn main() {
    println!("cargo::rerun-if-env-changed=EL2_LAYOUT");
    let file = env::var("EL2_LAYOUT").unwrap_or_else(|_| {
        let crate_dir = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
        Path::new(&crate_dir)
            .join("src/layout_sample.rs")
            .display()
            .to_string()
    });
    println!("cargo::rerun-if-changed={file}");
    println!("cargo::rustc-env=PKVM_LAYOUT_FILE={file}");
}
