# SPDX-License-Identifier: GPL-2.0
"""What the tests of the lab share."""

import pathlib
import re
import stat
import subprocess
import tempfile
import unittest

import lib

TREE = lib.tree("release")
# Nothing that a person has set may change what is tested.
OWN = ("RUSTC", "LLVM", "BINDGEN", "CARGO", "KSRC", "KVM_MMIO_EXT_TREE", "KVM_MMIO_EXT_ROOT",
       "KVM_MMIO_EXT_MIRROR", "DESTDIR", "PREFIX")
ENVIRONMENT = {name: value for name, value in lib.make_environment().items() if name not in OWN}
# What is said in front of the message: progress; and behind it: that of make.
ASIDE = re.compile(r"^make\b|\.\.\.$|: (done|FAILED) in |^[\w -]+:[ \d]+\d+:\d\d$")


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_in_clone(self, *argv, **variables):
        return subprocess.run(argv, cwd=lib.ROOT, env={**ENVIRONMENT, **variables}, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def refused(self, wanted, *argv, **variables):
        """The command fails, and says why in one line."""
        done = self.run_in_clone(*argv, **variables)
        said = [line for line in done.stdout.splitlines() if not ASIDE.search(line)]
        self.assertEqual(len(said), 1, done.stdout)
        self.assertIn(wanted, said[0])
        self.assertNotEqual(done.returncode, 0, done.stdout)

    def files(self, below):
        return {str(path.relative_to(below)): stat.S_IMODE(path.stat().st_mode)
                for path in below.rglob("*") if path.is_file()}

    def write(self, name, text, mode=0o644):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path
