// SPDX-License-Identifier: GPL-2.0
/* What KVM has as inline functions or macros only, for Rust. */
#include <linux/kvm_host.h>
#include <kvm/iodev.h>

#include "mmu.h"
#include "x86.h"
#include "mmu/mmu_internal.h"
#include "mmu/spte.h"
#include "mmu/mmutrace.h"
#include "trace.h"

#include "helpers.h"

u64 mmio_ext_memslots_generation(struct kvm_vcpu *vcpu)
{
	return kvm_vcpu_memslots(vcpu)->generation;
}

u32 mmio_ext_nr_address_spaces(struct kvm *kvm)
{
	return kvm_arch_nr_memslot_as_ids(kvm);
}

bool mmio_ext_mmu_is_direct(struct kvm_vcpu *vcpu)
{
	return vcpu->arch.mmu->root_role.direct;
}

/* Signal a zero-length ioeventfd of the page's address, if there is one. */
bool mmio_ext_signal_wildcard(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	if (kvm_io_bus_write(vcpu, KVM_FAST_MMIO_BUS, gpa, 0, NULL))
		return false;

	trace_kvm_fast_mmio(gpa);
	return true;
}

/* The width of a physical address, without what memory encryption takes. */
u8 mmio_ext_phys_bits(void)
{
	return boot_cpu_data.x86_phys_bits;
}

void mmio_ext_trace_check_mmio_spte(u64 spte, u32 kvm_gen, u32 spte_gen)
{
	trace_check_mmio_spte(spte, kvm_gen, spte_gen);
}

void mmio_ext_trace_handle_mmio_page_fault(u64 addr, gfn_t gfn, u32 access)
{
	trace_handle_mmio_page_fault(addr, gfn, access);
}

void mmio_ext_trace_page_fault(struct kvm_vcpu *vcpu, u64 addr, u64 error_code)
{
	trace_kvm_page_fault(vcpu, addr, error_code);
}
