# SPDX-License-Identifier: GPL-2.0
"""A run of lab/bench or lab/macro: what programs on the test machines have measured, boot by
boot, as one JSON document in the cache.
"""

import json
import os
import subprocess
import time

import lib

SCHEMA = 1


class Run:
    """A run in progress."""

    def __init__(self, kind, **settings):
        self.path = lib.CACHE / kind / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
        self.data = {"schema": SCHEMA, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                     "revision": lib.revision(), **settings, "boots": []}

    def add(self, boot):
        self.data["boots"].append(boot)
        # Now, as the next boot may fail.
        lib.write_atomically(self.path, json.dumps(self.data, indent=1) + "\n")


def measure(title, options, command):
    """The JSON Lines that a command prints on a test machine."""
    progress = lib.Progress(title)
    out = lib.call([lib.LAB / "run", *options, "--", *command], progress.tick,
                   stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                   env={**os.environ, "KVM_MMIO_EXT_NO_BUILD": "1"})
    if out.returncode:
        progress.end("FAILED")
        lib.die(out.stderr.strip() or f"status {out.returncode}")
    progress.end()
    return [json.loads(line) for line in out.stdout.splitlines()]


def load(path, program, setting):
    """A run of this program, whose runs have this setting."""
    try:
        run = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        lib.die(f"{path}: {error}")
    if not isinstance(run, dict) or run.get("schema") != SCHEMA or setting not in run:
        lib.die(f"{path}: not a result of {program}, or one of another version")
    return run
