"""What a handler asks for: the closed union `Command`.

A command has no number: the step's number is given by its place in the journal, and on replay a
command finds its record by content (see `journal.Batch`). Instants are milliseconds since the
epoch, values are JSON text.
"""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

from .frozen import Frozen
from .ids import EventId, WorkflowId
from .outcomes import Json, is_same_json
from .retry import AT_MOST_ONCE, RetryPlan

FunctionKind: TypeAlias = Literal["query", "mutation", "action"]
StepKind: TypeAlias = Literal["query", "mutation", "action", "workflow", "sleep", "event"]


class RunStep(Frozen, frozen=True, kw_only=True):
    """Run a query, a mutation or an action."""

    kind: FunctionKind
    name: str
    function: str
    arguments: Json
    unstable: bool = False
    inline: bool = False
    due_at: int | None = None
    retry: RetryPlan = AT_MOST_ONCE
    timeout_ms: int | None = None


class RunChild(Frozen, frozen=True, kw_only=True):
    """Start another workflow and wait for its outcome."""

    name: str
    function: str
    arguments: Json
    unstable: bool = False
    due_at: int | None = None
    child_id: WorkflowId | None = None
    kind: ClassVar[Literal["workflow"]] = "workflow"


class Sleep(Frozen, frozen=True, kw_only=True):
    """Wait until an instant."""

    name: str
    due_at: int
    kind: ClassVar[Literal["sleep"]] = "sleep"


class AwaitEvent(Frozen, frozen=True, kw_only=True):
    """Wait for an event, by its name or by its id, until `due_at` at the latest.

    `name` is the step's name; `event_name` and `event_id` say what is awaited: exactly one is set.
    """

    name: str
    event_name: str | None = None
    event_id: EventId | None = None
    due_at: int | None = None
    kind: ClassVar[Literal["event"]] = "event"


class CancelStep(Frozen, frozen=True):
    """The handler cancelled the future of step `number`."""

    number: int


#: Commands that make a step.
StepCommand: TypeAlias = RunStep | RunChild | Sleep | AwaitEvent
Command: TypeAlias = StepCommand | CancelStep


def is_same(asked: StepCommand, recorded: StepCommand) -> bool:
    """Whether a command that a replay asks for is the recorded one.

    Kind, function kind, name and arguments must agree (arguments not if they are unstable).
    Durations, schedules, retry options and timeouts may change under a running workflow.
    """
    if asked.kind != recorded.kind or asked.name != recorded.name:
        return False
    if isinstance(asked, (RunStep, RunChild)):
        assert isinstance(recorded, (RunStep, RunChild))  # same kind
        return asked.function == recorded.function and (
            asked.unstable or asked.arguments == recorded.arguments
        )
    if isinstance(asked, AwaitEvent):
        assert isinstance(recorded, AwaitEvent)  # same kind
        return (asked.event_name, asked.event_id) == (recorded.event_name, recorded.event_id)
    return True


def is_alike(asked: StepCommand, recorded: StepCommand) -> bool:
    """Whether only the form of a number in the arguments differs: older code stored 1 for 1.0."""
    if not (isinstance(asked, RunStep | RunChild) and isinstance(recorded, RunStep | RunChild)):
        return False
    mine = (asked.kind, asked.name, asked.function)
    return mine == (recorded.kind, recorded.name, recorded.function) and is_same_json(
        asked.arguments, recorded.arguments
    )


def describe(command: StepCommand) -> str:
    """One line for a person, as it stands in a determinism report."""
    if isinstance(command, RunStep | RunChild):
        arguments = (
            command.arguments if len(command.arguments) <= 200 else command.arguments[:200] + "…"
        )
        label = "" if command.name == command.function else f" (of {command.function})"
        return f"{command.kind} {command.name}{label} {arguments}"
    if isinstance(command, AwaitEvent):
        return f"event {command.event_name or command.event_id}"
    return f"sleep {command.name}"
