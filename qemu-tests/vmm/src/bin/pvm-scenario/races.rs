// SPDX-License-Identifier: GPL-2.0-only
//! Guest and host at the same memory at the same time.

use crate::Context;
use crate::memory::{RAM, page_size, worked};
use crate::report::Report;
use crate::stress::{compare, fork_once, life};
use crate::system;
use pkvm_vmm::layout::{RAM_ALIGN, RAM_BASE};
use pkvm_vmm::memory::{GuestRam, RamConfig};
use pkvm_vmm::monitor::{FREE, Failure, Monitor, OP_COUNT, OP_FILL, OP_STORM};
use pkvm_vmm::touch::{self, SEGV_ACCERR};
use pkvm_vmm::vm::Kind;
use pkvm_vmm::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Pages that each storm goes round.
const PAGES: u64 = 4;

/// What the host's thread saw of the guest's pages.
#[derive(Debug, Default)]
struct Seen {
    readable: u64,
    refused: u64,
    other: u64,
}

/// A thread that loads from `pages` pages at `ipa` in turn until told to stop.
struct Toucher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Toucher {
    fn start(ram: Arc<GuestRam>, ipa: u64, pages: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            while !told.load(Ordering::Relaxed) {
                for index in 0..pages {
                    match touch::load(&ram, ipa + index * page_size()) {
                        Ok(_) => seen.readable += 1,
                        Err(segv) if segv.code == SEGV_ACCERR => seen.refused += 1,
                        Err(_) => seen.other += 1,
                    }
                }
            }
            seen
        });
        Self { stop, thread }
    }

    fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// A protected VM with both vCPUs waiting for commands.
fn pair(kind: Kind, ram: RamConfig) -> Result<Monitor> {
    let vm = Monitor::start(kind, 2, ram)?;
    match worked(vm.cpu_on(1))? {
        0 => Ok(vm),
        answer => Err(Error::Setup(format!("CPU_ON answered {answer:#x}"))),
    }
}

/// Runs a command on both vCPUs at once and returns their first two results.
fn both(vm: &Monitor, op: u64, args: [[u64; 4]; 2]) -> [std::result::Result<[u64; 2], Failure>; 2] {
    let posted = [0, 1].map(|cpu| vm.post(cpu, op, &args[cpu]));
    let mut cpu = 0;
    posted.map(|posted| {
        let reply = posted.and_then(|()| vm.reply(cpu));
        cpu += 1;
        reply.map(|reply| [reply.results[0], reply.results[1]])
    })
}

/// Sharing and taking back on two vCPUs, on pages of their own and on the same ones, under the host's eyes.
pub fn storm(context: &Context, report: &mut Report) -> Result<()> {
    let _hurry = system::Hurry::new();
    let page = page_size();
    let rounds = context.count.unwrap_or(500);
    life(0)?;
    let before = system::settled();

    let vm = pair(Kind::Protected, RAM)?;
    let ram = vm.vm().ram().clone();
    worked(vm.fill(FREE, 2 * PAGES, page, 1))?;
    report.say(format_args!(
        "two vCPUs share and unshare pages of their own, {rounds} times each, while the host looks"
    ));
    let toucher = Toucher::start(ram.clone(), FREE, 2 * PAGES);
    let [a, b] = both(
        &vm,
        OP_STORM,
        [
            [FREE, rounds, page, PAGES],
            [FREE + PAGES * page, rounds, page, PAGES],
        ],
    );
    let seen = toucher.stop();
    report.say(format_args!(
        "the host could read {} times and was refused {} times",
        seen.readable, seen.refused
    ));
    report.equal("vCPU 0 shares and takes back each time", worked(a)?, [rounds; 2]);
    report.equal("vCPU 1 shares and takes back each time", worked(b)?, [rounds; 2]);
    report.equal("the host saw nothing but pages and SIGSEGV", seen.other, 0);

    report.say("both do it on the same pages");
    let toucher = Toucher::start(ram.clone(), FREE, PAGES);
    let [a, b] = both(&vm, OP_STORM, [[FREE, rounds, page, PAGES]; 2]);
    let seen = toucher.stop();
    let ([shared_a, taken_a], [shared_b, taken_b]) = (worked(a)?, worked(b)?);
    report.say(format_args!(
        "{shared_a} + {shared_b} times shared, {taken_a} + {taken_b} times taken back; the host could read {} times",
        seen.readable
    ));
    let readable = (0..PAGES)
        .filter(|index| touch::load(&ram, FREE + index * page).is_ok())
        .count() as u64;
    report.equal(
        "what is still shared is what the calls left shared",
        readable,
        shared_a + shared_b - taken_a - taken_b,
    );
    vm.destroy();
    drop(ram);

    for round in 0..4 {
        let vm = pair(Kind::Protected, RAM)?;
        let ram = vm.vm().ram().clone();
        worked(vm.fill(FREE, PAGES, page, 1))?;
        let thief = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(5 + round * 10));
            for index in 0..PAGES {
                // A page that is shared just then is read as it is; else it is taken.
                let _ = touch::remote_read(&ram, FREE + index * page, 8);
            }
        });
        let ends = both(&vm, OP_STORM, [[FREE, rounds, page, PAGES]; 2]);
        let _ = thief.join();
        let fault = |end: &std::result::Result<_, Failure>| match end {
            Ok(_)
            | Err(Failure::Ended(Err(Error::Run {
                errno: libc::EFAULT, ..
            }))) => Ok(()),
            Err(failure) => Err(failure.to_string()),
        };
        let how = ends
            .iter()
            .find_map(|end| end.as_ref().err())
            .map_or("goes on".into(), ToString::to_string);
        report.say(format_args!(
            "round {round}: the host takes the pages meanwhile; the guest: {how}"
        ));
        report.result(
            &format!("round {round}: the guest goes on or ends with EFAULT"),
            ends.iter().try_for_each(fault),
        );
    }
    compare(report, before, system::settled(), 5);
    report.result("a protected VM still works", life(1).map_err(|e| e.to_string()));
    Ok(())
}

/// All that a host's kernel does to the memory of a normal VM, while the guest writes to it.
pub fn churn(context: &Context, report: &mut Report) -> Result<()> {
    let _hurry = system::Hurry::new();
    // The first VM leaves the kernel's huge zero page behind, so it does not count.
    churn_one(report, 0..1)?;
    let before = system::settled();
    churn_one(report, 1..1 + context.count.unwrap_or(4))?;
    compare(report, before, system::settled(), 1);
    Ok(())
}

fn churn_one(report: &mut Report, rounds: std::ops::Range<u64>) -> Result<()> {
    let page = page_size();
    let vm = pair(Kind::Normal, RamConfig { inherit: true, ..RAM })?;
    let ram = vm.vm().ram().clone();
    // Two stretches that huge pages fit under, one for each vCPU.
    let [low, high] = [RAM_BASE + RAM_ALIGN, RAM_BASE + 2 * RAM_ALIGN];
    let words = RAM_ALIGN / page;
    let fill = |first| {
        worked(
            both(
                &vm,
                OP_FILL,
                [[low, words, page, first], [high, words, page, first]],
            )
            .into_iter()
            .collect(),
        )
    };
    let count = |first| -> Result<[u64; 2]> {
        let [a, b] = both(
            &vm,
            OP_COUNT,
            [[low, words, page, first], [high, words, page, first]],
        );
        Ok([worked(a)?[0], worked(b)?[0]])
    };
    let all = [words; 2];
    for round in rounds {
        let first = 1 + round * 0x1_0000;
        let mut step = |name: &str, seen: Result<[u64; 2]>, wanted: [u64; 2]| {
            report.equal(&format!("round {round}: {name}"), seen, Ok(wanted));
        };
        let _: Vec<_> = fill(first)?;
        step("two vCPUs write and read", count(first), all);

        std::fs::write("/proc/self/clear_refs", "1").map_err(|e| Error::setup("clear_refs", e))?;
        step("after its pages were marked old", count(first), all);

        ram.discard(low, RAM_ALIGN)?;
        step("after half was discarded", count(first), [0, words]);
        let _: Vec<_> = fill(first)?;

        fork_once()?;
        step("after a fork", count(first), all);
        let _: Vec<_> = fill(first + 1)?;
        step("after the guest wrote to copies", count(first + 1), all);

        let collapsed = ram.collapse(low, 2 * RAM_ALIGN);
        step(
            "after huge pages were put under it",
            collapsed.and_then(|()| count(first + 1)),
            all,
        );
        ram.discard(low + 16 * page, page)?;
        step(
            "after one page of a huge one was discarded",
            count(first + 1),
            [words - 1, words],
        );
        worked(vm.store(low + 16 * page, first + 1 + 16))?;

        vm.vm().log_dirty_pages(true)?;
        worked(vm.fill(high, 10, page, first + 1))?;
        step(
            "the log of dirty pages has ten",
            vm.vm().dirty_pages().map(|n| [n.into(), 10]),
            [10, 10],
        );
        worked(vm.fill(high + 4 * page, 3, page, first + 5))?;
        step("then three", vm.vm().dirty_pages().map(|n| [n.into(), 3]), [3, 3]);
        vm.vm().log_dirty_pages(false)?;
        step("after the log", count(first + 1), all);
    }
    vm.destroy();
    Ok(())
}
