// SPDX-License-Identifier: GPL-2.0-only
//! A Linux guest: kernel, initramfs, device tree and devices.

use crate::block::Block;
use crate::fdt;
use crate::layout as map;
use crate::memory::RamConfig;
use crate::serial::{Sink, Uart};
use crate::virtio::VirtioMmio;
use crate::vm::{Kind, Vm, VmConfig};
use crate::{Error, Result};
use linux_loader::loader::{KernelLoader, pe::PE};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vm_memory::GuestAddress;

/// The pool of shared memory that a protected guest's devices go through, unless asked otherwise: a tenth of a second to
/// share even under emulation, and enough for the requests of a disk.
pub const DEFAULT_POOL: u64 = 4 << 20;

/// What to boot.
#[derive(Debug, Clone)]
pub struct LinuxConfig {
    /// The kernel, an arm64 `Image`.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: Option<PathBuf>,
    /// The disk.
    pub disk: Option<PathBuf>,
    /// The command line.
    pub cmdline: String,
    /// Normal or protected.
    pub kind: Kind,
    /// How many vCPUs.
    pub cpus: u32,
    /// Bytes of RAM.
    pub ram: u64,
    /// Bytes of it that a protected guest's devices go through.
    pub pool: u64,
}

/// Makes the VM, loads it and wires its devices; the console writes to `sink`. The VM has not run when this returns.
pub fn prepare(config: &LinuxConfig, sink: Sink) -> Result<(Vm, Arc<Uart>)> {
    let pool = if config.kind == Kind::Protected {
        config.pool
    } else {
        0
    };
    let ram = RamConfig {
        size: config.ram,
        pool,
        inherit: false,
    };
    let mut vm = Vm::new(VmConfig {
        kind: config.kind,
        cpus: config.cpus,
        ram,
    })?;

    let uart = Arc::new(Uart::new(vm.irq_line(map::UART_SPI), sink));
    vm.bus.add(map::UART_BASE, map::UART_SIZE, uart.clone());
    let mut virtio = 0;
    if let Some(disk) = &config.disk {
        let device = Box::new(Block::open(disk)?);
        let view = vm.ram().device_view().clone();
        let transport = VirtioMmio::new(device, view, vm.irq_line(map::VIRTIO_SPI))?;
        vm.bus
            .add(map::VIRTIO_BASE, map::VIRTIO_SIZE, Arc::new(transport));
        virtio = 1;
    }

    let entry = load_kernel(&vm, &config.kernel)?;
    // From the end of what is not pool: the device tree, and below it the initramfs.
    let fdt_at = map::RAM_BASE + config.ram - pool - map::RAM_ALIGN;
    let initrd = config
        .initrd
        .as_deref()
        .map(|path| load_initrd(&vm, path, entry, fdt_at))
        .transpose()?;
    let mut seed = [0; 64];
    File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut seed))
        .map_err(|e| Error::setup("/dev/urandom", e))?;
    let blob = fdt::build(&fdt::Machine {
        mpidrs: &vm.mpidrs()?,
        ram: config.ram,
        pool: vm.ram().pool(),
        initrd,
        cmdline: &config.cmdline,
        seed: &seed,
        virtio,
    })?;
    if blob.len() as u64 > map::FDT_MAX {
        return Err(Error::Setup(format!(
            "device tree of {} bytes: {} is the most (a long command line?)",
            blob.len(),
            map::FDT_MAX
        )));
    }
    vm.ram().load(fdt_at, &blob)?;
    vm.set_entry(entry.start, fdt_at)?;
    Ok((vm, uart))
}

/// Where the kernel lies, its bss included.
#[derive(Debug, Clone, Copy)]
struct Loaded {
    start: u64,
    end: u64,
}

fn load_kernel(vm: &Vm, path: &Path) -> Result<Loaded> {
    let fail = |e: &dyn std::fmt::Display| Error::setup(format_args!("kernel {}", path.display()), e);
    let mut file = File::open(path).map_err(|e| fail(&e))?;
    let mut header = [0; 64];
    file.read_exact(&mut header).map_err(|e| fail(&e))?;
    // `image_size` of the boot protocol: what the kernel occupies, not what the file holds.
    let occupied = header[16..24]
        .iter()
        .rev()
        .fold(0_u64, |acc, b| acc << 8 | u64::from(*b));
    let loaded = PE::load(vm.ram().all(), Some(GuestAddress(map::RAM_BASE)), &mut file, None)
        .map_err(|e| fail(&format_args!("{e} (an arm64 Image is wanted, and memory for it)")))?;
    Ok(Loaded {
        start: loaded.kernel_load.0,
        end: loaded
            .kernel_end
            .max(loaded.kernel_load.0.saturating_add(occupied)),
    })
}

fn load_initrd(vm: &Vm, path: &Path, kernel: Loaded, top: u64) -> Result<(u64, u64)> {
    let bytes =
        std::fs::read(path).map_err(|e| Error::setup(format_args!("initrd {}", path.display()), e))?;
    let start = top.checked_sub(bytes.len() as u64).map_or(0, |at| at & !0xffff);
    if start < kernel.end {
        return Err(Error::Setup(format!(
            "initrd {}: {} bytes do not fit beside the kernel, see --mem",
            path.display(),
            bytes.len()
        )));
    }
    vm.ram().load(start, &bytes)?;
    Ok((start, start + bytes.len() as u64))
}
