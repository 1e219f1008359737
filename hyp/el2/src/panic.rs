// SPDX-License-Identifier: GPL-2.0-only
//! The end: a broken invariant of EL2, or an exception that it cannot explain. The host gets a report and panics.
//!
//! Nothing that the host, a guest, firmware or a device does leads here by design; what does is a defect of EL2.
#![expect(
    unsafe_code,
    reason = "C-ABI entries of the vectors, and the jump back to the host"
)]

use core::panic::PanicInfo;

use pkvm_arch::alt;
use pkvm_arch::switch::{self, extable};
use pkvm_arch::sysreg::{ELR_EL2, ESR_EL2, FAR_EL2, HPFAR_EL2, PAR_EL1, SPSR_EL2, read, read_el2, write_el2};
use pkvm_core::stacktrace::{self, Stack};
use pkvm_kernel::Vcpu;
use pkvm_kernel::layout::*;
use pkvm_types::HypVa;

use crate::{statics, words};

unsafe extern "C" {
    /// The host's panic handler: `(esr, spsr, elr, elr as a physical address, par, vcpu, far, hpfar)`. Never called from
    /// EL2.
    fn nvhe_hyp_panic_handler();
}

/// Whether the places of the compiler's own panics are kept: in kernels that are configured to debug EL2.
const KNOWS_PLACES: bool = CONFIG_NVHE_EL2_DEBUG != 0;

#[cfg_attr(target_os = "none", panic_handler)]
fn panic(info: &PanicInfo<'_>) -> ! {
    // The message would cost 5 KiB of code and data; the place costs less, and says enough.
    match info.location() {
        Some(place) if KNOWS_PLACES => crate::bug::bug_at(place),
        _ => bug!(),
    }
}

fn frame_pointer() -> u64 {
    let fp: u64;
    // SAFETY: reads a general register.
    unsafe { core::arch::asm!("mov {}, x29", out(reg) fp, options(nomem, nostack, preserves_flags)) };
    fp
}

/// Tells EL1 where EL2's stack is and where to start to unwind it. It can read the stack in non-protected mode.
fn show_stack(fp: u64, pc: u64) {
    let info = statics::kvm_stacktrace_info.this_cpu();
    let store = |offset: u64, value: u64| {
        // SAFETY: the offsets are those of 64-bit members of the per-CPU structure that `info` points to.
        unsafe { info.add(offset as usize).cast::<u64>().write_volatile(value) };
    };
    let [overflow, own] = stacks();
    store(STACKTRACE_INFO_STACK_BASE, own.low);
    store(STACKTRACE_INFO_OVERFLOW_BASE, overflow.low);
    store(STACKTRACE_INFO_FP, fp);
    store(STACKTRACE_INFO_PC, pc);
}

/// This CPU's stacks: where EL2 runs after an overflow, and where it runs else.
fn stacks() -> [Stack; 2] {
    let overflow = statics::overflow_stack.this_cpu() as u64;
    let high = statics::init_params().stack_hyp_va();
    [
        Stack {
            low: overflow,
            high: overflow + OVERFLOW_STACK_SIZE,
        },
        Stack {
            low: high.wrapping_sub(1 << NVHE_STACK_SHIFT),
            high,
        },
    ]
}

/// Writes the return addresses on EL2's stack where EL1 reads them in protected mode, a zero behind them. Only
/// with `CONFIG_PKVM_STACKTRACE`, which comes with a host that loses its stage 2 now.
fn save_stack(fp: u64, pc: u64) {
    const WORDS: usize = PKVM_STACKTRACE_SIZE as usize / 8;
    let trace = statics::pkvm_stacktrace.this_cpu().cast::<u64>();
    let mut used = 0;
    let mut save = |pc: u64| {
        // One word is left for the zero.
        if used < WORDS.saturating_sub(1) {
            // SAFETY: this CPU's copy of the array has `WORDS` words.
            unsafe {
                trace.add(used).write_volatile(pc);
                trace.add(used + 1).write_volatile(0);
            }
            used += 1;
        }
    };
    save(pc);
    let read = |record: u64| {
        let record = record as *const u64;
        // SAFETY: the unwinder passes addresses of 16 bytes on one of the stacks, a multiple of 8.
        unsafe { [record.read_volatile(), record.add(1).read_volatile()] }
    };
    stacktrace::unwind(fp, stacks(), read, save);
}

/// Leaves behind what EL1 needs to print a backtrace.
fn prepare_backtrace(fp: u64, pc: u64) {
    if !pkvm_arch::alt::has_cap::<{ CAP_KVM_PROTECTED_MODE as u16 }>() {
        show_stack(fp, pc);
    } else if PKVM_STACKTRACE_SIZE != 0 {
        save_stack(fp, pc);
    }
}

/// PSTATE of the host's panic handler: EL1h with all exceptions masked.
const PANIC_PSTATE: u64 = 0x3c5;

/// Where the vectors go for an exception that EL2 took from itself, or that was the host's: on the CPU's overflow stack.
#[unsafe(no_mangle)]
extern "C" fn hyp_panic() -> ! {
    let esr = read_el2::<ESR_EL2>();
    let spsr = read_el2::<SPSR_EL2>();
    let elr = read_el2::<ELR_EL2>();
    let par = read::<PAR_EL1>();
    let far = read_el2::<FAR_EL2>();
    let hpfar = read::<HPFAR_EL2>();
    let host = statics::host_data().ctxt();
    let running = host.running_vcpu();
    // The guest does not run any more, and a host that goes on after this may end its VM.
    host.set_running_vcpu(0);
    if let Some(vcpu) = core::ptr::NonNull::new(running as *mut u8) {
        // SAFETY: the pointer is set around a guest's run only, to the vCPU structure that runs.
        let vcpu = unsafe { Vcpu::from_raw(vcpu) };
        crate::run::abandon_guest(vcpu);
    }
    prepare_backtrace(frame_pointer(), elr);
    if CONFIG_PKVM_DISABLE_STAGE2_ON_PANIC != 0 {
        switch::disable_host_stage2();
    }
    // The host gets its registers back but those of the report.
    let elr_phys = words::linear_phys(HypVa::new(elr)).raw();
    for (n, word) in [esr, spsr, elr, elr_phys, par, running, far, hpfar]
        .into_iter()
        .enumerate()
    {
        host.set_reg(n, word);
    }
    let handler = words::linear_phys(HypVa::new(nvhe_hyp_panic_handler as *const () as u64));
    write_el2::<ELR_EL2>(handler.raw().wrapping_add(alt::kimage_voffset()));
    write_el2::<SPSR_EL2>(PANIC_PSTATE);
    crate::host::enter(host)
}

unsafe extern "C" {
    /// The records of instructions that may fault while a guest's vectors are in place.
    static __start___kvm_ex_table: [i32; 2];
    static __stop___kvm_ex_table: [i32; 2];
}

/// Where the guest's vectors ask what to do about an exception that EL2 took from itself at `fault`: the address to go on
/// at, or zero where EL2 must panic.
#[unsafe(no_mangle)]
extern "C" fn hyp_fixup(fault: u64) -> u64 {
    let (start, end) = (
        &raw const __start___kvm_ex_table,
        &raw const __stop___kvm_ex_table,
    );
    let count = (end as usize - start as usize) / size_of::<[i32; 2]>();
    // SAFETY: the linker script puts the records one after another between the two symbols, in EL2's text.
    let records = unsafe { core::slice::from_raw_parts(start, count) };
    extable::fixup(records, start as u64, fault).unwrap_or(0)
}
