// SPDX-License-Identifier: GPL-2.0-only
//! Reset, exception vectors and the way to the lower exception levels. All CPUs come out of reset at address 0; the first
//! one prepares the monitor's memory while the others wait for its word.
#![expect(
    unsafe_code,
    reason = "the entry point, the vectors and what they share with Rust are assembler"
)]

use core::arch::{asm, global_asm};

/// Most CPUs that have a stack.
pub const MAX_CPUS: usize = 8;

/// What a lower level had in its registers when it called, and gets back.
#[repr(C)]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// ELR_EL3: where it goes on.
    pub elr: u64,
    /// SPSR_EL3: in which state.
    pub spsr: u64,
    pad: u64,
}

const READY: u64 = 0x7265_6164_7921;
const FRAME: usize = size_of::<Frame>();

global_asm!(
    r#"
    .pushsection .text.start, "ax"
    .global _start
_start:
    mrs     x0, mpidr_el1
    ubfx    x19, x0, #0, #8
    ubfx    x1, x0, #8, #8
    add     x19, x19, x1, lsl #4
    cmp     x19, #{cpus}
    b.hs    9f
    msr     tpidr_el3, x19
    adr     x0, vectors
    msr     vbar_el3, x0
    isb
    ldr     x2, =monitor_ready
    ldr     x3, ={ready}
    cbnz    x19, 4f

    ldr     x0, =data_start
    ldr     x1, =data_end
    ldr     x4, =data_load
0:  cmp     x0, x1
    b.hs    1f
    ldr     x5, [x4], #8
    str     x5, [x0], #8
    b       0b
1:  ldr     x0, =bss_start
    ldr     x1, =bss_end
2:  cmp     x0, x1
    b.hs    5f
    stp     xzr, xzr, [x0], #16
    b       2b

4:  ldr     x0, [x2]
    cmp     x0, x3
    b.eq    5f
    yield
    b       4b

5:  ldr     x0, =stacks
    add     x1, x19, #1
    add     x0, x0, x1, lsl #15
    mov     sp, x0
    mov     x0, x19
    bl      {main}
9:  wfi
    b       9b
    .ltorg

    // x0: the frame. It need not be on this stack, which is empty from here on.
    .global monitor_leave
monitor_leave:
    ldp     x1, x2, [x0, #248]
    msr     elr_el3, x1
    msr     spsr_el3, x2
    mrs     x1, tpidr_el3
    ldr     x2, =stacks
    add     x1, x1, #1
    add     x2, x2, x1, lsl #15
    ldp     x3, x4, [x0, #24]
    ldp     x5, x6, [x0, #40]
    ldp     x7, x8, [x0, #56]
    ldp     x9, x10, [x0, #72]
    ldp     x11, x12, [x0, #88]
    ldp     x13, x14, [x0, #104]
    ldp     x15, x16, [x0, #120]
    ldp     x17, x18, [x0, #136]
    ldp     x19, x20, [x0, #152]
    ldp     x21, x22, [x0, #168]
    ldp     x23, x24, [x0, #184]
    ldp     x25, x26, [x0, #200]
    ldp     x27, x28, [x0, #216]
    ldp     x29, x30, [x0, #232]
    mov     sp, x2
    ldr     x2, [x0, #16]
    ldp     x0, x1, [x0]
    eret
    .ltorg
    .popsection

    .pushsection .noinit, "aw", @nobits
    .balign 8
    .global monitor_ready
monitor_ready:
    .space  8
    .popsection

    .pushsection .bss.stacks, "aw", @nobits
    .balign 4096
stacks:
    .space  {cpus} << 15
    .popsection

    .macro  enter to
    .balign 128
    sub     sp, sp, #{frame}
    stp     x0, x1, [sp]
    adr     x1, \to
    b       enter_common
    .endm

    .pushsection .text.vectors, "ax"
    .balign 2048
vectors:
    // From EL3 itself, on either stack pointer: an error of the monitor's.
    .rept   8
    enter   {died}
    .endr
    // From AArch64: SMC, and nothing else is routed here.
    enter   {smc}
    enter   {died}
    enter   {died}
    enter   {died}
    // From AArch32.
    enter   {died}
    enter   {died}
    enter   {died}
    enter   {died}

enter_common:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    str     x30, [sp, #240]
    mrs     x2, elr_el3
    mrs     x3, spsr_el3
    stp     x2, x3, [sp, #248]
    mov     x0, sp
    blr     x1
    mov     x0, sp
    b       monitor_leave
    .popsection
"#,
    main = sym crate::main_on,
    smc = sym smc,
    died = sym died,
    cpus = const MAX_CPUS,
    ready = const READY,
    frame = const FRAME,
);

unsafe extern "C" {
    static mut monitor_ready: u64;
    fn monitor_leave(frame: *const Frame) -> !;
}

extern "C" fn smc(frame: &mut Frame) {
    const SMC64: u64 = 0x17;
    let esr = crate::regs::esr_el3();
    if esr >> 26 != SMC64 {
        died(frame);
    }
    crate::smc(frame);
}

extern "C" fn died(frame: &mut Frame) {
    panic!(
        "exception at {:#x}, PSTATE {:#x}, {}",
        frame.elr,
        frame.spsr,
        crate::regs::syndrome()
    );
}

impl Frame {
    /// The state in which a CPU enters EL2 for the first time, or after it lost its power: only x0 and the address are
    /// given.
    pub fn entry(address: u64, x0: u64) -> Self {
        /// EL2 on its own stack pointer, all exceptions masked.
        const EL2H_DAIF: u64 = 0x3c9;
        // A kernel may count on no register but x0, except at the first boot, where x1 to x3 must be zero.
        let mut x = [0; 31];
        x[0] = x0;
        Self {
            x,
            elr: address,
            spsr: EL2H_DAIF,
            pad: 0,
        }
    }

    /// Goes there; this CPU's stack at EL3 is empty from then on.
    pub fn leave(&self) -> ! {
        // SAFETY: the frame outlives its last use in the assembler, which copies it into registers.
        unsafe { monitor_leave(self) }
    }
}

/// Lets the other CPUs go on, which wait for the monitor's memory.
pub fn release_others() {
    // SAFETY: an aligned word that only this function writes, and that the others read with their MMU off: hence the
    // cleaning of the line.
    unsafe {
        core::ptr::write_volatile(&raw mut monitor_ready, READY);
        asm!("dsb sy", "dc cvac, {}", "dsb sy", "sev", in(reg) &raw const monitor_ready, options(nostack));
    }
}
