// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of the suite kvm_mmio_ext_spte: the functions on MMIO SPTEs,
 * compiled once more from the source of the kernel that this module is built for.
 *
 * KVM sets the variables that they use when it is loaded, for the host that it
 * finds.  Here they have other names, and can be those of any host.
 */
#define shadow_mmio_value	kunit_shadow_mmio_value
#define shadow_mmio_mask	kunit_shadow_mmio_mask
#define shadow_mmio_access_mask	kunit_shadow_mmio_access_mask
#define shadow_nonpresent_or_rsvd_mask	kunit_shadow_nonpresent_or_rsvd_mask
#define shadow_nonpresent_or_rsvd_lower_gfn_mask \
	kunit_shadow_nonpresent_or_rsvd_lower_gfn_mask
#define enable_mmio_caching	kunit_enable_mmio_caching

#include <linux/kvm_host.h>

#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "mmu/spte.h"

#include "kunit/spte.h"

u64 shadow_mmio_mask;
u64 shadow_mmio_access_mask;
u64 shadow_nonpresent_or_rsvd_mask;
u64 shadow_nonpresent_or_rsvd_lower_gfn_mask;
bool enable_mmio_caching;

/* KVM's own code, as if there was no extension. */
#undef kvm_mmio_ext_call
#define kvm_mmio_ext_call(func, ...) 0

/* Cut out of arch/x86/kvm/mmu/{spte,mmu}.c, see Kbuild. */
#include "kunit_mmio_spte.h"

static struct kvm kvm;
static struct kvm_vcpu vcpu = { .kvm = &kvm };

void mmio_ext_kunit_set_host(const struct mmio_ext_kunit_host *host)
{
	kvm.arch.shadow_mmio_value = host->value;
	shadow_mmio_mask = host->mask;
	shadow_mmio_access_mask = host->access;
	shadow_nonpresent_or_rsvd_mask = host->l1tf;
	shadow_nonpresent_or_rsvd_lower_gfn_mask = host->lower_gfn;
	enable_mmio_caching = host->caching;
}

u64 mmio_ext_kunit_make_mmio_spte(u64 generation, u64 gfn, u32 access)
{
	kvm.__memslots[0][0].generation = generation;
	RCU_INIT_POINTER(kvm.memslots[0], &kvm.__memslots[0][0]);
	return make_mmio_spte(&vcpu, gfn, access);
}

bool mmio_ext_kunit_is_mmio_spte(u64 spte)
{
	return is_mmio_spte(&kvm, spte);
}

u64 mmio_ext_kunit_get_mmio_spte_gfn(u64 spte)
{
	return get_mmio_spte_gfn(spte);
}

u32 mmio_ext_kunit_get_mmio_spte_access(u64 spte)
{
	return get_mmio_spte_access(spte);
}

u64 mmio_ext_kunit_get_mmio_spte_generation(u64 spte)
{
	return get_mmio_spte_generation(spte);
}
