"""Which event is delivered next, and to which step: to the one that awaits it by its id, else to
the one that has waited longest for its name.

There may be thousands of both. Nothing here looks at more than it must: neither at events that
nobody awaits, nor at steps that await others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from heapq import heappop, heappush
from itertools import chain

from .commands import AwaitEvent
from .ids import EventId
from .journal import StepRecord
from .messages import SentEvent


def is_for_created(waits_before: int, queued: int) -> bool:
    """Whether an event that is sent by name is one that was created, and not a new one.

    A send by name is for the step that waits longest of those for which no queued event is. The
    created event in question is the one that a step awaits by its id, the one that has waited
    longest for any such; if no step does, the oldest.

    Args:
        waits_before: steps that wait for the name, longer than that step (if there is none, all).
        queued: events of that name that were sent and not delivered, without those that a step
            awaits by their ids. Each is for one of the former, from the first on.
    """
    return queued >= waits_before


class Awaits:
    """The open waits for events, found without a search: there may be thousands of each.

    Steps that have ended are dropped when they are met, so nobody need tell of them.

    Args:
        numbers: the steps that wait, in their order.
        live: all open steps.
    """

    __slots__ = ("_by_id", "_by_name")

    def __init__(self, numbers: Iterable[int], live: Mapping[int, StepRecord]) -> None:
        self._by_id: dict[EventId, int] = {}
        self._by_name: dict[str, deque[int]] = {}
        for number in numbers:
            self.add(live[number])

    def add(self, record: StepRecord) -> None:
        """A further step waits; it has the highest number."""
        command = record.command
        assert isinstance(command, AwaitEvent), record
        if command.event_id is not None:
            self._by_id[command.event_id] = record.number
        if command.event_name is not None:
            self._by_name.setdefault(command.event_name, deque()).append(record.number)

    def concerns(self, event: SentEvent) -> bool:
        """Whether some step may have waited for this event; else none does, which is quick."""
        return event.name in self._by_name or event.event_id in self._by_id

    def waiting_for(self, event_id: EventId, live: Mapping[int, StepRecord]) -> int | None:
        """The open step that awaits an event by its id, if one does."""
        number = self._by_id.get(event_id)
        return number if number is not None and _is_open(live, number) else None

    def taker(self, event: SentEvent, live: Mapping[int, StepRecord]) -> int | None:
        """The open step that an event is for, if there is one."""
        number = self.waiting_for(event.event_id, live)
        if number is not None:
            return number
        return self.longest(event.name, live)

    def longest(self, name: str, live: Mapping[int, StepRecord]) -> int | None:
        """The open step that has waited longest for a name, if one does."""
        queue = self._by_name.get(name)
        while queue and not _is_open(live, queue[0]):
            queue.popleft()
        return queue[0] if queue else None

    def by_name(self, name: str, live: Mapping[int, StepRecord]) -> Iterator[int]:
        """The open steps that wait for a name, the one that has waited longest first."""
        return (number for number in self._by_name.get(name, ()) if _is_open(live, number))


class Queue:
    """The events that were sent and that nobody has consumed, in the order in which they were sent.

    Args:
        events: in that order; those that are only created are passed over.
        awaits: the open waits; it is kept up to date by others, who tell of it (`waits`).
        live: all open steps.
    """

    __slots__ = ("_awaits", "_by_name", "_due", "_open_names", "_queued")

    def __init__(
        self, events: Iterable[SentEvent], awaits: Awaits, live: Mapping[int, StepRecord]
    ) -> None:
        self._awaits = awaits
        self._queued: dict[EventId, SentEvent] = {}
        self._by_name: dict[str, deque[SentEvent]] = {}
        #: Whatever may be delivered, by its place in the order; what nobody awaits any more is
        #: dropped when it is met, and offered again when somebody does.
        self._due: list[tuple[int, EventId]] = []
        #: Names of which another event may now be the next one: sought when somebody asks, for many
        #: waits come at once.
        self._open_names: set[str] = set()
        for event in events:
            if event.outcome is not None:
                self.add(event, live)

    def add(self, event: SentEvent, live: Mapping[int, StepRecord]) -> None:
        """A further event was sent; told once more it is the same."""
        if event.event_id in self._queued:
            return
        self._queued[event.event_id] = event
        queue = self._by_name.setdefault(event.name, deque())
        queue.append(event)
        if len(queue) > 1 and _place(queue[-2]) > _place(event):  # another process was faster
            self._by_name[event.name] = deque(sorted(queue, key=_place))
        if self._awaits.concerns(event) and self._awaits.taker(event, live) is not None:
            self._offer(event)

    def remove(self, event: SentEvent, live: Mapping[int, StepRecord]) -> None:
        """An event is consumed, by a step that is open still. If that waited for the name, the next
        one of the name may be for the next one that waits."""
        self._queued.pop(event.event_id, None)
        if self._awaits.waiting_for(event.event_id, live) is None:
            self._open_names.add(event.name)

    def waits(self, record: StepRecord) -> None:
        """A further step waits."""
        command = record.command
        assert isinstance(command, AwaitEvent), record
        if command.event_id is not None and command.event_id in self._queued:
            event = self._queued[command.event_id]
            self._offer(event)
            self._open_names.add(event.name)  # for those who wait for the name there is one less
        if command.event_name is not None:
            self._open_names.add(command.event_name)

    def first(self, live: Mapping[int, StepRecord]) -> tuple[SentEvent, int] | None:
        """The event that is delivered next, and to which step; None if nobody awaits any."""
        while self._open_names:
            name = self._open_names.pop()
            if self._awaits.longest(name, live) is not None:
                self._offer_next(name, live)
        due = self._due
        while due:
            event = self._queued.get(due[0][1])
            number = None if event is None else self._awaits.taker(event, live)
            if event is not None and number is not None:
                return event, number
            heappop(due)
        return None

    def event_for(self, record: StepRecord, live: Mapping[int, StepRecord]) -> SentEvent | None:
        """The event that an open wait will get of those that are there, if it will get one."""
        command = record.command
        assert isinstance(command, AwaitEvent), record
        if command.event_id is not None:
            return self._queued.get(command.event_id)
        assert command.event_name is not None
        events = self._for_name(command.event_name, live)
        first = next(events, None)
        if first is None:
            return None  # nearly always: what is there is delivered before its time is over
        waits = self._awaits.by_name(command.event_name, live)
        pairs = zip(waits, chain((first,), events), strict=False)
        return next((event for number, event in pairs if number == record.number), None)

    def _offer(self, event: SentEvent) -> None:
        heappush(self._due, (_place(event), event.event_id))

    def _offer_next(self, name: str, live: Mapping[int, StepRecord]) -> None:
        event = next(self._for_name(name, live), None)
        if event is not None:
            self._offer(event)

    def _for_name(self, name: str, live: Mapping[int, StepRecord]) -> Iterator[SentEvent]:
        """The queued events of a name that no step awaits by their ids."""
        queue = self._by_name.get(name)
        while queue and queue[0].event_id not in self._queued:
            queue.popleft()
        for event in queue or ():
            is_queued = event.event_id in self._queued
            if is_queued and self._awaits.waiting_for(event.event_id, live) is None:
                yield event


def _place(event: SentEvent) -> int:
    assert event.sequence is not None, event
    return event.sequence


def _is_open(live: Mapping[int, StepRecord], number: int) -> bool:
    record = live.get(number)
    return record is not None and record.state == "asked"
