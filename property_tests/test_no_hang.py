"""No input of a user's makes a workflow hang in progress.

Odd calls from handlers and from clients, in any order and at any time: wrong options, ids that are
taken or foreign, values that cannot be stored, cancels of what is not there. Each is refused, or
taken; and in the end each workflow has ended, or says what it waits for: an event without a
deadline, a child that does, or code that must be mended.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests.cases import silence

from perdure.core.commands import AwaitEvent, RunChild
from perdure.core.limits import Limits
from perdure.core.retry import RetryPolicy
from perdure.core.workflow import WorkflowState
from perdure.definitions import Definer
from perdure.errors import NonRetryableError
from perdure.events import define_event
from perdure.runtime.contexts import ActionContext, MutationContext, QueryContext
from perdure.step import Step
from perdure_sim.explore.explorer import Scenario, run
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.world.disks import memory_disk
from perdure_sim.world.world import World

n = Definer()
stranger = Definer()
number = define_event("number", int)

#: Small, so that it is easy to go over it.
LIMITS = Limits(value_bytes=2_000, journal_bytes=60_000)
NAIVE = datetime(2033, 1, 1)  # noqa: DTZ001  It is refused for it.
PAST = datetime(2001, 1, 1, tzinfo=UTC)
JUDGED_AT_MS = 3_600_000
THRICE = RetryPolicy(max_attempts=3, initial_backoff=0.1, jitter=False)


class Told(Exception):
    """An answer, as `raises=` declares it."""


class Odd(Exception):
    """One whose arguments cannot be stored."""


@n.action(raises=(Told, Odd))
async def act(ctx: ActionContext, how: Any = "well") -> Any:
    match how:
        case "fail":
            raise OSError("no")
        case "never again":
            raise NonRetryableError("no")
        case "tell":
            raise Told("so", 1)
        case "tell oddly":
            raise Odd(object())
        case "exit":
            raise SystemExit
        case "cancelled":
            raise asyncio.CancelledError
        case "object":
            return object()
        case "nan":
            return math.nan
        case "large":
            return "x" * 5_000
        case "slow":
            await asyncio.sleep(30)
        case "stubborn":  # it has a value in spite of its cancel
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(30)
    return how


@n.mutation
def meddle(ctx: MutationContext, verb: str, whom: str) -> Any:
    match verb:
        case "start":
            ctx.start(waits(), id=whom)
        case "cancel":
            ctx.cancel(whom)
        case "send":
            ctx.send_event("word", workflow_id=whom, value=1)
        case "send oddly":
            ctx.send_event("word", workflow_id=whom, value=object())
        case "commit":
            ctx.db.execute("COMMIT")
        case "no sql":
            ctx.db.execute("no sql")
        case "object":
            return object()
    return verb


@n.query
def look(ctx: QueryContext, how: str) -> Any:
    if how == "write":
        ctx.db.execute("CREATE TABLE t (x)")
    return object() if how == "object" else 1


@n.workflow
async def waits(step: Step) -> Any:
    return await step.await_event("word", timeout=5)


@n.workflow
async def returns(step: Step, what: str) -> Any:
    match what:
        case "object":
            return object()
        case "large":
            return "x" * 5_000
        case "raise":
            raise ValueError("no")
        case "exit":
            raise SystemExit
        case "cancelled":
            raise asyncio.CancelledError
        case "future":
            return step.sleep(1)
    return what


@n.workflow
async def typed(step: Step, amount: int) -> int:
    return amount


@stranger.workflow
async def foreign(step: Step) -> None:
    pass


IDS = ("w0", "w1", "kid", "nobody", "", "x" * 300)
Deed: TypeAlias = Callable[[Any, str], Any]

HOW_IT_GOES = (
    *("well", "fail", "never again", "tell", "tell oddly", "exit", "cancelled"),
    *("object", "nan", "large", "slow", "stubborn"),
)

#: What a handler may do: each is given the step, as `Any` because the wrong types are the point,
#: and an id. What it returns is awaited, or not.
DEEDS: dict[str, Deed] = {
    **{
        f"action: {how}": partial(lambda how, s, w: s.run_action(act(how)), how)
        for how in HOW_IT_GOES
    },
    "action: retried": lambda s, w: s.run_action(act("fail"), retry=THRICE),
    "action: timed": lambda s, w: s.run_action(act("slow"), timeout=0.5, retry=THRICE),
    "action: stubborn and timed": lambda s, w: s.run_action(act("stubborn"), timeout=0.5),
    "action: bad retry": lambda s, w: s.run_action(act(), retry="often"),
    "action: no timeout": lambda s, w: s.run_action(act(), timeout=0),
    "action: naive": lambda s, w: s.run_action(act(), run_at=NAIVE),
    "action: in the past": lambda s, w: s.run_action(act(), run_at=PAST),
    "action: later": lambda s, w: s.run_action(act(), run_after=3),
    "action: both": lambda s, w: s.run_action(act(), run_after=1, run_at=PAST),
    "action: not called": lambda s, w: s.run_action(act),
    "action: none": lambda s, w: s.run_action(None),
    "action: large argument": lambda s, w: s.run_action(act("x" * 3_000)),
    "action: odd argument": lambda s, w: s.run_action(act(object())),
    "action: a mutation": lambda s, w: s.run_action(meddle("start", w)),
    "action: named": lambda s, w: s.run_action(act(), name=w),
    **{
        f"mutation: {verb}": partial(lambda verb, s, w: s.run_mutation(meddle(verb, w)), verb)
        for verb in ("start", "cancel", "send", "send oddly", "commit", "no sql", "object")
    },
    "mutation: inline": lambda s, w: s.run_mutation(meddle("cancel", w), inline=True),
    "mutation: inline later": lambda s, w: s.run_mutation(meddle("x", w), inline=True, run_after=0),
    "query: write": lambda s, w: s.run_query(look("write")),
    "query: object": lambda s, w: s.run_query(look("object"), inline=True),
    "child": lambda s, w: s.run_workflow(waits(), workflow_id=w),
    "child: unnamed": lambda s, w: s.run_workflow(waits()),
    "child: later": lambda s, w: s.run_workflow(waits(), workflow_id=w, run_after=2),
    "child: foreign": lambda s, w: s.run_workflow(foreign()),
    "child: wrong type": lambda s, w: s.run_workflow(typed("no")),  # type: ignore[arg-type]
    **{
        f"child: {what}": partial(lambda what, s, w: s.run_workflow(returns(what)), what)
        for what in ("well", "object", "large", "raise", "exit", "cancelled", "future")
    },
    "sleep": lambda s, w: s.sleep(2),
    "sleep: negative": lambda s, w: s.sleep(-1),
    "sleep: nan": lambda s, w: s.sleep(math.nan),
    "sleep: text": lambda s, w: s.sleep("1"),
    "sleep: until": lambda s, w: s.sleep_until(PAST),
    "event": lambda s, w: s.await_event("word"),
    "event: typed": lambda s, w: s.await_event(number, timeout=4),
    "event: in time": lambda s, w: s.await_event("word", timeout=1),
    "event: at once": lambda s, w: s.await_event("word", timeout=0),
    "event: no such id": lambda s, w: s.await_event(id=w),
    "event: nothing": lambda s, w: s.await_event(),
    "event: number": lambda s, w: s.await_event(5),
    "asyncio: sleep": lambda s, w: asyncio.sleep(1),
    "asyncio: executor": lambda s, w: asyncio.get_running_loop().run_in_executor(None, print),
    "asyncio: cancel me": lambda s, w: asyncio.current_task().cancel(),  # type: ignore[union-attr]
    "asyncio: stuck": lambda s, w: asyncio.Event().wait(),
    "options": lambda s, w: s.with_options(retry=THRICE, unstable_args=True).run_action(
        act("fail")
    ),
    "options: bad": lambda s, w: s.with_options(retry=5),
    "raise": lambda s, w: _raise(ValueError("no")),
    "exit": lambda s, w: _raise(SystemExit()),
}


def _raise(error: BaseException) -> Any:
    raise error


HOWS = ("later", "await", "start", "cancel", "task", "catch", "catch all", "timeout", "shield")


@n.workflow
async def odd(step: Step, script: list[list[str]]) -> Any:
    told: list[str] = []
    later: list[Any] = []
    for deed, whom, how in script:
        if how == "later":
            result = DEEDS[deed](step, whom)
            is_coroutine = asyncio.iscoroutine(result)
            later.append(asyncio.create_task(result) if is_coroutine else result)
        else:
            await _one(step, deed, whom, how, told)
    await asyncio.gather(*filter(asyncio.isfuture, later), return_exceptions=True)
    return told[-3:]


async def _one(step: Step, deed: str, whom: str, how: str, told: list[str]) -> None:
    async def do() -> Any:
        result = DEEDS[deed](step, whom)
        return await result if asyncio.isfuture(result) or asyncio.iscoroutine(result) else result

    match how:
        case "await":
            await do()
        case "start" | "cancel":
            result = DEEDS[deed](step, whom)
            if asyncio.iscoroutine(result):
                result.close()
            elif how == "cancel" and isinstance(result, asyncio.Future):
                result.cancel()
        case "task":
            asyncio.create_task(do())  # noqa: RUF006  It is left behind.
        case "catch":
            try:
                await do()
            except Exception as error:
                told.append(type(error).__name__)
        case "catch all":
            try:
                await do()
            except BaseException as error:  # even a cancel
                told.append(type(error).__name__)
        case "timeout":
            try:
                async with asyncio.timeout(1):
                    await do()
            except (TimeoutError, Exception) as error:
                told.append(type(error).__name__)
        case "shield":
            task = asyncio.create_task(do())
            try:
                await asyncio.wait_for(asyncio.shield(task), 1)
            except (TimeoutError, Exception) as error:
                told.append(type(error).__name__)


#: What clients do, after so many ms.
CLIENT: dict[str, Callable[[World, str], Any]] = {
    "send": lambda w, i: w.send_event("word", workflow_id=i, value=1),
    "send a wrong type": lambda w, i: w.send_event("number", workflow_id=i, value="no"),
    "cancel": lambda w, i: w.cancel(i),
    "start": lambda w, i: w.start(waits(), id=i),
    "start another": lambda w, i: w.start(returns("raise"), id=i),
    "pause": lambda w, i: w.set_parallelism(0),
    "resume": lambda w, i: w.set_parallelism(2),
}


def scripts_of(deeds: list[str], ids: list[str]) -> st.SearchStrategy[list[list[list[str]]]]:
    """One or two handlers that do a few things, again and again, with a few ids."""
    one = st.tuples(st.sampled_from(deeds), st.sampled_from(ids), st.sampled_from(HOWS)).map(list)
    return st.lists(st.lists(one, min_size=1, max_size=5), min_size=1, max_size=2)


#: Few deeds and ids at a time, so that they meet.
SCRIPTS = st.tuples(
    st.lists(st.sampled_from(sorted(DEEDS)), min_size=1, max_size=3),
    st.lists(st.sampled_from(IDS), min_size=1, max_size=2),
).flatmap(lambda both: scripts_of(*both))
CLIENTS = st.lists(
    st.tuples(
        st.sampled_from(sorted(CLIENT)),
        st.sampled_from(IDS[:4]),
        st.sampled_from([0, 10, 500, 3_000, 40_000]),
    ),
    max_size=4,
)


class _Everyone(frozenset[str]):
    """All ids: `judge` says which of them may wait."""

    def __contains__(self, _: object) -> bool:
        return True


def says_why(world: World, state: WorkflowState) -> bool:
    """Whether a workflow that is in progress shows what it waits for."""
    if state.blocked is not None:
        return True
    for record in state.live.values():
        command = record.command
        if record.outcome is not None:
            continue
        if isinstance(command, AwaitEvent) and command.due_at is None:
            return True
        if isinstance(command, RunChild) and record.child_id in world.history.workflows:
            child = world.history.workflows[record.child_id].state
            if child.outcome is None and says_why(world, child):
                return True
    return False


def judge(world: World) -> None:
    """Each has ended, or says why it has not; and each request was answered."""
    assert all(deed.is_done for deed in world.deeds)
    for workflow_id, known in list(world.history.workflows.items()):
        if known.state.outcome is None:
            assert says_why(world, known.state), f"{workflow_id} hangs: {known.state}"
            if known.state.blocked is not None:
                world.cancel(workflow_id)  # else it would be tried again for ever


def play(scripts: list[list[list[str]]], clients: list[tuple[str, str, int]]) -> World:
    """All of it in a world without faults."""

    def script(world: World) -> None:
        world.may_block.update(("w0", "w1"))
        for number, each in enumerate(scripts):
            world.start(odd(each), id=f"w{number}")
        for verb, whom, ms in clients:
            world.after(ms, partial(CLIENT[verb], world, whom))
        world.after(60_000, lambda: world.set_parallelism(5))  # no pause is for ever
        world.after(JUDGED_AT_MS, partial(judge, world))

    scenario = Scenario(name="odd", definer=n, script=script, may_wait=_Everyone(), limits=LIMITS)
    with silence():
        found = run(scenario, FaultPlan(), memory_disk)
    if found.failure is not None:
        raise found.failure
    return found.world


@given(scripts=SCRIPTS, clients=CLIENTS)
@settings(max_examples=300)
def test_no_input_makes_a_workflow_hang(
    scripts: list[list[list[str]]], clients: list[tuple[str, str, int]]
) -> None:
    """Odd calls of handlers and clients, in any order."""
    play(scripts, clients)


@pytest.mark.parametrize(
    "script",
    [
        [["child", "kid", "later"], ["child", "kid", "cancel"]],
        [["asyncio: cancel me", "", "await"]],
        [["asyncio: stuck", "", "catch all"]],
    ],
)
def test_what_once_made_one_hang(script: list[list[str]]) -> None:
    """A child that was taken for its sibling, a handler that cancels itself last, and one that
    waits for nothing."""
    play([script], [])
