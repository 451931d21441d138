"""A workflow's whole journal as a value, as JSON lines, and back.

The lines are for people (each is one row, with its values as plain JSON), for programs, and for
`check` in another place than production: whoever has the lines can replay the workflow. A file may
hold many journals, one after the other. The format has a number, which is in each first line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import attrs
import msgspec

from perdure.core.ids import WorkflowId
from perdure.core.journal import TickRecord
from perdure.core.outcomes import Json
from perdure.errors import ValidationError
from perdure.records import StepInfo, WorkflowInfo
from perdure.runtime.views import step_info, workflow_info
from perdure.step import from_ms, instant_ms
from perdure.store.base import Loaded
from perdure.store.rows import (
    COMMAND_COLUMNS,
    EVENT_COLUMNS,
    HEADER_COLUMNS,
    PROGRESS_COLUMNS,
    STATE_COLUMNS,
    command_row,
    end_row,
    event_columns,
    event_from_row,
    header_row,
    is_open,
    run_row,
    state_from_row,
    state_row,
    step_from_row,
)

#: Raised by one when a reader of the lines must change.
FORMAT = 1

_WORKFLOW = HEADER_COLUMNS + STATE_COLUMNS
_STEP = COMMAND_COLUMNS + PROGRESS_COLUMNS
_TICK = ("workflow_id", "position", "now")
_EVENT = ("workflow_id", *EVENT_COLUMNS)

#: Columns that hold JSON text: in a line they are that JSON.
_NESTED = frozenset(
    ("arguments", "context", "value", "error", "options", "blocked", "on_complete_error")
)
#: Columns with an instant that do not end in `_at`.
_INSTANTS = frozenset(("now", "stamp"))
#: What stands for a column that a line leaves out: null, but for these.
_DEFAULTS = {"depth": 0, "takeovers": 0, "journal_bytes": 0, "attempt": 0}

#: Columns that hold a number; all others hold text.
_NUMBERS = frozenset(
    (
        *("parent_number", "depth", "rules", "epoch", "position", "next_number", "journal_bytes"),
        *("takeovers", "number", "asked_position", "asked_epoch", "attempt", "started_epoch"),
        *("delivered_position", "canceled_position", "sequence", "made"),
    )
)
#: Columns that are never null.
_REQUIRED = frozenset(
    (
        *("id", "workflow_id", "name", "rules", "created_at", "start_at", "status", "epoch"),
        *("position", "stamp", "next_number", "number", "kind", "asked_position", "asked_at"),
        *("asked_epoch", "state", "now"),
    )
)

_line_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


@attrs.frozen
class WorkflowJournal:
    """All that is recorded of one workflow, as of one moment.

    From `WorkflowManager.journal`, or from lines by `load_journals`.
    """

    _loaded: Loaded = attrs.field(repr=False)

    @property
    def workflow_id(self) -> str:
        """Whose journal it is."""
        return self._loaded.state.workflow_id

    @property
    def name(self) -> str:
        """The name of the workflow's definition."""
        return self._loaded.state.header.name

    @property
    def info(self) -> WorkflowInfo:
        """The workflow, as a listing shows it."""
        return workflow_info(self._loaded.state)

    @property
    def steps(self) -> list[StepInfo]:
        """Its steps by number."""
        return [step_info(self.workflow_id, record) for record in self._loaded.steps]

    def lines(self) -> Iterator[str]:
        """The journal as JSON, a line each (without its end): the workflow, its steps, the times
        at which timers of the handler's own fired, and the events that wait to be consumed."""
        state, steps, ticks = self._loaded.state, self._loaded.steps, self._loaded.ticks
        head = {
            "record": "workflow",
            "format": FORMAT,
            "steps": len(steps),
            "ticks": len(ticks),
            "events": len(state.events),
        }
        workflow_id = state.workflow_id
        yield _line(head, _WORKFLOW, header_row(state.header) + state_row(state))
        for record in steps:
            row = command_row(workflow_id, record) + run_row(record) + end_row(record)
            yield _line({"record": "step"}, _STEP, row)
        for tick in ticks:
            yield _line({"record": "tick"}, _TICK, (workflow_id, tick.position, tick.now))
        for event in state.events:
            row = (workflow_id, event.event_id, event.name, *event_columns(event))
            yield _line({"record": "event"}, _EVENT, row)


def load_journals(lines: Iterable[str]) -> Iterator[WorkflowJournal]:
    """The journals of a file, or of any lines that `WorkflowJournal.lines` gave; empty lines are
    passed over.

    Args:
        lines: of a file, or of several, one after the other.

    Raises:
        ValidationError: what is no such line, or is missing, with the line's number from 1.
    """
    reading: _Reading | None = None
    number = 0
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            fields = _line_decoder.decode(text)
            record = msgspec.json.decode(fields.get("record", b"null"))
        except msgspec.DecodeError as error:
            raise ValidationError(f"line {number}: not a line of a journal: {error}") from None
        if record == "workflow":
            if reading is not None:
                yield reading.end(number)
            reading = _Reading()
        elif reading is None:
            raise ValidationError(
                f"line {number}: a journal begins with the line of its workflow, such as `perdure"
                " journal ID` prints"
            )
        try:
            reading.add(record, fields)
        except (AssertionError, LookupError, TypeError, ValueError) as error:
            raise ValidationError(f"line {number}: {type(error).__name__}: {error}") from None
    if reading is not None:
        yield reading.end(number)


class _Reading:
    """One journal while its lines come in."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[Any, ...]]] = {"step": [], "tick": [], "event": []}
        self._counts: dict[str, Any] = {}
        self._workflow: tuple[Any, ...] = ()
        self._workflow_id: WorkflowId = ""

    def add(self, record: object, fields: dict[str, msgspec.Raw]) -> None:
        """Take in a line; raises ValueError and the like."""
        if record == "workflow":
            version = msgspec.json.decode(fields.get("format", b"null"))
            if version != FORMAT:
                raise ValueError(
                    f"a journal of format {version!r}; this perdure reads {FORMAT}: export and"
                    " check with the same release"
                )
            self._counts = {kind: msgspec.json.decode(fields[f"{kind}s"]) for kind in self._rows}
            self._workflow = _row(_WORKFLOW, fields)
            self._workflow_id = self._workflow[0]
            return
        columns = {"step": _STEP, "tick": _TICK, "event": _EVENT}.get(str(record))
        if columns is None:
            raise ValueError(f"a record of the kind {record!r}, which no journal has")
        row = _row(columns, fields)
        if row[0] != self._workflow_id:
            raise ValueError(f"it is of workflow {row[0]!r}, among those of {self._workflow_id!r}")
        # Each at once, so that what is wrong is told with its line.
        if record == "step":
            step_from_row(row)
        self._rows[str(record)].append(row)

    def end(self, number: int) -> WorkflowJournal:
        """The journal; raises ValidationError if a part of it is missing."""
        found = {kind: len(rows) for kind, rows in self._rows.items()}
        if found != self._counts:
            raise ValidationError(
                f"line {number}: the journal of {self._workflow_id!r} is not whole: it has {found},"
                f" its first line says {self._counts}"
            )
        steps = tuple(step_from_row(row) for row in self._rows["step"])
        if [record.number for record in steps] != list(range(len(steps))):
            raise ValidationError(
                f"line {number}: the steps of {self._workflow_id!r} are not numbered from 0"
            )
        ticks = tuple(TickRecord(position, now) for _, position, now in self._rows["tick"])
        events = [event_from_row(row[1:]) for row in self._rows["event"]]
        is_running = "in_progress" in self._workflow
        live = [record for record in steps if is_open(record)] if is_running else []
        state = state_from_row(self._workflow, live, events)
        return WorkflowJournal(Loaded(state=state, steps=steps, ticks=ticks))


def _line(head: dict[str, Any], columns: tuple[str, ...], row: tuple[Any, ...]) -> str:
    fields = head
    for column, value in zip(columns, row, strict=True):
        if value is not None:
            fields[column] = _shown(column, value)
    return msgspec.json.encode(fields).decode()


def _shown(column: str, value: Any) -> Any:
    if column in _NESTED:
        # As it is stored, byte for byte: a replay compares arguments as text.
        return msgspec.Raw(value.encode())
    if column in _INSTANTS or column.endswith("_at"):
        return from_ms(value).isoformat(timespec="milliseconds")
    return value


def _row(columns: tuple[str, ...], fields: dict[str, msgspec.Raw]) -> tuple[Any, ...]:
    missing = [name for name in columns if name in _REQUIRED and name not in fields]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    return tuple(
        _stored(column, fields[column]) if column in fields else _DEFAULTS.get(column)
        for column in columns
    )


def _stored(column: str, raw: msgspec.Raw) -> Any:
    if column in _NESTED:
        # Without the blanks that other tools put in.
        text: Json = msgspec.json.format(bytes(raw), indent=-1).decode()
        return text
    wanted = int if column in _NUMBERS else str
    value = msgspec.json.decode(raw, type=wanted)
    if column in _INSTANTS or column.endswith("_at"):
        return instant_ms(datetime.fromisoformat(str(value)), column)
    return value
