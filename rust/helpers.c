// SPDX-License-Identifier: GPL-2.0
/*
 * What KVM has as inline functions or macros, for Rust.  More than one of them,
 * or more than these, are in
 *
 * - mmio_ext_enter_irqs_off(), mmio_ext_leave_irqs_off(): one call for two or
 *   three of them, as each call is a part of what an access costs;
 * - mmio_ext_code_is_current(), mmio_ext_read_code(): unsafe_get_user() jumps to
 *   a label, which is for C only, and nothing else may be called meanwhile;
 * - gva_walk(): the layout of 7.2 and 7.3, see rust/kvm/layout.rs, with what asks
 *   it (mmio_ext_flat_pdpte(), mmio_ext_translate());
 * - mmio_ext_levels(), mmio_ext_has_pse(): bitfields, which are C's to lay out;
 * - mmio_ext_user_pointer(): a memslot's lookup and the inline functions that go
 *   on from it, in one call.
 *
 * Two could be Rust, and are here beside what they are like: mmio_ext_is_read_only()
 * (the same lookup, and flags) and mmio_ext_can_emulate() (a function of KVM, and
 * a field of its emulator).
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
	union kvm_cpu_role role = { .as_u64 = cpu_role };

	return role.base.level;
}

/* CR4.PSE: whether there are pages of 4 MiB. */
bool mmio_ext_has_pse(u64 cpu_role)
{
	union kvm_cpu_role role = { .as_u64 = cpu_role };

	return role.ext.cr4_pse;
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

/* What reads the guest's page tables, as rust/kvm/layout.rs has it. */
#ifdef KVM_7_2
static struct kvm_mmu *gva_walk(struct kvm_vcpu *vcpu)
{
	return vcpu->arch.walk_mmu;
}
#else
static struct kvm_pagewalk *gva_walk(struct kvm_vcpu *vcpu)
{
	return &vcpu->arch.gva_walk;
}
#endif

/*
 * The entry of the first level of PAE page tables that translates @gva: from
 * the registers where the processor has them.  0 with other paging.
 */
u64 mmio_ext_flat_pdpte(struct kvm_vcpu *vcpu, u32 gva)
{
	if (gva_walk(vcpu)->cpu_role.base.level != PT32E_ROOT_LEVEL)
		return 0;
	return kvm_pdptr_read(vcpu, gva >> 30);
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

/* Whether @gpa is memory that the guest may only read. */
bool mmio_ext_is_read_only(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	struct kvm_memory_slot *slot;

	slot = kvm_vcpu_gfn_to_memslot(vcpu, gpa_to_gfn(gpa));
	return slot && (slot->flags & KVM_MEM_READONLY) &&
	       !(slot->flags & KVM_MEMSLOT_INVALID);
}

/*
 * Where an access of the guest goes, INVALID_GPA if it may not be done.  Sets
 * accessed and dirty bits as the access does.
 */
gpa_t mmio_ext_translate(struct kvm_vcpu *vcpu, gva_t gva, u64 access)
{
	struct x86_exception exception;

	/* As before the emulator's walks: pages may be faulted in. */
	kvm_request_l1tf_flush_l1d();

	return gva_walk(vcpu)->gva_to_gpa(vcpu, gva_walk(vcpu), gva, access,
					  &exception);
}

/*
 * Whether KVM's emulator knows the instruction at RIP.  True as well if it
 * cannot be fetched, the emulator then injects the page fault.
 */
bool mmio_ext_can_emulate(struct kvm_vcpu *vcpu, void *insn, int insn_len)
{
	return x86_decode_emulated_instruction(vcpu, EMULTYPE_PF, insn, insn_len) ==
		EMULATION_OK || vcpu->arch.emulate_ctxt->have_exception;
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
