"""The journal: what was asked, what came of it, and in which order the handler learned it.

`StepRecord` is one step, its command and its progress. A *fact* is what can be delivered to a
handler; each delivery has a position, counted per workflow from 0, and a stamp. `Journal` is the
whole record in the form in which a replay reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

from msgspec.structs import replace

from perdure.errors import ErrorInfo

from .commands import RunStep, StepCommand, describe, is_alike, is_same
from .frozen import Frozen
from .ids import Epoch, EventId, WorkerId, WorkflowId
from .limits import STEP_BYTES
from .outcomes import Canceled, Failed, Json, Outcome, Succeeded

#: asked: waits for its due time, an event or a child. ready: may start. started: an attempt is
#: recorded. backoff: waits for the next attempt. settled: has its outcome.
StepState: TypeAlias = Literal["asked", "ready", "started", "backoff", "settled"]


class StepRecord(Frozen, frozen=True, kw_only=True):
    """One step of one workflow: a row.

    Attributes:
        number: from 0, dense, in the order asked; what users see.
        command: what was asked.
        asked_position: the position of the fact in reaction to which it was asked.
        asked_epoch: the epoch then; part of the idempotency key.
        due_at: what `state` waits for: start time, end of sleep, time-out of an event, end of
            backoff; for a ready step since when it is ready (its place in the queue).
        attempt: number of the last recorded attempt, 0 before the first.
        started_epoch: epoch of that attempt: with `attempt` it tells a late outcome.
        deadline_at: when that attempt times out.
        settled_at: when the outcome was accepted.
        delivered_position: where the handler learned the outcome, None while it has not.
        canceled_position: where the handler itself cancelled the step.
    """

    number: int
    command: StepCommand
    asked_position: int
    asked_at: int
    asked_epoch: Epoch
    state: StepState
    due_at: int | None = None
    runner: WorkerId | None = None
    attempt: int = 0
    started_at: int | None = None
    started_epoch: Epoch | None = None
    deadline_at: int | None = None
    outcome: Outcome | None = None
    settled_at: int | None = None
    delivered_position: int | None = None
    delivered_at: int | None = None
    canceled_position: int | None = None
    child_id: WorkflowId | None = None
    event_id: EventId | None = None


def record_started(record: StepRecord, *, epoch: Epoch, runner: WorkerId, now: int) -> StepRecord:
    """The record of a ready action whose next attempt begins on `runner`.

    Whoever starts it writes this: the workflow's owner, or a worker that takes the step from it.
    """
    command = record.command
    assert isinstance(command, RunStep) and record.state == "ready", record
    return replace(
        record,
        state="started",
        due_at=None,
        runner=runner,
        attempt=record.attempt + 1,
        started_at=now,
        started_epoch=epoch,
        deadline_at=None if command.timeout_ms is None else now + command.timeout_ms,
    )


def record_canceled(record: StepRecord, now: int) -> StepRecord:
    """The record of a step that is canceled without the handler's learning it."""
    return replace(
        record,
        state="settled",
        outcome=Canceled(),
        settled_at=now,
        runner=None,
        due_at=None,
        deadline_at=None,
    )


class Started(Frozen, frozen=True):
    """The fact at position 0: the handler begins."""


class StepEnded(Frozen, frozen=True):
    """The outcome of step `number` is there, after so many attempts."""

    number: int
    outcome: Outcome
    attempts: int = 0


class Tick(Frozen, frozen=True):
    """It is `now`: timers of the handler's own (`asyncio.sleep`, `timeout`) are due."""

    now: int


Fact: TypeAlias = Started | StepEnded | Tick


class TickRecord(Frozen, frozen=True):
    """A journaled tick: a row."""

    position: int
    now: int


class Delivery(Frozen, frozen=True):
    """A fact on its way to the handler, with the position and the stamp that it got."""

    position: int
    stamp: int
    fact: Fact


def text_bytes(text: Json | None) -> int:
    """Size of a text in UTF-8 bytes; for ASCII, the common case, without encoding it."""
    if text is None:
        return 0
    return len(text) if text.isascii() else len(text.encode())


def command_bytes(command: StepCommand) -> int:
    """What asking for a step adds to the size of the journal."""
    arguments: Json | None = getattr(command, "arguments", None)
    return STEP_BYTES + text_bytes(command.name) + text_bytes(arguments)


def outcome_bytes(outcome: Outcome) -> int:
    """What an outcome adds to the size of the journal."""
    if isinstance(outcome, Succeeded):
        return text_bytes(outcome.value)
    if isinstance(outcome, Failed):
        error = outcome.error
        return sum(map(text_bytes, (error.type, error.message, error.traceback, error.arguments)))
    assert isinstance(outcome, Canceled)
    return 0


def overfull(size: int, limit: int) -> ErrorInfo:
    """The error of a workflow whose journal is over its limit."""
    return ErrorInfo(
        "LimitExceeded",
        f"the journal has {size} bytes, over the limit of {limit}: pass references instead of"
        " large values, split the work into child workflows, or raise Limits(journal_bytes=…)",
    )


class Batch:
    """The recorded steps that were asked for, and cancelled, in reaction to one fact.

    The order within a batch does not matter: Python versions start the children of a `gather` in
    different orders. Equal commands are interchangeable by definition.
    """

    __slots__ = ("_cancels", "_steps")

    def __init__(self, steps: list[StepRecord], cancels: set[int]) -> None:
        self._steps = steps
        self._cancels = cancels

    def take(self, command: StepCommand) -> StepRecord | None:
        """The first record that is not taken yet and equals `command`; None if there is none."""
        steps = self._steps
        for i, record in enumerate(steps):
            if is_same(command, record.command):
                del steps[i]
                return record
        for i, record in enumerate(steps):  # only then: it costs more
            if is_alike(command, record.command):
                del steps[i]
                return record
        return None

    def take_cancel(self, number: int) -> bool:
        """Whether a cancel of step `number` is recorded here and not taken yet."""
        if number in self._cancels:
            self._cancels.remove(number)
            return True
        return False

    def first_left(self) -> int | None:
        """The number of the first step that is recorded and was not asked for, or is recorded as
        cancelled and was not."""
        numbers = [record.number for record in self._steps]
        return min([*numbers, *self._cancels], default=None)

    def left(self) -> list[str]:
        """What is recorded and was not asked for, for people."""
        rows = [f"step {record.number}: {describe(record.command)}" for record in self._steps]
        return rows + [f"cancel of step {number}" for number in sorted(self._cancels)]


class Journal:
    """The record of one workflow: facts in the order of their positions, and their batches."""

    def __init__(
        self, started_at: int | None, steps: Iterable[StepRecord], ticks: Iterable[TickRecord]
    ) -> None:
        self.steps = tuple(steps)
        self._asked: dict[int, list[StepRecord]] = {}
        self._canceled: dict[int, set[int]] = {}
        deliveries: list[Delivery] = []
        if started_at is not None:
            deliveries.append(Delivery(0, started_at, Started()))
        for record in self.steps:
            self._asked.setdefault(record.asked_position, []).append(record)
            if record.canceled_position is not None:
                self._canceled.setdefault(record.canceled_position, set()).add(record.number)
            if record.delivered_position is not None:
                assert record.outcome is not None and record.delivered_at is not None
                fact = StepEnded(record.number, record.outcome, record.attempt)
                deliveries.append(Delivery(record.delivered_position, record.delivered_at, fact))
        deliveries.extend(Delivery(tick.position, tick.now, Tick(tick.now)) for tick in ticks)
        deliveries.sort(key=lambda delivery: delivery.position)
        self.deliveries = tuple(deliveries)

    def batch(self, position: int) -> Batch:
        """What the handler did in reaction to the fact at `position` (made anew at each call)."""
        return Batch(list(self._asked.get(position, ())), set(self._canceled.get(position, ())))

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self.deliveries)

    def __len__(self) -> int:
        return len(self.deliveries)
