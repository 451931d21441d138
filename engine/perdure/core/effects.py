"""What a transition asks for, in two closed unions.

`Write` happens inside the transaction that records the new state: rows, and the user's functions
that run there. `Effect` happens after that transaction is known to be committed, and may be lost:
it can always be derived again from the state.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs

from .commands import RunChild
from .ids import Epoch, EventId, WorkflowId
from .journal import StepRecord
from .outcomes import Outcome

# --- inside the transaction ---------------------------------------------------------------------


@attrs.frozen
class PutStep:
    """Insert (`is_new`) or update the row of one step."""

    record: StepRecord
    is_new: bool = False


@attrs.frozen
class PutTick:
    """Insert a journaled tick."""

    position: int
    now: int


@attrs.frozen
class ConsumeEvent:
    """The event was delivered to step `number`."""

    event_id: EventId
    number: int


@attrs.frozen
class CallFunction:
    """Run the query or mutation of step `number`; answered by `FunctionEnded` at once."""

    number: int


@attrs.frozen
class CallOnComplete:
    """Run the workflow's `on_complete` with its outcome."""

    outcome: Outcome


@attrs.frozen
class StartChild:
    """Insert the child workflow of step `number`; a refusal is answered by `ChildEnded`."""

    number: int
    child_id: WorkflowId
    command: RunChild


@attrs.frozen
class CancelChild:
    """Cancel a child and all below it."""

    child_id: WorkflowId


@attrs.frozen
class TellParent:
    """Put this workflow's outcome into its parent's inbox."""

    parent_id: WorkflowId
    number: int
    outcome: Outcome


Write: TypeAlias = (
    PutStep
    | PutTick
    | ConsumeEvent
    | CallFunction
    | CallOnComplete
    | StartChild
    | CancelChild
    | TellParent
)

# --- after the commit ---------------------------------------------------------------------------


@attrs.frozen
class RunAttempt:
    """Run an attempt of an action; answered by `AttemptEnded` or `AttemptLost`."""

    record: StepRecord


@attrs.frozen
class CancelAttempt:
    """Nobody waits for this attempt any more: tell its code."""

    number: int
    epoch: Epoch
    attempt: int


@attrs.frozen
class SetTimer:
    """Send `StepDue(number)` at `due_at`; without a number, look for due timers of the handler."""

    due_at: int
    number: int | None = None


@attrs.frozen
class WarnJournalSize:
    """The journal has passed half of its limit."""

    journal_bytes: int


Effect: TypeAlias = RunAttempt | CancelAttempt | SetTimer | WarnJournalSize
