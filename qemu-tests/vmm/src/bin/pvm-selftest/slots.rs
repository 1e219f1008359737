// SPDX-License-Identifier: GPL-2.0-only
//! What may be done to a protected VM's memory slots, and what may be behind them.

#![expect(
    unsafe_code,
    reason = "mount, memfd_create and capset have no safe binding here"
)]

use crate::{able, must, page_size, refused, routines};
use kvm_bindings as kb;
use pkvm_vmm::bench::{Bench, Cpu, FREE, FREE_IPA, RAM_SIZE, Stop};
use pkvm_vmm::layout::RAM_BASE;
use pkvm_vmm::mapping::{Backing, Mapping};
use pkvm_vmm::monitor::{HVC_FEATURES, OP_COUNT, OP_FILL};
use pkvm_vmm::report::Report;
use pkvm_vmm::touch::{SEGV_MAPERR, load_at, store_at};
use pkvm_vmm::vm::Kind;
use pkvm_vmm::{Error, Result, system};
use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

/// Where the slots that tests add begin.
const MORE: u64 = RAM_BASE + (64 << 20);

/// Moves, deletes, flags.
pub fn memslots(report: &mut Report) -> Result<()> {
    let page = page_size();
    for kind in [Kind::Protected, Kind::Normal] {
        let protected = kind == Kind::Protected;
        let of = if protected { "a pVM" } else { "a normal VM" };
        // What a pVM refuses is EPERM.
        let permitted = |normal| if protected { Err(libc::EPERM) } else { normal };
        let (bench, ram, mut cpus) = Bench::usual(kind, 1, routines::code())?;
        let cpu = &mut cpus[0];
        let more = Mapping::new(4 * page, Backing::Anonymous)?;
        let mut slot = |what: &str, slot, ipa, len, flags, wanted: std::result::Result<(), i32>| {
            let seen = bench.set_slot(slot, ipa, &more, 0, len, flags);
            report.equal(&format!("{of}: {what}"), seen, wanted);
        };
        slot(
            "a read-only slot",
            1,
            MORE,
            page,
            kb::KVM_MEM_READONLY,
            permitted(Ok(())),
        );
        slot(
            "which is deleted",
            1,
            MORE,
            0,
            0,
            if protected { Err(libc::EINVAL) } else { Ok(()) },
        );
        slot(
            "a slot with a dirty log",
            1,
            MORE,
            page,
            kb::KVM_MEM_LOG_DIRTY_PAGES,
            permitted(Ok(())),
        );
        slot(
            "which is deleted too",
            1,
            MORE,
            0,
            0,
            if protected { Err(libc::EINVAL) } else { Ok(()) },
        );
        slot("a plain slot before the first run", 1, MORE, page, 0, Ok(()));
        slot("moved before the first run", 1, MORE + (1 << 20), page, 0, Ok(()));
        slot("deleted before the first run", 1, MORE + (1 << 20), 0, 0, Ok(()));
        must("store", cpu.store(FREE_IPA, 0x5107))?;
        slot("a new slot after the first run", 2, MORE, 2 * page, 0, Ok(()));
        must("store", cpu.store(MORE, 0x5102))?;
        slot(
            "one that overlaps it",
            3,
            MORE + page as u64,
            page,
            0,
            Err(libc::EEXIST),
        );
        slot(
            "moved after the first run",
            2,
            MORE + (1 << 20),
            2 * page,
            0,
            permitted(Ok(())),
        );
        slot("moved back", 2, MORE, 2 * page, 0, Ok(()));
        slot(
            "a dirty log switched on",
            2,
            MORE,
            2 * page,
            kb::KVM_MEM_LOG_DIRTY_PAGES,
            permitted(Ok(())),
        );
        slot("another size", 2, MORE, page, 0, Err(libc::EINVAL));
        slot(
            "made read-only",
            2,
            MORE,
            2 * page,
            kb::KVM_MEM_READONLY,
            Err(libc::EINVAL),
        );
        let log = bench
            .vm()
            .get_dirty_log(2, 2 * page)
            .map_err(kvm_ioctls::Error::errno);
        report.equal(
            &format!("{of}: KVM_GET_DIRTY_LOG"),
            log.map(drop),
            if protected { Err(libc::ENOENT) } else { Ok(()) },
        );
        report.equal(
            &format!("{of}: the guest still has its memory"),
            cpu.load(FREE_IPA),
            Ok(0x5107),
        );
        report.equal(&format!("{of}: in the new slot too"), cpu.load(MORE), Ok(0x5102));
        let deleted = bench.set_slot(2, MORE, &more, 0, 0, 0);
        report.equal(
            &format!("{of}: deleted after the first run"),
            deleted,
            permitted(Ok(())),
        );
        let gone = cpu.load(MORE);
        let wanted = if protected {
            Ok(0x5102)
        } else {
            Err(Stop::MmioRead(MORE))
        };
        report.equal(&format!("{of}: what the guest finds there then"), gone, wanted);
        drop(ram);
    }
    Ok(())
}

/// Without CAP_IPC_LOCK, as any user's VMM: on this thread alone.
fn drop_ipc_lock() -> Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    // Version 3 of the interface: two words of each set.
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let without = !(1_u32 << 14);
    let data: [u32; 6] = [without, without, 0, 0x1ff, 0x1ff, 0];
    // SAFETY: both structures are as the interface's version 3 says, and the kernel only reads them.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if result == 0 {
        Ok(())
    } else {
        Err(Error::setup("capset", std::io::Error::last_os_error()))
    }
}

fn limit_locked(bytes: u64) -> Result<()> {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the structure is a local one.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } == 0 {
        Ok(())
    } else {
        Err(Error::setup("setrlimit", std::io::Error::last_os_error()))
    }
}

/// How many pages from [`FREE`] on the guest can store to before KVM_RUN fails, and how it fails.
fn stores(cpu: &mut Cpu, page: usize, from: u64, most: u64) -> (u64, Option<Stop>) {
    for n in from..most {
        if let Err(stop) = cpu.store(FREE_IPA + n * page as u64, n) {
            return (n, Some(stop));
        }
    }
    (most, None)
}

/// RLIMIT_MEMLOCK: each page counts, and the limit holds.
pub fn memlock(report: &mut Report) -> Result<()> {
    let page = page_size();
    let pages = |n: usize| (n * page) as u64;
    let locked = || system::memory().locked * 1024;
    let nomem = Some(Stop::Errno(libc::ENOMEM));
    limit_locked(0)?;
    drop_ipc_lock()?;
    let (bench, ram, mut cpus) = Bench::usual(Kind::Protected, 1, routines::code())?;
    let cpu = &mut cpus[0];
    report.equal(
        "with a limit of 0 the first page is refused",
        cpu.load(FREE_IPA),
        Err(Stop::Errno(libc::ENOMEM)),
    );
    report.equal("nothing is locked", locked(), 0);
    limit_locked(pages(16))?;
    let (count, stop) = stores(cpu, page, 0, 32);
    report.say(format_args!(
        "a limit of 16 pages lets the guest store to {count}, after those of the monitor"
    ));
    report.equal(
        "with a limit of 16 pages the guest stops with ENOMEM",
        stop,
        nomem.clone(),
    );
    report.equal("the 16 pages count as locked", locked(), pages(16));
    report.equal(
        "the same again",
        cpu.store(FREE_IPA + count * page as u64, count),
        Err(Stop::Errno(libc::ENOMEM)),
    );
    report.equal("which locks no more", locked(), pages(16));
    limit_locked(pages(20))?;
    let (more, stop) = stores(cpu, page, count, 32);
    report.equal("4 pages more let it store to 4 more", more - count, 4);
    report.equal("and it stops again", stop, nomem);
    able("restart", cpu.restart())?;
    let intact = (0..more).all(|n| cpu.load(FREE_IPA + n * page as u64) == Ok(n));
    report.result(
        "all that it stored is there",
        intact.then_some(()).ok_or("no".into()),
    );
    report.equal("sharing locks nothing", cpu.share(FREE_IPA), Ok(0));
    report.equal("20 pages count as locked", locked(), pages(20));
    report.result(
        "a page that was refused is still the host's",
        load_at(&ram, FREE + 40 * page)
            .map(drop)
            .map_err(|s| s.to_string()),
    );
    drop(cpus);
    drop(bench);
    report.equal("after the end nothing is locked", locked(), 0);
    let (_bench, _ram, mut cpus) = Bench::usual(Kind::Normal, 1, routines::code())?;
    let (count, stop) = stores(&mut cpus[0], page, 0, 32);
    report.equal(
        "a normal VM locks nothing",
        (count, stop, locked()),
        (32, None, 0),
    );
    Ok(())
}

/// A file without a name in the kernel's shared memory.
pub fn memfd(len: usize) -> Result<OwnedFd> {
    // SAFETY: the name is a constant C string.
    let fd = unsafe { libc::memfd_create(c"pvm".as_ptr(), 0) };
    if fd < 0 {
        return Err(Error::setup("memfd_create", std::io::Error::last_os_error()));
    }
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::fs::ftruncate(&fd, len as u64).map_err(|e| Error::setup("ftruncate", e))?;
    Ok(fd)
}

/// Mounts a file system of `kind` and makes a file of `len` bytes in it.
fn file_on(kind: &std::ffi::CStr, len: usize) -> Result<File> {
    let dir = format!("/tmp/{}-{}", kind.to_string_lossy(), std::process::id());
    std::fs::create_dir_all(&dir).map_err(|e| Error::setup(&dir, e))?;
    let target = std::ffi::CString::new(dir.as_str()).map_err(|e| Error::setup(&dir, e))?;
    // SAFETY: three C strings and no data.
    let result = unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    if result != 0 {
        return Err(Error::setup(
            format_args!("mount {dir}"),
            std::io::Error::last_os_error(),
        ));
    }
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(format!("{dir}/memory"))
        .map_err(|e| Error::setup(&dir, e))?;
    file.set_len(len as u64).map_err(|e| Error::setup(&dir, e))?;
    Ok(file)
}

/// What may be behind a slot: memory that can be swapped, and nothing else.
pub fn backing(report: &mut Report) -> Result<()> {
    let page = page_size();
    let len = 4 * page;
    let shm = memfd(len)?;
    let tmpfs = file_on(c"tmpfs", len)?;
    let ramfs = file_on(c"ramfs", len)?;
    let before = system::settled();
    let errno = |n| Err(Stop::Errno(n));
    for (what, backing, wanted) in [
        ("anonymous memory", Backing::Anonymous, Ok(())),
        ("shared anonymous memory", Backing::SharedAnonymous, Ok(())),
        ("a memfd", Backing::File(shm.as_fd()), Ok(())),
        ("a file of tmpfs", Backing::File(tmpfs.as_fd()), Ok(())),
        (
            "a file of ramfs",
            Backing::File(ramfs.as_fd()),
            errno(libc::EFAULT),
        ),
        ("memory that is read-only", Backing::ReadOnly, errno(libc::EFAULT)),
        ("no memory", Backing::Nothing, errno(libc::EFAULT)),
    ] {
        let (bench, _ram, mut cpus) = Bench::usual(Kind::Protected, 1, routines::code())?;
        let cpu = &mut cpus[0];
        let more = Mapping::new(len, backing)?;
        able("a slot", bench.set_slot(1, MORE, &more, 0, len, 0))?;
        let refused_page = wanted.is_err();
        report.equal(
            &format!("{what}: the guest's first store"),
            cpu.store(MORE, 0xbac),
            wanted.clone(),
        );
        if refused_page {
            report.equal(&format!("{what}: the second"), cpu.store(MORE, 0xbac), wanted);
            more.replace(0, len, Backing::Anonymous)?;
            report.equal(
                &format!("{what}: with anonymous memory in its place the guest goes on"),
                cpu.store(MORE, 0xbad),
                Ok(()),
            );
        }
        report.result(
            &format!("{what}: the host has lost the page"),
            refused(load_at(&more, 0)),
        );
        report.equal(
            &format!("{what}: MEM_SHARE of the next page"),
            cpu.share(MORE + page as u64),
            Ok(0),
        );
        report.equal(
            &format!("{what}: which both use"),
            (store_at(&more, page, 5), cpu.load(MORE + page as u64)),
            (Ok(()), Ok(5)),
        );
        drop(cpus);
        drop(bench);
        report.equal(&format!("{what}: zeroed at the end"), load_at(&more, 0), Ok(0));
    }
    let after = system::settled();
    report.equal("every pin is dropped", after.pins, before.pins);
    report.equal("every stage-2 page table is freed", after.stage2, before.stage2);
    Ok(())
}

/// How many words the guest still finds as it filled them.
fn count(cpu: &mut Cpu, page: usize, from: u64, pages: u64) -> std::result::Result<u64, Stop> {
    cpu.command(
        OP_COUNT,
        &[FREE_IPA + from * page as u64, pages, page as u64, 0x1000 + from],
    )
    .map(|[x0, ..]| x0)
}

/// What the VMM does to its own mapping of a running guest's memory.
pub fn remap(report: &mut Report) -> Result<()> {
    let page = page_size();
    let pages = 10;
    let before = system::settled();
    let (bench, ram, mut cpus) = Bench::usual(Kind::Protected, 1, routines::code())?;
    let cpu = &mut cpus[0];
    let at = |n: usize| FREE + n * page;
    let other = Mapping::new(page, Backing::Nothing)?;
    must(
        "fill",
        cpu.command(OP_FILL, &[FREE_IPA, pages, page as u64, 0x1000]),
    )?;

    ram.replace(at(0), page, Backing::Anonymous)?;
    report.equal(
        "MAP_FIXED over a page: the VMM has a new one",
        load_at(&ram, at(0)),
        Ok(0),
    );
    report.equal("which it may write", store_at(&ram, at(0), 0xbad), Ok(()));
    able("munmap", ram.unmap(at(1), page))?;
    let gone = load_at(&ram, at(1)).map_err(|segv| segv.code);
    report.equal("munmap: there is nothing", gone, Err(SEGV_MAPERR));
    ram.relocate(at(2), page, &other, 0)?;
    report.result(
        "mremap: the page is refused in its new place",
        refused(load_at(&other, 0)),
    );
    able("MADV_DONTNEED", ram.advise(at(3), page, libc::MADV_DONTNEED))?;
    report.equal(
        "MADV_DONTNEED: the VMM has a new page",
        load_at(&ram, at(3)),
        Ok(0),
    );
    able("mprotect", ram.protect(at(4), page, libc::PROT_NONE))?;
    for (n, advice, name) in [
        (5, libc::MADV_COLD, "MADV_COLD"),
        (6, libc::MADV_PAGEOUT, "MADV_PAGEOUT"),
        (7, libc::MADV_FREE, "MADV_FREE"),
        (8, libc::MADV_MERGEABLE, "MADV_MERGEABLE"),
        (9, 25, "MADV_COLLAPSE"),
    ] {
        let answer = ram.advise(at(n), page, advice);
        report.say(format_args!("{name}: {answer:?}"));
    }
    report.equal(
        "the guest has all its pages as they were",
        count(cpu, page, 0, pages),
        Ok(pages),
    );
    must("store", cpu.store(FREE_IPA, 0x1000))?;
    report.equal(
        "nothing of the guest's is in the VMM's new page",
        load_at(&ram, at(0)),
        Ok(0xbad),
    );
    ram.replace(at(1), page, Backing::Anonymous)?;
    report.equal(
        "memory mapped in a hole is not the guest's",
        count(cpu, page, 1, 1),
        Ok(1),
    );

    let (hole, hole_ipa) = (at(20), FREE_IPA + (20 * page) as u64);
    able("munmap", ram.unmap(hole, page))?;
    report.equal(
        "a page unmapped before the guest's first access is EFAULT",
        cpu.load(hole_ipa),
        Err(Stop::Errno(libc::EFAULT)),
    );
    ram.replace(hole, page, Backing::Anonymous)?;
    let _ = store_at(&ram, hole, 0x401e);
    report.equal(
        "once there is memory the guest goes on",
        cpu.load(hole_ipa),
        Ok(0x401e),
    );
    report.equal(
        "the guest still answers",
        cpu.hvc(HVC_FEATURES, [0; 3]).map(|x| x[0]),
        Ok(0x1d),
    );
    drop(cpus);
    drop(bench);
    report.equal("at the end the moved page is zero", load_at(&other, 0), Ok(0));
    report.equal("the VMM's new page is as it was", load_at(&ram, at(0)), Ok(0xbad));
    drop((ram, other));
    let after = system::settled();
    report.equal("every pin is dropped", after.pins, before.pins);
    report.equal("every stage-2 page table is freed", after.stage2, before.stage2);
    Ok(())
}

/// One page of memory for two owners: the second gets nothing until the first has gone.
pub fn two_owners(report: &mut Report) -> Result<()> {
    let page = page_size();
    let ram = Mapping::new(RAM_SIZE, Backing::Anonymous)?;
    let (first, mut cpus) = Bench::on(&ram, Kind::Protected, 1, routines::code())?;
    must("store", cpus[0].store(FREE_IPA, 0x111))?;

    able("an alias", first.set_slot(1, MORE, &ram, FREE, page, 0))?;
    report.equal(
        "a pVM cannot have its own page twice",
        cpus[0].load(MORE),
        Err(Stop::Errno(libc::EPERM)),
    );
    able("restart", cpus[0].restart())?;
    report.equal("and keeps it where it was", cpus[0].load(FREE_IPA), Ok(0x111));

    let (second, _own, mut others) = Bench::usual(Kind::Protected, 1, routines::code())?;
    able("a slot", second.set_slot(1, MORE, &ram, FREE, 2 * page, 0))?;
    report.equal(
        "another pVM cannot have it",
        others[0].load(MORE),
        Err(Stop::Errno(libc::EPERM)),
    );
    let (normal, _other, mut thirds) = Bench::usual(Kind::Normal, 1, routines::code())?;
    able("a slot", normal.set_slot(1, MORE, &ram, FREE, 2 * page, 0))?;
    report.equal(
        "nor can a normal VM",
        thirds[0].load(MORE),
        Err(Stop::Errno(libc::EPERM)),
    );
    report.equal("MEM_SHARE by its owner", cpus[0].share(FREE_IPA), Ok(0));
    report.equal(
        "what it shares with the host no other pVM can have",
        others[0].load(MORE),
        Err(Stop::Errno(libc::EPERM)),
    );
    report.equal(
        "nor a normal VM",
        thirds[0].load(MORE),
        Err(Stop::Errno(libc::EPERM)),
    );
    report.equal("the owner has it all the time", cpus[0].load(FREE_IPA), Ok(0x111));
    report.equal("MEM_UNSHARE", cpus[0].unshare(FREE_IPA), Ok(0));
    drop(cpus);
    drop(first);
    report.equal(
        "once its owner has gone a normal VM has it, zeroed",
        thirds[0].load(MORE),
        Ok(0),
    );
    must("store", thirds[0].store(MORE, 0x333))?;
    report.equal(
        "what a normal VM has no pVM can have",
        others[0].load(MORE),
        Err(Stop::Errno(libc::EPERM)),
    );
    drop(thirds);
    drop(normal);
    report.equal(
        "once that has gone too the pVM goes on with it",
        others[0].load(MORE),
        Ok(0x333),
    );
    report.result("and the host has lost it", refused(load_at(&ram, FREE)));
    Ok(())
}
