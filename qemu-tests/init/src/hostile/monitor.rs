// SPDX-License-Identifier: GPL-2.0-only
//! The client of the calls by which the monitor at EL3 serves tests (see qemu-tests/monitor/src/control.rs).

use super::{Hostile, Reply};

const MAGIC: u64 = 0x706b_766d_2d65_6c33;

/// What the monitor counts.
#[derive(Clone, Copy)]
pub enum Event {
    /// `CPU_SUSPEND` without a loss of power.
    Standby,
    /// `CPU_SUSPEND` with it.
    PowerDown,
    /// `CPU_ON` that succeeded.
    CpuOn,
    /// `CPU_OFF`.
    CpuOff,
    /// `SYSTEM_SUSPEND` that succeeded.
    SystemSuspend,
    /// FF-A calls of any kind.
    Ffa,
    /// Pages that were offered though the secure world holds them already.
    HeldTwice,
    /// SMCs of any kind but the monitor's own calls and those of an idle CPU.
    Smc,
}

/// How the FF-A side lies: `Fault` in qemu-tests/monitor/src/ffa/fault.rs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    Honest = 0,
    BareError = 7,
    ErrorZero = 8,
    SuccessEmpty = 9,
    Rubbish = 10,
    FragLong = 11,
    FragZero = 12,
    FragWrap = 13,
    FragDone = 14,
    FragAgain = 15,
    OtherHandle = 16,
    Refuse = 17,
    ReclaimRefuse = 18,
    ReclaimOdd = 19,
    PartitionWrap = 20,
    PartitionMany = 21,
    RetrieveLong = 22,
    RetrieveShort = 23,
    RetrieveOffset = 24,
    RetrieveCount = 25,
    RetrieveOther = 26,
    RetrieveZero = 27,
    RetrieveHuge = 28,
}

/// A range of memory that the secure world holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Its physical address.
    pub at: u64,
    /// Pages of 4 KiB.
    pub pages: u64,
    /// The transaction's handle.
    pub handle: u64,
}

/// The names of the registers of EL2 that the monitor reads, by their number.
pub const EL2: [&str; 24] = [
    "HCR", "SCTLR", "VTTBR", "VTCR", "TTBR0", "TCR", "MAIR", "VBAR", "TPIDR", "CPTR", "MDCR", "CNTHCTL",
    "CNTVOFF", "HSTR", "VPIDR", "VMPIDR", "ICC_SRE", "HCRX", "HFGRTR", "HFGWTR", "HFGITR", "HDFGRTR",
    "HDFGWTR", "ZCR",
];

/// The monitor.
pub struct Monitor<'a>(&'a Hostile);

impl<'a> Monitor<'a> {
    /// Finds the monitor.
    ///
    /// # Errors
    /// This machine's firmware is another.
    pub fn find(h: &'a Hostile) -> Result<Self, String> {
        let this = Self(h);
        match this.call(0xc300_0000, &[])?.regs[0] {
            MAGIC => Ok(this),
            other => Err(format!("the firmware is not the monitor: {other:#x}")),
        }
    }

    fn call(&self, id: u64, args: &[u64]) -> Result<Reply, String> {
        let mut regs = [0; 18];
        regs[0] = id;
        regs[1..=args.len()].copy_from_slice(args);
        self.0.smc(0, regs).map_err(|e| e.to_string())
    }

    fn value(&self, id: u64, args: &[u64]) -> Result<u64, String> {
        let reply = self.call(id, args)?;
        match reply.x0() {
            0 => Ok(reply.regs[1]),
            other => Err(format!("the monitor's call {:#x} said {other}", id & 0xffff)),
        }
    }

    /// Arms a fault.
    pub fn arm(&self, fault: Fault, times: u64) -> Result<(), String> {
        self.value(0xc300_0001, &[fault as u64, times]).map(drop)
    }

    /// What the secure world holds.
    pub fn held(&self) -> Result<Vec<Held>, String> {
        let mut all = Vec::new();
        loop {
            let reply = self.call(0xc300_0002, &[all.len() as u64])?;
            if reply.x0() != 0 {
                return Ok(all);
            }
            let [_, at, pages, handle, ..] = reply.regs;
            all.push(Held { at, pages, handle });
        }
    }

    /// Whether it holds this page.
    pub fn holds(&self, pa: u64) -> Result<bool, String> {
        let held = self.held()?;
        Ok(held.iter().any(|h| pa >= h.at && pa - h.at < h.pages * 4096))
    }

    /// Reads a word of memory from the secure side.
    pub fn read(&self, pa: u64) -> Result<u64, String> {
        self.value(0xc300_0003, &[pa, 0])
    }

    /// Writes one.
    pub fn write(&self, pa: u64, value: u64) -> Result<(), String> {
        self.value(0xc300_0003, &[pa, 1, value]).map(drop)
    }

    /// How often something happened.
    pub fn count(&self, event: Event) -> Result<u64, String> {
        self.value(0xc300_0004, &[event as u64])
    }

    /// x0 to x3 of the SMCs that reached the monitor since [`Event::Smc`] was `mark`, at most 32.
    pub fn smcs_since(&self, mark: u64) -> Result<Vec<[u64; 4]>, String> {
        (mark..self.count(Event::Smc)?)
            .map(|n| {
                let reply = self.call(0xc300_0006, &[n])?;
                let [x0, smc0, smc1, smc2, smc3, ..] = reply.regs;
                match x0 {
                    0 => Ok([smc0, smc1, smc2, smc3]),
                    other => Err(format!("SMC {n}: {other:#x}")),
                }
            })
            .collect()
    }

    /// Whether PSCI shall refuse to switch off, reset or suspend a CPU or the system, however it is told.
    pub fn refuse(&self, yes: bool) -> Result<(), String> {
        self.value(0xc300_0007, &[u64::from(yes)]).map(drop)
    }

    /// The registers of EL2 on the CPU of this thread, while the host runs.
    pub fn el2(&self) -> Result<Vec<u64>, String> {
        (0..EL2.len() as u64)
            .map(|n| self.value(0xc300_0005, &[n]))
            .collect()
    }
}
