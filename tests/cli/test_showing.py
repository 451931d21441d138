"""Values as cells and as JSON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from perdure import ErrorInfo, InProgress, Succeeded, WorkflowInfo
from perdure.cli.showing import (
    UNCLAIMED_SECONDS,
    VALUE_COLUMNS_MAX,
    as_plain,
    is_unclaimed,
    shorten,
    workflow_row,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def info(status: object, due_at: datetime | None) -> WorkflowInfo:
    return WorkflowInfo(
        workflow_id="w",
        name="order",
        status=status,  # type: ignore[arg-type]
        arguments={},
        created_at=NOON,
        due_at=due_at,
    )


@pytest.mark.parametrize(
    ("status", "seconds", "is_one"),
    [
        (InProgress(), UNCLAIMED_SECONDS + 1, True),
        (InProgress(), UNCLAIMED_SECONDS - 1, False),
        (InProgress(), -60, False),
        (InProgress(blocked=ErrorInfo("E", "m")), 60, False),
        (Succeeded(1), 60, False),
    ],
)
def test_unclaimed_is_what_has_been_due_for_a_while(
    status: object, seconds: float, is_one: bool
) -> None:
    """Not what sleeps, is blocked, has ended, or waits for a busy worker."""
    one = info(status, NOON - timedelta(seconds=seconds))
    assert is_unclaimed(one, NOON) is is_one
    assert ("unclaimed" in workflow_row(one, NOON)) is is_one


def test_what_somebody_owns_is_not_unclaimed() -> None:
    """It has no time at which it wants a worker."""
    assert not is_unclaimed(info(InProgress(), None), NOON)


def test_long_values_are_cut_and_lines_are_joined() -> None:
    """A cell is one line of a bounded width."""
    assert shorten("a\nb") == "a b"
    assert shorten({"a": [1]}) == '{"a": [1]}'
    assert shorten("x" * 100) == "x" * (VALUE_COLUMNS_MAX - 1) + "…"


def test_records_become_json() -> None:
    """Instants as ISO text, records as objects, at any depth."""
    assert as_plain({"at": NOON, "status": (Succeeded([NOON]),)}) == {
        "at": "2026-01-01T12:00:00+00:00",
        "status": [{"value": ["2026-01-01T12:00:00+00:00"], "kind": "success"}],
    }
