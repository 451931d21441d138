"""What a worker takes from others: unowned workflows, those of the dead, permits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.runtime.harness import Rig, Where

from perdure.core.outcomes import Failed
from perdure.definitions import Definer
from perdure.errors import StoreBusy
from perdure.runtime.contexts import ActionContext
from perdure.step import Step

Make = Callable[..., Rig]
d = Definer()


@d.action
def work(ctx: ActionContext, n: int) -> object:
    raise NotImplementedError("the rig's runner runs nothing")


@d.workflow
async def working(step: Step, n: int = 0) -> object:
    return await step.run_action(work(n))


@d.workflow
async def retrying(step: Step) -> object:
    return await step.run_action(work(0), retry=True)


@d.workflow
async def waiting(step: Step) -> object:
    return await step.await_event("go")


@d.workflow
async def napping(step: Step) -> str:
    await step.sleep(60)
    return "awake"


@d.workflow
async def fanning(step: Step, count: int) -> None:
    await asyncio.gather(*[step.run_action(work(n)) for n in range(count)])


@d.workflow
async def stepping(step: Step) -> object:
    return [await step.run_action(work(1)), await step.run_action(work(2))]


def both(*rigs: Rig) -> None:
    """Let several workers run until all of them rest."""
    for _ in range(10):
        for rig in rigs:
            rig.settle()


def give_up(rig: Rig, workflow_id: str, wake_at: int | None) -> None:
    """Have nobody own a workflow whose attempt goes on in the worker that owned it."""
    rig.rows(
        "UPDATE perdure_workflows SET owner = NULL, wake_at = ?, epoch = epoch + 9000 WHERE id = ?",
        wake_at,
        workflow_id,
    )
    rig.rows("UPDATE perdure_steps SET away = 1 WHERE workflow_id = ?", workflow_id)


def take_from(rig: Rig, workflow_id: str) -> None:
    """Have `rig` own a workflow whose attempt goes on in the worker that owned it before."""
    give_up(rig, workflow_id, wake_at=0)
    rig.worker._claims.expect(0)
    rig.settle()
    assert rig.state(workflow_id).owner == rig.worker_id


# --- unowned workflows


def test_a_waiting_workflow_has_no_owner(rigs: Make) -> None:
    """What waits for an event or a far time costs no memory: it is rows, not objects."""
    rig = rigs(d)
    for call in (waiting(), napping()):
        workflow_id = rig.start(call)
        rig.settle()
        assert rig.state(workflow_id).owner is None
        assert workflow_id not in rig.worker.actors


def test_a_sleeper_is_woken_on_time(rigs: Make) -> None:
    """An unowned workflow is taken up when its time has come, not earlier."""
    rig = rigs(d)
    workflow_id = rig.start(napping())
    rig.settle()
    assert rig.worker.next_wait(100.0) == 60.0
    rig.pass_time(59_999)
    assert rig.outcome(workflow_id) is None
    rig.pass_time(1)
    assert rig.outcome(workflow_id) == "awake"


def test_a_workflow_nobody_here_knows_is_left_alone(rigs: Make) -> None:
    """Claims take only workflows whose definition this process has."""
    rig, stranger = rigs(d), rigs(Definer())
    workflow_id = rig.start(napping())
    rig.settle()
    rig.clock.advance(60_000)
    stranger.settle()
    assert rig.state(workflow_id).owner is None
    assert stranger.worker.next_wait(100.0) == 100.0


def test_an_event_from_a_client_wakes_a_workflow(rigs: Make) -> None:
    """A process that runs no worker sends; the one that does takes the workflow up."""
    rig, client = rigs(d), rigs(d, works=False)
    workflow_id = rig.start(waiting())
    rig.settle()
    client.done(client.ask_event("go", workflow_id, 5))
    rig.settle()
    assert rig.outcome(workflow_id) == 5


# --- the dead


def test_workflows_of_a_dead_worker_are_taken_over(rigs: Make) -> None:
    """A killed worker's workflows go on elsewhere, and count one takeover."""
    dead, rig = rigs(d), rigs(d)
    workflow_id = dead.start(retrying())
    dead.settle()
    dead.die()
    rig.clock.advance(100)
    for border in rig.worker.turn():
        if border == "collected":  # later in this turn it is known that this worker survived
            state = rig.state(workflow_id)
            assert (state.owner, state.takeovers) == (rig.worker_id, 1)
    assert rig.rows("SELECT id FROM perdure_workers") == [(rig.worker_id,)]


def test_a_lost_attempt_without_retries_fails(rigs: Make) -> None:
    """At most once: what a dead worker had started is not started again."""
    dead, rig = rigs(d), rigs(d)
    workflow_id = dead.start(working())
    dead.settle()
    dead.die()
    rig.pass_time(100)
    assert rig.error(workflow_id) == "StepFailed"
    outcome = rig.state(workflow_id).outcome
    assert isinstance(outcome, Failed)
    assert "WorkerLost" in outcome.error.message
    assert rig.runner.started == []


def test_a_lost_attempt_with_retries_is_repeated(rigs: Make) -> None:
    """The lost attempt counts, and the next one runs after its backoff."""
    dead, rig = rigs(d), rigs(d)
    workflow_id = dead.start(retrying())
    dead.settle()
    dead.die()
    rig.pass_time(100)
    assert rig.runner.started == []
    rig.pass_time(1000)  # the first backoff is 1 s
    assert [key[3] for key in rig.runner.started] == [2]
    rig.runner.succeed("1")
    rig.settle()
    assert rig.outcome(workflow_id) == 1


@pytest.mark.parametrize("where", ["commit", "applied"])
@pytest.mark.parametrize("transactions", range(4))
def test_a_takeover_in_trouble_loses_no_attempt(
    rigs: Make, transactions: int, where: Where
) -> None:
    """That a dead worker's attempt is lost is found out, whichever commit fails meanwhile."""
    dead = rigs(d)
    workflow_id = dead.start(working())
    dead.settle()
    rig = rigs(d)
    rig.settle()
    dead.die()
    rig.clock.advance(100)
    rig.store.let_pass(transactions)
    rig.store.fail(where, StoreBusy("locked"))
    rig.settle()
    rig.pass_time(1000)
    assert rig.error(workflow_id) == "StepFailed"


def test_what_a_dead_worker_had_reported_counts(rigs: Make) -> None:
    """An outcome that reached the inbox before its runner died is not taken for lost."""
    dead = rigs(d)
    workflow_id = dead.start(working())
    dead.settle()
    rig = rigs(d)
    take_from(rig, workflow_id)
    dead.runner.succeed("3")
    dead.settle()
    dead.die()
    rig.pass_time(100)
    assert rig.outcome(workflow_id) == 3


def test_an_attempt_run_for_a_living_owner_is_told_lost(rigs: Make) -> None:
    """The owner of a workflow whose attempt runs elsewhere hears of the runner's death."""
    runner = rigs(d)
    workflow_id = runner.start(working())
    runner.settle()
    owner = rigs(d)
    take_from(owner, workflow_id)
    runner.die()
    owner.pass_time(100)
    assert owner.error(workflow_id) == "StepFailed"


def test_a_workflow_that_nobody_owns_is_woken_for_an_attempt_that_was_lost(rigs: Make) -> None:
    """It may sleep without a time to be woken: else nobody would ever read what it is told."""
    runner, rig = rigs(d), rigs(d)
    workflow_id = runner.start(working())
    runner.settle()
    give_up(runner, workflow_id, wake_at=None)
    runner.die()
    rig.pass_time(100)
    assert rig.error(workflow_id) == "StepFailed"


def test_a_drained_runner_tells_a_foreign_owner(rigs: Make) -> None:
    """An attempt that a drain gives up is recorded as lost, also if another worker owns it."""
    runner = rigs(d)
    workflow_id = runner.start(working())
    runner.settle()
    owner = rigs(d)
    take_from(owner, workflow_id)
    runner.worker.begin_drain()
    runner.settle()
    runner.worker.end_drain(list(runner.runner.open.values()))
    runner.worker.close()
    owner.pass_time(100)
    assert owner.error(workflow_id) == "StepFailed"


def test_a_suspect_is_taken_up_alone(rigs: Make) -> None:
    """From the second death on, a workflow shares no turn with any other."""
    rig = rigs(d)
    ids = [rig.start(napping()) for _ in range(3)]
    rig.settle()
    rig.rows("UPDATE perdure_workflows SET takeovers = 2 WHERE id = ?", ids[1])
    rig.clock.advance(60_000)
    for border in rig.worker.turn():
        if border == "collected":
            assert list(rig.worker.actors) == [ids[1]]
    rig.settle()
    assert [rig.outcome(workflow_id) for workflow_id in ids] == ["awake"] * 3


def test_progress_clears_a_suspicion(rigs: Make) -> None:
    """A workflow that got on is not held responsible for earlier deaths."""
    rig = rigs(d)
    workflow_id = rig.start(stepping())
    rig.settle()
    rig.rows("UPDATE perdure_workflows SET takeovers = 4, owner = NULL, wake_at = 0")
    rig.worker.actors.drop(workflow_id)
    rig.worker._claims.expect(0)
    rig.runner.succeed("1")
    rig.settle()
    assert rig.state(workflow_id).takeovers == 0


def test_a_killer_is_blocked(rigs: Make) -> None:
    """A workflow whose five last owners died is not taken up any more, and says why."""
    rig = rigs(d)
    workflow_id = rig.start(napping())
    rig.settle()
    rig.rows("UPDATE perdure_workflows SET takeovers = 5")
    rig.pass_time(60_000)
    state = rig.state(workflow_id)
    assert (state.status, state.owner, state.wake_at) == ("in_progress", None, None)
    assert state.blocked is not None
    assert "died 5 times" in state.blocked.error.message


def test_a_blocked_killer_stays_blocked_for_new_workers(rigs: Make) -> None:
    """Only what does not fit the code gets another chance with a new worker, not what kills."""
    rig = rigs(d)
    workflow_id = rig.start(napping())
    rig.settle()
    rig.rows("UPDATE perdure_workflows SET takeovers = 5")
    rig.pass_time(60_000)
    other = rigs(d)
    other.settle()
    assert other.state(workflow_id).wake_at is None


# --- permits


def running(*rigs: Rig) -> int:
    return sum(rig.runner.running for rig in rigs)


def test_the_limit_bounds_one_worker(rigs: Make) -> None:
    """No more attempts run than `max_parallelism` says; the next starts when one ends."""
    rig = rigs(d, parallelism=2)
    rig.start(fanning(5))
    rig.settle()
    assert rig.runner.running == 2
    for left in (2, 2, 2, 1, 0):
        rig.runner.succeed()
        rig.settle()
        assert rig.runner.running == left


def test_a_lowered_limit_holds(rigs: Make) -> None:
    """After the limit was lowered nothing starts until fewer than that run."""
    rig = rigs(d, parallelism=5)
    rig.start(fanning(20))
    rig.settle()
    rig.limit(2)
    counts = []
    for _ in range(10):
        rig.runner.succeed()
        rig.settle()
        counts.append(rig.runner.running)
    assert counts == [4, 3, 2, 2, 2, 2, 2, 2, 2, 2]


def test_a_raised_limit_is_used_at_once(rigs: Make) -> None:
    """What waited for permits starts as soon as there are more."""
    rig = rigs(d, parallelism=1)
    rig.start(fanning(5))
    rig.settle()
    rig.limit(4)
    rig.settle()
    assert rig.runner.running == 4


def test_nothing_starts_during_a_pause(rigs: Make) -> None:
    """0 starts nothing; what runs may end."""
    rig = rigs(d, parallelism=2)
    rig.start(fanning(4))
    rig.settle()
    rig.limit(0)
    for _ in range(2):
        rig.runner.succeed()
        rig.settle()
    assert rig.runner.running == 0
    assert rig.worker.next_wait(1.0) == 1.0
    rig.limit(2)
    rig.settle()
    assert rig.runner.running == 2


def test_two_workers_share_the_limit(rigs: Make) -> None:
    """An idle worker gives its permits back when another one wants them, and it has no use for
    them: it does not know the steps that wait."""
    one, two = rigs(Definer(), parallelism=4), rigs(d)
    both(one, two)
    two.start(fanning(6))
    both(one, two)
    assert (one.runner.running, two.runner.running) == (0, 4)


def test_a_late_worker_gets_its_share(rigs: Make) -> None:
    """A worker that holds all permits gives some back as its attempts end, though it has work."""
    one, two = rigs(d, parallelism=4), rigs(d)
    one.start(fanning(30))
    both(one, two)
    assert one.runner.running == 4
    two.start(fanning(30))
    both(one, two)
    for _ in range(4):
        one.runner.succeed()
        both(one, two)
        assert running(one, two) <= 4
    assert (one.runner.running, two.runner.running) == (2, 2)


def test_the_limit_holds_over_two_workers(rigs: Make) -> None:
    """Lowered from either side, it is reached as attempts end, and never exceeded from then on."""
    one, two = rigs(d, parallelism=6), rigs(d)
    one.start(fanning(20))
    two.start(fanning(20))
    both(one, two)
    assert running(one, two) == 6
    two.limit(2)
    counts = []
    for _ in range(6):
        (one if one.runner.running else two).runner.succeed()
        both(one, two)
        counts.append(running(one, two))
    assert counts == [5, 4, 3, 2, 2, 2]


def test_permits_of_the_dead_are_free(rigs: Make) -> None:
    """The one worker that is left uses what the dead one held."""
    one, two = rigs(d, parallelism=4), rigs(d)
    one.start(fanning(4))
    both(one, two)
    two.start(fanning(4))
    both(one, two)
    assert two.runner.running == 0
    one.die()
    two.pass_time(100)
    assert two.runner.running == 4
