// SPDX-License-Identifier: GPL-2.0-only
//! A variable that the boot CPU writes before any other CPU runs at EL2, and that is read-only ever after.
#![expect(
    unsafe_code,
    reason = "shared access to a variable that is initialised in place"
)]

use core::cell::UnsafeCell;

/// See the module. It holds a value from the start, so that reading one too early is a wrong value and not undefined.
#[repr(transparent)]
pub struct BootCell<T>(UnsafeCell<T>);

// SAFETY: `get` hands out shared references only; `init` is called on the boot CPU alone, before other CPUs enter EL2
// with this object, as its contract demands.
unsafe impl<T: Sync> Sync for BootCell<T> {}

impl<T> BootCell<T> {
    /// A cell with a value that `init` will change.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }
    /// The value.
    pub const fn get(&self) -> &T {
        // SAFETY: the only writer is `init`, whose contract excludes any reader while its reference lives.
        unsafe { &*self.0.get() }
    }
    /// The value, to initialise it in place: some are too large for the stack.
    ///
    /// # Safety
    /// The caller is the boot CPU within `__pkvm_init`, no other CPU runs at EL2 beyond the vectors, and no reference
    /// from `get` or from an earlier `init` is used while this one is.
    #[expect(clippy::mut_from_ref, reason = "the contract makes the reference exclusive")]
    pub const unsafe fn init(&self) -> &mut T {
        // SAFETY: the contract.
        unsafe { &mut *self.0.get() }
    }
}
