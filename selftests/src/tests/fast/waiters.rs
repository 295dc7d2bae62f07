// SPDX-License-Identifier: GPL-2.0
//! Those who wait for a doorbell's eventfd by functions of their own, which run while interrupts
//! are off: poll sets, interrupts that KVM injects, devices in the kernel.

use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KvmIrqRouting, kvm_irq_routing_entry, kvm_irqchip,
    kvm_lapic_state,
};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_ref};
use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr};

use super::irqs_off::{IrqsOff, RINGS, before};
use crate::guest::{Bus, Doorbell, Machine, Match, Mode, Vcpu};
use crate::stats::Mark;
use crate::{expect_eq, skip};

const WOKEN: &str = "src/ring.rs: \
    who waits for a doorbell is woken, whatever runs for it, with interrupts off";

crate::test_table! {
    fast_irqs_off_wakes_epoll: WOKEN => epoll(),
    fast_irqs_off_wakes_irqfd_msi: WOKEN => irqfd_msi(),
    fast_irqs_off_wakes_irqfd_pin: WOKEN => irqfd_pin(),
    fast_irqs_off_wakes_vhost: WOKEN => vhost(),
}

/// What is awaited has failed to come after this.
const LIMIT: Duration = Duration::from_secs(20);

/// A machine with a doorbell, which rings before interrupts are on.
struct Ringing {
    machine: Machine,
    vcpu: Vcpu,
    bell: Doorbell,
}

impl Ringing {
    fn new(mut machine: Machine) -> Result<Self> {
        let vcpu = machine.add_vcpu()?;
        let bell = machine.doorbell(Bus::Mmio(machine.gpa(1)), Match::Len(4))?;
        Ok(Self {
            machine,
            vcpu,
            bell,
        })
    }

    /// Rings, and has what waits looked at after each time.
    fn each(&mut self, mut look: impl FnMut(&Doorbell, &Vcpu) -> Result<()>) -> Result<()> {
        let mut ring = |times| -> Result<()> {
            for n in 0..times {
                let events = self.vcpu.write(self.machine.gva(1), 4, n)?;
                expect_eq!(events, [], "ring {n}");
                look(&self.bell, &self.vcpu).with_context(|| format!("ring {n}"))?;
            }
            Ok(())
        };
        ring(before())?;
        let start = Mark::here(&[])?;
        ring(RINGS)?;
        start.delta(&[])?.expect_ext("fast_irqsoff", RINGS)?;
        Ok(())
    }
}

/// Asks again until it is so, but no longer than that; at least once.
fn until(limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !done()? {
        ensure!(start.elapsed() < limit, "nothing came in {limit:?}");
        thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// ep_poll_callback().
fn epoll() -> Result<()> {
    let _switch = IrqsOff::on()?;
    let mut ringing = Ringing::new(Machine::new(Mode::Long)?)?;
    let set = Epoll::new().context("epoll_create1")?;
    let edge = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 1);
    set.ctl(
        ControlOperation::Add,
        ringing.bell.event().as_raw_fd(),
        edge,
    )
    .context("epoll_ctl")?;
    ringing.each(|bell, _| {
        let mut ready = [EpollEvent::default(); 2];
        expect_eq!(set.wait(0, &mut ready).context("epoll_wait")?, 1);
        expect_eq!(set.wait(0, &mut ready).context("epoll_wait")?, 0);
        expect_eq!(bell.rings()?, 1);
        Ok(())
    })
}

/// A local APIC that takes interrupts and has none.
struct Lapic(kvm_lapic_state);

impl Lapic {
    const SPURIOUS: usize = 0xf0;
    const IRR: usize = 0x200;
    const ENABLED: i8 = 1;

    fn enable(vcpu: &Vcpu) -> Result<Self> {
        let mut state = vcpu.fd().get_lapic().context("KVM_GET_LAPIC")?;
        state.regs[Self::SPURIOUS + 1] |= Self::ENABLED;
        let this = Self(state);
        this.clear(vcpu)?;
        Ok(this)
    }

    fn clear(&self, vcpu: &Vcpu) -> Result<()> {
        vcpu.fd().set_lapic(&self.0).context("KVM_SET_LAPIC")
    }

    /// Whether a vector is pending, as it stays while RFLAGS.IF is clear.
    fn has(vcpu: &Vcpu, vector: u8) -> Result<bool> {
        let state = vcpu.fd().get_lapic().context("KVM_GET_LAPIC")?;
        let (word, bit) = (usize::from(vector) / 32, u32::from(vector) % 32);
        let at = Self::IRR + 0x10 * word;
        let word: [u8; 4] = std::array::from_fn(|i| state.regs[at + i] as u8);
        Ok(u32::from_le_bytes(word) >> bit & 1 != 0)
    }
}

/// irqfd_wakeup(): each ring is an interrupt, for which the route of `gsi` is made by `route`. KVM
/// takes the count of the eventfd.
fn irqfd(
    gsi: u32,
    vector: u8,
    limit: Duration,
    route: impl FnOnce(&Machine) -> Result<()>,
) -> Result<()> {
    let _switch = IrqsOff::on()?;
    if !Machine::offers_irqchip()? {
        skip!("this KVM has no I/O APIC (CONFIG_KVM_IOAPIC)");
    }
    let mut ringing = Ringing::new(Machine::with_irqchip(Mode::Long)?)?;
    route(&ringing.machine)?;
    let event = ringing.bell.event();
    let vm = ringing.machine.vm();
    vm.register_irqfd(event, gsi).context("KVM_IRQFD")?;
    let lapic = Lapic::enable(&ringing.vcpu)?;
    ringing.each(|bell, vcpu| {
        until(limit, || Lapic::has(vcpu, vector))?;
        expect_eq!(bell.rings()?, 0, "KVM has taken it");
        lapic.clear(vcpu)
    })
}

/// Injected right there, by kvm_arch_set_irq_inatomic().
fn irqfd_msi() -> Result<()> {
    const GSI: u32 = 24;
    const VECTOR: u8 = 0x41;
    irqfd(GSI, VECTOR, Duration::ZERO, |machine| {
        let mut entry = kvm_irq_routing_entry {
            gsi: GSI,
            type_: KVM_IRQ_ROUTING_MSI,
            ..Default::default()
        };
        entry.u.msi.address_lo = 0xfee0_0000;
        entry.u.msi.data = VECTOR.into();
        let routes = KvmIrqRouting::from_entries(&[entry])?;
        machine
            .vm()
            .set_gsi_routing(&routes)
            .context("KVM_SET_GSI_ROUTING")
    })
}

/// Injected later, from a work queue, as a pin of the I/O APIC takes a sleeping lock.
fn irqfd_pin() -> Result<()> {
    // Of those that the two old controllers do not have.
    const PIN: usize = 20;
    const VECTOR: u8 = 0x51;
    irqfd(PIN as u32, VECTOR, LIMIT, |machine| {
        let mut chip = kvm_irqchip {
            chip_id: KVM_IRQCHIP_IOAPIC,
            ..Default::default()
        };
        let vm = machine.vm();
        vm.get_irqchip(&mut chip).context("KVM_GET_IRQCHIP")?;
        // SAFETY: for this chip the kernel has filled in this member, which is plain numbers.
        let ioapic = unsafe { &mut chip.chip.ioapic };
        ioapic.redirtbl[PIN].bits = VECTOR.into();
        vm.set_irqchip(&chip).context("KVM_SET_IRQCHIP")
    })
}

const VHOST: u32 = 0xaf;

/// struct vhost_vring_file.
#[repr(C)]
struct VringFile {
    index: u32,
    fd: i32,
}

ioctl_io_nr!(VHOST_SET_OWNER, VHOST, 0x01);
ioctl_iow_nr!(VHOST_SET_VRING_KICK, VHOST, 0x20, VringFile);

/// A network card whose queue has no packets: its worker looks at each kick, and sleeps again.
struct Vhost {
    _file: File,
    status: String,
}

impl Vhost {
    const PATH: &str = "/dev/vhost-net";

    fn new(kick: &Doorbell) -> Result<Self> {
        let file = match File::options().read(true).write(true).open(Self::PATH) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                skip!("no {}: CONFIG_VHOST_NET", Self::PATH)
            }
            file => file.context(Self::PATH)?,
        };
        // SAFETY: there is no argument.
        let owner = unsafe { ioctl(&file, VHOST_SET_OWNER()) };
        ensure!(
            owner == 0,
            "VHOST_SET_OWNER: {}",
            io::Error::last_os_error()
        );
        let status = Self::worker()?.context("vhost has no thread in this process")?;
        let kick = VringFile {
            index: 0,
            fd: kick.event().as_raw_fd(),
        };
        // SAFETY: the kernel only reads the structure.
        let set = unsafe { ioctl_with_ref(&file, VHOST_SET_VRING_KICK(), &kick) };
        ensure!(
            set == 0,
            "VHOST_SET_VRING_KICK: {}",
            io::Error::last_os_error()
        );
        Ok(Self {
            _file: file,
            status,
        })
    }

    /// Where the worker's status is read.
    fn worker() -> Result<Option<String>> {
        for thread in fs::read_dir("/proc/self/task")? {
            let thread = thread?.path();
            if fs::read_to_string(thread.join("comm"))?.starts_with("vhost-") {
                return Ok(Some(thread.join("status").display().to_string()));
            }
        }
        Ok(None)
    }

    /// How often the worker has gone to sleep.
    fn sleeps(&self) -> Result<u64> {
        fs::read_to_string(&self.status)?
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
            .context("no voluntary_ctxt_switches")?
            .trim()
            .parse()
            .context("voluntary_ctxt_switches")
    }

    /// How often it has, once that does not change any more.
    fn settled(&self) -> Result<u64> {
        let mut last = 0;
        until(LIMIT, || {
            let before = mem::replace(&mut last, self.sleeps()?);
            Ok(last != 0 && last == before)
        })?;
        Ok(last)
    }
}

/// vhost_poll_wakeup().
fn vhost() -> Result<()> {
    let _switch = IrqsOff::on()?;
    let mut ringing = Ringing::new(Machine::new(Mode::Long)?)?;
    let vhost = Vhost::new(&ringing.bell)?;
    let mut before = vhost.settled()?;
    ringing.each(|bell, _| {
        until(LIMIT, || Ok(vhost.sleeps()? > before))?;
        before = vhost.settled()?;
        expect_eq!(bell.rings()?, 1, "the count is the VMM's");
        Ok(())
    })
}
