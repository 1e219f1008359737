// SPDX-License-Identifier: GPL-2.0-only
//! What the tests of both stages share.
