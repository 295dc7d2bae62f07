// SPDX-License-Identifier: GPL-2.0

//! The module as a whole: registration with KVM, debugfs.

use crate::{
    kvm::{tdp_enabled, tdp_mmu_enabled, total_stats, Registration},
    stats::zapped, //
};
use core::fmt;
use kernel::{
    debugfs::{Dir, File},
    prelude::*, //
};

/// What there is as long as the module is loaded.
#[pin_data]
pub(crate) struct Extension {
    /// Unregistered first: nothing calls the module after that.
    _registration: Registration,
    #[pin]
    _stats: File<()>,
    _dir: Dir,
}

impl Extension {
    /// Registers with KVM and makes `/sys/kernel/debug/kvm_mmio_ext/stats`.
    ///
    /// # Errors
    ///
    /// Those of [`Registration::new`], or `ENOMEM`.
    pub(crate) fn new(module: &'static ThisModule) -> Result<Pin<KBox<Self>>> {
        let registration = Registration::new(module)?;
        let dir = Dir::new(c"kvm_mmio_ext");
        let extension = KBox::try_pin_init(
            try_pin_init!(Self {
                _stats <- dir.read_callback_file(c"stats", (), &show_stats),
                _registration: registration,
                _dir: dir.clone(),
            }),
            GFP_KERNEL,
        )?;

        pr_info!(
            "{}, MMU: {}; hooked: EPT misconfigurations, nested and shadow page faults, MMIO SPTEs \
             (encode, check, sync, zap, generation wrap), info cache\n",
            if Registration::enabled() { "on" } else { "off" },
            mmu_mode(),
        );
        Ok(extension)
    }
}

/// A name for what the MMU does. Both are final only once a vendor module is loaded.
fn mmu_mode() -> &'static str {
    match (tdp_enabled(), tdp_mmu_enabled()) {
        (true, true) => "TDP (EPT or NPT), TDP MMU",
        (true, false) => "TDP (EPT or NPT), legacy MMU",
        (false, _) => "shadow paging, or no vendor module yet",
    }
}

/// Shows the sum of all vCPUs' counters, a line each: its name and its value.
fn show_stats(_: &(), f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{}", total_stats())?;
    writeln!(f, "spte_zapped {}", zapped())
}
