// SPDX-License-Identifier: GPL-2.0-only
//! The hypercalls that EL2 answers for a protected VM. This does the job of the HVC half of the kernel's
//! `nvhe/pkvm.c`.
//!
//! Every register is the guest's. Source: the kernel's Documentation/virt/kvm/arm/hypercalls.rst, SMCCC.

use pkvm_types::{Ipa, PAGE_SIZE};

#[cfg(test)]
mod tests;

/// `INVALID_PARAMETER` of SMCCC.
const INVALID_PARAMETER: u64 = (-3_i64).cast_unsigned();

/// Vendor hypervisor service: which functions there are.
const FEATURES: u32 = 0x8600_0000;
/// The granule of sharing.
const HYP_MEMINFO: u32 = 0xc600_0002;
/// Share a page with the host.
const MEM_SHARE: u32 = 0xc600_0003;
/// End a share.
const MEM_UNSHARE: u32 = 0xc600_0004;

/// The functions that EL2 has, as the answer to FEATURES: numbers 0, 2, 3 and 4.
const SUPPORTED: u64 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4;

/// What a hypercall of a protected VM comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// x0 to x3 become these and the guest goes on.
    Reply([u64; 4]),
    /// Share the page at this address with the host, then [`share_reply`].
    Share(Ipa),
    /// End the share of the page at this address, then [`reply`].
    Unshare(Ipa),
    /// The host answers it: the guest exits.
    ToHost,
}

/// Decides about the HVC whose x0 to x3 are `words`.
pub fn decide(words: [u64; 4]) -> Decision {
    let [function, a1, a2, a3] = words;
    // SMCCC gives function numbers 32 bits.
    match function as u32 {
        FEATURES => Decision::Reply([SUPPORTED, 0, 0, 0]),
        HYP_MEMINFO if a1 | a2 | a3 == 0 => Decision::Reply([PAGE_SIZE, 0, 0, 0]),
        MEM_SHARE | MEM_UNSHARE if a2 | a3 == 0 && Ipa::new(a1).is_page_aligned() => {
            if function as u32 == MEM_SHARE {
                Decision::Share(Ipa::new(a1))
            } else {
                Decision::Unshare(Ipa::new(a1))
            }
        }
        HYP_MEMINFO | MEM_SHARE | MEM_UNSHARE => Decision::Reply([INVALID_PARAMETER, 0, 0, 0]),
        _ => Decision::ToHost,
    }
}

/// What the guest finds in x0 to x3 after an operation on a page.
pub const fn reply(done: pkvm_types::Result<()>) -> [u64; 4] {
    match done {
        Ok(()) => [0; 4],
        Err(_) => [INVALID_PARAMETER, 0, 0, 0],
    }
}

/// What comes after an attempt to share a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShareReply {
    /// x0 to x3 become these and the guest goes on.
    Reply([u64; 4]),
    /// The page is not mapped yet: the guest exits with this fault, as if it had written to the page, its PC back on the
    /// HVC and its registers as they were, so that the host maps the page and the call is made again.
    Fault(FaultInfo),
}

/// A fault as the vCPU's `fault` holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultInfo {
    /// ESR_EL2.
    pub esr_el2: u64,
    /// FAR_EL2.
    pub far_el2: u64,
    /// HPFAR_EL2.
    pub hpfar_el2: u64,
}

/// What comes after the attempt `done` to share the page at `ipa`.
pub const fn share_reply(ipa: Ipa, done: pkvm_types::Result<()>) -> ShareReply {
    match done {
        Err(pkvm_types::Error::NotFound) => ShareReply::Fault(FaultInfo::unmapped_write(ipa)),
        other => ShareReply::Reply(reply(other)),
    }
}

impl FaultInfo {
    /// A write to `ipa` by EL1 or EL0 that stage 2 does not map: data abort from a lower level, 32-bit instruction,
    /// translation fault at level 3. Its virtual address is not known and reads as zero.
    pub const fn unmapped_write(ipa: Ipa) -> Self {
        const DABT_LOW: u64 = 0x24 << 26;
        const IL: u64 = 1 << 25;
        const WNR: u64 = 1 << 6;
        const TRANSLATION_LEVEL_3: u64 = 7;
        // FIPA lies in HPFAR_EL2 from bit 4 on, the address from bit 12 on; NS is bit 63.
        const NS: u64 = 1 << 63;
        const LOW: u64 = 0xf;
        Self {
            esr_el2: DABT_LOW | IL | WNR | TRANSLATION_LEVEL_3,
            far_el2: 0,
            hpfar_el2: (NS | ipa.raw() >> 8) & !LOW,
        }
    }
}
