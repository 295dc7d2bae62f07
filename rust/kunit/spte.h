/* SPDX-License-Identifier: GPL-2.0 */
/* The kernel's own functions on MMIO SPTEs, on a host of the caller's choice. */
#ifndef KVM_MMIO_EXT_KUNIT_H
#define KVM_MMIO_EXT_KUNIT_H

#include <linux/types.h>

/* What KVM has in variables. */
struct mmio_ext_kunit_host {
	u64 value;
	u64 mask;
	u64 access;
	u64 l1tf;
	u64 lower_gfn;
	bool caching;
};

void mmio_ext_kunit_set_host(const struct mmio_ext_kunit_host *host);
u64 mmio_ext_kunit_make_mmio_spte(u64 generation, u64 gfn, u32 access);
bool mmio_ext_kunit_is_mmio_spte(u64 spte);
u64 mmio_ext_kunit_get_mmio_spte_gfn(u64 spte);
u32 mmio_ext_kunit_get_mmio_spte_access(u64 spte);
u64 mmio_ext_kunit_get_mmio_spte_generation(u64 spte);

#endif /* KVM_MMIO_EXT_KUNIT_H */
