/* SPDX-License-Identifier: GPL-2.0 */
/* What KVM has as inline functions or macros only, for Rust. */
#ifndef KVM_MMIO_EXT_HELPERS_H
#define KVM_MMIO_EXT_HELPERS_H

#include <linux/kvm_host.h>

#include <asm/kvm_mmio_ext.h>

#include "mmu.h"

u32 mmio_ext_nr_address_spaces(struct kvm *kvm);
void mmio_ext_add_bell(struct kvm_vcpu *vcpu, gpa_t gpa);
u8 mmio_ext_phys_bits(void);

/* A guest page table entry as it was read. */
struct mmio_ext_pte {
	const u64 __user *ptep;
	u64 pte;
};

int mmio_ext_device_write(struct kvm_vcpu *vcpu, struct kvm_io_device *dev,
			  gpa_t gpa, int len, const void *val);
int mmio_ext_device_read(struct kvm_vcpu *vcpu, struct kvm_io_device *dev,
			 gpa_t gpa, int len, void *val);

u64 mmio_ext_enter_irqs_off(struct kvm_vcpu *vcpu);
void mmio_ext_leave_irqs_off(struct kvm *kvm, u32 srcu);

void mmio_ext_warn_reserved(void);

bool mmio_ext_module_is_coming(void);
bool mmio_ext_try_get_module(void);
void mmio_ext_put_module(void);
void mmio_ext_lock_slots(struct kvm *kvm);
void mmio_ext_unlock_slots(struct kvm *kvm);
void *mmio_ext_page_address(struct page *page);

void mmio_ext_cache_reg(struct kvm_vcpu *vcpu, u32 reg);
int mmio_ext_levels(u64 cpu_role);
bool mmio_ext_has_pse(u64 cpu_role);
u64 mmio_ext_pdptr_read(struct kvm_vcpu *vcpu, int index);
unsigned long mmio_ext_gfn_to_hva(const struct kvm_memory_slot *slot, gfn_t gfn);
void mmio_ext_request_l1d_flush(void);
bool mmio_ext_code_is_current(const struct mmio_ext_pte ptes[PT64_ROOT_MAX_LEVEL],
			      const u64 __user *code, const u64 bytes[2]);
bool mmio_ext_read_code(const struct mmio_ext_pte ptes[PT64_ROOT_MAX_LEVEL],
			const u64 __user *code, u64 bytes[2]);
bool mmio_ext_read_pte(const u64 __user *ptep, u64 *pte);

void mmio_ext_trace_fast_mmio(gpa_t gpa);
void mmio_ext_trace_mmio_write(gpa_t gpa, u32 len, u64 val);
void mmio_ext_trace_check_mmio_spte(u64 spte, u32 kvm_gen, u32 spte_gen);
void mmio_ext_trace_handle_mmio_page_fault(u64 addr, gfn_t gfn, u32 access);
void mmio_ext_trace_page_fault(struct kvm_vcpu *vcpu, u64 addr, u64 error_code);

/* Defined in Rust, see rust/exports.rs. */
int handle_mmio_page_fault_common(struct kvm_vcpu *vcpu, u64 addr, bool direct);

/* Defined in params.c. */
int mmio_ext_register(const struct kvm_mmio_ext_ops *ops);
extern bool mmio_ext_enabled;
extern bool mmio_ext_fast;
extern bool mmio_ext_irqsoff;

#endif /* KVM_MMIO_EXT_HELPERS_H */
