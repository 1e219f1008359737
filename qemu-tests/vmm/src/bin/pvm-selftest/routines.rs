// SPDX-License-Identifier: GPL-2.0-only
//! The guest's routines, in assembler: position-independent, called by the monitor with x0 to x2.

#![expect(
    unsafe_code,
    reason = "the routines are assembled into this program and copied out of it"
)]

std::arch::global_asm!(include_str!("routines.S"));

macro_rules! routines {
    ($($(#[$doc:meta])* $name:ident = $symbol:ident;)*) => {
        unsafe extern "C" {
            static pvm_routines_start: [u8; 0];
            static pvm_routines_end: [u8; 0];
            $(static $symbol: [u8; 0];)*
        }

        /// All of them, as they go into the guest's memory.
        pub fn code() -> &'static [u8] {
            // SAFETY: the two symbols of routines.S bound one stretch of read-only data that nothing ever writes.
            unsafe {
                let start = (&raw const pvm_routines_start).cast::<u8>();
                let end = (&raw const pvm_routines_end).cast::<u8>();
                std::slice::from_raw_parts(start, end.offset_from_unsigned(start))
            }
        }

        $($(#[$doc])*
        pub fn $name() -> usize {
            (&raw const $symbol) as usize - (&raw const pvm_routines_start) as usize
        })*
    };
}

routines! {
    /// x0: function, x1, x2: its first two arguments. Returns how many of x4 to x30 and SP the call changed, the call's
    /// x0 in x1, its x1 in x2.
    keep_registers = pvm_r_keep;
    /// x0: first page, x1: rounds, x2: which call (MEM_SHARE, or MEM_UNSHARE after it). Shares and takes back one page
    /// again and again: returns how often each worked.
    share_rounds = pvm_r_share_rounds;
    /// Gets the interrupt controller of vCPU x0 ready for SGIs, PPIs and the SPIs below 64, which are edges.
    irq_setup = pvm_r_irq_setup;
    /// Takes interrupts until x0 have come (0: none is waited for), looking x1 times. Returns how many came, the last
    /// one's INTID, how many of them were the last one's, and how many looks were left.
    irq_take = pvm_r_irq_take;
    /// Starts the timer of x1 (27: virtual, 30: physical) to fire after x0 ticks.
    timer_start = pvm_r_timer_start;
    /// Sends an SGI: x0 is the value of ICC_SGI1R_EL1.
    sgi_send = pvm_r_sgi_send;
    /// Takes SErrors, after each of x0 rounds of a hypercall. Returns how many came and the last one's ESR.
    serror_take = pvm_r_serror_take;
    /// Where CPU_ON starts a vCPU: keeps its x0 and what its registers are for `boot_state`, and becomes a monitor.
    secondary = pvm_r_secondary;
    /// What `secondary` kept of vCPU x0: x0, CurrentEL, DAIF, SCTLR_EL1.
    boot_state = pvm_r_boot_state;
    /// Drops to AArch32 EL0 with the address of a word in x0, which it counts up for ever. Does not return.
    enter_aarch32 = pvm_r_enter_aarch32;
    /// Turns the MMU on with TTBR0_EL1 in x0, and x1 times looks at the word at 0x8000_0000, which must be x2, leaving the
    /// guest in between. Returns how often it was something else, and the last such.
    watch_mapping = pvm_r_watch_mapping;
    /// Sets the pointer authentication key A from x0, and x1 times signs and leaves the guest. Returns how often the
    /// signature changed, and the first one.
    watch_key = pvm_r_watch_key;
    /// Reads CNTVCT_EL0 x0 times. Returns how often it went backwards, its first and its last value, and CNTFRQ_EL0.
    count_ticks = pvm_r_count_ticks;
    /// Stores x2 upwards into x1 words from x0 on, a page (x3 of the routine: 4 KiB) apart, for ever.
    touch_for_ever = pvm_r_touch_for_ever;
    /// Waits for an interrupt with WFI x0 times; the virtual timer wakes it. Returns how often it woke.
    wfi = pvm_r_wfi;
}
