"""Restarting inside one transaction, whoever owns the workflow."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.runtime.harness import Answer, Rig, Where
from tests.runtime.restarting import (
    Make,
    answer,
    ask,
    begun,
    cancel,
    chain,
    cleanup,
    count,
    d,
    ended_noted,
    finish_chain,
    grandparent,
    ids,
    note,
    parent,
    restart,
    send,
    two_waits,
    waiting,
    work,
)

from perdure.core.outcomes import Canceled
from perdure.core.workflow import RESTARTED
from perdure.definitions import Definer
from perdure.errors import (
    PerdureError,
    StepNotFound,
    StoreBusy,
    WorkflowNotFound,
    WorkflowRunning,
)
from perdure.runtime.event_operations import CreateOrder, EventOrder
from perdure.runtime.orders import restart_order
from perdure.step import Step

# --- restart --------------------------------------------------------------------------------------


def test_a_workflow_runs_again_from_a_step(rigs: Make) -> None:
    """What was before it is known; the attempt of the step is a new one, with a new epoch."""
    rig = rigs(d)
    w = begun(rig, chain())
    finish_chain(rig, "10", "20")
    before = rig.runner.started[-1]
    restart(rig, w, 1)
    assert rig.runner.names() == ["work"]
    (key,) = rig.runner.open
    assert key[:2] == before[:2]
    assert key[2] > before[2]
    finish_chain(rig, "21")
    assert rig.outcome(w) == [10, 21]


@pytest.mark.parametrize("owner", ["a client", "another worker", "nobody works"])
def test_whoever_calls_restarts_and_a_worker_takes_it_up(rigs: Make, owner: str) -> None:
    """A client, another worker, or a client while nobody works."""
    rig = rigs(d)
    w = begun(rig, chain())
    finish_chain(rig, "10", "20")
    other = rigs(d, works=owner == "another worker")
    if owner == "nobody works":
        rig.die()
    restart(other, w, 0)
    if owner == "a client":
        assert other.state(w).owner is None
        assert other.state(w).wake_at == rig.clock.now
    worker = {"a client": rig, "another worker": other, "nobody works": None}[owner] or rigs(d)
    for each in (other, rig, worker) if owner != "nobody works" else (worker,):
        each.settle()  # who has the permits gives some back
    finish_chain(worker, "1", "2")
    assert worker.outcome(w) == [1, 2]


def test_what_was_canceled_goes_on(rigs: Make) -> None:
    """Its open step is asked for again; what its old attempt still says concerns nobody."""
    rig, client = rigs(d), rigs(d, works=False)
    w = begun(rig, chain())
    (old,) = rig.runner.open
    cancel(client, w)
    restart(client, w)
    blocked = client.state(w).blocked
    assert blocked is not None
    assert blocked.error == RESTARTED
    rig.settle()
    assert rig.runner.cancelled == [old]
    assert rig.state(w).blocked is None
    rig.runner.end(Canceled(), old)
    rig.settle()
    assert rig.outcome(w) is None
    finish_chain(rig, "1", "2")
    assert rig.outcome(w) == [1, 2]


def other_two_waits() -> Definer:
    """Code that does not fit what `two_waits` has recorded."""
    wrong = Definer()
    wrong.mutation(ended_noted.fn)

    @wrong.workflow(name="two_waits")
    async def other(step: Step) -> object:
        return await step.await_event("else")

    return wrong


@d.workflow
async def above(step: Step) -> object:
    return await step.run_workflow(two_waits(), workflow_id="child")


def taken_over(rigs: Make, rig: Rig, workflow_id: str) -> Rig:
    """Another process, whose code the workflow blocks."""
    rig.close()
    second = rigs(other_two_waits())
    send(second, workflow_id, 1)
    assert second.state(workflow_id).is_blocked
    return second


@pytest.mark.parametrize("from_step", [None, 0])
def test_a_blocked_workflow_is_restarted(rigs: Make, from_step: int | None) -> None:
    """From a step that today's code can do without, it runs; else it is blocked as it was. It
    has no end on the way: no `on_complete`, and nobody hears of one."""
    rig = rigs(d)
    w = begun(rig, two_waits(), on_complete=ended_noted)
    second = taken_over(rigs, rig, w)
    restart(second, w, from_step)
    assert second.state(w).is_blocked is (from_step is None)
    assert second.outcome(w) is None
    assert second.rows("SELECT name FROM perdure_steps") == [
        ("go",) if from_step is None else ("else",)
    ]
    assert not second.rows("SELECT 1 FROM sqlite_master WHERE name = 'notes'")


def test_a_blocked_child_is_restarted_and_its_parent_waits_on(rigs: Make) -> None:
    """Nobody tells the parent of an end that was none."""
    rig = rigs(d)
    w = begun(rig, above())
    second = taken_over(rigs, rig, "child")
    restart(second, "child", 0)
    send(second, "child", [7], name="else")
    assert second.outcome("child") == [7]
    second.close()
    third = rigs(d)
    third.settle()
    assert third.outcome(w) == [7]


def test_a_blocked_workflow_is_left_as_it_is_by_a_wrong_restart(rigs: Make) -> None:
    """A step that is not there: nothing was stopped."""
    rig = rigs(d)
    w = begun(rig, two_waits())
    second = taken_over(rigs, rig, w)
    before = second.rows("SELECT * FROM perdure_steps")
    assert isinstance(second.done(second.ask(restart_order(w, 7))).error, StepNotFound)
    assert second.rows("SELECT * FROM perdure_steps") == before
    assert second.state(w).is_blocked


def test_all_outcomes_kept_leads_to_the_same_end(rigs: Make) -> None:
    """The replay alone ends it, and its on_complete runs again."""
    rig = rigs(d)
    w = begun(rig, answer(3), on_complete=ended_noted)
    restart(rig, w)
    assert rig.outcome(w) == 3
    assert rig.rows("SELECT text FROM notes") == [(f"{w} success",), (f"{w} success",)]


def test_what_cannot_be_restarted_is_left_alone(rigs: Make) -> None:
    """Nobody's id, one that runs, a step that is not there: an error, and nothing is written."""
    rig = rigs(d)
    w = begun(rig, chain())
    for order, error in (
        (restart_order("nobody", None), WorkflowNotFound),
        (restart_order(w, 0), WorkflowRunning),
    ):
        assert isinstance(rig.done(rig.ask(order)).error, error)
    finish_chain(rig, "1", "2")
    for step in (2, "nothing", note):
        found = rig.done(rig.ask(restart_order(w, step))).error
        assert isinstance(found, StepNotFound)
        assert "0 work, 1 work" in str(found)
    assert rig.outcome(w) == [1, 2]


def test_a_workflow_whose_rows_are_damaged_is_not_restarted(rigs: Make) -> None:
    """A row that cannot be read would be overwritten, as if it had never been."""
    rig = rigs(d)
    w = begun(rig, chain())
    finish_chain(rig, "1", "2")
    rig.rows("UPDATE perdure_steps SET options = 'x' WHERE number = 0")
    before = rig.rows("SELECT * FROM perdure_steps")
    for step in (None, 1):
        error = rig.done(rig.ask(restart_order(w, step))).error
        assert isinstance(error, PerdureError)
        assert "restore it from a backup" in str(error)
    assert rig.rows("SELECT * FROM perdure_steps") == before
    assert rig.outcome(w) == [1, 2]
    assert cleanup(rig, w) is True


def test_a_damaged_child_fails_its_step(rigs: Make) -> None:
    """Its parent is restarted all the same, and hears what is wrong."""
    rig = rigs(d)
    w = begun(rig, grandparent())
    cancel(rig, w)
    rig.rows("UPDATE perdure_steps SET options = 'x' WHERE workflow_id = 'middle' AND number = 0")
    restart(rig, w)
    assert rig.error(w) == "StepFailed"
    assert rig.state("middle").outcome == Canceled()


def test_one_that_was_canceled_while_it_was_blocked(rigs: Make) -> None:
    """It is blocked again if its code still does not fit, and goes on when it does."""
    rig = rigs(d)
    w = begun(rig, two_waits())
    send(rig, w, 1)
    rig.close()
    wrong = Definer()

    @wrong.workflow(name="two_waits")
    async def other(step: Step) -> None:
        await step.sleep(1)

    second = rigs(wrong)
    second.settle()
    cancel(second, w)
    restart(second, w)
    blocked = second.state(w).blocked
    assert blocked is not None
    assert (blocked.error.type, blocked.count) == ("DeterminismError", 1)
    third = rigs(d)
    third.settle()
    assert third.state(w).blocked is None
    send(third, w, 2)
    assert third.outcome(w) == [1, 2]


# --- a commit whose outcome is not known ----------------------------------------------------------


def doubtful(client: Rig, workflow_id: str, from_step: int | None, where: Where) -> Answer:
    """A restart whose commit fails, or only seems to; it is tried again in the next turn."""
    reply = client.ask(restart_order(workflow_id, from_step))
    client.store.fail(where, StoreBusy("somebody else writes"))
    client.turn()
    assert reply.is_open
    return reply


def test_a_restart_that_was_not_stored_is_no_success_because_others_go_on(rigs: Make) -> None:
    """The code that fits came back meanwhile: from no step was it run anew."""
    rig, client = rigs(d), rigs(d, works=False)
    w = begun(rig, two_waits())
    second = taken_over(rigs, rig, w)
    reply = doubtful(client, w, 0, "commit")
    second.close()
    third = rigs(d)
    third.settle()
    assert not third.state(w).is_blocked
    client.pass_time(10)
    assert isinstance(reply.error, WorkflowRunning)
    send(third, w, 2)
    assert third.outcome(w) == [1, 2]


def test_a_restart_that_was_stored_is_not_made_again_where_it_is_blocked_again(rigs: Make) -> None:
    """What it has run anew since is not thrown away."""
    rig, client = rigs(d), rigs(d, works=False)
    w = begun(rig, two_waits())
    second = taken_over(rigs, rig, w)
    reply = doubtful(client, w, 0, "applied")
    second.settle()
    second.close()
    third = rigs(d)
    send(third, w, 2, name="else")
    assert third.state(w).is_blocked
    client.pass_time(10)
    assert client.value(reply) is None
    assert client.rows("SELECT name FROM perdure_steps") == [("else",)]


def test_a_restart_that_was_not_stored_is_made_though_another_one_was(rigs: Make) -> None:
    """The other one kept what this one runs anew."""
    rig, client = rigs(d), rigs(d, works=False)
    w = begun(rig, chain())
    finish_chain(rig, "1", "2")
    reply = doubtful(client, w, 1, "commit")
    restart(rig, w)
    assert rig.outcome(w) == [1, 2]
    client.pass_time(10)
    assert client.value(reply) is None
    rig.settle()
    finish_chain(rig, "3")
    assert rig.outcome(w) == [1, 3]


@pytest.mark.parametrize("where", ["commit", "applied"])
@pytest.mark.parametrize("from_step", [None, 1])
def test_a_restart_in_doubt_is_made_once(rigs: Make, from_step: int | None, where: Where) -> None:
    """Whatever became of the first commit: one further end."""
    rig, client = rigs(d), rigs(d, works=False)
    w = begun(rig, chain(), on_complete=ended_noted)
    finish_chain(rig, "1", "2")
    reply = doubtful(client, w, from_step, where)
    rig.settle()  # it takes up what was stored
    if where == "applied" and from_step is not None:
        finish_chain(rig, "2")
    client.pass_time(10)
    assert client.value(reply) is None
    rig.settle()
    if where == "commit" and from_step is not None:
        finish_chain(rig, "2")
    assert rig.outcome(w) == [1, 2]
    assert count(rig, "steps") == 2
    assert rig.rows("SELECT text FROM notes") == [(f"{w} success",)] * 2


# --- events ---------------------------------------------------------------------------------------


def test_events_that_deleted_steps_consumed_are_gone_and_others_are_kept(rigs: Make) -> None:
    """The first wait keeps what it heard; the second waits again, for what was never heard."""
    rig = rigs(d)
    w = begun(rig, two_waits())
    for value in (1, 2, 3):
        send(rig, w, value)
    assert rig.outcome(w) == [1, 2]
    restart(rig, w, 1)
    assert rig.outcome(w) == [1, 3]
    restart(rig, w, 0)
    assert rig.outcome(w) is None
    assert count(rig, "events") == 0


def test_a_wait_for_an_event_that_went_with_its_consumer_fails(rigs: Make) -> None:
    """It is asked for again, and its event will never come: so it says so, and does not hang."""
    rig = rigs(d)
    w = rig.start(answer_by_id())
    rig.settle()
    ask(rig, CreateOrder(event_id="E", name="go", workflow_id=w))
    send(rig, w, "E", "id")
    rig.settle()
    finish_chain(rig, "1")
    by_id = EventOrder(
        event_id="E",
        send_id="s",
        name=None,
        workflow_id=None,
        outcome=rig.event("go", w, 5).outcome,
        has_own_id=True,
    )
    finish_chain(rig, "2")
    ask(rig, by_id)
    assert rig.outcome(w) == ["None", 5]
    restart(rig, w, 2)
    assert rig.steps(w)[1] == ("E", "settled", "failed")
    finish_chain(rig, "1")
    finish_chain(rig, "2")
    assert rig.outcome(w) == ["EventNotFound", "EventNotFound"]


@d.workflow
async def answer_by_id(step: Step) -> list[object]:
    """It awaits an event by its id, gives that up, and awaits it again."""
    event_id: Any = await step.await_event("id")
    first = asyncio.ensure_future(step.await_event(id=event_id))
    found = "None"
    await step.run_action(work(1))
    if first.done():
        found = type(first.exception()).__name__
    else:
        first.cancel()
    await step.run_action(work(2))
    try:
        return [found, await step.await_event(id=event_id)]
    except PerdureError as error:
        return [found, type(error).__name__]


# --- children -------------------------------------------------------------------------------------


def test_children_of_deleted_steps_are_deleted_with_all_below(rigs: Make) -> None:
    """And started anew, under the ids that the user gave them."""
    rig = rigs(d)
    w = begun(rig, grandparent())
    send(rig, "kid", 1)
    assert rig.outcome(w) == 1
    restart(rig, w, 0)
    kid = rig.state("kid")
    assert (kid.status, kid.position) == ("in_progress", 0)
    assert count(rig, "events") == 0  # its event went with it
    send(rig, "kid", 2)
    assert rig.outcome(w) == 2


def test_children_that_were_canceled_with_it_go_on_with_it(rigs: Make) -> None:
    """All the way down, with what they had done: the child's mutation does not run again."""
    rig = rigs(d)
    w = begun(rig, grandparent())
    cancel(rig, w)
    restart(rig, w)
    send(rig, "kid", 1)
    assert rig.outcome(w) == 1
    assert rig.rows("SELECT text FROM notes") == [("parent",)]


def test_a_child_s_outcome_that_nobody_was_told_is_learned(rigs: Make) -> None:
    """The parent was canceled first; the child, restarted by itself, ended without it."""
    rig = rigs(d)
    w = begun(rig, parent("kid"))
    cancel(rig, w)
    restart(rig, "kid")
    send(rig, "kid", 7)
    assert rig.outcome("kid") == 7
    assert count(rig, "inbox") == 0
    restart(rig, w)
    assert rig.outcome(w) == 7


def test_a_child_that_runs_by_itself_is_waited_for(rigs: Make) -> None:
    """It was restarted before its parent was: the parent hears of its end as ever."""
    rig = rigs(d)
    w = begun(rig, parent("kid"))
    cancel(rig, w)
    restart(rig, "kid")
    restart(rig, w)
    assert rig.outcome(w) is None
    send(rig, "kid", 7)
    assert rig.outcome(w) == 7


def test_a_child_that_is_gone_is_started_again(rigs: Make) -> None:
    """It was cleaned up: the step that waits for it has another."""
    rig = rigs(d)
    w = begun(rig, parent("kid"))
    cancel(rig, w)
    assert cleanup(rig, "kid") is True
    restart(rig, w)
    send(rig, "kid", 8)
    assert rig.outcome(w) == 8


def test_the_id_of_a_child_that_is_gone_may_be_another_s(rigs: Make) -> None:
    """Then the step fails, as it would have at first; the other is not touched, even by a restart
    from before it."""
    rig = rigs(d)
    w = begun(rig, parent("kid"))
    cancel(rig, w)
    cleanup(rig, "kid")
    begun(rig, waiting(), id="kid")
    restart(rig, w)
    assert rig.outcome(w) == "WorkflowIdConflict"
    restart(rig, w, 0)
    assert rig.outcome(w) == "WorkflowIdConflict"
    assert rig.outcome("kid") is None
    assert cleanup(rig, w) is True
    assert ids(rig) == {"kid"}


def test_a_child_that_runs_when_its_step_is_deleted_says_nothing(rigs: Make) -> None:
    """It is canceled and deleted; its parent, which asks for one of the same id, must not take
    that for the end of the new one."""
    rig, client = rigs(d), rigs(d, works=False)
    w = begun(rig, parent("kid"))
    send(rig, "kid", 1)
    assert rig.outcome(w) == 1
    restart(rig, "kid", 0)
    assert rig.outcome("kid") is None
    restart(client, w, 1)
    assert count(client, "inbox WHERE kind = 'child'") == 0
    rig.settle()
    assert rig.outcome(w) is None
    send(rig, "kid", 2)
    assert rig.outcome(w) == 2
