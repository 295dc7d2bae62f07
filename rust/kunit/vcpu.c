// SPDX-License-Identifier: GPL-2.0
/*
 * The suite kvm_mmio_ext_vcpu: what the extension keeps for a vCPU is made
 * with the first access, knows nothing then, forgets in time, and goes with the
 * vCPU.  KVM's calls are made here as KVM makes them.
 */
#include <kunit/visibility.h>
#include <linux/fault-inject.h>
#include <linux/kvm_host.h>
#include <linux/sched.h>
#include <linux/srcu.h>

#include "mmu.h"
#include "x86.h"
#include "mmu/mmu_internal.h"

#include "kunit/vm.h"

#define GENERATION	42
#define GFN		0xfe000ull
#define GPA		(GFN << PAGE_SHIFT)
#define GVA		0x7f0000200000ull

static int vcpu_init(struct kunit *test)
{
	test->priv = mmio_ext_kunit_vm_create(test);
	return test->priv ? 0 : -ENOMEM;
}

/* A first access: the only one after which there is state, if it can be had. */
static int first_access(struct mmio_ext_kunit_vm *vm, struct kvm_vcpu *vcpu)
{
	return vm->ops.page_fault(vcpu, GPA, true);
}

/* Whether the extension knows an MMIO page.  KVM's own cache must not help. */
static bool knows(struct mmio_ext_kunit_vm *vm, struct kvm_vcpu *vcpu, u64 addr,
		  bool direct)
{
	vcpu->arch.mmio_gva = 0;
	vcpu->arch.mmio_gfn = 0;
	return vm->ops.page_fault(vcpu, addr, direct) == RET_PF_EMULATE;
}

static bool knows_gva(struct mmio_ext_kunit_vm *vm, struct kvm_vcpu *vcpu, gva_t gva)
{
	return knows(vm, vcpu, gva, false);
}

static bool knows_gpa(struct mmio_ext_kunit_vm *vm, struct kvm_vcpu *vcpu, gpa_t gpa)
{
	return knows(vm, vcpu, gpa, true);
}

static void state_is_made_with_the_first_access(struct kunit *test)
{
	struct mmio_ext_kunit_vm *vm = test->priv;
	struct kvm_vcpu *vcpu = &vm->vcpus[0];
	unsigned int vms = mmio_ext_kunit_vms();
	void *state;

	guard(srcu)(&vm->kvm.srcu);

	/* These are called with mmu_lock held, where nothing can be allocated. */
	KUNIT_EXPECT_EQ(test, vm->ops.make_spte(vcpu, GFN, ACC_ALL), 0);
	KUNIT_EXPECT_EQ(test, vm->ops.sync_spte(vcpu, 0, GFN, ACC_ALL), 0);
	KUNIT_EXPECT_PTR_EQ(test, vcpu->arch.mmio_ext, NULL);
	KUNIT_EXPECT_EQ(test, mmio_ext_kunit_vms(), vms);

	KUNIT_EXPECT_EQ(test, first_access(vm, vcpu), RET_PF_RETRY);
	state = vcpu->arch.mmio_ext;
	KUNIT_EXPECT_NOT_NULL(test, state);
	KUNIT_EXPECT_EQ(test, mmio_ext_kunit_vms(), vms + 1);
	KUNIT_EXPECT_NE(test, vm->ops.make_spte(vcpu, GFN, ACC_ALL), 0);

	first_access(vm, vcpu);
	vm->ops.cache_info(vcpu, 0, GFN, ACC_ALL);
	KUNIT_EXPECT_PTR_EQ(test, vcpu->arch.mmio_ext, state);

	/* The other vCPU has none before its own first access. */
	KUNIT_EXPECT_PTR_EQ(test, vm->vcpus[1].arch.mmio_ext, NULL);
	vm->ops.cache_info(&vm->vcpus[1], 0, GFN, ACC_ALL);
	KUNIT_EXPECT_NOT_NULL(test, vm->vcpus[1].arch.mmio_ext);
	KUNIT_EXPECT_PTR_NE(test, vm->vcpus[1].arch.mmio_ext, state);
	KUNIT_EXPECT_EQ(test, mmio_ext_kunit_vms(), vms + 1);
}

/*
 * An entry that is all zeroes must not pass for knowledge of address 0, by RIP
 * 0 and CR3 0, as of generation 0, which memslots and buses begin with.
 */
static void expect_ignorance(struct kunit *test, struct kvm_vcpu *vcpu)
{
	struct mmio_ext_kunit_vm *vm = test->priv;
	u8 zeroes[15] = {};
	u64 addr;
	u8 len;

	for (addr = 0; addr < 64 * PAGE_SIZE; addr += PAGE_SIZE) {
		KUNIT_EXPECT_FALSE(test, knows_gva(vm, vcpu, addr));
		KUNIT_EXPECT_FALSE(test, knows_gpa(vm, vcpu, addr));
	}
	for (addr = 0; addr < 1024; addr += 4) {
		for (len = 1; len <= 8; len *= 2) {
			KUNIT_EXPECT_FALSE(test, mmio_ext_kunit_rings(vcpu, addr, 0, len));
			KUNIT_EXPECT_TRUE(test, mmio_ext_kunit_is_vacant(vcpu, addr, len));
		}
	}
	for (addr = 0; addr < 64; addr++) {
		vcpu->arch.rip = addr;
		KUNIT_EXPECT_FALSE(test, mmio_ext_kunit_knows_insn(vcpu, NULL, 0));
		KUNIT_EXPECT_FALSE(test, mmio_ext_kunit_knows_insn(vcpu, zeroes, 15));
	}
	KUNIT_EXPECT_EQ(test, mmio_ext_kunit_complete_load(vcpu), -EIO);
}

static void fresh_state_knows_nothing(struct kunit *test)
{
	struct mmio_ext_kunit_vm *vm = test->priv;
	static struct kvm_io_bus no_devices;

	guard(srcu)(&vm->kvm.srcu);

	/* The MMIO bus was lost. */
	expect_ignorance(test, &vm->vcpus[0]);

	/* The MMIO bus is as after KVM_CREATE_VM. */
	RCU_INIT_POINTER(vm->kvm.buses[KVM_MMIO_BUS], &no_devices);
	expect_ignorance(test, &vm->vcpus[1]);
}

static void pages_hold_until_memslots_change(struct kunit *test)
{
	struct mmio_ext_kunit_vm *vm = test->priv;
	struct kvm_vcpu *vcpu = &vm->vcpus[0];

	guard(srcu)(&vm->kvm.srcu);
	mmio_ext_kunit_set_generation(vm, GENERATION);
	vm->ops.cache_info(vcpu, GVA, GFN, ACC_ALL);
	vm->ops.cache_info(vcpu, 0, GFN + 1, ACC_ALL);
	KUNIT_EXPECT_TRUE(test, knows_gva(vm, vcpu, GVA + 0xabc));
	KUNIT_EXPECT_TRUE(test, knows_gpa(vm, vcpu, GPA + PAGE_SIZE));

	/* During a change nothing is found, nor remembered. */
	mmio_ext_kunit_set_generation(vm, GENERATION |
				      KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS);
	KUNIT_EXPECT_FALSE(test, knows_gva(vm, vcpu, GVA));
	vm->ops.cache_info(vcpu, 0, GFN + 2, ACC_ALL);
	KUNIT_EXPECT_FALSE(test, knows_gpa(vm, vcpu, GPA + 2 * PAGE_SIZE));

	mmio_ext_kunit_set_generation(vm, GENERATION + 2);
	KUNIT_EXPECT_FALSE(test, knows_gva(vm, vcpu, GVA));
	KUNIT_EXPECT_FALSE(test, knows_gpa(vm, vcpu, GPA + PAGE_SIZE));
	KUNIT_EXPECT_FALSE(test, knows_gpa(vm, vcpu, GPA + 2 * PAGE_SIZE));

	vm->ops.cache_info(vcpu, GVA, GFN, ACC_ALL);
	KUNIT_EXPECT_TRUE(test, knows_gva(vm, vcpu, GVA));
}

static void addresses_hold_until_translations_change(struct kunit *test)
{
	struct mmio_ext_kunit_vm *vm = test->priv;
	struct kvm_vcpu *vcpu = &vm->vcpus[0], *other = &vm->vcpus[1];

	guard(srcu)(&vm->kvm.srcu);
	vm->ops.cache_info(vcpu, GVA, GFN, ACC_ALL);
	vm->ops.cache_info(vcpu, GVA + PAGE_SIZE, GFN + 1, ACC_ALL);
	vm->ops.cache_info(vcpu, 0, GFN + 2, ACC_ALL);
	/* Without paging both addresses are the same. */
	vm->ops.cache_info(vcpu, GPA + 3 * PAGE_SIZE, GFN + 3, ACC_ALL);
	vm->ops.cache_info(other, GVA, GFN, ACC_ALL);

	/* INVLPG */
	vm->ops.clear_info(vcpu, GVA + 0xabc);
	KUNIT_EXPECT_FALSE(test, knows_gva(vm, vcpu, GVA));
	KUNIT_EXPECT_TRUE(test, knows_gva(vm, vcpu, GVA + PAGE_SIZE));
	KUNIT_EXPECT_TRUE(test, knows_gva(vm, other, GVA));

	/* A switch of CR3 */
	vm->ops.clear_info(vcpu, MMIO_GVA_ANY);
	KUNIT_EXPECT_FALSE(test, knows_gva(vm, vcpu, GVA + PAGE_SIZE));
	KUNIT_EXPECT_FALSE(test, knows_gva(vm, vcpu, GPA + 3 * PAGE_SIZE));
	KUNIT_EXPECT_TRUE(test, knows_gva(vm, other, GVA));

	/* The frames are MMIO as before. */
	KUNIT_EXPECT_TRUE(test, knows_gpa(vm, vcpu, GPA + 2 * PAGE_SIZE));
	KUNIT_EXPECT_TRUE(test, knows_gpa(vm, vcpu, GPA + 3 * PAGE_SIZE));
}

static void addresses_of_l2_are_not_kept(struct kunit *test)
{
	struct mmio_ext_kunit_vm *vm = test->priv;
	struct kvm_vcpu *vcpu = &vm->vcpus[0];

	guard(srcu)(&vm->kvm.srcu);
	vm->ops.cache_info(vcpu, GVA, GFN, ACC_ALL);

	vcpu->arch.guest_mmu.w = &vcpu->arch.gva_walk;
	vcpu->arch.guest_mmu.root.hpa = INVALID_PAGE;
	vcpu->arch.mmu = &vcpu->arch.guest_mmu;
	vm->ops.cache_info(vcpu, GVA + PAGE_SIZE, GFN + 1, ACC_ALL);
	KUNIT_EXPECT_FALSE(test, knows_gva(vm, vcpu, GVA));
	KUNIT_EXPECT_FALSE(test, knows_gva(vm, vcpu, GVA + PAGE_SIZE));

	vcpu->arch.mmu = &vcpu->arch.root_mmu;
	KUNIT_EXPECT_TRUE(test, knows_gva(vm, vcpu, GVA));
	KUNIT_EXPECT_FALSE(test, knows_gva(vm, vcpu, GVA + PAGE_SIZE));
	KUNIT_EXPECT_TRUE(test, knows_gpa(vm, vcpu, GPA + PAGE_SIZE));
}

/* What KVM would offer an access to: ranges that hold all of it, or begin there. */
static void vacant_is_where_kvm_finds_no_device(struct kunit *test)
{
	struct mmio_ext_kunit_vm *vm = test->priv;
	struct kvm_vcpu *vcpu = &vm->vcpus[0];
	DEFINE_RAW_FLEX(struct kvm_io_bus, bus, range, 2);

	guard(srcu)(&vm->kvm.srcu);
	RCU_INIT_POINTER(vm->kvm.buses[KVM_MMIO_BUS], bus);
	KUNIT_EXPECT_TRUE(test, mmio_ext_kunit_is_vacant(vcpu, GPA, 4));

	bus->range[0].addr = GPA;
	bus->range[0].len = 4;
	bus->range[1].addr = GPA + 8;
	bus->dev_count = 2;
	KUNIT_EXPECT_FALSE(test, mmio_ext_kunit_is_vacant(vcpu, GPA, 4));
	KUNIT_EXPECT_FALSE(test, mmio_ext_kunit_is_vacant(vcpu, GPA + 2, 2));
	KUNIT_EXPECT_TRUE(test, mmio_ext_kunit_is_vacant(vcpu, GPA, 8));
	KUNIT_EXPECT_TRUE(test, mmio_ext_kunit_is_vacant(vcpu, GPA + 2, 4));
	KUNIT_EXPECT_TRUE(test, mmio_ext_kunit_is_vacant(vcpu, GPA + 4, 4));
	KUNIT_EXPECT_TRUE(test, mmio_ext_kunit_is_vacant(vcpu, GPA + 6, 4));
	KUNIT_EXPECT_FALSE(test, mmio_ext_kunit_is_vacant(vcpu, GPA + 8, 1));
	KUNIT_EXPECT_FALSE(test, mmio_ext_kunit_is_vacant(vcpu, GPA + 8, 8));
	KUNIT_EXPECT_TRUE(test, mmio_ext_kunit_is_vacant(vcpu, GPA + 9, 1));

	/* A device goes, and nobody has to be told. */
	bus->dev_count = 1;
	KUNIT_EXPECT_TRUE(test, mmio_ext_kunit_is_vacant(vcpu, GPA + 8, 8));
	RCU_INIT_POINTER(vm->kvm.buses[KVM_MMIO_BUS], NULL);
}

static void instructions_hold_as_long_as_their_bytes(struct kunit *test)
{
	struct mmio_ext_kunit_vm *vm = test->priv;
	struct kvm_vcpu *vcpu = &vm->vcpus[0];
	/* mov %ecx, (%rax) */
	u8 insn[15] = { 0x89, 0x08 };

	guard(srcu)(&vm->kvm.srcu);
	vcpu->arch.rip = 0x401000;
	KUNIT_EXPECT_FALSE(test, mmio_ext_kunit_knows_insn(vcpu, insn, 15));
	mmio_ext_kunit_fetch(vcpu, insn, 15);
	KUNIT_EXPECT_TRUE(test, mmio_ext_kunit_knows_insn(vcpu, insn, 15));

	/* What follows is no part of it. */
	insn[2] = 0xcc;
	insn[14] = 0xcc;
	KUNIT_EXPECT_TRUE(test, mmio_ext_kunit_knows_insn(vcpu, insn, 15));
	insn[1] = 0x48;
	KUNIT_EXPECT_FALSE(test, mmio_ext_kunit_knows_insn(vcpu, insn, 15));
	insn[1] = 0x08;

	/* So many have been executed, what is behind them is of an earlier exit. */
	KUNIT_EXPECT_TRUE(test, mmio_ext_kunit_knows_insn(vcpu, insn, 2));
	KUNIT_EXPECT_FALSE(test, mmio_ext_kunit_knows_insn(vcpu, insn, 1));
	KUNIT_EXPECT_FALSE(test, mmio_ext_kunit_knows_insn(vcpu, insn, 0));

	/* Where it was translated from nobody knows. */
	KUNIT_EXPECT_FALSE(test, mmio_ext_kunit_knows_insn(vcpu, NULL, 0));

	vcpu->arch.rip++;
	KUNIT_EXPECT_FALSE(test, mmio_ext_kunit_knows_insn(vcpu, insn, 15));
	vm->vcpus[1].arch.rip = 0x401000;
	KUNIT_EXPECT_FALSE(test, mmio_ext_kunit_knows_insn(&vm->vcpus[1], insn, 15));
}

/* Whether a fault is passed to KVM; if not, the extension handles it. */
static bool is_passed(struct kunit *test, bool npf, u64 error_code)
{
	struct mmio_ext_kunit_vm *vm = test->priv;
	struct kvm_vcpu *vcpu = &vm->vcpus[0];
	u64 handled, passed, handled_after, passed_after;
	int r;

	mmio_ext_kunit_faults(vcpu, &handled, &passed);
	if (npf)
		r = vm->ops.npf(vcpu, GPA, error_code, NULL, 0, 0);
	else
		r = vm->ops.shadow_fault(vcpu, GVA, error_code, NULL, 0, 0);
	mmio_ext_kunit_faults(vcpu, &handled_after, &passed_after);

	/* One of the two, and what KVM is told agrees. */
	KUNIT_EXPECT_EQ(test, handled_after - handled, r != KVM_MMIO_EXT_PASS);
	KUNIT_EXPECT_EQ(test, passed_after - passed, r == KVM_MMIO_EXT_PASS);
	return r == KVM_MMIO_EXT_PASS;
}

/*
 * Fetches, walks of the guest's page tables (APM volume 2, 15.25.6: the access is
 * the walk's), faults of encrypted or private memory, of SGX, and whatever a bit
 * may mean one day have more to them than MMIO.
 */
static void faults_that_say_more_are_passed(struct kunit *test)
{
	const u64 taken = PFERR_PRESENT_MASK | PFERR_WRITE_MASK | PFERR_USER_MASK |
			  PFERR_RSVD_MASK | PFERR_GUEST_FINAL_MASK;
	struct mmio_ext_kunit_vm *vm = test->priv;
	int npf, bit;

	guard(srcu)(&vm->kvm.srcu);
	for (npf = 0; npf < 2; npf++) {
		for (bit = 0; bit < 64; bit++) {
			const u64 mask = BIT_ULL(bit);

			KUNIT_EXPECT_EQ_MSG(test, is_passed(test, npf, PFERR_RSVD_MASK | mask),
					    !(taken & mask), "npf %d, bit %d", npf, bit);
			KUNIT_EXPECT_EQ_MSG(test, is_passed(test, npf, taken | mask),
					    !(taken & mask), "npf %d, bit %d", npf, bit);
		}
	}
}

static void state_goes_with_the_vcpu(struct kunit *test)
{
	struct mmio_ext_kunit_vm *vm = test->priv;
	struct kvm_vcpu *vcpu = &vm->vcpus[0], *other = &vm->vcpus[1];
	unsigned int vms = mmio_ext_kunit_vms();
	u8 insn[15] = { 0x89, 0x08 };

	guard(srcu)(&vm->kvm.srcu);
	vm->ops.cache_info(vcpu, GVA, GFN, ACC_ALL);
	vm->ops.cache_info(other, GVA, GFN, ACC_ALL);
	mmio_ext_kunit_fetch(vcpu, insn, 15);

	vm->ops.vcpu_free(vcpu);
	KUNIT_EXPECT_PTR_EQ(test, vcpu->arch.mmio_ext, NULL);
	/* The VM is there as long as it has another. */
	KUNIT_EXPECT_EQ(test, mmio_ext_kunit_vms(), vms + 1);
	KUNIT_EXPECT_TRUE(test, knows_gva(vm, other, GVA));

	vm->ops.vcpu_free(other);
	KUNIT_EXPECT_EQ(test, mmio_ext_kunit_vms(), vms);

	/* The next vCPU there begins from nothing. */
	KUNIT_EXPECT_FALSE(test, mmio_ext_kunit_knows_insn(vcpu, insn, 15));
	KUNIT_EXPECT_FALSE(test, knows_gva(vm, vcpu, GVA));
	KUNIT_EXPECT_EQ(test, mmio_ext_kunit_vms(), vms + 1);
}

#ifdef CONFIG_FAILSLAB
/* The value of @call, in which allocation number @nth fails. */
#define failing(nth, call)	\
({				\
	int __r;		\
				\
	current->fail_nth = nth;\
	__r = call;		\
	current->fail_nth = 0;	\
	__r;			\
})

/* All callbacks that make state, and what they answer if it cannot be had. */
static void expect_c_goes_on(struct kunit *test, struct kvm_vcpu *vcpu,
			     unsigned int nth)
{
	struct mmio_ext_kunit_vm *vm = test->priv;
	const u64 rsvd = PFERR_RSVD_MASK;
	const u64 write = PFERR_WRITE_MASK | PFERR_GUEST_FINAL_MASK;
	int r;

	r = failing(nth, vm->ops.ept_misconfig(vcpu, GPA, 0));
	KUNIT_EXPECT_EQ(test, r, KVM_MMIO_EXT_PASS);
	r = failing(nth, vm->ops.npf(vcpu, GPA, rsvd, NULL, 0, 0));
	KUNIT_EXPECT_EQ(test, r, KVM_MMIO_EXT_PASS);
	r = failing(nth, vm->ops.shadow_fault(vcpu, GVA, rsvd, NULL, 0, 0));
	KUNIT_EXPECT_EQ(test, r, KVM_MMIO_EXT_PASS);
	r = failing(nth, vm->ops.write_fault(vcpu, GPA, write, NULL, 0, 0));
	KUNIT_EXPECT_EQ(test, r, KVM_MMIO_EXT_PASS);

	current->fail_nth = nth;
	vm->ops.cache_info(vcpu, GVA, GFN, ACC_ALL);
	current->fail_nth = 0;
	KUNIT_EXPECT_PTR_EQ(test, vcpu->arch.mmio_ext, NULL);
}
#endif

/* Every slab allocation of a first access fails in turn. */
static void without_memory_c_goes_on(struct kunit *test)
{
#ifdef CONFIG_FAILSLAB
	struct mmio_ext_kunit_vm *vm = test->priv;
	struct kvm_vcpu *vcpu = &vm->vcpus[0];
	unsigned int vms = mmio_ext_kunit_vms(), nth, left, failed = 0;

	guard(srcu)(&vm->kvm.srcu);
	for (nth = 1, left = 0; !left; nth++) {
		int r;

		current->fail_nth = nth;
		r = first_access(vm, vcpu);
		left = current->fail_nth;
		current->fail_nth = 0;

		/* Some allocations are tried in another way if they fail. */
		if (vcpu->arch.mmio_ext) {
			KUNIT_EXPECT_EQ(test, r, RET_PF_RETRY);
			vm->ops.vcpu_free(vcpu);
			continue;
		}
		KUNIT_EXPECT_EQ(test, r, RET_PF_CONTINUE);
		KUNIT_EXPECT_EQ(test, mmio_ext_kunit_vms(), vms);
		expect_c_goes_on(test, vcpu, nth);
		failed++;
	}
	kunit_info(test, "%u of %u allocations left no state\n", failed, nth - 2);
	KUNIT_EXPECT_GT_MSG(test, failed, 0,
			    "failslab/ignore-gfp-wait must be N, see selftests/kunit.sh");

	KUNIT_EXPECT_EQ(test, first_access(vm, vcpu), RET_PF_RETRY);
	KUNIT_EXPECT_NOT_NULL(test, vcpu->arch.mmio_ext);
	KUNIT_EXPECT_EQ(test, mmio_ext_kunit_vms(), vms + 1);
#else
	kunit_skip(test, "the kernel cannot let allocations fail (CONFIG_FAILSLAB)");
#endif
}

static struct kunit_case vcpu_cases[] = {
	KUNIT_CASE(state_is_made_with_the_first_access),
	KUNIT_CASE(fresh_state_knows_nothing),
	KUNIT_CASE(pages_hold_until_memslots_change),
	KUNIT_CASE(addresses_hold_until_translations_change),
	KUNIT_CASE(addresses_of_l2_are_not_kept),
	KUNIT_CASE(vacant_is_where_kvm_finds_no_device),
	KUNIT_CASE(instructions_hold_as_long_as_their_bytes),
	KUNIT_CASE(faults_that_say_more_are_passed),
	KUNIT_CASE(state_goes_with_the_vcpu),
	KUNIT_CASE(without_memory_c_goes_on),
	{}
};

struct kunit_suite mmio_ext_kunit_vcpu_suite = {
	.name = "kvm_mmio_ext_vcpu",
	.init = vcpu_init,
	.test_cases = vcpu_cases,
};
EXPORT_SYMBOL_IF_KUNIT(mmio_ext_kunit_vcpu_suite);
