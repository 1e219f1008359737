// SPDX-License-Identifier: GPL-2.0-only
//! Which exception vectors catch a guest: the plain ones, or copies that begin with the Spectre mitigation that this CPU
//! needs. The vectors themselves are in [`pkvm_arch::entry::vectors`]. It does the job of `pkvm_cpu_set_vector` and
//! `hyp_map_vectors` in the kernel's `nvhe/mm.c`. No lock: a CPU chooses for itself, from a list of four.
#![expect(unsafe_code, reason = "a per-CPU word that EL1 knows")]

use core::sync::atomic::{AtomicU64, Ordering};

pub use pkvm_arch::entry::vectors::{hardened, plain};
use pkvm_types::{Error, Result};

use crate::statics;

/// Bytes of one set of vectors.
const VECTORS: u64 = 0x800;

/// Where the hardened vectors are mapped a second time; 0 where they are not.
static INDIRECT: AtomicU64 = AtomicU64::new(0);

/// Notes where the hardened vectors are mapped a second time.
pub fn set_indirect(va: u64) {
    INDIRECT.store(va, Ordering::Relaxed);
}

/// Hypercall 3: chooses this CPU's vectors, by the kernel's `enum arm64_hyp_spectre_vector`.
pub fn set(slot: u32) -> Result<()> {
    let indirect = match INDIRECT.load(Ordering::Relaxed) {
        0 => hardened(),
        va => va,
    };
    let vector = match slot {
        0 => plain(),
        1 => hardened(),
        2 => indirect + VECTORS,
        3 => indirect + 2 * VECTORS,
        _ => return Err(Error::Invalid),
    };
    // SAFETY: this CPU's copy of an 8-byte per-CPU variable that only this CPU uses.
    unsafe {
        statics::kvm_hyp_vector
            .this_cpu()
            .cast::<u64>()
            .write_volatile(vector);
    };
    Ok(())
}
