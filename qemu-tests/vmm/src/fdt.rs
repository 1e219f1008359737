// SPDX-License-Identifier: GPL-2.0-only
//! The device tree of a Linux guest.

use crate::layout as map;
use crate::{Error, Result};
use vm_fdt::FdtWriter;

/// What varies from guest to guest.
#[derive(Debug, Clone)]
pub struct Machine<'a> {
    /// The affinity fields of each vCPU's MPIDR_EL1.
    pub mpidrs: &'a [u64],
    /// Bytes of RAM.
    pub ram: u64,
    /// Start and bytes of the pool for DMA, if devices are restricted to one.
    pub pool: Option<(u64, u64)>,
    /// Start and end of the initramfs.
    pub initrd: Option<(u64, u64)>,
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// Random bytes for the kernel's generator. They come from the host, so a protected guest must not trust them alone.
    pub seed: &'a [u8],
    /// How many virtio-mmio devices there are.
    pub virtio: u32,
}

const PHANDLE_GIC: u32 = 1;
const PHANDLE_CLOCK: u32 = 2;
const PHANDLE_POOL: u32 = 3;

const GIC_SPI: u32 = 0;
const GIC_PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;

/// The input clock of a PC's 16550; nothing here depends on it.
const UART_CLOCK: u32 = 1_843_200;

/// The tree as a blob.
pub fn build(machine: &Machine<'_>) -> Result<Vec<u8>> {
    write(machine).map_err(|e| Error::setup("device tree", e))
}

fn write(machine: &Machine<'_>) -> std::result::Result<Vec<u8>, vm_fdt::Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "pvm-run")?;
    fdt.property_u32("interrupt-parent", PHANDLE_GIC)?;

    let chosen = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", machine.cmdline)?;
    fdt.property_string("stdout-path", &format!("/serial@{:x}", map::UART_BASE))?;
    if let Some((start, end)) = machine.initrd {
        fdt.property_u64("linux,initrd-start", start)?;
        fdt.property_u64("linux,initrd-end", end)?;
    }
    fdt.property("rng-seed", machine.seed)?;
    fdt.end_node(chosen)?;

    let memory = fdt.begin_node(&format!("memory@{:x}", map::RAM_BASE))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[map::RAM_BASE, machine.ram])?;
    fdt.end_node(memory)?;

    if let Some((start, size)) = machine.pool {
        let reserved = fdt.begin_node("reserved-memory")?;
        fdt.property_u32("#address-cells", 2)?;
        fdt.property_u32("#size-cells", 2)?;
        fdt.property_null("ranges")?;
        let pool = fdt.begin_node(&format!("restricted_dma@{start:x}"))?;
        fdt.property_string("compatible", "restricted-dma-pool")?;
        fdt.property_array_u64("reg", &[start, size])?;
        fdt.property_phandle(PHANDLE_POOL)?;
        fdt.end_node(pool)?;
        fdt.end_node(reserved)?;
    }

    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 0)?;
    for mpidr in machine.mpidrs {
        let cpu = fdt.begin_node(&format!("cpu@{mpidr:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u64("reg", *mpidr)?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(cpus)?;

    let psci = fdt.begin_node("psci")?;
    fdt.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(psci)?;

    let gic = fdt.begin_node(&format!("interrupt-controller@{:x}", map::GICD_BASE))?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    let redistributors = machine.mpidrs.len() as u64 * map::GICR_STRIDE;
    fdt.property_array_u64(
        "reg",
        &[map::GICD_BASE, map::GICD_SIZE, map::GICR_BASE, redistributors],
    )?;
    fdt.property_phandle(PHANDLE_GIC)?;
    fdt.end_node(gic)?;

    // Secure physical, non-secure physical, virtual and hypervisor timer.
    let timer = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    let interrupts: Vec<u32> = [13, 14, 11, 10]
        .iter()
        .flat_map(|ppi| [GIC_PPI, *ppi, LEVEL_HIGH])
        .collect();
    fdt.property_array_u32("interrupts", &interrupts)?;
    fdt.property_null("always-on")?;
    fdt.end_node(timer)?;

    let clock = fdt.begin_node("uart-clock")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", UART_CLOCK)?;
    fdt.property_phandle(PHANDLE_CLOCK)?;
    fdt.end_node(clock)?;

    let serial = fdt.begin_node(&format!("serial@{:x}", map::UART_BASE))?;
    fdt.property_string("compatible", "ns16550a")?;
    fdt.property_array_u64("reg", &[map::UART_BASE, map::UART_SIZE])?;
    fdt.property_u32("clocks", PHANDLE_CLOCK)?;
    fdt.property_array_u32("interrupts", &[GIC_SPI, map::UART_SPI, EDGE_RISING])?;
    fdt.end_node(serial)?;

    for index in 0..machine.virtio {
        let base = map::VIRTIO_BASE + u64::from(index) * map::VIRTIO_SIZE;
        let device = fdt.begin_node(&format!("virtio_mmio@{base:x}"))?;
        fdt.property_string("compatible", "virtio,mmio")?;
        fdt.property_array_u64("reg", &[base, map::VIRTIO_SIZE])?;
        fdt.property_array_u32("interrupts", &[GIC_SPI, map::VIRTIO_SPI + index, LEVEL_HIGH])?;
        fdt.property_null("dma-coherent")?;
        if machine.pool.is_some() {
            fdt.property_u32("memory-region", PHANDLE_POOL)?;
        }
        fdt.end_node(device)?;
    }

    fdt.end_node(root)?;
    fdt.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine<'a>(pool: Option<(u64, u64)>) -> Machine<'a> {
        Machine {
            mpidrs: &[0, 1],
            ram: 256 << 20,
            pool,
            initrd: Some((0x4800_0000, 0x4810_0000)),
            cmdline: "console=ttyS0",
            seed: &[7; 64],
            virtio: 1,
        }
    }

    fn has(blob: &[u8], text: &str) -> bool {
        blob.windows(text.len()).any(|window| window == text.as_bytes())
    }

    #[test]
    fn the_pool_is_named_only_where_there_is_one() {
        let with = build(&machine(Some((0x4fc0_0000, 4 << 20)))).unwrap();
        let without = build(&machine(None)).unwrap();
        assert_eq!(with[..4], [0xd0, 0x0d, 0xfe, 0xed]);
        assert!(has(&with, "restricted-dma-pool") && has(&with, "memory-region"));
        assert!(!has(&without, "restricted-dma-pool") && !has(&without, "memory-region"));
        assert!(has(&with, "console=ttyS0") && has(&with, "cpu@1") && !has(&with, "cpu@2"));
        assert!(with.len() as u64 <= map::FDT_MAX);
    }
}
