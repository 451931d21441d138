"""Commands: when a replay takes one for the recorded one, and how reports show them."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from perdure.core.commands import AwaitEvent, RunChild, RunStep, Sleep, describe, is_alike, is_same
from perdure.core.retry import RetryPlan

STEP = RunStep(kind="action", name="f", function="f", arguments='{"a":1}')
CHILD = RunChild(name="c", function="c", arguments="{}")
SLEEP = Sleep(name="nap", due_at=5)
EVENT = AwaitEvent(name="e", event_name="e")
ALL = (STEP, CHILD, SLEEP, EVENT)


@pytest.mark.parametrize("command", ALL)
def test_a_command_is_the_same_as_itself_and_no_other_kind(command: Any) -> None:
    """Of the four kinds each matches itself only."""
    assert [is_same(command, other) for other in ALL] == [command is other for other in ALL]


@pytest.mark.parametrize(
    ("recorded", "changes"),
    [
        (STEP, {"name": "g"}),
        (STEP, {"kind": "mutation"}),
        (STEP, {"function": "g"}),
        (STEP, {"arguments": '{"a":2}'}),
        (CHILD, {"name": "d"}),
        (CHILD, {"function": "d"}),
        (CHILD, {"arguments": "[]"}),
        (SLEEP, {"name": "rest"}),
        (EVENT, {"name": "x"}),
        (EVENT, {"event_name": "x"}),
        (EVENT, {"event_name": None, "event_id": "e1"}),
    ],
)
def test_what_makes_it_another_command(recorded: Any, changes: dict[str, Any]) -> None:
    """Name, kind, function, arguments and the awaited event must agree."""
    assert not is_same(replace(recorded, **changes), recorded)


@pytest.mark.parametrize(
    ("recorded", "changes"),
    [
        (STEP, {"due_at": 9}),
        (STEP, {"retry": RetryPlan(max_attempts=9)}),
        (STEP, {"timeout_ms": 9}),
        (STEP, {"inline": True}),
        (STEP, {"unstable": True, "arguments": "null"}),
        (CHILD, {"due_at": 9}),
        (CHILD, {"unstable": True, "arguments": "null"}),
        (SLEEP, {"due_at": 9}),
        (EVENT, {"due_at": 9}),
    ],
)
def test_what_may_change_under_a_running_workflow(recorded: Any, changes: dict[str, Any]) -> None:
    """Schedules, durations, retries, time-outs; arguments only where they are unstable."""
    assert is_same(replace(recorded, **changes), recorded)


@pytest.mark.parametrize(
    ("asked", "recorded", "alike"),
    [
        ('{"a":1.0,"b":[2.0]}', '{"a":1,"b":[2]}', True),
        ('{"a":1,"b":2}', '{"b":2,"a":1}', True),
        ('{"a":1.2089258196146292e24}', '{"a":1208925819614629174706177}', True),
        ('{"a":1.5}', '{"a":1}', False),
        ('{"a":1}', '{"a":true}', False),
        ('{"a":0}', '{"a":null}', False),
        ('{"a":"1"}', '{"a":1}', False),
        ('{"a":[1]}', '{"a":[1,1]}', False),
        ('{"a":1}', '{"a":1,"b":1}', False),
        ('{"a":1.0}', '{"a":1%s}' % ("0" * 400), False),
        ('{"a":1.0}', '{"a":1%s}' % ("0" * 5000), False),
    ],
)
def test_arguments_of_older_code_differ_in_the_form_of_numbers(
    asked: str, recorded: str, alike: bool
) -> None:
    """Once a whole number for a float was stored as it was given; those journals replay too."""
    for command in (STEP, CHILD):
        one, other = (replace(command, arguments=text) for text in (asked, recorded))
        assert is_alike(one, other) is is_alike(other, one) is alike
        assert not is_alike(replace(one, name="other"), other)
    assert not is_alike(SLEEP, SLEEP)


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (STEP, 'action f {"a":1}'),
        (replace(STEP, name="label"), 'action label (of f) {"a":1}'),
        (CHILD, "workflow c {}"),
        (SLEEP, "sleep nap"),
        (EVENT, "event e"),
        (AwaitEvent(name="x", event_id="e7"), "event e7"),
    ],
)
def test_a_command_is_shown_in_one_line(command: Any, line: str) -> None:
    """Kind, name, and what tells it from others of that name."""
    assert describe(command) == line


def test_long_arguments_are_cut() -> None:
    """A report stays readable whatever the arguments are."""
    text = describe(replace(STEP, arguments="x" * 201))
    assert text == f"action f {'x' * 200}…"
    assert describe(replace(STEP, arguments="x" * 200)) == f"action f {'x' * 200}"
