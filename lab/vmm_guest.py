# SPDX-License-Identifier: GPL-2.0
"""A Linux guest for examples/mmio-vmm and QEMU: a kernel of Debian, whose task is a piece of shell."""

import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tempfile

import cpio
import lib
import stock

KERNEL = "stock-7.3"
MODULES = ("virtio_mmio", "virtio_blk", "virtio_net")
# Without XSAVE, whose sizes QEMU's emulation of the machine does not get right: Linux then disables
# it, and in doing so overwrites what lies behind its first task.
WITHOUT_XSAVE = "noxsave"
CPU = "host,-xsave"
GUEST = lib.ROOT / "examples/mmio-vmm/guest"


def initramfs(task, programs):
    """busybox and other programs, modules, process 1 and its task, a piece of shell."""
    members = [cpio.directory(name) for name in ("bin", "dev", "proc", "sys", "modules")]
    members += [cpio.entry(f"bin/{path.name}", stat.S_IFREG | 0o755, stripped(path))
                for path in (pathlib.Path(shutil.which("busybox")), *programs)]
    members += [cpio.symlink("bin/sh", "busybox"), cpio.file("init", GUEST / "init"),
                cpio.entry("task", stat.S_IFREG | 0o644, task.encode())]
    members += [cpio.entry(f"modules/{number:02}.ko", stat.S_IFREG | 0o644, data)
                for number, data in enumerate(stock.modules(KERNEL, MODULES).values())]
    return b"".join([*members, cpio.trailer()])


def stripped(path):
    """A program without symbols, which an emulated processor would unpack for minutes."""
    with tempfile.NamedTemporaryFile() as copy:
        subprocess.run(["strip", "-o", copy.name, path], check=True)
        return pathlib.Path(copy.name).read_bytes()


def load_program():
    return lib.make_test_programs(lib.setup(), "rust", "RUST_BINS=mmio-load") / "mmio-load"


def write_files(folder, task, programs):
    """The guest's kernel and initial RAM disk, as `vmlinuz` and `initrd` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    initrd, vmlinuz = folder / "initrd", folder / "vmlinuz"
    initrd.write_bytes(initramfs(task, programs))
    vmlinuz.write_bytes(stock.image(KERNEL).read_bytes())
    return [initrd, vmlinuz]


def qemu_files():
    """QEMU and the firmware of a PC, for a machine that sees no files of the lab's Debian."""
    firmware = pathlib.Path("/usr/share")
    return [pathlib.Path(shutil.which("qemu-system-x86_64")), firmware / "seabios/bios-256k.bin",
            *(firmware / "qemu" / name for name in ("kvmvapic.bin", "linuxboot_dma.bin"))]


def run(options, script, words, task, programs=(), tick=None):
    """Run a script on machine svm, which finds mmio-vmm, vmlinuz and initrd in its PATH."""
    if lib.call([lib.LAB / "modules", "--kernel", KERNEL], stdout=sys.stderr).returncode:
        sys.exit(1)
    vmm, out = lib.mmio_vmm(), lib.examples_dir()
    (out / "boot").write_text(script)
    files = lib.file_options([vmm, *write_files(out, task, programs), out / "boot"])
    return lib.call([lib.LAB / "run", "--kernel", KERNEL, "--vendor", "npt=1", "--append", WITHOUT_XSAVE, *options, *files,
                     "--", f'sh "$(command -v boot)" {" ".join(words)}'],
                    tick, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                    env={**os.environ, "KVM_MMIO_EXT_NO_BUILD": "1"})
