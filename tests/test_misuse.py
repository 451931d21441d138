"""Misuse from inside and at the wrong time: in a handler, in a transaction, closed, forked.

The error is raised where the mistake is made, says what to do instead, and nothing is written.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.bad_input import LONG, NAIVE, App, foreign, make_app, rows, run

from perdure import (
    CalledInside,
    MutationContext,
    NotOpen,
    PerdureError,
    Step,
    WorkflowFailed,
)


def _later() -> datetime:
    return datetime(2100, 1, 1, tzinfo=UTC)


#: Mistakes of a handler by name, and how the error that it can catch begins.
MISUSES: dict[str, tuple[Callable[[Step, App], Any], str]] = {
    "run_after and run_at": (
        lambda step, app: step.run_mutation(app.note("x"), run_after=1, run_at=_later()),
        "ValueError: give run_after or run_at, not both",
    ),
    "inline with run_after": (
        lambda step, app: step.run_mutation(app.note("x"), inline=True, run_after=0),
        "ValueError: an inline step runs now: leave out run_after and run_at",
    ),
    "inline with run_at": (
        lambda step, app: step.run_query(app.peek("x"), inline=True, run_at=_later()),
        "ValueError: an inline step runs now: leave out run_after and run_at",
    ),
    "a naive run_at": (
        lambda step, app: step.run_action(app.produce("small"), run_at=NAIVE),
        "ValueError: run_at=datetime.datetime(2030, 1, 1, 0, 0): give a datetime with a time zone",
    ),
    "a naive sleep_until": (
        lambda step, app: step.sleep_until(NAIVE),
        "ValueError: when=datetime.datetime(2030, 1, 1, 0, 0): give a datetime with a time zone",
    ),
    "a negative sleep": (
        lambda step, app: step.sleep(-1),
        "ValueError: duration=-1: a duration cannot be negative",
    ),
    "a sleep of nan": (
        lambda step, app: step.sleep(math.nan),
        "ValueError: duration=nan: a duration must be finite",
    ),
    "a timeout of 0": (
        lambda step, app: step.run_action(app.produce("small"), timeout=0),
        "ValueError: timeout=0: give a duration above 0, or None",
    ),
    "a negative timeout of an event": (
        lambda step, app: step.await_event("e", timeout=-1),
        "ValueError: timeout=-1: a duration cannot be negative",
    ),
    "an event of nothing": (
        lambda step, app: step.await_event(),
        "ValueError: await_event: give an event, a name or an id",
    ),
    "retry by number": (
        lambda step, app: step.run_action(app.produce("small"), retry=3),  # type: ignore[arg-type]
        "TypeError: retry=3: give True, False, None or a RetryPolicy",
    ),
    "a query as an action": (
        lambda step, app: step.run_action(app.peek("x")),
        "TypeError: run_action: peek is a query: use run_query",
    ),
    "a workflow as an action": (
        lambda step, app: step.run_action(app.wait()),
        "TypeError: run_action: wait is a workflow: use run_workflow",
    ),
    "not called": (
        lambda step, app: step.run_mutation(app.note),
        "TypeError: run_mutation(note): call it: run_mutation(note(…))",
    ),
    "another manager's workflow": (
        lambda step, app: step.run_workflow(foreign()),
        "DefinitionError: run_workflow: <workflow foreign",
    ),
    "bad arguments": (
        lambda step, app: step.run_mutation(app.note(5)),
        "ValidationError: arguments of note",
    ),
    "arguments over the limit": (
        lambda step, app: step.run_mutation(app.note("x" * 2000)),
        "LimitExceeded: arguments of note",
    ),
    "unstable_args that only counts as true": (
        lambda step, app: step.run_mutation(app.note("x"), unstable_args=1),  # type: ignore[arg-type]
        "TypeError: unstable_args=1: give True or False",
    ),
    "unstable_args for all steps that only counts as true": (
        lambda step, app: step.with_options(unstable_args="yes"),  # type: ignore[arg-type]
        "TypeError: unstable_args='yes': give True or False",
    ),
    "inline that only counts as true": (
        lambda step, app: step.run_query(app.peek("x"), inline=1),  # type: ignore[arg-type]
        "TypeError: inline=1: give True or False",
    ),
    "a delay that no number holds": (
        lambda step, app: step.run_mutation(app.note("x"), run_after=timedelta.max),
        "ValueError: run_after=datetime.timedelta",
    ),
    "an empty name": (
        lambda step, app: step.run_mutation(app.note("x"), name=""),
        "ValueError: name='': give at least one character",
    ),
    "a child's id that is too long": (
        lambda step, app: step.run_workflow(app.wait(), workflow_id="x" * 201),
        "LimitExceeded: workflow_id='xxx",
    ),
}


@pytest.fixture
def app(tmp_path: Path) -> App:
    return make_app(tmp_path / "app.db", MISUSES)


@pytest.mark.parametrize("label", MISUSES)
def test_a_bad_step_is_refused_at_the_call(label: str, app: App) -> None:
    """A handler can catch the error where it made the mistake, and no step was journaled."""

    async def test() -> Any:
        text = await app.manager.result(await app.manager.start(app.misuse(label)), timeout=LONG)
        assert text.startswith(MISUSES[label][1])
        assert rows(app.path)["perdure_steps"] == 0

    run(app, test, works=True)


@pytest.mark.parametrize(
    ("what", "error", "match"),
    [
        ("large", "LimitExceeded", "result of produce"),
        ("nan", "ValidationError", "result of produce.*nan"),
        ("object", "ValidationError", "result of produce.*object"),
    ],
)
def test_a_result_that_cannot_be_stored_fails_the_step(
    what: str, error: str, match: str, app: App
) -> None:
    """It is the action's mistake: its step fails, with the place and the value in the text."""

    async def test() -> None:
        workflow_id = await app.manager.start(app.parent(what))
        with pytest.raises(WorkflowFailed, match=match):
            await app.manager.result(workflow_id, timeout=LONG)
        (step,) = await app.manager.list_steps(workflow_id)
        assert step.status == "failed"
        assert step.error is not None
        assert step.error.type.rpartition(".")[2] == error

    run(app, test, works=True)


# --- a manager used in the wrong place ------------------------------------------------------------

VERBS: dict[str, Callable[[App], Awaitable[Any]]] = {
    "start": lambda app: app.manager.start(app.wait()),
    "status": lambda app: app.manager.status("a"),
    "result": lambda app: app.manager.result("a"),
    "cancel": lambda app: app.manager.cancel("a"),
    "send_event": lambda app: app.manager.send_event("e", workflow_id="a"),
    "run_query": lambda app: app.manager.run_query(app.peek("x")),
    "run_mutation": lambda app: app.manager.run_mutation(app.note("x")),
    "list_workflows": lambda app: app.manager.list_workflows(),
    "list_steps": lambda app: app.manager.list_steps("a"),
    "config": lambda app: app.manager.config(),
    "update_config": lambda app: app.manager.update_config(max_parallelism=1),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_closed_manager_says_how_to_open_it(verb: str, app: App) -> None:
    """Before it is opened and after it was closed each call names `async with`; no file is made."""

    async def closed() -> None:
        with pytest.raises(NotOpen, match=r"is not open: use `async with manager:`"):
            await VERBS[verb](app)

    asyncio.run(closed())
    assert not app.path.exists()

    async def nothing() -> None: ...

    run(app, nothing)
    asyncio.run(closed())


@pytest.mark.parametrize("verb", VERBS)
def test_the_manager_refuses_to_be_called_inside(verb: str, app: App) -> None:
    """In a transaction each call raises at once, instead of waiting for itself for ever."""

    @app.manager.mutation
    def inside(ctx: MutationContext) -> None:
        asyncio.run(VERBS[verb](app))  # type: ignore[arg-type]

    async def test() -> None:
        before = rows(app.path)
        with pytest.raises(CalledInside, match=r"inside a mutation or query.*ctx\."):
            await app.manager.run_mutation(inside())
        assert rows(app.path) == before

    run(app, test)


@pytest.mark.parametrize("verb", VERBS)
def test_a_handler_may_not_call_the_manager(verb: str, app: App) -> None:
    """In a handler each call raises an error that names the step's verbs; nothing is asked."""

    @app.manager.workflow
    async def calling(step: Step) -> str:
        try:
            await VERBS[verb](app)
        except CalledInside as error:
            return str(error)
        return "no error"

    async def test() -> None:
        workflow_id = await app.manager.start(calling())
        text = await app.manager.result(workflow_id, timeout=LONG)
        assert "inside a workflow: a replay would repeat it; use " in text
        assert "step.run_" in text
        counts = rows(app.path)
        assert (counts["perdure_workflows"], counts["perdure_steps"]) == (1, 0)

    run(app, test, works=True)


def test_a_manager_is_opened_once(app: App) -> None:
    """A second opening, of whatever kind, is refused, and the first goes on."""

    async def test() -> None:
        with pytest.raises(PerdureError, match="is open already"):
            await app.manager.__aenter__()
        with pytest.raises(PerdureError, match="is open already"):
            async with app.manager.client():
                pass
        with pytest.raises(PerdureError, match="is open already"):
            await asyncio.to_thread(app.manager.run)
        assert await app.manager.start(app.wait(), id="a") == "a"

    run(app, test)


def test_what_a_blocking_call_has_opened_in_memory_says_how_to_close_it() -> None:
    """It is not closed for somebody else: what is in it would be gone."""
    app = make_app(Path(":memory:"), MISUSES)
    manager = app.manager
    manager.sync.start(app.wait(), id="a")
    try:
        with pytest.raises(
            PerdureError, match=r"is open already: .* call manager\.sync\.close\(\)"
        ):
            manager.run(until_idle=True)
        with pytest.raises(PerdureError, match=r"call manager\.sync\.close\(\)"), manager.sync:
            pass
        assert manager.sync.status("a").kind == "in_progress"
    finally:
        manager.sync.close()


def test_the_blocking_calls_do_not_block_a_loop(app: App) -> None:
    """`manager.sync` on a running loop says which coroutine to await."""

    async def test() -> None:
        with pytest.raises(PerdureError, match=r"await manager\.status\(…\)"):
            app.manager.sync.status("a")

    run(app, test)


def test_a_fork_does_not_use_its_parents_manager(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that was opened before a fork refuses in the child, and says what to do."""

    async def test() -> None:
        # As it looks to the child; a real fork beside running threads may hang.
        with monkeypatch.context() as patch:
            parent = os.getpid()
            patch.setattr(os, "getpid", lambda: parent + 1)
            with pytest.raises(NotOpen, match="opened before a fork: open one in this process"):
                await app.manager.start(app.wait())
        assert rows(app.path)["perdure_workflows"] == 0

    run(app, test)
