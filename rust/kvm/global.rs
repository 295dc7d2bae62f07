// SPDX-License-Identifier: GPL-2.0

//! A mutex in a static.

/// Defines a mutex as a static. The crate's root initializes it before anything else runs.
macro_rules! global_mutex {
    ($(#[$meta:meta])* $vis:vis static $name:ident: $type:ty = $value:expr;) => {
        kernel::sync::global_lock! {
            // SAFETY: `Module::init()` initializes it once, before any callback is registered.
            $(#[$meta])* $vis unsafe(uninit) static $name: Mutex<$type> = $value;
        }
    };
}
pub(crate) use global_mutex;
