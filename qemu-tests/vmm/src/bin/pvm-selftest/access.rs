// SPDX-License-Identifier: GPL-2.0-only
//! The host at pages that are a guest's: user space is refused, and the kernel takes the page away from the guest,
//! zeroed, rather than die of the access.

#![expect(
    unsafe_code,
    reason = "system calls that are given addresses of the guest's memory"
)]

use crate::slots::memfd;
use crate::{able, must, page_size, refused, routines};
use pkvm_vmm::bench::{Bench, Cpu, FREE, FREE_IPA, RAM_SIZE, Stop};
use pkvm_vmm::mapping::{Backing, Mapping};
use pkvm_vmm::monitor::{OP_COUNT, OP_FILL};
use pkvm_vmm::report::Report;
use pkvm_vmm::touch::{load_at, store_at};
use pkvm_vmm::vm::Kind;
use pkvm_vmm::{Error, Result, system};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// SMCCC INVALID_PARAMETER.
const INVALID: u64 = (-3_i64).cast_unsigned();

fn own_memory() -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .open("/proc/self/mem")
        .map_err(|e| Error::setup("/proc/self/mem", e))
}

/// A page taken from the guest by force.
pub fn poison(report: &mut Report) -> Result<()> {
    let page = page_size();
    let fault = || Err(Stop::Errno(libc::EFAULT));
    let before = system::settled();
    let (bench, ram, mut cpus) = Bench::usual(Kind::Protected, 2, routines::code())?;
    let (left, right) = cpus.split_at_mut(1);
    let (cpu, other) = (&mut left[0], &mut right[0]);
    let at = |n: usize| (FREE + n * page, FREE_IPA + (n * page) as u64);
    let mem = own_memory()?;
    let read = |offset: usize| {
        let mut bytes = vec![0xa5; page];
        mem.read_exact_at(&mut bytes, ram.address(offset) as u64)
            .map(|()| bytes.iter().filter(|byte| **byte != 0).count())
            .map_err(|e| e.raw_os_error().unwrap_or(-1))
    };
    must(
        "fill",
        cpu.command(OP_FILL, &[FREE_IPA, 32 * 512, page as u64 / 512, 0x5ec7_0000]),
    )?;

    let (offset, ipa) = at(0);
    report.equal(
        "the host's kernel reads a private page as zeros",
        read(offset),
        Ok(0),
    );
    report.equal(
        "the guest's access to it ends KVM_RUN with EFAULT",
        cpu.load(ipa),
        fault(),
    );
    report.equal("the next time too", cpu.load(ipa), fault());
    report.equal("the host has the page", load_at(&ram, offset), Ok(0));
    report.equal("and may write it", store_at(&ram, offset, 0xbad), Ok(()));
    report.equal("the guest never sees that", cpu.load(ipa), fault());
    report.equal("the other vCPU works", other.load(at(1).1), Ok(0x5ec7_0200));
    report.equal("until it comes to the page", other.load(ipa), fault());
    for (name, vcpu) in [("one", &mut *cpu), ("the other", &mut *other)] {
        able("a new PC", vcpu.restart())?;
        report.equal(
            &format!("a vCPU set past the access goes on: {name}"),
            vcpu.load(at(1).1),
            Ok(0x5ec7_0200),
        );
    }
    report.equal("MEM_SHARE of such a page", cpu.share(ipa), Ok(INVALID));
    report.equal("MEM_UNSHARE of it", cpu.unshare(ipa), Ok(INVALID));
    ram.replace(offset, page, Backing::Anonymous)?;
    report.equal(
        "another page in its place changes nothing",
        cpu.load(ipa),
        fault(),
    );
    able("a new PC", cpu.restart())?;

    let (offset, ipa) = at(2);
    let written = mem.write_at(&[0xff; 64], ram.address(offset) as u64);
    report.equal(
        "the host's kernel writes a private page",
        written.map_err(|e| e.kind()),
        Ok(64),
    );
    report.equal("it has what it wrote", load_at(&ram, offset), Ok(!0));
    report.equal("behind that are zeros", load_at(&ram, offset + 64), Ok(0));
    report.equal(
        "the guest has lost the page",
        cpu.store(ipa, 1).map(|()| 0),
        fault(),
    );
    able("a new PC", cpu.restart())?;

    let (offset, ipa) = at(3);
    must("share", cpu.share(ipa))?;
    report.result(
        "the kernel reads a shared page as it is",
        match read(offset) {
            Ok(1..) => Ok(()),
            seen => Err(format!("{seen:?}")),
        },
    );
    report.equal("which stays the guest's", cpu.load(ipa), Ok(0x5ec7_0600));
    must("unshare", cpu.unshare(ipa))?;
    report.equal("until it is taken back and read", read(offset), Ok(0));
    report.equal("then it is gone", cpu.load(ipa), fault());
    able("a new PC", cpu.restart())?;

    let rest = cpu.command(OP_COUNT, &[at(4).1, 28 * 512, page as u64 / 512, 0x5ec7_0800]);
    report.equal(
        "all other pages are as they were",
        rest.map(|x| x[0]),
        Ok(28 * 512),
    );
    // The page with the guest's own code, which follows its vectors.
    report.equal(
        "the kernel reads the guest's code",
        read(0x1000 / page * page),
        Ok(0),
    );
    report.equal("the guest ends", cpu.load(at(5).1), fault());
    drop(cpus);
    drop(bench);
    let nonzero = (4..32)
        .flat_map(|n| (0..page / 8).map(move |word| FREE + n * page + word * 8))
        .filter(|offset| load_at(&ram, *offset) != Ok(0))
        .count();
    report.equal("at the end nothing is left in memory", nonzero, 0);
    drop(ram);
    let after = system::settled();
    report.equal("every pin is dropped", after.pins, before.pins);
    report.equal("every stage-2 page table is freed", after.stage2, before.stage2);
    Ok(())
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe().map_err(|e| Error::setup("pipe", e))
}

/// The error number of a system call, or its value.
fn call(result: i64) -> std::result::Result<i64, i32> {
    if result < 0 {
        Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(-1))
    } else {
        Ok(result)
    }
}

/// What the host saw in a page by one way or another.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// The call failed.
    Errno(i32),
    /// Nothing but zeros came, or nothing was read.
    Zero,
    /// Something else came.
    Other(u64),
}

fn seen(bytes: &[u8]) -> Seen {
    let word = |chunk: &[u8]| {
        chunk
            .iter()
            .rev()
            .fold(0, |acc, byte| acc << 8 | u64::from(*byte))
    };
    bytes
        .chunks(8)
        .map(word)
        .find(|word| *word != 0)
        .map_or(Seen::Zero, Seen::Other)
}

fn iovec(address: *mut u8, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: address.cast(),
        iov_len: len,
    }
}

/// A child that attaches to this process and reads a word of it, as a debugger does.
fn peek(address: *mut u8) -> Result<Seen> {
    // The child writes what it saw to a pipe: error number and word.
    let (reader, writer) = pipe()?;
    // SAFETY: the child makes system calls alone until _exit, which is allowed after a fork of a process with threads.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut out = [0_i64; 2];
        let mut status = 0;
        // SAFETY: system calls on the parent's id and on locals.
        unsafe {
            let parent = libc::getppid();
            let none = std::ptr::null_mut::<libc::c_void>();
            if libc::ptrace(libc::PTRACE_ATTACH, parent, none, none) == 0
                && libc::waitpid(parent, &raw mut status, libc::__WALL) == parent
            {
                *libc::__errno_location() = 0;
                out[1] = libc::ptrace(libc::PTRACE_PEEKDATA, parent, address, none);
                out[0] = i64::from(*libc::__errno_location());
                libc::ptrace(libc::PTRACE_DETACH, parent, none, none);
            } else {
                out[0] = -1;
            }
            libc::write(writer.as_raw_fd(), out.as_ptr().cast(), 16);
            libc::_exit(0);
        }
    }
    drop(writer);
    let mut raw = [0; 16];
    let mut got = 0;
    while got < 16 {
        match rustix::io::read(&reader, &mut raw[got..]) {
            Ok(0) => return Err(Error::Setup("the debugger said nothing".into())),
            Ok(n) => got += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::setup("read a pipe", e)),
        }
    }
    let mut status = 0;
    // SAFETY: the status is a local of the right type.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    let (error, word) = raw.split_at(8);
    match i64::from_le_bytes(error.try_into().unwrap_or_default()) {
        0 => Ok(seen(word)),
        error => Ok(Seen::Errno(error as i32)),
    }
}

/// Writes one page of memory straight to a block device.
fn direct_write(address: *mut u8, page: usize) -> Result<Option<Seen>> {
    const LOOP_SET_FD: libc::c_ulong = 0x4c00;
    const LOOP_CLR_FD: libc::c_ulong = 0x4c01;
    let file = memfd(1 << 20)?;
    let Ok(device) = File::options()
        .read(true)
        .write(true)
        .custom_flags_direct()
        .open("/dev/loop0")
    else {
        return Ok(None);
    };
    // SAFETY: the argument is a descriptor.
    if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_FD as _, file.as_raw_fd()) } != 0 {
        return Ok(None);
    }
    // SAFETY: the range is a page of the guest's memory, and the kernel checks or takes what it reads.
    let result = call(unsafe { libc::pwrite(device.as_raw_fd(), address.cast(), page, 0) } as i64);
    // SAFETY: no argument.
    unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD as _, 0) };
    let mut bytes = vec![0; page];
    let through = File::from(file)
        .read_exact_at(&mut bytes, 0)
        .map(|()| seen(&bytes))
        .map_err(|e| Error::setup("the file behind the loop device", e))?;
    Ok(Some(result.map_or_else(Seen::Errno, |_| through)))
}

trait Direct {
    fn custom_flags_direct(&mut self) -> &mut Self;
}

impl Direct for std::fs::OpenOptions {
    fn custom_flags_direct(&mut self) -> &mut Self {
        std::os::unix::fs::OpenOptionsExt::custom_flags(self, libc::O_DIRECT)
    }
}

/// Writes one page of memory to a block device by io_uring, with the page registered as a buffer of its own.
fn ring_write(address: *mut u8, page: usize) -> Result<Seen> {
    // struct io_uring_params: what is asked for and, at these words, where the rings are.
    let mut params = [0_u32; 30];
    // SAFETY: the structure is 120 bytes long and zero, which asks for nothing special.
    let ring = call(unsafe { libc::syscall(libc::SYS_io_uring_setup, 2, params.as_mut_ptr()) });
    let Ok(ring) = ring.map(|fd| fd as i32) else {
        return Ok(Seen::Errno(libc::ENOSYS));
    };
    // SAFETY: the descriptor is new and nobody else's.
    let ring = unsafe { OwnedFd::from_raw_fd(ring) };
    let vec = iovec(address, page);
    const REGISTER_BUFFERS: u32 = 0;
    // SAFETY: one vector, a local; the kernel pins the page or refuses it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            REGISTER_BUFFERS,
            &raw const vec,
            1,
        )
    };
    if let Err(number) = call(result) {
        return Ok(Seen::Errno(number));
    }
    let map = |offset: i64| -> Result<*mut libc::c_void> {
        let (rw, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: the rings of two entries fit in a page; they stay mapped until the process ends.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), page, rw, shared, ring.as_raw_fd(), offset) };
        if at == libc::MAP_FAILED {
            return Err(Error::setup("the rings", std::io::Error::last_os_error()));
        }
        Ok(at)
    };
    let (queue, entries) = (map(0)?.cast::<u32>(), map(0x1000_0000)?.cast::<[u64; 8]>());
    let file = memfd(page)?;
    // struct io_uring_sqe: IORING_OP_WRITE_FIXED of buffer 0 to the file's start.
    let mut entry = [0_u64; 8];
    entry[0] = 5 | u64::from(file.as_raw_fd().cast_unsigned()) << 32;
    entry[2] = address as u64;
    entry[3] = page as u64;
    // Words 10 to 19 are the offsets of the submission ring: head, tail, ring_mask, ring_entries, flags, dropped, array.
    let [tail, array] = [params[11], params[16]].map(|offset| offset as usize / 4);
    // SAFETY: the offsets are the kernel's, into the ring that it shares; entry 0 is free, since none was submitted.
    unsafe {
        entries.write_volatile(entry);
        queue.add(array).write_volatile(0);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        queue.add(tail).write_volatile(1);
    }
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    const ENTER_GETEVENTS: u32 = 1;
    // SAFETY: one entry is submitted and waited for.
    let entered = unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            ring.as_raw_fd(),
            1,
            1,
            ENTER_GETEVENTS,
            0,
            0,
        )
    };
    if let Err(number) = call(entered) {
        return Ok(Seen::Errno(number));
    }
    let mut bytes = vec![0; page];
    File::from(file)
        .read_exact_at(&mut bytes, 0)
        .map(|()| seen(&bytes))
        .map_err(|e| Error::setup("the file behind the ring", e))
}

/// Each way has a page of its own that holds this and its number.
const SECRET: u64 = 0x5ec7_e700;

/// A way to a page: its name, whether the page is copied by the kernel's own mapping and so lost to the guest, and what
/// it does with the page's address.
type Way<'a> = (&'a str, bool, Box<dyn Fn(*mut u8) -> Result<Seen> + 'a>);

fn ways<'a>(page: usize) -> Vec<Way<'a>> {
    let errno = |result: std::result::Result<i64, i32>| result.map_or_else(Seen::Errno, |_| Seen::Zero);
    vec![
        (
            "write() to a pipe",
            false,
            Box::new(move |at| {
                let (_reader, writer) = pipe()?;
                // SAFETY: a page of the guest's memory; the kernel checks its own access. So below.
                Ok(errno(call(
                    unsafe { libc::write(writer.as_raw_fd(), at.cast(), page) } as i64,
                )))
            }),
        ),
        (
            "read() from a pipe",
            false,
            Box::new(move |at| {
                let (reader, writer) = pipe()?;
                rustix::io::write(&writer, &[0xff; 64]).map_err(|e| Error::setup("write", e))?;
                // SAFETY: as above.
                Ok(errno(call(
                    unsafe { libc::read(reader.as_raw_fd(), at.cast(), 64) } as i64,
                )))
            }),
        ),
        (
            "a path of a system call",
            false,
            Box::new(move |at| {
                // SAFETY: as above.
                Ok(errno(call(i64::from(unsafe { libc::access(at.cast(), 0) }))))
            }),
        ),
        (
            "a result of a system call",
            false,
            Box::new(move |at| {
                // SAFETY: as above.
                let result = unsafe { libc::syscall(libc::SYS_getcpu, at, 0, 0) };
                Ok(errno(call(result)))
            }),
        ),
        (
            "a futex",
            false,
            Box::new(move |at| {
                // SAFETY: as above; it never waits, since the value differs or cannot be read.
                let result =
                    unsafe { libc::syscall(libc::SYS_futex, at, libc::FUTEX_WAIT, 0xffff_ffff_u32, 0) };
                Ok(errno(call(result)))
            }),
        ),
        (
            "process_vm_readv",
            true,
            Box::new(move |at| {
                let mut bytes = vec![0; page];
                let (local, remote) = (iovec(bytes.as_mut_ptr(), page), iovec(at, page));
                // SAFETY: the local buffer is as long as said; the remote one is a page of the guest's memory.
                let result = unsafe {
                    libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0)
                };
                Ok(call(result as i64).map_or_else(Seen::Errno, |_| seen(&bytes)))
            }),
        ),
        ("PTRACE_PEEKDATA", true, Box::new(peek)),
        (
            "vmsplice",
            true,
            Box::new(move |at| {
                let (reader, writer) = pipe()?;
                let vec = iovec(at, page);
                // SAFETY: as above.
                let given = unsafe { libc::vmsplice(writer.as_raw_fd(), &raw const vec, 1, 0) };
                if let Err(number) = call(given as i64) {
                    return Ok(Seen::Errno(number));
                }
                let mut bytes = vec![0; page];
                let got = rustix::io::read(&reader, &mut bytes).map_err(|e| Error::setup("read", e))?;
                Ok(seen(&bytes[..got]))
            }),
        ),
        (
            "a registered buffer of io_uring",
            true,
            Box::new(move |at| ring_write(at, page)),
        ),
        (
            "O_DIRECT to a block device",
            true,
            Box::new(move |at| Ok(direct_write(at, page)?.unwrap_or(Seen::Errno(libc::ENODEV)))),
        ),
    ]
}

/// What came of a page after the host's access to it.
fn after(report: &mut Report, name: &str, taken: bool, cpu: &mut Cpu, ipa: u64, secret: u64) -> Result<()> {
    let found = cpu.load(ipa);
    if taken {
        report.equal(
            &format!("{name}: the guest has lost the page"),
            found,
            Err(Stop::Errno(libc::EFAULT)),
        );
        able("a new PC", cpu.restart())?;
    } else {
        report.equal(&format!("{name}: the guest still has it"), found, Ok(secret));
    }
    Ok(())
}

/// All ways to a private page that a host's user space has.
pub fn access(report: &mut Report) -> Result<()> {
    let page = page_size();
    let (bench, ram, mut cpus) = Bench::usual(Kind::Protected, 1, routines::code())?;
    let cpu = &mut cpus[0];
    for (n, (name, kernel, way)) in (0..).zip(ways(page)) {
        let (offset, ipa) = (FREE + n * page, FREE_IPA + (n * page) as u64);
        let secret = SECRET + n as u64;
        must("store", cpu.store(ipa, secret))?;
        let saw = way(ram.address(offset))?;
        report.say(format_args!("{name}: {saw:x?}"));
        let absent = matches!(saw, Seen::Errno(libc::ENOSYS | libc::ENODEV));
        if absent {
            report.say(format_args!("this kernel does not have that"));
            continue;
        }
        let good = match saw {
            Seen::Errno(libc::EFAULT) => true,
            Seen::Zero => kernel,
            _ => false,
        };
        report.result(
            &format!("{name}: nothing of it is seen"),
            good.then_some(()).ok_or(format!("{saw:x?}")),
        );
        after(report, name, kernel && saw == Seen::Zero, cpu, ipa, secret)?;
    }
    report.equal(
        "the guest still answers",
        cpu.store(FREE_IPA + 64 * page as u64, 1),
        Ok(()),
    );
    drop(cpus);
    drop(bench);
    files(report, page)
}

/// Guest memory that is a file: the file's own system calls go to the pages that the guest has.
fn files(report: &mut Report, page: usize) -> Result<()> {
    let fd = memfd(RAM_SIZE)?;
    let ram = Mapping::new(RAM_SIZE, Backing::File(fd.as_fd()))?;
    let file = File::from(fd.try_clone().map_err(|e| Error::setup("dup", e))?);
    let (bench, mut cpus) = Bench::on(&ram, Kind::Protected, 1, routines::code())?;
    let cpu = &mut cpus[0];
    let at = |n: usize| ((FREE + n * page) as u64, FREE_IPA + (n * page) as u64);
    for n in 0..6 {
        must("store", cpu.store(at(n).1, SECRET + n as u64))?;
    }
    let mut bytes = vec![0xff; page];
    let result = file.read_exact_at(&mut bytes, at(0).0);
    report.equal(
        "read() of the guest's memory file gives zeros",
        result.map(|()| seen(&bytes)).map_err(|e| e.kind()),
        Ok(Seen::Zero),
    );
    after(report, "read() of the file", true, cpu, at(0).1, SECRET)?;
    let result = file.write_all_at(&[0xff; 8], at(1).0);
    report.result(
        "write() to the file does not harm the kernel",
        result.map_err(|e| e.to_string()),
    );
    after(report, "write() to the file", true, cpu, at(1).1, SECRET + 1)?;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let len = (page as u64).cast_signed();
    // SAFETY: no memory is passed.
    let punched = call(i64::from(unsafe {
        libc::fallocate(file.as_raw_fd(), mode, at(2).0.cast_signed(), len)
    }));
    report.equal("a hole punched in the file", punched, Ok(0));
    after(
        report,
        "a hole punched in the file",
        false,
        cpu,
        at(2).1,
        SECRET + 2,
    )?;
    report.equal(
        "the host has a new page there",
        load_at(&ram, at(2).0 as usize),
        Ok(0),
    );
    // The kernel zeroes the rest of the last page.
    let half = at(3).0 + page as u64 / 2;
    report.result(
        "the file cut in the middle of a page",
        rustix::fs::ftruncate(&fd, half).map_err(|e| e.to_string()),
    );
    let lost = matches!(cpu.load(at(3).1), Err(Stop::Errno(libc::EFAULT)));
    report.say(format_args!("the guest has lost that page: {lost}"));
    if lost {
        able("a new PC", cpu.restart())?;
    }
    after(report, "a page behind the cut", false, cpu, at(4).1, SECRET + 4)?;
    let gone = load_at(&ram, at(0).0 as usize).map(drop);
    report.equal("what is left of the file is the host's to read", gone, Ok(()));
    report.result("but for the guest's pages", refused(load_at(&ram, 0)));
    drop(cpus);
    drop(bench);
    Ok(())
}
