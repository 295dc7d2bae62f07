// SPDX-License-Identifier: GPL-2.0

//! A value that borrows from what it is kept with.

use core::ops::Deref;
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// What borrows from an `Owner`: `On<'a>` for each `'a`.
pub(crate) trait Borrows {
    /// What is borrowed from.
    type Owner: 'static;

    /// What borrows.
    type On<'a>;

    /// That a longer loan is good for a shorter one, which the compiler knows of each type.
    fn shorten<'short, 'long: 'short>(on: &'short Self::On<'long>) -> &'short Self::On<'short>;
}

/// A `B::On` together with its owner, once it has one.
///
/// # Invariants
///
/// What `on` refers to is static or a part of `owner`, which does not move, and is kept until `on`
/// is dropped.
pub(crate) struct Loan<B: Borrows> {
    // Dropped first.
    on: B::On<'static>,
    owner: Option<Arc<B::Owner>>,
}

impl<B: Borrows> Loan<B> {
    /// Without an owner: what `on` refers to is static.
    pub(crate) fn init(on: impl Init<B::On<'static>>) -> impl Init<Self> {
        // INVARIANT: As the type says.
        init!(Self {
            on <- on,
            owner: None,
        })
    }

    /// Whether there is an owner.
    pub(crate) fn has_owner(&self) -> bool {
        self.owner.is_some()
    }

    /// Takes an owner, if there is none yet, and lets the value borrow from it.
    pub(crate) fn set_owner(
        &mut self,
        owner: Arc<B::Owner>,
        borrow: impl for<'a> FnOnce(&mut B::On<'a>, &'a B::Owner),
    ) {
        if self.owner.is_some() {
            return;
        }
        let lent: *const B::Owner = owner.deref();
        // INVARIANT: It is kept from here on, and never replaced.
        self.owner = Some(owner);
        // SAFETY: It lives until `on` is dropped. `borrow` knows of no lifetime, and what borrows
        // leaves this value for the time of a loan of it only, see `get()` and `with_mut()`.
        borrow(&mut self.on, unsafe { &*lent });
    }

    /// What borrows.
    #[inline(always)]
    pub(crate) fn get(&self) -> &B::On<'_> {
        B::shorten(&self.on)
    }

    /// Does something with it. Nothing that is borrowed leaves `f`.
    #[inline(always)]
    pub(crate) fn with_mut<R>(&mut self, f: impl for<'a> FnOnce(&mut B::On<'a>) -> R) -> R {
        f(&mut self.on)
    }
}
