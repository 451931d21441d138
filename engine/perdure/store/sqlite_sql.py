"""Reads and writes of the SQLite store: statements and the mapping of their rows.

What does not belong here: connections, files and locks (sqlite.py), and any decision.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar

from perdure.core.ids import Epoch, EventId, WorkerId, WorkflowId
from perdure.core.journal import StepRecord, TickRecord
from perdure.core.messages import SentEvent
from perdure.core.workflow import RESTARTED, WorkflowState
from perdure.errors import ErrorInfo, StoreCorrupt

from .base import (
    Config,
    InboxRow,
    Loaded,
    ReadyStep,
    StateWrite,
    StepWrite,
    WorkerRow,
    WorkflowFilter,
)
from .connection import Connection
from .rows import (
    COMMAND_COLUMNS,
    EVENT_COLUMNS,
    PROGRESS_COLUMNS,
    STATUSES,
    event_columns,
    event_from_row,
    is_open,
    is_progress_only,
    state_from_row,
    step_from_row,
)
from .sqlite_events import EventReads
from .sqlite_moving import refuse_moved
from .sqlite_rows import STATE, STEP, Statement, columns, step_row, workflow_insert, workflow_update

#: Ready steps that a worker looks at for some to take: as many as it takes at once, or more.
READY_LOOK = 256

T = TypeVar("T")
Execute = Callable[..., sqlite3.Cursor]


# A JSON array as parameter: one statement text for any number of ids.
_IN = "IN (SELECT value FROM json_each(?))"

#: As `WorkflowState.is_blocked` says it; what is damaged, and no JSON, is blocked.
_IS_BLOCKED = (
    "blocked IS NOT NULL AND CASE WHEN json_valid(blocked)"
    f" THEN json_extract(blocked, '$.error.type') IS NOT '{RESTARTED.type}' ELSE TRUE END"
)

_SELECT_STATES = f"SELECT {STATE} FROM perdure_workflows WHERE id {_IN}"
_SELECT_STATE = f"SELECT {STATE} FROM perdure_workflows WHERE id = ?"
_SELECT_STEPS = (
    f"SELECT {STEP} FROM perdure_steps WHERE workflow_id {_IN} ORDER BY workflow_id, number"
)
_SELECT_TICKS = (
    f"SELECT workflow_id, position, now FROM perdure_ticks WHERE workflow_id {_IN}"
    " ORDER BY workflow_id, position"
)
_SELECT_EVENTS = (
    f"SELECT workflow_id, {columns(EVENT_COLUMNS)} FROM perdure_events"
    f" WHERE workflow_id {_IN} AND consumed_by IS NULL"
    " ORDER BY workflow_id, sequence IS NULL, sequence, created_at, id"
)
_STILL_READY = " AND state = 'ready'"
_MARK_AWAY = "UPDATE perdure_steps SET away = 1 WHERE workflow_id = ? AND number = ?"
#: Those with the name `n.value` that nobody owns, by the index on them.
_WAITING = (
    "FROM perdure_workflows INDEXED BY perdure_workflows_wake"
    " WHERE owner IS NULL AND wake_at IS NOT NULL AND name = n.value"
)
_INBOX = "i.id, i.workflow_id, i.kind, i.body, i.accepted_at, i.number, i.worker"
_INBOX_FIELDS = ("row_id", "workflow_id", "kind", "body", "accepted_at", "number", "worker")


def _ids(ids: Collection[str]) -> str:
    return json.dumps(list(ids))


def _listing(which: WorkflowFilter) -> tuple[str, list[object]]:
    """The statement that lists workflows, and its parameters.

    Each index is named: SQLite would go through the workflows in order where its statistics make it
    believe that it soon meets enough of them.
    """
    order, compare = ("ASC", ">") if which.is_ascending else ("DESC", "<")
    wheres = ["TRUE"] if which.after is None else [f"seq {compare} {int(which.after)}"]
    values: list[object] = []
    for column, value in (("name", which.name), ("status", which.status)):
        if value is not None:
            wheres.append(f"{column} = ?")
            values.append(value)
    index = ""
    if which.is_blocked is not None:
        wheres.append(_IS_BLOCKED if which.is_blocked else f"NOT ({_IS_BLOCKED})")
    if which.is_blocked:
        index = " INDEXED BY perdure_workflows_blocked"  # a small one
    elif which.name is not None:
        index = " INDEXED BY perdure_workflows_name"
    elif which.status is not None:
        index = " INDEXED BY perdure_workflows_status"
    one = f"SELECT seq, {STATE} FROM perdure_workflows{index} WHERE {' AND '.join(wheres)}"
    tail = f" ORDER BY seq {order} LIMIT {int(which.limit)}"
    if which.is_blocked or which.name is None or which.status is not None:
        return one + tail, values
    # The index is in order of seq within each status only.
    pieces = [f"SELECT * FROM ({one} AND status = '{each}'{tail})" for each in STATUSES]
    sql = f"{' UNION ALL '.join(pieces)} ORDER BY 1 {order} LIMIT {int(which.limit)}"
    return sql, values * len(pieces)


def _load(execute: Execute, ids: Collection[WorkflowId]) -> list[Loaded]:
    key = (_ids(ids),)
    steps: dict[str, list[StepRecord]] = {}
    ticks: dict[str, list[TickRecord]] = {}
    events: dict[str, list[SentEvent]] = {}
    damages: dict[str, ErrorInfo] = {}
    for row in execute(_SELECT_STEPS, key):
        try:
            steps.setdefault(row[0], []).append(step_from_row(row))
        except StoreCorrupt as error:  # of this workflow alone
            damages.setdefault(row[0], ErrorInfo(StoreCorrupt.__name__, str(error)))
    for workflow_id, position, now in execute(_SELECT_TICKS, key):
        ticks.setdefault(workflow_id, []).append(TickRecord(position, now))
    for workflow_id, *event in execute(_SELECT_EVENTS, key):
        events.setdefault(workflow_id, []).append(event_from_row(tuple(event)))
    loaded = []
    for row in execute(_SELECT_STATES, key).fetchall():
        workflow_id, is_running = row[0], row[11] == "in_progress"
        records = steps.get(workflow_id, [])
        live = [record for record in records if is_open(record)] if is_running else []
        state = state_from_row(row, live, events.get(workflow_id, ()))
        loaded.append(
            Loaded(
                state=state,
                steps=tuple(records),
                ticks=tuple(ticks.get(workflow_id, ())),
                damage=damages.get(workflow_id),
            )
        )
    return loaded


class SqliteReader(EventReads):
    """Reads, through whatever executes a statement."""

    #: Several reads of one moment: in a transaction, which has none, all of them are.
    _at_once: Callable[[], AbstractContextManager[Execute]] | None = None

    def __init__(
        self, execute: Execute, at_once: Callable[[], AbstractContextManager[Execute]] | None = None
    ) -> None:
        super().__init__(execute)
        self._at_once = at_once

    def load(self, ids: Collection[WorkflowId]) -> list[Loaded]:
        """See `base.Reader.load`. By primary key; cost grows with the journals."""
        if not ids:
            return []
        if self._at_once is None:
            return _load(self._execute, ids)
        with self._at_once() as execute:
            return _load(execute, ids)

    def states(self, ids: Collection[WorkflowId]) -> list[WorkflowState]:
        """See `base.Reader.states`."""
        if len(ids) == 1:  # much the most often, and cheaper than through a list
            rows = self._execute(_SELECT_STATE, tuple(ids)).fetchall()
        else:
            rows = self._execute(_SELECT_STATES, (_ids(ids),)).fetchall()
        return [state_from_row(row) for row in rows]

    def list_workflows(self, which: WorkflowFilter) -> list[tuple[int, WorkflowState]]:
        """See `base.Reader.list_workflows`. By an index that begins with what is asked for."""
        sql, values = _listing(which)
        return [(row[0], state_from_row(row[1:])) for row in self._execute(sql, values).fetchall()]

    def list_steps(
        self, workflow_id: WorkflowId, *, is_ascending: bool, limit: int, after: int | None
    ) -> list[StepRecord]:
        """See `base.Reader.list_steps`. By primary key."""
        order, compare = ("ASC", ">") if is_ascending else ("DESC", "<")
        bound = "" if after is None else f" AND number {compare} {int(after)}"
        sql = (
            f"SELECT {STEP} FROM perdure_steps WHERE workflow_id = ?{bound}"
            f" ORDER BY number {order} LIMIT {int(limit)}"
        )
        return [step_from_row(row) for row in self._execute(sql, (workflow_id,)).fetchall()]

    def open_steps(self, workflow_id: WorkflowId) -> list[StepRecord]:
        """See `base.Reader.open_steps`. Reads the workflow's whole range of steps."""
        sql = (
            f"SELECT {STEP} FROM perdure_steps WHERE workflow_id = ? AND state <> 'settled'"
            " ORDER BY number"
        )
        return [step_from_row(row) for row in self._execute(sql, (workflow_id,)).fetchall()]

    def children(self, ids: Collection[WorkflowId]) -> list[WorkflowId]:
        """See `base.Reader.children`. By the index on parent_id."""
        sql = f"SELECT id FROM perdure_workflows WHERE parent_id {_IN} ORDER BY seq"
        return [row[0] for row in self._execute(sql, (_ids(ids),))]

    def ready_steps(
        self, worker_id: WorkerId, functions: Collection[str], limit: int
    ) -> list[ReadyStep]:
        """See `base.Reader.ready_steps`. By the index on ready steps, of which it looks at the
        oldest `READY_LOOK`: a queue may be long, and this is asked for often."""
        step = ", ".join(f"s.{name}" for name in (*COMMAND_COLUMNS, *PROGRESS_COLUMNS))
        sql = (
            f"SELECT w.epoch, {step} FROM (SELECT workflow_id, number FROM perdure_steps"
            " INDEXED BY perdure_steps_ready WHERE state = 'ready' ORDER BY due_at"
            f" LIMIT {READY_LOOK}) r CROSS JOIN perdure_workflows w ON w.id = r.workflow_id"
            " CROSS JOIN perdure_steps s USING (workflow_id, number)"
            f" WHERE s.kind = 'action' AND s.function {_IN}"
            " AND w.status = 'in_progress' AND w.owner IS NOT NULL AND w.owner <> ?"
            " ORDER BY s.due_at, s.number DESC, s.workflow_id LIMIT ?"
        )
        found = []
        for row in self._execute(sql, (_ids(functions), worker_id, limit)):
            with contextlib.suppress(StoreCorrupt):  # its owner finds out, and tells
                record = step_from_row(row[1:])
                found.append(ReadyStep(workflow_id=row[1], epoch=row[0], record=record))
        return found

    def config(self) -> Config:
        """See `base.Reader.config`."""
        sql = "SELECT schema_version, max_parallelism FROM perdure_config"
        version, parallelism = self._execute(sql).fetchone()
        return Config(schema_version=version, max_parallelism=parallelism)

    def count_active(self, names: Collection[str], most: int) -> int:
        """See `base.Reader.count_active`. By the indexes on owner and wake_at."""
        owned = "perdure_workflows_owner WHERE owner IS NOT NULL"
        waiting = "perdure_workflows_wake WHERE owner IS NULL AND wake_at IS NOT NULL"
        counts = [
            f"(SELECT count(*) FROM (SELECT 1 FROM perdure_workflows INDEXED BY {which}"
            f" AND name {_IN} LIMIT ?))"
            for which in (owned, waiting)
        ]
        sql = f"SELECT min({' + '.join(counts)}, ?)"
        ids = _ids(names)
        count: int = self._execute(sql, (ids, most, ids, most, most)).fetchone()[0]
        return count

    def claimable(self, names: Collection[str], now: int, limit: int) -> list[WorkflowId]:
        """See `base.Reader.claimable`. By the index on (name, wake_at), up to `limit` of a name."""
        sql = (
            "SELECT w.id FROM json_each(?) n CROSS JOIN perdure_workflows w ON w.seq IN"
            f" (SELECT seq {_WAITING} AND wake_at <= ? ORDER BY wake_at, seq LIMIT ?)"
            " ORDER BY w.wake_at, w.seq LIMIT ?"
        )
        return [row[0] for row in self._execute(sql, (_ids(set(names)), now, limit, limit))]

    def next_wake(self, names: Collection[str]) -> int | None:
        """See `base.Reader.next_wake`. By the index on (name, wake_at): the first of each name."""
        first = f"(SELECT wake_at {_WAITING} ORDER BY wake_at LIMIT 1)"
        row = self._execute(f"SELECT min({first}) FROM json_each(?) n", (_ids(names),)).fetchone()
        at: int | None = row[0]
        return at

    def workers(self) -> list[WorkerRow]:
        sql = "SELECT id, fenced, permits, wanting FROM perdure_workers ORDER BY id"
        return [
            WorkerRow(worker_id=row[0], is_fenced=bool(row[1]), permits=row[2], wanting=row[3])
            for row in self._execute(sql)
        ]

    def inbox_of(self, worker_id: WorkerId) -> list[InboxRow]:
        sql = (
            # The inbox is short-lived and small: it drives, the workflows are looked up.
            f"SELECT {_INBOX} FROM perdure_inbox i"
            " CROSS JOIN perdure_workflows w ON w.id = i.workflow_id"
            " WHERE i.worker IS NULL AND w.owner = ?"
            f" UNION ALL SELECT {_INBOX} FROM perdure_inbox i WHERE i.worker = ? ORDER BY 1"
        )
        rows = self._execute(sql, (worker_id, worker_id))
        return [InboxRow(**dict(zip(_INBOX_FIELDS, row, strict=True))) for row in rows]


class SqliteTransaction(SqliteReader):
    """One write transaction on the engine's connection."""

    def __init__(self, connection: Connection, check_version: Callable[[object], None]) -> None:
        super().__init__(connection.engine_execute)
        self._check_version = check_version
        self._connection = connection
        self._write = connection.engine_write

    @property
    def _where(self) -> str:
        """The path, for messages."""
        return self._connection.path

    def _write_all(self, statements: Iterable[Statement]) -> int:
        """Write rows of which none depends on another; how many there were to write."""
        batches: dict[str, list[tuple[Any, ...]]] = {}
        for sql, row in statements:
            if sql in batches:
                batches[sql].append(row)
            else:
                batches[sql] = [row]
        return sum([self._write(sql, rows) for sql, rows in batches.items()])

    def be_certain(self) -> None:
        """See `base.Transaction.be_certain`. A commit is in doubt only if its disk is."""

    # --- settings and sequences

    def set_max_parallelism(self, value: int) -> None:
        self._execute("UPDATE perdure_config SET max_parallelism = ?", (value,))

    def take_epochs(self, count: int) -> Epoch:
        return self._take("next_epoch", count)

    def take_event_sequence(self) -> int:
        return self._take("next_event", 1)

    def _take(self, column: str, count: int) -> int:
        # Not RETURNING: it came with SQLite 3.35, and older ones are still around.
        first: int = self._execute(f"SELECT {column} FROM perdure_config").fetchone()[0]
        self._execute(f"UPDATE perdure_config SET {column} = {column} + ?", (count,))
        return first

    def check_schema(self) -> None:
        row = self._execute("SELECT schema_version FROM perdure_config").fetchone()
        version = None if row is None else row[0]
        refuse_moved(self._execute, version, self._where)
        self._check_version(version)

    # --- workers

    def add_worker(self, worker_id: WorkerId, now: int) -> None:
        sql = "INSERT INTO perdure_workers (id, started_at) VALUES (?, ?)"
        self._execute(sql, (worker_id, now))

    def is_fenced(self, worker_id: WorkerId) -> bool:
        sql = "SELECT fenced FROM perdure_workers WHERE id = ?"
        row = self._execute(sql, (worker_id,)).fetchone()
        return row is None or bool(row[0])

    def remove_worker(self, worker_id: WorkerId) -> None:
        self._execute("DELETE FROM perdure_inbox WHERE worker = ?", (worker_id,))
        self._execute("DELETE FROM perdure_workers WHERE id = ?", (worker_id,))

    def set_permits(self, worker_id: WorkerId, permits: int, wanting: int) -> None:
        sql = "UPDATE perdure_workers SET permits = ?, wanting = ? WHERE id = ?"
        self._execute(sql, (permits, wanting, worker_id))

    # --- workflows

    def insert_workflows(self, states: Sequence[WorkflowState]) -> None:
        # In their order, which is that of listings.
        for sql, statements in groupby(map(workflow_insert, states), itemgetter(0)):
            self._write(sql, [row for _, row in statements])

    def update_workflows(
        self, writes: Sequence[StateWrite], *, fence: WorkerId | None = None
    ) -> set[WorkflowId]:
        count = self._write_all(
            workflow_update(
                write.state,
                write.expected_epoch,
                fence,
                is_progress=is_progress_only(write.before, write.state),
            )
            for write in writes
        )
        if count == len(writes):
            self._mark_away(writes)
            return set()
        if fence is not None and self.is_fenced(fence):
            return {write.state.workflow_id for write in writes}
        # Somebody else was faster with some of them; this is rare, so look for whom now.
        ids = _ids([write.state.workflow_id for write in writes])
        sql = f"SELECT id, epoch FROM perdure_workflows WHERE id {_IN}"
        epochs = dict(self._execute(sql, (ids,)))
        return {
            write.state.workflow_id
            for write in writes
            # Those that were updated have the new epoch by now, the same one for most.
            if epochs.get(write.state.workflow_id) not in (write.expected_epoch, write.state.epoch)
        }

    def _mark_away(self, writes: Sequence[StateWrite]) -> None:
        """Note the attempts of workflows that are given up while they run."""
        given_up = [
            (write.state.workflow_id,)
            for write in writes
            if write.state.owner is None
            and write.state.busy
            and any(record.state == "started" for record in write.state.live.values())
        ]
        if given_up:
            sql = "UPDATE perdure_steps SET away = 1 WHERE workflow_id = ? AND state = 'started'"
            self._write(sql, given_up)

    def release_workflows(self, worker_id: WorkerId, now: int, *, is_dead: bool) -> int:
        sql = (
            "UPDATE perdure_workflows SET owner = NULL, wake_at = ?, takeovers = takeovers + ?"
            " WHERE owner = ?"
        )
        return self._execute(sql, (now, int(is_dead), worker_id)).rowcount

    def wake_blocked(self, names: Collection[str], now: int, takeovers_below: int) -> None:
        sql = (
            "UPDATE perdure_workflows SET wake_at = ? WHERE blocked IS NOT NULL AND owner IS NULL"
            f" AND takeovers < ? AND name {_IN}"
        )
        self._execute(sql, (now, takeovers_below, _ids(names)))

    def run_by(self, worker_id: WorkerId) -> list[tuple[WorkflowId, StepRecord]]:
        """See `base.Transaction.run_by`. By the index on those that are marked as such."""
        step = ", ".join(f"s.{name}" for name in (*COMMAND_COLUMNS, *PROGRESS_COLUMNS))
        sql = (
            f"SELECT {step} FROM perdure_steps s INDEXED BY perdure_steps_away"
            " CROSS JOIN perdure_workflows w ON w.id = s.workflow_id"
            " WHERE s.away = 1 AND s.runner = ? AND s.state = 'started'"
            " AND (w.owner IS NULL OR w.owner <> s.runner)"
            " ORDER BY s.workflow_id, s.number"
        )
        return [(row[0], step_from_row(row)) for row in self._execute(sql, (worker_id,))]

    def delete_workflows(self, ids: Collection[WorkflowId]) -> None:
        key = (_ids(ids),)
        self._execute(f"DELETE FROM perdure_inbox WHERE workflow_id {_IN} AND worker IS NULL", key)
        # Not by ON DELETE CASCADE: on a connection of the user's own, foreign keys may be off.
        for table in ("steps", "ticks", "events"):
            self._execute(f"DELETE FROM perdure_{table} WHERE workflow_id {_IN}", key)
        self._execute(f"DELETE FROM perdure_workflows WHERE id {_IN}", key)

    def wake(self, workflow_id: WorkflowId, at: int) -> None:
        sql = (
            "UPDATE perdure_workflows SET wake_at = min(coalesce(wake_at, ?), ?)"
            " WHERE id = ? AND owner IS NULL AND status = 'in_progress'"
        )
        self._execute(sql, (at, at, workflow_id))

    def wake_waiting(self, ids: Collection[WorkflowId], at: int) -> bool:
        sql = (
            # The inbox drives: it is mostly empty.
            "UPDATE perdure_workflows SET wake_at = min(coalesce(wake_at, ?), ?)"
            " WHERE id IN (SELECT i.workflow_id FROM perdure_inbox i WHERE i.worker IS NULL"
            f" AND i.workflow_id {_IN}) AND owner IS NULL AND status = 'in_progress'"
        )
        return self._execute(sql, (at, at, _ids(ids))).rowcount > 0

    # --- journal, events, inbox

    def put_steps(self, writes: Iterable[StepWrite]) -> set[WorkflowId]:
        rest: list[Statement] = []
        taken: set[WorkflowId] = set()
        for write in writes:
            sql, row = step_row(write)
            if not write.must_be_ready:
                rest.append((sql, row))
            elif self._write(sql + _STILL_READY, [row]) == 0:
                taken.add(write.workflow_id)
            elif write.is_taken:
                self._write(_MARK_AWAY, [(write.workflow_id, write.record.number)])
        self._write_all(rest)
        return taken

    def cut_journal(self, workflow_id: WorkflowId, number: int, position: int) -> None:
        for table, column, first in (
            ("perdure_events", "consumed_by", number),
            ("perdure_steps", "number", number),
            ("perdure_ticks", "position", position + 1),
        ):
            sql = f"DELETE FROM {table} WHERE workflow_id = ? AND {column} >= ?"
            self._execute(sql, (workflow_id, first))

    def put_ticks(self, ticks: Iterable[tuple[WorkflowId, int, int]]) -> None:
        self._write(
            "INSERT INTO perdure_ticks (workflow_id, position, now) VALUES (?, ?, ?)", list(ticks)
        )

    def put_event(self, workflow_id: WorkflowId, event: SentEvent, now: int) -> None:
        sql = (
            f"INSERT INTO perdure_events (workflow_id, created_at, {columns(EVENT_COLUMNS)})"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (workflow_id, id) DO UPDATE SET"
            " sequence = excluded.sequence, sent_at = excluded.sent_at,"
            " value = excluded.value, error = excluded.error, token = excluded.token"
        )
        values = (workflow_id, now, event.event_id, event.name, *event_columns(event))
        self._execute(sql, values)

    def consume_event(self, workflow_id: WorkflowId, event_id: EventId, number: int) -> None:
        sql = (
            "UPDATE perdure_events SET consumed_by = ?"
            " WHERE workflow_id = ? AND id = ? AND consumed_by IS NULL"
        )
        if self._write(sql, [(number, workflow_id, event_id)]) != 1:
            # A fault of the engine's: committing would give one event to two awaits.
            raise RuntimeError(
                f"event {event_id!r} of workflow {workflow_id!r} is consumed already, or unknown:"
                f" step {number} must not take it"
            )

    def put_inbox(self, rows: Iterable[InboxRow]) -> None:
        self._write(
            "INSERT INTO perdure_inbox (workflow_id, kind, body, accepted_at, number, worker)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [
                (row.workflow_id, row.kind, row.body, row.accepted_at, row.number, row.worker)
                for row in rows
            ],
        )

    def clear_inbox(self, ids: Collection[WorkflowId]) -> None:
        sql = "DELETE FROM perdure_inbox WHERE workflow_id = ? AND worker IS NULL"
        self._write(sql, [(workflow_id,) for workflow_id in ids])

    def delete_inbox(self, row_ids: Iterable[int]) -> None:
        self._write("DELETE FROM perdure_inbox WHERE id = ?", [(row_id,) for row_id in row_ids])

    # --- user code

    @property
    def db(self) -> Connection:
        """The connection that user code gets."""
        return self._connection

    def run_user_code(self, fn: Callable[[], T], *, read_only: bool) -> T:
        """See `base.Transaction.run_user_code`."""
        return self._connection.run_user_code(fn, read_only=read_only)

    def run_engine_code(self, fn: Callable[[], T]) -> T:
        """See `base.Transaction.run_engine_code`."""
        return self._connection.run_engine_code(fn)
