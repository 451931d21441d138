"""Virtual time: what a simulated process takes for now, and the ids that it makes."""

from __future__ import annotations

from typing import Protocol

#: When every simulation begins, in ms since the epoch: 2033-05-18 03:33:20 UTC, a round number.
START_MS = 2_000_000_000_000


class TimeSource(Protocol):
    """The world's time."""

    @property
    def now(self) -> int:
        """Milliseconds since the epoch."""
        ...


class VirtualClock:
    """The clock of one process: the world's time, and how far this clock is off.

    As the real one it never goes back within a process, whatever is done to it.
    """

    def __init__(self, time: TimeSource, name: str) -> None:
        self._time = time
        self._name = name
        self._last = 0
        self._ids = 0
        self._drift_percent = 0
        self._drifts_since = 0
        self.offset_ms = 0

    def now_ms(self) -> int:
        """Milliseconds since the epoch; never less than before."""
        now = self._time.now + self.offset_ms
        if self._drift_percent:
            now += self._drift_ms()
        if now > self._last:
            self._last = now
        return self._last

    def drift(self, percent: int) -> None:
        """Run too fast by so much from now on, or, below 0, too slow."""
        self.offset_ms += self._drift_ms()
        self._drift_percent, self._drifts_since = percent, self._time.now

    def real_ms(self, ms: int) -> int:
        """How long it takes until this clock has gone on by so much, if it does not stand still."""
        return -(-ms * 100 // (100 + self._drift_percent))

    @property
    def is_right(self) -> bool:
        """Whether it shows the world's time, at this moment."""
        return not (self.offset_ms or self._drift_percent)

    def set_right(self) -> None:
        """Show the world's time, or, where that would be back, stand still until it has come."""
        self.offset_ms = self._drift_percent = 0

    @property
    def stands_still_ms(self) -> int:
        """How long this clock will show the same time."""
        return max(0, self._last - self._time.now - self.offset_ms - self._drift_ms())

    def _drift_ms(self) -> int:
        return (self._time.now - self._drifts_since) * self._drift_percent // 100

    def monotonic(self) -> float:
        """Seconds since some moment; no jump of the wall clock is in them."""
        return (self._time.now - START_MS) / 1000

    def new_id(self) -> str:
        """A new id, the same in every run of a plan."""
        self._ids += 1
        return f"{self._name}.{self._ids}"
