#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# bindgen cuts constants of 128 bits to their low 64.
#
# Versions: bindgen 0.71.1 and libclang 19.1.7 (Debian 13's).
# Expected: a constant has in Rust the value that it has in C, or is not translated.
# Seen:     28 November 2026. A constant of 2^64 + 5 becomes a u128 of 5, without a warning.
#           bindgen 0.73.2 does the same.
# Known:    rust-lang/rust-bindgen issue 3465, of enumerations; the code for constants is another.
# Matters:  to masks for pairs of 64-bit registers or descriptors, which rustc has no reason to doubt.
#
# 0: as seen. 1: it has changed. 2: it could not be tried.
set -eu

untried() { echo "$0: not tried: $1" >&2; exit 2; }
changed() { echo "$0: changed: $1" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# Packages of Debian 13 with all that they need, unpacked below root/, whatever is installed here.
mkdir -p lists/partial archives/partial root
: >status
mirror=$(apt-get update --print-uris 2>log | sed -n "s#^'\(.*/debian\(\.list\)*/\)dists/.*#\1#p" | head -n1)
[ "$mirror" ] || untried "APT knows no mirror of Debian $(tail -n1 log)"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >sources
apt="apt-get -qq -o Dir::Etc::sourcelist=$work/sources -o Dir::Etc::sourceparts=- -o Dir::State::Lists=$work/lists
	-o Dir::State::status=$work/status -o Dir::Cache=$work -o Debug::NoLocking=1 -o APT::Sandbox::User=root"
$apt update --error-on=any >log 2>&1 || untried "$(tail -n1 log)"
$apt install --download-only --no-install-recommends -y \
	bindgen=0.71.1-6 libclang1-19=1:19.1.7-3+b1 >log 2>&1 || untried "$(tail -n1 log)"
for deb in archives/*.deb; do dpkg-deb -x "$deb" root; done
libraries=$(find root/usr/lib/x86_64-linux-gnu -maxdepth 1 -type d | tr '\n' :)
run() {
	program=$1; shift
	timeout 120 root/usr/lib64/ld-linux-x86-64.so.2 --library-path "$libraries" "root/usr/bin/$program" "$@"
}

cat >wide.h <<'END'
static const unsigned __int128 wide = ((unsigned __int128)1 << 64) | 5;
_Static_assert((((unsigned __int128)1 << 64) | 5) >> 64 == 1, "");
END
LIBCLANG_PATH="$work/root/usr/lib/llvm-19/lib" run bindgen wide.h >wide.rs 2>log || untried "$(tail -n1 log)"
found=$(grep wide wide.rs) || changed "bindgen writes no constant"
echo "$found"
[ "$found" = "pub const wide: u128 = 5;" ] || changed "bindgen writes $found"
