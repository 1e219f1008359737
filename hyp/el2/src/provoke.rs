// SPDX-License-Identifier: GPL-2.0-only
//! Panics on demand, to test what the host shows of them. Only with the cargo feature `provoke`, which no build of a
//! kernel has by itself: the host could end EL2 with it.
#![expect(unsafe_code, reason = "an access that faults")]

use core::hint::black_box;

/// What `__tracing_write_event` must be given, but for the low bits, which say what to do.
const MAGIC: u64 = 0x0070_616e_6963_0000;

/// Panics in the way that `id` says, if it is one of the ways.
#[inline(never)]
pub fn panic_for(id: u64) {
    match id.wrapping_sub(MAGIC) {
        1 => broken_invariant(),
        2 => out_of_bounds(black_box(7)),
        3 => bad_access(),
        4 => _ = deep_recursion(black_box(u64::MAX)),
        5 => overflow(black_box(u64::MAX)),
        _ => {}
    }
}

#[inline(never)]
fn broken_invariant() {
    bug!();
}

#[inline(never)]
fn out_of_bounds(index: usize) {
    let table = black_box([1_u8; 4]);
    black_box(table[index]);
}

#[inline(never)]
fn bad_access() {
    // SAFETY: nothing is there, so that the access is an exception, which ends in a panic.
    black_box(unsafe { black_box(0x1000 as *const u64).read_volatile() });
}

#[inline(never)]
fn deep_recursion(depth: u64) -> u64 {
    let frame = black_box([depth; 8]);
    if depth == 0 {
        frame[0]
    } else {
        deep_recursion(depth - 1) + frame[1]
    }
}

#[inline(never)]
fn overflow(value: u64) {
    black_box(value + 1);
}
