"""What is lawful as a whole: lives made by real transitions, and a store that has what was written.

How each law is broken is in test_history.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from msgspec.structs import replace
from tests.core.playbook import (
    NOW,
    after,
    asked,
    await_event,
    await_id,
    child,
    fresh,
    ok,
    run,
    sent,
    sleep,
)
from tests.sim.rows import (
    ASKED,
    BEGUN,
    BOOM,
    OPEN,
    OTHER,
    STARTED,
    Commit,
    at,
    born,
    call,
    done,
    event,
    put,
    tell,
    ticks,
    update,
)
from tests.sim.scenes import REFERENCE

from perdure.core.effects import ConsumeEvent, PutTick, Write
from perdure.core.journal import StepEnded
from perdure.core.messages import (
    Asked,
    AttemptEnded,
    CancelWorkflow,
    Ended,
    FactDelivered,
    FunctionEnded,
    Message,
    StepAdmitted,
    StepDue,
)
from perdure.core.outcomes import Canceled, Outcome
from perdure.core.transition import transition
from perdure.core.workflow import WorkflowState, next_fact
from perdure.runtime.commit import _step_writes
from perdure.runtime.contexts import ActionContext
from perdure.store.base import Loaded, Reader, Transaction
from perdure.store.sqlite import SqliteStore
from perdure.store.sqlite_sql import SqliteReader, SqliteTransaction
from perdure_sim.explore.explorer import run as run_scenario
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.laws.history import History
from perdure_sim.laws.violations import AttemptTwice, EpochReused, StateUnsound, StoreDiffers
from perdure_sim.world.actions import Stub
from perdure_sim.world.disks import sqlite_disk
from perdure_sim.world.faulty_store import Write as Row
from perdure_sim.world.world import World

# --- lives ----------------------------------------------------------------------------------------


class Life:
    """A workflow that real transitions move on, and its rows as a commit has them."""

    def __init__(self, state: WorkflowState) -> None:
        self.state = state
        self._stored: WorkflowState | None = None
        self._writes: list[Write] = []

    def do(self, *messages: Message, now: int = NOW) -> None:
        for message in messages:
            decision = transition(self.state, message, now)
            decision.state.check()
            self.state = decision.state
            self._writes += decision.writes

    def deliver(self, now: int = NOW) -> None:
        """The handler learns the next fact."""
        fact = next_fact(self.state, now)
        assert fact is not None
        self.do(FactDelivered(fact=fact), now=now)

    def rows(self) -> Commit:
        """One row of each thing that has changed since the last commit."""
        writes, self._writes = self._writes, []
        before, self._stored = self._stored, self.state
        head: Row = ("insert", (self.state,))
        if before is not None:
            head = update(self.state, before.epoch)
        put_ticks = [("w", w.position, w.now) for w in writes if isinstance(w, PutTick)]
        taken = [w for w in writes if isinstance(w, ConsumeEvent)]
        return [
            head,
            ("steps", tuple(_step_writes("w", writes))),
            ("ticks", tuple(put_ticks)),
            *(("consume", ("w", w.event_id, w.number)) for w in taken),
        ]


def attempt_ended(attempt: int, outcome: Outcome) -> AttemptEnded:
    """What the runner tells of an attempt of step 0."""
    return AttemptEnded(number=0, epoch=1, attempt=attempt, outcome=outcome, accepted_at=NOW)


ADMIT = StepAdmitted(number=0, runner="w1")
GO = sent(1, "go", at=NOW + 61)

#: A life in turns: when, and what happens; None is the delivery of the next fact.
TURNS: tuple[tuple[int, tuple[Message | None, ...]], ...] = (
    (0, (None, asked(run(), await_event("go"), sleep(NOW + 50), run("m", "mutation"), child()))),
    (1, (ADMIT, StepAdmitted(number=3, runner="w1"), FunctionEnded(number=3, outcome=ok()))),
    (2, (None, Asked(timer_at=NOW + 20))),
    (3, (attempt_ended(1, ok()), None, Asked(timer_at=NOW + 20))),
    (20, (None, asked(sleep(NOW + 90), first=5))),
    (60, (StepDue(number=2), None, asked())),
    (61, (GO, None)),
    (62, (Ended(outcome=ok("2")),)),
)


def live(sizes: Collection[int]) -> History:
    """The life, with its event sent after the first turn, and so many turns in each commit."""
    life, history, turns = Life(fresh()), History(), iter(TURNS)
    for count, size in enumerate(sizes):
        for _ in range(size):
            passed, messages = next(turns)
            for message in messages:
                if message is None:
                    life.deliver(NOW + passed)
                else:
                    life.do(message, now=NOW + passed)
        history.take(life.rows(), NOW)
        if count == 0:
            history.take([event(GO)], NOW)
    assert list(turns) == []
    return history


@pytest.mark.parametrize("sizes", [(1,) * 8, (1, 7), (2, 2, 2, 2), (1, 3, 3, 1), (4, 3, 1)])
def test_a_whole_life_is_lawful_however_its_turns_share_commits(sizes: tuple[int, ...]) -> None:
    """A commit may merge all changes of several turns into one row; what is known is the same."""
    known = live(sizes).workflows["w"]
    assert (known.has_ended, known.state.outcome) == (True, ok("2"))
    assert known.ticks == {3: NOW + 20}
    assert sorted(known.delivered) == [1, 2, 3, 4, 5]
    assert known.consumed == {"e1": 1}
    assert [(record.delivered_position, record.outcome) for record in known.steps.values()] == [
        (2, ok()),
        (5, ok()),
        (4, ok("null")),
        (1, ok()),
        (None, Canceled()),
        (None, Canceled()),
    ]


def test_a_retried_step_is_lawful() -> None:
    """Two attempts, each recorded before it runs, with the whole backoff in between."""
    life, history = Life(fresh()), History()
    life.deliver()
    life.do(asked(run(attempts=2)), ADMIT)
    tell(history, [life.rows(), call(1)])
    life.do(attempt_ended(1, BOOM))
    history.take(life.rows(), NOW)
    life.do(StepDue(number=0), ADMIT, now=NOW + 100)
    tell(history, [life.rows(), call(2)])
    life.do(attempt_ended(2, ok()), now=NOW + 100)
    life.deliver(NOW + 100)
    life.do(Ended(outcome=ok("3")), now=NOW + 100)
    history.take(life.rows(), NOW)
    known = history.workflows["w"]
    assert (known.steps[0].attempt, known.state.outcome) == (2, ok("3"))


def test_a_canceled_life_is_lawful() -> None:
    """A cancel takes a new epoch, ends the open steps, and is the last that is written."""
    life, history = Life(fresh()), History()
    life.deliver()
    life.do(asked(run(), sleep(NOW + 50)), ADMIT)
    history.take(life.rows(), NOW)
    life.do(CancelWorkflow(epoch=7))
    history.take(life.rows(), NOW)
    known = history.workflows["w"]
    assert (known.state.epoch, known.state.outcome, known.has_ended) == (7, Canceled(), True)
    assert [record.outcome for record in known.steps.values()] == [Canceled(), Canceled()]


def test_an_event_awaited_by_its_id_does_not_wait_for_its_turn() -> None:
    """`await_event(id=…)` takes exactly that one, whatever was sent before under its name."""
    state = after(BEGUN, sent(1), sent(2), asked(await_id("e2")))
    fact = next_fact(state, NOW)
    assert fact == StepEnded(0, ok())
    life = Life(BEGUN)
    history = tell(History(), [life.rows(), [event(sent(1)), event(sent(2))]])
    life.do(sent(1), sent(2), asked(await_id("e2")), FactDelivered(fact=fact))
    history.take(life.rows(), NOW)


# --- at rest --------------------------------------------------------------------------------------

#: With an open step and a tick, which nobody owns: what `Both` has stored.
REST = at(replace(OPEN, owner=None), 1)


class Both:
    """A real store, and a history that was told the same; then more goes to the store alone."""

    def __init__(self, store: SqliteStore | None = None) -> None:
        self.store = SqliteStore(":memory:", durability="process") if store is None else store
        self.store.open(max_parallelism=None)
        rows = [*born(REST), ticks(1)]
        self.history = tell(History(), [rows])
        self.write(*rows)

    def write(self, *rows: Row) -> None:
        with self.store.transaction() as tx:
            for kind, what in rows:
                _apply(tx, kind, what)

    def check(self) -> list[Loaded]:
        try:
            return self.history.check_store(self.store)
        finally:
            self.store.close()


def _apply(tx: Transaction, kind: str, what: Any) -> None:
    match kind:
        case "insert":
            tx.insert_workflows(what)
        case "update":
            assert tx.update_workflows(what) == set()
        case "steps":
            tx.put_steps(what)
        case "ticks":
            tx.put_ticks(what)
        case _:
            raise AssertionError(kind)


def test_a_store_that_has_what_was_written_is_sound() -> None:
    """It gives the workflows, in the order in which they were started."""
    both = Both()
    rows = born(replace(fresh(workflow_id="a"), epoch=2, owner=None))
    both.write(*rows)
    both.history.take(rows, NOW)
    loaded = both.check()
    assert [each.state.workflow_id for each in loaded] == ["w", "a"]
    assert [(each.steps, len(each.ticks)) for each in loaded] == [((ASKED,), 1), ((), 0)]


DIFFERENT: dict[str, tuple[Row, str]] = {
    "a step": (put(STARTED), "w step 0: stored StepRecord(number=0"),
    "a step more": (put(replace(ASKED, number=1), new=True), "w step 1: stored StepRecord(number="),
    "a tick": (ticks(2), f"w: ticks {{1: {NOW}, 2: {NOW}}}, written {{1: {NOW}}}"),
    "status": (
        update(replace(REST, status="success", outcome=ok(), ended_at=NOW)),
        "w: status is 'success', written 'in_progress'",
    ),
    "position": (update(at(REST, 2)), "w: position is 2, written 1"),
    "stamp": (update(replace(REST, stamp=5)), f"w: stamp is 5, written {NOW}"),
    "started_at": (update(replace(REST, started_at=5)), f"w: started_at is 5, written {NOW}"),
    "next_number": (update(replace(REST, next_number=2)), "w: next_number is 2, written 1"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_store_that_gives_something_else_is_found(name: str) -> None:
    """What is stored and what was written are both named."""
    row, says = DIFFERENT[name]
    both = Both()
    both.write(row)
    with pytest.raises(StoreDiffers) as caught:
        both.check()
    assert says in str(caught.value)


def test_a_store_that_changes_an_outcome_is_found() -> None:
    """The end of a workflow is what was written."""
    both = Both()
    ended = replace(REST, status="success", outcome=ok("1"), ended_at=NOW)
    final = put(done(ASKED))
    both.history.take([update(ended), final], NOW)
    both.write(update(replace(ended, outcome=ok("2"))), final)
    with pytest.raises(StoreDiffers) as caught:
        both.check()
    assert str(caught.value) == ("w: outcome is Succeeded(value='2'), written Succeeded(value='1')")


def test_a_store_that_loses_a_workflow_is_found() -> None:
    """It was inserted, and is gone."""
    both = Both()
    both.history.take(born(OTHER), NOW)
    with pytest.raises(StoreDiffers) as caught:
        both.check()
    assert str(caught.value) == "v is gone"


class ForgetsTheEnd(SqliteStore):
    """Does not give the time at which a workflow has ended."""

    def reader(self) -> Reader:
        reader = super().reader()
        assert isinstance(reader, SqliteReader)
        reader.__class__ = _WithoutEnd
        return reader


class _WithoutEnd(SqliteReader):
    def load(self, ids: Collection[str]) -> list[Loaded]:
        found = super().load(ids)
        return [replace(each, state=replace(each.state, ended_at=None)) for each in found]


def test_a_stored_state_that_breaks_its_own_invariants_is_found() -> None:
    """Also where all that the history compares is the same."""
    both = Both(ForgetsTheEnd(":memory:", durability="process"))
    rows = [
        update(replace(REST, status="success", outcome=ok(), ended_at=NOW)),
        put(done(ASKED)),
    ]
    both.history.take(rows, NOW)
    both.write(*rows)
    with pytest.raises(StateUnsound) as caught:
        both.check()
    assert str(caught.value).startswith("w: WorkflowState(")


# --- in a run -------------------------------------------------------------------------------------


class GivesEpochsTwice(SqliteStore):
    """Forgets which epochs it has given."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with super().transaction() as tx:
            assert isinstance(tx, SqliteTransaction)
            tx.__class__ = _SameEpochs
            yield tx


class _SameEpochs(SqliteTransaction):
    def take_epochs(self, count: int) -> int:
        first = super().take_epochs(count)
        self._execute("UPDATE perdure_config SET next_epoch = ?", (first,))
        return first


def test_a_law_that_a_commit_breaks_fails_the_run(tmp_path: Path) -> None:
    """Whatever the engine makes of it: a run in which a law was broken has failed by that law."""
    path = tmp_path / "a.db"
    disk = attrs.evolve(
        sqlite_disk(path), open=lambda: GivesEpochsTwice(str(path), durability="process")
    )
    found = run_scenario(REFERENCE, FaultPlan(), lambda: disk)
    assert type(found.failure) is EpochReused


def test_a_law_that_an_attempt_breaks_fails_the_run(tmp_path: Path) -> None:
    """Also where the code of an attempt begins: it is not one more error of the action's."""
    worlds: list[World] = []

    def script(world: World) -> None:
        worlds.append(world)
        REFERENCE.script(world)

    def again(ctx: ActionContext, n: int) -> int:
        (world,) = worlds
        world.made(attrs.evolve(world.calls[-1]))  # it is told a second time
        return n

    scenario = attrs.evolve(REFERENCE, script=script, stubs={"charge": Stub(fn=again)})
    found = run_scenario(scenario, FaultPlan(), lambda: sqlite_disk(tmp_path / "a.db"))
    assert type(found.failure) is AttemptTwice
