// SPDX-License-Identifier: GPL-2.0-only
//! The table of hypercalls. A row is: documentation, number, the kernel's name, phase gate, handler with its arguments
//! and result. Argument order is the order of registers from x1 on.

#[cfg(test)]
extern crate std;

use super::{Arg, ExitCode, Gate, HostRegs, Reply, Row, Switch};
use pkvm_types::{Handle, HypVa, Result, Untrusted};

/// Hands out the argument registers in order.
struct Args<'a, R> {
    regs: &'a R,
    next: usize,
}

impl<R: HostRegs> Args<'_, R> {
    fn take<T: Arg>(&mut self) -> T {
        let word = self.regs.get(self.next);
        self.next = self.next.wrapping_add(1);
        T::from_word(word)
    }
}

macro_rules! host_calls {
    ($(
        $(#[doc = $doc:literal])+
        $number:literal $name:literal $gate:ident $method:ident($($arg:ident: $ty:ty),*) -> $ret:ty;
    )+) => {
        /// The handlers of the host's hypercalls. An argument is a word of the host, read once and not yet checked; an
        /// error means that nothing changed, save what the call's documentation names.
        pub trait HostCalls {
            $(
                $(#[doc = $doc])+
                fn $method(&mut self, $($arg: $ty),*) -> $ret;
            )+
        }

        /// Every hypercall, in the order of its number, from 1 on.
        pub const ROWS: &[Row] = &[$(Row {
            number: $number,
            name: $name,
            gate: Gate::$gate,
            args: &[$((stringify!($arg), <$ty as Arg>::KIND)),*],
            returns: <$ret as Reply>::KIND,
            doc: concat!($($doc),+),
        }),+];

        /// The kernel's name and our number of every hypercall, for the build to compare with the kernel's own numbers.
        pub const NUMBERS: &[(&str, u32)] = &[$(($name, $number)),+];

        /// The gate of `number`, `None` where there is no such call.
        pub(super) const fn gate(number: u32) -> Option<Gate> {
            match number {
                $($number => Some(Gate::$gate),)+
                _ => None,
            }
        }

        /// Handlers that note how they were called, by number and arguments, and answer with a sample of their type.
        #[cfg(test)]
        #[derive(Default)]
        pub(super) struct Recorder(pub std::vec::Vec<(u32, std::vec::Vec<std::string::String>)>);

        #[cfg(test)]
        impl HostCalls for Recorder {
            $(
                fn $method(&mut self, $($arg: $ty),*) -> $ret {
                    self.0.push(($number, std::vec![$(std::format!("{:?}", $arg)),*]));
                    <$ret as super::tests::Sample>::sample()
                }
            )+
        }

        /// Runs the handler of `number` and yields the new x1, if any.
        #[allow(unused_mut, unused_variables, reason = "a call without arguments reads none")]
        pub(super) fn call<R: HostRegs>(number: u32, regs: &R, calls: &mut impl HostCalls) -> Option<u64> {
            let mut args = Args { regs, next: 1 };
            match number {
                $($number => {
                    $(let $arg = args.take::<$ty>();)*
                    Reply::x1(calls.$method($($arg),*))
                })+
                _ => None,
            }
        }
    };
}

host_calls! {
    /// Builds EL2's own tables, page records and the host's stage 2 in the pool at `phys`. On success it does not
    /// return here: EL2 changes its page tables and answers from there.
    1 "__pkvm_init" Boot pkvm_init(phys: Untrusted<u64>, size: Untrusted<u64>, per_cpu_base: Untrusted<u64>,
        va_bits: Untrusted<u32>) -> Result<()>;
    /// Maps a device or the vectors into EL2's private range.
    2 "__pkvm_create_private_mapping" Boot create_private_mapping(phys: Untrusted<u64>, size: Untrusted<u64>,
        prot: Untrusted<u64>) -> Result<HypVa>;
    /// Chooses the exception vectors with this CPU's Spectre mitigation.
    3 "__pkvm_cpu_set_vector" Boot cpu_set_vector(slot: Untrusted<u32>) -> Result<()>;
    /// Sets the default of PSTATE.SSBS at EL2.
    4 "__kvm_enable_ssbs" Boot enable_ssbs() -> ();
    /// Zeroes the GICv3 list registers of this CPU.
    5 "__vgic_v3_init_lrs" Boot vgic_v3_init_lrs() -> ();
    /// Whether the GIC's CPU interface can also be memory mapped.
    6 "__vgic_v3_get_gic_config" Boot vgic_v3_get_gic_config() -> bool;
    /// Turns this CPU's host stage 2 on. EPERM the second time on a CPU.
    7 "__pkvm_prot_finalize" Both prot_finalize() -> Result<()>;
    /// Applies a pending exception or instruction skip to the host's copy of a vCPU.
    8 "__kvm_adjust_pc" Both adjust_pc(vcpu: Untrusted<u64>) -> ();
    /// Runs the vCPU that is loaded on this CPU.
    9 "__kvm_vcpu_run" Both vcpu_run(vcpu: Untrusted<u64>) -> Result<ExitCode>;
    /// Drops the TLB entries of all guests on all CPUs.
    10 "__kvm_flush_vm_context" Both flush_vm_context() -> ();
    /// Drops the TLB entries of one page of a guest. Takes a raw pointer, so a host without privileges may not make it.
    11 "__kvm_tlb_flush_vmid_ipa" Boot tlb_flush_vmid_ipa(mmu: Untrusted<u64>, ipa: Untrusted<u64>,
        level: Untrusted<i32>) -> ();
    /// As above, on this CPU only.
    12 "__kvm_tlb_flush_vmid_ipa_nsh" Boot tlb_flush_vmid_ipa_nsh(mmu: Untrusted<u64>, ipa: Untrusted<u64>,
        level: Untrusted<i32>) -> ();
    /// Drops the TLB entries of a guest. Raw pointer, as above.
    13 "__kvm_tlb_flush_vmid" Boot tlb_flush_vmid(mmu: Untrusted<u64>) -> ();
    /// Drops the TLB entries of a range of a guest. Raw pointer, as above.
    14 "__kvm_tlb_flush_vmid_range" Boot tlb_flush_vmid_range(mmu: Untrusted<u64>, start: Untrusted<u64>,
        pages: Untrusted<u64>) -> ();
    /// Drops a guest's TLB and instruction cache entries of this CPU. Raw pointer, as above.
    15 "__kvm_flush_cpu_context" Boot flush_cpu_context(mmu: Untrusted<u64>) -> ();
    /// Sets the offset of the virtual counter. Time is the host's to give, a protected VM's too.
    16 "__kvm_timer_set_cntvoff" Both timer_set_cntvoff(offset: Untrusted<u64>) -> ();
    /// Loads the trace buffers that a descriptor names.
    17 "__tracing_load" Both tracing_load(desc: Untrusted<u64>, size: Untrusted<u64>) -> Result<()>;
    /// Gives the trace buffers back.
    18 "__tracing_unload" Both tracing_unload() -> ();
    /// Starts or stops tracing.
    19 "__tracing_enable" Both tracing_enable(enable: Switch) -> Result<()>;
    /// Swaps the reader page of a CPU's trace buffer.
    20 "__tracing_swap_reader" Both tracing_swap_reader(cpu: Untrusted<u32>) -> Result<()>;
    /// Sets the parameters of the trace clock.
    21 "__tracing_update_clock" Both tracing_update_clock(mult: Untrusted<u32>, shift: Untrusted<u32>,
        epoch_ns: Untrusted<u64>, epoch_cyc: Untrusted<u64>) -> ();
    /// Empties a CPU's trace buffer.
    22 "__tracing_reset" Both tracing_reset(cpu: Untrusted<u32>) -> Result<()>;
    /// Turns one trace event on or off.
    23 "__tracing_enable_event" Both tracing_enable_event(id: Untrusted<u16>, enable: Switch) -> Result<()>;
    /// Writes one event, to test tracing.
    24 "__tracing_write_event" Both tracing_write_event(id: Untrusted<u64>) -> ();
    /// Copies the loaded vCPU's GICv3 VMCR and active priorities to the host.
    25 "__vgic_v3_save_aprs" Both vgic_v3_save_aprs(cpu_if: Untrusted<u64>) -> ();
    /// Takes the loaded vCPU's GICv3 VMCR and active priorities from the host.
    26 "__vgic_v3_restore_vmcr_aprs" Both vgic_v3_restore_vmcr_aprs(cpu_if: Untrusted<u64>) -> ();
    /// Saves GICv5 active priorities through a raw pointer.
    27 "__vgic_v5_save_apr" BothInert vgic_v5_save_apr(cpu_if: Untrusted<u64>) -> ();
    /// Restores GICv5 state through a raw pointer.
    28 "__vgic_v5_restore_vmcr_apr" BothInert vgic_v5_restore_vmcr_apr(cpu_if: Untrusted<u64>) -> ();
    /// Shares a page of the host with EL2.
    29 "__pkvm_host_share_hyp" Deprivileged host_share_hyp(pfn: Untrusted<u64>) -> Result<()>;
    /// Ends the share. EBUSY while EL2 has the page pinned.
    30 "__pkvm_host_unshare_hyp" Deprivileged host_unshare_hyp(pfn: Untrusted<u64>) -> Result<()>;
    /// Donates a page to the loaded protected vCPU's VM.
    31 "__pkvm_host_donate_guest" Deprivileged host_donate_guest(pfn: Untrusted<u64>, gfn: Untrusted<u64>)
        -> Result<()>;
    /// Shares pages with the loaded normal vCPU's VM.
    32 "__pkvm_host_share_guest" Deprivileged host_share_guest(pfn: Untrusted<u64>, gfn: Untrusted<u64>,
        nr_pages: Untrusted<u64>, prot: Untrusted<u64>) -> Result<()>;
    /// Ends the share of pages with a normal VM.
    33 "__pkvm_host_unshare_guest" Deprivileged host_unshare_guest(handle: Untrusted<u16>, gfn: Untrusted<u64>,
        nr_pages: Untrusted<u64>) -> Result<()>;
    /// Adds permissions to a page of the loaded normal vCPU's VM.
    34 "__pkvm_host_relax_perms_guest" Deprivileged host_relax_perms_guest(gfn: Untrusted<u64>,
        prot: Untrusted<u64>) -> Result<()>;
    /// Takes write permission from pages of a normal VM.
    35 "__pkvm_host_wrprotect_guest" Deprivileged host_wrprotect_guest(handle: Untrusted<u16>, gfn: Untrusted<u64>,
        nr_pages: Untrusted<u64>) -> Result<()>;
    /// Whether a normal VM used pages since they were last made old; makes them old if asked.
    36 "__pkvm_host_test_clear_young_guest" Deprivileged host_test_clear_young_guest(handle: Untrusted<u16>,
        gfn: Untrusted<u64>, nr_pages: Untrusted<u64>, mkold: Switch) -> Result<bool>;
    /// Marks a page of the loaded normal vCPU's VM as used.
    37 "__pkvm_host_mkyoung_guest" Deprivileged host_mkyoung_guest(gfn: Untrusted<u64>) -> Result<()>;
    /// Reserves a VM slot.
    38 "__pkvm_reserve_vm" Deprivileged reserve_vm() -> Result<Handle>;
    /// Gives a reserved VM slot back.
    39 "__pkvm_unreserve_vm" Deprivileged unreserve_vm(handle: Untrusted<u16>) -> ();
    /// Makes a VM in donated memory.
    40 "__pkvm_init_vm" Deprivileged init_vm(host_kvm: Untrusted<u64>, vm: Untrusted<u64>, pgd: Untrusted<u64>)
        -> Result<()>;
    /// Makes a vCPU in donated memory.
    41 "__pkvm_init_vcpu" Deprivileged init_vcpu(handle: Untrusted<u16>, host_vcpu: Untrusted<u64>,
        vcpu: Untrusted<u64>) -> Result<()>;
    /// Whether the loaded vCPU's last fault hit a page that the host took by force.
    42 "__pkvm_vcpu_in_poison_fault" Deprivileged vcpu_in_poison_fault() -> Result<bool>;
    /// Takes a page from a protected VM by force: the guest's mapping is poisoned, the page zeroed.
    43 "__pkvm_force_reclaim_guest_page" Deprivileged force_reclaim_guest_page(phys: Untrusted<u64>) -> Result<()>;
    /// Takes a page back from a VM that is being torn down.
    44 "__pkvm_reclaim_dying_guest_page" Deprivileged reclaim_dying_guest_page(handle: Untrusted<u16>,
        gfn: Untrusted<u64>) -> Result<()>;
    /// Starts to tear a VM down; it never runs again.
    45 "__pkvm_start_teardown_vm" Deprivileged start_teardown_vm(handle: Untrusted<u16>) -> Result<()>;
    /// Ends a VM and gives its memory back.
    46 "__pkvm_finalize_teardown_vm" Deprivileged finalize_teardown_vm(handle: Untrusted<u16>) -> Result<()>;
    /// Loads a vCPU on this CPU. Does nothing if it cannot.
    47 "__pkvm_vcpu_load" Deprivileged vcpu_load(handle: Untrusted<u16>, vcpu_idx: Untrusted<u32>,
        hcr_el2: Untrusted<u64>) -> ();
    /// Unloads this CPU's vCPU.
    48 "__pkvm_vcpu_put" Deprivileged vcpu_put() -> ();
    /// Copies the loaded normal vCPU's registers to the host.
    49 "__pkvm_vcpu_sync_state" Deprivileged vcpu_sync_state() -> ();
    /// Drops a normal VM's TLB entries on all CPUs.
    50 "__pkvm_tlb_flush_vmid" Deprivileged pkvm_tlb_flush_vmid(handle: Untrusted<u16>) -> ();
}

// The kernel numbers its calls without gaps, and id 0 is the stub's.
const _: () = {
    let mut rows = ROWS;
    let mut expected = 1;
    while let [row, rest @ ..] = rows {
        assert!(
            row.number == expected,
            "the rows of the hypercall table are not numbered in order"
        );
        expected += 1;
        rows = rest;
    }
};
