"""The laws of replay over random asyncio programs, run live against a random outside world.

A program is a tree of steps, events, sleeps, and of asyncio's own `gather`, `wait`, `timeout`,
`TaskGroup`, `shield` and `cancel` around them. The world answers in random order, sometimes with an
error, sometimes late, sometimes after a crash.
"""

from __future__ import annotations

import asyncio
from itertools import cycle, islice
from typing import Any, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.liverun import LiveRun, Main, StepError, Steps, check_replays

from perdure.core.messages import HandlerBlocked

#: A program: what it is, and its parts.
Program: TypeAlias = tuple[Any, ...]

# --- programs -----------------------------------------------------------------------------------

MS = st.sampled_from([0, 5, 10, 50])
LEAVES: st.SearchStrategy[Program] = st.one_of(
    st.tuples(st.just("run"), st.sampled_from("fgh")),
    st.tuples(st.just("event"), st.sampled_from("ab"), st.none() | MS),
    st.tuples(st.just("step sleep"), MS),
    st.tuples(st.just("sleep"), MS),
)


def _nodes(parts: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
    some = st.lists(parts, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.tuples(st.just("row"), some),
        st.tuples(st.just("gather"), some),
        st.tuples(st.just("first"), some),
        st.tuples(st.just("completed"), some),
        st.tuples(st.just("group"), some),
        st.tuples(st.just("timeout"), MS, parts),
        st.tuples(st.just("wait_for"), MS, parts),
        st.tuples(st.just("shield"), MS, parts),
        st.tuples(st.just("cancel"), parts, parts),
        st.tuples(st.just("catch"), parts),
    )


#: Several in a row, none of which ends the run by failing.
PROGRAMS = st.lists(st.recursive(LEAVES, _nodes, max_leaves=6), min_size=1, max_size=4).map(
    lambda parts: ("row", tuple(("catch", part) for part in parts))
)

#: Programs without races, errors and cancels: what they return does not depend on any order.
CALM = st.recursive(
    st.tuples(st.just("run"), st.sampled_from("fgh")),
    lambda parts: st.tuples(
        st.sampled_from(["row", "gather", "completed sum", "group"]),
        st.lists(parts, min_size=1, max_size=3).map(tuple),
    ),
    max_leaves=8,
)


async def _interpret(program: Program, steps: Steps) -> Any:
    """Run a program; what it returns tells what happened in it."""
    match program:
        case ("run", name):
            return await steps.run(name)
        case ("event", name, timeout_ms):
            return await steps.event(name, timeout_ms=timeout_ms)
        case ("step sleep", ms):
            return await steps.sleep(ms)
        case ("sleep", ms):
            return await asyncio.sleep(ms / 1000, "slept")
        case ("row", parts):
            return [await _interpret(part, steps) for part in parts]
        case ("catch", part):
            try:
                return await _interpret(part, steps)
            except (StepError, TimeoutError, ExceptionGroup) as error:
                return [type(error).__name__, await steps.run("mend")]
        case ("timeout", ms, part):
            async with asyncio.timeout(ms / 1000):
                return await _interpret(part, steps)
        case ("wait_for", ms, part):
            return await asyncio.wait_for(_interpret(part, steps), ms / 1000)
        case _:
            return await _with_tasks(program, steps)


async def _with_tasks(program: Program, steps: Steps) -> Any:
    """The programs that do several things at once."""
    match program:
        case ("gather", parts):
            return await asyncio.gather(*(_interpret(part, steps) for part in parts))
        case ("first", parts):
            tasks = [asyncio.create_task(_interpret(part, steps)) for part in parts]
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            return [tasks.index(task) for task in tasks if task in done]
        case ("completed", parts):
            tasks = [asyncio.create_task(_interpret(part, steps)) for part in parts]
            return [await next_one for next_one in asyncio.as_completed(tasks)]
        case ("completed sum", parts):
            tasks = [asyncio.create_task(_interpret(part, steps)) for part in parts]
            return sorted([str(await one) for one in asyncio.as_completed(tasks)])
        case ("group", parts):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_interpret(part, steps)) for part in parts]
            return [task.result() for task in tasks]
        case ("shield", ms, part):
            task = asyncio.create_task(_interpret(part, steps))
            try:
                return await asyncio.wait_for(asyncio.shield(task), ms / 1000)
            except TimeoutError:
                return ["shielded", await task]
        case ("cancel", doomed, part):
            task = asyncio.create_task(_interpret(doomed, steps))
            value = await _interpret(part, steps)
            task.cancel()
            await asyncio.wait([task])
            return [task.cancelled(), value]
    raise AssertionError(program)


def main_of(program: Program) -> Main:
    """The handler that runs a program and tells how it ended."""

    async def main(steps: Steps) -> Any:
        try:
            return ["returned", await _interpret(program, steps)]
        except Exception as error:
            return ["raised", type(error).__name__]

    return main


# --- the world ----------------------------------------------------------------------------------

Move: TypeAlias = tuple[str, int, bool]

#: One thing that happens: what, to which of those it may happen to, and whether it is seen late.
MOVES: st.SearchStrategy[list[Move]] = st.lists(
    st.tuples(
        st.sampled_from(["go", "go", "go", "fail", "event a", "event b", "later", "crash"]),
        st.integers(0, 5),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)

#: How many things happen at most: the moves come again and again, so that runs get far.
MOVES_MAX = 30


def play(run: LiveRun, moves: list[Move], *, crashes: bool = False) -> None:
    """Let the world act on a run, until it has ended or enough has happened.

    With `crashes` the handler is dropped after every move.
    """
    for move in islice(cycle(moves), MOVES_MAX):
        if run.state.status != "in_progress":
            return
        _happen(run, *move)
        run.now += 1
        if not move[2]:
            run.advance()
        if crashes and run.state.status == "in_progress":
            run.crash()
    run.advance()


def _happen(run: LiveRun, kind: str, pick: int, is_late: bool) -> None:
    open_steps = answerable(run)
    if kind == "crash":
        run.crash()
    elif kind.startswith("event"):
        run.event(kind[-1], pick, is_late=is_late)
    elif open_steps and kind in ("go", "fail"):
        # The number of the step as its value: the same whenever it comes.
        number = open_steps[pick % len(open_steps)]
        value = StepError("boom") if kind == "fail" else number
        run.answer(number, value, is_late=is_late)
    elif (at := run.next_at()) is not None and kind == "go":
        run.later(max(0, at - run.now))
    elif run.state.awaiting and kind == "go":
        run.event(run.open_step(run.state.awaiting[0]).command.name, pick)
    else:
        run.later(5 * pick)


def answerable(run: LiveRun) -> list[int]:
    """The numbers of the actions that have no outcome yet."""
    return [
        number
        for number, record in run.state.live.items()
        if record.command.kind == "action" and record.state != "settled"
    ]


# --- laws ---------------------------------------------------------------------------------------


@given(program=PROGRAMS, moves=MOVES)
@settings(max_examples=300)
def test_every_prefix_of_a_journal_replays_to_the_same(program: Program, moves: list[Move]) -> None:
    """From any prefix the handler asks for the same, cancels the same, waits for the same time.

    The last prefix is the whole journal: it gives the whole run, with the same end.
    """
    run = LiveRun(main_of(program))
    play(run, moves)
    assert run.state.blocked is None
    check_replays(run)
    run.handler.close()


@given(program=PROGRAMS, moves=MOVES)
@settings(max_examples=150)
def test_crashes_change_nothing(program: Program, moves: list[Move]) -> None:
    """The same world with a crash after every move leaves the same rows and the same end."""
    # Nothing is late: a crash is also an occasion to deliver what is.
    steady = [("later" if kind == "crash" else kind, pick, False) for kind, pick, _ in moves]
    calm, shaken = LiveRun(main_of(program)), LiveRun(main_of(program))
    play(calm, steady)
    play(shaken, steady, crashes=True)
    assert (shaken.steps, shaken.ticks) == (calm.steps, calm.ticks)
    assert shaken.state == calm.state
    for run in (calm, shaken):
        run.handler.close()


@given(program=CALM, picks=st.lists(st.integers(0, 5), max_size=12))
@settings(max_examples=150)
def test_another_order_of_completion_gives_the_same_result(
    program: Program, picks: list[int]
) -> None:
    """Without races the result depends on what the steps returned, not on when."""
    first, second = LiveRun(main_of(program)), LiveRun(main_of(program))
    while open_steps := answerable(first):
        first.answer(open_steps[0], first.steps[open_steps[0]].command.name)
    order = iter(picks)
    while open_steps := answerable(second):
        number = open_steps[next(order, 0) % len(open_steps)]
        second.answer(number, second.steps[number].command.name)
    assert first.value == second.value
    check_replays(second)


@given(program=PROGRAMS, other=PROGRAMS, moves=MOVES)
@settings(max_examples=200)
def test_other_code_never_changes_the_journal_of_the_past(
    program: Program, other: Program, moves: list[Move]
) -> None:
    """Another program over a journal either fits or is blocked; recorded rows stay as they are.

    When it is blocked nothing is written, and the old code goes on as if nothing had been.
    """
    run = LiveRun(main_of(program))
    for move in moves:
        if run.state.status == "in_progress":
            _happen(run, *move)
    run.advance()
    if run.state.status == "in_progress":
        rows, ticks, position = dict(run.steps), list(run.ticks), run.state.position
        handler, reaction = run.replayed(main=main_of(other))
        handler.close()
        if isinstance(reaction, HandlerBlocked):
            run.crash(main_of(other))
            assert (run.steps, run.ticks, run.state.position) == (rows, ticks, position)
            run.crash(main_of(program))
            assert (run.steps, run.ticks, run.state.position) == (rows, ticks, position)
    run.handler.close()
