"""Random workflow programs in random trouble: they end as they should, and as they did before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from property_tests.cases import Case, Played, cases, journals, play, results
from property_tests.expected import Expected, expected
from property_tests.programs import CALM, PROGRAMS, Program

from perdure_sim.faults.plan import Fault, FaultPlan
from perdure_sim.faults.sites import CHANGING, KINDS
from perdure_sim.faults.strategies import plans
from perdure_sim.laws.replay_process import ReplayProcess, recorded
from perdure_sim.world.disks import sqlite_disk

#: Kinds of faults that let no process die.
HARMLESS = {kind for kinds in KINDS.values() for kind, _, _ in kinds if "crash" not in kind}

#: SQLite's workers hold real locks: they cannot be taken for dead while they live. And what was
#: stored stays.
ONLY_IN_MEMORY = {"zombie", "fenced", "overtaken", "power_loss"}


def trouble(
    calm: Played,
    data: st.DataObject,
    label: str = "plan",
    without: set[str] | frozenset[str] = CHANGING,
) -> FaultPlan:
    """What may go wrong where a run without faults came by."""
    census = calm.world.faults.census
    return data.draw(plans(census, without=CHANGING | without), label=label)


def merged(one: FaultPlan, other: FaultPlan) -> FaultPlan:
    """Both; of two faults at one place that of the first."""
    places = {(fault.actor, fault.site, fault.occurrence): fault for fault in [*other, *one]}
    return FaultPlan(places.values())


def is_certain(wanted: Expected) -> bool:
    """Whether there is one way to end, and one set of rows."""
    return len(wanted.endings) == 1 and not any(
        effect.startswith("row") for each in wanted.endings for effect in each.most - each.least
    )


def is_alone(program: Program) -> bool:
    """Whether it has to do with no other workflow, and with no client."""
    kind, _, *parts = program
    return kind not in ("child", "children", "event") and all(map(is_alone, parts))


def ended_at(played: Played) -> dict[str, int | None]:
    """When each workflow ended."""
    return {n: known.state.ended_at for n, known in played.world.history.workflows.items()}


@given(case=cases(PROGRAMS, st.none() | st.integers(0, 3_000)), data=st.data())
@settings(max_examples=160)
def test_programs_end_as_they_should(case: Case, data: st.DataObject) -> None:
    """Outcomes and effects are what the model says, without faults and with any."""
    play(case, trouble(play(case), data))


def row(*parts: Program) -> Program:
    return ["row", None, *parts]


def race(*parts: Program) -> Program:
    return ["race", None, *parts]


NEVER: Program = ["never", None]
OVERDUE: Program = ["overdue", None]
LETTER: Program = ["letters", 1]
CHANGES_ITS_MIND = row(race(["sleep", 60], ["child", None, ["work", 30_000]]), ["sleep", 1_000])
LISTENS = race(NEVER, row(LETTER, LETTER), ["child", None, ["work", 0]])


@pytest.mark.parametrize(
    ("program", "plan"),
    [
        (["try", None, OVERDUE], "w0/carried_out#1=zombie:40s"),
        (["work", 0], "w0/begin#9=busy;w0/collected#1=crash"),
        (["gather", None, OVERDUE, ["broken", None]], "w0/commit#6=lost_ack"),
        (race(["work", 30_000], ["sleep", 5]), "w0/commit#6=lost_ack"),
        (race(["sleep", 60], ["child", None, CHANGES_ITS_MIND]), ""),
        (race(NEVER, row(LETTER, LETTER), ["child", None, LISTENS]), ""),
    ],
)
def test_programs_that_once_went_wrong(program: Program, plan: str) -> None:
    """What a search has found stays mended."""
    play(Case([program], workers=1, max_parallelism=None), FaultPlan.parse(f"pd1:{plan}"))


@given(case=cases(PROGRAMS), data=st.data())
@settings(max_examples=40)
def test_a_plan_gives_one_run(case: Case, data: st.DataObject) -> None:
    """Twice the same plan, twice the same trace."""
    plan = trouble(play(case), data)
    first, second = (play(case, plan) for _ in range(2))
    assert first.world.trace.digest() == second.world.trace.digest()


@given(program=CALM.filter(is_alone))
@settings(max_examples=80)
def test_a_live_handler_is_but_a_cache(program: Program) -> None:
    """Handlers that are dropped again and again: the same results, to the millisecond.

    Of one workflow by itself: a turn more may change which of several comes first, and when the
    worker sees what others have committed.
    """
    assume(is_certain(expected(program, "p0")))
    case = Case([program], workers=1, max_parallelism=None)
    calm = play(case)
    turns = calm.world.faults.census["w0", "turn"]
    # Not in each turn: a worker that has something to load would never have a turn without work.
    evictions = FaultPlan(Fault("w0", "turn", turn, "evict") for turn in range(1, 2 * turns, 2))
    evicted = play(case, evictions)
    assert results(evicted) == results(calm)
    assert ended_at(evicted) == ended_at(calm)


@given(case=cases(CALM), data=st.data())
@settings(max_examples=50)
def test_crashes_beside_other_trouble_change_no_result(case: Case, data: st.DataObject) -> None:
    """The same outcomes and the same rows; for programs that have but one way to end."""
    assume(all(is_certain(expected(p, f"p{n}")) for n, p in enumerate(case.programs)))
    calm = play(case)
    plan = trouble(calm, data)
    crashes = trouble(calm, data, "crashes", without=HARMLESS)
    shaken, more_shaken = play(case, plan), play(case, merged(plan, crashes))
    assume(shaken.rows is not None and more_shaken.rows is not None)
    assert results(shaken) == results(calm)
    assert results(more_shaken) == results(calm)


@given(case=cases(PROGRAMS), data=st.data())
@settings(max_examples=25)
def test_both_stores_give_the_same(case: Case, data: st.DataObject) -> None:
    """The model store and SQLite leave the same journals, to the millisecond, and equal rows."""
    plan = trouble(play(case), data, without=ONLY_IN_MEMORY)
    memory = play(case, plan)
    with TemporaryDirectory() as folder:
        sqlite = play(case, plan, lambda: sqlite_disk(Path(folder) / "app.db"))
    assert journals(sqlite) == journals(memory)
    assert results(sqlite) == results(memory)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[ReplayProcess]:
    with ReplayProcess() as process:
        yield process


@given(case=cases(PROGRAMS), data=st.data())
@settings(max_examples=40)
def test_journals_are_replayed_in_another_process(
    elsewhere: ReplayProcess, case: Case, data: st.DataObject
) -> None:
    """Where strings, and so sets of them, hash differently."""
    played = play(case, trouble(play(case), data))
    elsewhere.check("property_tests.programs:d", recorded(played.world.history))
