"""Reads of the PostgreSQL store: statements, and the mapping of their rows.

A statement is planned once for any parameters, it may be while its tables are empty and all indexes
seem equally good. So it is written such that only the index that is meant can serve: what other
ones could be used for is said in a way that hides it (`coalesce`, `ended_at IS NULL` for what is in
progress), and a LIMIT is a parameter, which is taken for small. tests/store/postgres/test_reads.py
finds a statement that goes through too much.

What does not belong here: connections (pool.py, connection.py), and any decision.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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
    STATUSES,
    awaits_name,
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
#: Those with the name `n.name` that nobody owns.
_WAITING = (
    "FROM perdure_workflows WHERE owner IS NULL AND wake_at IS NOT NULL"
    " AND perdure_workflows.name = n.name"
)
#: From each name several times as many as are wanted: others may just be locking the first ones.
CLAIMABLE = (
    "SELECT w.id FROM unnest($1::text[]) n (name)"
    f" CROSS JOIN LATERAL (SELECT id {_WAITING} AND wake_at <= $2 ORDER BY wake_at LIMIT 4 * $3) c"
    " JOIN perdure_workflows w ON w.id = c.id"
    " WHERE w.owner IS NULL AND coalesce(w.wake_at, $2 + 1) <= $2"
    " ORDER BY w.wake_at, w.seq LIMIT $3"
)
_NEXT_WAKE = (
    "SELECT min(c.wake_at) FROM unnest($1::text[]) n (name)"
    f" CROSS JOIN LATERAL (SELECT wake_at {_WAITING} ORDER BY wake_at LIMIT 1) c"
)
# In the order of the index that is meant, or another one would be gone through.
_COUNT_ACTIVE = (
    "SELECT (SELECT count(*) FROM (SELECT 1 FROM perdure_workflows WHERE owner IS NOT NULL"
    " AND name = ANY($1::text[]) ORDER BY owner LIMIT $2) o)"
    " + (SELECT count(*) FROM unnest($1::text[]) n (name)"
    f" CROSS JOIN LATERAL (SELECT 1 {_WAITING} ORDER BY wake_at LIMIT $2) w)"
)
#: Ready steps that a worker looks at for some to take: as many as it takes at once, or more.
READY_LOOK = 256

_READY = (
    f"SELECT w.epoch, {columns(COMMAND_COLUMNS, PROGRESS_COLUMNS, of='s')}"
    " FROM (SELECT * FROM perdure_steps WHERE is_ready ORDER BY due_at LIMIT $4) s"
    " JOIN perdure_workflows w ON w.id = s.workflow_id"
    f" WHERE s.kind = 'action' AND s.function {ANY}"
    " AND w.ended_at IS NULL AND coalesce(w.owner, $2) <> $2"
    " ORDER BY s.due_at, s.number DESC, s.workflow_id LIMIT $3"
)
#: What a step awaits is in its options, at their end, and has no index: those of a workflow are
#: read in order. Not as JSON: what is damaged, and none, would end the transaction. Ids of events
#: are the engine's, and have nothing that JSON escapes.
_OPEN_WAITS = "perdure_steps s WHERE s.workflow_id = $1 AND s.kind = 'event' AND s.state = 'asked'"
_AWAITED_ID = 'substring(s.options FROM \'"event_id":"([^"]*)"}$\')'
_AWAITED_EVENT = (
    f"SELECT s.number, e.* FROM (SELECT number, {_AWAITED_ID} AS id FROM {_OPEN_WAITS}"
    f" ORDER BY number) s CROSS JOIN LATERAL (SELECT {EVENT} FROM perdure_events"
    " WHERE workflow_id = $1 AND id = s.id AND name = $2 AND sent_at IS NULL OFFSET 0) e LIMIT 1"
)
_COUNT_WAITS = (
    f"SELECT count(*) FROM {_OPEN_WAITS} AND strpos(s.options, $2) > 0"
    " AND s.number < coalesce($3, 9223372036854775807)"
)
_COUNT_QUEUED = (
    "SELECT count(*) FROM perdure_events e WHERE e.workflow_id = $1 AND e.name = $2"
    " AND e.sequence IS NOT NULL AND e.consumed_by IS NULL AND e.id NOT IN"
    f" (SELECT a.id FROM (SELECT {_AWAITED_ID} AS id FROM {_OPEN_WAITS}) a WHERE a.id IS NOT NULL)"
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


def _comparison(values: Mapping[str, str], operator: str) -> str:
    """Rows before or after these values of these columns."""
    return f"({', '.join(values)}) {operator} ({', '.join(values.values())})"


def _listing(which: WorkflowFilter) -> Statement:
    """The statement that lists workflows, and its parameters.

    Not `name = $1 … ORDER BY seq`: a plan that serves any name goes through the workflows in order,
    in the belief that it soon meets enough of them. By a range of all columns of an index, and in
    their order, only that index will do.
    """
    values: list[Any] = [which.limit]

    def mark(value: Any) -> str:
        values.append(value)
        return f"${len(values)}"

    order, compare = ("ASC", ">") if which.is_ascending else ("DESC", "<")
    given = {"name": which.name, "status": which.status}
    keys = {column: mark(value) for column, value in given.items() if value is not None}
    wheres = ["TRUE"]
    if which.is_blocked is not None:
        wheres.append(_IS_BLOCKED if which.is_blocked else f"NOT ({_IS_BLOCKED})")
    if which.is_blocked:  # they are few, and have an index of their own
        wheres += [f"{column} = {value}" for column, value in keys.items()]
        keys = {}
    has_pieces = keys.keys() == {"name"}
    if has_pieces:  # the index is in order of seq within each status only
        keys["status"] = "s.status"
    begin, end = (">=", "<=") if which.is_ascending else ("<=", ">=")
    if keys:
        wheres.append(_comparison(keys, end))
    if which.after is not None:  # with `begin` beside it, it would not be where the scan begins
        wheres.append(_comparison({**keys, "seq": mark(which.after)}, compare))
    elif keys:
        wheres.append(_comparison(keys, begin))
    orders = ", ".join(f"{column} {order}" for column in (*keys, "seq"))
    sql = (
        f"SELECT seq, {STATE} FROM perdure_workflows WHERE {' AND '.join(wheres)}"
        f" ORDER BY {orders} LIMIT $1"
    )
    if has_pieces:
        statuses = ", ".join(f"('{status}')" for status in STATUSES)
        sql = (
            f"SELECT w.* FROM (VALUES {statuses}) s (status) CROSS JOIN LATERAL ({sql}) w"
            f" ORDER BY seq {order} LIMIT $1"
        )
    return sql, values


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
        """See `base.Reader.list_workflows`. By an index that begins with what is asked for."""
        sql, values = _listing(which)
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
        found = []
        for row in self._execute(_READY, (list(functions), worker_id, limit, READY_LOOK)):
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

    def count_active(self, names: Collection[str], most: int) -> int:
        """See `base.Reader.count_active`. By the indexes on owner and wake_at."""
        count: int = self._execute(_COUNT_ACTIVE, (sorted(set(names)), most)).fetchone()[0]
        return min(count, most)

    def claimable(self, names: Collection[str], now: int, limit: int) -> list[WorkflowId]:
        """See `base.Reader.claimable`. By the index on (name, wake_at)."""
        return [row[0] for row in self._execute(CLAIMABLE, (sorted(set(names)), now, limit))]

    def next_wake(self, names: Collection[str]) -> int | None:
        """See `base.Reader.next_wake`. By the index on (name, wake_at): the first of each name."""
        at: int | None = self._execute(_NEXT_WAKE, (list(names),)).fetchone()[0]
        return at

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

    def awaited_event(self, workflow_id: WorkflowId, name: str) -> tuple[int, SentEvent] | None:
        """See `base.Reader.awaited_event`. Reads the workflow's steps up to that one."""
        row = self._execute(_AWAITED_EVENT, (workflow_id, name)).fetchone()
        return None if row is None else (row[0], event_from_row(row[1:]))

    def count_waits(self, workflow_id: WorkflowId, name: str, *, below: int | None) -> int:
        """See `base.Reader.count_waits`. Reads the workflow's steps up to that number."""
        values = (workflow_id, awaits_name(name), below)
        count: int = self._execute(_COUNT_WAITS, values).fetchone()[0]
        return count

    def count_queued(self, workflow_id: WorkflowId, name: str) -> int:
        """See `base.Reader.count_queued`. Reads the workflow's steps and events."""
        count: int = self._execute(_COUNT_QUEUED, (workflow_id, name)).fetchone()[0]
        return count
