// SPDX-License-Identifier: GPL-2.0
/*
 * The suite kvm_mmio_ext_walk: the lockless walk of shadow page tables and
 * what becomes of a fault then, on page tables of every depth, made by hand.
 * The walk must find what was put there; the verdict must be that of KVM's own
 * handle_mmio_page_fault(), compiled once more from its source.
 *
 * More than 500 lines: what the tables are made of and what is compared are of
 * no use without each other.
 */
#include <kunit/visibility.h>
#include <linux/kvm_host.h>
#include <linux/prandom.h>
#include <linux/preempt.h>
#include <linux/srcu.h>

#include "mmio_ext.h"

/* KVM's own code, as if there was no extension. */
#undef kvm_mmio_ext_call
#define kvm_mmio_ext_call(func, ...) 0
#undef kvm_mmio_ext_notify
#define kvm_mmio_ext_notify(func, ...)

#include "mmu.h"
#include "x86.h"
#include "mmu/mmu_internal.h"
#include "mmu/mmutrace.h"
#include "mmu/spte.h"

#include "kunit/vm.h"

/* Cut out of arch/x86/kvm/mmu/mmu.c, see Kbuild. */
#include "kunit_mmio_fault.h"

/* The lower bits are full, the next generation has one of the higher. */
#define GENERATION	0x7e
#define RANDOM_WALKS	1000

/* What a vCPU's page tables can be. */
struct mmu_kind {
	const char *name;
	/* Of the root, and of the page tables of the guest. */
	int root_level;
	int guest_level;
	bool direct;
	/* The level of the first entry that a walk reads. */
	int top;
};

static const struct mmu_kind mmu_kinds[] = {
	{ "TDP with 5 levels",		  5, 4, true,  5 },
	{ "TDP with 4 levels",		  4, 4, true,  4 },
	{ "shadow paging with 5 levels",  5, 5, false, 5 },
	{ "shadow paging with 4 levels",  4, 4, false, 4 },
	{ "shadow paging with PAE",	  3, 3, false, 2 },
	{ "PAE below a root of 4 levels", 4, 3, false, 2 },
	{ "PAE below a root of 5 levels", 5, 3, false, 2 },
};

KUNIT_ARRAY_PARAM_DESC(mmu, mmu_kinds, name);

struct spte_path {
	unsigned int nr;
	int levels[PT64_ROOT_MAX_LEVEL];
	u64 sptes[PT64_ROOT_MAX_LEVEL];
};

struct tables {
	const struct mmu_kind *mmu;
	struct mmio_ext_kunit_vm *vm;
	struct kvm_vcpu *vcpu;
	/* One page for each level, all entries that are used lead through it. */
	u64 *pages[PT64_ROOT_MAX_LEVEL + 1];
	u64 pae_root[4];
	struct kvm_mmu_page root;
	/* Of the memslots. */
	u64 generation;
	struct rnd_state random;
};

static u64 random64(struct tables *t)
{
	return (u64)prandom_u32_state(&t->random) << 32 |
	       prandom_u32_state(&t->random);
}

/* A random address that the page tables translate. */
static u64 random_addr(struct tables *t)
{
	int bits = t->mmu->top == 2 ? 32 : PAGE_SHIFT + 9 * t->mmu->top;

	return random64(t) & GENMASK_ULL(bits - 1, 0);
}

static void free_table(void *page)
{
	set_page_private(virt_to_page(page), 0);
	free_page((unsigned long)page);
}

static void set_root(struct tables *t)
{
	const struct mmu_kind *mmu = t->mmu;
	struct kvm_mmu *root_mmu = &t->vcpu->arch.root_mmu;
	u64 *page = t->pages[mmu->top];

	t->root.spt = page;
	t->root.role.level = mmu->root_level;
	set_page_private(virt_to_page(page), (unsigned long)&t->root);

	root_mmu->root.hpa = mmu->top == 2 ? __pa(t->pae_root) : __pa(page);
	root_mmu->root_role.level = mmu->root_level;
	root_mmu->root_role.direct = mmu->direct;
	root_mmu->pae_root = t->pae_root;
	root_mmu->w->cpu_role.base.level = mmu->guest_level;
}

static void set_generation(struct tables *t, u64 generation)
{
	t->generation = generation;
	mmio_ext_kunit_set_generation(t->vm, generation);
}

static int walk_init(struct kunit *test)
{
	struct tables *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	int level;

	if (!t)
		return -ENOMEM;

	for (level = PG_LEVEL_4K; level <= PT64_ROOT_MAX_LEVEL; level++) {
		u64 *page = (u64 *)get_zeroed_page(GFP_KERNEL);

		if (!page)
			return -ENOMEM;
		t->pages[level] = page;
		if (kunit_add_action_or_reset(test, free_table, page))
			return -ENOMEM;
	}

	t->vm = mmio_ext_kunit_vm_create(test);
	if (!t->vm)
		return -ENOMEM;

	t->vcpu = &t->vm->vcpus[0];
	set_generation(t, GENERATION);
	prandom_seed_state(&t->random, 1);
	test->priv = t;
	return 0;
}

/* The tables of the kind that the case runs for. */
static struct tables *tables_of(struct kunit *test)
{
	struct tables *t = test->priv;

	t->mmu = test->param_value;
	set_root(t);
	return t;
}

/* Bits that mean nothing for a walk. */
static u64 noise(struct tables *t)
{
	return random64(t) & ~(SPTE_MMU_PRESENT_MASK | PT_PAGE_SIZE_MASK |
			       GENMASK_ULL(51, 12));
}

static u64 nonleaf(struct tables *t, int level)
{
	return SPTE_MMU_PRESENT_MASK | __pa(t->pages[level - 1]) | noise(t);
}

/* Map @addr by @leaf at @level; @path is what a walk has to find. */
static void map(struct tables *t, u64 addr, int level, u64 leaf, struct spte_path *path)
{
	int at;

	t->pae_root[(addr >> 30) & 3] = __pa(t->pages[2]) | PT_PRESENT_MASK;
	path->nr = 0;
	for (at = t->mmu->top; at >= level; at--) {
		u64 spte = at == level ? leaf : nonleaf(t, at);

		t->pages[at][SPTE_INDEX(addr, at)] = spte;
		path->levels[path->nr] = at;
		path->sptes[path->nr++] = spte;
	}
}

enum leaf_kind {
	ZAPPED,
	FROZEN,
	MMIO,
	MMIO_STALE,
	PRESENT,
	NR_LEAF_KINDS,
};

static u64 make_leaf(struct tables *t, enum leaf_kind kind, int level)
{
	gfn_t gfn = random64(t) & GENMASK_ULL(19, 0);
	unsigned int access = random64(t) & ACC_ALL;
	u64 spte;

	/* No cache knows anything of this generation. */
	set_generation(t, t->generation + 2);

	switch (kind) {
	case ZAPPED:
		return SHADOW_NONPRESENT_VALUE;
	case FROZEN:
		return FROZEN_SPTE;
	case MMIO:
		return t->vm->ops.make_spte(t->vcpu, gfn, access);
	case MMIO_STALE:
		set_generation(t, t->generation - 2);
		spte = t->vm->ops.make_spte(t->vcpu, gfn, access);
		set_generation(t, t->generation + 2);
		return spte;
	default:
		return SPTE_MMU_PRESENT_MASK | gfn << PAGE_SHIFT | noise(t) |
		       (level == PG_LEVEL_4K ? 0 : PT_PAGE_SIZE_MASK);
	}
}

static void expect_walk(struct kunit *test, u64 addr, const struct spte_path *path)
{
	struct tables *t = test->priv;
	struct spte_path found;
	int i;

	found.nr = mmio_ext_kunit_walk(t->vcpu, addr, found.levels, found.sptes);
	KUNIT_EXPECT_EQ_MSG(test, found.nr, path->nr, "walk of %llx", addr);
	for (i = 0; i < min(found.nr, path->nr); i++) {
		KUNIT_EXPECT_EQ_MSG(test, found.levels[i], path->levels[i],
				    "entry %d of the walk of %llx", i, addr);
		KUNIT_EXPECT_EQ_MSG(test, found.sptes[i], path->sptes[i],
				    "entry %d of the walk of %llx", i, addr);
	}
}

/* What a fault has come to, and what KVM remembers of it. */
struct verdict {
	int r;
	gva_t gva;
	gfn_t gfn;
	unsigned int access;
	u64 generation;
};

static void forget(struct kvm_vcpu *vcpu)
{
	vcpu->arch.mmio_gva = 0;
	vcpu->arch.mmio_gfn = 0;
	vcpu->arch.mmio_access = 0;
	vcpu->arch.mmio_gen = 0;
}

static struct verdict verdict(struct kvm_vcpu *vcpu, int r)
{
	return (struct verdict) {
		.r = r,
		.gva = vcpu->arch.mmio_gva,
		.gfn = vcpu->arch.mmio_gfn,
		.access = vcpu->arch.mmio_access,
		.generation = vcpu->arch.mmio_gen,
	};
}

/* Let KVM and the extension judge a fault.  Neither knows the page before. */
static int expect_verdict_of_kvm(struct kunit *test, u64 addr)
{
	struct tables *t = test->priv;
	struct kvm_vcpu *vcpu = t->vcpu;
	bool direct = t->mmu->direct;
	struct verdict kvm, ext;

	forget(vcpu);
	kvm = verdict(vcpu, handle_mmio_page_fault(vcpu, addr, direct));

	forget(vcpu);
	ext = verdict(vcpu, t->vm->ops.page_fault(vcpu, addr, direct));

	KUNIT_EXPECT_EQ_MSG(test, ext.r, kvm.r, "fault at %llx", addr);
	KUNIT_EXPECT_EQ_MSG(test, ext.gva, kvm.gva, "fault at %llx", addr);
	KUNIT_EXPECT_EQ_MSG(test, ext.gfn, kvm.gfn, "fault at %llx", addr);
	KUNIT_EXPECT_EQ_MSG(test, ext.access, kvm.access, "fault at %llx", addr);
	KUNIT_EXPECT_EQ_MSG(test, ext.generation, kvm.generation,
			    "fault at %llx", addr);
	return ext.r;
}

static int expected_result(enum leaf_kind kind)
{
	/* Without MMIO SPTEs nothing looks like one. */
	if (!enable_mmio_caching)
		return RET_PF_RETRY;

	switch (kind) {
	case MMIO:
		return RET_PF_EMULATE;
	case MMIO_STALE:
		return RET_PF_INVALID;
	default:
		return RET_PF_RETRY;
	}
}

static void expect_leaf(struct kunit *test, u64 addr, int level,
			enum leaf_kind kind)
{
	struct tables *t = test->priv;
	struct spte_path path;
	int r;

	map(t, addr, level, make_leaf(t, kind, level), &path);
	expect_walk(test, addr, &path);
	r = expect_verdict_of_kvm(test, addr);
	KUNIT_EXPECT_EQ_MSG(test, r, expected_result(kind),
			    "leaf %llx of kind %d at level %d for %llx",
			    path.sptes[path.nr - 1], kind, level, addr);
}

static void leaf_at_every_level(struct kunit *test)
{
	struct tables *t = tables_of(test);
	u64 last = random_addr(t);
	enum leaf_kind kind;
	int level;

	guard(srcu)(&t->vm->kvm.srcu);
	/* So that there is state; make_spte() cannot make it. */
	t->vm->ops.page_fault(t->vcpu, last, t->mmu->direct);

	for (level = t->mmu->top; level >= PG_LEVEL_4K; level--) {
		for (kind = 0; kind < NR_LEAF_KINDS; kind++) {
			/* The first and the last entry of each table. */
			expect_leaf(test, 0, level, kind);
			expect_leaf(test, t->mmu->top == 2 ? U32_MAX :
				    BIT_ULL(PAGE_SHIFT + 9 * t->mmu->top) - 1,
				    level, kind);
		}
	}
}

static void random_walks(struct kunit *test)
{
	struct tables *t = tables_of(test);
	int i;

	guard(srcu)(&t->vm->kvm.srcu);
	t->vm->ops.page_fault(t->vcpu, 0, t->mmu->direct);

	/* The first failure says enough. */
	for (i = 0; i < RANDOM_WALKS && test->status != KUNIT_FAILURE; i++) {
		int level = 1 + prandom_u32_state(&t->random) % t->mmu->top;
		u32 kind = prandom_u32_state(&t->random) % NR_LEAF_KINDS;

		expect_leaf(test, random_addr(t), level, kind);
		if (i % 100 == 0)
			cond_resched();
	}
}

/* An entry with the bits set that are reserved in other places than its own. */
static u64 not_reserved(u64 spte, int level)
{
	int bit7 = !!(spte & PT_PAGE_SIZE_MASK);

	return (spte & ~GENMASK_ULL(62, 52)) |
	       (GENMASK_ULL(61, 52) & ~BIT_ULL(51 + level + 5 * bit7));
}

/* Bits 52 to 61 are reserved in one kind of entry each. */
static void set_reserved_bits(struct kvm_page_format *fmt)
{
	int bit7, level;

	for (bit7 = 0; bit7 < 2; bit7++) {
		for (level = 1; level <= PT64_ROOT_MAX_LEVEL; level++)
			fmt->rsvd_bits_mask[bit7][level - 1] =
				BIT_ULL(51 + level + 5 * bit7);
	}
}

static void set_entry(struct tables *t, u64 addr, struct spte_path *path, int i,
		      u64 spte)
{
	t->pages[path->levels[i]][SPTE_INDEX(addr, path->levels[i])] = spte;
	path->sptes[i] = spte;
}

static void reserved_bits_are_an_error(struct kunit *test)
{
	struct tables *t = tables_of(test);
	struct kvm_page_format *fmt = &t->vcpu->arch.root_mmu.fmt;
	u64 addr = random_addr(t);
	int level, i, warnings = 0;
	struct spte_path path;

	guard(srcu)(&t->vm->kvm.srcu);
	t->vm->ops.page_fault(t->vcpu, addr, t->mmu->direct);
	set_reserved_bits(fmt);

	kunit_warning_suppress(test) {
		for (level = t->mmu->top; level >= PG_LEVEL_4K; level--) {
			map(t, addr, level, make_leaf(t, PRESENT, level), &path);
			for (i = 0; i < path.nr; i++)
				set_entry(t, addr, &path, i,
					  not_reserved(path.sptes[i], path.levels[i]));
			KUNIT_EXPECT_EQ(test, expect_verdict_of_kvm(test, addr),
					RET_PF_RETRY);
			KUNIT_EXPECT_EQ(test, KUNIT_SUPPRESSED_WARNING_COUNT(),
					warnings);

			/* The last two entries; the others were last before. */
			for (i = max((int)path.nr - 2, 0); i < path.nr; i++) {
				u64 spte = path.sptes[i];

				set_entry(t, addr, &path, i,
					  spte | GENMASK_ULL(61, 52));
				KUNIT_EXPECT_EQ(test, expect_verdict_of_kvm(test, addr),
						-EINVAL);
				/* KVM's warning and that of the extension. */
				warnings += 2;
				KUNIT_EXPECT_EQ(test, KUNIT_SUPPRESSED_WARNING_COUNT(),
						warnings);
				set_entry(t, addr, &path, i, spte);
			}
		}

		/* A leaf that maps nothing may have any bit set. */
		map(t, addr, PG_LEVEL_4K, GENMASK_ULL(61, 52), &path);
		for (i = 0; i < path.nr - 1; i++)
			set_entry(t, addr, &path, i,
				  not_reserved(path.sptes[i], path.levels[i]));
		KUNIT_EXPECT_EQ(test, expect_verdict_of_kvm(test, addr), RET_PF_RETRY);

		/* With EPT, what may not be read but written. */
		fmt->bad_mt_xwr = BIT_ULL(2);
		for (i = 0; i < path.nr - 1; i++)
			set_entry(t, addr, &path, i, path.sptes[i] & ~0x3full);
		set_entry(t, addr, &path, path.nr - 1, SPTE_MMU_PRESENT_MASK | 2);
		KUNIT_EXPECT_EQ(test, expect_verdict_of_kvm(test, addr), -EINVAL);
		set_entry(t, addr, &path, path.nr - 1, SPTE_MMU_PRESENT_MASK | 3);
		KUNIT_EXPECT_EQ(test, expect_verdict_of_kvm(test, addr), RET_PF_RETRY);
	}
}

static void no_page_tables(struct kunit *test)
{
	struct tables *t = tables_of(test);
	struct kvm_mmu_root_info *root = &t->vcpu->arch.root_mmu.root;
	static const struct spte_path nothing;

	guard(srcu)(&t->vm->kvm.srcu);

	/* The MMU was unloaded.  KVM never asks then: its walk would warn. */
	root->hpa = INVALID_PAGE;
	expect_walk(test, 0, &nothing);
	KUNIT_EXPECT_EQ(test, RET_PF_RETRY,
			t->vm->ops.page_fault(t->vcpu, 0, t->mmu->direct));

	if (t->mmu->direct)
		return;

	/* The guest's root is no memory. */
	root->hpa = kvm_mmu_get_dummy_root();
	expect_walk(test, 0, &nothing);
	KUNIT_EXPECT_EQ(test, expect_verdict_of_kvm(test, 0), RET_PF_RETRY);

	if (t->mmu->top != 2)
		return;

	/* The guest's PDPTE is not present. */
	set_root(t);
	expect_walk(test, 0, &nothing);
	KUNIT_EXPECT_EQ(test, expect_verdict_of_kvm(test, 0), RET_PF_RETRY);
}

/* The TDP MMU's tables are protected by RCU, others by interrupts and a mode. */
static void protection_ends_with_the_walk(struct kunit *test)
{
	struct tables *t = tables_of(test);
	bool by_rcu = tdp_mmu_enabled && t->mmu->direct;
	struct spte_path path;
	int mode;

	guard(srcu)(&t->vm->kvm.srcu);
	map(t, 0, PG_LEVEL_4K, SHADOW_NONPRESENT_VALUE, &path);
	t->vcpu->mode = EXITING_GUEST_MODE;
	expect_walk(test, 0, &path);
	mode = t->vcpu->mode;
	KUNIT_EXPECT_EQ(test, mode, by_rcu ? EXITING_GUEST_MODE : OUTSIDE_GUEST_MODE);
	KUNIT_EXPECT_FALSE(test, irqs_disabled());
	KUNIT_EXPECT_EQ(test, preempt_count(), 0);
	KUNIT_EXPECT_EQ(test, rcu_preempt_depth(), 0);
}

static struct kunit_case walk_cases[] = {
	KUNIT_CASE_PARAM(leaf_at_every_level, mmu_gen_params),
	KUNIT_CASE_PARAM_ATTR(random_walks, mmu_gen_params,
			      { .speed = KUNIT_SPEED_SLOW }),
	KUNIT_CASE_PARAM(reserved_bits_are_an_error, mmu_gen_params),
	KUNIT_CASE_PARAM(no_page_tables, mmu_gen_params),
	KUNIT_CASE_PARAM(protection_ends_with_the_walk, mmu_gen_params),
	{}
};

struct kunit_suite mmio_ext_kunit_walk_suite = {
	.name = "kvm_mmio_ext_walk",
	.init = walk_init,
	.test_cases = walk_cases,
};
EXPORT_SYMBOL_IF_KUNIT(mmio_ext_kunit_walk_suite);
