"""What a handler is promised inside, where a replay must not be told from the first run."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.bodies import App, play
from tests.managers import LONG, make
from tests.naming import stable_name

from perdure import (
    ActionContext,
    Canceled,
    InProgress,
    MutationContext,
    QueryContext,
    RetryPolicy,
    Step,
    StepFailed,
    StepNotFound,
    Succeeded,
    WorkflowNotRunning,
)


async def nothing(step: Step, app: App) -> None:
    """A body that is not used."""


class Refused(Exception):
    """What an action declares."""


class Coded(Exception):
    """Its args are not what its constructor takes."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Unkept(Exception):
    """Holds what cannot be stored."""

    def __init__(self, held: object) -> None:
        super().__init__("held")
        self.held = held


def plays_error(address: str, error: Exception) -> list[list[Any]]:
    """What a handler gets of a declared error: class, text, args and attributes, each time that it
    runs up to there."""
    told: list[list[Any]] = []
    attempts: list[int] = []
    app = App(address, nothing)

    @app.manager.action(raises=type(error), retry=RetryPolicy(max_attempts=5))
    async def ask(ctx: ActionContext) -> None:
        attempts.append(ctx.attempt)
        raise error

    @app.manager.workflow
    async def asking(step: Step) -> None:
        try:
            await step.run_action(ask())
        except StepFailed as failed:
            told.append([str(failed)])
        except Exception as caught:
            told.append([type(caught), str(caught), caught.args, vars(caught)])
        await step.await_event("go")

    app.manager.sync.start(asking(), id="wf")
    app.manager.sync.close()
    app.manager.run(until_idle=True)
    app.manager.sync.send_event("go", workflow_id="wf")
    app.manager.sync.close()
    app.manager.run(until_idle=True)
    app.manager.sync.result("wf", timeout=LONG)
    app.manager.sync.close()
    assert attempts == [1], "it is not retried, whatever the policy says"
    return told


@pytest.mark.parametrize(
    "error", [Refused("limit", 100), Coded(5), OSError(2, "gone", "a.txt")], ids=stable_name
)
def test_a_declared_error_is_the_same_on_replay(address: str, error: Exception) -> None:
    """Its class, its text, its arguments and its attributes, as they were raised."""
    expected = [type(error), str(error), error.args, vars(error)]
    assert plays_error(address, error) == [expected] * 2


def test_a_declared_error_that_cannot_be_stored_is_told(address: str) -> None:
    """As a failed step, with the class, the reason and the remedy, the same on replay."""
    ((text,), again) = plays_error(address, Unkept(object()))
    assert again == [text]
    assert text == (
        "step ask failed: Unkept: held (Unkept is declared with raises=, but cannot be raised"
        " again: its attribute `held`: a value of type object cannot be stored as JSON at $:"
        " <object object>. Give it attributes that can be stored, with the names of the parameters"
        " of its __init__, or a __reduce__ that returns (Unkept, (…)))"
    )


def test_options_are_inherited_and_the_original_is_untouched(address: str) -> None:
    """A step with options of one with options has both; each call may have others."""
    app = App(address, nothing)
    twice = RetryPolicy(max_attempts=2, initial_backoff=0.001)

    @app.manager.workflow
    async def trying(step: Step) -> list[int]:
        retried = step.with_options(retry=twice)
        both = retried.with_options(unstable_args=True)
        assert both.workflow_id == step.workflow_id
        counts = []
        for each, options in ((step, {}), (retried, {}), (both, {}), (both, {"retry": False})):
            try:
                await each.run_action(app.fail("no"), **options)  # type: ignore[arg-type]
            except StepFailed as error:
                counts.append(error.attempts)
        return counts

    app.manager.sync.start(trying(), id="wf")
    app.manager.sync.close()
    app.manager.run(until_idle=True)
    assert app.manager.sync.result("wf", timeout=LONG) == [1, 2, 2, 1]
    app.manager.sync.close()


def test_time_stands_still_while_the_code_runs(address: str) -> None:
    """`step.now()` moves on with facts only, and is the same on replay; so are chance and ids."""

    async def body(step: Step, app: App) -> Any:
        first = step.now()
        for _ in range(1_000):
            await asyncio.sleep(0)
        same = step.now() == first
        await step.sleep(0.002)
        ids = [str(step.uuid4()), str(step.with_options(retry=True).uuid4())]
        chance = [step.random.random(), step.with_options().random.random()]
        return [same, step.now() > first, step.now().isoformat(), ids, chance]

    value, _ = play(address, body)
    assert value[:2] == [True, True]
    assert value[3][0] != value[3][1]
    assert value[4][0] != value[4][1]


def test_the_log_of_a_replay_is_silent(address: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each line is told once, though the code runs twice."""
    caplog.set_level(logging.INFO)

    async def body(step: Step, app: App) -> Any:
        step.logger.info("before")
        await step.run_action(app.echo(1))
        step.logger.info("after")

    play(address, body)
    lines = [r.message for r in caplog.records if r.name == "perdure.workflow.scripted"]
    assert lines == ["before", "after"]


def test_inline_steps_run_though_the_pool_is_paused(address: str) -> None:
    """Queries and mutations that are not inline wait, as actions do."""
    app = App(address, nothing, max_parallelism=0)

    @app.manager.query
    def one(ctx: QueryContext) -> int:
        return int(ctx.db.execute("SELECT 1").fetchone()[0])

    @app.manager.workflow
    async def paused(step: Step) -> int:
        value = await step.run_query(one(), inline=True)
        await step.run_mutation(app.poke("word", value), inline=True)
        word: int = await step.await_event("word")
        await step.sleep(0.001)
        await step.run_query(one())
        return word

    async def main() -> None:
        async with app.manager as manager:
            await manager.start(paused(), id="wf")
            with pytest.raises(TimeoutError):
                await manager.result("wf", timeout=0.2)
            steps = await manager.list_steps("wf")
            assert [s.kind for s in steps] == ["query", "mutation", "event", "sleep", "query"]
            assert [s.status for s in steps] == ["success"] * 4 + ["in_progress"]
            await manager.update_config(max_parallelism=1)
            assert await manager.result("wf", timeout=LONG) == 1

    # `poke` sends to the workflow "wf", which is this one.
    asyncio.run(main())


FORBIDDEN: dict[str, Callable[[], Any]] = {
    "socket.socket": socket.socket,
    "subprocess.Popen": lambda: subprocess.run(["true"], check=True),
    "open(": lambda: Path("new file").write_text(""),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_a_replay_would_do_again_is_refused(name: str, address: str) -> None:
    """The error names the call and what to use instead; the handler may catch it and go on."""

    async def body(step: Step, app: App) -> Any:
        try:
            FORBIDDEN[name]()
        except Exception as error:
            return [type(error).__name__, str(error)]

    (kind, text), _ = play(address, body)
    assert kind == "DeterminismError"
    assert name in text
    assert "Instead: " in text


def blocked(address: str) -> Any:
    """A manager whose code the workflow "wf" does not fit."""

    def release(name: str) -> Any:
        manager = make(address)

        @manager.workflow
        async def deployed(step: Step) -> None:
            await step.await_event(name)

        return manager, deployed

    old, deployed = release("old")
    old.sync.start(deployed(), id="wf")
    old.sync.close()
    old.run(until_idle=True)
    old.sync.send_event("old", workflow_id="wf")
    old.sync.close()
    new, _ = release("new")
    new.run(until_idle=True)
    status = new.sync.status("wf")
    assert isinstance(status, InProgress)
    assert status.blocked is not None
    assert "event old" in status.blocked.message
    assert "event new" in status.blocked.message
    return new


def test_a_blocked_workflow_can_be_canceled(address: str) -> None:
    """Code that no longer fits ends nothing, and holds nothing up."""
    new = blocked(address)
    new.sync.cancel("wf")
    assert new.sync.status("wf") == Canceled()
    new.sync.close()


def test_a_blocked_workflow_can_be_restarted(address: str) -> None:
    """From a step that is there, and nobody hears of an end that was none."""
    new = blocked(address)
    with pytest.raises(StepNotFound):
        new.sync.restart("wf", from_step=1)
    new.sync.restart("wf", from_step="old")
    new.sync.send_event("new", workflow_id="wf")
    new.sync.close()
    new.run(until_idle=True)
    assert new.sync.status("wf") == Succeeded(None)
    with pytest.raises(WorkflowNotRunning):
        new.sync.cancel("wf")
    new.sync.close()


def test_a_sleep_may_be_changed_under_a_running_workflow(address: str) -> None:
    """Durations, delays, retries and timeouts are not compared with the journal."""
    seconds = [0.001]

    async def body(step: Step, app: App) -> Any:
        await step.sleep(seconds[0])
        await step.run_action(app.echo(1), timeout=60 * seconds[0] + 60, run_after=seconds[0])
        seconds[0] += 1000
        return "fits"

    assert play(address, body)[0] == "fits"


@pytest.mark.parametrize("by_default", [False, True])
def test_unstable_arguments_are_not_compared(address: str, by_default: bool) -> None:
    """Said of one step or by `with_options`: other arguments fit, and what is recorded counts."""

    def release(number: int) -> Any:
        manager = make(address)

        @manager.mutation
        def double(ctx: MutationContext, n: int) -> int:
            return 2 * n

        @manager.workflow
        async def child(step: Step, n: int) -> int:
            return n

        @manager.workflow
        async def deployed(step: Step) -> list[int]:
            given = None if by_default else True
            lax = step.with_options(unstable_args=True) if by_default else step
            values = [
                await lax.run_mutation(double(number), unstable_args=given),
                await lax.run_workflow(child(number), unstable_args=given),
            ]
            return [*values, await step.await_event("go")]

        return manager, deployed

    old, deployed = release(1)
    old.sync.start(deployed(), id="wf")
    old.sync.close()
    old.run(until_idle=True)
    new, _ = release(2)
    with new.sync as sync:
        sync.send_event("go", workflow_id="wf", value=7)
        assert sync.result("wf", timeout=LONG) == [2, 1, 7]


def test_a_thread_is_refused(address: str) -> None:
    """On every Python, whoever starts it."""

    async def body(step: Step, app: App) -> Any:
        refused = []
        for start in (
            threading.Thread(target=print).start,
            threading.Timer(0, print).start,
            lambda: ThreadPoolExecutor().submit(print),
        ):
            try:
                start()
            except Exception as error:
                refused.append(type(error).__name__)
        return refused

    assert play(address, body)[0] == ["DeterminismError"] * 3
