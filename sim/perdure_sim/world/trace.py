"""What happened in a run: typed events in virtual time, and their fingerprint.

An event is kept as it was met, with no text made of it: most runs are never looked at. A run that
is to be looked at is made once more with `detail`, which adds what goes on inside the processes.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from msgspec import Struct

from .clock import START_MS

if TYPE_CHECKING:
    from perdure.core.ids import WorkflowId
    from perdure.core.outcomes import Outcome
    from perdure.runtime.attempts import Attempt
    from perdure.runtime.commit import Request

    from ..faults.plan import Fault
    from .actions import CallMade
    from .faulty_store import Write

#: boot, crash, …: of a process. commit: something is on the disk. attempt: an action's code begins.
#: end: one that ended in good order. ask, answer: of a client. heal: nothing goes wrong any more.
#: broken: a law is.
PlainKind: TypeAlias = Literal[
    "boot",
    "boot failed",
    "crash",
    "end",
    "commit",
    "attempt",
    "ask",
    "answer",
    "heal",
    "broken",
]

#: Only with detail. fault: one has fired. rows: what the commit that follows has written besides.
#: refused: others have changed what was to be written, or this worker may not write. turn, border:
#: of a worker's turn. wake: it is to look at the latest then. pause, resume: it stands still.
#: attempt end: an action's code has ended. timer set, timer: of an action's own code. request: an
#: action's, of the engine. lease lost: a living worker is taken for dead. clock: it has jumped.
#: log: a warning or an error of the engine's. power: what was stored since then is lost.
DetailKind: TypeAlias = Literal[
    "fault",
    "rows",
    "refused",
    "turn",
    "border",
    "wake",
    "pause",
    "resume",
    "attempt end",
    "timer set",
    "timer",
    "request",
    "lease lost",
    "clock",
    "log",
    "power",
]

EventKind: TypeAlias = PlainKind | DetailKind

#: What an event is about: when (wake, timer set, power), by how much (clock), a border, a client's
#: deed; of a fault also which passing of its site it is, of an attempt's end how it ended, of a
#: client's answer value and error; of a commit all its writes; of what is refused, whose writes.
About: TypeAlias = (
    "int | str | BaseException | tuple[Fault, int] | CallMade | tuple[Attempt, Outcome]"
    " | tuple[str, Any, BaseException | None] | list[Write] | list[WorkflowId] | Request | None"
)

DETAIL_KINDS: frozenset[str] = frozenset(get_args(DetailKind))


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

    def add(self, at: int, lane: str, kind: EventKind, about: About = None) -> None:
        """Note what happens now."""
        self.events.append(Event(at, lane, kind, about))

    def digest(self) -> str:
        """A fingerprint: two runs of one plan have the same, in any process, with detail or not."""
        state = blake2b(digest_size=16)
        for line in self.lines():
            state.update(line.encode())
            state.update(b"\n")
        return state.hexdigest()

    def lines(self) -> list[str]:
        """What is in the fingerprint: the events, without those of a run with detail."""
        return [str(event) for event in self.events if event.kind not in DETAIL_KINDS]
