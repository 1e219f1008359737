// SPDX-License-Identifier: GPL-2.0-only
//! The judged cases that need a guest which executes something. It is a protected VM with one page of code, made and run
//! by hypercalls alone, so that the host's copy of its vCPU holds what the test wrote there.

use super::judgements::seen;
use super::{Fail, Outcome};
use crate::hostile::device::Access;
use crate::hostile::{FakeVm, Hostile, Kind, Reply};
use crate::ktap::{Sub, note};

/// Where the guest has its page.
const GFN: u64 = 0x40;
/// PSTATE of EL1h with all interrupts masked.
const EL1: u64 = 0x3c5;
/// The exit codes of a run: an interrupt for the host, a trap, a state that the guest may not be in.
const IRQ: i64 = 0;
const TRAP: i64 = 2;
const ILLEGAL: i64 = 3;

const HVC: u32 = 0xd400_0002;
const ISB: u32 = 0xd503_3fdf;

struct Guest<'a> {
    h: &'a Hostile,
    vm: FakeVm<'a>,
}

impl<'a> Guest<'a> {
    /// A protected VM whose page holds `code`, each piece at its offset; vCPU 0 is loaded, is about to execute the first
    /// word at EL1, and has its exception vectors in the same page.
    fn new(h: &'a Hostile, code: &[(u64, &[u32])]) -> Result<Self, Fail> {
        let vm = FakeVm::new(h, Kind::Protected)?;
        vm.load(0)?;
        vm.top_up(0, 8)?;
        let page = h.fact("page_size");
        let (va, pa) = h.alloc(page)?;
        for (offset, words) in code {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            h.poke(va + offset, &bytes)?;
        }
        h.call("__pkvm_host_donate_guest", &[pa / page, GFN])?
            .ok("donate_guest")?;
        let guest = Self { h, vm };
        guest.set("vcpu.pc", GFN * page)?;
        guest.set("vcpu.vbar", GFN * page)?;
        guest.set("vcpu.pstate", EL1)?;
        guest.set("vcpu.regs", 1)?;
        Ok(guest)
    }

    fn at(&self, field: &str) -> u64 {
        self.vm.vcpus[0].host + self.h.fact(field)
    }

    /// Writes a word of the host's copy of the vCPU.
    fn set(&self, field: &str, value: u64) -> Result<(), Fail> {
        Ok(self.h.poke64(self.at(field), value)?)
    }

    fn get(&self, field: &str) -> Result<u64, Fail> {
        Ok(self.h.peek64(self.at(field))?)
    }

    /// General register `n`, as the host sees it.
    fn reg(&self, n: u64) -> Result<u64, Fail> {
        Ok(self.h.peek64(self.at("vcpu.regs") + 8 * n)?)
    }

    /// Offset of the PC in the page.
    fn offset(&self) -> Result<u64, Fail> {
        Ok(self.get("vcpu.pc")?.wrapping_sub(GFN * self.h.fact("page_size")))
    }

    /// Runs the vCPU until something else than an interrupt ends it.
    fn run(&self) -> Result<Reply, Fail> {
        for _ in 0..1000 {
            let reply = self.vm.run(0)?;
            if (reply.x0(), reply.x1()) != (0, IRQ) {
                return Ok(reply);
            }
        }
        Err(Fail::Because("nothing but interrupts".to_owned()))
    }

    /// Takes it off the CPU.
    fn put(self) -> Result<(), Fail> {
        Ok(self.vm.put()?)
    }
}

/// J28: a protected guest that was seen in AArch32 state runs no more, whatever the host makes of its registers.
pub fn aarch32(h: &Hostile) -> Result<bool, Fail> {
    let guest = Guest::new(h, &[(0, &[HVC])])?;
    // User mode of AArch32, interrupts masked.
    guest.set("vcpu.pstate", 0x1d0)?;
    let first = guest.run()?;
    note(&format!("in AArch32 state: {first}"));
    if first.x1() != ILLEGAL {
        return Err(Fail::Skip(format!(
            "the guest did not get to AArch32 state: {first}"
        )));
    }
    guest.set("vcpu.pc", GFN * h.fact("page_size"))?;
    guest.set("vcpu.pstate", EL1)?;
    let again = guest.run()?;
    guest.put()?;
    seen(&format!("run again in AArch64 state: {again}"));
    // An errno would be taken for an exit code by EL1, with an SError pending.
    Ok((again.x0(), again.x1()) == (0, ILLEGAL))
}

/// J29: the host asks for none of the traps of MDCR_EL2, and the guest reads a performance monitor register.
pub fn debug_traps(h: &Hostile) -> Result<bool, Fail> {
    const MRS_X2_PMCR: u32 = 0xd53b_9c02;
    const VECTOR: u64 = 0x200;
    let guest = Guest::new(h, &[(0, &[MRS_X2_PMCR, HVC]), (VECTOR, &[HVC])])?;
    guest.set("vcpu.mdcr", 0)?;
    let end = guest.run()?;
    if end.x1() != TRAP {
        return Err(Fail::Because(format!("the run ended with {end}")));
    }
    let (offset, value) = (guest.offset()?, guest.reg(2)?);
    guest.put()?;
    match offset {
        8 => seen(&format!("PMCR_EL0 read as {value:#x}")),
        o if o == VECTOR + 4 => seen("undefined instruction"),
        o => seen(&format!("the guest stopped at offset {o:#x}")),
    }
    Ok(offset == VECTOR + 4)
}

/// The physical address of memory that is EL2's own, which this CPU must not be able to read.
pub fn hidden_memory(h: &Hostile) -> Result<u64, Fail> {
    let guest = Guest::new(h, &[(0, &[HVC])])?;
    // EL2's structure of the VM: its address is known here.
    let page = h.pa_of(guest.vm.memory)?;
    guest.put()?;
    refused(h, page)?;
    Ok(page)
}

/// The host's kernel cannot read `page` on this CPU.
pub fn refused(h: &Hostile, page: u64) -> Result<(), Fail> {
    match h.touch(page, Access::Read, false) {
        Ok(word) => Err(Fail::Because(format!("it reads EL2's memory: {word:#x}"))),
        Err(error) => {
            note(&format!("a read of EL2's memory: {error}"));
            Ok(())
        }
    }
}

/// J48: a virtual SError that the host pends is taken once.
pub fn serror(h: &Hostile) -> Result<bool, Fail> {
    const VSE: u64 = 1 << 8;
    const RUNS: u64 = 4;
    let code = [
        0xd503_44ff, // msr DAIFClr, #4
        ISB,
        HVC,
        0x17ff_fffe, // b .-8
    ];
    // add x1, x1, #1; eret
    let vector: &[u32] = &[0x9100_0421, 0xd69f_03e0];
    let guest = Guest::new(h, &[(0, &code), (0x380, vector)])?;
    h.poke64(guest.at("vcpu.regs") + 8, 0)?;
    guest.set("vcpu.hcr", guest.get("vcpu.hcr")? | VSE)?;
    for _ in 0..RUNS {
        let end = guest.run()?;
        if end.x1() != TRAP {
            return Err(Fail::Because(format!("the run ended with {end}")));
        }
    }
    let (count, left) = (guest.reg(1)?, guest.get("vcpu.hcr")? & VSE != 0);
    guest.put()?;
    let pending = if left { "still pending" } else { "pending no more" };
    seen(&format!("{count} SErrors in {RUNS} runs, {pending}"));
    Ok(count == 1 && !left)
}

/// The registers of memory tagging, which the kernel is not configured for, are undefined to the host, and its memory has
/// no tags.
pub fn host_mte(sub: &mut Sub, _: &[String]) -> Outcome {
    const REGISTERS: [(&str, u32); 5] = [
        ("RGSR_EL1", 0xd538_10a0),
        ("GCR_EL1", 0xd538_10c0),
        ("TFSR_EL1", 0xd538_5600),
        ("TFSRE0_EL1", 0xd538_5620),
        ("GMID_EL1", 0xd539_0080),
    ];
    let h = Hostile::open().map_err(|e| format!("/dev/hostile: {e}"))?;
    let id = h
        .exec(&crate::hostile::code::READ_ID_AA64PFR1, [0; 4])?
        .map_or(0, |x| x[0]);
    if id >> 8 & 0xf < 2 {
        return Err(Fail::Skip("no memory tagging in this machine".to_owned()));
    }
    for (name, mrs) in REGISTERS {
        let read = h.exec(&[mrs], [0; 4])?;
        let result = read.map_or(Ok(()), |x| Err(format!("it reads as {:#x}", x[0])));
        sub.result(&format!("{name} is undefined"), result);
    }
    // A guest in between changes nothing of it.
    let guest = Guest::new(&h, &[(0, &[HVC])])?;
    guest.run()?;
    guest.put()?;
    for (name, mrs) in REGISTERS {
        let read = h.exec(&[mrs], [0; 4])?;
        let result = read.map_or(Ok(()), |x| Err(format!("it reads as {:#x}", x[0])));
        sub.result(&format!("{name} is undefined after a guest ran"), result);
    }
    Ok(())
}
