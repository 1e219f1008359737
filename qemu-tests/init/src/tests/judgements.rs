// SPDX-License-Identifier: GPL-2.0-only
//! The cases of Documentation/judgements.rst: what a host can try that reading the C object's source found to be
//! wrong or dangerous. Each is called by the number of the judgement, has a boot of its own, and says what it saw in a
//! line `seen: ...`; it passes if that is what the specification demands.

use super::ffa::judged;
use super::{Fail, Outcome};
use crate::hostile::device::Access;
use crate::hostile::facts::Map;
use crate::hostile::monitor::Fault;
use crate::hostile::{FakeVm, Hostile, Kind, Reply, code, errno};
use crate::ktap::Sub;

type Case = fn(&Hostile, &Map) -> Result<bool, Fail>;

const CASES: &[(&str, Case)] = &[
    ("j1-save", |h, _| vgic_v5(h, "__vgic_v5_save_apr")),
    ("j1-restore", |h, _| vgic_v5(h, "__vgic_v5_restore_vmcr_apr")),
    ("j2-ipa", |h, _| tlb(h, "__kvm_tlb_flush_vmid_ipa")),
    ("j2-ipa-nsh", |h, _| tlb(h, "__kvm_tlb_flush_vmid_ipa_nsh")),
    ("j2-vmid", |h, _| tlb(h, "__kvm_tlb_flush_vmid")),
    ("j2-range", |h, _| tlb(h, "__kvm_tlb_flush_vmid_range")),
    ("j2-cpu", |h, _| tlb(h, "__kvm_flush_cpu_context")),
    ("j3-smc", |h, _| super::firmware::unlisted(h)),
    ("j3-psci", |h, _| super::firmware::standard_numbers(h)),
    ("j4", |h, map| reclaim_text(h, map)),
    ("j5-freed", |h, _| reclaim_after_end(h, false)),
    ("j5-reused", |h, _| reclaim_after_end(h, true)),
    ("j6-px", |h, _| half_executable(h, "prot_px")),
    ("j6-ux", |h, _| half_executable(h, "prot_ux")),
    ("j7", |h, _| young_beyond(h)),
    ("j8", |h, _| unaligned_pgd(h)),
    ("j9", |h, _| debug_owner(h)),
    ("j10", |h, _| pin_overflow(h)),
    ("j14-write", |h, map| write_text(h, map)),
    ("j14-exec", |h, map| execute_device(h, map)),
    ("j17", |h, _| trapped_register(h)),
    ("j28", |h, _| super::guests::aarch32(h)),
    ("j29", |h, _| super::guests::debug_traps(h)),
    ("j30", |h, _| vgic_model(h)),
    ("j31", |h, _| boolean(h)),
    ("j32", |h, _| long_memcache(h)),
    ("j33", |h, _| returned_zero(h)),
    ("j34", |h, _| shares_left(h)),
    ("j41", |h, _| high_bits(h)),
    ("j43", |h, _| pgd_in_use(h)),
    ("j48", |h, _| super::guests::serror(h)),
    ("j11-pin", |_, _| Ok(judged::pinned_buffer()?)),
    ("j12-fragment", |_, _| Ok(judged::stray_fragment()?)),
    ("j19-late", |_, _| Ok(judged::late_firmware()?)),
    ("j20-bit31", |_, _| Ok(judged::bit_31()?)),
    ("j21-other", |_, _| Ok(judged::retrieved(Fault::RetrieveOther)?)),
    ("j22-offset", |_, _| Ok(judged::fragment_offset()?)),
    ("j23-zero", |_, _| Ok(judged::retrieved(Fault::RetrieveZero)?)),
    ("j23-huge", |_, _| Ok(judged::retrieved(Fault::RetrieveHuge)?)),
    ("j23-long", |_, _| Ok(judged::retrieved(Fault::RetrieveLong)?)),
    ("j23-short", |_, _| Ok(judged::retrieved(Fault::RetrieveShort)?)),
    ("j23-wrap", |_, _| Ok(judged::retrieved(Fault::RetrieveOffset)?)),
    ("j23-count", |_, _| Ok(judged::retrieved(Fault::RetrieveCount)?)),
    ("j24", |_, _| Ok(judged::partitions()?)),
    ("j25-address", |_, _| Ok(judged::odd_error(Fault::BareError)?)),
    ("j25-zero", |_, _| Ok(judged::odd_error(Fault::ErrorZero)?)),
    ("j26", |_, _| Ok(judged::gaps()?)),
];

/// Runs the case that the first word names.
pub fn run(_: &mut Sub, words: &[String]) -> Outcome {
    let name = words.first().ok_or_else(|| "no case named".to_owned())?;
    let (_, case) = CASES
        .iter()
        .find(|(n, _)| n == name)
        .ok_or_else(|| format!("no case {name}"))?;
    // The last CPU, so that init has the other to itself where there are two.
    super::pin_to_cpu(1).or_else(|_| super::pin_to_cpu(0))?;
    let h = Hostile::open().map_err(|e| format!("/dev/hostile: {e}"))?;
    let map = Map::read(&h)?;
    match case(&h, &map) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Fail::Because(
            "this is not what the specification demands".to_owned(),
        )),
        Err(other) => Err(other),
    }
}

/// Reports a reply and passes on whether it is as demanded. Never more than the two results may have changed.
fn saw(reply: &Reply, good: bool) -> bool {
    seen(&reply.to_string());
    good && reply.clobbered.is_none()
}

/// Reports what was seen.
pub fn seen(what: &str) {
    println!("# seen: {what}");
}

fn error(reply: &Reply, errno: i64) -> bool {
    (reply.x0(), reply.x1()) == (0, errno)
}

/// J1: the GICv5 calls take any pointer. There is no GICv5 here, so they must do nothing at all.
fn vgic_v5(h: &Hostile, call: &str) -> Result<bool, Fail> {
    let (va, pa) = h.alloc(h.fact("page_size"))?;
    // The page is pinned by nobody, but EL2 knows it: the most that a host can offer.
    h.call("__pkvm_host_share_hyp", &[pa / h.fact("page_size")])?;
    h.poke64(va, 0x1234)?;
    let reply = h.call(call, &[va])?;
    let kept = h.peek64(va)? == 0x1234;
    if kept && reply.x0() == 0 && reply.regs[1] == va && reply.clobbered.is_none() {
        seen("no effect");
        return Ok(true);
    }
    seen(&format!(
        "{reply}, page {}",
        if kept { "unchanged" } else { "changed" }
    ));
    Ok(false)
}

/// J2: the TLB calls of the unprotected modes load VTTBR_EL2 from any pointer.
fn tlb(h: &Hostile, call: &str) -> Result<bool, Fail> {
    let (va, _) = h.alloc(h.fact("page_size"))?;
    let reply = h.call(call, &[va, 0, 1])?;
    Ok(saw(&reply, reply.x0() == -1))
}

/// J4: a forced reclaim of EL2's text, the one place that is readable and yet not the host's.
fn reclaim_text(h: &Hostile, map: &Map) -> Result<bool, Fail> {
    let reply = h.call("__pkvm_force_reclaim_guest_page", &[map.hyp_text])?;
    Ok(saw(&reply, error(&reply, errno::EPERM)))
}

/// J5: a pVM ends with a page still its own, and then the page is reclaimed by force.
fn reclaim_after_end(h: &Hostile, reuse: bool) -> Result<bool, Fail> {
    const GFN: u64 = 0x123;
    let vm = FakeVm::new(h, Kind::Protected)?;
    vm.load(0)?;
    let page = vm.donate(GFN)?;
    vm.put()?;
    h.call("__pkvm_start_teardown_vm", &[vm.handle])?
        .ok("start_teardown")?;
    let end = h.call("__pkvm_finalize_teardown_vm", &[vm.handle])?;
    if error(&end, errno::EBUSY) {
        // Refused: then the proper end must still be possible.
        seen("finalize_teardown: EBUSY");
        h.call("__pkvm_reclaim_dying_guest_page", &[vm.handle, GFN])?
            .ok("reclaim after EBUSY")?;
        h.call("__pkvm_finalize_teardown_vm", &[vm.handle])?
            .ok("finalize_teardown after EBUSY")?;
        let word = h.peek64(h.va_of(page)?)?;
        return Ok(word == 0);
    }
    end.ok("finalize_teardown")?;
    let va = h.va_of(page)?;
    if let Ok(word) = h.peek64(va) {
        seen(&format!("finalize_teardown: 0, page returned holding {word:#x}"));
        return Ok(word == 0);
    }
    println!("# the page stayed behind");
    if reuse {
        let other = FakeVm::new(h, Kind::Protected)?;
        other.load(0)?;
        other.donate(GFN)?;
        other.put()?;
        if other.handle != vm.handle {
            return Err(Fail::Skip("the handle was not used again".to_owned()));
        }
        println!("# another VM has its handle");
    }
    let reply = h.call("__pkvm_force_reclaim_guest_page", &[page])?;
    seen(&format!(
        "finalize_teardown: 0 with the page left behind; force_reclaim: {reply}"
    ));
    Ok(error(&reply, errno::EPERM))
}

/// J6: execute permission for one exception level alone, on a CPU that cannot express it.
fn half_executable(h: &Hostile, bit: &str) -> Result<bool, Fail> {
    let vm = FakeVm::new(h, Kind::Normal)?;
    vm.load(0)?;
    vm.top_up(0, 8)?;
    let (_, pa) = h.alloc(h.fact("page_size"))?;
    let prot = h.fact("prot_r") | h.fact(bit);
    let reply = h.call(
        "__pkvm_host_share_guest",
        &[pa / h.fact("page_size"), 0x10, 1, prot],
    )?;
    vm.put()?;
    Ok(saw(&reply, error(&reply, errno::EINVAL)))
}

/// J7: the age of a page beyond the guest's address space.
fn young_beyond(h: &Hostile) -> Result<bool, Fail> {
    let vm = FakeVm::new(h, Kind::Normal)?;
    let gfn = (1 << vm.template.ipa_bits()) / h.fact("page_size");
    let reply = h.call("__pkvm_host_test_clear_young_guest", &[vm.handle, gfn, 1, 0])?;
    Ok(saw(&reply, error(&reply, errno::ERANGE)))
}

/// J8: a first-level table of several pages that is not aligned to its size.
fn unaligned_pgd(h: &Hostile) -> Result<bool, Fail> {
    let mut vm = FakeVm::prepare(h, Kind::Normal, 1)?;
    let pages = vm.template.pgd_pages();
    println!(
        "# IPA of {} bits, first-level table of {pages} pages",
        vm.template.ipa_bits()
    );
    if pages == 1 {
        return Err(Fail::Skip("the first-level table is one page".to_owned()));
    }
    let (va, _) = h.alloc(2 * pages * h.fact("page_size"))?;
    vm.pgd = va + h.fact("page_size");
    let reply = vm.try_init()?;
    let kept = h.peek64(vm.pgd).is_ok() && h.peek64(vm.memory).is_ok();
    Ok(saw(&reply, error(&reply, errno::EINVAL) && kept))
}

/// J9: a vCPU whose debug registers belong to nobody that EL2 knows.
fn debug_owner(h: &Hostile) -> Result<bool, Fail> {
    let vm = FakeVm::new(h, Kind::Normal)?;
    vm.load(0)?;
    h.poke(vm.vcpus[0].host + h.fact("vcpu.debug_owner"), &3u32.to_le_bytes())?;
    let reply = vm.run(0)?;
    vm.put()?;
    // The guest has no memory: it exits with a trap at its first instruction, or an interrupt came first.
    Ok(saw(&reply, reply.x0() == 0 && matches!(reply.x1(), 0 | 2)))
}

/// J10: one page pinned more often than the count can hold, by vCPUs that all name the same host structure.
fn pin_overflow(h: &Hostile) -> Result<bool, Fail> {
    const PINS: u32 = 0x1_0002;
    let mut vm = FakeVm::prepare(h, Kind::Protected, PINS)?;
    let reply = vm.try_init()?;
    if reply.ok("").is_err() {
        // So many vCPUs may be refused at once.
        return Ok(saw(&reply, error(&reply, errno::EINVAL)));
    }
    vm.add_vcpu(0)?.ok("init_vcpu")?;
    let host = vm.vcpus[0].host;
    for idx in 1..PINS {
        h.poke(host + h.fact("vcpu.vcpu_idx"), &idx.to_le_bytes())?;
        let (memory, _) = h
            .alloc(h.fact("hyp_vcpu.size"))
            .map_err(|e| format!("at vCPU {idx}: {e}"))?;
        let reply = h.call("__pkvm_init_vcpu", &[vm.handle, host, memory])?;
        if reply.ok("").is_err() {
            seen(&format!("{reply} at pin {idx}"));
            let kept = h.peek64(memory).is_ok();
            return Ok(kept && [errno::EBUSY, errno::ENOMEM].iter().any(|e| error(&reply, *e)));
        }
        if idx % 8192 == 0 {
            println!("# {idx} pins");
        }
    }
    seen(&format!("{PINS} pins of one page accepted"));
    Ok(false)
}

/// J14: the host writes EL2's text, which it may only read.
fn write_text(h: &Hostile, map: &Map) -> Result<bool, Fail> {
    h.touch(map.hyp_text, Access::Read, false)
        .map_err(|e| format!("read of the text: {e}"))?;
    println!("# the text can be read; now the write");
    match h.touch(map.hyp_text, Access::Write, false) {
        Ok(_) => {
            seen("the write went through");
            Ok(false)
        }
        Err(error) => {
            seen(&format!("the host got an abort ({error})"));
            Ok(true)
        }
    }
}

/// J14: the host executes from a device, in user space. The abort kills the task that fetched, so a child does it.
fn execute_device(h: &Hostile, map: &Map) -> Result<bool, Fail> {
    if std::env::args().any(|w| w == "fetch") {
        h.fetch(map.mmio)?;
        return Ok(false);
    }
    let status = std::process::Command::new("/init")
        .args(["--test", "judgement", "j14-exec", "fetch"])
        .status()?;
    seen(&format!("the task that fetched: {status}"));
    Ok(status.code().is_none())
}

/// J17: the host touches a register that EL2 traps but does not model. With SME in the CPU and not in the kernel,
/// SMCR_EL1 is such a one.
fn trapped_register(h: &Hostile) -> Result<bool, Fail> {
    let id = h
        .exec(&code::READ_ID_AA64PFR1, [0; 4])?
        .ok_or_else(|| "the ID register is undefined".to_owned())?;
    if (id[0] >> 24) & 0xf < 1 {
        return Err(Fail::Skip("no SME in this CPU".to_owned()));
    }
    println!("# SME is there; reading SMCR_EL1");
    let read = || -> Result<String, Fail> {
        Ok(h.exec(&code::READ_SMCR, [0; 4])?
            .map_or("undefined".to_owned(), |x| format!("{:#x}", x[0])))
    };
    // The traps of a host that has run a guest are not those that it booted with.
    let before = read()?;
    println!("# before a VM ran: {before}");
    let vm = FakeVm::new(h, Kind::Normal)?;
    vm.load(0)?;
    vm.run(0)?;
    vm.put()?;
    let after = read()?;
    seen(&format!("{before} before a VM ran, {after} after"));
    Ok(after == "undefined")
}

/// J30: a VM that claims an interrupt controller which this machine has not.
fn vgic_model(h: &Hostile) -> Result<bool, Fail> {
    let mut vm = FakeVm::prepare(h, Kind::Normal, 1)?;
    h.poke(
        vm.host + h.fact("kvm.vgic_model"),
        &(h.fact("vgic_v5") as u32).to_le_bytes(),
    )?;
    let reply = vm.try_init()?;
    if reply.ok("").is_err() {
        return Ok(saw(&reply, error(&reply, errno::EINVAL)));
    }
    vm.add_vcpu(0)?.ok("init_vcpu")?;
    vm.load(0)?;
    println!("# the VM was accepted; now it runs");
    let reply = vm.run(0)?;
    vm.put()?;
    seen(&format!("init_vm: 0, vcpu_run: {reply}"));
    Ok(false)
}

/// J31: a truth value that is neither 0 nor 1 is true.
fn boolean(h: &Hostile) -> Result<bool, Fail> {
    let mut said = Vec::new();
    let mut good = true;
    for byte in [2u8, 0x80, 0xfe, 0xff] {
        let mut vm = FakeVm::prepare(h, Kind::Normal, 1)?;
        h.poke(vm.host + h.fact("kvm.is_protected"), &[byte])?;
        vm.init()?;
        vm.add_vcpu(0)?.ok("init_vcpu")?;
        // Only normal VMs know write protection.
        let reply = h.call("__pkvm_host_wrprotect_guest", &[vm.handle, 0, 1])?;
        said.push(format!("{byte:#x}: {reply}"));
        good &= error(&reply, errno::EINVAL);
        vm.load(0)?;
        vm.donate(0x10)?;
        vm.put()?;
        vm.destroy(&[0x10], Kind::Protected)?;
    }
    seen(&format!("wrprotect on is_protected = {}", said.join(", ")));
    Ok(good)
}

/// J32: a memcache of a thousand pages: one call must not take them all.
fn long_memcache(h: &Hostile) -> Result<bool, Fail> {
    const OFFERED: u64 = 1000;
    let vm = FakeVm::new(h, Kind::Protected)?;
    vm.load(0)?;
    vm.top_up(0, OFFERED)?;
    let (_, pa) = h.alloc(h.fact("page_size"))?;
    let reply = h.call("__pkvm_host_donate_guest", &[pa / h.fact("page_size"), 0x10])?;
    vm.put()?;
    let left = vm.memcache_left(0)?;
    let taken = OFFERED - left;
    seen(&format!(
        "donate_guest: {reply}, {taken} of {OFFERED} pages taken"
    ));
    reply.ok("donate_guest")?;
    let returned = vm.destroy(&[0x10], Kind::Protected)?;
    println!("# {returned} pages returned");
    Ok(taken <= 20)
}

/// J33: what EL2 returns is zero but for the links of the lists. (Whether it was also cleaned to the point of coherency
/// cannot be seen in an emulator without caches.)
fn returned_zero(h: &Hostile) -> Result<bool, Fail> {
    let vm = FakeVm::new(h, Kind::Protected)?;
    vm.load(0)?;
    // Far apart, so that tables of every level come into being.
    let gfns: Vec<u64> = (0..6).map(|n| n << 18 | n << 9 | n).collect();
    let mut pages = Vec::new();
    for gfn in &gfns {
        pages.push(vm.donate(*gfn)?);
    }
    vm.put()?;
    match vm.destroy(&gfns, Kind::Protected) {
        Ok(count) => {
            for page in pages {
                let bytes = h.peek(h.va_of(page)?, h.fact("page_size") as usize)?;
                if bytes.iter().any(|b| *b != 0) {
                    seen(&format!("guest page {page:#x} came back with content"));
                    return Ok(false);
                }
            }
            seen(&format!(
                "{count} pages of EL2 and {} of the guest came back zero",
                gfns.len()
            ));
            Ok(true)
        }
        Err(why) => {
            seen(&why);
            Ok(false)
        }
    }
}

/// J34: a normal VM ends with a page still shared: the host must not lose it.
fn shares_left(h: &Hostile) -> Result<bool, Fail> {
    let vm = FakeVm::new(h, Kind::Normal)?;
    vm.load(0)?;
    let page = vm.share(0x10)?;
    vm.put()?;
    h.call("__pkvm_start_teardown_vm", &[vm.handle])?
        .ok("start_teardown")?;
    let end = h.call("__pkvm_finalize_teardown_vm", &[vm.handle])?;
    let ended = if error(&end, errno::EBUSY) {
        h.call("__pkvm_host_unshare_guest", &[vm.handle, 0x10, 1])?
            .ok("unshare after EBUSY")?;
        h.call("__pkvm_finalize_teardown_vm", &[vm.handle])?
            .ok("finalize_teardown after EBUSY")?;
        "finalize_teardown: EBUSY until the page was unshared"
    } else {
        end.ok("finalize_teardown")?;
        "finalize_teardown: 0"
    };
    let pfn = page / h.fact("page_size");
    let reply = h.call("__pkvm_host_share_hyp", &[pfn])?;
    seen(&format!("{ended}; then the page shared with EL2: {reply}"));
    Ok(reply.ok("").is_ok())
}

/// J41: page numbers with bits beyond any address, which a shift would drop.
fn high_bits(h: &Hostile) -> Result<bool, Fail> {
    const ALIAS: u64 = 1 << 52;
    let page = h.fact("page_size");
    let vm = FakeVm::new(h, Kind::Normal)?;
    vm.load(0)?;
    let shared = vm.share(0x10)? / page;
    let (_, pa) = h.alloc(page)?;
    let pfn = pa / page;
    let prot = h.fact("prot_r");
    let mut said = Vec::new();
    let mut good = true;
    let mut check = |call: &str, args: &[u64], want: i64| -> Result<(), Fail> {
        let reply = h.call(call, args)?;
        if !error(&reply, want) {
            good = false;
            said.push(format!("{}: {reply}", call.trim_start_matches('_')));
        }
        Ok(())
    };
    check("__pkvm_host_share_hyp", &[pfn | ALIAS], errno::EINVAL)?;
    // Undoes what the call before should not have done.
    h.call("__pkvm_host_unshare_hyp", &[pfn])?;
    h.call("__pkvm_host_share_hyp", &[pfn])?.ok("share_hyp")?;
    check("__pkvm_host_unshare_hyp", &[pfn | ALIAS], errno::EINVAL)?;
    h.call("__pkvm_host_unshare_hyp", &[pfn])?;
    check(
        "__pkvm_host_share_guest",
        &[pfn, 0x11 | ALIAS, 1, prot],
        errno::ERANGE,
    )?;
    check(
        "__pkvm_host_wrprotect_guest",
        &[vm.handle, 0x10 | ALIAS, 1],
        errno::ERANGE,
    )?;
    check(
        "__pkvm_host_test_clear_young_guest",
        &[vm.handle, 0x10 | ALIAS, 1, 0],
        errno::ERANGE,
    )?;
    check(
        "__pkvm_host_relax_perms_guest",
        &[0x10 | ALIAS, prot],
        errno::ERANGE,
    )?;
    check(
        "__pkvm_host_unshare_guest",
        &[vm.handle, 0x10 | ALIAS, 1],
        errno::ERANGE,
    )?;
    vm.put()?;
    let guest = FakeVm::new(h, Kind::Protected)?;
    guest.load(0)?;
    guest.donate(0x10)?;
    let (_, pa) = h.alloc(page)?;
    check(
        "__pkvm_host_donate_guest",
        &[pa / page, 0x11 | ALIAS],
        errno::ERANGE,
    )?;
    let (_, pa) = h.alloc(page)?;
    check(
        "__pkvm_host_donate_guest",
        &[(pa / page) | ALIAS, 0x12],
        errno::EINVAL,
    )?;
    guest.put()?;
    h.call("__pkvm_start_teardown_vm", &[guest.handle])?
        .ok("start_teardown")?;
    check(
        "__pkvm_reclaim_dying_guest_page",
        &[guest.handle, 0x10 | ALIAS],
        errno::ERANGE,
    )?;
    let _ = shared;
    if good {
        seen("every alias was refused");
    } else {
        seen(&format!("accepted or other error: {}", said.join(", ")));
    }
    Ok(good)
}

/// J43: a first-level table on pages that are in use: shared and pinned, or the same as the VM's own memory.
fn pgd_in_use(h: &Hostile) -> Result<bool, Fail> {
    let mut said = Vec::new();
    let mut good = true;
    let mut vm = FakeVm::prepare(h, Kind::Normal, 1)?;
    let (fresh, own) = (vm.pgd, vm.memory);
    for (what, pgd) in [("EL2's memory of the VM", own), ("the pinned structure", vm.host)] {
        vm.pgd = pgd;
        let reply = vm.try_init()?;
        said.push(format!("{what}: {reply}"));
        good &= [errno::ENOMEM, errno::EINVAL].iter().any(|e| error(&reply, *e));
        good &= h.peek64(own).is_ok();
    }
    vm.pgd = fresh;
    vm.init()?;
    said.push("a proper one: 0".to_owned());
    seen(&said.join(", "));
    Ok(good)
}
