// SPDX-License-Identifier: GPL-2.0-only
//! Barriers. Each is also a compiler barrier for memory accesses.
#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "barrier instructions"))]

macro_rules! barriers {
    ($($(#[$doc:meta])* $name:ident = $insn:literal, $event:expr;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() {
            #[cfg(target_os = "none")]
            // SAFETY: a barrier changes neither registers nor memory. Without `nomem` the compiler keeps memory
            // accesses on their side of it.
            unsafe {
                core::arch::asm!($insn, options(nostack, preserves_flags));
            }
            #[cfg(not(target_os = "none"))]
            crate::fake::log($event);
        }
    )*};
}

#[cfg(not(target_os = "none"))]
use crate::fake::Event;

barriers! {
    /// Instruction synchronisation: later instructions see the register writes before it.
    isb = "isb", Event::Isb;
    /// Completes all memory accesses and maintenance of this CPU, as seen by the whole system.
    dsb_sy = "dsb sy", Event::Dsb("sy");
    /// Completes all memory accesses and maintenance, in the inner shareable domain.
    dsb_ish = "dsb ish", Event::Dsb("ish");
    /// Completes stores, in the inner shareable domain.
    dsb_ishst = "dsb ishst", Event::Dsb("ishst");
    /// Completes all memory accesses and maintenance, as seen by this CPU alone.
    dsb_nsh = "dsb nsh", Event::Dsb("nsh");
    /// Completes stores, as seen by this CPU alone.
    dsb_nshst = "dsb nshst", Event::Dsb("nshst");
    /// Orders all memory accesses, as seen by the whole system.
    dmb_sy = "dmb sy", Event::Barrier("dmb sy");
    /// Orders stores in the inner shareable domain, the kernel's `smp_wmb()`.
    dmb_ishst = "dmb ishst", Event::Barrier("dmb ishst");
    /// Synchronises with the statistical profiling extension. A NOP where there is none.
    psb_csync = "hint #17", Event::Barrier("psb csync");
    /// Synchronises with the trace unit. A NOP where there is none.
    tsb_csync = "hint #18", Event::Barrier("tsb csync");
}
