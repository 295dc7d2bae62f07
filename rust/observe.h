/* SPDX-License-Identifier: GPL-2.0 */
/* Seeing accesses: static keys, tracepoints, clocks. */
#ifndef KVM_MMIO_EXT_OBSERVE_H
#define KVM_MMIO_EXT_OBSERVE_H

#include <linux/jump_label.h>
#include <linux/kvm_host.h>

#include <asm/kvm_mmio_ext.h>

/* Defined in params.c. */
DECLARE_STATIC_KEY_FALSE(mmio_ext_heat_key);
DECLARE_STATIC_KEY_FALSE(mmio_ext_instructions_key);
void mmio_ext_heat_get(void);
void mmio_ext_heat_put(void);
void mmio_ext_instructions_get(void);
void mmio_ext_instructions_put(void);

/* Names a vCPU as Documentation/interface.rst says. */
struct mmio_ext_vcpu_id {
	u64 vm;
	u32 tgid;
	u32 vcpu;
};

/* Who wants to know what KVM's emulator does. */
enum mmio_ext_observer {
	MMIO_EXT_HEAT,
	MMIO_EXT_TRACE,
};

void mmio_ext_set_observer(enum mmio_ext_observer who, bool on);
void mmio_ext_observe_emulator(void);

/* Implemented in Rust, see rust/exports.rs. */
kvm_mmio_ext_observer_t mmio_ext_see_access;
kvm_mmio_ext_observer_t mmio_ext_record_access;

int mmio_ext_trace_access_reg(void);
void mmio_ext_trace_access_unreg(void);
void mmio_ext_trace_access(const struct mmio_ext_vcpu_id *id, u64 gpa, u8 size,
			   u8 direction, u8 outcome);
void mmio_ext_trace_miss(const struct mmio_ext_vcpu_id *id, u64 addr,
			 bool is_virtual, u8 outcome);

u32 mmio_ext_tgid(void);
u32 mmio_ext_tsc_khz(void);
u64 mmio_ext_boottime(void);

#endif /* KVM_MMIO_EXT_OBSERVE_H */
