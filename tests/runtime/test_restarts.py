"""Restarting and deleting inside one transaction, whoever owns the workflow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.runtime.harness import Rig

from perdure.core.outcomes import Canceled
from perdure.core.workflow import RESTARTED
from perdure.definitions import Definer
from perdure.errors import (
    DefinitionError,
    PerdureError,
    StepCanceled,
    StepFailed,
    StepNotFound,
    WorkflowNotFound,
    WorkflowRunning,
)
from perdure.runtime.contexts import ActionContext, MutationContext
from perdure.runtime.event_operations import CreateOrder, EventOrder
from perdure.runtime.orders import cleanup_order, restart_order
from perdure.step import Step

Make = Callable[..., Rig]
d = Definer()


@d.action
def work(ctx: ActionContext, n: int) -> int:
    raise NotImplementedError("the rig's runner runs nothing")


@d.mutation
def note(ctx: MutationContext, text: str) -> str:
    ctx.db.execute("CREATE TABLE IF NOT EXISTS notes (text)")
    ctx.db.execute("INSERT INTO notes VALUES (?)", (text,))
    return text


@d.mutation
def do(ctx: MutationContext, verbs: list[Any]) -> None:
    """Several verbs in one transaction."""
    for verb, workflow_id, *more in verbs:
        match verb:
            case "restart":
                ctx.restart(workflow_id, from_step=more[0] if more else None)
            case "cleanup":
                ctx.cleanup(workflow_id, force=True)
            case "cancel":
                ctx.cancel(workflow_id)
            case "raise":
                raise ValueError(workflow_id)


@d.workflow
async def chain(step: Step) -> list[object]:
    first = await step.run_action(work(1))
    second = await step.run_action(work(2))
    return [first, second]


@d.workflow
async def answer(step: Step, value: int) -> int:
    return value


@d.workflow
async def waiting(step: Step) -> object:
    return await step.await_event("go")


@d.workflow
async def parent(step: Step, child_id: str | None = None) -> object:
    await step.run_mutation(note("parent"))
    try:
        return await step.run_workflow(waiting(), workflow_id=child_id)
    except StepCanceled:
        return "canceled"
    except StepFailed as error:
        return error.error.type


@d.workflow
async def grandparent(step: Step) -> object:
    return await step.run_workflow(parent("kid"), workflow_id="middle")


@d.workflow
async def acting(step: Step, verbs: list[Any]) -> None:
    await step.await_event("act")
    await step.run_mutation(do(verbs))


def ask(rig: Rig, order: Any) -> Any:
    """Have an order carried out, by whichever process `rig` is."""
    return rig.value(rig.done(rig.ask(order)))


def restart(rig: Rig, workflow_id: str, from_step: Any = None) -> None:
    ask(rig, restart_order(workflow_id, from_step))


def cleanup(rig: Rig, workflow_id: str, *, force: bool = False) -> bool:
    is_deleted: bool = ask(rig, cleanup_order(workflow_id, force))
    return is_deleted


def send(rig: Rig, workflow_id: str, value: Any, name: str = "go") -> None:
    ask(rig, rig.event(name, workflow_id, value))


def cancel(rig: Rig, workflow_id: str) -> None:
    rig.value(rig.done(rig.ask_cancel(workflow_id)))


def begun(rig: Rig, call: Any, **options: Any) -> str:
    workflow_id = rig.start(call, **options)
    rig.settle()
    return workflow_id


def ids(rig: Rig) -> set[str]:
    return {workflow_id for (workflow_id,) in rig.rows("SELECT id FROM perdure_workflows")}


def count(rig: Rig, *tables: str) -> int:
    return sum(rig.rows(f"SELECT count(*) FROM perdure_{table}")[0][0] for table in tables)


def finish_chain(rig: Rig, *values: str) -> None:
    for value in values:
        rig.runner.succeed(value)
        rig.settle()


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


def test_all_outcomes_kept_leads_to_the_same_end(rigs: Make) -> None:
    """The replay alone ends it, and its on_complete runs again."""
    rig = rigs(d)
    w = begun(rig, answer(3), on_complete=ended_noted)
    restart(rig, w)
    assert rig.outcome(w) == 3
    assert rig.rows("SELECT text FROM notes") == [(f"{w} success",), (f"{w} success",)]


@d.mutation
def ended_noted(ctx: MutationContext, workflow_id: str, outcome: Any) -> None:
    ctx.db.execute("CREATE TABLE IF NOT EXISTS notes (text)")
    ctx.db.execute("INSERT INTO notes VALUES (?)", (f"{workflow_id} {outcome.kind}",))


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


# --- events ---------------------------------------------------------------------------------------


@d.workflow
async def two_waits(step: Step) -> list[object]:
    return [await step.await_event("go"), await step.await_event("go")]


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


# --- in the transaction in which it ends ----------------------------------------------------------


@d.mutation
def again_once(ctx: MutationContext, workflow_id: str, outcome: Any, context: Any) -> None:
    """Restarts its workflow from `context`, the first time."""
    note.fn(ctx, outcome.kind)
    rows = ctx.db.execute("SELECT count(*) FROM notes WHERE text = ?", (outcome.kind,)).fetchone()
    if rows == (1,):
        ctx.restart(workflow_id, from_step=context)


@d.mutation
def again_and_raise(ctx: MutationContext, workflow_id: str, outcome: Any) -> None:
    ctx.restart(workflow_id)
    raise ValueError("after all not")


@d.mutation
def cleaned_up(ctx: MutationContext, workflow_id: str, outcome: Any) -> None:
    ctx.cleanup(workflow_id)


def test_an_on_complete_restarts_its_own_workflow(rigs: Make) -> None:
    """In the transaction of its end: it runs again, and ends a second time."""
    rig = rigs(d)
    w = begun(rig, chain(), on_complete=again_once, context=1)
    finish_chain(rig, "1", "2", "3")
    assert rig.outcome(w) == [1, 3]
    assert rig.rows("SELECT text FROM notes") == [("success",), ("success",)]


def test_an_on_complete_of_a_canceled_workflow_restarts_it(rigs: Make) -> None:
    """Whoever cancels it is done; it goes on."""
    rig, client = rigs(d), rigs(d, works=False)
    w = begun(rig, parent("kid"), on_complete=again_once, context=None)
    client.env.rules.registry.add(again_once)
    cancel(client, w)
    assert client.state(w).status == "in_progress"
    rig.settle()
    send(rig, "kid", 3)
    assert rig.outcome(w) == 3


def test_an_on_complete_that_raises_restarts_nothing(rigs: Make) -> None:
    """It is undone with the rest of what it did; its error is kept."""
    rig = rigs(d)
    w = begun(rig, answer(1), on_complete=again_and_raise)
    assert rig.outcome(w) == 1
    error = rig.state(w).on_complete_error
    assert error is not None
    assert error.message == "after all not"


@pytest.mark.parametrize("by_cancel", [True, False])
def test_an_on_complete_deletes_its_own_workflow(rigs: Make, by_cancel: bool) -> None:
    """Nothing of it is left, and whoever waits for it is told how it ended."""
    rig = rigs(d)
    w = begun(rig, parent("kid"), on_complete=cleaned_up)
    if by_cancel:
        cancel(rig, w)
    else:
        send(rig, "kid", 1)
    assert ids(rig) == set()
    assert rig.ended_with[w].kind == ("canceled" if by_cancel else "success")
    assert count(rig, "steps", "events", "inbox") == 0


def test_a_forced_cleanup_deletes_though_the_on_complete_restarts(rigs: Make) -> None:
    """What is to be deleted cannot keep itself alive."""
    rig = rigs(d)
    w = begun(rig, parent("kid"), on_complete=again_once, context=None)
    assert cleanup(rig, w, force=True) is True
    assert ids(rig) == set()
    assert rig.rows("SELECT text FROM notes WHERE text <> 'parent'") == [("canceled",)]


def test_a_forced_cleanup_where_the_on_complete_is_not_known(rigs: Make) -> None:
    """It is refused before anything is written."""
    rig = rigs(d)
    w = begun(rig, waiting(), on_complete=ended_noted)
    stranger = rigs(Definer(), works=False)
    reply = stranger.done(stranger.ask(cleanup_order(w, True)))
    assert isinstance(reply.error, DefinitionError)
    assert rig.outcome(w) is None


@pytest.mark.parametrize("verb", ["restart", "cleanup"])
@pytest.mark.parametrize("is_first", [True, False])
def test_the_mutation_of_another_in_the_commit_of_its_end(
    rigs: Make, verb: str, is_first: bool
) -> None:
    """Whichever is written first: the end is told once, and what was done to it stands."""
    rig = rigs(d)
    if is_first:
        actor = begun(rig, acting([[verb, "w"]]))
    begun(rig, waiting(), id="w", on_complete=ended_noted)
    if not is_first:
        actor = begun(rig, acting([[verb, "w"]]))
    order = [actor, "w"] if is_first else ["w", actor]
    for each in order:
        rig.ask_event("act" if each == actor else "go", each, 4)
    rig.settle()
    assert rig.state(actor).status == "success"
    told = [("w success",)] * (2 if verb == "restart" else 1)
    assert rig.rows("SELECT text FROM notes") == told
    assert rig.ended_with["w"].kind == "success"
    if verb == "restart":
        assert rig.outcome("w") == 4
    else:
        assert ids(rig) == {actor}


@d.workflow
async def gives_up_child(step: Step) -> str:
    child = step.run_workflow(waiting(), workflow_id="kid")
    await step.await_event("go")
    child.cancel()
    return "done"


def test_a_child_that_the_handler_gave_up_in_the_commit_of_its_restart(rigs: Make) -> None:
    """The restart keeps that the child was given up: so it is canceled, and does not run on."""
    rig = rigs(d)
    actor = begun(rig, acting([["restart", "w"]]))
    begun(rig, gives_up_child(), id="w")
    rig.ask_event("act", actor)
    rig.ask_event("go", "w")
    rig.settle()
    assert rig.outcome("w") == "done"
    assert rig.state("kid").outcome == Canceled()


@d.workflow
async def gives_up_late(step: Step) -> object:
    child = step.run_workflow(waiting(), workflow_id="kid")
    other = step.await_event("other")
    await step.await_event("go")
    child.cancel()
    return await other


def test_a_child_that_is_asked_for_again_is_not_canceled_after_all(rigs: Make) -> None:
    """The handler gave it up in this commit, after the cut: the restart has undone that."""
    rig = rigs(d)
    actor = begun(rig, acting([["cancel", "w"], ["restart", "w", 1]]))
    begun(rig, gives_up_late(), id="w")
    rig.ask_event("act", actor)
    rig.ask_event("go", "w")
    rig.settle()
    assert rig.state("kid").status == "in_progress"
    assert rig.steps("w")[0] == ("waiting", "asked", None)
    send(rig, "w", 1)
    send(rig, "w", 2, "other")
    assert rig.outcome("w") == 2
    assert rig.state("kid").outcome == Canceled()


def test_mail_for_what_was_restarted_in_the_commit_of_its_end_is_kept(rigs: Make) -> None:
    """A child's end in the same transaction: the restarted parent learns of it, or hangs."""
    rig = rigs(d)
    verbs = [["cancel", "w"], ["restart", "w"], ["cancel", "kid"]]
    actor = begun(rig, acting(verbs))
    begun(rig, parent("kid"), id="w")
    send(rig, actor, None, "act")
    assert rig.outcome("w") == "canceled"


def test_a_mutation_that_raises_has_neither_restarted_nor_deleted(rigs: Make) -> None:
    """Its verbs are undone with it."""
    rig = rigs(d)
    for workflow_id in ("a", "b"):
        begun(rig, answer(1), id=workflow_id)
    for verb in ("restart", "cleanup"):
        reply = rig.done(rig.ask_run(do([[verb, "a"], [verb, "b"], ["raise", "no"]])))
        assert isinstance(reply.error, ValueError)
    assert ids(rig) == {"a", "b"}
    assert [rig.outcome(each) for each in "ab"] == [1, 1]


# --- cleanup --------------------------------------------------------------------------------------


def test_nothing_of_what_is_deleted_is_left(rigs: Make) -> None:
    """Neither of it nor of what is below it; what stands beside it stays."""
    rig = rigs(d)
    w = begun(rig, grandparent())
    other = begun(rig, two_waits())
    send(rig, "kid", 1)
    send(rig, "middle", 2, "unheard")
    send(rig, other, 3)
    assert cleanup(rig, w) is True
    assert ids(rig) == {other}
    assert count(rig, "steps", "events") == 3
    assert count(rig, "inbox", "ticks") == 0
    assert cleanup(rig, w) is False


def test_one_that_runs_is_deleted_only_by_force(rigs: Make) -> None:
    """False, and nothing happened; or its attempt is told that nobody waits for it any more."""
    rig = rigs(d)
    w = begun(rig, chain())
    assert cleanup(rig, w) is False
    (key,) = rig.runner.open
    assert cleanup(rig, w, force=True) is True
    assert set(rig.runner.cancelled) == {key}
    rig.runner.succeed()
    rig.settle()
    assert ids(rig) == set()


@pytest.mark.parametrize("works", [True, False])
def test_the_worker_that_owns_what_is_deleted_is_told(rigs: Make, works: bool) -> None:
    """Else its attempt would run to its end, with a permit, for nobody."""
    rig, other = rigs(d), rigs(d, works=works)
    w = begun(rig, chain())
    (key,) = rig.runner.open
    assert cleanup(other, w, force=True) is True
    rig.settle()
    assert rig.runner.cancelled == [key]
    assert w not in rig.worker.actors
    rig.runner.end(Canceled(), key)
    rig.settle()
    assert count(rig, "inbox", "workflows", "steps") == 0


def test_that_a_workflow_was_deleted_does_not_harm_another_of_its_id(rigs: Make) -> None:
    """Its owner reads of it late, when it has started another under the same id."""
    rig, client = rigs(d), rigs(d, works=False)
    begun(rig, chain(), id="w")
    (old,) = rig.runner.open
    cleanup(client, "w", force=True)
    store, rig.store.has_changed = rig.store.has_changed, lambda: False  # type: ignore[method-assign]
    rig.ask_start(chain(), id="w")
    rig.settle()
    rig.store.has_changed = store  # type: ignore[method-assign]
    rig.settle()
    assert rig.runner.cancelled == [old]
    rig.runner.end(Canceled(), old)
    finish_chain(rig, "1", "2")
    assert rig.outcome("w") == [1, 2]


def test_one_that_nobody_owns_any_more_is_deleted(rigs: Make) -> None:
    """Its worker died, and nobody has taken it over."""
    rig, client = rigs(d), rigs(d, works=False)
    w = begun(rig, chain())
    rig.die()
    assert cleanup(client, w, force=True) is True
    third = rigs(d)
    third.settle()
    assert count(third, "workflows", "steps", "inbox") == 0


def test_a_blocked_workflow_is_deleted(rigs: Make) -> None:
    """Its code need not fit, nor be known."""
    rig = rigs(d)
    w = begun(rig, chain())
    rig.close()
    stranger = rigs(Definer())
    stranger.settle()
    assert cleanup(stranger, w, force=True) is True
    assert ids(stranger) == set()


def test_a_parent_hears_that_its_child_was_deleted(rigs: Make) -> None:
    """The child was canceled first, and that is what its parent learns."""
    rig, client = rigs(d), rigs(d, works=False)
    w = begun(rig, parent("kid"))
    assert cleanup(client, "kid", force=True) is True
    rig.settle()
    assert rig.outcome(w) == "canceled"
    assert ids(rig) == {w}


def test_a_deleted_child_s_outcome_is_kept(rigs: Make) -> None:
    """Its parent had heard it; and a worker that has not read it yet still finds it."""
    rig, client = rigs(d), rigs(d, works=False)
    w = begun(rig, parent("kid"))
    client.ask_event("go", "kid", 5)
    client.settle()
    while rig.outcome("kid") is None:
        rig.turn()
    assert cleanup(client, "kid") is True
    rig.settle()
    assert rig.outcome(w) == 5


# --- wide and deep --------------------------------------------------------------------------------


@d.workflow
async def wide(step: Step, count: int) -> int:
    children = [step.run_workflow(waiting()) for _ in range(count)]
    return len([await child for child in children])


@d.workflow
async def deep(step: Step, levels: int) -> object:
    if levels == 0:
        return await step.await_event("go")
    return await step.run_workflow(deep(levels - 1), workflow_id=f"level{levels - 1}")


def test_a_wide_tree_is_restarted_and_deleted(rigs: Make) -> None:
    """Two thousand children go on, are started anew, and are deleted."""
    rig = rigs(d)
    w = begun(rig, wide(2_000))
    running = "workflows WHERE status = 'in_progress'"
    cancel(rig, w)
    assert count(rig, running) == 0
    restart(rig, w)
    assert count(rig, running) == 2_001
    cancel(rig, w)
    restart(rig, w, 0)
    assert count(rig, running) == 2_001
    assert cleanup(rig, w, force=True) is True
    assert count(rig, "workflows", "steps", "events") == 0


def test_a_deep_tree_is_restarted_and_deleted(rigs: Make) -> None:
    """As deep as children may be: the outcome of the lowest reaches the top."""
    rig = rigs(d)
    top = begun(rig, deep(63))
    cancel(rig, top)
    restart(rig, top)
    send(rig, "level0", 1)
    assert rig.outcome(top) == 1
    restart(rig, top, 0)
    assert rig.state("level0").status == "in_progress"
    assert cleanup(rig, top, force=True) is True
    assert count(rig, "workflows", "steps", "events") == 0
