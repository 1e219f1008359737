// SPDX-License-Identifier: GPL-2.0-only
//! The GICv2 CPU interface of a guest whose accesses must go through EL2, because the hardware's GICV region does not
//! fill whole pages and cannot be mapped into the guest. Does the job of `vgic-v2-cpuif-proxy.c`.
//!
//! Only a host that is trusted has such guests: with a GICv2 the kernel refuses protected mode. The guest chooses the
//! address, size, direction and data of the access; what it reaches is its own virtual interface and nothing else.

use super::super::switch::fault::Esr;
use crate::sysreg::{hpfar, spsr};

/// Bytes of the interface's first frame; deactivation is in the second, which EL1 emulates.
const DEACTIVATE: u64 = 0x1000;
/// Bytes of the interface in the guest's memory.
const SIZE: u64 = 0x2000;

/// What a guest's data abort is to the interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// An access to it: the offset of the word, the general register, and the direction.
    Word {
        /// Offset in the interface, a multiple of four.
        offset: u64,
        /// The register that takes or gives the word.
        rt: usize,
        /// Whether the guest writes.
        write: bool,
    },
    /// One that the interface refuses: not a word, or not aligned.
    Illegal,
    /// Not for EL2.
    NotOurs,
}

/// Looks what an abort with syndrome `esr` at `far`, in the page that `hpfar` names, is to an interface at IPA `base`.
pub fn decode(esr: Esr, far: u64, hpfar: u64, base: u64) -> Access {
    // Only what the syndrome describes whole can be emulated, and only an absent page is the interface.
    if !esr.is_translation_fault() || !esr.has_instruction_syndrome() || esr.is_sea() || esr.is_s1ptw() {
        return Access::NotOurs;
    }
    let ipa = (hpfar & hpfar::FIPA) << 8 | far & 0xfff;
    let Some(offset) = ipa.checked_sub(base).filter(|offset| *offset < SIZE) else {
        return Access::NotOurs;
    };
    const WORD: u64 = 2;
    if esr.access_size() != WORD || offset & 3 != 0 {
        return Access::Illegal;
    }
    if offset >= DEACTIVATE {
        return Access::NotOurs;
    }
    Access::Word {
        offset,
        rt: esr.data_rt(),
        write: esr.is_write(),
    }
}

/// Whether a guest in state `pstate` accesses data in big-endian order, with its `sctlr_el1`.
pub const fn is_big_endian(pstate: u64, sctlr_el1: u64) -> bool {
    const AARCH32_E: u64 = 1 << 9;
    const EE: u64 = 1 << 25;
    const E0E: u64 = 1 << 24;
    if pstate & spsr::MODE32 != 0 {
        pstate & AARCH32_E != 0
    } else if pstate & spsr::MODE == 0 {
        sctlr_el1 & E0E != 0
    } else {
        sctlr_el1 & EE != 0
    }
}

/// The word as the device has it, of one that the guest has in a register, and the other way round.
#[cfg(any(test, target_os = "none"))]
const fn in_device_order(word: u32, big_endian: bool) -> u32 {
    if big_endian { word.swap_bytes() } else { word }
}

/// What became of a guest's data abort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was an access to the interface, done at EL2.
    Handled,
    /// It was an access to the interface that the interface refuses; the guest gets an SError.
    Illegal,
    /// Not for EL2.
    NotOurs,
}

#[cfg(target_os = "none")]
pub use mechanism::perform_cpuif_access;

/// The accesses themselves.
#[cfg(target_os = "none")]
mod mechanism {
    #![expect(
        unsafe_code,
        reason = "device memory, and the kernel's words by name at probed offsets"
    )]

    use core::sync::atomic::{AtomicU32, Ordering};

    use pkvm_kernel::{Kvm, Vcpu, layout};

    use super::super::super::switch::fault::Esr;
    use super::{Access, Outcome, decode, in_device_order, is_big_endian};
    use crate::alt::has_cap;
    use crate::inject;
    use crate::sysreg::{SCTLR_EL1, SPSR_EL2, read_el1, read_el2};

    unsafe extern "C" {
        /// On where guests' accesses go through EL2.
        static vgic_v2_cpuif_trap: u8;
        /// `struct vgic_global`: it has EL2's address of the GICV region.
        static kvm_vgic_global_state: u8;
    }

    /// Does a guest's access to the GICv2 CPU interface in its stead, if that is what the data abort in the vCPU's fault
    /// information was. The guest's registers are still on the CPU but for those that every exit saves.
    pub fn perform_cpuif_access(vcpu: Vcpu, vm: Kvm) -> Outcome {
        if !crate::static_key!(vgic_v2_cpuif_trap) || has_cap::<{ layout::CAP_KVM_PROTECTED_MODE as u16 }>() {
            return Outcome::NotOurs;
        }
        let access = decode(
            Esr(vcpu.fault_esr()),
            vcpu.fault_far(),
            vcpu.fault_hpfar(),
            vm.vgic_cpu_base(),
        );
        let (offset, rt, write) = match access {
            Access::NotOurs => return Outcome::NotOurs,
            Access::Illegal => {
                inject::skip_running(vcpu);
                return Outcome::Illegal;
            }
            Access::Word { offset, rt, write } => (offset, rt, write),
        };
        #[expect(
            clippy::cast_ptr_alignment,
            reason = "the offset is that of a 64-bit member of an aligned structure"
        )]
        // SAFETY: the structure is read-only data of the kernel that EL1 maps at EL2 in this mode; it does not change
        // once KVM is initialised.
        let region = unsafe {
            (&raw const kvm_vgic_global_state)
                .add(layout::VGIC_GLOBAL_VCPU_HYP_VA as usize)
                .cast::<u64>()
                .read_volatile()
        };
        let word = region.wrapping_add(offset) as *mut u32;
        let big_endian = is_big_endian(read_el2::<SPSR_EL2>(), read_el1::<SCTLR_EL1>());
        let ctxt = vcpu.ctxt();
        // SAFETY: the key is on only when EL1 has mapped the GICV region at EL2, of which the first frame is all that
        // offsets reach. The registers are the guest's.
        unsafe {
            if write {
                word.write_volatile(in_device_order(ctxt.reg(rt) as u32, big_endian));
            } else {
                ctxt.set_reg(rt, in_device_order(read_device(word), big_endian).into());
            }
        }
        inject::skip_running(vcpu);
        Outcome::Handled
    }

    /// Reads a word of a device.
    ///
    /// # Safety
    /// `word` is mapped at EL2 and aligned.
    unsafe fn read_device(word: *mut u32) -> u32 {
        if has_cap::<{ layout::CAP_WORKAROUND_NVIDIA_OLYMPUS_1027 as u16 }>() {
            // NVIDIA Olympus erratum 1027: the device may see this load before stores that are ahead of it.
            crate::barrier::dmb_sy();
        }
        // SAFETY: as the caller proves.
        unsafe {
            if has_cap::<{ layout::CAP_WORKAROUND_DEVICE_LOAD_ACQUIRE as u16 }>() {
                // Cortex-A57 erratum 832075: device loads are load-acquires.
                AtomicU32::from_ptr(word).load(Ordering::Acquire)
            } else {
                word.read_volatile()
            }
        }
    }
}

/// Off the target there is no such interface.
#[cfg(not(target_os = "none"))]
pub fn perform_cpuif_access(_: pkvm_kernel::Vcpu, _: pkvm_kernel::Kvm) -> Outcome {
    Outcome::NotOurs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::fault::ec;

    const BASE: u64 = 0x0801_0000;
    const ISV: u64 = 1 << 24;
    const WORD: u64 = 2 << 22;
    const WRITE: u64 = 1 << 6;
    /// A translation fault of level 3.
    const FAULT: u64 = 7;

    fn at(iss: u64, ipa: u64) -> Access {
        let esr = Esr(u64::from(ec::DABT_LOW) << 26 | iss);
        decode(
            esr,
            0xffff_0000_0000_0000 | ipa & 0xfff,
            ipa >> 12 << 4 | hpfar::NS,
            BASE,
        )
    }

    #[test]
    fn an_aligned_word_is_an_access() {
        assert_eq!(
            at(FAULT | ISV | WORD | 5 << 16, BASE + 0xc),
            Access::Word {
                offset: 0xc,
                rt: 5,
                write: false
            }
        );
        assert_eq!(
            at(FAULT | ISV | WORD | WRITE | 31 << 16, BASE + 0xffc),
            Access::Word {
                offset: 0xffc,
                rt: 31,
                write: true
            }
        );
    }

    #[test]
    fn other_sizes_and_unaligned_words_are_illegal() {
        for size in [0, 1, 3] {
            assert_eq!(at(FAULT | ISV | size << 22, BASE), Access::Illegal, "size {size}");
        }
        assert_eq!(at(FAULT | ISV | WORD, BASE + 2), Access::Illegal);
        assert_eq!(at(FAULT | ISV, BASE + 0x1000), Access::Illegal);
    }

    #[test]
    fn deactivation_and_what_lies_elsewhere_is_not_ours() {
        for ipa in [
            BASE - 4,
            BASE + 0x1000,
            BASE + 0x1ffc,
            BASE + 0x2000,
            0,
            0xf_ffff_ffff_f000,
        ] {
            assert_eq!(at(FAULT | ISV | WORD, ipa), Access::NotOurs, "{ipa:#x}");
        }
    }

    #[test]
    fn only_a_described_fault_on_an_absent_page_is_looked_at() {
        for iss in [
            FAULT | WORD,
            0xf | ISV | WORD,
            0x10 | ISV | WORD,
            FAULT | 1 << 7 | ISV | WORD,
        ] {
            assert_eq!(at(iss, BASE), Access::NotOurs, "{iss:#x}");
        }
    }

    #[test]
    fn the_order_of_bytes_is_that_of_the_mode() {
        const EE: u64 = 1 << 25;
        const E0E: u64 = 1 << 24;
        assert!(is_big_endian(5, EE) && !is_big_endian(5, E0E));
        assert!(is_big_endian(0, E0E) && !is_big_endian(0, EE));
        assert!(is_big_endian(0x10 | 1 << 9, 0) && !is_big_endian(0x13, EE | E0E));
        assert_eq!(in_device_order(0x1122_3344, true), 0x4433_2211);
        assert_eq!(in_device_order(0x1122_3344, false), 0x1122_3344);
    }
}
