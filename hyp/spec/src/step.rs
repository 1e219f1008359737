// SPDX-License-Identifier: GPL-2.0-only
//! What each call does. The order of the checks is the order in which errors win.

use pkvm_types::{Error, PAGE_SHIFT, PageState, Perms, Result};

use crate::{Call, Frame, Holder, Kind, Layout, Leaf, Loan, Outcome, Page, Phase, Vm, World};

/// Frame numbers from here on lose bits as addresses.
const FRAME_LIMIT: u64 = 1 << (u64::BITS - PAGE_SHIFT);

impl Layout {
    /// The memory check: every frame of the range in one region that may change owner.
    fn memchk(&self, pfn: u64, pages: u64) -> Result<()> {
        let last = pfn + (pages - 1);
        let whole = |frame: u64| {
            self.regions
                .iter()
                .position(|r| (r.start..r.end).contains(&frame))
        };
        match whole(pfn) {
            Some(region) if whole(last) != Some(region) => Err(Error::Invalid),
            Some(region) if self.regions[region].nomap => Err(Error::Perm),
            Some(_) => Ok(()),
            None if self.regions.iter().any(|r| pfn < r.start && r.start <= last) => Err(Error::Invalid),
            None => Err(Error::Perm),
        }
    }

    /// A frame range of the host's choice: no wrap, not empty, below the limit.
    fn rangechk(&self, pfn: u64, pages: u64) -> Result<()> {
        if pages == 0 || pfn >= self.limit || pages > self.limit - pfn {
            Err(Error::Invalid)
        } else {
            Ok(())
        }
    }

    /// The size of a leaf and its alignment.
    fn szchk(&self, frames: u64, pages: u64) -> Result<()> {
        if pages == 1 || (pages == self.block && frames.is_multiple_of(self.block)) {
            Ok(())
        } else {
            Err(Error::Invalid)
        }
    }

    fn is_device(&self, pfn: u64) -> bool {
        !self.regions.iter().any(|r| (r.start..r.end).contains(&pfn))
    }

    fn is_nomap(&self, pfn: u64) -> bool {
        self.regions
            .iter()
            .any(|r| r.nomap && (r.start..r.end).contains(&pfn))
    }
}

/// A frame number from a register must survive the shift to an address.
fn pfn_word(pfn: u64) -> Result<()> {
    if pfn < FRAME_LIMIT {
        Ok(())
    } else {
        Err(Error::Invalid)
    }
}
fn gfn_word(gfn: u64) -> Result<()> {
    if gfn < FRAME_LIMIT {
        Ok(())
    } else {
        Err(Error::Range)
    }
}

impl<const P: usize, const V: usize, const G: usize> World<P, V, G> {
    /// What `call` returns and the state after it. A call that is refused changes nothing.
    pub fn step(&self, layout: &Layout, call: Call) -> (Outcome, Self) {
        let mut next = *self;
        match next.apply(layout, call) {
            Ok(value) => (Ok(value), next),
            Err(error) => (Err(error), *self),
        }
    }

    /// The page of a frame. What is outside of the window that the world keeps is out of reach for every call: the
    /// hypervisor's, as its text is.
    fn page(&self, layout: &Layout, pfn: u64) -> Page {
        let kept = pfn
            .checked_sub(layout.base)
            .and_then(|index| self.pages.get(index as usize))
            .copied();
        kept.unwrap_or(Page {
            holder: Holder::Hyp,
            loan: Loan::None,
            text: true,
        })
    }

    fn page_mut(&mut self, layout: &Layout, pfn: u64) -> &mut Page {
        &mut self.pages[(pfn - layout.base) as usize]
    }

    fn vm(&mut self, vm: u8, kind: Kind) -> Result<&mut Vm<G>> {
        let vm = self.vms.get_mut(vm as usize).ok_or(Error::Invalid)?;
        if vm.kind == kind && vm.phase != Phase::Gone {
            Ok(vm)
        } else {
            Err(Error::Invalid)
        }
    }

    fn all(&self, layout: &Layout, pfn: u64, pages: u64, test: impl Fn(&Page) -> bool) -> Result<()> {
        layout.memchk(pfn, pages)?;
        if (pfn..pfn + pages).all(|frame| test(&self.page(layout, frame))) {
            Ok(())
        } else {
            Err(Error::Perm)
        }
    }

    /// What a VM has at `gfn`, with the first frame of the leaf.
    fn frame(&self, layout: &Layout, vm: u8, gfn: u64) -> Result<(u64, Frame)> {
        gfn_word(gfn)?;
        if gfn >= layout.limit {
            return Err(Error::Range);
        }
        let frames = &self.vms[vm as usize].frames;
        let at = |gfn: u64| {
            gfn.checked_sub(layout.guest_base)
                .and_then(|i| frames.get(i as usize))
                .copied()
        };
        let head = gfn - gfn % layout.block;
        if let Some(frame @ Frame::Leaf(Leaf { pages, .. })) = at(head)
            && pages > 1
        {
            return Ok((head, frame));
        }
        Ok((gfn, at(gfn).unwrap_or_default()))
    }

    fn frame_mut(&mut self, layout: &Layout, vm: u8, gfn: u64) -> &mut Frame {
        &mut self.vms[vm as usize].frames[(gfn - layout.guest_base) as usize]
    }

    /// The page leaf that a protected VM has at `gfn`.
    fn gpage(&self, layout: &Layout, vm: u8, gfn: u64) -> Result<Leaf> {
        match self.frame(layout, vm, gfn)?.1 {
            Frame::Absent => Err(Error::NotFound),
            Frame::Poison => Err(Error::Poisoned),
            Frame::Leaf(leaf) if leaf.pages != 1 => Err(Error::TooBig),
            Frame::Leaf(leaf) => Ok(leaf),
        }
    }

    /// Changes every leaf that meets the range; what is absent does not matter.
    fn change_leaves(
        &mut self,
        layout: &Layout,
        vm: u8,
        gfn: u64,
        pages: u64,
        mut change: impl FnMut(&mut Leaf),
    ) -> Result<()> {
        let (head, _) = self.frame(layout, vm, gfn)?;
        self.frame(layout, vm, gfn + (pages - 1))?;
        for at in head..gfn + pages {
            let index = at.checked_sub(layout.guest_base);
            let frame = index.and_then(|i| self.vms[vm as usize].frames.get_mut(i as usize));
            if let Some(Frame::Leaf(leaf)) = frame {
                change(leaf);
            }
        }
        Ok(())
    }

    fn prot(layout: &Layout, prot: u64) -> Result<Perms> {
        let perms = Perms::from_bits(prot).ok_or(Error::Invalid)?;
        let one = perms.contains(Perms::PX) != perms.contains(Perms::UX);
        if one && !layout.xnx {
            Err(Error::Invalid)
        } else {
            Ok(perms)
        }
    }

    fn apply(&mut self, layout: &Layout, call: Call) -> Outcome {
        match call {
            Call::ShareHyp { pfn } => {
                pfn_word(pfn)?;
                self.all(layout, pfn, 1, |p| p.host_state() == PageState::Owned)?;
                self.page_mut(layout, pfn).loan = Loan::Hyp(0);
            }
            Call::UnshareHyp { pfn } => {
                pfn_word(pfn)?;
                self.all(layout, pfn, 1, |p| matches!(p.loan, Loan::Hyp(_)))?;
                let page = self.page_mut(layout, pfn);
                if page.loan != Loan::Hyp(0) {
                    return Err(Error::Busy);
                }
                page.loan = Loan::None;
            }
            Call::DonateHyp { pfn, pages } => {
                pfn_word(pfn)?;
                layout.rangechk(pfn, pages)?;
                self.all(layout, pfn, pages, |p| p.host_state() == PageState::Owned)?;
                (pfn..pfn + pages).for_each(|pfn| self.page_mut(layout, pfn).holder = Holder::Hyp);
            }
            Call::GiveHost { pfn } => {
                pfn_word(pfn)?;
                self.all(layout, pfn, 1, |p| p.holder == Holder::Hyp && !p.text)?;
                self.page_mut(layout, pfn).holder = Holder::Host;
            }
            Call::Pin { pfn, pages } => {
                pfn_word(pfn)?;
                layout.rangechk(pfn, pages)?;
                self.all(layout, pfn, pages, |p| matches!(p.loan, Loan::Hyp(_)))?;
                if (pfn..pfn + pages).any(|pfn| self.page(layout, pfn).loan == Loan::Hyp(u16::MAX)) {
                    return Err(Error::Busy);
                }
                for pfn in pfn..pfn + pages {
                    if let Loan::Hyp(pins) = &mut self.page_mut(layout, pfn).loan {
                        *pins += 1;
                    }
                }
            }
            Call::Unpin { pfn, pages } => {
                pfn_word(pfn)?;
                layout.rangechk(pfn, pages)?;
                self.all(layout, pfn, pages, |p| matches!(p.loan, Loan::Hyp(1..)))?;
                for pfn in pfn..pfn + pages {
                    if let Loan::Hyp(pins) = &mut self.page_mut(layout, pfn).loan {
                        *pins -= 1;
                    }
                }
            }
            Call::ShareFfa { pfn, pages } => {
                pfn_word(pfn)?;
                layout.rangechk(pfn, pages)?;
                self.all(layout, pfn, pages, |p| p.host_state() == PageState::Owned)?;
                (pfn..pfn + pages).for_each(|pfn| self.page_mut(layout, pfn).loan = Loan::Ffa);
            }
            Call::UnshareFfa { pfn, pages } => {
                pfn_word(pfn)?;
                layout.rangechk(pfn, pages)?;
                self.all(layout, pfn, pages, |p| p.loan == Loan::Ffa)?;
                (pfn..pfn + pages).for_each(|pfn| self.page_mut(layout, pfn).loan = Loan::None);
            }
            Call::DonateGuest { vm, pfn, gfn } => {
                // A vCPU of a dying VM cannot be loaded, so nothing can be given to it.
                if self.vm(vm, Kind::Protected)?.phase != Phase::Live {
                    return Err(Error::Invalid);
                }
                pfn_word(pfn)?;
                gfn_word(gfn)?;
                self.all(layout, pfn, 1, |p| p.host_state() == PageState::Owned)?;
                if self.frame(layout, vm, gfn)?.1 != Frame::Absent {
                    return Err(Error::Perm);
                }
                self.page_mut(layout, pfn).holder = Holder::Guest(vm, gfn);
                let leaf = Leaf {
                    pfn,
                    pages: 1,
                    perms: Perms::RWX.bits(),
                    young: true,
                    lent: false,
                };
                *self.frame_mut(layout, vm, gfn) = Frame::Leaf(leaf);
            }
            Call::ShareGuest {
                vm,
                pfn,
                gfn,
                pages,
                prot,
            } => self.share_guest(layout, vm, pfn, gfn, pages, prot)?,
            Call::UnshareGuest { vm, gfn, pages } => {
                self.vm(vm, Kind::Normal)?;
                gfn_word(gfn)?;
                layout.szchk(gfn, pages)?;
                let (head, Frame::Leaf(leaf)) = self.frame(layout, vm, gfn)? else {
                    return Err(Error::NotFound);
                };
                if leaf.pages != pages {
                    return Err(Error::TooBig);
                }
                self.end_loan(layout, vm, head, leaf);
            }
            Call::RelaxPerms { vm, gfn, prot } => {
                self.live_normal(vm)?;
                gfn_word(gfn)?;
                let perms = Self::prot(layout, prot)?;
                let (head, Frame::Leaf(mut leaf)) = self.frame(layout, vm, gfn)? else {
                    return Err(Error::Again);
                };
                let kept = if perms.intersects(Perms::X) {
                    leaf.perms & !Perms::X.bits()
                } else {
                    leaf.perms
                };
                leaf.perms = kept | perms.bits();
                *self.frame_mut(layout, vm, head) = Frame::Leaf(leaf);
            }
            Call::Wrprotect { vm, gfn, pages } => {
                self.vm(vm, Kind::Normal)?;
                gfn_word(gfn)?;
                layout.szchk(gfn, pages)?;
                self.change_leaves(layout, vm, gfn, pages, |leaf| leaf.perms &= !Perms::W.bits())?;
            }
            Call::TestClearYoung {
                vm,
                gfn,
                pages,
                clear,
            } => {
                self.vm(vm, Kind::Normal)?;
                gfn_word(gfn)?;
                layout.szchk(gfn, pages)?;
                let mut young = 0;
                self.change_leaves(layout, vm, gfn, pages, |leaf| {
                    young |= u64::from(leaf.young);
                    leaf.young &= !clear;
                })?;
                return Ok(young);
            }
            Call::Mkyoung { vm, gfn } => {
                self.live_normal(vm)?;
                if let Ok((head, Frame::Leaf(mut leaf))) = self.frame(layout, vm, gfn) {
                    leaf.young = true;
                    *self.frame_mut(layout, vm, head) = Frame::Leaf(leaf);
                }
            }
            Call::GuestShare { vm, gfn } => self.guest_loan(layout, vm, gfn, false)?,
            Call::GuestUnshare { vm, gfn } => self.guest_loan(layout, vm, gfn, true)?,
            Call::ForceReclaim { pfn } => return self.force_reclaim(layout, pfn),
            Call::ReclaimDying { vm, gfn } => {
                let target = self.vms.get(vm as usize).ok_or(Error::Invalid)?;
                if target.phase != Phase::Dying {
                    return Err(Error::Invalid);
                }
                let leaf = match self.gpage(layout, vm, gfn) {
                    Err(Error::Poisoned) => return Ok(0),
                    other => other?,
                };
                if self.vms[vm as usize].kind == Kind::Normal {
                    return Err(Error::Perm);
                }
                *self.frame_mut(layout, vm, gfn) = Frame::Absent;
                *self.page_mut(layout, leaf.pfn) = Page::default();
            }
            Call::StartTeardown { vm } => {
                let vm = self.vms.get_mut(vm as usize).ok_or(Error::Invalid)?;
                if vm.phase != Phase::Live {
                    return Err(Error::Invalid);
                }
                vm.phase = Phase::Dying;
            }
            Call::FinalizeTeardown { vm } => self.finalize(layout, vm)?,
            Call::InPoisonFault { vm, gfn } => {
                let target = self.vms.get(vm as usize).ok_or(Error::Invalid)?;
                if target.phase != Phase::Live {
                    return Err(Error::Invalid);
                }
                return match self.frame(layout, vm, gfn)? {
                    (_, Frame::Poison) => Ok(1),
                    // Whether tables reach down to an absent frame is not abstract state: 0 or `EINVAL`.
                    (_, Frame::Leaf(leaf)) if leaf.pages != 1 => Err(Error::Invalid),
                    _ => Ok(0),
                };
            }
            Call::HostRead { pfn } => {
                if pfn >= layout.limit {
                    return Ok(0);
                }
                let free = layout.is_device(pfn) || layout.is_nomap(pfn);
                return Ok(u64::from(free || self.page(layout, pfn).host_can_read()));
            }
        }
        Ok(0)
    }

    fn live_normal(&mut self, vm: u8) -> Result<()> {
        if self.vm(vm, Kind::Normal)?.phase == Phase::Live {
            Ok(())
        } else {
            Err(Error::Invalid)
        }
    }

    fn share_guest(
        &mut self,
        layout: &Layout,
        vm: u8,
        pfn: u64,
        gfn: u64,
        pages: u64,
        prot: u64,
    ) -> Result<()> {
        self.live_normal(vm)?;
        pfn_word(pfn)?;
        gfn_word(gfn)?;
        let perms = Self::prot(layout, prot)?;
        layout.rangechk(pfn, pages)?;
        layout.szchk(pfn | gfn, pages)?;
        layout.memchk(pfn, pages)?;
        for frame in gfn..gfn + pages {
            if self.frame(layout, vm, frame)?.1 != Frame::Absent {
                return Err(Error::Perm);
            }
        }
        for frame in pfn..pfn + pages {
            let page = self.page(layout, frame);
            match (page.holder, page.loan) {
                (Holder::Host, Loan::Guests(u32::MAX)) => return Err(Error::Busy),
                (Holder::Host, Loan::None | Loan::Guests(_)) => {}
                _ => return Err(Error::Perm),
            }
        }
        for frame in pfn..pfn + pages {
            let page = self.page_mut(layout, frame);
            page.loan = match page.loan {
                Loan::Guests(count) => Loan::Guests(count + 1),
                _ => Loan::Guests(1),
            };
        }
        let leaf = Leaf {
            pfn,
            pages,
            perms: perms.bits(),
            young: true,
            lent: false,
        };
        *self.frame_mut(layout, vm, gfn) = Frame::Leaf(leaf);
        Ok(())
    }

    fn end_loan(&mut self, layout: &Layout, vm: u8, head: u64, leaf: Leaf) {
        *self.frame_mut(layout, vm, head) = Frame::Absent;
        for pfn in leaf.pfn..leaf.pfn + leaf.pages {
            let page = self.page_mut(layout, pfn);
            page.loan = match page.loan {
                Loan::Guests(count @ 2..) => Loan::Guests(count - 1),
                _ => Loan::None,
            };
        }
    }

    fn guest_loan(&mut self, layout: &Layout, vm: u8, gfn: u64, lent: bool) -> Result<()> {
        if self.vm(vm, Kind::Protected)?.phase != Phase::Live {
            return Err(Error::Invalid);
        }
        let mut leaf = self.gpage(layout, vm, gfn)?;
        if leaf.lent != lent {
            return Err(Error::Perm);
        }
        leaf.lent = !lent;
        *self.frame_mut(layout, vm, gfn) = Frame::Leaf(leaf);
        self.page_mut(layout, leaf.pfn).loan = if lent { Loan::None } else { Loan::Host };
        Ok(())
    }

    fn force_reclaim(&mut self, layout: &Layout, pfn: u64) -> Outcome {
        if layout.is_device(pfn) {
            return Err(Error::Fault);
        }
        let page = self.page(layout, pfn);
        if page.host_state() != PageState::NoPage || layout.is_nomap(pfn) {
            return Err(Error::Again);
        }
        let Holder::Guest(vm, gfn) = page.holder else {
            return Err(Error::Perm);
        };
        *self.frame_mut(layout, vm, gfn) = Frame::Poison;
        *self.page_mut(layout, pfn) = Page::default();
        Ok(0)
    }

    fn finalize(&mut self, layout: &Layout, vm: u8) -> Result<()> {
        let target = *self.vms.get(vm as usize).ok_or(Error::Invalid)?;
        if target.phase != Phase::Dying {
            return Err(Error::Invalid);
        }
        let leaves = || {
            target
                .frames
                .iter()
                .enumerate()
                .filter_map(|(i, frame)| match frame {
                    Frame::Leaf(leaf) => Some((layout.guest_base + i as u64, *leaf)),
                    _ => None,
                })
        };
        if target.kind == Kind::Protected && leaves().next().is_some() {
            return Err(Error::Busy);
        }
        for (gfn, leaf) in leaves() {
            self.end_loan(layout, vm, gfn, leaf);
        }
        let vm = &mut self.vms[vm as usize];
        *vm = Vm {
            phase: Phase::Gone,
            frames: [Frame::Absent; G],
            ..*vm
        };
        Ok(())
    }
}
