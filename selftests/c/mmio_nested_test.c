// SPDX-License-Identifier: GPL-2.0
/*
 * Emulated MMIO of a nested guest.  Userspace must see an access of L2 at the GPA that it has for
 * L1, whatever L2 calls it; and the same accesses whether the extension and its fast path are on
 * or off, also if they are switched at every exit.  The fast path must leave L2's accesses alone.
 *
 * Userspace answers for holes as memory would, so that a hole, and RAM in its place, cannot be
 * told apart by their contents: what the guests read is known at any time.
 *
 * Seed functions at work: handle_mmio_page_fault_common, walk_shadow_page_get_mmio_spte and
 * sync_mmio_spte, on page tables that shadow those of L1 for L2.
 *
 * More than 500 lines: L1, L2 and userspace share one state, `struct test`, and Makefile builds each
 * C test of one source file.
 */
#include <errno.h>
#include <sys/eventfd.h>

#include <linux/compiler.h>

#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "test_util.h"
#include "vmx.h"

#include "mmio_stats.h"

/* Pages without a memslot, by number. */
#define NR_HOLES	40
#define HOLE_GPA(hole)	(0xd0000000ul + (hole) * PAGE_SIZE)
#define HOLE_SLOT	10

#define PAGE_OFFSET(addr)	((unsigned long)(addr) & (PAGE_SIZE - 1))

/* The guests' pages.  ALIAS is, as a GVA, what FIRST is as a GPA of L2. */
#define FIRST		0xc0000000ul
#define SECOND		(FIRST + PAGE_SIZE)
#define WILDCARD	(FIRST + 2 * PAGE_SIZE)
#define ALIAS		HOLE_GPA(10)

/* Where L1 sees the nested page table that maps FIRST. */
#define NPT_GVA		0xb0000000ul

struct page {
	gva_t gva;
	/* Where it is for L1, and for L2 before nested paging. */
	int l1_hole;
	int l2_hole;
};

static const struct page pages[] = {
	{ FIRST,     0, 10 },
	{ SECOND,    5, 15 },
	{ WILDCARD, 10, 18 },
	{ ALIAS,    17, 17 },
};

/* With nested paging, L2's holes are others of L1's. */
#define NESTED_HOLE(hole)	((hole) + 20)
#define OTHER_HOLE		39

/* A doorbell, and the value that rings it. */
#define BELL		(FIRST + 0x40)
#define BELL_VAL	0xb311ul

/*
 * With nested paging, any write of L1 to WILDCARD rings, while the same GPA is L2's FIRST: KVM
 * must not take the one for the other when the processor reports a GPA of L2.
 */
#define WILDCARD_HOLE	10

enum op { READ, WRITE, OR, COPY };

struct access {
	enum op op;
	gva_t gva;
	u32 len;
	/* What is written, or the GVA to copy to. */
	u64 val;
};

static const struct access accesses[] = {
	{ WRITE, FIRST,        8, 0x8877665544332211 },
	{ WRITE, FIRST + 0x08, 4, 0xccbbaa99 },
	{ WRITE, FIRST + 0x0c, 2, 0xeedd },
	{ WRITE, FIRST + 0x0e, 1, 0xff },
	{ READ,  FIRST,        8 },
	{ READ,  FIRST + 0x0a, 4 },
	{ READ,  FIRST + 0x0d, 2 },
	{ READ,  FIRST + 0x0e, 1 },
	/* Two operands, one fault. */
	{ COPY,  FIRST + 0x04, 4, ALIAS + 0x20 },
	{ READ,  ALIAS + 0x20, 4 },
	{ WRITE, BELL,         4, BELL_VAL },
	{ WRITE, BELL,         4, BELL_VAL + 1 },
	{ WRITE, WILDCARD,     4, 0x11d },
	/* Over two pages, which are no neighbours. */
	{ WRITE, SECOND - 3,   8, 0x0123456789abcdef },
	{ READ,  SECOND - 3,   8 },
	{ OR,    SECOND + 0x10, 4, 0xf0f0 },
	{ READ,  SECOND + 0x10, 4 },
};

/* Shared with the guests. */
enum command { ACCESS_BY_L1, ACCESS_BY_L2, REMAP };

static enum command command;
static bool is_svm;
static u64 l2_cr3;
static u64 npt_offset, npt_entry;
static u64 results[ARRAY_SIZE(accesses)];

static u64 read_mmio(gva_t gva, u32 len)
{
	switch (len) {
	case 1:
		return READ_ONCE(*(u8 *)gva);
	case 2:
		return READ_ONCE(*(u16 *)gva);
	case 4:
		return READ_ONCE(*(u32 *)gva);
	default:
		return READ_ONCE(*(u64 *)gva);
	}
}

static void write_mmio(gva_t gva, u32 len, u64 val)
{
	switch (len) {
	case 1:
		WRITE_ONCE(*(u8 *)gva, val);
		break;
	case 2:
		WRITE_ONCE(*(u16 *)gva, val);
		break;
	case 4:
		WRITE_ONCE(*(u32 *)gva, val);
		break;
	default:
		WRITE_ONCE(*(u64 *)gva, val);
	}
}

static void access_all(void)
{
	for (int i = 0; i < ARRAY_SIZE(accesses); i++) {
		const struct access *access = &accesses[i];
		gva_t from = access->gva, to = access->val;

		switch (access->op) {
		case READ:
			results[i] = read_mmio(access->gva, access->len);
			break;
		case WRITE:
			write_mmio(access->gva, access->len, access->val);
			break;
		case OR:
			asm volatile("lock orl %1, %0" : "+m"(*(u32 *)access->gva) :
				     "r"((u32)access->val));
			break;
		case COPY:
			asm volatile("movsl" : "+S"(from), "+D"(to) :: "memory");
			break;
		}
	}
}

static void l2_code(void)
{
	access_all();
	if (is_svm)
		vmmcall();
	else
		vmcall();
	GUEST_FAIL("L1 has resumed L2 after its end");
}

/* L2 starts at its beginning each time. */
static void run_l2_svm(struct svm_test_data *svm)
{
	struct vmcb *vmcb = svm->vmcb;

	generic_svm_setup(svm, l2_code);
	vmcb->save.cr3 = l2_cr3;
	vmcb->control.tlb_ctl = TLB_CONTROL_FLUSH_ASID;
	run_guest(vmcb, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(vmcb->control.exit_code, SVM_EXIT_VMMCALL);
}

static void run_l2_vmx(struct vmx_pages *vmx)
{
	GUEST_ASSERT(load_vmcs(vmx));
	prepare_vmcs(vmx, l2_code);
	GUEST_ASSERT(!vmwrite(GUEST_CR3, l2_cr3));
	GUEST_ASSERT(!vmlaunch());
	GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
}

/* Intel's processors remember what nested page tables have said; of AMD's see tlb_ctl. */
static void remap_first(void)
{
	const struct { u64 eptp, reserved; } any = {};
	const u64 all_contexts = 2;

	WRITE_ONCE(*(u64 *)(NPT_GVA + npt_offset), npt_entry);
	if (!is_svm)
		asm volatile("invept %0, %1" :: "m"(any), "r"(all_contexts) : "cc", "memory");
}

static void l1_code(void *nested)
{
	if (!is_svm)
		GUEST_ASSERT(prepare_for_vmx_operation(nested));

	for (;;) {
		GUEST_SYNC(0);
		switch (READ_ONCE(command)) {
		case ACCESS_BY_L1:
			access_all();
			break;
		case ACCESS_BY_L2:
			if (is_svm)
				run_l2_svm(nested);
			else
				run_l2_vmx(nested);
			break;
		case REMAP:
			remap_first();
			break;
		}
	}
}

struct test {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	/* L2 has nested page tables. */
	bool tdp;
	/* The extension and its fast path are switched at every exit. */
	bool flips;
	unsigned int nr_exits;
	/* Where L2's FIRST is. */
	int l2_first;
	/* What is in the holes; the one that is RAM at the time. */
	u8 memory[NR_HOLES][PAGE_SIZE];
	int ram;
	/* Accesses to the holes, as heat has to know them. */
	u64 nr_accesses[NR_HOLES];
	int bell_fd[2], wildcard_fd;
	u64 bell_rings[2], wildcard_rings;
};

static void run(struct test *t)
{
	if (t->flips) {
		mmio_ext_set_switch(MMIO_EXT_ENABLED, t->nr_exits & 1);
		mmio_ext_set_switch(MMIO_EXT_FAST, t->nr_exits & 2);
	}
	t->nr_exits++;
	vcpu_run(t->vcpu);
}

/* L1 asks what to do next. */
static void run_to_sync(struct test *t)
{
	struct ucall uc;

	run(t);
	switch (get_ucall(t->vcpu, &uc)) {
	case UCALL_SYNC:
		return;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("exit %u, ucall %lu, wanted UCALL_SYNC", t->vcpu->run->exit_reason,
			  (unsigned long)uc.cmd);
	}
}

static void send(struct test *t, enum command what)
{
	command = what;
	sync_global_to_guest(t->vm, command);
}

/* The hole of L1 at which an access of L1 or L2 ends. */
static int hole_of(struct test *t, bool l2, gva_t gva)
{
	const struct page *page = pages;

	while (page->gva != (gva & PAGE_MASK))
		page++;
	if (!l2)
		return page->l1_hole;
	if (page->gva == FIRST)
		return t->l2_first;
	return t->tdp ? NESTED_HOLE(page->l2_hole) : page->l2_hole;
}

/* The counter of the doorbell that a write rings, if any. */
static u64 *rings(struct test *t, int hole, u32 offset, u32 len, u64 val)
{
	if (t->tdp && hole == WILDCARD_HOLE && offset == 0)
		return &t->wildcard_rings;
	if (offset != PAGE_OFFSET(BELL) || len != 4 || val != BELL_VAL)
		return NULL;
	if (hole == hole_of(t, false, FIRST))
		return &t->bell_rings[0];
	if (hole == hole_of(t, true, FIRST) && hole != OTHER_HOLE)
		return &t->bell_rings[1];
	return NULL;
}

static void expect_exit(struct test *t, u64 gpa, u32 len, bool is_write, const u8 *data)
{
	struct kvm_run *exit = t->vcpu->run;
	struct ucall uc;
	u64 want = 0;

	run(t);
	if (get_ucall(t->vcpu, &uc) == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
	TEST_ASSERT_KVM_EXIT_REASON(t->vcpu, KVM_EXIT_MMIO);
	memcpy(&want, data, len);
	TEST_ASSERT(exit->mmio.phys_addr == gpa && exit->mmio.len == len &&
		    exit->mmio.is_write == is_write &&
		    (!is_write || !memcmp(exit->mmio.data, data, len)),
		    "exit %u: gpa 0x%llx, len %u, is_write %u, data 0x%llx; wanted 0x%lx, %u, %u, 0x%lx",
		    t->nr_exits, exit->mmio.phys_addr, exit->mmio.len, exit->mmio.is_write,
		    *(unsigned long long *)exit->mmio.data, (unsigned long)gpa, len, is_write,
		    (unsigned long)want);
	if (!is_write)
		memcpy(exit->mmio.data, data, len);
}

/* What stays on one page of an access: an exit, a ring, or neither, as it is RAM. */
static void expect_fragment(struct test *t, int hole, u32 offset, u32 len, bool is_write, u8 *data)
{
	u8 *memory = t->memory[hole] + offset;
	u64 val = 0, *count = NULL;

	if (hole != t->ram) {
		t->nr_accesses[hole]++;
		memcpy(&val, data, len);
		if (is_write)
			count = rings(t, hole, offset, len, val);
		if (count) {
			++*count;
			return;
		}
		expect_exit(t, HOLE_GPA(hole) + offset, len, is_write, is_write ? data : memory);
	}

	if (is_write)
		memcpy(memory, data, len);
	else
		memcpy(data, memory, len);
}

static u64 expect(struct test *t, bool l2, gva_t gva, u32 len, bool is_write, u64 val)
{
	u32 room = PAGE_SIZE - PAGE_OFFSET(gva);
	u32 here = len < room ? len : room;
	u8 *data = (u8 *)&val;

	expect_fragment(t, hole_of(t, l2, gva), PAGE_OFFSET(gva), here, is_write, data);
	if (here < len)
		expect_fragment(t, hole_of(t, l2, gva + here), 0, len - here, is_write, data + here);
	return val;
}

static u64 expect_access(struct test *t, bool l2, const struct access *access)
{
	u64 val;

	switch (access->op) {
	case READ:
		return expect(t, l2, access->gva, access->len, false, 0);
	case WRITE:
		expect(t, l2, access->gva, access->len, true, access->val);
		return 0;
	case OR:
		val = expect(t, l2, access->gva, access->len, false, 0);
		expect(t, l2, access->gva, access->len, true, val | access->val);
		return 0;
	default:
		val = expect(t, l2, access->gva, access->len, false, 0);
		expect(t, l2, access->val, access->len, true, val);
		return 0;
	}
}

/* Has L1 or L2 do all accesses, and compares what they see and what userspace does. */
static void access_by(struct test *t, bool l2)
{
	u64 want[ARRAY_SIZE(accesses)];

	send(t, l2 ? ACCESS_BY_L2 : ACCESS_BY_L1);
	for (int i = 0; i < ARRAY_SIZE(accesses); i++)
		want[i] = expect_access(t, l2, &accesses[i]);
	run_to_sync(t);

	sync_global_from_guest(t->vm, results);
	for (int i = 0; i < ARRAY_SIZE(accesses); i++)
		TEST_ASSERT(accesses[i].op != READ || results[i] == want[i],
			    "L%d, access %d, at 0x%lx: read 0x%lx, wanted 0x%lx", l2 ? 2 : 1, i,
			    (unsigned long)accesses[i].gva, (unsigned long)results[i],
			    (unsigned long)want[i]);
}

/* What the lab's kernels can have the processor report, as in selftests/src/host.rs. */
enum silicon {
	SILICON_NO_NRIP = BIT(1),
	SILICON_CUT	= BIT(3),
};

static bool silicon_has(enum silicon rule)
{
	return !access("/sys/module/kvm/parameters/silicon", F_OK) &&
	       get_kvm_param_integer("silicon") & rule;
}

/* Whether KVM signals a zero-length ioeventfd of L1 on its own: on SVM it needs a next RIP. */
static bool kvm_skips_wildcards(void)
{
	return !is_svm || (get_kvm_amd_param_integer("nrips") && !silicon_has(SILICON_NO_NRIP));
}

/* Whether the fast path answers doorbells of L1 before interrupts are on again, if it is on. */
static bool rings_with_irqs_off(void)
{
	bool tdp = is_svm ? get_kvm_amd_param_bool("npt") : get_kvm_intel_param_bool("ept");

	return tdp && mmio_ext_switch(MMIO_EXT_IRQSOFF) && access("/sys/kernel/realtime", F_OK);
}

/* The same, when all pages have been accessed before: each access is one MMIO fault. */
static void count_access_by(struct test *t, bool l2)
{
	bool on = mmio_ext_on() && get_kvm_param_bool("mmio_caching");
	bool any_fast = on && !l2 && mmio_ext_switch(MMIO_EXT_FAST);
	u64 nr_faults = on ? ARRAY_SIZE(accesses) : 0;
	u64 faults = mmio_ext_stat("faults");
	u64 passed = mmio_ext_stat("passed");
	u64 fast = mmio_ext_stat("fast");
	bool any_early = any_fast && rings_with_irqs_off();
	u64 early = mmio_ext_stat("fast_irqsoff");

	/* Nobody hears of the one that KVM signals itself. */
	if (on && !l2 && !any_fast && t->tdp && kvm_skips_wildcards() &&
	    !mmio_ext_switch(MMIO_EXT_HEAT))
		nr_faults--;

	access_by(t, l2);
	if (t->flips)
		return;

	faults = mmio_ext_stat("faults") - faults;
	passed = mmio_ext_stat("passed") - passed;
	fast = mmio_ext_stat("fast") - fast;
	early = mmio_ext_stat("fast_irqsoff") - early;
	TEST_ASSERT(faults == nr_faults && !passed && !!fast == any_fast,
		    "L%d: faults %lu, passed %lu, fast %lu; wanted %lu, 0 and %s",
		    l2 ? 2 : 1, (unsigned long)faults, (unsigned long)passed,
		    (unsigned long)fast, (unsigned long)nr_faults, any_fast ? "some" : "0");
	/*
	 * Where the bytes of instructions may be cut short, the page of the code is looked for when
	 * they first are.  That may be with the one doorbell that is rung here.
	 */
	TEST_ASSERT(!!early == any_early || (any_early && silicon_has(SILICON_CUT)),
		    "L%d: %lu doorbells answered with interrupts off, wanted %s",
		    l2 ? 2 : 1, (unsigned long)early, any_early ? "some" : "0");
}

/* L1 maps L2's FIRST to another hole of its own. */
static void remap(struct test *t, int hole)
{
	u64 *pte = tdp_get_pte(t->vm, ALIAS);

	npt_entry = (*pte & ~PHYSICAL_PAGE_MASK) | HOLE_GPA(hole);
	sync_global_to_guest(t->vm, npt_entry);
	send(t, REMAP);
	run_to_sync(t);
	TEST_ASSERT_EQ(*pte, npt_entry);
	t->l2_first = hole;
}

/* A hole becomes RAM with the same contents. */
static void make_ram(struct test *t, int hole)
{
	vm_userspace_mem_region_add(t->vm, VM_MEM_SRC_ANONYMOUS, HOLE_GPA(hole), HOLE_SLOT, 1, 0);
	memcpy(addr_gpa2hva(t->vm, HOLE_GPA(hole)), t->memory[hole], PAGE_SIZE);
	t->ram = hole;
}

static void make_hole(struct test *t)
{
	TEST_ASSERT(!memcmp(addr_gpa2hva(t->vm, HOLE_GPA(t->ram)), t->memory[t->ram], PAGE_SIZE),
		    "the memory at 0x%lx is not what was written",
		    (unsigned long)HOLE_GPA(t->ram));
	vm_mem_region_delete(t->vm, HOLE_SLOT);
	t->ram = -1;
}

static int make_bell(struct test *t, u64 gpa, u32 len, u64 val)
{
	struct kvm_ioeventfd bell = {
		.fd = eventfd(0, EFD_NONBLOCK),
		.addr = gpa,
		.len = len,
		.datamatch = val,
		.flags = len ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0,
	};

	vm_ioctl(t->vm, KVM_IOEVENTFD, &bell);
	return bell.fd;
}

static void check_bell(int fd, u64 want, const char *name)
{
	u64 got = 0;

	TEST_ASSERT(read(fd, &got, sizeof(got)) == sizeof(got) || errno == EAGAIN,
		    "reading an eventfd: errno %d", errno);
	close(fd);
	TEST_ASSERT(got == want, "%s: %lu rings, wanted %lu", name, (unsigned long)got,
		    (unsigned long)want);
}

static void map_guest_pages(struct test *t)
{
	struct kvm_mmu *mmu = &t->vm->mmu;
	u64 root = mmu->pgd, *entry = &root;
	u64 *pte;

	for (int i = 0; i < ARRAY_SIZE(pages); i++)
		virt_map(t->vm, pages[i].gva, HOLE_GPA(pages[i].l1_hole), 1);

	/* L2 gets a copy of the tables on the way to FIRST, and its own entries there. */
	for (int level = mmu->pgtable_levels; level; level--) {
		gpa_t copy = vm_alloc_page_table(t->vm);
		u64 *table = addr_gpa2hva(t->vm, copy);

		memcpy(table, addr_gpa2hva(t->vm, PTE_GET_PA(*entry)), PAGE_SIZE);
		*entry = (*entry & ~PHYSICAL_PAGE_MASK) | copy;
		entry = &table[FIRST >> (PAGE_SHIFT + 9 * (level - 1)) & 511];
	}
	for (int i = 0; i < ARRAY_SIZE(pages); i++) {
		if (pages[i].gva == ALIAS)
			continue;
		pte = entry + (pages[i].gva - FIRST) / PAGE_SIZE;
		*pte = (*pte & ~PHYSICAL_PAGE_MASK) | HOLE_GPA(pages[i].l2_hole);
	}
	l2_cr3 = root;
}

static void map_nested_pages(struct test *t)
{
	u64 *pte;

	for (int i = 0; i < ARRAY_SIZE(pages); i++)
		tdp_map(t->vm, HOLE_GPA(pages[i].l2_hole),
			HOLE_GPA(NESTED_HOLE(pages[i].l2_hole)), PAGE_SIZE);
	pte = tdp_get_pte(t->vm, ALIAS);
	npt_offset = PAGE_OFFSET(pte);
	virt_map(t->vm, NPT_GVA, addr_hva2gpa(t->vm, pte) & PAGE_MASK, 1);
	/* Last: what L2 and its page tables use. */
	tdp_identity_map_default_memslots(t->vm);
}

static void start(struct test *t)
{
	gva_t nested;

	t->vm = vm_create_with_one_vcpu(&t->vcpu, l1_code);
	if (t->tdp)
		vm_enable_tdp(t->vm);
	if (is_svm)
		vcpu_alloc_svm(t->vm, &nested);
	else
		vcpu_alloc_vmx(t->vm, &nested);
	vcpu_args_set(t->vcpu, 1, nested);

	map_guest_pages(t);
	if (t->tdp)
		map_nested_pages(t);
	sync_global_to_guest(t->vm, is_svm);
	sync_global_to_guest(t->vm, l2_cr3);
	sync_global_to_guest(t->vm, npt_offset);

	t->ram = -1;
	t->l2_first = t->tdp ? NESTED_HOLE(10) : 10;
	t->bell_fd[0] = make_bell(t, HOLE_GPA(0) + PAGE_OFFSET(BELL), 4, BELL_VAL);
	t->bell_fd[1] = make_bell(t, HOLE_GPA(t->l2_first) + PAGE_OFFSET(BELL), 4, BELL_VAL);
	if (t->tdp)
		t->wildcard_fd = make_bell(t, HOLE_GPA(WILDCARD_HOLE), 0, 0);
	run_to_sync(t);
}

/* Heat knows each access as one to a page of L1, whether the extension is on or not. */
static void check_heat(struct test *t)
{
	for (int hole = 0; hole < NR_HOLES; hole++) {
		u64 heat = mmio_ext_heat(HOLE_GPA(hole));

		TEST_ASSERT(heat == t->nr_accesses[hole],
			    "page 0x%lx: %lu accesses recorded, wanted %lu",
			    (unsigned long)HOLE_GPA(hole), (unsigned long)heat,
			    (unsigned long)t->nr_accesses[hole]);
	}
}

static void finish(struct test *t)
{
	if (mmio_ext_switch(MMIO_EXT_HEAT))
		check_heat(t);
	check_bell(t->bell_fd[0], t->bell_rings[0], "L1's doorbell");
	check_bell(t->bell_fd[1], t->bell_rings[1], "L2's doorbell");
	if (t->tdp)
		check_bell(t->wildcard_fd, t->wildcard_rings, "the wildcard");
	kvm_vm_free(t->vm);
}

static void test_nested(bool tdp, bool flips)
{
	static struct test t;
	int l2_first;

	t = (struct test) { .tdp = tdp, .flips = flips };
	start(&t);
	l2_first = t.l2_first;

	/* The first accesses make MMIO SPTEs, the others find them. */
	access_by(&t, false);
	count_access_by(&t, false);
	access_by(&t, true);
	count_access_by(&t, true);
	count_access_by(&t, false);
	count_access_by(&t, true);

	if (tdp) {
		remap(&t, OTHER_HOLE);
		access_by(&t, true);
		count_access_by(&t, true);
		remap(&t, l2_first);
		access_by(&t, true);
		count_access_by(&t, true);
		count_access_by(&t, false);
	}

	/* A hole of L2 becomes RAM, and a hole again; then one of L1. */
	for (int round = 0; round < 2; round++) {
		make_ram(&t, round ? 0 : l2_first);
		access_by(&t, true);
		access_by(&t, false);
		make_hole(&t);
		access_by(&t, true);
		access_by(&t, false);
		count_access_by(&t, true);
		count_access_by(&t, false);
	}
	finish(&t);
	pr_info("nested TDP %d, extension %d, fast path %d, switched at every exit %d: %u exits\n",
		tdp, mmio_ext_on(), mmio_ext_switch(MMIO_EXT_FAST), flips, t.nr_exits);
}

static void test_all(bool flips)
{
	test_nested(false, flips);
	if (kvm_cpu_has_tdp())
		test_nested(true, flips);
}

static bool was_on, was_fast, was_hot;

static void restore_switches(void)
{
	mmio_ext_set_switch(MMIO_EXT_FAST, was_fast);
	mmio_ext_set_switch(MMIO_EXT_ENABLED, was_on);
	mmio_ext_set_switch(MMIO_EXT_HEAT, was_hot);
}

int main(void)
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM) || kvm_cpu_has(X86_FEATURE_VMX));
	is_svm = kvm_cpu_has(X86_FEATURE_SVM);

	/* The library loads the guest from this file, which PATH may have found. */
	program_invocation_name = "/proc/self/exe";

	was_on = mmio_ext_on();
	was_fast = mmio_ext_switch(MMIO_EXT_FAST);
	was_hot = mmio_ext_switch(MMIO_EXT_HEAT);
	test_all(false);
	if (!was_on)
		return 0;

	/* With the fast path the other way, without the extension, and with both in turn. */
	atexit(restore_switches);
	mmio_ext_set_switch(MMIO_EXT_HEAT, true);
	test_all(false);
	mmio_ext_set_switch(MMIO_EXT_FAST, !was_fast);
	test_all(false);
	mmio_ext_set_switch(MMIO_EXT_ENABLED, false);
	test_all(false);
	test_all(true);
	return 0;
}
