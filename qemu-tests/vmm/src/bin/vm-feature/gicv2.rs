// SPDX-License-Identifier: GPL-2.0-only
//! A guest with a GICv2, on a host that has one. Its CPU interface is the hardware's own, mapped into the guest or, where
//! that cannot be, reached through EL2.

use crate::Skip;
use crate::code::{self, Code, Vector};
use crate::machine::{Features, Gic, Machine, Stop};
use crate::report::Report;
use kvm_bindings as kb;

/// Distributor and CPU interface in the guest's memory.
const GICD: u64 = 0x0800_0000;
const GICC: u64 = 0x0801_0000;
const SPI: u32 = 34;
const IDLE: u64 = 0x77;

/// Interrupts are delivered, acknowledged and ended. With the word `trapped` after the test's name, accesses go through
/// EL2, which refuses those that are no words.
pub fn gicv2(report: &mut Report) -> Result<(), Skip> {
    let trapped = std::env::args().nth(2).is_some_and(|word| word == "trapped");
    let kvm = kvm_ioctls::Kvm::new().map_err(crate::machine::ioctl("/dev/kvm"))?;
    let vm = kvm.create_vm().map_err(crate::machine::ioctl("KVM_CREATE_VM"))?;
    let mut probe = kb::kvm_create_device {
        type_: kb::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2,
        fd: 0,
        flags: kb::KVM_CREATE_DEVICE_TEST,
    };
    if vm.create_device(&mut probe).is_err() {
        return Err(Skip("no GICv2 for guests on this host".into()));
    }
    drop(vm);

    let mut handler = Code::default();
    // Acknowledge; the pause lets the test take the line away before the end of the interrupt.
    handler
        .ldr_w(0, 21, 0xc)
        .report(0, 0)
        .mov(1, 1)
        .pause(1)
        .str_w(0, 21, 0x10)
        .eret();
    let mut program = Code::new();
    program
        .mov(20, GICD)
        .mov(21, GICC)
        // The interrupt is enabled, targets CPU 0, and the distributor is on.
        .mov(0, 1 << (SPI % 32))
        .str_w(0, 20, 0x100 + 4 * (SPI / 32))
        .mov(0, 0x0101_0101)
        .str_w(0, 20, 0x800 + SPI / 4 * 4)
        .mov(0, 1)
        .str_w(0, 20, 0)
        // All priorities, and the interface is on.
        .mov(0, 0xf0)
        .str_w(0, 21, 4)
        .ldr_w(0, 21, 4)
        .report(1, 0)
        .mov(0, 1)
        .str_w(0, 21, 0)
        .unmask(2 | 4)
        .mov(2, IDLE)
        .pause(2)
        .branch(-1);
    let features = Features::default();
    let gic = Gic::V2(GICD, GICC);
    let vectors = code::vectors(&[(Vector::Irq, &handler)]);
    let mut machine = Machine::with(features, gic, &[], &program.bytes(), &vectors, |_| Ok(()))?;
    report.equal("the guest sets its GIC up", machine.run(), Stop::Paused(IDLE));
    report.equal(
        "it finds the priority mask that it wrote",
        machine.reports[1],
        0xf0,
    );
    for round in 0..3 {
        machine.spi(SPI, true)?;
        report.equal(
            &format!("interrupt {round} comes"),
            machine.run(),
            Stop::Paused(1),
        );
        report.equal("it is the one that was sent", machine.reports[0], u64::from(SPI));
        machine.spi(SPI, false)?;
        report.equal("it ends", machine.run(), Stop::Paused(IDLE));
    }
    if trapped {
        let mut program = Code::new();
        // LDRB w0, [x21, #4].
        program
            .mov(21, GICC)
            .unmask(4)
            .isb()
            .word(0x3940_12a0)
            .pause(0)
            .forever();
        let mut machine = Machine::with(features, gic, &[], &program.bytes(), &code::vectors(&[]), |_| {
            Ok(())
        })?;
        let taken = match machine.run() {
            Stop::Exception(0x380, ..) => Ok(()),
            other => Err(format!("{other:x?}, not an SError")),
        };
        report.result("an access of one byte is an SError", taken);
    }
    Ok(())
}
