"""What a transition asks for, in two closed unions.

`Write` happens inside the transaction that records the new state: rows, and the user's functions
that run there. `Effect` happens after that transaction is known to be committed, and may be lost:
it can always be derived again from the state.
"""

from __future__ import annotations

from typing import TypeAlias

from .commands import RunChild
from .frozen import Frozen
from .ids import Epoch, EventId, WorkerId, WorkflowId
from .journal import StepRecord
from .outcomes import Outcome

# --- inside the transaction ---------------------------------------------------------------------


class PutStep(Frozen, frozen=True):
    """Insert (`is_new`) or update the row of one step.

    `was_ready`: it was a ready action, which another worker may have taken meanwhile: if the stored
    row is not ready any more, this must not be written.
    """

    record: StepRecord
    is_new: bool = False
    was_ready: bool = False


class PutTick(Frozen, frozen=True):
    """Insert a journaled tick."""

    position: int
    now: int


class ConsumeEvent(Frozen, frozen=True):
    """The event was delivered to step `number`."""

    event_id: EventId
    number: int


class CheckEvent(Frozen, frozen=True):
    """Look whether the event that step `number` awaits by its id is there to be awaited; if not,
    it is answered by `EventMissing`. (Events that are only created are not told to anybody.)"""

    event_id: EventId
    number: int


class CallFunction(Frozen, frozen=True):
    """Run the query or mutation of step `number`; answered by `FunctionEnded` at once."""

    number: int


class CallOnComplete(Frozen, frozen=True):
    """Run the workflow's `on_complete` with its outcome."""

    outcome: Outcome


class StartChild(Frozen, frozen=True):
    """Insert the child workflow of step `number`; a refusal is answered by `ChildEnded`."""

    number: int
    child_id: WorkflowId
    command: RunChild


class CancelChild(Frozen, frozen=True):
    """Cancel a step's child and all below it.

    The number of the step tells whose child it is: of two steps that ask for one id, the second is
    refused, and has none.
    """

    number: int
    child_id: WorkflowId


class RevokeAttempt(Frozen, frozen=True):
    """Tell the worker that runs an attempt of step `number`, and is not the workflow's owner, that
    nobody waits for it any more."""

    number: int
    runner: WorkerId


class TellParent(Frozen, frozen=True):
    """Put this workflow's outcome into its parent's inbox."""

    parent_id: WorkflowId
    number: int
    outcome: Outcome


Write: TypeAlias = (
    PutStep
    | PutTick
    | ConsumeEvent
    | CheckEvent
    | CallFunction
    | CallOnComplete
    | StartChild
    | CancelChild
    | RevokeAttempt
    | TellParent
)

# --- after the commit ---------------------------------------------------------------------------


class RunAttempt(Frozen, frozen=True):
    """Run an attempt of an action; answered by `AttemptEnded` or `AttemptLost`."""

    record: StepRecord


class CancelAttempt(Frozen, frozen=True):
    """Nobody waits for this attempt any more: tell its code."""

    number: int
    epoch: Epoch
    attempt: int


class SetTimer(Frozen, frozen=True):
    """Send `StepDue(number)` at `due_at`; without a number, look for due timers of the handler."""

    due_at: int
    number: int | None = None


class WarnJournalSize(Frozen, frozen=True):
    """The journal has passed half of its limit."""

    journal_bytes: int


Effect: TypeAlias = RunAttempt | CancelAttempt | SetTimer | WarnJournalSize
