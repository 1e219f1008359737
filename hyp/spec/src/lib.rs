// SPDX-License-Identifier: GPL-2.0-only
//! The executable specification of memory ownership: who owns each page, to whom it is lent, and what each call does to
//! that, with the errno of each refusal. It is written against the words of the specification, not against the code or its
//! table, and knows nothing of page tables: an implementation is compared with it by abstraction.
//!
//! A [`World`] is a value of fixed size without pointers, so that a test can keep millions of them in a set and an EL2 build
//! can keep one.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod call;
mod state;
mod step;

pub use call::{Call, Outcome};
pub use state::{Frame, Holder, Kind, Layout, Leaf, Loan, Page, Phase, Region, Vm, World};
