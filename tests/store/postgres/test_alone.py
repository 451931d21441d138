"""The commit of a lone step: one statement, and what others do while it waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from psycopg.pq import Trace
from tests.store.postgres.databases import STILL, execute, soon
from tests.store.postgres.test_writes import side_by_side, workflow

from perdure.core.commands import RunStep
from perdure.core.journal import StepRecord
from perdure.core.outcomes import Succeeded
from perdure.errors import StoreError
from perdure.store.base import StateWrite, StepWrite
from perdure.store.postgres.alone import statement
from perdure.store.postgres.store import PostgresStore

BEFORE = workflow("a", owner="w", position=0, started_at=5)
AFTER = replace(BEFORE, position=1, stamp=7)
WRITE = StateWrite(state=AFTER, expected_epoch=1, before=BEFORE)


def step(number: int, *, is_new: bool = True, **fields: Any) -> StepWrite:
    command = RunStep(kind="action", name="pay", function="pay", arguments="{}")
    fields = {"asked_position": 0, "asked_at": 5, "asked_epoch": 1, "state": "asked", **fields}
    record = StepRecord(number=number, command=command, **fields)
    return StepWrite(workflow_id="a", record=record, is_new=is_new)


def settled(number: int) -> StepWrite:
    outcome = Succeeded("1")
    return step(number, is_new=False, state="settled", outcome=outcome, settled_at=9)


@pytest.fixture
def alone(store: PostgresStore) -> PostgresStore:
    """A store with a worker, its workflow, and a step of that."""
    with store.transaction() as tx:
        tx.add_worker("w", 1)
        tx.insert_workflows([BEFORE])
        tx.put_steps([step(0)])
    return store


@pytest.fixture
def other(store: PostgresStore, postgres_url: str) -> Iterator[PostgresStore]:
    """As another process would have it."""
    other = PostgresStore(postgres_url + STILL)
    other.open(max_parallelism=None)
    yield other
    other.close()


def write(store: PostgresStore) -> bool:
    """Settle the step, and begin the next."""
    return store.write_alone(WRITE, [settled(0), step(1)], fence="w")


def stored(store: PostgresStore) -> tuple[int, list[str]]:
    """The workflow's position, and the states of its steps."""
    (loaded,) = store.reader().load(["a"])
    return loaded.state.position, [record.state for record in loaded.steps]


def test_it_is_one_round_trip(alone: PostgresStore, tmp_path: Path) -> None:
    """Nothing is sent before its answer, or after it; from its second use on it is prepared."""
    write(alone)
    again = replace(WRITE, before=AFTER, state=replace(AFTER, position=2))
    assert alone._session is not None
    with (tmp_path / "trace").open("wb") as file:
        alone._session.pgconn.trace(file.fileno())
        alone._session.pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        assert alone.write_alone(again, [settled(1), step(2)], fence="w")
        alone._session.pgconn.untrace()
    sent = [
        line.split("\t")[2].split()[0]
        for line in (tmp_path / "trace").read_text().splitlines()
        if line.startswith("F\t")
    ]
    assert sent == ["Bind", "Describe", "Execute", "Sync"]
    assert stored(alone) == (2, ["settled", "settled", "asked"])


@pytest.mark.parametrize(
    "steps",
    [
        [step(1), step(2)],
        [settled(0), settled(1)],
        [replace(step(0, is_new=False), must_be_ready=True)],
        [step(1, child_id="b")],
        [replace(settled(1), is_new=True)],
    ],
    ids=["two new", "two old", "perhaps taken", "child", "ended at once"],
)
def test_what_happens_seldom_has_no_statement(steps: list[StepWrite]) -> None:
    """It takes a transaction."""
    assert statement(WRITE, steps, "w", session=0, lease=1.0) is None


def test_more_than_progress_has_no_statement() -> None:
    """Nor does an end, or what is not known to be progress."""
    for rare in (replace(WRITE, before=None), replace(WRITE, state=replace(AFTER, wake_at=1))):
        assert statement(rare, [step(1)], "w", session=0, lease=1.0) is None


def test_it_renews_the_lease(alone: PostgresStore, postgres_url: str) -> None:
    """As every commit of a worker does."""
    execute(postgres_url, "UPDATE perdure_workers SET lease_until = '-infinity'")
    assert alone.dead_workers(["w"]) == ["w"]
    assert write(alone)
    assert alone.dead_workers(["w"]) == []


def test_who_is_taken_for_dead_meanwhile_writes_nothing(
    alone: PostgresStore, other: PostgresStore, postgres_url: str
) -> None:
    """It waits for whoever has locked its worker's row, and finds that gone."""
    told: list[bool] = []

    def bury(go: Callable[[], None]) -> None:
        with other.transaction() as tx:
            tx.run_by("w")
            go()
            tx.release_workflows("w", 9, is_dead=True)
            tx.remove_worker("w")

    side_by_side(postgres_url, bury, lambda: told.append(write(alone)))
    assert told == [False]
    assert stored(alone) == (0, ["asked"])


@pytest.mark.parametrize("epoch", [1, 2])
def test_the_epoch_counts_that_is_there_in_the_end(
    alone: PostgresStore, other: PostgresStore, postgres_url: str, epoch: int
) -> None:
    """It waits for whoever has locked the workflow, and looks at it again: with another epoch it
    writes nothing, neither the workflow nor its steps."""
    told: list[bool] = []

    def change(go: Callable[[], None]) -> None:
        with other.transaction() as tx:
            changed = replace(BEFORE, epoch=epoch, takeovers=1)
            assert tx.update_workflows([StateWrite(state=changed, expected_epoch=1)]) == set()
            go()

    side_by_side(postgres_url, change, lambda: told.append(write(alone)))
    assert told == [epoch == 1]
    assert stored(alone) == ((1, ["settled", "asked"]) if epoch == 1 else (0, ["asked"]))


def test_a_step_that_is_there_already_undoes_all(alone: PostgresStore) -> None:
    """It would be a fault of ours; nothing of the commit is stored."""
    with pytest.raises(StoreError, match="has just put the same"):
        alone.write_alone(WRITE, [settled(0), step(0)], fence="w")
    assert stored(alone) == (0, ["asked"])
    assert write(alone)


def test_what_was_lost_on_the_way_never_comes(
    alone: PostgresStore, other: PostgresStore, postgres_url: str
) -> None:
    """The connection is lost before the answer. Whatever is read next is what stays: should the
    statement only now reach the server, by whatever detour, it writes nothing."""
    alone.hold_worker("w")
    failed: list[StoreError] = []

    def try_to() -> None:
        try:
            write(alone)
        except StoreError as error:
            failed.append(error)

    with other.transaction() as tx:
        tx.states(["a"])
        thread = threading.Thread(target=try_to)
        thread.start()
        waiting = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted"
        assert soon(lambda: bool(execute(postgres_url, waiting)))
        thread.join()
    assert len(failed) == 1
    assert alone._is_in_doubt
    assert stored(alone) == (0, ["asked"])
    late = statement(WRITE, [settled(0), step(1)], "w", session=0, lease=1.0)
    assert late is not None
    assert other._session is not None
    assert other._session.statements.ask(*late).count == 0
    assert stored(alone) == (0, ["asked"])
    assert write(alone)
    assert stored(alone) == (1, ["settled", "asked"])
