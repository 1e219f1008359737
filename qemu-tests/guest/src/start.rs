// SPDX-License-Identifier: GPL-2.0-only
//! Entry, stacks and exception vectors. The MMU stays off, so all memory is device memory: accesses must be aligned,
//! and vCPUs talk by plain stores and loads of words.
#![expect(
    unsafe_code,
    reason = "the entry point, the vectors and what they share with Rust are assembler"
)]

use core::arch::{asm, global_asm};

/// Most vCPUs that have a stack.
pub const MAX_CPUS: usize = 4;

global_asm!(
    r#"
    .pushsection .text.start, "ax"
    .global _start
_start:
    mov     x0, #0
    // A secondary comes here with its index in x0, as the context that CPU_ON took.
    .global secondary_entry
secondary_entry:
    adrp    x1, stacks
    add     x1, x1, :lo12:stacks
    add     x2, x0, #1
    add     x1, x1, x2, lsl #14
    mov     sp, x1
    msr     tpidr_el1, x0
    adrp    x1, vectors
    add     x1, x1, :lo12:vectors
    msr     vbar_el1, x1
    isb
    bl      {main}
0:  wfi
    b       0b
    .popsection

    .pushsection .bss
    .balign 4096
stacks:
    .space  {cpus} << 14
    // What the last exception was, per vCPU: ESR_EL1, FAR_EL1, count, where.
    .global exception_record
exception_record:
    .space  {cpus} * 32
    .popsection

    // Every exception is noted, and what caused it is stepped over. Only synchronous ones can occur: interrupts stay
    // masked.
    .pushsection .text.vectors, "ax"
    .balign 2048
vectors:
    .rept   16
    .balign 128
    b       1f
    .endr
    .balign 128
1:  stp     x0, x1, [sp, #-32]!
    stp     x2, x3, [sp, #16]
    mrs     x0, tpidr_el1
    adrp    x1, exception_record
    add     x1, x1, :lo12:exception_record
    add     x1, x1, x0, lsl #5
    mrs     x2, esr_el1
    mrs     x3, far_el1
    stp     x2, x3, [x1]
    ldr     x2, [x1, #16]
    add     x2, x2, #1
    str     x2, [x1, #16]
    mrs     x2, elr_el1
    str     x2, [x1, #24]
    add     x2, x2, #4
    msr     elr_el1, x2
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp], #32
    eret
    .popsection
"#,
    main = sym crate::main_on,
    cpus = const MAX_CPUS,
);

unsafe extern "C" {
    static mut exception_record: [[u64; 4]; MAX_CPUS];
    fn secondary_entry();
}

/// An exception that was taken.
#[derive(Clone, Copy)]
pub struct Exception {
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
}

impl Exception {
    /// Whether it says that the instruction is undefined: class 0, as a CPU without the register would give.
    pub fn is_undefined(self) -> bool {
        self.esr >> 26 == 0
    }
}

/// The index of this vCPU.
pub fn cpu() -> usize {
    let index: usize;
    // SAFETY: reads a register that the entry code set.
    unsafe { asm!("mrs {}, tpidr_el1", out(reg) index, options(nomem, nostack)) };
    index
}

/// Where CPU_ON shall start a secondary.
pub fn secondary() -> u64 {
    secondary_entry as *const () as u64
}

/// Runs something, and says whether it took an exception.
pub fn caught<T>(what: impl FnOnce() -> T) -> Result<T, Exception> {
    let record = || {
        let at = (&raw const exception_record)
            .cast::<[u64; 4]>()
            .wrapping_add(cpu() % MAX_CPUS);
        // SAFETY: the record of this vCPU, which only its own exception vector writes; volatile, since that is no call
        // that the compiler knows of.
        unsafe { core::ptr::read_volatile(at) }
    };
    let before = record()[2];
    let value = what();
    let [esr, far, count, _] = record();
    if count == before {
        Ok(value)
    } else {
        Err(Exception { esr, far })
    }
}
