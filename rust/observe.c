// SPDX-License-Identifier: GPL-2.0
/* Seeing accesses: tracepoints, clocks. */
#include <linux/kvm_host.h>
#include <linux/timekeeping.h>

#include <asm/tsc.h>

#include "observe.h"

#define CREATE_TRACE_POINTS
#include "mmio_ext_trace.h"

void mmio_ext_trace_access(const struct mmio_ext_vcpu_id *id, u64 gpa, u8 size,
			   u8 direction, u8 outcome)
{
	trace_mmio_access(id, gpa, size, direction, outcome);
}

void mmio_ext_trace_miss(const struct mmio_ext_vcpu_id *id, u64 addr,
			 bool is_virtual, u8 outcome)
{
	trace_mmio_miss(id, addr, is_virtual, outcome);
}

/*
 * The process, as the initial PID namespace names it.  (bindgen does not lay
 * out task_struct as compilers do in every configuration.)
 */
u32 mmio_ext_tgid(void)
{
	return task_tgid_nr(current);
}

u32 mmio_ext_tsc_khz(void)
{
	return tsc_khz;
}

u64 mmio_ext_boottime(void)
{
	return ktime_get_boottime_ns();
}
