"""The HTTP service that the demo's program depends on, in a process of its own.

For each user it first answers 503, then too slowly, then well. It counts what it is asked.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import attrs

#: Longer than the demo's program waits for an answer.
SLOW_SECONDS = 1.0
#: How long a good answer takes: long enough for a kill to fall into it.
ANSWER_SECONDS = 0.1

TEAMS = ("red", "green", "blue")


@attrs.frozen
class Counts:
    """What the service was asked: all requests, and how many different keys they carried."""

    requests: int
    keys: int


class Service(ThreadingHTTPServer):
    """The service, on a free port of this machine."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        # Each is changed by one call that no other thread can divide.
        self.turns: dict[str, itertools.count[int]] = {}
        self.keys: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        # A client that was killed, or that waits no longer, has closed the connection.
        with contextlib.suppress(ConnectionError):
            if self.path == "/counts":
                keys = self.server.keys
                self._answer(200, {"requests": len(keys), "keys": len(set(keys))})
            else:
                self._look_up(self.path.removeprefix("/users/"))

    def _look_up(self, user: str) -> None:
        self.server.keys.append(self.headers.get("Idempotency-Key", ""))
        turn = next(self.server.turns.setdefault(user, itertools.count(1)))
        if turn == 1:
            self._answer(503, {"error": "try again"})
            return
        time.sleep(SLOW_SECONDS if turn == 2 else ANSWER_SECONDS)
        self._answer(200, {"team": TEAMS[sum(user.encode()) % len(TEAMS)]})

    def _answer(self, status: int, value: dict[str, object]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the director tells what happens."""


def serve() -> None:
    """Print the port on a line of its own, then answer for ever."""
    with Service() as service:
        print(service.server_port, flush=True)
        service.serve_forever()


def ask_counts(port: int) -> Counts:
    """What the service on that port was asked so far."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/counts")
        return Counts(**json.loads(connection.getresponse().read()))
    finally:
        connection.close()
