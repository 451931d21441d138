"""Faults of clients, of actions, of deploys, and of the power: each does what the table says."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from tests.sim.acting import acting, calls, d, failure, value
from tests.sim.faults.test_sites import lives, play
from tests.sim.scenes import DEPLOYS, MISFITS, REFERENCE, TRANSFERS, TREES, ledger

from perdure.core.outcomes import Canceled, Failed, Succeeded
from perdure_sim.explore.explorer import Run, Scenario, run
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.stores.memory import MemoryDatabase, MemoryStore
from perdure_sim.world.actions import Stub
from perdure_sim.world.clock import START_MS
from perdure_sim.world.disks import sqlite_disk
from perdure_sim.world.world import World

# --- requests -------------------------------------------------------------------------------------


def requests(plan: str) -> World:
    """One start and one event, and what becomes of them."""
    return play(REFERENCE, plan).world


@pytest.mark.parametrize("kind", ["twice", "elsewhere", "storm"])
@pytest.mark.parametrize("request_number", [1, 3])
def test_a_request_that_comes_more_than_once_is_carried_out_once(
    kind: str, request_number: int
) -> None:
    """A start makes one workflow, and an event is one event."""
    world = requests(f"pd1:c0/request#{request_number}={kind}")
    assert list(world.history.workflows) == ["o0", "o1"]
    assert [len(known.sent) for known in world.history.workflows.values()] == [1, 1]
    asked = [event.about for event in world.trace.events if event.kind == "ask"]
    assert len(asked) == 4


def test_a_request_that_is_late_comes_after_others() -> None:
    """The second start is stored before the first."""
    world = requests("pd1:c0/request#1=late:3s")
    assert list(world.history.workflows) == ["o1", "o0"]
    made = world.history.workflows["o0"].state.header.created_at
    assert made == START_MS + 3_000


def test_a_late_request_dies_with_its_client_and_is_asked_again() -> None:
    """By the next life, which knows that there was no answer."""
    world = requests("pd1:c0/request#1=late:30s;c0/decided#1=crash")
    made = world.history.workflows["o0"].state.header.created_at
    assert START_MS + 500 <= made <= START_MS + 2_000


# --- a workflow that is touched -------------------------------------------------------------------


@pytest.mark.parametrize("commit", range(1, 8))
def test_a_workflow_may_be_cancelled_at_each_of_its_commits(commit: int) -> None:
    """It ends there, and the other one as ever."""
    found = play(REFERENCE, f"pd1:o0/touched#{commit}=cancel")
    assert found.outcomes == {"o0": Canceled(), "o1": Succeeded("4")}
    assert found.world.faults.census["o0", "touched"] >= commit


def test_a_cancel_may_be_aimed_at_a_child() -> None:
    """By the id of its parent and its step, whichever epoch that was asked in."""
    found = play(TREES, "pd1:kept/1/touched#2=cancel")
    assert found.outcomes["kept/1"] == Canceled()


# --- attempts and their reports -------------------------------------------------------------------


def attempts(plan: str, *, count: int = 2, takes_ms: int = 0) -> World:
    """A workflow of one step, whose action may be tried so often."""
    scenario = Scenario(
        name="one",
        definer=d,
        script=lambda world: world.start(acting(attempts=count), id="x"),
        stubs={"act": Stub(fn=lambda *_, **__: "done", takes_ms=takes_ms)},
        workers=1,
        may_change=frozenset({"report=crash"}),  # where it may be tried but once
    )
    return play(scenario, plan).world


@pytest.mark.parametrize("site", ["attempt", "report"])
def test_a_process_may_die_before_or_after_an_action_has_done_its_work(site: str) -> None:
    """In both cases it is tried again, under the same key: what it did may be done twice."""
    world = attempts(f"pd1:act/{site}#1=crash")
    assert [(call.attempt, call.idempotency_key[:4]) for call in world.calls] == [
        (1, "x/0@"),
        (2, "x/0@"),
    ]
    assert len({call.idempotency_key for call in world.calls}) == 1
    assert value(world) == "done"


def test_an_action_that_may_not_be_repeated_is_lost_with_its_report() -> None:
    """Its effect is there, and the step fails: nobody knows."""
    world = attempts("pd1:act/report#1=crash", count=1)
    assert failure(world)[0] == "WorkerLost"
    assert len(world.calls) == 1


def test_an_outcome_that_is_told_twice_is_taken_once() -> None:
    """Nothing is tried again."""
    world = attempts("pd1:act/report#1=twice")
    assert (value(world), len(world.calls)) == ("done", 1)


def test_an_outcome_may_be_told_late() -> None:
    """The step is settled then, and its permit held until then."""
    world = attempts("pd1:act/report#1=late:5s")
    settled = world.history.workflows["x"].steps[0].settled_at
    assert settled == START_MS + 5_020


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("too_much", ("LimitExceeded", "result of act: 6 bytes of JSON, the limit is 0")),
        ("wrong_type", ("ValidationError", "result of act")),
    ],
)
def test_an_action_may_return_what_cannot_be_recorded(kind: str, told: tuple[str, str]) -> None:
    """The step fails at once: to do the work again would give the same."""
    world = attempts(f"pd1:act/attempt#1={kind}")
    name, message = failure(world)
    assert (name, message[: len(told[1])]) == told
    assert len(world.calls) == 1


def test_a_slow_action_may_outlive_its_timeout() -> None:
    """It is cancelled, or, where it hears nothing, ends for nobody."""
    for kind in ("slow", "deaf"):
        scenario = Scenario(
            name="late",
            definer=d,
            script=lambda world: world.start(acting(attempts=2, timeout=60), id="x"),
            stubs={"act": Stub(fn=lambda *_, **__: "done")},
            workers=1,
        )
        world = play(scenario, f"pd1:act/attempt#1={kind}:90s").world
        assert value(world) == "done"
        assert [(attempt, at) for attempt, _, at in calls(world)] == [(1, 20), (2, 61_020)]


# --- deploys --------------------------------------------------------------------------------------


def codes(found: Run) -> list[str]:
    """Which code each worker runs at the end."""
    world = found.world
    return ["next" if each.rules is world.next_rules else "first" for each in world.workers]


@pytest.mark.parametrize("kind", ["drain", "kill"])
@pytest.mark.parametrize("turn", range(2, 12, 3))
def test_code_that_fits_changes_nothing(kind: str, turn: int) -> None:
    """Old and new run at once, and both go on with what the other has begun."""
    found = play(DEPLOYS, f"pd1:w0/deploy#{turn}={kind}")
    assert codes(found) == ["next", "first"]
    assert found.outcomes == {"p1": Succeeded("2"), "p2": Succeeded("4")}
    ends = [what for _, what in lives(found) if what in ("crash", "end")]
    assert ends == ["crash" if kind == "kill" else "end"]


def test_a_workflow_that_fails_under_the_next_code_is_replayed_with_it() -> None:
    """Where it failed stands in its traceback, which differs."""
    found = play(DEPLOYS, "pd1:post/attempt#2=too_much;w0/deploy#2=drain")
    assert found.outcomes["p1"] == Succeeded("2")
    outcome = found.world.history.workflows["p2"].state.outcome
    assert isinstance(outcome, Failed)
    assert "in parcel_next" in (outcome.error.traceback or "")


def blocked(found: Run) -> dict[str, str]:
    """Why workflows were blocked, by id."""
    return {
        write.state.workflow_id: write.state.blocked.error.message
        for event in found.world.trace.events
        if event.kind == "commit"
        for name, what in event.about
        if name == "update"
        for write in what
        if write.state.blocked is not None
    }


@pytest.mark.parametrize("kind", ["drain", "kill"])
def test_code_that_does_not_fit_blocks_what_it_cannot_replay(kind: str) -> None:
    """The error names the step; when the old code is back, the workflow goes on to its end."""
    found = play(MISFITS, f"pd1:w0/deploy#4={kind};w1/deploy#4={kind}")
    reasons = blocked(found)
    assert reasons
    for reason in reasons.values():
        assert "the code does not fit the journal" in reason
        assert 'recorded, not asked for: step 0: action pack {"n":' in reason
    assert found.outcomes["p1"] == Succeeded("2")


def test_what_the_next_code_has_begun_ends_with_it() -> None:
    """The old one cannot replay that, so it waits for the new one to come back."""
    found = play(MISFITS, "pd1:w0/deploy#1=kill;w1/deploy#1=kill")
    assert found.outcomes == {"p1": Succeeded('"sent 2"'), "p2": Succeeded('"sent 4"')}


# --- a loss of power ------------------------------------------------------------------------------


def test_what_was_stored_last_is_lost_with_the_power() -> None:
    """All processes die. What clients were told is asked again; in the end nothing is missing."""
    found = play(TRANSFERS, "pd1:w0/commit#7=power_loss:10s")
    world = found.world
    for lane in ("w0", "w1", "c0"):
        assert "crash" in [kind for _, kind in lives(found, lane)]
    commits = [event for event in world.trace.events if event.kind == "commit"]
    inserted = Counter(
        state.workflow_id
        for event in commits
        for name, what in event.about
        if name == "insert"
        for state in what
    )
    assert inserted == {"a": 2, "b": 2}
    asked = Counter(event.about for event in world.trace.events if event.kind == "ask")
    assert asked == {"start a": 2, "start b": 2}


@pytest.mark.parametrize("commit", range(2, 11))
def test_users_tables_are_lost_with_the_rest(commit: int) -> None:
    """The ledger is what it was at the last commit that was kept; the check looks at the end."""
    found = play(TRANSFERS, f"pd1:w0/commit#{commit}=power_loss:50ms")
    assert [kind for _, kind in lives(found)] == ["boot", "crash", "boot"]


def test_sqlite_loses_nothing_of_what_it_has_committed(tmp_path: Path) -> None:
    """There a loss of power only kills all processes."""
    plan = FaultPlan.parse("pd1:w0/commit#7=power_loss:10s")
    found = run(TRANSFERS, plan, lambda: sqlite_disk(tmp_path / "a.db"))
    assert found.failure is None
    assert [str(fault) for fault in found.world.faults.fired] == [str(plan.faults[0])]
    asked = Counter(event.about for event in found.world.trace.events if event.kind == "ask")
    assert asked == {"start a": 1, "start b": 1}


def test_the_model_store_takes_commits_back() -> None:
    """Rows and users' tables, to any commit since it was told to keep them."""
    with closing(MemoryDatabase()) as database:
        store = MemoryStore(database)
        store.open(max_parallelism=3)
        database.keep_commits()
        seen = [database.snapshot()]
        for n in range(4):
            with store.transaction() as tx:
                tx.set_max_parallelism(10 + n)
                create = partial(tx.db.execute, f"CREATE TABLE t{n} (x)")
                tx.run_user_code(create, read_only=False)
            seen.append(database.snapshot())
        assert database.count_commits() == 4
        store.close()
        for count in (3, 1, 0):
            database.undo_commits(count)
            assert database.snapshot() == seen[count]
            names = database.user_tables.engine_execute("SELECT name FROM sqlite_master").fetchall()
            assert names == [(f"t{n}",) for n in range(count)]


def test_after_a_loss_of_power_the_ledger_fits_the_journals(tmp_path: Path) -> None:
    """Its entries are those of mutations that succeeded, and no others."""
    seen: list[list[str]] = []
    scenario = Scenario(
        name="transfers",
        definer=TRANSFERS.definer,
        script=TRANSFERS.script,
        setup=TRANSFERS.setup,
        check=lambda world: seen.append(ledger(world)),
    )
    play(scenario, "pd1:w0/commit#6=power_loss:1h")
    assert sorted(seen[-1]) == sorted(seen[0])
