/* SPDX-License-Identifier: GPL-2.0 */
/* Seeing accesses: static keys, tracepoints, clocks. */
#ifndef KVM_MMIO_EXT_OBSERVE_H
#define KVM_MMIO_EXT_OBSERVE_H

#include <linux/jump_label.h>
#include <linux/kvm_host.h>

/* Defined in params.c. */
DECLARE_STATIC_KEY_FALSE(mmio_ext_heat_key);

/* Names a vCPU as Documentation/interface.rst says. */
struct mmio_ext_vcpu_id {
	u64 vm;
	u32 tgid;
	u32 vcpu;
};

void mmio_ext_trace_access(const struct mmio_ext_vcpu_id *id, u64 gpa, u8 size,
			   u8 direction, u8 outcome);
void mmio_ext_trace_miss(const struct mmio_ext_vcpu_id *id, u64 addr,
			 bool is_virtual, u8 outcome);

u32 mmio_ext_tgid(void);
u32 mmio_ext_tsc_khz(void);
u64 mmio_ext_boottime(void);

#endif /* KVM_MMIO_EXT_OBSERVE_H */
