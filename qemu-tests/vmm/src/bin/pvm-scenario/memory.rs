// SPDX-License-Identifier: GPL-2.0-only
//! Who can see a protected guest's memory, page by page, told by a guest that does what the test says.

use crate::Context;
use crate::report::Report;
use crate::system;
use pkvm_vmm::bus::Outcome;
use pkvm_vmm::layout::RAM_BASE;
use pkvm_vmm::memory::{GuestRam, RamConfig};
use pkvm_vmm::monitor::{self, ENTRY, FREE, Failure, Monitor};
use pkvm_vmm::touch::{self, SEGV_ACCERR};
use pkvm_vmm::vm::Kind;
use pkvm_vmm::{Error, Result};

/// Memory of the VMs here: enough for all that the tests touch with pages of 64 KiB.
pub const RAM: RamConfig = RamConfig {
    size: 64 << 20,
    pool: 0,
    inherit: false,
};
/// SMCCC INVALID_PARAMETER.
const INVALID: u64 = (-3_i64).cast_unsigned();
/// SMCCC NOT_SUPPORTED.
const NOT_SUPPORTED: u64 = (-1_i64).cast_unsigned();
/// How many pages the guest fills, to be found zeroed at the end.
const PAGES: u64 = 256;

/// Bytes of a page, as the host's kernel has them.
pub fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// A failed command is a failed test.
pub fn worked<T>(result: std::result::Result<T, Failure>) -> std::result::Result<T, Error> {
    result.map_err(|failure| Error::Setup(failure.to_string()))
}

/// SIGSEGV with the code that the kernel gives for stage 2, or what came instead.
fn refused<T: std::fmt::Debug>(
    touched: std::result::Result<T, touch::Segv>,
) -> std::result::Result<(), String> {
    match touched {
        Err(segv) if segv.code == SEGV_ACCERR => Ok(()),
        other => Err(format!("{other:x?} instead of SIGSEGV with SEGV_ACCERR")),
    }
}

/// A touch in words.
fn told(touched: &std::result::Result<u64, touch::Segv>) -> String {
    touched
        .as_ref()
        .map_or_else(ToString::to_string, |word| format!("{word:#x}"))
}

/// How many words of the page at `ipa` are not zero. None: the host cannot read it.
fn nonzero_words(ram: &GuestRam, ipa: u64, page: u64) -> Option<u64> {
    (0..page / 8).try_fold(0, |count, index| {
        let word = touch::load(ram, ipa + index * 8).ok()?;
        Some(count + u64::from(word != 0))
    })
}

/// Main job, point 3.
pub fn memory(_: &Context, report: &mut Report) -> Result<()> {
    let page = page_size();
    let (shared, secret, victim, filled) = (FREE, FREE + page, FREE + 2 * page, FREE + 16 * page);
    let before = system::settled();
    report.say("a protected VM starts; its guest does what this test tells it");
    let vm = Monitor::start(Kind::Protected, 1, RAM)?;
    let ram = vm.vm().ram().clone();

    report.say(format_args!(
        "the guest writes 0x5eed0001 to {shared:#x} and shares that page"
    ));
    worked(vm.store(shared, 0x5eed_0001))?;
    report.equal("the guest shares a page", worked(vm.share(shared))?, 0);
    let seen = touch::load(&ram, shared);
    report.say(format_args!("the host reads there: {}", told(&seen)));
    report.equal("the host reads the guest's pattern in it", seen, Ok(0x5eed_0001));
    report.equal(
        "the host writes to it",
        touch::store(&ram, shared, 0x0405_7000),
        Ok(()),
    );
    report.equal(
        "the guest reads what the host wrote",
        worked(vm.load(shared))?,
        0x0405_7000,
    );

    report.equal("the guest takes the page back", worked(vm.unshare(shared))?, 0);
    let touched = touch::load(&ram, shared);
    report.say(format_args!("the host reads there: {}", told(&touched)));
    report.result("the host has lost it", refused(touched));
    report.equal(
        "the guest still has its content",
        worked(vm.load(shared))?,
        0x0405_7000,
    );
    report.equal("the guest shares it again", worked(vm.share(shared))?, 0);
    report.equal(
        "the host sees it again",
        touch::load(&ram, shared),
        Ok(0x0405_7000),
    );

    report.say(format_args!("the guest keeps 0x5ec7e7 at {secret:#x} to itself"));
    worked(vm.store(secret, 0x5e_c7e7))?;
    let touched = touch::load(&ram, secret);
    report.say(format_args!("the VMM loads from it: {}", told(&touched)));
    report.result("a load of a private page is a SIGSEGV", refused(touched));
    report.result(
        "a store to a private page is a SIGSEGV",
        refused(touch::store(&ram, secret, 0)),
    );
    let read = touch::syscall_read(&ram, secret, 64)?;
    report.say(format_args!(
        "a system call reads from it: {}",
        std::io::Error::from_raw_os_error(read)
    ));
    report.equal("a system call that reads it gets EFAULT", read, libc::EFAULT);
    let written = touch::syscall_write(&ram, secret, &[0xff; 64])?;
    report.equal("a system call that writes it gets EFAULT", written, libc::EFAULT);
    report.equal(
        "the guest's secret is untouched",
        worked(vm.load(secret))?,
        0x5e_c7e7,
    );

    report.say(format_args!("the guest fills {PAGES} pages"));
    worked(vm.fill(filled, PAGES * 8, page / 8, 0x1111_0000))?;
    worked(vm.store(victim, 0xdead_beef))?;
    let locked = system::memory().locked * 1024 / page;
    report.say(format_args!("{locked} pages count as locked memory of the VMM"));
    report.result(
        "the guest's pages count as locked",
        (locked > PAGES).then_some(()).ok_or(format!("{locked}")),
    );

    report.say(format_args!(
        "the host's kernel itself reads {victim:#x} (by /proc/self/mem)"
    ));
    let taken = touch::remote_read(&ram, victim, page as usize)?;
    let zero = taken.iter().all(|byte| *byte == 0);
    report.result(
        "it gets the page, zeroed",
        zero.then_some(()).ok_or("it read something else".into()),
    );
    report.equal(
        "other pages stay with the guest",
        worked(vm.count(filled, PAGES * 8, page / 8, 0x1111_0000))?,
        PAGES * 8,
    );
    let end = vm.load(victim);
    report.say(format_args!(
        "the guest loads from it: {}",
        end.as_ref()
            .map_or_else(ToString::to_string, |v| format!("{v:#x}"))
    ));
    let fault = Err(Failure::Ended(Err(Error::Run {
        cpu: 0,
        errno: libc::EFAULT,
    })));
    report.equal(
        "the guest ends with EFAULT from KVM_RUN when it touches that page",
        end,
        fault,
    );

    report.say("the VM is destroyed; its memory is still mapped");
    vm.destroy();
    let private = [ENTRY, secret, victim]
        .into_iter()
        .chain((0..PAGES).map(|n| filled + n * page));
    let mut dirty = Vec::new();
    for ipa in private {
        match nonzero_words(&ram, ipa, page) {
            Some(0) => {}
            Some(words) => dirty.push(format!("{ipa:#x}: {words} words are not zero")),
            None => dirty.push(format!("{ipa:#x}: the host cannot read it")),
        }
    }
    let first = dirty.first().map_or(Ok(()), |first| {
        Err(format!("{} pages, the first: {first}", dirty.len()))
    });
    report.result("every private page is back with the host, zeroed", first);
    let back = touch::load(&ram, shared);
    report.equal("the shared page is back with its content", back, Ok(0x0405_7000));
    report.equal("no memory counts as locked", system::memory().locked, 0);
    drop(ram);
    let after = system::settled();
    report.equal("every pin is dropped", after.pins, before.pins);
    report.equal("every stage-2 page table is freed", after.stage2, before.stage2);
    Ok(())
}

/// The guest's hypercalls: what they answer, to bad arguments too.
pub fn calls(_: &Context, report: &mut Report) -> Result<()> {
    let page = page_size();
    let vm = Monitor::start(Kind::Protected, 1, RAM)?;
    let ram = vm.vm().ram().clone();
    let bitmap = worked(vm.hvc(monitor::HVC_FEATURES, [0; 3]))?;
    report.say(format_args!("the hypervisor offers the guest calls {bitmap:x?}"));
    report.equal(
        "FEATURES names itself, MEMINFO, MEM_SHARE and MEM_UNSHARE",
        bitmap,
        [0x1d, 0, 0, 0],
    );
    report.equal(
        "MEMINFO is the page size",
        worked(vm.hvc(monitor::HVC_MEMINFO, [0; 3]))?[0],
        page,
    );
    for index in 0..3 {
        let mut args = [0; 3];
        args[index] = 1;
        let answer = worked(vm.hvc(monitor::HVC_MEMINFO, args))?[0];
        report.equal(&format!("MEMINFO with a nonzero x{}", index + 1), answer, INVALID);
    }
    for (name, call) in [
        ("MEM_SHARE", monitor::HVC_MEM_SHARE),
        ("MEM_UNSHARE", monitor::HVC_MEM_UNSHARE),
    ] {
        let bad = [
            [FREE + 8, 0, 0],
            [FREE + page - 1, 0, 0],
            [FREE, 1, 0],
            [FREE, 0, 1],
            [!0, 0, 0],
            [1 << 60, 0, 0],
        ];
        for args in bad {
            // An aligned address that no guest can have may also be refused as memory that is not there.
            let answer = worked(vm.hvc(call, args))?[0];
            report.equal(&format!("{name} of {args:x?}"), answer, INVALID);
        }
    }
    report.equal(
        "MEM_UNSHARE of a page never touched",
        worked(vm.unshare(FREE + 4 * page))?,
        INVALID,
    );
    report.equal(
        "MEM_SHARE of a page never touched",
        worked(vm.share(FREE + 4 * page))?,
        0,
    );
    report.equal(
        "the host reads zero there",
        touch::load(&ram, FREE + 4 * page),
        Ok(0),
    );
    report.equal(
        "MEM_SHARE of a shared page",
        worked(vm.share(FREE + 4 * page))?,
        INVALID,
    );
    report.equal("MEM_UNSHARE of it", worked(vm.unshare(FREE + 4 * page))?, 0);
    report.equal(
        "MEM_UNSHARE of it again",
        worked(vm.unshare(FREE + 4 * page))?,
        INVALID,
    );
    report.equal(
        "an unknown call",
        worked(vm.hvc(0xc600_0063, [0; 3]))?[0],
        NOT_SUPPORTED,
    );
    report.say("the guest shares the page with its own code and goes on running from it");
    report.equal("MEM_SHARE of the page it runs from", worked(vm.share(ENTRY))?, 0);
    report.equal(
        "MEM_UNSHARE of the page it runs from",
        worked(vm.unshare(ENTRY))?,
        0,
    );
    report.equal("the guest powers off", vm.power_off(), Ok(Outcome::PowerOff));
    Ok(())
}

/// A normal VM: its memory is the host's all the time.
pub fn normal(_: &Context, report: &mut Report) -> Result<()> {
    let page = page_size();
    let before = system::settled();
    let vm = Monitor::start(Kind::Normal, 1, RAM)?;
    let ram = vm.vm().ram().clone();
    worked(vm.fill(FREE, 4096, 8, 7))?;
    let seen = touch::load(&ram, FREE + page);
    report.equal(
        "the host reads what a normal guest writes",
        seen,
        Ok(7 + page / 8),
    );
    report.equal(
        "the host writes to its memory",
        touch::store(&ram, FREE, 42),
        Ok(()),
    );
    report.equal("the guest reads what the host wrote", worked(vm.load(FREE))?, 42);
    let read = touch::remote_read(&ram, FREE, 8)?;
    report.equal("so does the host's kernel", read, 42_u64.to_le_bytes().to_vec());
    report.equal(
        "the guest is not offered MEM_SHARE",
        worked(vm.hvc(monitor::HVC_FEATURES, [0; 3]))?[0] & 0x1c,
        0,
    );
    report.equal(
        "and the call is not there",
        worked(vm.share(FREE))?,
        NOT_SUPPORTED,
    );
    worked(vm.store(RAM_BASE + RAM.size - 8, 1))?;
    report.equal("the guest powers off", vm.power_off(), Ok(Outcome::PowerOff));
    vm.destroy();
    drop(ram);
    let after = system::settled();
    report.equal("every stage-2 page table is freed", after.stage2, before.stage2);
    Ok(())
}
