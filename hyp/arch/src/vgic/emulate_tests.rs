// SPDX-License-Identifier: GPL-2.0-only
//! The emulation against a small fake interface that refuses any index it does not have.

use std::vec::Vec;

use super::super::trap::Direction::{Read, Write};
use super::*;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Fake {
    vtr: Vtr,
    lrs: Vec<Lr>,
    used: usize,
    apr: [Vec<u32>; 2],
    vmcr: Vmcr,
    unlisted: u32,
    deactivated: Vec<u32>,
}

impl Fake {
    /// Five to seven preemption bits, `lrs` list registers; both groups enabled, all priorities let through.
    fn new(preemption_bits: u32, lrs: usize) -> Self {
        let vtr = Vtr::new((preemption_bits - 1) << 26 | 4 << 29 | 1 << 23 | 1 << 21 | (lrs as u32 - 1));
        let vmcr = Vmcr::default()
            .with_pmr(0xff)
            .with_enabled(Group::G0, 1)
            .with_enabled(Group::G1, 1);
        let vmcr = vmcr
            .with_bpr(Group::G0, vtr.bpr_min() - 1)
            .with_bpr(Group::G1, vtr.bpr_min());
        Self {
            vtr,
            lrs: std::vec![Lr::default(); lrs],
            used: lrs,
            apr: [std::vec![0; vtr.aprs()], std::vec![0; vtr.aprs()]],
            vmcr,
            unlisted: 0,
            deactivated: Vec::new(),
        }
    }
    fn read(&mut self, reg: Reg) -> u64 {
        match access(self, reg, Read, 0, UnlistedDir::Count) {
            Outcome::Read(value) => value,
            other => panic!("{reg:?}: {other:?}"),
        }
    }
    fn write(&mut self, reg: Reg, value: u64) {
        assert_eq!(
            access(self, reg, Write, value, UnlistedDir::Count),
            Outcome::Written
        );
    }
}

impl CpuIf for Fake {
    fn vtr(&self) -> Vtr {
        self.vtr
    }
    fn used_lrs(&self) -> usize {
        self.used
    }
    fn lr(&self, n: usize) -> Lr {
        assert!(n < self.used);
        self.lrs[n]
    }
    fn set_lr(&mut self, n: usize, lr: Lr) {
        assert!(n < self.used);
        self.lrs[n] = lr;
    }
    fn apr(&self, group: Group, n: usize) -> u32 {
        self.apr[group as usize][n]
    }
    fn set_apr(&mut self, group: Group, n: usize, apr: u32) {
        self.apr[group as usize][n] = apr;
    }
    fn vmcr(&self) -> Vmcr {
        self.vmcr
    }
    fn set_vmcr(&mut self, vmcr: Vmcr) {
        self.vmcr = vmcr;
    }
    fn count_unlisted_eoi(&mut self) {
        self.unlisted += 1;
    }
    fn deactivate_physical(&mut self, pintid: u32) {
        self.deactivated.push(pintid);
    }
}

const PENDING: u64 = 1 << 62;
const ACTIVE: u64 = 1 << 63;
const HW: u64 = 1 << 61;
const SPURIOUS64: u64 = SPURIOUS as u64;
use Group::{G0, G1};

fn lr(vintid: u64, priority: u64, group: Group, state: u64) -> Lr {
    Lr::new(vintid | priority << 48 | (group as u64) << 60 | state)
}

#[test]
fn the_most_urgent_is_acknowledged_and_ended() {
    let mut cpu = Fake::new(5, 4);
    cpu.lrs[0] = lr(40, 0xa0, G1, PENDING);
    cpu.lrs[2] = lr(41, 0x80, G1, PENDING | HW | 77 << 32);
    assert_eq!(cpu.read(Reg::Hppir(G1)), 41);
    assert_eq!(cpu.read(Reg::Iar(G1)), 41);
    assert_eq!(cpu.lrs[2], lr(41, 0x80, G1, ACTIVE | HW | 77 << 32));
    assert_eq!(cpu.read(Reg::Rpr), 0x80);
    assert_eq!(cpu.read(Reg::Iar(G1)), SPURIOUS64, "less urgent than what runs");
    cpu.write(Reg::Eoir(G1), 41);
    assert_eq!(cpu.lrs[2].raw() >> 62, 0);
    assert_eq!(cpu.deactivated, [77]);
    assert_eq!(cpu.read(Reg::Rpr), 0xff);
    assert_eq!(cpu.read(Reg::Iar(G1)), 40);
    assert_eq!(cpu.unlisted, 0);
}

#[test]
fn a_more_urgent_one_preempts_and_ends_first() {
    for bits in 5..=7 {
        let mut cpu = Fake::new(bits, 2);
        cpu.lrs[0] = lr(40, 0xf0, G1, PENDING);
        assert_eq!(cpu.read(Reg::Iar(G1)), 40);
        cpu.lrs[1] = lr(41, 0x08, G1, PENDING);
        assert_eq!(cpu.read(Reg::Iar(G1)), 41);
        assert_eq!(cpu.read(Reg::Rpr), 0x08);
        cpu.write(Reg::Eoir(G1), 40);
        assert!(
            cpu.lrs[0].is_active(),
            "the end of another than the running one deactivates nothing"
        );
        assert_eq!(cpu.read(Reg::Rpr), 0xf0, "but the priority dropped");
        cpu.write(Reg::Eoir(G1), 40);
        assert!(!cpu.lrs[0].is_active());
    }
}

#[test]
fn nothing_is_acknowledged_that_may_not_be() {
    let pending = lr(40, 0x80, G1, PENDING);
    let refuse = |change: fn(&mut Fake)| {
        let mut cpu = Fake::new(5, 1);
        cpu.lrs[0] = pending;
        change(&mut cpu);
        let before = cpu.clone();
        assert_eq!(cpu.read(Reg::Iar(G1)), SPURIOUS64);
        assert_eq!(cpu, before);
    };
    refuse(|cpu| cpu.vmcr = cpu.vmcr.with_pmr(0x80));
    refuse(|cpu| cpu.vmcr = cpu.vmcr.with_enabled(G1, 0));
    refuse(|cpu| cpu.lrs[0] = lr(40, 0x80, G0, PENDING));
    refuse(|cpu| cpu.lrs[0] = lr(40, 0x80, G1, PENDING | ACTIVE));
    refuse(|cpu| cpu.lrs[0] = lr(40, 0xff, G1, PENDING));
    refuse(|cpu| cpu.used = 0);
    refuse(|cpu| cpu.apr[0][0] = 1 << 16);
    let mut cpu = Fake::new(5, 1);
    cpu.lrs[0] = pending;
    assert_eq!(cpu.read(Reg::Iar(G1)), 40);
}

#[test]
fn a_coarser_binary_point_stops_preemption_of_what_already_runs() {
    let mut cpu = Fake::new(5, 2);
    cpu.lrs[0] = lr(40, 0x20, G1, PENDING);
    assert_eq!(cpu.read(Reg::Iar(G1)), 40);
    cpu.write(Reg::Bpr(G1), 7);
    cpu.lrs[1] = lr(41, 0x08, G1, PENDING);
    assert_eq!(cpu.read(Reg::Iar(G1)), SPURIOUS64, "one level for both");
    cpu.write(Reg::Eoir(G1), 40);
    assert_eq!(cpu.read(Reg::Iar(G1)), 41, "nothing runs");
}

#[test]
fn an_end_without_a_list_register_is_counted_where_it_would_deactivate() {
    let mut cpu = Fake::new(5, 1);
    cpu.apr[1][0] = 1 << 16;
    cpu.write(Reg::Eoir(G1), 33);
    assert_eq!((cpu.unlisted, cpu.apr[1][0]), (1, 0));

    cpu.apr[1][0] = 1 << 16;
    cpu.write(Reg::Eoir(G1), u64::from(FIRST_LPI));
    assert_eq!(
        (cpu.unlisted, cpu.apr[1][0]),
        (1, 0),
        "an LPI only drops the priority"
    );

    cpu.vmcr = cpu.vmcr.with_ctlr(2);
    cpu.apr[1][0] = 1 << 16;
    cpu.write(Reg::Eoir(G1), 33);
    assert_eq!(
        (cpu.unlisted, cpu.apr[1][0]),
        (1, 0),
        "split: DIR counts, not EOIR"
    );
    cpu.write(Reg::Dir, 33);
    assert_eq!(cpu.unlisted, 2);

    cpu.apr[1][0] = 1 << 16;
    let before = cpu.clone();
    for special in 1020..1024 {
        cpu.write(Reg::Eoir(G1), special);
        cpu.write(Reg::Dir, special);
    }
    assert_eq!(cpu, before);
}

#[test]
fn dir_deactivates_only_when_split() {
    let active = lr(33, 0x80, G1, ACTIVE | HW | 5 << 32);
    let mut cpu = Fake::new(5, 1);
    cpu.lrs[0] = active;
    cpu.write(Reg::Dir, 33);
    assert_eq!(cpu.lrs[0], active);
    cpu.vmcr = cpu.vmcr.with_ctlr(2);
    cpu.write(Reg::Dir, u64::from(FIRST_LPI));
    cpu.write(Reg::Dir, 33);
    assert_eq!((cpu.lrs[0].is_active(), cpu.unlisted), (false, 0));
    assert_eq!(cpu.deactivated, [5]);
}

#[test]
fn el1_sees_an_unlisted_dir_if_it_asked_to() {
    let mut cpu = Fake::new(5, 1);
    cpu.vmcr = cpu.vmcr.with_ctlr(2);
    let before = cpu.clone();
    assert_eq!(
        access(&mut cpu, Reg::Dir, Write, 33, UnlistedDir::Exit),
        Outcome::Exit
    );
    assert_eq!(cpu, before);
    cpu.lrs[0] = lr(33, 0x80, G1, ACTIVE);
    assert_eq!(
        access(&mut cpu, Reg::Dir, Write, 33, UnlistedDir::Exit),
        Outcome::Written
    );
    assert!(!cpu.lrs[0].is_active());
}

#[test]
fn binary_points_have_a_least_value_and_three_bits() {
    for bits in 5..=7 {
        let mut cpu = Fake::new(bits, 1);
        let min = u64::from(8 - bits);
        for value in 0..16 {
            cpu.write(Reg::Bpr(G0), value);
            assert_eq!(cpu.read(Reg::Bpr(G0)), (value & 7).max(min - 1));
            cpu.write(Reg::Bpr(G1), value);
            assert_eq!(cpu.read(Reg::Bpr(G1)), (value & 7).max(min));
        }
        cpu.write(Reg::Bpr(G0), 3);
        cpu.write(Reg::Ctlr, 1);
        let before = cpu.clone();
        cpu.write(Reg::Bpr(G1), 6);
        assert_eq!(cpu, before, "read-only with a common binary point");
        assert_eq!(cpu.read(Reg::Bpr(G1)), 4);
    }
}

#[test]
fn control_registers_keep_their_own_fields() {
    let mut cpu = Fake::new(5, 1);
    cpu.write(Reg::Pmr, 0x1_23a5);
    assert_eq!(cpu.read(Reg::Pmr), 0xa5);
    cpu.write(Reg::Igrpen(G0), 2);
    cpu.write(Reg::Igrpen(G1), 3);
    assert_eq!((cpu.read(Reg::Igrpen(G0)), cpu.read(Reg::Igrpen(G1))), (0, 1));
    cpu.write(Reg::Ctlr, u64::MAX);
    assert_eq!(cpu.read(Reg::Ctlr), 4 << 8 | 1 << 11 | 1 << 15 | 3);
    cpu.write(Reg::Ctlr, 0);
    assert_eq!(cpu.read(Reg::Ctlr), 4 << 8 | 1 << 11 | 1 << 15);
}

#[test]
fn active_priorities_that_are_not_implemented_go_to_el1() {
    for (bits, have) in [(5, 1), (6, 2), (7, 4)] {
        let mut cpu = Fake::new(bits, 1);
        for n in 0..4 {
            for group in [G0, G1] {
                let reg = Reg::Apr(group, n);
                if n < have {
                    cpu.write(reg, 0x8000_0000 | n as u64);
                    assert_eq!(cpu.read(reg), 0x8000_0000 | n as u64);
                } else {
                    assert_eq!(access(&mut cpu, reg, Read, 0, UnlistedDir::Count), Outcome::Exit);
                    assert_eq!(access(&mut cpu, reg, Write, 1, UnlistedDir::Count), Outcome::Exit);
                }
            }
        }
    }
}

#[test]
fn the_wrong_direction_goes_to_el1() {
    let mut cpu = Fake::new(5, 1);
    let before = cpu.clone();
    for reg in [Reg::Iar(G0), Reg::Hppir(G1), Reg::Rpr] {
        assert_eq!(access(&mut cpu, reg, Write, 1, UnlistedDir::Count), Outcome::Exit);
    }
    for reg in [Reg::Eoir(G1), Reg::Dir] {
        assert_eq!(access(&mut cpu, reg, Read, 0, UnlistedDir::Count), Outcome::Exit);
    }
    assert_eq!(cpu, before);
}

/// A plain generator of numbers; its quality does not matter.
struct Numbers(u64);
impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.0 >> 11
    }
}

#[test]
fn random_accesses_hold_the_invariants() {
    let mut numbers = Numbers(1);
    let regs = |n: u64| {
        let group = if n & 1 == 0 { G0 } else { G1 };
        match n >> 1 & 15 {
            0..=3 => Reg::Iar(group),
            4..=6 | 15 => Reg::Eoir(group),
            7 => Reg::Hppir(group),
            8 => Reg::Bpr(group),
            9 => Reg::Apr(group, (n >> 5 & 3) as usize),
            10 => Reg::Igrpen(group),
            11 => Reg::Dir,
            12 => Reg::Rpr,
            13 => Reg::Ctlr,
            _ => Reg::Pmr,
        }
    };
    for round in 0..3_000_u32 {
        let mut cpu = Fake::new(5 + round % 3, 1 + (round % 16) as usize);
        cpu.used = numbers.next() as usize % (cpu.lrs.len() + 1);
        cpu.vmcr = Vmcr::new(numbers.next() as u32 | 0xf800_0003);
        for n in 0..cpu.lrs.len() {
            let id = 32 + n as u64;
            let state = (numbers.next() & 3) << 62;
            cpu.lrs[n] = lr(
                id,
                numbers.next() & 0xf8,
                if numbers.next() & 1 == 0 { G0 } else { G1 },
                state,
            );
        }
        for _ in 0..64 {
            let reg = regs(numbers.next());
            let direction = if matches!(reg, Reg::Eoir(_) | Reg::Dir) {
                Write
            } else {
                Read
            };
            let before = cpu.clone();
            let active = |cpu: &Fake| cpu.lrs.iter().filter(|lr| lr.is_active()).count();
            let value = 32 + numbers.next() % 18;
            let outcome = access(&mut cpu, reg, direction, value, UnlistedDir::Count);
            match (reg, outcome) {
                (Reg::Iar(group), Outcome::Read(id)) if id != SPURIOUS64 => {
                    let n = id as usize - 32;
                    assert!(before.lrs[n].is_only_pending() && cpu.lrs[n].is_active());
                    assert_eq!(before.lrs[n].group(), group);
                    assert!(before.lrs[n].priority() < before.vmcr.pmr());
                    assert!(running_priority(&cpu) <= running_priority(&before));
                    assert_eq!(active(&cpu), active(&before) + 1);
                }
                (Reg::Eoir(_) | Reg::Dir, _) => assert!(active(&cpu) <= active(&before)),
                _ => assert_eq!(cpu, before, "{reg:?} changed something"),
            }
        }
    }
}
