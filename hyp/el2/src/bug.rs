// SPDX-License-Identifier: GPL-2.0-only
//! How EL2 says that an invariant of its own is broken, and where: a breakpoint with a record in the kernel's table of
//! bugs, from which EL1 prints file and line.

#![expect(unsafe_code, reason = "a breakpoint instruction")]

use core::panic::Location;
use core::sync::atomic::{AtomicU8, Ordering};

use pkvm_kernel::layout::*;

/// Whether records name file and line, as an operand of the assembler.
pub const IS_VERBOSE: u64 = (CONFIG_DEBUG_BUGVERBOSE != 0) as u64;
/// Whether the kernel has a table of bugs, as an operand of the assembler.
pub const HAS_TABLE: u64 = (CONFIG_GENERIC_BUG != 0) as u64;

// A record is the distance to the breakpoint, that to the name of the file, the line, and flags.
const _: () = assert!(
    HAS_TABLE == 0
        || (IS_VERBOSE == 1 && BUG_ENTRY_SIZE == 12 && BUG_ENTRY_FLAGS == 10)
        || (IS_VERBOSE == 0 && BUG_ENTRY_SIZE == 8 && BUG_ENTRY_FLAGS == 4),
    "the kernel's bug table has records of another form"
);

/// Reports a broken invariant of EL2 and never returns: EL1 prints "BUG", and the place of this macro where it may read
/// EL2's data. The instruction raises an exception at EL2, whose vector calls `hyp_panic`. 0x800 is the kernel's
/// `BUG_BRK_IMM`.
macro_rules! bug {
    () => {{
        #[expect(unsafe_code, reason = "a breakpoint instruction")]
        // SAFETY: the exception is taken to `hyp_panic`, which does not return. The record is data in a section of its
        // own.
        unsafe {
            core::arch::asm!(
                ".if {table}",
                ".pushsection .rodata.str, \"aMS\", %progbits, 1",
                concat!("14472: .asciz \"", file!(), "\""),
                ".popsection",
                ".pushsection __bug_table, \"aw\"",
                ".balign 4",
                "14470: .long 14471f - 14470b",
                ".if {verbose}",
                "14473: .long 14472b - 14473b",
                ".short {line}",
                ".endif",
                ".short 0",
                ".balign 4",
                ".popsection",
                ".endif",
                "14471: brk #0x800",
                table = const $crate::bug::HAS_TABLE,
                verbose = const $crate::bug::IS_VERBOSE,
                line = const line!(),
                options(noreturn, nostack)
            )
        };
    }};
}

/// Room for the place of a panic, as text.
const PLACE_BYTES: usize = 120;

/// Where the compiler's own panic was, as a string for EL1: file and line. The last byte is never written, so that
/// the string ends.
static PLACE: [AtomicU8; PLACE_BYTES + 1] = [const { AtomicU8::new(0) }; PLACE_BYTES + 1];

/// Writes the place down.
fn note(place: &Location<'_>) {
    let mut digits = [0_u8; 10];
    let mut first = digits.len();
    let mut line = place.line();
    while let Some(digit) = first.checked_sub(1).and_then(|at| digits.get_mut(at)) {
        *digit = b'0' + (line % 10) as u8;
        first -= 1;
        line /= 10;
        if line == 0 {
            break;
        }
    }
    let text = place
        .file()
        .bytes()
        .chain([b':'])
        .chain(digits.iter().copied().skip(first));
    for (byte, to) in text.zip(PLACE.iter().take(PLACE_BYTES)) {
        to.store(byte, Ordering::Relaxed);
    }
}

/// A bug at a place that the compiler found: an index out of bounds, or an overflow. The record of this breakpoint names
/// the text that [`note`] leaves, line and all, so the line that EL1 adds to it is 0.
pub fn bug_at(place: &Location<'_>) -> ! {
    note(place);
    // SAFETY: as in `bug!`.
    unsafe {
        core::arch::asm!(
            ".if {table}",
            ".pushsection __bug_table, \"aw\"",
            ".balign 4",
            "14470: .long 14471f - 14470b",
            ".if {verbose}",
            "14473: .long {place} - 14473b",
            ".short 0",
            ".endif",
            ".short 0",
            ".balign 4",
            ".popsection",
            ".endif",
            "14471: brk #0x800",
            table = const HAS_TABLE,
            verbose = const IS_VERBOSE,
            place = sym PLACE,
            options(noreturn, nostack)
        )
    }
}
