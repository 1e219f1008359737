// SPDX-License-Identifier: GPL-2.0-only
//! What the VMM of a protected VM may ask KVM for, and what not.

use crate::regs::{is_undefined, mrs, msr};
use crate::{able, must, routines};
use kvm_bindings as kb;
use pkvm_vmm::Result;
use pkvm_vmm::bench::{Bench, FREE_IPA, RAM_SIZE};
use pkvm_vmm::mapping::{Backing, Mapping};
use pkvm_vmm::report::Report;
use pkvm_vmm::vm::Kind;

/// Capabilities by number (uapi/linux/kvm.h) that a pVM must not have.
const REFUSED: &[(&str, u64)] = &[
    ("KVM_CAP_SET_GUEST_DEBUG", 23),
    ("KVM_CAP_VCPU_EVENTS", 41),
    ("KVM_CAP_READONLY_MEM", 81),
    ("KVM_CAP_ARM_EL1_32BIT", 93),
    ("KVM_CAP_GUEST_DEBUG_HW_BPS", 119),
    ("KVM_CAP_GUEST_DEBUG_HW_WPS", 120),
    ("KVM_CAP_ARM_PMU_V3", 126),
    ("KVM_CAP_ARM_INJECT_SERROR_ESR", 158),
    ("KVM_CAP_ARM_SVE", 170),
    ("KVM_CAP_ARM_NISV_TO_USER", 177),
    ("KVM_CAP_ARM_INJECT_EXT_DABT", 178),
    ("KVM_CAP_STEAL_TIME", 187),
    ("KVM_CAP_PTP_KVM", 198),
    ("KVM_CAP_ARM_MTE", 205),
    ("KVM_CAP_ARM_SYSTEM_SUSPEND", 212),
    ("KVM_CAP_COUNTER_OFFSET", 227),
    ("KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE", 228),
    ("KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES", 229),
    ("KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES", 230),
];

/// Those that it must have.
const ALLOWED: &[(&str, u64)] = &[
    ("KVM_CAP_IRQCHIP", 0),
    ("KVM_CAP_NR_VCPUS", 9),
    ("KVM_CAP_MAX_VCPUS", 66),
    ("KVM_CAP_ARM_PSCI", 87),
    ("KVM_CAP_ARM_PSCI_0_2", 102),
    ("KVM_CAP_MAX_VCPU_ID", 128),
];

/// What a VMM may ask of a pVM, and what not.
pub fn caps(report: &mut Report) -> Result<()> {
    let pvm = able("KVM_CREATE_VM", Bench::create(Kind::Protected))?;
    let normal = able("KVM_CREATE_VM", Bench::create(Kind::Normal))?;
    let has = |bench: &Bench, cap: u64| bench.vm().check_extension_raw(cap as _);
    for (name, cap) in ALLOWED {
        let value = has(&pvm, *cap);
        report.result(
            &format!("a pVM has {name}"),
            (value > 0).then_some(()).ok_or(format!("{value}")),
        );
    }
    for (name, cap) in REFUSED {
        report.equal(&format!("a pVM does not have {name}"), has(&pvm, *cap), 0);
    }
    let lost = REFUSED.iter().filter(|(_, cap)| has(&normal, *cap) > 0).count();
    report.say(format_args!("a normal VM has {lost} of those"));
    report.result(
        "a normal VM has some of those",
        (lost >= 4).then_some(()).ok_or(format!("{lost}")),
    );
    for (name, cap) in [
        ("KVM_CAP_ARM_NISV_TO_USER", 177),
        ("KVM_CAP_ARM_MTE", 205),
        ("KVM_CAP_ARM_SYSTEM_SUSPEND", 212),
        ("KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE", 228),
    ] {
        let cap = kb::kvm_enable_cap {
            cap,
            args: [4096, 0, 0, 0],
            ..Default::default()
        };
        let enabled = pvm.vm().enable_cap(&cap).map_err(kvm_ioctls::Error::errno);
        report.say(format_args!("KVM_ENABLE_CAP {name}: {enabled:?}"));
        report.result(
            &format!("a pVM cannot enable {name}"),
            enabled.is_err().then_some(()).ok_or("it can".into()),
        );
    }
    // _IOW(KVMIO, nr, size)
    let iow = |number: u64, size: u64| 1 << 30 | size << 16 | 0xae << 8 | number;
    for (name, number, size) in [
        ("KVM_ARM_SET_COUNTER_OFFSET", 0xb5, 16),
        ("KVM_ARM_SET_DEVICE_ADDR", 0xab, 16),
        ("KVM_SET_DEVICE_ATTR", 0xe1, 24),
        ("KVM_HAS_DEVICE_ATTR", 0xe3, 24),
    ] {
        let seen = pvm.raw_ioctl(iow(number, size), &mut [0_u64; 8]);
        report.equal(&format!("{name} of a pVM"), seen, Err(libc::EINVAL));
    }
    let mut gic = kb::kvm_create_device {
        type_: kb::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2,
        fd: 0,
        flags: 0,
    };
    report.result(
        "a GICv2",
        pvm.vm()
            .create_device(&mut gic)
            .map_or(Ok(()), |_| Err("it was made".into())),
    );
    features(report)
}

/// Features of vCPUs that a pVM does not get, whatever the VMM asks for: it is refused, or the guest does not have them.
fn features(report: &mut Report) -> Result<()> {
    for (name, bit, register) in [
        ("AArch32 EL1", kb::KVM_ARM_VCPU_EL1_32BIT, None),
        ("SVE", kb::KVM_ARM_VCPU_SVE, Some([3, 0, 1, 2, 0])),
        ("the PMU", kb::KVM_ARM_VCPU_PMU_V3, Some([3, 3, 9, 12, 0])),
        ("EL2", kb::KVM_ARM_VCPU_HAS_EL2, Some([3, 4, 1, 1, 0])),
    ] {
        let ram = Mapping::new(RAM_SIZE, Backing::Anonymous)?;
        let (bench, cpus) = Bench::on_with(&ram, Kind::Protected, 1, routines::code(), 1 << bit)?;
        let mut cpus = match cpus {
            Ok(cpus) => cpus,
            Err(number) => {
                report.say(format_args!("{name}: KVM_ARM_VCPU_INIT gives errno {number}"));
                report.result(&format!("a pVM does not get {name}"), Ok(()));
                continue;
            }
        };
        if bit == kb::KVM_ARM_VCPU_SVE {
            let finalized = cpus[0]
                .fd()
                .vcpu_finalize(&bit.cast_signed())
                .map_err(kvm_ioctls::Error::errno);
            report.say(format_args!("KVM_ARM_VCPU_FINALIZE of {name}: {finalized:?}"));
        }
        let run = cpus[0].load(FREE_IPA);
        let result = match (run, register) {
            (Err(stop), _) => {
                report.say(format_args!("{name}: the first run gives {stop:x?}"));
                Ok(())
            }
            (Ok(_), None) => Err("it runs".into()),
            (Ok(_), Some(register)) => {
                must("CPACR_EL1", cpus[0].execute(msr([3, 0, 1, 0, 2]), 0x333 << 16))?;
                let read = cpus[0].execute(mrs(register), 0);
                report.say(format_args!(
                    "{name}: it runs, and a read of its register gives {read:x?}"
                ));
                is_undefined(&read, register)
                    .then_some(())
                    .ok_or(format!("{read:x?}"))
            }
        };
        report.result(&format!("a pVM does not get {name}"), result);
        drop(bench);
    }
    Ok(())
}
