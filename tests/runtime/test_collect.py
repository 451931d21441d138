"""The collect phase: what reaches a worker is taken up once, and again if the turn fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.runtime.harness import Rig, Where

from perdure.core.limits import BATCH_MAX
from perdure.definitions import Definer
from perdure.errors import StoreError, StoreFull
from perdure.runtime.contexts import ActionContext
from perdure.step import Step

Make = Callable[..., Rig]
d = Definer()


@d.action
def work(ctx: ActionContext, n: int = 0) -> object:
    raise NotImplementedError("the rig's runner runs nothing")


@d.workflow
async def answer(step: Step, value: int) -> int:
    return value


@d.workflow
async def working(step: Step, n: int = 0) -> object:
    return await step.run_action(work(n))


@d.workflow
async def waiting(step: Step) -> object:
    return await step.await_event("go")


@d.workflow
async def listening(step: Step, count: int = 3) -> list[object]:
    return [await step.await_event("go") for _ in range(count)]


@d.workflow
async def racing(step: Step) -> object:
    attempt = step.run_action(work())  # keeps it in memory
    value = await step.await_event("go")
    attempt.cancel()
    return value


@d.workflow
async def napping(step: Step) -> str:
    await step.sleep(0.5)
    return "awake"


@d.workflow
async def first_of_two(step: Step) -> str:
    attempt: asyncio.Future[Any] = step.run_action(work())
    nap: asyncio.Future[Any] = step.sleep(0.5)
    done, _ = await asyncio.wait([attempt, nap], return_when=asyncio.FIRST_COMPLETED)
    return "nap" if nap in done else "attempt"


@pytest.fixture
def rig(rigs: Make) -> Rig:
    return rigs(d)


def test_a_failed_look_does_not_keep_the_worker_awake(rig: Rig) -> None:
    """After trouble that left nothing to do, the worker sleeps and is well again."""
    workflow_id = rig.start(waiting())
    rig.settle()
    rig.worker._claims.expect(0)
    rig.store.reads.append(StoreError("a read failed"))
    rig.turn()
    assert rig.worker.trouble is not None
    rig.clock.advance(10)
    rig.settle()
    assert rig.worker.next_wait(1.0) == 1.0
    assert rig.worker.trouble is None
    assert rig.state(workflow_id).status == "in_progress"


@pytest.mark.parametrize("count", range(1, 7))
def test_a_read_that_fails_while_collecting_loses_nothing(rig: Rig, count: int) -> None:
    """Outcomes, timers and requests that a turn had taken up are taken up again."""
    first, second = rig.start(working(1)), rig.start(napping())
    rig.settle()
    rig.worker.actors.drop(first)  # so that it has to be loaded
    rig.worker._claims.expect(0)  # so that there is a look at what nobody owns
    rig.worker._claims.config_changed()
    rig.worker._inbox.look = True
    rig.runner.succeed("1")
    reply = rig.ask_start(answer(3))
    rig.clock.advance(500)
    rig.store.reads.extend([None] * (count - 1))
    rig.store.reads.append(StoreError("a read failed"))
    rig.turn()
    rig.store.reads.clear()
    rig.pass_time(10)
    rig.settle()
    assert rig.outcome(first) == 1
    assert rig.outcome(second) == "awake"
    assert reply.count == 1


@pytest.mark.parametrize("is_dropped", [False, True])
@pytest.mark.parametrize(("after_ms", "first"), [(499, "attempt"), (500, "attempt"), (501, "nap")])
def test_what_was_due_before_an_outcome_is_seen_before_it(
    rig: Rig, is_dropped: bool, after_ms: int, first: str
) -> None:
    """Also when the worker stood still for both, and has to load the workflow first."""
    workflow_id = rig.start(first_of_two())
    rig.settle()
    rig.clock.advance(after_ms)
    rig.runner.succeed()
    rig.clock.advance(600)
    if is_dropped:
        rig.worker.actors.drop(workflow_id)
    rig.settle()
    assert rig.outcome(workflow_id) == first


@pytest.mark.parametrize(
    ("where", "is_canceled"), [("commit", False), ("applied", False), ("applied", True)]
)
def test_an_attempt_learns_of_its_end_though_the_commit_seemed_to_fail(
    rig: Rig, where: Where, is_canceled: bool
) -> None:
    """Else its code would run on, and hold a permit, when nobody waits for it any more."""
    workflow_id = rig.start(racing())
    rig.settle()
    (key,) = rig.runner.started
    if is_canceled:
        rig.ask_cancel(workflow_id)
    else:
        rig.ask_event("go", workflow_id, 5)
        rig.turn()
    rig.store.fail(where, StoreError("the disk does not answer"))
    for _ in range(5):
        rig.pass_time(1000)
    assert rig.state(workflow_id).status == ("canceled" if is_canceled else "success")
    assert set(rig.runner.cancelled) == {key}


def test_an_attempt_goes_on_when_a_commit_failed(rig: Rig) -> None:
    """One that is still on record is left alone."""
    workflow_id = rig.start(racing())
    rig.settle()
    rig.ask_event("other", workflow_id)
    rig.store.fail("commit", StoreError("the disk does not answer"))
    for _ in range(5):
        rig.pass_time(1000)
    assert rig.runner.cancelled == []


def test_an_outcome_for_another_owner_survives_a_full_disk(rigs: Make) -> None:
    """What an attempt did here for a workflow owned elsewhere is not thrown away in trouble."""
    rig, other = rigs(d), rigs(d)
    workflow_id = rig.start(working())
    rig.settle()
    rig.rows(
        "UPDATE perdure_workflows SET owner = ?, epoch = epoch + 1000 WHERE id = ?",
        *(other.worker_id, workflow_id),
    )
    rig.runner.succeed("5")
    rig.turn()  # finds that the workflow is somebody else's
    for _ in range(3):
        rig.store.fail("commit", StoreFull("no space"))
        rig.turn()
        rig.clock.advance(1000)
    rig.pass_time(1000)
    assert [kind for (kind,) in rig.rows("SELECT kind FROM perdure_inbox")] == ["attempt"]


def test_nothing_is_left_of_late_outcomes(rigs: Make) -> None:
    """An outcome for a workflow that has ended leaves no row that nobody will ever read."""
    rig, client = rigs(d), rigs(d, works=False)
    workflow_id = rig.start(working())
    rig.settle()
    client.done(client.ask_cancel(workflow_id))
    rig.settle()
    rig.runner.succeed()
    rig.settle()
    rig.start(answer(1))  # a commit takes void rows along
    assert rig.rows("SELECT * FROM perdure_inbox") == []


def test_an_event_that_comes_with_its_workflow_is_not_told_again(rigs: Make) -> None:
    """Behind a long mailbox the message of an event must not deliver it a second time."""
    rig = rigs(d)
    workflow_id = rig.start(listening())
    rig.settle()
    replies = [rig.ask_event("go", workflow_id, value=name) for name in "ABC"]
    replies += [rig.ask_start(answer(n)) for n in range(BATCH_MAX + 10)]
    rig.settle()
    assert rig.outcome(workflow_id) == ["A", "B", "C"]


def test_events_of_two_processes_come_in_the_order_sent(rigs: Make) -> None:
    """One sent here does not overtake one that another process had sent before."""
    rig, client = rigs(d), rigs(d, works=False)
    workflow_id = rig.start(listening(2))
    rig.start(working())  # so that it has something to do meanwhile
    busy = rig.start(working())
    rig.settle()
    client.done(client.ask_event("go", workflow_id, value="first"))
    rig.done(rig.ask_event("go", workflow_id, value="second"))
    rig.settle()
    assert rig.outcome(workflow_id) == ["first", "second"]
    assert rig.outcome(busy) is None


@pytest.mark.parametrize("count", range(1, 8))
def test_a_read_that_fails_loses_no_wake_up(rigs: Make, count: int) -> None:
    """What another process committed is looked for again after any failed read."""
    rig, client = rigs(d), rigs(d, works=False)
    asleep, awake = rig.start(listening(1)), rig.start(racing())
    rig.settle()
    for workflow_id in (asleep, awake):
        client.done(client.ask_event("go", workflow_id, value="sent"))
    rig.store.reads.extend([None] * (count - 1))
    rig.store.reads.append(StoreError("a read failed"))
    rig.turn()
    rig.store.reads.clear()
    rig.pass_time(10)
    rig.settle()
    assert rig.outcome(asleep) == ["sent"]
    assert rig.outcome(awake) == "sent"
