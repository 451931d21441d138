"""The timeline as text: drawn from a recorded journal, with the time at which it is looked at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure import WorkflowJournal, load_journals
from perdure.cli.timeline import ASCII, LETTERS, Marks, draw, marks_for, spell_duration

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> str:
    return (NOON + timedelta(seconds=seconds)).isoformat()


def step(number: int, name: str, asked: float, ended: float | None, **more: Any) -> dict[str, Any]:
    """A line of a journal: an action that succeeded with 1, unless `more` says otherwise."""
    fields: dict[str, Any] = {
        "record": "step",
        "number": number,
        "kind": "action",
        "name": name,
        "function": name,
        "arguments": {},
        "options": {},
        "asked_position": 0,
        "asked_at": at(asked),
        "asked_epoch": 1,
        "state": "started" if ended is None else "settled",
        "attempt": 1,
        "started_at": at(asked),
        **more,
    }
    if ended is not None:
        fields = {"outcome": "success", "settled_at": at(ended), "value": 1, **fields}
        if fields["outcome"] != "success":
            del fields["value"]
    return {key: value for key, value in fields.items() if value is not None}


def journal(*steps: dict[str, Any], name: str = "one", **more: Any) -> WorkflowJournal:
    """An order with these steps, created at noon."""
    head = {
        "record": "workflow",
        "format": 1,
        "steps": len(steps),
        "ticks": 0,
        "events": 0,
        "id": name,
        "name": "order",
        "arguments": {"user": "ann"},
        "rules": 1,
        "created_at": at(0),
        "start_at": at(0),
        "status": "in_progress",
        "epoch": 1,
        "position": 0,
        "stamp": at(0),
        "started_at": at(0),
        "next_number": len(steps),
        **more,
    }
    lines = [json.dumps(head), *(json.dumps({**each, "workflow_id": name}) for each in steps)]
    (made,) = load_journals(lines)
    return made


def lines_of(
    drawn: WorkflowJournal,
    seconds: float,
    width: int = 80,
    marks: Marks = LETTERS,
    children: Sequence[WorkflowJournal] = (),
) -> list[str]:
    """What is drawn, without colors, so many seconds after noon."""
    now = NOON + timedelta(seconds=seconds)
    found = {each.workflow_id: each for each in children}
    return [text.plain for text in draw(drawn, now, width, marks=marks, children=found)]


EVENT = {"kind": "event", "function": None, "arguments": None, "state": "asked", "attempt": 0}
SLEEP = {**EVENT, "kind": "sleep", "started_at": None}
WAITING = journal(
    step(0, "note", 0, 0, kind="mutation"),
    step(1, "charge", 0, 5, attempt=3, started_at=at(4), value="receipt"),
    step(2, "notify", 5, 7.5, outcome="failed", error={"type": "OSError", "message": "[x] no"}),
    step(3, "sleep", 5, None, **SLEEP, due_at=at(3600)),
    step(4, "decision", 7.5, None, **EVENT, options={"event_name": "decision"}),
    step(5, "late", 7.5, 8, state="settled", outcome="canceled", started_at=None, attempt=0),
)


def test_a_running_workflow_is_drawn_up_to_now() -> None:
    """Waits are thin, work is thick, an arrow is open, a cross has failed, a ring was canceled."""
    assert lines_of(WAITING, 10, 84) == [
        'one: in progress  order {"user": "ann"}',
        "created 2026-01-01 12:00:00 UTC, for 10.0 s",
        "",
        "# step             0                     10.0 s      took",
        "0 note             ━                                 0 ms  1",
        "1 charge ×3        ╌╌╌╌╌╌╌╌╌╌╌━━━━                  5.0 s  receipt",
        "2 notify                         ━━━━━━━✗           2.5 s  OSError: [x] no",
        "3 sleep                          ┄┄┄┄┄┄┄┄┄┄┄┄┄▶            until 2026-01-01 13:00:00",
        "4 decision (event)                      ┄┄┄┄┄┄▶            waits for the event",
        "5 late                                  ╌○         500 ms  canceled",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_it_is_as_wide_as_the_terminal_at_most(width: int) -> None:
    """The bars take what the texts leave; below some width they are cut no further."""
    widest = max(map(len, lines_of(WAITING, 10, width)[2:]))
    assert widest <= max(width, 45)
    assert widest > width * 0.6


def test_it_can_be_drawn_in_plain_letters() -> None:
    """For a terminal or a file that knows ASCII only, with the same meaning."""
    lines = lines_of(WAITING, 10, 100, ASCII)
    assert all(line.isascii() for line in lines)
    assert lines[5].split("  ")[0] == "1 charge x3"
    assert "-----------------=====" in lines[5]
    assert "===========x" in lines[6]
    assert "...>" in lines[7]
    assert (marks_for("utf-8"), marks_for("ascii"), marks_for(None)) == (LETTERS, ASCII, ASCII)


def test_children_are_named_and_drawn_below() -> None:
    """Their steps share the scale of the whole."""
    child_step = {"kind": "workflow", "started_at": None, "attempt": 0, "child_id": "two"}
    parent = journal(step(0, "ship", 2, 10, **child_step))
    child = journal(step(0, "pack", 4, 6), name="two", parent_id="one", parent_number=0)
    alone = lines_of(parent, 10)
    assert alone[4].endswith("→ two 1")
    both = lines_of(parent, 10, children=[child])
    assert len(both) == len(alone) + 1
    assert both[5].startswith("  └ 0 pack")
    first, last = both[4].index("━"), both[4].rindex("━")
    assert first < both[5].index("━") < both[5].rindex("━") < last
    assert ", child of one" in lines_of(child, 10)[1]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"state": "ready", "started_at": None, "attempt": 0}, "queued"),
        ({"attempt": 2}, "attempt 2 runs"),
        ({"state": "backoff", "due_at": at(60), "attempt": 2}, "attempt 3 at 2026-01-01 12:01:00"),
        (
            {"state": "asked", "due_at": at(60), "attempt": 0, "started_at": None},
            "from 2026-01-01 12:01:00",
        ),
        (
            {**EVENT, "options": {"event_name": "x"}, "due_at": at(60)},
            "event until 2026-01-01 12:01",
        ),
        ({"kind": "workflow", "state": "asked", "started_at": None, "child_id": "c"}, "→ c runs"),
    ],
)
def test_an_open_step_tells_what_it_waits_for(more: dict[str, Any], told: str) -> None:
    """A queue, an attempt, a backoff, a start, an event, a child."""
    assert told in lines_of(journal(step(0, "act", 0, None, **more)), 10, 140)[4]


def test_an_event_that_came_before_it_was_awaited_is_drawn() -> None:
    """Its end is before its beginning: it is drawn where it was asked for."""
    early = journal(
        step(0, "act", 0, 8), step(1, "decision", 8, 2, **{**EVENT, "state": "settled"})
    )
    line = lines_of(early, 10)[5]
    assert line.count("┄") == 1
    assert " 0 ms" in line


def test_why_it_failed_or_is_blocked_is_told_in_full() -> None:
    """Line by line below the bars."""
    error = {"type": "DeterminismError", "message": "does not fit\n  recorded: a\n  asked for: b"}
    blocked = journal(blocked={"error": error, "count": 1, "retry_at": 1})
    assert lines_of(blocked, 10) == [
        'one: blocked  order {"user": "ann"}',
        "created 2026-01-01 12:00:00 UTC, for 10.0 s",
        "",
        "blocked: DeterminismError: does not fit",
        "  recorded: a",
        "  asked for: b",
    ]
    failed = journal(status="failed", error=error, ended_at=at(3), on_complete_error=error)
    lines = lines_of(failed, 10)
    assert lines[1].endswith("took 3.0 s")
    assert lines[3] == "failed: DeterminismError: does not fit"
    assert lines[-1].startswith("on_complete failed: DeterminismError")
    succeeded = journal(status="success", value=[1], ended_at=at(3))
    assert lines_of(succeeded, 10)[-1] == "value: [1]"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 ms"),
        (0.0124, "12 ms"),
        (1.25, "1.2 s"),
        (200, "3 m 20 s"),
        (120, "2 m"),
        (7260, "2 h 1 m"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations_are_told_in_two_units_at_most(seconds: float, text: str) -> None:
    """Short ones exactly, long ones roughly."""
    assert spell_duration(timedelta(seconds=seconds)) == text
