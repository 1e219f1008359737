// SPDX-License-Identifier: GPL-2.0-only
//! Which stage 2 translates the world below, and TLB maintenance for one that does not run at the moment. Does the
//! job of `tlb.c`.
//!
//! TLB instructions act on the VMID in VTTBR_EL2. Maintenance of another VMID therefore borrows the register: table
//! writes complete (DSB), the VMID changes, the change takes effect (ISB), TLBI, DSB, and the way back.
#![expect(unsafe_code, reason = "writes VTTBR_EL2 and VTCR_EL2")]

use pkvm_kernel::layout::*;
use pkvm_kernel::{InitParams, Mmu};

use super::ctxt::speculative_at;
use crate::alt::has_cap;
use crate::barrier::{dsb_ish, dsb_nsh, isb};
use crate::sysreg::*;
use crate::{cache, tlbi};

/// The registers that select a stage 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2 {
    /// VTTBR_EL2: the start table and the VMID.
    pub vttbr: u64,
    /// VTCR_EL2: the format of the tables.
    pub vtcr: u64,
}

/// VTTBR_EL2.CnP: the tables are the same on all CPUs.
const CNP: u64 = 1;
/// Where VTTBR_EL2 has the VMID.
const VMID_SHIFT: u32 = 48;

impl Stage2 {
    /// The stage 2 with start table at `pgd` and VMID `vmid`, of which the hardware uses `vmid_bits` bits.
    pub fn new(pgd: u64, vmid: u64, vmid_bits: u32, vtcr: u64) -> Self {
        // Bits 51 to 48 of a start table above 48 bits go to bits 5 to 2.
        let baddr = (pgd | pgd >> 46) & mask(47, 2);
        let vmid = (vmid & mask(vmid_bits.clamp(1, 16) - 1, 0)) << VMID_SHIFT;
        let cnp = if has_cap::<{ CAP_HAS_CNP as u16 }>() {
            CNP
        } else {
            0
        };
        Self {
            vttbr: baddr | vmid | cnp,
            vtcr,
        }
    }

    /// The stage 2 that a kernel structure describes. In non-protected mode the structure is the host's, which is
    /// trusted there; in protected mode it must be EL2's own.
    pub fn of(mmu: Mmu, vmid_bits: u32) -> Self {
        Self::new(mmu.pgd_phys(), mmu.vmid(), vmid_bits, mmu.vtcr())
    }

    /// The host's on this CPU: zero until the CPU is deprivileged, and always in non-protected mode.
    pub fn host(params: InitParams) -> Self {
        Self {
            vttbr: params.vttbr(),
            vtcr: params.vtcr(),
        }
    }

    /// What the registers select now.
    fn current() -> Self {
        Self {
            vttbr: read::<VTTBR_EL2>(),
            vtcr: read::<VTCR_EL2>(),
        }
    }

    /// Puts it into the registers. It takes effect at the next context synchronisation: on CPUs that may speculate
    /// AT instructions, at once.
    ///
    /// # Safety
    /// The tables grant the world that runs next no memory but its own, and HCR_EL2 of that world matches.
    pub unsafe fn load(self) {
        // SAFETY: as the caller proves; EL2's own translation does not use these.
        unsafe {
            write_own::<VTCR_EL2>(self.vtcr);
            write_own::<VTTBR_EL2>(self.vttbr);
        }
        if speculative_at() {
            isb();
        }
    }
}

/// How far the effect of a TLB operation reaches, and with it the barrier that its table writes need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// All CPUs.
    InnerShareable,
    /// This CPU.
    ThisCpu,
}

/// Makes `target` the current stage 2 for the time of `operation`.
fn with_vmid(target: Stage2, reach: Reach, operation: impl FnOnce()) {
    // Completes table writes of this CPU, and walks that began before EL2 was entered, so that the registers may
    // change under them.
    match reach {
        Reach::InnerShareable => dsb_ish(),
        Reach::ThisCpu => dsb_nsh(),
    }
    let previous = Stage2::current();
    if previous.vttbr == target.vttbr {
        operation();
        return;
    }
    let translation = StoppedTranslation::begin();
    // SAFETY: no other world runs before `previous` is back, and EL2 does not use stage 2.
    unsafe { target.load() };
    if !speculative_at() {
        isb();
    }
    operation();
    // SAFETY: what was in the registers when EL2 was entered, or what the world switch put there.
    unsafe { previous.load() };
    if !speculative_at() {
        isb();
    }
    translation.end();
}

/// The stage-1 controls of the interrupted world, while CPUs that may speculate AT must not walk its tables with a
/// foreign VMID: walks are disabled, and stage 1 is on so that nothing is cached as a flat mapping.
struct StoppedTranslation {
    tcr: u64,
    sctlr: u64,
}

impl StoppedTranslation {
    fn begin() -> Self {
        if !speculative_at() {
            return Self { tcr: 0, sctlr: 0 };
        }
        let tcr = read_el1::<TCR_EL1>();
        write_el1::<TCR_EL1>(tcr | tcr_el1::EPD0 | tcr_el1::EPD1);
        isb();
        let sctlr = read_el1::<SCTLR_EL1>();
        if sctlr & sctlr_el1::M == 0 {
            write_el1::<SCTLR_EL1>(sctlr | sctlr_el1::M);
            isb();
        }
        Self { tcr, sctlr }
    }

    fn end(self) {
        if !speculative_at() {
            return;
        }
        if self.sctlr & sctlr_el1::M == 0 {
            write_el1::<SCTLR_EL1>(self.sctlr);
            isb();
        }
        write_el1::<TCR_EL1>(self.tcr);
    }
}

/// Invalidates one IPA of `target`, and all its stage 1, since which addresses lead to the IPA is not known. `level`
/// is the level of the leaf where that is certain.
pub fn flush_ipa(target: Stage2, ipa: u64, level: Option<u8>) {
    with_vmid(target, Reach::InnerShareable, || {
        tlbi::ipas2e1is(tlbi::by_address(ipa, level));
        // Stage 2 must be done first, or a walk in between combines the old stage 2 with stage 1 anew.
        dsb_ish();
        tlbi::vmalle1is();
        tlbi::sync_ish();
        isb();
    });
}

/// As [`flush_ipa`], on this CPU alone: enough where permissions were only added.
pub fn flush_ipa_this_cpu(target: Stage2, ipa: u64, level: Option<u8>) {
    with_vmid(target, Reach::ThisCpu, || {
        tlbi::ipas2e1(tlbi::by_address(ipa, level));
        dsb_nsh();
        tlbi::vmalle1();
        dsb_nsh();
        isb();
    });
}

/// Invalidates `pages` pages of `target` from `ipa`, whatever the level of their leaves, and all its stage 1.
pub fn flush_range(target: Stage2, ipa: u64, pages: u64) {
    with_vmid(target, Reach::InnerShareable, || {
        tlbi::stage2_range(ipa, pages);
        dsb_ish();
        tlbi::vmalle1is();
        tlbi::sync_ish();
        isb();
    });
}

/// Invalidates all of `target`, both stages.
pub fn flush_vmid(target: Stage2) {
    with_vmid(target, Reach::InnerShareable, || {
        tlbi::vmalls12e1is();
        tlbi::sync_ish();
        isb();
    });
}

/// Invalidates stage 1 of `target` and the instruction cache, on this CPU: for another vCPU of the VM that comes to
/// run here, whose ASIDs may mean something else.
pub fn flush_cpu_context(target: Stage2) {
    with_vmid(target, Reach::InnerShareable, || {
        tlbi::vmalle1();
        cache::icache_inval_all_local();
        dsb_nsh();
        isb();
    });
}

/// Invalidates every VMID, both stages: the host is about to use VMIDs anew.
pub fn flush_all_vmids() {
    dsb_ish();
    tlbi::alle1is();
    tlbi::sync_ish();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Event};

    const GUEST: Stage2 = Stage2 {
        vttbr: 1 << 48 | 0x8000,
        vtcr: 0x80,
    };

    #[test]
    fn a_foreign_vmid_is_in_place_before_and_gone_after() {
        fake::reset();
        fake::set_reg(VTTBR_EL2, 0x4000);
        fake::set_reg(VTCR_EL2, 0x70);
        flush_vmid(GUEST);
        assert_eq!(
            fake::take_log(),
            [
                Event::Dsb("ish"),
                Event::Write(VTCR_EL2, 0x80),
                Event::Write(VTTBR_EL2, GUEST.vttbr),
                Event::Isb,
                Event::Tlbi("vmalls12e1is", 0),
                Event::Dsb("ish"),
                Event::Isb,
                Event::Write(VTCR_EL2, 0x70),
                Event::Write(VTTBR_EL2, 0x4000),
                Event::Isb,
            ]
        );
    }

    #[test]
    fn the_current_vmid_is_left_alone() {
        fake::reset();
        fake::set_reg(VTTBR_EL2, GUEST.vttbr);
        flush_ipa_this_cpu(GUEST, 0x7000, Some(3));
        assert_eq!(
            fake::take_log(),
            [
                Event::Dsb("nsh"),
                Event::Tlbi("ipas2e1", 7),
                Event::Dsb("nsh"),
                Event::Tlbi("vmalle1", 0),
                Event::Dsb("nsh"),
                Event::Isb,
            ]
        );
    }

    #[test]
    fn where_at_is_speculated_walks_stop_first_and_resume_last() {
        fake::reset();
        fake::set_cap(CAP_WORKAROUND_SPECULATIVE_AT as u16);
        fake::set_reg(TCR_EL1, 0x10);
        flush_vmid(GUEST);
        let log = fake::take_log();
        assert_eq!(
            log[1..7],
            [
                Event::Write(TCR_EL1, 0x10 | tcr_el1::EPD0 | tcr_el1::EPD1),
                Event::Isb,
                Event::Write(SCTLR_EL1, sctlr_el1::M),
                Event::Isb,
                Event::Write(VTCR_EL2, GUEST.vtcr),
                Event::Write(VTTBR_EL2, GUEST.vttbr),
            ]
        );
        assert_eq!(
            log[log.len() - 4..],
            [
                Event::Isb,
                Event::Write(SCTLR_EL1, 0),
                Event::Isb,
                Event::Write(TCR_EL1, 0x10)
            ]
        );
    }

    #[test]
    fn vttbr_takes_high_address_bits_and_only_the_vmid_bits_in_use() {
        fake::reset();
        let stage2 = Stage2::new(0xf_0000_4000_1000, 0x1_0105, 8, 0);
        assert_eq!(stage2.vttbr, 0x0005_0000_4000_1000 | 0xf << 2);
        fake::set_cap(CAP_HAS_CNP as u16);
        assert_eq!(Stage2::new(0x1000, 0x105, 16, 0).vttbr, 0x0105_0000_0000_1001);
    }
}
