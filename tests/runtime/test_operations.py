"""Starting and canceling inside one transaction, whoever owns the workflow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.runtime.harness import Rig

from perdure.core.outcomes import Canceled, Failed, Succeeded
from perdure.definitions import Definer
from perdure.errors import (
    ErrorInfo,
    WorkflowIdConflict,
    WorkflowNotFound,
    WorkflowNotRunning,
)
from perdure.runtime.contexts import ActionContext
from perdure.runtime.operations import decode_inbox, encode_inbox
from perdure.step import Step

Make = Callable[..., Rig]
d = Definer()


@d.action
def work(ctx: ActionContext) -> object:
    raise NotImplementedError("the rig's runner runs nothing")


@d.workflow
async def answer(step: Step, value: int) -> int:
    return value


@d.workflow
async def waiting(step: Step) -> object:
    return await step.await_event("go")


@d.workflow
async def working(step: Step) -> object:
    return await step.run_action(work())


@d.workflow
async def parent(step: Step, child_id: str | None = None) -> object:
    return await step.run_workflow(waiting(), workflow_id=child_id)


@d.workflow
async def grandparent(step: Step) -> object:
    return await step.run_workflow(parent())


@d.workflow
async def deep(step: Step) -> None:
    await step.run_workflow(deep())


def running(rig: Rig) -> list[str]:
    found = rig.rows("SELECT name FROM perdure_workflows WHERE status = 'in_progress'")
    return [name for (name,) in found]


# --- starting


@pytest.mark.parametrize("works", [True, False])
def test_a_start_with_an_id_is_idempotent(rigs: Make, works: bool) -> None:
    """The same id with the same call gives the id again and starts nothing, from anywhere."""
    rig, other = rigs(d), rigs(d, works=works)
    assert rig.start(answer(1), id="mine") == "mine"
    rig.settle()
    assert other.value(other.done(other.ask_start(answer(1), id="mine"))) == "mine"
    assert rig.rows("SELECT count(*) FROM perdure_workflows") == [(1,)]


def test_two_starts_of_one_id_in_one_turn(rigs: Make) -> None:
    """Both callers get the id; one workflow is started."""
    rig = rigs(d)
    replies = [rig.ask_start(answer(1), id="mine") for _ in range(3)]
    rig.settle()
    assert [rig.value(reply) for reply in replies] == ["mine"] * 3
    assert rig.outcome("mine") == 1


@pytest.mark.parametrize("works", [True, False])
def test_the_id_of_another_call_is_a_conflict(rigs: Make, works: bool) -> None:
    """An id belongs to the call that it was first used for."""
    rig, other = rigs(d), rigs(d, works=works)
    rig.start(answer(1), id="mine")
    reply = other.done(other.ask_start(answer(2), id="mine"))
    assert isinstance(reply.error, WorkflowIdConflict)


def test_a_client_starts_for_a_worker(rigs: Make) -> None:
    """A workflow that a client started is taken up by a process that works."""
    rig, client = rigs(d), rigs(d, works=False)
    workflow_id = client.value(client.done(client.ask_start(answer(3))))
    assert rig.state(workflow_id).owner is None
    rig.settle()
    assert rig.outcome(workflow_id) == 3


def test_a_delayed_start_waits(rigs: Make) -> None:
    """Nothing of the workflow runs before its time."""
    rig = rigs(d)
    reply = rig.ask_start(answer(3), run_after=60)
    rig.settle()
    workflow_id = rig.value(reply)
    rig.pass_time(59_999)
    assert rig.outcome(workflow_id) is None
    rig.pass_time(1)
    assert rig.outcome(workflow_id) == 3


# --- canceling


def test_a_cancel_reaches_the_whole_tree(rigs: Make) -> None:
    """Children of children are canceled in the same transaction, from any process."""
    rig, client = rigs(d), rigs(d, works=False)
    workflow_id = rig.start(grandparent())
    rig.settle()
    assert running(rig) == ["grandparent", "parent", "waiting"]
    client.value(client.done(client.ask_cancel(workflow_id)))
    assert running(client) == []
    rig.settle()
    assert rig.rows("SELECT * FROM perdure_inbox") == []


def test_a_cancel_here_cancels_the_attempts(rigs: Make) -> None:
    """In the owner's own process the attempts are told at once."""
    rig = rigs(d)
    workflow_id = rig.start(working())
    rig.settle()
    rig.done(rig.ask_cancel(workflow_id))
    assert set(rig.runner.cancelled) == set(rig.runner.started)
    assert rig.ended_with == {workflow_id: Canceled()}


def test_a_cancel_of_a_dead_worker_s_workflow(rigs: Make) -> None:
    """Nobody has to be alive for a cancel."""
    dead, client = rigs(d), rigs(d, works=False)
    workflow_id = dead.start(working())
    dead.settle()
    dead.die()
    client.value(client.done(client.ask_cancel(workflow_id)))
    assert client.outcome(workflow_id) == Canceled()


def test_what_cannot_be_canceled_is_said(rigs: Make) -> None:
    """An unknown id and a workflow that has ended are two different errors."""
    rig = rigs(d)
    workflow_id = rig.start(answer(1))
    rig.settle()
    assert isinstance(rig.done(rig.ask_cancel("nobody")).error, WorkflowNotFound)
    assert isinstance(rig.done(rig.ask_cancel(workflow_id)).error, WorkflowNotRunning)


# --- children


def test_a_child_s_outcome_reaches_its_parent(rigs: Make) -> None:
    """Also when parent and child are worked on by different processes."""
    one, two = rigs(d), rigs(d)
    workflow_id = one.start(parent("child"))
    one.settle()
    two.done(two.ask_event("go", "child", 4))
    for rig in (two, one, two):
        rig.settle()
    assert one.outcome(workflow_id) == 4
    assert one.rows("SELECT * FROM perdure_inbox") == []


def test_a_canceled_child_is_told(rigs: Make) -> None:
    """Its parent's step is canceled, which the parent may handle."""
    rig = rigs(d)
    workflow_id = rig.start(parent("child"))
    rig.settle()
    rig.done(rig.ask_cancel("child"))
    assert rig.error(workflow_id) == "StepCanceled"


def test_a_taken_child_id_fails_the_step(rigs: Make) -> None:
    """Two workflows cannot have one id; the parent's step says so."""
    rig = rigs(d)
    rig.start(answer(1), id="taken")
    workflow_id = rig.start(parent("taken"))
    rig.settle()
    outcome = rig.state(workflow_id).outcome
    assert isinstance(outcome, Failed)
    assert "WorkflowIdConflict" in outcome.error.message


def test_endless_descent_is_bounded(rigs: Make) -> None:
    """A workflow that starts itself fails at the limit of 64, all the way up."""
    rig = rigs(d)
    workflow_id = rig.start(deep())
    for _ in range(5):
        rig.settle()
    assert rig.error(workflow_id) == "StepFailed"
    assert rig.rows("SELECT max(depth), count(*) FROM perdure_workflows") == [(64, 65)]
    assert running(rig) == []


def test_an_ended_parent_leaves_no_row_behind(rigs: Make) -> None:
    """What a child told a parent that was canceled meanwhile does not lie in the inbox for ever."""
    one, two, client = rigs(d), rigs(d), rigs(d, works=False)
    workflow_id = one.start(parent("child"))
    one.settle()
    two.done(two.ask_event("go", "child", 4))
    client.done(client.ask_cancel(workflow_id))
    for rig in (one, two, one, two):
        rig.pass_time(1000)
    one.start(answer(1))
    two.start(answer(1))
    assert one.rows("SELECT kind FROM perdure_inbox") == []


@pytest.mark.parametrize(
    "outcome", [Succeeded('{"a":1}'), Failed(ErrorInfo("E", "m", "t", "[1]")), Canceled()]
)
def test_inbox_bodies_keep_the_outcome(outcome: Succeeded[str] | Failed | Canceled) -> None:
    """What one process writes into the inbox another one reads unchanged."""
    text = encode_inbox(outcome, child_id="c", epoch=3, attempt=2, is_retryable=False)
    body, decoded = decode_inbox(text)
    assert decoded == outcome
    assert (body.child_id, body.epoch, body.attempt) == ("c", 3, 2)
    assert (body.is_retryable, body.is_lost) == (False, False)
