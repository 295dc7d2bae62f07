# SPDX-License-Identifier: GPL-2.0
"""Packages of Debian that are downloaded and unpacked, but not installed."""

import re
import subprocess
import tempfile
import pathlib

import lib
import root

BACKPORTS = f"{root.SUITE}-backports"
SUITES = (root.SUITE, BACKPORTS)
DOWNLOAD = lib.CACHE / "download"


def kept(name, version=None):
    """The newest file of a package that was downloaded already."""
    found = [path for path in DOWNLOAD.glob(f"{name}_*.deb") if version in (None, version_of(path))]
    return max(found, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)], default=None)


def version_of(path):
    # As in a file's name, which has an epoch in another form.
    return path.name.split("_")[1]


class Lists:
    """What a mirror has of some suites, read once for some packages."""

    def __init__(self, where, suites):
        self.mirror, self.suites = root.mirror(), " and ".join(suites)
        (where / "lists").mkdir()
        (where / "sources").write_text("".join(f"deb [signed-by={root.KEYRING}] {self.mirror} {suite} main\n"
                                               for suite in suites))
        options = [f"Dir::Etc::sourcelist={where}/sources", "Dir::Etc::sourceparts=-",
                   f"Dir::State::Lists={where}/lists", f"Dir::Cache={where}", "Dir::Cache::pkgcache=",
                   "APT::Sandbox::User=root", "APT::Get::List-Cleanup=0"]
        self.where = where
        self.options = [part for option in options for part in ("-o", option)]

    def update(self):
        lib.run_logged(f"looking for packages of {self.suites}",
                       ["apt-get", *self.options, "update", "--error-on=any"], root.log())

    def names(self, prefix):
        argv = ["apt-cache", *self.options, "pkgnames", prefix]
        return subprocess.run(argv, stdout=subprocess.PIPE, text=True).stdout.split()

    def has(self, name, version):
        argv = ["apt-cache", *self.options, "madison", name]
        out = subprocess.run(argv, stdout=subprocess.PIPE, text=True).stdout
        return version in [line.split("|")[1].strip() for line in out.splitlines()]

    def download(self, names):
        # apt-get download checks size and hash against the signed index.
        lib.run_logged(f"downloading {names[0]}", ["apt-get", *self.options, "download", *names], root.log(),
                       cwd=self.where)
        for deb in self.where.glob("*.deb"):
            deb.rename(DOWNLOAD / deb.name)


def fetch(packages, advice, suites=SUITES):
    """The files of packages, given by name and version (or None: the newest). `advice` is
    what to do if the mirror does not have one any more."""
    missing = [(name, version) for name, version in packages.items() if not kept(name, version)]
    if missing:
        lib.need_space(DOWNLOAD, 1)
        with tempfile.TemporaryDirectory(dir=DOWNLOAD) as name:
            lists = Lists(pathlib.Path(name), suites)
            lists.update()
            for name, version in missing:
                check(lists, name, version, advice)
            lists.download([f"{name}={version}" if version else name for name, version in missing])
    return {name: kept(name, version) for name, version in packages.items()}


def check(lists, name, version, advice):
    """A mirror has few versions of a kernel, which go when the next ones come."""
    there = lists.names(name)
    if name in there and (version is None or lists.has(name, version)):
        return
    kind = re.match(r"[a-z-]+", name)[0]
    others = [name] if name in there else sorted(lists.names(kind))
    lib.die(f"{name}{f'={version}' if version else ''} is gone from {lists.suites} of {lists.mirror}, "
            f"which now has {' '.join(others) or 'none'}{' of another version' if name in there else ''}: {advice}, "
            f"or put the package into {DOWNLOAD}")


def unpack(deb, folder):
    """The files of a package, in a folder that gets its name when it is complete."""
    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    subprocess.run(["rm", "-rf", partial], check=True)
    partial.mkdir(parents=True)
    subprocess.run(["dpkg-deb", "-x", deb, partial], check=True)
    partial.rename(folder)
