// SPDX-License-Identifier: GPL-2.0-only
//! How VMs are named, and how a word from outside is marked as such.

use crate::{Error, Result};

/// How many VMs there can be at once; the kernel's `KVM_MAX_PVMS`.
pub const MAX_VMS: usize = 255;

/// The VM handle that the host passes: the index in the VM table plus an offset, so that zero and other small numbers
/// are never a VM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Handle(u16);

impl Handle {
    /// The handle of index zero.
    pub const OFFSET: u16 = 0x1000;

    /// A handle as the host passes it, in the low 16 bits of a register. [`Error::Invalid`] where no VM can have it.
    pub const fn checked(raw: u16) -> Result<Self> {
        if raw >= Self::OFFSET && ((raw - Self::OFFSET) as usize) < MAX_VMS {
            Ok(Self(raw))
        } else {
            Err(Error::Invalid)
        }
    }
    /// The handle of the VM at `index` of the table. [`Error::Invalid`] past its end.
    pub const fn from_index(index: usize) -> Result<Self> {
        if index < MAX_VMS {
            Ok(Self(Self::OFFSET + index as u16))
        } else {
            Err(Error::Invalid)
        }
    }
    /// The index in the VM table, below [`MAX_VMS`].
    pub const fn index(self) -> usize {
        (self.0 - Self::OFFSET) as usize
    }
    /// The number the host uses.
    pub const fn raw(self) -> u16 {
        self.0
    }
    /// The VMID of the VM: the host has VMID 0, so this is never 0.
    pub const fn vmid(self) -> Vmid {
        Vmid(self.0 - Self::OFFSET + 1)
    }
}

/// A virtual machine identifier, as VTTBR_EL2 holds it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct Vmid(u16);

impl Vmid {
    /// The host's.
    pub const HOST: Self = Self(0);
    /// The identifier as a number.
    pub const fn raw(self) -> u16 {
        self.0
    }
}

/// A word that somebody outside EL2 chose. It is read once, into one of these, and leaves through a check.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Untrusted<T>(T);

impl<T: Copy> Untrusted<T> {
    /// Marks `value` as chosen by somebody outside EL2.
    pub const fn new(value: T) -> Self {
        Self(value)
    }
    /// Takes the word out. The caller names in a comment what checks it, or why any value will do.
    pub const fn unchecked(self) -> T {
        self.0
    }
    /// Takes the word out through `check`.
    pub fn check<U>(self, check: impl FnOnce(T) -> Result<U>) -> Result<U> {
        check(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_map_to_indices_and_back() {
        assert_eq!(Handle::checked(0xfff), Err(Error::Invalid));
        assert_eq!(Handle::checked(0x1000 + 255), Err(Error::Invalid));
        assert_eq!(Handle::checked(0x1000 + 254).unwrap().index(), 254);
        assert_eq!(Handle::from_index(254).unwrap().vmid().raw(), 255);
        assert_eq!(Handle::from_index(255), Err(Error::Invalid));
    }
}
