"""A worker that ends in good order: what it finishes, gives up, and records as lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.runtime.harness import Rig

from perdure.core.outcomes import Failed
from perdure.definitions import Definer
from perdure.runtime.contexts import ActionContext
from perdure.step import Step

d = Definer()


@d.action
def work(ctx: ActionContext, n: int = 0) -> object:
    raise NotImplementedError("the rig's runner runs nothing")


@d.workflow
async def working(step: Step) -> object:
    return await step.run_action(work())


@d.workflow
async def napping(step: Step) -> str:
    await step.sleep(0.5)
    return "awake"


@pytest.fixture
def rig(rigs: Callable[..., Rig]) -> Rig:
    made = rigs(d)
    made.settle()
    return made


def test_a_drain_gives_up_what_does_not_run(rig: Rig) -> None:
    """Workflows without a running attempt find a new owner at once; the others may finish."""
    napper, worker = rig.start(napping()), rig.start(working())
    rig.settle()
    rig.worker.begin_drain()
    rig.settle()
    assert rig.state(napper).owner is None
    assert rig.state(worker).owner == rig.worker_id
    rig.runner.succeed("1")
    rig.settle()
    assert rig.outcome(worker) == 1


def test_a_drain_starts_no_action(rig: Rig) -> None:
    """While draining, a step that becomes ready is left to whoever comes next."""
    workflow_id = rig.start(two_actions())
    rig.settle()
    rig.worker.begin_drain()
    rig.settle()
    commits = rig.store.commits
    rig.runner.succeed("1", rig.runner.started[0])
    rig.settle()
    assert len(rig.runner.started) == 2
    rig.turn()
    assert rig.store.commits <= commits + 2
    rig.runner.succeed("1")
    rig.settle()
    assert rig.state(workflow_id).owner is None
    assert [state for _, state, _ in rig.steps(workflow_id)] == ["settled", "settled", "ready"]


@d.workflow
async def two_actions(step: Step) -> None:
    await asyncio.gather(step.run_action(work(1)), step.run_action(work(2)))
    await step.run_action(work(3))


def test_a_draining_worker_comes_to_rest(rig: Rig) -> None:
    """A ready step beside a running one does not have the draining worker commit in each turn."""
    rig.limit(1)
    rig.start(two_actions())
    rig.settle()
    rig.limit(2)
    rig.worker.begin_drain()
    rig.settle()
    commits = rig.store.commits
    for _ in range(5):
        rig.turn()
    assert rig.store.commits == commits


def test_overdue_attempts_are_recorded_as_lost(rig: Rig) -> None:
    """What still runs at the end of the drain counts as lost: at most once fails."""
    workflow_id = rig.start(working())
    rig.settle()
    rig.worker.begin_drain()
    rig.settle()
    rig.worker.end_drain(list(rig.runner.open.values()))
    rig.worker.close()
    outcome = rig.state(workflow_id).outcome
    assert isinstance(outcome, Failed)
    assert "is gone" in outcome.error.message
    assert rig.rows("SELECT * FROM perdure_workers") == []
