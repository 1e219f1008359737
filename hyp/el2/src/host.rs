// SPDX-License-Identifier: GPL-2.0-only
//! Traps from the host: what it did, and how it goes on. It does the job of the trap half of the kernel's
//! `nvhe/hyp-main.c`. The decisions are in [`pkvm_core::host_trap`], [`pkvm_core::smc`] and [`pkvm_core::hcall`].
#![expect(unsafe_code, reason = "the entry from the vectors, and EL2 control registers")]

use pkvm_arch::alt::has_cap;
use pkvm_arch::switch::stage2::Stage2;
use pkvm_arch::sysreg::*;
use pkvm_arch::{cache, entry, smccc, static_key};
use pkvm_core::hcall::{HostRegs, Phase, dispatch};
use pkvm_core::host_trap::{self, Before, HostTrap, Injection};
use pkvm_core::mem::{self, AbortAction, AbortKind, HostAbort};
use pkvm_core::psci;
use pkvm_core::smc::{self, Route};
use pkvm_core::trace::Reason;
use pkvm_kernel::layout::*;
use pkvm_kernel::{Context, InitParams};
use pkvm_sync::{Held, Root};
use pkvm_types::{Error, HypVa, Perms, Phys, Result};

use crate::handlers::Handlers;
use crate::hw::HW;
use crate::psci::Relay;
use crate::run::{FaultAddress, host_fault};
use crate::state::{HOST_ROOT, HOST_VTCR, with_host};
use crate::{statics, trace};

unsafe extern "C" {
    /// The kernel's static key: on once the host has lost its privileges.
    static kvm_protected_mode_initialized: u8;
}

/// Whether the host has lost its privileges.
pub fn is_deprivileged() -> bool {
    static_key!(kvm_protected_mode_initialized)
}

fn phase() -> Phase {
    if is_deprivileged() {
        Phase::Deprivileged
    } else {
        Phase::Boot
    }
}

/// Returns to the host whose registers are in `context`.
pub fn enter(context: Context) -> ! {
    // SAFETY: the context is this CPU's host context, and EL2 has nothing left to do.
    unsafe { entry::host::enter_host(context) }
}

struct Regs(Context);

impl HostRegs for Regs {
    fn get(&self, n: usize) -> u64 {
        self.0.reg(n)
    }
    fn set(&mut self, n: usize, value: u64) {
        self.0.set_reg(n, value);
    }
}

/// Every exception from the host's EL1 or EL0 that EL2 asked for, but for the stub's calls in non-protected mode.
#[unsafe(no_mangle)]
extern "C" fn handle_trap(host_ctxt: *mut u8) {
    let Some(context) = core::ptr::NonNull::new(host_ctxt) else {
        bug!()
    };
    // SAFETY: the vectors pass this CPU's host context, which is mapped for ever.
    let context = unsafe { Context::from_raw(context) };
    let mut held = Held::at_trap_entry();
    let esr = read_el2::<ESR_EL2>();
    let trap = host_trap::decode(esr);
    trace::hyp_enter(match trap {
        HostTrap::Hypercall => Reason::Hvc,
        HostTrap::Smc => Reason::Smc,
        HostTrap::Abort(_) => Reason::HostAbort,
        HostTrap::SysReg => Reason::Sys,
        HostTrap::Other => Reason::Unknown,
    });
    match trap {
        HostTrap::Hypercall => {
            dispatch(&mut Regs(context), phase(), &mut Handlers::new(&mut held));
        }
        HostTrap::Smc => handle_smc(&mut held, context, esr),
        HostTrap::Abort(abort) => handle_abort(&mut held, esr, &abort),
        HostTrap::SysReg | HostTrap::Other => apply(&host_trap::undefined(&before())),
    }
    trace::hyp_exit(Reason::EretHost);
}

/// The host's EL1, as far as an exception to it depends on that.
fn before() -> Before {
    Before {
        spsr: read_el2::<SPSR_EL2>(),
        pc: read_el2::<ELR_EL2>(),
        vbar: read_el1::<VBAR_EL1>(),
        sctlr: read_el1::<SCTLR_EL1>(),
        mte: CONFIG_MTE != 0 && has_cap::<{ CAP_MTE as u16 }>(),
    }
}

/// Makes the return from EL2 one to EL1's exception vector.
fn apply(injection: &Injection) {
    if let Some(esr) = injection.esr_el1 {
        write_el1::<ESR_EL1>(esr);
    }
    if let Some(far) = injection.far_el1 {
        write_el1::<FAR_EL1>(far);
    }
    write_el1::<ELR_EL1>(injection.elr_el1);
    write_el1::<SPSR_EL1>(injection.spsr_el1);
    write_el2::<ELR_EL2>(injection.elr_el2);
    write_el2::<SPSR_EL2>(injection.spsr_el2);
}

/// Calls firmware with x0 to x17 of the host's, and leaves its answer there.
pub fn forward_smc(context: Context) {
    trace::hyp_exit(Reason::Smc);
    let mut regs: smccc::Regs = core::array::from_fn(|n| context.reg(n));
    smccc::smc(&mut regs);
    for (n, value) in regs.into_iter().enumerate() {
        context.set_reg(n, value);
    }
    trace::hyp_enter(Reason::Smc);
}

fn handle_smc(held: &mut Held<Root>, context: Context, esr: u64) {
    match smc::route(esr, context.reg(0), &crate::psci::config()) {
        Route::Psci(call, function) => {
            let words = [function, context.reg(1), context.reg(2), context.reg(3)];
            let result = psci::relay(call, words, &mut Relay);
            context.set_reg(0, result);
            for n in 1..4 {
                context.set_reg(n, 0);
            }
        }
        Route::Ffa(function) => crate::ffa::handle(held, context, function),
        Route::Forward => forward_smc(context),
        Route::NotSupported => context.set_reg(0, smc::NOT_SUPPORTED),
    }
    // A trapped SMC leaves the PC on itself.
    let (pc, spsr) = host_trap::skip_instruction(read_el2::<ELR_EL2>(), read_el2::<SPSR_EL2>());
    write_el2::<ELR_EL2>(pc);
    write_el2::<SPSR_EL2>(spsr);
}

fn handle_abort(held: &mut Held<Root>, esr: u64, abort: &host_trap::Abort) {
    use pkvm_core::host_trap::FaultStatus;

    let (address, far) = host_fault(esr);
    let ipa = match address {
        FaultAddress::Known(ipa) => Some(Phys::new(ipa.raw())),
        FaultAddress::Unknown => None,
        FaultAddress::Raced => return,
    };
    let kind = match abort.status {
        FaultStatus::Translation => AbortKind::Translation,
        FaultStatus::Permission => AbortKind::Permission(needed(abort)),
        FaultStatus::AccessFlag | FaultStatus::AddressSize | FaultStatus::External | FaultStatus::Other => {
            AbortKind::Other
        }
    };
    // Before EL2 is initialised there is no stage 2 that could abort.
    let action = with_host(held, |host, _| {
        Ok(mem::host_mem_abort(&HW, host, HostAbort { ipa, kind }))
    })
    .unwrap_or(AbortAction::Inject);
    match action {
        AbortAction::Retry => {}
        AbortAction::Inject => {
            let injection = match (ipa, abort.status) {
                (None, _) | (_, FaultStatus::External | FaultStatus::AddressSize) => {
                    host_trap::external_abort(&before(), esr, far)
                }
                _ => host_trap::protected_abort(&before(), esr, far),
            };
            apply(&injection);
        }
    }
}

/// The permissions without which the access could not go on.
fn needed(abort: &host_trap::Abort) -> Perms {
    // A walk reads its tables, and writes them only to set flags.
    match (abort.fetch, abort.write) {
        (true, _) => Perms::RX,
        (false, true) => Perms::RW,
        (false, false) => Perms::R,
    }
}

/// Writes into a CPU's parameters that the host runs under its stage 2.
pub fn enable_stage2_in(params: InitParams) {
    let Some(root) = HOST_ROOT.get() else { return };
    let stage2 = Stage2::new(root.raw(), 0, statics::kvm_arm_vmid_bits.get(), *HOST_VTCR.get());
    params.set_vttbr(stage2.vttbr);
    params.set_vtcr(stage2.vtcr);
    let mut hcr = params.hcr_el2() | pkvm_arch::sysreg::hcr::VM;
    if has_cap::<{ CAP_HAS_STAGE2_FWB as u16 }>() {
        hcr |= pkvm_arch::sysreg::hcr::FWB;
    }
    params.set_hcr_el2(hcr);
}

/// Hypercall 7: turns the host's stage 2 on for this CPU. [`Error::Perm`] the second time.
pub fn prot_finalize() -> Result<()> {
    if HOST_ROOT.get().is_none() {
        // EL2 was never initialised for protected mode, or not to the end, so there is no stage 2 to turn on.
        return Err(Error::Perm);
    }
    if crate::state::this_cpu().finalise() {
        return Err(Error::Perm);
    }
    // The register counts and not the parameters: another CPU's CPU_ON or a suspend that failed may have changed these
    // before this CPU got here. Where it is set, this CPU slept while the first one began, and came back under stage 2;
    // the kernel takes an error here for the end of protection.
    if read::<HCR_EL2>() & pkvm_arch::sysreg::hcr::VM != 0 {
        return Ok(());
    }
    turn_stage2_on();
    Ok(())
}

/// For a CPU that comes to EL2 from firmware. Its CPU_ON may have been under way when the host lost its privileges, too early
/// to find the stage 2 in its parameters. One that was here before that moment is for the host's boot to wait for, which
/// is trusted: it finalises every CPU that is on line.
pub fn catch_up() {
    if is_deprivileged() && read::<HCR_EL2>() & pkvm_arch::sysreg::hcr::VM == 0 {
        turn_stage2_on();
    }
}

/// Puts the host's stage 2 into this CPU's registers, and into the parameters that it starts with from now on.
fn turn_stage2_on() {
    let params = statics::init_params();
    enable_stage2_in(params);
    // A CPU that comes back from firmware reads them with its MMU off.
    cache::dcache_clean_inval_poc(HypVa::new(params.addr()), INIT_PARAMS_SIZE);
    // SAFETY: this CPU's, made complete above; HCR_EL2 gained VM and FWB alone, since the CPU started with it.
    unsafe { pkvm_arch::switch::enable_host_stage2(params) };
}
