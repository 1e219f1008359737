// SPDX-License-Identifier: GPL-2.0-only
//! Breakpoints and watchpoints, and the host's profiling, trace and branch record buffers. Does the job of
//! `debug-sr.c`.
//!
//! The buffers write memory by EL1's translation on their own account. They must be drained and off before that
//! translation becomes the guest's, and may resume only when it is the host's again.

use pkvm_kernel::layout::*;
use pkvm_kernel::{Context, DebugRegs, HostData};

use super::{DebugOwner, Guest};
use crate::alt::has_cap;
use crate::barrier::{dsb_nsh, isb, psb_csync, tsb_csync};
use crate::sysreg::*;

/// Does `$do!(n)` for every n from 0 to `$last`, a number at run time; there are 16 at most.
macro_rules! for_each_up_to {
    ($last:expr, $do:ident) => {
        $do!(0);
        for_each_up_to!(@ $last, $do, 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $last:expr, $do:ident, $($n:literal)*) => {
        $(if $last >= $n { $do!($n); })*
    };
}

fn save(regs: DebugRegs, ctxt: Context, host: HostData) {
    let (breakpoints, watchpoints) = (host.debug_brps(), host.debug_wrps());
    macro_rules! breakpoint {
        ($n:literal) => {
            regs.write(GUEST_DEBUG_BCR + 8 * $n, read::<{ dbgbcr($n) }>());
            regs.write(GUEST_DEBUG_BVR + 8 * $n, read::<{ dbgbvr($n) }>());
        };
    }
    macro_rules! watchpoint {
        ($n:literal) => {
            regs.write(GUEST_DEBUG_WCR + 8 * $n, read::<{ dbgwcr($n) }>());
            regs.write(GUEST_DEBUG_WVR + 8 * $n, read::<{ dbgwvr($n) }>());
        };
    }
    for_each_up_to!(breakpoints, breakpoint);
    for_each_up_to!(watchpoints, watchpoint);
    ctxt.set_sys_reg(SR_MDCCINT_EL1, read::<MDCCINT_EL1>());
}

fn restore(regs: DebugRegs, ctxt: Context, host: HostData) {
    let (breakpoints, watchpoints) = (host.debug_brps(), host.debug_wrps());
    macro_rules! breakpoint {
        ($n:literal) => {
            write::<{ dbgbcr($n) }>(regs.read(GUEST_DEBUG_BCR + 8 * $n));
            write::<{ dbgbvr($n) }>(regs.read(GUEST_DEBUG_BVR + 8 * $n));
        };
    }
    macro_rules! watchpoint {
        ($n:literal) => {
            write::<{ dbgwcr($n) }>(regs.read(GUEST_DEBUG_WCR + 8 * $n));
            write::<{ dbgwvr($n) }>(regs.read(GUEST_DEBUG_WVR + 8 * $n));
        };
    }
    for_each_up_to!(breakpoints, breakpoint);
    for_each_up_to!(watchpoints, watchpoint);
    write::<MDCCINT_EL1>(ctxt.sys_reg(SR_MDCCINT_EL1));
}

/// The set of debug registers that is loaded while the guest runs, if any is.
fn guest_regs(guest: &Guest) -> Option<DebugRegs> {
    match guest.debug_owner {
        DebugOwner::Free => None,
        DebugOwner::Host => Some(guest.vcpu.external_debug_state()),
        DebugOwner::Guest => Some(guest.vcpu.debug_state()),
    }
}

/// Loads the breakpoints and watchpoints for the guest's run, where somebody uses them.
pub(super) fn switch_to_guest(guest: &Guest, host: HostData) {
    if let Some(regs) = guest_regs(guest) {
        save(host.debug_regs(), host.ctxt(), host);
        restore(regs, guest.vcpu.ctxt(), host);
    }
}

/// Loads the host's breakpoints and watchpoints.
pub(super) fn switch_to_host(guest: &Guest, host: HostData) {
    if let Some(regs) = guest_regs(guest) {
        save(regs, guest.vcpu.ctxt(), host);
        restore(host.debug_regs(), host.ctxt(), host);
    }
}

fn flag(host: HostData, n: u64) -> bool {
    host.flags() & 1 << n != 0
}

/// Drains and stops the host's buffers. The caller has a DSB before it changes EL1's translation.
pub(super) fn stop_host_buffers(host: HostData) {
    if flag(host, HOST_FLAG_HAS_SPE) {
        stop_profiling(host);
    }
    if flag(host, HOST_FLAG_HAS_BRBE) {
        stop_branch_records(host);
    }
    if traces(host) {
        stop_trace(host);
    }
}

/// Resumes the host's buffers, with all the host's registers in place.
pub(super) fn resume_host_buffers(host: HostData) {
    if flag(host, HOST_FLAG_HAS_SPE) {
        resume_profiling(host);
    }
    if flag(host, HOST_FLAG_HAS_BRBE) {
        let brbcr = host.brbcr();
        if brbcr != 0 {
            write_el1::<BRBCR_EL1>(brbcr);
        }
    }
    if traces(host) {
        resume_trace(host);
    }
}

fn stop_profiling(host: HostData) {
    let limit = read::<PMBLIMITR_EL1>();
    host.set_pmblimitr(limit);
    if limit & pmblimitr::E == 0 {
        return;
    }
    host.set_pmscr(read_el1::<PMSCR_EL1>());
    write_el1::<PMSCR_EL1>(0);
    // No new records from here on; the ones made so far drain to memory, and then the buffer may go.
    isb();
    psb_csync();
    dsb_nsh();
    write::<PMBLIMITR_EL1>(0);
    isb();
}

fn resume_profiling(host: HostData) {
    let limit = host.pmblimitr();
    if limit & pmblimitr::E == 0 {
        return;
    }
    // The host's translation must be in effect before the buffer uses it.
    isb();
    write::<PMBLIMITR_EL1>(limit);
    isb();
    write_el1::<PMSCR_EL1>(host.pmscr());
}

fn stop_branch_records(host: HostData) {
    let brbcr = read_el1::<BRBCR_EL1>();
    if brbcr & (brbcr::E0BRE | brbcr::ExBRE) == 0 {
        host.set_brbcr(0);
        return;
    }
    // The guest's accesses trap, so it stays off for the whole run.
    host.set_brbcr(brbcr);
    write_el1::<BRBCR_EL1>(0);
}

/// Whether EL1 uses the trace unit on this CPU, as far as it has told EL2.
fn traces(host: HostData) -> bool {
    flag(host, HOST_FLAG_TRBE_ENABLED) || flag(host, HOST_FLAG_EL1_TRACING_CONFIGURED)
}

fn stop_trace(host: HostData) {
    if flag(host, HOST_FLAG_TRBE_ENABLED) || has_cap::<{ CAP_KVM_PROTECTED_MODE as u16 }>() {
        // Guests are not traced to a buffer of the host's. In protected mode none is entered with tracing on: what was
        // kept here is the last guest's own value, and a normal VM's must not trace a protected one that runs after it.
        host.set_trfcr_while_in_guest(0);
    }
    host.set_trfcr(read_el1::<TRFCR_EL1>());
    write_el1::<TRFCR_EL1>(host.trfcr_while_in_guest());

    // In protected mode EL1's flags are as old as its deprivileging: look at every CPU that has the unit.
    let look = if has_cap::<{ CAP_KVM_PROTECTED_MODE as u16 }>() {
        flag(host, HOST_FLAG_HAS_TRBE)
    } else {
        flag(host, HOST_FLAG_TRBE_ENABLED)
    };
    let limit = if look { read::<TRBLIMITR_EL1>() } else { 0 };
    host.set_trblimitr(limit);
    if limit & trblimitr::E == 0 {
        return;
    }
    // The write of TRFCR_EL1 takes effect, what was traced drains, and then the buffer may go.
    isb();
    drain_trace();
    write::<TRBLIMITR_EL1>(0);
    if has_cap::<{ CAP_WORKAROUND_2064142 as u16 }>() {
        drain_trace();
    }
    isb();
}

fn drain_trace() {
    if has_cap::<{ CAP_WORKAROUND_TSB_FLUSH_FAILURE as u16 }>() {
        tsb_csync();
    }
    tsb_csync();
    dsb_nsh();
}

fn resume_trace(host: HostData) {
    let limit = host.trblimitr();
    if limit & trblimitr::E != 0 {
        write::<TRBLIMITR_EL1>(limit);
        isb();
        if has_cap::<{ CAP_WORKAROUND_2038923 as u16 }>() {
            isb();
        }
    }
    host.set_trfcr_while_in_guest(read_el1::<TRFCR_EL1>());
    write_el1::<TRFCR_EL1>(host.trfcr());
}
