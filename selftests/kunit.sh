#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Loads the module of KUnit tests, which runs them, and prints what they
# report: their cases one by one, without the summary of each suite.

echo "kunit.sh: begin" > /dev/kmsg
insmod "$LAB_MODULES/kvm_mmio_ext_kunit.ko" || exit 1
report=$(dmesg | sed -e '1,/kunit.sh: begin/d' -e 's/^\[[^]]*\] //')
rmmod kvm_mmio_ext_kunit
echo "$report" | sed -n 's/^    //p'
# Nothing at all is no success.
echo "$report" | grep -q '^ok 1 '
