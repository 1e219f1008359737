// SPDX-License-Identifier: GPL-2.0-only
//! Descriptors at random, made by their structure and then spoilt. Whatever firmware is given, it finds those pages in it
//! that EL2 has marked, and no others. `PKVM_SEED` and `PKVM_STEPS` make other and longer runs.

use pkvm_core::ffa::abi::{WIDE, id};
use pkvm_types::PAGE_SIZE;

use crate::bench::{Bench, LIMIT, PLAN};
use crate::build::Build;
use crate::random::{Random, environment};
use crate::spm;

const EDGES: [u32; 18] = [
    0,
    1,
    7,
    8,
    15,
    16,
    17,
    32,
    47,
    48,
    64,
    80,
    96,
    0x1000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff0,
    0xffff_ffff,
];

fn range(random: &mut Random) -> (u64, u32) {
    let page = (PAGE_SIZE / 4096) as u32;
    let address = match random.below(24) {
        0 => !(PAGE_SIZE - 1),
        1 => random.next(),
        2 => (PLAN.base() - 1) * PAGE_SIZE,
        3 => PLAN.nomap() * PAGE_SIZE,
        4 => PLAN.text() * PAGE_SIZE,
        5 => (PLAN.base() + random.below(PLAN.pages)) * PAGE_SIZE + random.below(PAGE_SIZE),
        _ => (PLAN.base() + random.below(PLAN.pages)) * PAGE_SIZE,
    };
    let pages = match random.below(24) {
        0 => 0,
        1 => random.pick(&EDGES),
        n => page * (1 + n as u32 % 3),
    };
    (address, pages)
}

#[test]
fn what_firmware_reads_is_what_the_proxy_checked() {
    let (seed, steps) = (environment("PKVM_SEED", 1), environment("PKVM_STEPS", 6_000));
    let mut random = Random::new(seed);
    let mut accepted = 0;
    for step in 0..steps {
        // A new world from time to time, since pages pile up.
        let version = 0x1_0000 + random.below(3) as u32;
        let mut bench = Bench::ready(version);
        for _ in 0..64 {
            let mut build = Build::of(&[]);
            build.ranges = (0..=random.below(4)).map(|_| range(&mut random)).collect();
            if random.below(3) == 0 {
                for _ in 0..=random.below(2) {
                    let edge = random.pick(&EDGES);
                    match random.below(9) {
                        0 => build.sender = edge as u16,
                        1 => build.flags = random.next() as u32,
                        2 => build.endpoint_size = Some(edge),
                        3 => build.endpoints = edge,
                        4 => build.endpoint_at = Some(edge),
                        5 => build.composite_at = Some(edge),
                        6 => build.total = Some(edge),
                        7 => build.count = Some(edge),
                        _ => build.receiver = edge as u16,
                    }
                }
            }
            let mut bytes = build.bytes(version);
            if random.below(4) == 0 {
                for _ in 0..=random.below(4) {
                    let at = random.below(bytes.len() as u64) as usize;
                    bytes[at] = random.next() as u8;
                }
            }
            let len = match random.below(12) {
                0 => u64::from(random.pick(&EDGES)),
                1 => u64::from(LIMIT) + 16,
                _ => bytes.len() as u64,
            };
            let fragment = match random.below(6) {
                0 => u64::from(random.pick(&EDGES)),
                1 => (bytes.len() as u64).saturating_sub(16 * random.below(4)),
                _ => len,
            };
            bench.write_tx(&bytes);
            let before = bench.lent_pages();
            let calls = bench.w.spm.calls.len();
            let function = [id::MEM_SHARE, id::MEM_SHARE | WIDE, id::MEM_LEND][random.below(3) as usize];
            let answer = bench.call(function, &[len, fragment, 0, 0]);
            let after = bench.lent_pages();
            if answer[0] == spm::ERROR {
                assert_eq!(before, after, "seed {seed}, step {step}: {build:x?}");
                // Only firmware can refuse what went to firmware: the page counts, which the proxy does not add up.
                assert!(bench.w.spm.calls.len() == calls || answer[2] == spm::INVALID.cast_unsigned());
                continue;
            }
            accepted += 1;
            let (last, object) = bench.w.spm.objects.last_key_value().unwrap();
            assert_eq!(
                after.difference(&before).copied().collect::<Vec<_>>(),
                object.pages().into_iter().collect::<Vec<_>>(),
                "seed {seed}, step {step}: {build:x?}"
            );
            let handle = *last;
            if random.below(2) == 0 && answer[0] == spm::OK {
                assert_eq!(bench.reclaim(handle)[0], spm::OK);
                assert_eq!(bench.lent_pages(), before);
            }
        }
        if (step + 1) * 64 >= steps {
            break;
        }
    }
    assert!(
        accepted > steps / 20,
        "{accepted} of {steps} descriptors were accepted"
    );
}
