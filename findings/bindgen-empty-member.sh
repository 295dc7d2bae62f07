#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# bindgen loses the padding in front of a member that is empty and aligned.
#
# Versions: bindgen-cli 0.73.2 (crates.io), libclang 18.1.1 (PyPI), with the rustc that is here.
# Expected: structures have in Rust the size that they have in C, as bindgen's own layout tests
#           demand.
# Seen:     28 November 2026, with rustc 1.95. The structure below has 128 bytes in C and 64 in
#           Rust. Its layout tests do not compile; with --no-layout-tests it does, without a word.
#           bindgen 0.71.1 gets this size right: it writes the padding out. Both lose the alignment
#           of the empty type itself.
# Known:    not as such; rust-lang/rust-bindgen 3406 and 3449 are of the same padding.
# Matters:  to bindings of Linux, whose task_struct has such a member without CONFIG_SCHEDSTATS.
# shellcheck source=findings/finding.sh
. "$(dirname "$0")/finding.sh"

for tool in cargo rustc cc python3; do
	[ "$(command -v $tool)" ] || untried "$tool not found"
done
rustc=$(command -v rustc)

python3 -m pip download -q --no-deps --disable-pip-version-check -d wheel libclang==18.1.1 >log 2>&1 ||
	untried "$(tail -n1 log)"
python3 -m zipfile -e wheel/*.whl wheel
CARGO_TARGET_DIR=target cargo install -q --debug --no-default-features --features runtime --locked \
	--root tools --version 0.73.2 bindgen-cli >log 2>&1 || untried "$(tail -n1 log)"

cat >task.h <<'END'
struct statistics { } __attribute__((aligned(64)));
struct task {
	long before;
	struct statistics empty;
	long behind;
};
_Static_assert(sizeof(struct task) == 128, "");
END
bindgen() { LIBCLANG_PATH="$work/wheel/libclang-18.1.1.data/platlib/clang/native" tools/bin/bindgen task.h "$@"; }
compiles() { "$rustc" --crate-type lib --emit metadata --out-dir out "$1" >log 2>&1; }

bindgen >tested.rs 2>log || untried "$(tail -n1 log)"
bindgen --no-layout-tests >task.rs 2>log || untried "$(tail -n1 log)"
echo 'pub const SIZE: [(); 64] = [(); ::std::mem::size_of::<task>()];' >>task.rs
! compiles tested.rs || changed "its layout tests compile"
grep -m1 'Size of task' log || changed "its layout tests find no wrong size"
compiles task.rs || changed "in Rust the structure has not 64 bytes"
echo "64 bytes in Rust, 128 in C"
