// SPDX-License-Identifier: GPL-2.0-only
//! Touching guest memory that may be private: what the host's user space and its system calls get.
//!
//! A load or store of a private page raises SIGSEGV, which must not end the test. [`load`] and [`store`] do their access
//! with one known instruction; the handler sees by its address that the fault is theirs, and steps over it.

#![expect(
    unsafe_code,
    reason = "a signal handler that resumes after a known instruction, and loads of raw addresses"
)]

use crate::mapping::Mapping;
use crate::memory::GuestRam;
use crate::{Error, Result};
use std::cell::Cell;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Once;
use vmm_sys_util::signal::register_signal_handler;

/// A SIGSEGV, as the kernel described it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segv {
    /// `si_code`: [`SEGV_ACCERR`] for a stage-2 fault, [`SEGV_MAPERR`] where nothing is mapped.
    pub code: i32,
    /// `si_addr`.
    pub address: u64,
}

impl std::fmt::Display for Segv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = match self.code {
            SEGV_MAPERR => "SEGV_MAPERR",
            SEGV_ACCERR => "SEGV_ACCERR",
            _ => "another code",
        };
        write!(f, "SIGSEGV ({code}) at {:#x}", self.address)
    }
}

/// The `si_code` of an access to an address where nothing is mapped.
pub const SEGV_MAPERR: i32 = 1;
/// The `si_code` of an access that is not allowed though there is a mapping.
pub const SEGV_ACCERR: i32 = 2;

thread_local! {
    static FAULT: Cell<Option<Segv>> = const { Cell::new(None) };
}

static INSTALL: Once = Once::new();

/// Loads the 64-bit word that the guest has at `ipa`.
pub fn load(ram: &GuestRam, ipa: u64) -> std::result::Result<u64, Segv> {
    let address = host(ram, ipa)?;
    access(|| raw::load(address))
}

/// Stores `value` in the 64-bit word that the guest has at `ipa`.
pub fn store(ram: &GuestRam, ipa: u64, value: u64) -> std::result::Result<(), Segv> {
    let address = host(ram, ipa)?;
    access(|| raw::store(address, value))
}

/// Loads the 64-bit word at `offset` of a mapping, which may have changed or gone meanwhile.
pub fn load_at(mapping: &Mapping, offset: usize) -> std::result::Result<u64, Segv> {
    let address = mapping.address(offset).cast();
    access(|| raw::load(address))
}

/// Stores `value` at `offset` of a mapping, which may have changed or gone meanwhile.
pub fn store_at(mapping: &Mapping, offset: usize, value: u64) -> std::result::Result<(), Segv> {
    let address = mapping.address(offset).cast();
    access(|| raw::store(address, value))
}

/// This process's address of an aligned word; where the guest has no memory there is nothing mapped.
fn host(ram: &GuestRam, ipa: u64) -> std::result::Result<*mut u64, Segv> {
    let nothing = Segv {
        code: SEGV_MAPERR,
        address: ipa,
    };
    if !ipa.is_multiple_of(8) {
        return Err(nothing);
    }
    ram.host_address(ipa).map(<*mut u8>::cast).map_err(|_| nothing)
}

fn access<T>(body: impl FnOnce() -> T) -> std::result::Result<T, Segv> {
    INSTALL.call_once(|| {
        if let Err(e) = register_signal_handler(libc::SIGSEGV, on_segv) {
            eprintln!("pvm: no handler for SIGSEGV: {e}");
        }
    });
    FAULT.set(None);
    let value = body();
    FAULT.get().map_or(Ok(value), Err)
}

#[cfg(target_arch = "aarch64")]
mod raw {
    use std::arch::{asm, global_asm};

    // Two leaf functions, so that the handler can return to their caller by x30.
    global_asm!(
        ".global pvm_touch_load",
        ".global pvm_touch_store",
        ".global pvm_touch_end",
        "pvm_touch_load: ldr x0, [x0]",
        "ret",
        "pvm_touch_store: str x1, [x0]",
        "ret",
        "pvm_touch_end:",
    );

    unsafe extern "C" {
        fn pvm_touch_load(address: *mut u64) -> u64;
        fn pvm_touch_store(address: *mut u64, value: u64);
        fn pvm_touch_end();
    }

    pub fn load(address: *mut u64) -> u64 {
        // SAFETY: the load's only effects are its value or a signal that the handler turns into an error; the address is
        // of guest memory, which no Rust reference covers.
        let value = unsafe { pvm_touch_load(address) };
        barrier();
        value
    }

    pub fn store(address: *mut u64, value: u64) {
        // SAFETY: as for `load`: guest memory, which no Rust reference covers.
        unsafe { pvm_touch_store(address, value) };
        barrier();
    }

    fn barrier() {
        // SAFETY: a barrier without operands; it completes the access before a test looks for its effect.
        unsafe { asm!("dsb sy") };
    }

    /// Whether `pc` is one of the two accesses.
    pub fn is_access(pc: u64) -> bool {
        (pvm_touch_load as *const () as u64..pvm_touch_end as *const () as u64).contains(&pc)
    }

    /// Makes the interrupted access return to its caller.
    pub fn skip(context: &mut libc::ucontext_t) {
        context.uc_mcontext.pc += 4;
    }

    /// Where the thread was.
    pub fn pc(context: &libc::ucontext_t) -> u64 {
        context.uc_mcontext.pc
    }
}

#[cfg(not(target_arch = "aarch64"))]
mod raw {
    pub fn load(_: *mut u64) -> u64 {
        0
    }
    pub fn store(_: *mut u64, _: u64) {}
    pub fn is_access(_: u64) -> bool {
        false
    }
    pub fn skip(_: &mut libc::ucontext_t) {}
    pub fn pc(_: &libc::ucontext_t) -> u64 {
        0
    }
}

extern "C" fn on_segv(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a handler with SA_SIGINFO valid pointers to both.
    let (info, context) = unsafe { (&*info, &mut *context.cast::<libc::ucontext_t>()) };
    // SAFETY: for SIGSEGV si_addr is the field that the kernel filled.
    let address = unsafe { info.si_addr() } as u64;
    if raw::is_access(raw::pc(context)) {
        FAULT.set(Some(Segv {
            code: info.si_code,
            address,
        }));
        raw::skip(context);
        return;
    }
    const TEXT: &[u8] =
        b"pvm: SIGSEGV: the VMM touched memory that the guest does not share, or has a bug of its own\n";
    // SAFETY: write and _exit may be called in a handler, and the buffer is static.
    unsafe {
        libc::write(2, TEXT.as_ptr().cast(), TEXT.len());
        libc::_exit(139);
    }
}

/// The host's address of `len` bytes at `ipa` that lie in one region.
fn range(ram: &GuestRam, ipa: u64, len: usize) -> Result<*mut u8> {
    let start = ram.host_address(ipa)?;
    let last = ram.host_address(ipa.saturating_add(len as u64).saturating_sub(1))?;
    if last as usize - start as usize + 1 == len {
        Ok(start)
    } else {
        Err(Error::Setup(format!(
            "{len} bytes at IPA {ipa:#x} are not in one region"
        )))
    }
}

/// Gives the kernel `len` bytes at `ipa` to read, by writing them to a pipe; returns the error number, 0 if it worked.
/// They must fit in an empty pipe, and `len` must not be 0.
pub fn syscall_read(ram: &GuestRam, ipa: u64, len: usize) -> Result<i32> {
    let address = range(ram, ipa, len)?;
    let (_reader, writer) = pipe()?;
    // SAFETY: the range is in this process's mapping of the guest's memory, and the kernel checks each access to it.
    let count = unsafe { libc::write(writer.as_raw_fd(), address.cast(), len) };
    Ok(outcome(count))
}

/// Has the kernel write `bytes` at `ipa`, by reading them from a pipe, under the conditions of [`syscall_read`].
pub fn syscall_write(ram: &GuestRam, ipa: u64, bytes: &[u8]) -> Result<i32> {
    let address = range(ram, ipa, bytes.len())?;
    let (reader, writer) = pipe()?;
    rustix::io::write(&writer, bytes).map_err(|e| Error::setup("write to a pipe", e))?;
    // SAFETY: as in `syscall_read`; and no Rust reference covers the guest's memory.
    let count = unsafe { libc::read(reader.as_raw_fd(), address.cast(), bytes.len()) };
    Ok(outcome(count))
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe().map_err(|e| Error::setup("pipe", e))
}

/// The error number that a system call left, 0 where it worked.
fn outcome(count: isize) -> i32 {
    if count < 0 {
        std::io::Error::last_os_error().raw_os_error().unwrap_or(-1)
    } else {
        0
    }
}

/// Has the kernel read `len` bytes at `ipa` through its own mapping of the page (`/proc/self/mem`). Of a private page
/// this is the access that takes it away from the guest.
pub fn remote_read(ram: &GuestRam, ipa: u64, len: usize) -> Result<Vec<u8>> {
    let address = range(ram, ipa, len)?;
    let mut bytes = vec![0; len];
    std::fs::File::open("/proc/self/mem")
        .and_then(|mem| mem.read_exact_at(&mut bytes, address as u64))
        .map_err(|e| Error::setup("read by /proc/self/mem", e))?;
    Ok(bytes)
}
