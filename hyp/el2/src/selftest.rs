// SPDX-License-Identifier: GPL-2.0-only
//! The ownership self-test at boot, where the kernel is configured with `CONFIG_NVHE_EL2_DEBUG` and so reserved pages for
//! it. What it tests is in [`pkvm_core::mem::selftest`], which the unit tests run as well.

use pkvm_core::mem::{HypPages, selftest};
use pkvm_sync::{Held, Root};
use pkvm_types::{Error, PfnRange, Result};

use crate::hw::HW;
use crate::state::{GUEST_CONFIG, with_host_hyp};

/// Runs the test on `pages`, which are EL2's, if there are enough. An error fails the boot of EL2.
pub fn run(held: &mut Held<Root>, pages: Option<PfnRange>) -> Result<()> {
    let Some(config) = *GUEST_CONFIG.get() else {
        return Ok(());
    };
    let needed = selftest::pages_needed(&config);
    let Some(pages) = pages.filter(|pages| pages.count() >= needed) else {
        return Ok(());
    };
    let pages = PfnRange::checked(pages.start(), needed)?;
    with_host_hyp(held, |host, hyp| {
        let pages = HypPages::claim(&HW, hyp, pages)?;
        selftest::run(&HW, host, hyp, config, pages).map_err(|_| Error::Invalid)
    })
}
