"""Sees turns and users' functions that take too long, and says where they are.

The engine's thread notes when it begins and ends; a thread beside it looks ten times a second and
logs the stack of what is still going on. Nothing is ever stopped: a warning is all.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from .clock import Clock

logger = logging.getLogger("perdure.worker")

#: A function in the transaction holds up every workflow of its worker: over this it is reported.
SLOW_FUNCTION_SECONDS = 0.1

#: A turn that takes longer is reported: everything else waits for it.
SLOW_TURN_SECONDS = 1.0

LOOK_SECONDS = 0.1


@attrs.define
class Watch:
    """What the engine's thread is doing since when, in seconds of the monotonic clock."""

    clock: Clock
    turn_since: float | None = None
    function_since: float | None = None
    function: str = ""

    @contextmanager
    def watched_function(self, name: str) -> Iterator[None]:
        """Note that a user's function runs in the transaction; warn if it was slow."""
        outer = self.function_since, self.function
        began = self.clock.monotonic()
        self.function, self.function_since = name, began
        try:
            yield
        finally:
            self.function_since, self.function = outer
            seconds = self.clock.monotonic() - began
            if seconds > SLOW_FUNCTION_SECONDS:
                logger.warning(
                    "%s took %.0f ms inside the transaction, and everything else waited:"
                    " long reads and other work belong into an action",
                    name,
                    seconds * 1000,
                )


class Watchdog:
    """The thread that looks at a `Watch`."""

    _thread: threading.Thread

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._watched = threading.get_ident()
        self._stop: threading.Event | None = None
        self._reported: set[float] = set()

    def start(self) -> None:
        """Watch the calling thread from now on."""
        self._watched = threading.get_ident()
        self._stop = stop = threading.Event()
        name = "perdure-watch"
        self._thread = threading.Thread(target=self._main, args=(stop,), name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        if self._stop is not None:
            self._stop.set()

    def _main(self, stop: threading.Event) -> None:
        while not stop.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Report what has been going on for too long; each time once."""
        watch = self._watch
        now = watch.clock.monotonic()
        # Read once: the other thread goes on meanwhile.
        function, function_since, turn_since = (
            watch.function,
            watch.function_since,
            watch.turn_since,
        )
        if function_since is not None and now - function_since > SLOW_FUNCTION_SECONDS:
            self._report(function_since, f"{function} is still running inside the transaction")
        elif turn_since is not None and now - turn_since > SLOW_TURN_SECONDS:
            self._report(turn_since, "a turn takes long, and everything else waits")

    def _report(self, since: float, what: str) -> None:
        if since in self._reported:
            return
        self._reported = {since}  # only the newest matter
        frame = sys._current_frames().get(self._watched)
        stack = "" if frame is None else "".join(traceback.format_stack(frame))
        logger.warning("%s; it is here:\n%s", what, stack)
