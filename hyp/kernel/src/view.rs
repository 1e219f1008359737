// SPDX-License-Identifier: GPL-2.0-only
//! The macro that declares a view: a pointer to a kernel structure, and one getter and setter for each field.

/// A type that one aligned machine access reads or writes, for which every bit pattern is a value.
pub trait Field: Copy + sealed::Sealed {}

mod sealed {
    pub trait Sealed {}
}

macro_rules! fields {
    ($($t:ty),*) => { $( impl sealed::Sealed for $t {} impl Field for $t {} )* };
}
fields!(u8, u16, u32, u64);

/// Declares a view type: `view! { /// doc Name, SIZE; field: u64 @ OFFSET, set_field; ... }`. Each field's width is
/// asserted against the probe's at build time.
macro_rules! view {
    ($(#[$doc:meta])* $name:ident, $size:expr; $( $(#[$fdoc:meta])* $get:ident / $set:ident : $t:ty => $offset:ident; )*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(transparent)]
        pub struct $name(core::ptr::NonNull<u8>);

        impl $name {
            /// Bytes of the structure.
            pub const SIZE: usize = $size as usize;

            /// Makes a view of the structure at `ptr`.
            ///
            /// # Safety
            /// `ptr` is aligned to 8 bytes, and `Self::SIZE` bytes from it are mapped, readable and writable at EL2
            /// for as long as the view or a copy of it is used. Others may change them meanwhile.
            pub const unsafe fn from_raw(ptr: core::ptr::NonNull<u8>) -> Self {
                Self(ptr)
            }
            /// Where the structure is.
            pub const fn as_ptr(self) -> *mut u8 {
                self.0.as_ptr()
            }
            /// The address of the structure, as a number.
            pub fn addr(self) -> u64 {
                self.0.as_ptr() as u64
            }
            /// Reads the field of type `T` at `offset`; the offset must leave room for it in the structure.
            #[inline(always)]
            pub fn read<T: crate::Field>(self, offset: u64) -> T {
                debug_assert!(offset as usize + size_of::<T>() <= Self::SIZE);
                // SAFETY: the view promises SIZE mapped bytes, the offset is a probed one within them, and any bit
                // pattern is a `T`.
                unsafe { self.0.as_ptr().add(offset as usize).cast::<T>().read_volatile() }
            }
            /// Writes the field of type `T` at `offset`; the offset must leave room for it in the structure.
            #[inline(always)]
            pub fn write<T: crate::Field>(self, offset: u64, value: T) {
                debug_assert!(offset as usize + size_of::<T>() <= Self::SIZE);
                // SAFETY: as for `read`, and the view promises that the bytes are writable.
                unsafe { self.0.as_ptr().add(offset as usize).cast::<T>().write_volatile(value) }
            }
            $(
                $(#[$fdoc])*
                #[inline(always)]
                pub fn $get(self) -> $t {
                    self.read(crate::layout::$offset)
                }
                #[doc = concat!("Sets what [`Self::", stringify!($get), "`] reads.")]
                #[inline(always)]
                pub fn $set(self, value: $t) {
                    self.write(crate::layout::$offset, value);
                }
            )*
        }
        $( const _: () = assert!(crate::layout::$offset as usize + size_of::<$t>() <= $size as usize); )*
    };
}
pub(crate) use view;
