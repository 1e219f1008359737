// SPDX-License-Identifier: GPL-2.0-only
//! The calls that load, run and change a vCPU.

use super::{Bench, Want};
use crate::hostile::{FakeVm, Hostile, Kind, errno};

const EINVAL: Want = Want::Result(errno::EINVAL);

/// Runs and loads out of order, and pointers that are no vCPU.
pub fn vcpu(b: &mut Bench) -> Result<(), String> {
    let h = Hostile::open().map_err(|e| e.to_string())?;
    let va = |phys| h.va_of(phys).map_err(|e| e.to_string());
    let (private, _) = h.alloc(4 * b.page).map_err(|e| e.to_string())?;
    let vm = FakeVm::new(&h, Kind::Protected)?;
    let other = FakeVm::new(&h, Kind::Normal)?;
    let (host, foreign) = (vm.vcpus[0].host, other.vcpus[0].host);
    let wild = [
        ("0", 0),
        ("a user address", 0x40_0000),
        ("a private page", private),
        ("EL2's memory", va(b.map.hyp)?),
        ("a device", va(b.map.mmio)?),
        ("after memory", va(b.map.memory_end)?),
        ("a non-canonical address", 0x5aa5_0000_0000_0000),
        ("the end of the address space", u64::MAX - 0xfff),
        ("one byte into a vCPU", host + 1),
    ];
    let silent = [
        "__kvm_adjust_pc",
        "__vgic_v3_save_aprs",
        "__vgic_v3_restore_vmcr_aprs",
    ];
    for loaded in [false, true] {
        if loaded {
            vm.load(0)?;
        }
        let state = if loaded {
            "with another loaded"
        } else {
            "with none loaded"
        };
        for (what, at) in wild {
            b.check("__kvm_vcpu_run", &format!("at {what}, {state}"), &[at], EINVAL)?;
            for call in silent {
                // One byte into a shared structure is shared memory all the same; only what becomes of it counts.
                let inside = what.starts_with("one byte") && call == "__kvm_adjust_pc";
                if !inside {
                    b.check(call, &format!("at {what}, {state}"), &[at], Want::Void)?;
                }
            }
        }
        b.check(
            "__kvm_vcpu_run",
            &format!("of another VM's vCPU, {state}"),
            &[foreign],
            EINVAL,
        )?;
    }
    // A second load changes nothing: the first vCPU stays.
    b.check(
        "__pkvm_vcpu_load",
        "while one is loaded",
        &[other.handle, 0, 0],
        Want::Void,
    )?;
    b.check(
        "__kvm_vcpu_run",
        "of the one that was not loaded",
        &[foreign],
        EINVAL,
    )?;
    let reply = vm.run(0)?;
    b.judge(
        "vcpu_run of the loaded one",
        &reply,
        host,
        Want::OneOf(&[0, 2]),
        None,
    );
    b.check("__pkvm_vcpu_sync_state", "of a pVM", &[], Want::Any)?;

    // Loaded here, so it cannot be loaded elsewhere.
    let load = h.fact("call_base") + h.fact("call.__pkvm_vcpu_load");
    let mut regs = [0; 18];
    (regs[0], regs[1]) = (load, vm.handle);
    h.hvc(0, 0, regs).map_err(|e| e.to_string())?;
    let mut regs = [0; 18];
    (regs[0], regs[1]) = (h.fact("call_base") + h.fact("call.__kvm_vcpu_run"), host);
    let reply = h.hvc(0, 0, regs).map_err(|e| e.to_string())?;
    b.judge("vcpu_run on a second CPU", &reply, host, EINVAL, None);
    b.check(
        "__pkvm_start_teardown_vm",
        "of a VM that is loaded",
        &[vm.handle],
        EINVAL,
    )?;
    vm.put()?;
    b.check("__pkvm_vcpu_put", "with none loaded", &[], Want::Any)?;
    b.check("__pkvm_vcpu_sync_state", "with none loaded", &[], Want::Any)?;
    b.check("__kvm_vcpu_run", "after the put", &[host], EINVAL)?;

    // Host words that a run reads: more list registers than there are, and all flags.
    let protected_host = vm.vcpus[0].host;
    for vm in [&vm, &other] {
        let host = vm.vcpus[0].host;
        let poke = |name: &str, bytes: &[u8]| h.poke(host + h.fact(name), bytes).map_err(|e| e.to_string());
        vm.load(0)?;
        poke("vcpu.used_lrs", &u32::MAX.to_le_bytes())?;
        let reply = vm.run(0)?;
        b.judge(
            "vcpu_run with 2^32 - 1 list registers",
            &reply,
            host,
            Want::OneOf(&[0, 2]),
            None,
        );
        poke("vcpu.used_lrs", &0u32.to_le_bytes())?;
        for owner in [0u32, 1, 2] {
            poke("vcpu.debug_owner", &owner.to_le_bytes())?;
            let reply = vm.run(0)?;
            b.judge(
                &format!("vcpu_run with debug_owner {owner}"),
                &reply,
                host,
                Want::OneOf(&[0, 2]),
                None,
            );
        }
        // A state above EL1 is entered as an illegal one. A protected vCPU that was found in a state which it may not
        // have need not run again.
        let protected = vm.vcpus[0].host == protected_host;
        let mut dead = false;
        for mode in [0x8u64, 0x9, 0xc, 0xd, 0x1f, 0x5] {
            poke("vcpu.pstate", &(0x3c0 | mode).to_le_bytes())?;
            poke("vcpu.iflags", &[h.fact("flag_dirty") as u8])?;
            let reply = vm.run(0)?;
            let want = if dead {
                Want::OneOf(&[0, 2, 3, errno::EINVAL])
            } else {
                Want::OneOf(&[0, 2, 3])
            };
            b.judge(
                &format!("vcpu_run with PSTATE.M = {mode:#x}"),
                &reply,
                host,
                want,
                None,
            );
            dead |= protected && reply.x1() == 3;
        }
        // The C object panics in this: what the others show of it would be lost.
        if !protected && !b.is_c {
            illegal_with_interrupts(b, &h, vm)?;
        }
        vm.put()?;
    }
    vm.destroy(&[], Kind::Protected)?;
    other.destroy(&[], Kind::Normal)?;
    Ok(())
}

/// Runs in states that no return can enter, with interrupts unmasked, until many of the host's have come meanwhile: one
/// that is pending when EL2 makes the return reaches EL2 before the exception for the state does.
fn illegal_with_interrupts(b: &mut Bench, h: &Hostile, vm: &FakeVm) -> Result<(), String> {
    let host = vm.vcpus[0].host;
    let poke = |name: &str, bytes: &[u8]| h.poke(host + h.fact(name), bytes).map_err(|e| e.to_string());
    // EL2h; a reserved mode; Hyp of AArch32.
    for mode in [0x9u64, 0x1, 0x1a] {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(3);
        let mut runs = 0;
        while std::time::Instant::now() < end {
            poke("vcpu.pstate", &mode.to_le_bytes())?;
            poke("vcpu.iflags", &[h.fact("flag_dirty") as u8])?;
            let reply = vm.run(0)?;
            runs += 1;
            if reply.x0() != 0 || !matches!(reply.x1(), 0 | 2 | 3) {
                let (x0, x1) = (reply.x0(), reply.x1());
                return Err(format!(
                    "run {runs} with PSTATE = {mode:#x}: x0 = {x0}, x1 = {x1}"
                ));
            }
        }
        b.expect(
            &format!("vcpu_run with PSTATE = {mode:#x} and interrupts unmasked comes back"),
            runs > 0,
        );
    }
    Ok(())
}
