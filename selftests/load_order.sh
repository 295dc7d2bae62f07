#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Loads, unloads and reloads the extension around KVM's modules, in every order that a person may
# choose, and reports TAP. Runs inside a test machine, as root, with no VM alive; LAB_MODULES names
# the folder with irqbypass.ko, kvm.ko, kvm_mmio_ext.ko and the vendor modules; mmio-test is in
# PATH. Modules that are loaded already are removed first, and none is left at the end.
#
# Written for the smallest shell and tools (busybox).

: "${LAB_MODULES:?names the folder with the kernel modules}"

# Guest-visible results and, with the extension on, the exact counters.
TESTS="first_access_long access_sizes_long slots_alternate_long doorbell_wildcard"
ROUNDS=20
EXT=kvm_mmio_ext
MARK="load_order.sh starts"

if grep -qw vmx /proc/cpuinfo; then
	VENDOR=kvm_intel TDP=ept
elif grep -qw svm /proc/cpuinfo; then
	VENDOR=kvm_amd TDP=npt
else
	echo "1..0 # SKIP this processor has neither VMX nor SVM"
	exit 0
fi

number=0
failed=0
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT

loaded() {
	[ -d "/sys/module/$1" ]
}

# load MODULE [NAME=VALUE...]
load() {
	module=$1
	shift
	# The vendor modules' files have a hyphen where their names have an underscore.
	file=$LAB_MODULES/$module.ko
	[ -e "$file" ] || file=$LAB_MODULES/$(echo "$module" | tr _ -).ko
	insmod "$file" "$@"
}

unload() {
	rmmod "$1"
}

unload_all() {
	for module in $VENDOR $EXT kvm irqbypass; do
		if loaded "$module"; then
			unload "$module" || return 1
		fi
	done
}

# expect WHAT COMMAND...: the command must succeed
expect() {
	what=$1
	shift
	if "$@" >"$scratch/out" 2>&1; then
		return 0
	fi
	echo "# $what: status $? of: $*"
	sed 's/^/#   /' "$scratch/out"
	return 1
}

# expect_fail WHAT COMMAND...: the command must fail
expect_fail() {
	what=$1
	shift
	if "$@" >"$scratch/out" 2>&1; then
		echo "# $what: succeeded: $*"
		return 1
	fi
	return 0
}

# expect_value FILE VALUE
expect_value() {
	value=$(cat "$1" 2>&1)
	[ "$value" = "$2" ] && return 0
	echo "# $1 is '$value', wanted '$2'"
	return 1
}

stat() {
	sed -n "s/^$1[[:space:]][[:space:]]*//p" /sys/kernel/debug/$EXT/stats
}

guests() {
	# shellcheck disable=SC2086 # one word, one name
	expect "tests with $(cat /sys/module/$EXT/parameters/enabled 2>/dev/null || echo no) extension" \
		mmio-test $TESTS
}

# Guests run, and the extension took their faults.
guests_by_rust() {
	before=$(stat faults)
	guests || return 1
	after=$(stat faults)
	[ "$after" -gt "$before" ] && return 0
	echo "# the extension's faults: $before before, $after after"
	return 1
}

# Guests run, and the extension took nothing.
guests_not_by_rust() {
	before=$(stat faults) made=$(stat spte_made)
	guests || return 1
	after=$(stat faults) made_after=$(stat spte_made)
	[ "$after" = "$before" ] && [ "$made_after" = "$made" ] && return 0
	echo "# the extension's faults: $before before, $after after; spte_made: $made, $made_after"
	return 1
}

kvm_base() {
	expect irqbypass load irqbypass && expect kvm load kvm "$@"
}

before_vendor() {
	kvm_base && expect extension load $EXT && expect vendor load $VENDOR && guests_by_rust
}

before_vendor_shadow() {
	kvm_base && expect extension load $EXT && expect vendor load $VENDOR $TDP=0 && guests_by_rust
}

after_vendor() {
	kvm_base && expect vendor load $VENDOR && guests &&
		expect extension load $EXT && guests_by_rust
}

after_vendor_shadow() {
	kvm_base && expect vendor load $VENDOR $TDP=0 && guests &&
		expect extension load $EXT && guests_by_rust
}

no_caching_before() {
	kvm_base mmio_caching=0 && expect extension load $EXT && expect vendor load $VENDOR &&
		expect_value /sys/module/kvm/parameters/mmio_caching N && guests_not_by_rust
}

no_caching_after() {
	kvm_base mmio_caching=0 && expect vendor load $VENDOR && expect extension load $EXT &&
		expect_value /sys/module/kvm/parameters/mmio_caching N && guests_not_by_rust
}

# The mask is computed anew for each vendor module and paging mode.
vendor_reload() {
	before_vendor || return 1
	for tdp in 0 1 0 1; do
		expect "vendor removed" unload $VENDOR &&
			expect "vendor again, $TDP=$tdp" load $VENDOR $TDP=$tdp &&
			expect_value /sys/module/kvm/parameters/mmio_caching Y &&
			guests_by_rust || return 1
	done
}

removed_after_use() {
	after_vendor && expect "extension removed" unload $EXT && guests &&
		expect "extension again" load $EXT && guests_by_rust
}

# A VM that lives keeps the extension in place, and nothing else changes.
busy() {
	before_vendor || return 1
	mkfifo "$scratch/end" || return 1
	mmio-test --hold <"$scratch/end" >"$scratch/hold" 2>&1 &
	holder=$!
	exec 3>"$scratch/end"
	tries=100
	until grep -q holding "$scratch/hold"; do
		tries=$((tries - 1))
		if [ $tries = 0 ]; then
			echo "# mmio-test --hold: $(cat "$scratch/hold")"
			exec 3>&-
			return 1
		fi
		sleep 0.1
	done
	status=0
	expect_fail "removal with a VM alive" unload $EXT || status=1
	loaded $EXT || { echo "# the extension is gone"; status=1; }
	guests_by_rust || status=1
	exec 3>&-
	wait $holder || { echo "# mmio-test --hold: status $?"; status=1; }
	rm -f "$scratch/end"
	expect "removal without a VM" unload $EXT || status=1
	return $status
}

twice() {
	before_vendor && expect_fail "the same module again" load $EXT && guests_by_rust
}

kvm_needs_it() {
	before_vendor && expect "vendor removed" unload $VENDOR &&
		expect_fail "kvm removed under the extension" unload kvm &&
		expect "vendor again" load $VENDOR && guests_by_rust
}

off_at_load() {
	kvm_base && expect extension load $EXT enabled=0 && expect vendor load $VENDOR &&
		expect_value /sys/module/$EXT/parameters/enabled N && guests_not_by_rust || return 1
	echo Y >/sys/module/$EXT/parameters/enabled || return 1
	expect_value /sys/module/$EXT/parameters/enabled Y && guests_by_rust || return 1
	echo N >/sys/module/$EXT/parameters/enabled || return 1
	expect_value /sys/module/$EXT/parameters/enabled N && guests_not_by_rust
}

many_rounds() {
	kvm_base && expect vendor load $VENDOR || return 1
	round=0
	while [ $round -lt $ROUNDS ]; do
		round=$((round + 1))
		expect "load $round" load $EXT &&
			expect "run $round" mmio-test first_access_long_8_pages &&
			expect "unload $round" unload $EXT || return 1
	done
}

quiet_log() {
	# Only what came after the start: firmware may make the kernel warn at boot.
	dmesg | sed "1,/$MARK/d" >"$scratch/log"
	[ -s "$scratch/log" ] || dmesg >"$scratch/log"
	if grep -E 'WARNING:|BUG:|Oops|KASAN|lockdep|rcu:.*stall' "$scratch/log" >"$scratch/out"; then
		sed 's/^/#   /' "$scratch/out"
		return 1
	fi
}

# run NAME: a test with nothing loaded at its start
run() {
	number=$((number + 1))
	if expect "removing what was loaded" unload_all && "$1"; then
		echo "ok $number - load_$1"
	else
		echo "not ok $number - load_$1"
		failed=$((failed + 1))
	fi
}

ALL="before_vendor before_vendor_shadow after_vendor after_vendor_shadow no_caching_before
	no_caching_after vendor_reload removed_after_use busy twice kvm_needs_it off_at_load
	many_rounds quiet_log"

echo "$MARK" >/dev/kmsg
# shellcheck disable=SC2086 # one word, one test
set -- $ALL
echo "1..$#"
for name; do
	run "$name"
done
unload_all
[ $failed = 0 ]
