"""Restarting in the transaction in which a workflow ends; and deleting."""

from __future__ import annotations

from typing import Any

import pytest
from tests.runtime.restarting import (
    Make,
    acting,
    answer,
    begun,
    cancel,
    chain,
    cleanup,
    count,
    d,
    do,
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
)

from perdure.core.outcomes import Canceled
from perdure.definitions import Definer
from perdure.errors import (
    DefinitionError,
)
from perdure.runtime.contexts import MutationContext
from perdure.runtime.orders import cleanup_order
from perdure.step import Step

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
