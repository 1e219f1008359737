// SPDX-License-Identifier: GPL-2.0-only
//! The calls that move pages: between the host and EL2, a pVM, a normal VM, and back by force.

use super::{Bench, Want};
use crate::hostile::{FakeVm, Kind, errno};

const EPERM: Want = Want::Result(errno::EPERM);
const EINVAL: Want = Want::Result(errno::EINVAL);
const ENOENT: Want = Want::Result(errno::ENOENT);
const ERANGE: Want = Want::Result(errno::ERANGE);
const OK: Want = Want::Result(0);

/// Shares with EL2.
pub fn host_pages(b: &mut Bench) -> Result<(), String> {
    for call in ["__pkvm_host_share_hyp", "__pkvm_host_unshare_hyp"] {
        for (what, pfn, want, c) in b.bad_pfns() {
            b.check_unless_c(call, &what, &[pfn], want, c)?;
        }
    }
    let pfn = b.fresh()?;
    b.check(
        "__pkvm_host_unshare_hyp",
        "of a page that is not shared",
        &[pfn],
        EPERM,
    )?;
    b.check("__pkvm_host_share_hyp", "of a page", &[pfn], OK)?;
    b.check("__pkvm_host_share_hyp", "of a shared page", &[pfn], EPERM)?;
    b.check("__pkvm_host_unshare_hyp", "of a shared page", &[pfn], OK)?;
    b.check("__pkvm_host_unshare_hyp", "again", &[pfn], EPERM)?;
    // A pinned page: the structure of a live VM.
    let h = crate::hostile::Hostile::open().map_err(|e| e.to_string())?;
    let vm = FakeVm::new(&h, Kind::Protected)?;
    let pinned = b.h.pa_of(vm.host).map_err(|e| e.to_string())? / b.page;
    let given = b.h.pa_of(vm.memory).map_err(|e| e.to_string())? / b.page;
    b.check(
        "__pkvm_host_unshare_hyp",
        "of a pinned page",
        &[pinned],
        Want::Result(errno::EBUSY),
    )?;
    b.check("__pkvm_host_share_hyp", "of a donated page", &[given], EPERM)?;
    b.check("__pkvm_host_unshare_hyp", "of a donated page", &[given], EPERM)?;
    vm.destroy(&[], Kind::Protected)?;
    b.owned("after all", pfn)
}

/// Donations to a pVM.
pub fn guest_pages(b: &mut Bench) -> Result<(), String> {
    let pfn = b.fresh()?;
    let prot = b.h.fact("prot_r");
    for (call, args) in [
        ("__pkvm_host_donate_guest", vec![pfn, 0x10]),
        ("__pkvm_host_share_guest", vec![pfn, 0x10, 1, prot]),
        ("__pkvm_host_relax_perms_guest", vec![0x10, prot]),
        ("__pkvm_host_mkyoung_guest", vec![0x10]),
        ("__pkvm_vcpu_in_poison_fault", vec![]),
    ] {
        b.check(call, "without a vCPU", &args, EINVAL)?;
    }
    b.owned("without a vCPU", pfn)?;

    let h = crate::hostile::Hostile::open().map_err(|e| e.to_string())?;
    let vm = FakeVm::new(&h, Kind::Protected)?;
    vm.load(0)?;
    let limit = (1u64 << vm.template.ipa_bits()) / b.page;
    b.check(
        "__pkvm_host_donate_guest",
        "with an empty memcache",
        &[pfn, 0x10],
        Want::Result(errno::ENOMEM),
    )?;
    b.owned("with an empty memcache", pfn)?;
    // A memcache that promises more than it holds, or holds what the host cannot give.
    let mc = vm.vcpus[0].host + h.fact("vcpu.memcache");
    for (what, head, nr) in [
        ("at 0", 0, 1),
        ("in EL2's memory", b.map.hyp, 1),
        ("on a device", b.map.mmio, 1),
        ("beyond memory", b.map.memory_end, 4),
        ("at the end of the address space", u64::MAX - 7, u64::MAX),
    ] {
        h.poke64(mc + h.fact("mc.head"), head)
            .map_err(|e| e.to_string())?;
        h.poke64(mc + h.fact("mc.nr_pages"), nr)
            .map_err(|e| e.to_string())?;
        let what = format!("with a memcache {what}");
        b.check(
            "__pkvm_host_donate_guest",
            &what,
            &[pfn, 0x10],
            Want::Result(errno::ENOMEM),
        )?;
        b.owned(&what, pfn)?;
    }
    h.poke64(mc + h.fact("mc.head"), 0).map_err(|e| e.to_string())?;
    h.poke64(mc + h.fact("mc.nr_pages"), 0)
        .map_err(|e| e.to_string())?;
    vm.top_up(0, 8)?;
    for (what, bad, want, c) in b.bad_pfns() {
        b.check_unless_c("__pkvm_host_donate_guest", &what, &[bad, 0x10], want, c)?;
    }
    for gfn in [limit, limit + 1, 1 << 51] {
        b.check(
            "__pkvm_host_donate_guest",
            &format!("at gfn {gfn:#x}"),
            &[pfn, gfn],
            ERANGE,
        )?;
        b.owned("beyond the guest's space", pfn)?;
    }
    b.check("__pkvm_host_donate_guest", "of a page", &[pfn, 0x10], OK)?;
    b.check(
        "__pkvm_host_donate_guest",
        "of a page that is given",
        &[pfn, 0x11],
        EPERM,
    )?;
    b.check("__pkvm_host_share_hyp", "of a page that is given", &[pfn], EPERM)?;
    b.check(
        "__pkvm_host_unshare_hyp",
        "of a page that is given",
        &[pfn],
        EPERM,
    )?;
    let other = b.fresh()?;
    b.check(
        "__pkvm_host_donate_guest",
        "where a page is",
        &[other, 0x10],
        EPERM,
    )?;
    b.check(
        "__pkvm_host_share_guest",
        "with a pVM",
        &[other, 0x11, 1, prot],
        EINVAL,
    )?;
    b.check("__pkvm_host_relax_perms_guest", "of a pVM", &[0x10, prot], EINVAL)?;
    b.check("__pkvm_host_mkyoung_guest", "of a pVM", &[0x10], EINVAL)?;
    for call in ["__pkvm_host_unshare_guest", "__pkvm_host_wrprotect_guest"] {
        b.check(call, "of a pVM", &[vm.handle, 0x10, 1], EINVAL)?;
    }
    b.check(
        "__pkvm_host_test_clear_young_guest",
        "of a pVM",
        &[vm.handle, 0x10, 1, 1],
        EINVAL,
    )?;
    b.owned("after refusals", other)?;
    // A page shared with EL2 is no more the host's alone.
    b.check("__pkvm_host_share_hyp", "of a page", &[other], OK)?;
    b.check(
        "__pkvm_host_donate_guest",
        "of a shared page",
        &[other, 0x12],
        EPERM,
    )?;
    b.check("__pkvm_host_unshare_hyp", "of the page", &[other], OK)?;
    vm.put()?;
    b.check(
        "__pkvm_host_donate_guest",
        "after the vCPU was put",
        &[other, 0x12],
        EINVAL,
    )?;
    b.owned("after the vCPU was put", other)?;
    vm.destroy(&[0x10], Kind::Protected)?;
    b.owned("after the VM's end", pfn)
}

/// Shares with a normal VM.
pub fn normal_pages(b: &mut Bench) -> Result<(), String> {
    let h = crate::hostile::Hostile::open().map_err(|e| e.to_string())?;
    let vm = FakeVm::new(&h, Kind::Normal)?;
    vm.load(0)?;
    vm.top_up(0, 8)?;
    let limit = (1u64 << vm.template.ipa_bits()) / b.page;
    let block = b.page / 8;
    let (r, w, x) = (h.fact("prot_r"), h.fact("prot_w"), h.fact("prot_x"));
    let rwx = r | w | x;
    let pfn = b.fresh()?;
    b.check("__pkvm_host_donate_guest", "to a normal VM", &[pfn, 0x10], EINVAL)?;
    for (what, bad, want, c) in b.bad_pfns() {
        b.check_unless_c("__pkvm_host_share_guest", &what, &[bad, 0x10, 1, r], want, c)?;
    }
    for n in [0, 2, block - 1, block + 1, 1 << 40, 1 << 52, 1 << 63, u64::MAX] {
        b.check(
            "__pkvm_host_share_guest",
            &format!("of {n:#x} pages"),
            &[pfn, 0x10, n, r],
            EINVAL,
        )?;
    }
    let odd = pfn | 1;
    b.check(
        "__pkvm_host_share_guest",
        "of an unaligned block",
        &[odd, 0, block, r],
        EINVAL,
    )?;
    b.check(
        "__pkvm_host_share_guest",
        "of a block at an odd place",
        &[pfn & !(block - 1), 1, block, r],
        EINVAL,
    )?;
    for bit in [4, 5, 6, 12, 32, 55, 58, 63] {
        let prot = r | 1 << bit;
        if prot & !rwx != 0 {
            let what = format!("with bit {bit} of the permissions");
            b.check("__pkvm_host_share_guest", &what, &[pfn, 0x10, 1, prot], EINVAL)?;
            b.check("__pkvm_host_relax_perms_guest", &what, &[0x10, prot], EINVAL)?;
        }
    }
    for gfn in [limit, limit + 1, 1 << 51] {
        let at = format!("at gfn {gfn:#x}");
        b.check("__pkvm_host_share_guest", &at, &[pfn, gfn, 1, r], ERANGE)?;
        b.check("__pkvm_host_unshare_guest", &at, &[vm.handle, gfn, 1], ERANGE)?;
    }
    b.owned("after refusals", pfn)?;
    b.check(
        "__pkvm_host_unshare_guest",
        "where nothing is",
        &[vm.handle, 0x10, 1],
        ENOENT,
    )?;
    b.check(
        "__pkvm_host_relax_perms_guest",
        "where nothing is",
        &[0x10, r],
        Want::Result(errno::EAGAIN),
    )?;
    b.check(
        "__pkvm_host_wrprotect_guest",
        "where nothing is",
        &[vm.handle, 0x10, 1],
        OK,
    )?;
    b.check("__pkvm_host_mkyoung_guest", "where nothing is", &[0x10], OK)?;
    b.check(
        "__pkvm_host_test_clear_young_guest",
        "where nothing is",
        &[vm.handle, 0x10, 1, 1],
        OK,
    )?;

    b.check("__pkvm_host_share_guest", "of a page", &[pfn, 0x10, 1, r], OK)?;
    b.check(
        "__pkvm_host_share_guest",
        "where a page is",
        &[pfn, 0x10, 1, r],
        EPERM,
    )?;
    b.check(
        "__pkvm_host_share_guest",
        "a second time",
        &[pfn, 0x11, 1, rwx],
        OK,
    )?;
    b.check("__pkvm_host_share_hyp", "of a page that a VM has", &[pfn], EPERM)?;
    b.check(
        "__pkvm_host_unshare_hyp",
        "of a page that a VM has",
        &[pfn],
        EPERM,
    )?;
    for n in [0, 2, block, u64::MAX] {
        // A block's size at a page's place: the alignment is wrong before the size can be.
        let what = format!("of {n:#x} pages");
        b.check("__pkvm_host_unshare_guest", &what, &[vm.handle, 0x10, n], EINVAL)?;
        b.check(
            "__pkvm_host_wrprotect_guest",
            &what,
            &[vm.handle, 0x10, n],
            EINVAL,
        )?;
        b.check(
            "__pkvm_host_test_clear_young_guest",
            &what,
            &[vm.handle, 0x10, n, 0],
            EINVAL,
        )?;
    }
    b.check(
        "__pkvm_host_unshare_guest",
        "of a page",
        &[vm.handle, 0x10, 1],
        OK,
    )?;
    b.check(
        "__pkvm_host_unshare_guest",
        "again",
        &[vm.handle, 0x10, 1],
        ENOENT,
    )?;
    b.check(
        "__pkvm_host_share_hyp",
        "of a page that a VM still has",
        &[pfn],
        EPERM,
    )?;
    b.check(
        "__pkvm_host_unshare_guest",
        "of its second place",
        &[vm.handle, 0x11, 1],
        OK,
    )?;
    b.owned("after the last share", pfn)?;
    vm.put()?;
    vm.destroy(&[], Kind::Normal)?;
    Ok(())
}

/// Taking a pVM's page back by force.
pub fn reclaim(b: &mut Bench) -> Result<(), String> {
    const CALL: &str = "__pkvm_force_reclaim_guest_page";
    const EFAULT: Want = Want::Result(errno::EFAULT);
    const EAGAIN: Want = Want::Result(errno::EAGAIN);
    let own = b.fresh()? * b.page;
    b.check(CALL, "at 0", &[0], EFAULT)?;
    b.check(CALL, "of a device", &[b.map.mmio], EFAULT)?;
    b.check(CALL, "after memory", &[b.map.memory_end], EFAULT)?;
    b.check(CALL, "at the end of the address space", &[u64::MAX], EFAULT)?;
    b.check(CALL, "beyond any address", &[1 << 56], EFAULT)?;
    if let Some(at) = b.map.kept_out {
        // It has a record, by which it is nobody's but the host's.
        b.check(
            CALL,
            "of a no-map page",
            &[at],
            Want::OneOf(&[errno::EFAULT, errno::EAGAIN]),
        )?;
    }
    b.check(CALL, "of EL2's memory", &[b.map.hyp], EPERM)?;
    b.check(CALL, "of the host's page", &[own], EAGAIN)?;
    let h = crate::hostile::Hostile::open().map_err(|e| e.to_string())?;
    let vm = FakeVm::new(&h, Kind::Protected)?;
    vm.load(0)?;
    let page = vm.donate(0x10)?;
    let memory = h.pa_of(vm.memory).map_err(|e| e.to_string())?;
    b.check(CALL, "of a VM's structure", &[memory], EPERM)?;
    b.check(CALL, "of a guest's page", &[page + 0x123], OK)?;
    let zero = h
        .peek64(h.va_of(page).map_err(|e| e.to_string())?)
        .is_ok_and(|word| word == 0);
    b.expect("the page that was taken back is zero", zero);
    b.check(CALL, "again", &[page], EAGAIN)?;
    b.owned("taken back", page / b.page)?;
    let other = b.fresh()?;
    b.check(
        "__pkvm_host_donate_guest",
        "where a page was taken",
        &[other, 0x10],
        EPERM,
    )?;
    b.owned("poisoned place", other)?;
    vm.put()?;
    // Its place is poisoned: the end of the VM finds nothing to take there, and says that all is well.
    vm.destroy(&[0x10], Kind::Protected)?;
    Ok(())
}
