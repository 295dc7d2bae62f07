# SPDX-License-Identifier: GPL-2.0
"""A Debian in a folder of the cache, made for one run of a script and entered from the lab's own."""

import contextlib
import os
import subprocess
import sys

import lib
import root

# As in kselftest.
SKIPPED = 4

ENTER = """
root=$1 shared=$2
shift 2
# What is entered must be a mount for those in it that want mounts of their own.
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
for path in $shared; do
    mkdir -p "$root${path%/*}"
    [ -d "$path" ] && mkdir -p "$root$path" || { rm -f "$root$path"; : > "$root$path"; }
    mount --bind "$path" "$root$path"
done
exec chroot "$root" "$@"
"""
# What it is told of this machine's network: as much as the lab's own Debian is, see root.py.
NETWORK = [path for path in root.NETWORK if path != "/usr/local" and os.path.exists(path)]
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root",
               "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}


def need_root():
    """A person with sudo is not root in the lab's own Debian, in which other scripts go on to this one."""
    if os.geteuid():
        print("1..0 # SKIP needs root: run it by itself, as make check-packages does")
        sys.exit(SKIPPED)


def make(where, what, packages, log, suite=root.SUITE, variant="apt", sources=()):
    """Make one with packages, from lines of sources.list."""
    lib.run_logged(f"making {what}",
                   ["mmdebstrap", "--mode=root", "--format=directory", f"--variant={variant}",
                    f"--include={','.join(packages)}", f"--keyring={root.KEYRING}",
                    '--aptopt=APT::Install-Recommends "false"', "--dpkgopt=force-unsafe-io", suite, where, *sources],
                   log, env={**os.environ, "TMPDIR": "/tmp"})


def command(where, argv, shared=()):
    """The command that executes another in it. What that has started ends with it."""
    return ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
            "sh", "-ec", ENTER, "sh", where, " ".join([*NETWORK, *shared]), *argv]


def run(where, *argv):
    """A command in it, with its output."""
    return subprocess.run(command(where, argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)


def remove(where):
    subprocess.run(["rm", "-rf", "--one-file-system", where], check=True)


@contextlib.contextmanager
def folder(name):
    """A folder of the cache for some of them, of one script at a time."""
    with lib.lock(name):
        where = lib.CACHE / name
        remove(where)
        where.mkdir()
        try:
            yield where
        finally:
            remove(where)
