// SPDX-License-Identifier: GPL-2.0-only
//! The rules of MEM_SHARE and MEM_UNSHARE, seen from both sides.

use crate::{able, must, page_size, refused, routines};
use pkvm_vmm::Result;
use pkvm_vmm::bench::{Bench, FREE, FREE_IPA, Stop};
use pkvm_vmm::layout::RAM_BASE;
use pkvm_vmm::mapping::Backing;
use pkvm_vmm::monitor::{Exception, HVC_MEM_SHARE, HVC_MEM_UNSHARE};
use pkvm_vmm::report::Report;
use pkvm_vmm::touch::{load_at, store_at};
use pkvm_vmm::vm::Kind;
use std::sync::atomic::{AtomicBool, Ordering};

/// SMCCC INVALID_PARAMETER.
const INVALID: u64 = (-3_i64).cast_unsigned();

/// Exception class "data abort from the same level".
const DABT_SAME: u64 = 0x25;

/// The rules, one page after another.
pub fn sharing(report: &mut Report) -> Result<()> {
    let page = page_size();
    let (bench, ram, mut cpus) = Bench::usual(Kind::Protected, 1, routines::code())?;
    let cpu = &mut cpus[0];
    let at = |n: usize| (FREE + n * page, FREE_IPA + (n * page) as u64);

    // Page 0: the life of a shared page.
    let (offset, ipa) = at(0);
    let _ = store_at(&ram, offset, 0x4057);
    report.equal(
        "a page that the VMM filled comes to the guest as it is",
        cpu.load(ipa),
        Ok(0x4057),
    );
    report.result("the host loses it", refused(load_at(&ram, offset)));
    report.equal("MEM_SHARE", cpu.share(ipa), Ok(0));
    report.equal("the host has it again", load_at(&ram, offset), Ok(0x4057));
    report.equal("MEM_SHARE of a shared page", cpu.share(ipa), Ok(INVALID));
    report.equal("it stays shared", store_at(&ram, offset, 0x4058), Ok(()));
    report.equal("MEM_UNSHARE", cpu.unshare(ipa), Ok(0));
    report.result("the host loses it again", refused(load_at(&ram, offset)));
    report.result("for writing too", refused(store_at(&ram, offset, 0).map(|()| 0)));
    report.equal("MEM_UNSHARE of a private page", cpu.unshare(ipa), Ok(INVALID));
    report.equal("the guest has what the host wrote", cpu.load(ipa), Ok(0x4058));

    // Page 1: never touched by the guest.
    let (offset, ipa) = at(1);
    let _ = store_at(&ram, offset, 0x1111);
    report.equal(
        "MEM_UNSHARE of a page never touched",
        cpu.unshare(ipa),
        Ok(INVALID),
    );
    report.equal("leaves it with the host", load_at(&ram, offset), Ok(0x1111));
    report.equal(
        "MEM_SHARE of a page never touched leaves the guest, which gets it, and is tried again",
        cpu.share(ipa),
        Ok(0),
    );
    report.equal("both have it: the host", load_at(&ram, offset), Ok(0x1111));
    report.equal("both have it: the guest", cpu.load(ipa), Ok(0x1111));

    // Arguments.
    for (call, name) in [(HVC_MEM_SHARE, "MEM_SHARE"), (HVC_MEM_UNSHARE, "MEM_UNSHARE")] {
        let (_, ipa) = at(1);
        for (what, args) in [
            ("an address off by 1", [ipa + 1, 0, 0]),
            ("an address off by half a page", [ipa + page as u64 / 2, 0, 0]),
            ("a nonzero second argument", [ipa, 1, 0]),
            ("a nonzero third argument", [ipa, 0, 1 << 63]),
            ("an address beyond the guest's space", [1 << 56, 0, 0]),
            ("the last page of all", [0_u64.wrapping_sub(page as u64), 0, 0]),
        ] {
            report.equal(
                &format!("{name} with {what}"),
                cpu.hvc(call, args),
                Ok([INVALID, 0, 0, 0]),
            );
        }
    }
    let (_, ipa) = at(1);
    report.equal("none of them changed the page", cpu.load(ipa), Ok(0x1111));
    report.equal("which is shared still", cpu.share(ipa), Ok(INVALID));

    // Registers: the call is entered again after the exit, and must not notice.
    let (_, ipa) = at(2);
    report.equal(
        "a call that leaves the guest for a page keeps x4 to x30 and SP",
        cpu.call(routines::keep_registers(), [HVC_MEM_SHARE, ipa, 0]),
        Ok([0, 0, 0, 0x1000]),
    );
    report.equal(
        "so does one that need not",
        cpu.call(routines::keep_registers(), [HVC_MEM_UNSHARE, ipa, 0]),
        Ok([0, 0, 0, 0x1000]),
    );

    // Where there is no memory the guest gets an abort, not the VMM.
    let nowhere = RAM_BASE - 16 * page as u64;
    let abort = match cpu.share(nowhere) {
        Err(Stop::Exception(Exception { esr, .. })) if esr >> 26 == DABT_SAME => Ok(()),
        other => Err(format!("{other:x?}")),
    };
    report.result(
        "MEM_SHARE where the VM has no memory is an abort in the guest",
        abort,
    );
    report.equal("MEM_UNSHARE there is refused", cpu.unshare(nowhere), Ok(INVALID));

    // What the VMM maps instead is not what the guest shares.
    let (offset, ipa) = at(3);
    must("store", cpu.store(ipa, 0x5ec7))?;
    ram.replace(offset, page, Backing::Anonymous)?;
    report.equal(
        "MEM_SHARE of a page that the VMM has mapped over",
        cpu.share(ipa),
        Ok(0),
    );
    report.equal("the guest has its own", cpu.load(ipa), Ok(0x5ec7));
    report.equal("the VMM sees its new page", load_at(&ram, offset), Ok(0));

    // A neighbour stays private.
    let ((_, first), (second, second_ipa)) = (at(4), at(5));
    must("store", cpu.store(second_ipa, 7))?;
    report.equal("MEM_SHARE of one page", cpu.share(first), Ok(0));
    report.result("leaves the next one private", refused(load_at(&ram, second)));
    drop(cpus);
    drop(bench);
    report.equal(
        "after the end a private page is zero",
        load_at(&ram, second),
        Ok(0),
    );
    report.equal("and a shared one as it was", load_at(&ram, at(1).0), Ok(0x1111));
    Ok(())
}

/// Rounds of each vCPU.
const ROUNDS: u64 = 300;

/// Two vCPUs at the same page, and the host at it too.
pub fn race(report: &mut Report) -> Result<()> {
    let (bench, ram, cpus) = Bench::usual(Kind::Protected, 2, routines::code())?;
    let told = AtomicBool::new(false);
    let (answers, seen) = std::thread::scope(|scope| {
        let host = scope.spawn(|| {
            let mut seen = [0_u64; 2];
            while !told.load(Ordering::Relaxed) {
                seen[usize::from(load_at(&ram, FREE).is_ok())] += 1;
            }
            seen
        });
        let guests: Vec<_> = cpus
            .into_iter()
            .map(|mut cpu| {
                scope.spawn(move || {
                    let answer = cpu.call(routines::share_rounds(), [FREE_IPA, ROUNDS, 0]);
                    (cpu, answer)
                })
            })
            .collect();
        let ends: Vec<_> = guests.into_iter().filter_map(|g| g.join().ok()).collect();
        told.store(true, Ordering::Relaxed);
        (ends, host.join().unwrap_or_default())
    });
    report.say(format_args!(
        "the host was refused {} times and read {} times",
        seen[0], seen[1]
    ));
    let mut counts = [0; 2];
    let mut cpus = Vec::new();
    for (cpu, answer) in answers {
        let [shared, taken, ..] = must("the rounds", answer)?;
        report.say(format_args!(
            "a vCPU shared {shared} times and took back {taken} times"
        ));
        counts = [counts[0] + shared, counts[1] + taken];
        cpus.push(cpu);
    }
    report.equal("both vCPUs end", cpus.len(), 2);
    report.result(
        "every other call of the pair fails, none is lost",
        (counts[0] >= ROUNDS && counts[0] <= 2 * ROUNDS && counts[0] - counts[1] <= 1)
            .then_some(())
            .ok_or(format!("{counts:?}")),
    );
    let shared = load_at(&ram, FREE).is_ok();
    report.equal(
        "what is shared at the end is what the calls left",
        shared,
        counts[0] > counts[1],
    );
    let other = able("KVM_GET_ONE_REG", cpus[1].pc())?;
    report.result(
        "the vCPUs are where they should be",
        (RAM_BASE..RAM_BASE + FREE as u64)
            .contains(&other)
            .then_some(())
            .ok_or(format!("{other:#x}")),
    );
    drop(bench);
    Ok(())
}
