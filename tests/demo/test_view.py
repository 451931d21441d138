"""What the demo shows: signs for steps, plain lines without cursor control, or a table."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from perdure import StepInfo
from perdure.demo.view import LiveView, PlainView, Seen, SilentView, cell_of, make_view

COLUMNS = ("welcome", "look up")


def _step(**changes: Any) -> StepInfo:
    fields = {
        "workflow_id": "w",
        "number": 0,
        "name": "welcome",
        "kind": "action",
        "status": "in_progress",
        "arguments": None,
        "value": None,
        "error": None,
        "attempts": 0,
        "asked_at": datetime(2030, 1, 1, tzinfo=UTC),
        "started_at": None,
        "ended_at": None,
        "child_id": None,
        "event_id": None,
    }
    return StepInfo(**{**fields, **changes})


def _seen(step: StepInfo) -> list[Seen]:
    return [Seen(user="Ada", status="in_progress", steps={step.name: step})]


@pytest.mark.parametrize(
    ("step", "cell"),
    [
        (None, ""),
        (_step(), "…"),
        (_step(attempts=1), "▶"),
        (_step(attempts=3), "▶ ×3"),
        (_step(status="success", attempts=1), "✓"),
        (_step(status="success", attempts=2), "✓ ×2"),
        (_step(status="failed", attempts=1), "✗"),
        (_step(status="canceled"), "✗"),
    ],
)
def test_a_step_has_a_sign_for_its_state(step: StepInfo | None, cell: str) -> None:
    """Asked, running, done and failed look different, and repeated attempts are counted."""
    assert cell_of(step) == cell


def test_plain_lines_tell_each_change_once() -> None:
    """Without a terminal there is one line, with the time, for each change only."""
    lines: list[str] = []
    with PlainView(lines.append, lambda: 1.25) as view:
        view.say("started")
        view.show(_seen(_step(attempts=1)))
        view.show(_seen(_step(attempts=1)))
        view.show(_seen(_step(attempts=1, status="success")))
    assert [line.split() for line in lines] == [
        ["1.2", "s", "started"],
        ["1.2", "s", "Ada", "welcome", "▶"],
        ["1.2", "s", "Ada", "welcome", "✓"],
    ]


def test_a_file_gets_no_cursor_control() -> None:
    """Into a file or a pipe goes the plain view."""
    console = Console(file=io.StringIO())
    assert isinstance(make_view(console, COLUMNS, lambda: 0.0), PlainView)


def test_a_simple_terminal_gets_no_cursor_control() -> None:
    """A terminal that cannot move its cursor gets the plain view too."""
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert isinstance(make_view(console, COLUMNS, lambda: 0.0), PlainView)


def test_a_terminal_gets_a_table() -> None:
    """On a terminal the table shows users, steps and what the director said."""
    out = io.StringIO()
    environment = {"TERM": "xterm-256color"}
    console = Console(file=out, force_terminal=True, width=80, _environ=environment)
    view = make_view(console, COLUMNS, lambda: 0.5)
    assert isinstance(view, LiveView)
    with view:
        view.say("SIGKILL worker 1")
        view.show(_seen(_step(status="success", attempts=2)))
    for shown in ("Ada", "look up", "✓ ×2", "in progress", "SIGKILL worker 1"):
        assert shown in out.getvalue()


def test_the_silent_view_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A program that wants JSON gets nothing else."""
    with SilentView() as view:
        view.say("started")
        view.show(_seen(_step()))
    assert capsys.readouterr().out == ""
