// SPDX-License-Identifier: GPL-2.0-only
//! The configurations.

use super::SUITES;

/// The compiler and its tools.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tools {
    /// The cross gcc with GNU binutils.
    Gcc,
    /// clang with LLVM's own tools (`LLVM=-N`), of one release.
    Llvm(u32),
}

/// What a configuration starts from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    /// `allnoconfig` and kernel-glue/qemu.config.
    Small,
    /// That of Debian's arm64 kernels, for the same release of Linux.
    Debian,
}

/// A configuration.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Its name on the command line and in directory names.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// What it starts from.
    pub base: Base,
    /// Files below kernel-glue/ with the options that make it, in order.
    pub fragments: &'static [&'static str],
    /// The compiler.
    pub tools: Tools,
    /// The build is inside a copy of the source tree, without `O=`.
    pub in_tree: bool,
    /// The CPU models that can run it.
    pub cpus: &'static [&'static str],
    /// Of these, the ones that only show that the host comes up protected.
    pub boot_only: &'static [&'static str],
    /// Options of QEMU's machine by CPU model, beside those that every one has.
    pub machine: &'static [(&'static str, &'static str)],
    /// Suites beyond the usual ones, on all CPU models but those above. They may need the test module.
    pub suites: &'static [&'static str],
    /// Cargo features of EL2 that no build of a kernel has by itself.
    pub features: &'static [&'static str],
}

impl Config {
    /// The suites that run on a CPU model.
    pub fn suites_on(&self, cpu: &str) -> Vec<&'static str> {
        if self.boot_only.contains(&cpu) {
            return vec![SUITES[0]];
        }
        SUITES.iter().chain(self.suites).copied().collect()
    }
}

const USUAL: Config = Config {
    name: "",
    about: "",
    base: Base::Small,
    fragments: &[],
    tools: Tools::Gcc,
    in_tree: false,
    cpus: &["max", "neoverse-n2", "cortex-a57"],
    boot_only: &[],
    machine: &[],
    suites: &[],
    features: &[],
};

/// All of them but the usual one, which `scripts/test` builds and boots; the dearest last.
pub const CONFIGS: &[Config] = &[
    Config {
        name: "16k",
        about: "16 KiB pages, with LPA2 where the CPU has it",
        fragments: &["configs/lean.config", "configs/16k.config"],
        // Of the usual three, Cortex-A57 has no 16 KiB granule.
        cpus: &["max", "max,pauth-impdef=on,lpa2=off", "neoverse-n2"],
        // The end of a VM takes minutes there: the host kernel walks the whole of 52 bits of IPA in steps of its largest
        // block (kvm_stage2_destroy), which are 2^27 steps of 32 MiB.
        boot_only: &["max"],
        ..USUAL
    },
    Config {
        name: "64k",
        about: "64 KiB pages, with LPA where the CPU has it",
        fragments: &["configs/lean.config", "configs/64k.config"],
        ..USUAL
    },
    Config {
        name: "llvm",
        about: "clang and lld: kCFI, pointer authentication, BTI and shadow call stacks in the kernel",
        fragments: &["configs/lean.config", "configs/llvm.config"],
        // The newest release with which the kernel allows BTI for itself and that Debian has.
        tools: Tools::Llvm(19),
        ..USUAL
    },
    Config {
        name: "hardened",
        about: "gcc: KASLR, pointer authentication, shadow call stacks, stack protector; memory tagging, with memory for tags on max",
        fragments: &["configs/lean.config", "configs/hardened.config"],
        // The model alone has no memory for tags. Cortex-A57 has no tags, and QEMU then refuses the option.
        machine: &[("max", "mte=on")],
        ..USUAL
    },
    Config {
        name: "plain",
        about: "no debug mode of EL2, no modules, 48-bit addresses; built inside the source tree",
        fragments: &["configs/lean.config", "configs/plain.config"],
        in_tree: true,
        ..USUAL
    },
    Config {
        name: "diagnostics",
        about: "all that looks into EL2: its trace, its panics in protected mode, its page tables",
        fragments: &["configs/diagnostics.config"],
        suites: &["trace", "trace-nvhe", "panic", "panic-nvhe"],
        features: &["provoke"],
        ..USUAL
    },
    Config {
        name: "cfi",
        about: "the newest clang and lld: kCFI and shadow call stacks in the kernel",
        fragments: &["configs/lean.config", "configs/cfi.config"],
        tools: Tools::Llvm(22),
        ..USUAL
    },
    Config {
        name: "debian",
        about: "Debian's arm64 kernel, without its modules and debug information",
        base: Base::Debian,
        fragments: &["configs/debian.config"],
        ..USUAL
    },
];

/// The configuration of a name.
pub fn find(name: &str) -> Option<&'static Config> {
    CONFIGS.iter().find(|c| c.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fragment_is_there() {
        for config in CONFIGS {
            assert!(!config.name.contains(char::is_whitespace));
            assert!(config.boot_only.iter().all(|cpu| config.cpus.contains(cpu)));
            assert!(config.boot_only.len() < config.cpus.len());
            assert!(config.machine.iter().all(|(cpu, _)| config.cpus.contains(cpu)));
            for fragment in config.fragments {
                let path = crate::paths::root().join("kernel-glue").join(fragment);
                assert!(path.is_file(), "{}", path.display());
            }
        }
    }

    #[test]
    fn further_suites_come_after_the_usual() {
        let on = |name: &str, cpu| find(name).unwrap().suites_on(cpu);
        assert_eq!(on("16k", "max"), ["boot"]);
        assert_eq!(on("16k", "neoverse-n2"), ["boot", "tour"]);
        assert_eq!(on("diagnostics", "max")[..3], ["boot", "tour", "trace"]);
    }
}
