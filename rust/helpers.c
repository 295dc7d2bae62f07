// SPDX-License-Identifier: GPL-2.0
/*
 * What KVM has as inline functions or macros, for Rust: one of them in each
 * function, but for
 *
 * - mmio_ext_enter_irqs_off(), mmio_ext_leave_irqs_off(): one call for two or
 *   three of them, as each call is a part of what a doorbell costs;
 * - mmio_ext_code_is_current(), mmio_ext_read_code(): unsafe_get_user() jumps to
 *   a label, which is for C only, and nothing else may be called meanwhile.
 */
#include <linux/module.h>
#include <linux/kvm_host.h>
#include <kvm/iodev.h>

#include "lapic.h"
#include "mmu.h"
#include "x86.h"
#include "mmu/mmu_internal.h"
#include "mmu/spte.h"
#include "mmu/mmutrace.h"
#include "trace.h"
#ifdef KVM_7_2
#include <trace/events/kvm.h>
#endif
#include "mmio_ext.h"

#include "helpers.h"

u32 mmio_ext_nr_address_spaces(struct kvm *kvm)
{
	return kvm_arch_nr_memslot_as_ids(kvm);
}

void mmio_ext_trace_fast_mmio(gpa_t gpa)
{
	trace_kvm_fast_mmio(gpa);
}

void mmio_ext_add_bell(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	vcpu->arch.mmio_ext_bells |= kvm_mmio_ext_bell(gpa);
}

/* Offer a write to a device, 0 if it takes it. */
int mmio_ext_device_write(struct kvm_vcpu *vcpu, struct kvm_io_device *dev,
			  gpa_t gpa, int len, const void *val)
{
	return kvm_iodevice_write(vcpu, dev, gpa, len, val);
}

/* Offer a read to a device, 0 if it takes it. */
int mmio_ext_device_read(struct kvm_vcpu *vcpu, struct kvm_io_device *dev,
			 gpa_t gpa, int len, void *val)
{
	return kvm_iodevice_read(vcpu, dev, gpa, len, val);
}

/*
 * Hold kvm->srcu where nothing may sleep, not even to fault memory in.  Returns
 * its index, above what mmio_ext_flags() of the vendor module returns: a call
 * costs as much as either.
 */
u64 mmio_ext_enter_irqs_off(struct kvm_vcpu *vcpu)
{
	u64 srcu;

	pagefault_disable();
	srcu = srcu_read_lock(&vcpu->kvm->srcu);
	return srcu << 32 | kvm_x86_call(mmio_ext_flags)(vcpu);
}

void mmio_ext_leave_irqs_off(struct kvm *kvm, u32 srcu)
{
	srcu_read_unlock(&kvm->srcu, srcu);
	pagefault_enable();
}

/* Whether the module is not loaded yet, and may still fail to be. */
bool mmio_ext_module_is_coming(void)
{
	return READ_ONCE(THIS_MODULE->state) == MODULE_STATE_COMING;
}

bool mmio_ext_try_get_module(void)
{
	return try_module_get(THIS_MODULE);
}

void mmio_ext_put_module(void)
{
	module_put(THIS_MODULE);
}

void mmio_ext_lock_slots(struct kvm *kvm)
{
	mutex_lock(&kvm->slots_lock);
}

void mmio_ext_unlock_slots(struct kvm *kvm)
{
	mutex_unlock(&kvm->slots_lock);
}

void *mmio_ext_page_address(struct page *page)
{
	return page_address(page);
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
	return ((union kvm_cpu_role){ .as_u64 = cpu_role }).base.level;
}

/* CR4.PSE: whether there are pages of 4 MiB. */
bool mmio_ext_has_pse(u64 cpu_role)
{
	return ((union kvm_cpu_role){ .as_u64 = cpu_role }).ext.cr4_pse;
}

#define user_word(from)							\
({									\
	u64 word;							\
									\
	unsafe_get_user(word, (from), fault);				\
	word;								\
})

/* The entries of all levels; those that are missing repeat another. */
#define ptes_are_current(ptes)						\
	(user_word((ptes)[0].ptep) == (ptes)[0].pte &&			\
	 user_word((ptes)[1].ptep) == (ptes)[1].pte &&			\
	 user_word((ptes)[2].ptep) == (ptes)[2].pte &&			\
	 user_word((ptes)[3].ptep) == (ptes)[3].pte &&			\
	 user_word((ptes)[4].ptep) == (ptes)[4].pte)

/*
 * Whether the entries that map an instruction, and then its bytes, are what they
 * were.  In this order, from the root down and the code last, it is what a
 * processor does that walks the tables: code that was read before may have been
 * mapped, and changed, only afterwards.  One after the other they need few
 * registers, none of which has to be saved.
 *
 * No L1D flush is asked for: what is read is the guest's own code and page
 * tables, and what comes of it stays in this function.
 */
bool mmio_ext_code_is_current(const struct mmio_ext_pte ptes[PT64_ROOT_MAX_LEVEL],
			      const u64 __user *code, const u64 bytes[2])
{
	bool same;

	BUILD_BUG_ON(PT64_ROOT_MAX_LEVEL != 5);
	if (!user_read_access_begin(code, 2 * sizeof(*code)))
		return false;

	same = ptes_are_current(ptes) &&
	       user_word(code) == bytes[0] && user_word(code + 1) == bytes[1];

	user_read_access_end();
	return same;

fault:
	user_read_access_end();
	return false;
}

/* Read an instruction, if the entries that map it are what they were. */
bool mmio_ext_read_code(const struct mmio_ext_pte ptes[PT64_ROOT_MAX_LEVEL],
			const u64 __user *code, u64 bytes[2])
{
	bool same;

	if (!user_read_access_begin(code, 2 * sizeof(*code)))
		return false;

	same = ptes_are_current(ptes);
	if (same) {
		bytes[0] = user_word(code);
		bytes[1] = user_word(code + 1);
	}

	user_read_access_end();
	return same;

fault:
	user_read_access_end();
	return false;
}

bool mmio_ext_read_pte(const u64 __user *ptep, u64 *pte)
{
	return !get_user(*pte, ptep);
}

/* An entry of the first level of PAE page tables, as the processor has it. */
u64 mmio_ext_pdptr_read(struct kvm_vcpu *vcpu, int index)
{
	return kvm_pdptr_read(vcpu, index);
}

/* Where a page of a memslot is in the address space of the VM's process. */
unsigned long mmio_ext_gfn_to_hva(const struct kvm_memory_slot *slot, gfn_t gfn)
{
	return __gfn_to_hva_memslot(slot, gfn);
}

/* Have the L1 data cache flushed before the guest runs again, with L1TF. */
void mmio_ext_request_l1d_flush(void)
{
	kvm_request_l1tf_flush_l1d();
}

void mmio_ext_trace_mmio_write(gpa_t gpa, u32 len, u64 val)
{
	trace_kvm_mmio(KVM_TRACE_MMIO_WRITE, len, gpa, &val);
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
