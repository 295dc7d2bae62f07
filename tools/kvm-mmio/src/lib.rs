// SPDX-License-Identifier: GPL-2.0
//! Where the MMIO of virtual machines goes: what kvm_mmio_ext has counted, shown.

#![deny(unsafe_code)]

pub mod advice;
pub mod child;
pub mod cli;
pub mod command;
pub mod counts;
pub mod csv;
pub mod device;
pub mod failure;
pub mod group;
pub mod histogram;
pub mod http;
pub mod json_lines;
pub mod metrics;
pub mod missing;
pub mod output;
pub mod plot;
pub mod qmp;
pub mod reading;
pub mod recording;
pub mod region;
pub mod row;
pub mod share;
pub mod signal;
pub mod site;
pub mod source;
#[path = "../../../src/pure/stats_format.rs"]
pub mod stats_format;
pub mod summary;
pub mod symbols;
pub mod trace;
pub mod values;
pub mod view;
pub mod words;
