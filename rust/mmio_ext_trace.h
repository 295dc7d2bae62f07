/* SPDX-License-Identifier: GPL-2.0 */
#if !defined(_TRACE_KVM_MMIO_EXT_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_KVM_MMIO_EXT_H

#include <linux/tracepoint.h>

#include "observe.h"

#undef TRACE_SYSTEM
#define TRACE_SYSTEM kvm_mmio_ext

/* An access that is done, or leaves for userspace. */
TRACE_EVENT_FN(mmio_access,
	TP_PROTO(const struct mmio_ext_vcpu_id *id, u64 gpa, u8 size,
		 u8 direction, u8 outcome),
	TP_ARGS(id, gpa, size, direction, outcome),

	TP_STRUCT__entry(
		__field(u64, vm)
		__field(u64, gpa)
		__field(u32, tgid)
		__field(u32, vcpu)
		__field(u8, size)
		__field(u8, direction)
		__field(u8, outcome)
	),

	TP_fast_assign(
		__entry->vm = id->vm;
		__entry->gpa = gpa;
		__entry->tgid = id->tgid;
		__entry->vcpu = id->vcpu;
		__entry->size = size;
		__entry->direction = direction;
		__entry->outcome = outcome;
	),

	TP_printk("vm %llu tgid %u vcpu %u gpa 0x%llx size %u %s %s",
		  __entry->vm, __entry->tgid, __entry->vcpu, __entry->gpa,
		  __entry->size,
		  __print_symbolic(__entry->direction,
				   { 0, "unknown" },
				   { 1, "read" },
				   { 2, "write" }),
		  __print_symbolic(__entry->outcome,
				   { 0, "fast_kernel" },
				   { 1, "fast_userspace" },
				   { 2, "emulated_kernel" },
				   { 3, "emulated_userspace" },
				   { 4, "wildcard" },
				   { 5, "fast_irqsoff" })),

	mmio_ext_trace_access_reg, mmio_ext_trace_access_unreg
);

/* An MMIO fault that was no access: the guest tries again. */
TRACE_EVENT(mmio_miss,
	TP_PROTO(const struct mmio_ext_vcpu_id *id, u64 addr, bool is_virtual,
		 u8 outcome),
	TP_ARGS(id, addr, is_virtual, outcome),

	TP_STRUCT__entry(
		__field(u64, vm)
		__field(u64, addr)
		__field(u32, tgid)
		__field(u32, vcpu)
		__field(u8, virtual)
		__field(u8, outcome)
	),

	TP_fast_assign(
		__entry->vm = id->vm;
		__entry->addr = addr;
		__entry->tgid = id->tgid;
		__entry->vcpu = id->vcpu;
		__entry->virtual = is_virtual;
		__entry->outcome = outcome;
	),

	TP_printk("vm %llu tgid %u vcpu %u %s 0x%llx %s",
		  __entry->vm, __entry->tgid, __entry->vcpu,
		  __entry->virtual ? "gva" : "gpa", __entry->addr,
		  __print_symbolic(__entry->outcome,
				   { 0, "stale" },
				   { 1, "retry" }))
);

#endif /* _TRACE_KVM_MMIO_EXT_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE mmio_ext_trace

/* This part must be outside protection */
#include <trace/define_trace.h>
