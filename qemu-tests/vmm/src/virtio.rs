// SPDX-License-Identifier: GPL-2.0-only
//! The virtio-mmio transport, version 2 (virtio 1.2, section 4.2), over rust-vmm's queues.
//!
//! It always offers VIRTIO_F_ACCESS_PLATFORM, so that Linux uses its DMA API and hence the pool that it shares with the
//! host. What the driver writes is the guest's word: registers are masked, and a queue is used only after virtio-queue
//! has checked that it lies in the memory that devices may see.

use crate::bus::{Access, Interrupt, MmioDevice, Outcome, put_value, value_of};
use std::sync::{Mutex, PoisonError};
use virtio_bindings::{virtio_config as cfg, virtio_mmio as reg};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
/// Version of the transport.
const VERSION: u32 = 2;
/// "pKVM".
const VENDOR: u32 = 0x4d56_4b70;
/// Interrupt status: a buffer was used.
const INT_VRING: u32 = reg::VIRTIO_MMIO_INT_VRING;
/// Interrupt status: the configuration or the status changed.
const INT_CONFIG: u32 = reg::VIRTIO_MMIO_INT_CONFIG;

/// What a kind of device adds to the transport.
pub trait VirtioDevice: Send {
    /// The device ID (virtio 1.2, section 5).
    fn id(&self) -> u32;
    /// Feature bits beside those of the transport.
    fn features(&self) -> u64;
    /// The device's configuration space.
    fn config(&self) -> Vec<u8>;
    /// Sizes of its queues.
    fn queue_sizes(&self) -> Vec<u16>;
    /// Serves what is in queue `index`. True: a buffer was used. An error text makes the device ask for a reset.
    fn process(&mut self, index: usize, queue: &mut Queue, memory: &GuestMemoryMmap) -> Result<bool, String>;
}

/// A virtio-mmio device.
pub struct VirtioMmio {
    state: Mutex<State>,
    memory: GuestMemoryMmap,
    irq: Box<dyn Interrupt>,
}

struct State {
    device: Box<dyn VirtioDevice>,
    queues: Vec<Queue>,
    features: u64,
    features_select: u32,
    accepted: u64,
    accepted_select: u32,
    queue_select: usize,
    status: u32,
    interrupt: u32,
}

impl VirtioMmio {
    /// A device whose queues and buffers are in `memory`. Errors: a queue size that virtio-queue refuses.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemoryMmap,
        irq: Box<dyn Interrupt>,
    ) -> crate::Result<Self> {
        let queues = device
            .queue_sizes()
            .into_iter()
            .map(|size| Queue::new(size).map_err(|e| crate::Error::setup("virtio queue", e)))
            .collect::<crate::Result<Vec<_>>>()?;
        let features = device.features() | 1 << cfg::VIRTIO_F_VERSION_1 | 1 << cfg::VIRTIO_F_ACCESS_PLATFORM;
        let state = State {
            device,
            queues,
            features,
            features_select: 0,
            accepted: 0,
            accepted_select: 0,
            queue_select: 0,
            status: 0,
            interrupt: 0,
        };
        Ok(Self {
            state: Mutex::new(state),
            memory,
            irq,
        })
    }
}

impl State {
    fn half(value: u64, select: u32) -> u32 {
        match select {
            0 => value as u32,
            1 => (value >> 32) as u32,
            _ => 0,
        }
    }

    fn reset(&mut self) {
        self.queues.iter_mut().for_each(Queue::reset);
        self.accepted = 0;
        self.interrupt = 0;
        self.status = 0;
    }

    fn read_register(&self, offset: u32) -> u32 {
        let queue = self.queues.get(self.queue_select);
        match offset {
            reg::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            reg::VIRTIO_MMIO_VERSION => VERSION,
            reg::VIRTIO_MMIO_DEVICE_ID => self.device.id(),
            reg::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            reg::VIRTIO_MMIO_DEVICE_FEATURES => Self::half(self.features, self.features_select),
            reg::VIRTIO_MMIO_QUEUE_NUM_MAX => queue.map_or(0, |q| q.max_size().into()),
            reg::VIRTIO_MMIO_QUEUE_READY => queue.map_or(0, |q| q.ready().into()),
            reg::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt,
            reg::VIRTIO_MMIO_STATUS => self.status,
            // No shared memory regions: a length of all ones says so.
            reg::VIRTIO_MMIO_SHM_LEN_LOW | reg::VIRTIO_MMIO_SHM_LEN_HIGH => u32::MAX,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u32, value: u32, memory: &GuestMemoryMmap) {
        let selected = self.queue_select;
        match offset {
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.features_select = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.accepted_select = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES => {
                let (shift, keep) = match self.accepted_select {
                    0 => (0, !0 << 32),
                    1 => (32, u64::from(u32::MAX)),
                    _ => return,
                };
                self.accepted = self.accepted & keep | u64::from(value) << shift;
            }
            reg::VIRTIO_MMIO_QUEUE_SEL => self.queue_select = value as usize,
            reg::VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt &= !value,
            reg::VIRTIO_MMIO_STATUS if value == 0 => self.reset(),
            reg::VIRTIO_MMIO_STATUS => {
                self.status = value;
                // A driver that takes a feature which was not offered does not get FEATURES_OK.
                if self.accepted & !self.features != 0 {
                    self.status &= !cfg::VIRTIO_CONFIG_S_FEATURES_OK;
                }
            }
            reg::VIRTIO_MMIO_QUEUE_NOTIFY => self.notify(value as usize, memory),
            _ => {
                if let Some(queue) = self.queues.get_mut(selected) {
                    write_queue_register(queue, offset, value);
                }
            }
        }
    }

    fn notify(&mut self, index: usize, memory: &GuestMemoryMmap) {
        let Some(queue) = self.queues.get_mut(index) else {
            return;
        };
        if self.status & cfg::VIRTIO_CONFIG_S_DRIVER_OK == 0 {
            return;
        }
        let served = if queue.is_valid(memory) {
            self.device.process(index, queue, memory)
        } else {
            Err("the queue is not in memory that the guest shares with its devices".into())
        };
        match served {
            Ok(false) => {}
            Ok(true) => self.interrupt |= INT_VRING,
            Err(why) => {
                eprintln!(
                    "pvm: virtio device {}: {why}; it waits for a reset",
                    self.device.id()
                );
                self.status |= cfg::VIRTIO_CONFIG_S_NEEDS_RESET;
                self.interrupt |= INT_CONFIG;
            }
        }
    }
}

fn write_queue_register(queue: &mut Queue, offset: u32, value: u32) {
    match offset {
        reg::VIRTIO_MMIO_QUEUE_NUM => queue.set_size(value as u16),
        reg::VIRTIO_MMIO_QUEUE_READY => queue.set_ready(value == 1),
        reg::VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
        reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
        reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
        reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
        reg::VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
        reg::VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
        _ => {}
    }
}

impl MmioDevice for VirtioMmio {
    fn read(&self, at: Access, data: &mut [u8]) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(offset) = u32::try_from(at.offset) else {
            return;
        };
        if let Some(from) = offset.checked_sub(reg::VIRTIO_MMIO_CONFIG) {
            let config = state.device.config();
            for (byte, at) in data.iter_mut().zip(from as usize..) {
                *byte = config.get(at).copied().unwrap_or(0);
            }
        } else {
            put_value(data, u64::from(state.read_register(offset)));
        }
    }

    fn write(&self, at: Access, data: &[u8]) -> Option<Outcome> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(offset) = u32::try_from(at.offset) {
            state.write_register(offset, value_of(data) as u32, &self.memory);
            self.irq.set(state.interrupt != 0);
        }
        None
    }
}
