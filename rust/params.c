// SPDX-License-Identifier: GPL-2.0
/* Module parameters, which Rust cannot put into sysfs yet, and exports. */
#include <linux/cleanup.h>
#include <linux/jump_label.h>
#include <linux/kvm_types.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>

#include <asm/kvm_mmio_ext.h>

#include "helpers.h"
#include "observe.h"

bool mmio_ext_enabled = true;
bool mmio_ext_fast = true;
bool mmio_ext_irqsoff = true;

/* What of the extension KVM is to call. */
static u32 mmio_ext_parts(void)
{
	if (!mmio_ext_enabled)
		return 0;
	if (!mmio_ext_fast)
		return KVM_MMIO_EXT_FAULTS;
	return KVM_MMIO_EXT_FAULTS | KVM_MMIO_EXT_EXITS |
	       (mmio_ext_irqsoff ? KVM_MMIO_EXT_RING : 0);
}

static int mmio_ext_switch_set(const char *val, const struct kernel_param *kp)
{
	bool *on = kp->arg;
	bool old = *on;
	int r;

	r = param_set_bool(val, kp);
	if (r)
		return r;

	/* Registration, if it is yet to come, uses what is stored here. */
	r = kvm_mmio_ext_enable(mmio_ext_parts());
	if (r == -ENODEV)
		return 0;
	if (r)
		*on = old;
	return r;
}

/* Register, with what the parameters say switched on. */
int mmio_ext_register(const struct kvm_mmio_ext_ops *ops)
{
	int r;

	kernel_param_lock(THIS_MODULE);
	r = kvm_mmio_ext_register(ops, mmio_ext_parts());
	kernel_param_unlock(THIS_MODULE);
	if (!r)
		mmio_ext_observe_emulator();
	return r;
}

static const struct kernel_param_ops mmio_ext_switch_ops = {
	.flags = KERNEL_PARAM_OPS_FL_NOARG,
	.set = mmio_ext_switch_set,
	.get = param_get_bool,
};

module_param_cb(enabled, &mmio_ext_switch_ops, &mmio_ext_enabled, 0644);
__MODULE_PARM_TYPE(enabled, "bool");
MODULE_PARM_DESC(enabled, "Handle emulated MMIO in the extension (default: Y)");

module_param_cb(fast, &mmio_ext_switch_ops, &mmio_ext_fast, 0644);
__MODULE_PARM_TYPE(fast, "bool");
MODULE_PARM_DESC(fast, "Complete plain moves without the emulator (default: Y)");

module_param_cb(irqsoff, &mmio_ext_switch_ops, &mmio_ext_irqsoff, 0644);
__MODULE_PARM_TYPE(irqsoff, "bool");
MODULE_PARM_DESC(irqsoff, "Answer doorbells and registers before interrupts are on again (default: Y)");

DEFINE_STATIC_KEY_FALSE(mmio_ext_heat_key);
DEFINE_STATIC_KEY_FALSE(mmio_ext_instructions_key);

static bool mmio_ext_heat;

/* Open files that want it, whatever the parameter says. */
static unsigned int mmio_ext_heat_files;

/* Taken where kernel_param_lock() is held, and where it is not. */
static DEFINE_MUTEX(mmio_ext_heat_lock);

static void mmio_ext_heat_update(void)
{
	bool on = mmio_ext_heat || mmio_ext_heat_files;

	lockdep_assert_held(&mmio_ext_heat_lock);

	/* An access in between is seen by nobody rather than counted twice. */
	if (on)
		static_branch_enable(&mmio_ext_heat_key);
	mmio_ext_set_observer(MMIO_EXT_HEAT, on);
	if (!on)
		static_branch_disable(&mmio_ext_heat_key);
}

static int mmio_ext_heat_set(const char *val, const struct kernel_param *kp)
{
	int r;

	guard(mutex)(&mmio_ext_heat_lock);
	r = param_set_bool(val, kp);
	if (r)
		return r;

	mmio_ext_heat_update();
	return 0;
}

/* For as long as a file is open. */
void mmio_ext_heat_get(void)
{
	guard(mutex)(&mmio_ext_heat_lock);
	if (!mmio_ext_heat_files++)
		mmio_ext_heat_update();
}

void mmio_ext_heat_put(void)
{
	guard(mutex)(&mmio_ext_heat_lock);
	if (!--mmio_ext_heat_files)
		mmio_ext_heat_update();
}

/* For as long as a file is open that has asked for it. */
void mmio_ext_instructions_get(void)
{
	static_branch_inc(&mmio_ext_instructions_key);
}

void mmio_ext_instructions_put(void)
{
	static_branch_dec(&mmio_ext_instructions_key);
}

static const struct kernel_param_ops mmio_ext_heat_ops = {
	.flags = KERNEL_PARAM_OPS_FL_NOARG,
	.set = mmio_ext_heat_set,
	.get = param_get_bool,
};

module_param_cb(heat, &mmio_ext_heat_ops, &mmio_ext_heat, 0644);
__MODULE_PARM_TYPE(heat, "bool");
MODULE_PARM_DESC(heat, "Record what each vCPU does to each MMIO page (default: N)");

/* As kvm-mmio's and the packages'. */
MODULE_VERSION("0.1.0");

/* Implemented in Rust, see rust/exports.rs. */
EXPORT_SYMBOL_FOR_KVM_INTERNAL(handle_mmio_page_fault_common);
