// SPDX-License-Identifier: GPL-2.0
/* Module parameters, which Rust cannot put into sysfs yet, and exports. */
#include <linux/jump_label.h>
#include <linux/kvm_types.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#include <asm/kvm_mmio_ext.h>

#include "helpers.h"
#include "observe.h"

bool mmio_ext_enabled = true;

static int mmio_ext_enabled_set(const char *val, const struct kernel_param *kp)
{
	bool old = mmio_ext_enabled;
	int r;

	r = param_set_bool(val, kp);
	if (r)
		return r;

	/* Registration, if it is yet to come, uses what is stored here. */
	r = kvm_mmio_ext_enable(mmio_ext_enabled);
	if (r == -ENODEV)
		return 0;
	if (r)
		mmio_ext_enabled = old;
	return r;
}

/* Register, switched on or off as the parameter says. */
int mmio_ext_register(const struct kvm_mmio_ext_ops *ops)
{
	int r;

	kernel_param_lock(THIS_MODULE);
	r = kvm_mmio_ext_register(ops, mmio_ext_enabled);
	kernel_param_unlock(THIS_MODULE);
	if (!r)
		mmio_ext_observe_emulator();
	return r;
}

static const struct kernel_param_ops mmio_ext_enabled_ops = {
	.flags = KERNEL_PARAM_OPS_FL_NOARG,
	.set = mmio_ext_enabled_set,
	.get = param_get_bool,
};

module_param_cb(enabled, &mmio_ext_enabled_ops, &mmio_ext_enabled, 0644);
__MODULE_PARM_TYPE(enabled, "bool");
MODULE_PARM_DESC(enabled, "Handle emulated MMIO in the extension (default: Y)");

bool mmio_ext_fast = true;
module_param_named(fast, mmio_ext_fast, bool, 0644);
MODULE_PARM_DESC(fast, "Complete plain moves without the emulator (default: Y)");

bool mmio_ext_irqsoff = true;
module_param_named(irqsoff, mmio_ext_irqsoff, bool, 0644);
MODULE_PARM_DESC(irqsoff, "Answer doorbells before interrupts are on again (default: Y)");

DEFINE_STATIC_KEY_FALSE(mmio_ext_heat_key);

static bool mmio_ext_heat;

/* Parameters are set one at a time, see kernel_param_lock(). */
static int mmio_ext_heat_set(const char *val, const struct kernel_param *kp)
{
	int r = param_set_bool(val, kp);

	if (r)
		return r;

	/* An access in between is seen by nobody rather than counted twice. */
	if (mmio_ext_heat)
		static_branch_enable(&mmio_ext_heat_key);
	mmio_ext_set_observer(MMIO_EXT_HEAT, mmio_ext_heat);
	if (!mmio_ext_heat)
		static_branch_disable(&mmio_ext_heat_key);
	return 0;
}

static const struct kernel_param_ops mmio_ext_heat_ops = {
	.flags = KERNEL_PARAM_OPS_FL_NOARG,
	.set = mmio_ext_heat_set,
	.get = param_get_bool,
};

module_param_cb(heat, &mmio_ext_heat_ops, &mmio_ext_heat, 0644);
__MODULE_PARM_TYPE(heat, "bool");
MODULE_PARM_DESC(heat, "Record what each vCPU does to each MMIO page (default: N)");

/* Implemented in Rust, see rust/kvm/hooks.rs. */
EXPORT_SYMBOL_FOR_KVM_INTERNAL(handle_mmio_page_fault_common);
