"""A trace told to people: each event as a line that says what it means.

A commit is kept as the rows that it wrote; what it means shows only beside the rows before it. So
the whole trace is gone through, and what was known by then is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import attrs

from perdure.core.ids import WorkflowId
from perdure.core.outcomes import Failed, Succeeded
from perdure.runtime.event_operations import CreateOrder, EventOrder
from perdure.runtime.operations import StartOrder
from perdure.runtime.requests import Cancel, RunFunction

from ..world.actions import CallMade
from ..world.faulty_store import Write
from ..world.trace import Event, EventKind
from .commits import CommitTold, Part, Past
from .wording import (
    call_text,
    cut,
    error_text,
    facts_text,
    fault_text,
    moment,
    outcome_text,
    span,
)

#: The process that carries out what clients ask for: they are shown as one.
CLIENT = "c0"

#: What is logged is cut after so many characters.
LOG_CHARS = 240


@attrs.frozen(kw_only=True)
class Line:
    """One event, told.

    Attributes:
        index: its place in the trace.
        lane: the process; "world" for what happens to all.
        is_stored: whether it is on the disk from here on.
        children: pairs of a workflow that begins and its parent.
        meddled: pairs of a workflow that is started, sent to or ended and another one of which a
            mutation has done that, perhaps.
    """

    index: int
    at: int
    lane: str
    kind: EventKind
    parts: tuple[Part, ...]
    is_stored: bool = False
    children: tuple[tuple[WorkflowId, WorkflowId], ...] = ()
    meddled: tuple[tuple[WorkflowId, WorkflowId], ...] = ()

    @property
    def workflows(self) -> tuple[WorkflowId, ...]:
        return tuple(part.workflow_id for part in self.parts if part.workflow_id is not None)

    @property
    def text(self) -> str:
        return told(self.parts)

    def touches(self, workflow_id: WorkflowId, step: int | None = None) -> bool:
        """Whether it is about this workflow, or this step of it."""
        return any(
            part.workflow_id == workflow_id and (step is None or step in part.steps)
            for part in self.parts
        )


def told(parts: Iterable[Part]) -> str:
    """Parts as one text, a line each, with the workflow that it is about."""
    return "\n".join(
        part.text
        if part.workflow_id is None or part.is_named
        else f"{part.workflow_id}: {part.text}"
        for part in parts
    )


def tell(events: Iterable[Event]) -> list[Line]:
    """All lines of a trace."""
    teller = _Teller()
    return [
        line
        for index, event in enumerate(events)
        if (line := teller.line(index, event)) is not None
    ]


class _Teller:
    def __init__(self) -> None:
        self._past = Past()
        self._more: list[Write] = []
        self._commits: list[Event] = []

    def line(self, index: int, event: Event) -> Line | None:
        """The event, told; None for one that belongs to the next."""
        if event.kind == "rows":
            self._more = event.about
            return None
        commit: CommitTold | None = None
        if event.kind == "commit":
            commit = CommitTold(self._past, [*event.about, *self._more])
            self._more = []
            parts = commit.parts()
            self._commits.append(event)
        else:
            parts = self._other(event)
        return Line(
            index=index,
            at=event.at,
            lane=CLIENT if event.lane == "client" else event.lane,
            kind=event.kind,
            parts=tuple(parts),
            is_stored=event.kind == "commit",
            children=() if commit is None else tuple(commit.children),
            meddled=() if commit is None else tuple(commit.meddled()),
        )

    def _other(self, event: Event) -> list[Part]:
        about: Any = event.about
        match event.kind:
            case "attempt":
                return [self._attempt(about)]
            case "attempt end":
                return [self._attempt_end(*about)]
            case "request":
                return [_request(about)]
            case "power":
                return self._power(about)
            case "refused":
                return self._refused(event.lane, about)
            case "ask":
                text = f"the client asks: {about}"
                return [Part(workflow_id=_of_deed(about), text=text, is_named=True)]
            case "answer":
                name, _, error = about
                text = f"the client is told: {name} is done"
                if error is not None:
                    text = f"the client is told: {name} failed: {type(error).__name__}: {error}"
                return [Part(workflow_id=_of_deed(name), text=text, is_named=True)]
            case "lease lost":
                text = f"the others take {self._past.worker(about)} for dead, though it lives"
                return [Part(workflow_id=None, text=text)]
            case "log":
                return [self._log(about)]
            case "broken":
                text = f"here {type(about).__name__} is broken"
                return [Part(workflow_id=None, text=text)]
            case _:
                return [Part(workflow_id=None, text=_plain(event))]

    def _log(self, text: str) -> Part:
        named = re.match(r"workflow (\S+): ", text)
        workflow_id = named[1] if named is not None and self._past.find(named[1]) else None
        told = f"logs: {cut(facts_text(text), LOG_CHARS)}"
        return Part(workflow_id=workflow_id, text=told, is_named=True)

    def _attempt(self, call: CallMade) -> Part:
        arguments = ", ".join(map(repr, call.arguments))
        text = f"step {call.step_number}, attempt {call.attempt}: {call.action}({cut(arguments)})"
        return Part(
            workflow_id=call.workflow_id, text=f"{text} begins to run", steps=(call.step_number,)
        )

    def _attempt_end(self, attempt: Any, outcome: Any) -> Part:
        record = attempt.record
        text = f"step {record.number}, attempt {record.attempt}: {record.command.name}"
        ended = outcome_text(outcome)
        if isinstance(outcome, Failed):
            ended = f"raised {error_text(outcome.error)}"
        elif isinstance(outcome, Succeeded):
            ended = f"returned {cut(outcome.value)}"
        return Part(workflow_id=attempt.workflow_id, text=f"{text} {ended}", steps=(record.number,))

    def _power(self, since: int) -> list[Part]:
        """What was committed since then was lost: what is known is what was known before it."""
        left = [event for event in self._commits if event.at < since]
        lost = len(self._commits) - len(left)
        self._commits = left
        self._past.forget()
        for event in left:
            CommitTold(self._past, event.about).parts()
        text = f"the disk has lost what was stored since {moment(since)}: {lost} commits"
        return [Part(workflow_id=None, text=text)]

    def _refused(self, lane: str, ids: list[WorkflowId]) -> list[Part]:
        if not ids:
            text = f"{lane} finds that it was taken for dead, and may not write"
            return [Part(workflow_id=None, text=text)]
        text = f"the store refuses what {lane} wants to write: it is not {lane}'s any more"
        return [Part(workflow_id=each, text=text) for each in ids]


def _of_deed(name: str) -> WorkflowId:
    """The workflow that a client's deed is about: its name ends with the id."""
    return name.rpartition(" ")[2]


def _request(request: Any) -> Part:
    match request:
        case StartOrder():
            text = f"an action asks for a start of {call_text(request.name, request.arguments)}"
            return Part(workflow_id=request.workflow_id, text=text)
        case CreateOrder():
            text = f"an action creates event {request.name}"
            return Part(workflow_id=request.workflow_id, text=text)
        case EventOrder():
            text = f"an action sends event {request.name or request.event_id}"
            return Part(workflow_id=request.workflow_id, text=text)
        case Cancel():
            return Part(workflow_id=request.workflow_id, text="an action cancels it")
        case RunFunction():
            call = call_text(request.definition.name, request.arguments)
            return Part(workflow_id=None, text=f"an action has {call} run")
        case _:
            return Part(workflow_id=None, text=f"an action asks for {type(request).__name__}")


def _plain(event: Event) -> str:
    """Events that are about a process, and no workflow."""
    about: Any = event.about
    match event.kind:
        case "boot":
            return f"{event.lane} starts"
        case "end":
            return f"{event.lane} ends in good order"
        case "boot failed":
            return f"{event.lane} cannot start: {about}"
        case "crash":
            return f"{event.lane} dies, and all that was only in its memory is lost"
        case "heal":
            return "from here on nothing goes wrong any more"
        case "fault":
            fault, count = about
            nth = count - fault.occurrence + 1
            if nth > 1:
                return f"{fault} again, {nth} of {fault.burst}"
            return f"{fault}: {fault_text(fault)}"
        case "turn":
            return "a turn begins"
        case "border":
            return f"turn: {about}"
        case "wake":
            return "wakes" if about == event.at else f"is to look at {moment(about)}"
        case "pause":
            return f"its engine stands still until {moment(about)}"
        case "resume":
            return "its engine goes on"
        case "timer set":
            return f"timer of an action's code, for {moment(about)}"
        case "timer":
            return "timer of an action's code"
        case "clock":
            return f"its clock jumps {span(abs(about))} {'ahead' if about > 0 else 'back'}"
        case _:
            return f"{event.kind} {about}"
