// SPDX-License-Identifier: GPL-2.0-only
//! Words that every other crate of the hypervisor shares: addresses and ranges that cannot wrap, permissions, page
//! states, errors with their kernel errno, and handles.
//!
//! Nothing here trusts its input. A number that came from the host enters through a `checked` or `try_` constructor;
//! there is no `From<u64>`.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod addr;
mod error;
mod page;
mod vm;

pub use addr::{
    Gfn, HypVa, Ipa, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, PTES_PER_TABLE, Pfn, PfnRange, Phys, block_pages,
    page_align,
};
pub use error::{Error, Result};
pub use page::{Owner, PageState, Perms, ShareReason};
pub use vm::{Handle, MAX_VMS, Untrusted, Vmid};
