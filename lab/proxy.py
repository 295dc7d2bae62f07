# SPDX-License-Identifier: GPL-2.0
"""A proxy for HTTP, by which a machine gets at names that only the proxy knows, see lab/first."""

import contextlib
import http.client
import http.server
import select
import shutil
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request


class Handler(http.server.BaseHTTPRequestHandler):
    """Requests for whole addresses, and tunnels."""

    protocol_version = "HTTP/1.0"

    def do_GET(self):
        address = urllib.parse.urlsplit(self.path)
        base = self.server.names.get(address.hostname)
        url = f"{base.rstrip('/')}{address.path}" if base else self.path
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                self.send_response(answer.status)
                for name in ("Content-Length", "Content-Type", "Last-Modified"):
                    if answer.headers[name]:
                        self.send_header(name, answer.headers[name])
                self.end_headers()
                shutil.copyfileobj(answer, self.wfile)
        except urllib.error.HTTPError as error:
            self.send_error(error.code)
        except (OSError, http.client.HTTPException) as error:
            self.send_error(502, str(error))

    def do_CONNECT(self):
        host, _, port = self.path.rpartition(":")
        try:
            peer = socket.create_connection((host, int(port)), timeout=60)
        except OSError as error:
            self.send_error(502, str(error))
            return
        with peer:
            self.send_response(200)
            self.end_headers()
            self.relay(peer)

    def relay(self, peer):
        others = {self.connection: peer, peer: self.connection}
        while True:
            ready, _, _ = select.select(list(others), [], [], 120)
            if not ready:
                return
            for end in ready:
                data = end.recv(65536)
                if not data:
                    return
                others[end].sendall(data)

    def log_message(self, *_):
        """Says nothing."""


@contextlib.contextmanager
def serve(names):
    """Serve, with addresses for names of hosts; yields its own address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.names = names
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
