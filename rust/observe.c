// SPDX-License-Identifier: GPL-2.0
/* Seeing accesses: tracepoints, what the emulator knows. */
#include <linux/kvm_host.h>
#include <linux/timekeeping.h>

#include <asm/tsc.h>

#include "kvm_emulate.h"

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

/*
 * Make operands of an earlier instruction unrecognizable: the emulator may end
 * before it has decoded this one.
 */
void mmio_ext_forget_operands(struct kvm_vcpu *vcpu)
{
	struct x86_emulate_ctxt *ctxt = vcpu->arch.emulate_ctxt;

	ctxt->src.type = OP_NONE;
	ctxt->dst.type = OP_NONE;
}

/*
 * What the emulator has just done, or has left to @userspace.  An instruction
 * whose destination was read before is a read, which it does first.  (POP to
 * memory is taken for one, as it reads the stack.)
 */
struct mmio_ext_emulated mmio_ext_emulated(struct kvm_vcpu *vcpu,
					   bool userspace)
{
	struct x86_emulate_ctxt *ctxt = vcpu->arch.emulate_ctxt;
	bool src = ctxt->src.type == OP_MEM;
	bool dst = ctxt->dst.type == OP_MEM;
	struct mmio_ext_emulated emulated = {};
	bool write;

	/* Of two operands, only an exit tells which it is. */
	if (ctxt->have_exception || !(src || dst) ||
	    (userspace ? !vcpu->mmio_needed : src && dst))
		return emulated;

	write = userspace ? vcpu->mmio_is_write : dst && !ctxt->mem_read.end;

	emulated.direction = write ? 2 : 1;
	emulated.size = (write || !src) ? ctxt->dst.bytes : ctxt->src.bytes;
	return emulated;
}
