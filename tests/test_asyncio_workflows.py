"""Plain asyncio in workflows, through the public door, live and replayed.

Each test is one body, run to its end, then run again over its journal by a manager that was opened
anew: both times it must give the same. `hang` never ends, so what is beside it cannot have waited.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest
from tests.bodies import App, play
from tests.managers import LONG

from perdure import Step, StepFailed


def test_wait_gives_the_first_that_has_ended(address: str) -> None:
    """The one that was called first hangs; the other reaches the handler, and the loser is
    canceled with its step."""

    async def body(step: Step, app: App) -> Any:
        slow, fast = step.run_action(app.hang()), step.run_action(app.echo("fast"))
        done, late = await asyncio.wait({slow, fast}, return_when=asyncio.FIRST_COMPLETED)
        assert late == {slow}
        slow.cancel()
        return [future.result() for future in done]

    value, steps = play(address, body)
    assert value == ["fast"]
    assert steps["canceled"] == ["hang"]


def test_wait_until_the_first_exception(address: str) -> None:
    """FIRST_EXCEPTION ends with a failed step, though another hangs."""

    async def body(step: Step, app: App) -> Any:
        futures = [step.run_action(app.hang()), step.run_action(app.fail("no"))]
        done, late = await asyncio.wait(futures, return_when=asyncio.FIRST_EXCEPTION)
        for future in late:
            future.cancel()
        return [str(future.exception()) for future in done]

    assert play(address, body)[0] == ["step fail failed: OSError: no"]


def test_as_completed_gives_values_as_they_come(address: str) -> None:
    """Over steps: those that end are given, though the first of them hangs."""

    async def body(step: Step, app: App) -> Any:
        hanging = step.run_action(app.hang())
        several = [hanging, *[step.run_action(app.echo(n)) for n in range(3)]]
        values = []
        for next_one in asyncio.as_completed(several):
            values.append(await next_one)
            if len(values) == 3:
                break
        hanging.cancel()
        return values

    value, _ = play(address, body)
    assert sorted(value) == [0, 1, 2]


def test_a_failing_member_ends_its_group(address: str) -> None:
    """TaskGroup: its siblings are cancelled and with them their steps; the error is a group."""

    async def body(step: Step, app: App) -> Any:
        told: list[str] = []
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_await(step.run_action(app.hang())))
                group.create_task(_await(step.run_action(app.fail("bad"))))
        except* StepFailed as several:
            told += map(str, several.exceptions)
        return told

    value, steps = play(address, body)
    assert value == ["step fail failed: OSError: bad"]
    assert steps["canceled"] == ["hang"]


async def _await(future: Awaitable[Any]) -> Any:
    return await future


def test_gather_returns_exceptions(address: str) -> None:
    """`return_exceptions=True` gives failures as values, in the order of the calls."""

    async def body(step: Step, app: App) -> Any:
        several = [step.run_action(app.fail("a")), step.run_action(app.echo("b"))]
        found = await asyncio.gather(*several, return_exceptions=True)
        return [type(each).__name__ for each in found]

    assert play(address, body)[0] == ["StepFailed", "str"]


def test_deadlines(address: str) -> None:
    """`timeout`, `timeout_at` and `wait_for` end what hangs, and cancel its step."""

    async def body(step: Step, app: App) -> Any:
        told = []
        try:
            async with asyncio.timeout(0.01):
                await step.run_action(app.hang())
        except TimeoutError:
            told.append("timeout")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(loop.time() + 0.01):
                await step.await_event("never")
        except TimeoutError:
            told.append("timeout_at")
        try:
            await asyncio.wait_for(step.run_action(app.hang()), 0.01)
        except TimeoutError:
            told.append("wait_for")
        told.append(await asyncio.wait_for(step.run_action(app.echo("in time")), 3600))
        return told

    value, steps = play(address, body)
    assert value == ["timeout", "timeout_at", "wait_for", "in time"]
    assert steps["canceled"] == ["hang", "never", "hang"]


def test_a_shield_keeps_a_step_going(address: str) -> None:
    """The deadline is over, the step is not; its value comes later."""

    async def body(step: Step, app: App) -> Any:
        asked = step.await_event("answer")
        try:
            await asyncio.wait_for(asyncio.shield(asked), 0.01)
        except TimeoutError:
            await step.run_mutation(app.poke("answer", 42))
        return await asked

    assert play(address, body)[0] == 42


def test_queue_lock_semaphore_event_condition_barrier(address: str) -> None:
    """Tasks of one workflow meet by asyncio's own tools."""

    async def body(step: Step, app: App) -> Any:
        queue: asyncio.Queue[Any] = asyncio.Queue(1)
        lock, semaphore, ready = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Event()
        condition, barrier = asyncio.Condition(), asyncio.Barrier(3)
        inside = most = 0
        told: list[Any] = []

        async def work(number: int) -> None:
            nonlocal inside, most
            await ready.wait()
            async with semaphore:
                inside += 1
                most = max(most, inside)
                value = await step.run_action(app.echo(number))
                inside -= 1
            async with lock:
                await queue.put(value)
            await barrier.wait()
            async with condition:
                told.append("met")
                condition.notify_all()

        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(work(number))
            await step.run_action(app.echo("first"))
            ready.set()
            values = [await queue.get() for _ in range(3)]
            async with condition:
                await condition.wait_for(lambda: len(told) == 3)
        return [sorted(values), most]

    assert play(address, body)[0] == [[0, 1, 2], 2]


def test_sleep_and_call_later_are_durable_timers(address: str) -> None:
    """They fire in their order, by the recorded time, and are no steps."""

    async def body(step: Step, app: App) -> Any:
        loop = asyncio.get_running_loop()
        told: list[Any] = []
        begun = loop.time()
        loop.call_later(0.002, told.append, "call_later")
        loop.call_at(begun + 0.004, told.append, "call_at")
        loop.call_later(0.003, told.append, "cancelled").cancel()
        frozen = loop.time() == begun
        await asyncio.sleep(0.006)
        return [*told, frozen, loop.time() >= begun + 0.006]

    value, steps = play(address, body)
    assert value == ["call_later", "call_at", True, True]
    assert steps == {"success": ["over"]}


def test_contextvars_and_async_generators(address: str) -> None:
    """A task has its own context; a generator may await steps and is closed where it is left."""
    place: ContextVar[str] = ContextVar("place", default="nowhere")
    place.set("the host's")

    async def body(step: Step, app: App) -> Any:
        told = [place.get()]

        async def numbers() -> AsyncGenerator[int, None]:
            try:
                for number in range(9):
                    yield await step.run_action(app.echo(number))
            finally:
                told.append("closed")

        async def task() -> None:
            place.set("mine")
            await step.run_action(app.echo(0))
            told.append(place.get())

        await asyncio.gather(task(), task())
        async with contextlib.aclosing(numbers()) as stream:
            async for number in stream:
                if number == 2:
                    break
        return [*told, place.get()]

    assert play(address, body)[0] == ["nowhere", "mine", "mine", "closed", "nowhere"]


def test_nested_tasks_and_groups_of_errors(address: str) -> None:
    """Groups within groups: each failure is told, with its place in the tree of errors."""

    async def body(step: Step, app: App) -> Any:
        async def inner(text: str) -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(_await(step.run_action(app.fail(text))))

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(inner("deep"))
                group.create_task(_await(step.run_action(app.hang())))
        except ExceptionGroup as outer:
            (middle,) = outer.exceptions
            assert isinstance(middle, ExceptionGroup)
            return [str(error) for error in middle.exceptions]

    assert play(address, body)[0] == ["step fail failed: OSError: deep"]


def test_cancelling_a_task_cancels_its_step(address: str) -> None:
    """The task may clean up, with steps too."""

    async def body(step: Step, app: App) -> Any:
        told = []

        async def work() -> None:
            try:
                await step.run_action(app.hang())
            except asyncio.CancelledError:
                told.append(await step.run_action(app.echo("cleaned up")))
                raise

        task = asyncio.create_task(work())
        await step.run_action(app.echo("meanwhile"))
        task.cancel("enough")
        await asyncio.wait([task])
        return [*told, task.cancelled()]

    value, steps = play(address, body)
    assert value == ["cleaned up", True]
    assert steps["canceled"] == ["hang"]


def test_what_nobody_awaits_is_cancelled_at_the_end(address: str) -> None:
    """The workflow ends with its result; a step and a task that are left behind are cancelled."""

    async def body(step: Step, app: App) -> Any:
        return None

    app = App(address, body)
    cleaned: list[str] = []

    @app.manager.workflow
    async def careless(step: Step) -> str:
        async def beside() -> None:
            try:
                await step.await_event("never")
            finally:
                cleaned.append("task")

        task = asyncio.create_task(beside())
        step.run_action(app.hang())
        step.sleep(3600)
        await step.run_action(app.echo(1))
        assert not task.done()
        return "done"

    sync = app.manager.sync
    sync.start(careless(), id="wf")
    sync.close()
    app.manager.run(until_idle=True)  # it would wait for the sleep, and for the hanging attempt
    assert sync.result("wf", timeout=LONG) == "done"
    assert sorted(app.steps()["canceled"]) == ["hang", "never", "sleep"]
    assert cleaned == ["task"]
    sync.close()


async def _nothing() -> None:
    pass


RUNNERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "asyncio.run": (asyncio.run, "RuntimeError: asyncio.run() cannot"),
    "Runner.run": (lambda coro: asyncio.Runner().run(coro), "RuntimeError: Runner.run() cannot"),
    "run_until_complete": (
        lambda coro: asyncio.get_running_loop().run_until_complete(coro),
        "DeterminismError: loop.run_until_complete() in the handler of workflow 'wf'",
    ),
    "run_in_executor": (
        lambda coro: asyncio.get_running_loop().run_in_executor(None, print),
        "DeterminismError: loop.run_in_executor() in the handler of workflow 'wf'",
    ),
    "call_soon_threadsafe": (
        lambda coro: asyncio.get_running_loop().call_soon_threadsafe(print),
        "DeterminismError: loop.call_soon_threadsafe() in the handler of workflow 'wf'",
    ),
}


@pytest.mark.parametrize("what", RUNNERS)
def test_another_loop_is_refused(what: str, address: str) -> None:
    """The handler can catch the error, and goes on."""
    call, message = RUNNERS[what]

    async def body(step: Step, app: App) -> Any:
        coro = _nothing()
        try:
            call(coro)
        except Exception as error:
            await step.run_action(app.echo("goes on"))
            return f"{type(error).__name__}: {error}"
        finally:
            coro.close()

    value, _ = play(address, body)
    assert value is not None
    assert value.startswith(message)


def test_to_thread_is_refused(address: str) -> None:
    """With the remedy: a plain `def` action."""

    async def body(step: Step, app: App) -> Any:
        try:
            await asyncio.to_thread(print)
        except Exception as error:
            return str(error)

    assert "a plain `def` action runs in a thread" in play(address, body)[0]


def test_the_outcome_of_a_step_cannot_be_made_up(address: str) -> None:
    """As with a task: an error at the call, and the step ends as it does."""

    async def body(step: Step, app: App) -> Any:
        future: Any = step.run_action(app.echo("real"))
        with pytest.raises(RuntimeError, match="ends with the outcome of its step"):
            future.set_result("made up")
        with pytest.raises(RuntimeError, match="ends with the outcome of its step"):
            future.set_exception(ValueError("made up"))
        return await future

    value, _ = play(address, body)
    assert value == "real"
