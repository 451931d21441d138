"""The conformance suite of stores: it passes the store that is sound and catches broken ones."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace

from perdure.core.workflow import WorkflowState
from perdure.store.base import (
    InboxRow,
    Loaded,
    Reader,
    ReadyStep,
    StateWrite,
    StepWrite,
    Transaction,
    WorkflowFilter,
)
from perdure.store.sqlite import SqliteStore
from perdure.store.sqlite_sql import SqliteReader, SqliteTransaction
from perdure_sim import check_store
from perdure_sim.conformance.check import CHECKS

T = TypeVar("T")


class BrokenStore(SqliteStore):
    """An SQLite store whose transactions and readers are of the subclass's own classes."""

    transaction_class: type[SqliteTransaction] = SqliteTransaction
    reader_class: type[SqliteReader] = SqliteReader

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with super().transaction() as tx:
            assert isinstance(tx, SqliteTransaction)
            tx.__class__ = self.transaction_class
            yield tx

    def reader(self) -> Reader:
        reader = super().reader()
        assert isinstance(reader, SqliteReader)
        reader.__class__ = self.reader_class
        return reader


class LosesRollbacks(SqliteStore):
    """Commits whatever happens."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        failed: list[BaseException] = []
        with super().transaction() as tx:
            try:
                yield tx
            except BaseException as error:
                failed.append(error)
        if failed:
            raise failed[0]


class NeverChanges(SqliteStore):
    """Does not see other processes' commits."""

    def has_changed(self) -> bool:
        return False


class AlwaysChanges(SqliteStore):
    """Takes nothing for a change, which costs a look each time."""

    def has_changed(self) -> bool:
        return True


class KillsTheLiving(SqliteStore):
    """Takes everybody for dead."""

    def dead_workers(self, worker_ids: Collection[str]) -> list[str]:
        return list(worker_ids)


class NeverDies(SqliteStore):
    """Takes nobody for dead."""

    def dead_workers(self, worker_ids: Collection[str]) -> list[str]:
        return []


class ForgetsEpochs(BrokenStore):
    """Writes a workflow whatever epoch it has."""

    class transaction_class(SqliteTransaction):  # noqa: N801 - it takes the attribute's place
        def update_workflows(
            self, writes: Sequence[StateWrite], *, fence: str | None = None
        ) -> set[str]:
            stored = {
                state.workflow_id: state.epoch
                for state in self.states([write.state.workflow_id for write in writes])
            }
            return super().update_workflows(
                [
                    replace(write, expected_epoch=stored[write.state.workflow_id])
                    for write in writes
                    if write.state.workflow_id in stored
                ],
                fence=fence,
            )


class IgnoresTheFence(BrokenStore):
    """Lets a worker that was taken for dead go on updating."""

    class transaction_class(SqliteTransaction):  # noqa: N801 - it takes the attribute's place
        def update_workflows(
            self, writes: Sequence[StateWrite], *, fence: str | None = None
        ) -> set[str]:
            return super().update_workflows(writes)


class ReusesEpochs(BrokenStore):
    """Gives the same epochs to each transaction."""

    class transaction_class(SqliteTransaction):  # noqa: N801 - it takes the attribute's place
        def take_epochs(self, count: int) -> int:
            first = super().take_epochs(count)
            self._execute("UPDATE perdure_config SET next_epoch = ?", (first,))
            return first


class DropsDeadlines(BrokenStore):
    """Loses one column of a step."""

    class transaction_class(SqliteTransaction):  # noqa: N801 - it takes the attribute's place
        def put_steps(self, writes: Iterable[StepWrite]) -> set[str]:
            return super().put_steps(
                replace(write, record=replace(write.record, deadline_at=None)) for write in writes
            )


class GivesStepsAwayTwice(BrokenStore):
    """Writes a step whether it is still ready or not."""

    class transaction_class(SqliteTransaction):  # noqa: N801 - it takes the attribute's place
        def put_steps(self, writes: Iterable[StepWrite]) -> set[str]:
            return super().put_steps(replace(write, must_be_ready=False) for write in writes)


class OffersItsOwnSteps(BrokenStore):
    """Has a worker take from itself."""

    class reader_class(SqliteReader):  # noqa: N801 - it takes the attribute's place
        def ready_steps(
            self, worker_id: str, functions: Collection[str], limit: int
        ) -> list[ReadyStep]:
            return super().ready_steps("", functions, limit)


class TidiesJson(BrokenStore):
    """Keeps values as a database's own JSON type would: equal, but written otherwise."""

    class transaction_class(SqliteTransaction):  # noqa: N801 - it takes the attribute's place
        def insert_workflows(self, states: Sequence[WorkflowState]) -> None:
            super().insert_workflows(
                [
                    replace(
                        state,
                        header=replace(
                            state.header, arguments=json.dumps(json.loads(state.header.arguments))
                        ),
                    )
                    for state in states
                ]
            )


class KeepsFailedWrites(BrokenStore):
    """Does not undo what failed user code wrote."""

    class transaction_class(SqliteTransaction):  # noqa: N801 - it takes the attribute's place
        def run_user_code(self, fn: Callable[[], T], *, read_only: bool) -> T:
            failed: list[BaseException] = []

            def quietly() -> Any:
                try:
                    return fn()
                except BaseException as error:
                    failed.append(error)

            result: T = super().run_user_code(quietly, read_only=read_only)
            if failed:
                raise failed[0]
            return result


class LetsQueriesWrite(BrokenStore):
    """Has no read-only mode."""

    class transaction_class(SqliteTransaction):  # noqa: N801 - it takes the attribute's place
        def run_user_code(self, fn: Callable[[], T], *, read_only: bool) -> T:
            return super().run_user_code(fn, read_only=False)


class NeverForgetsWorkers(BrokenStore):
    """Lets a worker that was removed go on writing."""

    class transaction_class(SqliteTransaction):  # noqa: N801 - it takes the attribute's place
        def is_fenced(self, worker_id: str) -> bool:
            return False


class ForgetsTakeovers(BrokenStore):
    """Counts no takeover."""

    class transaction_class(SqliteTransaction):  # noqa: N801 - it takes the attribute's place
        def release_workflows(self, worker_id: str, now: int, *, is_dead: bool) -> int:
            return super().release_workflows(worker_id, now, is_dead=False)


class WakesLater(BrokenStore):
    """Puts a nearer wake-up off."""

    class transaction_class(SqliteTransaction):  # noqa: N801 - it takes the attribute's place
        def wake(self, workflow_id: str, at: int) -> None:
            sql = "UPDATE perdure_workflows SET wake_at = ? WHERE id = ? AND owner IS NULL"
            self._execute(f"{sql} AND status = 'in_progress'", (at, workflow_id))


class SendsMailAround(BrokenStore):
    """Puts a worker's own mail where the owner of the workflow finds it."""

    class transaction_class(SqliteTransaction):  # noqa: N801 - it takes the attribute's place
        def put_inbox(self, rows: Iterable[InboxRow]) -> None:
            super().put_inbox(replace(row, worker=None) for row in rows)


class ShufflesEvents(BrokenStore):
    """Gives events in another order than that in which they were sent."""

    class reader_class(SqliteReader):  # noqa: N801 - it takes the attribute's place
        def load(self, ids: Collection[str]) -> list[Loaded]:
            return [
                replace(
                    loaded,
                    state=replace(
                        loaded.state,
                        events=tuple(sorted(loaded.state.events, key=lambda each: each.event_id)),
                    ),
                )
                for loaded in super().load(ids)
            ]


class CountsAllWaits(BrokenStore):
    """Counts waits also that came later."""

    class reader_class(SqliteReader):  # noqa: N801 - it takes the attribute's place
        def count_waits(self, workflow_id: str, name: str, *, below: int | None) -> int:
            return super().count_waits(workflow_id, name, below=None)


class CountsWhatIsAwaited(BrokenStore):
    """Counts events also that are awaited by their ids."""

    class reader_class(SqliteReader):  # noqa: N801 - it takes the attribute's place
        def count_queued(self, workflow_id: str, name: str) -> int:
            events = (each for one in self.load([workflow_id]) for each in one.state.events)
            return sum(each.name == name and each.outcome is not None for each in events)


class ClaimsTheNewest(BrokenStore):
    """Starves those that are due for long."""

    class reader_class(SqliteReader):  # noqa: N801 - it takes the attribute's place
        def claimable(self, names: Collection[str], now: int, limit: int) -> list[str]:
            return super().claimable(names, now, 1_000_000)[::-1][:limit]


class ClaimsEarly(BrokenStore):
    """Wakes workflows before their time."""

    class reader_class(SqliteReader):  # noqa: N801 - it takes the attribute's place
        def claimable(self, names: Collection[str], now: int, limit: int) -> list[str]:
            return super().claimable(names, now + 1, limit)


class RepeatsPages(BrokenStore):
    """Gives the last row of a page once more on the next one."""

    class reader_class(SqliteReader):  # noqa: N801 - it takes the attribute's place
        def list_workflows(self, which: WorkflowFilter) -> list[tuple[int, WorkflowState]]:
            if which.after is not None and not which.is_ascending:
                which = replace(which, after=which.after + 1, limit=which.limit + 1)
            return super().list_workflows(which)


class CutsTooFew(BrokenStore):
    """Leaves the step at which a journal is cut."""

    class transaction_class(SqliteTransaction):  # noqa: N801 - it takes the attribute's place
        def cut_journal(self, workflow_id: str, number: int, position: int) -> None:
            super().cut_journal(workflow_id, number + 1, position)


class CutsNoTicks(BrokenStore):
    """Leaves all ticks."""

    class transaction_class(SqliteTransaction):  # noqa: N801 - it takes the attribute's place
        def cut_journal(self, workflow_id: str, number: int, position: int) -> None:
            super().cut_journal(workflow_id, number, 10**12)


class ForgetsTheLost(BrokenStore):
    """Deletes also what tells a worker that it has lost a workflow."""

    class transaction_class(SqliteTransaction):  # noqa: N801 - it takes the attribute's place
        def delete_workflows(self, ids: Collection[str]) -> None:
            super().delete_workflows(ids)
            for workflow_id in ids:
                self._execute("DELETE FROM perdure_inbox WHERE workflow_id = ?", (workflow_id,))


class HasNoChildren(BrokenStore):
    """Knows only the children of the first workflow."""

    class reader_class(SqliteReader):  # noqa: N801 - it takes the attribute's place
        def children(self, ids: Collection[str]) -> list[str]:
            return super().children(list(ids)[:1])


class ForgetsTheOthersAlone(SqliteStore):
    """Looks at nothing before it writes alone."""

    def write_alone(self, write: StateWrite, steps: Sequence[StepWrite], *, fence: str) -> bool:
        with self.transaction() as tx:
            tx.update_workflows([write])
            tx.put_steps(steps)
        return True


class RefusesByHalves(SqliteStore):
    """Keeps what it wrote alone before it found that it must not."""

    def write_alone(self, write: StateWrite, steps: Sequence[StepWrite], *, fence: str) -> bool:
        with self.transaction() as tx:
            return not (tx.update_workflows([write], fence=fence) or tx.put_steps(steps))


class WritesOneStepAlone(SqliteStore):
    """Loses what comes after it."""

    def write_alone(self, write: StateWrite, steps: Sequence[StepWrite], *, fence: str) -> bool:
        return super().write_alone(write, steps[:1], fence=fence)


BROKEN: dict[type[SqliteStore], str] = {
    CutsTooFew: "a_journal_is_cut",
    CutsNoTicks: "a_journal_is_cut",
    ForgetsTheLost: "what_is_deleted_is_gone",
    ForgetsTheOthersAlone: "what_is_refused_alone_leaves_nothing",
    RefusesByHalves: "what_is_refused_alone_leaves_nothing",
    WritesOneStepAlone: "what_is_written_alone_is_stored",
    HasNoChildren: "children_are_found",
    LosesRollbacks: "a_failed_transaction_leaves_nothing",
    NeverChanges: "changes_by_others_are_told",
    AlwaysChanges: "changes_by_others_are_told",
    KillsTheLiving: "living_workers_are_not_dead",
    NeverDies: "living_workers_are_not_dead",
    ForgetsEpochs: "stale_epochs_are_told",
    IgnoresTheFence: "fenced_workers_update_nothing",
    ReusesEpochs: "epochs_are_never_given_twice",
    DropsDeadlines: "steps_come_back_whole",
    GivesStepsAwayTwice: "a_step_is_taken_once",
    OffersItsOwnSteps: "ready_steps_of_others_are_found",
    TidiesJson: "workflows_come_back_whole",
    KeepsFailedWrites: "user_code_is_kept_or_undone_whole",
    LetsQueriesWrite: "read_only_user_code_cannot_write",
    NeverForgetsWorkers: "unknown_workers_are_fenced",
    ForgetsTakeovers: "a_worker_gives_up_all_it_owns",
    WakesLater: "waking_is_only_ever_sooner",
    SendsMailAround: "inbox_rows_reach_their_worker",
    CountsAllWaits: "awaited_events_are_found",
    CountsWhatIsAwaited: "awaited_events_are_found",
    ShufflesEvents: "events_come_back_in_order",
    ClaimsTheNewest: "due_workflows_can_be_claimed",
    ClaimsEarly: "due_workflows_can_be_claimed",
    RepeatsPages: "workflows_can_be_listed",
}


@pytest.mark.parametrize(("broken", "check"), BROKEN.items(), ids=str)
def test_a_broken_store_is_caught(broken: type[SqliteStore], check: str, tmp_path: Path) -> None:
    """Each planted fault is found by the check that is about it, which says what is broken."""
    with pytest.raises(AssertionError) as caught:
        check_store(lambda: broken(str(tmp_path / "a.db")), only=check)
    text = str(caught.value)
    assert text.startswith("the store breaks 1 of ")
    assert f"* {check}: {CHECKS[check].promise}" in text
    assert "raised" not in text.splitlines()[-1], "found by what it did, not by a crash"


def test_a_failure_tells_what_differs(tmp_path: Path) -> None:
    """A failure leads to the one field that is wrong, out of the dozens of a workflow."""
    with pytest.raises(AssertionError, match=r"at \[0\]\.deadline_at|at deadline_at") as caught:
        check_store(lambda: DropsDeadlines(str(tmp_path / "a.db")), only="steps_come_back_whole")
    assert f"found None, expected {2**62}" in str(caught.value)


def test_all_failures_are_reported(tmp_path: Path) -> None:
    """One run reports every check that failed, not only the first."""
    with pytest.raises(AssertionError) as caught:
        check_store(lambda: LosesRollbacks(str(tmp_path / "a.db")))
    lines = str(caught.value).splitlines()
    names = [line[2:].partition(":")[0] for line in lines if line.startswith("* ")]
    assert "a_failed_transaction_leaves_nothing" in names
    assert "changes_by_others_are_told" in names
    assert lines[0] == f"the store breaks {len(names)} of {len(CHECKS)} promises:"


def test_a_store_that_raises_is_a_failure(tmp_path: Path) -> None:
    """An error out of the store itself fails that check and no other, with its text."""

    class Raises(SqliteStore):
        def is_poisoned(self, error: BaseException) -> bool:
            raise LookupError("not written yet")

    with pytest.raises(AssertionError) as caught:
        check_store(lambda: Raises(str(tmp_path / "a.db")))
    assert "breaks 1 of" in str(caught.value)
    assert "raised LookupError('not written yet')" in str(caught.value)


def test_the_checks_can_share_a_database(tmp_path: Path) -> None:
    """The suite passes twice on one database: no check depends on an empty one."""
    for _ in range(2):
        check_store(lambda: SqliteStore(str(tmp_path / "a.db")))


def test_each_check_has_a_promise() -> None:
    """Whoever reads a failure is told what was promised."""
    assert [name for name, check in CHECKS.items() if not check.promise.endswith(".")] == []


def test_an_unknown_check_is_refused(tmp_path: Path) -> None:
    """A misspelled `only` is an error that lists the names, not a run of nothing."""
    with pytest.raises(ValueError, match="stale_epochs_are_told"):
        check_store(lambda: SqliteStore(str(tmp_path / "a.db")), only="stale")
