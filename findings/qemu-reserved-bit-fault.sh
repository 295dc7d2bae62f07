#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# QEMU's page faults by a reserved bit say that the page is not present.
#
# Versions: qemu-system-x86 10.0.13 (Debian 13's) without KVM; binutils 2.44 assemble the guest.
# Expected: a page fault because of a reserved bit has bits 0 (P) and 3 (RSVD) of its error code
#           set, as reserved bits count in present entries only (SDM, volume 3, "Page-Fault
#           Exceptions"; for nested pages APM, volume 2, 15.25.6).
# Seen:     28 November 2026. A read of a page with bit 62 of its PAE entry set gives 8, not 9. A
#           write to a read-only page gives 3 and a read of an absent page 0, as they should. The
#           same guest finds 3, 0 and 9 in Bochs 3.0.
# Matters:  to kernels and hypervisors that put reserved bits into entries to be told of accesses,
#           as KVM does for MMIO, and take P for granted then.
# shellcheck source=findings/finding.sh
. "$(dirname "$0")/finding.sh"

debian binutils=2.44-3 'qemu-system-x86=1:10.0.13+ds-0+deb13u1'

# A boot sector. It prints an error code a fault, and goes on behind the access.
boot_sector 1 <<'END'
	lidt	idt_at
	mov	$0x10000, %edi			# Four entries at 10000, 512 at 11000, the IDT at 12000.
	xor	%eax, %eax
	mov	$0xc00, %ecx
	rep stosl
	movl	$0x11001, 0x10000
	movl	$0x83, 0x11000			# The first 2 MB, as they are,
	movl	$0x81, 0x11008			# the second read-only,
	movl	$0x83, 0x11018			# the fourth with a reserved bit; no third.
	movl	$0x40000000, 0x1101c
	movl	$0x80000 + fault, 0x12070	# Interrupt gate 14
	movl	$0x8e00, 0x12074
	mov	$0x10000, %eax
	mov	%eax, %cr3
	mov	$0x20, %eax			# PAE
	mov	%eax, %cr4
	mov	%cr0, %eax
	or	$0x80010000, %eax		# Paging, write protection
	mov	%eax, %cr0
	mov	$absent, %ebx
	movb	$0, 0x200000
absent:	mov	$bit, %ebx
	movb	0x400000, %al
bit:	mov	$end, %ebx
	movb	0x600000, %al
end:	out	%al, $0xf4			# The end of QEMU
	hlt

fault:	pop	%eax
	add	$'0', %al
	out	%al, $0xe9
	mov	%ebx, (%esp)
	iret

idt_at:	.word	127
	.long	0x12000
END
boot_in_qemu
found=$(cat found)
echo "read-only, absent, reserved bit: $found"
[ "$found" = 308 ] || changed "QEMU's guest finds $found"
