"""The decide phase: what starts here, what waits for permits or for the end of a pause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.runtime.harness import Rig

from perdure.definitions import Definer
from perdure.runtime.contexts import ActionContext, MutationContext
from perdure.step import Step

Make = Callable[..., Rig]
d = Definer()


@d.action
def work(ctx: ActionContext, n: int) -> object:
    raise NotImplementedError("the rig's runner runs nothing")


@d.mutation
def note(ctx: MutationContext) -> str:
    return "noted"


@d.workflow
async def noting(step: Step, inline: bool = False) -> str:
    return await step.run_mutation(note(), inline=inline)


@d.workflow
async def fanning(step: Step, count: int) -> None:
    await asyncio.gather(*[step.run_action(work(n)) for n in range(count)])


@d.workflow
async def later(step: Step) -> None:
    await step.run_action(work(0), run_after=0.5)


@d.workflow
async def two_in_a_row(step: Step) -> list[object]:
    return [await step.run_action(work(1)), await step.run_action(work(2))]


@d.workflow
async def noting_later(step: Step) -> str:
    return await step.run_mutation(note(), run_after=0.5)


@d.workflow
async def giving_up(step: Step) -> str:
    try:
        async with asyncio.timeout(0.5):
            await step.run_action(work(0))
    except TimeoutError:
        return "late"
    return "done"


@d.workflow
async def changing_its_mind(step: Step) -> str:
    step.run_action(work(0)).cancel()
    await step.sleep(0.5)
    return "done"


@d.workflow
async def racing(step: Step) -> str:
    first, second = step.run_action(work(1)), step.run_action(work(2))
    await first
    third = step.run_action(work(3))
    await asyncio.wait([second, third], return_when=asyncio.FIRST_COMPLETED)
    return "done"


def test_a_start_is_one_commit(rigs: Make) -> None:
    """A workflow that starts here is inserted together with what it asked for at once."""
    rig = rigs(d)
    rig.settle()
    commits = rig.store.commits
    rig.start(fanning(3))
    assert rig.store.commits == commits + 1
    assert rig.runner.running == 3


def test_the_oldest_action_starts_first(rigs: Make) -> None:
    """Over all workflows of a worker, by the time at which a step became ready."""
    rig = rigs(d, parallelism=1)
    first = rig.start(fanning(2))
    rig.clock.advance(10)
    second = rig.start(fanning(1))
    order = []
    while rig.runner.open:
        order.append(next(iter(rig.runner.open))[0])
        rig.runner.succeed()
        rig.settle()
    assert order == [first, first, second]


def test_a_canceled_step_leaves_its_place(rigs: Make) -> None:
    """A queued step that its handler cancelled takes no permit."""
    rig = rigs(d, parallelism=1)
    rig.start(fanning(1))
    waiting = rig.start(giving_up())
    rig.settle()
    rig.pass_time(500)
    assert rig.outcome(waiting) == "late"
    rig.runner.succeed()
    rig.settle()
    assert len(rig.runner.started) == 1
    rig.start(fanning(1))
    assert rig.runner.running == 1


def test_an_action_that_is_cancelled_as_it_is_asked_for_never_starts(rigs: Make) -> None:
    """It takes no permit, and its record tells of no attempt."""
    rig = rigs(d, parallelism=1)
    workflow_id = rig.start(changing_its_mind())
    assert rig.rows("SELECT attempt FROM perdure_steps WHERE number = 0") == [(0,)]
    assert rig.runner.started == []
    rig.pass_time(500)
    assert rig.outcome(workflow_id) == "done"


def test_an_action_that_is_asked_for_and_cancelled_in_one_turn_never_starts(rigs: Make) -> None:
    """Two outcomes in one turn: the first leads to a new action, the second ends the workflow."""
    rig = rigs(d)
    workflow_id = rig.start(racing())
    rig.runner.succeed()
    rig.runner.succeed()
    rig.settle()
    assert rig.outcome(workflow_id) == "done"
    assert len(rig.runner.started) == 2
    assert rig.runner.running == 0


def test_a_delayed_action_waits_for_its_time(rigs: Make) -> None:
    """It is neither ready nor started before."""
    rig = rigs(d)
    rig.start(later())
    rig.pass_time(499)
    assert rig.runner.started == []
    rig.pass_time(1)
    assert rig.runner.running == 1


def test_a_pause_holds_functions_but_not_inline_ones(rigs: Make) -> None:
    """Queries and mutations wait for the end of a pause, though they need no permit."""
    rig = rigs(d)
    rig.limit(0)
    held, inline = rig.start(noting()), rig.start(noting(True))
    rig.settle()
    assert (rig.outcome(held), rig.outcome(inline)) == (None, "noted")
    rig.limit(1)
    rig.settle()
    assert rig.outcome(held) == "noted"


def test_what_was_held_survives_a_reload(rigs: Make) -> None:
    """A held step of a workflow that was dropped meanwhile runs when the pause ends."""
    rig = rigs(d)
    rig.limit(0)
    held = rig.start(noting())
    rig.settle()
    rig.worker.actors.drop(held)
    rig.worker.actors.runnable[held] = None
    rig.settle()
    rig.limit(1)
    rig.settle()
    assert rig.outcome(held) == "noted"


def test_a_half_decided_workflow_admits_nothing(rigs: Make) -> None:
    """After a fault of the engine's its queued actions wait until it was loaded again."""
    rig = rigs(d, parallelism=1)
    workflow_id = rig.start(fanning(2))
    rig.settle()
    decider: Any = rig.worker._deciding._decider
    original = type(decider)
    faults = [AssertionError("a planted bug")]

    class Once(original):  # type: ignore[misc, valid-type]
        def decide(self, *args: Any) -> None:
            super().decide(*args)
            if faults:
                raise faults.pop()

    rig.worker._deciding._decider = Once(decider.rules)
    rig.runner.succeed()
    rig.settle()
    rig.runner.succeed()
    rig.settle()
    assert rig.state(workflow_id).status == "success"
    assert len(rig.runner.started) == 2


@pytest.mark.parametrize("when", ["while it runs", "with its outcome", "while it waits"])
def test_starting_again_what_runs_changes_nothing(rigs: Make, when: str) -> None:
    """The same start of a workflow that goes on here answers its id, and takes nothing from it."""
    rig = rigs(d)
    call = later() if when == "while it waits" else two_in_a_row()
    workflow_id = rig.start(call, id="same")
    if when == "with its outcome":
        rig.runner.succeed("1")  # in the mailbox, and so in the very turn of the second start
    assert rig.start(call, id="same") == workflow_id
    rig.pass_time(500)
    while rig.runner.open:
        rig.runner.succeed("1")
        rig.settle()
    assert rig.state(workflow_id).status == "success"


def test_a_step_of_an_unknown_function_waits_for_a_process_that_knows_it(rigs: Make) -> None:
    """A deploy that lacks a function ends nothing: the workflow is given up and goes on later."""
    rig = rigs(d)
    workflow_id = rig.start(noting_later())
    rig.settle()
    known = rig.env.registry._by_name.pop("note")
    rig.pass_time(500)
    blocked = rig.state(workflow_id).blocked
    assert blocked is not None
    assert "'note' of step 0 is not defined in this process" in blocked.error.message
    assert rig.state(workflow_id).owner is None
    rig.env.registry._by_name["note"] = known
    rig.pass_time(1000)
    assert rig.outcome(workflow_id) == "noted"
    assert rig.state(workflow_id).blocked is None
