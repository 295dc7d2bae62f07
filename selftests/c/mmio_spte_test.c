// SPDX-License-Identifier: GPL-2.0
/*
 * MMIO SPTEs and memslots: a page without a memslot gets one MMIO SPTE, and stops being MMIO for
 * every vCPU as soon as KVM_SET_USER_MEMORY_REGION has put a memslot there; and the reverse.
 *
 * Seed functions at work: mark_mmio_spte, set_mmio_spte, is_mmio_spte,
 * handle_mmio_page_fault_common.
 */
#include <errno.h>

#include <linux/compiler.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#include "mmio_stats.h"

#define HOLE_GPA	0xc0000000ul
#define HOLE_SLOT	10
#define HOLE_PAGES	1

/* A GPA that no test touches, for a memslot whose only effect is a new generation. */
#define OTHER_GPA	0xe0000000ul
#define OTHER_SLOT	11

#define NR_VCPUS	2
#define ROUNDS		4

#define MMIO_VAL(round)	(0xaaaa000000000000ul + (round))
#define RAM_VAL(round)	(0x5555000000000000ul + (round))

/* Reads the page for ever, and reports each value. */
static void guest_code(void)
{
	for (;;)
		GUEST_SYNC1(READ_ONCE(*(u64 *)HOLE_GPA));
}

static u64 reported_value(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT(get_ucall(vcpu, &uc) == UCALL_SYNC,
		    "vCPU %u: ucall %lu, wanted %u", vcpu->id,
		    (unsigned long)uc.cmd, UCALL_SYNC);
	return uc.args[0];
}

/* The guest's next read must exit. */
static void read_mmio(struct kvm_vcpu *vcpu, u64 val)
{
	struct kvm_run *run = vcpu->run;
	u64 got;

	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MMIO);
	TEST_ASSERT(run->mmio.phys_addr == HOLE_GPA && run->mmio.len == 8 &&
		    !run->mmio.is_write,
		    "vCPU %u: MMIO exit at 0x%llx, len %u, is_write %u; wanted 0x%lx, 8, 0",
		    vcpu->id, run->mmio.phys_addr, run->mmio.len,
		    run->mmio.is_write, HOLE_GPA);

	memcpy(run->mmio.data, &val, sizeof(val));
	vcpu_run(vcpu);
	got = reported_value(vcpu);
	TEST_ASSERT(got == val, "vCPU %u: MMIO read gave 0x%lx, wanted 0x%lx",
		    vcpu->id, (unsigned long)got, (unsigned long)val);
}

/* The guest's next read must not exit. */
static void read_ram(struct kvm_vcpu *vcpu, u64 val)
{
	u64 got;

	vcpu_run(vcpu);
	got = reported_value(vcpu);
	TEST_ASSERT(got == val, "vCPU %u: RAM read gave 0x%lx, wanted 0x%lx",
		    vcpu->id, (unsigned long)got, (unsigned long)val);
}

struct counters {
	u64 kvm_made;	/* KVM's pf_mmio_spte_created, of one vCPU */
	u64 made;	/* the extension's, of the whole machine */
	u64 faults;
	u64 passed;
	u64 stale;
};

static struct counters read_counters(struct kvm_vcpu *vcpu)
{
	return (struct counters) {
		.kvm_made = vcpu_get_stat(vcpu, pf_mmio_spte_created),
		.made = mmio_ext_stat("spte_made"),
		.faults = mmio_ext_stat("faults"),
		.passed = mmio_ext_stat("passed"),
		.stale = mmio_ext_stat("spte_stale"),
	};
}

/* What one more MMIO read of @vcpu must count. */
static void count_read_mmio(struct kvm_vcpu *vcpu, u64 val, u64 made, u64 faults, u64 stale)
{
	struct counters before = read_counters(vcpu), after;
	bool on = mmio_ext_on();

	read_mmio(vcpu, val);
	after = read_counters(vcpu);

	TEST_ASSERT(after.kvm_made - before.kvm_made == made,
		    "pf_mmio_spte_created: %lu, then %lu, wanted %lu more",
		    (unsigned long)before.kvm_made, (unsigned long)after.kvm_made,
		    (unsigned long)made);
	TEST_ASSERT(after.made - before.made == (on ? made : 0) &&
		    after.faults - before.faults == (on ? faults : 0) &&
		    after.stale - before.stale == (on ? stale : 0) &&
		    after.passed == before.passed,
		    "spte_made %lu -> %lu, faults %lu -> %lu, spte_stale %lu -> %lu, passed %lu -> %lu; wanted %lu, %lu, %lu, 0 more, extension on: %d",
		    (unsigned long)before.made, (unsigned long)after.made,
		    (unsigned long)before.faults, (unsigned long)after.faults,
		    (unsigned long)before.stale, (unsigned long)after.stale,
		    (unsigned long)before.passed, (unsigned long)after.passed,
		    (unsigned long)made, (unsigned long)faults, (unsigned long)stale, on);
}

int main(void)
{
	/* Without MMIO SPTEs every access is an ordinary page fault. */
	const u64 one = get_kvm_param_bool("mmio_caching");
	struct kvm_vcpu *vcpus[NR_VCPUS];
	struct kvm_vm *vm;
	int round, i;
	u64 *hva;

	/* The library loads the guest from this file, which PATH may have found. */
	program_invocation_name = "/proc/self/exe";

	vm = vm_create_with_vcpus(NR_VCPUS, guest_code, vcpus);
	virt_map(vm, HOLE_GPA, HOLE_GPA, HOLE_PAGES);

	/* The first access makes the MMIO SPTE, the second finds it. */
	count_read_mmio(vcpus[0], 1, one, 0, 0);
	count_read_mmio(vcpus[0], 2, 0, one, 0);

	/* Another memslot makes it stale: one refault, and it is as before. */
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, OTHER_GPA,
				    OTHER_SLOT, HOLE_PAGES, 0);
	count_read_mmio(vcpus[0], 3, one, one, one);
	count_read_mmio(vcpus[0], 4, 0, one, 0);

	for (round = 0; round < ROUNDS; round++) {
		for (i = 0; i < NR_VCPUS; i++)
			read_mmio(vcpus[i], MMIO_VAL(round));

		vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, HOLE_GPA,
					    HOLE_SLOT, HOLE_PAGES, 0);
		hva = addr_gpa2hva(vm, HOLE_GPA);
		WRITE_ONCE(*hva, RAM_VAL(round));
		for (i = 0; i < NR_VCPUS; i++)
			read_ram(vcpus[i], RAM_VAL(round));

		vm_mem_region_delete(vm, HOLE_SLOT);
	}

	kvm_vm_free(vm);
	return 0;
}
