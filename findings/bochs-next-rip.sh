#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Bochs, as an AMD, saves the next RIP at nested page faults.
#
# Versions: bochs 3.0 (Debian 13's), CPU model ryzen; binutils 2.44 assemble the guest.
# Expected: nRIP of the VMCB is 0 after a nested page fault. Only exits that an instruction causes,
#           accesses to MSRs and ports, and INT3, INTO and BOUND save one (APM, volume 2, 15.7.1).
# Seen:     28 November 2026. After VMEXIT_NPF (400) by a MOV of 5 bytes nRIP is the address behind
#           the MOV. After VMEXIT_VMMCALL (81) it is the one behind VMMCALL, as it should.
# Matters:  to hypervisors that skip an instruction if there is a nRIP, as KVM does for ioeventfds
#           without length: what they do in Bochs, processors do not.
# shellcheck source=findings/finding.sh
. "$(dirname "$0")/finding.sh"

debian binutils=2.44-3 bochs=3.0+dfsg-1 bochs-term=3.0+dfsg-1 seabios=1.16.3-2

# A boot sector. It runs a guest with nested paging to a fault, and from behind the MOV to its end.
boot_sector 20160 <<'END'
	mov	$0x10000, %edi			# Page tables at 10000 to 12000, the VMCB at 13000, and
	xor	%eax, %eax			# 14000 for the host's state.
	mov	$0x1400, %ecx
	rep stosl
	movl	$0x11007, 0x10000
	movl	$0x12007, 0x11000
	movl	$0x87, 0x12000			# The first 2 MB, and nothing else.
	mov	$0x20, %eax			# PAE
	mov	%eax, %cr4
	mov	$0x10000, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx		# EFER: LME, SVME
	xor	%edx, %edx
	mov	$0x1100, %eax
	wrmsr
	mov	$0xc0010117, %ecx		# VM_HSAVE_PA
	mov	$0x14000, %eax
	wrmsr
	mov	%cr0, %eax
	or	$0x80000000, %eax
	mov	%eax, %cr0
	ljmpl	$16, $long

	.code64
long:	mov	$0x8000000a, %eax		# Is there a nRIP?
	cpuid
	and	$8, %edx
	mov	%edx, %ebx
	call	print
	mov	$0x13000, %ebp
	movl	$3, 0x10(%rbp)			# VMRUN and VMMCALL exit.
	movb	$1, 0x58(%rbp)			# ASID
	movb	$1, 0x90(%rbp)			# Nested paging, by the host's tables.
	movl	$0x10000, 0xb0(%rbp)
	lea	0x400(%rbp), %ebx		# ES, CS, SS, DS, FS, GS
	mov	$6, %ecx
1:	movl	$0xc930000, (%rbx)
	movl	$-1, 4(%rbx)
	add	$16, %ebx
	loop	1b
	movb	$0x9b, 0x412(%rbp)
	movl	$0x1000, 0x4d0(%rbp)		# EFER: SVME
	movb	$0x11, 0x558(%rbp)		# CR0: PE, ET
	movb	$2, 0x570(%rbp)			# RFLAGS
	mov	$fault, %ebx
	call	go
	mov	$call, %ebx
	call	go
	mov	$'\n', %al
	out	%al, $0xe9
	mov	$0x8900, %edx			# The end of Bochs
	mov	$end, %esi
	mov	$8, %ecx
	rep outsb
	hlt

go:	mov	%ebx, 0x578(%rbp)
	mov	%ebp, %eax
	vmrun
	mov	0x70(%rbp), %ebx		# Exit code, RIP, nRIP
	call	print
	mov	0x578(%rbp), %ebx
	call	print
	mov	0xc8(%rbp), %ebx
print:	mov	$4, %ecx			# Four digits
	rol	$16, %ebx
1:	rol	$4, %ebx
	mov	%bl, %al
	and	$15, %al
	cmp	$10, %al
	jb	2f
	add	$'a' - '0' - 10, %al
2:	add	$'0', %al
	out	%al, $0xe9
	loop	1b
	mov	$' ', %al
	out	%al, $0xe9
	ret

	.code32
	.org	0x180				# At 7d80
fault:	mov	0x200000, %eax
call:	vmmcall

end:	.ascii	"Shutdown"
END

cat >bochsrc <<'END'
cpu: model=ryzen, ips=10000000
memory: guest=32, host=32
romimage: file=unpacked/usr/share/seabios/bios.bin
vgaromimage: file=unpacked/usr/share/seabios/vgabios-stdvga.bin
display_library: rfb, options="timeout=0"
ata0-master: type=disk, path=guest, mode=flat, cylinders=20, heads=16, spt=63
boot: disk
port_e9_hack: enabled=1
log: bochs.log
panic: action=fatal
END
echo c >go # Debian's Bochs waits in its debugger.
export LC_ALL=C LTDL_LIBRARY_PATH="$PWD/unpacked/usr/lib/x86_64-linux-gnu/bochs/plugins"
run bochs-bin -q -f bochsrc -rc go >log 2>&1 || :
found=$(grep -a '^0008 ' log) || untried "$(tail -n1 log)"
echo "NRIPS, then exit code, RIP, nRIP: $found"
[ "$found" = "0008 0400 7d80 7d85 0081 7d85 7d88 " ] || changed "Bochs saves $found"
