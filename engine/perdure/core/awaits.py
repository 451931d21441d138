"""Which open step takes an event: by its id, else the one that has waited longest for its name."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from .commands import AwaitEvent
from .ids import EventId
from .journal import StepRecord
from .messages import SentEvent


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

    def waiting_for(self, event_id: EventId, live: Mapping[int, StepRecord]) -> int | None:
        """The open step that awaits an event by its id, if one does."""
        number = self._by_id.get(event_id)
        return number if number is not None and _is_open(live, number) else None

    def taker(self, event: SentEvent, live: Mapping[int, StepRecord]) -> int | None:
        """The open step that an event is for, if there is one."""
        number = self.waiting_for(event.event_id, live)
        if number is not None:
            return number
        queue = self._by_name.get(event.name)
        while queue and not _is_open(live, queue[0]):
            queue.popleft()
        return queue[0] if queue else None

    def take(self, event: SentEvent, live: Mapping[int, StepRecord]) -> int | None:
        """The same; that step takes no other event."""
        number = self.taker(event, live)
        if number is None:
            return None
        if self._by_id.get(event.event_id) == number:
            del self._by_id[event.event_id]
        else:
            self._by_name[event.name].popleft()
        return number


def _is_open(live: Mapping[int, StepRecord], number: int) -> bool:
    record = live.get(number)
    return record is not None and record.state == "asked"
