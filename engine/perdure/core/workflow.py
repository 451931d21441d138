"""The workflow actor: its state, and the questions that can be asked of it.

The state is a value. The only way from one to the next is `transition` (in transition.py).
`next_fact` is the one place that decides in which order a handler learns what has happened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, Protocol, TypeAlias

from msgspec import field

from ..errors import ErrorInfo
from .awaits import Awaits, Queue
from .commands import AwaitEvent
from .effects import SetTimer
from .frozen import Frozen
from .ids import Epoch, WorkerId, WorkflowId
from .journal import Fact, Started, StepEnded, StepRecord, StepState, Tick
from .messages import SentEvent
from .outcomes import Json, Outcome

WorkflowStatus: TypeAlias = Literal["in_progress", "success", "failed", "canceled"]

#: The replay contract (order of delivery, matching, hashing) that a workflow was started under.
RULES = 1

#: A workflow that waits, and not for a time nearer than this, has no owner and no memory.
PARK_AFTER_MS = 1_000

#: Every change of a step's state; None stands for "not asked yet".
STEP_EDGES: frozenset[tuple[StepState | None, StepState]] = frozenset(
    {
        (None, "asked"),
        (None, "ready"),
        (None, "started"),  # admitted as it was asked for
        (None, "settled"),  # a sleep into the past, an event id that is awaited already
        ("asked", "ready"),
        ("asked", "settled"),
        ("ready", "ready"),  # a query or mutation that was admitted
        ("ready", "started"),
        ("ready", "settled"),
        ("started", "backoff"),
        ("started", "settled"),
        ("backoff", "ready"),
        ("backoff", "settled"),
        ("settled", "settled"),  # its delivery
    }
)


class WorkflowHeader(Frozen, frozen=True, kw_only=True):
    """What never changes in a workflow's life."""

    workflow_id: WorkflowId
    name: str
    arguments: Json
    created_at: int
    start_at: int
    context: Json | None = None
    on_complete: str | None = None
    parent_id: WorkflowId | None = None
    parent_number: int | None = None
    depth: int = 0
    rules: int = RULES


class Blocked(Frozen, frozen=True, kw_only=True):
    """Why a workflow cannot go on for now, how often it was tried, and when it is tried again."""

    error: ErrorInfo
    count: int
    retry_at: int


#: What "blocks" a workflow that was restarted, until its handler has run through what is left of
#: its journal. It is not shown to callers.
RESTARTED = ErrorInfo("Restarted", "it was restarted, and its code has not run since")


class WorkflowState(Frozen, frozen=True):
    """A workflow, all but the part of its journal that is closed.

    Attributes:
        position: of the last delivered fact, -1 before the first.
        stamp: its time; what the handler takes for now.
        live: steps without an outcome, or whose outcome is not delivered.
        settled: of those the ones with an outcome, as (accepted at, number), in order.
        awaiting: of those the open waits for events, by number.
        busy: how many of those are ready or started.
        events: not consumed, by the order in which they were sent; only created ones last.
        timer_at: when the handler's own earliest timer is due.
        wake_at: while nobody owns it: when somebody should.
        takeovers: workers that died while they owned it, since one survived it.
    """

    header: WorkflowHeader
    epoch: Epoch
    owner: WorkerId | None = None
    status: WorkflowStatus = "in_progress"
    outcome: Outcome | None = None
    position: int = -1
    stamp: int = 0
    started_at: int | None = None
    ended_at: int | None = None
    next_number: int = 0
    live: Mapping[int, StepRecord] = field(default_factory=dict)
    settled: tuple[tuple[int, int], ...] = ()
    awaiting: tuple[int, ...] = ()
    busy: int = 0
    events: tuple[SentEvent, ...] = ()
    timer_at: int | None = None
    wake_at: int | None = None
    journal_bytes: int = 0
    takeovers: int = 0
    blocked: Blocked | None = None
    on_complete_error: ErrorInfo | None = None

    @property
    def workflow_id(self) -> WorkflowId:
        return self.header.workflow_id

    @property
    def is_blocked(self) -> bool:
        """Whether callers are told that it is blocked."""
        return self.blocked is not None and self.blocked.error != RESTARTED

    def queue(self) -> Queue:
        """Which of `events` is delivered next, and to which of `awaiting`."""
        return Queue(self.events, Awaits(self.awaiting, self.live), self.live)

    def check(self) -> None:
        """Assert every invariant of the value; a failure is a bug of the engine."""
        live = self.live
        assert set(live) <= set(range(self.next_number)), self
        assert all(number == record.number for number, record in live.items()), self
        settled = {number for _, number in self.settled}
        assert settled == {n for n, r in live.items() if r.state == "settled"}, self
        assert list(self.settled) == sorted(self.settled, key=lambda pair: pair[0]), self
        waits = {n for n, r in live.items() if r.command.kind == "event" and r.state == "asked"}
        assert set(self.awaiting) == waits, self
        assert self.busy == sum(r.state in ("ready", "started") for r in live.values()), self
        assert all(r.delivered_position is None for r in live.values()), self
        assert (self.status == "in_progress") == (self.outcome is None), self
        assert (self.outcome is None) == (self.ended_at is None), self
        assert (self.position >= 0) == (self.started_at is not None), self
        assert self.status == "in_progress" or self.owner is None, self


# --- what comes next ----------------------------------------------------------------------------


class Waiting(Protocol):
    """What of a workflow says what comes next: a state has it, and so has a draft."""

    @property
    def header(self) -> WorkflowHeader: ...
    @property
    def status(self) -> WorkflowStatus: ...
    @property
    def position(self) -> int: ...
    @property
    def stamp(self) -> int: ...
    @property
    def live(self) -> Mapping[int, StepRecord]: ...
    @property
    def settled(self) -> tuple[tuple[int, int], ...]: ...
    @property
    def awaiting(self) -> tuple[int, ...]: ...
    @property
    def busy(self) -> int: ...
    @property
    def events(self) -> tuple[SentEvent, ...]: ...
    @property
    def timer_at(self) -> int | None: ...
    def queue(self) -> Queue: ...


def next_fact(state: Waiting, now: int) -> Fact | None:
    """The fact that the handler learns next, or None when it has to wait.

    Facts go by the time at which they were accepted (an outcome reported, an event sent), a timer
    of the handler's own by its due time; on a tie the fact comes first.
    """
    if state.status != "in_progress":
        return None
    if state.position < 0:
        return Started() if state.header.start_at <= now else None
    fact: Fact | None = None
    at = 0
    if state.settled:
        at, number = state.settled[0]
        record = state.live[number]
        assert record.outcome is not None
        fact = StepEnded(number, record.outcome, record.attempt)
    match = match_event(state) if state.awaiting and state.events else None
    if match is not None:
        event, number = match
        assert event.sent_at is not None and event.outcome is not None
        if fact is None or event.sent_at < at:
            fact, at = StepEnded(number, event.outcome), event.sent_at
    if state.timer_at is not None and state.timer_at <= now:
        if fact is None:
            return Tick(max(now, state.stamp))
        if state.timer_at < at:
            # Facts that came later wait behind it: only timers due before them may fire.
            return Tick(max(state.timer_at, state.stamp))
    return fact


def match_event(state: Waiting) -> tuple[SentEvent, int] | None:
    """The event that is delivered next, and to which wait; None if none fits."""
    return state.queue().first(state.live)


def match_events(state: Waiting) -> Iterator[tuple[SentEvent, int]]:
    """Which waiting step gets which sent event: each event, in the order sent, goes to the step
    that awaits it by its id, else to the one that has waited longest for its name."""
    if not state.events:
        return
    awaits, live = Awaits(state.awaiting, state.live), state.live
    for event in state.events:
        number = None if event.outcome is None else awaits.take(event, live)
        if number is not None:
            yield event, number


def created_event_for(state: Waiting, name: str) -> SentEvent | None:
    """The created event that a send to `name` turns into a sent one; None if it makes one anew.

    It is for the step that waits longest of those that no queued event is for. If that one awaits
    a created event by its id, it is this event; if any of that name, a new one. If nobody waits,
    it is the created event that is oldest.
    """
    created = [event for event in state.events if event.outcome is None and event.name == name]
    created.sort(key=lambda event: event.made or 0)
    served = {number for _, number in match_events(state)}
    for number in state.awaiting:
        command = state.live[number].command
        assert isinstance(command, AwaitEvent)
        if number in served:
            continue
        if command.event_name == name:
            return None
        for event in created:
            if event.event_id == command.event_id:
                return event
    return created[0] if created else None


def next_wake(state: Waiting) -> int | None:
    """The earliest time at which something happens by itself; None if it waits for others."""
    if state.position < 0:
        return state.header.start_at
    times = [at for at in map(next_time, state.live.values()) if at is not None]
    if state.timer_at is not None:
        times.append(state.timer_at)
    return min(times, default=None)


def next_time(record: StepRecord) -> int | None:
    return record.deadline_at if record.state == "started" else record.due_at


def is_parkable(state: Waiting, now: int) -> bool:
    """Whether nothing runs, is ready or is due soon, so that no worker needs to hold it."""
    if state.status != "in_progress" or state.busy or state.settled:
        return False
    if next_fact(state, now) is not None:
        return False
    wake = next_wake(state)
    return wake is None or wake > now + PARK_AFTER_MS


def due_timers(state: WorkflowState) -> list[SetTimer]:
    """All timers that the state needs: effects are lost in a crash and derived again from here."""
    timers = [
        SetTimer(at, number)
        for number, record in state.live.items()
        if (at := next_time(record)) is not None and record.state not in ("ready", "settled")
    ]
    if state.timer_at is not None:
        timers.append(SetTimer(state.timer_at))
    if state.position < 0:
        timers.append(SetTimer(state.header.start_at))
    return timers
