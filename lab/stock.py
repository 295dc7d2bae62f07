# SPDX-License-Identifier: GPL-2.0
"""Kernels of Debian as they are: those of kernels.lock, or any of Debian 13 and its backports by its release.

Their packages are downloaded and unpacked in the cache; stock/build makes the modules.
"""

import configparser
import io
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


# As kernels.lock, of those that are gone from the mirror: what it has instead, and of which `gone` it is that.
INSTEAD = lib.CACHE / "kernels.instead"


def entry(kernel):
    """What kernels.lock says of a kernel, or, when that is gone, of the one in its place."""
    instead = configparser.ConfigParser(interpolation=None)
    instead.read(INSTEAD)
    locked = LOCK[kernel]
    found = kernel in instead and instead[kernel]["gone"] == locked["release"]
    return {**locked, **instead[kernel]} if found else dict(locked)


def release(kernel):
    """A kernel is given by its name in kernels.lock or by its release."""
    return entry(kernel)["release"] if kernel in NAMES else kernel


def series(kernel):
    """Such as 7.3."""
    return ".".join(release(kernel).split(".")[:2])


def locked(kernel):
    """The version of its packages, if it is to be a certain one."""
    return entry(kernel)["packages"] if kernel in NAMES else None


def successor(kernel, what, others):
    """Of packages that there are, the newest of the same series and flavour: release and version."""
    digits = re.sub(r"\d+", r"\\d+", re.escape(release(kernel).removeprefix(series(kernel))))
    pattern = re.compile(rf"linux-{what}-({re.escape(series(kernel))}{digits})")
    found = [(found[1], version) for name, version in others.items() if (found := pattern.fullmatch(name))]
    return max(found, key=lambda pair: [int(n) for n in re.findall(r"\d+", pair[0])], default=None)


def replace(kernel, what, gone):
    """Have the next kernel of its series take the place of one that is gone, here and from now on."""
    found = successor(kernel, what, gone.others) if kernel in NAMES else None
    if not found:
        raise gone
    lib.say(f"{release(kernel)}, which the lab was tested with as {kernel}, is gone from {gone.mirror}: "
            f"taking {found[0]} ({found[1]})")
    instead = configparser.ConfigParser(interpolation=None)
    instead.read(INSTEAD)
    instead[kernel] = {"gone": LOCK[kernel]["release"], "release": found[0], "packages": found[1]}
    text = io.StringIO()
    instead.write(text)
    lib.write_atomically(INSTEAD, text.getvalue())


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
    if (folder(kernel) / what).exists():
        return folder(kernel) / what
    # Machines that start side by side want the same.
    with lib.lock("kernel-packages"):
        try:
            deb = package(kernel, f"{what}-{release(kernel)}")
        except debian.Gone as gone:
            replace(kernel, what, gone)
            deb = package(kernel, f"{what}-{release(kernel)}")
        debian.unpack(deb, folder(kernel) / what)
    return folder(kernel) / what


def headers(kernel):
    return unpacked(kernel, "headers") / "usr/src" / f"linux-headers-{release(kernel)}"


def is_one_package(kernel):
    """Kernels before 6.19 have image and modules in one package."""
    return tuple(map(int, release(kernel).split(".")[:2])) < (6, 19)


def image(kernel):
    if is_one_package(kernel):
        return unpacked(kernel, "image") / "boot" / f"vmlinuz-{release(kernel)}"
    return unpacked(kernel, "binary") / "usr/lib/modules" / release(kernel) / "vmlinuz"


def modules(kernel, names, or_built_in=False):
    """Modules of its own and what they need, in the order in which they load, by name: contents. What is
    `or_built_in` may be no module."""
    files = unpacked(kernel, "image" if is_one_package(kernel) else "modules")
    top = next(path for path in (files / "usr/lib/modules", files / "lib/modules") if path.exists()) / release(kernel)
    loaded = {}

    def add(name):
        found = next((path for path in top.rglob("*.ko*") if path.name.split(".")[0] in spellings(name)), None)
        if found is None:
            if or_built_in:
                return
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
    return package(kernel, f"source-{series(kernel)}", version)


def build(kernel):
    """KVM and the extension for it, in module_dir(kernel)."""
    # First, as another may be taken if it is gone.
    where, out = headers(kernel), lib.module_dir(kernel)
    patches = sorted((lib.ROOT / "patches").rglob("*.patch"))
    parts = [*lib.module_sources(), *patches, *(lib.ROOT / "stock" / name for name in ("build", "kernel.py"))]
    stamp = lib.digest(release(kernel), *(part for path in parts for part in (str(path), path)))
    with lib.lock(f"stock-{release(kernel)}"):
        if lib.read_or_none(out / "stamp") == stamp:
            return out
        (out / "stamp").unlink(missing_ok=True)
        deb = source(kernel)
        log = lib.CACHE / "log" / f"stock-{out.parent.name}-{release(kernel)}.log"
        log.unlink(missing_ok=True)
        lib.run_logged(f"building KVM and the extension for {release(kernel)}",
                       [BUILD, "--kernel", release(kernel), "--headers", where, "--source", deb,
                        "--output", out, "--work", folder(kernel) / "work"], log, env=lib.make_environment())
        lib.write_atomically(out / "stamp", stamp)
    return out
