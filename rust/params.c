// SPDX-License-Identifier: GPL-2.0
/* Module parameters, which Rust cannot put into sysfs yet, and exports. */
#include <linux/kvm_types.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#include <asm/kvm_mmio_ext.h>

#include "helpers.h"

bool mmio_ext_enabled = true;

static int mmio_ext_enabled_set(const char *val, const struct kernel_param *kp)
{
	bool old = mmio_ext_enabled;
	int r;

	r = param_set_bool(val, kp);
	if (r)
		return r;

	/* Until it is registered, registration uses what is stored here. */
	r = kvm_mmio_ext_enable(mmio_ext_enabled);
	if (r == -ENODEV)
		return 0;
	if (r)
		mmio_ext_enabled = old;
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

/* Implemented in Rust, see src/fault.rs. */
int handle_mmio_page_fault_common(struct kvm_vcpu *vcpu, u64 addr, bool direct);
EXPORT_SYMBOL_FOR_KVM_INTERNAL(handle_mmio_page_fault_common);
