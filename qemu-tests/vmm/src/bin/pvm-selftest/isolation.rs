// SPDX-License-Identifier: GPL-2.0-only
//! What must not pass between vCPUs, VMs and the host on one CPU.

use crate::{able, must, on_cpu, routines};
use kvm_bindings as kb;
use pkvm_vmm::Result;
use pkvm_vmm::bench::{Answer, Bench, Cpu, FREE, FREE_IPA, Stop};
use pkvm_vmm::fpregs::{self, Registers};
use pkvm_vmm::layout::RAM_BASE;
use pkvm_vmm::mapping::Mapping;
use pkvm_vmm::monitor::{ENTRY, OP_COUNT, OP_FILL, OP_FP};
use pkvm_vmm::report::Report;
use pkvm_vmm::touch::{load_at, store_at};
use pkvm_vmm::vm::Kind;
use std::sync::atomic::{AtomicBool, Ordering};

/// Writes the page tables of one vCPU into the guest's memory at `offset`: the devices and the memory one to one, and at
/// 0x8000_0000 the page at `offset` + 0x3000. Returns TTBR0_EL1 with an ASID that both vCPUs use.
fn tables(ram: &Mapping, offset: usize, word: u64) -> u64 {
    const BLOCK: u64 = 1 | 1 << 10;
    const NORMAL: u64 = 1 << 2 | 3 << 8;
    const NOT_GLOBAL: u64 = 1 << 11;
    let ipa = |at: usize| RAM_BASE + at as u64;
    let (l2, l3, page) = (offset + 0x1000, offset + 0x2000, offset + 0x3000);
    for (at, entry) in [
        (offset, BLOCK | 1 << 54 | 1 << 53),
        (offset + 8, RAM_BASE | BLOCK | NORMAL),
        (offset + 16, ipa(l2) | 3),
        (l2, ipa(l3) | 3),
        (l3, ipa(page) | 3 | 1 << 10 | NORMAL | NOT_GLOBAL),
        (page, word),
    ] {
        let _ = store_at(ram, at, entry);
    }
    ipa(offset) | 5 << 48
}

/// Runs each vCPU's command on a thread of its own, all on CPU 0 of the host and yielding it at each exit.
fn together(cpus: Vec<Cpu>, commands: Vec<(u64, Vec<u64>)>) -> Vec<Answer> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = cpus
            .into_iter()
            .zip(commands)
            .map(|(mut cpu, (op, args))| {
                scope.spawn(move || {
                    let _ = on_cpu(0);
                    cpu.be_polite();
                    cpu.command(op, &args)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(Stop::Other("panic".into()))))
            .collect()
    })
}

fn routine(offset: usize, args: [u64; 3]) -> (u64, Vec<u64>) {
    let at = RAM_BASE + (pkvm_vmm::bench::ROUTINES + offset) as u64;
    (pkvm_vmm::monitor::OP_CALL, vec![at, args[0], args[1], args[2]])
}

/// Two vCPUs of one VM that use one ASID for different tables, on one CPU.
pub fn siblings(report: &mut Report) -> Result<()> {
    for kind in [Kind::Protected, Kind::Normal] {
        let of = if kind == Kind::Protected {
            "a pVM"
        } else {
            "a normal VM"
        };
        let (_bench, ram, cpus) = Bench::usual(kind, 2, routines::code())?;
        let commands = [(FREE, 0xaaaa), (FREE + 0x10000, 0xbbbb)]
            .map(|(offset, word)| {
                let ttbr = tables(&ram, offset, word);
                routine(routines::watch_mapping(), [ttbr, 500, word])
            })
            .into();
        for (index, answer) in together(cpus, commands).into_iter().enumerate() {
            report.equal(
                &format!("{of}: vCPU {index} never sees its sibling's translation"),
                answer.map(|[wrong, last, ..]| (wrong, last)),
                Ok((0, 0)),
            );
        }
    }
    Ok(())
}

/// FP registers of two pVMs, a normal VM and the host, all on one CPU.
pub fn fp(report: &mut Report) -> Result<()> {
    const ROUNDS: u64 = 200;
    let mut vms = Vec::new();
    for kind in [Kind::Protected, Kind::Protected, Kind::Normal] {
        vms.push(Bench::usual(kind, 1, routines::code())?);
    }
    for exits in 0..4 {
        let stop = AtomicBool::new(false);
        let cpus: Vec<Cpu> = vms.iter_mut().filter_map(|(_, _, cpus)| cpus.pop()).collect();
        let (answers, cpus, watched) = std::thread::scope(|scope| {
            let watchers: Vec<_> = [Registers::Neon, Registers::Sve]
                .into_iter()
                .filter(|registers| registers.present())
                .map(|registers| {
                    let stop = &stop;
                    scope.spawn(move || {
                        let _ = on_cpu(0);
                        let mut changed = 0;
                        while !stop.load(Ordering::Relaxed) {
                            changed += registers.watch(0x4057_0000_0000_0000, 200);
                            std::thread::yield_now();
                        }
                        changed
                    })
                })
                .collect();
            let guests: Vec<_> = (1_u64..)
                .zip(cpus)
                .map(|(n, mut cpu)| {
                    scope.spawn(move || {
                        let _ = on_cpu(0);
                        cpu.be_polite();
                        let answer = cpu.command(OP_FP, &[n << 48, ROUNDS, exits]);
                        (answer, cpu)
                    })
                })
                .collect();
            let (answers, cpus): (Vec<_>, Vec<_>) = guests.into_iter().filter_map(|g| g.join().ok()).unzip();
            stop.store(true, Ordering::Relaxed);
            let watched: u64 = watchers.into_iter().map(|w| w.join().unwrap_or(1)).sum();
            (answers, cpus, watched)
        });
        let how = ["no exits", "hypercalls", "exits to the VMM", "both"][exits as usize];
        for (answer, who) in answers.into_iter().zip(["a pVM", "another pVM", "a normal VM"]) {
            report.equal(
                &format!("{how}: {who} keeps its registers"),
                answer.map(|x| x[0]),
                Ok(0),
            );
        }
        report.equal(&format!("{how}: the host keeps its own"), watched, 0);
        for ((_, _, list), cpu) in vms.iter_mut().zip(cpus) {
            list.push(cpu);
        }
    }
    Ok(())
}

/// Pointer authentication keys of two pVMs and the host, all on one CPU.
pub fn pauth(report: &mut Report) -> Result<()> {
    if !std::arch::is_aarch64_feature_detected!("paca") {
        report.say("this machine has no pointer authentication");
        let (_bench, _ram, mut cpus) = Bench::usual(Kind::Protected, 1, routines::code())?;
        let read = cpus[0].execute(0xd538_2100, 0);
        report.result(
            "the key registers are undefined",
            match read {
                Err(Stop::Exception(e)) if e.esr >> 26 == 0 => Ok(()),
                other => Err(format!("{other:x?}")),
            },
        );
        return Ok(());
    }
    let mine = fpregs::sign(0x4000_0000);
    let mut cpus = Vec::new();
    let mut vms = Vec::new();
    let mut commands = Vec::new();
    for (n, kind) in (1..).zip([Kind::Protected, Kind::Protected, Kind::Normal]) {
        let (bench, ram, list) = Bench::usual(kind, 1, routines::code())?;
        cpus.extend(list);
        vms.push((bench, ram));
        commands.push(routine(
            routines::watch_key(),
            [0x1111_2222_3333_4444 * n, 300, 0],
        ));
    }
    let stop = AtomicBool::new(false);
    let (answers, changed) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let _ = on_cpu(0);
            let mut changed = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                changed += u64::from(fpregs::sign(0x4000_0000) != mine);
                std::thread::yield_now();
            }
            changed
        });
        let answers = together(cpus, commands);
        stop.store(true, Ordering::Relaxed);
        (answers, watcher.join().unwrap_or(1))
    });
    let mut signed = vec![mine];
    for (answer, who) in answers.into_iter().zip(["a pVM", "another pVM", "a normal VM"]) {
        report.equal(
            &format!("{who}'s key stays its own"),
            answer.as_ref().map(|x| x[0]).map_err(Clone::clone),
            Ok(0),
        );
        signed.extend(answer.map(|x| x[1]));
    }
    report.equal("the host's key stays its own", changed, 0);
    signed.sort_unstable();
    signed.dedup();
    report.say(format_args!(
        "{} different signatures of one pointer",
        signed.len()
    ));
    report.result(
        "the keys differ",
        (signed.len() >= 3).then_some(()).ok_or(format!("{signed:x?}")),
    );
    Ok(())
}

/// A vCPU that goes to another CPU of the host before each run.
pub fn migration(report: &mut Report) -> Result<()> {
    let (_bench, ram, mut cpus) = Bench::usual(Kind::Protected, 2, routines::code())?;
    let mut wrong = 0;
    for round in 0..100_u64 {
        able("sched_setaffinity", on_cpu((round & 1) as usize))?;
        let cpu = &mut cpus[(round >> 1 & 1) as usize];
        let first = round << 32;
        must("fill", cpu.command(OP_FILL, &[FREE_IPA, 64, 0x400, first]))?;
        able("sched_setaffinity", on_cpu((round & 1 ^ 1) as usize))?;
        let found = must("count", cpu.command(OP_COUNT, &[FREE_IPA, 64, 0x400, first]))?;
        wrong += u64::from(found[0] != 64);
        wrong += must("FP", cpu.command(OP_FP, &[round << 40, 3, 3]))?[0];
    }
    report.equal("100 rounds of memory and registers", wrong, 0);
    for round in 0..40_u64 {
        able("sched_setaffinity", on_cpu((round & 1) as usize))?;
        let cpu = &mut cpus[0];
        wrong += must("share", cpu.share(FREE_IPA))?;
        able("sched_setaffinity", on_cpu((round & 1 ^ 1) as usize))?;
        wrong += u64::from(load_at(&ram, FREE).is_err());
        wrong += must("unshare", cpus[1].unshare(FREE_IPA))?;
        wrong += u64::from(load_at(&ram, FREE).is_ok());
    }
    report.equal("40 rounds of sharing here and taking back there", wrong, 0);
    Ok(())
}

/// A pVM that drops to AArch32 EL0, which it must not: it stays dead.
pub fn aarch32(report: &mut Report) -> Result<()> {
    let (bench, ram, mut cpus) = Bench::usual(Kind::Protected, 2, routines::code())?;
    let (left, right) = cpus.split_at_mut(1);
    let (cpu, other) = (&mut left[0], &mut right[0]);
    must("share", cpu.share(FREE_IPA))?;
    let counter = || load_at(&ram, FREE).unwrap_or(0);
    let first = cpu.call(routines::enter_aarch32(), [FREE_IPA, 0, 0]);
    report.say(format_args!(
        "an exception return to AArch32: {first:x?}, the counter: {}",
        counter()
    ));
    if let Err(Stop::Exception(e)) = first {
        // A CPU without AArch32 refuses the return itself.
        report.equal(
            "the CPU has no AArch32: an illegal state in the guest",
            e.esr >> 26,
            0xe,
        );
        report.equal("which goes on", cpu.store(FREE_IPA, 1), Ok(()));
        return Ok(());
    }
    report.equal("KVM_RUN ends with EINVAL", first, Err(Stop::Errno(libc::EINVAL)));
    let seen = counter();
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(cpu.run_once());
    }
    report.say(format_args!(
        "KVM_RUN five times more: {answers:x?}, the counter: {}",
        counter()
    ));
    report.equal(
        "a vCPU that was seen in AArch32 state runs no more",
        counter(),
        seen,
    );
    report.result(
        "KVM_RUN of it says so",
        answers
            .iter()
            .all(|answer| *answer == Stop::Errno(libc::EINVAL))
            .then_some(())
            .ok_or(format!("{answers:x?}")),
    );
    let reset = cpu.init(&bench, bench.features()).and_then(|()| cpu.restart());
    let again = cpu.load(FREE_IPA);
    report.say(format_args!("KVM_ARM_VCPU_INIT: {reset:?}; then: {again:x?}"));
    report.result(
        "nor after KVM_ARM_VCPU_INIT",
        again.is_err().then_some(()).ok_or(format!("{again:x?}")),
    );
    report.equal("its sibling works", other.load(FREE_IPA + 8), Ok(0));
    Ok(())
}

/// What a VMM gets by KVM_SET_GUEST_DEBUG, which EL1 does not refuse for a pVM.
pub fn debug(report: &mut Report) -> Result<()> {
    let (_bench, _ram, mut cpus) = Bench::usual(Kind::Protected, 1, routines::code())?;
    let cpu = &mut cpus[0];
    must("load", cpu.load(FREE_IPA))?;
    let set = |cpu: &Cpu, control: u32, bcr: u64, bvr: u64| {
        let mut debug = kb::kvm_guest_debug {
            control,
            ..Default::default()
        };
        debug.arch.dbg_bcr[0] = bcr;
        debug.arch.dbg_bvr[0] = bvr;
        cpu.fd().set_guest_debug(&debug).map_err(kvm_ioctls::Error::errno)
    };
    report.equal(
        "unknown bits are refused",
        set(cpu, kb::KVM_GUESTDBG_ENABLE | 1 << 31, 0, 0),
        Err(libc::EINVAL),
    );
    let step = kb::KVM_GUESTDBG_ENABLE | kb::KVM_GUESTDBG_SINGLESTEP;
    report.equal("single-step is accepted", set(cpu, step, 0, 0), Ok(()));
    let mut pcs = Vec::new();
    for _ in 0..64 {
        let stop = cpu.run_once();
        if !matches!(stop, Stop::Debug(..)) {
            report.say(format_args!("after {} steps: {stop:x?}", pcs.len()));
            break;
        }
        pcs.push(able("KVM_GET_ONE_REG", cpu.pc())?);
    }
    let moved = pcs.windows(2).all(|pair| pair[0] != pair[1]);
    report.result(
        "each step leaves the guest one instruction further",
        (pcs.len() >= 2 && moved).then_some(()).ok_or(format!("{pcs:x?}")),
    );
    report.equal("it is switched off", set(cpu, 0, 0, 0), Ok(()));
    able("a new PC", cpu.restart())?;
    report.equal("the guest goes on", cpu.load(FREE_IPA), Ok(0));
    let hw = kb::KVM_GUESTDBG_ENABLE | kb::KVM_GUESTDBG_USE_HW;
    // Enabled, EL1 and EL0, all bytes of the word, at the monitor's first instruction.
    report.equal("a breakpoint is accepted", set(cpu, hw, 0x1e7, ENTRY), Ok(()));
    able("a new PC", cpu.restart())?;
    let hit = cpu.run_once();
    report.result(
        "the guest runs into it",
        matches!(hit, Stop::Debug(..))
            .then_some(())
            .ok_or(format!("{hit:x?}")),
    );
    report.equal("it is switched off too", set(cpu, 0, 0, 0), Ok(()));
    able("a new PC", cpu.restart())?;
    for (name, mrs) in [
        ("DBGBCR0_EL1", 0xd530_00a0),
        ("DBGBVR0_EL1", 0xd530_0080),
        ("MDSCR_EL1", 0xd530_0240),
    ] {
        report.equal(
            &format!("the guest reads {name} as zero"),
            cpu.execute(mrs, 1),
            Ok(0),
        );
    }
    report.equal("the guest goes on without", cpu.load(FREE_IPA), Ok(0));
    Ok(())
}
