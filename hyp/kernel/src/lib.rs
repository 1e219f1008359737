// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's structures as EL2 sees them: generated layouts, and typed accessors over raw memory.
//!
//! A view (such as [`Vcpu`]) is a pointer with a promise: whoever makes one proves that the memory stays mapped at EL2
//! for as long as the view is used. Every access is volatile and of one machine word, since most of this memory is
//! shared with the host, which may change it at any time; what is read is untrusted until checked.
#![cfg_attr(not(test), no_std)]
#![expect(
    unsafe_code,
    reason = "the views dereference raw memory; each block names the view's promise"
)]

pub mod layout;
mod symbols;
mod view;
mod views;

pub use symbols::*;
pub use view::Field;
pub use views::*;
