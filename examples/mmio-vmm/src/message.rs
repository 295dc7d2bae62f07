// SPDX-License-Identifier: GPL-2.0
//! Interrupts that are messages: KVM's table of what each interrupt's number does.

use anyhow::{Context, Result};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KvmIrqRouting,
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1 as Target, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;

use crate::layout::IRQ_LINES;

/// A message that is an interrupt: MSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub address: u64,
    pub data: u32,
}

impl Message {
    fn route(&self, gsi: u32) -> kvm_irq_routing_entry {
        let msi = kvm_irq_routing_msi {
            address_lo: self.address as u32,
            address_hi: (self.address >> 32) as u32,
            data: self.data,
            ..Default::default()
        };
        kvm_irq_routing_entry {
            gsi,
            type_: KVM_IRQ_ROUTING_MSI,
            u: Target { msi },
            ..Default::default()
        }
    }
}

/// A line of the IOAPIC, as KVM has it from the beginning.
fn line(gsi: u32) -> kvm_irq_routing_entry {
    let irqchip = kvm_irq_routing_irqchip {
        irqchip: KVM_IRQCHIP_IOAPIC,
        pin: gsi,
    };
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: Target { irqchip },
        ..Default::default()
    }
}

/// Has each number behind those of the IOAPIC's lines send its message, if any. There must be only
/// one such device.
pub fn route(vm: &VmFd, messages: &[Option<Message>]) -> Result<()> {
    let lines = (0..IRQ_LINES).map(line);
    let numbered = (IRQ_LINES..).zip(messages);
    let sent = numbered.filter_map(|(gsi, message)| Some(message.as_ref()?.route(gsi)));
    let routes: Vec<_> = lines.chain(sent).collect();
    let routes = KvmIrqRouting::from_entries(&routes).context("too many interrupts")?;
    vm.set_gsi_routing(&routes)
        .context("KVM takes no interrupts of messages")
}
