# SPDX-License-Identifier: GPL-2.0
"""Kernels of Debian as they are: those of kernels.lock, or any of Debian 13 and its backports by its release.

Their packages are downloaded and unpacked in the cache; stock/build makes the modules.
"""

import configparser
import lzma
import re

import debian
import lib

LOCK = configparser.ConfigParser(interpolation=None)
LOCK.read(lib.ROOT / "kernels.lock")
# As lab/run and lab/check call them.
NAMES = LOCK.sections()
# Those that KVM and the extension are built for.
BUILT = [name for name in NAMES if "rustc" in LOCK[name]]
BUILD = lib.ROOT / "stock/build"


def release(kernel):
    """A kernel is given by its name in kernels.lock or by its release."""
    return LOCK[kernel]["release"] if kernel in NAMES else kernel


def locked(kernel):
    """The version of its packages, if it is to be a certain one."""
    return LOCK[kernel]["packages"] if kernel in NAMES else None


def suites(kernel):
    """Those of Debian that have it."""
    return (LOCK[kernel]["suite"],) if kernel in NAMES and "suite" in LOCK[kernel] else debian.SUITES


def folder(kernel):
    return lib.CACHE / "stock" / release(kernel)


def package(kernel, what, version=None):
    """One of its packages, downloaded."""
    name = f"linux-{what}"
    return debian.fetch({name: version or locked(kernel)}, "use another kernel, see kernels.lock", suites(kernel))[name]


def unpacked(kernel, what):
    where = folder(kernel) / what
    if not where.exists():
        debian.unpack(package(kernel, f"{what}-{release(kernel)}"), where)
    return where


def headers(kernel):
    return unpacked(kernel, "headers") / "usr/src" / f"linux-headers-{release(kernel)}"


def is_one_package(kernel):
    """Kernels before 6.19 have image and modules in one package."""
    return tuple(map(int, release(kernel).split(".")[:2])) < (6, 19)


def image(kernel):
    if is_one_package(kernel):
        return unpacked(kernel, "image") / "boot" / f"vmlinuz-{release(kernel)}"
    return unpacked(kernel, "binary") / "usr/lib/modules" / release(kernel) / "vmlinuz"


def modules(kernel, names):
    """Modules of its own and what they need, in the order in which they load, by name: contents."""
    files = unpacked(kernel, "image" if is_one_package(kernel) else "modules")
    top = next(path for path in (files / "usr/lib/modules", files / "lib/modules") if path.exists()) / release(kernel)
    loaded = {}

    def add(name):
        found = next((path for path in top.rglob("*.ko*") if path.name.split(".")[0] in spellings(name)), None)
        if found is None:
            lib.die(f"{release(kernel)} has no module {name}")
        data = found.read_bytes()
        if found.suffix == ".xz":
            data = lzma.decompress(data)
        for needed in re.search(rb"\0depends=([^\0]*)\0", data)[1].decode().split(","):
            if needed and needed not in loaded:
                add(needed)
        loaded[name] = data

    for name in names:
        if name not in loaded:
            add(name)
    return loaded


def spellings(name):
    """Files may have a hyphen where modules have an underscore."""
    return name, name.replace("_", "-")


def source(kernel):
    """The source of the very version that the headers are of."""
    text = (headers(kernel) / "include/generated/utsversion.h").read_text()
    version = re.search(r"Debian (\S+)", text)[1]
    return package(kernel, f"source-{'.'.join(release(kernel).split('.')[:2])}", version)


def build(kernel, sources):
    """KVM and the extension for it, in module_dir(kernel); `sources` are those of the latter."""
    out = lib.module_dir(kernel)
    patches = sorted((lib.ROOT / "patches").rglob("*.patch"))
    parts = [*sources, *patches, *(lib.ROOT / "stock" / name for name in ("build", "kernel.py"))]
    stamp = lib.digest(release(kernel), *(part for path in parts for part in (str(path), path)))
    with lib.lock(f"stock-{release(kernel)}"):
        if lib.read_or_none(out / "stamp") == stamp:
            return out
        (out / "stamp").unlink(missing_ok=True)
        where, deb = headers(kernel), source(kernel)
        log = lib.CACHE / "log" / f"stock-{out.parent.name}-{release(kernel)}.log"
        log.unlink(missing_ok=True)
        lib.run_logged(f"building KVM and the extension for {release(kernel)}",
                       [BUILD, "--kernel", release(kernel), "--headers", where, "--source", deb,
                        "--output", out, "--work", folder(kernel) / "work"], log, env=lib.make_environment())
        lib.write_atomically(out / "stamp", stamp)
    return out
