// SPDX-License-Identifier: GPL-2.0
#include <linux/srcu.h>

#include "mmu/spte.h"

#include "kunit/vm.h"

static void vm_destroy(void *data)
{
	struct mmio_ext_kunit_vm *vm = data;
	int i;

	for (i = 0; i < ARRAY_SIZE(vm->vcpus); i++) {
		if (vm->vcpus[i].arch.mmio_ext)
			vm->ops.vcpu_free(&vm->vcpus[i]);
	}
	cleanup_srcu_struct(&vm->kvm.srcu);
	kvfree(vm);
}

/* As after KVM_CREATE_VCPU: no memslots, no devices, no page tables. */
static void vcpu_init(struct kvm_vcpu *vcpu, struct kvm *kvm, int id)
{
	struct kvm_vcpu_arch *arch = &vcpu->arch;

	vcpu->kvm = kvm;
	vcpu->vcpu_id = id;
	vcpu->mode = OUTSIDE_GUEST_MODE;
	arch->mmu = &arch->root_mmu;
	arch->root_mmu.w = &arch->gva_walk;
	arch->root_mmu.root.hpa = INVALID_PAGE;
	/* No vendor module is to be asked for registers. */
	memset(arch->regs_avail, 0xff, sizeof(arch->regs_avail));
}

/* Lives as long as the test case. */
struct mmio_ext_kunit_vm *mmio_ext_kunit_vm_create(struct kunit *test)
{
	struct mmio_ext_kunit_vm *vm = kvzalloc(sizeof(*vm), GFP_KERNEL);
	int i;

	if (!vm)
		return NULL;

	if (init_srcu_struct(&vm->kvm.srcu)) {
		kvfree(vm);
		return NULL;
	}

	mmio_ext_kunit_ops(&vm->ops);
	vm->kvm.arch.shadow_mmio_value = shadow_mmio_value;
	for (i = 0; i < KVM_MAX_NR_ADDRESS_SPACES; i++)
		RCU_INIT_POINTER(vm->kvm.memslots[i], &vm->kvm.__memslots[i][0]);
	for (i = 0; i < ARRAY_SIZE(vm->vcpus); i++)
		vcpu_init(&vm->vcpus[i], &vm->kvm, i);

	return kunit_add_action_or_reset(test, vm_destroy, vm) ? NULL : vm;
}

/* As when memslots change. */
void mmio_ext_kunit_set_generation(struct mmio_ext_kunit_vm *vm, u64 generation)
{
	int i;

	for (i = 0; i < KVM_MAX_NR_ADDRESS_SPACES; i++)
		vm->kvm.__memslots[i][0].generation = generation;
}
