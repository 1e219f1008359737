// SPDX-License-Identifier: GPL-2.0-only
//! Symbols that the hypervisor shares with EL1 by name. The kernel's linker script and `image-vars.h` define the
//! section boundaries; `el2` defines the rest, in the section that EL1 expects of each.

macro_rules! markers {
    ($( $(#[$doc:meta])* $name:ident; )*) => {
        unsafe extern "C" { $( $(#[$doc])* pub static $name: u8; )* }
    };
}

markers! {
    /// Start of the page that runs with the MMU off.
    __hyp_idmap_text_start;
    /// End of the page that runs with the MMU off.
    __hyp_idmap_text_end;
    /// Start of EL2's code.
    __hyp_text_start;
    /// End of EL2's code.
    __hyp_text_end;
    /// Start of EL2's read-only data.
    __hyp_rodata_start;
    /// End of EL2's read-only data.
    __hyp_rodata_end;
    /// Start of EL2's writable data.
    __hyp_data_start;
    /// End of EL2's writable data.
    __hyp_data_end;
    /// Start of EL2's zero-initialised data.
    __hyp_bss_start;
    /// End of EL2's zero-initialised data.
    __hyp_bss_end;
    /// Start of the per-CPU template.
    __per_cpu_start;
    /// End of the per-CPU template.
    __per_cpu_end;
}
