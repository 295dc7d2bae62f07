// SPDX-License-Identifier: GPL-2.0
//! What Prometheus is told, at once or when it asks.

use crate::cli::Export;
use crate::failure::warn;
use crate::metrics::{Format, Limits, render};
use crate::output;
use crate::reading::Reading;
use crate::region::Names;

/// Says so, if it is not known whose names there are.
pub fn warn_of_names(reading: &Reading, names: &Names) {
    let processes = reading.vms.values().map(|vm| vm.tgid).collect();
    if let Some(unused) = output::names_unused(&names.maps(&processes).unused) {
        warn(unused);
    }
}

pub fn metrics(reading: Option<&Reading>, names: &Names, args: &Export, format: Format) -> String {
    let limits = Limits {
        vms: args.vms,
        pages: args.top,
    };
    render(reading, names, limits, format)
}
