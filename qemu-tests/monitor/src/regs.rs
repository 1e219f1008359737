// SPDX-License-Identifier: GPL-2.0-only
//! System registers: what a CPU is told at EL3 before it enters a lower level, and what it forgets when its power goes.
//! Registers younger than Armv8.0 are named by number, and written only on a CPU that has them.
#![expect(unsafe_code, reason = "system registers are read and written by instructions")]

use core::arch::asm;
use core::fmt;

/// Reads a register by name or by number.
macro_rules! read {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: reads a register that this CPU has; at most it acknowledges an interrupt.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

/// Writes a register. Its value has no meaning at EL3 itself, or is one that keeps the monitor's own state as it is.
macro_rules! write {
    ($name:expr, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: writes a register that this CPU has; see the macro.
        unsafe { core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack)) };
    }};
}
pub(crate) use {read, write};

/// A field of four bits of an ID register.
fn field(register: u64, shift: u32) -> u64 {
    register >> shift & 15
}

/// What this CPU has beyond Armv8.0, from its ID registers.
struct Features {
    pfr0: u64,
    pfr1: u64,
    pfr2: u64,
    isar1: u64,
    isar2: u64,
    mmfr0: u64,
    mmfr1: u64,
    mmfr3: u64,
    dfr0: u64,
}

impl Features {
    fn read() -> Self {
        Self {
            pfr0: read!("S3_0_C0_C4_0"),
            pfr1: read!("S3_0_C0_C4_1"),
            pfr2: read!("S3_0_C0_C4_2"),
            dfr0: read!("S3_0_C0_C5_0"),
            isar1: read!("S3_0_C0_C6_1"),
            isar2: read!("S3_0_C0_C6_2"),
            mmfr0: read!("S3_0_C0_C7_0"),
            mmfr1: read!("S3_0_C0_C7_1"),
            mmfr3: read!("S3_0_C0_C7_3"),
        }
    }

    fn sve(&self) -> bool {
        field(self.pfr0, 32) != 0
    }

    fn sme(&self) -> bool {
        field(self.pfr1, 24) != 0
    }

    fn fgt(&self) -> u64 {
        field(self.mmfr0, 56)
    }

    fn hcx(&self) -> bool {
        field(self.mmfr1, 40) != 0
    }

    fn vhe(&self) -> bool {
        field(self.mmfr1, 8) != 0
    }

    fn pauth(&self) -> bool {
        self.isar1 & 0xff00_0ff0 != 0 || field(self.isar2, 8) != 0 || field(self.isar2, 12) != 0
    }
}

/// Leaves everything that the CPU has to the lower levels, untrapped, in the Non-secure state, EL2 and EL1 in AArch64.
pub fn open_up() {
    let f = Features::read();
    // NS, RES1 at 5:4, HCE, RW.
    let mut scr: u64 = 1 | 3 << 4 | 1 << 8 | 1 << 10;
    let mut bit = |has: bool, n: u32| scr |= u64::from(has) << n;
    bit(f.pauth(), 16);
    bit(f.pauth(), 17);
    // SCXTNUM_ELx.
    bit(field(f.pfr0, 56) >= 2 || field(f.pfr1, 32) >= 1, 25);
    // Allocation tags.
    bit(field(f.pfr1, 8) >= 2, 26);
    bit(f.fgt() >= 1, 27);
    bit(field(f.mmfr0, 60) >= 2, 28);
    bit(f.hcx(), 38);
    // Guarded control stacks.
    bit(field(f.pfr1, 44) != 0, 39);
    // TPIDR2_EL0.
    bit(f.sme(), 41);
    // TCR2, SCTLR2, permission indirection and overlay, attribute indirection.
    bit(field(f.mmfr3, 0) != 0, 43);
    bit(field(f.mmfr3, 4) != 0, 44);
    bit([8, 12, 16, 20].iter().any(|n| field(f.mmfr3, *n) != 0), 45);
    bit(field(f.mmfr3, 24) != 0 || field(f.mmfr3, 28) != 0, 46);
    // FPMR.
    bit(field(f.pfr2, 32) != 0, 50);
    bit(f.fgt() >= 2, 59);
    write!("scr_el3", scr);

    // SVE and SME with all vector lengths; no other trap of this register is on.
    let cptr = u64::from(f.sve()) << 8 | u64::from(f.sme()) << 12;
    write!("cptr_el3", cptr);
    isb();
    if f.sve() {
        write!("S3_6_C1_C2_0", 15);
    }
    if f.sme() {
        // LEN, and FA64 and EZT0 where they exist.
        write!("S3_6_C1_C2_6", 15 | 3 << 30);
    }
    // Buffers of profiling and trace, and branch records, belong to the Non-secure state; no debug register traps.
    let mut mdcr = 0;
    for (field_at, value) in [(32, 3 << 12), (44, 3 << 24), (52, 3 << 32)] {
        mdcr |= if field(f.dfr0, field_at) != 0 { value } else { 0 };
    }
    write!("mdcr_el3", mdcr);
    if field(f.pfr0, 40) != 0 {
        // MPAM3_EL3: on, and no trap of lower levels.
        write!("S3_6_C10_C5_0", 1 << 63);
    }
    write!("cntfrq_el0", read!("cntfrq_el0"));
    isb();
}

fn isb() {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack)) };
}

/// What a CPU without power forgets: all of EL2, EL1 and EL0 that a reset does not define holds rubbish afterwards, and
/// what it defines has its value at reset. The generic timers go on counting, as the device tree promises.
pub fn forget() {
    const RUBBISH: u64 = 0xdead_beef_dead_b000;
    let f = Features::read();
    // The MMUs and caches of both levels are off; everything below counts on that.
    write!("hcr_el2", 0);
    write!("sctlr_el1", 0x30d0_0800);
    write!("sctlr_el2", 0x30c5_0830);
    isb();
    macro_rules! rubbish {
        ($($name:literal),* $(,)?) => { $(write!($name, RUBBISH);)* };
    }
    macro_rules! zero {
        ($($name:literal),* $(,)?) => { $(write!($name, 0);)* };
    }
    rubbish!(
        "ttbr0_el1",
        "ttbr1_el1",
        "mair_el1",
        "amair_el1",
        "vbar_el1",
        "tpidr_el0",
        "tpidr_el1",
        "tpidrro_el0",
        "contextidr_el1",
        "esr_el1",
        "far_el1",
        "elr_el1",
        "sp_el0",
        "sp_el1",
        "ttbr0_el2",
        "mair_el2",
        "amair_el2",
        "vbar_el2",
        "tpidr_el2",
        "esr_el2",
        "far_el2",
        "hpfar_el2",
        "elr_el2",
        "sp_el2",
        "vttbr_el2",
        "cntvoff_el2",
        "vpidr_el2",
        "vmpidr_el2",
    );
    zero!(
        "cpacr_el1",
        "tcr_el1",
        "spsr_el1",
        "cntkctl_el1",
        "mdscr_el1",
        "par_el1",
        "tcr_el2",
        "vtcr_el2",
        "spsr_el2",
        "hstr_el2",
        "mdcr_el2",
        "cnthctl_el2",
        "hacr_el2",
    );
    write!("cptr_el2", 0x33ff);
    if f.vhe() {
        write!("S3_4_C2_C0_1", RUBBISH);
        write!("S3_4_C13_C0_1", RUBBISH);
    }
    if f.pauth() {
        // The ten halves of the five keys.
        rubbish!(
            "S3_0_C2_C1_0",
            "S3_0_C2_C1_1",
            "S3_0_C2_C1_2",
            "S3_0_C2_C1_3",
            "S3_0_C2_C2_0",
            "S3_0_C2_C2_1",
            "S3_0_C2_C2_2",
            "S3_0_C2_C2_3",
            "S3_0_C2_C3_0",
            "S3_0_C2_C3_1",
        );
    }
    if f.fgt() >= 1 {
        // HFGRTR, HFGWTR, HFGITR, HDFGRTR, HDFGWTR.
        rubbish!(
            "S3_4_C1_C1_4",
            "S3_4_C1_C1_5",
            "S3_4_C1_C1_6",
            "S3_4_C3_C1_4",
            "S3_4_C3_C1_5"
        );
    }
    if f.hcx() {
        write!("S3_4_C1_C2_2", RUBBISH);
    }
    if f.sve() {
        zero!("S3_0_C1_C2_0", "S3_4_C1_C2_0");
    }
    if f.sme() {
        zero!("S3_0_C1_C2_6", "S3_4_C1_C2_6");
    }
    if field(f.mmfr3, 0) != 0 {
        zero!("S3_0_C2_C0_3", "S3_4_C2_C0_3");
    }
    // The GIC's CPU interface: priority mask, binary point, group enable; list registers and their control.
    zero!(
        "S3_0_C4_C6_0",
        "S3_0_C12_C12_3",
        "S3_0_C12_C12_7",
        "S3_4_C12_C11_0",
        "S3_4_C12_C11_7"
    );
    for n in 0..=15u32 {
        forget_list_register(n);
    }
    forget_fp();
    // SAFETY: invalidates the TLBs of EL2 and EL1, which no translation of the monitor's uses.
    unsafe {
        asm!(
            "dsb ish",
            "tlbi alle2",
            "tlbi alle1",
            "dsb ish",
            "isb",
            options(nostack)
        );
    }
}

fn forget_list_register(n: u32) {
    // ICH_VTR_EL2.ListRegs: one less than their number.
    if u64::from(n) > read!("S3_4_C12_C11_1") & 31 {
        return;
    }
    macro_rules! clear {
        ($($n:literal $name:literal),*) => { match n { $($n => write!($name, 0),)* _ => {} } };
    }
    clear!(
        0 "S3_4_C12_C12_0", 1 "S3_4_C12_C12_1", 2 "S3_4_C12_C12_2", 3 "S3_4_C12_C12_3", 4 "S3_4_C12_C12_4",
        5 "S3_4_C12_C12_5", 6 "S3_4_C12_C12_6", 7 "S3_4_C12_C12_7", 8 "S3_4_C12_C13_0", 9 "S3_4_C12_C13_1",
        10 "S3_4_C12_C13_2", 11 "S3_4_C12_C13_3", 12 "S3_4_C12_C13_4", 13 "S3_4_C12_C13_5", 14 "S3_4_C12_C13_6",
        15 "S3_4_C12_C13_7"
    );
}

fn forget_fp() {
    // SAFETY: this program is built without FP, so that these registers are a lower level's only; CPTR_EL3 lets them be.
    unsafe {
        asm!(
            ".arch_extension fp",
            ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "fmov d\\n, {0}",
            ".endr",
            "msr fpcr, xzr",
            "msr fpsr, xzr",
            in(reg) RUBBISH_FP,
            options(nomem, nostack)
        );
    }
}

const RUBBISH_FP: u64 = 0x7ff8_dead_dead_dead;

/// ESR_EL3.
pub fn esr_el3() -> u64 {
    read!("esr_el3") & 0xffff_ffff
}

/// Why an exception came to EL3.
pub fn syndrome() -> impl fmt::Display {
    struct Syndrome(u64, u64);
    impl fmt::Display for Syndrome {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            core::write!(f, "ESR {:#x}, FAR {:#x}", self.0, self.1)
        }
    }
    Syndrome(esr_el3(), read!("far_el3"))
}

/// The index of this CPU.
pub fn cpu() -> usize {
    usize::try_from(read!("tpidr_el3")).unwrap_or(0)
}

/// Waits for an interrupt, masked or not.
pub fn wait() {
    // SAFETY: an instruction that waits; the barrier orders what came before.
    unsafe { asm!("dsb sy", "wfi", "isb", options(nostack)) };
}

/// A register of EL2 as the caller has left it, by its place in a list that the tests know.
pub fn el2(n: u64) -> Option<u64> {
    let f = Features::read();
    Some(match n {
        0 => read!("hcr_el2"),
        1 => read!("sctlr_el2"),
        2 => read!("vttbr_el2"),
        3 => read!("vtcr_el2"),
        4 => read!("ttbr0_el2"),
        5 => read!("tcr_el2"),
        6 => read!("mair_el2"),
        7 => read!("vbar_el2"),
        8 => read!("tpidr_el2"),
        9 => read!("cptr_el2"),
        10 => read!("mdcr_el2"),
        11 => read!("cnthctl_el2"),
        12 => read!("cntvoff_el2"),
        13 => read!("hstr_el2"),
        14 => read!("vpidr_el2"),
        15 => read!("vmpidr_el2"),
        // ICC_SRE_EL2.
        16 => read!("S3_4_C12_C9_5"),
        17 if f.hcx() => read!("S3_4_C1_C2_2"),
        18 if f.fgt() >= 1 => read!("S3_4_C1_C1_4"),
        19 if f.fgt() >= 1 => read!("S3_4_C1_C1_5"),
        20 if f.fgt() >= 1 => read!("S3_4_C1_C1_6"),
        21 if f.fgt() >= 1 => read!("S3_4_C3_C1_4"),
        22 if f.fgt() >= 1 => read!("S3_4_C3_C1_5"),
        23 if f.sve() => read!("S3_4_C1_C2_0"),
        17..=23 => 0,
        _ => return None,
    })
}
