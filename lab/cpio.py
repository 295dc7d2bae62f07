# SPDX-License-Identifier: GPL-2.0
"""Just enough of the "newc" archive format to make an initramfs."""

import os
import stat


def entry(name, mode, data=b""):
    """One member; see Documentation/driver-api/early-userspace/buffer-format.rst."""
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    return pad(head) + pad(data)


def pad(data):
    return data + b"\0" * (-len(data) % 4)


def directory(name):
    return entry(name, stat.S_IFDIR | 0o755)


def symlink(name, target):
    return entry(name, stat.S_IFLNK | 0o777, target.encode())


def file(name, path):
    """A copy of `path`, with its permissions, links followed."""
    mode = stat.S_IMODE(os.stat(path).st_mode)
    return entry(name, stat.S_IFREG | mode, path.read_bytes())


def trailer():
    return entry("TRAILER!!!", 0)
