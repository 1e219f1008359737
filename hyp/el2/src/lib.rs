// SPDX-License-Identifier: GPL-2.0-only
//! See Cargo.toml.
#![no_std]
