// SPDX-License-Identifier: GPL-2.0
//! `pin_init`, as far as it is used.

/// What makes a value in place: the stacks of loom's threads are small.
pub(crate) trait Init<T>: Sized {
    /// # Safety
    ///
    /// `place` must be good for writing.
    unsafe fn write(self, place: *mut T);

    fn make(self) -> Box<T> {
        let mut place = Box::new_uninit();
        // SAFETY: There is room for it, and it is written.
        unsafe {
            self.write(place.as_mut_ptr());
            place.assume_init()
        }
    }
}

impl<T, F: FnOnce(*mut T)> Init<T> for F {
    unsafe fn write(self, place: *mut T) {
        self(place)
    }
}

/// `init!`.
#[macro_export]
macro_rules! init {
    ($Type:ident { $($fields:tt)* }) => {
        |place| {
            $crate::init_type!(place, $Type, [], $($fields)*);
            $crate::init_fields!(place, $($fields)*);
        }
    };
}

/// `try_init!`, of what cannot fail.
#[macro_export]
macro_rules! try_init {
    ($Type:ident { $($fields:tt)* }? $Error:ty) => {
        $crate::init!($Type { $($fields)* })
    };
}

/// Tells the compiler what is made, which has parameters that are not named, and sees to it that no
/// field is forgotten.
#[macro_export]
macro_rules! init_type {
    ($place:ident, $Type:ident, [$($names:ident)*], $field:ident <- $init:expr, $($others:tt)*) => {
        $crate::init_type!($place, $Type, [$($names)* $field], $($others)*);
    };
    ($place:ident, $Type:ident, [$($names:ident)*], $field:ident: $value:expr, $($others:tt)*) => {
        $crate::init_type!($place, $Type, [$($names)* $field], $($others)*);
    };
    ($place:ident, $Type:ident, [$($names:ident)*], $field:ident, $($others:tt)*) => {
        $crate::init_type!($place, $Type, [$($names)* $field], $($others)*);
    };
    ($place:ident, $Type:ident, [$($names:ident)*],) => {
        #[allow(unreachable_code, clippy::diverging_sub_expression)]
        if false {
            // SAFETY: This is never executed.
            unsafe { std::ptr::write($place, $Type { $($names: unreachable!()),* }) };
        }
    };
}

/// Of the fields of `init!`, the first, then the others.
#[macro_export]
macro_rules! init_fields {
    ($place:ident, $field:ident <- $init:expr, $($others:tt)*) => {
        let init = $init;
        // SAFETY: `place`, which `Init::write()` is given, is good for writing, and so are its
        // fields.
        unsafe { init.write(&raw mut (*$place).$field) };
        $crate::init_fields!($place, $($others)*);
    };
    ($place:ident, $field:ident: $value:expr, $($others:tt)*) => {
        let value = $value;
        // SAFETY: `place`, which `Init::write()` is given, is good for writing, and so are its
        // fields.
        unsafe { (&raw mut (*$place).$field).write(value) };
        $crate::init_fields!($place, $($others)*);
    };
    ($place:ident, $field:ident, $($others:tt)*) => {
        $crate::init_fields!($place, $field: $field, $($others)*);
    };
    ($place:ident,) => {};
}

/// `pin_init::init_array_from_fn()`.
pub(crate) fn init_array_from_fn<T, const N: usize>(
    mut make: impl FnMut(usize) -> T,
) -> impl Init<[T; N]> {
    move |place: *mut [T; N]| {
        for i in 0..N {
            // SAFETY: `place`, which `Init::write()` is given, is good for writing `N` of them.
            unsafe { place.cast::<T>().add(i).write(make(i)) };
        }
    }
}

/// `pin_init::Zeroable`.
///
/// # Safety
///
/// As there.
pub(crate) unsafe trait Zeroable {}

/// `pin_init::init_zeroed()`.
pub(crate) fn init_zeroed<T: Zeroable>() -> impl Init<T> {
    // SAFETY: There is room for one, which may be all zero.
    |place: *mut T| unsafe { place.write_bytes(0, 1) }
}
