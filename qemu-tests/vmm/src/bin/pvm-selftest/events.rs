// SPDX-License-Identifier: GPL-2.0-only
//! What happens to a vCPU from outside: PSCI of its siblings, interrupts, timers, SErrors.

use crate::{able, must, routines};
use kvm_bindings as kb;
use pkvm_vmm::bench::{Bench, Cpu, FREE_IPA, ROUTINES, Stop};
use pkvm_vmm::layout::RAM_BASE;
use pkvm_vmm::monitor::OP_HVC;
use pkvm_vmm::report::Report;
use pkvm_vmm::vm::Kind;
use pkvm_vmm::{Error, Result};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::{Killable, SIGRTMIN};

const PSCI_VERSION: u64 = 0x8400_0000;
const CPU_OFF: u64 = 0x8400_0002;
const CPU_ON: u64 = 0xc400_0003;
const AFFINITY_INFO: u64 = 0xc400_0004;
const MIGRATE_INFO_TYPE: u64 = 0x8400_0006;
const SYSTEM_OFF: u64 = 0x8400_0008;
const SYSTEM_RESET: u64 = 0x8400_0009;
const PSCI_FEATURES: u64 = 0x8400_000a;
const SYSTEM_SUSPEND: u64 = 0xc400_000e;
const SYSTEM_RESET2: u64 = 0xc400_0012;

/// PSCI's errors.
const NOT_SUPPORTED: i32 = -1;
const INVALID_PARAMETERS: i32 = -2;
const ALREADY_ON: i32 = -4;

fn psci(cpu: &mut Cpu, function: u64, args: [u64; 3]) -> std::result::Result<i32, Stop> {
    cpu.hvc(function, args).map(|[x0, ..]| x0 as i32)
}

/// Waits until AFFINITY_INFO of vCPU 1 is `wanted`.
fn until(cpu: &mut Cpu, wanted: i32) -> std::result::Result<i32, Stop> {
    let start = Instant::now();
    loop {
        let state = psci(cpu, AFFINITY_INFO, [1, 0, 0])?;
        if state == wanted || start.elapsed() > Duration::from_secs(10) {
            return Ok(state);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A vCPU on a thread of its own that runs one command.
struct Thread {
    thread: std::thread::JoinHandle<(Cpu, pkvm_vmm::bench::Answer)>,
}

impl Thread {
    fn start(mut cpu: Cpu, op: u64, args: Vec<u64>) -> Self {
        Self {
            thread: std::thread::spawn(move || {
                let answer = cpu.command(op, &args);
                (cpu, answer)
            }),
        }
    }

    fn join(self) -> Result<(Cpu, pkvm_vmm::bench::Answer)> {
        self.thread
            .join()
            .map_err(|_| Error::Setup("a vCPU's thread died".into()))
    }

    /// Takes it out of the guest.
    fn kick(self, bench: &Bench) -> Result<(Cpu, pkvm_vmm::bench::Answer)> {
        bench.stop().store(true, Ordering::SeqCst);
        while !self.thread.is_finished() {
            let _ = self.thread.kill(SIGRTMIN());
            std::thread::sleep(Duration::from_millis(2));
        }
        bench.stop().store(false, Ordering::SeqCst);
        self.join()
    }
}

/// A routine as a command.
fn routine(offset: usize, args: [u64; 3]) -> Vec<u64> {
    vec![RAM_BASE + (ROUTINES + offset) as u64, args[0], args[1], args[2]]
}

/// Bringing vCPUs up and down.
pub fn psci_calls(report: &mut Report) -> Result<()> {
    let (bench, _ram, mut cpus) = Bench::usual(Kind::Protected, 2, routines::code())?;
    let second = cpus.pop().ok_or_else(|| Error::Setup("no vCPU".into()))?;
    let cpu = &mut cpus[0];
    able(
        "KVM_ARM_VCPU_INIT",
        second.init(&bench, bench.features() | 1 << kb::KVM_ARM_VCPU_POWER_OFF),
    )?;
    let version = must("PSCI_VERSION", psci(cpu, PSCI_VERSION, [0; 3]))?;
    report.say(format_args!("PSCI {}.{}", version >> 16, version & 0xffff));
    report.result(
        "PSCI is 1.0 or later",
        (version >= 0x1_0000).then_some(()).ok_or(format!("{version:#x}")),
    );
    report.equal(
        "PSCI_FEATURES of CPU_ON",
        psci(cpu, PSCI_FEATURES, [CPU_ON, 0, 0]),
        Ok(0),
    );
    report.equal(
        "PSCI_FEATURES of an unknown call",
        psci(cpu, PSCI_FEATURES, [0x8400_00ff, 0, 0]),
        Ok(NOT_SUPPORTED),
    );
    report.equal(
        "MIGRATE_INFO_TYPE: nothing to migrate",
        psci(cpu, MIGRATE_INFO_TYPE, [0; 3]),
        Ok(2),
    );
    report.equal(
        "SYSTEM_SUSPEND, which the VMM did not offer",
        psci(cpu, SYSTEM_SUSPEND, [0; 3]),
        Ok(NOT_SUPPORTED),
    );
    report.equal(
        "an unknown call of PSCI",
        psci(cpu, 0x8400_00ff, [0; 3]),
        Ok(NOT_SUPPORTED),
    );
    let entry = RAM_BASE + (ROUTINES + routines::secondary()) as u64;
    report.equal(
        "CPU_ON of a vCPU that is not",
        psci(cpu, CPU_ON, [7, entry, 0]),
        Ok(INVALID_PARAMETERS),
    );
    report.equal(
        "CPU_ON of itself",
        psci(cpu, CPU_ON, [0, entry, 0]),
        Ok(ALREADY_ON),
    );
    report.equal(
        "AFFINITY_INFO of itself: on",
        psci(cpu, AFFINITY_INFO, [0, 0, 0]),
        Ok(0),
    );
    report.equal(
        "AFFINITY_INFO of the other: off",
        psci(cpu, AFFINITY_INFO, [1, 0, 0]),
        Ok(1),
    );
    report.equal(
        "AFFINITY_INFO of no vCPU",
        psci(cpu, AFFINITY_INFO, [7, 0, 0]),
        Ok(INVALID_PARAMETERS),
    );

    let context = 0x0123_4567_89ab_cdef;
    let waiting = Thread::start(
        second,
        pkvm_vmm::monitor::OP_CALL,
        routine(routines::boot_state(), [1, 0, 0]),
    );
    report.equal("CPU_ON", psci(cpu, CPU_ON, [1, entry, context]), Ok(0));
    let (mut second, state) = waiting.join()?;
    let [x0, el, daif, sctlr] = must("the state at entry", state)?;
    report.equal("it starts with the context in x0", x0, context);
    report.equal("at EL1", el, 1 << 2);
    report.equal("with all exceptions masked", daif, 0xf << 6);
    report.equal("with the MMU and the caches off", sctlr & 0x1005, 0);
    report.equal("CPU_ON again", psci(cpu, CPU_ON, [1, entry, 0]), Ok(ALREADY_ON));
    report.equal("AFFINITY_INFO: on", psci(cpu, AFFINITY_INFO, [1, 0, 0]), Ok(0));
    must("store", second.store(FREE_IPA, 0x2222))?;
    report.equal("both see the same memory", cpu.load(FREE_IPA), Ok(0x2222));

    let leaving = Thread::start(second, OP_HVC, vec![CPU_OFF, 0, 0, 0]);
    report.equal("CPU_OFF: AFFINITY_INFO says off", until(cpu, 1), Ok(1));
    report.equal(
        "CPU_ON where there is no memory",
        psci(cpu, CPU_ON, [1, 0x2000_0000, 0]),
        Ok(0),
    );
    std::thread::sleep(Duration::from_millis(50));
    report.equal("the other vCPU does not notice", cpu.load(FREE_IPA), Ok(0x2222));
    let (second, end) = leaving.kick(&bench)?;
    report.say(format_args!("the vCPU that has nothing to execute: {end:x?}"));
    report.equal("it never ran", cpu.load(FREE_IPA), Ok(0x2222));
    drop(second);

    for (name, call, event) in [
        ("SYSTEM_OFF", SYSTEM_OFF, 0),
        ("SYSTEM_RESET", SYSTEM_RESET, 1),
        ("SYSTEM_RESET2", SYSTEM_RESET2, 1),
    ] {
        let (_bench, _ram, mut cpus) = Bench::usual(Kind::Protected, 1, routines::code())?;
        report.equal(name, psci(&mut cpus[0], call, [0; 3]), Err(Stop::Event(event)));
    }
    Ok(())
}

/// ICC_SGI1R_EL1 for an SGI to the vCPUs in `targets`, a bit for each.
fn sgi(id: u64, targets: u64) -> u64 {
    id << 24 | targets
}

/// Takes interrupts: how many, and the last one's INTID.
fn take(cpu: &mut Cpu, count: u64, looks: u64) -> std::result::Result<(u64, u64), Stop> {
    cpu.call(routines::irq_take(), [count, looks, 0])
        .map(|[came, id, ..]| (came, id))
}

/// More than a test needs.
const LOOKS: u64 = 100_000;

/// SGIs, PPIs and SPIs of a pVM.
pub fn interrupts(report: &mut Report) -> Result<()> {
    let (bench, _ram, mut cpus) = Bench::usual(Kind::Protected, 2, routines::code())?;
    for (index, cpu) in (0..).zip(&mut cpus) {
        must(
            "the interrupt controller",
            cpu.call(routines::irq_setup(), [index, 0, 0]),
        )?;
    }
    let mut other = cpus.pop().ok_or_else(|| Error::Setup("no vCPU".into()))?;
    let cpu = &mut cpus[0];
    let send = |cpu: &mut Cpu, value| cpu.call(routines::sgi_send(), [value, 0, 0]).map(drop);
    report.equal("none comes by itself", take(cpu, 0, 20), Ok((0, 1023)));
    must("SGI", send(cpu, sgi(3, 1)))?;
    report.equal("an SGI to itself", take(cpu, 1, LOOKS), Ok((1, 3)));
    must("SGI", send(cpu, sgi(5, 2)))?;
    report.equal("an SGI to the other", take(&mut other, 1, LOOKS), Ok((1, 5)));
    report.equal("which the sender does not get", take(cpu, 0, 20), Ok((0, 1023)));
    must("SGI", send(&mut other, sgi(6, 3)))?;
    report.equal("an SGI to both: here", take(cpu, 1, LOOKS), Ok((1, 6)));
    report.equal("an SGI to both: there", take(&mut other, 1, LOOKS), Ok((1, 6)));
    for id in 0..16 {
        must("SGI", send(cpu, sgi(id, 1)))?;
    }
    report.equal(
        "16 SGIs that wait, more than the CPU has list registers for",
        take(cpu, 16, LOOKS).map(|(count, _)| count),
        Ok(16),
    );
    report.equal("none twice", take(cpu, 0, 20), Ok((0, 1023)));

    // While it waits in the guest.
    let waiting = Thread::start(
        other,
        pkvm_vmm::monitor::OP_CALL,
        routine(routines::irq_take(), [1, LOOKS, 0]),
    );
    std::thread::sleep(Duration::from_millis(20));
    must("SGI", send(cpu, sgi(9, 2)))?;
    let (mut other, answer) = waiting.join()?;
    report.equal(
        "an SGI to a vCPU that runs",
        answer.map(|[count, id, ..]| (count, id)),
        Ok((1, 9)),
    );

    let line = |kind: u32, vcpu: u32, id: u32, level| {
        let irq = kind << kb::KVM_ARM_IRQ_TYPE_SHIFT | vcpu << kb::KVM_ARM_IRQ_VCPU_SHIFT | id;
        bench
            .vm()
            .set_irq_line(irq, level)
            .map_err(kvm_ioctls::Error::errno)
    };
    able("KVM_IRQ_LINE", line(kb::KVM_ARM_IRQ_TYPE_SPI, 0, 40, true))?;
    report.equal("an SPI by KVM_IRQ_LINE", take(cpu, 1, LOOKS), Ok((1, 40)));
    able("KVM_IRQ_LINE", line(kb::KVM_ARM_IRQ_TYPE_SPI, 0, 40, false))?;
    report.equal("an edge comes once", take(cpu, 0, 20), Ok((0, 1023)));
    able("KVM_IRQ_LINE", line(kb::KVM_ARM_IRQ_TYPE_PPI, 1, 20, true))?;
    able("KVM_IRQ_LINE", line(kb::KVM_ARM_IRQ_TYPE_PPI, 1, 20, false))?;
    let ppi = must("a PPI", take(&mut other, 0, 20))?;
    report.say(format_args!("a PPI that was lowered again: {ppi:?}"));
    let event = EventFd::new(libc::EFD_NONBLOCK).map_err(|e| Error::setup("eventfd", e))?;
    // GSI n is SPI n, INTID 32 + n.
    let registered = bench
        .vm()
        .register_irqfd(&event, 10)
        .map_err(kvm_ioctls::Error::errno);
    report.equal("KVM_IRQFD", registered, Ok(()));
    event.write(1).map_err(|e| Error::setup("eventfd", e))?;
    report.equal("an SPI by irqfd", take(cpu, 1, LOOKS), Ok((1, 42)));
    report.equal("comes once", take(cpu, 0, 20), Ok((0, 1023)));
    Ok(())
}

/// CNTVCT_EL0 of the host.
fn host_ticks() -> u64 {
    pkvm_vmm::fpregs::ticks()
}

/// Both timers and the counter.
pub fn timers(report: &mut Report) -> Result<()> {
    let (_bench, _ram, mut cpus) = Bench::usual(Kind::Protected, 1, routines::code())?;
    let cpu = &mut cpus[0];
    must(
        "the interrupt controller",
        cpu.call(routines::irq_setup(), [0, 0, 0]),
    )?;
    let before = host_ticks();
    let [back, first, last, frequency] = must("ticks", cpu.call(routines::count_ticks(), [10_000, 0, 0]))?;
    let after = host_ticks();
    report.say(format_args!(
        "the guest saw {} ticks of {frequency} Hz",
        last - first
    ));
    report.equal("the counter never goes backwards", back, 0);
    report.result(
        "a pVM's virtual counter is the host's",
        (before <= first && first <= last && last <= after)
            .then_some(())
            .ok_or(format!("{before} <= {first} <= {last} <= {after}")),
    );
    // CNTPCT_EL0
    let before = host_ticks();
    let physical = cpu.execute(0xd53b_e020, 0);
    let after = host_ticks();
    report.result(
        "so is the physical one",
        match physical {
            Ok(value) if (before..=after).contains(&value) => Ok(()),
            other => Err(format!("{before} <= {other:?} <= {after}")),
        },
    );
    for (name, id) in [("virtual", 27), ("physical", 30)] {
        for round in 0..3 {
            must(
                "the timer",
                cpu.call(routines::timer_start(), [frequency / 500, id, 0]),
            )?;
            report.equal(
                &format!("round {round}: the {name} timer fires"),
                take(cpu, 1, LOOKS),
                Ok((1, id)),
            );
        }
        must(
            "the timer",
            cpu.call(routines::timer_start(), [0x7fff_ffff, id, 0]),
        )?;
        report.equal(
            &format!("the {name} timer does not fire before its time"),
            take(cpu, 0, 50),
            Ok((0, 1023)),
        );
        must("the timer", cpu.call(routines::timer_start(), [0, id, 0]))?;
        report.equal(
            &format!("the {name} timer of no time fires"),
            take(cpu, 1, LOOKS),
            Ok((1, id)),
        );
    }
    report.equal(
        "WFI waits for the virtual timer, twenty times",
        cpu.call(routines::wfi(), [20, 0, 0]).map(|[x0, ..]| x0),
        Ok(20),
    );
    Ok(())
}

/// A virtual SError, which must come once.
pub fn serror(report: &mut Report) -> Result<()> {
    for kind in [Kind::Protected, Kind::Normal] {
        let of = if kind == Kind::Protected {
            "a pVM"
        } else {
            "a normal VM"
        };
        let (_bench, _ram, mut cpus) = Bench::usual(kind, 1, routines::code())?;
        let cpu = &mut cpus[0];
        must("load", cpu.load(FREE_IPA))?;
        let pending = |cpu: &Cpu| {
            cpu.fd()
                .get_vcpu_events()
                .map(|e| e.exception.serror_pending)
                .map_err(kvm_ioctls::Error::errno)
        };
        let inject = |cpu: &Cpu, esr: Option<u64>| {
            let mut events = kb::kvm_vcpu_events::default();
            events.exception.serror_pending = 1;
            if let Some(esr) = esr {
                events.exception.serror_has_esr = 1;
                events.exception.serror_esr = esr;
            }
            cpu.fd()
                .set_vcpu_events(&events)
                .map_err(kvm_ioctls::Error::errno)
        };
        let taken = |cpu: &mut Cpu| cpu.call(routines::serror_take(), [50, 0, 0]);
        report.equal(&format!("{of}: none is pending"), pending(cpu), Ok(0));
        report.equal(&format!("{of}: none comes"), taken(cpu).map(|x| x[0]), Ok(0));
        able("KVM_SET_VCPU_EVENTS", inject(cpu, None))?;
        report.equal(
            &format!("{of}: KVM_GET_VCPU_EVENTS says pending"),
            pending(cpu),
            Ok(1),
        );
        must("load", cpu.load(FREE_IPA))?;
        report.equal(
            &format!("{of}: it stays so while the guest masks it"),
            pending(cpu),
            Ok(1),
        );
        let came = taken(cpu);
        report.say(format_args!(
            "{of}: taken in 50 rounds: {:?}",
            came.as_ref().map(|x| x[0])
        ));
        report.equal(
            &format!("{of}: the guest takes it once"),
            came.map(|x| x[0]),
            Ok(1),
        );
        report.equal(
            &format!("{of}: then it is no longer pending"),
            pending(cpu),
            Ok(0),
        );
        report.equal(
            &format!("{of}: and comes no more"),
            taken(cpu).map(|x| x[0]),
            Ok(0),
        );
        let ras = cpu
            .fd()
            .get_vcpu_events()
            .is_ok_and(|e| e.exception.serror_has_esr != 0);
        if ras {
            able("KVM_SET_VCPU_EVENTS", inject(cpu, Some(0x1234)))?;
            let syndrome = taken(cpu).map(|x| x[1] & 0x1ff_ffff);
            report.equal(&format!("{of}: with the VMM's syndrome"), syndrome, Ok(0x1234));
        }
    }
    Ok(())
}
