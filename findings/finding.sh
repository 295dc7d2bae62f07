# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# What the findings share. A script that reads this is in a temporary folder of its own from then
# on; its status is 0: as seen, 1: it has changed, 2: it could not be tried.
set -eu

untried() { echo "$0: not tried: $1" >&2; exit 2; }
changed() { echo "$0: changed: $1" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# Packages of Debian 13 with all that they need, kept in unpacked/, whatever is installed here.
debian() { # PACKAGE=VERSION...
	mkdir -p lists/partial archives/partial unpacked
	: >status
	mirror=$(apt-get update --print-uris 2>log | sed -n "s#^'\(.*/debian\(\.list\)*/\)dists/.*#\1#p" | head -n1)
	[ "$mirror" ] || untried "APT knows no mirror of Debian $(tail -n1 log)"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >sources
	own_apt update --error-on=any >log 2>&1 || untried "$(tail -n1 log)"
	own_apt install --download-only --no-install-recommends -y "$@" >log 2>&1 || untried "$(tail -n1 log)"
	for deb in archives/*.deb; do dpkg-deb -x "$deb" unpacked; done
	libraries=$(find unpacked/usr/lib/x86_64-linux-gnu -maxdepth 1 -type d | tr '\n' :)
}

own_apt() {
	apt-get -qq -o Dir::Etc::sourcelist="$work/sources" -o Dir::Etc::sourceparts=- \
		-o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status" -o Dir::Cache="$work" \
		-o Debug::NoLocking=1 -o APT::Sandbox::User=root "$@"
}

# One of their programs, with their libraries.
run() { # PROGRAM [ARGUMENT]...
	program=$1; shift
	timeout 120 unpacked/usr/lib64/ld-linux-x86-64.so.2 --library-path "$libraries" "unpacked/usr/bin/$program" "$@"
}

# Assembles a disk, "guest", whose boot sector runs the program on standard input: 32-bit code to begin
# with. The selectors are 8 for such code, 16 for 64-bit code, and 24 for data.
boot_sector() { # SECTORS
	{
		cat <<'END'
	.code16
	.globl	_start
_start:	cli
	xor	%ax, %ax
	mov	%ax, %ds
	lgdtl	gdt_at
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	ljmpl	$8, $flat

	.code32
flat:	mov	$24, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$0x7000, %esp
END
		cat
		cat <<'END'
	.balign	8
gdt:	.quad	0, 0x00cf9a000000ffff, 0x00af9a000000ffff, 0x00cf92000000ffff
gdt_at:	.word	31
	.long	gdt
	.org	510
	.word	0xaa55
END
		echo "	.org	$1 * 512"
	} >guest.s
	run as guest.s -o guest.o
	run ld -Ttext 0x7c00 --oformat binary guest.o -o guest
}

# Boots it in QEMU, till it writes to port f4. What it writes to port e9 is in "found".
boot_in_qemu() {
	run qemu-system-x86_64 -accel tcg -cpu max -L unpacked/usr/share/qemu -L unpacked/usr/share/seabios \
		-nodefaults -display none -debugcon file:found -device isa-debug-exit,iobase=0xf4 \
		-drive file=guest,format=raw >log 2>&1 || [ -s found ] || untried "$(tail -n1 log)"
}
