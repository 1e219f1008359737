// SPDX-License-Identifier: GPL-2.0-only
//! What a trapped access to the CPU interface does to the list registers, the active priorities and VMCR. The
//! hardware does all of this by itself; KVM makes it trap where the hardware has an erratum, or where interrupts
//! overflow the list registers and EL1 must see deactivations.
//!
//! Sources: GICv3 architecture (IHI 0069) 4.8 and the pseudocode of ICV_*_EL1. It is pure: registers are seen through
//! [`CpuIf`]. The guest chooses the access and its value, EL1 the list registers; neither can make anything here
//! fail, and an index of a register that is not implemented is never used.

use super::trap::{Direction, Reg};
use super::words::{FIRST_LPI, Group, IDLE_PRIORITY, Lr, SPURIOUS, Vmcr, Vtr, is_special};

/// The virtual CPU interface of the vCPU that trapped.
pub trait CpuIf {
    /// What the implementation offers.
    fn vtr(&self) -> Vtr;
    /// How many list registers are in use, at most [`Vtr::lrs`].
    fn used_lrs(&self) -> usize;
    /// List register `n`, below [`Self::used_lrs`].
    fn lr(&self, n: usize) -> Lr;
    /// Sets list register `n`, below [`Self::used_lrs`].
    fn set_lr(&mut self, n: usize, lr: Lr);
    /// Active priority register `n` of `group`, below [`Vtr::aprs`].
    fn apr(&self, group: Group, n: usize) -> u32;
    /// Sets active priority register `n` of `group`, below [`Vtr::aprs`].
    fn set_apr(&mut self, group: Group, n: usize, apr: u32);
    /// The control word.
    fn vmcr(&self) -> Vmcr;
    /// Sets the control word.
    fn set_vmcr(&mut self, vmcr: Vmcr);
    /// Counts one deactivation of an interrupt that is in no list register, for EL1 to replay.
    fn count_unlisted_eoi(&mut self);
    /// Deactivates a physical interrupt.
    fn deactivate_physical(&mut self, pintid: u32);
}

/// Whether EL1 wants to see deactivations that no list register can answer, which is what ICH_HCR_EL2.TDIR of the
/// vCPU asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnlistedDir {
    /// Exit to EL1.
    Exit,
    /// Count it, as the hardware does.
    Count,
}

/// What became of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A write took effect; step over the instruction.
    Written,
    /// A read gives this; step over the instruction.
    Read(u64),
    /// Not for EL2: nothing was changed and the trap goes on to EL1.
    Exit,
}

/// Emulates an access to `reg`; `value` is what a write writes.
pub fn access<C: CpuIf>(
    cpu: &mut C,
    reg: Reg,
    direction: Direction,
    value: u64,
    unlisted_dir: UnlistedDir,
) -> Outcome {
    match direction {
        Direction::Read => read(cpu, reg).map_or(Outcome::Exit, |word| Outcome::Read(word.into())),
        // All of these registers have 32 bits that matter.
        Direction::Write => write(cpu, reg, value as u32, unlisted_dir),
    }
}

fn read<C: CpuIf>(cpu: &mut C, reg: Reg) -> Option<u32> {
    let vmcr = cpu.vmcr();
    Some(match reg {
        Reg::Iar(group) => acknowledge(cpu, vmcr, group),
        Reg::Hppir(group) => match highest_pending(cpu, vmcr) {
            Some((_, lr)) if lr.group() == group => lr.vintid(),
            _ => SPURIOUS,
        },
        Reg::Bpr(group) => vmcr.bpr(group),
        Reg::Apr(group, n) => cpu.apr(group, implemented(cpu, n)?),
        Reg::Igrpen(group) => vmcr.enabled(group).into(),
        Reg::Rpr => running_priority(cpu).into(),
        Reg::Ctlr => {
            let vtr = cpu.vtr();
            vtr.pri_bits() << 8
                | vtr.id_bits() << 11
                | vtr.a3v() << 15
                | u32::from(vmcr.split_eoi()) << 1
                | u32::from(vmcr.common_bpr())
        }
        Reg::Pmr => vmcr.pmr().into(),
        Reg::Eoir(_) | Reg::Dir => return None,
    })
}

fn write<C: CpuIf>(cpu: &mut C, reg: Reg, value: u32, unlisted_dir: UnlistedDir) -> Outcome {
    let vmcr = cpu.vmcr();
    match reg {
        Reg::Eoir(group) => end_of_interrupt(cpu, vmcr, group, value),
        Reg::Dir => return deactivate(cpu, vmcr, value, unlisted_dir),
        Reg::Bpr(group) => {
            let min = match group {
                Group::G0 => cpu.vtr().bpr_min() - 1,
                Group::G1 => cpu.vtr().bpr_min(),
            };
            // With a common binary point, group 1's register is read-only.
            if group == Group::G0 || !vmcr.common_bpr() {
                cpu.set_vmcr(vmcr.with_bpr(group, (value & 7).max(min)));
            }
        }
        Reg::Apr(group, n) => match implemented(cpu, n) {
            Some(n) => cpu.set_apr(group, n, value),
            None => return Outcome::Exit,
        },
        Reg::Igrpen(group) => cpu.set_vmcr(vmcr.with_enabled(group, value)),
        Reg::Ctlr => cpu.set_vmcr(vmcr.with_ctlr(value)),
        Reg::Pmr => cpu.set_vmcr(vmcr.with_pmr(value as u8)),
        Reg::Iar(_) | Reg::Hppir(_) | Reg::Rpr => return Outcome::Exit,
    }
    Outcome::Written
}

/// `n` where there is an active priority register of that number. EL2 must not touch one that is not there: that
/// would be an undefined instruction at EL2.
fn implemented<C: CpuIf>(cpu: &C, n: usize) -> Option<usize> {
    (n < cpu.vtr().aprs()).then_some(n)
}

/// The most urgent pending interrupt of an enabled group, and its list register.
fn highest_pending<C: CpuIf>(cpu: &C, vmcr: Vmcr) -> Option<(usize, Lr)> {
    let mut best = None;
    let mut priority = IDLE_PRIORITY;
    for n in 0..cpu.used_lrs() {
        let lr = cpu.lr(n);
        if lr.is_only_pending() && vmcr.enabled(lr.group()) && lr.priority() < priority {
            priority = lr.priority();
            best = Some((n, lr));
        }
    }
    best
}

fn find_active<C: CpuIf>(cpu: &C, vintid: u32) -> Option<(usize, Lr)> {
    (0..cpu.used_lrs())
        .map(|n| (n, cpu.lr(n)))
        .find(|(_, lr)| lr.is_active() && lr.vintid() == vintid)
}

/// The most urgent active priority of either group, as eight bits; the idle priority where nothing is active.
fn running_priority<C: CpuIf>(cpu: &C) -> u8 {
    match highest_active(cpu) {
        Some(level) => priority_of(cpu.vtr(), level),
        None => IDLE_PRIORITY,
    }
}

/// The preemption level of the most urgent active interrupt: its bit number in the array of active priorities.
fn highest_active<C: CpuIf>(cpu: &C) -> Option<u32> {
    (0..cpu.vtr().aprs()).find_map(|n| {
        let both = cpu.apr(Group::G0, n) | cpu.apr(Group::G1, n);
        (both != 0).then(|| n as u32 * 32 + both.trailing_zeros())
    })
}

/// A preemption level scaled to eight bits of priority.
const fn priority_of(vtr: Vtr, level: u32) -> u8 {
    (level << vtr.bpr_min()) as u8
}

/// Marks the preemption level of `priority` active. The bit does not depend on the binary point in force later.
fn set_active<C: CpuIf>(cpu: &mut C, vmcr: Vmcr, priority: u8, group: Group) {
    let level = u32::from(vmcr.preemption_level(priority, group)) >> cpu.vtr().bpr_min();
    let n = (level / 32) as usize;
    let apr = cpu.apr(group, n) | 1 << (level % 32);
    cpu.set_apr(group, n, apr);
}

/// Drops the most urgent active priority and returns it as eight bits, or the idle priority where there is none.
fn drop_priority<C: CpuIf>(cpu: &mut C) -> u8 {
    let Some(level) = highest_active(cpu) else {
        return IDLE_PRIORITY;
    };
    let (n, bit) = ((level / 32) as usize, 1 << (level % 32));
    // Both groups may be active at this level only if the guest wrote it so; group 1 then goes first.
    let group = if cpu.apr(Group::G1, n) & bit != 0 {
        Group::G1
    } else {
        Group::G0
    };
    let apr = cpu.apr(group, n) & !bit;
    cpu.set_apr(group, n, apr);
    priority_of(cpu.vtr(), level)
}

/// Whether a pending interrupt of `group` preempts what runs. Both priorities are cut to the group's preemption level:
/// the binary point may have grown coarser since the running interrupt was acknowledged.
fn preempts<C: CpuIf>(cpu: &C, vmcr: Vmcr, priority: u8, group: Group) -> bool {
    let Some(running) = highest_active(cpu) else {
        return true;
    };
    let running = priority_of(cpu.vtr(), running);
    vmcr.preemption_level(priority, group) < vmcr.preemption_level(running, group)
}

fn acknowledge<C: CpuIf>(cpu: &mut C, vmcr: Vmcr, group: Group) -> u32 {
    match highest_pending(cpu, vmcr) {
        Some((n, lr))
            if lr.group() == group
                && lr.priority() < vmcr.pmr()
                && preempts(cpu, vmcr, lr.priority(), group) =>
        {
            cpu.set_lr(n, lr.acknowledged());
            set_active(cpu, vmcr, lr.priority(), group);
            lr.vintid()
        }
        _ => SPURIOUS,
    }
}

/// Takes the active state off list register `n`, and off the physical interrupt behind it.
fn deactivate_listed<C: CpuIf>(cpu: &mut C, n: usize, lr: Lr) {
    if let Some(pintid) = lr.pintid() {
        cpu.deactivate_physical(pintid);
    }
    cpu.set_lr(n, lr.deactivated());
}

fn end_of_interrupt<C: CpuIf>(cpu: &mut C, vmcr: Vmcr, group: Group, vintid: u32) {
    if is_special(vintid) {
        return;
    }
    // The priority drops whatever else may be wrong with the write; the architecture leaves that choice.
    let dropped = drop_priority(cpu);
    let lpi = vintid >= FIRST_LPI;
    if vmcr.split_eoi() && !lpi {
        // DIR deactivates, and counts where there is nothing to deactivate.
        return;
    }
    match find_active(cpu, vintid) {
        Some((n, lr)) => {
            // An end that does not belong to the interrupt that runs deactivates nothing.
            if lr.group() == group && vmcr.preemption_level(lr.priority(), group) == dropped {
                deactivate_listed(cpu, n, lr);
            }
        }
        // An LPI has no active state that somebody could be waiting to see end.
        None if lpi => {}
        None => cpu.count_unlisted_eoi(),
    }
}

fn deactivate<C: CpuIf>(cpu: &mut C, vmcr: Vmcr, vintid: u32, unlisted: UnlistedDir) -> Outcome {
    if vmcr.split_eoi() && vintid < FIRST_LPI {
        match find_active(cpu, vintid) {
            Some((n, lr)) => deactivate_listed(cpu, n, lr),
            None if unlisted == UnlistedDir::Exit => return Outcome::Exit,
            None if is_special(vintid) => {}
            None => cpu.count_unlisted_eoi(),
        }
    }
    Outcome::Written
}

#[cfg(test)]
#[path = "emulate_tests.rs"]
mod tests;
