// SPDX-License-Identifier: GPL-2.0-only
//! The machine under the PSCI relay, and where firmware lets a CPU back in. The decisions are in
//! [`pkvm_core::psci`]. No lock: a starting CPU finds its orders in its own per-CPU slot.
#![expect(
    unsafe_code,
    reason = "C-ABI entries of the start of a CPU, and per-CPU state"
)]

use pkvm_arch::entry::{Start, init, setup};
use pkvm_arch::sysreg::{ELR_EL2, SCTLR_EL1, SPSR_EL2, write_el1, write_el2};
use pkvm_arch::{barrier, cache, smccc};
use pkvm_core::psci::{BootArgs, Config, Entry, Machine, V01Ids};
use pkvm_core::trace::Reason;
use pkvm_kernel::layout::*;
use pkvm_types::{HypVa, Phys};

use crate::{host, statics, trace, words};

/// Two slots for each CPU.
#[repr(C)]
struct Slots {
    cpu_on: BootArgs,
    suspend: BootArgs,
}

#[unsafe(link_section = ".data..percpu")]
static SLOTS: Slots = Slots {
    cpu_on: BootArgs::new(),
    suspend: BootArgs::new(),
};

fn slots_of(cpu: usize) -> Option<&'static Slots> {
    let copy = statics::copy_of_cpu(&raw const SLOTS, cpu)?;
    // SAFETY: EL1 made a copy of the template for each CPU, mapped for ever, and atomics are all it holds.
    Some(unsafe { &*copy })
}

fn my_slots() -> &'static Slots {
    // SAFETY: as in `slots_of`.
    unsafe { &*pkvm_arch::percpu::this_cpu_ptr(&raw const SLOTS) }
}

/// The firmware interface as EL1 described it.
pub fn config() -> Config {
    let words = &statics::kvm_host_psci_config;
    // SAFETY: each offset is that of a member of the structure that the static holds, and every byte pattern is a u32
    // or a u8.
    let (word, byte) = (
        |offset: u64| unsafe {
            words
                .as_ptr()
                .cast::<u8>()
                .add(offset as usize)
                .cast::<u32>()
                .read_volatile()
        },
        |offset: u64| unsafe { words.as_ptr().cast::<u8>().add(offset as usize).read_volatile() },
    );
    let id = |present: u64, value: u64| (byte(present) != 0).then(|| word(value));
    Config::new(
        word(PSCI_CONFIG_VERSION),
        V01Ids {
            cpu_suspend: id(PSCI_CONFIG_HAS_CPU_SUSPEND, PSCI_CONFIG_ID_CPU_SUSPEND),
            cpu_on: id(PSCI_CONFIG_HAS_CPU_ON, PSCI_CONFIG_ID_CPU_ON),
            cpu_off: id(PSCI_CONFIG_HAS_CPU_OFF, PSCI_CONFIG_ID_CPU_OFF),
            migrate: id(PSCI_CONFIG_HAS_MIGRATE, PSCI_CONFIG_ID_MIGRATE),
        },
    )
}

/// The version of the SMC Calling Convention that EL1 found firmware to speak.
pub fn smccc_version() -> u32 {
    statics::kvm_host_psci_config.get()[PSCI_CONFIG_SMCCC_VERSION as usize / 4]
}

/// The relay's view of this machine.
pub struct Relay;

impl Machine for Relay {
    fn logical_map(&self) -> &[u64] {
        // SAFETY: EL1 wrote the map before EL2 was finalised; the section is read-only at EL2, so it cannot change
        // while the slice lives.
        unsafe { &*statics::hyp_cpu_logical_map.as_ptr() }
    }
    fn this_cpu(&self) -> usize {
        crate::state::this_cpu().number() as usize
    }
    fn cpu_on_args(&self, cpu: usize) -> Option<&BootArgs> {
        slots_of(cpu).map(|slots| &slots.cpu_on)
    }
    fn suspend_args(&self, cpu: usize) -> Option<&BootArgs> {
        slots_of(cpu).map(|slots| &slots.suspend)
    }
    fn entry(&self, entry: Entry) -> Phys {
        let code = match entry {
            Entry::CpuOn => init::cpu_on_entry(),
            Entry::Resume => init::resume_entry(),
        };
        words::linear_phys(code)
    }
    fn prepare_params(&mut self, cpu: usize) -> Phys {
        let Some(params) = statics::init_params_of(cpu) else {
            return Phys::new(0);
        };
        if host::is_deprivileged() && params.hcr_el2() & pkvm_arch::sysreg::hcr::VM == 0 {
            // A CPU that missed the finalisation must not run the host without stage 2.
            host::enable_stage2_in(params);
            cache::dcache_clean_inval_poc(HypVa::new(params.addr()), INIT_PARAMS_SIZE);
        }
        words::linear_phys(HypVa::new(params.addr()))
    }
    fn smc(&mut self, words: [u64; 4]) -> u64 {
        // The slot of a CPU that starts is read with its MMU and caches on, so ordering is all it needs.
        barrier::dsb_ishst();
        let [function, arguments @ ..] = words;
        trace::hyp_exit(Reason::Smc);
        let [x0, ..] = smccc::call(function, &arguments);
        trace::hyp_enter(Reason::Smc);
        x0
    }
}

/// PSTATE of a CPU that enters the kernel from firmware: EL1h with all exceptions masked.
const ENTRY_PSTATE: u64 = 0x3c5;

/// Sets up what EL2 controls on this CPU, each time it comes to EL2: on its own stack with the MMU on. `start` is how.
#[unsafe(no_mangle)]
extern "C" fn hyp_init_cpu(start: u64) {
    let system = setup::System {
        pfr0: statics::id_aa64pfr0_el1_sys_val.get(),
        pfr1: statics::id_aa64pfr1_el1_sys_val.get(),
        smfr0: statics::id_aa64smfr0_el1_sys_val.get(),
    };
    setup::init(Start::from_raw(start), &system);
}

/// The rest of the way into the kernel for a CPU that firmware brought to EL2.
#[unsafe(no_mangle)]
extern "C" fn hyp_start_cpu(start: u64) -> ! {
    let slots = my_slots();
    let (pc, r0) = match Start::from_raw(start) {
        Start::CpuOn => slots.cpu_on.take(),
        Start::Resume | Start::Installed => slots.suspend.load(),
    };
    trace::hyp_enter(Reason::Psci);
    host::catch_up();
    let context = statics::host_data().ctxt();
    context.set_reg(0, r0);
    write_el2::<ELR_EL2>(pc);
    write_el1::<SCTLR_EL1>(SCTLR_EL1_MMU_OFF);
    write_el2::<SPSR_EL2>(ENTRY_PSTATE);
    trace::hyp_exit(Reason::Psci);
    host::enter(context)
}
