// SPDX-License-Identifier: GPL-2.0-only
//! A Linux guest: kernel, initramfs, device tree and devices.

use crate::block::Block;
use crate::bus::value_of;
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
    // What the user named comes first: a VM is dear to make, and to end.
    let mut kernel = Kernel::open(&config.kernel)?;
    let initrd = config.initrd.as_deref().map(Initrd::read).transpose()?;
    let disk = config.disk.as_deref().map(Block::open).transpose()?;

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
    if let Some(disk) = disk {
        let device = Box::new(disk);
        let view = vm.ram().device_view().clone();
        let transport = VirtioMmio::new(device, view, vm.irq_line(map::VIRTIO_SPI))?;
        vm.bus
            .add(map::VIRTIO_BASE, map::VIRTIO_SIZE, Arc::new(transport));
        virtio = 1;
    }

    let loaded = kernel.load(&vm)?;
    // From the end of what is not pool: the device tree, and below it the initramfs.
    let fdt_at = map::RAM_BASE + config.ram - pool - map::RAM_ALIGN;
    let initrd = initrd
        .map(|initrd| initrd.load(&vm, loaded.end, fdt_at))
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
    vm.set_entry(loaded.start, fdt_at)?;
    Ok((vm, uart))
}

/// A kernel's file, its header read.
struct Kernel<'a> {
    path: &'a Path,
    file: File,
    /// What the kernel occupies, which is more than the file holds.
    occupies: u64,
}

/// Where the kernel lies.
struct Loaded {
    start: u64,
    end: u64,
}

/// `magic` of the arm64 boot protocol (Documentation/arch/arm64/booting.rst).
const IMAGE_MAGIC: [u8; 4] = *b"ARM\x64";

impl<'a> Kernel<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let fail = |e: &dyn std::fmt::Display| Error::setup(format_args!("kernel {}", path.display()), e);
        let mut header = [0; 64];
        let mut file = File::open(path).map_err(|e| fail(&e))?;
        let read = file.read_exact(&mut header);
        if read.is_err() || header[56..60] != IMAGE_MAGIC {
            return Err(fail(&"not an arm64 Image"));
        }
        Ok(Self {
            path,
            file,
            occupies: value_of(&header[16..24]),
        })
    }

    fn load(&mut self, vm: &Vm) -> Result<Loaded> {
        let loaded = PE::load(
            vm.ram().all(),
            Some(GuestAddress(map::RAM_BASE)),
            &mut self.file,
            None,
        )
        .map_err(|e| {
            Error::setup(
                format_args!("kernel {}", self.path.display()),
                format_args!("{e} (see --mem)"),
            )
        })?;
        let start = loaded.kernel_load.0;
        Ok(Loaded {
            start,
            end: loaded.kernel_end.max(start.saturating_add(self.occupies)),
        })
    }
}

/// An initramfs's file.
struct Initrd<'a> {
    path: &'a Path,
    bytes: Vec<u8>,
}

impl<'a> Initrd<'a> {
    fn read(path: &'a Path) -> Result<Self> {
        let bytes =
            std::fs::read(path).map_err(|e| Error::setup(format_args!("initrd {}", path.display()), e))?;
        Ok(Self { path, bytes })
    }

    /// Loads it below `top` and returns its start and end. Errors: it would reach below `bottom`.
    fn load(&self, vm: &Vm, bottom: u64, top: u64) -> Result<(u64, u64)> {
        let len = self.bytes.len() as u64;
        let start = top.checked_sub(len).map_or(0, |at| at & !0xffff);
        if start < bottom {
            let why = format_args!("{len} bytes do not fit beside the kernel (see --mem)");
            return Err(Error::setup(format_args!("initrd {}", self.path.display()), why));
        }
        vm.ram().load(start, &self.bytes)?;
        Ok((start, start + len))
    }
}
