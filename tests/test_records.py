"""Records: plain frozen values with the fields that are promised, and pages to go through."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from perdure import Canceled, ErrorInfo, Failed, InProgress, Page, StepInfo, Succeeded, WorkflowInfo
from perdure.records import Settings

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
STEP = StepInfo(
    workflow_id="a", number=0, name="n", kind="sleep", status="in_progress", asked_at=NOON
)
WORKFLOW = WorkflowInfo(
    workflow_id="a", name="w", status=InProgress(), arguments={"n": 1}, created_at=NOON
)

#: The documented fields, in their order.
FIELDS: dict[type[Any], str] = {
    WorkflowInfo: "workflow_id name status arguments context parent_id created_at ended_at"
    " journal_bytes on_complete_error due_at",
    StepInfo: "workflow_id number name kind status arguments value error attempts asked_at"
    " started_at ended_at child_id event_id due_at",
    Page: "items cursor is_done",
    InProgress: "running blocked kind",
    Settings: "max_parallelism",
}


@pytest.mark.parametrize("cls", FIELDS)
def test_a_record_has_the_promised_fields(cls: type[Any]) -> None:
    """Users read these names: none is lost, and none comes in by accident."""
    assert [field.name for field in attrs.fields(cls)] == FIELDS[cls].split()


@pytest.mark.parametrize(
    "record", [STEP, WORKFLOW, Page(items=[STEP]), InProgress(), Settings(max_parallelism=1)]
)
def test_records_cannot_be_changed(record: Any) -> None:
    """A record is what was read at one moment; writing to it would change nothing, so it fails."""
    name = attrs.fields(type(record))[0].name
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(record, name, None)
    assert record == attrs.evolve(record)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (InProgress(), "in_progress"),
        (Succeeded(1), "success"),
        (Failed(ErrorInfo("E", "m")), "failed"),
        (Canceled(), "canceled"),
    ],
)
def test_a_status_tells_its_kind(status: Any, kind: str) -> None:
    """`kind` is fixed by the class: it can be compared, and not be given."""
    assert status.kind == kind
    assert "kind" not in inspect.signature(type(status)).parameters
    assert "kind" not in repr(status)


def test_a_status_can_be_matched() -> None:
    """`match` takes a status apart by position, as the documentation shows it."""
    error = ErrorInfo("E", "m")
    found: list[Any] = []
    for status in (InProgress((STEP,)), Succeeded(7), Failed(error), Canceled()):
        match status:
            case InProgress(running):
                found.append(running)
            case Succeeded(value):
                found.append(value)
            case Failed(problem):
                found.append(problem)
            case Canceled():
                found.append(None)
    assert found == [(STEP,), 7, error, None]


def test_a_page_is_a_sequence_of_its_items() -> None:
    """A page can be counted and iterated, again and again; an empty one is false and done."""
    page = Page(items=[1, 2], cursor="2", is_done=False)
    assert (list(page), list(page), len(page)) == ([1, 2], [1, 2], 2)
    empty: Page[int] = Page(items=[])
    assert (list(empty), empty.cursor, empty.is_done, bool(empty)) == ([], None, True, False)
