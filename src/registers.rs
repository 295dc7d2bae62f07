// SPDX-License-Identifier: GPL-2.0

//! Registers that answer by themselves: the file `/dev/kvm_mmio_registers`.
//!
//! A file of its own, not the statistics' one: that shows all VMs, and a VMM needs nothing of it.
//! What this one allows is no more than what a process may do to its own VMs and memory.

use crate::{
    addr::Gpa,
    iodev::{Range, Write},
    kvm::{self, IoDevice, ModuleRef, Operations, OwnEventfd, Registered, UserWord, Vm},
    pure::{
        posted::Register,
        register_request::{Invalid, Place, Request}, //
    },
};
use kernel::{
    fs::File,
    ioctl::_IOW,
    miscdevice::{MiscDevice, MiscDeviceRegistration},
    new_mutex,
    prelude::*,
    sync::Mutex,
    uaccess::{UserPtr, UserSlice}, //
};

/// What the kernel calls the file.
pub(crate) const NAME: &CStr = c"kvm_mmio_registers";

/// Of the ioctls, as `rust/uapi/kvm_mmio_register.h` has them.
const TYPE: u32 = 0xbb;
pub(crate) const ADD: u32 = _IOW::<Request>(TYPE, 0);
pub(crate) const REMOVE: u32 = _IOW::<Place>(TYPE, 1);

/// A register on a VM's bus.
pub(crate) struct Device {
    register: Register,
    word: UserWord,
    eventfd: Option<OwnEventfd>,
}

impl Device {
    #[inline(always)]
    fn signal_if(&self, signals: bool) {
        if signals {
            // The word was first: whoever is woken sees it.
            if let Some(eventfd) = &self.eventfd {
                eventfd.signal();
            }
        }
    }
}

static OPERATIONS: Operations<Device> = Operations::new();

impl IoDevice for Device {
    #[inline(always)]
    fn operations() -> &'static Operations<Self> {
        &OPERATIONS
    }

    #[inline(always)]
    fn read(&self, gpa: Gpa, size: u8) -> Option<u64> {
        self.register.read(&self.word, gpa, size)
    }

    #[inline(always)]
    fn write(&self, write: &Write) -> bool {
        let signals = self.register.write(&self.word, write);
        self.signal_if(signals == Some(true));
        signals.is_some()
    }

    #[inline(always)]
    fn write_again(&self, value: u64) {
        let signals = self.register.write_value(&self.word, value);
        self.signal_if(signals);
    }
}

/// The bus on which registers are.
pub(crate) type IoBus<'a> = kvm::IoBus<'a, Device>;

/// What is rung there.
pub(crate) type Bell = kvm::Bell<Device>;

/// A register that a file has added.
struct Entry {
    gpa: Gpa,
    device: Registered<Device>,
}

/// An open file. Its registers go with it.
#[pin_data]
pub(crate) struct RegisterFile {
    /// Taken before all locks of KVM.
    #[pin]
    entries: Mutex<KVec<Entry>>,
    _module: ModuleRef,
}

#[vtable]
impl MiscDevice for RegisterFile {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Pin<KBox<Self>>> {
        KBox::try_pin_init(
            try_pin_init!(Self {
                entries <- new_mutex!(KVec::new()),
                _module: ModuleRef::new()?,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    fn ioctl(this: Pin<&Self>, _file: &File, command: u32, argument: usize) -> Result<isize> {
        match command {
            ADD => this.add(&Request::from_bytes(&copy(argument)?))?,
            REMOVE => this.remove(&Place::parse(&copy(argument)?)?)?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}

impl RegisterFile {
    fn add(&self, request: &Request) -> Result {
        let register = request.parse()?;
        let vm = Vm::from_fd(request.vm_fd)?;
        let signals = request.event_fd >= 0;
        let device = Device {
            register,
            eventfd: signals
                .then(|| OwnEventfd::from_fd(request.event_fd))
                .transpose()?,
            word: UserWord::new(request.user_addr, register.size)?,
        };
        let range = Range {
            addr: register.gpa.0,
            len: register.size.into(),
        };

        let mut entries = self.entries.lock();
        // Those of VMs that are gone.
        entries.retain(|entry| entry.device.is_alive());
        entries.reserve(1, GFP_KERNEL_ACCOUNT)?;
        let entry = Entry {
            gpa: register.gpa,
            device: Registered::new(&vm, range, device)?,
        };
        Ok(entries.push(entry, GFP_KERNEL_ACCOUNT)?)
    }

    fn remove(&self, place: &Place) -> Result {
        let vm = Vm::from_fd(place.vm_fd)?;
        let mut entries = self.entries.lock();
        let index = entries
            .iter()
            .position(|entry| entry.gpa.0 == place.gpa && entry.device.is_of(&vm))
            .ok_or(ENOENT)?;
        drop(entries.remove(index)?);
        Ok(())
    }
}

impl From<Invalid> for Error {
    fn from(_: Invalid) -> Self {
        EINVAL
    }
}

/// What an ioctl's argument points to.
fn copy<const N: usize>(argument: usize) -> Result<[u8; N]> {
    UserSlice::new(UserPtr::from_addr(argument), N)
        .reader()
        .read()
}
