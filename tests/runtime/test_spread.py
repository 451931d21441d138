"""Steps that a worker takes from another one, and what becomes of their attempts."""

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
from perdure.store.base import Fenced

Make = Callable[..., Rig]
d = Definer()


@d.action
def work(ctx: ActionContext, n: int) -> object:
    raise NotImplementedError("the rig's runner runs nothing")


@d.action(retry=True, timeout=60)
def hasty(ctx: ActionContext, n: int) -> object:
    raise NotImplementedError("the rig's runner runs nothing")


@d.workflow
async def fanning(step: Step, count: int) -> list[object]:
    return list(await asyncio.gather(*[step.run_action(work(n)) for n in range(count)]))


@d.workflow
async def hasting(step: Step, count: int) -> list[object]:
    return list(await asyncio.gather(*[step.run_action(hasty(n)) for n in range(count)]))


@d.workflow
async def choosing(step: Step, count: int) -> str:
    asked = [step.run_action(work(n)) for n in range(count)]
    await asked[0]
    return "done"


def both(*rigs: Rig) -> None:
    """Let several workers run until all of them rest."""
    for _ in range(10):
        for rig in rigs:
            rig.settle()


def numbers(rig: Rig) -> list[int]:
    """The steps whose attempts run in a worker."""
    return sorted(key[1] for key in rig.runner.open)


def runners(rig: Rig) -> list[tuple[int, str | None]]:
    """Which worker runs which step, as it is stored."""
    sql = "SELECT number, runner FROM perdure_steps WHERE state = 'started' ORDER BY number"
    return [(number, runner) for number, runner in rig.rows(sql)]


def finish(*rigs: Rig) -> None:
    """Let every attempt return its number, wherever it runs, until none is left."""
    while any(rig.runner.open for rig in rigs):
        for rig in rigs:
            for key in list(rig.runner.open):
                rig.runner.succeed(str(key[1]), key)
        both(*rigs)


def pair(rigs: Make, parallelism: int = 4) -> tuple[Rig, Rig]:
    """Two workers, of which the second one waits for work."""
    one, two = rigs(d, parallelism=parallelism), rigs(d)
    both(one, two)
    return one, two


def two_of_six(rigs: Make) -> tuple[Rig, Rig, str]:
    """A worker that owns a workflow, another that runs two of its six steps, and the workflow."""
    one, two = pair(rigs)
    workflow_id = one.start(fanning(6))
    both(one, two)
    assert (numbers(one), numbers(two)) == ([0, 1], [4, 5])
    return one, two, workflow_id


# --- who runs what


def test_a_fan_out_is_spread_over_two_workers(rigs: Make) -> None:
    """The owner begins with the first steps, the other one with the last; each runs once."""
    one, two, workflow_id = two_of_six(rigs)
    assert runners(one) == [
        (0, one.worker_id),
        (1, one.worker_id),
        (4, two.worker_id),
        (5, two.worker_id),
    ]
    finish(one, two)
    assert one.outcome(workflow_id) == [0, 1, 2, 3, 4, 5]
    started = [key[1] for key in one.runner.started + two.runner.started]
    assert sorted(started) == [0, 1, 2, 3, 4, 5]
    assert one.rows("SELECT * FROM perdure_inbox") == []


def test_an_owner_with_permits_runs_its_steps_itself(rigs: Make) -> None:
    """What fits into its permits is not passed on."""
    one, two = pair(rigs, parallelism=20)
    one.start(fanning(6))
    both(one, two)
    assert (len(numbers(one)), numbers(two)) == (6, [])


def test_what_a_worker_has_ready_itself_comes_first(rigs: Make) -> None:
    """It takes nothing while steps of its own wait for a permit."""
    one, two = pair(rigs, parallelism=2)
    other = one.start(fanning(8))
    mine = two.start(fanning(4))
    while two.state(mine).status == "in_progress":
        both(one, two)
        waits = two.rows(
            "SELECT 1 FROM perdure_steps WHERE state = 'ready' AND workflow_id = ?", mine
        )
        if waits:
            assert other not in {key[0] for key in two.runner.open}
        for rig in (one, two):
            if rig.runner.open:
                rig.runner.succeed()
    assert two.runner.started


def test_steps_of_unknown_functions_are_left_alone(rigs: Make) -> None:
    """A worker takes only what it can run."""
    one, two = rigs(d, parallelism=4), rigs(Definer())
    both(one, two)
    one.start(fanning(6))
    both(one, two)
    assert (len(numbers(one)), numbers(two)) == (4, [])


def test_a_worker_of_no_workflows_helps(rigs: Make) -> None:
    """Who defines the action need not define the workflow."""
    actions = Definer()
    actions.registry.add(work)
    one, two = rigs(d, parallelism=4), rigs(actions)
    both(one, two)
    workflow_id = one.start(fanning(6))
    both(one, two)
    assert numbers(two) == [4, 5]
    finish(one, two)
    assert one.outcome(workflow_id) == [0, 1, 2, 3, 4, 5]


def test_nothing_is_taken_during_a_pause_or_a_drain(rigs: Make) -> None:
    """Whoever ends starts nothing, of others neither."""
    one, two, _ = two_of_six(rigs)
    one.limit(0)
    both(one, two)
    two.runner.succeed()
    both(one, two)
    assert len(two.runner.started) == 2
    two.worker.begin_drain()
    one.limit(4)
    both(one, two)
    assert len(two.runner.started) == 2


def test_the_limit_holds_over_owners_and_takers(rigs: Make) -> None:
    """However the steps are spread, no more run than the limit allows."""
    one, two, three = rigs(d, parallelism=5), rigs(d), rigs(d)
    both(one, two, three)
    workflow_id = one.start(fanning(30))
    all_rigs = (one, two, three)
    while one.state(workflow_id).status == "in_progress":
        both(*all_rigs)
        assert sum(rig.runner.running for rig in all_rigs) <= 5
        assert len(runners(one)) <= 5
        for rig in all_rigs:
            if rig.runner.open:
                rig.runner.succeed("1")
    started = [key for rig in all_rigs for key in rig.runner.started]
    assert len(started) == len(set(started)) == 30
    assert all(len(rig.runner.started) >= 5 for rig in all_rigs)


# --- races


def test_an_owner_that_does_not_know_yet_does_not_start_it_too(rigs: Make) -> None:
    """Its commit is refused, it loads the workflow again, and goes on with what is left."""
    one, two = pair(rigs)
    workflow_id = one.start(fanning(6))
    one.settle()
    assert numbers(one) == [0, 1]
    turn = one.worker.turn()
    one.runner.succeed()
    one.worker._collecting._looked_at = float("-inf")
    assert next(turn) == "collected"  # from here on it decides without looking
    two.settle()
    two.runner.succeed(key=next(iter(two.runner.open)))
    two.settle()
    while two.runner.open:
        two.runner.succeed()
        two.settle()
    taken = {key[1] for key in two.runner.started}
    for _ in turn:
        pass
    both(one, two)
    finish(one, two)
    assert 2 in taken
    started = [key[1] for key in one.runner.started + two.runner.started]
    assert sorted(started) == [0, 1, 2, 3, 4, 5]
    outcome = one.state(workflow_id).outcome
    assert outcome is not None
    assert outcome.kind == "success"


def test_a_doubtful_start_is_not_run_where_another_has_taken_the_step(rigs: Make) -> None:
    """The commit of a start failed, the step was taken since: its attempt has the same name."""
    one, two = pair(rigs)
    workflow_id = one.start(fanning(3))
    one.settle()
    one.limit(3)
    key = next(iter(one.runner.open))
    one.worker.actors.doubtful[workflow_id] = {(workflow_id, 2, key[2], 1)}
    rows = "UPDATE perdure_steps SET state = 'started', runner = ?, attempt = 1, started_epoch = ?"
    one.rows(rows + " WHERE number = 2", two.worker_id, key[2])
    one.worker.actors.drop(workflow_id)
    one.worker.actors.runnable[workflow_id] = None
    one.settle()
    assert 2 not in [started[1] for started in one.runner.started]


@pytest.mark.parametrize("where", ["begin", "commit", "applied"])
def test_steps_are_run_if_their_taking_is_stored(rigs: Make, where: Where) -> None:
    """A transaction that seemed to fail may be stored: then its attempts run, once; else they are
    taken again."""
    one, two = pair(rigs)
    workflow_id = one.start(fanning(6))
    one.settle()
    two.store.fail(where, StoreBusy("locked"))
    two.turn()
    two.pass_time(10)
    both(one, two)
    assert numbers(two) == [4, 5]
    finish(one, two)
    assert one.outcome(workflow_id) == [0, 1, 2, 3, 4, 5]


def test_a_worker_that_was_taken_for_dead_takes_nothing(rigs: Make) -> None:
    """It finds itself fenced in the very transaction."""
    one, two = pair(rigs)
    one.start(fanning(6))
    one.settle()
    taker = two.worker._collecting.taker
    two.rows("UPDATE perdure_workers SET fenced = 1 WHERE id = ?", two.worker_id)
    with pytest.raises(Fenced):
        taker.take(1)
    assert two.runner.started == []


# --- death and drain


def test_steps_taken_by_a_worker_that_dies_are_lost(rigs: Make) -> None:
    """Whoever buries it tells the owner."""
    one, two, workflow_id = two_of_six(rigs)
    two.die()
    one.pass_time(200)
    finish(one)
    assert one.error(workflow_id) == "StepFailed"
    lost = one.rows("SELECT number, error FROM perdure_steps WHERE outcome = 'failed'")
    assert [number for number, _ in lost] == [4, 5]
    assert all('"WorkerLost"' in error for _, error in lost)


def test_steps_that_were_taken_go_on_when_the_owner_dies(rigs: Make) -> None:
    """Who takes the workflow over finds their worker alive, and waits for it."""
    one, two = pair(rigs)
    workflow_id = one.start(hasting(6))
    both(one, two)
    assert numbers(two) == [4, 5]
    one.die()
    two.pass_time(200)
    assert two.state(workflow_id).owner == two.worker_id
    for _ in range(5):
        two.pass_time(2_000)
        finish(two)
    assert two.outcome(workflow_id) == [0, 1, 2, 3, 4, 5]
    counts = two.rows("SELECT number, attempt FROM perdure_steps ORDER BY number")
    assert dict(counts)[4] == dict(counts)[5] == 1


@pytest.mark.parametrize("is_owner_first", [True, False])
def test_both_may_die(rigs: Make, is_owner_first: bool) -> None:
    """Nothing is waited for for ever: what they ran is lost, and tried again."""
    one, two = pair(rigs)
    workflow_id = one.start(hasting(6))
    both(one, two)
    three = rigs(d)
    for rig in (one, two) if is_owner_first else (two, one):
        rig.die()
        three.pass_time(200)
    for _ in range(6):
        three.pass_time(5_000)
        finish(three)
    assert three.outcome(workflow_id) == [0, 1, 2, 3, 4, 5]


def test_an_owner_that_drains_gives_up_what_only_others_run(rigs: Make) -> None:
    """It does not wait for them; their outcomes go to the next owner."""
    one, two, workflow_id = two_of_six(rigs)
    one.worker.begin_drain()
    one.runner.succeed("0")
    one.runner.succeed("1")
    one.settle()
    assert one.state(workflow_id).owner is None
    finish(one, two)
    assert two.outcome(workflow_id) == [0, 1, 2, 3, 4, 5]
    assert len(two.runner.started) == 4


def test_a_taker_that_drains_reports_what_is_lost(rigs: Make) -> None:
    """Its last turn tells the owner of attempts that still run."""
    one, two, workflow_id = two_of_six(rigs)
    two.worker.begin_drain()
    two.worker.end_drain(two.runner.attempts())
    two.close()
    finish(one)
    outcome = one.state(workflow_id).outcome
    assert isinstance(outcome, Failed)
    assert "WorkerLost" in outcome.error.message


# --- nobody waits for it any more


def test_a_cancel_reaches_who_runs_the_steps(rigs: Make) -> None:
    """From a client: the owner and the taker are told."""
    one, two, workflow_id = two_of_six(rigs)
    client = rigs(d, works=False)
    client.done(client.ask_cancel(workflow_id))
    both(one, two)
    assert sorted(one.runner.cancelled) == sorted(one.runner.started)
    assert sorted(two.runner.cancelled) == sorted(two.runner.started)
    two.runner.succeed()
    both(one, two)
    assert one.state(workflow_id).status == "canceled"


def test_the_end_of_a_workflow_reaches_who_runs_its_steps(rigs: Make) -> None:
    """It ended while they ran: its owner tells them, once for all of them."""
    one, two = pair(rigs)
    workflow_id = one.start(choosing(6))
    both(one, two)
    assert numbers(two) == [4, 5]
    one.runner.succeed()
    one.settle()
    sql = "SELECT worker FROM perdure_inbox WHERE kind = 'revoked'"
    assert one.rows(sql) == [(two.worker_id,)]
    both(one, two)
    assert one.outcome(workflow_id) == "done"
    assert sorted(two.runner.cancelled) == sorted(two.runner.started)


def test_a_timeout_counts_from_the_start_elsewhere(rigs: Make) -> None:
    """The owner watches the time, and tells the worker that runs the attempt."""
    one, two = pair(rigs)
    one.start(hasting(6))
    both(one, two)
    taken = list(two.runner.open)
    assert numbers(two) == [4, 5]
    one.clock.advance(59_999)
    both(one, two)
    assert two.runner.cancelled == []
    one.clock.advance(1)
    both(one, two)
    assert two.runner.cancelled == taken


def test_an_attempt_of_a_new_life_is_not_stopped_by_an_old_letter(rigs: Make) -> None:
    """A worker that is told late looks which of its attempts are waited for."""
    one, two, workflow_id = two_of_six(rigs)
    (_, other) = two.runner.open
    rows = "UPDATE perdure_steps SET state = 'settled', outcome = 'canceled', runner = NULL"
    one.rows(rows + " WHERE number = ?", other[1])
    one.rows(
        "INSERT INTO perdure_inbox (workflow_id, kind, body, accepted_at, worker)"
        " VALUES (?, 'revoked', 'null', 0, ?)",
        workflow_id,
        two.worker_id,
    )
    two.settle()
    assert two.runner.cancelled == [other]
