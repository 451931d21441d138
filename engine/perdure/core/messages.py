"""What can reach a workflow: the closed union `Message`, the only input of its transition.

Facts about the world are past participles (`AttemptEnded`); requests are verb and noun
(`CancelWorkflow`). Instants are milliseconds since the epoch.
"""

from __future__ import annotations

from typing import TypeAlias

from ..errors import ErrorInfo
from .commands import CancelStep, StepCommand
from .frozen import Frozen
from .ids import Epoch, EventId, WorkerId, WorkflowId
from .journal import Fact
from .outcomes import Outcome


class SentEvent(Frozen, frozen=True, kw_only=True):
    """An event of one workflow that is not consumed.

    `sent_at` and `sequence` are None while it is only created. Queue order is by `sequence`.

    Attributes:
        made: its place in the order of creation; None for one that came into being by a send.
        token: the id of the send, where that is not the event's own: by it a send that is tried
            again finds what it has done.
    """

    event_id: EventId
    name: str
    sequence: int | None = None
    sent_at: int | None = None
    outcome: Outcome | None = None
    made: int | None = None
    token: str | None = None


class FactDelivered(Frozen, frozen=True, kw_only=True):
    """The handler is about to be given `fact` (which `next_fact` chose)."""

    fact: Fact


class Admission(Frozen, frozen=True):
    """What the pool lets start at once, of what a handler asks for.

    Attributes:
        runner: the worker that would run it.
        permits: how many actions may start: none, if others wait in the queue before them.
        functions: whether queries and mutations may run that are not inline (no pause).
    """

    runner: WorkerId
    permits: int
    functions: bool


class Asked(Frozen, frozen=True, kw_only=True):
    """The handler reacted and waits again.

    Attributes:
        steps: new steps, with their numbers, in the order asked.
        cancels: steps whose futures the handler cancelled.
        timer_at: when the earliest timer of the handler's own loop is due.
        admission: what may start in this very transition; None for nothing.
    """

    steps: tuple[tuple[int, StepCommand], ...] = ()
    cancels: tuple[CancelStep, ...] = ()
    timer_at: int | None = None
    admission: Admission | None = None


class Ended(Frozen, frozen=True, kw_only=True):
    """The handler returned or raised."""

    outcome: Outcome
    steps: tuple[tuple[int, StepCommand], ...] = ()
    cancels: tuple[CancelStep, ...] = ()


class HandlerBlocked(Frozen, frozen=True, kw_only=True):
    """The handler cannot go on: its code does not fit the journal, or it spins."""

    error: ErrorInfo


class StepAdmitted(Frozen, frozen=True, kw_only=True):
    """Step `number`, which is ready, may start now, on `runner`."""

    number: int
    runner: WorkerId


class FunctionEnded(Frozen, frozen=True, kw_only=True):
    """The query or mutation of step `number` ran inside the transaction."""

    number: int
    outcome: Outcome


class AttemptStarted(Frozen, frozen=True, kw_only=True):
    """Another worker has taken step `number`, which was ready, from this workflow's owner.

    Its row is written already: the attempt runs on `runner`, whose outcome will come.
    """

    number: int
    epoch: Epoch
    attempt: int
    runner: WorkerId
    started_at: int


class AttemptEnded(Frozen, frozen=True, kw_only=True):
    """An attempt of an action ended.

    `epoch` and `attempt` are those of its recorded start: what does not fit is late and dropped.
    """

    number: int
    epoch: Epoch
    attempt: int
    outcome: Outcome
    accepted_at: int
    is_retryable: bool = True


class AttemptLost(Frozen, frozen=True, kw_only=True):
    """The worker that ran an attempt is gone, and what it did is not known."""

    number: int
    epoch: Epoch
    attempt: int
    accepted_at: int


class EventSent(Frozen, frozen=True, kw_only=True):
    """An event was sent to this workflow (or created, when it has no outcome yet)."""

    event: SentEvent


class EventMissing(Frozen, frozen=True, kw_only=True):
    """The event that step `number` awaits by its id cannot come: the store says why."""

    number: int
    error: ErrorInfo


class ChildEnded(Frozen, frozen=True, kw_only=True):
    """The child workflow of step `number` ended (or could not be started)."""

    number: int
    child_id: WorkflowId
    outcome: Outcome
    accepted_at: int


class StepDue(Frozen, frozen=True, kw_only=True):
    """A time that step `number` waits for may have come."""

    number: int


class CancelWorkflow(Frozen, frozen=True, kw_only=True):
    """End it as canceled. `epoch` is the new one."""

    epoch: Epoch


class FailWorkflow(Frozen, frozen=True, kw_only=True):
    """End it as failed because of a fault of the engine or an overfull journal."""

    error: ErrorInfo


Message: TypeAlias = (
    FactDelivered
    | Asked
    | Ended
    | HandlerBlocked
    | StepAdmitted
    | FunctionEnded
    | AttemptStarted
    | AttemptEnded
    | AttemptLost
    | EventSent
    | EventMissing
    | ChildEnded
    | StepDue
    | CancelWorkflow
    | FailWorkflow
)
