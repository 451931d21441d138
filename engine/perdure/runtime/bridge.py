"""Calls from other threads into an asyncio loop: many of one moment share one wake-up."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any


class Bridge:
    """Runs callbacks on a loop, in the order given. Make it on the loop's own thread; `call` may
    be used from any."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._thread = threading.get_ident()
        self._calls: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._is_scheduled = False
        self._is_held = False

    def hold(self) -> None:
        """Gather calls until `release`: waking a loop in another thread is the dearest part."""
        self._is_held = True

    def release(self) -> None:
        """Wake the loop for all that was called since `hold`."""
        self._is_held = False
        if self._calls:
            self._schedule()

    def call(self, fn: Callable[..., Any], *args: Any) -> None:
        """Run ``fn(*args)`` on the loop: now, if this is its thread, else soon; not at all, if
        the loop is closed. `fn` must not block, and must not care who is on the stack."""
        if not self._calls and threading.get_ident() == self._thread:
            fn(*args)
            return
        self._calls.append((fn, args))
        if not self._is_held:
            self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            try:
                self.loop.call_soon_threadsafe(self._run)
            except RuntimeError:
                self._is_scheduled = False
                self._calls.clear()  # closed: whoever waited there is gone

    def _run(self) -> None:
        # First the flag, then the calls: one that is added in between wakes the loop once more.
        self._is_scheduled = False
        calls = self._calls
        try:
            for _ in range(len(calls)):
                fn, args = calls.popleft()
                fn(*args)
        finally:
            if calls and not self._is_scheduled:  # one has raised: those behind it still run
                self._is_scheduled = True
                self.loop.call_soon(self._run)


_bridges = threading.local()


def bridge_of(loop: asyncio.AbstractEventLoop) -> Bridge:
    """The one bridge of this thread's running loop: answers and attempts share its wake-ups."""
    bridge: Bridge | None = getattr(_bridges, "bridge", None)
    if bridge is None or bridge.loop is not loop:
        bridge = _bridges.bridge = Bridge(loop)
    return bridge
