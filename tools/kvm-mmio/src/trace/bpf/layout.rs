// SPDX-License-Identifier: GPL-2.0
//! What the programs are told of this kernel when they are loaded: where fields of tracepoints are.

use anyhow::{Result, ensure};

use crate::trace::event::{Format, Kind};

/// A variable of bpf/count.bpf.c, and its value.
pub type Variable = (&'static str, u32);

/// The variables of a tracepoint's fields, and their bytes, in the order of [`Kind::fields`].
const fn fields(kind: Kind) -> &'static [(&'static str, usize)] {
    match kind {
        Kind::Exit => &[
            ("exit_vcpu_at", 4),
            ("exit_rip_at", 8),
            ("exit_reason_at", 4),
        ],
        Kind::Entry => &[],
        Kind::Mmio => &[
            ("mmio_type_at", 4),
            ("mmio_len_at", 4),
            ("mmio_gpa_at", 8),
            ("mmio_val_at", 8),
        ],
        Kind::FastMmio => &[("fast_gpa_at", 8)],
        Kind::UserspaceExit => &[("userspace_reason_at", 4), ("userspace_errno_at", 4)],
    }
}

/// The end of what `field32()` and `field64()` there can read.
const END: usize = 80;

/// What a field has before it at least: what all tracepoints begin with.
const START: usize = 8;

pub fn variables(format: &Format) -> Result<Vec<Variable>> {
    let wanted = fields(format.kind).iter().zip(&format.fields);
    wanted
        .map(|(&(variable, bytes), &(at, size))| {
            ensure!(
                size == bytes && at % bytes == 0 && (START..=END - bytes).contains(&at),
                "{} has {variable} = {at}, with {size} bytes",
                format.kind.name()
            );
            Ok((variable, at as u32))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_those_that_the_programs_try() {
        let format = |fields: [(usize, usize); 1]| Format {
            kind: Kind::FastMmio,
            id: 1,
            fields: fields.into(),
        };
        for at in [8, 16, 72] {
            let found = variables(&format([(at, 8)])).unwrap();
            assert_eq!(found, [("fast_gpa_at", at as u32)]);
        }
        for wrong in [(12, 8), (8, 4), (0, 8), (80, 8)] {
            variables(&format([wrong])).unwrap_err();
        }
        for kind in [Kind::Exit, Kind::Mmio, Kind::FastMmio, Kind::UserspaceExit] {
            assert_eq!(fields(kind).len(), kind.fields().len(), "{}", kind.name());
        }
    }
}
