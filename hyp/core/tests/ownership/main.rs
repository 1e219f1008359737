// SPDX-License-Identifier: GPL-2.0-only
//! Memory ownership on a simulated machine, compared with the executable specification: step by step in random histories and in
//! every state of a small world, with TLBs that keep all they may keep, and with memory that runs out at every point.

mod abstraction;
mod reader;
mod rig;
mod sim;

mod allocation;
mod borders;
mod exhaustive;
mod maintenance;
mod museum;
mod random;
mod table;
