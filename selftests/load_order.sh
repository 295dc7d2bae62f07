#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Loads, unloads and reloads the extension around KVM's modules, in every order that a person may
# choose, rightly and wrongly, and reports TAP. Runs inside a test machine, as root, with no VM
# alive; LAB_MODULES names the folder with irqbypass.ko, kvm.ko, kvm_mmio_ext.ko and the vendor
# modules; mmio-test is in PATH. Modules that are loaded already are removed first, and none is
# left at the end.
#
#   load_order.sh [--rounds N] [TEST...]
#
# All tests run when none is named, but for `unpatched`. N is how often many_rounds loads the
# extension, runs a guest and unloads it.
#
# Written for the smallest shell and tools (busybox).
#
# More than 500 lines: each test is a few lines on what all of them share (load, expect, refuse),
# and as files of their own these parts would have to find one another in the test machine.

: "${LAB_MODULES:?names the folder with the kernel modules}"

# Guest-visible results and, with the extension on, the exact counters.
TESTS="first_access_long access_sizes_long slots_alternate_long doorbell_wildcard"
ROUNDS=20
KMEMLEAK=/sys/kernel/debug/kmemleak
EXT=kvm_mmio_ext
MARK="load_order.sh"

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
marks=0
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT

loaded() {
	[ -d "/sys/module/$1" ]
}

# load MODULE [NAME=VALUE...]
load() {
	module=$1
	shift
	insmod "$(file_of "$module")" "$@"
}

file_of() {
	# The vendor modules' files have a hyphen where their names have an underscore.
	for file in "$LAB_MODULES/$1.ko" "$LAB_MODULES/$(echo "$1" | tr _ -).ko"; do
		[ -e "$file" ] && break
	done
	echo "$file"
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

# expect_refusal WHY COMMAND...: the command must fail and give a reason that the pattern matches
expect_refusal() {
	why=$1
	shift
	expect_fail "wanted a refusal: $why" "$@" || return 1
	grep -Eqi "$why" "$scratch/out" && return 0
	echo "# the reason given is not '$why': $*"
	sed 's/^/#   /' "$scratch/out"
	return 1
}

# expect_log PATTERN COMMAND...: the command must succeed, and the kernel say one thing about it;
# that may be more than once, as some tools try again
expect_log() {
	pattern=$1
	shift
	marks=$((marks + 1))
	echo "$MARK: mark $marks." >/dev/kmsg
	"$@" || return 1
	dmesg | sed "1,/$MARK: mark $marks\./d" | grep -E "$pattern" >"$scratch/log"
	[ "$(sed 's/^[^]]*] *//' "$scratch/log" | sort -u | wc -l)" = 1 ] && return 0
	echo "# wanted in the log: one line of '$pattern'"
	sed 's/^/#   /' "$scratch/log"
	return 1
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

# Heat from the first access on, and what the emulator does as well.
hot_at_load() {
	kvm_base && expect extension load $EXT heat=1 && expect vendor load $VENDOR &&
		expect_value /sys/module/$EXT/parameters/heat Y &&
		expect "a test" mmio-test observe_at_load && ran_at_load
}

# It did not skip itself.
ran_at_load() {
	grep -q "^ok 1 - observe_at_load$" "$scratch/out" && return 0
	sed 's/^/# /' "$scratch/out"
	return 1
}

removed_after_use() {
	after_vendor && expect "extension removed" unload $EXT && guests &&
		expect "extension again" load $EXT && guests_by_rust
}

# A VM that lives until it is released.
hold() {
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
}

release() {
	exec 3>&-
	rm -f "$scratch/end"
	wait "$holder" || { echo "# mmio-test --hold: status $?"; return 1; }
}

# A VM that lives keeps the extension in place, and nothing else changes.
busy() {
	before_vendor && hold || return 1
	status=0
	expect_refusal "in use|busy|temporarily unavailable" unload $EXT || status=1
	loaded $EXT || { echo "# the extension is gone"; status=1; }
	guests_by_rust || status=1
	release || status=1
	expect "removal without a VM" unload $EXT || status=1
	return $status
}

# The number that a VM has while it lives.
vm_number() {
	hold || return 1
	sed -n '1s/^vm \([0-9]*\) .*/\1/p' /sys/kernel/debug/$EXT/heat
	release
}

# No VM has the number of another, whether the extension was there in between or not.
numbers_go_on() {
	kvm_base && expect extension load $EXT heat=1 && expect vendor load $VENDOR || return 1
	first=$(vm_number)
	expect "extension removed" unload $EXT && guests && expect "extension again" load $EXT heat=1 ||
		return 1
	second=$(vm_number)
	[ "$first" -gt 0 ] && [ "$second" -gt $((first + 1)) ] && return 0
	echo "# VM $first, and then VM $second"
	return 1
}

twice() {
	before_vendor && expect_refusal "exists" load $EXT && guests_by_rust
}

# What KVM does without the extension, after that has been refused.
c_path() {
	if loaded $EXT; then
		echo "# the extension is loaded"
		return 1
	fi
	expect vendor load $VENDOR && guests
}

refused_parameter() {
	expect_refusal "invalid (argument|parameter)" load $EXT "$1"
}

bad_parameters() {
	kvm_base || return 1
	for parameter in enabled=maybe enabled=2 enabled=-1 fast=maybe fast=; do
		name=${parameter%%=*}
		expect_log "$EXT: .*invalid for parameter .$name'" refused_parameter $parameter ||
			return 1
	done
	c_path
}

# refused_value NAME VALUE: a parameter keeps its value if it is given a wrong one
refused_value() {
	file=/sys/module/$EXT/parameters/$1
	before=$(cat "$file")
	printf '%s\n' "$2" >"$scratch/value"
	expect_refusal "invalid argument" dd if="$scratch/value" of="$file" &&
		expect_value "$file" "$before"
}

bad_values() {
	before_vendor || return 1
	for name in enabled fast; do
		for value in maybe 2 -1 ""; do
			refused_value $name "$value" || return 1
		done
	done
	guests_by_rust
}

# refused_of_another_kernel MODULE: it cannot be loaded as built for another kernel
refused_of_another_kernel() {
	copy=$scratch/$1.ko
	sed 's/vermagic=7/vermagic=6/' "$(file_of "$1")" >"$copy"
	if cmp -s "$(file_of "$1")" "$copy"; then
		echo "# $1 does not say which kernel it was built for"
		return 1
	fi
	expect_log "$1: version magic .* should be" \
		expect_refusal "invalid module format|exec format error" insmod "$copy"
}

another_kernel() {
	kvm_base && refused_of_another_kernel $EXT && c_path
}

# The vendor module of another build; the right one then has KVM and the extension as ever.
another_vendor() {
	kvm_base && refused_of_another_kernel $VENDOR && c_path || return 1
	expect "vendor removed" unload $VENDOR && expect extension load $EXT &&
		refused_of_another_kernel $VENDOR && expect vendor load $VENDOR && guests_by_rust
}

# offset_of FILE HEX: where these bytes are, which must be there once
offset_of() {
	od -An -v -tx1 "$1" | tr -d ' \n' | awk -v hex="$2" '{
		at = index($0, hex)
		if (at % 2 && !index(substr($0, at + 1), hex))
			print (at - 1) / 2
	}'
}

# A KVM that takes bit 50, not 51, for MMIO SPTEs without EPT: it differs in the constant that
# kvm_mmu_reset_all_pte_masks() passes on, movabs $0x8000000000001, %rdi.
kvm_with_another_mask() {
	copy=$scratch/kvm.ko
	at=$(offset_of "$(file_of kvm)" 48bf0100000000000800)
	if [ -z "$at" ]; then
		echo "# kvm.ko does not set its mask in one place"
		return 1
	fi
	cp "$(file_of kvm)" "$copy" &&
		printf '\004' | dd of="$copy" bs=1 seek=$((at + 8)) conv=notrunc 2>/dev/null &&
		expect irqbypass load irqbypass && expect "kvm with another mask" insmod "$copy"
}

refused_mask() {
	expect_log "$EXT: MMIO SPTE masks differ: KVM has value 0x4000000000001, " "$@"
}

another_mask() {
	bits=$(sed -n 's/^address sizes.*: \([0-9]*\) bits physical.*/\1/p' /proc/cpuinfo | head -n 1)
	if [ "$bits" -gt 50 ]; then
		skip "bit 50 is part of an address"
		return
	fi
	kvm_with_another_mask && expect vendor load $VENDOR $TDP=0 && guests || return 1
	# It makes no difference whether the extension is to be switched on.
	refused_mask refused_parameter enabled=1 && refused_mask refused_parameter enabled=0 &&
		expect "vendor removed" unload $VENDOR || return 1
	# The masks that were computed stay until kvm goes.
	refused_mask refused_parameter enabled=1 && c_path
}

# The extension came in time but was switched off, and so did not set the mask.
another_mask_set_while_off() {
	kvm_with_another_mask && expect extension load $EXT enabled=0 &&
		expect vendor load $VENDOR $TDP=0 && guests_not_by_rust &&
		refused_mask refused_value enabled Y && guests_not_by_rust
}

# What the extension asks for when it is refused.
another_mask_avoided() {
	kvm_with_another_mask && expect extension load $EXT && expect vendor load $VENDOR $TDP=0 &&
		guests_by_rust
}

# A kernel without the hooks. Run by name, on a kernel like that.
unpatched() {
	kvm_base || return 1
	module=$(command -v $EXT.ko)
	expect_log "$EXT: .*symbol kvm_mmio_ext_register" \
		expect_refusal "unknown symbol|invalid (module format|argument)|no such file" \
		insmod "$module" && c_path
}

# The KVM that a distribution has, with no hooks.
stock_kvm() {
	for module in kvm $VENDOR; do
		expect "stock $module" insmod "$(file_of "stock/$module")" || return 1
	done
	guests
}

# Once more after the place of another was taken by the patched one, in the same boot. Run by
# name, on the kernel of a distribution.
replaced() {
	expect irqbypass load irqbypass && stock_kvm && remove_stock_kvm && busy && unload_all &&
		expect irqbypass load irqbypass && stock_kvm
}

# While a VM lives it stays.
remove_stock_kvm() {
	hold || return 1
	expect_refusal "in use|busy|temporarily unavailable" unload $VENDOR
	status=$?
	release && [ $status = 0 ] && expect "stock vendor removed" unload $VENDOR &&
		expect "stock kvm removed" unload kvm && expect "irqbypass removed" unload irqbypass
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
	while [ $round -lt "$ROUNDS" ]; do
		round=$((round + 1))
		expect "load $round" load $EXT &&
			expect "run $round" mmio-test first_access_long_8_pages &&
			expect "unload $round" unload $EXT || return 1
	done
}

# Where the kernel can look for memory that nothing points to any more.
no_leak() {
	if ! [ -e $KMEMLEAK ]; then
		skip "the kernel has no kmemleak"
		return
	fi
	# What is younger than 5 seconds is not reported.
	sleep 6
	echo scan >$KMEMLEAK
	cat $KMEMLEAK >"$scratch/out"
	[ -s "$scratch/out" ] || return 0
	sed 's/^/#   /' "$scratch/out"
	return 1
}

quiet_log() {
	# Only what came after the start: firmware may make the kernel warn at boot.
	dmesg | sed "1,/$MARK starts/d" >"$scratch/log"
	[ -s "$scratch/log" ] || dmesg >"$scratch/log"
	if grep -E 'WARNING:|BUG:|Oops|KASAN|lockdep|rcu:.*stall' "$scratch/log" >"$scratch/out"; then
		sed 's/^/#   /' "$scratch/out"
		return 1
	fi
}

# skip WHY: the test that calls it, and then returns, says nothing of the extension
skip() {
	skipped=" # SKIP $1"
}

# run NAME: a test with nothing loaded at its start
run() {
	number=$((number + 1))
	skipped=
	if expect "removing what was loaded" unload_all && "$1"; then
		echo "ok $number - load_$1$skipped"
	else
		echo "not ok $number - load_$1"
		failed=$((failed + 1))
	fi
}

ALL="before_vendor before_vendor_shadow after_vendor after_vendor_shadow no_caching_before
	no_caching_after vendor_reload hot_at_load removed_after_use busy numbers_go_on twice kvm_needs_it
	off_at_load bad_parameters bad_values another_kernel another_vendor another_mask
	another_mask_set_while_off another_mask_avoided many_rounds no_leak quiet_log"

if [ "$1" = --rounds ]; then
	ROUNDS=$2
	shift 2
fi
echo "$MARK starts" >/dev/kmsg
# What was lost before is not for the extension to answer for.
[ ! -e $KMEMLEAK ] || echo clear >$KMEMLEAK
# shellcheck disable=SC2086 # one word, one test
[ $# != 0 ] || set -- $ALL
echo "1..$#"
for name; do
	run "$name"
done
unload_all
[ $failed = 0 ]
