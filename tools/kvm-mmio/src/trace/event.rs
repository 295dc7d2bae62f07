// SPDX-License-Identifier: GPL-2.0
//! What tracepoints of KVM say, by the description that the kernel gives of each.

use std::io;

use crate::device::System;

/// Where tracefs may be.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// A tracepoint that is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Exit,
    /// Of each entry, whatever for: they are many.
    Entry,
    Mmio,
    FastMmio,
    UserspaceExit,
}

impl Kind {
    /// What tells accesses.
    pub const COUNTED: [Self; 4] = [Self::Exit, Self::Mmio, Self::FastMmio, Self::UserspaceExit];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Exit => "kvm_exit",
            Self::Entry => "kvm_entry",
            Self::Mmio => "kvm_mmio",
            Self::FastMmio => "kvm_fast_mmio",
            Self::UserspaceExit => "kvm_userspace_exit",
        }
    }

    /// In the order in which `decode()` takes them. The last of an exit is for its filter.
    pub const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Exit => &["vcpu_id", "guest_rip", "exit_reason"],
            Self::Entry => &[],
            Self::Mmio => &["type", "len", "gpa", "val"],
            Self::FastMmio => &["gpa"],
            Self::UserspaceExit => &["reason", "errno"],
        }
    }

    /// What of it is worth to be told. Of exits, those from which instructions are emulated: with
    /// VMX an exception, APIC access and write, EPT violation and misconfiguration; with SVM a page
    /// fault, a nested one, and those of AVIC.
    pub const fn filter(self) -> Option<&'static std::ffi::CStr> {
        match self {
            Self::Exit => Some(
                c"exit_reason == 0 || exit_reason == 44 || exit_reason == 56 || \
                  exit_reason == 48 || exit_reason == 49 || exit_reason == 0x4e || \
                  exit_reason == 0x400 || exit_reason == 0x401 || exit_reason == 0x402",
            ),
            // KVM_EXIT_MMIO
            Self::UserspaceExit => Some(c"reason == 6"),
            Self::Entry | Self::Mmio | Self::FastMmio => None,
        }
    }
}

/// What has happened to a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It has left the guest.
    Exit {
        vcpu: u32,
        rip: u64,
    },
    /// It goes on in the guest.
    Entry,
    /// A device in the kernel has answered, or userspace has.
    Read(Access),
    /// Userspace is to answer.
    ReadUnsatisfied(Access),
    Write(Access),
    /// It has signalled a zero-length ioeventfd.
    FastMmio {
        gpa: u64,
    },
    /// Userspace is asked.
    UserspaceExit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub gpa: u64,
    /// Bytes.
    pub len: u32,
    pub value: u64,
}

/// An event, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub time: u64,
    pub pid: u32,
    pub tid: u32,
    pub event: Event,
}

/// How a tracepoint is laid out on this kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    pub kind: Kind,
    pub id: u64,
    /// Offset and bytes of each of [`Kind::fields`].
    pub fields: Vec<(usize, usize)>,
}

impl Format {
    pub fn read(system: &System, kind: Kind) -> io::Result<Self> {
        let mut error = io::Error::from(io::ErrorKind::NotFound);
        for tracefs in TRACEFS {
            let path = system.path(&format!("{tracefs}/events/kvm/{}/format", kind.name()));
            match std::fs::read_to_string(path) {
                Ok(text) => {
                    return Self::parse(kind, &text).ok_or_else(|| {
                        io::Error::other(format!("{} is not as it should be", kind.name()))
                    });
                }
                Err(denied) if denied.kind() == io::ErrorKind::PermissionDenied => error = denied,
                Err(_) => {}
            }
        }
        Err(error)
    }

    fn parse(kind: Kind, text: &str) -> Option<Self> {
        let id = text.lines().find_map(|line| line.strip_prefix("ID: "))?;
        let field = |name: &&str| {
            text.lines().find_map(|line| {
                let mut parts = line.trim().split(';').map(str::trim);
                let declaration = parts.next()?.strip_prefix("field:")?;
                let number = |part: Option<&str>, key| part?.strip_prefix(key)?.parse().ok();
                let (offset, size) = (
                    number(parts.next(), "offset:"),
                    number(parts.next(), "size:"),
                );
                (declaration.split(' ').next_back()? == *name).then_some((offset?, size?))
            })
        };
        Some(Self {
            kind,
            id: id.trim().parse().ok()?,
            fields: kind.fields().iter().map(field).collect::<Option<_>>()?,
        })
    }

    /// What the bytes of a record say; None if there are too few, or it is nothing to count.
    pub fn decode(&self, raw: &[u8]) -> Option<Event> {
        let value = |index: usize| {
            let (offset, size): (usize, usize) = self.fields[index];
            let bytes = raw.get(offset..offset.checked_add(size)?)?;
            let mut number = [0; 8];
            number.get_mut(..size)?.copy_from_slice(bytes);
            Some(u64::from_le_bytes(number))
        };
        Some(match self.kind {
            Kind::Exit => Event::Exit {
                vcpu: value(0)? as u32,
                rip: value(1)?,
            },
            Kind::Entry => Event::Entry,
            Kind::Mmio => {
                let access = Access {
                    len: value(1)? as u32,
                    gpa: value(2)?,
                    value: value(3)?,
                };
                match value(0)? {
                    0 => Event::ReadUnsatisfied(access),
                    1 => Event::Read(access),
                    2 => Event::Write(access),
                    _ => return None,
                }
            }
            Kind::FastMmio => Event::FastMmio { gpa: value(0)? },
            // KVM_EXIT_MMIO, and no error of KVM_RUN.
            Kind::UserspaceExit if value(0)? == 6 && (value(1)? as i32) >= 0 => {
                Event::UserspaceExit
            }
            Kind::UserspaceExit => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 7.3 and 6.12 have it.
    const MMIO: &str = "name: kvm_mmio\nID: 1501\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;\n\
        \tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
        \tfield:u32 type;\toffset:8;\tsize:4;\tsigned:0;\n\
        \tfield:u32 len;\toffset:12;\tsize:4;\tsigned:0;\n\
        \tfield:u64 gpa;\toffset:16;\tsize:8;\tsigned:0;\n\
        \tfield:u64 val;\toffset:24;\tsize:8;\tsigned:0;\n\n\
        print fmt: \"mmio %s len %u gpa 0x%llx val 0x%llx\", ...\n";

    const EXIT: &str = "name: kvm_userspace_exit\nID: 7\nformat:\n\
        \tfield:__u32 reason;\toffset:8;\tsize:4;\tsigned:0;\n\
        \tfield:int errno;\toffset:12;\tsize:4;\tsigned:1;\n";

    #[test]
    fn a_format_says_where_fields_are() {
        let format = Format::parse(Kind::Mmio, MMIO).unwrap();
        assert_eq!(format.id, 1501);
        assert_eq!(format.fields, [(8, 4), (12, 4), (16, 8), (24, 8)]);
        assert_eq!(Format::parse(Kind::Exit, MMIO), None);
        assert_eq!(Format::parse(Kind::Mmio, &MMIO.replace("val;", "x;")), None);
    }

    #[test]
    fn records_are_decoded() {
        let format = Format::parse(Kind::Mmio, MMIO).unwrap();
        let mut raw = vec![0; 32];
        raw[8] = 2;
        raw[12] = 4;
        raw[16..24].copy_from_slice(&0xfee0_00b0_u64.to_le_bytes());
        raw[24] = 9;
        let access = Access {
            gpa: 0xfee0_00b0,
            len: 4,
            value: 9,
        };
        assert_eq!(format.decode(&raw), Some(Event::Write(access)));
        assert_eq!(format.decode(&raw[..31]), None);
        raw[8] = 3;
        assert_eq!(format.decode(&raw), None);

        let format = Format::parse(Kind::UserspaceExit, EXIT).unwrap();
        let record = |reason: u32, errno: i32| {
            [&[0; 8][..], &reason.to_le_bytes(), &errno.to_le_bytes()].concat()
        };
        assert_eq!(format.decode(&record(6, 0)), Some(Event::UserspaceExit));
        assert_eq!(format.decode(&record(6, -4)), None);
        assert_eq!(format.decode(&record(2, 0)), None);
    }
}
