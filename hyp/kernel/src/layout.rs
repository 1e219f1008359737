// SPDX-License-Identifier: GPL-2.0-only
//! Offsets, sizes and numbers of the kernel that this build links into, as the probe in `kernel-glue/probe` measured
//! them. `FOO` is an offset in bytes and `FOO_SIZE` the size there; `SR_*` index a context's system registers, `CAP_*`
//! number CPU capabilities, `HCALL_*` number host hypercalls.
#![allow(
    missing_docs,
    non_upper_case_globals,
    clippy::cast_sign_loss,
    clippy::unnecessary_cast,
    reason = "generated names and values; the probe's source says what each is"
)]

include!(env!("PKVM_LAYOUT_FILE"));
