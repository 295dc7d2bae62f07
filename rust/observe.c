// SPDX-License-Identifier: GPL-2.0
/*
 * Seeing accesses: tracepoints, clocks.
 *
 * In C because tracepoints are made by macros, and the functions that are called
 * when one is switched on or off are named there.  Who observes KVM's emulator is
 * beside them: these functions and the parameter "heat" (params.c) decide it.
 */
#include <linux/bitops.h>
#include <linux/cleanup.h>
#include <linux/kvm_host.h>
#include <linux/mutex.h>
#include <linux/timekeeping.h>

#include <asm/kvm_mmio_ext.h>
#include <asm/tsc.h>

#include "observe.h"

#define CREATE_TRACE_POINTS
#include "mmio_ext_trace.h"

/* Who wants to know what KVM's emulator does. */
static unsigned long mmio_ext_observers;
static DEFINE_MUTEX(mmio_ext_observers_lock);

static void __mmio_ext_observe_emulator(void)
{
	kvm_mmio_ext_observer_t *observer = NULL;

	if (test_bit(MMIO_EXT_TRACE, &mmio_ext_observers))
		observer = mmio_ext_see_access;
	else if (test_bit(MMIO_EXT_HEAT, &mmio_ext_observers))
		observer = mmio_ext_record_access;

	/* Without a registration there is nothing to see, it comes here again. */
	kvm_mmio_ext_observe(observer);
}

void mmio_ext_observe_emulator(void)
{
	guard(mutex)(&mmio_ext_observers_lock);
	__mmio_ext_observe_emulator();
}

void mmio_ext_set_observer(enum mmio_ext_observer who, bool on)
{
	guard(mutex)(&mmio_ext_observers_lock);
	__assign_bit(who, &mmio_ext_observers, on);
	__mmio_ext_observe_emulator();
}

int mmio_ext_trace_access_reg(void)
{
	mmio_ext_set_observer(MMIO_EXT_TRACE, true);
	return 0;
}

void mmio_ext_trace_access_unreg(void)
{
	mmio_ext_set_observer(MMIO_EXT_TRACE, false);
}

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
