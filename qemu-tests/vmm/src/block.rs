// SPDX-License-Identifier: GPL-2.0-only
//! A virtio block device over a file (virtio 1.2, section 5.2). Data pass through a buffer of the VMM's own, never by a
//! system call on guest memory.

use crate::virtio::VirtioDevice;
use crate::{Error, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use virtio_bindings::virtio_blk as blk;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT, Reader, Writer};
use vm_memory::GuestMemoryMmap;

/// Bytes of a sector, the unit of requests whatever the file is on.
const SECTOR: u64 = 512;
/// The most data that one request may carry.
const MAX_DATA: usize = 4 << 20;

/// The disk.
pub struct Block {
    file: File,
    sectors: u64,
}

impl Block {
    /// Opens `path`, a file of whole sectors, for reading and writing.
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |e| Error::setup(format_args!("disk {}", path.display()), e);
        let file = File::options().read(true).write(true).open(path).map_err(fail)?;
        let bytes = file.metadata().map_err(fail)?.len();
        if bytes == 0 || bytes % SECTOR != 0 {
            return Err(Error::Setup(format!(
                "disk {}: {bytes} bytes are not whole sectors of {SECTOR}",
                path.display()
            )));
        }
        Ok(Self {
            file,
            sectors: bytes / SECTOR,
        })
    }

    /// Whether `len` bytes at `sector` are whole sectors of the disk; then their place in the file.
    fn place(&self, sector: u64, len: usize) -> Option<u64> {
        let count = (len as u64)
            .checked_div(SECTOR)
            .filter(|n| n * SECTOR == len as u64)?;
        (sector.checked_add(count)? <= self.sectors).then_some(sector * SECTOR)
    }

    /// Serves one request; returns the status byte. The status's place is the last byte that the device may write.
    fn serve(&self, reader: &mut Reader<'_>, data: &mut Writer<'_>) -> std::io::Result<u32> {
        let mut header = [0; 16];
        reader.read_exact(&mut header)?;
        let (kind, rest) = header.split_at(4);
        let kind = kind.iter().rev().fold(0_u32, |acc, b| acc << 8 | u32::from(*b));
        let sector = rest[4..]
            .iter()
            .rev()
            .fold(0_u64, |acc, b| acc << 8 | u64::from(*b));
        Ok(match kind {
            blk::VIRTIO_BLK_T_IN => {
                let len = data.available_bytes();
                let (Some(at), true) = (self.place(sector, len), len <= MAX_DATA) else {
                    return Ok(blk::VIRTIO_BLK_S_IOERR);
                };
                let mut buffer = vec![0; len];
                self.file.read_exact_at(&mut buffer, at)?;
                data.write_all(&buffer)?;
                blk::VIRTIO_BLK_S_OK
            }
            blk::VIRTIO_BLK_T_OUT => {
                let len = reader.available_bytes();
                let (Some(at), true) = (self.place(sector, len), len <= MAX_DATA) else {
                    return Ok(blk::VIRTIO_BLK_S_IOERR);
                };
                let mut buffer = vec![0; len];
                reader.read_exact(&mut buffer)?;
                self.file.write_all_at(&buffer, at)?;
                blk::VIRTIO_BLK_S_OK
            }
            blk::VIRTIO_BLK_T_FLUSH => {
                self.file.sync_data()?;
                blk::VIRTIO_BLK_S_OK
            }
            blk::VIRTIO_BLK_T_GET_ID => {
                let mut id = [0; blk::VIRTIO_BLK_ID_BYTES as usize];
                id[..7].copy_from_slice(b"pvmdisk");
                let len = id.len().min(data.available_bytes());
                data.write_all(&id[..len])?;
                blk::VIRTIO_BLK_S_OK
            }
            _ => blk::VIRTIO_BLK_S_UNSUPP,
        })
    }

    /// Takes a chain apart and serves it; returns how many bytes were written to it.
    fn serve_chain(
        &self,
        chain: DescriptorChain<&GuestMemoryMmap>,
        memory: &GuestMemoryMmap,
    ) -> std::result::Result<u32, String> {
        let mut reader = chain
            .clone()
            .reader(memory)
            .map_err(|e| format!("bad request: {e}"))?;
        let mut data = chain.writer(memory).map_err(|e| format!("bad request: {e}"))?;
        let room = data
            .available_bytes()
            .checked_sub(1)
            .ok_or("a request without a status byte")?;
        let mut status = data.split_at(room).map_err(|e| format!("bad request: {e}"))?;
        let code = self
            .serve(&mut reader, &mut data)
            .unwrap_or(blk::VIRTIO_BLK_S_IOERR);
        status
            .write_all(&[code as u8])
            .map_err(|e| format!("status byte: {e}"))?;
        Ok((data.bytes_written() + 1) as u32)
    }
}

impl VirtioDevice for Block {
    fn id(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        1 << blk::VIRTIO_BLK_F_FLUSH
    }

    fn config(&self) -> Vec<u8> {
        self.sectors.to_le_bytes().to_vec()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![128]
    }

    fn process(
        &mut self,
        _: usize,
        queue: &mut Queue,
        memory: &GuestMemoryMmap,
    ) -> std::result::Result<bool, String> {
        let mut used = false;
        loop {
            let next = queue.iter(memory).map_err(|e| e.to_string())?.next();
            let Some(chain) = next else { break };
            let head = chain.head_index();
            let written = self.serve_chain(chain, memory)?;
            queue.add_used(memory, head, written).map_err(|e| e.to_string())?;
            used = true;
        }
        Ok(used && queue.needs_notification(memory).map_err(|e| e.to_string())?)
    }
}
