"""The one file that reads clocks and asks the system for randomness.

`now_ms` never goes back within a process and does not jump when the system's clock is set: it is
the wall clock at the start plus monotonic time since. Now and then the wall clock is taken up
again, forwards only; or, where a database's server tells its time, that one's.
"""

from __future__ import annotations

import os
import time
from typing import Protocol

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_PAIRS = [one + two for one in _ALPHABET for two in _ALPHABET]


class Clock(Protocol):
    """Where time and new ids come from."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch; never less than before."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment, for durations."""
        ...

    def new_id(self) -> str:
        """A new unique id; ids made later sort after earlier ones, to the millisecond."""
        ...


class RealClock:
    """The system's clocks and randomness."""

    #: How often the wall clock is looked at again, in seconds: a laptop's sleep is not in the
    #: monotonic clock of every system.
    RESYNC_SECONDS = 1.0

    def __init__(self) -> None:
        self._offset_ms = 0
        self._synced_at = float("-inf")
        self._last = 0
        self._has_leader = False

    def now_ms(self) -> int:
        """Milliseconds since the epoch; never less than before."""
        monotonic = time.monotonic()
        if not self._has_leader and monotonic - self._synced_at > self.RESYNC_SECONDS:
            self._synced_at = monotonic
            self._offset_ms = time.time_ns() // 1_000_000 - int(monotonic * 1000)
        now = self._offset_ms + int(monotonic * 1000)
        if now > self._last:
            self._last = now
        return self._last

    def follow(self, now_ms: int) -> None:
        """Go by another clock from now on, which has just shown this: that of a server, which all
        processes share. From any thread."""
        self._has_leader = True
        self._offset_ms = now_ms - int(time.monotonic() * 1000)

    def monotonic(self) -> float:
        """Seconds since some moment, for durations."""
        return time.monotonic()

    def new_id(self) -> str:
        """26 characters: 48 bits of milliseconds, then 80 random bits."""
        number = (self.now_ms() << 80) | int.from_bytes(os.urandom(10), "big")
        return "".join([_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)])
