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

/// Has each number behind those of the IOAPIC's lines send its message, if any. There must be only
/// one such device.
pub fn route(vm: &VmFd, messages: &[Option<kvm_irq_routing_msi>]) -> Result<()> {
    // Lines are as KVM has them from the beginning.
    let lines = (0..IRQ_LINES).map(|pin| {
        let irqchip = kvm_irq_routing_irqchip {
            irqchip: KVM_IRQCHIP_IOAPIC,
            pin,
        };
        entry(pin, KVM_IRQ_ROUTING_IRQCHIP, Target { irqchip })
    });
    let sent = (IRQ_LINES..).zip(messages).filter_map(|(gsi, &message)| {
        let msi = message?;
        Some(entry(gsi, KVM_IRQ_ROUTING_MSI, Target { msi }))
    });
    let routes: Vec<_> = lines.chain(sent).collect();
    let routes = KvmIrqRouting::from_entries(&routes).context("too many interrupts")?;
    vm.set_gsi_routing(&routes)
        .context("KVM takes no interrupts of messages")
}

fn entry(gsi: u32, type_: u32, u: Target) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_,
        u,
        ..Default::default()
    }
}
