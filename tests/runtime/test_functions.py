"""Queries, mutations and `on_complete` inside a transaction."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.runtime.harness import Rig

from perdure.codec import plain
from perdure.core.outcomes import Failed
from perdure.definitions import Definer
from perdure.errors import PerdureError
from perdure.runtime.contexts import MutationContext, QueryContext
from perdure.step import Step

Make = Callable[..., Rig]
d = Definer()
kept: list[MutationContext] = []


@d.mutation
def keep(ctx: MutationContext) -> None:
    kept.append(ctx)


@d.mutation
def lie(ctx: MutationContext) -> int:
    ctx.db.execute("INSERT INTO notes VALUES ('undone')")
    return "text"  # type: ignore[return-value]


@d.mutation
def leave(ctx: MutationContext) -> None:
    ctx.db.execute("INSERT INTO notes VALUES ('undone')")
    raise SystemExit(3)


@d.mutation
def commit(ctx: MutationContext) -> None:
    ctx.db.commit()


@d.query
def sneak(ctx: QueryContext) -> None:
    ctx.db.execute("INSERT INTO notes VALUES ('undone')")


@d.query
def count(ctx: QueryContext) -> int:
    return int(ctx.db.execute("SELECT count(*) FROM notes").fetchone()[0])


@d.mutation
def start_and_fail(ctx: MutationContext, fails: bool) -> None:
    workflow_id = ctx.start(counting(), id="started")
    ctx.send_event("go", workflow_id=workflow_id)
    if fails:
        raise KeyError("undone")


@d.mutation
def start_carefully(ctx: MutationContext) -> str:
    """Catches what a verb raises, and goes on: nothing of the failed verb is kept."""
    try:
        ctx.cancel("nobody")
    except PerdureError:
        return ctx.start(counting(), id="careful")
    return ""


@d.workflow
async def counting(step: Step) -> int:
    return await step.run_query(count())


@d.workflow
async def running(step: Step, name: str) -> None:
    calls = {"lie": lie(), "leave": leave(), "commit": commit()}
    await (step.run_query(sneak()) if name == "sneak" else step.run_mutation(calls[name]))


@pytest.fixture
def rig(rigs: Make) -> Rig:
    made = rigs(d)
    made.rows("CREATE TABLE notes (text TEXT)")
    return made


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("lie", "ValidationError"),
        ("leave", "SystemExit"),
        ("commit", "ConnectionMisuse"),
        ("sneak", "ConnectionMisuse"),
    ],
)
def test_what_a_function_must_not_do_fails_its_step(rig: Rig, name: str, error: str) -> None:
    """A wrong result, an exit, a commit, a write in a query: the step fails, nothing is kept."""
    workflow_id = rig.start(running(name))
    rig.settle()
    outcome = rig.state(workflow_id).outcome
    assert isinstance(outcome, Failed)
    assert f"failed: {error}" in outcome.error.message
    assert rig.rows("SELECT * FROM notes") == []


def test_a_context_ends_with_its_function(rig: Rig) -> None:
    """A context that was kept is of no use later, when other transactions run."""
    rig.value(rig.done(rig.ask_run(keep())))
    context = kept.pop()
    for use in (lambda: context.db, lambda: context.cancel("x")):
        with pytest.raises(PerdureError, match="after its function had ended"):
            use()


@pytest.mark.parametrize("fails", [True, False])
def test_verbs_take_part_in_the_transaction(rig: Rig, fails: bool) -> None:
    """What a mutation starts and sends happens with it, or not at all."""
    reply = rig.ask_run(start_and_fail(fails))
    rig.settle()
    assert isinstance(reply.error, KeyError) == fails
    assert rig.rows("SELECT count(*) FROM perdure_events") == [(int(not fails),)]
    found = rig.store.reader().states(["started"])
    assert [state.status for state in found] == ([] if fails else ["success"])


def test_a_verb_that_fails_may_be_caught(rig: Rig) -> None:
    """The mutation goes on; what it does then is kept."""
    reply = rig.done(rig.ask_run(start_carefully()))
    assert plain(rig.value(reply)) == "careful"
    assert rig.outcome("careful") == 0
