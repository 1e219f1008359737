// SPDX-License-Identifier: GPL-2.0-only
//! Call numbers, immediates, and the calls that take no object.

use super::{Bench, Want};
use crate::hostile::errno;

fn regs(x0: u64) -> [u64; 18] {
    let mut regs: [u64; 18] = std::array::from_fn(|n| 0xca4a_0000 + n as u64);
    regs[0] = x0;
    regs
}

/// Numbers without a call, calls that only a booting host may make, and function ids that only look like one of ours.
pub fn numbers(b: &mut Bench) -> Result<(), String> {
    let base = b.h.fact("call_base");
    let (min, max) = (b.h.fact("call_min_pkvm"), b.h.fact("call_max"));
    let mut ids: Vec<(String, u64)> = (0..min)
        .map(|id| (format!("boot-only call {id}"), base + id))
        .collect();
    for id in [max, max + 1, max + 2, 100, 255, 256, 0x3fff, 0xfffe, 0xffff] {
        ids.push((format!("call {id}, which does not exist"), base + id));
    }
    let share = b.h.fact("call.__pkvm_reserve_vm");
    for bit in [17, 20, 23, 32, 33, 47, 62, 63] {
        ids.push((
            format!("reserve_vm with bit {bit} set"),
            (base + share) ^ (1 << bit),
        ));
    }
    for (what, x0) in [
        ("a number of the stub, 0", 0),
        ("a number of the stub, 1", 1),
        ("a number of the stub, 2", 2),
        ("a number of the stub, 3", 3),
        ("a number of the stub, 4", 4),
        ("number 5", 5),
        ("all ones", u64::MAX),
        ("one below the first", base - 1),
        ("reserve_vm as a slow call", (base + share) & !(1 << 31)),
        ("reserve_vm as a 32-bit call", (base + share) & !(1 << 30)),
        ("reserve_vm of another owner", (base + share) ^ (3 << 24)),
        ("PSCI_VERSION by HVC", 0x8400_0000),
    ] {
        ids.push((what.to_owned(), x0));
    }
    for (what, x0) in ids {
        let reply = b.h.hvc(-1, 0, regs(x0)).map_err(|e| format!("{what}: {e}"))?;
        b.judge(&what, &reply, 0xca4a_0001, Want::NotSupported, None);
    }
    // The hint bit alone is allowed.
    let flush = base + b.h.fact("call.__kvm_flush_vm_context");
    let reply = b.h.hvc(-1, 0, regs(flush | 1 << 16)).map_err(|e| e.to_string())?;
    b.judge(
        "flush_vm_context with the hint",
        &reply,
        0xca4a_0001,
        Want::Void,
        None,
    );
    b.check("__pkvm_prot_finalize", "again", &[], Want::Result(errno::EPERM))?;
    Ok(())
}

/// EL2 looks at the registers, not at the immediate of an HVC.
pub fn immediates(b: &mut Bench) -> Result<(), String> {
    let pfn = b.fresh()?;
    let base = b.h.fact("call_base");
    let [share, unshare] =
        ["share", "unshare"].map(|c| base + b.h.fact(&format!("call.__pkvm_host_{c}_hyp")));
    for imm in [0, 1, 0xffff] {
        for (call, want) in [
            (share, 0),
            (share, errno::EPERM),
            (unshare, 0),
            (unshare, errno::EPERM),
            (base + 1000, -1),
        ] {
            let mut regs = regs(call);
            regs[1] = pfn;
            let reply = b.h.hvc(-1, imm, regs).map_err(|e| e.to_string())?;
            let want = if call == base + 1000 {
                Want::NotSupported
            } else {
                Want::Result(want)
            };
            b.judge(
                &format!("HVC #{imm:#x}, call {:#x}", call - base),
                &reply,
                pfn,
                want,
                None,
            );
        }
    }
    Ok(())
}

/// The calls of the tracing ring buffers: an EL2 without them may refuse in any way, one with them as specified.
pub fn tracing(b: &mut Bench) -> Result<(), String> {
    let built = b.h.fact("tracing") == 1;
    println!("# tracing is {} this kernel", if built { "in" } else { "not in" });
    let int = |exact: Want| if built { exact } else { Want::OneOf(&REFUSALS) };
    let page = b.page;
    let (va, pa) = b.h.alloc(page).map_err(|e| e.to_string())?;
    let cpus = 4096;
    for (call, what, args, want) in [
        (
            "__tracing_load",
            "unaligned",
            vec![va + 8, page],
            Want::OneOf(&REFUSALS),
        ),
        (
            "__tracing_load",
            "of no size",
            vec![va, 0],
            Want::OneOf(&REFUSALS),
        ),
        (
            "__tracing_load",
            "of an odd size",
            vec![va, 100],
            Want::OneOf(&REFUSALS),
        ),
        (
            "__tracing_load",
            "of an empty descriptor",
            vec![va, page],
            Want::OneOf(&REFUSALS),
        ),
        (
            "__tracing_load",
            "of a wrapping size",
            vec![va, page.wrapping_neg()],
            Want::OneOf(&REFUSALS),
        ),
        (
            "__tracing_load",
            "of a user address",
            vec![0x40_0000, page],
            Want::OneOf(&REFUSALS),
        ),
        (
            "__tracing_enable",
            "without a buffer",
            vec![1],
            int(Want::Result(errno::EINVAL)),
        ),
        (
            "__tracing_enable",
            "without a buffer, with 2",
            vec![2],
            int(Want::Result(errno::EINVAL)),
        ),
        (
            "__tracing_swap_reader",
            "without a buffer",
            vec![0],
            int(Want::Result(errno::ENODEV)),
        ),
        (
            "__tracing_swap_reader",
            "of a CPU that is not",
            vec![cpus],
            int(Want::Result(errno::EINVAL)),
        ),
        (
            "__tracing_swap_reader",
            "of CPU -1",
            vec![u64::MAX],
            int(Want::Result(errno::EINVAL)),
        ),
        (
            "__tracing_reset",
            "without a buffer",
            vec![0],
            int(Want::Result(errno::ENODEV)),
        ),
        (
            "__tracing_reset",
            "of a CPU that is not",
            vec![cpus],
            int(Want::Result(errno::EINVAL)),
        ),
        (
            "__tracing_enable_event",
            "that is not",
            vec![0xffff, 1],
            int(Want::Result(errno::EINVAL)),
        ),
    ] {
        b.check(call, what, &args, want)?;
    }
    for (call, what, args) in [
        ("__tracing_unload", "without a buffer", vec![]),
        ("__tracing_update_clock", "with a zero factor", vec![0, 1, 2, 3]),
        ("__tracing_update_clock", "with a shift of 64", vec![1, 64, 2, 3]),
        ("__tracing_write_event", "without a buffer", vec![1]),
    ] {
        let want = if args.is_empty() { Want::Any } else { Want::Void };
        b.check(call, what, &args, want)?;
    }
    b.owned("tracing_load", pa / page)
}

const REFUSALS: [i64; 7] = [
    errno::EINVAL,
    errno::ENODEV,
    errno::EPERM,
    errno::ENOMEM,
    -95,
    errno::EFAULT,
    errno::ERANGE,
];
