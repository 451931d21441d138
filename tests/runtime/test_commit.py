"""The commit: one transaction for many, in which nobody's function harms anybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.runtime.harness import Rig

from perdure.core.outcomes import Canceled, Failed
from perdure.definitions import Definer
from perdure.errors import DefinitionError
from perdure.records import Outcome
from perdure.runtime.contexts import ActionContext, MutationContext, QueryContext
from perdure.runtime.requests import RunFunction
from perdure.step import Step

Make = Callable[..., Rig]
d = Definer()


@d.mutation
def note(ctx: MutationContext, text: str) -> str:
    ctx.db.execute("INSERT INTO notes VALUES (?)", (text,))
    return text


@d.mutation
def note_and_raise(ctx: MutationContext, text: str) -> None:
    ctx.db.execute("INSERT INTO notes VALUES (?)", (text,))
    raise KeyError(text)


@d.mutation
def roll_back(ctx: MutationContext) -> None:
    """Ends the transaction for everybody: SQLite rolls it back."""
    ctx.db.execute("INSERT OR ROLLBACK INTO notes VALUES ('taken')")


@d.mutation
def orphan(ctx: MutationContext) -> None:
    """Leaves what only the commit finds out: a deferred foreign key without its parent."""
    ctx.db.execute("INSERT INTO children VALUES ('nobody')")


@d.mutation
def cancel(ctx: MutationContext, workflow_id: str) -> None:
    ctx.cancel(workflow_id)


@d.mutation
def cancel_and_raise(ctx: MutationContext, workflow_id: str) -> None:
    ctx.cancel(workflow_id)
    raise KeyError(workflow_id)


@d.query
def count_notes(ctx: QueryContext) -> int:
    row = ctx.db.execute("SELECT count(*) FROM notes").fetchone()
    return int(row[0])


@d.workflow
async def noting(step: Step, text: str) -> str:
    return await step.run_mutation(note(text))


@d.workflow
async def running(step: Step, name: str) -> object:
    call = {"raise": note_and_raise("undone"), "rollback": roll_back(), "orphan": orphan()}[name]
    return await step.run_mutation(call)


@d.workflow
async def canceling(step: Step, workflow_id: str, fails: bool = False) -> None:
    await step.run_mutation(cancel_and_raise(workflow_id) if fails else cancel(workflow_id))


@d.workflow
async def canceling_itself(step: Step) -> None:
    await asyncio.gather(
        step.run_mutation(cancel(step.workflow_id)), step.run_mutation(note("after the cancel"))
    )


@d.workflow
async def waiting(step: Step) -> None:
    await step.await_event("never")


@d.workflow
async def parent(step: Step) -> None:
    await step.run_workflow(waiting())


@d.workflow
async def changing_its_mind(step: Step) -> None:
    """It cancels its child, and does not end by that."""
    child = step.run_workflow(waiting())
    await step.sleep(1)
    child.cancel()
    await step.await_event("never")


@d.workflow
async def impatient(step: Step) -> None:
    child = step.run_workflow(changing_its_mind())
    await step.sleep(1)
    child.cancel()


@d.workflow
async def counting(step: Step) -> int:
    return await step.run_query(count_notes(), inline=True)


@d.action
async def act(ctx: ActionContext) -> None: ...


@d.workflow
async def acting(step: Step) -> None:
    await step.run_action(act())
    await step.run_action(act())


@d.mutation
def record_end(ctx: MutationContext, workflow_id: str, outcome: Outcome, context: str) -> None:
    ctx.db.execute("INSERT INTO notes VALUES (?)", (f"{workflow_id} {outcome.kind} {context}",))


@d.mutation
def end_badly(ctx: MutationContext, workflow_id: str, outcome: Outcome, context: str) -> None:
    ctx.db.execute("INSERT INTO notes VALUES ('half an end')")
    if context == "raise":
        raise ValueError("no")
    if context == "rollback":
        ctx.db.execute("INSERT OR ROLLBACK INTO notes VALUES ('taken')")
    ctx.db.execute("INSERT INTO children VALUES ('nobody')")


@pytest.fixture
def rig(rigs: Make) -> Rig:
    made = rigs(d)
    made.rows("CREATE TABLE notes (text TEXT PRIMARY KEY)")
    made.rows(
        "CREATE TABLE children (of TEXT REFERENCES notes (text) DEFERRABLE INITIALLY DEFERRED)"
    )
    made.rows("INSERT INTO notes VALUES ('taken')")
    made.settle()
    return made


def notes(rig: Rig) -> list[str]:
    return [text for (text,) in rig.rows("SELECT text FROM notes ORDER BY text") if text != "taken"]


@pytest.mark.parametrize(
    ("name", "error"),
    [("raise", "KeyError"), ("rollback", "TransactionLost"), ("orphan", "TransactionLost")],
)
def test_a_function_that_fails_leaves_nothing(rig: Rig, name: str, error: str) -> None:
    """Its step fails with what it did wrong; its neighbours in the transaction keep theirs."""
    before, bad, after = (
        rig.ask_start(call) for call in (noting("before"), running(name), noting("after"))
    )
    rig.settle()
    assert notes(rig) == ["after", "before"]
    assert [rig.outcome(rig.value(reply)) for reply in (before, after)] == ["before", "after"]
    outcome = rig.state(rig.value(bad)).outcome
    assert isinstance(outcome, Failed)
    assert f"failed: {error}" in outcome.error.message
    assert len(rig.steps(rig.value(bad))) == 1


@pytest.mark.parametrize("name", ["raise", "rollback", "orphan"])
def test_a_request_that_fails_leaves_nothing(rig: Rig, name: str) -> None:
    """A mutation from outside that spoils the batch is told so; the others are carried out."""
    call = {"raise": note_and_raise("undone"), "rollback": roll_back(), "orphan": orphan()}[name]
    before, bad, after = rig.ask_run(note("1")), rig.ask_run(call), rig.ask_start(noting("2"))
    rig.settle()
    assert notes(rig) == ["1", "2"]
    assert rig.value(before) == '"1"'
    assert bad.error is not None
    assert rig.outcome(rig.value(after)) == "2"


def test_a_statement_that_ended_the_transaction_is_named(rig: Rig) -> None:
    """Whoever called it from outside reads which statement it was."""
    reply = rig.ask_run(roll_back())
    rig.settle()
    assert "INSERT OR ROLLBACK INTO notes" in str(reply.error)


def test_an_inline_query_sees_the_same_transaction(rig: Rig) -> None:
    """A function reads what was written before it in the batch."""
    reply = rig.ask_run(note("1"))
    rig.settle()
    counted = rig.ask_start(counting())
    rig.settle()
    assert rig.value(reply) == '"1"'
    assert rig.outcome(rig.value(counted)) == 2


# --- on_complete


def test_on_complete_runs_once_with_the_outcome(rig: Rig) -> None:
    """It sees the id, the outcome and its context, in the transaction of the end."""
    workflow_id = rig.start(noting("x"), on_complete=record_end, context="ctx")
    rig.settle()
    assert notes(rig) == [f"{workflow_id} success ctx", "x"]


@d.mutation
def end_with_what_is_no_number(ctx: MutationContext, workflow_id: str, outcome: Outcome) -> int:
    ctx.db.execute("INSERT INTO notes VALUES (?)", (outcome.kind,))
    return object()  # type: ignore[return-value]


def test_what_an_on_complete_returns_is_dropped(rig: Rig) -> None:
    """Nobody gets it, so nothing is expected of it: its writes stay, and it has not failed."""
    workflow_id = rig.start(noting("x"), on_complete=end_with_what_is_no_number)
    rig.settle()
    assert notes(rig) == ["success", "x"]
    assert rig.state(workflow_id).on_complete_error is None


def test_on_complete_runs_when_a_client_cancels(rigs: Make, rig: Rig) -> None:
    """The canceling process runs it itself, in the transaction of the cancel."""
    client = rigs(d, works=False)
    workflow_id = rig.start(waiting(), on_complete=record_end, context="ctx")
    rig.settle()
    client.done(client.ask_cancel(workflow_id))
    assert notes(rig) == [f"{workflow_id} canceled ctx"]


@pytest.mark.parametrize("how", ["raise", "rollback", "orphan"])
def test_a_failing_on_complete_changes_no_outcome(rig: Rig, how: str) -> None:
    """Its writes are undone, its error is kept, and the workflow ends as it ended."""
    other = rig.ask_start(noting("other"))
    workflow_id = rig.start(noting("x"), on_complete=end_badly, context=how)
    rig.settle()
    assert rig.outcome(workflow_id) == "x"
    error = rig.state(workflow_id).on_complete_error
    assert error is not None
    assert error.type == ("ValueError" if how == "raise" else "TransactionLost")
    assert notes(rig) == ["other", "x"]
    assert rig.outcome(rig.value(other)) == "other"


@pytest.mark.parametrize("how", ["raise", "rollback", "orphan"])
def test_a_failing_on_complete_does_not_stop_a_cancel(rig: Rig, how: str) -> None:
    """The workflow is canceled, whatever its callback does to the transaction."""
    workflow_id = rig.start(waiting(), on_complete=end_badly, context=how)
    rig.settle()
    rig.done(rig.ask_cancel(workflow_id))
    assert rig.state(workflow_id).status == "canceled"
    assert rig.state(workflow_id).on_complete_error is not None
    assert notes(rig) == []


def test_an_unknown_on_complete_is_waited_for(rigs: Make, rig: Rig) -> None:
    """A worker that does not know the callback does not end the workflow: one that does will."""
    workflow_id = rig.start(waiting(), on_complete=record_end, context="ctx")
    rig.settle()
    rig.rows("UPDATE perdure_workflows SET on_complete = 'gone'")
    rig.done(rig.ask_event("never", workflow_id))
    blocked = rig.state(workflow_id).blocked
    assert rig.state(workflow_id).status == "in_progress"
    assert blocked is not None
    assert blocked.error.type == "DefinitionError"
    name = record_end.name
    rig.rows("UPDATE perdure_workflows SET on_complete = ?", name)
    rig.pass_time(1000)
    assert rig.state(workflow_id).status == "success"
    assert len(notes(rig)) == 1


def test_a_cancel_without_its_on_complete_changes_nothing(rigs: Make, rig: Rig) -> None:
    """A process that does not know the callback cannot cancel: nothing at all is written."""
    workflow_id = rig.start(waiting(), on_complete=record_end, context="ctx")
    rig.settle()
    client = rigs(Definer(), works=False)
    reply = client.done(client.ask_cancel(workflow_id))
    assert isinstance(reply.error, DefinitionError)
    assert rig.state(workflow_id).status == "in_progress"
    assert rig.steps(workflow_id) == [("never", "asked", None)]


# --- canceled inside the same transaction


def test_a_mutation_that_cancels_its_own_workflow(rig: Rig) -> None:
    """After the cancel nothing of the workflow happens, not even in the same transaction."""
    workflow_id = rig.start(canceling_itself())
    rig.settle()
    assert rig.outcome(workflow_id) == Canceled()
    assert notes(rig) == []
    assert [kind for _, _, kind in rig.steps(workflow_id)] == ["canceled", "canceled"]


def test_a_child_is_not_started_for_a_canceled_parent(rig: Rig) -> None:
    """A workflow canceled by a mutation of the same batch leaves no orphan."""
    rig.ask_start(canceling("victim"))
    rig.ask_start(parent(), id="victim")
    rig.settle()
    assert rig.rows("SELECT id FROM perdure_workflows WHERE status = 'in_progress'") == []
    assert rig.outcome("victim") == Canceled()


def test_what_a_workflow_cancelled_ends_though_it_is_canceled_in_the_same_commit(rig: Rig) -> None:
    """Its own record has the cancel already, so that whoever cancels it finds no child."""
    rig.start(impatient())
    rig.settle()
    rig.clock.advance(1000)
    rig.settle()
    statuses = rig.rows("SELECT status FROM perdure_workflows ORDER BY seq")
    assert statuses == [("success",), ("canceled",), ("canceled",)]


def test_a_cancel_that_is_undone_cancels_nothing(rig: Rig) -> None:
    """A mutation that fails after its cancel leaves the other workflow running, here as stored."""
    rig.ask_start(canceling("spared", fails=True))
    rig.ask_start(parent(), id="spared")
    rig.settle()
    assert rig.state("spared").status == "in_progress"
    assert rig.ended_with.get("spared") is None
    assert len(rig.rows("SELECT id FROM perdure_workflows WHERE status = 'in_progress'")) == 2


def test_requests_run_after_the_units(rig: Rig) -> None:
    """A request sees what the workflows of the same batch have written."""
    rig.ask_start(noting("1"))
    reply = rig.ask(RunFunction(count_notes, "{}"))
    rig.turn()
    assert rig.value(reply) == "2"


# --- alone


def test_what_is_rows_of_one_workflow_is_written_alone(rigs: Make, rig: Rig) -> None:
    """An action that follows another; the first one begins, and the last ends, with more."""
    commits = rig.store.commits
    workflow_id = rig.start(acting())
    rig.settle()
    for _ in range(2):
        rig.runner.succeed()
        rig.settle()
    assert rig.state(workflow_id).status == "success"
    assert (rig.store.alone, rig.store.commits - commits) == (1, 3)


def test_what_belongs_to_others_is_not_written_alone(rig: Rig) -> None:
    """Two workflows share a commit; a mutation and mail need a transaction."""
    for _ in range(2):
        rig.ask_start(acting())
    rig.turn()
    for _ in range(2):
        rig.runner.succeed()
    commits = rig.store.commits
    rig.turn()
    assert (rig.store.alone, rig.store.commits - commits) == (0, 1)
    for _ in range(2):
        rig.runner.succeed()
    rig.start(noting("1"))
    rig.settle()
    assert rig.store.alone == 0


def test_a_write_alone_that_is_refused_changes_nothing(rigs: Make, rig: Rig) -> None:
    """The workflow was canceled meanwhile: its actor is dropped, and so is the outcome."""
    workflow_id = rig.start(acting())
    rig.settle()
    client = rigs(d, works=False)
    client.done(client.ask_cancel(workflow_id))
    rig.runner.succeed()
    rig.settle()
    assert rig.store.alone == 0
    assert rig.outcome(workflow_id) == Canceled()
    assert [state for _, state, _ in rig.steps(workflow_id)] == ["settled"]
