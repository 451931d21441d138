"""Rows as `faulty_store.Watched` records them, short enough for tests. Nothing is asserted here.

The workflow is "w" unless a test says otherwise; the states and steps are those of the core's
playbook.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from msgspec.structs import replace
from tests.core.playbook import NOW, after, await_event, fresh, ok, run, sleep, step, waiting

from perdure.core.journal import Started, StepRecord
from perdure.core.messages import EventSent, FactDelivered
from perdure.core.outcomes import Failed, Outcome
from perdure.core.workflow import WorkflowState
from perdure.errors import ErrorInfo
from perdure.store.base import StateWrite, StepWrite
from perdure_sim.laws.history import History
from perdure_sim.world.actions import CallMade
from perdure_sim.world.faulty_store import Write as Row

Commit: TypeAlias = list[Row]
#: What a history is told: a commit, or that the code of an attempt begins.
Told: TypeAlias = Commit | CallMade

BOOM = Failed(ErrorInfo("ValueError", "boom"))


def tell(history: History, told: Iterable[Told]) -> History:
    """Have these things happen, in order."""
    for each in told:
        if isinstance(each, CallMade):
            history.attempt_begins(each)
        else:
            history.take(each, NOW)
    return history


# --- rows -----------------------------------------------------------------------------------------


def born(state: WorkflowState, *others: WorkflowState) -> Commit:
    """The first rows of workflows, whose steps are all open."""
    states = (state, *others)
    rows = [put(*each.live.values(), of=each.workflow_id, new=True) for each in states]
    return [("insert", states), *rows]


def update(state: WorkflowState, expected: int = 1) -> Row:
    return "update", (StateWrite(state=state, expected_epoch=expected),)


def put(*records: StepRecord, of: str = "w", new: bool = False) -> Row:
    return "steps", tuple(StepWrite(workflow_id=of, record=each, is_new=new) for each in records)


def ticks(*positions: int) -> Row:
    return "ticks", tuple(("w", position, NOW) for position in positions)


def event(message: EventSent) -> Row:
    return "event", ("w", message.event)


def consume(sequence: int, number: int) -> Row:
    return "consume", ("w", f"e{sequence}", number)


def done(record: StepRecord, outcome: Outcome | None = None, at: int = NOW) -> StepRecord:
    """A step with its outcome, which is not delivered."""
    outcome = ok() if outcome is None else outcome
    return replace(record, state="settled", outcome=outcome, settled_at=at, runner=None)


def told(record: StepRecord, position: int = 1) -> StepRecord:
    """A settled step whose outcome the handler has learned."""
    return replace(record, delivered_position=position, delivered_at=NOW)


def at(state: WorkflowState, position: int, **fields: Any) -> WorkflowState:
    """A state after so many facts."""
    return replace(state, position=position, **fields)


def call(attempt: int, *, number: int = 0, of: str = "w", key: str = "w/0@1") -> CallMade:
    return CallMade(
        action="f",
        workflow_id=of,
        step_number=number,
        attempt=attempt,
        idempotency_key=key,
        process="w1",
        at=NOW,
        arguments=(),
        epoch=1,
    )


BEGUN = after(fresh(), FactDelivered(fact=Started()))
#: One open action, at position 0, which may be tried twice, 100 ms apart.
OPEN = waiting(run(attempts=2))
ASKED = step(OPEN)
STARTED = replace(
    ASKED, state="started", runner="w1", attempt=1, started_at=NOW, started_epoch=1, due_at=None
)
BACKOFF = replace(STARTED, state="backoff", runner=None, due_at=NOW + 100)
AGAIN = replace(STARTED, attempt=2, started_at=NOW + 100)
ENDED = replace(OPEN, status="success", outcome=ok(), ended_at=NOW, owner=None)
OTHER = replace(fresh(workflow_id="v"), epoch=2)

SLEEPING = waiting(sleep(NOW + 50))
LISTENING = waiting(await_event("e", NOW + 50))
PLANNED = waiting(run(due_at=NOW + 50))
