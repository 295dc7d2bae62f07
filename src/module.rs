// SPDX-License-Identifier: GPL-2.0

//! The module as a whole: registration with KVM, debugfs, the statistics file.

use crate::{
    hooks::Ext,
    installed::installed_mask,
    kvm::{is_enabled, tdp_enabled, tdp_mmu_enabled, Registration},
    pure::mask::MmioMask,
    registers::{self, RegisterFile},
    report::{
        device::{self, show_heat, OpenFile},
        registry,
        stats::zapped, //
    }, //
};
use core::fmt;
use kernel::{
    debugfs::{Dir, File},
    miscdevice::{MiscDeviceOptions, MiscDeviceRegistration},
    prelude::*, //
};

/// What there is as long as the module is loaded.
#[pin_data]
pub(crate) struct Extension {
    /// Unregistered first: nothing calls the module after that.
    _registration: Registration<Ext>,
    #[pin]
    _stats: File<()>,
    #[pin]
    _heat: File<()>,
    _dir: Dir,
    #[pin]
    _device: MiscDeviceRegistration<OpenFile>,
    #[pin]
    _registers: MiscDeviceRegistration<RegisterFile>,
}

impl Extension {
    /// Registers with KVM and makes the files in `/dev` and those in
    /// `/sys/kernel/debug/kvm_mmio_ext`.
    ///
    /// # Errors
    ///
    /// Those of [`Registration::new`] and `misc_register()`, or `ENOMEM`.
    pub(crate) fn new(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let dir = Dir::new(c"kvm_mmio_ext");
        try_pin_init!(Self {
            _stats <- dir.read_callback_file(c"stats", (), &show_stats),
            _heat <- dir.read_callback_file(c"heat", (), &show_heat),
            _dir: dir.clone(),
            _device <- MiscDeviceRegistration::register(MiscDeviceOptions {
                name: device::NAME,
            }),
            _registers <- MiscDeviceRegistration::register(MiscDeviceOptions {
                name: registers::NAME,
            }),
            // Last, as nothing may fail after it: VMs that exist are in from here on.
            _registration: Registration::new(module)?,
        })
        .pin_chain(|_| {
            log_state();
            Ok(())
        })
    }
}

/// Tells what the module is going to do.
fn log_state() {
    let mask = installed_mask();

    pr_info!(
        "switched {}; hooked: EPT misconfigurations, nested and shadow page faults, MMIO SPTEs \
         (encode, check, sync, zap, generation wrap), info cache\n",
        if is_enabled() { "on" } else { "off" },
    );
    // KVM sets a mask with each vendor module, and keeps it.
    if mask == MmioMask::NONE {
        pr_info!("no vendor module was loaded yet; MMIO SPTE masks follow when it is\n");
    } else {
        pr_info!(
            "found MMIO SPTE {}; MMU: {}\n",
            format_args!("{mask}"),
            mmu_mode(),
        );
    }
}

/// A name for what the MMU does, once a vendor module is loaded.
fn mmu_mode() -> &'static str {
    match (tdp_enabled(), tdp_mmu_enabled()) {
        (true, true) => "TDP (EPT or NPT), TDP MMU",
        (true, false) => "TDP (EPT or NPT), legacy MMU",
        (false, _) => "shadow paging",
    }
}

/// Shows the sum of all vCPUs' counters, a line each: its name and its value.
fn show_stats(_: &(), f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{}", registry::total())?;
    writeln!(f, "spte_zapped {}", zapped())
}
