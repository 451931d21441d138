"""Rows as the records that callers read."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from perdure.core.commands import AwaitEvent, RunChild, RunStep, Sleep, StepCommand
from perdure.core.journal import StepRecord
from perdure.core.outcomes import Canceled, Failed, Outcome, Succeeded
from perdure.core.workflow import Blocked, WorkflowHeader, WorkflowState
from perdure.errors import ErrorInfo
from perdure.records import InProgress
from perdure.runtime.views import public_outcome, status_of, step_info, workflow_info
from perdure.step import from_ms

ERROR = ErrorInfo("OSError", "boom")
COMMANDS: dict[str, StepCommand] = {
    "action": RunStep(kind="action", name="act", function="f", arguments='{"n":1}'),
    "workflow": RunChild(name="child", function="g", arguments='{"n":1}'),
    "sleep": Sleep(name="sleep", due_at=9),
    "event": AwaitEvent(name="go", event_name="go"),
}


def record(kind: str, outcome: Outcome | None = None) -> StepRecord:
    return StepRecord(
        number=4,
        command=COMMANDS[kind],
        asked_position=0,
        asked_at=1000,
        asked_epoch=1,
        state="asked" if outcome is None else "settled",
        attempt=2,
        started_at=2000,
        settled_at=None if outcome is None else 3000,
        outcome=outcome,
    )


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_step_of_each_kind(kind: str) -> None:
    """Kind, name and times as they are; arguments only where there are any."""
    info = step_info("w", record(kind))
    assert (info.workflow_id, info.number, info.kind) == ("w", 4, kind)
    assert (info.status, info.value, info.error, info.ended_at) == ("in_progress",) + (None,) * 3
    assert info.arguments == ({"n": 1} if kind in ("action", "workflow") else None)
    assert (info.asked_at, info.started_at) == (from_ms(1000), from_ms(2000))


@pytest.mark.parametrize(
    ("outcome", "status", "value", "error"),
    [
        (Succeeded('{"a":[1]}'), "success", {"a": [1]}, None),
        (Failed(ERROR), "failed", None, ERROR),
        (Canceled(), "canceled", None, None),
    ],
)
def test_a_step_that_ended(
    outcome: Outcome, status: str, value: object, error: ErrorInfo | None
) -> None:
    """Its value is a plain JSON value, its error what was kept of it."""
    info = step_info("w", record("action", outcome))
    assert (info.status, info.value, info.error) == (status, value, error)
    assert (info.attempts, info.ended_at) == (2, from_ms(3000))


def state(**fields: Any) -> WorkflowState:
    header = WorkflowHeader(
        workflow_id="w", name="flow", arguments='{"n":1}', created_at=1000, start_at=1000
    )
    return replace(WorkflowState(header=header, epoch=1), **fields)


def test_the_status_of_a_workflow() -> None:
    """Running with its open steps, blocked with the reason, or ended with a plain value."""
    running = (step_info("w", record("action")),)
    assert status_of(state(), running) == InProgress(running=running)
    blocked = Blocked(error=ERROR, count=1, retry_at=5)
    assert status_of(state(blocked=blocked)) == InProgress(blocked=ERROR)
    ended = state(status="success", outcome=Succeeded("[1]"), ended_at=5)
    assert status_of(ended, running) == Succeeded([1])
    assert public_outcome(Failed(ERROR)) == Failed(ERROR)


def test_the_record_of_a_workflow() -> None:
    """Arguments and context are plain values; what has not happened is None."""
    info = workflow_info(state(journal_bytes=7, on_complete_error=ERROR))
    assert (info.workflow_id, info.name, info.arguments) == ("w", "flow", {"n": 1})
    assert (info.context, info.parent_id, info.ended_at) == (None, None, None)
    assert (info.journal_bytes, info.on_complete_error) == (7, ERROR)
    header = replace(state().header, context='"c"')
    assert workflow_info(replace(state(), header=header)).context == "c"


@pytest.mark.parametrize(
    ("state", "due"), [("asked", 5000), ("backoff", 5000), ("ready", None), ("started", None)]
)
def test_a_step_tells_the_time_that_it_waits_for(state: Any, due: int | None) -> None:
    """Of a step that waits for no time, the place in the queue is nobody's concern."""
    info = step_info("w", replace(record("action"), state=state, due_at=5000))
    assert info.due_at == (None if due is None else from_ms(due))


@pytest.mark.parametrize(("owner", "due"), [(None, 7), ("worker", None)])
def test_a_workflow_without_a_worker_tells_when_it_wants_one(
    owner: str | None, due: int | None
) -> None:
    """That is how one is seen that no worker can take."""
    header = WorkflowHeader(workflow_id="w", name="n", arguments="{}", created_at=1, start_at=1)
    info = workflow_info(WorkflowState(header=header, epoch=1, owner=owner, wake_at=7))
    assert info.due_at == (None if due is None else from_ms(due))
