// SPDX-License-Identifier: GPL-2.0-only
//! The host's profiling, trace and branch record buffers around a run.

use super::*;

#[test]
fn host_buffers_stop_before_and_resume_after_everything() {
    let world = world();
    world
        .cpu
        .host
        .set_flags(1 << HOST_FLAG_HAS_SPE | 1 << HOST_FLAG_TRBE_ENABLED | 1 << HOST_FLAG_HAS_BRBE);
    for (reg, value) in [
        (PMBLIMITR_EL1, 0x1001),
        (PMSCR_EL1, 0x33),
        (TRBLIMITR_EL1, 0x2001),
        (TRFCR_EL1, 0x3),
        (BRBCR_EL1, 0x1),
    ] {
        fake::set_reg(reg, value);
    }
    let (_, log) = world.run();
    let first_el1 = position(&log, Event::Write(TTBR0_EL1, 0));
    for reg in [PMBLIMITR_EL1, PMSCR_EL1, TRBLIMITR_EL1, TRFCR_EL1, BRBCR_EL1] {
        assert!(
            position(&log, Event::Write(reg, 0)) < first_el1,
            "{:?}",
            name(reg)
        );
    }
    let drained = position(&log, Event::Barrier("psb csync"));
    assert!(drained < position(&log, Event::Write(PMBLIMITR_EL1, 0)));
    assert_eq!(log[drained + 1], Event::Dsb("nsh"));
    let last_el1 = log
        .iter()
        .rposition(|e| matches!(e, Event::Write(TTBR0_EL1, _)))
        .unwrap();
    assert!(last_el1 < position(&log, Event::Write(PMBLIMITR_EL1, 0x1001)));
    assert!(last_el1 < position(&log, Event::Write(TRBLIMITR_EL1, 0x2001)));
    assert_eq!(fake::reg(PMSCR_EL1), 0x33);
    assert_eq!(fake::reg(TRFCR_EL1), 0x3);
    assert_eq!(fake::reg(BRBCR_EL1), 0x1);
}

/// A host that traces at EL1 and EL0 into a buffer, on a CPU with `flags` (numbers of `HOST_FLAG_*`).
fn tracing_host(flags: &[u64]) -> World {
    let world = world();
    world
        .cpu
        .host
        .set_flags(flags.iter().fold(0, |set, flag| set | 1 << flag));
    fake::set_reg(TRFCR_EL1, 0x3);
    fake::set_reg(TRBLIMITR_EL1, 0x2001);
    world
}

#[test]
fn protected_mode_never_traces_a_guest() {
    // EL1's flags are those of the time before it lost its privileges: it cannot have said that a buffer is on.
    let world = tracing_host(&[HOST_FLAG_EL1_TRACING_CONFIGURED, HOST_FLAG_HAS_TRBE]);
    protect(&world);
    for _ in 0..2 {
        let (before, after) = world.run_apart();
        let filter = position(&before, Event::Write(TRFCR_EL1, 0));
        // What was traced so far is in memory before the buffer goes and before EL1's translation does.
        assert_eq!(
            before[filter + 1..filter + 6],
            [
                Event::Isb,
                Event::Barrier("tsb csync"),
                Event::Dsb("nsh"),
                Event::Write(TRBLIMITR_EL1, 0),
                Event::Isb
            ]
        );
        assert!(filter + 6 <= position(&before, Event::Write(TTBR0_EL1, 0)));
        assert_eq!(last_write(&before, TRFCR_EL1), 0);
        assert_eq!(last_write(&before, TRBLIMITR_EL1), 0);
        let buffer = position(&after, Event::Write(TRBLIMITR_EL1, 0x2001));
        assert_eq!(after[buffer + 1], Event::Isb);
        assert!(buffer < position(&after, Event::Write(TRFCR_EL1, 0x3)));
        assert_eq!((fake::reg(TRFCR_EL1), fake::reg(TRBLIMITR_EL1)), (0x3, 0x2001));
    }
}

#[test]
fn a_guest_that_traces_itself_does_not_trace_the_next_one_in_protected_mode() {
    let world = world();
    fake::set_cap(CAP_KVM_PROTECTED_MODE as u16);
    world.cpu.host.set_flags(1 << HOST_FLAG_EL1_TRACING_CONFIGURED);
    fake::set_reg(TRFCR_EL1, 0x40);
    // What the guest of the run before left.
    world.cpu.host.set_trfcr_while_in_guest(0x3);
    let (_, log) = world.run();
    let inside = position(&log, Event::Mark("enter"));
    assert_eq!(last_write(&log[..inside], TRFCR_EL1), 0);
    assert_eq!(fake::reg(TRFCR_EL1), 0x40);
}

#[test]
fn a_trace_buffer_is_touched_where_there_is_one_that_is_on() {
    // A unit without a buffer has no TRBLIMITR_EL1; one whose buffer is off has nothing to drain.
    for (flags, limit) in [
        (&[HOST_FLAG_EL1_TRACING_CONFIGURED][..], 0x2001),
        (&[HOST_FLAG_EL1_TRACING_CONFIGURED, HOST_FLAG_HAS_TRBE], 0x2000),
    ] {
        let world = tracing_host(flags);
        fake::set_reg(TRBLIMITR_EL1, limit);
        protect(&world);
        let (before, after) = world.run_apart();
        assert_eq!(last_write(&before, TRFCR_EL1), 0);
        assert_eq!(last_write(&after, TRFCR_EL1), 0x3);
        assert_eq!(written(&before, TRBLIMITR_EL1), None);
        assert_eq!(written(&after, TRBLIMITR_EL1), None);
        assert!(!before.contains(&Event::Barrier("tsb csync")));
    }
}

#[test]
fn a_trusted_host_may_trace_its_guests_without_a_buffer() {
    let filter = |flags: &[u64]| {
        let world = tracing_host(flags);
        world.cpu.host.set_trfcr_while_in_guest(0x1);
        let (before, after) = world.run_apart();
        assert_eq!(fake::reg(TRFCR_EL1), 0x3);
        (
            written(&before, TRFCR_EL1),
            written(&before, TRBLIMITR_EL1),
            written(&after, TRBLIMITR_EL1),
        )
    };
    let (has, on, configured) = (
        HOST_FLAG_HAS_TRBE,
        HOST_FLAG_TRBE_ENABLED,
        HOST_FLAG_EL1_TRACING_CONFIGURED,
    );
    assert_eq!(filter(&[has]), (None, None, None));
    // Here the host says itself whether its buffer is on.
    assert_eq!(filter(&[has, configured]), (Some(0x1), None, None));
    assert_eq!(
        filter(&[has, on, configured]),
        (Some(0), Some(0), Some(0x2001)),
        "a buffer is the host's memory"
    );
}

#[test]
fn trace_units_with_errata_are_drained_twice_and_resume_later() {
    let count = |log: &[Event], event| log.iter().filter(|e| **e == event).count();
    let drains = |caps: &[u64]| {
        let world = tracing_host(&[HOST_FLAG_TRBE_ENABLED]);
        for cap in caps {
            fake::set_cap(*cap as u16);
        }
        let (before, after) = world.run_apart();
        let buffer = position(&after, Event::Write(TRBLIMITR_EL1, 0x2001));
        let filter = position(&after, Event::Write(TRFCR_EL1, 0x3));
        (
            count(&before, Event::Barrier("tsb csync")),
            count(&after[buffer..filter], Event::Isb),
        )
    };
    assert_eq!(drains(&[]), (1, 1));
    assert_eq!(drains(&[CAP_WORKAROUND_2064142]), (2, 1));
    assert_eq!(drains(&[CAP_WORKAROUND_TSB_FLUSH_FAILURE]), (2, 1));
    assert_eq!(
        drains(&[CAP_WORKAROUND_TSB_FLUSH_FAILURE, CAP_WORKAROUND_2064142]),
        (4, 1)
    );
    assert_eq!(drains(&[CAP_WORKAROUND_2038923]), (1, 2));
}
