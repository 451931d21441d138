"""What happened in a run: typed events in virtual time, and their fingerprint.

An event is kept as it was met, with no text made of it: most runs are never looked at.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from .clock import START_MS

#: boot, crash, …: of a process. commit: something is on the disk. attempt: an action's code begins.
#: ask, answer: of a client. heal: from here on nothing goes wrong any more.
EventKind: TypeAlias = Literal[
    "boot", "boot failed", "crash", "end", "commit", "attempt", "ask", "answer", "heal"
]


class Event(Struct, frozen=True):
    """Something that happened.

    Attributes:
        at: in ms of virtual time since the epoch.
        lane: to whom: a process, a client.
        kind: what.
        about: the thing itself: a fault, what was written, an answer.
    """

    at: int
    lane: str
    kind: EventKind
    about: Any = None

    def __str__(self) -> str:
        about = "" if self.about is None else f" {self.about}"
        return f"{(self.at - START_MS) / 1000:10.3f} {self.lane:8} {self.kind}{about}"


class Trace:
    """The events of one run, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, at: int, lane: str, kind: EventKind, about: Any = None) -> None:
        """Note what happens now."""
        self.events.append(Event(at, lane, kind, about))

    def digest(self) -> str:
        """A fingerprint: two runs of one plan have the same, in any process."""
        state = blake2b(digest_size=16)
        for event in self.events:
            state.update(str(event).encode())
            state.update(b"\n")
        return state.hexdigest()
