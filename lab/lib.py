# SPDX-License-Identifier: GPL-2.0
"""What the lab's Python scripts share: places, errors, locks, long steps."""

import concurrent.futures
import contextlib
import errno
import fcntl
import hashlib
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAB = ROOT / "lab"
# The kernels of the test machines.
FLAVOURS = ("release", "debug", "kcsan", "mainline")
# A file that the patches add to a kernel.
HOOKS = "arch/x86/include/asm/kvm_mmio_ext.h"


# What programs print when they lack something, and what to do about it.
CAUSES = {
    r"No space left on device|not enough free space|Disk quota exceeded":
        "the disk is full: free some space, or set KVM_MMIO_EXT_CACHE to a larger disk",
    r"[Cc]ould(n't| not) (resolve|connect)|Temporary failure|Failed to (fetch|connect)|"
    r"(Network|Host) (is )?unreachable|[Cc]onnection (refused|timed out)|Cannot connect to proxy":
        "the network does not answer: connect this machine, and run it again",
    r"Could not get lock|is held by process":
        "another program is installing packages: wait until it has ended, and run it again",
    r"No matching distribution found|Could not find a version that satisfies":
        "PyPI, or the mirror of it that pip uses, has no such version any more: name one that has it as PIP_INDEX_URL",
    r"does not have a Release file|404 +Not Found|[Ii]nvalid suite|Unable to locate package":
        "the mirror does not have what is needed: name one of Debian that has it as KVM_MMIO_EXT_MIRROR"}

# What the kernel prints when something is wrong with it.
KERNEL_REPORT = re.compile(
    r"WARNING: |\bBUG\b(?!: KCSAN: )|\bOops\b|KASAN|UBSAN|general protection|hung_task|"
    r"blocked for more than|possible circular locking|possible recursive locking|"
    r"inconsistent lock state|suspicious RCU usage|rcu.*detected.*stall|"
    r"Kernel panic|kmemleak: [1-9]|soft lockup|Call Trace")
# A data race, and the functions that have a part in it if both are known.
RACE = re.compile(r"BUG: KCSAN: (?:data-race in (.+ / .+)|.*)")


def cache_root():
    """Everything downloaded or built lives here, never in the clone."""
    env = os.environ
    base = env.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(env.get("KVM_MMIO_EXT_CACHE") or f"{base}/kvm_mmio_ext").absolute()


CACHE = cache_root()


def die(message, status=1):
    """End with one clear line that says what is wrong and what to do."""
    sys.stdout.flush()
    print(f"{pathlib.Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(status)


class Problem(Exception):
    """One clear line, for those who may know a way out; else die() has it."""


def say(message):
    """Progress goes to stderr: stdout belongs to results."""
    print(message, file=sys.stderr, flush=True)


def tree_by_hand(flavour):
    """The tree that somebody built for the test machines, if any."""
    return os.environ.get("KVM_MMIO_EXT_TREE") if flavour in FLAVOURS else None


def tree(flavour):
    """The kernel tree of a flavour."""
    return pathlib.Path(tree_by_hand(flavour) or CACHE / "kernel" / flavour)


def module_dir(flavour):
    """Where kvm_mmio_ext.ko of this clone is built; clones must not share it."""
    clone = hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]
    return CACHE / "module" / clone / flavour


def module_sources():
    """The files that the module is made of."""
    for name in ("Kbuild", "rust", "src"):
        path = ROOT / name
        files = [path] if path.is_file() else path.rglob("*")
        yield from sorted(file for file in files if file.is_file())


def digest(*parts):
    """A key over strings, bytes and the contents of files (Path)."""
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, pathlib.Path) else part
        data = data.encode() if isinstance(data, str) else data
        total.update(b"%d:" % len(data) + data)
    return total.hexdigest()


def revision():
    """What was measured, with a mark if files were changed."""
    out = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=12"],
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return out.stdout.strip() or "unknown"


def emulator(machine):
    """What runs a test machine, with its version."""
    argv = ["qemu-system-x86_64", "--version"] if machine == "svm" else ["dpkg-query", "-W", "bochs"]
    out = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return " ".join(out.splitlines()[0].split()) if out else "unknown"


def write_atomically(path, text):
    """A reader sees the old file or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.rename(path)


def read_or_none(path):
    return path.read_text() if path.is_file() else None


@contextlib.contextmanager
def lock(name):
    """One builder at a time; the kernel drops the lock if its holder dies."""
    path = CACHE / "lock" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another build of {name} ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def need_space(directory, gigabytes):
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free / 2**30
    if free < gigabytes:
        die(f"{directory} has {free:.1f} GB free and {gigabytes} are needed: "
            "free some space or set KVM_MMIO_EXT_CACHE to a larger disk")


def version(*argv):
    """The first line that a tool prints of its version."""
    try:
        out = subprocess.run([*argv, "--version"], stdout=subprocess.PIPE, text=True).stdout
    except OSError:
        die(f"{argv[0]} not found: install it or name another in the environment")
    return out.split("\n")[0]


def setup():
    """Run lab/setup (quick when nothing is missing); return what it found."""
    out = call([LAB / "setup", "--env"], stdout=subprocess.PIPE)
    if out.returncode:
        sys.exit(out.returncode)
    return dict(line.split("=", 1) for line in out.stdout.splitlines())


def test_programs(flavour):
    """Build the programs that run on the machines; return their folder."""
    return make_test_programs(setup(), f"KDIR={tree(flavour)}")


def make_test_programs(tools, *arguments):
    out = module_dir("release").parent / "selftests"
    log = CACHE / "log" / "selftests.log"
    log.unlink(missing_ok=True)
    with lock(f"selftests-{out.parent.name}"):
        run_logged("building the test programs",
                   ["make", "-C", ROOT / "selftests", f"OUTPUT={out}", f"CARGO={tools['CARGO']}",
                    *arguments],
                   log, env={**make_environment(), "RUSTC": tools["RUSTC"]})
    return out


def tools_dir():
    """Where kvm-mmio of this clone is built."""
    return module_dir("release").parent / "tools"


def examples_dir():
    """Where mmio-vmm of this clone is built."""
    return module_dir("release").parent / "examples"


def kvm_mmio(*variables):
    """Build the command kvm-mmio; return its file."""
    return cargo_program("kvm-mmio", ROOT / "tools/kvm-mmio", tools_dir(), *variables)


def mmio_vmm():
    """Build the reference VMM; return its file."""
    return cargo_program("mmio-vmm", ROOT / "examples/mmio-vmm", examples_dir())


def cargo_program(name, where, out, *variables):
    """Build a program that has a Makefile of its own."""
    tools = setup()
    log = CACHE / "log" / f"{out.name}.log"
    log.unlink(missing_ok=True)
    with lock(f"{out.name}-{out.parent.name}"):
        run_logged(f"building {name}", ["make", "-C", where, f"OUTPUT={out}", f"CARGO={tools['CARGO']}", *variables],
                   log, env={**make_environment(), "RUSTC": tools["RUSTC"]})
    return out / name


class Progress:
    """Part of a status line that is rewritten on a terminal, a line every 30 s elsewhere."""

    # What is under way, of any thread.
    running = []
    # Set to have all of that interrupted, see side_by_side().
    stopped = threading.Event()

    def __init__(self, what, expected=0):
        self.what, self.expected, self.done = what, expected, 0
        self.start = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.last = self.start if not self.terminal else 0
        self.running.append(self)
        if not self.terminal:
            say(f"{what} ...")

    def elapsed(self):
        seconds = int(time.monotonic() - self.start)
        return f"{seconds // 60}:{seconds % 60:02}"

    def __str__(self):
        far = f" {self.done}" if self.done else ""
        if self.expected:
            far += f" of {max(self.expected, self.done)}"
        return f"{self.what}:{far} {self.elapsed()}"

    def tick(self, count=0):
        if self.stopped.is_set():
            raise KeyboardInterrupt
        self.done += count
        now = time.monotonic()
        if now - self.last < (0.5 if self.terminal else 30):
            return
        self.last = now
        if self.terminal:
            line = ", ".join(map(str, self.running))
            # What does not fit would go to a line that is not rewritten.
            sys.stderr.write(f"\r\033[K{line[:shutil.get_terminal_size().columns - 1]}")
            sys.stderr.flush()
        else:
            say(str(self))

    def clear(self):
        """Take the status away, for a line with the result."""
        self.running.remove(self)
        if self.terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def end(self, verdict="done"):
        self.clear()
        say(f"{self.what}: {verdict} in {self.elapsed()}")


# Kbuild prints one such line for each thing that it makes.
KBUILD_STEP = re.compile(r"^  [A-Z]+( \[M\])? ")


def run_logged(what, argv, log, expected=0, **kwargs):
    """Run a long step with its output in `log`; return the steps that it made."""
    progress = Progress(what, expected)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as out:
        begin = out.tell()
        # sudo asks at the terminal, which a session of its own has not.
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=subprocess.STDOUT, start_new_session=argv[0] != "sudo",
                                   **kwargs)
        try:
            with log.open(errors="replace") as reader:
                reader.seek(0, os.SEEK_END)
                while process.poll() is None:
                    time.sleep(0.1)
                    progress.tick(count_steps(reader))
                progress.tick(count_steps(reader))
        finally:
            stop(process)
    if process.returncode:
        progress.end("FAILED")
        explain(what, log, begin)
    progress.end()
    return progress.done


def explain(what, log, begin):
    """End with why a step has failed, whose output begins there in the log."""
    tail = log.read_bytes()[begin:].decode(errors="replace").splitlines()[-40:]
    if shutil.disk_usage(log.parent).free < 2**24:
        # Then the log cannot tell.
        tail.append(os.strerror(errno.ENOSPC))
    for pattern, cause in CAUSES.items():
        if any(re.search(pattern, line) for line in tail):
            die(f"{what} failed as {cause} (log: {log})")
    die("\n".join([f"{what} failed; last lines of {log}:", *tail[-15:]]))


def count_steps(reader):
    return sum(1 for line in reader if KBUILD_STEP.match(line))


def file_options(paths):
    """What lab/run is given of files that the machine is to have."""
    return [part for path in paths for part in ("--file", path)]


def call(argv, tick=None, **kwargs):
    """Like subprocess.run(), which would kill a script of the lab before it has
    cleaned up, if this one is interrupted. Calls `tick` now and then."""
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, text=True, errors="replace", **kwargs)
    output = errors = None
    try:
        while process.returncode is None:
            try:
                output, errors = process.communicate(timeout=0.2 if tick else None)
            except subprocess.TimeoutExpired:
                tick()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return subprocess.CompletedProcess(argv, process.returncode, output, errors)


def build(script, *arguments, **kwargs):
    """Has a script of the lab build something. Its failure, which it has told, is the end."""
    status = call([LAB / script, *arguments], **kwargs).returncode
    if status:
        sys.exit(status)


def side_by_side(workers, function, things):
    """What function(worker, thing) returns of each thing. A worker does one at a time;
    if that fails, what the others do is interrupted."""
    free = queue.SimpleQueue()
    for worker in workers:
        free.put(worker)

    def work(thing):
        worker = free.get()
        try:
            return function(worker, thing)
        finally:
            free.put(worker)

    with concurrent.futures.ThreadPoolExecutor(len(workers)) as pool:
        try:
            running = [pool.submit(work, thing) for thing in things]
            concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_EXCEPTION)
            failed = [future for future in running if future.done() and future.exception()]
            return [future.result() for future in failed or running]
        except BaseException:
            Progress.stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


def stop(process):
    """End a process, with all it has started if it leads a session."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        # What sudo runs is root's, and gets the signal from it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, sig)
            else:
                process.send_signal(sig)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=2)


def make_environment():
    """Without what an outer make would pass on: its jobs and its variables."""
    drop = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "KDIR", "KSRC")
    return {name: value for name, value in os.environ.items() if name not in drop}


def run_main(main):
    """Run a script's main(); Ctrl-C and SIGTERM both run its `finally` blocks."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        main()
    except Problem as problem:
        die(str(problem))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        # Who read our output has gone; at its end Python would write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOTDIR):
            raise
        die(f"{error}: set KVM_MMIO_EXT_CACHE to a folder with more space, or one of your own")
