# SPDX-License-Identifier: GPL-2.0
"""What a distribution's kernel must be for KVM and the extension to be built for it.

Everything here is told by the headers package of that kernel. Nothing is built or changed.
"""

import pathlib
import re
import shutil
import subprocess

# The patches that a version gets, by their folder; Documentation/porting.rst says how to add one.
VERSIONS = ("7.3", "7.2")
PATCHES = pathlib.Path(__file__).resolve().parent.parent / "patches"
# The version that all patches are written for.
BASE = "7.3"
# Programs of Debian's packages that the build calls, beside compilers.
PROGRAMS = {"make": "make", "bc": "bc", "bison": "bison", "flex": "flex", "patch": "patch", "perl": "perl",
            "xz": "xz-utils", "cpio": "cpio", "pahole": "dwarves", "depmod": "kmod", "openssl": "openssl"}
HEADERS = {"gelf.h": "libelf-dev", "openssl/ssl.h": "libssl-dev"}
# What uses KVM's functions and is replaced, or needs nothing of what changes.
HOLDERS = {"kvm_amd", "kvm_intel", "kvm_mmio_ext"}


class Kernel:
    """A kernel as its headers package has it."""

    def __init__(self, headers):
        self.headers = headers
        self.settings = settings((headers / ".config").read_text())
        self.release = search(r"KERNELRELEASE = (\S+)", headers / ".kernelvariables") or \
            headers.name.removeprefix("linux-headers-")
        self.version = ".".join(self.release.split(".")[:2])
        # As in "#1 SMP PREEMPT_DYNAMIC Debian 7.3.4-1~bpo13+1 (2026-11-15)".
        self.package = search(r'UTS_VERSION "[^"]*Debian (\S+)', headers / "include/generated/utsversion.h")

    def gcc(self):
        """The program that built it."""
        return self["CONFIG_CC_VERSION_TEXT"].split(" ")[0]

    def __getitem__(self, name):
        return self.settings.get(name, "n")


def settings(text):
    """The values of a .config."""
    return {name: value.strip('"') for name, value in re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.M)}


def search(pattern, path):
    found = re.search(pattern, path.read_text()) if path.is_file() else None
    return found and found[1]


def series(version):
    """All patches for a version in order: what is mended in KVM, then the hooks. A file of the
    same name in the version's own folder takes the place of the base's."""
    base, own = PATCHES / BASE, PATCHES / version
    names = [path.relative_to(base) for folder in (base / "fixes", base) for path in sorted(folder.glob("*.patch"))]
    return [own / name if (own / name).exists() else base / name for name in names]


def first_line(*argv):
    """Of what a program prints; nothing if there is no such program."""
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return ""
    return done.stdout.partition("\n")[0].strip()


def lacks_in_kernel(kernel):
    """What of a kernel makes this impossible."""
    if kernel.version not in VERSIONS:
        yield (f"there are no patches for Linux {kernel.version}: use a kernel {' or '.join(VERSIONS)}, "
               "or see Documentation/porting.rst")
    if kernel["CONFIG_MODVERSIONS"] == "y" and kernel["CONFIG_GENDWARFKSYMS"] != "y":
        yield (f"{kernel.release} has MODVERSIONS without GENDWARFKSYMS, which leaves no room for Rust: "
               f"use a kernel {' or '.join(VERSIONS)} of Debian")
    elif kernel["CONFIG_RUST"] != "y":
        yield (f"{kernel.release} was built without Rust (CONFIG_RUST): "
               f"use a kernel {' or '.join(VERSIONS)} of Debian")
    if kernel["CONFIG_KVM"] == "y" or kernel["CONFIG_KVM_X86"] == "y":
        yield f"KVM is built into {kernel.release}: only a kernel with KVM as a module (CONFIG_KVM=m) can get another"
    elif kernel["CONFIG_KVM"] == "n":
        yield f"{kernel.release} was built without KVM: use another kernel"


def lacks_of_tools(kernel, tools):
    """Compilers other than those that built it, and what else is not installed."""
    wanted, got = kernel["CONFIG_RUSTC_VERSION_TEXT"], first_line(tools["RUSTC"], "--version")
    if kernel["CONFIG_RUST"] == "y" and wanted != got:
        yield (f"{kernel.release} was built by {wanted}, and {tools['RUSTC']} is {got or 'not there'}: "
               "install that version of rustc and rust-src, or name it as RUSTC")
    sysroot = first_line(tools["RUSTC"], "--print", "sysroot")
    if got and not pathlib.Path(sysroot, "lib/rustlib/src/rust/library/core/src/lib.rs").exists():
        yield f"{tools['RUSTC']} has no library source: install rust-src"
    # Kconfig turns Rust off without a word.
    if not first_line(tools["BINDGEN"], "--version"):
        yield f"{tools['BINDGEN']} not found: install bindgen, or name it as BINDGEN"
    if kernel["CONFIG_CC_IS_GCC"] != "y":
        yield f"{kernel.release} was built by {kernel['CONFIG_CC_VERSION_TEXT']}, not by gcc: use a kernel of Debian"
    elif not shutil.which(kernel.gcc()):
        name = re.search(r"gcc-\d+", kernel.gcc())
        yield f"{kernel.release} was built by {kernel.gcc()}, which is not there: install {name[0] if name else 'gcc'}"
    missing = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    missing += [package for name, package in HEADERS.items() if not has_header(kernel.gcc(), name)]
    if missing:
        yield f"{' and '.join(missing)} not found: install {'them' if missing[1:] else 'it'}"


def has_header(gcc, name):
    if not shutil.which(gcc):
        return True  # That the compiler is not there is said already.
    done = subprocess.run([gcc, "-E", "-o", "/dev/null", "-"], input=f"#include <{name}>\n", text=True,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == 0


def lacks_of_source(kernel, source):
    """The package of the source must be of the very version of the kernel."""
    package = f"linux-source-{kernel.version}"
    if source is None or not source.exists():
        yield f"the source of {kernel.release} is not there: install {package}={kernel.package}"
        return
    got = source_version(source, package)
    if got != kernel.package:
        yield (f"{source} is version {got or 'unknown'}, and {kernel.release} was built from {kernel.package}: "
               f"install {package}={kernel.package}, or use the kernel of that source")


def source_version(source, package):
    """Of a source package, as a file or installed."""
    if source.suffix == ".deb":
        return first_line("dpkg-deb", "-f", source, "Version")
    return first_line("dpkg-query", "-W", "-f", "${Version}", package)


def users(release, sys=pathlib.Path("/sys/module"), running=None):
    """What of the running kernel uses KVM's functions and would not fit to another KVM."""
    if release != (running or first_line("uname", "-r")):
        return
    holders = sys / "kvm/holders"
    others = {path.name for path in holders.iterdir()} - HOLDERS if holders.exists() else set()
    for name in sorted(others):
        yield (f"{name} is loaded, which is made for the KVM of the distribution: end the VMs that use it, "
               f"modprobe -r {name}, and keep it from being loaded")


def lacks(kernel, tools, source):
    """All that is missing, each with what to do about it. What the kernel itself lacks, no
    package mends."""
    found = list(lacks_in_kernel(kernel))
    return found or [*lacks_of_tools(kernel, tools), *lacks_of_source(kernel, source), *users(kernel.release)]
