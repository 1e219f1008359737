// SPDX-License-Identifier: GPL-2.0-only
//! Memory that a test maps as it likes and gives to a guest: anonymous or of a file, replaced or unmapped under a guest
//! that runs. No Rust reference ever covers it; accesses go through [`crate::touch`] or the kernel.

#![expect(
    unsafe_code,
    reason = "mmap and its kin, on ranges that this module reserved itself"
)]

use crate::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd};

/// What is behind a mapping.
#[derive(Debug, Clone, Copy)]
pub enum Backing<'a> {
    /// Private anonymous memory.
    Anonymous,
    /// Anonymous memory that children share.
    SharedAnonymous,
    /// Shared pages of a file, from its start.
    File(BorrowedFd<'a>),
    /// Anonymous huge pages of the kernel's pool.
    Huge,
    /// Private anonymous memory that may only be read.
    ReadOnly,
    /// Addresses without access.
    Nothing,
}

/// A range of this process's addresses that belongs to the test, whatever is mapped there.
#[derive(Debug)]
pub struct Mapping {
    start: usize,
    len: usize,
}

// mmap takes any length, and every range that is passed on lies in one that mmap returned.
fn map(at: usize, len: usize, backing: Backing<'_>) -> std::io::Result<usize> {
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let (prot, mut flags, fd) = match backing {
        Backing::Anonymous => (rw, private, -1),
        Backing::SharedAnonymous => (rw, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
        Backing::File(fd) => (rw, libc::MAP_SHARED, fd.as_raw_fd()),
        Backing::Huge => (rw, private | libc::MAP_HUGETLB, -1),
        Backing::ReadOnly => (libc::PROT_READ, private, -1),
        Backing::Nothing => (libc::PROT_NONE, private, -1),
    };
    if at != 0 {
        flags |= libc::MAP_FIXED;
    }
    // SAFETY: without MAP_FIXED the kernel picks a free range; with it the caller owns the range, see `Mapping::range`.
    let start = unsafe { libc::mmap(at as *mut libc::c_void, len, prot, flags, fd, 0) };
    if start == libc::MAP_FAILED {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(start as usize)
    }
}

fn done(result: i32) -> std::result::Result<(), i32> {
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(-1))
    }
}

impl Mapping {
    /// Maps `len` bytes, a multiple of the page size. Errors: the kernel's.
    pub fn new(len: usize, backing: Backing<'_>) -> Result<Self> {
        let start = map(0, len, backing).map_err(|e| Error::setup(format_args!("mmap of {backing:?}"), e))?;
        Ok(Self { start, len })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// This process's address of the aligned 64-bit word at `offset`.
    ///
    /// # Panics
    /// The offset is outside or not aligned.
    pub fn address(&self, offset: usize) -> *mut u8 {
        assert!(
            offset.is_multiple_of(8) && offset < self.len,
            "offset {offset:#x}"
        );
        (self.start + offset) as *mut u8
    }

    /// The address of `len` bytes at `offset`. Panics outside.
    fn range(&self, offset: usize, len: usize) -> usize {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "{len:#x} bytes at {offset:#x}"
        );
        self.start + offset
    }

    /// Maps something else over a part (MAP_FIXED).
    pub fn replace(&self, offset: usize, len: usize, backing: Backing<'_>) -> Result<()> {
        map(self.range(offset, len), len, backing)
            .map(drop)
            .map_err(|e| Error::setup(format_args!("mmap of {backing:?}"), e))
    }

    /// Unmaps a part. Nothing else may be mapped there before the test has put it back or dropped the mapping.
    pub fn unmap(&self, offset: usize, len: usize) -> std::result::Result<(), i32> {
        let start = self.range(offset, len);
        // SAFETY: the range is of this mapping, and no Rust reference covers it.
        done(unsafe { libc::munmap(start as *mut libc::c_void, len) })
    }

    /// Moves a part to `to`, over what is mapped there (mremap). The part is unmapped then.
    pub fn relocate(&self, offset: usize, len: usize, to: &Self, to_offset: usize) -> Result<()> {
        let (from, at) = (self.range(offset, len), to.range(to_offset, len));
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: both ranges are of mappings of this module, and no Rust reference covers them.
        let moved = unsafe {
            libc::mremap(
                from as *mut libc::c_void,
                len,
                len,
                flags,
                at as *mut libc::c_void,
            )
        };
        if moved == libc::MAP_FAILED {
            return Err(Error::setup("mremap", std::io::Error::last_os_error()));
        }
        Ok(())
    }

    /// madvise; the error is the kernel's number.
    pub fn advise(&self, offset: usize, len: usize, advice: i32) -> std::result::Result<(), i32> {
        let start = self.range(offset, len);
        // SAFETY: the advice at most changes what the range holds, which no Rust reference covers.
        done(unsafe { libc::madvise(start as *mut libc::c_void, len, advice) })
    }

    /// mprotect; the error is the kernel's number.
    pub fn protect(&self, offset: usize, len: usize, prot: i32) -> std::result::Result<(), i32> {
        let start = self.range(offset, len);
        // SAFETY: the range is of this mapping, and no Rust reference covers it.
        done(unsafe { libc::mprotect(start as *mut libc::c_void, len, prot) })
    }

    /// Copies `bytes` to `offset`. Only while the host may write there.
    pub fn load(&self, offset: usize, bytes: &[u8]) {
        let start = self.range(offset, bytes.len());
        // SAFETY: the range is mapped for writing, as the caller sees to, and no Rust reference covers it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), start as *mut u8, bytes.len()) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this value's, and nothing points into it any more: a VM that still runs on it finds no
        // memory, which is the guest's affair.
        unsafe { libc::munmap(self.start as *mut libc::c_void, self.len) };
    }
}
