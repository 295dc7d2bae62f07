// SPDX-License-Identifier: GPL-2.0
/*
 * Registers that answer by themselves, /dev/kvm_mmio_registers: what the guest's accesses do to the
 * words of userspace, which of them signal, and what each wrong field of a request gives.
 * Documentation/registers.rst says what must hold.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/compiler.h>

#include "kselftest.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#include "kvm_mmio_register.h"

#define DEVICE		"/dev/kvm_mmio_registers"

#define MMIO_GVA	0xc0000000ul
#define MMIO_GPA	0xd0000000ul

/* Rounds: the first one makes MMIO SPTEs, the second is remembered, the third known. */
#define ROUNDS		3

enum {
	TAIL	= 0x00,	/* stores 4 bytes, each write signals */
	STATUS	= 0x08,	/* returns 4 bytes, */
	ACK	= 0x0c,	/* of which this clears those that are written, and signals a change */
	MASK	= 0x10,	/* sets bits of 8 bytes, 1 signals; a read clears */
	SHORT	= 0x18,	/* stores and returns 2 bytes */
	NOTHING	= 0x20,
};

struct words {
	u32 tail;
	u32 status;
	u64 mask;
	u16 brief;
};

static void guest_code(void)
{
	void *mmio = (void *)MMIO_GVA;

	for (u32 round = 0; round < ROUNDS; round++) {
		WRITE_ONCE(*(u32 *)(mmio + TAIL), 0x100 + round);
		WRITE_ONCE(*(u16 *)(mmio + SHORT), 0x2200 + round);
		GUEST_ASSERT_EQ(READ_ONCE(*(u16 *)(mmio + SHORT)), 0x2200 + round);
		GUEST_SYNC(0);

		/* Userspace has set 3. */
		GUEST_ASSERT_EQ(READ_ONCE(*(u32 *)(mmio + STATUS)), 3);
		WRITE_ONCE(*(u32 *)(mmio + ACK), 1);
		GUEST_ASSERT_EQ(READ_ONCE(*(u32 *)(mmio + STATUS)), 2);
		/* Changes nothing, so it does not signal. */
		WRITE_ONCE(*(u32 *)(mmio + ACK), 1);
		WRITE_ONCE(*(u32 *)(mmio + ACK), 6);
		GUEST_SYNC(1);

		WRITE_ONCE(*(u64 *)(mmio + MASK), 1ul << 63);
		WRITE_ONCE(*(u64 *)(mmio + MASK), 1);
		GUEST_ASSERT_EQ(READ_ONCE(*(u64 *)(mmio + MASK)), 1ul << 63 | 1);
		GUEST_ASSERT_EQ(READ_ONCE(*(u64 *)(mmio + MASK)), 0);
		GUEST_SYNC(2);

		/* Parts of registers are none of them. */
		WRITE_ONCE(*(u8 *)(mmio + TAIL), 0x77);
		WRITE_ONCE(*(u32 *)(mmio + NOTHING), 0x88);
	}
	GUEST_DONE();
}

static void add(int fd, struct kvm_mmio_register reg)
{
	TEST_ASSERT(!ioctl(fd, KVM_MMIO_REGISTER_ADD, &reg),
		    "adding a register at 0x%llx failed, errno %d", reg.gpa, errno);
}

static void refuse(int fd, struct kvm_mmio_register reg, int wanted, const char *why)
{
	int ret = ioctl(fd, KVM_MMIO_REGISTER_ADD, &reg);

	TEST_ASSERT(ret == -1 && errno == wanted, "%s: returned %d, errno %d, wanted errno %d",
		    why, ret, errno, wanted);
}

static u64 rings(int event)
{
	u64 count = 0;

	return read(event, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

static void expect_sync(struct kvm_vcpu *vcpu, u64 stage)
{
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT(vcpu->run->exit_reason != KVM_EXIT_MMIO,
		    "an access to 0x%llx has exited", vcpu->run->mmio.phys_addr);
	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		TEST_ASSERT_EQ(uc.args[1], stage);
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("ucall %lu, wanted stage %lu", (unsigned long)uc.cmd, (unsigned long)stage);
	}
}

static void expect_exit(struct kvm_vcpu *vcpu, u64 gpa, u32 len)
{
	struct kvm_run *run = vcpu->run;

	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MMIO);
	TEST_ASSERT(run->mmio.phys_addr == gpa && run->mmio.len == len && run->mmio.is_write,
		    "gpa 0x%llx, len %u, is_write %u", run->mmio.phys_addr, run->mmio.len,
		    run->mmio.is_write);
}

static void run_round(struct kvm_vcpu *vcpu, struct words *words, int event, u32 round)
{
	expect_sync(vcpu, 0);
	TEST_ASSERT_EQ(READ_ONCE(words->tail), 0x100 + round);
	TEST_ASSERT_EQ(READ_ONCE(words->brief), 0x2200 + round);
	TEST_ASSERT_EQ(rings(event), 1);

	WRITE_ONCE(words->status, 3);
	expect_sync(vcpu, 1);
	TEST_ASSERT_EQ(READ_ONCE(words->status), 0);
	TEST_ASSERT_EQ(rings(event), 2);

	expect_sync(vcpu, 2);
	TEST_ASSERT_EQ(READ_ONCE(words->mask), 0);
	TEST_ASSERT_EQ(rings(event), 1);

	expect_exit(vcpu, MMIO_GPA + TAIL, 1);
	expect_exit(vcpu, MMIO_GPA + NOTHING, 4);
	TEST_ASSERT_EQ(READ_ONCE(words->tail), 0x100 + round);
	TEST_ASSERT_EQ(rings(event), 0);
}

static void test_requests(int fd, struct kvm_mmio_register good)
{
	struct kvm_mmio_register_at at = { .gpa = good.gpa, .vm_fd = good.vm_fd };
	struct kvm_mmio_register bad;

#define REFUSE(field, value, wanted)						\
do {										\
	bad = good;								\
	bad.field = value;							\
	refuse(fd, bad, wanted, #field " = " #value);				\
} while (0)

	REFUSE(gpa, good.gpa + 1, EINVAL);
	REFUSE(user_addr, good.user_addr + 1, EINVAL);
	REFUSE(user_addr, 0, EFAULT);
	REFUSE(datamatch, 1, EINVAL);
	REFUSE(len, 3, EINVAL);
	REFUSE(vm_fd, -1, EBADF);
	REFUSE(vm_fd, good.event_fd, EINVAL);
	REFUSE(event_fd, -1, EINVAL);
	REFUSE(event_fd, good.vm_fd, EINVAL);
	REFUSE(on_write, KVM_MMIO_REGISTER_WRITE_EXIT, EINVAL);
	REFUSE(on_write, 4, EINVAL);
	REFUSE(on_read, 3, EINVAL);
	REFUSE(signal, 4, EINVAL);
	REFUSE(reserved[24], 1, EINVAL);

	add(fd, good);
	refuse(fd, good, EEXIST, "the same once more");
	TEST_ASSERT(!ioctl(fd, KVM_MMIO_REGISTER_REMOVE, &at), "removing, errno %d", errno);
	TEST_ASSERT(ioctl(fd, KVM_MMIO_REGISTER_REMOVE, &at) == -1 && errno == ENOENT,
		    "removing twice, errno %d", errno);
}

int main(void)
{
	struct kvm_mmio_register reg = { .len = 4 };
	struct kvm_vcpu *vcpu;
	struct words *words;
	struct kvm_vm *vm;
	struct ucall uc;
	int fd, event;

	/* The library loads the guest from this file, which PATH may have found. */
	program_invocation_name = "/proc/self/exe";

	fd = open(DEVICE, O_RDWR);
	if (fd < 0 && errno == ENOENT) {
		print_skip("the extension is not loaded, no " DEVICE);
		exit(KSFT_SKIP);
	}
	TEST_ASSERT(fd >= 0, "opening " DEVICE ", errno %d", errno);
	event = eventfd(0, EFD_NONBLOCK);
	TEST_ASSERT(event >= 0, "eventfd(), errno %d", errno);
	words = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(words != MAP_FAILED, "mmap(), errno %d", errno);

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	virt_map(vm, MMIO_GVA, MMIO_GPA, 1);
	reg.vm_fd = vm->fd;

	reg.gpa = MMIO_GPA + TAIL;
	reg.user_addr = (uintptr_t)&words->tail;
	reg.event_fd = event;
	reg.on_write = KVM_MMIO_REGISTER_WRITE_STORE;
	reg.signal = KVM_MMIO_REGISTER_SIGNAL_ALWAYS;
	test_requests(fd, reg);
	add(fd, reg);

	reg.gpa = MMIO_GPA + ACK;
	reg.user_addr = (uintptr_t)&words->status;
	reg.on_write = KVM_MMIO_REGISTER_WRITE_CLEAR;
	reg.signal = KVM_MMIO_REGISTER_SIGNAL_CHANGE;
	add(fd, reg);

	reg.gpa = MMIO_GPA + MASK;
	reg.user_addr = (uintptr_t)&words->mask;
	reg.len = 8;
	reg.datamatch = 1;
	reg.on_write = KVM_MMIO_REGISTER_WRITE_SET;
	reg.on_read = KVM_MMIO_REGISTER_READ_CLEAR;
	reg.signal = KVM_MMIO_REGISTER_SIGNAL_VALUE;
	add(fd, reg);

	reg = (struct kvm_mmio_register) {
		.gpa = MMIO_GPA + STATUS,
		.user_addr = (uintptr_t)&words->status,
		.len = 4,
		.vm_fd = vm->fd,
		.event_fd = -1,
		.on_read = KVM_MMIO_REGISTER_READ_RETURN,
	};
	add(fd, reg);

	reg.gpa = MMIO_GPA + SHORT;
	reg.user_addr = (uintptr_t)&words->brief;
	reg.len = 2;
	reg.on_write = KVM_MMIO_REGISTER_WRITE_STORE;
	add(fd, reg);

	for (u32 round = 0; round < ROUNDS; round++)
		run_round(vcpu, words, event, round);
	vcpu_run(vcpu);
	TEST_ASSERT(get_ucall(vcpu, &uc) == UCALL_DONE, "ucall %lu, wanted UCALL_DONE",
		    (unsigned long)uc.cmd);

	kvm_vm_free(vm);
	close(fd);
	return 0;
}
