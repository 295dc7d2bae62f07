#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Loads the module of KUnit tests, which runs them, and reports the cases of
# all suites as one list.

# For without_memory_c_goes_on: allocations that may sleep can fail, and say nothing.
failslab=/sys/kernel/debug/failslab
if [ -d "$failslab" ]; then
	echo N > "$failslab/ignore-gfp-wait"
	echo 0 > "$failslab/verbose"
fi

echo "kunit.sh: begin" > /dev/kmsg
insmod "$LAB_MODULES/kvm_mmio_ext_kunit.ko" || exit 1
report=$(dmesg | sed -e '1,/kunit.sh: begin/d' -e 's/^\[[^]]*\] //')
rmmod kvm_mmio_ext_kunit

# Cases are indented once, parameters of a case twice, suites not at all.
echo "$report" | awk '
	/^    # Subtest: / { suite = $3; next }
	/^    1\.\./ { planned += substr($1, 4); next }
	/^1\.\./ { suites += substr($1, 4); next }
	/^(not )?ok / { reported++; next }
	/^    (not )?ok / {
		verdict = $1 == "ok" ? "ok" : "not ok"
		sub(/^    (not )?ok [0-9]+ /, "")
		print verdict, ++cases, "- " suite "." $0
		next
	}
	/^    (KTAP version|# module:)/ || /speed: / { next }
	/^    / { sub(/^    (# )?/, ""); print "# " $0 }
	END {
		print "1.." planned
		# Nothing at all is no success.
		exit !(suites && suites == reported && planned == cases)
	}'
