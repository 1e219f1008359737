// SPDX-License-Identifier: GPL-2.0-only
extern crate std;

use super::table::Recorder;
use super::*;
use pkvm_types::{Error, Handle, HypVa, Result};
use proptest::prelude::*;
use std::fmt::Write;
use std::string::{String, ToString};
use std::vec::Vec;
use std::{format, fs, path::PathBuf, vec};

/// A value of each type of result.
pub(super) trait Sample {
    fn sample() -> Self;
}
impl Sample for () {
    fn sample() {}
}
impl Sample for bool {
    fn sample() -> Self {
        true
    }
}
impl Sample for Result<()> {
    fn sample() -> Self {
        Err(Error::Perm)
    }
}
impl Sample for Result<bool> {
    fn sample() -> Self {
        Ok(true)
    }
}
impl Sample for Result<Handle> {
    fn sample() -> Self {
        Handle::from_index(2)
    }
}
impl Sample for Result<HypVa> {
    fn sample() -> Self {
        Ok(HypVa::new(0xffff_8000_1234_5000))
    }
}
impl Sample for Result<ExitCode> {
    fn sample() -> Self {
        Ok(ExitCode(0x8000_0002))
    }
}

const UNTOUCHED: u64 = 0x5a5a_5a5a_5a5a_5a5a;

fn call(x0: u64, args: [u64; 4], phase: Phase) -> (Dispatched, [u64; 18], Recorder) {
    let mut regs = [UNTOUCHED; 18];
    regs[0] = x0;
    regs[1..5].copy_from_slice(&args);
    let mut recorder = Recorder::default();
    let outcome = dispatch(&mut regs, phase, &mut recorder);
    (outcome, regs, recorder)
}

/// The kernel's numbers, in their order, from `arch/arm64/include/asm/kvm_asm.h` of Linux 7.3.
const KERNEL: &str = "
    __pkvm_init __pkvm_create_private_mapping __pkvm_cpu_set_vector __kvm_enable_ssbs __vgic_v3_init_lrs
    __vgic_v3_get_gic_config __pkvm_prot_finalize __kvm_adjust_pc __kvm_vcpu_run __kvm_flush_vm_context
    __kvm_tlb_flush_vmid_ipa __kvm_tlb_flush_vmid_ipa_nsh __kvm_tlb_flush_vmid __kvm_tlb_flush_vmid_range
    __kvm_flush_cpu_context __kvm_timer_set_cntvoff __tracing_load __tracing_unload __tracing_enable
    __tracing_swap_reader __tracing_update_clock __tracing_reset __tracing_enable_event __tracing_write_event
    __vgic_v3_save_aprs __vgic_v3_restore_vmcr_aprs __vgic_v5_save_apr __vgic_v5_restore_vmcr_apr
    __pkvm_host_share_hyp __pkvm_host_unshare_hyp __pkvm_host_donate_guest __pkvm_host_share_guest
    __pkvm_host_unshare_guest __pkvm_host_relax_perms_guest __pkvm_host_wrprotect_guest
    __pkvm_host_test_clear_young_guest __pkvm_host_mkyoung_guest __pkvm_reserve_vm __pkvm_unreserve_vm
    __pkvm_init_vm __pkvm_init_vcpu __pkvm_vcpu_in_poison_fault __pkvm_force_reclaim_guest_page
    __pkvm_reclaim_dying_guest_page __pkvm_start_teardown_vm __pkvm_finalize_teardown_vm __pkvm_vcpu_load
    __pkvm_vcpu_put __pkvm_vcpu_sync_state __pkvm_tlb_flush_vmid";

#[test]
fn the_numbers_are_the_kernels() {
    let kernel: Vec<_> = KERNEL.split_whitespace().zip(1..).collect();
    assert_eq!(NUMBERS, &kernel[..]);
    assert_eq!(number_of("__kvm_vcpu_run"), Some(9));
    assert_eq!(number_of("__kvm_vcpu_ru"), None);
    assert_eq!(number_of(""), None);
}

#[test]
fn each_phase_admits_its_calls_and_no_other() {
    for number in 0..=70_u32 {
        for phase in [Phase::Boot, Phase::Deprivileged] {
            let (outcome, regs, recorder) = call(CALL_BASE + u64::from(number), [0; 4], phase);
            let expected = match (phase, number) {
                (Phase::Boot, 1..=28) | (Phase::Deprivileged, 7..=10 | 16..=26 | 29..=50) => {
                    Dispatched::Handled(number)
                }
                (Phase::Deprivileged, 27 | 28) => Dispatched::Inert(number),
                _ => Dispatched::Refused,
            };
            assert_eq!(outcome, expected, "{number} in {phase:?}");
            let handlers: Vec<_> = recorder.0.iter().map(|(number, _)| *number).collect();
            match outcome {
                Dispatched::Handled(number) => assert_eq!(handlers, [number]),
                _ => assert_eq!((handlers, regs[1]), (vec![], 0)),
            }
            assert_eq!(
                regs[0],
                if outcome == Dispatched::Refused {
                    u64::MAX
                } else {
                    0
                }
            );
            assert!(regs[5..].iter().all(|&reg| reg == UNTOUCHED));
        }
    }
}

#[test]
fn only_the_hint_bit_is_no_part_of_the_number() {
    let reserve = CALL_BASE + 38;
    for bit in 0..64 {
        let (outcome, ..) = call(reserve | 1 << bit, [0; 4], Phase::Deprivileged);
        let same = bit == 16 || reserve >> bit & 1 == 1;
        let other_call = (reserve | 1 << bit) - CALL_BASE < 51;
        assert!(same || other_call || outcome == Dispatched::Refused, "bit {bit}");
        assert!(!same || outcome == Dispatched::Handled(38), "bit {bit}");
    }
}

#[test]
fn results_are_in_x1_as_the_kernel_reads_them() {
    let x1 = |number: u64, phase| call(CALL_BASE + number, [77; 4], phase).1[1];
    assert_eq!(x1(29, Phase::Deprivileged), (-1_i64).cast_unsigned());
    assert_eq!(x1(38, Phase::Deprivileged), 0x1002);
    assert_eq!(x1(36, Phase::Deprivileged), 1);
    assert_eq!(x1(9, Phase::Deprivileged), 0xffff_ffff_8000_0002);
    assert_eq!(x1(2, Phase::Boot), 0xffff_8000_1234_5000);
    assert_eq!(x1(6, Phase::Boot), 1);
    assert_eq!(
        x1(48, Phase::Deprivileged),
        77,
        "a call without a result leaves x1 alone"
    );
}

#[test]
fn arguments_are_cut_to_their_type() {
    let args = |number: u64, phase| {
        let (_, _, recorder) = call(
            CALL_BASE + number,
            [0x1_0002_0003_1004, 1 << 40, 0, u64::MAX],
            phase,
        );
        recorder.0[0].1.clone()
    };
    assert_eq!(args(33, Phase::Deprivileged)[0], format!("Untrusted({})", 0x1004));
    assert_eq!(args(47, Phase::Deprivileged)[1], "Untrusted(0)");
    assert_eq!(args(36, Phase::Deprivileged)[3], "On");
    assert_eq!(
        args(23, Phase::Deprivileged)[1],
        "On",
        "a bool is the whole register, not its low byte"
    );
    assert_eq!(args(19, Phase::Boot)[0], "On");
    assert_eq!(args(1, Phase::Boot)[3], format!("Untrusted({})", u32::MAX));
    assert_eq!(args(11, Phase::Boot)[2], "Untrusted(0)");
}

/// Notes in which order the registers were touched.
struct Traced(std::cell::RefCell<Vec<String>>, u64);
impl HostRegs for Traced {
    fn get(&self, n: usize) -> u64 {
        self.0.borrow_mut().push(format!("read x{n}"));
        if n == 0 { self.1 } else { 0 }
    }
    fn set(&mut self, n: usize, value: u64) {
        self.0.borrow_mut().push(format!("x{n}={value}"));
    }
}

#[test]
fn each_register_is_read_once_and_x0_is_set_before_the_handler() {
    let mut regs = Traced(Vec::new().into(), CALL_BASE + 32);
    dispatch(&mut regs, Phase::Deprivileged, &mut Recorder::default());
    let steps = regs.0.into_inner();
    assert_eq!(
        steps[..6],
        ["read x0", "x0=0", "read x1", "read x2", "read x3", "read x4"].map(str::to_string)
    );
    assert_eq!(steps.len(), 7, "and x1 is written at the end");
}

proptest! {
    #[test]
    fn no_word_does_more_than_one_call(x0 in prop_oneof![any::<u64>(), 0xc5ff_fff0_u64..0xc602_0060], args: [u64; 4]) {
        for phase in [Phase::Boot, Phase::Deprivileged] {
            let (outcome, regs, recorder) = call(x0, args, phase);
            prop_assert_eq!(recorder.0.len(), usize::from(matches!(outcome, Dispatched::Handled(_))));
            prop_assert_eq!(&regs[2..5], &args[1..]);
            prop_assert!(regs[0] == 0 || regs[0] == u64::MAX);
            if outcome == Dispatched::Refused {
                prop_assert_eq!(regs[1], args[0]);
            }
        }
    }
}

fn documentation() -> String {
    let gate = |gate| match gate {
        Gate::Boot => "boot",
        Gate::Both => "both",
        Gate::BothInert => "both; no effect once deprivileged",
        Gate::Deprivileged => "deprivileged",
    };
    let mut text = String::from(
        ".. SPDX-License-Identifier: GPL-2.0-only\n\n\
         .. Generated from hyp/core/src/hcall/table.rs. To renew it:\n   \
         PKVM_BLESS=1 cargo test -p pkvm-core documentation\n\n\
         =====================\nThe host's hypercalls\n=====================\n\n\
         The host makes a call by ``HVC #0`` with ``0xc6000000`` plus the number in x0 and its arguments from x1 on.\n\
         x0 is 0 afterwards, or -1 if there is no such call in this phase, and then nothing else changes. x1 holds the\n\
         result. The phase is *boot* until the host loses its privileges and *deprivileged* from then on.\n\n\
         .. list-table::\n   :header-rows: 1\n\n   * - Number\n     - Name and arguments\n     - Phase\n     - x1\n     \
         - Purpose\n",
    );
    for row in ROWS {
        let args: Vec<_> = row
            .args
            .iter()
            .map(|(name, kind)| format!("{name}: {kind}"))
            .collect();
        let doc = row.doc.split_whitespace().collect::<Vec<_>>().join(" ");
        write!(
            text,
            "   * - {}\n     - ``{}({})``\n     - {}\n     - {}\n     - {}\n",
            row.number,
            row.name,
            args.join(", "),
            gate(row.gate),
            row.returns,
            doc
        )
        .unwrap();
    }
    text
}

#[test]
fn documentation_is_current() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../Documentation/hypercalls.rst");
    let text = documentation();
    if std::env::var_os("PKVM_BLESS").is_some() {
        fs::write(&path, text).unwrap();
    } else {
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "run with PKVM_BLESS=1");
    }
}
