// SPDX-License-Identifier: GPL-2.0-only
//! The guest's console: a 16550 UART (vm-superio's), and where its characters go.

use crate::bus::{Access, Interrupt, MmioDevice, Outcome};
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

/// The UART's interrupt: edge-triggered, so an event is one pulse.
struct Pulse(Box<dyn Interrupt>);

impl Trigger for Pulse {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.set(true);
        self.0.set(false);
        Ok(())
    }
}

/// Where console output goes.
pub type Sink = Box<dyn Write + Send>;

/// The UART device.
pub struct Uart(Mutex<Serial<Pulse, NoEvents, Sink>>);

impl Uart {
    /// A UART that writes to `sink` and interrupts by `irq`.
    pub fn new(irq: Box<dyn Interrupt>, sink: Sink) -> Self {
        Self(Mutex::new(Serial::new(Pulse(irq), sink)))
    }

    /// Gives the guest as much of `input` as the receive buffer holds and says how much that was.
    pub fn receive(&self, input: &[u8]) -> usize {
        let mut serial = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = serial.fifo_capacity().min(input.len());
        if room == 0 {
            return 0;
        }
        serial.enqueue_raw_bytes(&input[..room]).unwrap_or(0)
    }
}

impl MmioDevice for Uart {
    fn read(&self, at: Access, data: &mut [u8]) {
        data.fill(0);
        if let (Some(byte), Ok(offset)) = (data.first_mut(), u8::try_from(at.offset)) {
            *byte = self.0.lock().unwrap_or_else(PoisonError::into_inner).read(offset);
        }
    }

    fn write(&self, at: Access, data: &[u8]) -> Option<Outcome> {
        if let (Some(byte), Ok(offset)) = (data.first(), u8::try_from(at.offset)) {
            // A sink that fails (a closed pipe) must not end the guest.
            let _ = self
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write(offset, *byte);
        }
        None
    }
}

/// A sink that hands each finished line, without its end, to a function; for tests that watch a console.
pub struct LineSink<F> {
    line: Vec<u8>,
    deliver: F,
}

impl<F: FnMut(String) + Send> LineSink<F> {
    /// A sink that calls `deliver` once for each line.
    pub fn new(deliver: F) -> Self {
        Self {
            line: Vec::new(),
            deliver,
        }
    }
}

impl<F: FnMut(String) + Send> Write for LineSink<F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for byte in bytes {
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    (self.deliver)(String::from_utf8_lossy(&line).into_owned());
                }
                b'\r' => {}
                other => self.line.push(*other),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
