# SPDX-License-Identifier: GPL-2.0
"""The lab's own Debian: a folder of the cache that every script of the lab enters.

Compilers, emulators and what they need are Debian 13's there, whatever this machine is. It is
asked for one program, which makes such a folder, and for its mirror of Debian. What a person
has is seen in it under the same names: home, clone, cache, network and certificates.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import lib

SUITE = "trixie"
PACKAGES = sorted("""
    bc bison ca-certificates clang-19 cpio dwarves flex gcc git kmod libc6-dev libclang-19-dev
    libelf-dev libssl-dev linux-perf lld-19 llvm-19 lz4 make patch perl procps python3-venv rsync
    tmux trace-cmd uuid-dev xz-utils zstd
    bindgen cargo rust-clippy rust-src rustc rustfmt
    bochs bochs-term bochsbios busybox-static iproute2 isolinux qemu-system-x86 syslinux-common
    e2fsprogs mmdebstrap vgabios xorriso
    bash-completion man-db shellcheck""".split())
KEYRING = pathlib.Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# In a root: which one it is, and the mirror that it comes from.
MARK = pathlib.Path("/etc/kvm-mmio-ext-lab")
KEY = lib.digest(SUITE, *PACKAGES, "1")[:12]
ROOTS = lib.CACHE / "root"
TOOLS = lib.LAB / "tools.lock"
GIGABYTES = 4
# A root that another version of the lab made is kept for so long after its last use.
KEEP_DAYS = 7

# Tools of a person's own, which are used instead of the root's.
PROGRAMS = ("RUSTC", "BINDGEN", "CARGO")
# Of the machine's top-level folders, those that are not a person's.
SYSTEM = {"bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "lost+found", "proc",
          "run", "sbin", "sys", "usr", "var"}
# Below these, a person may have something nevertheless.
SHARED = ("/usr/src/", "/var/", "/run/")
# The network, as this machine is connected to it.
NETWORK = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs", "/etc/pki", "/etc/pip.conf",
           "/etc/apt/mirrors", "/usr/local")
# Variables that are about programs of this machine, not about those of the root.
DROPPED = re.compile(r"LD_|PYTHON(PATH|HOME)|PYENV|VIRTUAL_ENV|LC_|LANGUAGE|BASH_ENV|ENV$|CDPATH")


def given():
    """Tools that a person names in the environment, or the end if they are not there."""
    found = {}
    for name in PROGRAMS:
        program = os.environ.get(name)
        if program:
            found[name] = shutil.which(program)
            if not found[name]:
                lib.die(f"{program} not found: install it or name another in the environment as {name}")
            found[name] = os.path.abspath(found[name])
    source = os.environ.get("KSRC")
    if source:
        if not os.path.exists(source):
            lib.die(f"{source} not found: name the source of a kernel as KSRC")
        found["KSRC"] = os.path.abspath(source)
    return found


def is_wanted():
    """Whether to work in the lab's own Debian, or with what this machine has."""
    choice = os.environ.get("KVM_MMIO_EXT_ROOT", "")
    if choice not in ("", "none"):
        lib.die(f"KVM_MMIO_EXT_ROOT={choice}: there is only none, which uses this machine's own tools")
    return not choice


def is_inside():
    return MARK.exists()


def folder():
    return ROOTS / KEY


# $0 is who gets what root has left in the cache, $1; then comes what to execute.
GIVE = """
cache=$1
shift
"$@"
status=$?
find "$cache" -xdev -path "$cache/root" -prune -o -user 0 -exec chown -h "$0" {} +
exit $status
"""


class Plain:
    """By root."""

    def __init__(self):
        self.prefix = ["unshare", "--mount", "--propagation", "private"]
        self.user, self.inside = [], []

    def wrap(self, argv, _environment):
        return [*self.prefix, *argv]


class Namespace(Plain):
    """By a person who is root in a user namespace."""

    def __init__(self):
        super().__init__()
        self.prefix = ["unshare", "--user", "--map-root-user", "--map-auto", "--mount",
                       "--propagation", "private"]


class Sudo(Plain):
    """By a person with sudo, who is only root until the folders are in place. One who needs_root stays
    it, and what that leaves in the cache is given to the person."""

    def __init__(self, needs_root=False):
        super().__init__()
        groups = ",".join(map(str, os.getgroups()))
        owner = f"+{os.getuid()}:+{os.getgid()}"
        self.user = [] if needs_root else [f"--userspec={owner}", f"--groups={groups}"]
        self.inside = ["sh", "-c", GIVE, owner, str(lib.CACHE)] if needs_root else []

    def wrap(self, argv, environment):
        # sudo drops nearly all variables, those of proxies too.
        return ["sudo", "--", "env", *(f"{name}={value}" for name, value in environment.items()),
                *self.prefix, *argv]


def can_mount(way):
    argv = way.wrap(["mount", "-t", "tmpfs", "none", "/mnt"], {})
    return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode == 0


def way_in(needs_root=False):
    """How to become one who may mount, or the end; `needs_root` is for more than that."""
    if os.geteuid() == 0:
        if can_mount(Plain()):
            return Plain()
        lib.die("root may not mount here, as in most containers: start this one with more rights "
                "(CAP_SYS_ADMIN), or set KVM_MMIO_EXT_ROOT=none in one that is a Debian 13 with what the lab needs")
    # What root has made, only root can change.
    by_root = folder().exists() and folder().stat().st_uid == 0
    if not by_root and can_mount(Namespace()):
        return Namespace()
    if shutil.which("sudo"):
        if subprocess.run(["sudo", "-n", "true"], stderr=subprocess.DEVNULL).returncode:
            lib.say("the lab's own Debian needs root to mount its folders: sudo asks")
            subprocess.run(["sudo", "-v"])
        if can_mount(Sudo()):
            return Sudo(needs_root)
    return lib.die("the lab's own Debian needs mounts: run this as root, install sudo, or install uidmap and allow "
                   "user namespaces (or set KVM_MMIO_EXT_ROOT=none on a Debian 13 that has what the lab needs)")


def log():
    return lib.CACHE / "log" / "setup.log"


def proxies():
    return {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}


# apt-get reads this after the configuration of the machine. Its hooks are for its own lists.
APT_CONF = """\
Dir::State::Lists "{where}/lists";
Dir::Cache "{where}";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT::Sandbox::User "root";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


def private_lists():
    """Options for apt-get with package lists of the lab's own, just updated: it needs neither
    root nor a lock then, and leaves those of the machine as they are."""
    where = lib.CACHE / "apt"
    for name in ("lists/partial", "archives/partial"):
        (where / name).mkdir(parents=True, exist_ok=True)
    lib.write_atomically(where / "conf", APT_CONF.format(where=where))
    options = ["-c", str(where / "conf")]
    # A source of somebody else may fail. Without those of the distribution there is nothing to install, of
    # which apt-get says only that it could not be found.
    script = 'apt-get "$@" update --error-on=any || apt-cache "$@" show mmdebstrap > /dev/null'
    lib.run_logged("reading the package lists", ["sh", "-c", script, "sh", *options], log())
    return options


def as_root(argv):
    if os.geteuid() == 0:
        return argv
    if not shutil.which("sudo"):
        lib.die("mmdebstrap must be installed: do it, or run this as root")
    return ["sudo", "--", "env", *(f"{name}={value}" for name, value in proxies().items()), *argv]


def install_maker():
    """The one thing that is installed in this machine."""
    needed = [] if has_maker() else ["mmdebstrap"]
    if not KEYRING.exists():
        needed.append("debian-archive-keyring")
    if not needed:
        return
    if not shutil.which("apt-get"):
        lib.die(f"{' and '.join(needed)} not found: install it")
    argv = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *private_lists(),
            # Another may be installing something, and nothing that is here is replaced.
            "-o", "DPkg::Lock::Timeout=600", "--no-remove", "--no-upgrade",
            "install", "-y", "--no-install-recommends", *needed]
    # What root downloads only root can remove.
    cleaning = ["sh", "-c", '"$@"; status=$?; rm -rf "$0"; exit $status', str(lib.CACHE / "apt/archives")]
    lib.run_logged(f"installing {' and '.join(needed)}", as_root([*cleaning, *argv]), log())


def debian_entries(options):
    """Suite and address of what APT gets from Debian itself: others may use its names."""
    argv = ["apt-get", *options, "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(CODENAME)|$(REPO_URI)",
            "Created-By: Packages"]
    out = subprocess.run(argv, stdout=subprocess.PIPE, text=True).stdout
    for line in out.splitlines():
        origin, label, codename, uri = line.split("|", 3)
        if origin == label == "Debian" and not uri.startswith("cdrom:"):
            yield codename, uri


def mirror():
    """Where to get Debian from, as the configuration of this machine says."""
    named = os.environ.get("KVM_MMIO_EXT_MIRROR")
    if named or is_inside():
        return named or MARK.read_text().split()[1]
    if shutil.which("apt-get"):
        # A machine that has never updated its lists does not know who is who.
        for lists in (list, private_lists):
            found = list(debian_entries(lists()))
            if found:
                return next((uri for codename, uri in found if codename == SUITE), found[0][1])
    return lib.die("APT knows no mirror of Debian here: name one as KVM_MMIO_EXT_MIRROR")


def apt_settings():
    """How this machine gets at mirrors, as lines of apt.conf."""
    out = subprocess.run(["apt-config", "dump"], stdout=subprocess.PIPE, text=True).stdout \
        if shutil.which("apt-config") else ""
    return re.findall(r'^(Acquire::(?:https?::(?!User-Agent)|Check-)[^ ]* ".+");$', out, re.M)


# Programs of root, which a person may not have in PATH.
def host_path():
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def has_maker():
    """Which program makes roots here, if any."""
    return next((name for name in ("mmdebstrap", "debootstrap") if shutil.which(name, path=host_path())), None)


def maker(where, source):
    """The command that makes a root."""
    packages = ",".join(PACKAGES)
    if has_maker() == "mmdebstrap":
        settings = [*apt_settings(), 'APT::Install-Recommends "false"', 'Acquire::Languages "none"']
        return ["mmdebstrap", "--mode=root", "--format=directory", "--variant=apt", f"--include={packages}",
                f"--keyring={KEYRING}", *(f"--aptopt={line}" for line in settings),
                # What is lost when the machine is, is made again.
                "--dpkgopt=force-unsafe-io", "--dpkgopt=path-exclude=/usr/share/doc/*",
                "--dpkgopt=path-exclude=/usr/share/locale/*", SUITE, str(where), source]
    return ["debootstrap", "--variant=minbase", f"--include={packages}", f"--keyring={KEYRING}",
            SUITE, str(where), source]


def make(way):
    """Make the root, which gets its name when it is complete."""
    ROOTS.mkdir(parents=True, exist_ok=True)
    lib.need_space(ROOTS, GIGABYTES)
    install_maker()
    partial = ROOTS / f"{KEY}.partial"
    source = mirror()
    script = 'rm -rf "$1"; where=$1 key=$2 mark=$3 source=$4; shift 4; "$@"; echo "$key $source" > "$where$mark"'
    argv = ["sh", "-ec", script, "sh", str(partial), KEY, str(MARK), source, *maker(partial, source)]
    variables = {"PATH": host_path(), "LC_ALL": "C.UTF-8", "TMPDIR": "/tmp"}
    lib.run_logged("making the lab's own Debian 13 (about 2 minutes, 2.3 GB)",
                   way.wrap(argv, {**proxies(), **variables}), log(), env={**os.environ, **variables})
    partial.rename(folder())
    say_differences(folder())


def say_differences(where=pathlib.Path("/")):
    """Which tools of a root are not those that all was tested with."""
    status = (where / "var/lib/dpkg/status").read_text()
    there = dict(re.findall(r"^Package: (\S+)\n(?:.+\n)*?Version: (\S+)$", status, re.M))
    for package, version in re.findall(r"^(\S+) (\S+)$", TOOLS.read_text(), re.M):
        if there.get(package) != version:
            lib.say(f"{package} {version}, which the lab was tested with, is gone from the mirror: "
                    f"this is {there.get(package, 'none')}")


def remove(path):
    """A root may hold files of users that a person can only be in a namespace, or of root."""
    if is_inside():
        lib.die("leave the lab's own Debian first")
    # Only what the lab has put there: the variable may name anything.
    known = path == lib.CACHE and (path / "lock").is_dir() or path.parent == ROOTS
    if not known:
        lib.die(f"{path} is not what the lab has made: remove it yourself")
    argv = ["rm", "-rf", "--one-file-system", str(path)]
    if os.geteuid() and ROOTS.exists():
        argv = way_in().wrap(argv, {})
    subprocess.run(argv, check=True)


def remove_unused():
    """Roots that other versions of the lab have made, and nothing enters any more."""
    for other in set(ROOTS.iterdir()) - {folder()}:
        used = lib.CACHE / "lock" / f"root-{other.name}"
        last = (used if used.exists() else other).stat().st_mtime
        if time.time() - last > KEEP_DAYS * 86400:
            lib.say(f"removing {other}, which was not used for {KEEP_DAYS} days")
            remove(other)


def is_seen(path):
    """Whether a person has this path, rather than the system."""
    return path == "/" or path.split("/")[1] not in SYSTEM or path.startswith(SHARED)


def bound():
    """What of this machine is to be seen in the root, under the same names."""
    tops = [f"/{name}" for name in sorted(os.listdir("/")) if name not in SYSTEM and os.path.isdir(f"/{name}")]
    named = [str(lib.ROOT), str(lib.CACHE), os.getcwd(), os.path.expanduser("~"),
             *given().values(), *os.environ.get("PIP_FIND_LINKS", "").split()]
    certificates = [value for name, value in os.environ.items()
                    if value.startswith("/etc/") and not value.startswith(NETWORK) and os.path.isfile(value)
                    and re.search(r"CERT|CA_BUNDLE|CAINFO|PIP_|CARGO_", name)]
    seldom = [path for path in named if path.startswith(SHARED)]
    return ["/proc", "/sys", "/dev", *tops, *seldom,
            *(path for path in (*NETWORK, *certificates) if os.path.exists(path))]


# $1 is the root, what follows is mounted in it up to "--", and then comes what to execute.
ENTER = """
root=$1
shift
# Programs in it may want mounts of their own, for which it must be one; not seen where it is
# bound with what is above it.
mount --bind "$root" "$root"
mount --make-unbindable "$root"
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then
        mkdir -p "$root$1"
    else
        mkdir -p "$root${1%/*}"
        [ -e "$root$1" ] || { rm -f "$root$1"; : > "$root$1"; }
    fi
    mount --rbind "$1" "$root$1"
    # The machine's own configuration is for reading, as far as a namespace may say so.
    case "$1" in /etc/*) mount -o remount,bind,ro "$root$1" 2> /dev/null || true;; esac
    shift
done
shift
exec "$@"
"""


# $1 is the folder to be in, then comes what to execute.
INSIDE = """
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
cd "$1"
shift
exec "$@"
"""


def environment():
    """What a program in the root is told of this machine's variables."""
    kept = {name: value for name, value in os.environ.items() if not DROPPED.match(name)}
    if not is_seen(kept.get("TMPDIR", "/tmp")):
        del kept["TMPDIR"]
    return {**kept, **given(), "LANG": "C.UTF-8", "KVM_MMIO_EXT_CACHE": str(lib.CACHE), "SHELL": "/bin/bash",
            # Until INSIDE sets another: a person's may lack the folders of chroot.
            "PATH": host_path()}


def entry(way, where, argv, variables):
    """The command that executes another in a root."""
    here = os.getcwd() if is_seen(os.getcwd()) else str(lib.ROOT)
    inside = ["chroot", *way.user, str(where), "/bin/sh", "-ec", INSIDE, "sh", here, *way.inside, *map(str, argv)]
    return way.wrap(["sh", "-ec", ENTER, "sh", str(where), *bound(), "--", *inside], variables)


def execute(argv, needs_root=False):
    """Replace this program by another, in the root, which is made if there is none."""
    given()
    way = way_in(needs_root)
    if not folder().exists():
        with lib.lock("root"):
            if not folder().exists():
                make(way)
                remove_unused()
    used = lib.CACHE / "lock" / f"root-{KEY}"
    used.parent.mkdir(parents=True, exist_ok=True)
    used.touch()
    variables = environment()
    command = entry(way, folder(), argv, variables)
    # Python ignores it, which others would inherit.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.stdout.flush()
    os.execvpe(command[0], command, variables)


def enter(needs_root=False):
    """Go on in the lab's own Debian: what runs this runs once more there, from its beginning. A person with
    sudo is that person there, unless it needs_root."""
    if not is_wanted() or is_inside():
        os.environ.update(given())
        return
    execute([os.path.abspath(sys.argv[0]), *sys.argv[1:]], needs_root)
