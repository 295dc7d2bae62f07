# SPDX-License-Identifier: GPL-2.0
"""Prometheus and node_exporter of Debian 13, unpacked in the cache."""

import contextlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import debian
import lib

PACKAGES = ("prometheus", "promtool", "prometheus-node-exporter")
# As the tests of kvm-mmio want them named.
PROGRAMS = {"PROMTOOL": "promtool", "PROMETHEUS": "prometheus", "NODE_EXPORTER": "prometheus-node-exporter"}
SECONDS = 60


def programs():
    """Their files, by name."""
    with lib.lock("monitoring"):
        debs = debian.fetch(dict.fromkeys(PACKAGES), "try again later")
        folders = [lib.CACHE / "monitoring" / deb.stem for deb in debs.values()]
        for deb, folder in zip(debs.values(), folders):
            debian.unpack(deb, folder)
    found = {name: next((folder / "usr/bin" / program for folder in folders if (folder / "usr/bin" / program).exists()),
                        None)
             for name, program in PROGRAMS.items()}
    missing = [PROGRAMS[name] for name, path in found.items() if path is None]
    if missing:
        lib.die(f"Debian's packages {' and '.join(PACKAGES)} have no {' and '.join(missing)} any more")
    return found


def free_port():
    """One of this machine that nobody has now."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Prometheus:
    """One that knows what it is given, and is asked."""

    def __init__(self, folder, samples):
        """`samples` are lines of OpenMetrics with times, those of a series in order."""
        self.folder, self.tools, self.port = folder, programs(), free_port()
        (folder / "samples").write_text("".join(f"{line}\n" for line in [*samples, "# EOF"]))
        (folder / "config.yml").write_text("")
        subprocess.run([self.tools["PROMTOOL"], "tsdb", "create-blocks-from", "openmetrics", folder / "samples",
                        folder / "data"], check=True, stdout=subprocess.DEVNULL)

    @contextlib.contextmanager
    def running(self):
        with (self.folder / "log").open("w") as log:
            process = subprocess.Popen(
                [self.tools["PROMETHEUS"], f"--config.file={self.folder / 'config.yml'}",
                 f"--storage.tsdb.path={self.folder / 'data'}", f"--web.listen-address=127.0.0.1:{self.port}"],
                stdout=log, stderr=log)
        try:
            self.wait(process)
            yield self
        finally:
            process.terminate()
            process.wait()

    def wait(self, process):
        end = time.monotonic() + SECONDS
        while True:
            try:
                return self.get("/-/ready")
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None or time.monotonic() > end:
                    lib.die(f"Prometheus does not run: {(self.folder / 'log').read_text()[-1000:]}")
                time.sleep(0.1)

    def get(self, path):
        # Not by a proxy.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}{path}", timeout=SECONDS) as answer:
            return answer.read()

    def ask(self, what, **parameters):
        """The series that it answers with: `query` at a time, or `query_range`."""
        answer = json.loads(self.get(f"/api/v1/{what}?{urllib.parse.urlencode(parameters)}"))
        return answer["data"]["result"]
