"""Writes of the PostgreSQL store: one transaction, its locks, and its statements.

PostgreSQL runs transactions side by side (READ COMMITTED), and the contract promises one after the
other. What makes them so, as far as it matters, is that whoever writes to a workflow's rows, or
decides by them, holds the lock of its row in perdure_workflows: `load`, `states` and `find_event`
take it, and so does every update. Worker rows are locked before workflows, an event's workflow
before the event. What is left is a deadlock now and then, which is tried again.

Statements that need no answer at once are queued and go with the next that does, or with COMMIT.

What does not belong here: connections and user code (connection.py), and any decision.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

import psycopg

from perdure.core.ids import Epoch, EventId, WorkerId, WorkflowId
from perdure.core.journal import StepRecord
from perdure.core.messages import SentEvent
from perdure.core.workflow import WorkflowState
from perdure.errors import StoreError

from ..base import Config, InboxRow, Loaded, ReadyStep, StateWrite, StepWrite
from ..rows import (
    COMMAND_COLUMNS,
    HEADER_COLUMNS,
    PROGRESS_COLUMNS,
    PROGRESS_STATE_COLUMNS,
    STATE_COLUMNS,
    command_row,
    end_row,
    event_columns,
    header_row,
    is_progress_only,
    progress_state_row,
    run_row,
    state_from_row,
    state_row,
    step_from_row,
)
from .errors import translate_own
from .pipeline import Check, Pipeline, Rows
from .reads import (
    ANY,
    CLAIMABLE,
    EVENT,
    SELECT_EVENTS,
    SELECT_STATES,
    SELECT_STEPS,
    SELECT_TICKS,
    PostgresReader,
    Statement,
    columns,
    loaded_from,
)
from .statements import Insert, Update, marks

T = TypeVar("T")

#: How many epochs one step of their sequence gives: see the schema.
EPOCHS_AT_ONCE = 65536

#: Not FOR UPDATE, for which every row that refers to the workflow's would have to wait.
LOCK = " FOR NO KEY UPDATE"

_STATE_COLUMNS = (*HEADER_COLUMNS, *STATE_COLUMNS)
_STEP_COLUMNS = (*COMMAND_COLUMNS, *PROGRESS_COLUMNS)
_TICK_COLUMNS = ("workflow_id", "position", "now")
_INBOX_COLUMNS = ("workflow_id", "kind", "body", "accepted_at", "number", "worker")


_INSERT_WORKFLOWS = Insert("perdure_workflows", _STATE_COLUMNS)
_INSERT_STEPS = Insert("perdure_steps", _STEP_COLUMNS)
_INSERT_TICKS = Insert("perdure_ticks", _TICK_COLUMNS)
_INSERT_INBOX = Insert("perdure_inbox", _INBOX_COLUMNS)
_KEY = ("id", "epoch")
# A workflow's epoch is set, too: its new one comes first, the expected one last.
_WHOLE = tuple("new_epoch" if name == "epoch" else name for name in STATE_COLUMNS)


def _update_whole(fence: bool) -> Update:
    update = Update("perdure_workflows", _WHOLE, _KEY, returning="t.id", fence=fence)
    # `Update` knows one name for what is set and what it is called.
    update._one = update._one.replace("new_epoch =", "epoch =")
    update._many = update._many.replace("new_epoch = n.", "epoch = n.")
    return update


_UPDATE_WHOLE = {fence: _update_whole(fence) for fence in (False, True)}
_UPDATE_PROGRESS = {
    fence: Update("perdure_workflows", PROGRESS_STATE_COLUMNS, _KEY, returning="t.id", fence=fence)
    for fence in (False, True)
}
_STEP_KEY = ("workflow_id", "number")
_UPDATE_STEPS = Update("perdure_steps", PROGRESS_COLUMNS, _STEP_KEY)
_UPDATE_READY_STEPS = Update(
    "perdure_steps",
    (*PROGRESS_COLUMNS, "away"),
    _STEP_KEY,
    returning="t.workflow_id, t.number",
    only_if="t.state = 'ready'",
)
_LOCK_ALL = f"SELECT 1 FROM perdure_workflows WHERE id {ANY} ORDER BY id{LOCK}"
# Check, lock and renewal in one. Whoever takes this worker for dead locks its row as well.
_RENEW = (
    "UPDATE perdure_workers SET lease_until = clock_timestamp() + make_interval(secs => $2)"
    " WHERE id = $1 AND NOT fenced"
)


class PostgresTransaction(PostgresReader):
    """One write transaction.

    Args:
        pipeline: of the connection that it is open on, or will be by what is queued.
        check_version: raises if it is given a schema version that is not this code's.
        lease: of a worker that is added or renewed, in seconds.
        text: the address, for messages.

    Attributes:
        is_news: something was written that other processes may wait for.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        check_version: Callable[[object], None],
        *,
        lease: float,
        text: str,
    ) -> None:
        super().__init__(self._ask, self._ask_all)
        self._pipeline = pipeline
        self._check_version = check_version
        self._lease = lease
        self._text = text
        self.is_news = False
        #: Rows of workflows that this transaction has locked, with their epochs.
        self._epochs: dict[WorkflowId, Epoch] = {}
        self._living: set[WorkerId] = set()

    # --- executing

    def _ask(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        self._pipeline.queue(sql, parameters)
        return self._run()[-1]

    def _ask_all(self, statements: Sequence[Statement]) -> list[Rows]:
        for sql, parameters in statements:
            self._pipeline.queue(sql, parameters)
        return self._run()[-len(statements) :]

    def _later(self, statement: Statement, check: Check | None = None) -> None:
        self._pipeline.queue(*statement, check)

    def _run(self) -> list[Rows]:
        """Send what is queued.

        Raises:
            StoreError: the database is in trouble.
            psycopg.Error: a fault of our own.
        """
        try:
            return self._pipeline.run()
        except psycopg.Error as error:
            trouble = self.translate(error)
            if trouble is not None:
                raise trouble from error
            raise

    def translate(self, error: BaseException) -> StoreError | None:
        """The store error that stands for what one of our own statements has raised."""
        return translate_own(error, self._text)

    def be_certain(self) -> None:
        """See `base.Transaction.be_certain`; the engine's own transactions can be."""

    # --- settings and sequences

    def config(self) -> Config:
        """See `base.Reader.config`. Locks it: permits are taken under it."""
        return self._config(LOCK)

    def set_max_parallelism(self, value: int) -> None:
        """See `base.Transaction.set_max_parallelism`."""
        self._later(("UPDATE perdure_config SET max_parallelism = $1", (value,)))
        self.is_news = True

    def take_epochs(self, count: int) -> Epoch:
        """See `base.Transaction.take_epochs`. Waits for nobody."""
        assert count <= EPOCHS_AT_ONCE
        first: int = self._ask("SELECT nextval('perdure_epochs')").fetchone()[0]
        return first

    def take_event_sequence(self) -> int:
        """See `base.Transaction.take_event_sequence`. Waits for nobody: for one workflow the order
        is that of the commits, because its row is locked before."""
        number: int = self._ask("SELECT nextval('perdure_event_order')").fetchone()[0]
        return number

    def check_schema(self) -> None:
        """See `base.Transaction.check_schema`."""
        row = self._ask("SELECT schema_version FROM perdure_config").fetchone()
        self._check_version(None if row is None else row[0])

    # --- workers

    def add_worker(self, worker_id: WorkerId, now: int) -> None:
        """See `base.Transaction.add_worker`. It lives for a lease, unless that is renewed."""
        sql = (
            "INSERT INTO perdure_workers (id, started_at, lease_until)"
            " VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))"
        )
        self._later((sql, (worker_id, now, self._lease)))
        self.is_news = True

    def is_fenced(self, worker_id: WorkerId) -> bool:
        """See `base.Transaction.is_fenced`."""
        if worker_id in self._living:
            return False
        if self._ask(_RENEW, (worker_id, self._lease)).count == 0:
            return True
        self._living.add(worker_id)
        return False

    def renew(self) -> None:
        """Renew the leases of the workers whose rows are locked, once more: when the locks are
        given up, those that were renewed at the beginning may have run out."""
        for worker_id in sorted(self._living):
            self._later((_RENEW, (worker_id, self._lease)))

    def remove_worker(self, worker_id: WorkerId) -> None:
        """See `base.Transaction.remove_worker`."""
        self._living.discard(worker_id)
        self._later(("DELETE FROM perdure_inbox WHERE worker = $1", (worker_id,)))
        self._later(("DELETE FROM perdure_workers WHERE id = $1", (worker_id,)))
        self.is_news = True

    def set_permits(self, worker_id: WorkerId, permits: int, wanting: int) -> None:
        """See `base.Transaction.set_permits`."""
        sql = "UPDATE perdure_workers SET permits = $1, wanting = $2 WHERE id = $3"
        self._later((sql, (permits, wanting, worker_id)))
        self.is_news = True

    # --- workflows: reads that lock

    def load(self, ids: Collection[WorkflowId]) -> list[Loaded]:
        """See `base.Reader.load`. Locks the workflows."""
        if not ids:
            return []
        key = (list(ids),)
        # First the locks: each later statement sees what was committed until they were had.
        states = f"{SELECT_STATES} ORDER BY id{LOCK}"
        rows = self._ask_all(
            [(sql, key) for sql in (states, SELECT_STEPS, SELECT_TICKS, SELECT_EVENTS)]
        )
        loaded = loaded_from(*rows)
        self._hold(each.state for each in loaded)
        return loaded

    def states(self, ids: Collection[WorkflowId]) -> list[WorkflowState]:
        """See `base.Reader.states`. Locks the workflows."""
        if not ids:
            return []
        rows = self._ask(f"{SELECT_STATES} ORDER BY id{LOCK}", (list(ids),))
        found = [state_from_row(row) for row in rows]
        self._hold(found)
        return found

    def _hold(self, states: Iterable[WorkflowState]) -> None:
        self._epochs.update((state.workflow_id, state.epoch) for state in states)

    def claimable(self, names: Collection[str], now: int, limit: int) -> list[WorkflowId]:
        """See `base.Reader.claimable`. Locks them; those that others have locked are left out."""
        sql = f"{CLAIMABLE}{LOCK} SKIP LOCKED"
        return [row[0] for row in self._ask(sql, (now, list(names), limit))]

    def ready_steps(
        self, worker_id: WorkerId, functions: Collection[str], limit: int
    ) -> list[ReadyStep]:
        """See `base.Reader.ready_steps`. Locks their workflows, in the order of ids as everybody
        does, and looks again. Waits for the owner's commits: it has one after the other, and would
        never be met without."""
        found = super().ready_steps(worker_id, functions, limit)
        if not found:
            return []
        locked = {step.workflow_id for step in found}
        self._later((_LOCK_ALL, (list(locked),)))
        again = super().ready_steps(worker_id, functions, limit)
        return [step for step in again if step.workflow_id in locked]

    def _find_event(self, column: str, key: str) -> tuple[WorkflowId, SentEvent, bool] | None:
        # Its workflow first, in which order everybody locks them.
        lock = (
            "SELECT 1 FROM perdure_workflows WHERE id ="
            f" (SELECT workflow_id FROM perdure_events WHERE {column} = $1){LOCK}"
        )
        self._later((lock, (key,)))
        return super()._find_event(column, key)

    # --- workflows: writes

    def insert_workflows(self, states: Sequence[WorkflowState]) -> None:
        """See `base.Transaction.insert_workflows`."""
        if not states:
            return
        self._later(
            _INSERT_WORKFLOWS([header_row(state.header) + state_row(state) for state in states])
        )
        self._hold(states)
        if any(state.owner is None for state in states):
            self.is_news = True

    def update_workflows(
        self, writes: Sequence[StateWrite], *, fence: WorkerId | None = None
    ) -> set[WorkflowId]:
        """See `base.Transaction.update_workflows`. No round trip where the rows are locked."""
        is_known = fence is None and all(
            write.state.workflow_id in self._epochs for write in writes
        )
        stale = self._stale(writes) if is_known else set()
        if stale or not writes:
            return stale
        statements = self._updates(writes, fence)
        if is_known:
            for statement in statements:
                self._later(statement)
        else:
            if fence is not None and fence not in self._living:
                self._later((_RENEW, (fence, self._lease)))
            if len(writes) > 1:
                # In the order in which everybody locks them: an update has an order of its own.
                self._later((_LOCK_ALL, ([write.state.workflow_id for write in writes],)))
            results = self._ask_all(statements)
            found = {row[0] for rows in results for row in rows}
            stale = {write.state.workflow_id for write in writes} - found
            if stale:
                return stale
            if fence is not None:
                self._living.add(fence)
        self._hold(write.state for write in writes)
        if any(write.state.owner is None for write in writes):
            self.is_news = True
        self._mark_away(writes)
        return set()

    def _stale(self, writes: Sequence[StateWrite]) -> set[WorkflowId]:
        return {
            write.state.workflow_id
            for write in writes
            if self._epochs[write.state.workflow_id] != write.expected_epoch
        }

    def _updates(self, writes: Sequence[StateWrite], fence: WorkerId | None) -> list[Statement]:
        whole, progress = [], []
        for write in writes:
            state = write.state
            key = (state.workflow_id, write.expected_epoch)
            if is_progress_only(write.before, state):
                progress.append(progress_state_row(state) + key)
            else:
                whole.append(state_row(state) + key)
        has_fence = fence is not None
        more = () if fence is None else (fence,)
        statements = []
        if progress:
            statements.append(_UPDATE_PROGRESS[has_fence](progress, *more))
        if whole:
            statements.append(_UPDATE_WHOLE[has_fence](whole, *more))
        return statements

    def _mark_away(self, writes: Sequence[StateWrite]) -> None:
        """Note the attempts of workflows that are given up while they run."""
        given_up = [
            write.state.workflow_id
            for write in writes
            if write.state.owner is None
            and write.state.busy
            and any(record.state == "started" for record in write.state.live.values())
        ]
        if given_up:
            sql = f"UPDATE perdure_steps SET away = true WHERE workflow_id {ANY}"
            self._later((f"{sql} AND state = 'started'", (given_up,)))

    def release_workflows(self, worker_id: WorkerId, now: int, *, is_dead: bool) -> int:
        """See `base.Transaction.release_workflows`."""
        sql = (
            "UPDATE perdure_workflows SET owner = NULL, wake_at = $1, takeovers = takeovers + $2"
            " WHERE owner = $3"
        )
        self.is_news = True
        return self._ask(sql, (now, int(is_dead), worker_id)).count

    def wake_blocked(self, names: Collection[str], now: int, takeovers_below: int) -> None:
        """See `base.Transaction.wake_blocked`."""
        sql = (
            "UPDATE perdure_workflows SET wake_at = $1 WHERE blocked IS NOT NULL AND owner IS NULL"
            " AND takeovers < $2 AND name = ANY($3::text[])"
        )
        self._later((sql, (now, takeovers_below, list(names))))

    def run_by(self, worker_id: WorkerId) -> list[tuple[WorkflowId, StepRecord]]:
        """See `base.Transaction.run_by`. Locks the worker's row: what it has under way is ended."""
        self._later((f"SELECT 1 FROM perdure_workers WHERE id = $1{LOCK}", (worker_id,)))
        step = columns(COMMAND_COLUMNS, PROGRESS_COLUMNS, of="s")
        sql = (
            f"SELECT {step} FROM perdure_steps s JOIN perdure_workflows w ON w.id = s.workflow_id"
            " WHERE s.away AND s.state = 'started' AND s.runner = $1"
            " AND (w.owner IS NULL OR w.owner <> s.runner)"
            " ORDER BY s.workflow_id, s.number"
        )
        return [(row[0], step_from_row(row)) for row in self._ask(sql, (worker_id,))]

    def delete_workflows(self, ids: Collection[WorkflowId]) -> None:
        """See `base.Transaction.delete_workflows`. Its journal goes by ON DELETE CASCADE."""
        key = (list(ids),)
        sql = f"DELETE FROM perdure_inbox WHERE workflow_id {ANY} AND worker IS NULL"
        self._later((sql, key))
        self._later((f"DELETE FROM perdure_workflows WHERE id {ANY}", key))
        for workflow_id in ids:
            self._epochs.pop(workflow_id, None)
        self.is_news = True

    def wake(self, workflow_id: WorkflowId, at: int) -> None:
        """See `base.Transaction.wake`. Locks it: who gives it up meanwhile must see the reason."""
        self._later((f"SELECT 1 FROM perdure_workflows WHERE id = $1{LOCK}", (workflow_id,)))
        sql = (
            "UPDATE perdure_workflows SET wake_at = least(wake_at, $1)"
            " WHERE id = $2 AND owner IS NULL AND status = 'in_progress'"
        )
        self._later((sql, (at, workflow_id)))
        self.is_news = True

    def wake_waiting(self, ids: Collection[WorkflowId], at: int) -> bool:
        """See `base.Transaction.wake_waiting`."""
        sql = (
            # The inbox drives: it is mostly empty.
            "UPDATE perdure_workflows SET wake_at = least(wake_at, $2)"
            " WHERE id IN (SELECT i.workflow_id FROM perdure_inbox i WHERE i.worker IS NULL"
            f" AND i.workflow_id {ANY}) AND owner IS NULL AND status = 'in_progress'"
        )
        return self._ask(sql, (list(ids), at)).count > 0

    # --- journal, events, inbox

    def put_steps(self, writes: Iterable[StepWrite]) -> set[WorkflowId]:
        """See `base.Transaction.put_steps`. A round trip only where steps must be ready."""
        new, old, ready = [], [], []
        for write in writes:
            record, workflow_id = write.record, write.workflow_id
            progress = run_row(record) + end_row(record)
            if write.is_new:
                new.append(command_row(workflow_id, record) + progress)
            elif write.must_be_ready:
                # It may be taken for another owner.
                is_away = record.state == "started"
                ready.append((*progress, is_away, workflow_id, record.number))
            else:
                old.append((*progress, workflow_id, record.number))
        if new:
            self._later(_INSERT_STEPS(new))
        if old:
            self._later(_UPDATE_STEPS(old))
        if not ready:
            return set()
        found = set(self._ask(*_UPDATE_READY_STEPS(ready)))
        return {row[-2] for row in ready if row[-2:] not in found}

    def cut_journal(self, workflow_id: WorkflowId, number: int, position: int) -> None:
        """See `base.Transaction.cut_journal`."""
        for table, column, first in (
            ("perdure_events", "consumed_by", number),
            ("perdure_steps", "number", number),
            ("perdure_ticks", "position", position + 1),
        ):
            sql = f"DELETE FROM {table} WHERE workflow_id = $1 AND {column} >= $2"
            self._later((sql, (workflow_id, first)))

    def put_ticks(self, ticks: Iterable[tuple[WorkflowId, int, int]]) -> None:
        """See `base.Transaction.put_ticks`."""
        rows = list(ticks)
        if rows:
            self._later(_INSERT_TICKS(rows))

    def put_event(self, workflow_id: WorkflowId, event: SentEvent, now: int) -> None:
        """See `base.Transaction.put_event`."""
        values = (workflow_id, now, event.event_id, event.name, *event_columns(event))
        sql = (
            f"INSERT INTO perdure_events (workflow_id, created_at, {EVENT})"
            f" VALUES ({marks(values)}) ON CONFLICT (workflow_id, id) DO UPDATE SET"
            " sequence = excluded.sequence, sent_at = excluded.sent_at,"
            " value = excluded.value, error = excluded.error, token = excluded.token"
        )
        self._later((sql, values))

    def consume_event(self, workflow_id: WorkflowId, event_id: EventId, number: int) -> None:
        """See `base.Transaction.consume_event`."""

        def check(rows: Rows) -> None:
            if rows.count != 1:
                # A fault of the engine's: committing would give one event to two awaits.
                raise RuntimeError(
                    f"event {event_id!r} of workflow {workflow_id!r} is consumed already, or"
                    f" unknown: step {number} must not take it"
                )

        sql = (
            "UPDATE perdure_events SET consumed_by = $1"
            " WHERE workflow_id = $2 AND id = $3 AND consumed_by IS NULL"
        )
        self._later((sql, (number, workflow_id, event_id)), check)

    def put_inbox(self, rows: Iterable[InboxRow]) -> None:
        """See `base.Transaction.put_inbox`."""
        values = [
            (row.workflow_id, row.kind, row.body, row.accepted_at, row.number, row.worker)
            for row in rows
        ]
        if values:
            self._later(_INSERT_INBOX(values))
            self.is_news = True

    def clear_inbox(self, ids: Collection[WorkflowId]) -> None:
        """See `base.Transaction.clear_inbox`."""
        sql = f"DELETE FROM perdure_inbox WHERE workflow_id {ANY} AND worker IS NULL"
        self._later((sql, (list(ids),)))

    def delete_inbox(self, row_ids: Iterable[int]) -> None:
        """See `base.Transaction.delete_inbox`."""
        self._later(("DELETE FROM perdure_inbox WHERE id = ANY($1::bigint[])", (list(row_ids),)))
