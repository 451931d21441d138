"""Bad input through the public door: the right error, a message that helps, and nothing written.

A message says what was given, where, and what to do instead. Rows are counted before and after.
"""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.bad_input import NAIVE, App, User, foreign, make_app, number_event, rows, run

from perdure import (
    ActionContext,
    DefinitionError,
    EventNotFound,
    LimitExceeded,
    Limits,
    RetryPolicy,
    ValidationError,
    WorkflowIdConflict,
    WorkflowManager,
    WorkflowNotFound,
    WorkflowNotRunning,
)


@pytest.fixture
def app(tmp_path: Path) -> App:
    return make_app(tmp_path / "app.db", {})


Case = tuple[Callable[[App], Awaitable[Any]], type[Exception], str]

OK = User("ann")
LATER = datetime(2100, 1, 1, tzinfo=UTC)
WRONG: Any = OSError()
CALLS: dict[str, Case] = {
    # --- calls
    "wrong type": (
        lambda app: app.manager.start(app.greet({"name": "ann", "age": "5"})),
        ValidationError,
        r"arguments of greet.*user",
    ),
    "not even an object": (
        lambda app: app.manager.start(app.greet(5)),
        ValidationError,
        r"arguments of greet.*user",
    ),
    "a text for a number": (
        lambda app: app.manager.start(app.greet(OK, times="5")),
        ValidationError,
        r"arguments of greet.*int.*times",
    ),
    "missing argument": (
        lambda app: app.manager.start(app.greet()),
        ValidationError,
        r"arguments of greet.*user",
    ),
    "unknown argument": (
        lambda app: app.manager.start(app.greet(OK, often=2)),
        ValidationError,
        r"arguments of greet.*often",
    ),
    "too many arguments": (
        lambda app: app.manager.start(app.greet(OK, 1, 2)),
        ValidationError,
        r"arguments of greet",
    ),
    "arguments over the limit": (
        lambda app: app.manager.start(app.greet(User("x" * 2000))),
        LimitExceeded,
        r"arguments of greet.*2,?0\d\d.*1,?000",
    ),
    "not a call": (
        lambda app: app.manager.start("greet"),  # type: ignore[arg-type]
        TypeError,
        r"start: give a call of a workflow, not 'greet'",
    ),
    "not called": (
        lambda app: app.manager.start(app.greet),
        TypeError,
        r"start\(greet\): call it: start\(greet\(…\)\)",
    ),
    "start of a mutation": (
        lambda app: app.manager.start(app.note("x")),
        TypeError,
        r"note is a mutation: use run_mutation",
    ),
    "start of an action": (
        lambda app: app.manager.start(app.produce("x")),
        TypeError,
        r"start: produce is an action, and start takes a call of a workflow",
    ),
    "run_query of a workflow": (
        lambda app: app.manager.run_query(app.wait()),
        TypeError,
        r"manager\.run_query: wait is a workflow: use start",
    ),
    "run_query of a mutation": (
        lambda app: app.manager.run_query(app.note("x")),
        TypeError,
        r"manager\.run_query: note is a mutation: use run_mutation",
    ),
    "run_mutation of a query": (
        lambda app: app.manager.run_mutation(app.peek("x")),
        TypeError,
        r"manager\.run_mutation: peek is a query: use run_query",
    ),
    "run_mutation with bad arguments": (
        lambda app: app.manager.run_mutation(app.note(5)),
        ValidationError,
        r"arguments of note.*text",
    ),
    "another manager's workflow": (
        lambda app: app.manager.start(foreign()),
        DefinitionError,
        r"<workflow foreign .*> is not registered with this manager: decorate it",
    ),
    # --- options of start
    "run_after and run_at": (
        lambda app: app.manager.start(app.wait(), run_after=1, run_at=LATER),
        ValueError,
        r"give run_after or run_at, not both",
    ),
    "a naive run_at": (
        lambda app: app.manager.start(app.wait(), run_at=NAIVE),
        ValueError,
        r"run_at=datetime.*: give a datetime with a time zone, such as UTC",
    ),
    "run_at that is a text": (
        lambda app: app.manager.start(app.wait(), run_at="tomorrow"),  # type: ignore[arg-type]
        TypeError,
        r"run_at='tomorrow': give a datetime",
    ),
    "a negative run_after": (
        lambda app: app.manager.start(app.wait(), run_after=timedelta(seconds=-1)),
        ValueError,
        r"run_after=.*: a duration cannot be negative",
    ),
    "run_after nan": (
        lambda app: app.manager.start(app.wait(), run_after=math.nan),
        ValueError,
        r"run_after=nan: a duration must be finite",
    ),
    "run_after inf": (
        lambda app: app.manager.start(app.wait(), run_after=math.inf),
        ValueError,
        r"run_after=inf: a duration must be finite",
    ),
    "run_after a text": (
        lambda app: app.manager.start(app.wait(), run_after="5s"),  # type: ignore[arg-type]
        TypeError,
        r"run_after='5s': give a timedelta or a number of seconds",
    ),
    "run_after a million years": (
        lambda app: app.manager.start(app.wait(), run_after=3.2e13),
        ValueError,
        r"run_after=.*: longer than the limit of 100 years",
    ),
    "an empty id": (
        lambda app: app.manager.start(app.wait(), id=""),
        ValueError,
        r"id='': give at least one character",
    ),
    "an id that does not print": (
        lambda app: app.manager.start(app.wait(), id="a\nb"),
        ValueError,
        r"id='a\\nb': .*printable",
    ),
    "an id of 201 characters": (
        lambda app: app.manager.start(app.wait(), id="x" * 201),
        LimitExceeded,
        r"id='xxx.*: 201 characters, over the limit of 200: choose a shorter one",
    ),
    "an id that is a number": (
        lambda app: app.manager.start(app.wait(), id=5),  # type: ignore[arg-type]
        TypeError,
        r"id=5: give a str",
    ),
    "an on_complete that is called": (
        lambda app: app.manager.start(app.wait(), on_complete=app.note("x")),
        TypeError,
        r"on_complete=.*: give a mutation, not called",
    ),
    "an on_complete that is a query": (
        lambda app: app.manager.start(app.wait(), on_complete=app.peek),
        TypeError,
        r"on_complete=<query peek .*: give a mutation",
    ),
    "an on_complete with other parameters": (
        lambda app: app.manager.start(app.wait(), on_complete=app.note),
        DefinitionError,
        r"on_complete=<mutation note .*\(ctx, text\).*takes \(ctx, workflow_id",
    ),
    "a context over the limit": (
        lambda app: app.manager.start(app.wait(), context="x" * 2000),
        LimitExceeded,
        r"context.*1,?000",
    ),
    "a context that is no JSON": (
        lambda app: app.manager.start(app.wait(), context=object()),
        ValidationError,
        r"context.*object",
    ),
    # --- ids of others
    "the same id with another call": (
        lambda app: app.manager.start(app.wait(2), id="known"),
        WorkflowIdConflict,
        r"start\(id='known'\).*another call: choose another id",
    ),
    "status of an unknown id": (
        lambda app: app.manager.status("unknown"),
        WorkflowNotFound,
        r"no workflow has the id 'unknown'",
    ),
    "result of an unknown id": (
        lambda app: app.manager.result("unknown"),
        WorkflowNotFound,
        r"no workflow has the id 'unknown'",
    ),
    "cancel of an unknown id": (
        lambda app: app.manager.cancel("unknown"),
        WorkflowNotFound,
        r"no workflow has the id 'unknown'",
    ),
    "cancel of what has ended": (
        lambda app: app.manager.cancel("ended"),
        WorkflowNotRunning,
        r"workflow 'ended' is not running: it ended \(canceled\)",
    ),
    "status of something else": (
        lambda app: app.manager.status(5),  # type: ignore[arg-type]
        TypeError,
        r"workflow_id=5: give the id that start\(\) returned",
    ),
    "result with a negative timeout": (
        lambda app: app.manager.result("known", timeout=-1),
        ValueError,
        r"timeout=-1: a duration cannot be negative",
    ),
    "half a surrogate as an id": (
        lambda app: app.manager.start(app.wait(), id="\ud800"),
        ValueError,
        r"id='\\ud800': .*printable",
    ),
    "status of half a surrogate": (
        lambda app: app.manager.status("\ud800"),
        ValueError,
        r"workflow_id='\\ud800': half a surrogate pair is no text",
    ),
    # --- events
    "an event for half a surrogate": (
        lambda app: app.manager.send_event("e", workflow_id="\ud800"),
        ValueError,
        r"workflow_id='\\ud800': half",
    ),
    "an error that is half a surrogate": (
        lambda app: app.manager.send_event("e", workflow_id="known", error="\ud800"),
        ValueError,
        r"error='\\ud800': half",
    ),
    "an event for nobody": (
        lambda app: app.manager.send_event(number_event, value=1),
        ValueError,
        r"send_event: give an event .* and workflow_id=, or id=",
    ),
    "an event for an unknown workflow": (
        lambda app: app.manager.send_event(number_event, workflow_id="unknown", value=1),
        WorkflowNotFound,
        r"no workflow has the id 'unknown'",
    ),
    "an unknown event id": (
        lambda app: app.manager.send_event(id="unknown"),
        EventNotFound,
        r"no event has the id 'unknown': see create_event",
    ),
    "a payload of the wrong type": (
        lambda app: app.manager.send_event(  # type: ignore[misc]
            number_event, workflow_id="known", value="1"
        ),
        ValidationError,
        r"payload of event number.*int",
    ),
    "a payload over the limit": (
        lambda app: app.manager.send_event("e", workflow_id="known", value="x" * 2000),
        LimitExceeded,
        r"payload of event e.*1,?000",
    ),
    "a payload of nan": (
        lambda app: app.manager.send_event("e", workflow_id="known", value=[math.nan]),
        ValidationError,
        r"payload of event e.*nan",
    ),
    "a value and an error": (
        lambda app: app.manager.send_event("e", workflow_id="known", value=1, error="no"),
        ValueError,
        r"send_event: give value or error, not both",
    ),
    "an error that is an exception": (
        lambda app: app.manager.send_event("e", workflow_id="known", error=WRONG),
        TypeError,
        r"error=OSError\(\): give a text",
    ),
    "an event without a name": (
        lambda app: app.manager.send_event("", workflow_id="known"),
        ValueError,
        r"event='': give at least one character",
    ),
    # --- listings and settings
    "an unknown status": (
        lambda app: app.manager.list_workflows(status="running"),  # type: ignore[arg-type]
        ValueError,
        r"status='running': give 'in_progress', 'success'",
    ),
    "a name that is a number": (
        lambda app: app.manager.list_workflows(name=5),  # type: ignore[arg-type]
        TypeError,
        r"name=5: give the name of a workflow definition, a str",
    ),
    "half a surrogate as a name": (
        lambda app: app.manager.list_workflows(name="\ud800"),
        ValueError,
        r"name='\\ud800': half a surrogate",
    ),
    "an unknown order": (
        lambda app: app.manager.list_workflows(order="up"),  # type: ignore[arg-type]
        ValueError,
        r"order='up': give 'asc' or 'desc'",
    ),
    "a limit of 0": (
        lambda app: app.manager.list_workflows(limit=0),
        ValueError,
        r"limit=0: give a number from 1 to 1,000",
    ),
    "a limit over the limit": (
        lambda app: app.manager.list_steps("known", limit=1001),
        ValueError,
        r"limit=1001: give a number from 1 to 1,000",
    ),
    "a limit that is True": (
        lambda app: app.manager.list_steps("known", limit=True),
        ValueError,
        r"limit=True: give a number",
    ),
    "a made-up cursor": (
        lambda app: app.manager.list_workflows(cursor="next"),
        ValueError,
        r"cursor='next': give the cursor of a page",
    ),
    "a negative cursor": (
        lambda app: app.manager.list_steps("known", cursor="-1"),
        ValueError,
        r"cursor='-1': give the cursor of a page",
    ),
    "parallelism below 0": (
        lambda app: app.manager.update_config(max_parallelism=-1),
        ValueError,
        r"max_parallelism=-1: give a number from 0 to 100,000",
    ),
    "parallelism over the limit": (
        lambda app: app.manager.update_config(max_parallelism=100_001),
        ValueError,
        r"max_parallelism=100001: give a number from 0 to 100,000",
    ),
    "parallelism that is True": (
        lambda app: app.manager.update_config(max_parallelism=True),
        ValueError,
        r"max_parallelism=True: give a number",
    ),
}


@pytest.mark.parametrize("label", CALLS)
def test_a_bad_call_is_refused(label: str, app: App) -> None:
    """The class of the error is the documented one, its text helps, and no row was written."""
    call, cls, match = CALLS[label]

    async def test() -> None:
        await app.manager.start(app.wait(1), id="known")
        await app.manager.start(app.wait(1), id="ended")
        await app.manager.cancel("ended")
        before = rows(app.path)
        with pytest.raises(cls, match=match) as caught:
            await call(app)
        assert type(caught.value) is cls
        assert rows(app.path) == before
        assert (await app.manager.config()).max_parallelism == 100

    run(app, test)


# --- definitions and settings ---------------------------------------------------------------------


def test_a_name_is_given_once(app: App) -> None:
    """A second definition of one name is an error that names both places, of whatever kind."""
    with pytest.raises(DefinitionError, match=r"action note at .*test_bad_input\.py:\d+.*mutation"):

        @app.manager.action(name="note")
        async def other(ctx: ActionContext) -> None: ...

    assert app.manager.registry.get("note") is app.note


#: Without its types, which would not let these calls pass.
make_manager: Any = WorkflowManager


@pytest.mark.parametrize(
    ("make", "cls", "match"),
    [
        (lambda: make_manager(""), ValueError, "store='': give a path"),
        (lambda: make_manager(5), TypeError, "store=5: give the path"),
        (lambda: make_manager("mysql://x"), ValueError, "store='mysql://x': give a path"),
        (lambda: make_manager("a\0b"), ValueError, r"store='a\\x00b': give a path"),
        (lambda: make_manager("sqlite:///"), ValueError, "store='sqlite:///': give a path"),
        (
            lambda: make_manager("a.db").run(until_idle=1),
            TypeError,
            "until_idle=1: give True or False",
        ),
        (
            lambda: make_manager("a.db", retry_actions_by_default="no"),
            TypeError,
            "retry_actions_by_default='no': give True or False",
        ),
        (lambda: make_manager("a.db", durability="full"), ValueError, "durability='full'"),
        (lambda: make_manager("a.db", max_parallelism=-1), ValueError, "max_parallelism=-1"),
        (lambda: make_manager("a.db", drain_timeout=-1), ValueError, "drain_timeout=-1"),
        (lambda: make_manager("a.db", default_retry=True), TypeError, "default_retry=True"),
        (lambda: make_manager("a.db", limits=5), TypeError, "limits=5: give Limits"),
        (lambda: Limits(value_bytes=0), ValueError, r"Limits\(value_bytes=0\)"),
        (lambda: RetryPolicy(max_attempts=0), ValueError, r"RetryPolicy\(max_attempts=0\)"),
        (lambda: RetryPolicy(base=0.5), ValueError, r"RetryPolicy\(base=0.5\)"),
        (lambda: RetryPolicy(initial_backoff=math.nan), ValueError, "initial_backoff=nan"),
    ],
)
def test_bad_settings_are_refused(
    make: Callable[[], Any], cls: type[Exception], match: str, tmp_path: Path
) -> None:
    """A setting that makes no sense is refused where it is given, before any file is touched."""
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        with pytest.raises(cls, match=match):
            make()
    finally:
        os.chdir(before)
    assert list(tmp_path.iterdir()) == []
