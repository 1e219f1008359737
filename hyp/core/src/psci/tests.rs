// SPDX-License-Identifier: GPL-2.0-only
extern crate std;

use super::*;
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::vec::Vec;

const IDS: V01Ids = V01Ids {
    cpu_suspend: Some(0x95c1_0001),
    cpu_on: Some(0x95c1_0002),
    cpu_off: Some(0x95c1_0000),
    migrate: None,
};

fn calls(config: &Config) -> Vec<(u32, Call)> {
    let ranges = [
        0x83ff_fff0..0x8400_0040_u32,
        0xc3ff_fff0..0xc400_0040,
        0x95c0_fff0..0x95c1_0010,
        0..0x20,
    ];
    ranges
        .into_iter()
        .flatten()
        .filter_map(|function| Some((function, config.decode(function)?)))
        .collect()
}

#[test]
fn version_1_decodes_as_the_contract_says() {
    let got = calls(&Config::new(0x1_0001, IDS));
    assert_eq!(got.len(), 64, "32 numbers in either width");
    let with = |call| -> Vec<u32> {
        got.iter()
            .filter(|entry| entry.1 == call)
            .map(|entry| entry.0)
            .collect()
    };
    assert_eq!(
        with(Call::Forward),
        [
            0x8400_0000,
            0x8400_0002,
            0x8400_0006,
            0x8400_0008,
            0x8400_0009,
            0x8400_000a,
            0x8400_000f,
            0x8400_0015,
            0xc400_0004,
            0xc400_0005,
            0xc400_0007,
            0xc400_0012,
            0xc400_0015
        ]
    );
    assert_eq!(with(Call::CpuOn), [0xc400_0003]);
    assert_eq!(with(Call::CpuSuspend), [0xc400_0001]);
    assert_eq!(with(Call::SystemSuspend), [0xc400_000e]);
}

#[test]
fn version_0_2_lacks_what_came_later() {
    let old = calls(&Config::new(2, IDS));
    let new = calls(&Config::new(0x1_0000, IDS));
    assert_eq!(old.len(), 64);
    for (old, new) in old.iter().zip(&new) {
        let later = [
            0x8400_000a,
            0x8400_000f,
            0x8400_0015,
            0xc400_0012,
            0xc400_0015,
            0xc400_000e,
        ]
        .contains(&old.0);
        assert_eq!(
            old.1,
            if later { Call::Unsupported } else { new.1 },
            "{:#x}",
            old.0
        );
    }
}

#[test]
fn version_0_1_knows_its_own_numbers_only() {
    let config = Config::new(1, IDS);
    assert_eq!(
        calls(&config),
        [
            (0x95c1_0000, Call::Forward),
            (0x95c1_0001, Call::CpuSuspend),
            (0x95c1_0002, Call::CpuOn)
        ]
    );
    assert!(config.is_v0_1_call(0x95c1_0000) && !config.is_v0_1_call(0x8400_0000));
    assert!(!Config::new(2, IDS).is_v0_1_call(0x95c1_0000));
    assert_eq!(
        calls(&Config::new(1, V01Ids::default())),
        [],
        "a number that is absent matches nothing, not even 0"
    );
}

const MAP: [u64; 4] = [0x000, 0x001, 0x1_0000_0100, u64::MAX];
const CPU_ON_ENTRY: u64 = 0x4000_1000;
const RESUME_ENTRY: u64 = 0x4000_2000;
const PARAMS: u64 = 0x5000_0000;

struct Fake {
    on: Vec<BootArgs>,
    suspend: Vec<BootArgs>,
    firmware: u64,
    smcs: Vec<[u64; 4]>,
}

impl Fake {
    fn new(firmware: u64) -> Self {
        let slots = || (0..3).map(|_| BootArgs::new()).collect();
        Self {
            on: slots(),
            suspend: slots(),
            firmware,
            smcs: Vec::new(),
        }
    }
}

impl Machine for Fake {
    fn logical_map(&self) -> &[u64] {
        &MAP
    }
    fn this_cpu(&self) -> usize {
        1
    }
    fn cpu_on_args(&self, cpu: usize) -> Option<&BootArgs> {
        self.on.get(cpu)
    }
    fn suspend_args(&self, cpu: usize) -> Option<&BootArgs> {
        self.suspend.get(cpu)
    }
    fn entry(&self, entry: Entry) -> Phys {
        Phys::new(match entry {
            Entry::CpuOn => CPU_ON_ENTRY,
            Entry::Resume => RESUME_ENTRY,
        })
    }
    fn prepare_params(&mut self, cpu: usize) -> Phys {
        Phys::new(PARAMS + cpu as u64 * 0x100)
    }
    fn smc(&mut self, words: [u64; 4]) -> u64 {
        self.smcs.push(words);
        self.firmware
    }
}

#[test]
fn a_started_cpu_enters_el2_and_finds_the_hosts_entry_point() {
    let mut machine = Fake::new(SUCCESS);
    let on = |machine: &mut Fake| relay(Call::CpuOn, [0xc400_0003, MAP[2], 0xdead_0000, 0xbeef], machine);
    assert_eq!(on(&mut machine), SUCCESS);
    assert_eq!(
        machine.smcs,
        [[0xc400_0003, MAP[2], CPU_ON_ENTRY, PARAMS + 0x200]]
    );
    assert_eq!(on(&mut machine), ALREADY_ON, "until the CPU has taken its words");
    assert_eq!(machine.smcs.len(), 1);
    assert_eq!(machine.on[2].take(), (0xdead_0000, 0xbeef));
    assert_eq!(on(&mut machine), SUCCESS);
}

#[test]
fn a_start_that_firmware_refuses_can_be_tried_again() {
    let mut machine = Fake::new(INVALID_PARAMETERS);
    for _ in 0..2 {
        assert_eq!(
            relay(Call::CpuOn, [0xc400_0003, 0, 1, 2], &mut machine),
            INVALID_PARAMETERS
        );
    }
    assert_eq!(machine.smcs.len(), 2);
}

#[test]
fn only_cpus_of_the_map_start() {
    let mut machine = Fake::new(SUCCESS);
    // Unknown; known with the U, MT or RES1 bit; the map's mark of an absent CPU.
    for mpidr in [2, 1 << 30, 1 << 24, 1 << 31, 1 << 40, u64::MAX] {
        assert_eq!(
            relay(Call::CpuOn, [0xc400_0003, mpidr, 1, 2], &mut machine),
            INVALID_PARAMETERS,
            "{mpidr:#x}"
        );
    }
    assert!(machine.smcs.is_empty());
}

#[test]
fn suspend_substitutes_the_resume_entry() {
    let mut machine = Fake::new(SUCCESS);
    assert_eq!(
        relay(
            Call::CpuSuspend,
            [0xc400_0001, 0x10000, 0xaaaa, 0xbbbb],
            &mut machine
        ),
        SUCCESS
    );
    assert_eq!(machine.suspend[1].load(), (0xaaaa, 0xbbbb));
    assert_eq!(
        relay(
            Call::SystemSuspend,
            [0xc400_000e, 0xcccc, 0xdddd, 0xeeee],
            &mut machine
        ),
        SUCCESS
    );
    assert_eq!(machine.suspend[1].load(), (0xcccc, 0xdddd));
    assert_eq!(
        machine.smcs,
        [
            [0xc400_0001, 0x10000, RESUME_ENTRY, PARAMS + 0x100],
            [0xc400_000e, RESUME_ENTRY, PARAMS + 0x100, 0]
        ]
    );
}

#[test]
fn a_suspended_cpu_may_be_started_meanwhile() {
    let mut machine = Fake::new(SUCCESS);
    relay(Call::CpuOn, [0xc400_0003, MAP[1], 1, 2], &mut machine);
    relay(Call::CpuSuspend, [0xc400_0001, 0, 3, 4], &mut machine);
    assert_eq!(
        (machine.on[1].take(), machine.suspend[1].load()),
        ((1, 2), (3, 4))
    );
}

proptest! {
    #[test]
    fn firmware_never_gets_an_entry_point_of_the_hosts(function in prop_oneof![
            0x8400_0000_u32..0x8400_0020, 0xc400_0000_u32..0xc400_0020], words: [u64; 3], version in 2_u32..4) {
        let call = Config::new(version, IDS).decode(function).unwrap();
        let mut machine = Fake::new(SUCCESS);
        let [a1, a2, a3] = words;
        relay(call, [u64::from(function), a1, a2, a3], &mut machine);
        // The functions whose second or first argument is an entry point, in every width.
        let entry = match function & 0xff {
            1 | 3 => machine.smcs.first().map(|smc| smc[2]),
            0xe => machine.smcs.first().map(|smc| smc[1]),
            _ => None,
        };
        prop_assert!(entry.is_none_or(|entry| entry == CPU_ON_ENTRY || entry == RESUME_ENTRY));
        if call == Call::Unsupported {
            prop_assert!(machine.smcs.is_empty());
        }
    }
}

#[test]
fn one_of_many_wins_a_slot_and_its_words_stay_whole() {
    for _ in 0..50 {
        let slot = BootArgs::new();
        let winners = AtomicUsize::new(0);
        thread::scope(|scope| {
            for caller in 1..5_u64 {
                let (slot, winners) = (&slot, &winners);
                scope.spawn(move || {
                    if slot.claim(caller, caller * 100) {
                        winners.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(winners.into_inner(), 1);
        let (pc, r0) = slot.take();
        assert_eq!(r0, pc * 100);
    }
}

#[test]
fn a_new_slot_is_free() {
    let slots = [BootArgs::default(), BootArgs::new()];
    assert!(slots.iter().all(|slot| slot.claim(0, 0)));
}
