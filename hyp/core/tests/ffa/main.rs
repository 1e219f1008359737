// SPDX-License-Identifier: GPL-2.0-only
//! The FF-A proxy between a host and a simulated partition manager, which is honest or not, over real page records: what the
//! secure world may hold is always marked as lent to it, and the host's bytes are read once.

#[allow(
    dead_code,
    unused_imports,
    reason = "shared with the tests of memory ownership"
)]
#[path = "../ownership/abstraction.rs"]
mod abstraction;
#[allow(dead_code, reason = "shared with the tests of memory ownership")]
#[path = "../ownership/reader.rs"]
mod reader;
#[allow(dead_code, reason = "shared with the tests of memory ownership")]
#[path = "../ownership/rig.rs"]
mod rig;
#[allow(dead_code, reason = "shared with the tests of memory ownership")]
#[path = "../ownership/sim.rs"]
mod sim;

mod bench;
mod build;
mod fuzz;
mod mailboxes;
mod memory;
mod museum;
mod random;
mod spm;
mod versions;
