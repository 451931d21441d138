"""From a definition to the coroutine of a handler: whatever it raises is the workflow's outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.runtime.harness import Rig

from perdure.core.outcomes import Failed
from perdure.definitions import Definer
from perdure.step import Step

Make = Callable[..., Rig]
d = Definer()

ERRORS: dict[str, BaseException] = {
    "value": ValueError("no"),
    "exit": SystemExit(1),
    "interrupt": KeyboardInterrupt(),
    "cancelled": asyncio.CancelledError(),
}


@d.workflow
async def raising(step: Step, how: str) -> None:
    raise ERRORS[how]


@d.workflow
async def lying(step: Step) -> int:
    return "text"  # type: ignore[return-value]


@d.workflow
async def typed(step: Step, n: int) -> int:
    return n


@pytest.mark.parametrize(
    ("how", "type_name"),
    [
        ("value", "ValueError"),
        ("exit", "SystemExit"),
        ("interrupt", "KeyboardInterrupt"),
        ("cancelled", "CancelledError"),
    ],
)
def test_every_exception_fails_the_workflow_only(rigs: Make, how: str, type_name: str) -> None:
    """Also those that would end a program: the worker goes on."""
    rig = rigs(d)
    bad, good = rig.ask_start(raising(how)), rig.ask_start(typed(1))
    rig.settle()
    assert rig.error(rig.value(bad)) == type_name
    assert rig.outcome(rig.value(good)) == 1


def test_a_result_of_another_type_fails_the_workflow(rigs: Make) -> None:
    """The annotation is checked; the message names the workflow."""
    rig = rigs(d)
    workflow_id = rig.start(lying())
    outcome = rig.state(workflow_id).outcome
    assert isinstance(outcome, Failed)
    assert outcome.error.type == "ValidationError"
    assert "result of lying" in outcome.error.message


def test_arguments_that_no_longer_fit_block(rigs: Make) -> None:
    """After a deploy with another signature the code is wrong, not the workflow."""
    rig = rigs(d)
    reply = rig.ask_start(typed(1), run_after=60)
    rig.settle()
    workflow_id = rig.value(reply)
    rig.rows("UPDATE perdure_workflows SET arguments = '{\"m\":1}'")
    rig.pass_time(60_000)
    state = rig.state(workflow_id)
    assert state.status == "in_progress"
    assert state.blocked is not None
    assert "recorded arguments of typed" in state.blocked.error.message
