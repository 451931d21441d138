"""`check_replay`: it accepts what a world has journaled, whole and cut, and nothing else.

Journals are real ones, of worlds; what is wrong in one is put in by hand, or is other code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from msgspec.structs import replace

from perdure.core.commands import RunStep
from perdure.core.journal import StepRecord
from perdure.core.limits import Limits
from perdure.core.outcomes import Canceled, Failed, Succeeded
from perdure.definitions import Call, Definer
from perdure.errors import ErrorInfo
from perdure.runtime.contexts import ActionContext, MutationContext, QueryContext
from perdure.step import Step, StepRules
from perdure.store.base import Loaded
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.laws.replaying import PREFIXES_MAX, ReplayDiffers, check_replay
from perdure_sim.world.clock import START_MS
from perdure_sim.world.disks import sqlite_disk
from perdure_sim.world.world import World

d = Definer()


@d.action(retry=True)
async def work(ctx: ActionContext, n: int) -> int:
    await asyncio.sleep(0.03)
    return n


@d.action
async def fail(ctx: ActionContext) -> int:
    raise OSError("down")


@d.mutation
def note(ctx: MutationContext, n: int) -> int:
    return n


@d.query
def look(ctx: QueryContext) -> int:
    return 7


@d.workflow
async def in_a_row(step: Step) -> int:
    first = await step.run_action(work(1))
    second = await step.run_mutation(note(first + 1))
    return second + await step.run_query(look())


@d.workflow
async def at_once(step: Step) -> list[int]:
    first = await asyncio.gather(*(step.run_action(work(n)) for n in range(3)))
    return [*first, *await asyncio.gather(step.run_query(look()), step.run_mutation(note(9)))]


@d.workflow
async def pair(step: Step) -> int:
    return sum(await asyncio.gather(step.run_mutation(note(1)), step.run_mutation(note(2))))


@d.workflow
async def racing(step: Step) -> list[str]:
    seen = []
    slow = step.run_action(work(1), run_after=60)
    try:
        async with asyncio.timeout(0.5):
            await slow
    except TimeoutError:
        seen.append("timeout")
    await asyncio.sleep(0.25)
    try:
        await step.await_event("never", timeout=2)
    except TimeoutError:
        seen.append("no event")
    await step.sleep(3)
    seen.append(await step.await_event("go"))
    return seen


@d.workflow
async def failing(step: Step) -> int:
    return await step.run_action(fail())


@d.workflow
async def parent(step: Step) -> list[int]:
    return [await step.run_workflow(in_a_row()), await step.run_action(work(4))]


@d.workflow
async def long(step: Step, count: int) -> int:
    for n in range(count):
        await step.run_mutation(note(n))
    return count


@d.workflow
async def waits(step: Step) -> int:
    doomed = step.run_action(work(1), run_after=60)
    await step.run_mutation(note(1))
    doomed.cancel()
    await step.await_event("never")
    return 1


#: By its name: a call, and how many facts and steps its whole journal has.
FLOWS: dict[str, tuple[Call[Any], int, int]] = {
    "in_a_row": (in_a_row(), 4, 3),
    "at_once": (at_once(), 6, 5),
    "racing": (racing(), 6, 4),
    "failing": (failing(), 2, 1),
    "parent": (parent(), 3, 2),
    "long": (long(22), 23, 22),
    "waits": (waits(), 2, 3),
}


class Played:
    """A world in which one workflow is played, and an event sent to it after ten seconds."""

    def __init__(
        self, path: Path, call: Call[Any], plan: str = "", limits: Limits = Limits()
    ) -> None:
        faults = FaultPlan.parse(plan)
        self.world = World(d, sqlite_disk(path / "a.db"), faults, workers=2, limits=limits)
        self.rules = self.world.rules
        self.world.start(call, id="x")
        self.world.after(10_000, self._send)

    def _send(self) -> None:
        self.world.send_event("go", workflow_id="x", value="go")

    def all(self) -> list[Loaded]:
        """What is stored now."""
        store = self.world.open_disk()
        store.open(max_parallelism=None)
        try:
            return self.world.history.check_store(store)
        finally:
            store.close()

    def end(self) -> Loaded:
        """The workflow as it is in the end; the world is over."""
        self.world.settle()
        self.world.close()
        return self.all()[0]


def cut(loaded: Loaded, last: int) -> Loaded:
    """What was stored when the fact at position `last` had been delivered."""

    def as_of(record: StepRecord) -> StepRecord:
        if record.delivered_position is None or record.delivered_position <= last:
            return record
        return replace(record, delivered_position=None, delivered_at=None)

    steps = [as_of(record) for record in loaded.steps if record.asked_position <= last]
    steps = [
        replace(record, canceled_position=None)
        if record.canceled_position is not None and record.canceled_position > last
        else record
        for record in steps
    ]
    state = replace(loaded.state, status="in_progress", outcome=None, ended_at=None, position=last)
    ticks = tuple(tick for tick in loaded.ticks if tick.position <= last)
    return Loaded(state=state, steps=tuple(steps), ticks=ticks)


def refused(rules: StepRules, loaded: Loaded) -> str:
    """What is said of a journal that does not fit."""
    with pytest.raises(ReplayDiffers) as caught:
        check_replay(rules, loaded)
    return str(caught.value)


# --- what is accepted -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLOWS)
def test_a_real_journal_is_accepted_whole_and_cut(tmp_path: Path, name: str) -> None:
    """The code asks for the same again, from each point of its life on."""
    call, facts, steps = FLOWS[name]
    played = Played(tmp_path, call)
    loaded = played.end()
    assert (loaded.state.position + 1, len(loaded.steps)) == (facts, steps)
    check_replay(played.rules, loaded)
    for last in range(facts - 1):
        check_replay(played.rules, cut(loaded, last))


@pytest.mark.parametrize("name", FLOWS)
def test_a_journal_is_accepted_at_any_time_of_its_life(tmp_path: Path, name: str) -> None:
    """Whenever the world is stopped: what is stored then is a journal, also of a child."""
    call, facts, _ = FLOWS[name]
    played = Played(tmp_path, call)
    seen = set()
    for ms in (0, 20, *range(30, 130, 15), *range(300, 12_000, 900)):
        played.world.run(until=START_MS + ms)
        for loaded in played.all():
            check_replay(played.rules, loaded)
            seen.add(loaded.state.position)
    played.world.close()
    assert {-1, facts - 1} <= seen


@pytest.mark.parametrize(
    "plan",
    [
        "pd1:w0/commit#5=crash_after",
        "pd1:w0/turn#3=evict",
        "pd1:work/attempt#1=raises*2",
        "pd1:w0/turn#2=jump:1m;w0/commit#6=lost_ack",
    ],
)
@pytest.mark.parametrize("name", ["at_once", "racing", "parent"])
def test_a_journal_is_accepted_after_faults(tmp_path: Path, name: str, plan: str) -> None:
    """A fault costs attempts and time, and leaves a journal that fits."""
    played = Played(tmp_path, FLOWS[name][0], plan)
    loaded = played.end()
    assert (played.world.faults.fired, loaded.state.status) != ([], "in_progress")
    for each in played.all():
        check_replay(played.rules, each)


def test_a_canceled_journal_is_accepted(tmp_path: Path) -> None:
    """Its handler waits for ever: nobody told it."""
    played = Played(tmp_path, racing())
    played.world.after(1_000, lambda: played.world.cancel("x"))
    loaded = played.end()
    assert loaded.state.outcome == Canceled()
    check_replay(played.rules, loaded)


def test_a_full_journal_is_accepted(tmp_path: Path) -> None:
    """Its workflow was failed where its handler waits for the next step."""
    played = Played(tmp_path, long(30), limits=Limits(value_bytes=500, journal_bytes=1_000))
    loaded = played.end()
    assert isinstance(loaded.state.outcome, Failed)
    assert loaded.state.outcome.error.type == "LimitExceeded"
    check_replay(played.rules, loaded)


def test_a_workflow_without_a_journal_is_passed_over(tmp_path: Path) -> None:
    """One that has not started, and one whose code is not there, have nothing to be checked."""
    played = Played(tmp_path, waits())
    loaded = played.end()
    unborn = replace(loaded.state, started_at=None, position=-1)
    check_replay(played.rules, replace(loaded, state=unborn))
    check_replay(attrs.evolve(played.rules, registry=Definer().registry), loaded)
    header = replace(loaded.state.header, name="note")
    check_replay(played.rules, replace(loaded, state=replace(loaded.state, header=header)))


# --- how much is replayed -------------------------------------------------------------------------


def other(played: Played, definer: Definer) -> StepRules:
    """The rules of a world whose code is another one; the functions are the same."""
    for each in (work, fail, note, look):
        definer.registry.add(each)
    return attrs.evolve(played.rules, registry=definer.registry)


@pytest.mark.parametrize(
    ("count", "replays"), [(0, 1), (1, 2), (19, 20), (38, 39), (39, 21), (49, 26)]
)
def test_long_journals_are_not_replayed_from_everywhere(
    tmp_path: Path, count: int, replays: int
) -> None:
    """Each prefix is replayed, but from twice `PREFIXES_MAX` facts on only every other one."""
    definer, begun = Definer(), []

    @definer.workflow(name="long")
    async def counted(step: Step, count: int) -> int:
        begun.append(count)
        for n in range(count):
            await step.run_mutation(note(n))
        return count

    assert PREFIXES_MAX == 20
    played = Played(tmp_path, long(count))
    loaded = played.end()
    check_replay(other(played, definer), loaded)
    assert begun == [count] * replays


@pytest.mark.parametrize(
    ("then", "says"),
    [
        ("asks", "x, 2 facts: it asked for ((2, RunStep(kind='query', name='look'"),
        ("ends", "x, 2 facts: it ended as Succeeded(value='1') before its journal did"),
    ],
)
def test_code_that_changes_between_replays_is_found(tmp_path: Path, then: str, says: str) -> None:
    """A replay of the whole may go well by chance: each prefix starts anew."""
    definer = Definer()
    replays: list[None] = []

    @definer.workflow(name="pair")
    async def changing(step: Step) -> int:
        replays.append(None)
        futures = [step.run_mutation(note(1)), step.run_mutation(note(2))]
        first = await futures[0]
        if len(replays) == 3:  # the whole, the start, and now the first two facts
            if then == "ends":
                return first
            await step.run_query(look())
        return first + await futures[1]

    played = Played(tmp_path, pair())
    loaded = played.end()
    assert refused(other(played, definer), loaded)[: len(says)] == says


# --- journals that are wrong ----------------------------------------------------------------------


def altered(loaded: Loaded, number: int, **fields: Any) -> Loaded:
    """A journal with one step that has other fields."""
    steps = [replace(r, **fields) if r.number == number else r for r in loaded.steps]
    return replace(loaded, steps=tuple(steps))


def renamed(loaded: Loaded, number: int, **fields: Any) -> Loaded:
    """A journal with one step that another function, or other arguments, were asked for."""
    command = loaded.steps[number].command
    assert isinstance(command, RunStep)
    return altered(loaded, number, command=replace(command, **fields))


def ended(loaded: Loaded, outcome: Any) -> Loaded:
    """A journal whose workflow ended otherwise."""
    return replace(loaded, state=replace(loaded.state, outcome=outcome))


def one_more(loaded: Loaded) -> Loaded:
    """A journal with a step that nobody asked for."""
    last = loaded.steps[-1]
    extra = replace(last, number=last.number + 1, delivered_position=None, delivered_at=None)
    return replace(loaded, steps=(*loaded.steps, extra))


def one_less(loaded: Loaded, number: int) -> Loaded:
    """A journal without one of its steps."""
    steps = tuple(record for record in loaded.steps if record.number != number)
    return replace(loaded, steps=steps)


MISFIT = "the code does not fit the journal at position {}; the journal is right and the code wrong"

#: What is done to the journal of `in_a_row`, and the lines that say what is wrong.
WRONG: dict[str, tuple[Callable[[Loaded], Loaded], list[str]]] = {
    "other arguments of the first step": (
        lambda loaded: renamed(loaded, 0, arguments='{"n":2}'),
        [
            "x, 4 facts: " + MISFIT.format("0 (the start)"),
            '  recorded, not asked for: step 0: action work {"n":2}',
            '  asked for, not recorded: action work {"n":1}',
        ],
    ),
    "other arguments of a later step": (
        lambda loaded: renamed(loaded, 1, arguments='{"n":3}'),
        [
            "x, 4 facts: " + MISFIT.format("1 (the outcome of step 0)"),
            '  recorded, not asked for: step 1: mutation note {"n":3}',
            '  asked for, not recorded: mutation note {"n":2}',
        ],
    ),
    "another name": (
        lambda loaded: renamed(loaded, 2, name="peek"),
        [
            "x, 4 facts: " + MISFIT.format("2 (the outcome of step 1)"),
            "  recorded, not asked for: step 2: query peek (of look) {}",
            "  asked for, not recorded: query look {}",
        ],
    ),
    "another outcome of a step": (
        lambda loaded: altered(loaded, 0, outcome=Succeeded("5")),
        [
            "x, 4 facts: " + MISFIT.format("1 (the outcome of step 0)"),
            '  recorded, not asked for: step 1: mutation note {"n":2}',
            '  asked for, not recorded: mutation note {"n":6}',
        ],
    ),
    "a step more": (
        one_more,
        [
            "x, 4 facts: " + MISFIT.format("2 (the outcome of step 1)"),
            "  recorded, not asked for: step 3: query look {}",
        ],
    ),
    "no first step": (
        lambda loaded: one_less(loaded, 0),
        [
            "x, 3 facts: " + MISFIT.format("0 (the start)"),
            '  asked for, not recorded: action work {"n":1}',
        ],
    ),
    "no last step": (
        lambda loaded: one_less(loaded, 2),
        ["x, 3 facts: it asked for ((2, RunStep(kind='query', name='look'"],
    ),
    "an outcome that does not fit its type": (
        lambda loaded: altered(loaded, 0, outcome=Succeeded('"one"')),
        ["x, 4 facts: the recorded outcome of step 0 no longer fits its type: "],
    ),
    "another result": (
        lambda loaded: ended(loaded, Succeeded("10")),
        ["x, 4 facts: it ended as Succeeded(value='9'), recorded is Succeeded(value='10')"],
    ),
    "a failure": (
        lambda loaded: ended(loaded, Failed(ErrorInfo("ValueError", "boom"))),
        ["x, 4 facts: it ended as Succeeded(value='9'), recorded is Failed("],
    ),
    "no end": (
        lambda loaded: ended(loaded, None),
        ["x, 4 facts: it ended as Succeeded(value='9'), recorded is None"],
    ),
    "an end too early": (
        lambda loaded: ended(cut(loaded, 2), Succeeded("9")),
        ["x, 3 facts: it waits, but recorded is Succeeded(value='9')"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_journal_is_refused(tmp_path: Path, name: str) -> None:
    """Whatever is changed in a journal, the code no longer fits it; both are shown."""
    change, lines = WRONG[name]
    played = Played(tmp_path, in_a_row())
    loaded = played.end()
    check_replay(played.rules, loaded)
    said = refused(played.rules, change(loaded)).splitlines()
    assert [line[: len(start)] for line, start in zip(said, lines, strict=False)] == lines


def test_an_unrecorded_cancel_is_refused(tmp_path: Path) -> None:
    """A step whose future the handler cancels is recorded as cancelled by it, or not at all."""
    played = Played(tmp_path, waits())
    loaded = played.end()
    assert [record.canceled_position for record in loaded.steps] == [1, None, None]
    said = refused(played.rules, altered(loaded, 0, canceled_position=None))
    assert said == "x, 2 facts: it asked for () and cancelled (CancelStep(number=0),), unrecorded"


def test_a_cancel_that_never_was_is_refused(tmp_path: Path) -> None:
    """What is recorded as cancelled by the handler is cancelled by the replay."""
    played = Played(tmp_path, waits())
    loaded = played.end()
    said = refused(played.rules, altered(loaded, 2, canceled_position=1)).splitlines()
    assert said[1] == "  recorded, not asked for: cancel of step 2"


def test_a_failure_that_the_handler_knows_nothing_of_is_refused(tmp_path: Path) -> None:
    """Only a full journal and a fault of perdure's end a workflow whose handler waits."""
    played = Played(tmp_path, waits())
    loaded = played.end()
    for error in ("LimitExceeded", "InternalError"):
        check_replay(played.rules, ended(loaded, Failed(ErrorInfo(error, "text"))))
    refused(played.rules, ended(loaded, Failed(ErrorInfo("ValueError", "boom"))))


def test_a_cancel_of_a_workflow_that_had_ended_is_refused(tmp_path: Path) -> None:
    """The last fact and the end that it leads to are one commit: no cancel comes in between."""
    played = Played(tmp_path, in_a_row())
    refused(played.rules, ended(played.end(), Canceled()))


# --- code that changed ----------------------------------------------------------------------------


async def _one_step_more(step: Step) -> int:
    first = await step.run_action(work(1))
    await step.run_mutation(note(0))
    second = await step.run_mutation(note(first + 1))
    return second + await step.run_query(look())


async def _one_step_less(step: Step) -> int:
    first = await step.run_action(work(1))
    return first + 1 + await step.run_query(look())


async def _ends_early(step: Step) -> int:
    return await step.run_action(work(1))


async def _adds_at_the_end(step: Step) -> int:
    result = await in_a_row.fn(step)
    return int(result) + await step.run_query(look())


async def _gives_something_else(step: Step) -> int:
    return int(await in_a_row.fn(step)) + 1


async def _does_not_wait(step: Step) -> int:
    step.run_action(work(1))
    second, third = await asyncio.gather(step.run_mutation(note(2)), step.run_query(look()))
    return second + third


CHANGED: dict[str, tuple[Callable[[Step], Any], str]] = {
    "a step more": (_one_step_more, '  asked for, not recorded: mutation note {"n":0}'),
    "a step less": (_one_step_less, '  recorded, not asked for: step 1: mutation note {"n":2}'),
    "an early end": (_ends_early, "  the handler ended, but the journal goes on"),
    "a step at the end": (_adds_at_the_end, "x, 4 facts: it asked for ((3, RunStep(kind='query'"),
    "another result": (_gives_something_else, "x, 4 facts: it ended as Succeeded(value='10'), "),
    "another order": (_does_not_wait, '  asked for, not recorded: mutation note {"n":2}'),
}


@pytest.mark.parametrize("name", CHANGED)
def test_changed_code_is_refused(tmp_path: Path, name: str) -> None:
    """Code that would have asked for something else, or ended otherwise, does not fit."""
    definer = Definer()
    code, says = CHANGED[name]
    definer.workflow(name="in_a_row")(code)
    played = Played(tmp_path, in_a_row())
    loaded = played.end()
    said = refused(other(played, definer), loaded)
    assert says in said


def test_a_changed_signature_is_refused(tmp_path: Path) -> None:
    """Recorded arguments that the handler no longer takes are the code's fault."""
    definer = Definer()

    @definer.workflow(name="in_a_row")
    async def needs_more(step: Step, n: int) -> int:
        return n

    played = Played(tmp_path, in_a_row())
    said = refused(other(played, definer), played.end())
    assert said.startswith("x, 4 facts: the handler cannot be called any more: ")
