"""What callers read: statuses, records of workflows and steps, pages: values, no behaviour."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import attrs

from perdure.core.outcomes import Canceled, Failed, Succeeded
from perdure.errors import ErrorInfo

T = TypeVar("T")

#: How a workflow ended; a value is a plain JSON value, see `Succeeded`.
Outcome: TypeAlias = Succeeded[Any] | Failed | Canceled


@attrs.frozen(kw_only=True)
class StepInfo:
    """One step of a workflow. Values are plain JSON values, times are in UTC.

    Attributes:
        number: from 0, in the order asked.
        status: "in_progress", "success", "failed" or "canceled".
        attempts: how many were started.
        asked_at: when the handler asked for it.
        started_at: when its last attempt began.
        child_id: of a workflow step.
        event_id: of an event step: the event that it has consumed, or awaits by its id.
        due_at: what it waits for: the start of a delayed step, the end of a sleep or of a backoff,
            the time-out of an event.
    """

    workflow_id: str
    number: int
    name: str
    kind: Literal["query", "mutation", "action", "workflow", "sleep", "event"]
    status: Literal["in_progress", "success", "failed", "canceled"]
    arguments: Any = None
    value: Any = None
    error: ErrorInfo | None = None
    attempts: int = 0
    asked_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    child_id: str | None = None
    event_id: str | None = None
    due_at: datetime | None = None


@attrs.frozen
class InProgress:
    """The workflow has not ended.

    Attributes:
        running: its steps that have no outcome yet.
        blocked: why it cannot go on for now, if its code does not fit its journal.
    """

    running: tuple[StepInfo, ...] = ()
    blocked: ErrorInfo | None = None
    kind: Literal["in_progress"] = attrs.field(default="in_progress", init=False, repr=False)


#: What `status` gives; the value of a `Succeeded` is a plain JSON value, `result` gives it typed.
Status: TypeAlias = InProgress | Succeeded[Any] | Failed | Canceled


@attrs.frozen(kw_only=True)
class WorkflowInfo:
    """One workflow. Values are plain JSON values, times are in UTC.

    In a listing the `running` of an `InProgress` status is left empty.

    Attributes:
        journal_bytes: size of the journal; a workflow that goes on with more than
            `Limits.journal_bytes` fails.
        on_complete_error: what its `on_complete` raised.
        due_at: when a worker should take it up, while none has it. If that is past, none has come
            that knows its definition: it is unclaimed.
    """

    workflow_id: str
    name: str
    status: Status
    arguments: Any
    context: Any = None
    parent_id: str | None = None
    created_at: datetime
    ended_at: datetime | None = None
    journal_bytes: int = 0
    on_complete_error: ErrorInfo | None = None
    due_at: datetime | None = None


@attrs.frozen(kw_only=True)
class Page(Generic[T]):
    """A part of a listing. Give `cursor` back to get the next part, until `is_done`."""

    items: list[T]
    cursor: str | None = None
    is_done: bool = True

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@attrs.frozen(kw_only=True)
class Settings:
    """The settings that all workers of a store share.

    Attributes:
        max_parallelism: running action attempts over all workers; 0 pauses them, and queued
            mutations and queries.
    """

    max_parallelism: int
