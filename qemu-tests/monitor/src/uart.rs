// SPDX-License-Identifier: GPL-2.0-only
//! The console, which is the kernel's: the monitor writes there only when it dies.

use crate::mem::{device_read, device_write};
use core::fmt;

const PL011: u64 = 0x0900_0000;

/// The console.
pub struct Uart;

impl fmt::Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // UARTFR.TXFF.
            while device_read(PL011 + 0x18) & 1 << 5 != 0 {}
            device_write(PL011, byte.into());
        }
        Ok(())
    }
}
