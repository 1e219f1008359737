// SPDX-License-Identifier: GPL-2.0-only
//! How a hypercall's arguments and result lie in registers.

use pkvm_types::{Error, Handle, HypVa, Result, Untrusted};

/// The general purpose registers of the host, where the exception entry has stored them.
pub trait HostRegs {
    /// Reads `x<n>`, for `n` up to 17.
    fn get(&self, n: usize) -> u64;
    /// Writes `x<n>`, for `n` up to 17.
    fn set(&mut self, n: usize, value: u64);
}

impl<const N: usize> HostRegs for [u64; N] {
    fn get(&self, n: usize) -> u64 {
        <[u64]>::get(self, n).copied().unwrap_or(0)
    }
    fn set(&mut self, n: usize, value: u64) {
        if let Some(slot) = self.get_mut(n) {
            *slot = value;
        }
    }
}

/// What a hypercall makes of a register. Which bits count is part of the ABI: the rest are dropped, not refused.
pub trait Arg {
    /// The type's name in the documentation.
    const KIND: &'static str;
    /// The argument that `word` holds.
    fn from_word(word: u64) -> Self;
}

macro_rules! scalar {
    ($($ty:ty),*) => {$(
        impl Arg for Untrusted<$ty> {
            const KIND: &'static str = stringify!($ty);
            fn from_word(word: u64) -> Self {
                Self::new(word as $ty)
            }
        }
    )*};
}
scalar!(u64, u32, u16);

impl Arg for Untrusted<i32> {
    const KIND: &'static str = "i32";
    fn from_word(word: u64) -> Self {
        Self::new((word as u32).cast_signed())
    }
}

/// The C `bool` of a register: off for zero, on for every other value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Switch {
    /// The register is zero.
    Off,
    /// The register is not zero.
    On,
}

impl Arg for Switch {
    const KIND: &'static str = "bool";
    fn from_word(word: u64) -> Self {
        if word == 0 { Self::Off } else { Self::On }
    }
}

/// Why a guest stopped running: the kernel's `ARM_EXCEPTION_*` code, with bit 31 set if an SError is pending too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExitCode(pub u32);

/// A result that is worth a register.
pub trait Value {
    /// What x1 then holds, for the documentation.
    const KIND: &'static str;
    /// The register's value.
    fn word(self) -> u64;
}

impl Value for () {
    const KIND: &'static str = "0 or errno";
    fn word(self) -> u64 {
        0
    }
}

impl Value for bool {
    const KIND: &'static str = "0, 1 or errno";
    fn word(self) -> u64 {
        u64::from(self)
    }
}

impl Value for Handle {
    const KIND: &'static str = "handle or errno";
    fn word(self) -> u64 {
        u64::from(self.raw())
    }
}

impl Value for HypVa {
    const KIND: &'static str = "EL2 address or errno";
    fn word(self) -> u64 {
        self.raw()
    }
}

impl Value for ExitCode {
    const KIND: &'static str = "exit code or errno";
    fn word(self) -> u64 {
        // The kernel's function returns an int, which its caller sees sign-extended.
        i64::from(self.0.cast_signed()).cast_unsigned()
    }
}

/// What a hypercall leaves in x1.
pub trait Reply {
    /// What x1 holds, for the documentation.
    const KIND: &'static str;
    /// The new x1, or `None` to leave the caller's in place.
    fn x1(self) -> Option<u64>;
}

impl Reply for () {
    const KIND: &'static str = "unchanged";
    fn x1(self) -> Option<u64> {
        None
    }
}

impl Reply for bool {
    const KIND: &'static str = "0 or 1";
    fn x1(self) -> Option<u64> {
        Some(u64::from(self))
    }
}

impl<T: Value> Reply for Result<T> {
    const KIND: &'static str = T::KIND;
    fn x1(self) -> Option<u64> {
        Some(match self {
            Ok(value) => value.word(),
            Err(error) => Error::errno(error).cast_unsigned(),
        })
    }
}
