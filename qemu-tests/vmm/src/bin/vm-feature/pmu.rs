// SPDX-License-Identifier: GPL-2.0-only
//! Performance monitors: a guest's own, and the host's, which must not count guests where the host asked so.

#![expect(unsafe_code, reason = "perf_event_open has no wrapper")]

use crate::Skip;
use crate::code::{Code, class, regs};
use crate::machine::{Features, Machine, ioctl};
use crate::report::Report;
use kvm_bindings as kb;
use kvm_ioctls::Cap;
use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;

/// A guest counts its cycles.
pub fn guest(report: &mut Report) -> Result<(), Skip> {
    let mut code = Code::new();
    // Enabled, the cycle counter reset; the cycle counter is bit 31.
    code.mov(0, 1 | 4)
        .msr(regs::PMCR_EL0, 0)
        .mov(0, 1 << 31)
        .msr(regs::PMCNTENSET_EL0, 0)
        .isb()
        .mrs(1, regs::PMCCNTR_EL0)
        .spin(100_000)
        .mrs(2, regs::PMCCNTR_EL0)
        .report(0, 1)
        .report(1, 2)
        .mrs(0, regs::PMCR_EL0)
        .report(2, 0)
        .pause(0)
        .forever();
    let features = Features {
        bits: 1 << kb::KVM_ARM_VCPU_PMU_V3,
        vq: 0,
    };
    let kvm = kvm_ioctls::Kvm::new().map_err(ioctl("/dev/kvm"))?;
    if !kvm.check_extension(Cap::ArmPmuV3) {
        return Err(Skip("no performance monitors for guests".into()));
    }
    let mut machine = Machine::new(features, &code)?;
    let init = kb::kvm_device_attr {
        group: kb::KVM_ARM_VCPU_PMU_V3_CTRL,
        attr: u64::from(kb::KVM_ARM_VCPU_PMU_V3_INIT),
        ..Default::default()
    };
    machine
        .vcpu
        .set_device_attr(&init)
        .map_err(ioctl("KVM_ARM_VCPU_PMU_V3_INIT"))?;
    machine.run_to_pause()?;
    let (first, second) = (machine.reports[0], machine.reports[1]);
    report.say(format_args!(
        "PMCCNTR_EL0: {first}, then {second}; PMCR_EL0 {:#x}",
        machine.reports[2]
    ));
    if pkvm_vmm::vm::host_protects() {
        // The kernel counts guests by events of their own, and leaves EL2 without the list of these in this mode.
        report.say("counters of guests stand still in protected mode");
    } else {
        report.result(
            "the cycle counter counts",
            (second > first).then_some(()).ok_or("it stands still".into()),
        );
    }
    report.equal("PMCR_EL0 keeps its enable bit", machine.reports[2] & 1, 1);

    let mut without = Machine::new(Features::default(), &code)?;
    let stop = without.run();
    let undefined = matches!(stop, crate::machine::Stop::Exception(0x200, esr, _) if class(esr) == 0);
    report.result(
        "a guest without them finds no PMCR_EL0",
        undefined.then_some(()).ok_or(format!("{stop:x?}")),
    );
    Ok(())
}

/// A counter of this thread's cycles.
struct Counter(File);

/// Bits of `struct perf_event_attr`'s flags.
const EXCLUDE_HOST: u64 = 1 << 19;
const EXCLUDE_GUEST: u64 = 1 << 20;

impl Counter {
    fn new(flags: u64) -> Result<Self, Skip> {
        // PERF_ATTR_SIZE_VER0 is 64 bytes: type and size, config (0: cycles), period, sample type, read format, flags.
        let mut attr = [0_u64; 8];
        attr[0] = 64 << 32;
        attr[5] = flags;
        // SAFETY: the kernel reads the 64 bytes that the structure says it has.
        let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attr.as_ptr(), 0, -1, -1, 0) };
        if fd < 0 {
            return Err(Skip(format!(
                "perf_event_open: {}",
                std::io::Error::last_os_error()
            )));
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { File::from_raw_fd(fd as i32) }))
    }

    fn read(&mut self) -> u64 {
        let mut raw = [0; 8];
        let _ = self.0.read(&mut raw);
        u64::from_le_bytes(raw)
    }
}

/// Two counters of the host over a guest's long spin, of which each asks for one side only.
pub fn host(report: &mut Report) -> Result<(), Skip> {
    let mut code = Code::new();
    code.pause(0).spin(50_000_000).pause(0).forever();
    let mut machine = Machine::new(Features::default(), &code)?;
    machine.run_to_pause()?;
    let mut host = Counter::new(EXCLUDE_GUEST)?;
    let mut guest = Counter::new(EXCLUDE_HOST)?;
    let before = (host.read(), guest.read());
    machine.run_to_pause()?;
    let (in_host, in_guest) = (host.read() - before.0, guest.read() - before.1);
    report.say(format_args!(
        "while the guest spun: {in_host} cycles of the host, {in_guest} of the guest"
    ));
    report.result(
        "the guest's cycles are most of them",
        (in_guest > 4 * in_host && in_guest > 0)
            .then_some(())
            .ok_or(format!("{in_guest} are not four times {in_host}")),
    );
    Ok(())
}
