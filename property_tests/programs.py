"""Random workflow programs: trees as data, one workflow that runs any of them, and its functions.

A program is ``[kind, option, *parts]``, in JSON. Each place in it has a path, such as ``p0.1.0``;
what is done there bears that path: the value of an action, the row of a mutation, an error. So it
can be told of each effect where it comes from, and whether it is there twice.

How a program ends must not depend on how long things take, but where `expected.py` allows it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextvars import ContextVar
from typing import Any, TypeAlias

from hypothesis import strategies as st
from tests.sim.portable import execute

from perdure.core.retry import RetryPolicy
from perdure.definitions import Definer
from perdure.errors import NonRetryableError, StepFailed
from perdure.runtime.contexts import ActionContext, MutationContext, QueryContext
from perdure.step import Step

#: ``[kind, option, *parts]``
Program: TypeAlias = list[Any]

#: Longer than any program takes, whatever goes wrong.
DAY_MS = 86_400_000

#: More attempts than faults could use up.
PATIENT = RetryPolicy(max_attempts=60, initial_backoff=0.05, max_backoff=0.4, jitter=False)
TWICE = RetryPolicy(max_attempts=2, initial_backoff=0.05, jitter=False)

d = Definer()


class Broken(Exception):
    """What a program raises; its text is the path of the place that did."""


def paths(program: Program, path: str) -> list[tuple[str, Program]]:
    """The parts of a program, each with its path; that of a loop once for each round."""
    kind, option, *parts = program
    rounds = option if kind == "loop" else 1
    return [(f"{path}.{n}", part) for n, part in enumerate(parts * rounds)]


def events(program: Program, path: str) -> Iterator[tuple[str, int]]:
    """The events that the client sends: name, and after how many ms. A name is a path."""
    if program[0] == "event":
        yield path, program[1]
    for part_path, part in paths(program, path):
        yield from events(part, part_path)


# --- functions ----------------------------------------------------------------------------------


def make_ledger(db: sqlite3.Connection) -> None:
    """A table in which each effect of a mutation leaves a row."""
    db.execute("CREATE TABLE ledger (path TEXT NOT NULL)")


@d.action(retry=PATIENT)
async def work(ctx: ActionContext, path: str, ms: int) -> str:
    await asyncio.sleep(ms / 1000)
    return path


@d.action(retry=PATIENT)
async def flaky(ctx: ActionContext, path: str, failures: int) -> str:
    if ctx.attempt <= failures:
        raise OSError("not yet")
    return path


@d.action(retry=PATIENT)
async def broken(ctx: ActionContext, path: str) -> str:
    raise NonRetryableError(path)


@d.action(retry=TWICE, timeout=0.05)
async def overdue(ctx: ActionContext, path: str) -> None:
    await asyncio.sleep(10)
    raise OSError("in time by a clock that stands still")


@d.action
async def once(ctx: ActionContext, path: str, ms: int) -> str:
    await asyncio.sleep(ms / 1000)
    return path


@d.mutation
def write(ctx: MutationContext, path: str) -> str:
    execute(ctx.db, "INSERT INTO ledger VALUES (?)", (path,))
    return path


@d.mutation
def undone(ctx: MutationContext, path: str) -> str:
    execute(ctx.db, "INSERT INTO ledger VALUES (?)", (path,))
    raise ValueError(path)


@d.mutation
def send(ctx: MutationContext, workflow_id: str, name: str, count: int) -> None:
    for number in range(count):
        ctx.send_event(name, workflow_id=workflow_id, value=number)


@d.query
def count(ctx: QueryContext, path: str) -> int:
    (rows,) = execute(ctx.db, "SELECT count(*) FROM ledger WHERE path = ?", (path,)).fetchone()
    assert isinstance(rows, int)
    return rows


@d.mutation
def ended(ctx: MutationContext, workflow_id: str, outcome: object, context: object) -> None:
    execute(ctx.db, "INSERT INTO ledger VALUES (?)", (f"{workflow_id} ended",))


# --- the workflow -------------------------------------------------------------------------------


@d.workflow
async def interpret(step: Step, path: str, program: Any) -> Any:
    return await evaluate(step, path, program)


async def evaluate(step: Step, path: str, program: Program) -> Any:
    """Run a program."""
    kind, option, *_ = program
    parts = paths(program, path)
    match kind:
        case "row" | "loop":
            return [await evaluate(step, *part) for part in parts]
        case "try":
            try:
                return await evaluate(step, *parts[0])
            except Broken as error:
                return ["caught", str(error)]
        case "timeout":
            try:
                async with asyncio.timeout(option / 1000):
                    return await evaluate(step, *parts[0])
            except TimeoutError:
                return "late"
        case "limit":
            try:
                return await asyncio.wait_for(evaluate(step, *parts[0]), option / 1000)
            except TimeoutError:
                return "late"
        case "stream":
            return [value async for value in _stream(step, parts)]
        case "child":
            return await _or_broken(step.run_workflow(interpret(*parts[0])))
        case "raise":
            raise Broken(path)
        case "children":
            return await _children(step, parts)
        case "gather" | "group" | "completed" | "queue" | "lock" | "race" | "patient" | "cancel":
            return await _with_tasks(step, kind, option, parts)
        case "semaphore" | "barrier" | "signal" | "condition" | "settled" | "context" | "all":
            return await _together(step, kind, option, parts)
        case _:
            return await _leaf(step, path, kind, option)


async def _or_broken(future: Awaitable[Any], path: str | None = None) -> Any:
    """The value; a failed step as `Broken`, with the path that its error has as text."""
    try:
        return await future
    except StepFailed as error:
        raise Broken(path or error.error.message) from error


async def _leaf(step: Step, path: str, kind: str, option: Any) -> Any:
    match kind:
        case "work":
            return await _or_broken(step.run_action(work(path, option)))
        case "flaky":
            return await _or_broken(step.run_action(flaky(path, option)))
        case "broken":
            return await _or_broken(step.run_action(broken(path)))
        case "overdue":
            return await _or_broken(step.run_action(overdue(path)), path)
        case "once":
            try:
                return await step.run_action(once(path, option))
            except StepFailed:
                return path  # whoever ran it died: nothing that the outcome could depend on
        case "write":
            match option:
                case "inline":
                    return await _or_broken(step.run_mutation(write(path), inline=True))
                case "later":
                    return await _or_broken(step.run_mutation(write(path), run_after=0.5))
            return await _or_broken(step.run_mutation(write(path)))
        case "undone":
            return await _or_broken(step.run_mutation(undone(path)))
        case "read back":
            await step.run_mutation(write(path))
            return await step.run_query(count(path))
        case "letters":
            asking = step.run_mutation(send(step.workflow_id, path, option))
            heard = [await step.await_event(path) for _ in range(option)]
            await asking
            return heard
        case _:
            return await _wait(step, path, kind, option)


async def _wait(step: Step, path: str, kind: str, option: Any) -> Any:
    before = step.now()
    match kind:
        case "sleep":
            await step.sleep(option / 1000)
        case "nap":
            await asyncio.sleep(option / 1000)
        case "event":
            return await step.await_event(path)
        case "late":
            try:
                await step.await_event(path, timeout=option / 1000)
            except TimeoutError:
                return "late"
        case "never":
            await step.await_event(path)
        case _:
            raise AssertionError(f"no such program: {kind}")
    return (step.now() - before).total_seconds() * 1000 >= option


async def _children(step: Step, parts: list[tuple[str, Program]]) -> list[Any]:
    """Child workflows, their values taken as they come."""
    futures = [step.run_workflow(interpret(*part)) for part in parts]
    values: dict[int, Any] = {}
    while len(values) < len(futures):
        left = [future for n, future in enumerate(futures) if n not in values]
        done, _ = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for n, future in enumerate(futures):
            if future in done:
                values[n] = await _or_broken(future)
    return [values[n] for n in range(len(futures))]


async def _with_tasks(step: Step, kind: str, option: Any, parts: list[tuple[str, Program]]) -> Any:
    """The programs that do several things at once, by what asyncio has for it."""
    match kind:
        case "gather":
            return await asyncio.gather(*(evaluate(step, *part) for part in parts))
        case "lock":
            lock = asyncio.Lock()

            async def guarded(path: str, part: Program) -> Any:
                async with lock:
                    return await evaluate(step, path, part)

            return await asyncio.gather(*(guarded(*part) for part in parts))
        case "completed":

            async def numbered(number: int, part: tuple[str, Program]) -> tuple[int, Any]:
                return number, await evaluate(step, *part)

            tasks = [asyncio.create_task(numbered(*each)) for each in enumerate(parts)]
            values = dict([await next_one for next_one in asyncio.as_completed(tasks)])
            return [values[number] for number in range(len(parts))]
        case "race":
            return await _race(step, parts)
        case "patient":
            task = asyncio.create_task(evaluate(step, *parts[0]))
            try:
                return await asyncio.wait_for(asyncio.shield(task), option / 1000)
            except TimeoutError:
                return await task
        case "cancel":
            doomed = asyncio.create_task(evaluate(step, *parts[0]))
            value = await evaluate(step, *parts[1])
            doomed.cancel()
            await asyncio.wait([doomed])
            return value
    try:
        async with asyncio.TaskGroup() as group:
            if kind == "queue":
                return await _queue(step, group, parts)
            members = [group.create_task(evaluate(step, *part)) for part in parts]
    except ExceptionGroup as several:
        raise Broken(min(map(str, several.exceptions))) from several
    return [member.result() for member in members]


async def _race(step: Step, parts: list[tuple[str, Program]]) -> list[Any]:
    """The first of those that have ended; the others are cancelled."""
    tasks = [asyncio.create_task(evaluate(step, *part)) for part in parts]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task in pending:
            task.cancel()
    winner = next(number for number, task in enumerate(tasks) if task in done)
    return [winner, tasks[winner].result()]


async def _queue(
    step: Step, group: asyncio.TaskGroup, parts: list[tuple[str, Program]]
) -> list[Any]:
    """One task makes the values, in turn, and another takes them."""
    queue: asyncio.Queue[Any] = asyncio.Queue(1)

    async def produce() -> None:
        for part in parts:
            await queue.put(await evaluate(step, *part))

    group.create_task(produce())
    return [await queue.get() for _ in parts]


#: Where a task is: each has its own, and none sees another's.
PLACE: ContextVar[str] = ContextVar("place")


async def _stream(step: Step, parts: list[tuple[str, Program]]) -> AsyncIterator[Any]:
    for part in parts:
        yield await evaluate(step, *part)


async def _together(step: Step, kind: str, option: Any, parts: list[tuple[str, Program]]) -> Any:
    """More programs that do several things at once, by the tools with which tasks meet."""
    semaphore = asyncio.Semaphore(option or 1)
    barrier = asyncio.Barrier(len(parts))
    signal, condition = asyncio.Event(), asyncio.Condition()
    turn = 0

    async def one(number: int, path: str, part: Program) -> Any:
        nonlocal turn
        match kind:
            case "semaphore":
                async with semaphore:
                    return await evaluate(step, path, part)
            case "barrier":
                value = await evaluate(step, path, part)
                await barrier.wait()
                return value
            case "signal":
                if number:
                    await signal.wait()
                value = await evaluate(step, path, part)
                signal.set()
                return value
            case "condition":  # each in its turn, though all of them wait at once
                async with condition:
                    await condition.wait_for(lambda: turn == number)
                    value = await evaluate(step, path, part)
                    turn += 1
                    condition.notify_all()
                return value
            case "context":
                PLACE.set(path)
                value = await evaluate(step, path, part)
                assert PLACE.get() == path
                return value
        return await evaluate(step, path, part)

    if kind == "settled":
        several = await asyncio.gather(
            *(one(number, *part) for number, part in enumerate(parts)), return_exceptions=True
        )
        return [["caught", str(v)] if isinstance(v, Broken) else v for v in several]
    if kind == "all":
        made = [asyncio.create_task(one(number, *part)) for number, part in enumerate(parts)]
        done, late = await asyncio.wait(made, return_when=asyncio.FIRST_EXCEPTION)
        for task in late:
            task.cancel()
        failed = [task for task in made if task in done and task.exception() is not None]
        return [task.result() for task in failed or made]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(number, *part)) for number, part in enumerate(parts)]
    except* Broken as broken:
        raise Broken(min(map(str, broken.exceptions))) from broken
    return [task.result() for task in tasks]


# --- strategies ---------------------------------------------------------------------------------

MS = st.sampled_from([0, 5, 60, 1_000, 30_000])


def _node(kind: str, option: Any = None, *parts: Any, rest: Any = None) -> Any:
    options = option if isinstance(option, st.SearchStrategy) else st.just(option)
    head = st.tuples(st.just(kind), options, *parts).map(list)
    if rest is None:
        return head
    several = st.lists(rest, min_size=1, max_size=3)
    return st.tuples(head, several).map(lambda both: both[0] + both[1])


LEAVES: st.SearchStrategy[Program] = st.one_of(
    _node("work", MS),
    _node("write", st.sampled_from(["queued", "inline", "later"])),
    _node("sleep", MS),
    _node("nap", MS),
    _node("broken"),
    _node("raise"),
    _node("undone"),
    _node("flaky", st.integers(1, 3)),
    _node("once", MS),
    _node("overdue"),
    _node("read back"),
    _node("letters", st.integers(1, 3)),
    _node("late", MS),
)


TOGETHER = ("barrier", "signal", "condition", "settled", "context", "all")


def _calm(parts: Any, inner: Any) -> Any:
    """Programs whose end no timing changes, made of such."""
    return st.one_of(
        _node("row", rest=parts),
        _node("gather", rest=parts),
        _node("try", None, parts),
        _node("child", None, inner),
        _node("children", rest=inner),
        _node("completed", rest=parts),
        _node("group", rest=parts),
        _node("loop", st.integers(1, 3), parts),
        _node("queue", rest=parts),
        _node("lock", rest=parts),
        _node("patient", st.sampled_from([0, 20, 2_000]), parts),
        _node("timeout", DAY_MS, parts),
        _node("limit", DAY_MS, parts),
        _node("stream", rest=parts),
        _node("semaphore", st.integers(1, 2), rest=parts),
        *[_node(kind, rest=parts) for kind in TOGETHER],
    )


def _any(parts: Any, inner: Any) -> Any:
    """Programs whose end may depend on timing."""
    return st.one_of(
        _calm(parts, inner),
        _node("race", rest=parts),
        _node("race", None, _node("never"), rest=parts),
        _node("timeout", st.sampled_from([0, 20, 2_000]), parts),
        _node("limit", st.sampled_from([0, 20, 2_000]), parts),
        _node("cancel", None, parts, parts),
    )


def _programs(nodes: Any) -> st.SearchStrategy[Program]:
    """Programs in whose children no event is awaited: a client does not know a child's id."""
    inner = st.recursive(LEAVES, lambda parts: nodes(parts, parts), max_leaves=4)
    outer = st.recursive(
        LEAVES | _node("event", MS), lambda parts: nodes(parts, inner), max_leaves=6
    )
    several = st.lists(outer | _node("try", None, outer), min_size=1, max_size=4)
    return several.map(lambda parts: ["row", None, *parts])


CALM = _programs(_calm)
PROGRAMS = _programs(_any)
