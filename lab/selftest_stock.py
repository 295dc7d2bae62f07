# SPDX-License-Identifier: GPL-2.0
"""Tests of stock/build, see lab/selftest."""

import pathlib
import subprocess
import sys

import lib
import stock
from selftest_case import Case


class StockKernel(Case):
    """stock/build, with kernels and machines for which it is impossible."""

    rustc = "rustc 1.85.1 (4eb161250 2025-03-15) (built from a source tarball)"
    release, package = "7.3.4+deb13-amd64", "7.3.4-1~bpo13+1"

    def headers(self, release=release, **changes):
        settings = {"CONFIG_RUST": "y", "CONFIG_KVM": "m", "CONFIG_KVM_X86": "m", "CONFIG_CC_IS_GCC": "y",
                    "CONFIG_CC_VERSION_TEXT": '"x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0"',
                    "CONFIG_RUSTC_VERSION_TEXT": f'"{self.rustc}"', **changes}
        self.write("headers/.config", "".join(f"{name}={value}\n" for name, value in settings.items() if value))
        self.write("headers/.kernelvariables", f"override KERNELRELEASE = {release}\n")
        self.write("headers/Module.symvers", "")
        self.write("headers/include/generated/utsversion.h",
                   f'#define UTS_VERSION "#1 SMP PREEMPT_DYNAMIC Debian {self.package} (2026-11-15)"\n')
        return self.folder / "headers"

    def deb(self, version):
        name = "linux-source-7.3"
        self.write("deb/DEBIAN/control", f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
                   "Maintainer: nobody\nDescription: none\n")
        subprocess.run(["dpkg-deb", "-b", self.folder / "deb", self.folder / f"{name}.deb"], check=True,
                       stdout=subprocess.DEVNULL)
        return self.folder / f"{name}.deb"

    def check(self, headers, source=None):
        return ["stock/build", "--check", "--headers", headers, "--source", source or self.deb(self.package)]

    def refuses(self, wanted, headers, source=None, **variables):
        self.refused(wanted, *self.check(headers, source), **variables)

    def test_all_is_there(self):
        done = self.run_in_clone(*self.check(self.headers()))
        self.assertEqual((done.returncode, done.stdout), (0, ""))

    def test_no_headers(self):
        self.refused("install linux-headers-7.3.9", "stock/build", "--kernel", "7.3.9", "--output", str(self.folder))

    def test_no_rust(self):
        self.refuses("built without Rust", self.headers(CONFIG_RUST=""))

    def test_modversions(self):
        self.refuses("MODVERSIONS without GENDWARFKSYMS", self.headers(CONFIG_MODVERSIONS="y", CONFIG_RUST=""))
        both = self.headers(CONFIG_MODVERSIONS="y", CONFIG_GENDWARFKSYMS="y")
        self.assertEqual(self.run_in_clone(*self.check(both)).stdout, "")

    def test_kvm_built_in(self):
        self.refuses("KVM is built into", self.headers(CONFIG_KVM="y", CONFIG_KVM_X86="y"))

    def test_no_kvm(self):
        self.refuses("was built without KVM", self.headers(CONFIG_KVM="", CONFIG_KVM_X86=""))

    def test_version_without_patches(self):
        self.refuses("there are no patches for Linux 7.4: use a kernel 7.3 or 7.2", self.headers("7.4.1+deb13-amd64"))

    def test_another_rustc(self):
        self.refuses(f"was built by {self.rustc}, and", self.headers(), RUSTC=str(
            self.write("rustc", "#!/bin/sh\n[ $1 = --print ] && echo /usr || echo 'rustc 1.96.0'\n", 0o755)))

    def test_no_library_source(self):
        self.refuses("install rust-src", self.headers(), RUSTC=str(
            self.write("rustc", f"#!/bin/sh\n[ $1 = --print ] && echo /nonexistent || echo '{self.rustc}'\n", 0o755)))

    def test_no_bindgen(self):
        self.refuses("install bindgen", self.headers(), BINDGEN="/nonexistent/bindgen")

    def test_another_compiler(self):
        self.refuses("which is not there: install gcc-13",
                     self.headers(CONFIG_CC_VERSION_TEXT='"x86_64-linux-gnu-gcc-13 (Debian 13.1.0-1) 13.1.0"'))
        self.refuses("was built by clang 19, not by gcc",
                     self.headers(CONFIG_CC_IS_GCC="", CONFIG_CC_VERSION_TEXT='"clang 19"'))

    def test_no_source(self):
        self.refuses(f"install linux-source-7.3={self.package}", self.headers(), self.folder / "nothing.tar.xz")

    def test_source_of_another_version(self):
        self.refuses(f"is version 7.3.5-1, and {self.release} was built from {self.package}",
                     self.headers(), self.deb("7.3.5-1"))

    def test_kernel_that_nothing_is_built_for(self):
        """It keeps its KVM, which one has to ask for."""
        for kernel in set(stock.NAMES) - set(stock.BUILT):
            done = self.run_in_clone("lab/run", "--kernel", kernel, "--", "true")
            self.assertEqual(done.returncode, 2)
            self.assertIn(f"nothing is built for {kernel}, see kernels.lock: give --module none\n", done.stdout)

    def within(self, code):
        """What a piece of Python prints, with the modules of stock/."""
        return self.run_in_clone(sys.executable, "-c", f"""
import importlib.machinery, pathlib, sys
sys.dont_write_bytecode = True
sys.path.insert(0, "stock")
import kernel
build = importlib.machinery.SourceFileLoader("build", "stock/build").load_module()
{code}""").stdout

    def test_kvmgt_in_use(self):
        for name in ("kvm_amd", "kvmgt"):
            self.write(f"sys/kvm/holders/{name}", "")
        code = f"print(*kernel.users('mine', pathlib.Path({str(self.folder / 'sys')!r}), running={{}}))"
        self.assertRegex(self.within(code.format("'mine'")), "^kvmgt is loaded, .*modprobe -r kvmgt, [^\n]*\n$")
        self.assertEqual(self.within(code.format("'another'")), "\n")

    def test_key_not_enrolled(self):
        """Nothing is built that the kernel would refuse, and KVM with it."""
        cert, other, keys = (self.folder / name for name in ("mok.pub", "another.pub", "keys"))
        for path in (cert, other):
            subprocess.run(["openssl", "req", "-new", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=DKMS",
                            "-outform", "DER", "-keyout", "/dev/null", "-out", path],
                           check=True, stderr=subprocess.DEVNULL)
        said = subprocess.run(["openssl", "x509", "-inform", "DER", "-in", cert, "-noout", "-ext", "subjectKeyIdentifier"],
                              check=True, stdout=subprocess.PIPE, text=True).stdout
        identifier = said.split()[-1].replace(":", "").lower()
        # As the kernel prints it.
        keys.write_text("1a2b3c4d I------     1 perm 1f030000     0     0 keyring   .platform: 1\n"
                        f"2b3c4d5e I------     1 perm 1f030000     0     0 asymmetri DKMS: {identifier}: "
                        f"X509.rsa {identifier[-8:]} []\n")
        whole = keys.read_text()
        enforce, lockdown = "sys/module/module/parameters/sig_enforce", "sys/kernel/security/lockdown"

        def refused(path):
            return self.within(f"import signing\nprint(*signing.refused(*(pathlib.Path({str(self.folder)!r}, name) "
                               f"for name in ({path.name!r}, 'sys', 'keys'))))")

        for sig_enforce, locked, taken in (("N", "[none] integrity confidentiality", True),
                                           ("Y", "[none] integrity confidentiality", False),
                                           ("N", "none [integrity] confidentiality", False)):
            self.write(enforce, f"{sig_enforce}\n")
            self.write(lockdown, f"{locked}\n")
            self.assertEqual(refused(cert), "\n")
            for path in (other, self.folder / "none.pub"):
                made = "sudo dkms generate_mok, " if path != other else ""
                self.assertEqual(refused(path), "\n" if taken else (
                    "the running kernel takes signed modules only, and DKMS' key is not enrolled: "
                    f"{made}sudo mokutil --import {path}, reboot and confirm it, then sudo dkms autoinstall\n"))
        # Where no key is to be seen, as in a container, none is known to be missing.
        keys.write_text("")
        self.assertEqual(refused(other), "\n")
        # With Secure Boot a kernel is locked down, whether it shows that or not.
        keys.write_text(whole)
        self.write(enforce, "N\n")
        (self.folder / lockdown).unlink()
        for on in (0, 1):
            variable = self.folder / "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
            variable.parent.mkdir(parents=True, exist_ok=True)
            variable.write_bytes(bytes((6, 0, 0, 0, on)))
            self.assertEqual(refused(other) == "\n", not on)

    def test_settings_that_differ(self):
        """Versions in words are the compilers' names; what they can do is compared."""
        code = """print(build.different({"CONFIG_RUST": "y", "CONFIG_A": "m", "CONFIG_CC_VERSION_TEXT": "one"},
                      {"CONFIG_A": "y", "CONFIG_CC_VERSION_TEXT": "two"}))"""
        self.assertEqual(self.within(code), "['CONFIG_A=y', 'CONFIG_RUST=n']\n")

    def test_symbols_that_differ(self):
        for symbol, wanted in ("_RNvA", "1 Rust symbols are those of"), ("_RNvB", "1 of 1 Rust symbols"):
            self.write("work/object/rust/exports_core_generated.h", f"EXPORT_SYMBOL_RUST_GPL({symbol});\n")
            folder = repr(str(self.folder))
            self.headers()
            self.write("headers/Module.symvers", "0x0\t_RNvA\tvmlinux\tEXPORT_SYMBOL_GPL\t\n")
            self.assertIn(wanted, self.within(f"""
one = build.Build(kernel.Kernel(pathlib.Path({folder}) / "headers"), {{}}, None, pathlib.Path({folder}) / "work")
try:
    one.compare_symbols()
except build.Failure as failure:
    print(failure)"""))

    def test_certified_compilers(self):
        """kernels.lock names those that built each kernel, which are those of the lab's Debian."""
        for kernel in stock.BUILT:
            locked, config = stock.entry(kernel), (stock.headers(kernel) / ".config").read_text()
            for name, setting in (("gcc", "CC"), ("rustc", "RUSTC")):
                self.assertIn(f'CONFIG_{setting}_VERSION_TEXT="{locked[name]}"\n', config)
            for program in ("rustc", "bindgen"):
                self.assertEqual(lib.version(program), locked[program])
            self.assertIn(f"Debian {locked['packages']} ",
                          (stock.headers(kernel) / "include/generated/utsversion.h").read_text())

    def test_patches_of_a_version(self):
        """A version's own patch takes the place of that of the same name."""
        for name in ("7.3/fixes/1.patch", "7.3/1.patch", "7.2/1.patch"):
            self.write(name, "")
        code = f"kernel.PATCHES = pathlib.Path({str(self.folder)!r}); print(*(str(path.relative_to(kernel.PATCHES)) for path in kernel.series({{}})))"
        self.assertEqual(self.within(code.format("'7.3'")), "7.3/fixes/1.patch 7.3/1.patch\n")
        self.assertEqual(self.within(code.format("'7.2'")), "7.3/fixes/1.patch 7.2/1.patch\n")

    def test_why_a_build_failed(self):
        for text, wanted in ("  CC a\na.c:1: error: no\nmake: *** [a] Error 1\n", "a.c:1: error: no"), ("it ends\n", "it ends"):
            log = self.write("log", text)
            self.assertEqual(self.within(f"print(build.reason(pathlib.Path({str(log)!r})))"), wanted + "\n")
        log = self.write("log", "error: of another step\nit ends\n")
        self.assertEqual(self.within(f"print(build.reason(pathlib.Path({str(log)!r}), 23))"), "it ends\n")
