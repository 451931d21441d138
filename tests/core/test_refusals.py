"""What a workflow's event loop refuses, and that the texts name the remedy."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

import pytest

from perdure.core.loop import WorkflowLoop
from perdure.errors import DeterminismError

START = 1_700_000_000_000


def started(
    main: Callable[[], Coroutine[Any, Any, Any]], workflow_id: str = "w"
) -> tuple[WorkflowLoop, asyncio.Task[Any]]:
    """A loop whose first task runs `main()`, advanced until it blocks."""
    loop = WorkflowLoop(workflow_id, START)
    with loop.entered():
        task = loop.create_task(main(), context=Context())
        loop.drain()
    return loop, task


@pytest.mark.parametrize(
    ("call", "advice"),
    [
        (lambda loop: loop.run_in_executor(None, print), "step.run_action"),
        (lambda loop: loop.call_soon_threadsafe(print), "send_event"),
        (lambda loop: loop.create_connection(None, "h", 1), "step.run_action"),
        (lambda loop: loop.getaddrinfo("h", 1), "step.run_action"),
        (lambda loop: loop.subprocess_exec(None, "ls"), "step.run_action"),
        (lambda loop: loop.add_reader(0, print), "step.run_action"),
        (lambda loop: loop.add_signal_handler(2, print), "event"),
        (lambda loop: loop.run_forever(), "just await"),
        (lambda loop: loop.run_until_complete(None), "just await"),
        (lambda loop: loop.stop(), "just await"),
        (lambda loop: loop.set_task_factory(None), "create_task"),
    ],
)
def test_refused_calls_name_themselves_and_the_remedy(
    call: Callable[[WorkflowLoop], Any], advice: str
) -> None:
    """What a replay could not repeat raises DeterminismError that says what to do instead."""
    with pytest.raises(DeterminismError, match=r"loop\.\w+\(\).*workflow 'w'") as caught:
        call(WorkflowLoop("w", START))
    assert advice in str(caught.value)


def test_every_method_of_a_loop_works_or_is_refused() -> None:
    """None of the abstract methods of this Python's loop is left as NotImplementedError."""
    left = [
        name
        for name in dir(asyncio.AbstractEventLoop)
        if not name.startswith("_")
        and getattr(WorkflowLoop, name) is getattr(asyncio.AbstractEventLoop, name)
    ]
    assert left == []


def test_threads_are_refused_in_a_handler() -> None:
    """asyncio.to_thread fails in the handler, with the text that names actions."""

    async def main() -> None:
        await asyncio.to_thread(print)

    error = started(main)[1].exception()
    assert isinstance(error, DeterminismError)
    assert "run_in_executor" in str(error)


def test_another_thread_cannot_reach_in() -> None:
    """call_soon_threadsafe is refused in whatever thread, while the handler is parked too."""
    loop = WorkflowLoop("w", START)
    errors: list[BaseException] = []

    def other() -> None:
        try:
            loop.call_soon_threadsafe(print)
        except DeterminismError as error:
            errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(errors) == 1


def test_as_completed_over_coroutines_is_refused() -> None:
    """It starts them in the order of a set of coroutines, which differs from run to run."""

    async def main() -> None:
        for first in asyncio.as_completed([asyncio.sleep(0)]):
            await first

    error = started(main)[1].exception()
    assert isinstance(error, DeterminismError)
    assert "create_task" in str(error)
