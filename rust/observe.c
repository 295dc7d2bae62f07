// SPDX-License-Identifier: GPL-2.0
/* Seeing accesses: tracepoints, what the emulator knows. */
#include <linux/kvm_host.h>
#include <linux/timekeeping.h>

#include <asm/tsc.h>

#include "kvm_emulate.h"
#include "x86.h"

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
 * What the emulator has just done, or has left to userspace.  An instruction
 * whose destination was read before is a read, which it does first.  (POP to
 * memory is taken for one, as it reads the stack.)
 */
static void classify(struct kvm_vcpu *vcpu, struct mmio_ext_emulated *emulated)
{
	struct x86_emulate_ctxt *ctxt = vcpu->arch.emulate_ctxt;
	bool src = ctxt->src.type == OP_MEM;
	bool dst = ctxt->dst.type == OP_MEM;
	bool userspace = emulated->r <= 0;
	bool write;

	if (ctxt->have_exception || !(src || dst) ||
	    (userspace && !vcpu->mmio_needed))
		return;

	if (!userspace && src && dst)
		return;

	write = userspace ? vcpu->mmio_is_write : dst && !ctxt->mem_read.end;

	emulated->direction = write ? 2 : 1;
	emulated->size = (write || !src) ? ctxt->dst.bytes : ctxt->src.bytes;
}

struct mmio_ext_emulated mmio_ext_emulate(struct kvm_vcpu *vcpu, u64 addr,
					  void *insn, int insn_len)
{
	struct x86_emulate_ctxt *ctxt = vcpu->arch.emulate_ctxt;
	struct mmio_ext_emulated emulated = {};

	/* Those of an earlier instruction, if this one is not even decoded. */
	ctxt->src.type = OP_NONE;
	ctxt->dst.type = OP_NONE;

	emulated.r = x86_emulate_instruction(vcpu, addr, EMULTYPE_PF, insn,
					     insn_len);
	classify(vcpu, &emulated);
	return emulated;
}
