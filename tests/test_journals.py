"""A journal as lines: what is in them, that they come back as they were, and what is refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.recorded import decision, first_release, functions, journal_of, manager_of, record

from perdure import (
    Step,
    ValidationError,
    Workflow,
    WorkflowJournal,
    WorkflowManager,
    load_journals,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def journal(path: Path) -> WorkflowJournal:
    """An order that waits for its decision."""
    record(path, "ann")
    return journal_of(path, "ann")


def test_a_line_is_a_row_with_its_values_as_json(journal: WorkflowJournal) -> None:
    """The workflow first, then its steps, with arguments, values and times to be read."""
    head, *steps = [json.loads(line) for line in journal.lines()]
    assert {key: head[key] for key in ("record", "format", "id", "name", "arguments", "steps")} == {
        "record": "workflow",
        "format": 1,
        "id": "ann",
        "name": "order",
        "arguments": {"user": "ann", "count": 1},
        "steps": 3,
    }
    assert [(step["record"], step["kind"], step["name"]) for step in steps] == [
        ("step", "mutation", "note"),
        ("step", "action", "price"),
        ("step", "event", "decision"),
    ]
    assert steps[1]["arguments"] == {"count": 1}
    assert steps[1]["value"] == 100
    assert steps[1]["outcome"] == "success"
    assert "value" not in steps[2]
    assert steps[0]["asked_at"][:2] == "20"
    assert steps[0]["asked_at"].endswith("+00:00")


def test_lines_come_back_as_the_same_journal(journal: WorkflowJournal) -> None:
    """Also if another tool has put blanks and empty lines in."""
    (loaded,) = load_journals(journal.lines())
    assert loaded == journal
    spaced = [f"{json.dumps(json.loads(line))}\n\n" for line in journal.lines()]
    (again,) = load_journals("".join(spaced).splitlines())
    assert again == journal


def test_a_file_may_hold_many_journals(path: Path) -> None:
    """One after the other, each with its steps."""
    ids = record(path, "ann", "bob")
    journals = [journal_of(path, name) for name in ids]
    lines = [line for journal in journals for line in journal.lines()]
    assert list(load_journals(lines)) == journals
    assert [journal.workflow_id for journal in load_journals(lines)] == ids


def test_timers_events_and_errors_are_kept(path: Path) -> None:
    """All kinds of records: a tick, an event that waits, a failed step, an ended workflow."""

    def define(manager: WorkflowManager) -> None:
        note, _ = functions(manager)

        @manager.action
        def failing(ctx: Any) -> None:
            raise LookupError("no such thing")

        @manager.workflow
        async def order(step: Step, user: str) -> None:
            await asyncio.sleep(0.001)
            await step.run_mutation(note(user))
            await step.run_action(failing())

    manager = manager_of(define, path)
    order = manager.registry.get("order")
    assert isinstance(order, Workflow)

    async def run() -> WorkflowJournal:
        async with manager:
            await manager.start(order("ann"), id="ann")
            await manager.send_event(decision, workflow_id="ann", value="yes")
            async for _ in _until_ended(manager):
                pass
            return await manager.journal("ann")

    journal = asyncio.run(run())
    records = [json.loads(line)["record"] for line in journal.lines()]
    assert records == ["workflow", "step", "step", "tick", "event"]
    (loaded,) = load_journals(journal.lines())
    assert loaded == journal
    assert loaded.info.status.kind == "failed"
    assert loaded.steps[1].error is not None
    assert loaded.steps[1].error.message == "no such thing"


async def _until_ended(manager: WorkflowManager) -> Any:
    while (await manager.status("ann")).kind == "in_progress":
        yield
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda lines: ["{", *lines], r"line 1: not a line of a journal"),
        (lambda lines: ["[]", *lines], r"line 1: not a line of a journal"),
        (lambda lines: lines[1:], r"line 1: a journal begins with the line of its workflow"),
        (lambda lines: lines[:-1], r"line 3: the journal of 'ann' is not whole"),
        (lambda lines: [*lines, '{"record": "tock"}'], r"line 5: .* of the kind 'tock'"),
        (lambda lines: [lines[0].replace('"format":1', '"format":2')], r"line 1: .*format 2"),
        (
            lambda lines: [line.replace('"ann"', '"eve"', 1) for line in lines[:1]] + lines[1:],
            "eve",
        ),
        (lambda lines: [lines[0], *lines[2:], lines[2]], "not numbered from 0"),
        (lambda lines: [lines[0], lines[1].replace("asked_at", "ast_at")], "line 2: "),
        (lambda lines: [lines[0].replace('"name":"order",', ""), *lines[1:]], "line 1: "),
    ],
)
def test_what_is_no_journal_is_told_by_its_line(
    change: Any, match: str, journal: WorkflowJournal
) -> None:
    """A file that was cut, mixed or made by another release is refused, not half replayed."""
    with pytest.raises(ValidationError, match=match):
        list(load_journals(change(list(journal.lines()))))


def test_a_replay_of_the_lines_fits_the_code(journal: WorkflowJournal) -> None:
    """What the lines hold is all that a replay needs."""
    report = manager_of(first_release).check_journals(load_journals(journal.lines()))
    assert report.is_ok
    assert report.checked == {"order": 1}
