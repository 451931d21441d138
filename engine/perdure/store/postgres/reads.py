"""Reads of the PostgreSQL store: statements, and the mapping of their rows.

What does not belong here: connections (pool.py, connection.py), and any decision.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from perdure.core.ids import EventId, WorkerId, WorkflowId
from perdure.core.journal import StepRecord, TickRecord
from perdure.core.messages import SentEvent
from perdure.core.workflow import RESTARTED, WorkflowState
from perdure.errors import ErrorInfo, StoreCorrupt

from ..base import Config, InboxRow, Loaded, ReadyStep, WorkerRow, WorkflowFilter
from ..rows import (
    COMMAND_COLUMNS,
    EVENT_COLUMNS,
    HEADER_COLUMNS,
    PROGRESS_COLUMNS,
    STATE_COLUMNS,
    event_from_row,
    is_open,
    state_from_row,
    step_from_row,
)
from .pipeline import Rows

Execute = Callable[..., Rows]
Statement = tuple[str, Sequence[Any]]


def columns(*names: Sequence[str], of: str = "") -> str:
    """Names with commas between, each as a column of the table `of` if that is given."""
    prefix = f"{of}." if of else ""
    return ", ".join(prefix + name for group in names for name in group)


STATE = columns(HEADER_COLUMNS, STATE_COLUMNS)
STEP = columns(COMMAND_COLUMNS, PROGRESS_COLUMNS)
EVENT = columns(EVENT_COLUMNS)
ANY = "= ANY($1::text[])"

#: As `WorkflowState.is_blocked` says it. Not as JSON: what is damaged, and none, is blocked.
_IS_BLOCKED = f'blocked IS NOT NULL AND strpos(blocked, \'"type":"{RESTARTED.type}"\') = 0'

SELECT_STATES = f"SELECT {STATE} FROM perdure_workflows WHERE id {ANY}"
SELECT_STEPS = (
    f"SELECT {STEP} FROM perdure_steps WHERE workflow_id {ANY} ORDER BY workflow_id, number"
)
SELECT_TICKS = (
    f"SELECT workflow_id, position, now FROM perdure_ticks WHERE workflow_id {ANY}"
    " ORDER BY workflow_id, position"
)
SELECT_EVENTS = (
    f"SELECT workflow_id, {EVENT} FROM perdure_events"
    f" WHERE workflow_id {ANY} AND consumed_by IS NULL"
    " ORDER BY workflow_id, sequence NULLS LAST, created_at, id"
)
CLAIMABLE = (
    "SELECT id FROM perdure_workflows"
    " WHERE owner IS NULL AND wake_at IS NOT NULL AND wake_at <= $1 AND name = ANY($2::text[])"
    " ORDER BY wake_at LIMIT $3"
)
#: Ready steps that a worker looks at for some to take: as many as it takes at once, or more.
READY_LOOK = 256

_READY = (
    f"SELECT w.epoch, {columns(COMMAND_COLUMNS, PROGRESS_COLUMNS, of='s')}"
    " FROM (SELECT workflow_id, number FROM perdure_steps WHERE state = 'ready'"
    f" ORDER BY due_at LIMIT {READY_LOOK}) r"
    " JOIN perdure_workflows w ON w.id = r.workflow_id"
    " JOIN perdure_steps s ON s.workflow_id = r.workflow_id AND s.number = r.number"
    f" WHERE s.state = 'ready' AND s.kind = 'action' AND s.function {ANY}"
    " AND w.status = 'in_progress' AND w.owner IS NOT NULL AND w.owner <> $2"
    " ORDER BY s.due_at, s.number DESC, s.workflow_id LIMIT $3"
)
_INBOX = "i.id, i.workflow_id, i.kind, i.body, i.accepted_at, i.number, i.worker"


def _inbox_row(row: tuple[Any, ...]) -> InboxRow:
    row_id, workflow_id, kind, body, accepted_at, number, worker = row
    return InboxRow(
        row_id=row_id,
        workflow_id=workflow_id,
        kind=kind,
        body=body,
        accepted_at=accepted_at,
        number=number,
        worker=worker,
    )


def loaded_from(
    states: Iterable[Any], steps: Iterable[Any], ticks: Iterable[Any], events: Iterable[Any]
) -> list[Loaded]:
    """Workflows with their journals, from the rows of the four statements above."""
    records: dict[str, list[StepRecord]] = {}
    fired: dict[str, list[TickRecord]] = {}
    sent: dict[str, list[SentEvent]] = {}
    damages: dict[str, ErrorInfo] = {}
    for row in steps:
        try:
            records.setdefault(row[0], []).append(step_from_row(row))
        except StoreCorrupt as error:  # of this workflow alone
            damages.setdefault(row[0], ErrorInfo(StoreCorrupt.__name__, str(error)))
    for workflow_id, position, now in ticks:
        fired.setdefault(workflow_id, []).append(TickRecord(position, now))
    for workflow_id, *event in events:
        sent.setdefault(workflow_id, []).append(event_from_row(tuple(event)))
    loaded = []
    for row in states:
        workflow_id, is_running = row[0], row[11] == "in_progress"
        journal = records.get(workflow_id, [])
        live = [record for record in journal if is_open(record)] if is_running else []
        loaded.append(
            Loaded(
                state=state_from_row(row, live, sent.get(workflow_id, ())),
                steps=tuple(journal),
                ticks=tuple(fired.get(workflow_id, ())),
                damage=damages.get(workflow_id),
            )
        )
    return loaded


class PostgresReader:
    """Reads, through whatever executes a statement.

    Args:
        execute: runs one statement; all its rows.
        at_once: runs several that see the database as of one moment.
    """

    def __init__(
        self, execute: Execute, at_once: Callable[[Sequence[Statement]], list[Rows]]
    ) -> None:
        self._execute = execute
        self._at_once = at_once

    def load(self, ids: Collection[WorkflowId]) -> list[Loaded]:
        """See `base.Reader.load`. By primary key, in one round trip."""
        if not ids:
            return []
        key = (list(ids),)
        statements = (SELECT_STATES, SELECT_STEPS, SELECT_TICKS, SELECT_EVENTS)
        return loaded_from(*self._at_once([(sql, key) for sql in statements]))

    def states(self, ids: Collection[WorkflowId]) -> list[WorkflowState]:
        """See `base.Reader.states`."""
        return [state_from_row(row) for row in self._execute(SELECT_STATES, (list(ids),))]

    def list_workflows(self, which: WorkflowFilter) -> list[tuple[int, WorkflowState]]:
        """See `base.Reader.list_workflows`. By an index on seq, (name, seq) or (status, seq)."""
        order, compare = ("ASC", ">") if which.is_ascending else ("DESC", "<")
        wheres, values = ["TRUE"], []
        for test, value in (
            ("name =", which.name),
            ("status =", which.status),
            (f"seq {compare}", which.after),
        ):
            if value is not None:
                values.append(value)
                wheres.append(f"{test} ${len(values)}")
        if which.is_blocked is not None:
            wheres.append(_IS_BLOCKED if which.is_blocked else f"NOT ({_IS_BLOCKED})")
        values.append(which.limit)
        sql = (
            f"SELECT seq, {STATE} FROM perdure_workflows WHERE {' AND '.join(wheres)}"
            f" ORDER BY seq {order} LIMIT ${len(values)}"
        )
        return [(row[0], state_from_row(row[1:])) for row in self._execute(sql, values)]

    def list_steps(
        self, workflow_id: WorkflowId, *, is_ascending: bool, limit: int, after: int | None
    ) -> list[StepRecord]:
        """See `base.Reader.list_steps`. By primary key."""
        order, compare = ("ASC", ">") if is_ascending else ("DESC", "<")
        bound = "" if after is None else f" AND number {compare} $3"
        sql = (
            f"SELECT {STEP} FROM perdure_steps WHERE workflow_id = $1{bound}"
            f" ORDER BY number {order} LIMIT $2"
        )
        values = [workflow_id, limit] if after is None else [workflow_id, limit, after]
        return [step_from_row(row) for row in self._execute(sql, values)]

    def open_steps(self, workflow_id: WorkflowId) -> list[StepRecord]:
        """See `base.Reader.open_steps`. Reads the workflow's whole range of steps."""
        sql = (
            f"SELECT {STEP} FROM perdure_steps WHERE workflow_id = $1 AND state <> 'settled'"
            " ORDER BY number"
        )
        return [step_from_row(row) for row in self._execute(sql, (workflow_id,))]

    def children(self, ids: Collection[WorkflowId]) -> list[WorkflowId]:
        """See `base.Reader.children`. By the index on parent_id."""
        sql = f"SELECT id FROM perdure_workflows WHERE parent_id {ANY} ORDER BY seq"
        return [row[0] for row in self._execute(sql, (list(ids),))]

    def ready_steps(
        self, worker_id: WorkerId, functions: Collection[str], limit: int
    ) -> list[ReadyStep]:
        """See `base.Reader.ready_steps`. By the index on ready steps, of which it looks at the
        oldest `READY_LOOK`."""
        return self._ready_steps(worker_id, functions, limit, "")

    def _ready_steps(
        self, worker_id: WorkerId, functions: Collection[str], limit: int, lock: str
    ) -> list[ReadyStep]:
        found = []
        for row in self._execute(f"{_READY}{lock}", (list(functions), worker_id, limit)):
            with contextlib.suppress(StoreCorrupt):  # its owner finds out, and tells
                record = step_from_row(row[1:])
                found.append(ReadyStep(workflow_id=row[1], epoch=row[0], record=record))
        return found

    def config(self) -> Config:
        """See `base.Reader.config`."""
        return self._config("")

    def _config(self, lock: str) -> Config:
        sql = f"SELECT schema_version, max_parallelism FROM perdure_config{lock}"
        version, parallelism = self._execute(sql).fetchone()
        return Config(schema_version=version, max_parallelism=parallelism)

    def count_active(self, names: Collection[str]) -> int:
        """See `base.Reader.count_active`. By the indexes on owner and wake_at."""
        sql = (
            "SELECT (SELECT count(*) FROM perdure_workflows WHERE owner IS NOT NULL"
            f" AND name {ANY}) + (SELECT count(*) FROM perdure_workflows"
            f" WHERE owner IS NULL AND wake_at IS NOT NULL AND name {ANY})"
        )
        count: int = self._execute(sql, (list(names),)).fetchone()[0]
        return count

    def claimable(self, names: Collection[str], now: int, limit: int) -> list[WorkflowId]:
        """See `base.Reader.claimable`. By the index on wake_at."""
        return [row[0] for row in self._execute(CLAIMABLE, (now, list(names), limit))]

    def next_wake(self, names: Collection[str]) -> int | None:
        """See `base.Reader.next_wake`. By the index on wake_at."""
        sql = (
            "SELECT wake_at FROM perdure_workflows"
            f" WHERE owner IS NULL AND wake_at IS NOT NULL AND name {ANY}"
            " ORDER BY wake_at LIMIT 1"
        )
        row = self._execute(sql, (list(names),)).fetchone()
        return None if row is None else row[0]

    def workers(self) -> list[WorkerRow]:
        """See `base.Reader.workers`."""
        sql = "SELECT id, fenced, permits, wanting FROM perdure_workers ORDER BY id"
        return [
            WorkerRow(worker_id=row[0], is_fenced=row[1], permits=row[2], wanting=row[3])
            for row in self._execute(sql)
        ]

    def inbox_of(self, worker_id: WorkerId) -> list[InboxRow]:
        """See `base.Reader.inbox_of`. The inbox is short-lived and small."""
        sql = (
            f"SELECT {_INBOX} FROM perdure_inbox i JOIN perdure_workflows w ON w.id = i.workflow_id"
            " WHERE i.worker IS NULL AND w.owner = $1"
            f" UNION ALL SELECT {_INBOX} FROM perdure_inbox i WHERE i.worker = $1 ORDER BY 1"
        )
        return [_inbox_row(row) for row in self._execute(sql, (worker_id,))]

    def find_event(self, event_id: EventId) -> tuple[WorkflowId, SentEvent, bool] | None:
        """See `base.Reader.find_event`. By the index on id."""
        return self._find_event("id", event_id)

    def find_send(self, token: str) -> tuple[WorkflowId, SentEvent, bool] | None:
        """See `base.Reader.find_send`. By the index on token."""
        return self._find_event("token", token)

    def _find_event(self, column: str, key: str) -> tuple[WorkflowId, SentEvent, bool] | None:
        sql = f"SELECT workflow_id, consumed_by, {EVENT} FROM perdure_events WHERE {column} = $1"
        row = self._execute(sql, (key,)).fetchone()
        if row is None:
            return None
        return row[0], event_from_row(row[2:]), row[1] is not None

    def created_event(self, workflow_id: WorkflowId, name: str) -> SentEvent | None:
        """See `base.Reader.created_event`. By the index on those that are only created."""
        sql = (
            f"SELECT {EVENT} FROM perdure_events"
            " WHERE workflow_id = $1 AND name = $2 AND sequence IS NULL ORDER BY made LIMIT 1"
        )
        row = self._execute(sql, (workflow_id, name)).fetchone()
        return None if row is None else event_from_row(row)
