// SPDX-License-Identifier: GPL-2.0-only
//! The guest's physical address map. Device windows lie below the RAM, one after another; all addresses are IPAs.

/// GICv3 distributor: base.
pub const GICD_BASE: u64 = 0x0800_0000;
/// GICv3 distributor: bytes.
pub const GICD_SIZE: u64 = 0x1_0000;
/// GICv3 redistributors: base of the first; one of [`GICR_STRIDE`] for each vCPU.
pub const GICR_BASE: u64 = 0x080a_0000;
/// GICv3 redistributor: bytes for each vCPU (RD_base and SGI_base frames).
pub const GICR_STRIDE: u64 = 0x2_0000;
/// The 16550 UART: base.
pub const UART_BASE: u64 = 0x0900_0000;
/// The 16550 UART: bytes of its window.
pub const UART_SIZE: u64 = 0x1000;
/// The UART's shared peripheral interrupt.
pub const UART_SPI: u32 = 1;
/// The test device (see [`crate::testdev`]): base. Bare-metal guests only.
pub const TESTDEV_BASE: u64 = 0x0903_0000;
/// The test device: bytes of its window.
pub const TESTDEV_SIZE: u64 = 0x1000;
/// virtio-mmio windows: base of the first.
pub const VIRTIO_BASE: u64 = 0x0a00_0000;
/// virtio-mmio windows: bytes of each.
pub const VIRTIO_SIZE: u64 = 0x200;
/// The shared peripheral interrupt of the first virtio-mmio device; the others follow.
pub const VIRTIO_SPI: u32 = 16;
/// Where RAM starts.
pub const RAM_BASE: u64 = 0x4000_0000;
/// RAM sizes, and hence all that is placed at the end of RAM, are multiples of this.
pub const RAM_ALIGN: u64 = 0x20_0000;
/// The FDT may take this much, at the start of the last [`RAM_ALIGN`] before the pool.
pub const FDT_MAX: u64 = 0x1_0000;
/// How many interrupts the GIC offers.
pub const NR_IRQS: u32 = 96;
/// The most vCPUs that the redistributor window and a single affinity level hold.
pub const MAX_CPUS: u32 = 8;
