// SPDX-License-Identifier: GPL-2.0-only
//! Gives the linker the machine's secure memory.

fn main() {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("monitor.ld");
    println!("cargo:rustc-link-arg-bins=-T{}", script.display());
    println!("cargo:rerun-if-changed={}", script.display());
}
