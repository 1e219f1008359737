// SPDX-License-Identifier: GPL-2.0-only
//! GICv5. Not supported: EL2 touches none of its registers, so that neither a host that claims a GICv5 VM on other
//! hardware nor one that names any address as the saved state can make EL2 execute an undefined instruction or
//! access that address. Whoever creates VMs refuses the model; the calls that save and restore its state do nothing,
//! since EL1 takes "not supported" as a fatal inconsistency.

/// Whether a VM may have a GICv5.
pub const SUPPORTED: bool = false;
