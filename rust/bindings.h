/* SPDX-License-Identifier: GPL-2.0 */
/* What bindgen translates: KVM's own headers, and the helpers. */
#include <linux/kvm_host.h>

#include "lapic.h"
#include "mmu.h"
#include "x86.h"
#include "mmu/mmu_internal.h"
#include "mmu/spte.h"
#include "mmio_ext.h"

#include "helpers.h"
#include "kunit/spte.h"
#include "observe.h"
#include "uapi/kvm_mmio_register.h"

/* Function-like macros and BIT_ULL() mean nothing to bindgen, constants do. */
static const u64 MMIO_EXT_PFERR_RSVD = PFERR_RSVD_MASK;
static const u64 MMIO_EXT_PFERR_WRITE = PFERR_WRITE_MASK;
static const u64 MMIO_EXT_PFERR_USER = PFERR_USER_MASK;
static const u64 MMIO_EXT_PFERR_TAKEN = PFERR_PRESENT_MASK | PFERR_WRITE_MASK |
					PFERR_USER_MASK | PFERR_RSVD_MASK |
					PFERR_GUEST_FINAL_MASK;
static const u64 MMIO_EXT_PFERR_FETCH = PFERR_FETCH_MASK;
static const u64 MMIO_EXT_PFERR_SMAP_OFF = PFERR_RSVD_MASK;
static const u32 MMIO_EXT_ACC_READ = ACC_READ_MASK;
static const u32 MMIO_EXT_ACC_WRITE = ACC_WRITE_MASK;
static const u32 MMIO_EXT_RSP = VCPU_REGS_RSP;
static const u32 MMIO_EXT_RIP = VCPU_REG_RIP;
static const u32 MMIO_EXT_CR3 = VCPU_REG_CR3;
static const u64 MMIO_EXT_EFER_LMA = EFER_LMA;
static const u64 MMIO_EXT_CR0_PG = X86_CR0_PG;
static const u64 MMIO_EXT_CR0_PE = X86_CR0_PE;
static const u64 MMIO_EXT_CR4_PAE = X86_CR4_PAE;
static const u64 MMIO_EXT_CR4_LA57 = X86_CR4_LA57;
static const u32 MMIO_EXT_HF_GUEST = HF_GUEST_MASK;
#ifdef CONFIG_KVM_SMM
static const u32 MMIO_EXT_HF_SMM = HF_SMM_MASK;
#else
static const u32 MMIO_EXT_HF_SMM;
#endif
static const int MMIO_EXT_EMULTYPE_PF = EMULTYPE_PF;
static const int MMIO_EXT_EMULATION_OK = EMULATION_OK;
static const u32 MMIO_EXT_SLOT_READ_ONLY = KVM_MEM_READONLY;
static const u32 MMIO_EXT_SLOT_INVALID = KVM_MEMSLOT_INVALID;
static const u32 MMIO_EXT_SLOT_GUEST_MEMFD = KVM_MEM_GUEST_MEMFD;
static const int MMIO_EXT_ROOT_MAX_LEVEL = PT64_ROOT_MAX_LEVEL;
static const unsigned long MMIO_EXT_MMIO_BUS = KVM_MMIO_BUS;
static const unsigned long MMIO_EXT_FAST_MMIO_BUS = KVM_FAST_MMIO_BUS;
/* Signed: bindgen 0.71 takes a u64 that is more than S64_MAX for no constant. */
static const s64 MMIO_EXT_GVA_ANY = (s64)MMIO_GVA_ANY;
static const s64 MMIO_EXT_INVALID_GPA = (s64)INVALID_GPA;
static const u64 MMIO_EXT_PAGE_SIZE = PAGE_SIZE;
static const u32 MMIO_EXT_FOLL_WRITE = FOLL_WRITE;
static const u32 MMIO_EXT_FOLL_LONGTERM = FOLL_LONGTERM;
static const u32 MMIO_EXT_EOPNOTSUPP = EOPNOTSUPP;
static const u32 MMIO_EXT_REGISTER_ADD = KVM_MMIO_REGISTER_ADD;
static const u32 MMIO_EXT_REGISTER_REMOVE = KVM_MMIO_REGISTER_REMOVE;
