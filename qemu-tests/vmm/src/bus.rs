// SPDX-License-Identifier: GPL-2.0-only
//! Routes the guest's MMIO accesses to the devices.

use std::sync::Arc;

/// How a VM ended, errors apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// A bare-metal guest ended with this status.
    Exit(u64),
    /// The VM was stopped from outside.
    Stopped,
}

/// An interrupt line of a device.
pub trait Interrupt: Send + Sync {
    /// Sets the line's level.
    fn set(&self, active: bool);
}

/// One access: which vCPU made it and where in the device's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Index of the vCPU.
    pub cpu: u32,
    /// Offset in the device's window.
    pub offset: u64,
}

/// A device with an MMIO window. vCPU threads call it at the same time; it locks what it must.
pub trait MmioDevice: Send + Sync {
    /// A load of `data.len()` (1, 2, 4 or 8) bytes.
    fn read(&self, at: Access, data: &mut [u8]);
    /// A store; a returned outcome ends the VM.
    fn write(&self, at: Access, data: &[u8]) -> Option<Outcome>;
}

/// The devices by address. Built before the VM runs and then only read.
#[derive(Default, Clone)]
pub struct Bus {
    windows: Vec<(u64, u64, Arc<dyn MmioDevice>)>,
}

impl Bus {
    /// Adds a device at `base` with a window of `size` bytes. Windows do not overlap: `layout` sees to it.
    pub fn add(&mut self, base: u64, size: u64, device: Arc<dyn MmioDevice>) {
        self.windows.push((base, size, device));
    }

    fn find(&self, addr: u64, len: usize) -> Option<(u64, &dyn MmioDevice)> {
        let end = addr.checked_add(len as u64)?;
        self.windows
            .iter()
            .find(|(base, size, _)| addr >= *base && end <= base + size)
            .map(|(base, _, d)| (addr - base, &**d))
    }

    /// Serves a load; an address without a device reads as all ones, as on a bus that nobody drives.
    pub fn read(&self, cpu: u32, addr: u64, data: &mut [u8]) {
        match self.find(addr, data.len()) {
            Some((offset, device)) => device.read(Access { cpu, offset }, data),
            None => data.fill(0xff),
        }
    }

    /// Serves a store; one to an address without a device is ignored.
    pub fn write(&self, cpu: u32, addr: u64, data: &[u8]) -> Option<Outcome> {
        let (offset, device) = self.find(addr, data.len())?;
        device.write(Access { cpu, offset }, data)
    }
}

/// The little-endian value of up to 8 bytes.
pub fn value_of(data: &[u8]) -> u64 {
    data.iter().rev().fold(0, |acc, byte| acc << 8 | u64::from(*byte))
}

/// Stores the low bytes of `value` in `data`, little-endian.
pub fn put_value(data: &mut [u8], value: u64) {
    let bytes = value.to_le_bytes();
    for (to, from) in data.iter_mut().zip(bytes) {
        *to = from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Word(AtomicU64);

    impl MmioDevice for Word {
        fn read(&self, at: Access, data: &mut [u8]) {
            put_value(data, self.0.load(Ordering::Relaxed) + at.offset);
        }

        fn write(&self, _: Access, data: &[u8]) -> Option<Outcome> {
            self.0.store(value_of(data), Ordering::Relaxed);
            None
        }
    }

    #[test]
    fn accesses_find_their_window_or_nothing() {
        let mut bus = Bus::default();
        bus.add(0x1000, 0x100, Arc::new(Word(AtomicU64::new(0))));
        assert_eq!(bus.write(0, 0x1000, &[0x34, 0x12]), None);
        let mut data = [0; 4];
        bus.read(0, 0x10fc, &mut data);
        assert_eq!(value_of(&data), 0x1234 + 0xfc);
        // Across its end, beside it, and around the end of the address space: nobody answers.
        for addr in [0x10fd, 0xfff, 0x1100, u64::MAX - 1] {
            bus.read(0, addr, &mut data);
            assert_eq!(value_of(&data), 0xffff_ffff);
        }
    }
}
