#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Tests of mmio-here itself, as TAP: that it writes a whole report, puts the extension's switches
# back, and refuses a machine that is not ready. Runs inside a test machine, as root, with the
# extension loaded, which is removed in the end; mmio-here and what it starts are in PATH.
#
# Written for the smallest shell and tools (busybox).

PARAMETERS=/sys/module/kvm_mmio_ext/parameters

number=0
failed=0
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT

# has PATTERN...: a line of the report matches each
has() {
	for pattern; do
		grep -Eq "$pattern" "$scratch/report" && continue
		echo "# no line of the report is '$pattern'"
		sed 's/^/#   /' "$scratch/report" "$scratch/errors"
		return 1
	done
}

# switches ENABLED FAST: they are in this position
switches() {
	now="$(cat $PARAMETERS/enabled) $(cat $PARAMETERS/fast)"
	[ "$now" = "$1 $2" ] && return 0
	echo "# enabled and fast are $now, wanted $1 $2"
	return 1
}

# turn ENABLED FAST
turn() {
	echo "$1" >$PARAMETERS/enabled && echo "$2" >$PARAMETERS/fast
}

# here STATUS ARGUMENT...: it ends with this status
here() {
	wanted=$1
	shift
	mmio-here --quick "$@" >"$scratch/report" 2>"$scratch/errors"
	status=$?
	[ $status = "$wanted" ] && return 0
	echo "# status $status, wanted $wanted"
	sed 's/^/#   /' "$scratch/report" "$scratch/errors"
	return 1
}

checks() {
	turn Y Y && here 0 check --revision rev-1 && switches Y Y &&
		has '^revision of the tests: rev-1$' '^processor  +[^ -]' '^microcode  +(0x|-)' \
			'^family, model, stepping  +[^ ]+ [0-9]+, [0-9]+, [0-9]+$' \
			"^kernel  +$(uname -r | cut -d. -f1-2)" '^Mitigations$' '^spectre_v1  +[A-Z]' \
			'^kvm.mmio_caching  +Y$' '^under a hypervisor  +(yes|no)' \
			'^tests, extension on: [1-9][0-9]* passed, 0 failed' \
			'^tests, fast path off: [1-9][0-9]* passed, 0 failed' \
			'^tests, extension off: [1-9][0-9]* passed, 0 failed' \
			'^random programs, off and on compared: [1-9][0-9]* passed, 0 failed' \
			'^[1-9][0-9]* passed, 0 failed'
}

measures() {
	turn N N && here 0 bench && switches N N &&
		has '^On processor [0-9]+\.$' '^│ port write, exit to userspace ' \
			'^│ MMIO write, ioeventfd with datamatch .* [0-9]+ \([0-9]+-[0-9]+\) ' \
			'^1 passed, 0 failed$'
}

# By the way of Ctrl-C; the tests have switched it on by then.
interrupted() {
	turn N N || return 1
	mmio-here check >"$scratch/report" 2>"$scratch/errors" &
	pid=$!
	tries=0
	until [ "$(cat $PARAMETERS/enabled)" = Y ]; do
		tries=$((tries + 1))
		if [ $tries = 200 ]; then
			echo "# it has switched nothing on"
			kill $pid
			return 1
		fi
		sleep 0.1
	done
	kill -TERM $pid
	wait $pid
	status=$?
	if [ $status != 143 ] || [ -s "$scratch/report" ]; then
		echo "# status $status, wanted 143, and no report"
		return 1
	fi
	switches N N || return 1
	if grep -qs mmio-test /proc/[0-9]*/comm; then
		echo "# mmio-test still runs"
		return 1
	fi
}

# refused WHY: status 2, one line that says why, no report
refused() {
	here 2 || return 1
	lines=$(wc -l <"$scratch/errors")
	[ "$lines" = 1 ] && [ ! -s "$scratch/report" ] && grep -q "$1" "$scratch/errors" && return 0
	echo "# wanted one line: $1"
	sed 's/^/#   /' "$scratch/errors"
	return 1
}

not_ready() {
	rmmod kvm_mmio_ext && refused "insmod kvm_mmio_ext.ko" || return 1
	if [ -d /sys/module/kvm_intel ]; then
		rmmod kvm_intel
	else
		rmmod kvm_amd
	fi && refused "KVM is not loaded: modprobe"
}

set -- checks measures interrupted not_ready
echo "1..$#"
for name; do
	number=$((number + 1))
	if "$name"; then
		echo "ok $number - here_$name"
	else
		echo "not ok $number - here_$name"
		failed=$((failed + 1))
	fi
done
[ $failed = 0 ]
