// SPDX-License-Identifier: GPL-2.0-only
//! The ownership self-test.
