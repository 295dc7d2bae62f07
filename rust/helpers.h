/* SPDX-License-Identifier: GPL-2.0 */
/* What KVM has as inline functions or macros only, for Rust. */
#ifndef KVM_MMIO_EXT_HELPERS_H
#define KVM_MMIO_EXT_HELPERS_H

#include <linux/kvm_host.h>

u64 mmio_ext_memslots_generation(struct kvm_vcpu *vcpu);
u32 mmio_ext_nr_address_spaces(struct kvm *kvm);
bool mmio_ext_mmu_is_direct(struct kvm_vcpu *vcpu);
bool mmio_ext_signal_wildcard(struct kvm_vcpu *vcpu, gpa_t gpa);
u8 mmio_ext_phys_bits(void);

void mmio_ext_trace_check_mmio_spte(u64 spte, u32 kvm_gen, u32 spte_gen);
void mmio_ext_trace_handle_mmio_page_fault(u64 addr, gfn_t gfn, u32 access);
void mmio_ext_trace_page_fault(struct kvm_vcpu *vcpu, u64 addr, u64 error_code);

/* Defined in params.c. */
extern bool mmio_ext_enabled;

#endif /* KVM_MMIO_EXT_HELPERS_H */
