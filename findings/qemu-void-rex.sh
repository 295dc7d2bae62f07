#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# QEMU obeys a REX prefix that another prefix separates from the opcode.
#
# Versions: qemu-user 10.0.13 (Debian 13's), its x86-64 TCG; binutils 2.44 assemble the program.
# Expected: a REX prefix counts only right before the opcode or its escape, and is ignored anywhere
#           else (SDM, volume 2, "REX Prefixes"; APM, volume 3, "REX Prefix"). The x86-64
#           processor at hand is asked as well, if there is one.
# Seen:     28 November 2026. REX.W, 2E, MOV writes 64 bits of the register instead of 32, and
#           REX.W, 66, MOV does instead of 16. An AMD EPYC ignores the REX. QEMU 7.2 is as 10.0.
# Known:    unicorn-engine/unicorn issue 1782, which has QEMU's decoder, of 2023.
# Matters:  to whoever compares a decoder with QEMU, or tests one in it.
# shellcheck source=findings/finding.sh
. "$(dirname "$0")/finding.sh"

debian binutils=2.44-3 'qemu-user=1:10.0.13+ds-0+deb13u1'

cat >program.s <<'END'
	.globl _start
_start:	mov	$0x2222222222222222, %rdx
	mov	$0x1111111111111111, %rcx
	.byte	0x48, 0x2e, 0x89, 0xd1		# (REX.W) CS mov %edx, %ecx
	mov	%rcx, found(%rip)
	mov	$0x1111111111111111, %rcx
	.byte	0x48, 0x66, 0x89, 0xd1		# (REX.W) mov %dx, %cx
	mov	%rcx, found+8(%rip)
	mov	$1, %eax			# write()
	mov	$1, %edi
	lea	found(%rip), %rsi
	mov	$16, %edx
	syscall
	mov	$60, %eax			# exit()
	xor	%edi, %edi
	syscall
	.bss
found:	.space	16
END
run as program.s -o program.o
run ld program.o -o program

hex() { od -An -tx8 | tr -s ' \n' ' ' | sed 's/^ //; s/ $//'; }
by_qemu=$(run qemu-x86_64 ./program | hex)
echo "QEMU:      $by_qemu"
if [ "$(uname -m)" = x86_64 ]; then
	here=$(./program | hex)
	echo "processor: $here"
	[ "$here" = "0000000022222222 1111111111112222" ] || changed "this processor finds $here"
fi
[ "$by_qemu" = "2222222222222222 2222222222222222" ] || changed "QEMU finds $by_qemu"
