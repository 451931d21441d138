"""Reads of events in SQLite, and of the steps that await them.

What a step awaits is in its options, at their end, and has no index: SQLite itself goes through the
workflow's steps, in their order. Not as JSON, which took longer and must not be damaged: ids of
events are the engine's, and have nothing that JSON escapes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from perdure.core.ids import EventId, WorkflowId
from perdure.core.messages import SentEvent

from .rows import EVENT_COLUMNS, awaits_name, event_from_row

_EVENT = ", ".join(EVENT_COLUMNS)
_OPEN_WAITS = "perdure_steps s WHERE s.workflow_id = ? AND s.kind = 'event' AND s.state = 'asked'"
_KEY = 'instr(s.options, \'"event_id":"\')'
#: The id that a step awaits, up to the quote and the brace behind it.
_AWAITED_ID = f"substr(s.options, {_KEY} + 12, length(s.options) - {_KEY} - 13)"
_AWAITED_EVENT = (
    f"SELECT s.number, {', '.join(f'e.{column}' for column in EVENT_COLUMNS)}"
    " FROM perdure_steps s CROSS JOIN perdure_events e"
    f" ON e.workflow_id = s.workflow_id AND e.id = {_AWAITED_ID}"
    f" WHERE s.workflow_id = ? AND s.kind = 'event' AND s.state = 'asked' AND {_KEY} > 0"
    " AND e.name = ? AND e.sequence IS NULL ORDER BY s.number LIMIT 1"
)
_COUNT_WAITS = (
    f"SELECT count(*) FROM {_OPEN_WAITS} AND instr(s.options, ?) > 0"
    " AND s.number < coalesce(?, 9223372036854775807)"
)
_COUNT_QUEUED = (
    "SELECT count(*) FROM perdure_events e WHERE e.workflow_id = ? AND e.name = ?"
    " AND e.sequence IS NOT NULL AND e.consumed_by IS NULL"
    f" AND e.id NOT IN (SELECT {_AWAITED_ID} FROM {_OPEN_WAITS} AND {_KEY} > 0)"
)


class EventReads:
    """Reads of events, through whatever executes a statement."""

    def __init__(self, execute: Callable[..., sqlite3.Cursor]) -> None:
        self._execute = execute

    def find_event(self, event_id: EventId) -> tuple[WorkflowId, SentEvent, bool] | None:
        return self._find_event("id", event_id)

    def find_send(self, token: str) -> tuple[WorkflowId, SentEvent, bool] | None:
        """See `base.Reader.find_send`. By the index on token."""
        return self._find_event("token", token)

    def _find_event(self, column: str, key: str) -> tuple[WorkflowId, SentEvent, bool] | None:
        sql = f"SELECT workflow_id, consumed_by, {_EVENT} FROM perdure_events WHERE {column} = ?"
        row = self._execute(sql, (key,)).fetchone()
        if row is None:
            return None
        return row[0], event_from_row(row[2:]), row[1] is not None

    def created_event(self, workflow_id: WorkflowId, name: str) -> SentEvent | None:
        """See `base.Reader.created_event`. By the index on those that are only created."""
        sql = (
            f"SELECT {_EVENT} FROM perdure_events INDEXED BY perdure_events_created"
            " WHERE workflow_id = ? AND name = ? AND sequence IS NULL ORDER BY made LIMIT 1"
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
        count: int = self._execute(_COUNT_QUEUED, (workflow_id, name, workflow_id)).fetchone()[0]
        return count
