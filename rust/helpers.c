// SPDX-License-Identifier: GPL-2.0
/* What KVM has as inline functions or macros only, for Rust. */
#include <linux/kvm_host.h>
#include <kvm/iodev.h>

#include "lapic.h"
#include "mmu.h"
#include "x86.h"
#include "mmu/mmu_internal.h"
#include "mmu/spte.h"
#include "mmu/mmutrace.h"
#include "trace.h"
#include "mmio_ext.h"

#include "helpers.h"

u32 mmio_ext_nr_address_spaces(struct kvm *kvm)
{
	return kvm_arch_nr_memslot_as_ids(kvm);
}

/* Signal a zero-length ioeventfd of the page's address, if there is one. */
bool mmio_ext_signal_wildcard(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	if (kvm_io_bus_write(vcpu, KVM_FAST_MMIO_BUS, gpa, 0, NULL))
		return false;

	trace_kvm_fast_mmio(gpa);
	return true;
}

static struct kvm_io_bus *mmio_bus(struct kvm *kvm)
{
	/* As in kvm_get_bus_srcu(). */
	smp_mb__after_srcu_read_lock();

	return srcu_dereference(kvm->buses[KVM_MMIO_BUS], &kvm->srcu);
}

/* Zero-length ioeventfds have no length, but an address. */
static bool overlaps(const struct kvm_io_range *range, gpa_t gpa, u32 len)
{
	return range->addr < gpa + len &&
	       gpa < range->addr + max(range->len, 1);
}

static int signal_doorbell(struct kvm_vcpu *vcpu, struct kvm_io_device *dev,
			   const struct mmio_ext_doorbell *doorbell)
{
	return kvm_iodevice_write(vcpu, dev, doorbell->gpa, doorbell->len,
				  &doorbell->val);
}

static noinline int trace_and_signal_doorbell(struct kvm_vcpu *vcpu,
					      struct kvm_io_device *dev,
					      const struct mmio_ext_doorbell *doorbell)
{
	trace_kvm_mmio(KVM_TRACE_MMIO_WRITE, doorbell->len, doorbell->gpa,
		       (void *)&doorbell->val);
	return signal_doorbell(vcpu, dev, doorbell);
}

/*
 * Signal an ioeventfd that has taken the same write before, 0 if there still is
 * one.  All calls are tail calls, for which no register has to be saved.
 */
int mmio_ext_ring_doorbell(struct kvm_vcpu *vcpu,
			   const struct mmio_ext_doorbell *doorbell)
{
	struct kvm_io_bus *bus = mmio_bus(vcpu->kvm);
	struct kvm_io_device *dev;

	if (!bus || bus->generation != doorbell->generation)
		return -EOPNOTSUPP;

	/* The local APIC comes first; its page can be anywhere. */
	if (lapic_in_kernel(vcpu) &&
	    doorbell->gpa - vcpu->arch.apic->base_address < PAGE_SIZE)
		return -EOPNOTSUPP;

	dev = bus->range[doorbell->dev_idx].dev;
	if (trace_kvm_mmio_enabled())
		return trace_and_signal_doorbell(vcpu, dev, doorbell);

	return signal_doorbell(vcpu, dev, doorbell);
}

/*
 * The generation of the bus if its device @doorbell->dev_idx is of just this
 * address and of this length or zero, and no device but ioeventfds comes
 * before it that could take the write.  0, which no bus with a device has,
 * otherwise.
 */
static u64 doorbell_generation(const struct kvm_io_bus *bus,
			       const struct mmio_ext_doorbell *doorbell)
{
	const struct kvm_io_range *range = &bus->range[doorbell->dev_idx];
	int i;

	if (range->addr != doorbell->gpa ||
	    (range->len && range->len != doorbell->len))
		return 0;

	for (i = 0; i < doorbell->dev_idx; i++) {
		range = &bus->range[i];
		if (overlaps(range, doorbell->gpa, doorbell->len) &&
		    !kvm_is_ioeventfd(range->dev))
			return 0;
	}

	return bus->generation;
}

/*
 * Whether the device @doorbell->dev_idx is an ioeventfd.  Fills in a generation
 * of the bus for which the write is sure to go there.
 */
bool mmio_ext_remember_doorbell(struct kvm_vcpu *vcpu,
				struct mmio_ext_doorbell *doorbell)
{
	struct kvm_io_bus *bus = mmio_bus(vcpu->kvm);

	doorbell->generation = 0;
	if (!bus || doorbell->dev_idx < 0 || doorbell->dev_idx >= bus->dev_count ||
	    !kvm_is_ioeventfd(bus->range[doorbell->dev_idx].dev))
		return false;

	doorbell->generation = doorbell_generation(bus, doorbell);
	return true;
}

/* Fill in whether the place is vacant, and the generation of the bus. */
void mmio_ext_find_vacancy(struct kvm_vcpu *vcpu,
			   struct mmio_ext_vacancy *vacancy)
{
	struct kvm_io_bus *bus = mmio_bus(vcpu->kvm);
	int i;

	vacancy->generation = bus ? bus->generation : 0;
	vacancy->vacant = true;
	for (i = 0; bus && i < bus->dev_count; i++) {
		if (overlaps(&bus->range[i], vacancy->gpa, vacancy->len))
			vacancy->vacant = false;
	}
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

/* Read a register that the vendor module has not read since the exit. */
void mmio_ext_cache_reg(struct kvm_vcpu *vcpu, u32 reg)
{
	kvm_x86_call(cache_reg)(vcpu, reg);
}

/* The levels of the guest's page tables. */
int mmio_ext_levels(u64 cpu_role)
{
	union kvm_cpu_role role = { .as_u64 = cpu_role };

	return role.base.level;
}

#define user_word(from)							\
({									\
	u64 word;							\
									\
	unsafe_get_user(word, (from), fault);				\
	word;								\
})

/*
 * Whether the bytes, and the entries that map them, are what they were.  One
 * after the other they need few registers, none of which has to be saved.
 */
bool mmio_ext_fetch_is_current(const struct mmio_ext_fetch *fetch)
{
	bool same;

	kvm_request_l1tf_flush_l1d();

	if (!user_read_access_begin(fetch->code, sizeof(fetch->bytes)))
		return false;

	same = user_word(fetch->code) == fetch->bytes[0] &&
	       user_word(fetch->code + 1) == fetch->bytes[1] &&
	       user_word(fetch->ptes[0].ptep) == fetch->ptes[0].pte &&
	       user_word(fetch->ptes[1].ptep) == fetch->ptes[1].pte &&
	       user_word(fetch->ptes[2].ptep) == fetch->ptes[2].pte &&
	       user_word(fetch->ptes[3].ptep) == fetch->ptes[3].pte &&
	       user_word(fetch->ptes[4].ptep) == fetch->ptes[4].pte;
	BUILD_BUG_ON(ARRAY_SIZE(fetch->ptes) != 5);

	user_read_access_end();
	return same;

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
gpa_t mmio_ext_translate_fetch(struct kvm_vcpu *vcpu, gva_t gva, bool user)
{
	struct kvm_pagewalk *walk = &vcpu->arch.gva_walk;
	struct x86_exception exception;

	return walk->gva_to_gpa(vcpu, walk, gva, PFERR_FETCH_MASK |
				(user ? PFERR_USER_MASK : 0), &exception);
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
