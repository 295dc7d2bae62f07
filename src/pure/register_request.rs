// SPDX-License-Identifier: GPL-2.0

//! What userspace asks for about registers that answer by themselves.
//!
//! `rust/uapi/kvm_mmio_register.h` is the C form of it.

use crate::{
    addr::Gpa,
    pure::posted::{mask, OnRead, OnWrite, Register, Signal}, //
};
use core::mem::{offset_of, size_of};

/// What userspace asks for, `struct kvm_mmio_register`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Where the register is in the guest.
    pub gpa: u64,
    /// Where its word is in the process.
    pub user_addr: u64,
    /// What [`Request::SIGNAL_VALUE`] compares with, 0 otherwise.
    pub datamatch: u64,
    /// Bytes: 1, 2, 4 or 8.
    pub len: u32,
    /// The VM's file descriptor.
    pub vm_fd: i32,
    /// That of the eventfd, -1 without a signal.
    pub event_fd: i32,
    /// `KVM_MMIO_REGISTER_WRITE_*`
    pub on_write: u8,
    /// `KVM_MMIO_REGISTER_READ_*`
    pub on_read: u8,
    /// `KVM_MMIO_REGISTER_SIGNAL_*`
    pub signal: u8,
    /// 0
    pub reserved: [u8; 25],
}

/// What userspace names a register by to remove it, `struct kvm_mmio_register_at`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Where the register is in the guest.
    pub gpa: u64,
    /// The VM's file descriptor.
    pub vm_fd: i32,
    /// 0
    pub reserved: u32,
}

/// A request has a field that is out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

impl Request {
    /// Bytes of it.
    pub const SIZE: usize = size_of::<Self>();

    /// Of `on_write`: writes exit to userspace.
    pub const WRITE_EXIT: u8 = 0;
    /// See [`OnWrite::Store`].
    pub const WRITE_STORE: u8 = 1;
    /// See [`OnWrite::Clear`].
    pub const WRITE_CLEAR: u8 = 2;
    /// See [`OnWrite::Set`].
    pub const WRITE_SET: u8 = 3;

    /// Of `on_read`: reads exit to userspace.
    pub const READ_EXIT: u8 = 0;
    /// See [`OnRead::Return`].
    pub const READ_RETURN: u8 = 1;
    /// See [`OnRead::Take`].
    pub const READ_CLEAR: u8 = 2;

    /// Of `signal`, see [`Signal::Never`].
    pub const SIGNAL_NEVER: u8 = 0;
    /// See [`Signal::Always`].
    pub const SIGNAL_ALWAYS: u8 = 1;
    /// See [`Signal::Value`].
    pub const SIGNAL_VALUE: u8 = 2;
    /// See [`Signal::Change`].
    pub const SIGNAL_CHANGE: u8 = 3;

    /// The request as it is in memory.
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        Self {
            gpa: u64::from_le_bytes(take(bytes, offset_of!(Self, gpa))),
            user_addr: u64::from_le_bytes(take(bytes, offset_of!(Self, user_addr))),
            datamatch: u64::from_le_bytes(take(bytes, offset_of!(Self, datamatch))),
            len: u32::from_le_bytes(take(bytes, offset_of!(Self, len))),
            vm_fd: i32::from_le_bytes(take(bytes, offset_of!(Self, vm_fd))),
            event_fd: i32::from_le_bytes(take(bytes, offset_of!(Self, event_fd))),
            on_write: bytes[offset_of!(Self, on_write)],
            on_read: bytes[offset_of!(Self, on_read)],
            signal: bytes[offset_of!(Self, signal)],
            reserved: take(bytes, offset_of!(Self, reserved)),
        }
    }

    /// What it asks for. Neither file descriptors nor memory are looked at.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if a field has no meaning, or none with the others.
    ///
    /// # Examples
    ///
    /// ```
    /// use kvm_mmio_ext::pure::register_request::{Invalid, Request};
    ///
    /// let status = Request {
    ///     gpa: 0xd000_0060,
    ///     user_addr: 0x7f00_0000_0000,
    ///     len: 4,
    ///     event_fd: -1,
    ///     on_read: Request::READ_RETURN,
    ///     ..Request::default()
    /// };
    /// assert_eq!(status.parse()?.size, 4);
    /// assert_eq!(Request { gpa: 0xd000_0061, ..status }.parse(), Err(Invalid));
    /// # Ok::<(), Invalid>(())
    /// ```
    pub fn parse(&self) -> Result<Register, Invalid> {
        if self.reserved.iter().any(|byte| *byte != 0) || !matches!(self.len, 1 | 2 | 4 | 8) {
            return Err(Invalid);
        }
        let size = self.len as u8;
        let is_aligned = |address: u64| address % u64::from(size) == 0;
        // As for ioeventfds: the end is an address, too.
        let has_end = self.gpa.checked_add(size.into()).is_some();
        if !is_aligned(self.gpa) || !is_aligned(self.user_addr) || !has_end {
            return Err(Invalid);
        }
        let register = Register {
            gpa: Gpa(self.gpa),
            size,
            on_write: self.on_write()?,
            on_read: self.on_read()?,
            signal: self.signal(size)?,
        };
        let does_nothing = register.on_write.is_none() && register.on_read.is_none();
        let signals = register.signal != Signal::Never;
        if does_nothing || signals && register.on_write.is_none() || signals == (self.event_fd < 0)
        {
            return Err(Invalid);
        }
        Ok(register)
    }

    fn on_write(&self) -> Result<Option<OnWrite>, Invalid> {
        Ok(match self.on_write {
            Self::WRITE_EXIT => None,
            Self::WRITE_STORE => Some(OnWrite::Store),
            Self::WRITE_CLEAR => Some(OnWrite::Clear),
            Self::WRITE_SET => Some(OnWrite::Set),
            _ => return Err(Invalid),
        })
    }

    fn on_read(&self) -> Result<Option<OnRead>, Invalid> {
        Ok(match self.on_read {
            Self::READ_EXIT => None,
            Self::READ_RETURN => Some(OnRead::Return),
            Self::READ_CLEAR => Some(OnRead::Take),
            _ => return Err(Invalid),
        })
    }

    fn signal(&self, size: u8) -> Result<Signal, Invalid> {
        if self.signal == Self::SIGNAL_VALUE {
            // No write of the register's size has a value with more bits.
            return match self.datamatch & !mask(size) {
                0 => Ok(Signal::Value(self.datamatch)),
                _ => Err(Invalid),
            };
        }
        match (self.signal, self.datamatch) {
            (Self::SIGNAL_NEVER, 0) => Ok(Signal::Never),
            (Self::SIGNAL_ALWAYS, 0) => Ok(Signal::Always),
            (Self::SIGNAL_CHANGE, 0) => Ok(Signal::Change),
            _ => Err(Invalid),
        }
    }
}

impl Place {
    /// Bytes of it.
    pub const SIZE: usize = size_of::<Self>();

    /// The place as it is in memory.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if what is reserved is not 0.
    pub fn parse(bytes: &[u8; Self::SIZE]) -> Result<Self, Invalid> {
        let place = Self {
            gpa: u64::from_le_bytes(take(bytes, offset_of!(Self, gpa))),
            vm_fd: i32::from_le_bytes(take(bytes, offset_of!(Self, vm_fd))),
            reserved: u32::from_le_bytes(take(bytes, offset_of!(Self, reserved))),
        };
        match place.reserved {
            0 => Ok(place),
            _ => Err(Invalid),
        }
    }
}

/// `N` bytes at an offset.
fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut taken = [0; N];
    taken.copy_from_slice(&bytes[at..at + N]);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            gpa: 0xd000_0010,
            user_addr: 0x7000_0000_1230,
            len: 4,
            event_fd: 3,
            on_write: Request::WRITE_STORE,
            signal: Request::SIGNAL_ALWAYS,
            ..Default::default()
        }
    }

    #[test]
    fn every_combination() {
        let quiet = Request {
            signal: Request::SIGNAL_NEVER,
            event_fd: -1,
            ..request()
        };
        for on_write in 0..=255 {
            for on_read in 0..=255 {
                let asked = Request {
                    on_write,
                    on_read,
                    ..quiet
                };
                let is_valid = on_write <= 3 && on_read <= 2 && (on_write, on_read) != (0, 0);
                assert_eq!(asked.parse().is_ok(), is_valid, "{asked:?}");
            }
            for signal in 0..=255 {
                for event_fd in [i32::MIN, -1, 0, i32::MAX] {
                    let asked = Request {
                        on_write,
                        signal,
                        event_fd,
                        on_read: Request::READ_RETURN,
                        ..quiet
                    };
                    let signals = signal != 0;
                    let is_valid = on_write <= 3
                        && signal <= 3
                        && signals == (event_fd >= 0)
                        && !(signals && on_write == 0);
                    assert_eq!(asked.parse().is_ok(), is_valid, "{asked:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_asked_for() {
        let asked = Request {
            on_write: Request::WRITE_CLEAR,
            on_read: Request::READ_CLEAR,
            signal: Request::SIGNAL_VALUE,
            datamatch: 0xffff_ffff,
            ..request()
        };
        let register = Register {
            gpa: Gpa(0xd000_0010),
            size: 4,
            on_write: Some(OnWrite::Clear),
            on_read: Some(OnRead::Take),
            signal: Signal::Value(0xffff_ffff),
        };
        assert_eq!(asked.parse(), Ok(register));
        let more = Request {
            datamatch: 0x1_0000_0000,
            ..asked
        };
        assert_eq!(more.parse(), Err(Invalid));
        let for_nothing = Request {
            datamatch: 1,
            ..request()
        };
        assert_eq!(for_nothing.parse(), Err(Invalid));
    }

    #[test]
    fn places() {
        for len in 0..=64 {
            for offset in 0..=16 {
                let is_valid = matches!(len, 1 | 2 | 4 | 8) && offset % u64::from(len.max(1)) == 0;
                for (gpa, user_addr) in [(offset, 0), (0, offset)] {
                    let asked = Request {
                        gpa,
                        user_addr,
                        len,
                        ..request()
                    };
                    assert_eq!(asked.parse().is_ok(), is_valid, "{asked:?}");
                }
            }
        }
        let at_the_end = |gpa| Request { gpa, ..request() }.parse().is_ok();
        assert!(at_the_end(u64::MAX - 7));
        assert!(!at_the_end(u64::MAX - 3));
    }

    #[test]
    fn what_is_reserved() {
        for i in 0..request().reserved.len() {
            let mut asked = request();
            asked.reserved[i] = 1;
            assert_eq!(asked.parse(), Err(Invalid), "{i}");
        }
        let mut bytes = [0; Place::SIZE];
        bytes[..12].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0]);
        let place = Place {
            gpa: 1,
            vm_fd: 9,
            reserved: 0,
        };
        assert_eq!(Place::parse(&bytes), Ok(place));
        for i in 12..16 {
            bytes[i] = 0x80;
            assert_eq!(Place::parse(&bytes), Err(Invalid));
            bytes[i] = 0;
        }
    }

    #[test]
    fn bytes() {
        let bytes: [u8; Request::SIZE] = core::array::from_fn(|i| i as u8);
        let request = Request::from_bytes(&bytes);
        assert_eq!(Request::SIZE, 64);
        assert_eq!(request.gpa, 0x0706_0504_0302_0100);
        assert_eq!(request.user_addr, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(request.datamatch, 0x1716_1514_1312_1110);
        assert_eq!(request.len, 0x1b1a_1918);
        assert_eq!(request.vm_fd, 0x1f1e_1d1c);
        assert_eq!(request.event_fd, 0x2322_2120);
        assert_eq!((request.on_write, request.on_read), (0x24, 0x25));
        assert_eq!(request.signal, 0x26);
        assert_eq!(request.reserved[24], 0x3f);
    }
}
