/* SPDX-License-Identifier: GPL-2.0 */
/* What bindgen translates: KVM's own headers, and the helpers. */
#include <linux/kvm_host.h>

#include "mmu.h"
#include "x86.h"
#include "mmu/mmu_internal.h"
#include "mmu/spte.h"
#include "mmio_ext.h"

#include "helpers.h"

/* Function-like macros and BIT_ULL() mean nothing to bindgen, constants do. */
static const u64 MMIO_EXT_PFERR_RSVD = PFERR_RSVD_MASK;
static const u64 MMIO_EXT_PFERR_TAKEN = PFERR_PRESENT_MASK | PFERR_WRITE_MASK |
					PFERR_USER_MASK | PFERR_RSVD_MASK |
					PFERR_GUEST_FINAL_MASK |
					PFERR_GUEST_PAGE_MASK;
static const u8 MMIO_EXT_RSP = VCPU_REGS_RSP;
static const int MMIO_EXT_EMULTYPE_PF = EMULTYPE_PF;
static const int MMIO_EXT_ROOT_MAX_LEVEL = PT64_ROOT_MAX_LEVEL;
static const u64 MMIO_EXT_GVA_ANY = MMIO_GVA_ANY;
static const u64 MMIO_EXT_INVALID_GPA = INVALID_GPA;
static const u64 MMIO_EXT_PAGE_SIZE = PAGE_SIZE;
