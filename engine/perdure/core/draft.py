"""A workflow's state while transitions change it, and the decision that comes of it.

`Draft` keeps what is derived from the steps (`settled`, `awaiting`, `busy`, the journal's size) and
collects writes and effects. It holds no rules: which change is made when is said in transition.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import astuple

from ..errors import ErrorInfo
from .awaits import Awaits
from .effects import Effect, PutStep, WarnJournalSize, Write
from .ids import Epoch, EventId, WorkerId
from .journal import StepRecord, command_bytes, outcome_bytes, record_canceled
from .limits import JOURNAL_WARNING_SHARE, Limits
from .messages import SentEvent
from .outcomes import Outcome
from .pages import Pages, copied
from .workflow import STEP_EDGES, Blocked, WorkflowHeader, WorkflowState, WorkflowStatus

T = TypeVar("T")


class Decision(Struct, frozen=True):
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

    def has_event(self, event_id: EventId) -> bool:
        """Whether an event with this id is among `events`."""
        if self.known_events is None:
            self.known_events = {event.event_id for event in self.events}
        return event_id in self.known_events

    def add_event(self, event: SentEvent) -> None:
        """An event was made or sent; it takes the place of the one that it was."""
        created = len(self.events)
        while created and self.events[created - 1].sequence is None:
            created -= 1
        sent, others = self.events[:created], self.events[created:]
        others = tuple(each for each in others if each.event_id != event.event_id)
        last = sent[-1] if sent else None
        if event.sequence is None:
            others = (*others, event)
        elif last is None or (last.sequence is not None and last.sequence < event.sequence):
            sent = (*sent, event)  # almost always: to sort for each of thousands is quadratic
        else:
            sent = tuple(each for each in sent if each.event_id != event.event_id)
            sent = tuple(sorted((*sent, event), key=lambda each: each.sequence or 0))
        self.events = sent + others
        if self.known_events is not None:
            self.known_events.add(event.event_id)

    def remove_event(self, event: SentEvent) -> None:
        """An event is consumed."""
        self.events = _less(self.events, event)
        if self.known_events is not None:
            self.known_events.discard(event.event_id)

    def put(self, old: StepRecord | None, new: StepRecord, *, is_last: bool = False) -> None:
        """Record a step's new row, and keep what is derived from it. `is_last`: its outcome is not
        for the handler."""
        number, after = new.number, new.state
        before = None if old is None else old.state
        assert (before, after) in STEP_EDGES, (before, new)
        live = self.open_steps()
        self.busy += (after in ("ready", "started")) - (before in ("ready", "started"))
        if new.command.kind == "event":
            if before is None and after == "asked":
                self.awaiting += (number,)
                if self.known_awaits is not None:
                    self.known_awaits.add(new)
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
