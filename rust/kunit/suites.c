// SPDX-License-Identifier: GPL-2.0
/*
 * The suites of kvm_mmio_ext.ko, which has them because KVM lets it alone use
 * its functions.  They are listed here, and not there, so that they run on
 * request: what they count is seen in the statistics of the module.
 */
#include <kunit/test.h>
#include <linux/module.h>

#include "kunit/vm.h"

kunit_test_suites(&mmio_ext_kunit_walk_suite, &mmio_ext_kunit_vcpu_suite);

MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
