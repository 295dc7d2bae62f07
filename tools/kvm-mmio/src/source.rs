// SPDX-License-Identifier: GPL-2.0
//! Where counts are from.

use anyhow::Result;
use clap::ValueEnum;

use crate::device::{Device, System};
use crate::failure::Failure;
use crate::reading::Reading;
use crate::trace::{Trace, Way};

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// The module if it is loaded, else the tracepoints
    #[default]
    Auto,
    /// The module kvm_mmio_ext
    Module,
    /// KVM's tracepoints, which are in any kernel: by BPF if that can be used, else by perf
    Tracepoints,
    /// These, counted in the kernel by BPF
    Bpf,
    /// These, counted by this program from rings of perf
    Perf,
}

/// What is wanted besides counts by page.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Counts by instruction.
    pub sites: bool,
    /// How long accesses take, which only tracepoints tell.
    pub times: bool,
}

/// What counts by page, as long as it is open.
pub enum Source {
    Module(Device),
    Tracepoints(Trace),
}

impl Source {
    pub fn open(system: &System, choice: Choice, wanted: Wanted) -> Result<Self> {
        match choice {
            Choice::Module if wanted.times => Err(Failure::Usage(NOT_OF_MODULE.to_owned()).into()),
            Choice::Module => Ok(Self::Module(system.open_counting(wanted.sites)?)),
            Choice::Tracepoints => Self::trace(system, Way::Best, wanted),
            Choice::Bpf => Self::trace(system, Way::Bpf, wanted),
            Choice::Perf => Self::trace(system, Way::Perf, wanted),
            Choice::Auto if system.has_module("kvm_mmio_ext") => {
                let choice = if wanted.times {
                    Choice::Tracepoints
                } else {
                    Choice::Module
                };
                Self::open(system, choice, wanted)
            }
            Choice::Auto => Self::open(system, Choice::Tracepoints, wanted).map_err(with_module),
        }
    }

    fn trace(system: &System, way: Way, wanted: Wanted) -> Result<Self> {
        Ok(Self::Tracepoints(Trace::start(system, way, wanted.times)?))
    }

    /// All counts now.
    pub fn read(&self) -> Result<Reading> {
        match self {
            Self::Module(device) => device.read(),
            Self::Tracepoints(trace) => trace.read(),
        }
    }
}

/// Why it is no source of times.
pub const NOT_OF_MODULE: &str = "the module does not tell single times: leave out --source module";

/// That the module is not there either.
fn with_module(error: anyhow::Error) -> anyhow::Error {
    let text = |error: &str| {
        format!(
            "the module kvm_mmio_ext is not loaded, and {error}; `kvm-mmio status` says what is \
             missing"
        )
    };
    match error.downcast::<Failure>() {
        Ok(Failure::Denied(error)) => Failure::Denied(text(&error)).into(),
        Ok(Failure::Unavailable(error)) => Failure::Unavailable(text(&error)).into(),
        Ok(failure) => failure.into(),
        Err(error) => error,
    }
}
