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

    def versions(self, *names):
        """Those of packages that there are, by name, the newest first."""
        out = subprocess.run(["apt-cache", *self.options, "madison", *names], stdout=subprocess.PIPE, text=True).stdout
        found = {}
        for name, version, _ in (line.split("|", 2) for line in out.splitlines()):
            found.setdefault(name.strip(), []).append(version.strip())
        return found

    def download(self, names):
        # apt-get download checks size and hash against the signed index.
        lib.run_logged(f"downloading {names[0]}", ["apt-get", *self.options, "download", *names], root.log(),
                       cwd=self.where)
        for deb in self.where.glob("*.deb"):
            deb.rename(DOWNLOAD / deb.name)


class Gone(lib.Problem):
    """A mirror has few versions of a kernel, which go when the next ones come. `others` are the
    versions that it has, by the names of packages of that kind."""

    def __init__(self, lists, name, version, advice):
        names = lists.names(re.match(r"[a-z-]+", name)[0])
        found = lists.versions(*([name] if name in names else sorted(names)))
        self.others = {other: versions[0] for other, versions in found.items()}
        self.mirror = lists.mirror
        had = f" in version {self.others[name]}" if name in self.others else ""
        super().__init__(f"{name}{f'={version}' if version else ''} is gone from {lists.suites} of {lists.mirror}, "
                         f"which now has {' '.join(self.others) or 'none'}{had}: {advice}, "
                         f"or put the package into {DOWNLOAD}")


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
                versions = lists.versions(name).get(name, [])
                if version not in versions and (version or not versions):
                    raise Gone(lists, name, version, advice)
            lists.download([f"{name}={version}" if version else name for name, version in missing])
    return {name: kept(name, version) for name, version in packages.items()}


def fetch_or_newer(name, version, advice):
    """The file of a package, in a version or, when that is gone, in the one that there is."""
    note = DOWNLOAD / f"{name}_{version}.gone"
    if lib.read_or_none(note) == root.mirror() and not kept(name, version):
        return fetch({name: None}, advice)[name]
    try:
        return fetch({name: version}, advice)[name]
    except Gone as gone:
        if name not in gone.others:
            raise
        lib.say(f"{name}={version}, which the lab was tested with, is gone from {gone.mirror}: "
                f"taking {gone.others[name]}")
        lib.write_atomically(note, gone.mirror)
        return fetch({name: None}, advice)[name]


def unpack(deb, folder):
    """The files of a package, in a folder that gets its name when it is complete."""
    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    subprocess.run(["rm", "-rf", partial], check=True)
    partial.mkdir(parents=True)
    subprocess.run(["dpkg-deb", "-x", deb, partial], check=True)
    partial.rename(folder)
