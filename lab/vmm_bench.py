# SPDX-License-Identifier: GPL-2.0
"""lab/vmm --bench: what operations of the guest cost with each --registers.

The guest exchanges single bytes over TCP and reads blocks from its NVMe disk. All that runs is on
the one processor of the machine, whose time-stamp counter counts instructions: an operation costs
those of the guest, of KVM, of the VMM and of the kernel below together.
"""

import itertools
import re
import shlex
import statistics

import lib
import report
import runs
import vmm_guest

DOCUMENT = lib.ROOT / "Documentation/reference-vmm.rst"
DISK_MB = 16

# What mmio-load is asked for, with the number of operations.
LOADS = {"tcp {}": "TCP round trip", "read {}": "NVMe, depth 1", "read {} 16": "NVMe, depth 16"}
# Answers, and does nothing else.
IDLE = "tcp 0"

# Debian's KVM, and the one with the extension, by the value of --module; and which modes are measured with it.
KVMS = {"none": "KVM as it is", "on": "with extension"}
WAYS = (("none", "exit"), ("none", "ioeventfd"), ("on", "exit"), ("on", "ioeventfd"), ("on", "posted"),
        ("on", "read-only"))

# Which is compared with what, and by how many percent the first is to do more.
COMPARED = ((("on", "read-only"), ("none", "exit")), (("on", "posted"), ("none", "exit")),
            (("on", "read-only"), ("none", "ioeventfd")), (("on", "read-only"), ("on", "exit")))
TARGETS = {"tcp {}": 30, "read {}": 50}

# Of KVM's statistics. `mmio_exits` go to userspace; the others are for who wants to know more.
COUNTERS = ("exits", "mmio_exits", "io_exits", "halt_exits", "irq_exits", "insn_emulation", "pf_taken")
STATISTICS = " ".join(f"/sys/kernel/debug/kvm/{name}" for name in COUNTERS)

# In seconds; a boot takes one or two minutes. What lab/run then says.
TIMEOUT, TIMED_OUT, ATTEMPTS = 300, 124, 3

SCRIPT = f"""
dd if=/dev/zero of=/tmp/nvme bs=1M count={DISK_MB} 2> /dev/null
mmio-vmm --registers "$1" --cmdline "console=ttyS0 quiet reboot=k panic=-1" --nvme /tmp/nvme --net \\
	--kernel "$(command -v vmlinuz)" --initrd "$(command -v initrd)" |
while read -r line; do
	echo "$line"
	# The guest rests meanwhile.
	case $line in
	"load: "*) grep -Hs . {STATISTICS} /sys/kernel/debug/kvm_mmio_ext/stats ;;
	esac
done
"""


def requests(args):
    """A round, as mmio-load is asked for it."""
    return [IDLE, *(load.format(args.operations) for load in LOADS)]


def boot(where, args):
    """The samples of a mode. Under this clock a guest hangs now and then, see Documentation/reference-vmm.rst."""
    module, mode = where
    # The first round is to warm up.
    task = f"mmio-load --disk /dev/nvme0n1 {shlex.join(requests(args) * (args.repetitions + 1))}\n"
    # With a tick, as timers of one shot miss events under this clock, which counts a REP MOVSB as an
    # instruction for each byte: the kernel is to copy in a loop, as where REP MOVSB is slow.
    append = "highres=off nohz=off clearcpuid=fsrm,erms"
    options = ["--module", module, "--icount", "--append", append, "--timeout", str(TIMEOUT)]
    for _ in range(ATTEMPTS):
        progress = lib.Progress(f"{mode}, {KVMS[module]}")
        run = vmm_guest.run(options, SCRIPT, [mode], task, [vmm_guest.load_program()], progress.tick)
        if run.returncode == 0:
            progress.end()
            return samples(run.stdout, args)
        progress.end("FAILED")
        if run.returncode != TIMED_OUT:
            break
        lib.say("the guest hangs: once more")
    return lib.die(f"status {run.returncode}: {run.stderr.strip()}\n{run.stdout[-2000:]}")


def samples(text, args):
    """One for each load of each round: ticks, and by how much counters have grown beyond an idle guest's."""
    _, _, before, *rest = re.split(r"^load: +(\S+)\s*\n", text, flags=re.M)
    rounds = (args.repetitions + 1) * requests(args)
    if len(rest) != 2 * len(rounds):
        lib.die(f"{len(rest) // 2} of {len(rounds)} answers of the guest:\n{text[-2000:]}")
    found, idle = [], {}
    counted = [counters(part) for part in (before, *rest[1::2])]
    for request, ticks, (old, new) in zip(rounds, rest[::2], itertools.pairwise(counted)):
        grown = {name: new[name] - old[name] for name in new}
        if request == IDLE:
            idle = grown
        else:
            found.append({"request": request, "ticks": int(ticks),
                          "exits": {name: value - idle[name] for name, value in grown.items()}})
    return found[len(LOADS):]


def counters(text):
    """Of KVM by their names, and those of the extension."""
    found = {name: int(value) for name, value in re.findall(r"^/sys/kernel/debug/kvm/(\w+):(\d+)\s*$", text, re.M)}
    found.update((f"ext_{name}", int(value)) for name, value in
                 re.findall(r"^/sys/kernel/debug/kvm_mmio_ext/stats:(\w+)\s+(\d+)\s*$", text, re.M))
    return found


class Figures:
    """Of a run: medians, by KVM, mode and load."""

    def __init__(self, run):
        self.operations = run["operations"]
        self.boots = {(boot["module"], boot["mode"]): boot["samples"] for boot in run["boots"]}

    def of(self, where, load):
        request = load.format(self.operations)
        return [sample for sample in self.boots[where] if sample["request"] == request]

    def instructions(self, where, load):
        return statistics.median(sample["ticks"] for sample in self.of(where, load)) / self.operations

    def spread(self, where, load):
        """By how many percent the measurements differ."""
        ticks = [sample["ticks"] for sample in self.of(where, load)]
        return 100 * (max(ticks) - min(ticks)) / statistics.median(ticks)

    def exits(self, where, load, name="mmio_exits"):
        return statistics.median(sample["exits"].get(name, 0) for sample in self.of(where, load)) / self.operations

    def gain(self, where, other, load):
        """By how many percent more it does of instructions."""
        return 100 * (self.instructions(other, load) / self.instructions(where, load) - 1)


def title(where):
    module, mode = where
    return f"``{mode}``, {KVMS[module]}"


def rates(run):
    """Instructions for an operation, and exits to userspace."""
    figures = Figures(run)
    head = ["mode", *(cell for name in LOADS.values() for cell in (name, "exits"))]
    return report.table(head, [
        [title(where), *(cell for load in LOADS for cell in (f"{figures.instructions(where, load):.0f}",
                                                             f"{figures.exits(where, load):.2f}"))]
        for where in figures.boots])


def gains(run):
    """How much more the best does, and what was wanted."""
    figures = Figures(run)
    rows = [[f"{title(where)} / {title(other)}", *(f"{figures.gain(where, other, load):+.0f} %" for load in LOADS)]
            for where, other in COMPARED]
    wanted = ["target", *(f"+{TARGETS[load]} %" if load in TARGETS else "-" for load in LOADS)]
    missed = [LOADS[load] for load, least in TARGETS.items() if figures.gain(*COMPARED[0], load) < least]
    return f"""\
{report.table(["operations for as many instructions", *LOADS.values()], [*rows, wanted])}

Targets missed in the first row: {"; ".join(missed) or "none"}."""


def provenance(run):
    figures = Figures(run)
    spread = max(figures.spread(where, load) for where in figures.boots for load in LOADS)
    return (f"Measured {run['created']} at revision ``{run['revision']}``: {run['emulator']};\n"
            f"medians of {run['repetitions']} measurements of {run['operations']} operations, "
            f"which differ by {spread:.0f} % at most.")


PLACES = {"provenance": provenance, "rates": rates, "gains": gains}


def check(run):
    """Without exits where there must be some, or with some where there must be none, it is not what it says."""
    figures = Figures(run)
    for where in figures.boots:
        exits = figures.exits(where, "read {}")
        # The tail and the head of each command, and a few of others.
        least, most = (0, 0.1) if where[1] in ("posted", "read-only") else (1.9, 2.5)
        if not least <= exits <= most:
            lib.die(f"{title(where)}: {exits:.2f} exits to userspace for a read of NVMe")


def measure(args):
    run = runs.Run("vmm", emulator=lib.emulator("svm"), operations=args.operations, repetitions=args.repetitions)
    for where in WAYS:
        module, mode = where
        run.add({"module": module, "mode": mode, "samples": boot(where, args)})
    return run


def main(args):
    run = measure(args)
    for place in PLACES.values():
        print(f"\n{place(run.data)}")
    print(f"\nJSON: {run.path}")
    check(run.data)
    if args.document:
        lib.write_atomically(DOCUMENT, report.fill(DOCUMENT.read_text(), "vmm", PLACES, run.data))
        lib.say(f"rewrote {DOCUMENT.relative_to(lib.ROOT)}")
