"""What is said of a run that goes otherwise the second time."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from perdure import ActionContext, MutationContext, Step, WorkflowManager
from perdure_sim import Simulation, simulate
from perdure_sim.explore.portions import DigestsDiffer

manager = WorkflowManager("differing.db")
KEPT: list[int] = []


def count() -> int:
    KEPT.append(0)
    return len(KEPT)


@manager.action
async def draw(ctx: ActionContext) -> int:
    return count()


@manager.mutation
def number(ctx: MutationContext) -> int:
    return count()


@manager.workflow
async def acting(step: Step) -> int:
    return await step.run_action(draw())


@manager.workflow
async def numbering(step: Step) -> int:
    return await step.run_mutation(number())


@manager.workflow
async def echo(step: Step, value: int) -> int:
    return value


@manager.workflow
async def waiting(step: Step) -> None:
    await step.await_event("go")


def late(sim: Simulation) -> None:
    sim.stub(draw, returns=1, takes=count())
    sim.start(acting())


def sent(sim: Simulation) -> None:
    run = sim.start(waiting())
    sim.send_event("go", workflow_id=run.id, value=count())


def stubbed(sim: Simulation) -> None:
    sim.stub(draw, call=lambda ctx: count())
    sim.start(acting())


def line_of(definition: Any) -> str:
    return f"test_run_differences.py:{inspect.unwrap(definition.fn).__code__.co_firstlineno}"


@pytest.mark.parametrize(
    ("scenario", "texts"),
    [
        (
            lambda sim: sim.start(acting()),
            [
                "acting-1, step 0: action draw succeeded with \\d+, and then succeeded with \\d+\n",
                f"the code of draw \\({line_of(draw)}\\) keeps values",
                "stub it, as in sim.stub\\(draw, returns=…\\)",
                "at first   \\+0.020s w0: acting-1: step 0 draw succeeded with",
            ],
        ),
        (
            stubbed,
            ["acting-1, step 0: action draw succeeded", "what stands for draw in the test keeps"],
        ),
        (
            lambda sim: sim.start(numbering()),
            ["step 0: mutation number succeeded", f"code of number \\({line_of(number)}\\) keeps"],
        ),
        (
            lambda sim: sim.start(echo(count())),
            ["echo-1 was started with other arguments\nwhoever starts it", "echo\\(value=\\d+\\)"],
        ),
        # Not of a step's or a workflow's making.
        (late, ["is there something in the test", "at first "]),
        (sent, ["is there something in the test", "then  .*event go is sent \\(\\d+\\)"]),
    ],
    ids=["action", "stub", "mutation", "arguments", "time", "event"],
)
def test_it_is_said_whose_code_is_at_fault(
    scenario: Callable[[Simulation], object], texts: list[str]
) -> None:
    """The line of the user's that gives another value, and what to use instead."""

    @simulate(manager, store="memory", given={})
    def test(sim: Simulation) -> None:
        scenario(sim)

    whole: Any = test
    with pytest.raises(DigestsDiffer, match="went otherwise the second time\n") as raised:
        whole()
    for text in texts:
        assert re.search(text, str(raised.value)), str(raised.value)
