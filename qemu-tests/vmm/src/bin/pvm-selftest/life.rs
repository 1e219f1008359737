// SPDX-License-Identifier: GPL-2.0-only
//! The ends of protected VMs and of their VMMs, at every moment.

#![expect(
    unsafe_code,
    reason = "closes descriptors under running threads, forks and kills"
)]

use crate::{able, must, on_cpu, page_size, routines};
use pkvm_vmm::bench::{Bench, Cpu, FREE, FREE_IPA, RAM_SIZE, ROUTINES, Stop};
use pkvm_vmm::layout::RAM_BASE;
use pkvm_vmm::mapping::{Backing, Mapping};
use pkvm_vmm::monitor::{OP_CALL, OP_FILL};
use pkvm_vmm::report::{Report, line};
use pkvm_vmm::touch::load_at;
use pkvm_vmm::vm::Kind;
use pkvm_vmm::{Error, Result, system};
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;
use vmm_sys_util::signal::{Killable, SIGRTMIN};

/// A pVM lives and dies; nothing must be left of it.
fn life() -> Result<()> {
    let (bench, ram, mut cpus) = Bench::usual(Kind::Protected, 1, routines::code())?;
    must("store", cpus[0].store(FREE_IPA, 0x11fe))?;
    let shared = FREE_IPA + page_size() as u64;
    must("share", cpus[0].share(shared))?;
    drop(cpus);
    drop(bench);
    match load_at(&ram, FREE) {
        Ok(0) => Ok(()),
        other => Err(Error::Setup(format!("{other:x?} is left in its memory"))),
    }
}

/// Pins and stage-2 page tables must be as before, and a pVM must still work.
fn compare(report: &mut Report, before: system::Memory) {
    let after = system::settled();
    report.equal("every pin is dropped", after.pins, before.pins);
    report.equal("every stage-2 page table is freed", after.stage2, before.stage2);
    report.result("a pVM still works", life().map_err(|e| e.to_string()));
}

/// The guest stores to all of its free pages again and again.
fn busy(cpu: &mut Cpu) -> Stop {
    let pages = (RAM_SIZE - FREE) / 4096;
    let at = RAM_BASE + (ROUTINES + routines::touch_for_ever()) as u64;
    match cpu.command(OP_CALL, &[at, FREE_IPA, pages as u64, 1]) {
        Err(stop) => stop,
        Ok(answer) => Stop::Other(format!("{answer:x?}")),
    }
}

/// Descriptors closed, memory unmapped while vCPUs run.
pub fn teardown(report: &mut Report) -> Result<()> {
    let _hurry = system::Hurry::new();
    life()?;
    let before = system::settled();
    for round in 0..6_u64 {
        let (bench, ram, cpus) = Bench::usual(Kind::Protected, 2, routines::code())?;
        let fds: Vec<i32> = cpus.iter().map(|cpu| cpu.fd().as_raw_fd()).collect();
        let threads: Vec<_> = cpus
            .into_iter()
            .map(|mut cpu| {
                // Where the descriptor was replaced meanwhile, dropping the vCPU closes what took its place.
                std::thread::spawn(move || busy(&mut cpu))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(3 + 7 * round));
        let null = std::fs::File::open("/dev/null").map_err(|e| Error::setup("/dev/null", e))?;
        if round % 2 == 0 {
            for fd in &fds {
                // SAFETY: replaces the descriptor, which the thread still uses for nothing but KVM_RUN and its close.
                unsafe { libc::dup2(null.as_raw_fd(), *fd) };
            }
        }
        if round % 3 == 0 {
            able("munmap", ram.unmap(FREE, RAM_SIZE - FREE))?;
        }
        let stop = bench.stop().clone();
        drop(bench);
        std::thread::sleep(Duration::from_millis(5));
        stop.store(true, Ordering::SeqCst);
        for thread in threads {
            while !thread.is_finished() {
                let _ = thread.kill(SIGRTMIN());
                std::thread::sleep(Duration::from_millis(2));
            }
            let end = thread.join().map_err(|_| Error::Setup("a thread died".into()))?;
            let good = matches!(
                end,
                Stop::Told | Stop::Errno(libc::EFAULT | libc::ENOTTY | libc::EINVAL)
            );
            report.result(
                &format!("round {round}: the vCPU's thread comes home"),
                good.then_some(()).ok_or(format!("{end:x?}")),
            );
        }
    }
    compare(report, before);
    Ok(())
}

/// The words after which a VMM of [`phases`] is killed.
const PHASES: [&str; 6] = ["created", "vcpus", "running", "full", "shared", "ending"];

/// What a VMM to be killed does: it says which phase it is in, and stays in the one that it was told.
pub fn victim(phase: Option<&str>) -> Result<()> {
    let stay = phase.unwrap_or_default();
    let at = |name: &str| {
        line(name);
        if stay == name {
            loop {
                std::thread::park();
            }
        }
    };
    if stay == "created" {
        let _bench = able("KVM_CREATE_VM", Bench::create(Kind::Protected))?;
        at("created");
    }
    let (bench, _ram, mut cpus) = Bench::usual(Kind::Protected, 2, routines::code())?;
    at("vcpus");
    if stay == "running" {
        line("running");
        // All its life is a storm of faults: two vCPUs over all pages, again and again.
        std::thread::scope(|scope| {
            for mut cpu in cpus {
                scope.spawn(move || busy(&mut cpu));
            }
        });
        return Ok(());
    }
    let page = page_size() as u64;
    let pages = (RAM_SIZE - FREE) as u64 / page;
    must("fill", cpus[0].command(OP_FILL, &[FREE_IPA, pages, page, 1]))?;
    at("full");
    for n in 0..64 {
        must("share", cpus[1].share(FREE_IPA + n * page))?;
    }
    at("shared");
    if stay == "exec" {
        // A new program in its place, while a vCPU runs: its thread ends, the descriptors close, the memory goes.
        let mut other = cpus.remove(1);
        std::thread::spawn(move || busy(&mut other));
        std::thread::sleep(Duration::from_millis(20));
        let error = Command::new("/proc/self/exe").args(["victim", "anew"]).exec();
        return Err(Error::setup("exec", error));
    }
    line("ending");
    drop(cpus);
    drop(bench);
    Ok(())
}

fn start_victim(phase: &str) -> Result<std::process::Child> {
    Command::new("/proc/self/exe")
        .args(["victim", phase])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Error::setup("a VMM", e))
}

/// SIGKILL in each phase of a VMM's life.
pub fn killed(report: &mut Report) -> Result<()> {
    let _hurry = system::Hurry::new();
    life()?;
    drop(start_victim("none")?.wait());
    let before = system::settled();
    for phase in PHASES {
        let rounds: u64 = if matches!(phase, "running" | "ending") {
            5
        } else {
            1
        };
        for round in 0..rounds {
            let mut child = start_victim(phase)?;
            let reached = child.stdout.take().is_some_and(|out| {
                BufReader::new(out)
                    .lines()
                    .map_while(std::result::Result::ok)
                    .any(|text| text == phase)
            });
            // The moment after it: nothing, or in the midst of what it does.
            std::thread::sleep(Duration::from_millis(round * 4));
            let killed = child.kill().and_then(|()| child.wait());
            let how = killed.map(|status| std::os::unix::process::ExitStatusExt::signal(&status));
            report.result(
                &format!("a VMM killed when \"{phase}\", {} ms later", round * 4),
                match (reached, how) {
                    (true, Ok(Some(libc::SIGKILL))) => Ok(()),
                    // It may have come to its end before.
                    (true, Ok(None)) if phase == "ending" => Ok(()),
                    other => Err(format!("{other:?}")),
                },
            );
        }
        report.result("a pVM still works", life().map_err(|e| e.to_string()));
    }
    compare(report, before);
    Ok(())
}

/// A VMM that forks, and one that executes another program.
pub fn fork_exec(report: &mut Report) -> Result<()> {
    let _hurry = system::Hurry::new();
    life()?;
    let before = system::settled();
    // A child that outlives its parent's VM keeps no page of it, and cannot run the vCPU.
    let (bench, ram, mut cpus) = Bench::usual(Kind::Protected, 1, routines::code())?;
    must("store", cpus[0].store(FREE_IPA, 0xf02c))?;
    let vcpu = cpus[0].fd().as_raw_fd();
    const KVM_RUN: libc::c_ulong = 0xae80;
    // SAFETY: the child makes system calls alone until _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above; the descriptor is the parent's vCPU, whose memory this process does not have.
        unsafe {
            let refused = libc::ioctl(vcpu, KVM_RUN as _, 0) == -1 && *libc::__errno_location() == libc::EIO;
            libc::usleep(100_000);
            libc::_exit(i32::from(!refused));
        }
    }
    report.equal(
        "after a fork the guest has its page",
        cpus[0].load(FREE_IPA),
        Ok(0xf02c),
    );
    drop(cpus);
    drop(bench);
    report.result(
        "the end of the parent's VM waits for nothing but the descriptors",
        load_at(&ram, FREE + page_size())
            .map(drop)
            .map_err(|s| s.to_string()),
    );
    let mut status = 0;
    // SAFETY: the status is a local of the right type.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    report.equal("KVM_RUN in the child is EIO", status, 0);
    report.equal(
        "the page is back with the parent, zeroed",
        load_at(&ram, FREE),
        Ok(0),
    );
    drop(ram);
    let mut child = start_victim("exec")?;
    let status = child.wait().map_err(|e| Error::setup("a VMM", e))?;
    report.result(
        "a VMM that executes another VMM while its guest runs",
        status.success().then_some(()).ok_or(status.to_string()),
    );
    compare(report, before);
    Ok(())
}

/// One VM after another on the same memory, which the VMM never touches between: no word may pass.
pub fn reuse(report: &mut Report) -> Result<()> {
    let page = page_size();
    let ram = Mapping::new(RAM_SIZE, Backing::Anonymous)?;
    let mut left = 0_u64;
    for round in 0..6_u64 {
        able("sched_setaffinity", on_cpu((round & 1) as usize))?;
        let (bench, mut cpus) = Bench::on(&ram, Kind::Protected, 1, routines::code())?;
        for n in 0..32 {
            let ipa = FREE_IPA + n * page as u64;
            left += u64::from(must("load", cpus[0].load(ipa))? != 0);
            must("store", cpus[0].store(ipa, 0x1eaf_0000 + round))?;
        }
        drop(cpus);
        drop(bench);
        for n in 0..32 {
            left += u64::from(load_at(&ram, FREE + n * page) != Ok(0));
        }
    }
    report.equal(
        "words of an earlier VM that a later one or the host finds",
        left,
        0,
    );
    Ok(())
}
