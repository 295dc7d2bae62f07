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

# Packages of Debian 13 with all that they need, unpacked below root/, whatever is installed here.
debian() { # PACKAGE=VERSION...
	mkdir -p lists/partial archives/partial root
	: >status
	mirror=$(apt-get update --print-uris 2>log | sed -n "s#^'\(.*/debian\(\.list\)*/\)dists/.*#\1#p" | head -n1)
	[ "$mirror" ] || untried "APT knows no mirror of Debian $(tail -n1 log)"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >sources
	own_apt update --error-on=any >log 2>&1 || untried "$(tail -n1 log)"
	own_apt install --download-only --no-install-recommends -y "$@" >log 2>&1 || untried "$(tail -n1 log)"
	for deb in archives/*.deb; do dpkg-deb -x "$deb" root; done
	libraries=$(find root/usr/lib/x86_64-linux-gnu -maxdepth 1 -type d | tr '\n' :)
}

own_apt() {
	apt-get -qq -o Dir::Etc::sourcelist="$work/sources" -o Dir::Etc::sourceparts=- \
		-o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status" -o Dir::Cache="$work" \
		-o Debug::NoLocking=1 -o APT::Sandbox::User=root "$@"
}

# One of their programs, with their libraries.
run() { # PROGRAM [ARGUMENT]...
	program=$1; shift
	timeout 120 root/usr/lib64/ld-linux-x86-64.so.2 --library-path "$libraries" "root/usr/bin/$program" "$@"
}
