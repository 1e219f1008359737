// SPDX-License-Identifier: GPL-2.0-only
//! EL2's private addresses: devices and vectors that the host asks for before it loses its privileges, and the windows
//! through which EL2 looks at pages that it does not own. Nothing here changes who owns a page.

use pkvm_pgtable::{Blocks, HypAttrs, Level, Slot};
use pkvm_types::{HypVa, Phys, Result};

use super::Hyp;
use crate::machine::Machine;

impl Hyp {
    /// Maps the `len` bytes from `phys` at `va` for EL2, or changes nothing. The caller has checked what is there, and
    /// that the address is free: errors are those of [`pkvm_pgtable::HypS1::map`].
    pub fn map_private<M: Machine>(
        &mut self,
        m: &M,
        va: HypVa,
        len: u64,
        phys: Phys,
        attrs: HypAttrs,
    ) -> Result<()> {
        let (s1, mut ops) = self.split(m);
        s1.map(&mut ops, va, len, phys, attrs, Blocks::PagesOnly)
    }

    /// Makes the page at `va` a window; errors are those of [`pkvm_pgtable::HypS1::make_slot`].
    pub fn make_window<M: Machine>(&mut self, m: &M, va: HypVa) -> Result<Slot> {
        let (s1, mut ops) = self.split(m);
        s1.make_slot(&mut ops, va, Level::LAST)
    }
}
