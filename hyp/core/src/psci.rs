// SPDX-License-Identifier: GPL-2.0-only
//! The relay of the host's PSCI calls. Firmware would start a CPU at an address of the host's choice, at EL2; so EL2
//! puts its own entry point in the call and sends the CPU on to the host's, at EL1, with stage 2 on. This does the job
//! of the kernel's `nvhe/psci-relay.c`.
//!
//! The calls' words are the host's and may be anything; the configuration is from before the host lost its privileges.
//! No lock: a CPU's start is handed over through [`BootArgs`]. Source: Arm Power State Coordination Interface,
//! DEN 0022.

use pkvm_types::Phys;

mod slot;
#[cfg(test)]
mod tests;

pub use slot::BootArgs;

/// PSCI's `SUCCESS`.
pub const SUCCESS: u64 = 0;
/// PSCI's `NOT_SUPPORTED`.
pub const NOT_SUPPORTED: u64 = (-1_i64).cast_unsigned();
/// PSCI's `INVALID_PARAMETERS`.
pub const INVALID_PARAMETERS: u64 = (-2_i64).cast_unsigned();
/// PSCI's `ALREADY_ON`.
pub const ALREADY_ON: u64 = (-4_i64).cast_unsigned();

/// The affinity fields of MPIDR_EL1; no other bit may be set in the name of a CPU.
const MPIDR_HWID: u64 = 0xff_00ff_ffff;

const FN32: u32 = 0x8400_0000;
const FN64: u32 = 0xc400_0000;

/// The function numbers of PSCI 0.1, which the device tree gives; `None` where firmware lacks the function.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct V01Ids {
    /// CPU_SUSPEND.
    pub cpu_suspend: Option<u32>,
    /// CPU_ON.
    pub cpu_on: Option<u32>,
    /// CPU_OFF.
    pub cpu_off: Option<u32>,
    /// MIGRATE.
    pub migrate: Option<u32>,
}

/// Which PSCI the firmware has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Config {
    /// Version 0.1: numbers from the device tree.
    V0_1(V01Ids),
    /// Version 0.2: the standard numbers.
    V0_2,
    /// Version 1.0 or later.
    V1,
}

impl Config {
    /// The configuration that EL1 left in `kvm_host_psci_config`: `version` with its major number in the upper half.
    pub const fn new(version: u32, ids: V01Ids) -> Self {
        match version {
            0x0_0001 => Self::V0_1(ids),
            0x0_0002 => Self::V0_2,
            _ => Self::V1,
        }
    }

    /// Whether `function` is one of the device tree's numbers, which may lie anywhere.
    pub fn is_v0_1_call(&self, function: u32) -> bool {
        matches!(self, Self::V0_1(_)) && self.decode(function).is_some()
    }

    /// What to do with the call `function`; `None` if it is not a PSCI call.
    pub fn decode(&self, function: u32) -> Option<Call> {
        match self {
            Self::V0_1(ids) => {
                let is = |id: Option<u32>| id == Some(function);
                if is(ids.cpu_off) || is(ids.migrate) {
                    Some(Call::Forward)
                } else if is(ids.cpu_on) {
                    Some(Call::CpuOn)
                } else if is(ids.cpu_suspend) {
                    Some(Call::CpuSuspend)
                } else {
                    None
                }
            }
            // SMCCC sets 32 numbers apart for PSCI, in either width.
            Self::V0_2 | Self::V1 => match function {
                FN32..=0x8400_001f | FN64..=0xc400_001f => Some(decode_standard(function, *self == Self::V1)),
                _ => None,
            },
        }
    }
}

fn decode_standard(function: u32, v1: bool) -> Call {
    match function {
        // PSCI_VERSION, CPU_OFF, MIGRATE_INFO_TYPE, SYSTEM_OFF, SYSTEM_RESET, and in their 64-bit form AFFINITY_INFO,
        // MIGRATE, MIGRATE_INFO_UP_CPU.
        0x8400_0000 | 0x8400_0002 | 0x8400_0006 | 0x8400_0008 | 0x8400_0009 | 0xc400_0004 | 0xc400_0005
        | 0xc400_0007 => Call::Forward,
        0xc400_0001 => Call::CpuSuspend,
        0xc400_0003 => Call::CpuOn,
        // PSCI_FEATURES, SET_SUSPEND_MODE, SYSTEM_RESET2 (64), SYSTEM_OFF2 (32 and 64).
        0x8400_000a | 0x8400_000f | 0xc400_0012 | 0x8400_0015 | 0xc400_0015 if v1 => Call::Forward,
        0xc400_000e if v1 => Call::SystemSuspend,
        // The 32-bit CPU_ON and CPU_SUSPEND would cut EL2's entry point off.
        _ => Call::Unsupported,
    }
}

/// What a PSCI call asks of the relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// It carries no address: firmware may have it as it is.
    Forward,
    /// CPU_ON (target, entry point, context).
    CpuOn,
    /// CPU_SUSPEND (power state, entry point, context).
    CpuSuspend,
    /// SYSTEM_SUSPEND (entry point, context).
    SystemSuspend,
    /// EL2 refuses it.
    Unsupported,
}

/// The CPU that `mpidr` names, an index in `logical_map`, which holds the MPIDR of each CPU that was online when EL2
/// was set up. No other CPU may start: nobody compared its features with what EL2 was patched for.
pub fn find_cpu(mpidr: u64, logical_map: &[u64]) -> Option<usize> {
    if mpidr & !MPIDR_HWID != 0 {
        return None;
    }
    logical_map.iter().position(|&known| known == mpidr)
}

/// Where firmware lets a CPU enter EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// After CPU_ON.
    CpuOn,
    /// After CPU_SUSPEND or SYSTEM_SUSPEND.
    Resume,
}

/// What the relay needs of the machine.
pub trait Machine {
    /// The MPIDR of each CPU, by its logical number.
    fn logical_map(&self) -> &[u64];
    /// The number of the CPU that makes the call.
    fn this_cpu(&self) -> usize;
    /// The CPU_ON slot of `cpu`, an index in the map; `None` if EL2 has no state for it.
    fn cpu_on_args(&self, cpu: usize) -> Option<&BootArgs>;
    /// The suspend slot of `cpu`, as above.
    fn suspend_args(&self, cpu: usize) -> Option<&BootArgs>;
    /// The physical address of EL2's entry point.
    fn entry(&self, entry: Entry) -> Phys;
    /// The physical address of the `kvm_nvhe_init_params` of `cpu`. Where the host has lost its privileges and the
    /// CPU's parameters do not have stage 2 on yet, this turns it on in them first: no CPU may run the host without.
    fn prepare_params(&mut self, cpu: usize) -> Phys;
    /// Calls firmware and returns its x0. All stores before it must be visible to a CPU whose caches are off.
    fn smc(&mut self, words: [u64; 4]) -> u64;
}

/// Makes the PSCI call `call`, whose x0 to x3 are `words`, and returns the host's new x0; its x1 to x3 become zero.
pub fn relay(call: Call, words: [u64; 4], machine: &mut impl Machine) -> u64 {
    let [function, a1, a2, a3] = words;
    match call {
        Call::Forward => machine.smc(words),
        Call::Unsupported => NOT_SUPPORTED,
        Call::CpuOn => cpu_on(function, a1, (a2, a3), machine),
        Call::CpuSuspend => match park((a2, a3), machine) {
            Some((entry, params)) => machine.smc([function, a1, entry, params]),
            None => INVALID_PARAMETERS,
        },
        Call::SystemSuspend => match park((a1, a2), machine) {
            Some((entry, params)) => machine.smc([function, entry, params, 0]),
            None => INVALID_PARAMETERS,
        },
    }
}

fn cpu_on(function: u64, mpidr: u64, (pc, r0): (u64, u64), machine: &mut impl Machine) -> u64 {
    let Some(cpu) = find_cpu(mpidr, machine.logical_map()) else {
        return INVALID_PARAMETERS;
    };
    let Some(slot) = machine.cpu_on_args(cpu) else {
        return INVALID_PARAMETERS;
    };
    if !slot.claim(pc, r0) {
        return ALREADY_ON;
    }
    let params = machine.prepare_params(cpu).raw();
    let entry = machine.entry(Entry::CpuOn).raw();
    let result = machine.smc([function, mpidr, entry, params]);
    // On success the started CPU frees the slot.
    if result != SUCCESS
        && let Some(slot) = machine.cpu_on_args(cpu)
    {
        slot.release();
    }
    result
}

/// Notes where this CPU is to resume, and yields EL2's own entry point and parameters.
fn park((pc, r0): (u64, u64), machine: &mut impl Machine) -> Option<(u64, u64)> {
    let cpu = machine.this_cpu();
    machine.suspend_args(cpu)?.store(pc, r0);
    let params = machine.prepare_params(cpu).raw();
    Some((machine.entry(Entry::Resume).raw(), params))
}
