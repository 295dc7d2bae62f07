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
# shellcheck source=findings/finding.sh
. "$(dirname "$0")/finding.sh"

debian bindgen=0.71.1-6 libclang1-19=1:19.1.7-3+b1

cat >wide.h <<'END'
static const unsigned __int128 wide = ((unsigned __int128)1 << 64) | 5;
_Static_assert((((unsigned __int128)1 << 64) | 5) >> 64 == 1, "");
END
LIBCLANG_PATH="$work/unpacked/usr/lib/llvm-19/lib" run bindgen wide.h >wide.rs 2>log || untried "$(tail -n1 log)"
found=$(grep wide wide.rs) || changed "bindgen writes no constant"
echo "$found"
[ "$found" = "pub const wide: u128 = 5;" ] || changed "bindgen writes $found"
