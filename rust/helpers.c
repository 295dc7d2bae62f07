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
#include "mmio_ext.h"

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
	struct kvm_io_bus *bus;

	/* Most VMs have none anywhere. */
	bus = srcu_dereference(vcpu->kvm->buses[KVM_FAST_MMIO_BUS],
			       &vcpu->kvm->srcu);
	if (!bus || !bus->dev_count ||
	    kvm_io_bus_write(vcpu, KVM_FAST_MMIO_BUS, gpa, 0, NULL))
		return false;

	trace_kvm_fast_mmio(gpa);
	return true;
}

/* The width of a physical address, without what memory encryption takes. */
u8 mmio_ext_phys_bits(void)
{
	return boot_cpu_data.x86_phys_bits;
}

/* A reserved bit is set in an entry that maps something: a bug of KVM. */
void mmio_ext_warn_reserved(void)
{
	WARN_ON_ONCE(1);
}

unsigned long mmio_ext_rip(struct kvm_vcpu *vcpu)
{
	return kvm_rip_read(vcpu);
}

unsigned long mmio_ext_rsp(struct kvm_vcpu *vcpu)
{
	return kvm_rsp_read(vcpu);
}

/* The levels of the guest's page tables. */
int mmio_ext_levels(u64 cpu_role)
{
	union kvm_cpu_role role = { .as_u64 = cpu_role };

	return role.base.level;
}

/* Whether the bytes, and the entries that map them, are what they were. */
bool mmio_ext_fetch_is_current(const struct mmio_ext_fetch *fetch)
{
	u64 changed, now;
	unsigned int i;

	kvm_request_l1tf_flush_l1d();

	if (!user_read_access_begin(fetch->code, sizeof(fetch->bytes)))
		return false;

	unsafe_get_user(now, fetch->code, fault);
	changed = now ^ fetch->bytes[0];
	unsafe_get_user(now, fetch->code + 1, fault);
	changed |= now ^ fetch->bytes[1];
	for (i = 0; i < fetch->nr_ptes; i++) {
		unsafe_get_user(now, fetch->ptes[i].ptep, fault);
		changed |= now ^ fetch->ptes[i].pte;
	}
	user_read_access_end();
	return !changed;

fault:
	user_read_access_end();
	return false;
}

bool mmio_ext_read_user(const u64 __user *from, u64 *to, unsigned int nr)
{
	kvm_request_l1tf_flush_l1d();
	return !copy_from_user(to, from, nr * sizeof(*to));
}

/*
 * Where the VM's memory at @gpa is in the address space of its process, NULL
 * if it is not.  The result holds as long as the memslots are what they are.
 */
const u64 __user *mmio_ext_user_pointer(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	struct kvm_memory_slot *slot;

	slot = kvm_vcpu_gfn_to_memslot(vcpu, gpa_to_gfn(gpa));
	if (!slot || slot->flags & KVM_MEMSLOT_INVALID ||
	    kvm_slot_has_gmem(slot))
		return NULL;

	return (const u64 __user *)(__gfn_to_hva_memslot(slot, gpa_to_gfn(gpa)) +
				    offset_in_page(gpa));
}

/* Where an instruction is fetched from, INVALID_GPA if it may not be. */
gpa_t mmio_ext_translate_fetch(struct kvm_vcpu *vcpu, gva_t gva, int cpl)
{
	struct kvm_pagewalk *walk = &vcpu->arch.gva_walk;
	struct x86_exception exception;

	return walk->gva_to_gpa(vcpu, walk, gva, PFERR_FETCH_MASK |
				(cpl == 3 ? PFERR_USER_MASK : 0), &exception);
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
