// SPDX-License-Identifier: GPL-2.0
/*
 * Emulated MMIO as userspace sees it: one KVM_EXIT_MMIO for each fragment of at most 8 bytes, with
 * the right GPA, length, direction and data, in the order of the guest's accesses.
 *
 * Seed functions at work: handle_mmio_page_fault_common, get_mmio_spte_gfn.
 */
#include <errno.h>

#include <linux/compiler.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#include "mmio_stats.h"

#define MMIO_GVA	0xc0000000ul
#define FIRST_GPA	0xd0000000ul
/* The guest's next page, but not the host's. */
#define SECOND_GPA	0xd0005000ul

#define VALUE		0x8877665544332211ul

/* One expected exit. */
struct exit {
	u64 gpa;
	u32 len;
	bool is_write;
	/* What the guest writes, or what userspace answers. */
	u64 val;
};

static void guest_code(void)
{
	void *mmio = (void *)MMIO_GVA;
	void *end = mmio + PAGE_SIZE;
	u64 val;

	/* Twice: the first time makes the MMIO SPTEs. */
	for (int i = 0; i < 2; i++) {
		WRITE_ONCE(*(u8 *)mmio, (u8)VALUE);
		WRITE_ONCE(*(u16 *)(mmio + 2), (u16)VALUE);
		WRITE_ONCE(*(u32 *)(mmio + 4), (u32)VALUE);
		WRITE_ONCE(*(u64 *)(mmio + 8), VALUE);

		GUEST_ASSERT_EQ(READ_ONCE(*(u8 *)mmio), 0x71);
		GUEST_ASSERT_EQ(READ_ONCE(*(u16 *)mmio), 0x7172);
		GUEST_ASSERT_EQ(READ_ONCE(*(u32 *)mmio), 0x71727374);
		GUEST_ASSERT_EQ(READ_ONCE(*(u64 *)mmio), 0x7172737475767778);

		/* Over two pages, by one instruction. */
		asm volatile("movq %0, (%1)" :: "r"(VALUE), "r"(end - 3) : "memory");
		asm volatile("movq (%1), %0" : "=r"(val) : "r"(end - 3) : "memory");
		GUEST_ASSERT_EQ(val, 0x2122232425131415);

		/* Read, then written. */
		asm volatile("lock orl %0, (%1)" :: "r"(0x0f), "r"(mmio) : "memory");
	}
	GUEST_DONE();
}

static const struct exit exits[] = {
	{ FIRST_GPA,      1, true,  0x11 },
	{ FIRST_GPA + 2,  2, true,  0x2211 },
	{ FIRST_GPA + 4,  4, true,  0x44332211 },
	{ FIRST_GPA + 8,  8, true,  VALUE },

	{ FIRST_GPA,      1, false, 0x71 },
	{ FIRST_GPA,      2, false, 0x7172 },
	{ FIRST_GPA,      4, false, 0x71727374 },
	{ FIRST_GPA,      8, false, 0x7172737475767778 },

	{ FIRST_GPA + PAGE_SIZE - 3, 3, true,  0x332211 },
	{ SECOND_GPA,                5, true,  0x8877665544 },
	{ FIRST_GPA + PAGE_SIZE - 3, 3, false, 0x131415 },
	{ SECOND_GPA,                5, false, 0x2122232425 },

	{ FIRST_GPA,      4, false, 0x71727370 },
	{ FIRST_GPA,      4, true,  0x7172737f },
};

static void check_exit(struct kvm_vcpu *vcpu, int round, int nr)
{
	const struct exit *want = &exits[nr];
	struct kvm_run *run = vcpu->run;
	u64 val = 0;

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MMIO);
	TEST_ASSERT(run->mmio.phys_addr == want->gpa &&
		    run->mmio.len == want->len &&
		    run->mmio.is_write == want->is_write,
		    "round %d, exit %d: gpa 0x%llx, len %u, is_write %u; wanted 0x%lx, %u, %u",
		    round, nr, run->mmio.phys_addr, run->mmio.len, run->mmio.is_write,
		    (unsigned long)want->gpa, want->len, want->is_write);

	if (!want->is_write) {
		memcpy(run->mmio.data, &want->val, want->len);
		return;
	}
	memcpy(&val, run->mmio.data, want->len);
	TEST_ASSERT(val == want->val, "round %d, exit %d: wrote 0x%lx, wanted 0x%lx",
		    round, nr, (unsigned long)val, (unsigned long)want->val);
}

int main(void)
{
	u64 passed = mmio_ext_stat("passed"), faults = mmio_ext_stat("faults");
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	struct ucall uc;

	/* The library loads the guest from this file, which PATH may have found. */
	program_invocation_name = "/proc/self/exe";

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	virt_map(vm, MMIO_GVA, FIRST_GPA, 1);
	virt_map(vm, MMIO_GVA + PAGE_SIZE, SECOND_GPA, 1);

	for (int round = 0; round < 2; round++) {
		for (int nr = 0; nr < ARRAY_SIZE(exits); nr++) {
			vcpu_run(vcpu);
			if (get_ucall(vcpu, &uc) == UCALL_ABORT)
				REPORT_GUEST_ASSERT(uc);
			check_exit(vcpu, round, nr);
		}
	}
	vcpu_run(vcpu);
	switch (get_ucall(vcpu, &uc)) {
	case UCALL_DONE:
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("ucall %lu, wanted UCALL_DONE = %u", (unsigned long)uc.cmd, UCALL_DONE);
	}


	passed = mmio_ext_stat("passed") - passed;
	faults = mmio_ext_stat("faults") - faults;
	TEST_ASSERT(!passed, "the C path took %lu MMIO faults, the extension %lu",
		    (unsigned long)passed, (unsigned long)faults);
	if (mmio_ext_on() && get_kvm_param_bool("mmio_caching"))
		TEST_ASSERT(faults, "the extension took %lu MMIO faults, wanted some",
			    (unsigned long)faults);

	kvm_vm_free(vm);
	return 0;
}
