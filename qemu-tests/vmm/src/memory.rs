// SPDX-License-Identifier: GPL-2.0-only
//! Guest RAM: anonymous memory, since pKVM takes no page of a file, and the part of it that devices may see.

#![expect(unsafe_code, reason = "madvise of a mapping that this module owns")]

use crate::layout::{RAM_ALIGN, RAM_BASE};
use crate::{Error, Result};
use std::sync::Arc;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

/// `MADV_COLLAPSE` of the kernel's `asm-generic/mman-common.h`.
const MADV_COLLAPSE: i32 = 25;

/// What RAM a VM gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamConfig {
    /// Bytes of RAM from [`RAM_BASE`] on, the pool included.
    pub size: u64,
    /// Bytes at the end of RAM that the guest's devices go through; 0: the devices see all of RAM.
    pub pool: u64,
    /// Whether a child of fork() inherits the mapping. A fork copies pinned pages there and then, and that read of a
    /// private page takes it away from the guest: only a test wants this.
    pub inherit: bool,
}

/// A VM's RAM as this process sees it. Shared by the VM and whoever looks at the memory after the VM's end.
#[derive(Debug)]
pub struct GuestRam {
    config: RamConfig,
    all: GuestMemoryMmap,
    devices: GuestMemoryMmap,
}

impl GuestRam {
    /// Maps the RAM. Errors: sizes that are no multiple of [`RAM_ALIGN`], or no memory.
    pub fn new(config: RamConfig) -> Result<Self> {
        let main = config.size.checked_sub(config.pool).filter(|main| *main > 0);
        let (true, true, Some(main)) = (
            config.size.is_multiple_of(RAM_ALIGN),
            config.pool.is_multiple_of(RAM_ALIGN),
            main,
        ) else {
            return Err(Error::Setup(format!(
                "memory of {} bytes with a pool of {} bytes: both must be multiples of 2 MiB, the pool the smaller",
                config.size, config.pool
            )));
        };
        let mut regions = vec![region(RAM_BASE, main, config.inherit)?];
        if config.pool > 0 {
            regions.push(region(RAM_BASE + main, config.pool, config.inherit)?);
        }
        let view = |list: Vec<Arc<GuestRegionMmap>>| {
            GuestMemoryMmap::from_arc_regions(list).map_err(|e| Error::setup("guest memory", e))
        };
        let devices = view(if config.pool > 0 {
            vec![regions[1].clone()]
        } else {
            regions.clone()
        })?;
        Ok(Self {
            config,
            all: view(regions)?,
            devices,
        })
    }

    /// The sizes it was made with.
    pub fn config(&self) -> RamConfig {
        self.config
    }

    /// All of RAM: for loading before the first run.
    pub fn all(&self) -> &GuestMemoryMmap {
        &self.all
    }

    /// What devices may access: the pool where there is one. An address outside is an error of the guest's driver, found
    /// here, and not a SIGSEGV in the VMM.
    pub fn device_view(&self) -> &GuestMemoryMmap {
        &self.devices
    }

    /// Where the pool starts and how long it is; none where the devices see all of RAM.
    pub fn pool(&self) -> Option<(u64, u64)> {
        (self.config.pool > 0).then(|| (RAM_BASE + self.config.size - self.config.pool, self.config.pool))
    }

    /// IPA, bytes and this process's address of each region.
    pub fn regions(&self) -> impl Iterator<Item = (u64, u64, *mut u8)> {
        self.all.iter().map(|r| (r.start_addr().0, r.len(), r.as_ptr()))
    }

    /// This process's address of `ipa`. Errors: not RAM.
    pub fn host_address(&self, ipa: u64) -> Result<*mut u8> {
        self.all
            .get_host_address(GuestAddress(ipa))
            .map_err(|e| Error::setup(format_args!("IPA {ipa:#x}"), e))
    }

    /// Writes `bytes` at `ipa`. Only before the first run, or where the guest has shared the page.
    pub fn load(&self, ipa: u64, bytes: &[u8]) -> Result<()> {
        self.all
            .write_slice(bytes, GuestAddress(ipa))
            .map_err(|e| Error::setup(format_args!("load at IPA {ipa:#x}"), e))
    }

    /// Gives the pages of a range back to the kernel: they are zero when touched again (MADV_DONTNEED). The range must be
    /// of whole pages in one region.
    pub fn discard(&self, ipa: u64, len: u64) -> Result<()> {
        self.advise(ipa, len, libc::MADV_DONTNEED)
    }

    /// Has the kernel put huge pages under a range, under the condition of [`Self::discard`] (MADV_COLLAPSE).
    pub fn collapse(&self, ipa: u64, len: u64) -> Result<()> {
        self.advise(ipa, len, MADV_COLLAPSE)
    }

    fn advise(&self, ipa: u64, len: u64, advice: i32) -> Result<()> {
        let start = self.host_address(ipa)?;
        let last = self.host_address(ipa.saturating_add(len).saturating_sub(1))?;
        if (last as u64).wrapping_sub(start as u64) != len.wrapping_sub(1) {
            return Err(Error::Setup(format!(
                "{len:#x} bytes at IPA {ipa:#x} are not in one region"
            )));
        }
        // SAFETY: the range lies in a mapping of this value, and the advice at most changes what the memory holds, which
        // no Rust reference covers: it is the guest's.
        let result = unsafe { libc::madvise(start.cast(), len as usize, advice) };
        if result == 0 {
            Ok(())
        } else {
            Err(Error::setup("madvise", std::io::Error::last_os_error()))
        }
    }

    /// Reads `len` bytes at `ipa`, under the condition of [`Self::load`].
    pub fn fetch(&self, ipa: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.all
            .read_slice(&mut bytes, GuestAddress(ipa))
            .map_err(|e| Error::setup(format_args!("read at IPA {ipa:#x}"), e))?;
        Ok(bytes)
    }
}

fn region(base: u64, size: u64, inherit: bool) -> Result<Arc<GuestRegionMmap>> {
    let mapping = MmapRegion::new(size as usize)
        .map_err(|e| Error::setup(format_args!("map {size} bytes of guest memory"), e))?;
    let advise = |advice| {
        // SAFETY: the range is the mapping just made, and these two kinds of advice change no content.
        unsafe { rustix::mm::madvise(mapping.as_ptr().cast(), mapping.size(), advice) }
            .map_err(|e| Error::setup("madvise of guest memory", e))
    };
    if !inherit {
        advise(rustix::mm::Advice::LinuxDontFork)?;
    }
    advise(rustix::mm::Advice::LinuxDontDump)?;
    GuestRegionMmap::new(mapping, GuestAddress(base))
        .map(Arc::new)
        .ok_or_else(|| Error::Setup("guest memory: address overflow".into()))
}
