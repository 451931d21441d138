"""A workflow's state while transitions change it, and the decision that comes of it.

`Draft` keeps what is derived from the steps (`settled`, `awaiting`, `busy`, the journal's size) and
collects writes and effects. It holds no rules: which change is made when is said in transition.py.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from math import inf
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import astuple

from ..errors import ErrorInfo
from .awaits import Awaits, Queue
from .effects import Effect, PutStep, WarnJournalSize, Write
from .frozen import Frozen
from .ids import Epoch, EventId, WorkerId
from .journal import StepRecord, command_bytes, outcome_bytes, record_canceled
from .limits import JOURNAL_WARNING_SHARE, Limits
from .messages import SentEvent
from .outcomes import Outcome
from .pages import Pages, copied
from .workflow import STEP_EDGES, Blocked, WorkflowHeader, WorkflowState, WorkflowStatus

T = TypeVar("T")


class Decision(Frozen, frozen=True):
    """What a transition decided.

    Attributes:
        state: the new state.
        writes: what goes into the transaction beside it, in order.
        effects: what to do after the commit.
        ready: steps that may start as soon as the pool admits them.
    """

    state: WorkflowState
    writes: tuple[Write, ...] = ()
    effects: tuple[Effect, ...] = ()
    ready: tuple[StepRecord, ...] = ()


def _without(settled: tuple[tuple[int, int], ...], number: int) -> tuple[tuple[int, int], ...]:
    if settled and settled[0][1] == number:
        return settled[1:]  # the one that is delivered: a search would be quadratic
    return tuple(pair for pair in settled if pair[1] != number)


def _less(items: tuple[T, ...], item: T) -> tuple[T, ...]:
    """All but one, which is there: mostly the first."""
    if items[0] == item:
        return items[1:]
    index = items.index(item)
    return items[:index] + items[index + 1 :]


def _order(event: SentEvent) -> float:
    """By when it was sent; those that are only created last, in the order in which they came."""
    return inf if event.sequence is None else event.sequence


class Draft(Struct):
    """A workflow's state while transitions change it, and what they ask for meanwhile.

    The fields from `header` to `on_complete_error` are those of `WorkflowState`, in their order.
    Several messages of one time may go into one draft: to freeze the state between them, and to
    copy its open steps for each, would cost more than the transitions themselves.
    """

    now: int
    limits: Limits
    bytes_before: int
    header: WorkflowHeader
    epoch: Epoch
    owner: WorkerId | None
    status: WorkflowStatus
    outcome: Outcome | None
    position: int
    stamp: int
    started_at: int | None
    ended_at: int | None
    next_number: int
    live: Mapping[int, StepRecord]
    settled: tuple[tuple[int, int], ...]
    awaiting: tuple[int, ...]
    busy: int
    events: tuple[SentEvent, ...]
    timer_at: int | None
    wake_at: int | None
    journal_bytes: int
    takeovers: int
    blocked: Blocked | None
    on_complete_error: ErrorInfo | None
    writes: list[Write] = []
    effects: list[Effect] = []
    ready: list[StepRecord] = []
    owns_live: bool = False
    known_awaits: Awaits | None = None
    known_queue: Queue | None = None
    known_events: set[EventId] | None = None

    @staticmethod
    def of(state: WorkflowState, now: int, limits: Limits) -> Draft:
        """A draft in which nothing is changed yet."""
        return Draft(now, limits, state.journal_bytes, *astuple(state))

    def state(self) -> WorkflowState:
        """The state as it is now. The draft is of no use afterwards: the two share their steps."""
        return WorkflowState(*astuple(self)[_STATE_FIELDS])

    def open_steps(self) -> dict[int, StepRecord] | Pages[StepRecord]:
        """`live`, to be changed: a copy, made at the first time."""
        if not self.owns_live:
            self.live, self.owns_live = copied(self.live), True
        assert isinstance(self.live, (dict, Pages))
        return self.live

    def awaits(self) -> Awaits:
        """Which of `awaiting` takes which event."""
        if self.known_awaits is None:
            self.known_awaits = Awaits(self.awaiting, self.live)
        return self.known_awaits

    def queue(self) -> Queue:
        """Which of `events` is delivered next."""
        if self.known_queue is None:
            self.known_queue = Queue(self.events, self.awaits(), self.live)
        return self.known_queue

    def has_event(self, event_id: EventId) -> bool:
        """Whether an event with this id is among `events`."""
        if self.known_events is None:
            self.known_events = {event.event_id for event in self.events}
        return event_id in self.known_events

    def add_event(self, event: SentEvent) -> None:
        """An event was made or sent; it takes the place of the one that it was."""
        events = self.events
        if self.has_event(event.event_id):
            index = next(i for i, each in enumerate(events) if each.event_id == event.event_id)
            events = events[:index] + events[index + 1 :]
        # Almost always it is the last of its kind: to sort for each of thousands is quadratic.
        index = bisect_right(events, _order(event), key=_order)
        self.events = (*events[:index], event, *events[index:])
        assert self.known_events is not None  # `has_event` has looked
        self.known_events.add(event.event_id)
        if self.known_queue is not None and event.sequence is not None:
            self.known_queue.add(event, self.live)

    def remove_event(self, event: SentEvent) -> None:
        """An event is consumed."""
        index = bisect_left(self.events, _order(event), key=_order)
        assert self.events[index] == event, event
        self.events = self.events[:index] + self.events[index + 1 :]
        if self.known_events is not None:
            self.known_events.discard(event.event_id)
        if self.known_queue is not None:
            self.known_queue.remove(event, self.live)

    def put(self, old: StepRecord | None, new: StepRecord, *, is_last: bool = False) -> None:
        """Record a step's new row, and keep what is derived from it. `is_last`: its outcome is not
        for the handler."""
        number, after = new.number, new.state
        before = None if old is None else old.state
        assert (before, after) in STEP_EDGES, (before, new)
        live = self.open_steps()
        is_new_wait = False
        self.busy += (after in ("ready", "started")) - (before in ("ready", "started"))
        if new.command.kind == "event":
            if before is None and after == "asked":
                self.awaiting += (number,)
                is_new_wait = True
            elif before == "asked" and after == "settled":
                self.awaiting = _less(self.awaiting, number)
        if after != "settled":
            live[number] = new
        elif is_last or new.delivered_position is not None:
            del live[number]
            if before == "settled":
                self.settled = _without(self.settled, number)
        else:
            live[number] = new
            if before != "settled":
                self._queue(new)
        if is_new_wait and self.known_awaits is not None:
            self.known_awaits.add(new)
            if self.known_queue is not None:
                self.known_queue.waits(new)
        was_ready = before == "ready" and new.command.kind == "action"
        self.writes.append(PutStep(new, old is None, was_ready))
        if old is None:
            self.journal_bytes += command_bytes(new.command)
        if after == "settled" and before != "settled" and new.outcome is not None:
            self.journal_bytes += outcome_bytes(new.outcome)

    def learn(self, old: StepRecord, new: StepRecord) -> None:
        """Take in what another worker has written of a ready step: that it has started it."""
        assert (old.state, new.state) == ("ready", "started"), (old, new)
        self.open_steps()[new.number] = new

    def _queue(self, record: StepRecord) -> None:
        assert record.settled_at is not None
        pair = (record.settled_at, record.number)
        if not self.settled or self.settled[-1][0] <= record.settled_at:
            self.settled += (pair,)
        else:
            # Stable: of equal times the one that was reported first stays first.
            self.settled = tuple(sorted((*self.settled, pair), key=lambda item: item[0]))

    def drop(self, record: StepRecord) -> None:
        """Write a step's last row and forget it: its outcome is not for the handler."""
        self.put(record, record_canceled(record, self.now), is_last=True)

    def survive(self) -> None:
        """A worker took in all that was recorded for it, and lives.

        Whatever killed earlier owners, it was not this workflow's handler taking in a recorded
        fact. (An action's outcome that nobody recorded is bounded by the attempts of its step.)
        """
        self.takeovers = 0

    def give_up(self, wake_at: int | None) -> None:
        """From now on nobody owns it; somebody should at `wake_at`, or when a message arrives."""
        self.owner, self.wake_at = None, wake_at

    def warn_of_size(self) -> None:
        """Tell that the journal has passed the share of its limit at which that is told."""
        limit = self.limits.journal_bytes * JOURNAL_WARNING_SHARE
        if self.bytes_before < limit <= self.journal_bytes:
            self.effects.append(WarnJournalSize(self.journal_bytes))

    def decision(self, before: WorkflowState) -> Decision:
        """What became of `before`, with which the draft began."""
        self.warn_of_size()
        after = self.state()
        return Decision(
            before if after == before else after,
            tuple(self.writes),
            tuple(self.effects),
            tuple(self.ready),
        )


_STATE_FIELDS = slice(3, 3 + len(WorkflowState.__struct_fields__))
