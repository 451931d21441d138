"""How values are shown: as JSON for programs, as tables for people."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perdure import ErrorInfo, InProgress, StepInfo, WorkflowInfo

#: Longer values are cut in tables; --json shows them whole.
VALUE_COLUMNS_MAX = 60
#: Columns of a table that goes into a file or a pipe, where no terminal says how wide it is.
PIPE_COLUMNS = 200
#: So long a workflow may be due before it is called unclaimed: a busy worker is no missing one.
UNCLAIMED_SECONDS = 5.0


def now() -> datetime:
    """The time, in UTC."""
    return datetime.fromtimestamp(time.time(), UTC)


def as_plain(value: Any) -> Any:
    """A record as JSON can take it."""
    if attrs.has(type(value)):
        return {
            field.name: as_plain(getattr(value, field.name)) for field in attrs.fields(type(value))
        }
    if isinstance(value, dict):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value


def print_json(value: Any) -> None:
    """Print a record as one line of JSON."""
    click.echo(json.dumps(as_plain(value), ensure_ascii=False))


def make_console(*, pipe_columns: int = PIPE_COLUMNS) -> Console:
    """A console on stdout, `pipe_columns` wide where that is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = pipe_columns
    return console


def shorten(value: Any, columns: int = VALUE_COLUMNS_MAX) -> str:
    """A value on one line, cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.splitlines()) if "\n" in text else text
    return text if len(text) <= columns else f"{text[: columns - 1]}…"


def error_text(error: ErrorInfo, columns: int = VALUE_COLUMNS_MAX) -> str:
    """Type and text of an error, on one line."""
    return shorten(f"{error.type}: {error.message}", columns)


def when(instant: datetime | None) -> str:
    """An instant to the second, or nothing."""
    return "" if instant is None else instant.strftime("%Y-%m-%d %H:%M:%S")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table without lines."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # As Text: what users store may hold brackets, which would be taken for markup.
        table.add_row(*(Text(cell) for cell in row))
    make_console().print(table)


def status_text(status: Any) -> str:
    """A status in a word or two."""
    if isinstance(status, InProgress) and status.blocked is not None:
        return "blocked"
    return str(status.kind).replace("_", " ")


def is_unclaimed(info: WorkflowInfo, at: datetime) -> bool:
    """Whether no worker that knows its definition has come for it."""
    if info.due_at is None or info.status.kind != "in_progress":
        return False
    if isinstance(info.status, InProgress) and info.status.blocked is not None:
        return False
    return (at - info.due_at).total_seconds() > UNCLAIMED_SECONDS


def outcome_text(status: Any) -> str:
    """What came of a workflow: its value, or its error, or what blocks it."""
    if status.kind == "success":
        return shorten(status.value)
    error = status.error if status.kind == "failed" else getattr(status, "blocked", None)
    return "" if error is None else error_text(error)


def workflow_row(info: WorkflowInfo, at: datetime) -> list[str]:
    """A workflow's cells, as they are at that time."""
    return [
        info.workflow_id,
        info.name,
        "unclaimed" if is_unclaimed(info, at) else status_text(info.status),
        when(info.created_at),
        when(info.ended_at),
        outcome_text(info.status),
    ]


def step_row(step: StepInfo) -> list[str]:
    """A step's cells, as they are stored."""
    begin, end = step.started_at or step.asked_at, step.ended_at
    took = "" if end is None else f"{max(0.0, (end - begin).total_seconds()):.3f} s"
    outcome = shorten(step.value) if step.status == "success" else ""
    if step.error is not None:
        outcome = error_text(step.error)
    return [
        str(step.number),
        step.name,
        step.kind,
        step.status.replace("_", " "),
        str(step.attempts or ""),
        when(step.asked_at),
        took,
        outcome,
    ]
