#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# QEMU takes all reads of control registers by an SVM guest for reads of CR0.
#
# Versions: qemu-system-x86 10.0.13 (Debian 13's) without KVM; binutils 2.44 assemble the guests.
# Expected: each control register has an intercept for reads of its own, and exit code 0 + its number
#           (APM, volume 2, "Instruction Intercepts" and "SVM Intercept Exit Codes").
# Seen:     30 November 2026. With all accesses intercepted but reads of CR0, guests that read CR2, CR3
#           and CR4 go on to their HLT (78h); a write to CR3 exits with 13h, as it should.
# Matters:  to hypervisors without nested paging, whose guests read the root of the shadow page tables
#           in place of their own CR3. (Under KVM with npt=0 a guest Linux ends without a message.)
# shellcheck source=findings/finding.sh
. "$(dirname "$0")/finding.sh"

debian binutils=2.44-3 'qemu-system-x86=1:10.0.13+ds-0+deb13u1'

# A boot sector. It runs five guests, and prints the exit code of each.
boot_sector 1 <<'END'
	mov	$0xc0000080, %ecx
	rdmsr
	or	$0x1000, %eax			# EFER.SVME
	wrmsr
	mov	$0xc0010117, %ecx		# VM_HSAVE_PA
	mov	$0x12000, %eax
	xor	%edx, %edx
	wrmsr
	mov	$0x11000, %edi			# The VMCB
	xor	%eax, %eax
	mov	$0x800, %ecx
	rep stosl
	subl	$2, 0x11000			# All accesses to control registers but reads of CR0,
	movb	$1, 0x1100f			# HLT
	movb	$1, 0x11010			# and VMRUN are intercepted.
	movb	$1, 0x11058			# ASID
	movl	$0x0c930010, %eax
	mov	%eax, 0x11400			# ES, CS, SS, DS
	mov	%eax, 0x11420
	mov	%eax, 0x11430
	movl	$0x0c9b0008, 0x11410
	decl	0x11404
	decl	0x11414
	decl	0x11424
	decl	0x11434
	movl	$0x1000, 0x114d0		# EFER
	movb	$0x11, 0x11558			# CR0
	movl	$0x400, 0x11560			# DR7
	movl	$0xffff0ff0, 0x11568		# DR6
	movb	$2, 0x11570			# RFLAGS
	mov	$guests, %esi
next:	lodsl
	test	%eax, %eax
	jz	end
	mov	%eax, 0x11578			# RIP
	mov	$0x11000, %eax
	vmrun
	mov	0x11070, %al			# EXITCODE
	out	%al, $0xe9
	jmp	next
end:	out	%al, $0xf4			# The end of QEMU
	hlt

read0:	mov	%cr0, %eax
	hlt
read2:	mov	%cr2, %eax
	hlt
read3:	mov	%cr3, %eax
	hlt
read4:	mov	%cr4, %eax
	hlt
write3:	mov	%eax, %cr3
	hlt

	.balign	8
guests:	.long	read0, read2, read3, read4, write3, 0
END
boot_in_qemu
found=$(od -An -tx1 found)
echo "CR0, CR2, CR3, CR4, write to CR3:$found"
[ "$found" = " 78 78 78 78 13" ] || changed "QEMU's exits are$found"
