"""A workflow's steps as bars in time.

::

     # step              0 s                     2.4 s        took
     0 welcome           ━                                    8 ms
     1 look up ×3         ╌╌╌╌╌╌━━━━                         1.1 s  "green"
     2 follow-up              ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄━             2.0 s
     3 approval · event                        ┄┄┄▶   waits for it

A bar begins where the step was asked for. What waits is thin, what runs is thick; an arrow is at
the end of what has not ended. All steps share one scale, children as well.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import attrs
from rich.text import Text

from perdure import InProgress, StepInfo, WorkflowInfo, WorkflowJournal
from perdure.cli import showing
from perdure.cli.showing import error_text, make_console, shorten, status_text, when

#: Columns that a bar has at least, and that the other texts have at most.
BAR_COLUMNS_MIN, LABEL_COLUMNS_MAX, NOTE_COLUMNS_MAX = 10, 30, 44

#: Columns of a timeline that goes into a file or a pipe.
TIMELINE_COLUMNS = 120
#: Seconds of a unit and its name, and of the smaller one that is told beside it.
_UNITS = ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))

_COLORS = {"in_progress": "cyan", "success": "green", "failed": "red", "canceled": "yellow"}


@attrs.frozen
class Marks:
    """What bars are drawn with."""

    waits: str = "╌"
    runs: str = "━"
    sleeps: str = "┄"
    open: str = "▶"
    failed: str = "✗"
    canceled: str = "○"
    times: str = "×"
    branch: str = "└ "
    arrow: str = "→ "


#: For terminals and files that have no such letters.
ASCII = Marks("-", "=", ".", ">", "x", "o", "x", "` ", "-> ")
LETTERS = Marks()


def marks_for(encoding: str | None) -> Marks:
    """The marks that an encoding can write."""
    try:
        "".join(attrs.astuple(LETTERS)).encode(encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return ASCII
    return LETTERS


@attrs.frozen
class Scale:
    """From instants to columns."""

    begin: datetime
    end: datetime
    columns: int

    def column(self, at: datetime) -> int:
        """Where an instant is, from 0 to the last column."""
        whole = (self.end - self.begin).total_seconds()
        if whole <= 0:
            return 0
        part = (at - self.begin).total_seconds() / whole
        return min(self.columns - 1, max(0, int(part * self.columns)))


@attrs.frozen
class _Row:
    step: StepInfo
    depth: int


def spell_duration(span: timedelta) -> str:
    """A duration in two figures or two units."""
    seconds = max(0.0, span.total_seconds())
    if seconds < 1:
        return f"{round(seconds * 1000)} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, name, small, unit in _UNITS:
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {name}" + (f" {rest} {unit}" if rest else "")
    raise AssertionError(span)


def print_timeline(
    journal: WorkflowJournal, children: dict[str, WorkflowJournal] | None = None
) -> None:
    """Print a workflow's timeline, as wide as the terminal."""
    console = make_console(pipe_columns=TIMELINE_COLUMNS)
    marks = marks_for(sys.stdout.encoding)
    for line in draw(journal, showing.now(), console.width, marks=marks, children=children):
        console.print(line, soft_wrap=True)


def draw(
    journal: WorkflowJournal,
    now: datetime,
    width: int,
    *,
    marks: Marks = LETTERS,
    children: Mapping[str, WorkflowJournal] | None = None,
) -> Iterator[Text]:
    """The lines of a workflow's timeline.

    Args:
        now: where what has not ended is drawn to.
        width: columns of a line at most.
        children: journals of child workflows by their ids: their steps are drawn below the step
            that runs them.
    """
    info = journal.info
    yield from _head(info, now)
    rows = list(_rows(journal, children or {}, 0))
    if rows:
        yield Text()
        yield from _bars(rows, info, now, width, marks)
    yield from _tail(info)


def _rows(
    journal: WorkflowJournal, children: Mapping[str, WorkflowJournal], depth: int
) -> Iterator[_Row]:
    for step in journal.steps:
        yield _Row(step, depth)
        child = children.get(step.child_id) if step.child_id is not None else None
        if child is not None:
            yield from _rows(child, children, depth + 1)


def _head(info: WorkflowInfo, now: datetime) -> Iterator[Text]:
    span = spell_duration((info.ended_at or now) - info.created_at)
    line = Text.assemble(
        (info.workflow_id, "bold"),
        ": ",
        (status_text(info.status), _color(info)),
        f"  {info.name} {shorten(info.arguments)}",
    )
    yield line
    word = "for" if info.ended_at is None else "took"
    times = f"created {when(info.created_at)} UTC, {word} {span}"
    if info.parent_id is not None:
        times += f", child of {info.parent_id}"
    yield Text(times, "dim")


def _color(info: WorkflowInfo) -> str:
    if isinstance(info.status, InProgress) and info.status.blocked is not None:
        return "bold red"
    return _COLORS[info.status.kind]


def _tail(info: WorkflowInfo) -> Iterator[Text]:
    status = info.status
    if status.kind == "success":
        yield Text()
        yield Text.assemble(("value: ", "bold"), shorten(status.value, 200))
    error = getattr(status, "error", None) or getattr(status, "blocked", None)
    if error is not None:
        yield Text()
        word = "failed: " if status.kind == "failed" else "blocked: "
        for number, line in enumerate(f"{error.type}: {error.message}".splitlines()):
            yield Text.assemble((word if number == 0 else "", "bold red"), line)
    if info.on_complete_error is not None:
        yield Text.assemble(
            ("on_complete failed: ", "red"), error_text(info.on_complete_error, 200)
        )


def _bars(
    rows: Sequence[_Row], info: WorkflowInfo, now: datetime, width: int, marks: Marks
) -> Iterator[Text]:
    labels = [_label(row, marks) for row in rows]
    notes = [_note(row.step, marks) for row in rows]
    number_columns = max(len(str(row.step.number)) for row in rows)
    label_columns = min(LABEL_COLUMNS_MAX, max(map(len, labels)))
    note_columns = min(NOTE_COLUMNS_MAX, max(map(len, notes)), max(0, width // 3))
    columns = width - number_columns - label_columns - note_columns - len("  " + " " + "  ") - 9
    if columns < BAR_COLUMNS_MIN:
        note_columns = max(0, note_columns + columns - BAR_COLUMNS_MIN)
        columns = BAR_COLUMNS_MIN
    begin = min([info.created_at, *(row.step.asked_at for row in rows)])
    ends = [row.step.ended_at or now for row in rows]
    scale = Scale(begin, max([info.ended_at or now, *ends]), columns)
    whole = spell_duration(scale.end - scale.begin)
    axis = "0" + whole.rjust(columns - 1)
    yield Text(f"{'#':>{number_columns}} {'step':<{label_columns}} {axis} {'took':>9}", "bold")
    for row, label, note in zip(rows, labels, notes, strict=True):
        step = row.step
        took = "" if step.ended_at is None else spell_duration(step.ended_at - step.asked_at)
        number = str(step.number) if row.depth == 0 else ""
        line = Text(f"{number:>{number_columns}} {shorten(label, label_columns):<{label_columns}} ")
        line.append(_bar(step, scale, now, marks), _COLORS[step.status])
        line.append(f" {took:>9}")
        if note and note_columns >= 4:
            line.append(f"  {shorten(note, note_columns)}", "red" if step.error else "dim")
        line.rstrip()
        yield line


def _label(row: _Row, marks: Marks) -> str:
    step = row.step
    text = "  " * (row.depth - 1) + marks.branch if row.depth else ""
    if row.depth:
        text += f"{step.number} "
    text += step.name
    if step.kind not in (step.name, "mutation", "query", "action"):
        text += f" ({step.kind})"
    if step.attempts > 1:
        text += f" {marks.times}{step.attempts}"
    return text


def _bar(step: StepInfo, scale: Scale, now: datetime, marks: Marks) -> str:
    end = step.ended_at or now
    cells = [" "] * scale.columns
    # An event may have come before it was asked for.
    first, last = scale.column(step.asked_at), scale.column(max(end, step.asked_at))
    started = first
    if step.started_at is not None:
        started = max(first, scale.column(step.started_at))
    waits = marks.sleeps if step.kind in ("sleep", "event") else marks.waits
    runs = marks.sleeps if step.kind in ("sleep", "event") else marks.runs
    if step.kind == "action" and step.started_at is None:
        runs = marks.waits
    for column in range(first, last + 1):
        cells[column] = waits if column < started else runs
    if step.status != "success":
        cells[last] = {
            "in_progress": marks.open,
            "failed": marks.failed,
            "canceled": marks.canceled,
        }[step.status]
    return "".join(cells)


def _note(step: StepInfo, marks: Marks) -> str:
    child = "" if step.child_id is None else f"{marks.arrow}{step.child_id} "
    if step.error is not None:
        return child + error_text(step.error)
    if step.status == "success":
        return (child + ("" if step.value is None else shorten(step.value))).strip()
    if step.status == "canceled":
        return f"{child}canceled"
    return child + _waiting(step)


def _waiting(step: StepInfo) -> str:
    until = when(step.due_at)
    if step.kind == "sleep":
        return f"until {until}"
    if step.kind == "event":
        return "waits for the event" + (f" until {until}" if until else "")
    if step.kind == "workflow":
        return f"from {until}" if until else "runs"
    if step.due_at is not None:
        return f"attempt {step.attempts + 1} at {until}" if step.attempts else f"from {until}"
    if step.attempts:
        return f"attempt {step.attempts} runs"
    return "queued"


def child_ids(journals: Iterable[WorkflowJournal]) -> list[str]:
    """The ids of the workflows that these have as children."""
    return [step.child_id for each in journals for step in each.steps if step.child_id is not None]
