"""The workflow's event loop by itself: entering, draining, timers, tasks, hashes."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any

import pytest

from perdure.core.limits import SLEEP_MS_MAX
from perdure.core.loop import UNHANDLED_MAX, HandlerSpins, WorkflowLoop

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


def tick(loop: WorkflowLoop, ms: int) -> int:
    """Fire what is due `ms` after the start."""
    with loop.entered():
        return loop.fire_timers(START + ms)


pytestmark = pytest.mark.usefixtures("no_noise")


# ── entering ─────────────────────────────────────────────────────────────────────────────────


def test_entering_makes_it_the_running_loop_and_leaving_ends_that() -> None:
    """Between enter and leave it is the thread's running loop; afterwards there is none."""
    loop = WorkflowLoop("w", START)
    hooks = sys.get_asyncgen_hooks()
    with loop.entered():
        assert asyncio.get_running_loop() is loop
        assert loop.is_running()
    assert asyncio._get_running_loop() is None
    assert not loop.is_running()
    assert sys.get_asyncgen_hooks() == hooks


def test_leaves_when_the_block_raises() -> None:
    """An exception in the block leaves no running loop behind."""
    loop = WorkflowLoop("w", START)
    with pytest.raises(ZeroDivisionError), loop.entered():
        raise ZeroDivisionError
    assert asyncio._get_running_loop() is None
    assert not loop.is_running()


def test_another_workflow_cannot_be_entered_meanwhile() -> None:
    """Handlers do not nest: neither another workflow's loop nor the same one again."""
    loop = WorkflowLoop("w", START)
    other = WorkflowLoop("other", START)
    with loop.entered():
        with pytest.raises(RuntimeError, match="leave that one first"):
            other.enter()
        with pytest.raises(RuntimeError, match="leave that one first"):
            loop.enter()
        assert asyncio.get_running_loop() is loop


def test_works_in_a_callback_of_a_running_loop() -> None:
    """In a plain callback of a running asyncio loop it takes over and gives back."""
    seen: list[Any] = []

    async def handler() -> str:
        await asyncio.sleep(0)
        seen.append(asyncio.get_running_loop())
        return "done"

    def callback(done: asyncio.Future[Any]) -> None:
        outer = asyncio.get_running_loop()
        hooks = sys.get_asyncgen_hooks()
        loop, task = started(handler)
        seen.append(loop)
        assert asyncio.get_running_loop() is outer
        assert sys.get_asyncgen_hooks() == hooks
        done.set_result(task.result())

    async def main() -> Any:
        done = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(callback, done)
        return await done

    assert asyncio.run(main()) == "done"
    assert seen[0] is seen[1]


def test_refuses_to_run_inside_a_task() -> None:
    """Inside a running task of another loop it raises and changes nothing."""

    async def main() -> None:
        outer = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="inside a running asyncio task"):
            WorkflowLoop("w", START).enter()
        assert asyncio.get_running_loop() is outer

    asyncio.run(main())


def test_drain_outside_is_refused() -> None:
    """Without a running loop user code would misbehave: drain() says so instead."""
    with pytest.raises(RuntimeError, match="outside of enter"):
        WorkflowLoop("w", START).drain()


# ── callbacks ────────────────────────────────────────────────────────────────────────────────


def test_callbacks_run_first_in_first_out() -> None:
    """Callbacks run in the order of call_soon, those that they add at the end."""
    loop = WorkflowLoop("w", START)
    ran: list[str] = []

    def first() -> None:
        ran.append("first")
        loop.call_soon(ran.append, "added")

    loop.call_soon(first)
    loop.call_soon(ran.append, "second").cancel()
    loop.call_soon(ran.append, "third")
    assert ran == []
    with loop.entered():
        loop.drain()
    assert ran == ["first", "third", "added"]


def test_call_soon_runs_in_the_given_context() -> None:
    """The callback sees the variables of its context, by default those of the caller."""
    variable: ContextVar[str] = ContextVar("variable", default="none")
    loop = WorkflowLoop("w", START)
    seen: list[str] = []
    token = variable.set("caller")
    loop.call_soon(lambda: seen.append(variable.get()))
    loop.call_soon(lambda: seen.append(variable.get()), context=Context())
    variable.reset(token)
    with loop.entered():
        loop.drain()
    assert seen == ["caller", "none"]


def test_an_endless_loop_is_stopped() -> None:
    """Over the limit of callbacks drain() raises; exactly at the limit it does not."""

    async def forever() -> None:
        while True:  # noqa: ASYNC110 -- it is meant to spin
            await asyncio.sleep(0)

    loop = WorkflowLoop("w", START)
    with loop.entered():
        loop.create_task(forever(), context=Context())
        with pytest.raises(HandlerSpins, match="ran 50 callbacks"):
            loop.drain(50)
    loop.close()

    loop = WorkflowLoop("w", START)
    ran: list[int] = []
    for number in range(50):
        loop.call_soon(ran.append, number)
    with loop.entered():
        loop.drain(50)
    assert len(ran) == 50


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(1)])
def test_a_raising_callback_is_recorded_and_the_rest_runs(error: BaseException) -> None:
    """What a callback raises is recorded in `unhandled` and stops neither drain nor engine."""
    loop = WorkflowLoop("w", START)
    ran: list[str] = []

    def fails() -> None:
        raise error

    loop.call_soon(fails)
    loop.call_soon(ran.append, "next")
    with loop.entered():
        loop.drain()
    assert ran == ["next"]
    assert [report["exception"] for report in loop.unhandled] == [error]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_a_task_that_exits_ends_only_itself(error: BaseException) -> None:
    """SystemExit and KeyboardInterrupt stay in the task that raised them."""

    async def main() -> None:
        raise error

    loop, task = started(main)
    assert task.exception() is error
    assert loop.unhandled == []


def test_an_exception_that_nobody_retrieves_is_recorded_quietly() -> None:
    """Tasks and futures that failed unseen are reported to the loop when they are collected."""

    async def fails() -> None:
        raise ValueError("unseen")

    async def main() -> None:
        asyncio.create_task(fails(), name="lost")  # noqa: RUF006 -- the loop holds it
        asyncio.get_running_loop().create_future().set_exception(KeyError("unseen too"))
        await asyncio.sleep(0)

    loop, task = started(main)
    task.result()
    loop.close()
    del task
    gc.collect()
    assert sorted(type(report["exception"]).__name__ for report in loop.unhandled) == [
        "KeyError",
        "ValueError",
    ]
    assert {report["source"] for report in loop.unhandled} == {"", "lost"}


def test_reports_are_bounded() -> None:
    """A handler that fails all the time does not fill the memory with reports."""
    loop = WorkflowLoop("w", START)
    for _ in range(UNHANDLED_MAX + 5):
        loop.call_exception_handler({"message": "x"})
    assert len(loop.unhandled) == UNHANDLED_MAX


def test_a_handlers_exception_handler_is_called_only_while_it_advances() -> None:
    """set_exception_handler works while advancing; outside, and if it fails, we record."""
    seen: list[str] = []

    def handler(loop: Any, context: dict[str, Any]) -> None:
        seen.append(context["message"])
        if context["message"] == "boom":
            raise ValueError

    loop = WorkflowLoop("w", START)
    loop.set_exception_handler(handler)
    assert loop.get_exception_handler() is handler
    with loop.entered():
        loop.call_exception_handler({"message": "inside"})
        loop.call_exception_handler({"message": "boom"})
    loop.call_exception_handler({"message": "outside"})
    assert seen == ["inside", "boom"]
    assert [report["message"] for report in loop.unhandled] == [
        "the exception handler itself failed",
        "boom",
        "outside",
    ]


# ── time and timers ──────────────────────────────────────────────────────────────────────────


def test_time_is_that_of_the_last_fact_and_never_goes_back() -> None:
    """time() is in seconds since the start; an earlier stamp changes nothing."""
    loop = WorkflowLoop("w", START)
    assert (loop.now_ms, loop.time()) == (START, 0.0)
    loop.set_now(START + 1500)
    loop.set_now(START + 1000)
    assert (loop.now_ms, loop.time()) == (START + 1500, 1.5)
    assert loop.fire_timers(START) == 0
    assert loop.now_ms == START + 1500


def test_timers_fire_only_when_due_by_time_then_creation() -> None:
    """Timers fire in the order of their time, equal ones in that of their creation."""
    loop = WorkflowLoop("w", START)
    ran: list[str] = []
    loop.call_later(0.3, ran.append, "c")
    loop.call_later(0.1, ran.append, "a")
    loop.call_at(0.3, ran.append, "d")
    loop.call_later(0.2, ran.append, "b")
    loop.call_later(0.4, ran.append, "later")
    with loop.entered():
        loop.drain()
    assert ran == []
    assert loop.next_timer_ms() == START + 100
    assert tick(loop, 99) == 0
    assert tick(loop, 300) == 4
    assert ran == ["a", "b", "c", "d"]
    assert loop.next_timer_ms() == START + 400


def test_ready_callbacks_run_between_two_instants() -> None:
    """What a timer makes ready runs before a later timer fires, though a late tick finds both due.

    So the result is the same as if each had had a tick of its own.
    """

    def run(*ticks: int) -> list[str]:
        loop = WorkflowLoop("w", START)
        ran: list[str] = []

        def first() -> None:
            ran.append("first")
            loop.call_soon(ran.append, "between")

        loop.call_later(1, first)
        loop.call_later(1.001, ran.append, "second")
        for ms in ticks:
            tick(loop, ms)
        return ran

    assert run(1500) == run(1000, 1001) == ["first", "between", "second"]


def test_timers_of_one_instant_fire_together() -> None:
    """As on asyncio's own loops: two deadlines at one instant are both over, not the first only."""
    loop = WorkflowLoop("w", START)
    ran: list[str] = []

    def first() -> None:
        ran.append("first")
        loop.call_soon(ran.append, "after both")

    loop.call_later(1, first)
    loop.call_later(1, ran.append, "second")
    tick(loop, 1000)
    assert ran == ["first", "second", "after both"]


def test_a_timer_may_cancel_one_that_is_due_with_it() -> None:
    """A timer cancelled by an earlier one of the same tick does not fire."""
    loop = WorkflowLoop("w", START)
    ran: list[str] = []

    def first() -> None:
        second.cancel()

    loop.call_later(1, first)
    second = loop.call_later(1, ran.append, "second")
    third = loop.call_later(2, ran.append, "third")
    loop.call_later(1.5, third.cancel)
    tick(loop, 2000)
    assert ran == []
    assert loop.next_timer_ms() is None


def test_a_timer_that_is_due_at_once_waits_for_the_next_tick() -> None:
    """Timers set while timers fire never fire in the same call, so it ends."""
    loop = WorkflowLoop("w", START)
    ran: list[int] = []

    def again() -> None:
        ran.append(1)
        loop.call_later(0, again)

    loop.call_later(0, again)
    assert loop.next_timer_ms() == START
    assert tick(loop, 0) == 1
    assert loop.next_timer_ms() == START
    assert tick(loop, 0) == 1
    loop.call_at(-5.0, ran.append, 2)
    assert loop.next_timer_ms() == START - 5000
    assert ran == [1, 1]


@pytest.mark.parametrize(
    ("now_ms", "delay", "due_ms"),
    [
        (0, 0.1, 100),
        (100, 0.2, 300),  # 0.1 + 0.2 > 0.3 in floats
        (0, 0.0011, 2),
        (0, 0.0000001, 1),
        (0, 1e-12, 1),
        (7, 0.001, 8),
        (86_400_000_000, 0.005, 86_400_000_005),
        (86_400_000_000, 1e-9, 86_400_000_001),
    ],
)
def test_due_times_are_rounded_up_to_milliseconds(now_ms: int, delay: float, due_ms: int) -> None:
    """A timer is never early, float noise costs no millisecond, and firing then really fires."""
    loop = WorkflowLoop("w", START)
    loop.set_now(START + now_ms)
    ran: list[int] = []
    loop.call_later(delay, ran.append, 1)
    assert loop.next_timer_ms() == START + due_ms
    assert tick(loop, due_ms - 1) == 0
    assert tick(loop, due_ms) == 1
    assert ran == [1]


def test_timers_within_one_millisecond_keep_their_order() -> None:
    """Rounding up does not change which of two timers is first."""
    loop = WorkflowLoop("w", START)
    ran: list[str] = []
    loop.call_later(0.0018, ran.append, "later")
    loop.call_later(0.0012, ran.append, "earlier")
    tick(loop, 2)
    assert ran == ["earlier", "later"]


@pytest.mark.parametrize("delay", [float("nan"), float("inf"), -float("inf")])
def test_delays_that_are_no_number_are_refused(delay: float) -> None:
    """nan and inf would never be due, or upset the order."""
    loop = WorkflowLoop("w", START)
    with pytest.raises(ValueError, match="finite"):
        loop.call_later(delay, print)
    with pytest.raises(ValueError, match="finite"):
        loop.call_at(delay, print)


def test_delays_over_a_hundred_years_are_refused() -> None:
    """The limit itself is allowed, a second more is not."""
    loop = WorkflowLoop("w", START)
    loop.call_later(SLEEP_MS_MAX / 1000, print)
    assert loop.next_timer_ms() == START + SLEEP_MS_MAX
    with pytest.raises(ValueError, match="100 years"):
        loop.call_later(SLEEP_MS_MAX / 1000 + 1, print)


def test_cancelled_timers_leave_the_memory() -> None:
    """Timers that are set and cancelled over and over, behind a live one, do not pile up."""
    loop = WorkflowLoop("w", START)
    ran: list[str] = []
    loop.call_later(1, ran.append, "live")
    kept = [loop.call_later(5, ran.append, "never") for _ in range(3)]
    gone = []
    for _ in range(1000):
        handle = loop.call_later(9, ran.append, "never")
        gone.append(weakref.ref(handle))
        handle.cancel()
    del handle
    assert sum(ref() is not None for ref in gone) < 20
    for handle in kept:
        handle.cancel()
    assert loop.next_timer_ms() == START + 1000
    tick(loop, 6000)
    assert ran == ["live"]


# ── tasks and futures ────────────────────────────────────────────────────────────────────────


def hashes(workflow_id: str, count: int = 100) -> list[int]:
    """The hashes of the first `count` futures."""
    loop = WorkflowLoop(workflow_id, START)
    return [hash(loop.create_future()) for _ in range(count)]


def test_hashes_are_the_same_in_every_run() -> None:
    """Two runs of one workflow hash alike, and so does another process (pinned number)."""
    assert hashes("w") == hashes("w")
    assert hashes("w", 1) == [2128196776333861518]


def test_hashes_do_not_collide_over_workflows() -> None:
    """Neither all 61 bits nor the low ones, which sets use first, repeat over workflows."""
    firsts = [hashes(f"workflow-{n}", 1)[0] for n in range(2000)]
    assert len(set(firsts)) == 2000
    # 2,000 random numbers hit about 1,580 of 4,096 slots; a plain counter would hit one.
    assert len({value & 4095 for value in firsts}) > 1450
    assert not set(hashes("a", 1000)) & set(hashes("b", 1000))


def test_equality_is_identity() -> None:
    """Two futures are equal only if they are one, whatever they hash to."""
    one, same = WorkflowLoop("w", START).create_future(), WorkflowLoop("w", START).create_future()
    assert hash(one) == hash(same)
    assert one != same
    assert len({one, same}) == 2


def test_set_order_of_tasks_is_the_same_in_every_run() -> None:
    """A set of tasks is iterated in the same order in each run (asyncio does this inside)."""

    async def main() -> list[str]:
        tasks = {asyncio.create_task(asyncio.sleep(0)) for _ in range(20)}
        await asyncio.wait(tasks)
        return [task.get_name() for task in tasks]

    runs = [started(main)[1].result() for _ in range(5)]
    assert runs == [runs[0]] * 5


def test_task_names_count_per_loop() -> None:
    """Names do not depend on what else runs in the process; a given name is kept."""

    async def main() -> list[str]:
        tasks = [
            asyncio.create_task(asyncio.sleep(0)),
            asyncio.create_task(asyncio.sleep(0), name="n"),
        ]
        current = asyncio.current_task()
        assert current is not None
        return [task.get_name() for task in (current, *tasks)]

    for _ in range(2):
        assert started(main)[1].result() == ["Task-1", "Task-2", "n"]


def test_tasks_are_listed_in_creation_order_until_they_end() -> None:
    """`tasks` holds exactly the live ones, and many dead ones take no memory."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(100):
            dead.append(weakref.ref(asyncio.create_task(asyncio.sleep(0))))
            await asyncio.sleep(0)
        kept.extend(asyncio.create_task(forever(), name=f"kept-{n}") for n in range(20))
        await loop.create_future()

    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    dead: list[weakref.ref[Any]] = []
    kept: list[asyncio.Task[Any]] = []
    loop, task = started(main)
    assert loop.tasks == [task, *kept]
    assert sum(ref() is not None for ref in dead) < 20
    loop.close()
    assert loop.tasks == []


def test_create_task_refuses_what_is_no_coroutine() -> None:
    """As asyncio does, and nothing stays registered."""
    loop = WorkflowLoop("w", START)
    with pytest.raises(TypeError, match="coroutine"):
        loop.create_task(42)
    assert loop.tasks == []


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_eager_tasks_work() -> None:
    """`eager_start` is passed on: the task runs at once, up to its first await."""

    async def child() -> str:
        ran.append("child")
        return "value"

    async def main() -> str:
        loop = asyncio.get_running_loop()
        eager: Any = loop.create_task(child(), eager_start=True)  # type: ignore[call-arg]
        ran.append("main")
        return str(await eager)

    ran: list[str] = []
    loop, task = started(main)
    assert task.result() == "value"
    assert ran == ["child", "main"]
    assert loop.tasks == []


def test_the_context_given_is_used() -> None:
    """The first task given an empty context sees none of the caller's variables."""
    variable: ContextVar[str] = ContextVar("variable", default="unset")

    async def main() -> str:
        return variable.get()

    token = variable.set("engine")
    try:
        assert started(main)[1].result() == "unset"
    finally:
        variable.reset(token)
