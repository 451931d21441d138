"""One workflow in memory: the live handler as a memo of the journal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace
from tests.runtime.harness import NOW, Rig

from perdure.core.effects import CallFunction, CallOnComplete, PutStep
from perdure.core.messages import Admission
from perdure.core.outcomes import Succeeded
from perdure.core.workflow import Blocked
from perdure.definitions import Definer
from perdure.errors import ErrorInfo
from perdure.runtime.actor import Actor, Decider, Unit, attempts
from perdure.runtime.contexts import ActionContext
from perdure.runtime.operations import StartOrder, new_state
from perdure.runtime.scope import ON_COMPLETE
from perdure.step import Step

Make = Callable[..., Rig]
d = Definer()
runs: list[str] = []


@d.action
def work(ctx: ActionContext, n: int) -> object:
    raise NotImplementedError("the rig's runner runs nothing")


@d.workflow
async def two_steps(step: Step) -> list[object]:
    runs.append("begun")
    return [await step.run_action(work(1)), await step.run_action(work(2))]


def test_a_live_handler_is_not_replayed(rigs: Make) -> None:
    """While a workflow stays in memory its code runs once, from step to step."""
    rig = rigs(d)
    runs.clear()
    workflow_id = rig.start(two_steps())
    for text in ("1", "2"):
        rig.runner.succeed(text)
        rig.settle()
    assert rig.outcome(workflow_id) == [1, 2]
    assert runs == ["begun"]


def test_a_dropped_handler_is_rebuilt_by_replay(rigs: Make) -> None:
    """Dropped at any time, it goes on where it was, with the same result."""
    rig = rigs(d)
    runs.clear()
    workflow_id = rig.start(two_steps())
    for text in ("1", "2"):
        rig.worker.actors.drop(workflow_id)
        rig.runner.succeed(text)
        rig.settle()
    assert rig.outcome(workflow_id) == [1, 2]
    assert len(runs) == 3
    assert len(rig.runner.started) == 2


def test_code_that_does_not_fit_journals_nothing(
    rigs: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """A blocked workflow keeps its journal, gives up its owner, and is tried again later; the log
    tells of it once."""
    rig = rigs(d)
    workflow_id = rig.start(two_steps())
    rig.runner.succeed("1")
    rig.settle()
    changed = Definer()

    @changed.action(name="work")
    def work_2(ctx: ActionContext, n: int) -> object:
        return None

    @changed.workflow(name="two_steps")
    async def two_steps_2(step: Step) -> object:
        return await step.run_action(work_2(99))

    rig.die()
    other = rigs(changed)
    before = other.steps(workflow_id)
    other.pass_time(100)
    state = other.state(workflow_id)
    assert state.blocked is not None
    assert state.blocked.error.type == "DeterminismError"
    assert (state.owner, state.status) == (None, "in_progress")
    assert [name for name, *_ in other.steps(workflow_id)] == [name for name, *_ in before]
    count = state.blocked.count
    other.pass_time(1000)
    retried = other.state(workflow_id).blocked
    assert retried is not None
    assert retried.count == count + 1
    told = [record.getMessage() for record in caplog.records if "blocked" in record.getMessage()]
    assert told == [f"workflow {workflow_id} is blocked: {state.blocked.error.message}"]


def test_a_unit_names_what_runs_in_its_transaction() -> None:
    """Its `on_complete` stands among its functions under a number of its own."""
    state = new_state(
        StartOrder(workflow_id="w", name="two_steps", arguments="{}", start_at=NOW),
        epoch=1,
        now=NOW,
        owner="me",
    )
    unit = Unit(workflow_id="w", actor=Actor.fresh(state), expected_epoch=None, state=state)
    assert (unit.functions(), unit.on_complete()) == ([], set())
    unit.writes += [CallFunction(3), CallFunction(5), CallOnComplete(Succeeded("1"))]
    assert unit.functions() == [3, 5]
    assert unit.on_complete() == {("w", ON_COMPLETE)}


def test_blocked_code_is_looked_at_again(rigs: Make) -> None:
    """A blocked workflow is replayed even without news: its code may have been mended."""
    rig = rigs(d)
    (loaded,) = rig.store.reader().load([rig.start(two_steps())])
    assert not Actor.of(loaded).must_replay
    blocked = Blocked(error=ErrorInfo("DeterminismError", "x"), count=1, retry_at=NOW)
    state = replace(loaded.state, blocked=blocked)
    assert Actor.of(replace(loaded, state=state)).must_replay


@pytest.mark.parametrize(("permits", "expected"), [(1, "started"), (0, "ready")])
def test_what_the_pool_lets_start_is_one_write(rigs: Make, permits: int, expected: str) -> None:
    """A step that need not queue is recorded as started when it is asked for, not in two rows."""
    rig = rigs(d)
    order = StartOrder(workflow_id="w", name="two_steps", arguments="{}", start_at=rig.clock.now)
    state = new_state(order, epoch=1, now=rig.clock.now, owner="me")
    unit = Unit(workflow_id="w", actor=Actor.fresh(state), expected_epoch=None, state=state)
    decider = Decider(rig.env.rules)
    decider.decide(unit, rig.clock.now, Admission("me", permits, functions=True))
    assert attempts(unit.draft) == permits
    decider.finish(unit, is_draining=False)
    (write,) = unit.writes
    assert isinstance(write, PutStep)
    assert write.record.state == expected
    unit.actor.close()
