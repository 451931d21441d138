"""The workflows in memory: a cache of rows, with what can be derived from them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.runtime.harness import NOW, Rig

from perdure.definitions import Definer
from perdure.runtime.actor import Actor
from perdure.runtime.actors import Actors
from perdure.runtime.contexts import ActionContext, MutationContext
from perdure.step import Step

Make = Callable[..., Rig]
d = Definer()


@d.action
def work(ctx: ActionContext, n: int) -> object:
    raise NotImplementedError("the rig's runner runs nothing")


@d.mutation
def note(ctx: MutationContext) -> None:
    pass


@d.workflow
async def mixed(step: Step) -> None:
    await asyncio.gather(
        step.run_action(work(1)),
        step.run_action(work(2)),
        step.run_action(work(3), run_after=0.3),
        step.run_mutation(note()),
        step.sleep(0.2),
    )


@d.workflow
async def timed(step: Step) -> None:
    await step.run_action(work(0), timeout=86_400)


def loaded(rig: Rig) -> Actor:
    """An actor with an action that runs, one that is ready, and others that wait."""
    rig.limit(1)
    workflow_id = rig.start(mixed())
    rig.limit(0)
    return Actor.of(rig.store.reader().load([workflow_id])[0])


def test_everything_follows_from_the_rows(rigs: Make) -> None:
    """An adopted actor brings its timers and its place in the queue, and is looked at."""
    rig = rigs(d)
    actors = Actors(rig.runner)
    actor = loaded(rig)
    actors.adopt(actor)
    workflow_id = actor.state.workflow_id
    assert [*actors] == [workflow_id]
    assert actors.get(workflow_id) is actor
    assert [at - NOW for at, _, _ in actors.timers.pop_due(NOW + 10_000)] == [200, 300]
    assert [step.number for step in actors.queue.take(9)] == [1]
    assert [*actors.runnable] == [workflow_id]


def test_a_dropped_actor_leaves_its_attempts_alone(rigs: Make) -> None:
    """After a fault the attempts run on; only who has lost the workflow cancels them."""
    rig = rigs(d)
    actors = Actors(rig.runner)
    actor = loaded(rig)
    workflow_id = actor.state.workflow_id
    actors.adopt(actor)
    actors.drop(workflow_id)
    assert rig.runner.cancelled == []
    actors.adopt(actor)
    actors.drop(workflow_id, cancel=True)
    assert rig.runner.cancelled == [key for key in rig.runner.started if key[1] == 0]
    actors.drop(workflow_id, cancel=True)  # nothing there, nothing to do
    assert workflow_id not in actors


def test_all_can_be_forgotten(rigs: Make) -> None:
    """Nothing is left that would be looked at, started or woken."""
    rig = rigs(d)
    actors = Actors(rig.runner)
    actors.adopt(loaded(rig))
    actors.drop_all()
    assert (len(actors.by_id), len(actors.timers), len(actors.queue)) == (0, 0, 0)
    assert actors.runnable == {}


def test_stale_timers_are_dropped(rigs: Make) -> None:
    """The time-outs of steps that ended do not pile up for as long as they would have lasted."""
    rig = rigs(d)
    rig.worker.actors.timers_max = 10
    for _ in range(11):
        rig.start(timed())
        rig.runner.succeed()
        rig.settle()
    assert len(rig.worker.actors.timers) <= 1
