"""A script for transitions: what is sent (`>>`), and what must come out of it (`<<`).

::

    assert (
        Playbook(state)
        >> StepAdmitted(number=0, runner="w")
        << row(0, state="started", attempt=1)
        << attempt(0)
    )

Everything that a decision holds has to be named, in order: its writes, its effects, then the steps
that it declares ready. `state.check()` holds after each message. The assertion plays the script;
a mismatch is shown as a transcript. A script that nobody asserted fails the test that wrote it.

Below it are makers of states and commands, short enough for tests. What a handler does is not
here: see liverun.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, get_args

import attrs

from perdure.core.commands import AwaitEvent, FunctionKind, RunChild, RunStep, Sleep
from perdure.core.draft import Decision
from perdure.core.effects import PutStep, RunAttempt
from perdure.core.ids import EventId
from perdure.core.journal import Started, StepRecord
from perdure.core.limits import Limits
from perdure.core.messages import Asked, EventSent, FactDelivered, Message, SentEvent
from perdure.core.outcomes import Outcome, Succeeded
from perdure.core.retry import AT_MOST_ONCE, RetryPlan
from perdure.core.transition import transition
from perdure.core.workflow import WorkflowHeader, WorkflowState

#: When every workflow of these tests is created: a round number that is easy to add to.
NOW = 1_000_000

# --- the script ---------------------------------------------------------------------------------


@attrs.frozen
class At:
    """In a script, in the place of a message: the time is now `now`."""

    now: int


@attrs.frozen
class Like:
    """Expects something without naming all of its fields; `text` is how the transcript shows it."""

    text: str
    accepts: Callable[[object], bool]

    def __repr__(self) -> str:
        return self.text


def row(number: int, *, is_new: bool = False, **fields: object) -> Like:
    """Expects a `PutStep` of step `number` whose record has these fields."""

    def accepts(value: object) -> bool:
        return (
            isinstance(value, PutStep)
            and (value.record.number, value.is_new) == (number, is_new)
            and all(getattr(value.record, name) == field for name, field in fields.items())
        )

    shown = "".join(f", {name}={value!r}" for name, value in fields.items())
    return Like(f"row({number}{', is_new=True' if is_new else ''}{shown})", accepts)


def attempt(number: int, of: int = 1, **fields: object) -> Like:
    """Expects a `RunAttempt` of attempt `of` of step `number` whose record has these fields."""

    def accepts(value: object) -> bool:
        return (
            isinstance(value, RunAttempt)
            and (value.record.number, value.record.attempt) == (number, of)
            and all(getattr(value.record, name) == field for name, field in fields.items())
        )

    shown = "".join(f", {name}={value!r}" for name, value in fields.items())
    return Like(f"attempt({number}, of={of}{shown})", accepts)


@attrs.frozen
class Ready:
    """Expects that the decision declares step `number` ready to start."""

    number: int


_Sent: TypeAlias = Message | At


class Playbook:
    """A script; see the module. `state` and `now` are those after what was asserted so far."""

    def __init__(self, state: WorkflowState, now: int = NOW, limits: Limits = Limits()) -> None:
        self.state = state
        self.now = now
        self.limits = limits
        self._script: list[tuple[_Sent, list[object]]] = []
        self._done: list[str] = []

    def __rshift__(self, message: _Sent) -> Playbook:
        assert isinstance(message, (*get_args(Message), At)), f"not a message: {message!r}"
        self._script.append((message, []))
        return self

    def __lshift__(self, expected: object) -> Playbook:
        assert self._script, "name a message (>>) before what comes of it (<<)"
        self._script[-1][1].append(expected)
        return self

    def __bool__(self) -> bool:
        """Play what was added since the last assertion; raises with a transcript if it differs."""
        script, self._script = self._script, []
        for message, expected in script:
            self._done.append(f"   >> {message!r}")
            got = self._play(message)
            if not _fits(expected, got):
                raise AssertionError("\n" + "\n".join(self._done + _diff(expected, got)))
            self._done += [f"   << {value!r}" for value in expected]
        self._done.append("   -- asserted until here")
        return True

    def __del__(self) -> None:
        if getattr(self, "_script", None):
            script, self._script = self._script, []
            raise AssertionError(f"a playbook was never asserted: it ends with {script[-1][0]!r}")

    def _play(self, message: _Sent) -> list[object]:
        if isinstance(message, At):
            self.now = message.now
            return []
        decision = transition(self.state, message, self.now, self.limits)
        decision.state.check()
        self.state = decision.state
        return outputs(decision)


def outputs(decision: Decision) -> list[object]:
    """What a decision holds beside the state, in the order in which a script names it."""
    ready = [Ready(record.number) for record in decision.ready]
    return [*decision.writes, *decision.effects, *ready]


def _equals(expected: object, value: object) -> bool:
    return expected.accepts(value) if isinstance(expected, Like) else expected == value


def _fits(expected: list[object], got: list[object]) -> bool:
    return len(expected) == len(got) and all(map(_equals, expected, got))


def _diff(expected: list[object], got: list[object]) -> list[str]:
    lines = []
    for i in range(max(len(expected), len(got))):
        if i < len(expected) and i < len(got) and _equals(expected[i], got[i]):
            lines.append(f"   << {expected[i]!r}")
            continue
        if i < len(expected):
            lines.append(f"-  << {expected[i]!r}")
        if i < len(got):
            lines.append(f"+  << {got[i]!r}")
    return lines


# --- commands -----------------------------------------------------------------------------------


def run(
    name: str = "f",
    kind: FunctionKind = "action",
    *,
    arguments: str = "{}",
    attempts: int = 1,
    backoff_ms: int = 100,
    due_at: int | None = None,
    timeout_ms: int | None = None,
) -> RunStep:
    """A function step; with `attempts` over 1 it waits `backoff_ms`, doubling, in between."""
    retry = AT_MOST_ONCE
    if attempts > 1:
        retry = RetryPlan(max_attempts=attempts, initial_ms=backoff_ms, base=2.0)
    return RunStep(
        kind=kind,
        name=name,
        function=name,
        arguments=arguments,
        due_at=due_at,
        retry=retry,
        timeout_ms=timeout_ms,
    )


def child(name: str = "child", child_id: str | None = None) -> RunChild:
    """A child workflow step."""
    return RunChild(name=name, function=name, arguments="{}", child_id=child_id)


def sleep(due_at: int) -> Sleep:
    """A step that sleeps until `due_at`."""
    return Sleep(name="sleep", due_at=due_at)


def await_event(name: str = "e", due_at: int | None = None) -> AwaitEvent:
    """A step that waits for an event by name."""
    return AwaitEvent(name=name, event_name=name, due_at=due_at)


def await_id(event_id: EventId) -> AwaitEvent:
    """A step that waits for an event by id."""
    return AwaitEvent(name=event_id, event_id=event_id)


def asked(*commands: RunStep | RunChild | Sleep | AwaitEvent, first: int = 0) -> Asked:
    """The reaction that asks for these steps, numbered from `first`."""
    return Asked(steps=tuple(enumerate(commands, start=first)))


def sent(sequence: int, name: str = "e", *, at: int = NOW, value: str = "1") -> EventSent:
    """The event `e<sequence>` with a value, sent at `at`."""
    outcome = Succeeded(value)
    event = SentEvent(
        event_id=f"e{sequence}", name=name, sequence=sequence, sent_at=at, outcome=outcome
    )
    return EventSent(event=event)


# --- states -------------------------------------------------------------------------------------


def fresh(**header: Any) -> WorkflowState:
    """A workflow that was created, is owned, and has not begun."""
    fields: dict[str, Any] = {
        "workflow_id": "w",
        "name": "flow",
        "arguments": "{}",
        "created_at": NOW,
        "start_at": NOW,
        **header,
    }
    return WorkflowState(header=WorkflowHeader(**fields), epoch=1, owner="worker")


def waiting(*commands: RunStep | RunChild | Sleep | AwaitEvent, **header: Any) -> WorkflowState:
    """A workflow that began at `NOW` and asked for these steps."""
    state = transition(fresh(**header), FactDelivered(fact=Started()), NOW).state
    return transition(state, asked(*commands), NOW).state


def after(state: WorkflowState, *messages: Message, now: int = NOW) -> WorkflowState:
    """The state after these messages, all at `now`."""
    for message in messages:
        state = transition(state, message, now).state
        state.check()
    return state


def step(state: WorkflowState, number: int = 0) -> StepRecord:
    """The record of a step that is still live."""
    return state.live[number]


def ok(value: str = "1") -> Outcome:
    """A success."""
    return Succeeded(value)
