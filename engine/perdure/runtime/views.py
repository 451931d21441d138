"""Rows as the records that callers read."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from perdure.codec import plain
from perdure.core.commands import AwaitEvent, RunChild, RunStep
from perdure.core.journal import StepRecord
from perdure.core.outcomes import Json, Outcome, Succeeded
from perdure.core.workflow import WorkflowState
from perdure.records import InProgress, Status, StepInfo, WorkflowInfo
from perdure.step import from_ms


def _plain(text: Json | None) -> Any:
    """A stored value; one that is no JSON, as the text that it is: a listing shows it to whoever
    is to mend it."""
    if text is None:
        return None
    try:
        return plain(text)
    except ValueError:
        return text


def _instant(ms: int | None) -> datetime | None:
    return None if ms is None else from_ms(ms)


def public_outcome(outcome: Outcome) -> Any:
    """An outcome with its value as a plain JSON value."""
    return Succeeded(_plain(outcome.value)) if isinstance(outcome, Succeeded) else outcome


def step_info(workflow_id: str, record: StepRecord) -> StepInfo:
    """A step's record for callers."""
    command, outcome = record.command, record.outcome
    arguments = None
    if isinstance(command, RunStep | RunChild):
        arguments = _plain(command.arguments)
    event_id = record.event_id
    if event_id is None and isinstance(command, AwaitEvent):
        event_id = command.event_id
    return StepInfo(
        workflow_id=workflow_id,
        number=record.number,
        name=command.name,
        kind=command.kind,
        status="in_progress" if outcome is None else outcome.kind,
        arguments=arguments,
        value=_plain(outcome.value) if isinstance(outcome, Succeeded) else None,
        error=getattr(outcome, "error", None),
        attempts=record.attempt,
        asked_at=from_ms(record.asked_at),
        started_at=_instant(record.started_at),
        ended_at=_instant(record.settled_at),
        child_id=record.child_id,
        event_id=event_id,
        due_at=_instant(record.due_at if record.state in ("asked", "backoff") else None),
    )


def status_of(state: WorkflowState, running: tuple[StepInfo, ...] = ()) -> Status:
    """A workflow's status for callers."""
    if state.outcome is not None:
        status: Status = public_outcome(state.outcome)
        return status
    blocked = state.blocked.error if state.blocked is not None and state.is_blocked else None
    return InProgress(running=running, blocked=blocked)


def workflow_info(state: WorkflowState) -> WorkflowInfo:
    """A workflow's record for callers."""
    header = state.header
    return WorkflowInfo(
        workflow_id=header.workflow_id,
        name=header.name,
        status=status_of(state),
        arguments=_plain(header.arguments),
        context=_plain(header.context),
        parent_id=header.parent_id,
        created_at=from_ms(header.created_at),
        ended_at=_instant(state.ended_at),
        due_at=_instant(state.wake_at if state.owner is None else None),
        journal_bytes=state.journal_bytes,
        on_complete_error=state.on_complete_error,
    )
