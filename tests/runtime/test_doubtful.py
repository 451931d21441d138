"""Commits that seemed to fail and were stored: what their worker knows of them, and keeps.

More of it, beside what it is about, is in test_worker.py, test_inbox.py and test_operations.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.runtime.harness import Rig

from perdure.definitions import Definer
from perdure.errors import StoreError
from perdure.runtime.contexts import ActionContext
from perdure.step import Step

Make = Callable[..., Rig]
d = Definer()


@d.action
def work(ctx: ActionContext, n: int = 0) -> object:
    raise NotImplementedError("the rig's runner runs nothing")


@d.workflow
async def waiting_then_working(step: Step) -> list[object]:
    await step.await_event("go")
    return [await step.run_action(work(1)), await step.run_action(work(2))]


@d.workflow
async def working_and_listening(step: Step) -> list[object]:
    working = step.run_action(work(1))
    return [await step.await_event("go"), await step.await_event("go"), await working]


@pytest.fixture
def rig(rigs: Make) -> Rig:
    made = rigs(d)
    made.settle()
    return made


def test_a_start_of_a_doubtful_commit_goes_on_though_nobody_asks_again(rig: Rig) -> None:
    """The caller is told of the trouble; should the workflow be there all the same, it is ours."""
    answer = rig.ask_start(working_and_listening())
    rig.store.fail("applied", StoreError("the connection broke"))
    rig.turn()
    assert isinstance(answer.error, StoreError)
    rig.pass_time(10)
    assert rig.runner.names() == ["work"]


def test_an_attempt_of_a_doubtful_commit_keeps_its_permit(rig: Rig) -> None:
    """It may be on record: given back, its permit would be somebody else's while it runs."""
    workflow_id = rig.start(waiting_then_working())
    rig.settle()
    rig.done(rig.ask_event("go", workflow_id))
    rig.runner.succeed("1")
    rig.store.fail("applied", StoreError("the connection broke"))
    rig.turn()
    assert (rig.runner.running, rig.worker.actors.running) == (0, 1)
    rig.pass_time(10)
    assert (rig.runner.running, rig.worker.actors.running) == (1, 1)
    rig.runner.succeed("2")
    rig.settle()
    assert rig.worker.actors.running == 0


def test_an_event_consumed_by_a_doubtful_commit_is_not_told_again(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """Sent in this process, it was a message, too; but the next await waits for another one."""
    workflow_id = rig.start(working_and_listening())
    rig.settle()
    rig.ask_event("go", workflow_id, 1)
    rig.turn()
    rig.store.fail("applied", StoreError("the connection broke"))
    rig.turn()
    rig.pass_time(10)
    assert rig.rows("SELECT consumed_by FROM perdure_events") == [(1,)]
    assert "a fault of perdure's" not in caplog.text
    rig.done(rig.ask_event("go", workflow_id, 2))
    rig.runner.succeed("3")
    rig.settle()
    assert rig.outcome(workflow_id) == [1, 2, 3]
