// SPDX-License-Identifier: GPL-2.0-only
//! The calls that make, find and end VMs.

use super::{Bench, Want};
use crate::hostile::{FakeVm, Hostile, Kind, errno};

const EPERM: Want = Want::Result(errno::EPERM);
const EINVAL: Want = Want::Result(errno::EINVAL);
const ENOENT: Want = Want::Result(errno::ENOENT);
const ENOMEM: Want = Want::Result(errno::ENOMEM);
const OK: Want = Want::Result(0);

fn open() -> Result<Hostile, String> {
    Hostile::open().map_err(|e| e.to_string())
}

/// Handles that name no VM, or none of the right kind, in every call that takes one.
pub fn handles(b: &mut Bench) -> Result<(), String> {
    let reserved = b.h.call("__pkvm_reserve_vm", &[]).map_err(|e| e.to_string())?;
    if reserved.x1() <= 0 {
        return Err(format!("reserve_vm: {reserved}"));
    }
    let reserved = reserved.x1() as u64;
    // 255 VMs at most, from 0x1000 on.
    let bad = [
        ("handle 0", 0),
        ("handle 0xfff", 0xfff),
        ("a free handle", 0x10fe),
        ("the handle after the last", 0x10ff),
        ("handle 0xffff", 0xffff),
        ("handle 0x8000", 0x8000),
        ("a reserved handle", reserved),
    ];
    let fresh = b.fresh()?;
    for (what, handle) in bad {
        for call in ["__pkvm_host_unshare_guest", "__pkvm_host_wrprotect_guest"] {
            b.check(call, what, &[handle, 0x10, 1], EINVAL)?;
        }
        b.check(
            "__pkvm_host_test_clear_young_guest",
            what,
            &[handle, 0x10, 1, 0],
            EINVAL,
        )?;
        b.check("__pkvm_reclaim_dying_guest_page", what, &[handle, 0x10], EINVAL)?;
        b.check("__pkvm_start_teardown_vm", what, &[handle], EINVAL)?;
        b.check("__pkvm_finalize_teardown_vm", what, &[handle], EINVAL)?;
        b.check("__pkvm_tlb_flush_vmid", what, &[handle], Want::Void)?;
        b.check("__pkvm_vcpu_load", what, &[handle, 0, 0], Want::Void)?;
        // Nothing may have been loaded.
        b.check(
            "__pkvm_host_donate_guest",
            "after a load that failed",
            &[fresh, 0x10],
            EINVAL,
        )?;
        if handle != reserved {
            b.check("__pkvm_unreserve_vm", what, &[handle], Want::Void)?;
        }
    }
    b.check(
        "__pkvm_unreserve_vm",
        "of a reserved handle",
        &[reserved],
        Want::Void,
    )?;
    b.check("__pkvm_unreserve_vm", "again", &[reserved], Want::Void)?;

    // A live VM is not unreserved, and a load takes only what is there.
    let h = open()?;
    let vm = FakeVm::new(&h, Kind::Protected)?;
    b.check("__pkvm_unreserve_vm", "of a live VM", &[vm.handle], Want::Void)?;
    for idx in [1, 2, 511, u64::from(u32::MAX)] {
        b.check(
            "__pkvm_vcpu_load",
            &format!("of vCPU {idx}"),
            &[vm.handle, idx, 0],
            Want::Void,
        )?;
        b.check(
            "__pkvm_host_donate_guest",
            "after a load that failed",
            &[fresh, 0x10],
            EINVAL,
        )?;
    }
    b.check("__pkvm_tlb_flush_vmid", "of a pVM", &[vm.handle], Want::Void)?;
    b.check(
        "__pkvm_reclaim_dying_guest_page",
        "of a live VM",
        &[vm.handle, 0x10],
        EINVAL,
    )?;
    b.check(
        "__pkvm_finalize_teardown_vm",
        "of a live VM",
        &[vm.handle],
        EINVAL,
    )?;
    vm.destroy(&[], Kind::Protected)?;

    // All slots at once: the call says so, and each can be given back.
    let mut taken = Vec::new();
    for _ in 0..300 {
        let reply = b.h.call("__pkvm_reserve_vm", &[]).map_err(|e| e.to_string())?;
        if reply.x1() < 0 {
            b.judge("reserve_vm when all are taken", &reply, 0, ENOMEM, None);
            break;
        }
        taken.push(reply.x1() as u64);
    }
    let mut unique = taken.clone();
    unique.sort_unstable();
    unique.dedup();
    b.expect("handles are unique", unique.len() == taken.len());
    b.expect("at most 255 VMs", taken.len() <= 255 && taken.len() > 100);
    for handle in taken {
        b.check(
            "__pkvm_unreserve_vm",
            "of a reserved handle",
            &[handle],
            Want::Void,
        )?;
    }
    b.owned("after all", fresh)
}

/// Pointers to memory that is not the host's to give. EL2 makes its own address of a pointer by replacing its high
/// bits, so that one outside the linear map may well name memory of the host, and would cost the host that memory.
fn not_ours(b: &Bench) -> Result<Vec<(&'static str, u64)>, String> {
    let va = |phys| b.h.va_of(phys).map_err(|e| e.to_string());
    let mut all = vec![
        ("EL2's memory", va(b.map.hyp)?),
        ("EL2's text", va(b.map.hyp_text)?),
    ];
    if let Some(at) = b.map.kept_out {
        all.push(("no-map memory", va(at)?));
    }
    Ok(all)
}

/// These, and pointers to nothing at all: for what is only read, and only if it is shared.
fn wild(b: &Bench) -> Result<Vec<(&'static str, u64)>, String> {
    let mut all = not_ours(b)?;
    let va = |phys| b.h.va_of(phys).map_err(|e| e.to_string());
    all.extend([
        ("0", 0),
        ("a user address", 0x40_0000),
        ("a device", va(b.map.mmio)?),
        ("after memory", va(b.map.memory_end)?),
        ("an address of vmalloc", 0xffff_8000_8000_0000),
        ("a non-canonical address", 0x5aa5_0000_0000_0000),
        ("the end of the address space", !(b.page - 1)),
    ]);
    Ok(all)
}

/// Making a VM.
pub fn init_vm(b: &mut Bench) -> Result<(), String> {
    const CALL: &str = "__pkvm_init_vm";
    const REFUSED: Want = Want::OneOf(&[errno::EPERM, errno::EINVAL]);
    let h = open()?;
    let vm = FakeVm::prepare(&h, Kind::Protected, 1)?;
    let page = b.page;
    let pfn = |va: u64| h.pa_of(va).map(|pa| pa / page).map_err(|e| e.to_string());
    let (memory, pgd) = (pfn(vm.memory)?, pfn(vm.pgd)?);
    let whole = |b: &mut Bench, what: &str| {
        b.owned(what, memory)?;
        b.owned(what, pgd)
    };
    for (what, at) in wild(b)? {
        b.check(
            CALL,
            &format!("with a struct kvm at {what}"),
            &[at, vm.memory, vm.pgd],
            REFUSED,
        )?;
        whole(b, what)?;
    }
    for (what, at) in not_ours(b)? {
        b.check(
            CALL,
            &format!("with memory at {what}"),
            &[vm.host, at, vm.pgd],
            ENOMEM,
        )?;
        b.check(
            CALL,
            &format!("with a table at {what}"),
            &[vm.host, vm.memory, at],
            ENOMEM,
        )?;
        whole(b, what)?;
    }
    b.check(
        CALL,
        "with a struct kvm that is not shared",
        &[vm.memory, vm.memory, vm.pgd],
        REFUSED,
    )?;
    b.check(
        CALL,
        "with unaligned memory",
        &[vm.host, vm.memory + 8, vm.pgd],
        ENOMEM,
    )?;
    b.check(
        CALL,
        "with an unaligned table",
        &[vm.host, vm.memory, vm.pgd + 8],
        Want::OneOf(&[errno::ENOMEM, errno::EINVAL]),
    )?;
    b.check(
        CALL,
        "with the same memory twice",
        &[vm.host, vm.memory, vm.memory],
        Want::OneOf(&[errno::ENOMEM, errno::EINVAL]),
    )?;
    b.check(
        CALL,
        "with memory that is shared",
        &[vm.host, vm.host, vm.pgd],
        ENOMEM,
    )?;
    whole(b, "bad memory")?;

    let poke = |name: &str, bytes: &[u8]| h.poke(vm.host + h.fact(name), bytes).map_err(|e| e.to_string());
    poke("kvm.created_vcpus", &0u32.to_le_bytes())?;
    b.check(CALL, "without vCPUs", &[vm.host, vm.memory, vm.pgd], EINVAL)?;
    poke("kvm.created_vcpus", &u32::MAX.to_le_bytes())?;
    b.check(
        CALL,
        "with -1 vCPUs",
        &[vm.host, vm.memory, vm.pgd],
        EINVAL_OR_ENOMEM,
    )?;
    poke("kvm.created_vcpus", &i32::MAX.to_le_bytes())?;
    b.check(
        CALL,
        "with 2^31 vCPUs",
        &[vm.host, vm.memory, vm.pgd],
        EINVAL_OR_ENOMEM,
    )?;
    poke("kvm.created_vcpus", &1u32.to_le_bytes())?;
    whole(b, "bad number of vCPUs")?;
    for handle in [0u16, 1, 0xfff, 0x10fd, 0x10ff, 0x1100, 0xffff] {
        poke("kvm.handle", &handle.to_le_bytes())?;
        b.check(
            CALL,
            &format!("with handle {handle:#x}"),
            &[vm.host, vm.memory, vm.pgd],
            EINVAL,
        )?;
        whole(b, "bad handle")?;
    }
    poke("kvm.handle", &(vm.handle as u16).to_le_bytes())?;
    b.check(CALL, "as it should be", &[vm.host, vm.memory, vm.pgd], OK)?;
    let second = FakeVm::prepare(&h, Kind::Protected, 1)?;
    b.check(
        CALL,
        "with the memory of a live VM",
        &[second.host, vm.memory, second.pgd],
        ENOMEM,
    )?;
    h.poke(
        second.host + h.fact("kvm.handle"),
        &(vm.handle as u16).to_le_bytes(),
    )
    .map_err(|e| e.to_string())?;
    b.check(
        CALL,
        "with the handle of a live VM",
        &[second.host, second.memory, second.pgd],
        EINVAL,
    )?;
    b.check("__pkvm_unreserve_vm", "of its own", &[second.handle], Want::Void)?;
    second.unshare_structures()?;
    vm.destroy(&[], Kind::Protected)?;
    Ok(())
}

const EINVAL_OR_ENOMEM: Want = Want::OneOf(&[errno::EINVAL, errno::ENOMEM]);

/// Making a vCPU.
pub fn init_vcpu(b: &mut Bench) -> Result<(), String> {
    const CALL: &str = "__pkvm_init_vcpu";
    const EBUSY: Want = Want::Result(errno::EBUSY);
    let h = open()?;
    let mut vm = FakeVm::new(&h, Kind::Protected)?;
    let (memory, pa) = h.alloc(h.fact("hyp_vcpu.size")).map_err(|e| e.to_string())?;
    let pfn = pa / b.page;
    let host = vm.vcpus[0].host;
    for (what, at) in not_ours(b)? {
        b.check(
            CALL,
            &format!("with memory at {what}"),
            &[vm.handle, host, at],
            ENOMEM,
        )?;
        b.owned(what, pfn)?;
    }
    for (what, at) in wild(b)? {
        b.check(
            CALL,
            &format!("with a struct kvm_vcpu at {what}"),
            &[vm.handle, at, memory],
            EBUSY,
        )?;
        b.owned(what, pfn)?;
    }
    b.check(
        CALL,
        "with unaligned memory",
        &[vm.handle, host, memory + 8],
        ENOMEM,
    )?;
    b.check(
        CALL,
        "with memory of the VM",
        &[vm.handle, host, vm.memory],
        ENOMEM,
    )?;
    b.check(
        CALL,
        "with a struct kvm_vcpu that is not shared",
        &[vm.handle, memory, memory],
        EBUSY,
    )?;
    for handle in [0, 0xfff, 0x10fe, 0x10ff, 0xffff] {
        b.check(
            CALL,
            &format!("with handle {handle:#x}"),
            &[handle, host, memory],
            ENOENT,
        )?;
    }
    b.owned("bad handle", pfn)?;
    b.check(
        CALL,
        "with an index that is taken",
        &[vm.handle, host, memory],
        EINVAL,
    )?;
    for idx in [1u32, 2, 511, 512, 0x7fff_ffff, u32::MAX] {
        let reply = vm.add_vcpu(idx)?;
        b.judge(
            &format!("init_vcpu with index {idx:#x}"),
            &reply,
            vm.handle,
            EINVAL,
            None,
        );
        if let Some(vcpu) = vm.vcpus.last() {
            let at = h.pa_of(vcpu.memory).map_err(|e| e.to_string())? / b.page;
            b.owned("bad index", at)?;
        }
    }
    b.owned("after all", pfn)?;
    vm.destroy(&[], Kind::Protected)?;
    Ok(())
}

/// Ending a VM out of order.
pub fn teardown(b: &mut Bench) -> Result<(), String> {
    let h = open()?;
    for kind in [Kind::Protected, Kind::Normal] {
        let mut vm = FakeVm::new(&h, kind)?;
        vm.load(0)?;
        let page = match kind {
            Kind::Protected => vm.donate(0x10)?,
            Kind::Normal => vm.share(0x10)?,
        };
        b.check(
            "__pkvm_start_teardown_vm",
            "of a VM with a loaded vCPU",
            &[vm.handle],
            EINVAL,
        )?;
        vm.put()?;
        b.check("__pkvm_start_teardown_vm", "of a VM", &[vm.handle], OK)?;
        b.check("__pkvm_start_teardown_vm", "again", &[vm.handle], EINVAL)?;
        b.check(
            "__pkvm_vcpu_load",
            "of a dying VM",
            &[vm.handle, 0, 0],
            Want::Void,
        )?;
        let fresh = b.fresh()?;
        b.check(
            "__pkvm_host_donate_guest",
            "to a dying VM",
            &[fresh, 0x20],
            EINVAL,
        )?;
        let reply = vm.add_vcpu(1)?;
        let refused = Want::OneOf(&[errno::EINVAL, errno::ENOENT]);
        b.judge("init_vcpu of a dying VM", &reply, vm.handle, refused, None);
        let limit = (1u64 << vm.template.ipa_bits()) / b.page;
        let reclaim = "__pkvm_reclaim_dying_guest_page";
        b.check(reclaim, "where nothing is", &[vm.handle, 0x999], ENOENT)?;
        b.check(
            reclaim,
            "beyond the guest's space",
            &[vm.handle, limit],
            Want::Result(errno::ERANGE),
        )?;
        match kind {
            Kind::Protected => {
                b.check(reclaim, "of a page", &[vm.handle, 0x10], OK)?;
                b.check(reclaim, "again", &[vm.handle, 0x10], ENOENT)?;
                b.owned("returned", page / b.page)?;
            }
            Kind::Normal => {
                b.check(
                    reclaim,
                    "of a page that is only shared",
                    &[vm.handle, 0x10],
                    EPERM,
                )?;
                b.check(
                    "__pkvm_host_unshare_guest",
                    "of a dying VM",
                    &[vm.handle, 0x10, 1],
                    OK,
                )?;
            }
        }
        b.check("__pkvm_finalize_teardown_vm", "of a dying VM", &[vm.handle], OK)?;
        b.check("__pkvm_finalize_teardown_vm", "again", &[vm.handle], EINVAL)?;
        b.check(
            "__pkvm_start_teardown_vm",
            "of what is gone",
            &[vm.handle],
            EINVAL,
        )?;
        vm.returned_pages()?;
        vm.unshare_structures()?;
        b.owned("after the end", page / b.page)?;
    }
    Ok(())
}
