/* SPDX-License-Identifier: GPL-2.0 */
/* A VM for KUnit tests: the structures that the extension looks at, by hand. */
#ifndef KVM_MMIO_EXT_KUNIT_VM_H
#define KVM_MMIO_EXT_KUNIT_VM_H

#include <kunit/test.h>
#include <linux/kvm_host.h>

#include <asm/kvm_mmio_ext.h>

struct mmio_ext_kunit_vm {
	struct kvm kvm;
	struct kvm_vcpu vcpus[2];
	/* The callbacks as KVM has them. */
	struct kvm_mmio_ext_ops ops;
};

struct mmio_ext_kunit_vm *mmio_ext_kunit_vm_create(struct kunit *test);
void mmio_ext_kunit_set_generation(struct mmio_ext_kunit_vm *vm, u64 generation);

/*
 * Defined in Rust, see rust/kunit/queries.rs.  All that take a vCPU want
 * kvm->srcu to be held.
 */
void mmio_ext_kunit_ops(struct kvm_mmio_ext_ops *ops);
unsigned int mmio_ext_kunit_vms(void);
unsigned int mmio_ext_kunit_walk(struct kvm_vcpu *vcpu, u64 addr, int *levels,
				 u64 *sptes);
bool mmio_ext_kunit_rings(struct kvm_vcpu *vcpu, gpa_t gpa, u64 val, u8 len);
bool mmio_ext_kunit_is_vacant(struct kvm_vcpu *vcpu, gpa_t gpa, u8 len);
void mmio_ext_kunit_fetch(struct kvm_vcpu *vcpu, void *insn, int len);
bool mmio_ext_kunit_knows_insn(struct kvm_vcpu *vcpu, void *insn, int len);
void mmio_ext_kunit_faults(struct kvm_vcpu *vcpu, u64 *handled, u64 *passed);
int mmio_ext_kunit_complete_load(struct kvm_vcpu *vcpu);

/* The suites, which run when kvm_mmio_ext_kunit.ko is loaded. */
extern struct kunit_suite mmio_ext_kunit_walk_suite;
extern struct kunit_suite mmio_ext_kunit_vcpu_suite;

#endif /* KVM_MMIO_EXT_KUNIT_VM_H */
