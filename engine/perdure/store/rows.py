"""Rows to values and back: the columns of the SQL stores, in one place.

The order of the names here is the order of the values in every statement.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import attrs
import msgspec

from perdure.core.commands import AwaitEvent, RunChild, RunStep, Sleep, StepCommand
from perdure.core.journal import StepRecord
from perdure.core.messages import SentEvent
from perdure.core.outcomes import Canceled, Failed, Json, Outcome, Succeeded
from perdure.core.retry import AT_MOST_ONCE, RetryPlan
from perdure.core.workflow import Blocked, WorkflowHeader, WorkflowState
from perdure.errors import ErrorInfo, StoreCorrupt

#: What a workflow's status may be.
STATUSES = ("in_progress", "success", "failed", "canceled")

#: Columns of a workflow that are written once.
HEADER_COLUMNS = (
    "id",
    "name",
    "arguments",
    "context",
    "on_complete",
    "parent_id",
    "parent_number",
    "depth",
    "rules",
    "created_at",
    "start_at",
)
#: Columns of a workflow that change.
STATE_COLUMNS = (
    "status",
    "value",
    "error",
    "epoch",
    "owner",
    "position",
    "stamp",
    "started_at",
    "ended_at",
    "next_number",
    "timer_at",
    "wake_at",
    "journal_bytes",
    "takeovers",
    "blocked",
    "on_complete_error",
)
#: Those of them that are in no index: all that changes while a worker goes on with a workflow.
PROGRESS_STATE_COLUMNS = (
    "position",
    "stamp",
    "started_at",
    "next_number",
    "timer_at",
    "journal_bytes",
    "takeovers",
)
#: Columns of a step that are written once.
COMMAND_COLUMNS = (
    "workflow_id",
    "number",
    "kind",
    "name",
    "function",
    "arguments",
    "options",
    "asked_position",
    "asked_at",
    "asked_epoch",
    "child_id",
)
#: Columns of a step that change while it is open.
RUN_COLUMNS = (
    "state",
    "due_at",
    "runner",
    "attempt",
    "started_at",
    "started_epoch",
    "deadline_at",
)
#: Columns of a step that are null while it is open.
END_COLUMNS = (
    "outcome",
    "value",
    "error",
    "settled_at",
    "delivered_position",
    "delivered_at",
    "canceled_position",
    "event_id",
)
#: Columns of an event, but for whose it is, when it came into being, and who has it.
EVENT_COLUMNS = ("id", "name", "sequence", "sent_at", "value", "error", "made", "token")
PROGRESS_COLUMNS = RUN_COLUMNS + END_COLUMNS
#: What is written of a step that succeeded: see `is_plain_success`.
SUCCESS_COLUMNS = (
    "attempt",
    "started_at",
    "started_epoch",
    "value",
    "settled_at",
    "delivered_position",
    "delivered_at",
)


#: Commands that have a function and arguments. (A tuple: a union is made anew at each test.)
_CALLS = (RunStep, RunChild)


class _Options(msgspec.Struct, omit_defaults=True, frozen=True):
    """What a command has beside kind, name, function and arguments."""

    unstable: bool = False
    inline: bool = False
    retry: RetryPlan | None = None
    timeout_ms: int | None = None
    start_at: int | None = None
    child_id: str | None = None
    event_name: str | None = None
    event_id: str | None = None


_options_decoder = msgspec.json.Decoder(_Options)
_error_decoder = msgspec.json.Decoder(ErrorInfo)
_blocked_decoder = msgspec.json.Decoder(Blocked)


def _text(value: object) -> Json:
    return msgspec.json.encode(value).decode()


def encode_error(error: ErrorInfo | None) -> Json | None:
    return None if error is None else _text(error)


def decode_error(text: Json | None) -> ErrorInfo | None:
    """An error as it was stored; one that cannot be read is an error that says so."""
    if text is None:
        return None
    try:
        return _error_decoder.decode(text)
    except msgspec.DecodeError as error:
        return damage(f"a stored error cannot be read ({error})")


def _decode_blocked(text: Json) -> Blocked:
    try:
        return _blocked_decoder.decode(text)
    except msgspec.DecodeError as error:
        # It is tried again as if it had not been: what blocks it is found anew.
        what = damage(f"why it is blocked cannot be read ({error})")
        return Blocked(error=what, count=1, retry_at=0)


def damage(what: str) -> ErrorInfo:
    """What is told of a row that somebody else has written, or a failing disk."""
    return ErrorInfo(StoreCorrupt.__name__, f"{what}: restore it from a backup")


@lru_cache(maxsize=1024)
def _run_step_options(
    unstable: bool, inline: bool, retry: RetryPlan, timeout_ms: int | None, start_at: int | None
) -> Json:
    return _text(
        _Options(
            unstable=unstable,
            inline=inline,
            retry=None if retry == AT_MOST_ONCE else retry,
            timeout_ms=timeout_ms,
            start_at=start_at,
        )
    )


@lru_cache(maxsize=1024)
def _decode_options(text: Json) -> _Options:
    options = _options_decoder.decode(text)
    if options.retry is None:
        return options
    # msgspec fills attrs classes in without their __init__, which makes room for the hash.
    return msgspec.structs.replace(options, retry=attrs.evolve(options.retry))


def _options(command: StepCommand) -> Json | None:
    match command:
        case RunStep():
            if command.due_at is not None:
                # Not through the cache: each instant would be an entry of its own.
                return _run_step_options.__wrapped__(
                    command.unstable,
                    command.inline,
                    command.retry,
                    command.timeout_ms,
                    command.due_at,
                )
            return _run_step_options(
                command.unstable, command.inline, command.retry, command.timeout_ms, None
            )
        case RunChild():
            return _text(
                _Options(
                    unstable=command.unstable, start_at=command.due_at, child_id=command.child_id
                )
            )
        case Sleep():
            return _text(_Options(start_at=command.due_at))
        case AwaitEvent():
            return _text(
                _Options(
                    start_at=command.due_at,
                    event_name=command.event_name,
                    event_id=command.event_id,
                )
            )


def awaits_name(name: str) -> str:
    """What the options of a step that awaits events of that name have in them, and no others."""
    return f'"event_name":{_text(name)}}}'


def outcome_columns(outcome: Outcome | None) -> tuple[str | None, Json | None, Json | None]:
    """(kind, value, error)."""
    if outcome is None:
        return None, None, None
    if isinstance(outcome, Succeeded):
        return "success", outcome.value, None
    if isinstance(outcome, Failed):
        return "failed", None, encode_error(outcome.error)
    return "canceled", None, None


def outcome_from(kind: str | None, value: Json | None, error: Json | None) -> Outcome | None:
    if kind is None or kind == "in_progress":
        return None
    if kind == "success":
        assert value is not None
        return Succeeded(value)
    if kind == "failed":
        info = decode_error(error)
        assert info is not None
        return Failed(info)
    return Canceled()


def header_row(header: WorkflowHeader) -> tuple[Any, ...]:
    return (
        header.workflow_id,
        header.name,
        header.arguments,
        header.context,
        header.on_complete,
        header.parent_id,
        header.parent_number,
        header.depth,
        header.rules,
        header.created_at,
        header.start_at,
    )


def state_row(state: WorkflowState) -> tuple[Any, ...]:
    _, value, error = outcome_columns(state.outcome)
    return (
        state.status,
        value,
        error,
        state.epoch,
        state.owner,
        state.position,
        state.stamp,
        state.started_at,
        state.ended_at,
        state.next_number,
        state.timer_at,
        state.wake_at,
        state.journal_bytes,
        state.takeovers,
        None if state.blocked is None else _text(state.blocked),
        encode_error(state.on_complete_error),
    )


def is_progress_only(before: WorkflowState | None, after: WorkflowState) -> bool:
    """Whether only PROGRESS_STATE_COLUMNS differ. The others are the same while it is owned."""
    return (
        before is not None
        and after.status == "in_progress"
        and before.owner == after.owner
        and before.epoch == after.epoch
        and before.wake_at == after.wake_at
        and before.blocked is after.blocked
        and before.on_complete_error is after.on_complete_error
    )


def progress_state_row(state: WorkflowState) -> tuple[Any, ...]:
    return (
        state.position,
        state.stamp,
        state.started_at,
        state.next_number,
        state.timer_at,
        state.journal_bytes,
        state.takeovers,
    )


def state_from_row(
    row: tuple[Any, ...],
    live: Iterable[StepRecord] = (),
    events: Iterable[SentEvent] = (),
) -> WorkflowState:
    """A state from HEADER_COLUMNS + STATE_COLUMNS and its open steps."""
    (workflow_id, name, arguments, context, on_complete, parent_id, parent_number) = row[:7]
    (depth, rules, created_at, start_at, status, value, error, epoch, owner) = row[7:16]
    (position, stamp, started_at, ended_at, next_number, timer_at, wake_at) = row[16:23]
    (journal_bytes, takeovers, blocked, on_complete_error) = row[23:27]
    records = {record.number: record for record in live}
    return WorkflowState(
        header=WorkflowHeader(
            workflow_id=workflow_id,
            name=name,
            arguments=arguments,
            context=context,
            on_complete=on_complete,
            parent_id=parent_id,
            parent_number=parent_number,
            depth=depth,
            rules=rules,
            created_at=created_at,
            start_at=start_at,
        ),
        status=status,
        outcome=outcome_from(status, value, error),
        epoch=epoch,
        owner=owner,
        position=position,
        stamp=stamp,
        started_at=started_at,
        ended_at=ended_at,
        next_number=next_number,
        live=records,
        settled=tuple(
            (record.settled_at or 0, record.number)
            for record in sorted(records.values(), key=lambda r: (r.settled_at or 0, r.number))
            if record.state == "settled"
        ),
        awaiting=tuple(
            number
            for number, record in records.items()
            if record.command.kind == "event" and record.state == "asked"
        ),
        busy=sum(record.state in ("ready", "started") for record in records.values()),
        events=tuple(events),
        timer_at=timer_at,
        wake_at=wake_at,
        journal_bytes=journal_bytes,
        takeovers=takeovers,
        blocked=None if blocked is None else _decode_blocked(blocked),
        on_complete_error=decode_error(on_complete_error),
    )


def command_row(workflow_id: str, record: StepRecord) -> tuple[Any, ...]:
    command = record.command
    function = arguments = None
    if isinstance(command, _CALLS):
        function, arguments = command.function, command.arguments
    return (
        workflow_id,
        record.number,
        command.kind,
        command.name,
        function,
        arguments,
        _options(command),
        record.asked_position,
        record.asked_at,
        record.asked_epoch,
        record.child_id,
    )


def run_row(record: StepRecord) -> tuple[Any, ...]:
    return (
        record.state,
        record.due_at,
        record.runner,
        record.attempt,
        record.started_at,
        record.started_epoch,
        record.deadline_at,
    )


def end_row(record: StepRecord) -> tuple[Any, ...]:
    kind, value, error = outcome_columns(record.outcome)
    return (
        kind,
        value,
        error,
        record.settled_at,
        record.delivered_position,
        record.delivered_at,
        record.canceled_position,
        record.event_id,
    )


def is_plain_success(record: StepRecord) -> bool:
    """Whether SUCCESS_COLUMNS say all of a step that is not open: it returned a value, and no
    event brought it."""
    return (
        isinstance(record.outcome, Succeeded)
        and record.event_id is None
        and record.canceled_position is None
        and record.due_at is None
        and record.runner is None
        and record.deadline_at is None
    )


def success_row(record: StepRecord) -> tuple[Any, ...]:
    assert isinstance(record.outcome, Succeeded)
    return (
        record.attempt,
        record.started_at,
        record.started_epoch,
        record.outcome.value,
        record.settled_at,
        record.delivered_position,
        record.delivered_at,
    )


def _command(
    kind: Any, name: str, function: str | None, arguments: Json | None, options: _Options
) -> StepCommand:
    if kind == "sleep":
        return Sleep(name=name, due_at=options.start_at or 0)
    if kind == "event":
        return AwaitEvent(
            name=name,
            event_name=options.event_name,
            event_id=options.event_id,
            due_at=options.start_at,
        )
    assert function is not None
    assert arguments is not None
    if kind == "workflow":
        return RunChild(
            name=name,
            function=function,
            arguments=arguments,
            unstable=options.unstable,
            due_at=options.start_at,
            child_id=options.child_id,
        )
    return RunStep(
        kind=kind,
        name=name,
        function=function,
        arguments=arguments,
        unstable=options.unstable,
        inline=options.inline,
        due_at=options.start_at,
        retry=options.retry or AT_MOST_ONCE,
        timeout_ms=options.timeout_ms,
    )


def step_from_row(row: tuple[Any, ...]) -> StepRecord:
    """A step from COMMAND_COLUMNS + PROGRESS_COLUMNS.

    Raises:
        StoreCorrupt: its options cannot be read.
    """
    (workflow_id, number, kind, name, function, arguments, options) = row[:7]
    (asked_position, asked_at, asked_epoch, child_id) = row[7:11]
    (state, due_at, runner, attempt, started_at, started_epoch, deadline_at) = row[11:18]
    (outcome, value, error, settled_at, delivered_position) = row[18:23]
    (delivered_at, canceled_position, event_id) = row[23:26]
    try:
        command = _command(kind, name, function, arguments, _decode_options(options))
    except (msgspec.DecodeError, TypeError, AssertionError) as broken:
        raise StoreCorrupt(
            f"step {number} of workflow {workflow_id!r} cannot be read ({broken}; its options are"
            f" {options!r}): restore it from a backup"
        ) from broken
    return StepRecord(
        number=number,
        command=command,
        asked_position=asked_position,
        asked_at=asked_at,
        asked_epoch=asked_epoch,
        state=state,
        due_at=due_at,
        runner=runner,
        attempt=attempt,
        started_at=started_at,
        started_epoch=started_epoch,
        deadline_at=deadline_at,
        outcome=outcome_from(outcome, value, error),
        settled_at=settled_at,
        delivered_position=delivered_position,
        delivered_at=delivered_at,
        canceled_position=canceled_position,
        child_id=child_id,
        event_id=event_id,
    )


def is_open(record: StepRecord) -> bool:
    """Whether a step belongs into `WorkflowState.live`: the handler may still learn its outcome."""
    return record.state != "settled" or (
        record.delivered_position is None and record.canceled_position is None
    )


def event_columns(event: SentEvent) -> tuple[Any, ...]:
    """The values of `EVENT_COLUMNS` after the first two."""
    _, value, error = outcome_columns(event.outcome)
    return event.sequence, event.sent_at, value, error, event.made, event.token


def event_from_row(row: tuple[Any, ...]) -> SentEvent:
    """An event from the values of `EVENT_COLUMNS`."""
    event_id, name, sequence, sent_at, value, error, made, token = row
    kind = None
    if sequence is not None:
        kind = "failed" if error is not None else "success"
    return SentEvent(
        event_id=event_id,
        name=name,
        sequence=sequence,
        sent_at=sent_at,
        outcome=outcome_from(kind, value, error),
        made=made,
        token=token,
    )
