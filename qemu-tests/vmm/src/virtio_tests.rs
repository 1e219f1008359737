// SPDX-License-Identifier: GPL-2.0-only
//! The transport and the disk, driven as a guest's driver would, well and badly.

use crate::block::Block;
use crate::bus::{Access, Interrupt, MmioDevice, put_value, value_of};
use crate::virtio::VirtioMmio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use virtio_bindings::{virtio_config as cfg, virtio_mmio as reg};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Where the pool of the test lies: rings in its first page, buffers after it.
const POOL: u64 = 0x10_0000;
const POOL_SIZE: usize = 0x1_0000;
const DESC: u64 = POOL;
const AVAIL: u64 = POOL + 0x400;
const USED: u64 = POOL + 0x800;
const HEADER: u64 = POOL + 0x1000;
const DATA: u64 = POOL + 0x2000;
const STATUS: u64 = POOL + 0x3000;

const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;

#[derive(Clone, Default)]
struct Line(Arc<AtomicBool>);

impl Interrupt for Line {
    fn set(&self, active: bool) {
        self.0.store(active, Ordering::Relaxed);
    }
}

struct Driver {
    device: VirtioMmio,
    memory: GuestMemoryMmap,
    line: Line,
    requests: u16,
}

impl Driver {
    fn new(name: &str, content: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("pvm-test-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        let disk = Block::open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(POOL), POOL_SIZE)]).unwrap();
        let line = Line::default();
        let device = VirtioMmio::new(Box::new(disk), memory.clone(), Box::new(line.clone())).unwrap();
        Self {
            device,
            memory,
            line,
            requests: 0,
        }
    }

    fn get(&self, offset: u32) -> u32 {
        let mut data = [0; 4];
        self.device.read(
            Access {
                cpu: 0,
                offset: offset.into(),
            },
            &mut data,
        );
        value_of(&data) as u32
    }

    fn set(&self, offset: u32, value: u32) {
        let mut data = [0; 4];
        put_value(&mut data, value.into());
        self.device.write(
            Access {
                cpu: 0,
                offset: offset.into(),
            },
            &data,
        );
    }

    fn set_up(&self, desc: u64) {
        self.set(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
        self.set(reg::VIRTIO_MMIO_DRIVER_FEATURES, 3);
        self.set(reg::VIRTIO_MMIO_STATUS, 11);
        for (low, high, at) in [
            (
                reg::VIRTIO_MMIO_QUEUE_DESC_LOW,
                reg::VIRTIO_MMIO_QUEUE_DESC_HIGH,
                desc,
            ),
            (
                reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW,
                reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH,
                AVAIL,
            ),
            (
                reg::VIRTIO_MMIO_QUEUE_USED_LOW,
                reg::VIRTIO_MMIO_QUEUE_USED_HIGH,
                USED,
            ),
        ] {
            self.set(low, at as u32);
            self.set(high, (at >> 32) as u32);
        }
        self.set(reg::VIRTIO_MMIO_QUEUE_NUM, 8);
        self.set(reg::VIRTIO_MMIO_QUEUE_READY, 1);
        self.set(reg::VIRTIO_MMIO_STATUS, 15);
    }

    /// Puts a request of three descriptors in the ring, notifies, and returns the status byte.
    fn request(&mut self, kind: u32, sector: u64, data: (u64, u32), flags: u16) -> u8 {
        self.memory.write_obj(kind, GuestAddress(HEADER)).unwrap();
        self.memory.write_obj(sector, GuestAddress(HEADER + 8)).unwrap();
        self.memory.write_obj(0xff_u8, GuestAddress(STATUS)).unwrap();
        let chain = [
            (HEADER, 16, F_NEXT, 1),
            (data.0, data.1, F_NEXT | flags, 2),
            (STATUS, 1, F_WRITE, 0_u16),
        ];
        for (index, (at, len, flags, next)) in (0_u64..).zip(chain) {
            let entry = GuestAddress(DESC + index * 16);
            self.memory.write_obj(at, entry).unwrap();
            self.memory.write_obj(len, GuestAddress(entry.0 + 8)).unwrap();
            self.memory.write_obj(flags, GuestAddress(entry.0 + 12)).unwrap();
            self.memory.write_obj(next, GuestAddress(entry.0 + 14)).unwrap();
        }
        let slot = u64::from(self.requests % 8);
        self.memory
            .write_obj(0_u16, GuestAddress(AVAIL + 4 + slot * 2))
            .unwrap();
        self.requests += 1;
        self.memory
            .write_obj(self.requests, GuestAddress(AVAIL + 2))
            .unwrap();
        self.set(reg::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        self.memory.read_obj(GuestAddress(STATUS)).unwrap()
    }

    fn needs_reset(&self) -> bool {
        self.get(reg::VIRTIO_MMIO_STATUS) & cfg::VIRTIO_CONFIG_S_NEEDS_RESET != 0
    }
}

#[test]
fn the_device_offers_what_a_protected_guest_needs() {
    let driver = Driver::new("offer", &[0; 1024]);
    assert_eq!(
        driver.get(reg::VIRTIO_MMIO_MAGIC_VALUE),
        u32::from_le_bytes(*b"virt")
    );
    assert_eq!(
        (
            driver.get(reg::VIRTIO_MMIO_VERSION),
            driver.get(reg::VIRTIO_MMIO_DEVICE_ID)
        ),
        (2, 2)
    );
    driver.set(reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    assert_eq!(
        driver.get(reg::VIRTIO_MMIO_DEVICE_FEATURES),
        3,
        "VERSION_1 and ACCESS_PLATFORM"
    );
    assert_eq!(driver.get(reg::VIRTIO_MMIO_CONFIG), 2, "two sectors");
}

#[test]
fn a_feature_that_was_not_offered_is_refused() {
    let driver = Driver::new("refuse", &[0; 512]);
    driver.set(reg::VIRTIO_MMIO_DRIVER_FEATURES, 1);
    driver.set(reg::VIRTIO_MMIO_STATUS, 11);
    assert_eq!(driver.get(reg::VIRTIO_MMIO_STATUS), 3);
}

#[test]
fn the_disk_reads_and_writes_whole_sectors_within_its_end() {
    let mut content = vec![0xaa; 512];
    content.extend([0xbb; 512]);
    let mut driver = Driver::new("disk", &content);
    driver.set_up(DESC);
    assert_eq!(driver.request(0, 1, (DATA, 512), F_WRITE), 0);
    assert_eq!(
        driver.memory.read_obj::<u8>(GuestAddress(DATA + 511)).unwrap(),
        0xbb
    );
    assert!(driver.line.0.load(Ordering::Relaxed));
    assert_eq!(driver.get(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    driver.set(reg::VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert!(!driver.line.0.load(Ordering::Relaxed));

    driver.memory.write_obj(0xcc_u8, GuestAddress(DATA)).unwrap();
    assert_eq!(driver.request(1, 0, (DATA, 512), 0), 0);
    assert_eq!(driver.request(0, 0, (DATA + 0x800, 1024), F_WRITE), 0);
    assert_eq!(
        driver.memory.read_obj::<u8>(GuestAddress(DATA + 0x800)).unwrap(),
        0xcc
    );

    assert_eq!(driver.request(0, 1, (DATA, 1024), F_WRITE), 1, "past the end");
    assert_eq!(
        driver.request(0, u64::MAX, (DATA, 512), F_WRITE),
        1,
        "a sector that wraps"
    );
    assert_eq!(driver.request(0, 0, (DATA, 511), F_WRITE), 1, "part of a sector");
    assert_eq!(driver.request(99, 0, (DATA, 512), F_WRITE), 2, "no such request");
    assert!(!driver.needs_reset());
}

#[test]
fn an_address_outside_the_pool_asks_for_a_reset() {
    let mut driver = Driver::new("outside", &[0; 1024]);
    driver.set_up(DESC);
    assert_eq!(
        driver.request(0, 0, (POOL + POOL_SIZE as u64, 512), F_WRITE),
        0xff
    );
    assert!(driver.needs_reset());
    driver.set(reg::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(driver.get(reg::VIRTIO_MMIO_STATUS), 0);

    let mut driver = Driver::new("ring", &[0; 1024]);
    driver.set_up(0x5000);
    assert_eq!(driver.request(0, 0, (DATA, 512), F_WRITE), 0xff);
    assert!(driver.needs_reset());
}
